"""Describes the machine and the versions with which a benchmark runs, in one line that its output begins with.

    python -m benchmarks.machine

One number compares machines: the seconds that ten million additions in Python take. Results: RESULTS.md names this line
beside its tables.
"""

import datetime
import os
import platform
import subprocess
import time
from pathlib import Path

from mlcm_jax.console import say
from mlcm_jax.export.parity import cpu
from mlcm_jax.training.environment import version

PACKAGES = ("jax", "flax", "grain", "numpy", "opencv-python-headless")


def commit(checkout: Path) -> str:
    """The short name of a checkout's commit, with "changed" if files differ from it; "unknown" without git."""
    try:
        git = ["git", "-C", str(checkout)]
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.strip() + " (changed)" * bool(changed)


def describe() -> str:
    """Returns date, commit, processor, load, its speed in Python, and versions; it starts no device of JAX."""
    load, began, total = os.getloadavg()[0], time.perf_counter(), 0
    for k in range(10_000_000):
        total += k
    seconds = time.perf_counter() - began
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    where = commit(Path(__file__).resolve().parents[1])
    return (
        f"{datetime.date.today()}, commit {where}, {cpu()}, load {load:.1f}, ten million additions {seconds:.1f} s, "
        f"Python {platform.python_version()}, {versions}"
    )


if __name__ == "__main__":
    say(describe())
