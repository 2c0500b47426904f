"""Runs one training in several processes: connects them by JAX's own runtime, and explains its errors.

Only process 0, the main process, writes logs, plots and results; all processes take part in checkpoints.
"""

import os
import re
import sys

import jax
from jax.experimental import multihost_utils

from mlcm_jax.console import console
from mlcm_jax.errors import InputError

# A process that gives no sign of life for so many seconds counts as dead, and the others stop.
_HEARTBEAT = 30

_joined = False

# Words by which JAX, gloo, NCCL and the coordination service report that a process is gone.
_GONE = re.compile(r"gloo|nccl|coordination|heartbeat|barrier|socket|connection|UNAVAILABLE|DEADLINE_EXCEEDED", re.I)


def initialize(*, auto: bool = False, coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Connects the processes of a run; call it before any other use of JAX. Without arguments there is one process.

    Args:
        auto: take the processes from Slurm, Open MPI, Cloud TPU or GKE.
        coordinator: address:port of process 0, on other clusters.
        processes: the number of processes, with `coordinator`.
        process: the index of this process, from 0, with `coordinator`.

    Raises:
        InputError: inconsistent arguments, no cluster, or processes that cannot be reached.
    """
    if not (auto or coordinator):
        if processes or process >= 0:
            raise InputError("--processes and --process need --coordinator, the address:port of process 0.")
        return
    if coordinator and not (re.fullmatch(r".+:\d+", coordinator) and 0 <= process < processes):
        raise InputError(
            f"--coordinator={coordinator} --processes={processes} --process={process} must be address:port, the number "
            "of processes, and the index of this process, from 0."
        )
    global _joined
    given = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
    options = {"heartbeat_timeout_seconds": _HEARTBEAT, "shutdown_timeout_seconds": 300}
    try:
        jax.distributed.initialize(**(given if coordinator else {}), **options)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        if not coordinator and isinstance(error, ValueError):
            raise InputError(
                f"--distributed=auto found no cluster ({reason}); outside Slurm, Open MPI, Cloud TPU and GKE give "
                "--coordinator, --processes and --process."
            ) from error
        who = f"Process {process} of {processes} cannot join {coordinator}" if coordinator else "Cannot join the others"
        raise InputError(f"{who}: {reason}.") from error
    _joined = True
    console.quiet = jax.process_index() > 0


def is_main() -> bool:
    """Whether this process writes the logs, plots and results."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until all processes have called it; `name` identifies the call."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def is_lost(error: BaseException) -> str:
    """Returns the message of an exception that reports another process as gone; "" for any other exception."""
    if isinstance(error, InputError) or not _joined or jax.process_count() == 1:
        return ""
    text = str(error).strip()
    return text.splitlines()[0][:200] if _GONE.search(text) else ""


def leave(code: int) -> None:
    """Exits at once if this process is one of several; a regular exit would wait for those that are gone."""
    if _joined:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
