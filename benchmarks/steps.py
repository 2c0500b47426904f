"""Measures training steps side by side with PyTorch, on the CPU or the GPU at hand.

    python -m venv /tmp/torch && /tmp/torch/bin/pip install torch timm
    python -m benchmarks.steps --torch=/tmp/torch/bin/python
    python -m benchmarks.steps --rows=gpu --bf16 --torch=python3      # where torch and timm are installed already

A row is a network, its width, the image's side, the batch and the work. "train" is a whole step: forward and backward
pass, clipping, AdamW and moving average. "ktl" adds an RGB teacher of the same network and DIKD's two injections;
"forward" is the teacher's part of it, so that forward + train is the least that ktl can take. Each side is a process of
its own; all are compiled first, and then take turns, so that each has the machine to itself while it is timed. Ours has
the settings of memory that `mlcm train` has; PyTorch is measured as it is, and on a CPU also with these settings. Every
`--xla_flag=--NAME=VALUE` adds our side with that flag of XLA, in the next column. All rows of "dikd" and of "gpu" take
turns; how many times as long ktl takes as forward and train of the same turn is printed below them.
Results: RESULTS.md, "Training steps".
"""

import argparse
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import machine, plan
from mlcm_jax import config as configs
from mlcm_jax import memory
from mlcm_jax.console import say
from mlcm_jax.models import network as networks
from mlcm_jax.training import loop, run_stage, sharding, stages
from mlcm_jax.training.workdir import Trained

ROWS = {
    "cpu": (
        "mobilenet_v2 0.5 128 32 train",
        "mobilenet_v2 1.0 224 16 train",
        "efficientnet_b0 1.0 224 16 train",
        "mobilevit_v2 0.5 256 16 train",
        "tiny 0.25 64 32 train",
    ),
    "dikd": tuple(f"tiny 0.25 64 32 {kind}" for kind in ("forward", "train", "ktl")),
    "gpu": tuple(
        f"{network} 1.0 256 64 {kind}" for network in ("swin_v2_b", "resnet50") for kind in ("forward", "train", "ktl")
    ),
}


def config_of(name: str, width: float, side: int, batch: int, bf16: bool) -> ConfigDict:
    """The config of a run whose teacher and student are this network."""
    config = configs.load("configs/tiny.py", "adamw") if name == "tiny" else configs.base()
    if name != "tiny":
        scaled = {} if width == 1.0 and name not in ("mobilenet_v2", "mobilevit_v2") else {"width": width}
        config.teacher = config.student = ConfigDict({"name": name, "head": "coordinates"} | scaled)
    config.image_size, config.train.batch_size, config.train.bf16 = side, batch, bf16
    return config


def prepare(config: ConfigDict, stage: str) -> tuple[Callable, tuple]:
    """Returns the jitted step of a stage, and its arguments on all devices: (state, teachers, random batch, key)."""
    recipe, _, _, shapes = plan.shapes_of_step(config, stage)
    mean, mesh = np.full((stages.layout(config).count, 2), 0.5, np.float32), sharding.make_mesh()
    needed = {
        other: Trained(other, stages.initial_network(other, config, mean_shape=mean), config, mean)
        for other in stages.requirements(stage, config)
    }
    state = sharding.put_sharded(run_stage.start_state(stage, config, recipe, needed, mean), mesh)
    teachers = {other: sharding.put_sharded(needed[other].network, mesh) for other in recipe.teachers}
    rng = np.random.default_rng(0)
    batch = {
        key: np.ones(one.shape, bool) if one.dtype == jnp.bool_ else rng.random(one.shape, np.float32)
        for key, one in shapes.items()
    }
    key = sharding.put_replicated(jax.random.key(0), mesh)
    return loop.compile_step(recipe, state, teachers, mesh), (state, teachers, sharding.put_batch(batch, mesh), key)


