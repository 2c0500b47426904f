"""Writes a network for phones and boards: TFLite by `litert-converter`, ONNX by `jax2onnx` (the extra `export`).

The graph takes a crop, float32 [1, S, S, C] in [0, 1], and returns the landmarks, float32 [1, K, 2] in u; for a network
with uncertainties, also the calibrated expected distances, float32 [1, K] in u. That of a detector returns its maps,
scores [1, h, w] and sides [1, h, w, 4], which `detection.find` reads. The network's `model.json`, copied
beside the file, says how the crop is made and what the numbers mean.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from etils import epath

from mlcm_jax import detection
from mlcm_jax.console import say
from mlcm_jax.data.augment import CHANNELS
from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.files import read_json, write_json
from mlcm_jax.inference.detector import SHIPPED_DETECTOR
from mlcm_jax.inference.open_network import SHIPPED, load
from mlcm_jax.models import Prediction, heads, stored
from mlcm_jax.models import network as networks

FORMATS = ("tflite", "onnx")
NETWORKS = {"landmarks": SHIPPED, "detector": SHIPPED_DETECTOR}
Graph = Callable[[jax.Array], tuple[jax.Array, ...]]


def export(
    path: epath.PathLike | None = None,
    *,
    stage: str | None = None,
    network: str = "landmarks",
    format: str,
    out: epath.PathLike,
) -> epath.Path:
    """Writes the graph, and its description beside it, and checks the graph's numbers against those of JAX.

    Args:
        path: see `Predictor`; None exports the network that ships with this package.
        stage: see `Predictor`.
        network: which of the shipped networks None means, "landmarks" or "detector".
        format: "tflite" or "onnx".
        out: the file to write.

    Returns:
        The path of the graph.

    Raises:
        InputError: an unknown format, no such network, a missing library, a network that the library cannot convert, a
            folder that cannot be written, or a graph whose results differ from those of JAX by more than 1e-4 in u.
    """
    if format not in FORMATS:
        raise InputError(f"--format={format!r} is unknown; {did_you_mean(format, FORMATS)}")
    if network not in NETWORKS:
        raise InputError(f"--network={network!r} is unknown; {did_you_mean(network, NETWORKS)}")
    arrays, card, folder = load(path, stage, shipped=NETWORKS[network])
    graph, shape = _graph(arrays, card), (1, card.image_size, card.image_size, CHANNELS[card.modality])
    try:
        content, run = (_tflite if format == "tflite" else _onnx)(graph, shape)
    except ImportError as error:
        raise InputError(
            f"--format={format} needs the package {error.name}; install it with `pip install 'mlcm_jax[export]'`."
        ) from error
    except Exception as error:  # converters raise errors of any type for operations that they lack
        reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        other = "onnx" if format == "tflite" else "tflite"
        raise InputError(
            f"The network of stage {card.stage} cannot be converted to {format} ({reason}); try --format={other}."
        ) from error
    crop = np.random.default_rng(0).random(shape, np.float32)
    wanted = _outputs(jax.jit(networks.run)(arrays, crop), card)
    apart = max(float(np.abs(np.asarray(a) - b).max()) for a, b in zip(wanted, run(crop), strict=True))
    if not apart < 1e-4:
        raise InputError(f"The exported graph differs from the network by {apart:.2g} in u; report this as a fault.")
    target = epath.Path(out)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        about = read_json(folder / stored.CARD) | {"outputs": _described(card)}
        write_json(target.parent / f"{target.name}.json", about)
    except OSError as error:
        raise InputError(f"Cannot write {out}: {error}; give another --out.") from error
    say(f"Wrote {target} ({len(content) / 1e6:.2f} MB, within {apart:.1g} of JAX) and {target.name}.json.")
    return target


def _described(card: stored.Card) -> dict[str, Any]:
    """The outputs of the graph in words."""
    if card.layout.name == detection.LAYOUT.name:
        return detection.DECODING
    return {
        "landmarks": "float32 [1, K, 2]: x, y in u",
        "uncertainty": "float32 [1, K]: expected distances in u, of networks that have them",
    }


def _graph(network: networks.Network, card: stored.Card) -> Graph:
    model = networks.join(network)

    def graph(crop: jax.Array) -> tuple[jax.Array, ...]:
        features = model.backbone(crop)
        if isinstance(model.head, heads.Heatmap):
            x = model.head.upsampled(features)
            landmarks, maps = _soft_argmax(model.head.logits(x), x)
            uncertainty = model.head.uncertainty(features, maps) if model.head.uncertainty else None
            return _outputs(Prediction(landmarks, uncertainty=uncertainty), card)
        if isinstance(model.head, heads.Boxes):
            return tuple(model.head.raw(features))
        return _outputs(model.head(features), card)

    return graph


def _outputs(found: Prediction, card: stored.Card) -> tuple[jax.Array, ...]:
    """What the graph of a network returns."""
    if found.maps is not None:
        return tuple(found.maps)
    spread = found.uncertainty
    return (found.landmarks,) if spread is None else (found.landmarks, _calibrated(spread, card))


def _calibrated(uncertainty: jax.Array, card: stored.Card) -> jax.Array:
    """The expected distances in u."""
    if not card.calibration:
        return uncertainty
    factor, power = card.calibration[:2]
    return factor * jnp.exp(power * jnp.log(uncertainty))


def _soft_argmax(logits: jax.Array, features: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The landmarks of `heads.soft_argmax` for one example, and `maps` of `heads.Uncertainty`.

    Few matrix products are faster where operations are not fused.
    """
    _, h, w, k = logits.shape
    x, y = np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h)
    places = np.stack([np.ones(h * w), x.ravel(), y.ravel(), (x**2 + y**2).ravel()]).astype(np.float32)
    flat = logits.reshape(h * w, k)
    weights = jnp.exp(flat - flat.max(0, keepdims=True))
    sums = places @ weights
    moments = sums[1:] / sums[:1]
    means = (features.reshape(h * w, -1).T @ weights) / sums[:1]
    variance = moments[2:] - jnp.square(moments[:1]) - jnp.square(moments[1:2])
    return moments[:2].T[None], (means.T[None], variance)


