"""The stages of a run and what each is made of: which network, from which pictures, taught by whom."""

import dataclasses
import functools
import zlib
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from mlcm_jax import dikd, losses, steps
from mlcm_jax import state as states
from mlcm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Stage:
    """`model` and `distillation` are config keys, `teacher` is the stage whose network teaches ("" for none)."""

    model: str
    modality: str
    teacher: str = ""
    distillation: str = ""


# In the order in which they are trained and reported; each control has the student's initialisation, data and steps.
STAGES = {
    "teacher": Stage("teacher", "rgb"),
    "thermal_alone": Stage("student", "thermal"),
    "transfer": Stage("student", "thermal", teacher="teacher", distillation="transfer"),
    "light_alone": Stage("light", "thermal"),
    "compress": Stage("light", "thermal", teacher="transfer", distillation="compress"),
}


def requirements(name: str, config: ConfigDict) -> list[str]:
    """The stages whose trained networks this one reads."""
    stage = STAGES[name]
    starts_from = ["teacher"] if stage.model == "student" and config.student_init == "teacher" else []
    return sorted({*starts_from, *([stage.teacher] if stage.teacher else [])})


def check(config: ConfigDict) -> None:
    """Raises InputError for stages that are unknown, and for choices that no stage understands."""
    for name in config.stages:
        if name not in STAGES:
            raise InputError(f"config.stages names {name!r}, which is not a stage; the stages are {', '.join(STAGES)}.")
    if not config.stages:
        raise InputError(f"config.stages is empty; name at least one of {', '.join(STAGES)}.")
    if config.student_init not in ("scratch", "teacher"):
        raise InputError(f"config.student_init={config.student_init!r} must be 'scratch' or 'teacher'.")
    for key in ("teacher", "student", "light"):
        if config.steps[key] < 1:
            raise InputError(f"config.steps.{key}={config.steps[key]} must be at least 1.")
    loss_function(config)
    for key in ("transfer", "compress"):
        try:
            dikd.decay(0.0, config[key].decay)
        except ValueError as error:
            raise InputError(f"config.{key}.decay: {error}") from error
        target = config[key].reverse_target
        if target not in ("teacher", "truth"):
            raise InputError(f"config.{key}.reverse_target={target!r} must be 'teacher' or 'truth'.")


def loss_function(config: ConfigDict):
    """config.loss as `loss(prediction, target)`: [B, K, 2] in u -> [B, K, 2]; errors in per cent of the crop's side."""
    names = ("l1", "l2", "smooth_l1", "wing")
    if config.loss.name not in names:
        raise InputError(f"config.loss.name={config.loss.name!r} is unknown; choose one of {', '.join(names)}.")
    function = functools.partial(getattr(losses, config.loss.name), **config.loss.options)

    def loss(prediction, target):
        return function(100.0 * prediction, 100.0 * target)

    return loss


def model_options(config: ConfigDict, key: str) -> dict[str, Any]:
    """Keyword arguments of `models.create` for config key teacher, student or light."""
    options = {name: tuple(v) if isinstance(v, list | tuple) else v for name, v in config[key].items()}
    if config.train.bf16:
        options["dtype"] = jax.numpy.bfloat16
    return options


def role_key(seed: int, role: str) -> jax.Array:
    """A key for a named purpose: the same for a student and its control."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(role.encode()))


def optimizer(config: ConfigDict, total_steps: int) -> optax.GradientTransformation:
    """AdamW, warm-up then cosine to zero; biases and norms are not decayed."""
    train = config.train
    warmup = max(1, round(train.warmup * total_steps))
    schedule = optax.warmup_cosine_decay_schedule(0.0, train.lr, warmup, max(total_steps, warmup + 1))
    adamw = optax.adamw(
        schedule, weight_decay=train.weight_decay, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    )
    return optax.chain(optax.clip_by_global_norm(train.clip), adamw) if train.clip else adamw


def recipe(name: str, config: ConfigDict) -> steps.Recipe:
    """The static half of a stage's training step."""
    stage = STAGES[name]
    total_steps = config.steps[stage.model]
    return steps.Recipe(
        modality=stage.modality,
        loss=loss_function(config),
        tx=optimizer(config, total_steps),
        total_steps=total_steps,
        ema=config.train.ema,
        occluded_weight=config.loss.occluded_weight,
        teacher_modality=STAGES[stage.teacher].modality if stage.teacher else "",
        distillation=steps.Distillation(**config[stage.distillation]) if stage.distillation else steps.Distillation(),
    )


def initial_network(name: str, config: ConfigDict, *, num_landmarks: int, mean_shape: np.ndarray) -> states.Network:
    """The network with which a stage starts, before weights of another stage are copied in.

    Raises InputError for an unknown model, option or weights file.
    """
    key = STAGES[name].model
    return states.create_network(
        model_options(config, key),
        num_landmarks=num_landmarks,
        key=role_key(config.seed, key),
        mean_shape=mean_shape,
        weights=config.pretrained[key] or None,
    )
