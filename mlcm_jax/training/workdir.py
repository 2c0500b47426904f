"""The work directory of a run: checks whether a run may use it, claims it, and loads and stores its stages.

W/config.json   the config of the run
W/layout/       a copy of the landmarks' layout, if it is the user's own
W/origin.json   the code and the data with which the run trains, and the date, versions and devices of its start
W/<stage>/      checkpoints/ (or below config.checkpoint_dir), metrics.jsonl, parameters.txt (shapes and shardings),
                skipped.json (steps that were not finite); model.safetensors and model.json of a finished stage
W/.lock         held by the process that trains
W/results.json  the scores; the plots lie beside it
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mlcm_jax import __version__, landmarks
from mlcm_jax import config as configs
from mlcm_jax.console import say
from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.files import read_json, read_text, write_json
from mlcm_jax.models import stored
from mlcm_jax.models.network import Network
from mlcm_jax.training import checkpoint, distributed, environment, sharding, stages

# Parts of the package that do not affect training; `configs` is inside the package in a wheel.
_AFTER_TRAINING = ("cli.py", "compiled.py", "configs", "demo", "evaluation", "export", "help_texts.py", "inference")
_COMMANDS = "_command.py"  # the flags of one command


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network, with what is needed to use it; `mean_shape` is float32 [K, 2] in u."""

    stage: str
    network: Network
    config: ConfigDict
    mean_shape: np.ndarray


def check_config(workdir: epath.PathLike, config: ConfigDict) -> None:
    """Checks that a work directory is new, or that the run in it has the same config. Nothing is written.

    Keys that decide only bookkeeping or scoring (`config.SCHEMA`) may differ; so may those that decide the selection of
    checkpoints, if neither config has `keep_best`.

    Raises:
        InputError: the configs differ; the message names the keys.
    """
    path = epath.Path(workdir) / "config.json"
    own = _own_layout(config)
    kept = _kept_layout(workdir, config)
    if own and kept.exists() and read_text(kept) != own:
        raise InputError(f"{config.layout} is not the layout that {workdir} was trained with ({kept}).")
    if not path.exists():
        return
    old = _read_config(path)
    old_values, new_values = (configs.flat(json.loads(one.to_json())) for one in (old, config))
    selects = old.keep_best or config.keep_best
    differing = [
        f"config.{name}: {old_values.get(name, 'absent')} there, {new_values.get(name, 'absent')} now"
        for name, key in configs.SCHEMA.items()
        if old_values.get(name) != new_values.get(name)
        and (key.decides == "training" or (key.decides == "selection" and selects))
    ]
    if differing:
        raise InputError(
            f"{workdir} holds a run of another config ({'; '.join(differing[:4])}); "
            "give another --workdir, or the config of that run."
        )


def check_origin(workdir: epath.PathLike, config: ConfigDict, data: Mapping[str, str]) -> None:
    """Checks that a run resumes with the code and the data it was started with. Nothing is written.

    Args:
        workdir: the run's work directory.
        config: the run's config; `accept_changes` allows a difference.
        data: name of a split -> fingerprint of its examples.

    Raises:
        InputError: code or data differ; the message names what does.
    """
    differing = _changes(workdir, data)
    if differing and not config.accept_changes:
        raise InputError(
            f"{workdir} was started with other code or data ({'; '.join(differing[:4])}); give another --workdir, or "
            "--config.accept_changes=True to resume anyway."
        )


