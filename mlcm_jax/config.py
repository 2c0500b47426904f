"""The config of a run: the schema of its keys, and functions that load, check and change configs.

A config file defines `get_config(variant)`, which starts from `base()` and sets the keys that differ. It imports
nothing but this module. `SCHEMA` is the only table of keys: `base`, `check`, resuming, ablations and
`mlcm train --help` all read it.
"""

import difflib
import os
import re
import runpy
import traceback
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from ml_collections import ConfigDict

from mlcm_jax import kinds
from mlcm_jax.console import say
from mlcm_jax.errors import InputError, did_you_mean

Decides = Literal["training", "selection", "scoring", "bookkeeping"]


class Key(NamedTuple):
    """A key of the config.

    Attributes:
        type: the type of its value; `dict` for the keyword arguments of a function, which `SCHEMA` does not list.
        default: its value in `base()`.
        decides: "training" changes the networks, or where they are kept; "selection" changes which checkpoint is used,
            if `keep_best` is on; "scoring" changes how finished networks are scored; "bookkeeping" changes none of
            these.
        comment: its meaning, for `mlcm train --help`.
        of: the models, distillations or properties of stages that read it (`training.stages.reads`); () means all.
    """

    type: Any
    default: Any
    decides: Decides
    comment: str
    of: tuple[str, ...] = ()


# The text of an annotation is the interval in which a number lies; numbers without one need only be finite.
_Seed = Annotated[int, "[0, 4294967295]"]
_Number = Annotated[int, "[0, inf)"]
_Count = Annotated[int, "[1, inf)"]
_Positive = Annotated[float, "(0, inf)"]
_Weight = Annotated[float, "[0, inf)"]
_Share = Annotated[float, "[0, 1]"]
_BelowOne = Annotated[float, "[0, 1)"]
_Modality = Literal["rgb", "thermal"]
_Init = Literal["scratch", "teacher"]
_Decay = Literal["linear", "cosine", "exponential", "none"]  # see `dikd.decay`
_SETS = tuple[str, ...]
_NETWORK = {"name": "resnet18", "width": 1.0, "head": "coordinates"}


def _distillation(of: str, what: str, **weights: float) -> dict[str, Key]:
    """The keys of one distillation, whose loss is L_task + λ(e)·(α·FI + β·RI + γ·FD + δ·LD + maps·MD)."""
    comments = {
        "alpha": f"{what}: weight of forward injection (FI)",
        "beta": "weight of reverse injection (RI)",
        "gamma": "weight of feature distillation (FD)",
        "delta": "weight of logit distillation (LD)",
        "maps": "weight of heatmap distillation (MD)",
    }
    keys = {
        f"{of}.{name}": Key(_Weight, weights.get(name, 0.0), "training", text, (of,)) for name, text in comments.items()
    }
    decay = Key(_Decay, "linear", "training", "how λ decays: linear, cosine, exponential or none", (of,))
    target = Key(
        Literal["teacher", "truth"], "teacher", "training", "what RI is compared with: teacher or truth", (of,)
    )
    return keys | {f"{of}.decay": decay, f"{of}.reverse_target": target}


