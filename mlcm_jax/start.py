"""Starts the command `mlcm`, in a process that has the settings of `memory`."""

import contextlib
import os
import sys
import threading

from mlcm_jax import memory


def main() -> None:
    """Starts the process again with `memory.SETTINGS` where they are missing, and runs the command."""
    if memory.missing(os.environ):
        with contextlib.suppress(OSError):  # a sandbox forbids it; the command is only slower
            os.execve(
                sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {memory.VARIABLE: memory.SETTINGS}
            )
    from mlcm_jax import cli

    try:
        cli.main()
    except SystemExit as stop:
        if _compiles():
            # Python would wait for a program that nothing will run, and a signal in that time would abort it.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(stop.code if isinstance(stop.code, int) else 1)
        raise


def _compiles() -> bool:
    """Whether a step that was compiled ahead is not finished."""
    run_stage = sys.modules.get("mlcm_jax.training.run_stage")
    names = (thread.name for thread in threading.enumerate())
    return run_stage is not None and any(name.startswith(run_stage.COMPILER) for name in names)


if __name__ == "__main__":
    main()
