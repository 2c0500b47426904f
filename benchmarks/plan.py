"""Computes the memory, time and communication of a training step on a TPU pod by compiling it, without the pod.

    TPU_SKIP_MDS_QUERY=1 python -m benchmarks.plan --topology=v5e:2x4 --batch=4096 --accumulate=32 --blocks=2,4

It compiles the step of KTL, which is the stage `transfer` (here SwinV2-B to SwinV2-B at 256 pixels, bfloat16), for a
TPU topology and prints a row of the table in docs/pods.md. It needs no TPU, but the package libtpu (0.0.42.1 was used;
install it in a separate environment). Compiling all 24 blocks of both networks takes long. `--blocks=2,4` therefore
compiles the third stage of the networks with 2 and with 4 blocks, and extrapolates the numbers linearly to its 18.

`collectives` reads the communication of any compiled program; `shapes_of_step` and `compile_step` work for any stage.
"""

import argparse
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.stages import Compiled
from ml_collections import ConfigDict

from mlcm_jax import shape_model
from mlcm_jax.config import base
from mlcm_jax.console import say
from mlcm_jax.data.examples import MODALITIES
from mlcm_jax.models.network import Network
from mlcm_jax.training import loop, run_stage, sharding, stages
from mlcm_jax.training.recipe import Recipe
from mlcm_jax.training.state import TrainState
from mlcm_jax.training.step import Teachers

# Rates of a v5e chip (https://cloud.google.com/tpu/docs/v5e), per second: bfloat16 operations, bytes of memory traffic,
# and bytes sent to its neighbours. Only half of its 1600 Gbit/s over four links counts, as small slices are no torus.
FLOPS, MEMORY, LINKS = 197e12, 819e9, 1600e9 / 8 / 2

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast"
_OPERATION = re.compile(rf" = (.*?) ({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|body|condition|branch_computations|true_computation|false_computation)=")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a compiled program.

    Attributes:
        kind: XLA's name of the operation, such as "all-reduce".
        bytes: the size of the combined data on one device, which is the result, or the operand of a reduce-scatter.
        group: the number of devices that take part.
        times: how often a step runs the operation.
        arrays: the number of elements of each array in it.
    """

    kind: str
    bytes: int
    group: int
    times: int
    arrays: tuple[int, ...]

    @property
    def sent(self) -> float:
        """The bytes that one device sends per step with ring algorithms."""
        rounds = {"all-reduce": 2.0, "collective-permute": self.group / max(self.group - 1, 1)}.get(self.kind, 1.0)
        return self.times * rounds * self.bytes * (self.group - 1) / self.group


def _width(dtype: str) -> int:
    """Returns the bytes per element: f32 -> 4, pred -> 1, token -> 0."""
    digits = re.search(r"\d+", dtype)
    return 1 if dtype == "pred" else -(-int(digits.group()) // 8) if digits else 0


def _group(line: str, devices: int) -> int:
    """Returns the number of devices in a replica group, in any of XLA's notations; `devices` if the line names none."""
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", line)
    if named:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        # 'axis':(m)n means the part of size n of an axis that is split into m and n.
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]<=", line)
    if iota:
        return int(iota[1])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return len(listed[1].split(","))
    return 2 if "source_target_pairs" in line else devices


