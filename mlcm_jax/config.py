"""The config of a run: every key with its type, its default and what it decides, and the files that set keys.

A config file has `get_config(variant)`. It starts from `base()`, sets what is its own, and imports nothing but this
module. `SCHEMA` is the one table of keys: `base`, the check of configs, resuming, ablations and `mlcm train --help` all
read it.
"""

import os
import re
import runpy
import traceback
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ml_collections import ConfigDict

from mlcm_jax.console import say
from mlcm_jax.errors import InputError, did_you_mean

Decides = Literal["training", "selection", "scoring", "bookkeeping"]


class Key(NamedTuple):
    """A key of the config.

    Attributes:
        type: of its value; `dict` for a group whose keys are arguments of a function, and so are not listed here.
        default: its value in `base()`.
        decides: "training" changes the networks; "selection" changes which saved network counts, if `keep_best` is on;
            "scoring" changes how finished networks are scored; "bookkeeping" changes none of these.
        comment: what it means.
        of: the models, distillations or properties of stages that read it (`training.stages.reads`); () means all.
    """

    type: Any
    default: Any
    decides: Decides
    comment: str
    of: tuple[str, ...] = ()


_SETS = tuple[str, ...]
_NUMBERS = tuple[float, ...]
_NETWORK = {"name": "resnet18", "width": 1.0, "head": "coordinates"}


def _distillation(of: str, what: str, **weights: float) -> dict[str, Key]:
    """The keys of one teacher's distillation: L_task + λ(e)·(α·FI + β·RI + γ·FD + δ·LD + maps·MD)."""
    comments = {
        "alpha": f"{what}: weight of forward injection (FI)",
        "beta": "weight of reverse injection (RI)",
        "gamma": "weight of feature distillation (FD)",
        "delta": "weight of logit distillation (LD)",
        "maps": "weight of heatmap distillation (MD)",
    }
    keys = {
        f"{of}.{name}": Key(float, weights.get(name, 0.0), "training", text, (of,)) for name, text in comments.items()
    }
    decay = Key(str, "linear", "training", "how λ falls: linear, cosine, exponential or none", (of,))
    target = Key(str, "teacher", "training", "what RI is compared with: teacher or truth", (of,))
    return keys | {f"{of}.decay": decay, f"{of}.reverse_target": target}


