"""What training carries from step to step, as plain pytrees: nnx modules are split once and merged inside jit."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mlcm_jax import models
from mlcm_jax.errors import InputError

Apply = Callable[[Any, jax.Array], jax.Array]


@flax.struct.dataclass
class Network:
    """A model as pure data: `params` and `stats` (BatchNorm) are dicts with the keys `backbone` and `head`."""

    params: dict[str, Any]
    stats: dict[str, Any]
    backbone_def: nnx.GraphDef = flax.struct.field(pytree_node=False)
    head_def: nnx.GraphDef = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class TrainState:
    """step int32 []; skipped int32 [], how many of the steps were not finite; the trained network; adapters
    (`to_teacher`, `to_student`: [C_in, C_out] kernels, or none); optimiser state; and the exponential moving average of
    the network, which is what evaluation and the next stage use.
    """

    step: jax.Array
    skipped: jax.Array
    network: Network
    adapter: dict[str, jax.Array]
    opt_state: optax.OptState
    ema: Network


def split(model: nnx.Module) -> Network:
    """Takes a model (see `models.create`) apart; the arrays are shared, not copied."""
    params, stats, defs = {}, {}, {}
    for part in ("backbone", "head"):
        defs[part], param, stat = nnx.split(getattr(model, part), nnx.Param, nnx.BatchStat)
        params[part], stats[part] = nnx.to_pure_dict(param), nnx.to_pure_dict(stat)
    return Network(params, stats, defs["backbone"], defs["head"])


def create_network(options: dict[str, Any], *, num_landmarks: int, key: jax.Array, **extra: Any) -> Network:
    """`models.create(**options)` initialised from `key`, taken apart.

    Raises InputError for an unknown model name or option.
    """
    return split(models.create(num_landmarks=num_landmarks, rngs=nnx.Rngs(key), **options, **extra))


def _run(graphdef, params, stats, inputs, train: bool, key: jax.Array | None):
    module = nnx.merge(graphdef, nnx.State(params), nnx.State(stats), copy=True)
    module.train() if train else module.eval()
    output = module(inputs, rngs=None if key is None else nnx.Rngs(dropout=key))
    _, _, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
    return output, nnx.to_pure_dict(stats)


def run_backbone(network: Network, images: jax.Array, *, train: bool = False, key: jax.Array | None = None):
    """images [B, H, W, 1 or 3] in [0, 1] -> (features [B, h, w, C], the backbone's new statistics)."""
    return _run(network.backbone_def, network.params["backbone"], network.stats["backbone"], images, train, key)


def run_head(network: Network, features: jax.Array, *, train: bool = False, key: jax.Array | None = None):
    """features [B, h, w, C] -> (prediction, the head's new statistics)."""
    return _run(network.head_def, network.params["head"], network.stats["head"], features, train, key)


def head_function(network: Network, *, train: bool = False, key: jax.Array | None = None) -> Apply:
    """The head as `apply(params, features) -> landmarks [B, K, 2]`; new statistics are dropped (`dikd.dikd`)."""

    def apply(params, features):
        prediction, _ = _run(network.head_def, params, network.stats["head"], features, train, key)
        return prediction.landmarks

    return apply


def predict(network: Network, images: jax.Array) -> jax.Array:
    """images [B, H, W, 1 or 3] -> landmarks [B, K, 2] in u, with running statistics."""
    features, _ = run_backbone(network, images)
    return run_head(network, features)[0].landmarks


def init_adapter(student_channels: int, teacher_channels: int, key: jax.Array) -> dict[str, jax.Array]:
    """1×1 adapters between feature channels where they differ, else none; variance-preserving init."""
    if student_channels == teacher_channels:
        return {}
    init = nnx.initializers.lecun_normal()
    to_teacher, to_student = jax.random.split(key)
    return {
        "to_teacher": init(to_teacher, (student_channels, teacher_channels), jnp.float32),
        "to_student": init(to_student, (teacher_channels, student_channels), jnp.float32),
    }


def trainable(network: Network, adapter: dict[str, jax.Array]) -> dict[str, Any]:
    """The pytree that the optimiser sees."""
    return {"network": network.params, "adapter": adapter}


def create(network: Network, adapter: dict[str, jax.Array], tx: optax.GradientTransformation) -> TrainState:
    """The state at step 0. The average starts as a copy, because the state is donated to every step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        network=network,
        adapter=adapter,
        opt_state=tx.init(trainable(network, adapter)),
        ema=jax.tree.map(jnp.copy, network),
    )


def with_head_of(network: Network, source: Network) -> Network:
    """The network with copies of those parameters of the source's head whose name and shape are its own.

    A light network so starts from its teacher's last convolutions (arXiv 2404.06029). Raises InputError where none fit.
    """
    ours = jax.tree_util.tree_flatten_with_path(network.params["head"])[0]
    theirs = dict(jax.tree_util.tree_flatten_with_path(source.params["head"])[0])
    fits = [path in theirs and theirs[path].shape == leaf.shape for path, leaf in ours]
    if not any(fits):
        raise InputError("config.light_head_init='teacher' finds no parameter of the teacher's head that fits.")
    leaves = [jnp.copy(theirs[path]) if fit else leaf for (path, leaf), fit in zip(ours, fits, strict=True)]
    head = jax.tree.unflatten(jax.tree.structure(network.params["head"]), leaves)
    return network.replace(params=network.params | {"head": head})


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
