"""What a training step will need on a pod that nobody has to own: memory, time and communication, as compiled.

    TPU_SKIP_MDS_QUERY=1 python -m benchmarks.plan [--topology=v5e:2x4] [--batch=4096] [--accumulate=32] [--remat]

Compiles the transfer stage (KTL, SwinV2-B to SwinV2-B at 256 pixels, bfloat16) for a TPU topology, which needs the
package libtpu (0.0.42.1 was used; in an environment of its own, it is no dependency) but no TPU. Prints a row of the
table in docs/pods.md. `collectives` reads the communication of any compiled program.

Compiling all 24 blocks of both networks takes long. With `--blocks=2,4` the
third stage is compiled with so many blocks, and the numbers are continued linearly to its 18.
"""

import argparse
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from mlcm_jax.config import base
from mlcm_jax.console import say
from mlcm_jax.training import loop, run_stage, sharding, stages
from mlcm_jax.training import state as states
from mlcm_jax.training import step as steps

# Of a v5e chip (https://cloud.google.com/tpu/docs/v5e): bfloat16 operations a second; bytes a second to its memory; and
# bytes a second to its neighbours: 1600 Gbit/s over four links, half of them, as smaller slices are no torus.
FLOPS, MEMORY, LINKS = 197e12, 819e9, 1600e9 / 8 / 2

_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast"
_OPERATION = re.compile(rf" = (.*?) ({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|body|condition|branch_computations|true_computation|false_computation)=")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a compiled program.

    `bytes`: of the data that is combined, on one device: the result, of a reduce-scatter the operand. `group`: devices
    that combine it. `times`: how often a step runs it. `arrays`: the sizes of its parts, in numbers.
    """

    kind: str
    bytes: int
    group: int
    times: int
    arrays: tuple[int, ...]

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step, by the ring algorithms."""
        rounds = {"all-reduce": 2.0, "collective-permute": self.group / max(self.group - 1, 1)}.get(self.kind, 1.0)
        return self.times * rounds * self.bytes * (self.group - 1) / self.group


def _width(dtype: str) -> int:
    """Bytes of a number: f32 -> 4, pred -> 1, token -> 0."""
    digits = re.search(r"\d+", dtype)
    return 1 if dtype == "pred" else -(-int(digits.group()) // 8) if digits else 0


def _group(line: str, devices: int) -> int:
    """Devices in a replica group, in any of XLA's notations; `devices` where the line names none."""
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", line)
    if named:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        # 'axis':(m)n is the part of n of an axis that is split in m and n.
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]<=", line)
    if iota:
        return int(iota[1])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if listed:
        return len(listed[1].split(","))
    return 2 if "source_target_pairs" in line else devices


def _one(line: str, devices: int, times: int, scatters: bool) -> Collective | None:
    found = _OPERATION.search(line)
    if not found:
        return None
    result, kind, starts = found.groups()
    parts = [(_width(d), math.prod(int(n) for n in dims.split(",") if n)) for d, dims in _ARRAY.findall(result)]
    group = _group(line, devices)
    total = sum(width * numbers for width, numbers in parts)
    if starts and kind == "all-gather":  # the type of these pairs names the operands as well as the results
        total = total * group // (group + 1)
    if starts and kind == "collective-permute":
        total //= 2
    if kind == "reduce-scatter":
        total *= group
    return Collective("reduce-scatter" if scatters else kind, total, group, times, tuple(n for _, n in parts))


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """({name: lines}, name of the entry) of an HLO module."""
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
    """How often a loop runs its body: as XLA says, or the one number that its condition compares with; else 1."""
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
    """The collectives of a compiled program (`compiled.as_text()`), with the trip counts of the loops around them.

    A loop whose trip count XLA does not know counts once.
    """
    bodies, entry = _computations(text)
    count = re.search(r"num_partitions=(\d+)", text)
    devices = int(count[1]) if count else 1
    found: list[Collective] = []

    def walk(name: str, times: int) -> None:
        for line in bodies[name]:
            one = _one(line, devices, times, "all-reduce-scatter" in name)
            found.extend([one] if one else [])
            trips = _trips(line, bodies)
            for place in _CALLED.finditer(line):
                names = re.match(r"\{([^}]*)\}|([^,\s]+)", line[place.end() :])
                for called in (names[1] or names[2]).replace("%", "").split(","):
                    if called.strip() in bodies:
                        walk(called.strip(), times * trips)

    walk(entry, 1)
    return found


def shapes_of_step(
    config: Any, stage: str = "transfer", *, soft: Any = None, networks: Mapping[str, states.Network] | None = None
) -> tuple[steps.Recipe, states.TrainState, Any, dict[str, jax.ShapeDtypeStruct]]:
    """(recipe, state, teacher, batch) of a stage, as training makes them, but as shapes: no array is made.

    `soft` is the shape model of a stage that learns soft landmarks; `networks` are shapes of those that the stage reads
    (None: worked out here).
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
        "mask": ((batch,), jnp.bool_),
    }
    reads = (shapes.keys() - {"rgb", "thermal"}) | {recipe.modality, recipe.teacher_modality}
    arrays = {key: jax.ShapeDtypeStruct(*shape) for key, shape in shapes.items() if key in reads}
    return recipe, state, run_stage.teacher_of(stage, recipe, networks), arrays


def compile_step(config: Any, mesh: jax.sharding.Mesh, stage: str = "transfer") -> tuple[Any, states.TrainState]:
    """(compiled training step, shapes of its state) of a stage for `mesh`; no array is made and no device needed."""
    recipe, state, teacher, batch = shapes_of_step(config, stage)
    step = loop.compile_step(recipe, state, teacher, mesh)
    return step.lower(state, teacher, batch, jax.eval_shape(lambda: jax.random.key(0))).compile(), state


def measure(compiled: Any, accumulate: int) -> dict[str, float]:
    """Per device and step: `held` and `peak` bytes of memory, `flops`, `moved` bytes of memory, `sent` bytes.

    XLA counts the work of a loop's body once, so its counts are taken `accumulate` times; that also counts the
    optimiser as often, which is small beside it.
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
    """The roofline's time of a step by what bounds it, and `step`: communication after all work, nothing overlapped."""
    times = {"compute": needs["flops"] / FLOPS, "memory": needs["moved"] / MEMORY, "links": needs["sent"] / LINKS}
    return times | {"step": max(times["compute"], times["memory"]) + times["links"]}


def step_flags(parser: argparse.ArgumentParser, *, batch: int) -> None:
    """Flags of a training step of KTL; `batch` is the default of --batch."""
    parser.add_argument("--model", default="swin_v2_b")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--remat", action="store_true")


def step_config(arguments: argparse.Namespace, **options: Any) -> Any:
    """The config of `step_flags`; `options` are of both networks."""
    config = base()
    config.image_size = arguments.size
    config.train.update({"bf16": True, "batch_size": arguments.batch, "accumulate": arguments.accumulate})
    config.teacher = {"name": arguments.model, "head": "coordinates"} | options
    config.student = config.teacher.to_dict() | ({"remat": True} if arguments.remat else {})
    return config


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    step_flags(parser, batch=4096)
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--fsdp", type=int, default=1)
    parser.add_argument("--blocks", default="18", help="blocks of the third stage; two numbers: continued to 18")
    arguments = parser.parse_args()
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
