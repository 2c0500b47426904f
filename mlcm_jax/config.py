"""The config of a run: its keys and defaults, and the files that set them.

A config file has `get_config(variant)`, starts from `base()` and states what is its own; it imports this module alone.
"""

import os
import runpy
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from mlcm_jax.errors import InputError, did_you_mean


def shipped() -> Path:
    """The folder of the config files that come with the package: beside it in a clone, inside it in a wheel."""
    inside = Path(__file__).with_name("configs")
    return inside if inside.is_dir() else Path(__file__).parents[1] / "configs"


def find(path: str | os.PathLike) -> Path:
    """A config file: as given, or the one of that name that comes with the package.

    Raises InputError, with the nearest name, where there is neither.
    """
    candidates = [Path(path), shipped() / Path(path).name]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        known = [f"configs/{p.name}" for p in sorted(shipped().glob("*.py"))]
        raise InputError(f"There is no config file {path}; {did_you_mean(path, known)}")
    return found


def load(path: str | os.PathLike, variant: str = "", *, beside: str | os.PathLike | None = None) -> ConfigDict:
    """The config that a file's `get_config(variant)` gives.

    Args:
      path: see `find`.
      variant: a name that the file knows, or "".
      beside: a file in whose folder `path` lies, for config files that build on one another.
    """
    place = find(path) if beside is None else Path(beside).with_name(os.fspath(path))
    return runpy.run_path(os.fspath(place))["get_config"](variant)


def check_variant(variant: str, known: Sequence[str], file: str) -> None:
    """Raises InputError unless `variant` is "" or one of `known`; `file` is the config's `__file__`."""
    if variant and variant not in known:
        there = " and ".join(filter(None, (", ".join(known[:-1]), *known[-1:]))) or "none"
        raise InputError(f"configs/{Path(file).name} has no variant {variant!r}; it has {there}.")


def base() -> ConfigDict:
    """All keys of a run, with defaults; a key that is not here is refused on the command line."""
    config = ConfigDict()
    config.seed = 0
    config.seeds = ()  # several: one run for each, and a table of mean ± std
    config.dataset = "synthetic_faces/tiny"
    config.more_datasets = ()  # mixed into the training
    config.dataset_weights = ()  # how often dataset and each of more_datasets is drawn from; () follows their sizes
    config.teacher_dataset = ""  # of the RGB teacher alone, such as a set without thermal images; "": as the others
    config.test_dataset = ""  # of the table; "": dataset
    config.test_split = "test"  # of that set: "full", "challenge", … where it has no "test"
    config.thermal_range = ()  # °C that become black and white where a set keeps temperatures; (): stretched one by one
    config.layout = "ibug68"
    config.normalizer = "box"  # of the reported NME: box, outer_eyes or pupils
    config.image_size = 64
    config.stages = ("teacher", "thermal_alone", "transfer", "light_alone", "compress")

    # Keyword arguments of models.create. The student of the transfer has the teacher's architecture.
    config.teacher = ConfigDict({"name": "resnet18", "width": 1.0, "head": "coordinates"})
    config.student = ConfigDict({"name": "resnet18", "width": 1.0, "head": "coordinates"})
    config.light = ConfigDict({"name": "mobilenet_v2", "width": 1.0, "head": "coordinates"})
    # "scratch", or "teacher": student and control both start from the trained teacher's weights.
    config.student_init = "scratch"
    # "teacher": the light network and its control start with those parameters of the teacher's head that fit.
    config.light_head_init = "scratch"
    config.modalities = ConfigDict({"teacher": "rgb", "student": "thermal"})  # student: and the light network
    config.pretrained = ConfigDict({"teacher": "", "student": "", "light": ""})  # files of ImageNet weights

    config.loss = ConfigDict(
        {
            "name": "l1",  # l1, l2, smooth_l1, wing (errors in per cent of the crop's side), star (for head aam)
            "options": ConfigDict(),
            "occluded_weight": 1.0,
        }
    )
    # L_task + λ(e)·(α·FI + β·RI + γ·FD + δ·LD + maps·MD)
    fixed = {"maps": 0.0, "decay": "linear", "reverse_target": "teacher"}
    config.transfer = ConfigDict({"alpha": 1.0, "beta": 1.0, "gamma": 0.0, "delta": 0.0} | fixed)
    config.compress = ConfigDict({"alpha": 0.0, "beta": 0.0, "gamma": 1.0, "delta": 1.0} | fixed)
    config.direct = ConfigDict({"alpha": 0.0, "beta": 0.0, "gamma": 1.0, "delta": 1.0} | fixed)  # RGB to light
    # KD-Loss; control: "", "shuffled" or "constant" errors of the teachers.
    config.kd = ConfigDict({"variant": "paper", "main_weight": 2.5, "tough": True, "tolerant": True, "control": ""})
    config.shape_variance = 0.95  # kept by the shape model of the tolerant teacher
    config.steps = ConfigDict({"teacher": 1000, "student": 1000, "light": 1000})
    config.train = ConfigDict(
        {
            "batch_size": 64,
            "lr": 1e-3,
            "head_lr": 0.0,  # of the heads; 0: as lr
            "schedule": "cosine",  # to 0; inverse_time: lr / (1 + decay_rate · step); constant
            "decay_rate": 0.0,  # of inverse_time alone
            "warmup": 0.05,  # share of the steps; 0: none
            "weight_decay": 1e-4,
            "clip": 1.0,  # global norm of the gradient; 0 leaves it alone
            "ema": 0.99,  # decay per step of the averaged network, which is what counts; 0: the last network itself
            "bf16": False,
            "accumulate": 1,  # micro-batches of a step, one after the other; batch norm sees each by itself
        }
    )
    # Devices by axis (see training/sharding.py); -1: those that are left. slices: TPU slices, or hosts, along data.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "model": 1, "slices": 1})
    config.augment = ConfigDict(
        {
            "expand": 1.25,  # side of the crop over the longer side of the box
            "jitter": 0.1,
            "rotation": 20.0,
            "scale": 0.1,
            "shift": 0.05,
            "flip": 0.5,
            "photometric": 1.0,
            "occlusion": 0.2,
        }
    )
    config.checkpoint_dir = ""  # "": in the work directory; else a folder of this run alone, such as gs://bucket/run
    config.checkpoint_every = 500
    config.keep_best = False  # score each checkpoint on the split val; the best is what counts, not the last
    config.accept_changes = False  # resume although the code or the data have changed since
    config.log_every = 20
    config.max_skipped = 10  # steps with a loss or gradient that is not finite; one more stops the run
    config.eval_batch_size = 64
    return config
