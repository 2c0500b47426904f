"""One training step and one evaluation step: pure functions of (state, teacher, batch, rng), jitted by their callers.

The student's loss is  L = L_task + λ(e)·(α·L_FI + β·L_RI + γ·FD + δ·LD + μ·MD)  (MLCM-KD, arXiv 2510.11128; the sum and
its decay λ are our reading of it; MD, between fused heatmaps, is of arXiv 2404.06029). Without a teacher it is L_task
alone. With a tough and a tolerant teacher it is KD-Loss (arXiv 2111.07047).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics

from mlcm_jax import dikd, losses, shape_model
from mlcm_jax.errors import InputError
from mlcm_jax.training import state as states

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Weights of the distillation terms, their decay, and what reverse injection aims at."""

    alpha: float = 0.0  # forward injection
    beta: float = 0.0  # reverse injection
    gamma: float = 0.0  # feature distillation
    delta: float = 0.0  # logit distillation
    decay: str = "linear"
    reverse_target: str = "teacher"
    maps: float = 0.0  # distillation of heatmaps

    @property
    def needs_features(self) -> bool:
        """Whether student and teacher must have features of one size."""
        return bool(self.alpha or self.beta or self.gamma)


@dataclasses.dataclass(frozen=True)
class TwoTeachers:
    """Options of KD-Loss; see `losses.kd`. A teacher that is False is left out.

    `control` gives the student other errors than the teachers' own: "shuffled" or "constant" (`losses.control`).
    """

    variant: str = "paper"
    main_weight: float = 2.5
    tough: bool = True
    tolerant: bool = True
    control: str = ""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything about a stage that does not change from step to step (static under jit).

    loss(prediction, target) is unreduced: [B, K, 2] in u -> [B, K, 2]. map_loss(Prediction, target, weights [B, K]) ->
    (float [B], parts) takes its place where a head is trained by its maps. `soft`, a shape model, replaces the target
    by its projection (the tolerant teacher's). `occluded_weight` weighs landmarks that are not visible; `ema` is the
    decay per step of the averaged network. `accumulate` is the number of micro-batches of a step, one after the other:
    their gradients are averaged, but batch normalisation sees each micro-batch (of all devices) by itself.
    """

    modality: str
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    tx: optax.GradientTransformation
    total_steps: int
    ema: float = 0.99
    occluded_weight: float = 1.0
    teacher_modality: str = ""
    distillation: Distillation = Distillation()
    two_teachers: TwoTeachers | None = None
    map_loss: Callable | None = None
    soft: shape_model.ShapeModel | None = None
    accumulate: int = 1


def _adapt(features: jax.Array, kernel: jax.Array | None) -> jax.Array:
    return features if kernel is None else features @ kernel


def _distill(network, adapter, teacher, features, prediction, target, batch, weights, recipe, key):
    """The distillation terms by name, one value per example [B] each, unweighted."""
    options, teacher = recipe.distillation, jax.lax.stop_gradient(teacher)  # parameters and statistics
    teacher_features, _ = states.run_backbone(teacher, batch[recipe.teacher_modality])
    adapted = _adapt(features, adapter.get("to_teacher"))
    if options.needs_features and adapted.shape != teacher_features.shape:
        raise InputError(
            f"Features of student and teacher differ in size, {adapted.shape[1:]} and {teacher_features.shape[1:]}: "
            "give both backbones the same total stride (config.student, config.light, config.teacher)."
        )
    terms = {}
    if options.alpha or options.beta:
        apply_student = states.head_function(network, train=True, key=key)

        def student_head(params, injected):
            return apply_student(params["head"], _adapt(injected, params["to_student"]))

        _, parts = dikd.dikd(
            adapted,
            teacher_features,
            (student_head, {"head": network.params["head"], "to_student": adapter.get("to_student")}),
            (states.head_function(teacher), teacher.params["head"]),
            target,
            loss=recipe.loss,
            weights=weights,
            reverse_target=options.reverse_target,
        )
        terms |= parts
    if options.gamma:
        terms["feature"] = dikd.feature(adapted, teacher_features)
    if options.delta or options.maps:
        taught = states.run_head(teacher, teacher_features)[0]
    if options.delta:
        terms["logit"] = dikd.logit(prediction.landmarks, taught.landmarks, loss=recipe.loss)
    if options.maps:
        shapes = [maps if maps is None else maps.shape[1:] for maps in (prediction.heatmaps, taught.heatmaps)]
        if shapes[0] is None or shapes[0] != shapes[1]:
            raise InputError(
                f"Distilling heatmaps needs maps of one size; the student's are {shapes[0]}, the teacher's "
                f"{shapes[1]}; choose heads with heatmaps and the same resolution."
            )
        terms["maps"] = losses.map_distillation(prediction.heatmaps, taught.heatmaps)
    return terms


def _weighted_mean(unreduced, weights):
    """[B, K, 2], [B, K] -> [B]."""
    return (unreduced.mean(-1) * weights).sum(-1) / jnp.maximum(weights.sum(-1), 1e-6)


def _two_teachers(teachers, prediction, target, batch, weights, recipe, key):
    """KD-Loss per example [B], in per cent of the crop's side as the task losses are."""
    options, answers = recipe.two_teachers, []
    for teacher, used in zip(teachers, (options.tough, options.tolerant), strict=True):
        answer = jax.lax.stop_gradient(states.predict(teacher, batch[recipe.teacher_modality]))
        if options.control:
            # One key: both of another face.
            answer = losses.control(answer, target, options.control, key=key, weights=weights)
        answers.append(answer if used else None)
    unreduced = losses.kd(
        prediction.landmarks, *answers, target, main_weight=options.main_weight, variant=options.variant
    )
    return 100.0 * _weighted_mean(unreduced, weights)


def _loss(params, state: states.TrainState, teacher, batch: Batch, key: jax.Array, recipe: Recipe):
    network = state.network.replace(params=params["network"])
    backbone_key, head_key, injection_key = jax.random.split(key, 3)
    features, backbone_stats = states.run_backbone(network, batch[recipe.modality], train=True, key=backbone_key)
    prediction, head_stats = states.run_head(network, features, train=True, key=head_key)

    weights = jnp.where(batch["visible"], 1.0, recipe.occluded_weight)
    if "weight" in batch:
        weights = weights * batch["weight"]
    target = batch["landmarks"] if recipe.soft is None else shape_model.project(recipe.soft, batch["landmarks"])
    if recipe.soft is not None and "weight" in batch:  # a placeholder would bend the whole projection
        target = jnp.where((batch["weight"] > 0).all(-1)[:, None, None], target, batch["landmarks"])
    parts = {}
    if recipe.two_teachers is not None:
        task = _two_teachers(teacher, prediction, target, batch, weights, recipe, injection_key)
    elif recipe.map_loss is not None:
        task, parts = recipe.map_loss(prediction, target, weights)
    else:
        task = _weighted_mean(recipe.loss(prediction.landmarks, target), weights)
    parts, total = {"task": task} | parts, task
    if teacher is not None and recipe.two_teachers is None:
        options = recipe.distillation
        terms = _distill(
            network, params["adapter"], teacher, features, prediction, target, batch, weights, recipe, injection_key
        )
        strength = {"forward": options.alpha, "reverse": options.beta, "feature": options.gamma, "logit": options.delta}
        strength["maps"] = options.maps
        decay = dikd.decay(state.step / recipe.total_steps, options.decay)
        total = task + decay * sum(strength[name] * value for name, value in terms.items() if strength[name])
        parts |= terms

    mask = batch["mask"].astype(jnp.float32)
    count = jnp.maximum(mask.sum(), 1.0)
    parts = {name: (value * mask).sum() / count for name, value in (parts | {"loss": total}).items()}
    return parts["loss"], (parts, {"backbone": backbone_stats, "head": head_stats})


def _gradients(params, state: states.TrainState, teacher, batch: Batch, key: jax.Array, recipe: Recipe):
    """(gradients, parts, statistics) of a batch, in `recipe.accumulate` micro-batches."""
    gradient = jax.value_and_grad(_loss, has_aux=True)
    pieces = recipe.accumulate
    if pieces == 1:
        (_, (parts, stats)), grads = gradient(params, state, teacher, batch, key, recipe)
        return grads, parts, stats
    # Example i goes to micro-batch i mod pieces: each device then cuts up its own examples and none is sent.
    micro = jax.tree.map(lambda x: x.reshape(-1, pieces, *x.shape[1:]).swapaxes(0, 1), batch)

    def one(carry, index_and_batch):
        total, stats = carry
        index, small = index_and_batch
        of_piece = state.replace(network=state.network.replace(stats=stats))
        key_of_piece = jax.random.fold_in(key, index)
        (_, (parts, stats)), grads = gradient(params, of_piece, teacher, small, key_of_piece, recipe)
        count = small["mask"].sum(dtype=jnp.float32)
        return (jax.tree.map(lambda t, g: t + count * g, total, grads), stats), (parts, count)

    start = jax.tree.map(jnp.zeros_like, params), state.network.stats
    (total, stats), (parts, counts) = jax.lax.scan(one, start, (jnp.arange(pieces), micro))
    share = 1.0 / jnp.maximum(counts.sum(), 1.0)
    parts = {name: (values * counts).sum() * share for name, values in parts.items()}
    return jax.tree.map(lambda t: t * share, total), parts, stats


def train_step(
    state: states.TrainState,
    teacher: Any,
    batch: Batch,
    rng: jax.Array,
    *,
    recipe: Recipe,
    gather: Callable[[Any], Any] = lambda tree: tree,
) -> tuple[states.TrainState, dict[str, jax.Array]]:
    """One update of the student; the teacher is read, never changed.

    Where the loss or the gradient is not finite, nothing is updated: the step counts, in `skipped` too.

    Args:
      state: donated by the caller's jit.
      teacher: a frozen network, an argument so that it is not baked into the program; None trains without one; the
        pair (tough, tolerant) for a recipe with `two_teachers`.
      batch: see `data.pipeline`; needs `landmarks` [B, K, 2], `visible` [B, K], `mask` [B] and the modalities of the
        recipe; `weight` [B, K], where it is there, weighs the landmarks.
      rng: the stage's key; the step number is folded in, so resuming needs nothing else.
      recipe: static.
      gather: puts together the weights that a mesh keeps split (`sharding.gathered`).

    Returns:
      The next state and scalars: the loss, its parts, the gradient's global norm, and `skipped`, 0 or 1.
    """
    params = states.trainable(state.network, state.adapter)
    key = jax.random.fold_in(rng, state.step)
    grads, parts, stats = _gradients(gather(params), state, gather(teacher), batch, key, recipe)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(parts["loss"]) & jnp.isfinite(norm)
    updates, opt_state = recipe.tx.update(grads, state.opt_state, params)
    params = optax.apply_updates(params, updates)
    network = state.network.replace(params=params["network"], stats=stats)
    # Early steps average over what little there is; a constant decay would keep the random initialisation for long.
    decay = jnp.minimum(recipe.ema, (1.0 + state.step) / (10.0 + state.step))
    ema = jax.tree.map(lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), state.ema, network)
    after = state.replace(network=network, adapter=params["adapter"], opt_state=opt_state, ema=ema)
    after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
    skipped = 1 - finite.astype(jnp.int32)
    after = after.replace(step=state.step + 1, skipped=state.skipped + skipped)
    return after, parts | {"gradient_norm": norm, "skipped": skipped}


def eval_step(network: states.Network, images: jax.Array) -> jax.Array:
    """images [B, H, W, 1 or 3] -> landmarks [B, K, 2] in u, with running statistics."""
    return states.predict(network, images)


def average(history: list[dict[str, Any]]) -> dict[str, float]:
    """Means over steps of scalar metrics (on the host), by clu."""
    values = {name: np.stack([scalars[name] for scalars in history]) for name in sorted(history[0])}
    # All steps at once: clu's merge runs a dozen small programs, which step by step would cost a tenth of the training.
    collection = clu_metrics.Collection.create(**{name: clu_metrics.Average.from_output(name) for name in values})
    return {name: float(value) for name, value in collection.single_from_model_output(**values).compute().items()}
