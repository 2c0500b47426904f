"""The stages of a run and what each is made of: which network, from which images, taught by whom."""

import dataclasses
import functools
import zlib
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from mlcm_jax import codecs, dikd, landmarks, layout_file, losses, shape_model
from mlcm_jax.errors import InputError
from mlcm_jax.training import state as states
from mlcm_jax.training import step as steps


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training.

    `model` is the config key of its network, which reads what `config.modalities` says; `teachers` are the stages
    whose networks teach; `distillation` is the config key of their weights; a `soft` stage learns landmarks projected
    on a shape model.
    """

    model: str
    teachers: tuple[str, ...] = ()
    distillation: str = ""
    soft: bool = False


# In the order in which they are trained and reported; each control has the student's initialisation, data and steps.
# `direct` skips the transfer (one step instead of two); `tolerant` and `kd` are of KD-Loss, whose tough teacher is
# `teacher`.
STAGES = {
    "teacher": Stage("teacher"),
    "tolerant": Stage("teacher", soft=True),
    "thermal_alone": Stage("student"),
    "transfer": Stage("student", ("teacher",), "transfer"),
    "light_alone": Stage("light"),
    "direct": Stage("light", ("teacher",), "direct"),
    "compress": Stage("light", ("transfer",), "compress"),
    "kd": Stage("light", ("teacher", "tolerant"), "kd"),
}

SCHEDULES = ("cosine", "inverse_time", "constant")


def layout(config: ConfigDict) -> landmarks.Layout:
    """config.layout: a name, or the YAML file of a user's own layout (tfds_builders/paired_folder/README.md).

    Raises InputError for another name, and for a file that describes no layout.
    """
    if str(config.layout).endswith((".yaml", ".yml")):
        return layout_file.read_layout(config.layout)
    return landmarks.get(config.layout)


def modality(name: str, config: ConfigDict) -> str:
    """What the network of a stage reads: "rgb" or "thermal"."""
    return config.modalities["teacher" if STAGES[name].model == "teacher" else "student"]


def requirements(name: str, config: ConfigDict) -> list[str]:
    """The stages whose trained networks this one reads."""
    stage = STAGES[name]
    starts_from = ["teacher"] if stage.model == "student" and config.student_init == "teacher" else []
    starts_from += ["teacher"] if stage.model == "light" and config.light_head_init == "teacher" else []
    return sorted({*starts_from, *stage.teachers})


def check(config: ConfigDict) -> None:
    """Raises InputError for stages that are unknown, and for choices that no stage understands."""
    for name in config.stages:
        if name not in STAGES:
            raise InputError(f"config.stages names {name!r}, which is not a stage; the stages are {', '.join(STAGES)}.")
    if not config.stages:
        raise InputError(f"config.stages is empty; name at least one of {', '.join(STAGES)}.")
    for key in ("student_init", "light_head_init"):
        if config[key] not in ("scratch", "teacher"):
            raise InputError(f"config.{key}={config[key]!r} must be 'scratch' or 'teacher'.")
    for key, value in config.modalities.items():
        if value not in ("rgb", "thermal"):
            raise InputError(f"config.modalities.{key}={value!r} must be 'rgb' or 'thermal'.")
    if config.train.accumulate < 1:
        raise InputError(f"config.train.accumulate={config.train.accumulate} must be at least 1.")
    _check_two_teachers(config.kd)
    if not 0 < config.shape_variance <= 1:
        raise InputError(f"config.shape_variance={config.shape_variance} must be above 0 and at most 1.")
    for key in ("teacher", "student", "light"):
        if config.steps[key] < 1:
            raise InputError(f"config.steps.{key}={config.steps[key]} must be at least 1.")
    _check_training(config.train)
    loss_function(config)
    _check_heads(config)
    for key in ("transfer", "compress", "direct"):
        try:
            dikd.decay(0.0, config[key].decay)
        except ValueError as error:
            raise InputError(f"config.{key}.decay: {error}.") from error
        target = config[key].reverse_target
        if target not in ("teacher", "truth"):
            raise InputError(f"config.{key}.reverse_target={target!r} must be 'teacher' or 'truth'.")


def _check_two_teachers(options: ConfigDict) -> None:
    if options.variant not in ("paper", "released"):
        raise InputError(f"config.kd.variant={options.variant!r} must be 'paper' or 'released'.")
    if options.control not in ("", "shuffled", "constant"):
        raise InputError(f"config.kd.control={options.control!r} must be '', 'shuffled' or 'constant'.")
    if options.variant == "released" and not options.tolerant:
        raise InputError("config.kd.variant='released' scales its main term by the tolerant teacher; keep kd.tolerant.")


def _check_training(train: ConfigDict) -> None:
    if train.schedule not in SCHEDULES:
        raise InputError(f"config.train.schedule={train.schedule!r} is unknown; choose {', '.join(SCHEDULES)}.")
    if train.decay_rate and train.schedule != "inverse_time":
        raise InputError(
            f"config.train.decay_rate={train.decay_rate:g} is of the schedule 'inverse_time'; config.train.schedule is "
            f"{train.schedule!r}."
        )
    allowed = {
        "lr": (train.lr > 0, "above 0"),
        "head_lr": (train.head_lr >= 0, "at least 0 (0: as lr)"),
        "decay_rate": (train.decay_rate >= 0, "at least 0"),
        "warmup": (0 <= train.warmup < 1, "at least 0 and below 1, a share of the steps"),
        "weight_decay": (train.weight_decay >= 0, "at least 0"),
        "clip": (train.clip >= 0, "at least 0 (0: no clipping)"),
        "ema": (0 <= train.ema < 1, "at least 0 and below 1"),
    }
    for key, (right, range_) in allowed.items():
        if not right:
            raise InputError(f"config.train.{key}={train[key]:g} must be {range_}.")


def _check_heads(config: ConfigDict) -> None:
    """Of the stages that are asked for: STAR needs maps, and a head draws the edges of the config's layout."""
    for key in sorted({STAGES[name].model for name in config.stages}):
        head, layout = config[key].get("head", "coordinates"), config[key].get("layout")
        if config.loss.name == "star" and head != "aam":
            raise InputError(f"config.loss.name='star' trains maps: config.{key}.head={head!r} must be 'aam'.")
        if head == "aam" and layout not in (None, config.layout):
            raise InputError(f"config.{key}.layout={layout!r} must be config.layout={config.layout!r}, or None.")


