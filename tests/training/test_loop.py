"""The loop of a stage: steps that are not finite are skipped, counted and recorded; checkpoints are scored."""

import contextlib
import itertools
import json
import multiprocessing
import signal
import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import batch, distilling, make_recipe, network, start, step, task

from mlcm_jax import config as configs
from mlcm_jax.data import pipeline
from mlcm_jax.data.examples import open_examples
from mlcm_jax.errors import InputError, Interrupted
from mlcm_jax.evaluation import evaluate
from mlcm_jax.evaluation.seeds import train
from mlcm_jax.training import checkpoint, loop, run_stage, sharding
from mlcm_jax.training.log import read_jsonl
from mlcm_jax.training.workdir import load_stage


@pytest.fixture(scope="module")
def recipe():
    return make_recipe(*task(), *distilling(alpha=1.0, beta=1.0), tx=optax.adam(0.1))


@pytest.mark.parametrize("poisoned", ["thermal", "rgb", "landmarks"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(recipe, poisoned):
    good, teachers = batch(), {"teacher": network(2)}
    bad = good | {poisoned: good[poisoned].at[0, 0, 0].set(jnp.inf if poisoned == "landmarks" else jnp.nan)}
    once, metrics = step(recipe, start(recipe), teachers, good)
    assert int(metrics["skipped"]) == int(once.skipped) == 0
    twice, metrics = step(recipe, once, teachers, bad)
    assert int(metrics["skipped"]) == 1 and not np.isfinite(metrics["loss"])
    assert (int(twice.step), int(twice.skipped)) == (2, 1)
    for name in ("network", "opt_state", "ema", "adapter"):
        jax.tree.map(np.testing.assert_array_equal, getattr(twice, name), getattr(once, name))
    after, metrics = step(recipe, twice, teachers, good)
    assert np.isfinite(metrics["loss"]) and int(after.skipped) == 1
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (after.network, twice.network)), strict=True))


def test_average_is_the_mean_over_steps():
    steps = [{"loss": np.float32(1.0), "task": np.float32(4.0)}, {"loss": np.float32(3.0), "task": np.float32(0.0)}]
    assert loop.average(steps) == {"loss": 2.0, "task": 2.0}
    assert loop.average([]) == {}


@pytest.fixture
def poisoned(monkeypatch):
    """The images of steps 2 and 5 are NaN, as from a broken sensor."""
    iterate = pipeline.iterate

    def spoilt(batches, start):
        for count, one in enumerate(batches, start + 1):
            yield one | {"rgb": np.full(one["rgb"].shape, np.nan, np.float32)} if count in (2, 5) else one

    @contextlib.contextmanager
    def opened(dataset, start, **options):
        with iterate(dataset, start, **options) as batches:
            yield spoilt(batches, start)

    monkeypatch.setattr(pipeline, "iterate", opened)


def teacher_alone():
    config = configs.load("configs/tiny.py", "smoke")
    config.stages, config.log_every, config.checkpoint_every = ("teacher",), 1, 100
    return config


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path, data_dir, poisoned):
    config = teacher_alone()
    config.log_every, config.keep_best, config.checkpoint_every = 4, True, 2
    config.checkpoint_dir = str(tmp_path / "elsewhere")
    train(config, tmp_path, data_dir=str(data_dir))
    records = read_jsonl(tmp_path / "teacher" / "metrics.jsonl")
    assert [(r["step"], r["skipped"]) for r in records] == [(2, 1), (4, 1), (6, 2), (8, 2)]
    assert all(np.isfinite(list(record.values())).all() for record in records)
    noted = json.loads((tmp_path / "teacher" / "skipped.json").read_text())
    assert [one["step"] for one in noted] == [2, 5]
    mesh = sharding.make_mesh()
    run = run_stage.prepare(config, tmp_path, data_dir=str(data_dir), mesh=mesh, validate=lambda *_: 0.0)
    fifth = run_stage._batches(run, "teacher", ("rgb",))[4]["box"]
    np.testing.assert_array_equal([run.examples[0][one["index"]]["box"] for one in noted[1]["examples"]], fifth)
    # The checkpoint that is best on `val` is the one that is evaluated.
    kept = load_stage(tmp_path, "teacher", mesh=mesh, say=print).network
    validation = open_examples(config.dataset, "val", data_dir=str(data_dir), layout=run.examples[0].layout)
    error = evaluate.validation(config, mesh)(kept, validation, "rgb")
    folder = tmp_path / "elsewhere" / "teacher"
    manager = checkpoint.open_manager(folder, scored=True)
    errors = {step: manager.metrics(step)["error"] for step in manager.all_steps()}
    assert set(errors) == {int(p.name) for p in folder.iterdir() if p.name.isdigit()} and {6, 8} <= set(errors)
    manager.close()
    assert error == pytest.approx(min(errors.values()), rel=1e-5)