def _tflite(graph: Graph, shape: tuple[int, ...]) -> tuple[bytes, Callable[[np.ndarray], list[np.ndarray]]]:
    """Converts the StableHLO that JAX exports; returns the file and a function that runs it."""
    from ai_edge_litert.interpreter import Interpreter
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager

    exported = jax.export.export(jax.jit(graph), platforms=["cpu"])(jax.ShapeDtypeStruct(shape, jnp.float32))
    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        module = ir.Module.parse(exported.mlir_module())
        points = exported.out_avals[0].shape[-1] == 2
        outputs = ["landmarks", "uncertainty"][: len(exported.out_avals)] if points else ["scores", "sides"]
        converter.set_signature(module.operation, "serving_default", ["crop"], outputs)
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), converter.ConvertToTFLConfig())
        content = converter.export_flatbuffer_to_bytes(module.operation)

    def run(crop: np.ndarray) -> list[np.ndarray]:
        found = Interpreter(model_content=content, num_threads=1).get_signature_runner()(crop=crop)
        return [found[name] for name in outputs]

    return content, run


def _onnx(graph: Graph, shape: tuple[int, ...]) -> tuple[bytes, Callable[[np.ndarray], list[np.ndarray]]]:
    """Converts the traced function; returns the file and a function that runs it."""
    import jax2onnx
    import onnxruntime

    crop = jax.ShapeDtypeStruct(shape, jnp.float32)
    # The library replaces layers of Flax while it traces; a function that is traced already has none.
    traced = jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(graph)(crop))
    model = jax2onnx.to_onnx(traced, [crop], model_name="mlcm_jax")
    content = model.SerializeToString()

    def run(crop: np.ndarray) -> list[np.ndarray]:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: crop})

    return content, run
