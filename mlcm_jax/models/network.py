"""A model as pure data: nnx modules are taken apart once, and merged again inside jit."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
from flax import nnx

from mlcm_jax import models
from mlcm_jax.errors import InputError

Apply = Callable[[Any, jax.Array], jax.Array]


@flax.struct.dataclass
class Network:
    """The arrays of a model: `params`, and `stats` of batch normalisation, have the keys `backbone` and `head`."""

    params: dict[str, Any]
    stats: dict[str, Any]
    backbone_def: nnx.GraphDef = flax.struct.field(pytree_node=False)
    head_def: nnx.GraphDef = flax.struct.field(pytree_node=False)


def split(model: nnx.Module) -> Network:
    """Takes a model from `models.create` apart; the arrays are shared, not copied."""
    params, stats, defs = {}, {}, {}
    for part in ("backbone", "head"):
        defs[part], param, stat = nnx.split(getattr(model, part), nnx.Param, nnx.BatchStat)
        params[part], stats[part] = nnx.to_pure_dict(param), nnx.to_pure_dict(stat)
    return Network(params, stats, defs["backbone"], defs["head"])


def create(options: dict[str, Any], *, num_landmarks: int, key: jax.Array, **extra: Any) -> Network:
    """A fresh network.

    Args:
        options: arguments of `models.create`, `name` among them.
        num_landmarks: K.
        key: draws the initial parameters.
        **extra: further arguments of `models.create`.

    Raises:
        InputError: an unknown model name or option, or an option that the caller sets.
    """
    taken = sorted(options.keys() & {"num_landmarks", "rngs", *extra})
    if taken or "name" not in options:
        missing = "A model needs the option name, such as 'resnet18'."
        raise InputError(f"Option {taken[0]} is set by the run; leave it out." if taken else missing)
    return split(models.create(num_landmarks=num_landmarks, rngs=nnx.Rngs(key), **options, **extra))


def join(network: Network) -> models.Model:
    """The network as a module again, in evaluation mode (for tables and export)."""
    parts = [
        nnx.merge(graphdef, nnx.State(network.params[part]), nnx.State(network.stats[part]), copy=True)
        for part, graphdef in (("backbone", network.backbone_def), ("head", network.head_def))
    ]
    model = models.Model(*parts)
    model.eval()
    return model


def channels(network: Network) -> int:
    """C of the features between backbone and head."""
    return join(network).backbone.channels


def run_backbone(
    network: Network, images: jax.Array, *, train: bool = False, key: jax.Array | None = None
) -> tuple[jax.Array, dict[str, Any]]:
    """Images [B, H, W, 1 or 3] in [0, 1] -> (features [B, h, w, C], the backbone's new statistics)."""
    return _run(network.backbone_def, (network.params["backbone"], network.stats["backbone"]), images, train, key)


def run_head(
    network: Network, features: jax.Array, *, train: bool = False, key: jax.Array | None = None
) -> tuple[models.Prediction, dict[str, Any]]:
    """Features [B, h, w, C] -> (prediction, the head's new statistics)."""
    return _run(network.head_def, (network.params["head"], network.stats["head"]), features, train, key)


def head_function(network: Network, *, train: bool = False, key: jax.Array | None = None) -> Apply:
    """The head as `apply(params, features) -> landmarks [B, K, 2]`, as `dikd` takes it; new statistics are dropped."""

    def apply(params: Any, features: jax.Array) -> jax.Array:
        prediction, _ = _run(network.head_def, (params, network.stats["head"]), features, train, key)
        return prediction.landmarks

    return apply


def run(network: Network, images: jax.Array) -> models.Prediction:
    """Images [B, H, W, 1 or 3] in [0, 1] -> prediction, with running statistics."""
    features, _ = run_backbone(network, images)
    return run_head(network, features)[0]


def predict(network: Network, images: jax.Array) -> jax.Array:
    """Images [B, H, W, 1 or 3] in [0, 1] -> landmarks [B, K, 2] in u, with running statistics."""
    return run(network, images).landmarks


def _run(
    graphdef: nnx.GraphDef, arrays: tuple[Any, Any], inputs: jax.Array, train: bool, key: jax.Array | None
) -> tuple[Any, dict[str, Any]]:
    """The output of a module with the parameters and statistics `arrays`, and its new statistics."""
    params, stats = arrays
    module = nnx.merge(graphdef, nnx.State(params), nnx.State(stats), copy=True)
    module.train() if train else module.eval()
    output = module(inputs, rngs=None if key is None else nnx.Rngs(dropout=key))
    _, _, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
    return output, nnx.to_pure_dict(stats)
