"""`mlcm export`: writes a network as TFLite, ONNX or StableHLO, and measures how much the file differs from JAX.

A folder holds one file, `model.json` (how images become its input, and what its output means), `vectors/` (images with
what every step must give) and `report.json` (the differences from JAX). Nothing is written before all of it is known.
"""

import io
from typing import Any

import numpy as np
from etils import epath

from mlcm_jax import detection
from mlcm_jax.console import say
from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.export import contract, decode, faces, formats, graph, parity, vectors
from mlcm_jax.export import quantize as quantizers
from mlcm_jax.files import read_json, write_json
from mlcm_jax.inference.detector import SHIPPED_DETECTOR
from mlcm_jax.inference.open_network import SHIPPED, load
from mlcm_jax.models import network as networks
from mlcm_jax.models import stored

NETWORKS = {"landmarks": SHIPPED, "detector": SHIPPED_DETECTOR}
SMALLER = ("fp16", "int8")
FACES = 64  # rendered for the calibration, and again for the report


def export(
    path: epath.PathLike | None = None,
    *,
    out: epath.PathLike,
    format: str,
    stage: str | None = None,
    network: str = "landmarks",
    quantize: str = "",
    **options: Any,
) -> epath.Path:
    """Writes a network to a folder.

    Args:
        path: see `Predictor`; None exports a network that ships with this package.
        out: the folder.
        format: "tflite", "onnx" or "stablehlo".
        stage: see `Predictor`.
        network: which of the shipped networks None means, "landmarks" or "detector".
        quantize: "" for float32; "fp16" or "int8", see the module `quantize`.
        **options: `force`, whether to write a quantised file whose differences are beyond their bound
            (`parity.BOUNDS`); `overwrite`, whether to replace what an earlier export wrote; `count`, the number of
            rendered images, by default 64.

    Returns:
        The path of the file.

    Raises:
        InputError: an unknown format, no such network, a missing library, a network that the library cannot convert, a
            folder that cannot be written or holds something else, or a file that differs too much from JAX.
    """
    _check(format, network, quantize)
    arrays, card, folder = load(path, stage, shipped=NETWORKS[network])
    boxes = card.layout.name == detection.LAYOUT.name
    target = epath.Path(out) / f"{'detector' if boxes else 'landmarks'}{formats.FORMATS[format]}"
    _check_folder(target, overwrite=options.get("overwrite", False))
    count = options.get("count", FACES)
    say(f"Converting the network to {target.name}, which can take half a minute …")
    made, content = _convert(arrays, card, format, quantize, count)
    decoding = decode.described(arrays, card, made)
    with formats.explained(format, f"The network of stage {card.stage} cannot be run after its conversion"):
        if format == "tflite" and quantize:
            formats.survives(content)
        run = formats.runner(content, made, format)
        run(np.zeros(made.shapes[graph.INPUT], np.float32))
    say(f"Comparing the file with JAX on {count} rendered images …")
    rendered = list(faces.views(card, faces.REPORT, count, boxes=boxes))
    found = parity.report(rendered, parity.reference(arrays, card), run, card, decoding)
    bound = parity.check(found, quantize)
    if not bound["holds"]:
        _refuse(bound, quantize, force=options.get("force", False))
    about = contract.contract(
        card, made, decoding, file=target.name, content=content, file_format=format, quantize=quantize
    )
    about["weights_sha256"] = read_json(folder / stored.CARD)["weights_sha256"]
    report = {"file": target.name, "file_format": format, "quantize": quantize, "bytes": len(content), "bound": bound}
    report |= found
    results = vectors.results(vectors.cases(card, boxes=boxes), run, card, decoding)
    try:
        _write(target, content, about, report, results)
    except OSError as error:
        raise InputError(f"Cannot write {out}: {error}; give another --out.") from error
    _tell(target, report)
    return target


def _check(format: str, network: str, quantize: str) -> None:
    """Raises InputError for options that do not exist, or not together."""
    if format not in formats.FORMATS:
        raise InputError(f"--format={format!r} is unknown; {did_you_mean(format, formats.FORMATS)}")
    if network not in NETWORKS:
        raise InputError(f"--network={network!r} is unknown; {did_you_mean(network, NETWORKS)}")
    if quantize and quantize not in SMALLER:
        raise InputError(f"--quantize={quantize!r} is unknown; {did_you_mean(quantize, SMALLER)}")
    if quantize and format == "stablehlo":
        raise InputError(f"--quantize={quantize} needs --format=tflite or onnx; StableHLO is written in float32 only.")


