"""Runs of the command mlcm, and folders that they fill once for all tests."""

import subprocess
import sys
from pathlib import Path

from filelock import FileLock

SMOKE = "configs/tiny.py:smoke"


def run_mlcm(*arguments, env=None, **kwargs) -> subprocess.CompletedProcess:
    """Runs `mlcm …` in its own process, as a user does."""
    command = [sys.executable, "-m", "mlcm_jax.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=env, **kwargs)


def once(tmp_path_factory, name: str, make) -> Path:
    """Returns a folder that `make(folder)` fills, once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if base.name.startswith("popen-") else base
    folder = base / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (folder / "made").touch()
    return folder
