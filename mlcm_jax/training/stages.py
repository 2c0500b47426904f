"""The stages of a run: which network each trains, on which images, and which stages teach it.

`STAGES` is the only place that gives a meaning to a stage's name; other code reads the fields of `Stage`.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mlcm_jax import config as configs
from mlcm_jax import detection, landmarks, layout_file, shape_model
from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.models import network as networks
from mlcm_jax.training import optimizer as optimizers
from mlcm_jax.training import recipe as recipes
from mlcm_jax.training.recipe import Recipe, Term


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training of one network.

    Attributes:
        model: the config key of its network: "teacher", "student" or "light". `config.modalities` says what it reads.
        teachers: the stages whose networks teach it.
        control: the stage with the same initialisation, data and steps but no teacher; "" if there is none.
        distillation: the config key of the distillation's weights and options; "" without teachers.
        taught: (config, stage) -> the loss terms of that distillation.
        replaces_task: whether these terms include a task loss, so that `recipe.terms_of_task` is left out.
        soft: whether it learns landmarks projected onto a shape model.
    """

    model: str
    teachers: tuple[str, ...] = ()
    control: str = ""
    distillation: str = ""
    taught: Callable[[ConfigDict, "Stage"], tuple[Term, ...]] = lambda config, stage: ()
    replaces_task: bool = False
    soft: bool = False


def _mlcm(config: ConfigDict, stage: Stage) -> tuple[Term, ...]:
    return recipes.distillation(config[stage.distillation], stage.teachers[0], recipes.point_loss(config))


def _boxes(view: recipes.View) -> jax.Array:
    return detection.loss(view.prediction.maps, view.target, view.weights)


def _kd_loss(config: ConfigDict, stage: Stage) -> tuple[Term, ...]:
    return recipes.kd_loss(config[stage.distillation], *stage.teachers)


# In the order in which they are trained and reported. `direct` skips the thermal student: one distillation, not two.
# `tolerant` and `kd` belong to KD-Loss, whose tough teacher is `teacher`.
STAGES = {
    "teacher": Stage("teacher"),
    "tolerant": Stage("teacher", soft=True),
    "thermal_alone": Stage("student"),
    "transfer": Stage("student", ("teacher",), "thermal_alone", "transfer", _mlcm),
    "light_alone": Stage("light"),
    "direct": Stage("light", ("teacher",), "light_alone", "direct", _mlcm),
    "compress": Stage("light", ("transfer",), "light_alone", "compress", _mlcm),
    "kd": Stage("light", ("teacher", "tolerant"), "light_alone", "kd", _kd_loss, replaces_task=True),
}


def layout(config: ConfigDict) -> landmarks.Layout:
    """Returns the layout of config.layout: a name, or a user's own YAML file (tfds_builders/paired_folder/README.md).

    Raises:
        InputError: an unknown name, or a file that does not describe a layout.
    """
    return layout_file.find(config.layout)


def modality(name: str, config: ConfigDict) -> str:
    """Returns the modality that the network of a stage reads: "rgb" or "thermal"."""
    return config.modalities["teacher" if STAGES[name].model == "teacher" else "student"]


def gain(config: ConfigDict) -> str:
    """The gain of thermal images: config.gain, or "as_is" where `thermal_range` fixes the gray levels."""
    return "as_is" if config.thermal_range else config.gain


def requirements(name: str, config: ConfigDict) -> list[str]:
    """Returns the stages whose trained networks a stage needs: its teachers, and those it starts from."""
    _, source = initial_weights(name, config)
    return sorted({*filter(None, [source]), *STAGES[name].teachers})


def initial_weights(name: str, config: ConfigDict) -> tuple[str, str]:
    """Returns which weights a stage takes over at its start.

    Args:
        name: the stage's name.
        config: the run's config.

    Returns:
        (part, stage): "all" or "head", and the stage whose network they come from; ("", "") if all are random.
    """
    model = STAGES[name].model
    if model == "student" and config.student_init == "teacher":
        return "all", "teacher"
    if model == "light" and config.light_head_init == "teacher":
        return "head", "teacher"
    return "", ""


