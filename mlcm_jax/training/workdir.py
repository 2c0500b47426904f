"""A work directory: its config, its stages' checkpoints, and how to open what it holds.

W/config.json   the config of the run
W/layout/       a copy of the landmarks' layout, where it is the user's own
W/origin.json   the code and the data that it trains with
W/<stage>/      checkpoints/ (or below config.checkpoint_dir), metrics.jsonl; skipped.json of steps that were not finite
W/results.json  and the images
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mlcm_jax import __version__, landmarks
from mlcm_jax.config import base
from mlcm_jax.errors import InputError
from mlcm_jax.files import write_json
from mlcm_jax.training import checkpoint, distributed, sharding, stages
from mlcm_jax.training import state as states

# Keys that change how a run is kept, not what it computes: they may differ when it resumes.
_BOOKKEEPING = ("mesh", "stages", "checkpoint_every", "log_every", "max_skipped", "eval_batch_size", "accept_changes")
_BOOKKEEPING += ("normalizer", "test_dataset", "test_split")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network with what is needed to use it. `mean_shape` is float32 [K, 2] in u."""

    stage: str
    network: states.Network
    config: ConfigDict
    mean_shape: np.ndarray


def _flat(tree: dict[str, Any], prefix: str = "config") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}"
        flat |= _flat(value, name) if isinstance(value, dict) and value else {name: value}
    return flat


def claim(workdir: epath.PathLike, config: ConfigDict) -> None:
    """Makes the work directory, or makes sure that the one that is there is of this very config.

    Raises:
      InputError: naming the keys that differ, or why the folder cannot be used.
    """
    path = epath.Path(workdir) / "config.json"
    new = json.loads(config.to_json())
    if path.exists():
        old = json.loads(_read_config(path).to_json())
        flat_old, flat_new = _flat(old), _flat(new)
        differing = [
            f"{key}: {flat_old.get(key, 'absent')} there, {flat_new.get(key, 'absent')} now"
            for key in sorted(flat_old.keys() | flat_new.keys())
            if flat_old.get(key) != flat_new.get(key) and key.split(".")[1] not in _BOOKKEEPING
        ]
        if differing:
            raise InputError(
                f"{workdir} holds a run of another config ({'; '.join(differing[:4])}); "
                "give another --workdir, or the config of that run."
            )
    own = _own_layout(config)
    kept = path.parent / "layout" / epath.Path(config.layout).name  # the name of the file is that of the layout
    if own and kept.exists() and kept.read_text() != own:
        raise InputError(f"{config.layout} is not the layout that {workdir} was trained with ({kept}).")
    if not distributed.is_main():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if own:
            kept.parent.mkdir(exist_ok=True)
            temporary = kept.parent / (kept.name + ".new")
            temporary.write_text(own)
            temporary.replace(kept)
        write_json(path, new)
    except OSError as error:
        raise InputError(f"Cannot write to the work directory {workdir}: {error}; give another --workdir.") from error


@functools.cache
def code_version(root: pathlib.Path = pathlib.Path(__file__).parent) -> str:
    """The version of the package, and a digest of its source: of all that is not a bench."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if "bench" not in path.relative_to(root).parts:
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{__version__} ({digest.hexdigest()[:12]})"


def check_origin(workdir: epath.PathLike, config: ConfigDict, data: dict[str, str]) -> None:
    """Notes in origin.json with which code and data a run trains, or makes sure that they are still the same.

    Args:
      workdir: of the run, claimed.
      config: of the run; with `accept_changes` a difference is noted and passed.
      data: split of a dataset -> its fingerprint.

    Raises:
      InputError: naming what differs.
    """
    path = epath.Path(workdir) / "origin.json"
    new = {"code": code_version(), "data": data}
    old = _read_json(path) if path.exists() else {}
    flat_old, flat_new = (_flat({k: v for k, v in o.items() if k != "before"}, "") for o in (old, new))
    differing = [
        f"{key.removeprefix('.')}: {flat_old.get(key, 'absent')} there, {flat_new.get(key, 'absent')} now"
        for key in sorted(flat_old.keys() | flat_new.keys())
        if flat_old.get(key) != flat_new.get(key)
    ]
    if old and differing and not config.accept_changes:
        raise InputError(
            f"{workdir} was begun with other code or data ({'; '.join(differing[:4])}); give another --workdir, or "
            "--config.accept_changes=True to go on all the same."
        )
    if differing and distributed.is_main():
        before = [*old.pop("before", []), old] if old else []
        write_json(path, new | ({"before": before} if before else {}))


def _own_layout(config: ConfigDict) -> str:
    """The text of config.layout where that is a user's own file, checked; "" for a name."""
    if stages.layout(config).name in landmarks.LAYOUTS:
        return ""
    return epath.Path(config.layout).read_text(encoding="utf-8")


