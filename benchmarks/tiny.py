"""Times the whole run of configs/tiny.py, also beside another checkout, and what its imports take.

    python -m benchmarks.tiny --before=CHECKOUT
    python -m benchmarks.tiny --config=configs/tiny.py:smoke --turns=1                # only to see whether it runs

Each turn runs `mlcm train` on the CPU: that of the other checkout and that of this one, with empty folders for the data
and for the home, which has the compiled programs and the cache of matplotlib; and then of this one again, with the home
of the run before ("cached"). The two checkouts change places in every turn. Wall time runs from the start of the
process to its end; the time of the processors is that of all its processes. The script prints medians and ranges of
both, of the ratio of every run to the first side's run of the same turn, and the NME of the networks in the last turn.
The time of imports is the sum over all modules that Python reports (`-X importtime`) until the end of the first stage,
in a run of the config's smoke variant with cached programs. Results: RESULTS.md, "The whole run of configs/tiny.py".
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import machine
from mlcm_jax.console import say

HERE = Path(__file__).resolve().parents[1]
# The beginnings of the names of variables that would change a run.
_FOREIGN = ("JAX_", "XLA_", "GLIBC_", "PYTHON", "XDG_", "MPL", "OMP_", "OPENBLAS_", "MKL_")


class Run(NamedTuple):
    """One run: seconds by the clock and of all processors, and the NME in per cent of each row of its table."""

    wall: float
    processor: float
    nme: dict[str, float]


def train(checkout: Path, config: str, home: Path, *flags: str) -> Run:
    """Runs a config of a checkout with new folders for its data and its results.

    Args:
        checkout: a clone of this repository.
        config: the config file, relative to it, and its variant.
        home: the home folder of the process.
        flags: options of Python itself.

    Raises:
        SystemExit: the run failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Older checkouts start with cli.
        module = "mlcm_jax.start" if (checkout / "mlcm_jax/start.py").exists() else "mlcm_jax.cli"
        command = [sys.executable, *flags, "-m", module, "train", f"--config={config}"]
        command += [f"--workdir={folder}/run", f"--data_dir={folder}/data"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)}
        environment |= {"HOME": str(home), "PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu"}
        began, before = time.perf_counter(), os.times()
        with open(home / "log.txt", "w") as log:
            code = subprocess.run(command, cwd=checkout, env=environment, stdout=log, stderr=log).returncode
        wall, after = time.perf_counter() - began, os.times()
        if code:
            raise SystemExit(f"{checkout}: {' '.join(command)} failed:\n{(home / 'log.txt').read_text()[-2000:]}")
        rows = json.loads(Path(folder, "run/results.json").read_text())["rows"]
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(wall, spent, {row["name"]: row["nme"] for row in rows})


def imports(log: str) -> float:
    """The seconds that imports took until the first stage ended, from the output of a run with `-X importtime`."""
    first = re.search(r"\d+/\d+ [\d,]+ images/s", log)  # the bar, which is written to a file when it ends
    if not first:
        raise SystemExit(f"There is no stage in this output: {log[-2000:]}")
    return sum(map(int, re.findall(r"^import time:\s+(\d+) \|", log[: first.start()], re.MULTILINE))) / 1e6


def _range(values: Sequence[float], digits: int = 0) -> str:
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs all sides in turns, and prints each run and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--config", default="configs/tiny.py")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args(argv)
    say(machine.describe())
    ours, other = ("now", "now, cached"), ("before",) * bool(given.before)
    runs: dict[str, list[Run]] = {name: [] for name in (*other, *ours)}
    for turn in range(given.turns):
        with tempfile.TemporaryDirectory() as folder:
            for name in (*ours, *other) if turn % 2 else (*other, *ours):
                home = Path(folder, name.partition(",")[0])
                home.mkdir(exist_ok=True)
                checkout = given.before.resolve() if name == "before" else HERE
                runs[name].append(train(checkout, given.config, home))
                say(f"turn {turn + 1}, {name}: {runs[name][-1]}")
    first = next(iter(runs.values()))
    for name, found in runs.items():
        ratio = [one.wall / base.wall for one, base in zip(found, first, strict=True)]
        walls, spent = _range([one.wall for one in found]), _range([one.processor for one in found])
        nme = ", ".join(f"{row} {value:.2f}" for row, value in found[-1].nme.items())
        say(f"| {name} | {walls} s | {spent} s | {_range(ratio, 2)} | {nme} |")
    with tempfile.TemporaryDirectory() as folder:
        for flags in ((), ("-X", "importtime")):  # the first run keeps its programs for the second
            train(HERE, given.config.partition(":")[0] + ":smoke", Path(folder), *flags)
        say(f"imports until the end of the first stage: {imports(Path(folder, 'log.txt').read_text()):.1f} s")


if __name__ == "__main__":
    main()
