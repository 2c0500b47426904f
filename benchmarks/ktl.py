"""Measures the training step of KTL on this machine's devices: images per second, FLOPs utilisation, peak memory.

    python -m benchmarks.ktl --peak_tflops=989           # an H200: 989 TFLOP/s in bfloat16, dense
    python -m benchmarks.ktl --model=resnet18 --size=32 --batch=4 --steps=3      # only to see whether it runs (a CPU)

In the stage KTL, an RGB teacher teaches a thermal student of the same size. Here both are SwinV2-B at 256 pixels in
bfloat16. Random images stay on the devices, so the loader is not measured. Peak memory is printed beside the amount
that XLA planned when it compiled the step. The FLOPs are those of the model, without recomputation: forward passes of
teacher and student, and the student's backward pass, which counts twice. Results: RESULTS.md, "The step of KTL". For
TPUs, docs/pods.md has what the compiled step needs.
"""

import argparse
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine, plan
from mlcm_jax import models
from mlcm_jax.console import say
from mlcm_jax.models import network as networks
from mlcm_jax.training import loop, sharding, stages
from mlcm_jax.training import state as states


def main(argv: Sequence[str] | None = None) -> None:
    """Times the step and prints the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plan.step_flags(parser, batch=64)
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    parser.add_argument("--peak_tflops", type=float, default=0.0, help="of one device, in bfloat16; 0: no utilisation")
    arguments = parser.parse_args(argv)
    say(machine.describe())
    config = plan.step_config(arguments)
    mesh = sharding.make_mesh()
    recipe, shapes, teacher_shapes, batch_shapes = plan.shapes_of_step(config)
    mean = np.full((stages.layout(config).count, 2), 0.5, np.float32)
    student, teacher = (stages.initial_network(name, config, mean_shape=mean) for name in ("transfer", "teacher"))
    state = sharding.put_sharded(states.create(student, {}, recipe.tx), mesh)
    teachers = {"teacher": sharding.put_sharded(teacher, mesh)}
    rng = np.random.default_rng(0)
    batch = {
        key: np.ones(one.shape, bool) if one.dtype == jnp.bool_ else rng.random(one.shape, np.float32)
        for key, one in batch_shapes.items()
    }
    batch, key = sharding.put_batch(batch, mesh), sharding.put_replicated(jax.random.key(0), mesh)
    step = loop.compile_step(recipe, shapes, teacher_shapes, mesh).lower(state, teachers, batch, key).compile()
    for _ in range(2):
        state, _ = step(state, teachers, batch, key)
    jax.block_until_ready(state)
    began = time.perf_counter()
    for _ in range(arguments.steps):
        state, _ = step(state, teachers, batch, key)
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - began) / arguments.steps
    if int(state.skipped):
        raise SystemExit(f"{int(state.skipped)} steps were not finite, so the time is meaningless.")

    devices = jax.devices()
    flops = sum(
        models.profile(networks.join(network), arguments.size, channels=channels)["flops"] * passes
        for network, channels, passes in ((student, 1, 3), (teacher, 3, 1))
    )
    done = flops * arguments.batch / seconds / len(devices)
    say(f"{len(devices)} × {devices[0].device_kind}, batch {arguments.batch} in {arguments.accumulate}")
    rate = f"{arguments.batch / seconds:.1f} images/s of {arguments.size} px"
    say(f"{1000 * seconds:.1f} ms per step, {rate}, {done / 1e12:.2f} TFLOP/s per device")
    if arguments.peak_tflops:
        say(f"model FLOPs utilisation {100 * done / 1e12 / arguments.peak_tflops:.1f} %")
    used = (devices[0].memory_stats() or {}).get("peak_bytes_in_use")
    planned = plan.measure(step, arguments.accumulate)["peak"] / 1e9
    measured = f"{used / 1e9:.2f} GB" if used else "not reported by this device"
    say(f"peak memory {measured}, as compiled {planned:.2f} GB")


if __name__ == "__main__":
    main()