SCHEMA: dict[str, Key] = {
    "seed": Key(int, 0, "training", "seed of parameters, order of examples, augmentation and dropout"),
    "seeds": Key(tuple[int, ...], (), "bookkeeping", "several seeds: one run for each, and a table of mean ± std"),
    "dataset": Key(str, "synthetic_faces/tiny", "training", "dataset to train and, without test_dataset, to test on"),
    "more_datasets": Key(_SETS, (), "training", "further datasets mixed into the training"),
    "dataset_weights": Key(_NUMBERS, (), "training", "how often each is drawn from; () goes by their sizes"),
    "teacher_dataset": Key(str, "", "training", "dataset of the RGB teacher alone; '' as the others", ("teacher",)),
    "test_dataset": Key(str, "", "scoring", "dataset to test on; '' is `dataset`"),
    "test_split": Key(str, "test", "scoring", "split to test on, such as full or challenge"),
    "thermal_range": Key(_NUMBERS, (), "training", "(low, high) in °C mapped to 0 and 255; () for auto-gain images"),
    "layout": Key(str, "ibug68", "training", "landmarks of the networks: a layout's name, or a YAML file"),
    "normalizer": Key(str, "box", "selection", "normaliser of the NME: box, outer_eyes or pupils"),
    "image_size": Key(int, 64, "training", "side of the crops in pixels"),
    "stages": Key(
        _SETS,
        ("teacher", "thermal_alone", "transfer", "light_alone", "compress"),
        "bookkeeping",
        "stages to train, in any order",
    ),
    "teacher": Key(dict, _NETWORK, "training", "arguments of models.create for the teacher", ("teacher",)),
    "student": Key(dict, _NETWORK, "training", "the same for the thermal student", ("student",)),
    "light": Key(
        dict, _NETWORK | {"name": "mobilenet_v2"}, "training", "the same for the lightweight student", ("light",)
    ),
    "student_init": Key(str, "scratch", "training", "scratch, or teacher: start from its weights", ("student",)),
    "light_head_init": Key(
        str, "scratch", "training", "scratch, or teacher: start from those of its head that fit", ("light",)
    ),
    "modalities.teacher": Key(str, "rgb", "training", "what the teacher reads: rgb or thermal", ("teacher",)),
    "modalities.student": Key(str, "thermal", "training", "what both students read", ("student", "light")),
    "pretrained.teacher": Key(str, "", "training", "file of ImageNet weights for the teacher", ("teacher",)),
    "pretrained.student": Key(str, "", "training", "for the thermal student", ("student",)),
    "pretrained.light": Key(str, "", "training", "for the lightweight student", ("light",)),
    "loss.name": Key(str, "l1", "training", "l1, l2, smooth_l1, wing (in per cent of the crop), or star (head aam)"),
    "loss.options": Key(dict, {}, "training", "arguments of the loss"),
    "loss.occluded_weight": Key(float, 1.0, "training", "weight of landmarks that are not visible"),
    **_distillation("transfer", "RGB teacher to thermal student", alpha=1.0, beta=1.0),
    **_distillation("compress", "thermal student to lightweight student", gamma=1.0, delta=1.0),
    **_distillation("direct", "RGB teacher to lightweight student", gamma=1.0, delta=1.0),
    "kd.variant": Key(str, "paper", "training", "KD-Loss as printed (paper) or as in the code (released)", ("kd",)),
    "kd.main_weight": Key(float, 2.5, "training", "weight of its main term", ("kd",)),
    "kd.tough": Key(bool, True, "training", "use the tough teacher", ("kd",)),
    "kd.tolerant": Key(bool, True, "training", "use the tolerant teacher", ("kd",)),
    "kd.control": Key(str, "", "training", "shuffled or constant errors in place of the teachers'", ("kd",)),
    "shape_variance": Key(float, 0.95, "training", "share kept by the tolerant teacher's shape model", ("soft",)),
    "steps.teacher": Key(int, 1000, "training", "steps of each stage of the teacher", ("teacher",)),
    "steps.student": Key(int, 1000, "training", "of the thermal student", ("student",)),
    "steps.light": Key(int, 1000, "training", "of the lightweight student", ("light",)),
    "train.batch_size": Key(int, 64, "training", "examples of a step, over all devices"),
    "train.lr": Key(float, 1e-3, "training", "learning rate at its highest"),
    "train.head_lr": Key(float, 0.0, "training", "learning rate of the heads; 0 as lr"),
    "train.schedule": Key(str, "cosine", "training", "cosine to 0, inverse_time or constant"),
    "train.decay_rate": Key(float, 0.0, "training", "of inverse_time: lr / (1 + decay_rate · step)"),
    "train.warmup": Key(float, 0.05, "training", "share of the steps in which the rate rises from 0"),
    "train.weight_decay": Key(float, 1e-4, "training", "of AdamW; only kernels decay"),
    "train.clip": Key(float, 1.0, "training", "largest global norm of the gradient; 0 does not clip"),
    "train.ema": Key(float, 0.99, "training", "decay per step of the averaged network, which is what counts; 0: none"),
    "train.bf16": Key(bool, False, "training", "compute in bfloat16"),
    "train.accumulate": Key(int, 1, "training", "micro-batches of a step; batch norm sees each by itself"),
    "mesh.data": Key(int, -1, "bookkeeping", "devices that split the batch; -1 takes what is left"),
    "mesh.fsdp": Key(int, 1, "bookkeeping", "devices that split the batch and the state"),
    "mesh.model": Key(int, 1, "bookkeeping", "devices that split layers"),
    "mesh.slices": Key(int, 1, "bookkeeping", "TPU slices, or hosts, along data"),
    "augment.expand": Key(float, 1.25, "training", "side of the crop over the longer side of the box"),
    "augment.jitter": Key(float, 0.1, "training", "how far each side of the box moves, over its length"),
    "augment.rotation": Key(float, 20.0, "training", "largest rotation in degrees"),
    "augment.scale": Key(float, 0.1, "training", "0.1 scales by 1/1.1 to 1.1"),
    "augment.shift": Key(float, 0.05, "training", "largest shift, over the side of the crop"),
    "augment.flip": Key(float, 0.5, "training", "probability of a mirror image"),
    "augment.photometric": Key(float, 1.0, "training", "strength of photometric augmentation; 0 is none"),
    "augment.occlusion": Key(float, 0.2, "training", "probability of covered patches"),
    "checkpoint_dir": Key(str, "", "training", "folder for checkpoints, such as gs://bucket/run; '' is the workdir"),
    "checkpoint_every": Key(int, 500, "selection", "steps between checkpoints"),
    "keep_best": Key(bool, False, "selection", "the checkpoint that is best on the split val counts, not the last"),
    "accept_changes": Key(bool, False, "bookkeeping", "resume although the code or the data have changed"),
    "log_every": Key(int, 20, "bookkeeping", "steps between records of metrics"),
    "max_skipped": Key(int, 10, "bookkeeping", "steps that may have a loss or gradient that is not finite"),
    "eval_batch_size": Key(int, 64, "bookkeeping", "examples of a batch when scoring"),
}
GROUPS = tuple(dict.fromkeys(name.split(".")[0] for name in SCHEMA if "." in name))
_ABLATION = ("grid", "ablation")  # further groups of an ablation's config, see `add_grid`


def base() -> ConfigDict:
    """The default config. It is locked: to set a key that it does not have is an error, in a config file too."""
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
    """The values of a config by dotted name, as in `SCHEMA`; a group of arguments is one value, as a dict."""
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
    """Sets the key with a dotted name; a list, as JSON has it, becomes a tuple."""
    group, _, last = name.rpartition(".")
    place = config[group] if group else config
    with config.unlocked():
        place[last] = (
            ConfigDict(value) if isinstance(value, Mapping) else tuple(value) if isinstance(value, list) else value
        )


