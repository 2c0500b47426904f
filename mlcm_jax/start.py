"""Starts the command `mlcm`, in a process that has the settings of `memory`."""

import contextlib
import os
import sys

from mlcm_jax import memory


def main() -> None:
    """Starts the process again with `memory.SETTINGS` where they are missing, and runs the command."""
    if memory.missing(os.environ):
        with contextlib.suppress(OSError):  # a sandbox forbids it; the command is only slower
            os.execve(
                sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {memory.VARIABLE: memory.SETTINGS}
            )
    from mlcm_jax import cli

    cli.main()


if __name__ == "__main__":
    main()
