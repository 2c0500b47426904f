"""KD-Loss and STAR end to end from the command line: their files, how they resume, and whether they learn."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import once, run_mlcm

from mlcm_jax import config as configs
from mlcm_jax import shape_model
from mlcm_jax.training import sharding, stages
from mlcm_jax.training import state as states
from mlcm_jax.training import step as steps
from mlcm_jax.training.log import read_jsonl
from mlcm_jax.training.workdir import load_stage

STAGES = {"kdloss": ("teacher", "tolerant", "light_alone", "kd"), "star": ("teacher", "light_alone", "direct")}


def arguments(system, workdir, data_dir, *more):
    config = f"--config=configs/{system}_tiny.py:smoke"
    return ["train", config, f"--workdir={workdir}", f"--data_dir={data_dir}", *more]


def finished(system, tmp_path_factory, data_dir):
    def make(folder):
        result = run_mlcm(*arguments(system, folder, data_dir))
        assert result.returncode == 0, result.stdout + result.stderr
        (folder / "output.txt").write_text(result.stdout)

    return once(tmp_path_factory, f"{system}_smoke", make)


@pytest.fixture(scope="session")
def kd_run(tmp_path_factory, data_dir):
    return finished("kdloss", tmp_path_factory, data_dir)


@pytest.fixture(scope="session")
def star_run(tmp_path_factory, data_dir):
    return finished("star", tmp_path_factory, data_dir)


def check_rows(folder, system):
    results = json.loads((folder / "results.json").read_text())
    rows = {row["name"]: row for row in results["rows"]}
    assert tuple(rows) == ("mean_shape", *STAGES[system])
    assert all(np.isfinite(row["nme"]) and 0 < row["nme"] < 100 for row in rows.values())
    assert all(rows[name]["modality"] == "thermal" for name in STAGES[system])
    student = STAGES[system][-1]
    assert rows["light_alone"]["params"] == rows[student]["params"] <= rows["teacher"]["params"]
    for name in STAGES[system]:
        assert [record["step"] for record in read_jsonl(folder / name / "metrics.jsonl")] == [2, 3, 4, 6, 8]


def test_kd_loss_runs_from_the_command_line(kd_run):
    check_rows(kd_run, "kdloss")
    model = shape_model.load(kd_run / "shape_model.npz")
    assert model.mean.shape == (68, 2) and model.variance >= 0.95
    assert f"{model.basis.shape[1]} components keep" in (kd_run / "output.txt").read_text()
    # The tolerant teacher starts as the tough one and sees the same images: only its target differs.
    tough, tolerant = (read_jsonl(kd_run / name / "metrics.jsonl")[0]["task"] for name in ("teacher", "tolerant"))
    assert tough != tolerant


@pytest.mark.slow
def test_kd_resumes_with_the_shape_model_of_the_run(kd_run, tmp_path, data_dir):
    """When the last steps are missing, the shape model is read, not fitted, and the networks end up the same."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", kd_run, copy], check=True)
    before = (copy / "shape_model.npz").read_bytes()
    for name in ("tolerant", "kd"):
        for saved in (copy / name / "checkpoints").iterdir():
            if saved.name == "8":
                subprocess.run(["rm", "-r", saved], check=True)
    again = run_mlcm(*arguments("kdloss", copy, data_dir))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Stage tolerant resumes at step 6" in again.stdout and "Stage kd resumes at step 6" in again.stdout
    assert "components keep" not in again.stdout and (copy / "shape_model.npz").read_bytes() == before
    mesh = sharding.make_mesh(jax.devices()[:1])
    for name in ("tolerant", "kd"):
        one, two = (load_stage(folder, name, mesh=mesh).network for folder in (kd_run, copy))
        jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


def test_star_runs_from_the_command_line(star_run):
    check_rows(star_run, "star")
    first = {name: read_jsonl(star_run / name / "metrics.jsonl")[0] for name in STAGES["star"]}
    assert all({"star", "points", "edges"} <= set(record) for record in first.values())
    assert "maps" in first["direct"] and "maps" not in first["light_alone"]
    record = first["direct"]
    options = configs.load("configs/star_tiny.py", "smoke").loss.options
    parts = record["star"] + options.point_weight * record["points"] + options.edge_weight * record["edges"]
    assert record["loss"] == pytest.approx(parts + 100 * record["maps"], rel=1e-4)


def test_a_student_without_its_teachers_is_refused(tmp_path, data_dir):
    result = run_mlcm(*arguments("kdloss", tmp_path, data_dir, "--config.stages=('kd',)"))
    assert result.returncode == 1
    assert "Stage kd needs teacher" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("system", ["kdloss", "star"])
def test_the_student_of_each_system_learns_a_fixed_batch(system):
    """Trains on one batch of bright spots with landmarks on circles around them; the loss must fall to a fraction."""
    config = configs.load(f"configs/{'kdloss' if system == 'kdloss' else 'star'}_tiny.py", "smoke")
    config.train.update({"warmup": 0.0, "lr": 1e-2, "head_lr": 0.0, "schedule": "constant"})
    name, count, size = STAGES[system][-1], 68 if system == "kdloss" else 51, config.image_size
    rng = np.random.default_rng(0)
    centre = rng.uniform(0.3, 0.7, (8, 1, 2)).astype(np.float32)
    grid = (np.arange(size) + 0.5) / size
    x, y = (grid.reshape(shape) - centre[:, :, k, None] for k, shape in ((0, (1, 1, -1)), (1, (1, -1, 1))))
    spread = np.linspace(0, 2 * np.pi, count)
    shape = 0.2 * np.stack([np.cos(spread), np.sin(spread)], -1).astype(np.float32)
    data = {
        "thermal": jnp.asarray(np.exp(-(x**2 + y**2) / 0.02)[..., None], jnp.float32),
        "landmarks": jnp.asarray(centre + shape[None]),
        "visible": jnp.ones((8, count), bool),
        "known": jnp.ones((8, count), bool),
        "weight": jnp.ones((8, count), jnp.float32),
        "mask": jnp.ones(8, bool),
    }
    mean = (centre.mean((0, 1)) + shape).astype(np.float32)
    network, teacher = (stages.initial_network(stage, config, mean_shape=mean) for stage in (name, "teacher"))
    recipe = stages.recipe(name, config)
    teachers = dict.fromkeys(recipe.teachers, teacher)
    step = jax.jit(functools.partial(steps.train_step, recipe=recipe))
    state, error = states.create(network, {}, recipe.tx), []
    for _ in range(60):
        state, metrics = step(state, teachers, data, jax.random.key(0))
        error.append(float(metrics["task" if system == "star" else "loss"]))
    assert np.isfinite(error).all()
    assert np.mean(error[-5:]) < (0.6 if system == "star" else 0.5) * np.mean(error[:5])


def test_the_loss_curves_are_drawn_and_agree_with_the_paper(tmp_path):
    out = tmp_path / "kd.png"
    command = [sys.executable, "-m", "benchmarks.kd_curves", f"--out={out}", "--tough=0.03", "--tolerant=0.05"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "slope of the sum at e = 0: +0.250" in result.stdout and "differs" not in result.stdout
    assert 10_000 < out.stat().st_size < 80_000