def _collective(line: str, devices: int, times: int, scatters: bool) -> Collective | None:
    found = _OPERATION.search(line)
    if not found:
        return None
    result, kind, starts = found.groups()
    parts = [(_width(d), math.prod(int(n) for n in dims.split(",") if n)) for d, dims in _ARRAY.findall(result)]
    group = _group(line, devices)
    total = sum(width * numbers for width, numbers in parts)
    if starts and kind == "all-gather":  # the type of an asynchronous operation lists operands and results
        total = total * group // (group + 1)
    if starts and kind == "collective-permute":
        total //= 2
    if kind == "reduce-scatter":
        total *= group
    return Collective("reduce-scatter" if scatters else kind, total, group, times, tuple(n for _, n in parts))


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Splits an HLO module into computations: ({name: lines}, name of the entry computation)."""
    bodies: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line)
        if header:
            lines = bodies[header[2]] = []
            entry = header[2] if header[1] else entry
        else:
            lines.append(line)
    return bodies, entry


def _trips(line: str, bodies: dict[str, list[str]]) -> int:
    """Returns how often a loop runs its body: XLA's own count, or the only bound in its condition, or else 1."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
    if known:
        return int(known[1])
    condition = re.search(r" while\(.*condition=%?([\w.\-]+)", line)
    if not condition:
        return 1
    lines = bodies[condition[1]]
    numbers = [
        int(found[1]) for found in (re.search(r" = s32\[\]\S* constant\((\d+)\)", one) for one in lines) if found
    ]
    return numbers[0] if len(numbers) == 1 and any("direction=LT" in one for one in lines) else 1


def collectives(text: str) -> list[Collective]:
    """Lists the collectives of a compiled program, with the trip counts of the loops around them.

    A loop whose trip count cannot be determined counts once.

    Args:
        text: `compiled.as_text()`.
    """
    bodies, entry = _computations(text)
    count = re.search(r"num_partitions=(\d+)", text)
    devices = int(count[1]) if count else 1
    found: list[Collective] = []

    def walk(name: str, times: int) -> None:
        for line in bodies[name]:
            collective = _collective(line, devices, times, "all-reduce-scatter" in name)
            found.extend([collective] if collective else [])
            trips = _trips(line, bodies)
            for place in _CALLED.finditer(line):
                names = re.match(r"\{([^}]*)\}|([^,\s]+)", line[place.end() :])
                for called in (names[1] or names[2]).replace("%", "").split(","):
                    if called.strip() in bodies:
                        walk(called.strip(), times * trips)

    walk(entry, 1)
    return found


def shapes_of_step(
    config: ConfigDict,
    stage: str = "transfer",
    *,
    soft: shape_model.ShapeModel | None = None,
    networks: Mapping[str, Network] | None = None,
) -> tuple[Recipe, TrainState, Teachers, dict[str, jax.ShapeDtypeStruct]]:
    """Returns the arguments of a stage's training step as shapes, without creating arrays.

    Args:
        config: the config of the run.
        stage: the name of the stage.
        soft: the shape model, for a stage that learns soft landmarks.
        networks: the shapes of the networks that the stage reads; None computes them.

    Returns:
        (recipe, state, teachers, batch).
    """
    count, batch, side = stages.layout(config).count, config.train.batch_size, config.image_size
    recipe = stages.recipe(stage, config, soft=soft)
    mean = np.full((count, 2), 0.5, np.float32)
    if networks is None:
        needed = stages.requirements(stage, config)
        networks = {name: stages.network_shapes(name, config, mean_shape=mean) for name in needed}
    state = run_stage.start_shapes(stage, config, recipe, networks, mean)

    shapes = {
        "rgb": ((batch, side, side, 3), jnp.float32),
        "thermal": ((batch, side, side, 1), jnp.float32),
        "landmarks": ((batch, count, 2), jnp.float32),
        "weight": ((batch, count), jnp.float32),
        "visible": ((batch, count), jnp.bool_),
        "known": ((batch, count), jnp.bool_),
        "mask": ((batch,), jnp.bool_),
    }
    left_out = set(MODALITIES) - set(recipe.modalities)
    arrays = {key: jax.ShapeDtypeStruct(*shape) for key, shape in shapes.items() if key not in left_out}
    return recipe, state, {name: networks[name] for name in recipe.teachers}, arrays


def compile_step(config: ConfigDict, mesh: jax.sharding.Mesh, stage: str = "transfer") -> tuple[Compiled, TrainState]:
    """Compiles a stage's training step for `mesh`, without arrays or devices; returns it and its state's shapes."""
    recipe, state, teachers, batch = shapes_of_step(config, stage)
    step = loop.compile_step(recipe, state, teachers, mesh)
    return step.lower(state, teachers, batch, jax.eval_shape(lambda: jax.random.key(0))).compile(), state