def _read_config(path: epath.Path) -> ConfigDict:
    """The config of a run; keys that are newer than the run get their defaults."""
    content = _read_json(path)
    for key, value in json.loads(base().to_json()).items():
        known = content.setdefault(key, value)
        if isinstance(value, dict) and key not in ("teacher", "student", "light"):  # what a model may be given
            content[key] = value | known
    return ConfigDict(content)


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); restore it, or use another work directory.") from error


def load_config(workdir: epath.PathLike) -> ConfigDict:
    """The config of a work directory; `layout` names the copy that it keeps of a user's own.

    Raises InputError if it is not one, or its config cannot be read.
    """
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        seeds = sorted(p.parent.name for p in epath.Path(workdir).glob("seed_*/config.json"))
        hint = (
            f"it holds one run a seed; name one, such as {epath.Path(workdir) / seeds[0]}"
            if seeds
            else ("train one with `mlcm train --config=configs/tiny.py --workdir=" + str(workdir) + "`")
        )
        raise InputError(f"{workdir} is not the work directory of a run (no config.json in it); {hint}.")
    config = _read_config(path)
    for kept in (path.parent / "layout").glob("*"):
        config.layout = str(kept)
    return config


def checkpoint_folder(workdir: epath.PathLike, stage: str, config: ConfigDict) -> epath.Path:
    """Where the checkpoints of a stage are."""
    if config.checkpoint_dir:
        return epath.Path(config.checkpoint_dir) / stage
    return epath.Path(workdir) / stage / "checkpoints"


def bundle(network: states.Network, mean_shape: np.ndarray | jax.Array) -> dict[str, Any]:
    """The arrays that the item `model` of a checkpoint holds."""
    return {"params": network.params, "stats": network.stats, "mean_shape": mean_shape}


def finished_stage(workdir: epath.PathLike, stage: str, config: ConfigDict, *, mesh: Mesh, say=print) -> Trained | None:
    """`load_stage` of a stage whose last checkpoint is whole; None for any other. Resuming is not needed then."""
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
    except InputError:  # the last one is damaged: training goes on from the one before
        return None


def load_stage(workdir: epath.PathLike, stage: str, *, mesh: Mesh, say=print) -> Trained:
    """The averaged network of a finished stage, on every device of `mesh`.

    Raises:
      InputError: unknown stage, a stage that was not trained to its end, or unreadable checkpoints.
    """
    if stage not in stages.STAGES:
        raise InputError(f"There is no stage {stage!r}; the stages are {', '.join(stages.STAGES)}.")
    config = load_config(workdir)
    count = stages.layout(config).count
    start = np.zeros((count, 2), np.float32)
    # The file of pretrained weights is not needed again: what was trained from it is in the checkpoint.
    config.pretrained = dict.fromkeys(config.pretrained, "")
    network = stages.initial_network(stage, config, mean_shape=start)
    like = checkpoint.abstract(sharding.put_sharded(bundle(network, start), mesh))
    directory = checkpoint_folder(workdir, stage, config)
    found = None
    if directory.exists():
        manager = checkpoint.open_manager(directory)
        best = checkpoint.best_step(manager) if config.keep_best else None
        found = checkpoint.restore(manager, "model", like, first=best, say=say)
        reached = max(manager.all_steps(), default=0) if found and found[1] == best else found and found[1]
        checkpoint.close(manager)
    total = config.steps[stages.STAGES[stage].model]
    if found is None or reached < total:
        done = "was not trained" if found is None else f"has reached step {reached} of {total}"
        raise InputError(f"Stage {stage} of {workdir} {done}; run the training command again to finish it.")
    arrays = found[0]
    network = network.replace(params=arrays["params"], stats=arrays["stats"])
    return Trained(stage, network, config, np.asarray(arrays["mean_shape"]))