SCHEMA: dict[str, Key] = {
    "seed": Key(_Seed, 0, "training", "seed of parameters, order of examples, augmentation and dropout"),
    "seeds": Key(tuple[_Seed, ...], (), "bookkeeping", "several seeds: one run each, and a table of mean ± std"),
    "dataset": Key(str, "synthetic_faces/tiny", "training", "dataset to train on, and to test on without test_dataset"),
    "more_datasets": Key(_SETS, (), "training", "further datasets to train on"),
    "dataset_weights": Key(
        tuple[_Positive, ...], (), "training", "sampling weight of each dataset; () means by their sizes"
    ),
    "teacher_dataset": Key(str, "", "training", "dataset of the teacher; '' means those of the students", ("teacher",)),
    "test_dataset": Key(str, "", "scoring", "dataset to test on; '' means `dataset`"),
    "test_split": Key(str, "test", "scoring", "split to test on, such as full or challenge"),
    "thermal_range": Key(
        tuple[float, ...], (), "training", "(low, high) in °C mapped to 0 and 255; () for auto-gain images"
    ),
    "gain": Key(
        Literal["box", "scene", "as_is"],
        "box",
        "training",
        "gain of thermal images: box (by the face), scene (by all of it) or as_is (their 8 bits)",
    ),
    "layout": Key(str, "ibug68", "training", "landmark layout of the networks: a name, or a YAML file"),
    "normalizer": Key(str, "box", "selection", "normaliser of the NME: box, outer_eyes or pupils"),
    "image_size": Key(Annotated[int, "[8, inf)"], 64, "training", "side of the crops in pixels"),
    "stages": Key(
        _SETS,
        ("teacher", "thermal_alone", "transfer", "light_alone", "compress"),
        "bookkeeping",
        "stages to train; the order here does not matter",
    ),
    "teacher": Key(dict, _NETWORK, "training", "arguments of models.create for the teacher", ("teacher",)),
    "student": Key(dict, _NETWORK, "training", "the same for the thermal student", ("student",)),
    "light": Key(
        dict, _NETWORK | {"name": "mobilenet_v2"}, "training", "the same for the lightweight student", ("light",)
    ),
    "student_init": Key(_Init, "scratch", "training", "scratch, or teacher: copy the teacher's weights", ("student",)),
    "light_head_init": Key(
        _Init, "scratch", "training", "scratch, or teacher: copy the weights of the teacher's head that fit", ("light",)
    ),
    "modalities.teacher": Key(_Modality, "rgb", "training", "what the teacher reads: rgb or thermal", ("teacher",)),
    "modalities.student": Key(_Modality, "thermal", "training", "what both students read", ("student", "light")),
    "pretrained.teacher": Key(str, "", "training", "file of ImageNet weights for the teacher", ("teacher",)),
    "pretrained.student": Key(str, "", "training", "the same for the thermal student", ("student",)),
    "pretrained.light": Key(str, "", "training", "the same for the lightweight student", ("light",)),
    "loss.name": Key(
        str,
        "l1",
        "training",
        "l1, l2, smooth_l1 or wing, in per cent of the crop; star (head aam), boxes (head boxes)",
    ),
    "loss.options": Key(dict, {}, "training", "arguments of the loss"),
    "loss.uncertainty": Key(_Weight, 0.0, "training", "weight of the likelihood that trains a head's uncertainty"),
    "loss.occluded_weight": Key(_Weight, 1.0, "training", "weight of landmarks that are not visible"),
    **_distillation("transfer", "RGB teacher to thermal student", alpha=1.0, beta=1.0),
    **_distillation("compress", "thermal student to lightweight student", gamma=1.0, delta=1.0),
    **_distillation("direct", "RGB teacher to lightweight student", gamma=1.0, delta=1.0),
    "kd.variant": Key(
        Literal["paper", "released"], "paper", "training", "paper, or released (as in the published code)", ("kd",)
    ),
    "kd.main_weight": Key(_Weight, 2.5, "training", "weight of its main term", ("kd",)),
    "kd.tough": Key(bool, True, "training", "use the tough teacher", ("kd",)),
    "kd.tolerant": Key(bool, True, "training", "use the tolerant teacher", ("kd",)),
    "kd.control": Key(
        Literal["", "shuffled", "constant"],
        "",
        "training",
        "replace the teachers' errors by a control: shuffled or constant",
        ("kd",),
    ),
    "shape_variance": Key(
        Annotated[float, "(0, 1]"], 0.95, "training", "variance kept by the tolerant teacher's shape model", ("soft",)
    ),
    "steps.teacher": Key(_Count, 1000, "training", "steps of each stage that trains a teacher", ("teacher",)),
    "steps.student": Key(_Count, 1000, "training", "the same for the thermal student", ("student",)),
    "steps.light": Key(_Count, 1000, "training", "the same for the lightweight student", ("light",)),
    "train.batch_size": Key(_Count, 64, "training", "examples per step, over all devices"),
    "train.optimizer": Key(
        Literal["adamw", "muon"],
        "adamw",
        "training",
        "adamw, or muon, which treats kernels outside heads as matrices",
    ),
    "train.lr": Key(_Positive, 1e-3, "training", "peak learning rate"),
    "train.head_lr": Key(_Weight, 0.0, "training", "peak learning rate of the heads; 0 means lr"),
    "train.schedule": Key(
        Literal["cosine", "inverse_time", "constant"],
        "cosine",
        "training",
        "learning rate schedule: cosine (to 0), inverse_time or constant",
    ),
    "train.decay_rate": Key(_Weight, 0.0, "training", "of inverse_time: lr / (1 + decay_rate · step)"),
    "train.warmup": Key(_BelowOne, 0.05, "training", "share of the steps in which the learning rate rises from 0"),
    "train.weight_decay": Key(_Weight, 1e-4, "training", "weight decay; only kernels decay"),
    "train.clip": Key(_Weight, 1.0, "training", "largest global norm of the gradient; 0 disables clipping"),
    "train.ema": Key(
        _BelowOne, 0.99, "training", "decay per step of the averaged network, which is the one used; 0: no average"
    ),
    "train.bf16": Key(bool, False, "training", "compute in bfloat16"),
    "train.accumulate": Key(_Count, 1, "training", "micro-batches per step; batch norm treats each separately"),
    "mesh.data": Key(int, -1, "bookkeeping", "devices that split the batch; -1 means all that are left"),
    "mesh.fsdp": Key(int, 1, "bookkeeping", "devices that split the batch and the state"),
    "mesh.model": Key(int, 1, "bookkeeping", "devices that split layers"),
    "mesh.slices": Key(int, 1, "bookkeeping", "TPU slices, or hosts, along data"),
    "augment.expand": Key(_Positive, 1.25, "training", "side of the crop relative to the longer side of the box"),
    "augment.jitter": Key(
        Annotated[float, "[0, 0.49]"], 0.1, "training", "largest move of each side of the box, relative to its size"
    ),
    "augment.rotation": Key(Annotated[float, "[0, 180]"], 20.0, "training", "largest rotation in degrees"),
    "augment.scale": Key(_Weight, 0.1, "training", "largest scaling: 0.1 means 1/1.1 to 1.1"),
    "augment.shift": Key(_Share, 0.05, "training", "largest shift, relative to the side of the crop"),
    "augment.flip": Key(_Share, 0.5, "training", "probability of a mirror image"),
    "augment.invert": Key(_Share, 0.0, "training", "probability of inverting a thermal image (cold = bright)"),
    "augment.photometric": Key(_Weight, 1.0, "training", "strength of photometric augmentation; 0 disables it"),
    "augment.occlusion": Key(_Share, 0.2, "training", "probability that patches of the crop are covered"),
    "checkpoint_dir": Key(str, "", "training", "folder for checkpoints, such as gs://bucket/run; '' means the workdir"),
    "checkpoint_every": Key(_Count, 500, "selection", "steps between checkpoints"),
    "keep_best": Key(bool, False, "selection", "use the checkpoint that is best on the split val, not the last"),
    "accept_changes": Key(bool, False, "bookkeeping", "resume even if the code or the data have changed"),
    "log_every": Key(_Count, 20, "bookkeeping", "steps between logged metrics"),
    "max_skipped": Key(_Number, 10, "bookkeeping", "steps allowed to have a loss or gradient that is not finite"),
    "eval_batch_size": Key(_Count, 64, "bookkeeping", "examples per batch when scoring"),
    "quick_compile": Key(
        bool, False, "bookkeeping", "on a CPU: compile steps faster, for short trainings; some networks run slower"
    ),
    "loader_processes": Key(_Number, 0, "bookkeeping", "processes that load images for a fast device; 0: threads do"),
}
GROUPS = tuple(dict.fromkeys(name.split(".")[0] for name in SCHEMA if "." in name))
_ABLATION = ("grid", "ablation")  # further groups of an ablation's config, see `add_grid`


