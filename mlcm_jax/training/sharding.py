"""Meshes, partition rules, and global arrays: all that depends on the layout of the devices.

Programs are split by `jax.jit` with `NamedSharding`s (formerly pjit). A single device is a mesh of one, so callers need
not ask how many devices there are. A mesh has three axes, each of which may be 1:

data   the batch is split, and every device holds the whole state
fsdp   the batch is split, and so is every array of the state that is not small
model  layers are split between devices that see the same images (tensor parallelism)
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mlcm_jax.data.augment import CHANNELS
from mlcm_jax.errors import InputError

Rules = Sequence[tuple[str, PartitionSpec]]

AXES = ("data", "fsdp", "model")
_SHAPE = {"data": -1, "fsdp": 1, "model": 1, "slices": 1}
# Arrays with fewer elements stay whole under fsdp, because gathering them costs more than it saves.
SMALL = 2**14

# In a pair of layers, the first is split by its outputs and the second by its inputs, so that only their sum crosses
# devices (Megatron-LM, arXiv 1909.08053 §3). The pairs are attention and MLP of SwinV2, and the first two convolutions
# of a block of ResNet. The other networks are small enough to stay whole.
RULES: Rules = (
    (r"\['qkv'\]\['kernel'\]", PartitionSpec(None, "model")),
    (r"\['qkv'\]\['bias'\]", PartitionSpec("model")),
    (r"\['offset_heads'\]\['kernel'\]", PartitionSpec(None, "model")),
    (r"\['logit_scale'\]", PartitionSpec("model")),
    (r"\['proj'\]\['kernel'\]", PartitionSpec("model")),
    (r"\['blocks'\]\[\d+\]\['expand'\]\['kernel'\]", PartitionSpec(None, "model")),
    (r"\['blocks'\]\[\d+\]\['expand'\]\['bias'\]", PartitionSpec("model")),
    (r"\['blocks'\]\[\d+\]\['project'\]\['kernel'\]", PartitionSpec("model")),
    (r"\['convs'\]\[0\]\['conv'\]\['kernel'\]", PartitionSpec(None, None, None, "model")),
    (r"\['convs'\]\[0\]\['norm'\]", PartitionSpec("model")),
    (r"\['convs'\]\[1\]\['conv'\]\['kernel'\]", PartitionSpec(None, None, "model")),
)


def _sizes(shape: Mapping[str, int], count: int) -> tuple[list[int], int]:
    """Returns ([data, fsdp, model], slices), with -1 filled in, or raises InputError."""
    unknown = shape.keys() - _SHAPE.keys()
    if unknown:
        raise InputError(f"config.mesh.{min(unknown)} is not an axis; the axes are {', '.join(_SHAPE)}.")
    shape = _SHAPE | dict(shape)
    for name, size in shape.items():
        if size != int(size) or (size < 1 and (size != -1 or name == "slices")):
            raise InputError(f"config.mesh.{name}={size} must be a positive whole number{', or -1' * (name in AXES)}.")
    sizes, slices = [shape[name] for name in AXES], shape["slices"]
    if sizes.count(-1) > 1:
        raise InputError("config.mesh may have one -1 only, for the axis that takes the remaining devices.")
    given = math.prod(size for size in sizes if size != -1)
    if count % given or (-1 not in sizes and given != count):
        text = " × ".join(f"{name}={size}" for name, size in zip(AXES, sizes, strict=True))
        raise InputError(f"config.mesh {text} does not fit {count} devices; give sizes whose product is {count}.")
    sizes = [count // given if size == -1 else size for size in sizes]
    if sizes[0] % slices:
        raise InputError(f"config.mesh.slices={slices} must divide the axis data, which has {sizes[0]} devices.")
    return sizes, slices


def make_mesh(devices: Sequence[jax.Device] | None = None, *, shape: Mapping[str, int] | None = None) -> Mesh:
    """Makes a mesh with the axes `AXES`.

    Args:
        devices: the devices; by default, all devices of all processes.
        shape: sizes by axis, as in `config.mesh`; -1 takes the remaining devices, and an absent axis is 1 (`data`: -1).
            `slices` is the number of TPU slices (or hosts, if the platform has no slices) along `data`: the network
            between them is slow, so only gradients cross it.

    Raises:
        InputError: sizes or a number of slices that do not fit the devices.
    """
    devices = list(devices) if devices is not None else jax.devices()
    sizes, slices = _sizes(shape or {}, len(devices))
    found = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1 and found > 1 and devices[0].platform == "tpu":
        raise InputError(f"The devices belong to {found} TPU slices; set config.mesh.slices={found}.")
    if slices == 1:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    else:
        try:
            grid = mesh_utils.create_hybrid_device_mesh(
                [sizes[0] // slices, *sizes[1:]],
                [slices, 1, 1],
                devices,
                process_is_granule=found == 1,
                allow_split_physical_axes=True,
            )
        except ValueError as error:
            raise InputError(f"config.mesh.slices={slices} does not fit the devices: {error}.") from error
    # Explicit axes would raise errors for computations across examples, such as batch normalisation.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of batches: the leading axis is split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that are whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def partition_spec(
    name: str, shape: Sequence[int], mesh: Mesh, rules: Rules = RULES, *, small: float = SMALL
) -> PartitionSpec:
    """Chooses how one array is split.

    The first rule whose regular expression is found in `name` gives the axes. Axes missing from the mesh, or not
    dividing the dimension, are dropped. Then `fsdp` splits the largest free dimension that it divides, the last of
    equal ones.

    Args:
        name: the array's path as `jax.tree_util.keystr` writes it. The paths of averages and optimiser state end in
            those of their parameters, so they are split alike.
        shape: the array's shape.
        mesh: the mesh of the run.
        rules: (regular expression, PartitionSpec) pairs.
        small: arrays with fewer elements are not split by `fsdp`.
    """
    found = next((spec for pattern, spec in rules if re.search(pattern, name) and len(spec) <= len(shape)), ())
    axes = list(found) + [None] * (len(shape) - len(found))
    for i, axis in enumerate(axes):
        ways = math.prod(mesh.shape[a] for a in ((axis,) if isinstance(axis, str) else axis or ()))
        if ways == 1 or shape[i] % ways:
            axes[i] = None
    fsdp = mesh.shape["fsdp"]
    if fsdp > 1 and math.prod(shape) >= small and not any("fsdp" in (axis or ()) for axis in axes):
        free = [i for i, size in enumerate(shape) if axes[i] is None and size % fsdp == 0]
        if free:
            axes[max(free, key=lambda i: (shape[i], i))] = "fsdp"
    return PartitionSpec(*axes) if any(axes) else PartitionSpec()


def tree_shardings(tree: Any, mesh: Mesh, rules: Rules = RULES, *, small: float = SMALL) -> Any:
    """A NamedSharding for every leaf of `tree`, a pytree of arrays or shapes; see `partition_spec`."""

    def choose(path: tuple, leaf: Any) -> NamedSharding:
        spec = partition_spec(jax.tree_util.keystr(path), np.shape(leaf), mesh, rules, small=small)
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(choose, tree)


def gathered(tree: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """Gathers, inside jit, the arrays of `tree` that `fsdp` split; those that `model` split stay split.

    Weights are gathered before their use because XLA would otherwise gather the activations, which are far larger.
    """
    if mesh.shape["fsdp"] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, tree_shardings(tree, mesh, rules, small=math.inf))


def check_batch_size(batch_size: int, mesh: Mesh, key: str, *, accumulate: int = 1) -> None:
    """Raises InputError if `batch_size` does not split evenly over the mesh, `accumulate` times on each device.

    Args:
        batch_size: number of examples in the global batch.
        mesh: the devices.
        key: its name in the config, for the message.
        accumulate: number of micro-batches per step.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size < 1 or batch_size % (parts * accumulate):
        text = f"{parts}, over which the mesh splits a batch"
        if accumulate > 1:
            text = f"{parts * accumulate}: {parts} devices split a batch, in {accumulate} micro-batches each"
        raise InputError(f"{key}={batch_size} must be a positive multiple of {text}.")