def loss_function(config: ConfigDict):
    """config.loss as `loss(prediction, target)`: [B, K, 2] in u -> [B, K, 2]; errors in per cent of the crop's side.

    "star" trains a head by its maps (`map_loss_function`); what distillation compares is then L1.
    """
    names = ("l1", "l2", "smooth_l1", "wing", "star")
    if config.loss.name not in names:
        raise InputError(f"config.loss.name={config.loss.name!r} is unknown; choose one of {', '.join(names)}.")
    if config.loss.name == "star":
        function = losses.l1
    else:
        function = functools.partial(getattr(losses, config.loss.name), **config.loss.options)

    def loss(prediction, target):
        return function(100.0 * prediction, 100.0 * target)

    return loss


def map_loss_function(config: ConfigDict):
    """The loss on the maps of an `aam` head, (Prediction, target, weights) -> ([B], parts); None for other losses."""
    if config.loss.name != "star":
        return None

    def loss(prediction, target, weights):
        if prediction.points is None:
            raise InputError("config.loss.name='star' needs models with head 'aam', which give point and edge maps.")
        maps = prediction.heatmaps, prediction.points, prediction.edges
        chains = () if prediction.edges is None else codecs.edge_chains(layout(config))
        return losses.star_system(*maps, target, chains=chains, weights=weights, **config.loss.options)

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


def schedule(rate: float, train: ConfigDict, total_steps: int) -> optax.Schedule:
    """Learning rate by step: a linear warm-up from 0, where there is one, then `config.train.schedule` from `rate`.

    "inverse_time" is rate / (1 + decay_rate · step), what Keras calls `decay`.
    """
    warmup = max(1, round(train.warmup * total_steps)) if train.warmup else 0
    if train.schedule == "cosine":
        after = optax.cosine_decay_schedule(rate, max(total_steps - warmup, 1))
    elif train.schedule == "inverse_time":
        after = lambda step: rate / (1.0 + train.decay_rate * step)  # noqa: E731
    else:
        after = optax.constant_schedule(rate)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after], [warmup])


def optimizer(config: ConfigDict, total_steps: int) -> optax.GradientTransformation:
    """AdamW under `schedule`; biases and norms are not decayed. Heads may have a rate of their own."""
    train = config.train

    def adamw(rate: float) -> optax.GradientTransformation:
        return optax.adamw(
            schedule(rate, train, total_steps),
            weight_decay=train.weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        )

    def part(path, _):
        return "head" if any(getattr(key, "key", "") == "head" for key in path) else "body"

    rule = adamw(train.lr)
    if train.head_lr:
        rules = {"body": adamw(train.lr), "head": adamw(train.head_lr)}
        rule = optax.partition(rules, lambda params: jax.tree_util.tree_map_with_path(part, params))
    return optax.chain(optax.clip_by_global_norm(train.clip), rule) if train.clip else rule


def recipe(name: str, config: ConfigDict, *, soft: shape_model.ShapeModel | None = None) -> steps.Recipe:
    """The static half of a stage's training step; `soft` is the shape model of a stage that learns soft landmarks."""
    stage = STAGES[name]
    total_steps = config.steps[stage.model]
    weights = steps.Distillation()
    if stage.distillation and stage.distillation != "kd":
        weights = steps.Distillation(**config[stage.distillation])
    return steps.Recipe(
        modality=modality(name, config),
        loss=loss_function(config),
        tx=optimizer(config, total_steps),
        total_steps=total_steps,
        ema=config.train.ema,
        occluded_weight=config.loss.occluded_weight,
        teacher_modality=modality(stage.teachers[0], config) if stage.teachers else "",
        distillation=weights,
        two_teachers=steps.TwoTeachers(**config.kd) if stage.distillation == "kd" else None,
        map_loss=map_loss_function(config),
        soft=soft if stage.soft else None,
        accumulate=config.train.accumulate,
    )


def initial_network(name: str, config: ConfigDict, *, mean_shape: np.ndarray) -> states.Network:
    """The network with which a stage starts, before weights of another stage are copied in.

    mean_shape is float32 [K, 2] in u. Raises InputError for an unknown model, option or weights file.
    """
    key = STAGES[name].model
    try:
        return states.create_network(
            model_options(config, key),
            num_landmarks=len(mean_shape),
            key=role_key(config.seed, key),
            mean_shape=mean_shape,
            weights=config.pretrained[key] or None,
        )
    except InputError as error:
        raise InputError(f"config.{key}: {error}") from error


def network_shapes(name: str, config: ConfigDict, *, mean_shape: np.ndarray) -> states.Network:
    """`initial_network` as shapes: no array is made, no file of weights is read."""
    config = config.copy_and_resolve_references()
    config.pretrained = dict.fromkeys(config.pretrained, "")
    return jax.eval_shape(lambda: initial_network(name, config, mean_shape=mean_shape))
