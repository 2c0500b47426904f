"""Describes the machine, the commit and the versions in one line, with which the output of a benchmark begins.

    python -m benchmarks.machine

The scripts that measure time print it. One number compares machines: the seconds in which a script in Python adds ten
million times. Results: the hardware, dates and commits in RESULTS.md.
"""

import datetime
import os
import platform
import subprocess
import time
from pathlib import Path

from mlcm_jax import cores
from mlcm_jax.console import say
from mlcm_jax.training.environment import version

PACKAGES = ("jax", "flax", "grain", "numpy", "opencv-python-headless")


def commit(checkout: Path) -> str:
    """The short name of a checkout's commit, with "(changed)" if files differ from it or are new.

    Args:
        checkout: the folder of the clone itself; others, and a missing git, give "unknown".
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(checkout), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != checkout.resolve():
            return "unknown"
        return git("rev-parse", "--short", "HEAD") + " (changed)" * bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe() -> str:
    """Returns date, commit, processor, load, its speed in Python, and versions; it starts no device of JAX."""
    load, began = os.getloadavg()[0], time.perf_counter()
    exec("for k in range(10_000_000): total += k", {"total": 0})  # in a script, whose variables are global
    seconds = time.perf_counter() - began
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    speed = f"load {load:.1f}, ten million additions {seconds:.1f} s, Python {platform.python_version()}"
    where = commit(Path(__file__).resolve().parents[1])
    return f"{datetime.date.today()}, commit {where}, {cores.processor()}, {speed}, {versions}"


if __name__ == "__main__":
    say(describe())
