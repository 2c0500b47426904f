"""Mesh, shardings of a pytree, and global arrays: the only place that knows how devices are laid out.

What was called pjit is `jax.jit` with `NamedSharding`s today; one device is a mesh of one, so nothing above this file
asks how many devices there are.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mlcm_jax.errors import InputError

Rules = Sequence[tuple[str, PartitionSpec]]


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-axis mesh, `data`, over `devices` (default: all of them)."""
    devices = list(devices) if devices is not None else jax.devices()
    # Auto axes: Explicit ones raise on losses that cross samples, and BatchNorm crosses samples.
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis split over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def tree_shardings(tree: Any, mesh: Mesh, rules: Rules = ()) -> Any:
    """A NamedSharding for every leaf of `tree`.

    Args:
      tree: any pytree of arrays or shapes.
      mesh: the mesh of the run.
      rules: (regular expression, PartitionSpec) pairs; the first whose expression is found in the leaf's path, as
        `jax.tree_util.keystr` writes it, wins. A leaf that no rule matches is replicated.
    """

    def choose(path, _):
        name = jax.tree_util.keystr(path)
        spec = next((spec for pattern, spec in rules if re.search(pattern, name)), PartitionSpec())
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(choose, tree)


def check_batch_size(batch_size: int, mesh: Mesh, key: str) -> None:
    """Raises InputError when `batch_size` does not split evenly over the mesh; `key` names the config entry."""
    if batch_size < 1 or batch_size % mesh.size:
        raise InputError(f"{key}={batch_size} must be a positive multiple of the number of devices, {mesh.size}.")


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch (numpy, leading axis B / processes) as global arrays split over `data`."""
    sharding = batch_sharding(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """`tree` on every device of the mesh."""
    return jax.device_put(tree, replicated(mesh))