def measure(compiled: Compiled, accumulate: int) -> dict[str, float]:
    """Returns what a compiled training step needs per device and step.

    Args:
        compiled: the step.
        accumulate: the number of its micro-batches. XLA counts the body of a loop once, so its counts are multiplied by
            this number; this also multiplies the optimiser's share, which is small.

    Returns:
        `held` and `peak` bytes of memory, `flops`, `moved` bytes to and from memory, and `sent` bytes to other devices.
    """
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {
        "held": held,
        "peak": held + memory.temp_size_in_bytes,
        "flops": accumulate * cost["flops"],
        "moved": accumulate * cost["bytes accessed"],
        "sent": sum(one.sent for one in collectives(compiled.as_text())),
    }


def seconds(needs: dict[str, float]) -> dict[str, float]:
    """Returns seconds per step on v5e by the roofline model, from the result of `measure`.

    Returns:
        The time for each bound, and `step`, in which communication follows the computation without overlap.
    """
    times = {"compute": needs["flops"] / FLOPS, "memory": needs["moved"] / MEMORY, "links": needs["sent"] / LINKS}
    return times | {"step": max(times["compute"], times["memory"]) + times["links"]}


def step_flags(parser: argparse.ArgumentParser, *, batch: int) -> None:
    """Adds the flags of a training step of KTL; `batch` is the default of --batch."""
    parser.add_argument("--model", default="swin_v2_b", help="backbone of both networks")
    parser.add_argument("--size", type=int, default=256, help="side of the crops in pixels")
    parser.add_argument("--batch", type=int, default=batch, help="examples per step, over all devices")
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches per step")
    parser.add_argument("--remat", action="store_true", help="recompute the student's activations in the backward pass")


def step_config(arguments: argparse.Namespace, **options: Any) -> ConfigDict:
    """Returns the config for the flags of `step_flags`; `options` are additional arguments of both networks."""
    config = base()
    config.image_size = arguments.size
    config.train.update({"bf16": True, "batch_size": arguments.batch, "accumulate": arguments.accumulate})
    config.teacher = {"name": arguments.model, "head": "coordinates"} | options
    config.student = config.teacher.to_dict() | ({"remat": True} if arguments.remat else {})
    return config


def main(argv: Sequence[str] | None = None) -> None:
    """Compiles the step and prints a row of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    step_flags(parser, batch=4096)
    parser.add_argument("--topology", default="v5e:2x4", help="topology of the TPU slice")
    parser.add_argument("--fsdp", type=int, default=1, help="devices that split the state")
    parser.add_argument("--blocks", default="18", help="blocks of the third stage; two numbers are extrapolated to 18")
    arguments = parser.parse_args(argv)
    devices = topologies.get_topology_desc(platform="tpu", topology_name=arguments.topology).devices
    mesh = sharding.make_mesh(devices, shape={"fsdp": arguments.fsdp})
    blocks, found = [int(number) for number in arguments.blocks.split(",")], []
    for number in blocks:
        config = step_config(arguments, depths=(2, 2, number, 2))
        found.append(measure(compile_step(config, mesh)[0], arguments.accumulate))
        say(f"{number} blocks: " + ", ".join(f"{key} {value:.4g}" for key, value in found[-1].items()))
    needs = found[-1]
    if len(found) == 2:
        share = (18 - blocks[0]) / (blocks[1] - blocks[0])
        needs = {key: value + share * (found[1][key] - value) for key, value in found[0].items()}
    times = seconds(needs)
    cells = [
        f"{len(devices)} ({arguments.topology})",
        f"{arguments.accumulate} × {arguments.batch // arguments.accumulate // len(devices)}",
        f"{needs['held'] / 1e9:.1f} / {needs['peak'] / 1e9:.1f}",
        f"{needs['flops'] / 1e12:.1f}",
        f"{needs['sent'] / 1e9:.2f}",
        *(f"{times[key]:.2f}" for key in ("compute", "memory", "links", "step")),
        f"{arguments.batch / times['step']:.0f}",
    ]
    say("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
