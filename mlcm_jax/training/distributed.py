"""Several processes, one run: JAX's own runtime connects them; this file asks for it and says what went wrong.

Only process 0, the main process, writes logs, plots and results; all take part in checkpoints.
"""

import os
import re
import sys

import jax
from jax.experimental import multihost_utils

from mlcm_jax.console import console
from mlcm_jax.errors import InputError

# After so many seconds without a sign a process counts as dead, and the others stop.
_HEARTBEAT = 30

_joined = False

# How JAX, gloo, NCCL and the coordination service say that a process is gone.
_GONE = re.compile(r"gloo|nccl|coordination|heartbeat|barrier|socket|connection|UNAVAILABLE|DEADLINE_EXCEEDED", re.I)


def initialize(*, auto: bool = False, coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Joins the processes of a run, before anything else of JAX is used; without arguments there is one process.

    Args:
        auto: Slurm, Open MPI, Cloud TPU or GKE say which processes take part.
        coordinator: address:port of process 0, for every other cluster.
        processes: how many there are, with `coordinator`.
        process: the number of this one, from 0, with `coordinator`.

    Raises:
        InputError: arguments that do not fit, no cluster, or processes that cannot be reached.
    """
    if not (auto or coordinator):
        if processes or process >= 0:
            raise InputError("--processes and --process need --coordinator, the address:port of process 0.")
        return
    if coordinator and not (re.fullmatch(r".+:\d+", coordinator) and 0 <= process < processes):
        raise InputError(
            f"--coordinator={coordinator} --processes={processes} --process={process} must be address:port, the number "
            "of processes, and this one's number, from 0."
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
    """Whether this process writes the files of which a run has one each."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when all processes have arrived here; `name` tells the places apart."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def is_lost(error: BaseException) -> str:
    """What an exception says of another process that is gone; "" for any other exception."""
    if isinstance(error, InputError) or not _joined or jax.process_count() == 1:
        return ""
    text = str(error).strip()
    return text.splitlines()[0][:200] if _GONE.search(text) else ""


def leave(code: int) -> None:
    """Ends this process at once if it is one of several; an orderly end would wait for those that are gone."""
    if _joined:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