def base() -> ConfigDict:
    """Returns the default config. It is locked: setting a key that it lacks is an error, also in a config file."""
    tree: dict[str, Any] = {}
    for name, key in SCHEMA.items():
        *groups, last = name.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = dict(key.default) if key.type is dict else key.default
    config = ConfigDict(tree)
    config.lock()
    for name, key in SCHEMA.items():
        if key.type is dict:
            _value(config, name).unlock()
    return config


def flat(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a config by dotted name, as in `SCHEMA`; keyword arguments are one value, a dict."""
    values: dict[str, Any] = {}
    for name, value in config.items():
        value = value.to_dict() if isinstance(value, ConfigDict) else value
        if name in GROUPS and isinstance(value, Mapping):
            values |= {
                f"{name}.{key}": one.to_dict() if isinstance(one, ConfigDict) else one for key, one in value.items()
            }
        else:
            values[name] = value
    return values


def put(config: ConfigDict, name: str, value: Any) -> None:
    """Sets the key with a dotted name; a list, as read from JSON, becomes a tuple."""
    group, _, last = name.rpartition(".")
    place = config[group] if group else config
    with config.unlocked():
        place[last] = (
            ConfigDict(value) if isinstance(value, Mapping) else tuple(value) if isinstance(value, list) else value
        )


def check(config: ConfigDict) -> None:
    """Checks that a config has exactly the keys of `SCHEMA`, each with a value of its type.

    The order of `thermal_range` is checked too, because a mistake would otherwise appear only when images are read.

    Raises:
        InputError: a key or value is wrong; the message names the key, and the nearest known one.
    """
    values = {name: value for name, value in flat(config).items() if name not in _ABLATION}
    for name in values:
        if name not in SCHEMA:
            raise InputError(f"config.{name} is not a key of the config; {did_you_mean(name, SCHEMA)}")
    for name, key in SCHEMA.items():
        if name not in values:
            raise InputError(f"config.{name} is missing; start from mlcm_jax.config.base() and change single keys.")
        if not kinds.fits(values[name], key.type):
            such_as = "" if typing.get_origin(key.type) is Literal else f", such as {key.default!r}"
            raise InputError(f"config.{name}={values[name]!r} must be {kinds.name(key.type)}{such_as}.")
    limits = values["thermal_range"]
    if limits and not (len(limits) == 2 and limits[0] < limits[1]):
        raise InputError(f"config.thermal_range={limits!r} must be (), or two increasing numbers, such as (20, 40).")


def check_overrides(config: ConfigDict, words: Sequence[str]) -> None:
    """Raises InputError for an override from the command line, `--config.KEY=VALUE`, whose key does not exist."""
    values = flat(config)
    groups = [name for name, key in SCHEMA.items() if key.type is dict]
    known = [*SCHEMA, *(f"{name}.{argument}" for name in groups for argument in values[name])]
    for word in words:
        name = re.match(r"--(?:no)?config\.([\w.]*)", word)[1]
        if name in known:
            continue
        group = name.rpartition(".")[0]
        if group in groups:
            hint = did_you_mean(name, [one for one in known if one.startswith(f"{group}.")])
            raise InputError(
                f"{word}: set {name!r} in the config file; the command line only changes what is set: {hint}"
            )
        within = [one for one in known if difflib.get_close_matches(name, [one.rpartition(".")[2]], cutoff=0.8)]
        hint = f"did you mean {' or '.join(map(repr, within[:3]))}?" if within else did_you_mean(name, known)
        raise InputError(f"{word}: {name!r} is not a key of the config; {hint}")


def add_grid(config: ConfigDict, grid: Mapping[str, Mapping[str, Any]], **ablation: Any) -> ConfigDict:
    """Turns the config of a run into that of an ablation, in place, and returns it.

    Args:
        config: the config of a run, from which the rows differ.
        grid: row -> the keys that it overrides, as nested dicts.
        **ablation: `control` and, where they are not empty, `controls`, `shared` and `comparisons`, see
            `evaluation.ablation_rows.plan`.
    """
    empty = {"controls": {}, "shared": (), "comparisons": ()}
    with config.unlocked():
        config.grid = ConfigDict(grid)
        config.ablation = ConfigDict({"rows": tuple(grid), **empty, **ablation})
    return config


def shipped() -> Path:
    """Returns the folder of the shipped config files: beside the package in a clone, inside it in a wheel."""
    inside = Path(__file__).with_name("configs")
    return inside if inside.is_dir() else Path(__file__).parents[1] / "configs"


def find(path: str | os.PathLike) -> Path:
    """Finds a config file: the path as given, or else, for configs/NAME.py, the shipped file of that name.

    A message tells the user when the shipped file is used.

    Raises:
        InputError: neither exists; the message suggests the nearest name.
    """
    given = Path(path)
    if given.is_file():
        return given
    inside = shipped() / given.name
    if given.parts == ("configs", given.name) and inside.is_file():
        say(f"{path} does not exist in this folder; using the config that comes with the package, {inside}.")
        return inside
    known = [f"configs/{p.name}" for p in sorted(shipped().glob("*.py"))]
    raise InputError(f"There is no config file {path}; {did_you_mean(str(path), known)}")


def load(path: str | os.PathLike, variant: str = "", *, beside: str | os.PathLike | None = None) -> ConfigDict:
    """Loads the config that a file's `get_config(variant)` returns.

    Args:
        path: see `find`.
        variant: one of the file's variants, or "".
        beside: `__file__` of the calling config file, for a `path` relative to its folder.

    Raises:
        InputError: no such file or variant, or the file raises an error; the message names the line.
    """
    place = find(path) if beside is None else Path(beside).with_name(os.fspath(path))
    try:
        content = runpy.run_path(os.fspath(place))
        config = content["get_config"](variant) if "get_config" in content else None
        if not isinstance(config, ConfigDict):
            raise InputError(
                f"{place} needs a function get_config(variant) that returns a config, see configs/tiny.py."
            )
        return config
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == os.fspath(place)]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        where = f"{place}, line {line}," if line else f"{place}"
        raise InputError(f"{where} {_described(error)}") from error


def check_variant(variant: str, known: Sequence[str], file: str) -> None:
    """Raises InputError unless `variant` is "" or one of `known`; `file` is the config's `__file__`."""
    if variant and variant not in known:
        listed = " and ".join(filter(None, (", ".join(known[:-1]), *known[-1:]))) or "none"
        raise InputError(f"configs/{Path(file).name} has no variant {variant!r}; it has {listed}.")


def _value(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _described(error: Exception) -> str:
    """The error of a config file as a predicate, such as "raises ValueError: …"."""
    text = str(error.args[0]) if error.args else str(error)
    unknown = re.search(r'Key "(\w+)" does not exist', text)
    if unknown:
        parts = sorted({part for name in SCHEMA for part in name.split(".")})
        return f"sets {unknown[1]!r}, which is not a key of the config; {did_you_mean(unknown[1], parts)}"
    return f"raises {type(error).__name__}: {(text.splitlines() or [''])[0]}"