def work(row: str, bf16: bool, steps: int) -> None:
    """Takes our steps: prints "ready PARAMETERS", and then seconds for every line of the standard input."""
    name, width, side, batch, kind = row.split()
    config = config_of(name, float(width), int(side), int(batch), bf16)
    step, (state, teachers, data, key) = prepare(config, "transfer" if kind == "ktl" else "teacher")
    count = sum(leaf.size for leaf in jax.tree.leaves(state.network.params))
    forward = jax.jit(lambda network, image: networks.run(network, image).landmarks)

    def several(count: int) -> None:
        nonlocal state
        found = None
        for _ in range(count):
            if kind == "forward":
                found = forward(state.network, data["rgb"])
            else:
                state, found = step(state, teachers, data, key)
        jax.block_until_ready((state, found))

    several(3)
    print("ready", count, jax.__version__, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        several(steps)
        print((time.perf_counter() - began) / steps, flush=True)
    if int(state.skipped):
        raise SystemExit(f"{int(state.skipped)} steps were not finite, so the times are meaningless.")


def main(argv: Sequence[str] | None = None) -> None:
    """Starts the processes, lets them take turns, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="cpu", help=f"{', '.join(ROWS)}, or rows of your own, separated by commas")
    parser.add_argument("--torch", default="", help="a Python with torch and timm; without it, only ours are measured")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
    parser.add_argument("--steps", type=int, default=10, help="steps of each turn")
    parser.add_argument("--turns", type=int, default=5, help="turns of each side")
    parser.add_argument("--xla_flag", action="append", default=[], help="a flag of XLA for one more side")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds that a side may take to compile")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        work(arguments.worker, arguments.bf16, arguments.steps)
        return
    say(machine.describe())
    rows = ROWS.get(arguments.rows) or tuple(arguments.rows.split(","))
    at_once = arguments.rows in ("gpu", "dikd")  # to compile all at once on a GPU, and to compare the kinds of "dikd"
    for group in [rows] if at_once else [(row,) for row in rows]:
        sides = {(row, side): _start(row, side, arguments) for row in group for side in _sides(row, arguments)}
        until = time.monotonic() + arguments.patience
        about = {key: _first_words(process, until) for key, process in sides.items()}
        alive = {key: process for key, process in sides.items() if about[key][:1] == ["ready"]}
        times: dict[tuple[str, str], list[float]] = {key: [] for key in alive}
        for turn in range(arguments.turns):
            for key in reversed(alive) if turn % 2 else alive:  # so that none always follows the same other one
                process = alive[key]
                process.stdin.write("go\n")
                process.stdin.flush()
                times[key].append(float(process.stdout.readline()))
        for row in group:
            say(_cells(row, times, about))
        for row in group:
            _say_cost_of_dikd(row, times)
        for process in sides.values():
            with process:  # closes its pipes, which ends it
                pass


def _sides(row: str, arguments: argparse.Namespace) -> tuple[str, ...]:
    ours = ("ours", *arguments.xla_flag)
    if not arguments.torch or row.endswith("forward"):
        return ours
    return (*ours, "torch") if arguments.rows == "gpu" else (*ours, "torch", "torch with our settings")


def _start(row: str, side: str, arguments: argparse.Namespace) -> subprocess.Popen:
    flag = side if side in arguments.xla_flag else ""
    if side == "ours" or flag:
        command = [sys.executable, "-m", "benchmarks.steps", f"--worker={row}", f"--steps={arguments.steps}"]
        command += ["--bf16"] * arguments.bf16
    else:
        script = Path(__file__).parent / "pytorch" / "steps.py"
        command = [arguments.torch, str(script), *row.split(), str(int(arguments.bf16)), str(arguments.steps)]
    environment = {key: value for key, value in os.environ.items() if key != memory.VARIABLE}
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    if side != "torch":
        environment[memory.VARIABLE] = memory.SETTINGS
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def _first_words(process: subprocess.Popen, until: float) -> list[str]:
    """What a process prints when it is ready; [] if it has ended, or isn't ready in time and is killed."""
    if select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
        return process.stdout.readline().split()
    process.kill()
    return []


def _cells(row: str, times: dict[tuple[str, str], list[float]], about: dict[tuple[str, str], list[str]]) -> str:
    """A row of the table: for each side milliseconds and their range, images per second and parameters; the ratios."""
    batch, cells, middle = int(row.split()[3]), [row], {}
    for side in dict.fromkeys(side for one, side in about if one == row):
        found = times.get((row, side))
        if not found:
            cells.append("–")
            continue
        middle[side] = statistics.median(found)
        low, high, (_, count, version) = min(found), max(found), about[row, side]
        text = f"{1e3 * middle[side]:.1f} ({1e3 * low:.1f}–{1e3 * high:.1f}) ms, {batch / middle[side]:.0f} images/s"
        cells.append(f"{text}, {int(count):,} parameters, {version}")
    cells += [f"{middle[side] / middle['ours']:.2f}" for side in middle if side != "ours" and "ours" in middle]
    return "| " + " | ".join(cells) + " |"


def _say_cost_of_dikd(row: str, times: dict[tuple[str, str], list[float]]) -> None:
    """Prints how many times as long ktl takes as forward and train of the same turn together: median and range."""
    network, _, kind = row.rpartition(" ")
    forward, train, ktl = (times.get((f"{network} {one}", "ours")) for one in ("forward", "train", "ktl"))
    if kind == "ktl" and forward and train and ktl:
        ratios = [both / (one + other) for one, other, both in zip(forward, train, ktl, strict=True)]
        say(f"{row}: {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) times forward + train")


if __name__ == "__main__":
    main()
