"""The optimiser of a stage: AdamW or Muon, the schedule of the learning rate, and clipping."""

import functools
from typing import Any

import jax
import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict
from optax import contrib

_DECAYED = ("kernel", "to_teacher", "to_student")  # not biases, scales of normalisations or places of a head


def schedule(rate: float, train: ConfigDict, total_steps: int) -> optax.Schedule:
    """Returns the learning rate by step: a linear warm-up from 0, if any, then `config.train.schedule` from `rate`.

    "inverse_time" is rate / (1 + decay_rate · step), which Keras calls `decay`.
    """
    warmup = max(1, round(train.warmup * total_steps)) if train.warmup else 0
    if train.schedule == "cosine":
        after = optax.cosine_decay_schedule(rate, max(total_steps - warmup, 1))
    elif train.schedule == "inverse_time":

        def after(step: ArrayLike) -> ArrayLike:
            return rate / (1.0 + train.decay_rate * step)

    else:
        after = optax.constant_schedule(rate)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after], [warmup])


def _in_head(path: tuple) -> bool:
    return any(getattr(key, "key", "") == "head" for key in path)


def orthogonalised(params: Any) -> Any:
    """Says which parameters Muon updates, and what their matrices are: the kernels outside heads.

    A kernel [..., C_in, C_out] is a matrix with C_out columns. The rest is left to Adam, as Muon's authors do with last
    layers and with all that is no matrix: heads, adapters between features, biases, scales of normalisations, and
    kernels of depthwise convolutions, [k, k, 1, C].

    Args:
        params: a pytree of arrays whose paths are those of `state.trainable`.

    Returns:
        The pytree with `contrib.MuonDimensionNumbers`, or None for Adam, in place of arrays.
    """

    def numbers(path: tuple, leaf: jax.Array) -> contrib.MuonDimensionNumbers | None:
        if path[-1].key != "kernel" or leaf.shape[-2] == 1 or _in_head(path):
            return None
        return contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(numbers, params)


def optimizer(config: ConfigDict, total_steps: int) -> optax.GradientTransformation:
    """Returns the optimiser with `schedule`; weight decay applies to kernels only. Heads may have their own rate.

    "muon" (Jordan et al. 2024) replaces a kernel's update by a matrix near it, whose singular values are nearly equal
    and whose root mean square is scaled to that of AdamW (Liu et al. 2025, arXiv 2502.16982, equation 4), so that both
    have the same learning rates. Three steps of its iteration suffice (docs/training.md, "Optimisers").
    """
    train = config.train

    def decayed(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in _DECAYED, tree)

    def rule(rate: float) -> optax.GradientTransformation:
        rates = schedule(rate, train, total_steps)
        if train.optimizer == "adamw":
            return optax.adamw(rates, weight_decay=train.weight_decay, mask=decayed)
        directions = contrib.muon(1.0, ns_steps=3, consistent_rms=0.2, muon_weight_dimension_numbers=orthogonalised)
        decay = optax.add_decayed_weights(-train.weight_decay, mask=decayed)  # directions are those of descent already
        return optax.chain(directions, decay, optax.scale_by_schedule(rates))

    def part(path: tuple, _: Any) -> str:
        return "head" if _in_head(path) else "body"

    whole = rule(train.lr)
    if train.head_lr:
        rules = {"body": whole, "head": rule(train.head_lr)}
        whole = optax.partition(rules, functools.partial(jax.tree_util.tree_map_with_path, part))
    return optax.chain(optax.clip_by_global_norm(train.clip), whole) if train.clip else whole