def test_more_skipped_steps_than_allowed_stop_the_run(tmp_path, data_dir, poisoned):
    config = teacher_alone()
    config.log_every, config.max_skipped = 4, 1
    with pytest.raises(InputError, match=r"skipped 2 steps up to step 8 \(the loss was nan; 1 are allowed\)"):
        train(config, tmp_path, data_dir=str(data_dir))


@pytest.mark.parametrize(("total_steps", "allowed"), [(8, 2), (40, 10), (1000, 10)])
def test_a_quarter_of_a_short_stage_may_be_skipped_and_max_skipped_of_a_long_one(total_steps, allowed):
    noted = []
    stage = SimpleNamespace(
        name="teacher",
        config=SimpleNamespace(max_skipped=10),
        recipe=SimpleNamespace(total_steps=total_steps),
        note_skipped=lambda skipped: noted.append(skipped) or "skipped.json",
    )
    window = [{"loss": np.float32(np.nan), "skipped": 1}] * allowed
    loop._check_finite(stage, window, step=allowed, total=allowed)
    assert noted == [list(range(1, allowed + 1))]
    with pytest.raises(InputError, match=rf"skipped {allowed + 1} steps .* {allowed} are allowed"):
        loop._check_finite(stage, window[:1], step=allowed + 1, total=allowed + 1)


def test_a_stage_that_a_signal_stops_is_saved_but_not_scored(tmp_path, data_dir, monkeypatch):
    """An uninterrupted run would not score this step either, so that both choose among the same candidates."""
    calls = itertools.count(1)

    @contextlib.contextmanager
    def third_step():
        yield lambda: signal.SIGTERM if next(calls) == 3 else 0

    monkeypatch.setattr(loop, "_interrupts", third_step)
    config = teacher_alone()
    config.keep_best, config.checkpoint_every, config.loader_processes = True, 2, 1
    with pytest.raises(Interrupted, match=r"Stopped in stage teacher after step 3"):
        train(config, tmp_path, data_dir=str(data_dir))
    assert not multiprocessing.active_children()  # the one that loaded the images has ended too
    manager = checkpoint.open_manager(tmp_path / "teacher" / "checkpoints", scored=True)
    assert sorted(manager.all_steps()) == [2, 3] and manager.metrics(2) and not manager.metrics(3)
    manager.close()


def test_an_early_checkpoint_may_be_the_best_of_a_finished_stage(tmp_path, data_dir):
    config, errors = teacher_alone(), iter([1.0, 2.0])
    config.keep_best, config.checkpoint_every, config.steps.teacher = True, 2, 4
    mesh = sharding.make_mesh(jax.devices()[:1])
    run = run_stage.prepare(config, tmp_path, data_dir=str(data_dir), mesh=mesh, validate=lambda *_: next(errors))
    trained = run_stage.train_stages(run)["teacher"].network
    manager = checkpoint.open_manager(tmp_path / "teacher" / "checkpoints", scored=True)
    assert checkpoint.best_step(manager) == 2 and max(manager.all_steps()) == 4
    manager.close()
    jax.tree.map(
        np.testing.assert_array_equal, load_stage(tmp_path, "teacher", mesh=mesh).network.params, trained.params
    )


def test_a_stage_trains_outside_the_main_thread(tmp_path, data_dir):
    """Only the main thread can handle signals; on a worker thread of a notebook or server, training ignores them."""
    config, found = teacher_alone(), []
    config.steps.teacher = 2

    def work():
        try:
            found.append(train(config, tmp_path, data_dir=str(data_dir)))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(300)
    assert [row["name"] for row in found[0]["rows"]] == ["mean_shape", "teacher"]
