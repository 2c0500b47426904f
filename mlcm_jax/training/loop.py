"""The training loop of a stage. It stops on a signal, or when too many losses or gradients are not finite."""

import contextlib
import dataclasses
import functools
import itertools
import math
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mlcm_jax.console import progress, say
from mlcm_jax.data import pipeline
from mlcm_jax.errors import InputError, Interrupted
from mlcm_jax.training import distributed, quick, sharding
from mlcm_jax.training.recipe import Recipe
from mlcm_jax.training.state import TrainState
from mlcm_jax.training.step import Teachers, train_step

_calls = itertools.count()


@dataclasses.dataclass(frozen=True)
class Loop:
    """The inputs and callbacks of a stage's loop.

    Attributes:
        name: the stage's name.
        recipe: the stage's recipe.
        config: the run's config.
        batches: `batches[step]` is this process's part of the global batch.
        mesh: the devices.
        rng: the key of the run, on every device.
        write: called with a step and the means of the metrics since the last call.
        save: called with a step, its state, and whether to score it.
        note_skipped: called with the skipped steps; writes their examples to a file and returns its path.
    """

    name: str
    recipe: Recipe
    config: ConfigDict
    batches: grain.MapDataset
    mesh: Mesh
    rng: jax.Array
    write: Callable[[int, dict[str, float]], None]
    save: Callable[..., None]
    note_skipped: Callable[[list[int]], str]


def run(loop: Loop, state: TrainState, teachers: Teachers, *, start: int) -> TrainState:
    """Trains a stage from step `start` to its end.

    Args:
        loop: see `Loop`.
        state: the state after `start` steps, on the mesh; it is donated.
        teachers: the teachers' networks, on the mesh.
        start: number of steps already taken.

    Returns:
        The last state, which is also saved.

    Raises:
        Interrupted: a signal arrived; the current step was finished and saved.
        InputError: too many steps were skipped because they were not finite.
    """
    config, total_steps = loop.config, loop.recipe.total_steps
    options = quick.options() if config.quick_compile else {}
    step_function = compile_step(loop.recipe, state, teachers, loop.mesh, options=options)
    history: list[dict[str, Any]] = []
    bar = progress(loop.name, total=total_steps, start=start, unit_size=config.train.batch_size)
    batches = pipeline.iterate(loop.batches, start, processes=config.loader_processes)
    with _interrupts() as stop, batches as source, bar as advance:
        for step in range(start + 1, total_steps + 1):
            batch = sharding.put_batch(next(source), loop.mesh)
            # A step must not copy data from or to the devices implicitly.
            with jax.transfer_guard("disallow"):
                state, metrics = step_function(state, teachers, batch, loop.rng)
            history.append(metrics)
            signal_number = stop()
            scored = step == total_steps or step % config.checkpoint_every == 0
            saves = scored or signal_number
            if step % config.log_every == 0 or saves:
                window, skipped = jax.device_get((history, state.skipped))
                history = []
                _check_finite(loop, window, step, int(skipped))
                means = average([metrics for metrics in window if not metrics["skipped"]])
                loop.write(step, means | {"skipped": float(skipped)})
                advance(step, f"loss {means.get('loss', math.nan):.3f}")
            if saves:
                # Don't score when stopping on a signal: there is no time, and it would add a "best" candidate that an
                # uninterrupted run lacks.
                loop.save(step, state, scored=scored)
            if signal_number:
                raise Interrupted(f"Stopped in stage {loop.name} after step {step}; all of it is saved.", signal_number)
    return state


def compile_step(
    recipe: Recipe, state: TrainState, teachers: Teachers, mesh: Mesh, *, options: dict[str, Any] | None = None
) -> Callable:
    """Returns the jitted step, with explicit shardings and the state donated.

    Args:
        recipe: the static part of the step.
        state: the state of the stage, as arrays or as shapes.
        teachers: the teachers' networks, as arrays or as shapes.
        mesh: the devices.
        options: options of XLA, such as those of `quick`.
    """
    whole = sharding.replicated(mesh)
    of_state, of_teachers = sharding.tree_shardings(state, mesh), sharding.tree_shardings(teachers, mesh)
    return jax.jit(
        functools.partial(train_step, recipe=recipe, gather=functools.partial(sharding.gathered, mesh=mesh)),
        in_shardings=(of_state, of_teachers, sharding.batch_sharding(mesh), whole),
        out_shardings=(of_state, whole),
        donate_argnums=0,
        compiler_options=options,
    )


def average(history: list[dict[str, Any]]) -> dict[str, float]:
    """Averages scalar metrics on the host over steps; {} for no steps."""
    names = history[0] if history else ()
    return {name: float(np.mean([metrics[name] for metrics in history], dtype=np.float32)) for name in sorted(names)}


def _check_finite(loop: Loop, window: list[dict[str, Any]], step: int, total: int) -> None:
    """Reports the skipped steps of a window of metrics; raises InputError if `total`, in all, is too many."""
    skipped = [step - len(window) + 1 + i for i, metrics in enumerate(window) if metrics["skipped"]]
    if not skipped:
        return
    # A few skipped steps do no harm, but a quarter of a short run is too much.
    allowed = min(loop.config.max_skipped, loop.recipe.total_steps // 4)
    place = loop.note_skipped(skipped[: allowed + 1])
    distributed.wait_for_all("skipped steps")
    loss = next(metrics["loss"] for metrics in window if metrics["skipped"])
    why = f"the loss was {loss:g}" if not math.isfinite(loss) else "the gradient was not finite"
    listed = ", ".join(map(str, skipped[:5])) + (", …" if len(skipped) > 5 else "")
    say(f"Stage {loop.name} skipped step {listed}: {why}; {total} skipped so far. Their examples are in {place}.")
    if total > allowed:
        raise InputError(
            f"Stage {loop.name} has skipped {total} steps up to step {step} ({why}; {allowed} are allowed); lower "
            f"config.train.lr, or look for broken images or landmarks among the examples in {place}."
        )


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], int]]:
    """Yields `stop()`, to be called after every step; it returns the number of the signal to stop for, or 0.

    If one of several processes gets a signal, all of them stop after the same step: JAX's preemption service notices a
    SIGTERM in any process and makes all agree on the step. A second Ctrl-C stops at once. Only the main thread of a
    program can handle signals; on another thread, a stage trains without handling them.
    """
    several = jax.process_count() > 1
    received: list[int] = []

    def stop() -> int:
        if several:
            return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(next(_calls)) else 0
        return received[0] if received else 0

    def note(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])
        if several:
            signal.raise_signal(signal.SIGTERM)

    caught = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        caught = ()
    previous = {number: signal.signal(number, note) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