def check(config: ConfigDict) -> None:
    """Makes sure that a config has every key of `SCHEMA` and no other, each with a value of its type.

    The limits of `thermal_range` are checked too, as images are converted only when they are read.

    Raises:
        InputError: naming the key, with the nearest one that exists.
    """
    values = {name: value for name, value in flat(config).items() if name not in _ABLATION}
    for name in values:
        if name not in SCHEMA:
            raise InputError(f"config.{name} is not a key of the config; {did_you_mean(name, SCHEMA)}")
    for name, key in SCHEMA.items():
        if name not in values:
            raise InputError(f"config.{name} is missing; start from mlcm_jax.config.base(), and set single keys.")
        if not _fits(values[name], key.type):
            raise InputError(f"config.{name}={values[name]!r} must be {_type_name(key.type)}, as in {key.default!r}.")
    limits = values["thermal_range"]
    if limits and not (len(limits) == 2 and limits[0] < limits[1]):
        raise InputError(f"config.thermal_range={limits!r} must be (), or two numbers that rise, such as (20, 40).")


def check_overrides(config: ConfigDict, words: Sequence[str]) -> None:
    """Raises InputError for a word of the command line, `--config.KEY=VALUE`, whose key the config lacks."""
    values = flat(config)
    groups = [name for name, key in SCHEMA.items() if key.type is dict]
    known = [*SCHEMA, *(f"{name}.{argument}" for name in groups for argument in values[name])]
    for word in words:
        name = re.match(r"--(?:no)?config\.([\w.]*)", word)[1]
        if name not in known:
            raise InputError(f"{word}: {name!r} is not a key of the config; {did_you_mean(name, known)}")


def add_grid(config: ConfigDict, grid: Mapping[str, Mapping[str, Any]], **ablation: Any) -> ConfigDict:
    """Makes the config of an ablation of the config of a run, in place, and returns it.

    Args:
        config: of the run that the rows change.
        grid: row -> the keys that it overrides, as nested dicts.
        **ablation: `control`, `controls`, `shared` and `comparisons`, see `evaluation.ablation_rows.plan`.
    """
    with config.unlocked():
        config.grid = ConfigDict(grid)
        config.ablation = ConfigDict({"rows": tuple(grid), **ablation})
    return config


def shipped() -> Path:
    """The folder of the config files that come with the package: beside it in a clone, inside it in a wheel."""
    inside = Path(__file__).with_name("configs")
    return inside if inside.is_dir() else Path(__file__).parents[1] / "configs"


def find(path: str | os.PathLike) -> Path:
    """A config file: as given, or, for configs/NAME.py, the one that comes with the package, which the user is told.

    Raises:
        InputError: neither exists; the message has the nearest name.
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
    """The config that a file's `get_config(variant)` returns.

    Args:
        path: see `find`.
        variant: a name that the file knows, or "".
        beside: `__file__` of a config file that builds on another one in its folder, `path`.

    Raises:
        InputError: no such file or variant, or a file that raises; the message has its line.
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
    except Exception as error:
        lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == os.fspath(place)]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        where = f"{place}, line {line}," if line else f"{place}"
        raise InputError(f"{where} {_told(error)}") from error


def check_variant(variant: str, known: Sequence[str], file: str) -> None:
    """Raises InputError unless `variant` is "" or one of `known`; `file` is the config's `__file__`."""
    if variant and variant not in known:
        there = " and ".join(filter(None, (", ".join(known[:-1]), *known[-1:]))) or "none"
        raise InputError(f"configs/{Path(file).name} has no variant {variant!r}; it has {there}.")


def _value(config: ConfigDict, name: str) -> Any:
    """The value at a dotted name."""
    for part in name.split("."):
        config = config[part]
    return config


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type of `SCHEMA`; a whole number passes for a float, and a list for a tuple."""
    if kind is dict:
        return isinstance(value, Mapping)
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple | list) and all(_fits(one, typing.get_args(kind)[0]) for one in value)
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _type_name(kind: Any) -> str:
    """Int -> "an int", tuple[str, ...] -> "a tuple of str"."""
    if isinstance(kind, types.GenericAlias):
        return f"a tuple of {typing.get_args(kind)[0].__name__}"
    return ("an " if kind is int else "a ") + kind.__name__


def _told(error: Exception) -> str:
    """What a config file did wrong, in half a sentence."""
    text = str(error.args[0]) if error.args else str(error)
    unknown = re.search(r'Key "(\w+)" does not exist', text)
    if unknown:
        parts = sorted({part for name in SCHEMA for part in name.split(".")})
        return f"sets {unknown[1]!r}, which is not a key of the config; {did_you_mean(unknown[1], parts)}"
    return f"raises {type(error).__name__}: {(text.splitlines() or [''])[0]}"
