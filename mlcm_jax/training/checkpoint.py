"""Saves and restores checkpoints of a stage with orbax, which no other file imports.

A checkpoint holds three items: `state` (for resuming), `model` (the averaged network alone, for evaluation and
prediction) and `meta` (JSON with a checksum of every array). One that fails to load or whose checksums differ is never
used: a message says so, and the last intact one before it is used instead.
"""

import errno
import functools
import gc
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from mlcm_jax.errors import InputError
from mlcm_jax.training import quick

Manager = ocp.CheckpointManager


def _checksums(leaves: list[jax.Array]) -> list[jax.Array]:
    """One uint32 per array: Σ odd weight × word, modulo 2³². Sums of integers are the same under every sharding."""

    def one(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint8)
        words = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
        words = words.ravel().astype(jnp.uint32)
        return jnp.sum(words * (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)

    return [one(leaf) for leaf in leaves]


@functools.cache
def _checksums_on(sharding: jax.sharding.Sharding | None) -> Callable:
    """`_checksums`, compiled so that every process can read the results."""
    return jax.jit(_checksums, out_shardings=sharding, compiler_options=quick.options())


def checksums(tree: Any) -> dict[str, int]:
    """The checksum of every array, by its path in `tree`."""
    paths, leaves = zip(*jax.tree_util.tree_flatten_with_path(tree)[0], strict=True)
    placed = [getattr(leaf, "sharding", None) for leaf in leaves]
    meshes = {one.mesh for one in placed if isinstance(one, jax.sharding.NamedSharding)}
    whole = jax.sharding.NamedSharding(meshes.pop(), jax.sharding.PartitionSpec()) if len(meshes) == 1 else None
    values = jax.device_get(_checksums_on(whole)(list(leaves)))
    return {jax.tree_util.keystr(path): int(value) for path, value in zip(paths, values, strict=True)}


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, without its own check for preemption and without errors from damaged metrics."""

    def reached_preemption(self, step: int) -> bool:
        return False  # the loop asks JAX's preemption service, which counts calls: more would confuse it

    def metrics(self, step: int) -> dict[str, float] | None:
        try:
            return super().metrics(step)
        except ValueError:  # a damaged file: this step cannot be the best
            return None


def _error(metrics: dict[str, float]) -> float:
    return metrics["error"]


def open_manager(directory: epath.PathLike, *, keep: int = 2, scored: bool = False) -> Manager:
    """Opens a manager of the numbered checkpoints in `directory`; close it with `close`.

    Args:
        directory: a folder on any file system that all processes see and that orbax can write to.
        keep: how many of the last checkpoints are kept.
        scored: whether errors are saved with them; the one with the lowest error is then kept as well.

    Raises:
        InputError: the folder cannot be created or written to.
    """
    policies = ocp.checkpoint_managers
    options = ocp.CheckpointManagerOptions(preservation_policy=policies.LatestN(keep))
    if scored:
        best = policies.BestN(get_metric_fn=_error, reverse=True, n=1, keep_checkpoints_without_metrics=False)
        kept = policies.AnyPreservationPolicy([policies.LatestN(keep), best])
        options = ocp.CheckpointManagerOptions(preservation_policy=kept, best_fn=_error, best_mode="min")
    try:
        return _Manager(
            epath.Path(directory).resolve(),
            options=options,
            item_names=("state", "model", "meta"),
        )
    except OSError as error:
        raise InputError(_disk_message(directory, error)) from error


def _disk_message(directory: epath.PathLike, error: Exception) -> str | None:
    """Describes an error of the file system, which tensorstore raises as ValueError; None for other errors."""
    text = str(error)
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text or "RESOURCE_EXHAUSTED" in text:
        return f"The disk of {directory} is full; free some space and run the same command again to resume."
    if isinstance(error, OSError):
        return f"Cannot write to {directory}: {error.strerror or error}."
    reason = re.search(r"([^:]+) \[os_error_code", text)
    return f"Cannot write to {directory}:{reason.group(1)}." if reason else None


def _guarded(function: Callable) -> Callable:
    """Makes a function raise InputError for errors of the disk, whichever library reports them."""

    @functools.wraps(function)
    def wrapper(manager: Manager, *args: Any, **kwargs: Any) -> Any:
        try:
            return function(manager, *args, **kwargs)
        except Exception as error:
            message = _disk_message(manager.directory, error)
            if message is None:
                raise
            raise InputError(message) from error

    return wrapper


@_guarded
def save(manager: Manager, step: int, state: Any, model: Any, *, error: float | None = None) -> None:
    """Saves in the background; the arrays may be donated once this returns. An existing step is left alone.

    Args:
        manager: see `open_manager`.
        step: number of the checkpoint.
        state: what resuming needs.
        model: what evaluation and prediction need.
        error: error of the model, the lower the better; it makes the step a candidate for `best_step`.
    """
    if step in manager.all_steps():
        return
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            model=ocp.args.StandardSave(model),
            meta=ocp.args.JsonSave({"state": checksums(state), "model": checksums(model)}),
        ),
        metrics=None if error is None else {"error": error},
        force=True,
    )


def best_step(manager: Manager) -> int | None:
    """Returns the step that was saved with the lowest error; None if none was saved with an error.

    Of steps with the same error it is the last one, which is also the one that orbax keeps.
    """
    manager.wait_until_finished()
    scored = [step for step in manager.all_steps() if manager.metrics(step)]
    return min(scored, key=lambda step: (manager.metrics(step)["error"], -step), default=None)


@_guarded
def close(manager: Manager) -> None:
    """Waits for the last save, and closes the manager."""
    manager.wait_until_finished()
    manager.close()


def _restore_step(manager: Manager, step: int, item: str, like: Any) -> Any:
    restored = manager.restore(
        step,
        args=ocp.args.Composite(**{item: ocp.args.StandardRestore(like), "meta": ocp.args.JsonRestore()}),
    )
    if checksums(restored[item]) != restored["meta"][item]:
        raise ValueError("the checksums of its arrays differ from those saved with them")
    return restored[item]


def _collect_quietly() -> None:
    """Collects the reads that a failed restore leaves behind in orbax; later, they would print errors at any time."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook


def _try(
    manager: Manager, steps: Sequence[int], item: str, like: Any, say: Callable[[str], None]
) -> tuple[Any, int] | None:
    """Restores the first of `steps` that can be used; `say` reports those before it that cannot."""
    for step in steps:
        try:
            return _restore_step(manager, step, item, like), step
        # Damage can raise any exception in any layer below, and none of them may stop the fallback.
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        # This is outside the except clause, because inside it the exception still holds what is to be collected.
        say(f"Checkpoint {manager.directory / str(step)} cannot be used ({reason}); trying the one before it.")
        _collect_quietly()
    return None


def _agreed(
    directory: epath.Path, steps: Sequence[int], item: str, like: Any, say: Callable[[str], None]
) -> tuple[int, list[int]]:
    """Makes all processes agree on what process 0 sees: (number of checkpoints, [the first that it can read]).

    If all read together and one of them finds damage, the others wait for it forever; and a shared disk may show one
    process what it does not show another yet. So process 0 reads alone first.
    """
    found = None
    if jax.process_index() == 0 and steps:
        alone = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="alone"
        )
        options = ocp.CheckpointManagerOptions(read_only=True, multiprocessing_options=alone)
        # It reads into host memory, because what is split over many devices need not fit on one.
        try:
            device = jax.local_devices(backend="cpu")[0]
        except RuntimeError:  # JAX_PLATFORMS excludes the CPU
            device = jax.local_devices()[0]
        here = jax.sharding.SingleDeviceSharding(device)
        local = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), like)
        reader = ocp.CheckpointManager(directory, options=options, item_names=("state", "model", "meta"))
        found = _try(reader, steps, item, local, say)
        reader.close()
    mine = np.array([len(steps), -1 if found is None else found[1]], np.int32)
    count, step = multihost_utils.broadcast_one_to_all(mine).tolist()
    return count, [step] if step >= 0 else []


