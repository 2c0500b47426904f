"""The loop of a stage: steps that are not finite are skipped, counted and noted; checkpoints are scored."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlcm_jax import config as configs
from mlcm_jax import losses
from mlcm_jax.data import pipeline
from mlcm_jax.data.examples import open_examples, open_sets
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import evaluate
from mlcm_jax.evaluation.seeds import train
from mlcm_jax.training import checkpoint, run_stage, sharding
from mlcm_jax.training import state as states
from mlcm_jax.training import step as steps
from mlcm_jax.training.log import read_jsonl
from mlcm_jax.training.workdir import load_stage

SMALL = {"name": "resnet18", "width": 0.125, "depths": (1, 1), "stem": "small", "head": "heatmap", "upsample": 1}


@pytest.fixture(scope="module")
def compiled():
    """(one training step, its first state, its teacher), compiled once."""
    distillation = steps.Distillation(1.0, 1.0)
    options = {"modality": "thermal", "teacher_modality": "rgb", "total_steps": 10, "distillation": distillation}
    recipe = steps.Recipe(loss=losses.l1, tx=optax.adam(0.1), **options)
    student, teacher = (states.create_network(SMALL, num_landmarks=5, key=jax.random.key(k)) for k in (1, 2))
    step = jax.jit(functools.partial(steps.train_step, recipe=recipe))
    return step, states.create(student, {}, recipe.tx), teacher


@pytest.mark.parametrize("poisoned", ["thermal", "rgb", "landmarks"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(compiled, poisoned):
    step, state, teacher = compiled
    rng = np.random.default_rng(0)
    shapes = {"rgb": (4, 16, 16, 3), "thermal": (4, 16, 16, 1), "landmarks": (4, 5, 2)}
    good = {key: jnp.asarray(rng.random(shape), jnp.float32) for key, shape in shapes.items()}
    good |= {"visible": jnp.ones((4, 5), bool), "mask": jnp.ones(4, bool)}
    bad = good | {poisoned: good[poisoned].at[0, 0, 0].set(jnp.inf if poisoned == "landmarks" else jnp.nan)}
    key = jax.random.key(0)
    once, scalars = step(state, teacher, good, key)
    assert int(scalars["skipped"]) == int(once.skipped) == 0
    twice, scalars = step(once, teacher, bad, key)
    assert int(scalars["skipped"]) == 1 and not np.isfinite(scalars["loss"])
    assert (int(twice.step), int(twice.skipped)) == (2, 1)
    for name in ("network", "opt_state", "ema", "adapter"):
        jax.tree.map(np.testing.assert_array_equal, getattr(twice, name), getattr(once, name))
    after, scalars = step(twice, teacher, good, key)
    assert np.isfinite(scalars["loss"]) and int(after.skipped) == 1
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (after.network, twice.network)), strict=True))


@pytest.fixture
def poisoned(monkeypatch):
    """Images of steps 2 and 5 are NaN, as a broken sensor's might be."""
    steps_of = pipeline.iterate

    def iterate(dataset, start, **options):
        for step, batch in enumerate(steps_of(dataset, start, **options), start + 1):
            yield batch | {"rgb": np.full(batch["rgb"].shape, np.nan, np.float32)} if step in (2, 5) else batch

    monkeypatch.setattr(pipeline, "iterate", iterate)


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
    examples = open_sets(config.dataset, "train", data_dir=str(data_dir), layout=config.layout)
    still = run_stage._batches(config, examples, ("rgb",))[4]["box"]
    np.testing.assert_array_equal([examples[0][one["index"]]["box"] for one in noted[1]["examples"]], still)
    # The best of the checkpoints on `val` is what is evaluated.
    network = load_stage(tmp_path, "teacher", mesh=sharding.make_mesh(), say=print).network
    validation = open_examples(config.dataset, "val", data_dir=str(data_dir), layout=config.layout)
    error = evaluate.validation_error(network, validation, config=config, modality="rgb", mesh=sharding.make_mesh())
    folder = tmp_path / "elsewhere" / "teacher"
    manager = checkpoint.open_manager(folder)
    errors = {step: manager.metrics(step)["error"] for step in manager.all_steps()}
    assert set(errors) == {int(p.name) for p in folder.iterdir() if p.name.isdigit()} and {6, 8} <= set(errors)
    manager.close()
    assert error == pytest.approx(min(errors.values()), rel=1e-5)


def test_more_of_them_than_allowed_stop_the_run(tmp_path, data_dir, poisoned):
    config = teacher_alone()
    config.log_every, config.max_skipped = 4, 1
    with pytest.raises(InputError, match=r"skipped 2 steps up to step 8 \(the loss was nan; 1 are allowed\)"):
        train(config, tmp_path, data_dir=str(data_dir))