def _rows(process: int, holders: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns `batch_rows` of a process; `holders`, int [blocks of the batch, model], is the process of each device."""
    blocks: dict[int, set[int]] = {}
    for block, row in enumerate(holders):
        for holder in row:
            blocks.setdefault(int(holder), set()).add(block)
    parts = {tuple(sorted(part)) for part in blocks.values()}
    if len({len(part) for part in parts}) != 1 or sum(map(len, parts)) != len(holders):
        raise InputError(
            "config.mesh.model spreads over hosts so that they share some images of a batch and not others; give a "
            "size that divides the number of devices of a host, or is a multiple of it."
        )
    rows = np.arange(batch_size).reshape(len(holders), -1)
    return rows[sorted(blocks[process])].ravel()


def batch_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns the rows of every batch that this process reads, int [rows], ascending; see `put_batch`.

    Processes along the axis `model` hold the same rows, so they read the same.

    Raises:
        InputError: a mesh whose processes hold partly the same rows.
    """
    processes = np.asarray([device.process_index for device in mesh.devices.flat])
    return _rows(jax.process_index(), processes.reshape(-1, mesh.shape["model"]), batch_size)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays, split over `data` and `fsdp`, of this process's rows of a batch (numpy, see `batch_rows`).

    The images `rgb` and `thermal`, if they are uint8, become float32 in [0, 1] on the devices.
    """
    sharding = batch_sharding(mesh)
    placed = {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}
    images = {key: placed[key] for key in CHANNELS if key in placed and placed[key].dtype == np.uint8}
    return placed | {key: _unit(value) for key, value in images.items()}


@jax.jit
def _unit(image: jax.Array) -> jax.Array:
    return image.astype(np.float32) / 255.0


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        # Random keys themselves cannot be sent to devices of other processes.
        return jax.random.wrap_key_data(jax.device_put(jax.random.key_data(leaf), sharding))
    return jax.device_put(leaf, sharding)


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """Puts all of `tree` on every device of the mesh."""
    return jax.tree.map(lambda leaf: _put(leaf, replicated(mesh)), tree)


def put_sharded(tree: Any, mesh: Mesh, rules: Rules = RULES, *, small: float = SMALL) -> Any:
    """Puts `tree` on the mesh, split by the rules; states and teachers are placed in this way."""
    return jax.tree.map(_put, tree, tree_shardings(tree, mesh, rules, small=small))


def on_host(tree: Any, mesh: Mesh) -> Any:
    """Returns `tree` as numpy arrays, whole in every process, however its arrays are split."""
    whole = jax.jit(lambda leaves: leaves, out_shardings=replicated(mesh))
    return jax.device_get(whole(tree))


def gather_processes(tree: Any) -> Any:
    """Concatenates numpy arrays [n, …], of the same shape in all processes, to [processes · n, …], bit by bit."""
    if jax.process_count() == 1:
        return tree

    def gather(array: np.ndarray) -> np.ndarray:
        array = np.ascontiguousarray(array)
        bits = array.reshape(len(array), -1).view(np.uint8)  # jax would convert 64 bits to 32
        return multihost_utils.process_allgather(bits, tiled=True).view(array.dtype).reshape(-1, *array.shape[1:])

    return jax.tree.map(gather, tree)
