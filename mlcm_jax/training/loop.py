"""The loop of a stage: batches in, steps, numbers out; stops for signals and for steps that are not finite."""

import contextlib
import functools
import itertools
import json
import math
import signal
from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mlcm_jax.console import progress, say
from mlcm_jax.data import pipeline
from mlcm_jax.errors import InputError, Interrupted
from mlcm_jax.files import write_json
from mlcm_jax.training import distributed, sharding
from mlcm_jax.training import step as steps

_calls = itertools.count()


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], int]]:
    """Yields `stop()`, to be called after every step: the number of the signal to stop for, or 0.

    Among several processes one that is told to stop takes the others along, after the same step: JAX's service for
    preemption sees the SIGTERM of any and agrees on the step. A second Ctrl-C stops at once.
    """
    received: list[int] = []
    several = jax.process_count() > 1

    def note(number, _):
        received.append(number)
        signal.signal(number, previous[number])
        if several:
            signal.raise_signal(signal.SIGTERM)

    def stop() -> int:
        if several:
            return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(next(_calls)) else 0
        return received[0] if received else 0

    caught = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, note) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def compile_step(recipe: steps.Recipe, state, teacher, mesh: Mesh):
    """jit of the step with explicit shardings; the state is donated."""
    whole = sharding.replicated(mesh)
    of_state, of_teacher = sharding.tree_shardings(state, mesh), sharding.tree_shardings(teacher, mesh)
    return jax.jit(
        functools.partial(steps.train_step, recipe=recipe, gather=functools.partial(sharding.gathered, mesh=mesh)),
        in_shardings=(of_state, of_teacher, sharding.batch_sharding(mesh), whole),
        out_shardings=(of_state, whole),
        donate_argnums=0,
    )


def _note_skipped(path: epath.Path, skipped: list[int], members: Callable[[int], list[dict[str, Any]]]) -> None:
    """Adds the examples of steps that were not finite to skipped.json of the stage."""
    known = json.loads(path.read_text()) if path.exists() else []
    known = [one for one in known if one["step"] not in skipped]
    write_json(path, known + [{"step": step, "examples": members(step - 1)} for step in skipped])


def _check_finite(
    name: str, window: list[dict[str, Any]], step: int, total: int, *, allowed: int, path: epath.Path, members
) -> None:
    """Tells of the steps that were skipped among the last `len(window)`, and raises InputError for too many."""
    skipped = [step - len(window) + 1 + i for i, scalars in enumerate(window) if scalars["skipped"]]
    if not skipped:
        return
    if distributed.is_main():
        _note_skipped(path, skipped[: allowed + 1], members)
    distributed.wait_for_all("skipped steps")
    loss = next(scalars["loss"] for scalars in window if scalars["skipped"])
    why = f"the loss was {loss:g}" if not math.isfinite(loss) else "the gradient was not finite"
    listed = ", ".join(map(str, skipped[:5])) + (", …" if len(skipped) > 5 else "")
    say(f"Stage {name} skipped step {listed}: {why}; {total} skipped so far. Their examples are in {path}.")
    if total > allowed:
        raise InputError(
            f"Stage {name} has skipped {total} steps up to step {step} ({why}; {allowed} are allowed); lower "
            f"config.train.lr, or look for broken images or landmarks among the examples in {path}."
        )


def run_steps(
    name: str,
    config: Any,
    recipe: steps.Recipe,
    state: Any,
    teacher: Any,
    batches: grain.MapDataset,
    *,
    mesh: Mesh,
    rng: jax.Array,
    start: int,
    write: Callable[[int, dict[str, float]], None],
    save: Callable[..., None],
    skipped_path: epath.Path,
    members: Callable[[int], list[dict[str, Any]]],
) -> Any:
    """Takes a stage from step `start` to its end; returns the state, saved.

    Args:
      name, config, recipe: of the stage.
      state, teacher: placed on the mesh; the state is donated.
      batches: `batches[step]` is this process's part of the global batch.
      mesh, rng: of the run; the key is on every device.
      start: steps taken before.
      write: is given the means of the metrics since the last call.
      save: is given a step, its state and whether to score it: at the end, every `config.checkpoint_every` steps, and
        unscored for a signal.
      skipped_path: where the examples of steps that were not finite are noted.
      members: step, from 0 -> its examples, see `pipeline.members`.

    Raises:
      Interrupted: after a signal, when the step in flight is done and saved.
      InputError: too many steps that were not finite.
    """
    step_function = compile_step(recipe, state, teacher, mesh)
    # Few skipped steps harm nothing; a quarter of a short run is not few.
    allowed = min(config.max_skipped, recipe.total_steps // 4)
    source, history = pipeline.iterate(batches, start), []
    bar = progress(name, total=recipe.total_steps, start=start, unit_size=config.train.batch_size)
    with _interrupts() as stop, bar as advance:
        for step in range(start + 1, recipe.total_steps + 1):
            batch = sharding.put_batch(next(source), mesh)
            # Nothing inside a step may fetch from or send to the devices behind our back.
            with jax.transfer_guard("disallow"):
                state, scalars = step_function(state, teacher, batch, rng)
            history.append(scalars)
            last, signal_number = step == recipe.total_steps, stop()
            saves = last or step % config.checkpoint_every == 0 or signal_number
            if step % config.log_every == 0 or saves:
                window, total = jax.device_get((history, state.skipped))
                history = []
                _check_finite(name, window, step, int(total), allowed=allowed, path=skipped_path, members=members)
                finite = [scalars for scalars in window if not scalars["skipped"]]
                means = steps.average(finite) if finite else {}
                write(step, means | {"skipped": float(total)})
                advance(step, f"loss {means.get('loss', math.nan):.3f}")
            if saves:
                # For a signal there is no time to score, and no other candidates of the best than without one.
                save(step, state, scored=last or step % config.checkpoint_every == 0)
            if signal_number:
                raise Interrupted(f"Stopped in stage {name} after step {step}; all of it is saved.", signal_number)
    return state