def claim(workdir: epath.PathLike, config: ConfigDict, data: Mapping[str, str]) -> None:
    """Claims a work directory for a run: writes config.json, origin.json and a user's own layout.

    Call it after everything has been checked: a mistake must not leave a directory behind that then refuses the
    corrected config.

    Args:
        workdir: the run's work directory; created if it is missing.
        config: the run's config.
        data: see `check_origin`.

    Raises:
        InputError: see `check_config` and `check_origin`; or a folder that cannot be written.
    """
    check_config(workdir, config)
    check_origin(workdir, config, data)
    if not distributed.is_main():
        return
    folder, own, kept = epath.Path(workdir), _own_layout(config), _kept_layout(workdir, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if own:
            kept.parent.mkdir(exist_ok=True)
            temporary = kept.parent / (kept.name + ".new")
            temporary.write_text(own, encoding="utf-8")
            temporary.replace(kept)
        write_json(folder / "config.json", json.loads(config.to_json()))
        origin = folder / "origin.json"
        if not origin.exists() or _changes(workdir, data):
            old = read_origin(origin) if origin.exists() else {}
            before = [*old.pop("before", []), old] if old else []
            now = {"code": code_version(), "data": dict(data), "environment": environment.describe()}
            write_json(origin, now | ({"before": before} if before else {}))
    except OSError as error:
        raise _unwritable(workdir, error) from error


@contextlib.contextmanager
def alone(workdir: epath.PathLike) -> Iterator[None]:
    """Lets one run at a time write to a work directory; the system releases the lock of a process that dies.

    Folders that are not on a local file system, and file systems without locks, are not locked.

    Raises:
        InputError: another run is writing there, or the folder cannot be written.
    """
    folder = epath.Path(workdir)
    if not distributed.is_main() or "://" in os.fspath(folder):
        yield
        return
    with contextlib.ExitStack() as opened:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = opened.enter_context(open(folder / ".lock", "w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Another process is training in {workdir}; wait until it ends, or give another --workdir."
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
                raise _unwritable(workdir, error) from error
        yield


def _unwritable(workdir: epath.PathLike, error: OSError) -> InputError:
    return InputError(f"Cannot write to the work directory {workdir}: {error}; give another --workdir.")


@functools.cache
def code_version(root: pathlib.Path = pathlib.Path(__file__).parents[1]) -> str:
    """Returns the version of the package, and a digest of the source files that affect training."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.parts[0] not in _AFTER_TRAINING and not name.name.endswith(_COMMANDS):
            digest.update(name.as_posix().encode() + path.read_bytes())
    return f"{__version__} ({digest.hexdigest()[:12]})"


def load_config(workdir: epath.PathLike) -> ConfigDict:
    """Loads the config of a work directory; if the layout is a user's own, `layout` names the copy in the directory.

    Raises:
        InputError: not the work directory of a run, or a config that cannot be read.
    """
    folder = epath.Path(workdir)
    path = folder / "config.json"
    if not path.exists():
        raise stored.no_run(workdir)
    config = _read_config(path)
    for kept in (folder / "layout").glob("*"):
        config.layout = str(kept)
    return config


def checkpoint_folder(workdir: epath.PathLike, stage: str, config: ConfigDict) -> epath.Path:
    """Returns config.checkpoint_dir/<stage>, or else <workdir>/<stage>/checkpoints."""
    if config.checkpoint_dir:
        return epath.Path(config.checkpoint_dir) / stage
    return epath.Path(workdir) / stage / "checkpoints"


def bundle(network: Network, mean_shape: np.ndarray | jax.Array) -> dict[str, Any]:
    """Returns the arrays of the item `model` of a checkpoint."""
    return {"params": network.params, "stats": network.stats, "mean_shape": mean_shape}


def finished_stage(
    workdir: epath.PathLike, stage: str, config: ConfigDict, *, mesh: Mesh, say: Callable[[str], None] = say
) -> Trained | None:
    """Loads a stage whose last checkpoint is intact, see `load_stage`; returns None for any other stage."""
    directory = checkpoint_folder(workdir, stage, config)
    if not directory.exists():
        return None
    manager = checkpoint.open_manager(directory)
    latest = manager.latest_step()
    checkpoint.close(manager)
    if latest != config.steps[stages.STAGES[stage].model]:
        return None
    try:
        return load_stage(workdir, stage, mesh=mesh, say=say)
    except InputError:  # the last checkpoint is damaged: training continues from the one before it
        return None


def load_stage(workdir: epath.PathLike, stage: str, *, mesh: Mesh, say: Callable[[str], None] = say) -> Trained:
    """Loads the averaged network of a finished stage onto the devices of `mesh`.

    Args:
        workdir: the run's work directory.
        stage: the stage's name.
        mesh: the devices.
        say: called with a message about every checkpoint that cannot be used.

    Raises:
        InputError: an unknown stage, a stage that was not trained to its end, or unreadable checkpoints.
    """
    if stage not in stages.STAGES:
        raise InputError(f"There is no stage {stage!r}; {did_you_mean(stage, stages.STAGES)}")
    config = load_config(workdir)
    start = np.zeros((stages.layout(config).count, 2), np.float32)
    # The file of pretrained weights isn't needed again: the checkpoint holds what was trained from it.
    config.pretrained = dict.fromkeys(config.pretrained, "")
    network = stages.initial_network(stage, config, mean_shape=start)
    like = checkpoint.abstract(sharding.put_sharded(bundle(network, start), mesh))
    directory = checkpoint_folder(workdir, stage, config)
    found, reached = None, 0
    if directory.exists():
        manager = checkpoint.open_manager(directory, scored=config.keep_best)
        best = checkpoint.best_step(manager) if config.keep_best else None
        found = checkpoint.restore(manager, "model", like, first=best, say=say)
        if found is not None:
            reached = max(manager.all_steps()) if found[1] == best else found[1]
        checkpoint.close(manager)
    total = config.steps[stages.STAGES[stage].model]
    if found is None or reached < total:
        done = "was not trained" if found is None else f"has reached step {reached} of {total}"
        raise InputError(f"Stage {stage} of {workdir} {done}; run the training command again to finish it.")
    arrays = found[0]
    network = network.replace(params=arrays["params"], stats=arrays["stats"])
    return Trained(stage, network, config, np.asarray(arrays["mean_shape"]))


def store(workdir: epath.PathLike, trained: Trained, *, mesh: Mesh) -> None:
    """Writes model.safetensors and model.json of a finished stage, for `inference`.

    Existing files are replaced, because they may be damaged, or be those of an earlier training of the stage.
    """
    config, folder = trained.config, epath.Path(workdir) / trained.stage
    network = sharding.on_host(trained.network, mesh)
    if distributed.is_main():
        architecture = config[stages.STAGES[trained.stage].model].to_dict()
        reads = stages.modality(trained.stage, config)
        card = stored.Card(
            stage=trained.stage,
            architecture=architecture | ({"dtype": "bfloat16"} if config.train.bf16 else {}),
            layout=stages.layout(config),
            image_size=config.image_size,
            expand=config.augment.expand,
            modality=reads,
            thermal_range=tuple(config.thermal_range) if reads == "thermal" else (),
            gain=stages.gain(config),
        )
        stored.save(folder, network, card)
    distributed.wait_for_all(f"stored {trained.stage}")


def _read_config(path: epath.Path) -> ConfigDict:
    """Reads the config of a run; keys that are newer than the run get their defaults."""
    config = configs.base()
    try:
        values = configs.flat(read_json(path))
        for name in values.keys() & configs.SCHEMA.keys():
            configs.put(config, name, values[name])
        configs.check(config)
        if unknown := [name for name in config.stages if name not in stages.STAGES]:
            raise InputError(f"the stage {unknown[0]!r} is unknown; {did_you_mean(unknown[0], stages.STAGES)}")
    except (AttributeError, TypeError, InputError) as error:
        raise InputError(f"{path} cannot be read ({error}); restore it, or use another work directory.") from error
    return config


def read_origin(path: epath.Path) -> dict[str, Any]:
    """Reads origin.json; raises InputError for a damaged file."""
    try:
        content = read_json(path)
    except InputError as error:
        raise InputError(f"{error} Delete it to resume without comparing code and data.") from None
    fields = [content.get("data", {}), content.get("before", [])] if isinstance(content, dict) else []
    if [type(field) for field in fields] != [dict, list]:
        raise InputError(f"{path} holds no code and data; delete it to resume without comparing them.")
    return content


def _changes(workdir: epath.PathLike, data: Mapping[str, str]) -> list[str]:
    """Lists how code and data differ from those in origin.json; [] if there is no such file."""
    path = epath.Path(workdir) / "origin.json"
    if not path.exists():
        return []
    content = read_origin(path)
    old = {"code": content.get("code", "absent")} | {f"data.{k}": v for k, v in content.get("data", {}).items()}
    new = {"code": code_version()} | {f"data.{name}": digest for name, digest in data.items()}
    return [
        f"{name}: {old.get(name, 'absent')} there, {new.get(name, 'absent')} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _own_layout(config: ConfigDict) -> str:
    """Returns the text of config.layout, checked, if it is a user's own file; "" for a name."""
    if stages.layout(config).name in landmarks.LAYOUTS:
        return ""
    return read_text(config.layout)


def _kept_layout(workdir: epath.PathLike, config: ConfigDict) -> epath.Path:
    """Returns where a work directory keeps a user's own layout; the file keeps its name, which is the layout's."""
    return epath.Path(workdir) / "layout" / epath.Path(config.layout).name
