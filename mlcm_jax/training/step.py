"""One training step: a pure function of (state, teachers, batch, rng), jitted by its caller.

It does, in this order:  1. outputs of student and teachers   2. the sum of the recipe's terms   3. gradients, in
micro-batches   4. update and average   5. if anything is not finite, restore all but the counters
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mlcm_jax import dikd, shape_model
from mlcm_jax.data.augment import CHANNELS
from mlcm_jax.models import network as networks
from mlcm_jax.training import state as states
from mlcm_jax.training.recipe import Recipe, View

Batch = dict[str, jax.Array]
Teachers = dict[str, networks.Network]


def train_step(
    state: states.TrainState,
    teachers: Teachers,
    batch: Batch,
    rng: jax.Array,
    *,
    recipe: Recipe,
    gather: Callable[[Any], Any] = lambda tree: tree,
) -> tuple[states.TrainState, dict[str, jax.Array]]:
    """Updates the student once; the teachers are only read.

    Args:
        state: donated by the caller's jit.
        teachers: frozen networks by the name of their stage: none, one or two. They are an argument so that they do
            not become constants of the program.
        batch: see `data.pipeline`; `landmarks` [B, K, 2], `visible` and `known` [B, K], `weight` [B, K], `mask` [B] and
            the modalities of the recipe.
        rng: the run's key; the step number is folded in, so that resuming needs nothing else.
        recipe: the static part of the step.
        gather: gathers the weights that a mesh keeps split (`sharding.gathered`).

    Returns:
        The next state, and scalar metrics: the loss, its task part, every term without its weight, the gradient's
        global norm, and `skipped`, 0 or 1.
    """
    params = states.trainable(state.network, state.adapter)
    key = jax.random.fold_in(rng, state.step)
    grads, metrics, stats = _gradients(gather(params), state, gather(teachers), batch, key, recipe)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
    with jax.numpy_dtype_promotion("standard"):  # optax adds its integer step counts to floats
        updates, opt_state = recipe.tx.update(grads, state.opt_state, params)
    params = optax.apply_updates(params, updates)
    network = state.network.replace(params=params["network"], stats=stats)
    # The decay is smaller in early steps: a constant one would keep the random start in the average for long.
    taken = state.step.astype(jnp.float32)
    decay = jnp.minimum(recipe.ema, (1.0 + taken) / (10.0 + taken))
    ema = optax.incremental_update(network, state.ema, 1.0 - decay)
    after = state.replace(network=network, adapter=params["adapter"], opt_state=opt_state, ema=ema)
    after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
    skipped = 1 - finite.astype(jnp.int32)
    after = after.replace(step=state.step + 1, skipped=state.skipped + skipped)
    return after, metrics | {"gradient_norm": norm, "skipped": skipped}


def check(
    state: states.TrainState, teachers: Teachers, recipe: Recipe, *, batch_size: int, image_size: int, count: int
) -> None:
    """Computes the shapes of a step's loss, so that networks that do not fit each other are found before the training.

    Args:
        state: shapes of a state.
        teachers: shapes of the teachers' networks, by the name of their stage.
        recipe: the static part of the step.
        batch_size: number of examples in a batch.
        image_size: side of the crops in pixels.
        count: number of landmarks.

    Raises:
        InputError: a term of the recipe cannot use these networks.
    """
    shapes = {name: (image_size, image_size, CHANNELS[name]) for name in recipe.modalities}
    shapes |= {"landmarks": (count, 2), "weight": (count,)}
    batch = {name: jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32) for name, shape in shapes.items()}
    flags = {"visible": (count,), "known": (count,), "mask": ()}
    batch |= {name: jax.ShapeDtypeStruct((batch_size, *shape), jnp.bool_) for name, shape in flags.items()}

    def loss(state: states.TrainState, teachers: Teachers, batch: Batch, key: jax.Array) -> jax.Array:
        return _loss(states.trainable(state.network, state.adapter), state, teachers, batch, key, recipe)[0]

    jax.eval_shape(loss, state, teachers, batch, jax.eval_shape(lambda: jax.random.key(0)))


def _gradients(
    params: Any, state: states.TrainState, teachers: Teachers, batch: Batch, key: jax.Array, recipe: Recipe
) -> tuple[Any, dict[str, jax.Array], Any]:
    """(gradients, metrics, statistics) of a batch, in `recipe.accumulate` micro-batches."""
    gradient = jax.value_and_grad(_loss, has_aux=True)
    pieces = recipe.accumulate
    if pieces == 1:
        (_, (metrics, stats)), grads = gradient(params, state, teachers, batch, key, recipe)
        return grads, metrics, stats
    # Example i goes to micro-batch i mod pieces, so that each device divides its own examples and none is sent.
    micro = jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1), batch)

    def one(carry: tuple[Any, Any], index_and_batch: tuple[jax.Array, Batch]) -> tuple[Any, Any]:
        total, stats = carry
        index, small = index_and_batch
        of_piece = state.replace(network=state.network.replace(stats=stats))
        key_of_piece = jax.random.fold_in(key, index)
        (_, (metrics, stats)), grads = gradient(params, of_piece, teachers, small, key_of_piece, recipe)
        count = small["mask"].sum(dtype=jnp.float32)
        return (jax.tree.map(lambda t, g: t + count * g, total, grads), stats), (metrics, count)

    start = jax.tree.map(jnp.zeros_like, params), state.network.stats
    (total, stats), (metrics, counts) = jax.lax.scan(one, start, (jnp.arange(pieces), micro))
    share = 1.0 / jnp.maximum(counts.sum(), 1.0)
    metrics = {name: (values * counts).sum() * share for name, values in metrics.items()}
    return jax.tree.map(lambda t: t * share, total), metrics, stats


def _loss(
    params: Any, state: states.TrainState, teachers: Teachers, batch: Batch, key: jax.Array, recipe: Recipe
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
    """Returns the loss of a batch, and (its metrics, the student's new statistics)."""
    network = state.network.replace(params=params["network"])
    backbone_key, head_key, term_key = jax.random.split(key, 3)
    features, backbone_stats = networks.run_backbone(network, batch[recipe.modality], train=True, key=backbone_key)
    prediction, head_stats = networks.run_head(network, features, train=True, key=head_key)
    weights = _weights(batch, recipe)
    view = View(
        network=network,
        adapter=params["adapter"],
        teachers=jax.lax.stop_gradient(teachers),  # parameters and statistics
        images={name: batch[modality] for name, modality in recipe.teachers.items()},
        features=features,
        prediction=prediction,
        # A landmark without weight may hold anything, also NaN, which would reach the gradient in spite of its weight.
        target=jnp.where(weights[..., None] > 0, _target(batch, recipe), 0.5),
        weights=weights,
        key=term_key,
    )
    progress = state.step.astype(jnp.float32) / recipe.total_steps
    values = {term.name: term.fn(view) for term in recipe.terms}
    weighted = {term: term.weight(progress) * values[term.name] for term in recipe.terms}
    nothing = jnp.zeros(len(batch["mask"]))
    parts = values | {
        "task": sum((value for term, value in weighted.items() if term.task), nothing),
        "loss": sum(weighted.values(), nothing),
    }
    # All means are taken at once: over several devices, that is one reduction instead of one for each term.
    stacked = jnp.stack(list(parts.values()))
    means = dikd.masked_mean(stacked, jnp.broadcast_to(batch["mask"], stacked.shape))
    # The gradient passes through `means[-1]` alone. That of a row of scalars holds constants in an order that changes
    # from process to process, so that no compilation cache would find the program again.
    metrics = dict(zip(parts, jax.lax.stop_gradient(means), strict=True))
    return means[-1], (metrics, {"backbone": backbone_stats, "head": head_stats})


def _weights(batch: Batch, recipe: Recipe) -> jax.Array:
    """Returns the weights of the landmarks, float32 [B, K]; 0 where they are unlabelled."""
    seen = jnp.where(batch["visible"], 1.0, recipe.occluded_weight)
    return jnp.where(batch["known"], seen * batch["weight"], 0.0)


def _target(batch: Batch, recipe: Recipe) -> jax.Array:
    """Returns the landmarks, or their projections; an unlabelled landmark would distort the projection of all."""
    if recipe.soft is None:
        return batch["landmarks"]
    whole = batch["known"].all(-1)[:, None, None]
    return jnp.where(whole, shape_model.project(recipe.soft, batch["landmarks"]), batch["landmarks"])
