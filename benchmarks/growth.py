"""Measures how time and memory of a training step grow with the image, the batch, the landmarks and the devices.

    python -m benchmarks.growth --out=docs/growth.png
    TPU_SKIP_MDS_QUERY=1 tpu/bin/python -m benchmarks.growth --topologies v5e:2x2 v5e:2x4 v5e:4x4 v5e:8x8 v5e:16x16

A step is that of the stage `light_alone` of configs/shipped.py, of 32 images (`compile_step`, with an AdamW update and
the average). One number changes at a time, each point is a process of its own, and memory is what the compiled step
needs on one device. The exponent between two neighbouring points is that of time over the number of pixels, examples,
landmarks or devices: 1 is linear. Virtual devices share the cores of this machine, so that their time is that of the
same work in more pieces. With `--topologies`, it compiles the step for TPU slices instead, with 32 examples on every
chip. It needs the package libtpu, and several minutes for each slice. Results: RESULTS.md, "Growth".
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import yaml
from jax.experimental import topologies
from matplotlib import ticker
from ml_collections import ConfigDict

from benchmarks import machine, plan, steps
from mlcm_jax import config as configs
from mlcm_jax import memory
from mlcm_jax.console import progress, say
from mlcm_jax.training import sharding

BASE = {"side": 96, "batch": 32, "landmarks": 68, "devices": 1}
POINTS = {
    "side": (48, 64, 96, 128, 192, 256),
    "batch": (8, 16, 32, 64, 128, 256),
    "landmarks": (17, 34, 68, 136, 272, 544),
    "devices": (1, 2, 4, 8),
}
STAGE = "light_alone"


def config_of(point: dict[str, int], folder: str) -> ConfigDict:
    """The config of a point, whose layout is written into the folder."""
    config = configs.load("configs/shipped.py", "")
    config.image_size, config.train.batch_size = point["side"], point["batch"]
    if point["landmarks"] != BASE["landmarks"]:
        layout = Path(folder, "points.yaml")
        count = point["landmarks"]
        layout.write_text(yaml.safe_dump({"count": count, "flip": [[0, count - 1]], "eye_corners": [0, count - 1]}))
        config.layout = str(layout)
    return config


def work(point: dict[str, int], repeats: int) -> dict[str, float]:
    """Seconds (median, least, most) of a step at this point, its memory on a device, and the time to compile it."""
    with tempfile.TemporaryDirectory() as folder:
        step, (state, teachers, data, key) = steps.prepare(config_of(point, folder), STAGE)
        began = time.perf_counter()
        compiled = step.lower(state, teachers, data, key).compile()
        compiling = time.perf_counter() - began
        times = []
        for _ in range(repeats + 2):
            began = time.perf_counter()
            state, _ = jax.block_until_ready(compiled(state, teachers, data, key))
            times.append(time.perf_counter() - began)
        kept = times[2:]
        middle = {"median": statistics.median(kept), "least": min(kept), "most": max(kept)}
        return middle | {"bytes": plan.measure(compiled, 1)["peak"], "compiling": compiling}


def _run(point: dict[str, int], repeats: int) -> dict[str, float]:
    flag = f"--xla_force_host_platform_device_count={point['devices']}"
    environment = os.environ | {"XLA_FLAGS": flag, "JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_PLATFORMS": "cpu"}
    environment[memory.VARIABLE] = memory.SETTINGS  # as `mlcm train` has them
    command = [sys.executable, "-m", "benchmarks.growth", f"--point={json.dumps(point)}", f"--repeats={repeats}"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _exponent(first: tuple[float, float], second: tuple[float, float]) -> float:
    return math.log(second[1] / first[1]) / math.log(second[0] / first[0])


def _measure(out: str, repeats: int) -> None:
    points = [BASE | {name: value} for name, values in POINTS.items() for value in values]
    points = list({tuple(point.items()): point for point in points}.values())  # that of `BASE` is measured once
    runs = {}
    with progress("points", total=len(points), start=0, unit_size=1) as advance:
        for done, point in enumerate(points, 1):
            runs[tuple(point.items())] = _run(point, repeats)
            advance(done, str(point))
    found = {
        name: {value: runs[tuple((BASE | {name: value}).items())] for value in values}
        for name, values in POINTS.items()
    }
    for name, points in found.items():
        before = None
        for value, one in points.items():
            size = value**2 if name == "side" else value
            now = size, one["median"], one["bytes"]
            grows = "–", "–"
            if before:
                grows = tuple(f"{_exponent((before[0], before[k]), (size, now[k])):.2f}" for k in (1, 2))
            before = now
            spread = f"({1e3 * one['least']:.1f}–{1e3 * one['most']:.1f})"
            cells = [f"{1e3 * one['median']:.1f} {spread}", grows[0], f"{one['bytes'] / 1e6:.0f}", grows[1]]
            say("| " + " | ".join([name, str(value), *cells, f"{one['compiling']:.1f}"]) + " |")
    if out:
        _draw(found, out)


def _draw(found: dict[str, dict[int, dict[str, float]]], out: str) -> None:
    """Draws time and memory over each number, with a line of linear growth through the point of `BASE`."""
    figure, axes = plt.subplots(2, len(found), figsize=(3.2 * len(found), 5.6), layout="constrained", squeeze=False)
    for column, (name, points) in enumerate(found.items()):
        power = 2 if name == "side" else 1
        for row, (key, scale, unit) in enumerate((("median", 1e3, "step, ms"), ("bytes", 1e-6, "memory, MB"))):
            axis, values = axes[row, column], list(points)
            middle = scale * points[BASE[name]][key]
            axis.loglog(values, [scale * one[key] for one in points.values()], "o-", label="measured")
            if name != "devices":
                axis.loglog(
                    values, [middle * (v / BASE[name]) ** power for v in values], "--", color="gray", label="linear"
                )
            if key == "median":
                axis.fill_between(
                    values, *([scale * one[k] for one in points.values()] for k in ("least", "most")), alpha=0.3
                )
            axis.set_xticks(values, [str(v) for v in values])
            axis.xaxis.set_minor_locator(ticker.NullLocator())
            axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:,.0f}")
            axis.yaxis.set_minor_locator(ticker.NullLocator())
            axis.set_ylabel(unit if column == 0 else "")
            axis.set_xlabel({"side": "side of the image, pixels", "devices": "virtual devices"}.get(name, name))
            axis.grid(alpha=0.3)
    axes[0, 0].legend()
    figure.savefig(out, dpi=110)


def _compile(slices: Sequence[str]) -> None:
    """Prints what a step needs on each chip of TPU slices, with 32 examples on every chip."""
    for topology in slices:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
        config = config_of(BASE | {"batch": BASE["batch"] * len(devices)}, "")
        needs = plan.measure(plan.compile_step(config, sharding.make_mesh(devices), STAGE)[0], 1)
        cells = [f"{needs['peak'] / 1e6:.1f}", f"{needs['flops'] / 1e9:.2f}"]
        cells += [f"{needs['moved'] / 1e6:.0f}", f"{needs['sent'] / 1e6:.2f}"]
        say("| " + " | ".join([topology, str(len(devices)), *cells]) + " |")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures steps and prints their times, or compiles one for TPU slices and prints what it needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="", help="file of the plot")
    parser.add_argument("--repeats", type=int, default=7, help="steps that are timed at each point")
    parser.add_argument("--topologies", nargs="+", help="TPU slices to compile for, such as v5e:2x4; measures nothing")
    parser.add_argument("--point", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.point:
        print(json.dumps(work(json.loads(arguments.point), arguments.repeats)))
        return
    say(machine.describe())
    if arguments.topologies:
        _compile(arguments.topologies)
    else:
        _measure(arguments.out, arguments.repeats)


if __name__ == "__main__":
    main()