def with_required(names: Iterable[str], config: ConfigDict) -> tuple[str, ...]:
    """Returns the named stages and all stages that they need, in the order of training."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting += requirements(name, config)
    return tuple(name for name in STAGES if name in found)


def reads(name: str, config: ConfigDict, key: str) -> bool:
    """Whether the trained network of a stage depends on a key of the config, a dotted name of `config.SCHEMA`."""
    entry = configs.SCHEMA.get(key)
    if entry is None:  # an argument of a model or a loss
        group = key.rpartition(".")[0]
        return reads(name, config, group) if group in configs.SCHEMA else True
    if entry.decides in ("scoring", "bookkeeping") or (entry.decides == "selection" and not config.keep_best):
        return False
    below = [STAGES[other] for other in with_required([name], config)]
    facts = {stage.model for stage in below} | {stage.distillation for stage in below}
    facts |= {"soft"} if any(stage.soft for stage in below) else set()
    return not entry.of or bool(facts.intersection(entry.of))


def check(config: ConfigDict) -> None:
    """Raises InputError for unknown stages, and for invalid values."""
    configs.check(config)
    for name in config.stages:
        if name not in STAGES:
            raise InputError(f"config.stages names {name!r}, which is not a stage; {did_you_mean(name, STAGES)}")
    if not config.stages:
        raise InputError(f"config.stages is empty; name at least one of {', '.join(STAGES)}.")
    if config.kd.variant == "released" and not config.kd.tolerant:
        raise InputError("config.kd.variant='released' scales its main term by the tolerant teacher; keep kd.tolerant.")
    if config.train.decay_rate and config.train.schedule != "inverse_time":
        raise InputError(
            f"config.train.decay_rate={config.train.decay_rate:g} is only for the schedule 'inverse_time', but "
            f"config.train.schedule is {config.train.schedule!r}."
        )
    if config.augment.invert and config.thermal_range:
        raise InputError(
            f"config.augment.invert={config.augment.invert:g} would invert temperatures, which config.thermal_range "
            "keeps; set one of them only."
        )
    datasets = (config.dataset, *config.more_datasets)
    if config.dataset_weights and len(config.dataset_weights) != len(datasets):
        raise InputError(
            f"config.dataset_weights={tuple(config.dataset_weights)} must be (), or have one number for each of the "
            f"datasets {', '.join(datasets)} (config.dataset and config.more_datasets)."
        )
    if config.loss.name != "boxes":
        recipes.point_loss(config)
    elif config.keep_best or config.seeds:
        raise InputError(
            "A detector has no NME, so config.keep_best must be False and config.seeds (); train every seed in a work "
            "directory of its own with config.seed."
        )
    _check_heads(config)


def _check_heads(config: ConfigDict) -> None:
    """Checks the heads of the named stages: STAR needs maps, and a head must draw the edges of the config's layout."""
    for key in sorted({STAGES[name].model for name in config.stages}):
        head, own = config[key].get("head", "coordinates"), config[key].get("layout")
        if config.loss.name == "star" and head != "aam":
            raise InputError(f"config.loss.name='star' trains maps: config.{key}.head={head!r} must be 'aam'.")
        parts = config.loss.name == "boxes", head == "boxes", config.layout == detection.LAYOUT.name
        detects = {*parts, config.gain == "scene"}  # a crop of landmarks does not see the whole scene
        if len(detects) > 1:
            raise InputError(
                f"A detector needs config.loss.name='boxes', config.{key}.head='boxes', config.gain='scene' and "
                f"config.layout={detection.LAYOUT.name!r}, all four, and nothing else may have one of them; they are "
                f"{config.loss.name!r}, {head!r}, {config.gain!r} and {config.layout!r}."
            )
        if bool(config[key].get("uncertainty")) != bool(config.loss.uncertainty):
            raise InputError(
                f"config.{key}.uncertainty and config.loss.uncertainty belong together: set the one to True and the "
                "other to a weight such as 0.5, or neither."
            )
        if head == "aam" and own not in (None, config.layout):
            raise InputError(f"config.{key}.layout={own!r} must be config.layout={config.layout!r}, or None.")


def model_options(config: ConfigDict, key: str) -> dict[str, Any]:
    """Returns the arguments of `models.create` for the config key teacher, student or light."""
    options = {name: tuple(v) if isinstance(v, list | tuple) else v for name, v in config[key].items()}
    if config.train.bf16:
        options["dtype"] = jax.numpy.bfloat16
    return options


def role_key(seed: int, role: str) -> jax.Array:
    """Derives a random key for a named role, so that a student and its control get the same key."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(role.encode()))


def recipe(name: str, config: ConfigDict, *, soft: shape_model.ShapeModel | None = None) -> Recipe:
    """Makes the static part of a stage's training step.

    Args:
        name: the stage's name.
        config: the run's config.
        soft: the shape model, for a stage that learns soft landmarks.
    """
    stage = STAGES[name]
    total_steps = config.steps[stage.model]
    edges = config[stage.model].get("layout") is not None
    if stage.replaces_task:
        own: tuple[Term, ...] = ()
    elif config.loss.name == "boxes":
        own = (Term("task", recipes.constant(1.0), _boxes, task=True),)
    else:
        own = recipes.terms_of_task(config, layout(config), edges=edges)
    return Recipe(
        modality=modality(name, config),
        terms=(*own, *recipes.likelihood(config), *stage.taught(config, stage)),
        tx=optimizers.optimizer(config, total_steps),
        total_steps=total_steps,
        teachers={teacher: modality(teacher, config) for teacher in stage.teachers},
        ema=config.train.ema,
        occluded_weight=config.loss.occluded_weight,
        soft=soft if stage.soft else None,
        accumulate=config.train.accumulate,
    )


def initial_network(name: str, config: ConfigDict, *, mean_shape: np.ndarray) -> networks.Network:
    """Creates the network with which a stage starts, before weights of another stage are copied in.

    Args:
        name: the stage's name.
        config: the run's config.
        mean_shape: float32 [K, 2] in u.

    Raises:
        InputError: an unknown model, option or weights file.
    """
    key = STAGES[name].model
    try:
        return networks.create(
            model_options(config, key),
            num_landmarks=len(mean_shape),
            key=role_key(config.seed, key),
            mean_shape=mean_shape,
            weights=config.pretrained[key] or None,
        )
    except InputError as error:
        raise InputError(f"config.{key}: {error}") from error


def network_shapes(name: str, config: ConfigDict, *, mean_shape: np.ndarray) -> networks.Network:
    """Returns `initial_network` as shapes, without making arrays or reading files of weights."""
    config = config.copy_and_resolve_references()
    config.pretrained = dict.fromkeys(config.pretrained, "")
    return jax.eval_shape(lambda: initial_network(name, config, mean_shape=mean_shape))