def _check_folder(target: epath.Path, *, overwrite: bool) -> None:
    """Raises InputError if the folder holds a trained network, or, unless it may be replaced, an earlier export."""
    folder = target.parent
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out={folder} is a file; give a folder.")
    card = folder / stored.CARD
    if card.exists():
        about = read_json(card)
        if not isinstance(about, dict) or about.get("kind") != stored.EXPORTED:
            raise InputError(f"--out={folder} holds a model.json that no export wrote; give another folder.")
    taken = [name for name in (stored.CARD, target.name, "report.json", "vectors") if (folder / name).exists()]
    if taken and not overwrite:
        raise InputError(f"--out={folder} holds {taken[0]} already; give another folder, or --overwrite to replace it.")


def _convert(
    arrays: networks.Network, card: stored.Card, format: str, quantize: str, count: int
) -> tuple[graph.Graph, bytes]:
    """The graph and the content of its file."""
    what = f"The network of stage {card.stage} cannot be converted"
    if quantize == "int8":
        body, tail, _ = graph.split(arrays, card)
        boxes = card.layout.name == detection.LAYOUT.name
        crops = [one.crop for one in faces.views(card, faces.CALIBRATION, count, boxes=boxes)]
        with formats.explained(format, f"{what} in int8"):
            return graph.joined(body, tail), quantizers.eight(body, tail, format, crops)
    made = graph.whole(arrays, card)
    with formats.explained(format, what):
        content = formats.convert(made, format)
        return made, quantizers.half(content, format) if quantize == "fp16" else content


def _refuse(bound: dict[str, Any], quantize: str, *, force: bool) -> None:
    """Raises InputError, or tells that a file is beyond its bound."""
    said = f"{bound['what']}: {bound['value']:.3g}, where at most {bound['limit']:g} are allowed"
    if not quantize:
        raise InputError(f"The exported file differs from the network ({said}); report this as a fault.")
    if not force:
        other = "--quantize=fp16, or " if quantize == "int8" else ""
        raise InputError(
            f"The {quantize} file loses too much on rendered faces ({said}); use {other}no --quantize, or add --force "
            "to write it all the same."
        )
    say(f"The {quantize} file is beyond its bound ({said}); it is written because of --force.")


def _write(
    target: epath.Path,
    content: bytes,
    about: dict[str, Any],
    report: dict[str, Any],
    results: dict[str, dict[str, np.ndarray]],
) -> None:
    """Writes all files under temporary names, and then replaces those of an earlier export, model.json last."""
    folder = target.parent
    tests, new = folder / "vectors", folder / "vectors.new"
    tests.mkdir(parents=True, exist_ok=True)
    new.mkdir(exist_ok=True)
    for left in new.iterdir():  # by an export that was interrupted
        left.unlink()
    old = read_json(folder / stored.CARD).get("file") if (folder / stored.CARD).exists() else None
    listed = []
    for number, (name, arrays) in enumerate(results.items()):
        listed.append({"name": name, "arrays": {key: f"{number}_{key}.npy" for key in arrays}})
        for key, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            (new / f"{number}_{key}.npy").write_bytes(buffer.getvalue())
    write_json(new / "vectors.json", listed)
    temporary = folder / f"{target.name}.new"
    temporary.write_bytes(content)
    for stale in tests.glob("*.npy"):
        stale.unlink()
    for made in new.iterdir():
        made.replace(tests / made.name)
    new.rmdir()
    temporary.replace(target)
    write_json(folder / "report.json", report)
    write_json(folder / stored.CARD, about)
    if isinstance(old, str) and old != target.name and epath.Path(old).name == old:
        (folder / old).unlink(missing_ok=True)


def _tell(target: epath.Path, report: dict[str, Any]) -> None:
    """Prints the report."""
    apart, images, time = report["difference_px"], report["images"], report["latency_ms"]
    say(f"Wrote {target} ({report['bytes'] / 1e6:.2f} MB), and model.json, report.json and vectors/ beside it.")
    what = "boxes" if "recall_percent" in report else "landmarks"
    line = f"On {images} rendered images, its {what} are within {apart['max']:.2g} pixels of JAX"
    line += f" (mean {apart['mean']:.2g})"
    if report.get("nme_percent"):
        nme = report["nme_percent"]
        line += f"; NME {nme['before']:.3f} % before, {nme['after']:.3f} % after"
    for name in ("recall", "precision"):
        if f"{name}_percent" in report:
            both = report[f"{name}_percent"]
            line += f"; {name} {both['before']:.1f} % before, {both['after']:.1f} % after"
    threads = "on all threads" if report["file_format"] == "stablehlo" else "on one thread"
    say(f"{line}; {time['median']:.2f} ms {threads}.")
