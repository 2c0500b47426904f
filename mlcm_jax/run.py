"""A work directory: its config, its stages' checkpoints, and how to open what it holds.

W/config.json   the config of the run
W/layout/       a copy of the landmarks' layout, where it is the user's own
W/<stage>/      checkpoints/, metrics.jsonl
W/results.json  and the pictures
"""

import dataclasses
import json
import os
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mlcm_jax import checkpoint, landmarks, sharding, stages
from mlcm_jax import state as states
from mlcm_jax.errors import InputError

# Keys that change how a run is kept, not what it computes: they may differ when it resumes.
_BOOKKEEPING = ("stages", "checkpoint_every", "log_every", "eval_batch_size")
_BOOKKEEPING += ("normalizer", "test_dataset", "test_split")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network with what is needed to use it. `mean_shape` is float32 [K, 2] in u."""

    stage: str
    network: states.Network
    config: ConfigDict
    mean_shape: np.ndarray


def default_data_dir() -> str:
    """$MLCM_DATA_DIR, or a folder in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("MLCM_DATA_DIR") or os.path.join(cache, "mlcm_jax")


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if own:
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(own)
        temporary = path.parent / "config.json.new"
        temporary.write_text(json.dumps(new, indent=2) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"Cannot write to the work directory {workdir}: {error}; give another --workdir.") from error


def _own_layout(config: ConfigDict) -> str:
    """The text of config.layout where that is a user's own file, checked; "" for a name."""
    if stages.layout(config).name in landmarks.LAYOUTS:
        return ""
    return epath.Path(config.layout).read_text(encoding="utf-8")


def _read_config(path: epath.Path) -> ConfigDict:
    try:
        return ConfigDict(json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
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


def stage_manager(workdir: epath.PathLike, stage: str):
    """The checkpoint manager of a stage."""
    return checkpoint.open_manager(epath.Path(workdir) / stage / "checkpoints")


def bundle(network: states.Network, mean_shape: np.ndarray | jax.Array) -> dict[str, Any]:
    """The arrays that the item `model` of a checkpoint holds."""
    return {"params": network.params, "stats": network.stats, "mean_shape": mean_shape}


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
    network = stages.initial_network(stage, config, num_landmarks=count, mean_shape=start)
    like = checkpoint.abstract(sharding.put_replicated(bundle(network, start), mesh))
    directory = epath.Path(workdir) / stage / "checkpoints"
    found = None
    if directory.exists():
        manager = checkpoint.open_manager(directory)
        found = checkpoint.restore(manager, "model", like, say=say)
        checkpoint.close(manager)
    total = config.steps[stages.STAGES[stage].model]
    if found is None or found[1] < total:
        done = "was not trained" if found is None else f"has reached step {found[1]} of {total}"
        raise InputError(f"Stage {stage} of {workdir} {done}; run the training command again to finish it.")
    arrays = found[0]
    network = network.replace(params=arrays["params"], stats=arrays["stats"])
    return Trained(stage, network, config, np.asarray(arrays["mean_shape"]))
