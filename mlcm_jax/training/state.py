"""The state that training carries from step to step, as one plain pytree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mlcm_jax.errors import InputError
from mlcm_jax.models.network import Network


@flax.struct.dataclass
class TrainState:
    """The state of a stage.

    Attributes:
        step: int32 [], steps taken.
        skipped: int32 [], how many of them were skipped because they were not finite.
        network: the trained network.
        adapter: `to_teacher` and `to_student`, kernels float32 [C_in, C_out] between feature channels, or {}.
        opt_state: the optimiser's state.
        ema: the exponential moving average of the network, which evaluation and the next stage use.
    """

    step: jax.Array
    skipped: jax.Array
    network: Network
    adapter: dict[str, jax.Array]
    opt_state: optax.OptState
    ema: Network


def create(network: Network, adapter: dict[str, jax.Array], tx: optax.GradientTransformation) -> TrainState:
    """Makes the state at step 0. The average is a copy, because a state that is donated may not hold an array twice."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        network=network,
        adapter=adapter,
        opt_state=tx.init(trainable(network, adapter)),
        ema=jax.tree.map(jnp.copy, network),
    )


def trainable(network: Network, adapter: dict[str, jax.Array]) -> dict[str, Any]:
    """Returns the pytree that the optimiser updates."""
    return {"network": network.params, "adapter": adapter}


def adapt(features: jax.Array, kernel: jax.Array | None) -> jax.Array:
    """Applies an adapter's kernel to features; None leaves them as they are, and features in bfloat16 become float32.

    Args:
        features: float [B, h, w, C].
        kernel: float32 [C, C'] or None.

    Returns:
        [B, h, w, C'].
    """
    return features if kernel is None else features.astype(kernel.dtype) @ kernel


def init_adapter(student_channels: int, teacher_channels: int, key: jax.Array) -> dict[str, jax.Array]:
    """Makes 1×1 adapters between feature channels if they differ, else none; initial kernels preserve the variance."""
    if student_channels == teacher_channels:
        return {}
    init = nnx.initializers.lecun_normal()
    to_teacher, to_student = jax.random.split(key)
    return {
        "to_teacher": init(to_teacher, (student_channels, teacher_channels), jnp.float32),
        "to_student": init(to_student, (teacher_channels, student_channels), jnp.float32),
    }


def with_head_of(network: Network, source: Network) -> Network:
    """Returns the network with those parameters of the source's head copied in that have the same name and shape.

    This is how a lightweight network starts from its teacher's last convolutions (arXiv 2404.06029).

    Raises:
        InputError: no parameter fits.
    """
    ours = jax.tree_util.tree_flatten_with_path(network.params["head"])[0]
    theirs = dict(jax.tree_util.tree_flatten_with_path(source.params["head"])[0])
    fits = [path in theirs and theirs[path].shape == leaf.shape for path, leaf in ours]
    if not any(fits):
        raise InputError("config.light_head_init='teacher' finds no parameter of the teacher's head that fits.")
    leaves = [jnp.copy(theirs[path]) if fit else leaf for (path, leaf), fit in zip(ours, fits, strict=True)]
    head = jax.tree.unflatten(jax.tree.structure(network.params["head"]), leaves)
    return network.replace(params=network.params | {"head": head})