def restore(
    manager: Manager,
    item: str,
    like: Any,
    *,
    first: int | None = None,
    say: Callable[[str], None] = print,
) -> tuple[Any, int] | None:
    """Restores the newest intact checkpoint.

    Args:
        manager: see `open_manager`.
        item: "state" or "model".
        like: a pytree of arrays or ShapeDtypeStructs with the shardings wanted, which may differ from those saved.
        first: a step to try before the newest.
        say: called with a message about every checkpoint that cannot be used.

    Returns:
        (tree, step), or None if there is no checkpoint.

    Raises:
        InputError: there are checkpoints, but they belong to a model of another shape, or none of them can be read.
    """
    steps = sorted(manager.all_steps(), key=lambda step: (step == first, step), reverse=True)
    count = len(steps)
    if jax.process_count() > 1:
        count, steps = _agreed(manager.directory, steps, item, like, say)
    if not count:
        return None
    found = _try(manager, steps, item, like, say)
    if found is None:
        raise InputError(
            f"No checkpoint in {manager.directory} can be read with this config and version; "
            "delete that folder to train the stage again, or use the config it was trained with."
        )
    return found


def delete_after(manager: Manager, step: int) -> None:
    """Removes checkpoints newer than `step`: they are damaged, and would stop the same steps from being saved again."""
    for newer in [s for s in manager.all_steps() if s > step]:
        manager.delete(newer)


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of `tree`, for `restore`."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
