"""Training end to end, mostly in other processes: the files it writes, how it resumes, and how it stops."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import SMOKE, run_mlcm

from mlcm_jax import config as configs
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation.seeds import train
from mlcm_jax.training import run_stage, sharding, stages
from mlcm_jax.training.log import read_jsonl
from mlcm_jax.training.workdir import load_stage


def arguments(workdir, data_dir, *more):
    return ["train", f"--config={SMOKE}", f"--workdir={workdir}", f"--data_dir={data_dir}", *more]


def start(workdir, data_dir, *more, env=None):
    command = [sys.executable, "-m", "mlcm_jax.cli", *arguments(workdir, data_dir, *more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def wait_for(process, reached):
    """Waits until `reached()` is true or the process ends by itself."""
    deadline = time.monotonic() + 300
    while process.poll() is None and not reached():
        assert time.monotonic() < deadline, "nothing happened for five minutes"
        time.sleep(0.005)


def logged_step(workdir, stage):
    records = read_jsonl(workdir / stage / "metrics.jsonl")
    return records[-1]["step"] if records else 0


def networks(workdir, names):
    mesh = sharding.make_mesh(jax.devices()[:1])
    return {name: load_stage(workdir, name, mesh=mesh).network for name in names}


def assert_same_networks(one, two, names):
    a, b = networks(one, names), networks(two, names)
    for name in names:
        assert jax.tree.leaves(a[name].params)
        jax.tree.map(np.testing.assert_array_equal, a[name].params, b[name].params)
        jax.tree.map(np.testing.assert_array_equal, a[name].stats, b[name].stats)


def test_a_run_writes_results_and_plots(smoke_run):
    results = json.loads((smoke_run / "results.json").read_text())
    assert set(results) == {"dataset", "split", "normalizer", "rows"}
    assert [row["name"] for row in results["rows"]] == [
        "mean_shape", "teacher", "thermal_alone", "transfer", "light_alone", "compress",
    ]  # fmt: skip
    for row in results["rows"]:
        assert {"name", "modality", "params", "flops", "nme", "fr10", "auc10"} <= set(row)
        assert 0 < row["nme"] < 100 and 0 <= row["fr10"] <= 100 and 0 <= row["auc10"] <= 1
    by_name = {row["name"]: row for row in results["rows"]}
    assert by_name["light_alone"]["params"] == by_name["compress"]["params"] < 2**20
    assert by_name["teacher"]["modality"] == "rgb" and by_name["compress"]["modality"] == "thermal"
    for name in ("samples.png", "ced.png", "loss.png"):
        assert (smoke_run / name).stat().st_size > 5000
    output = (smoke_run / "output.txt").read_text()
    assert "mean_shape" in output and "√(w·h)" in output and "images/s" in output


def test_metrics_are_logged_for_every_stage(smoke_run):
    for name in configs.load("configs/tiny.py", "smoke").stages:
        records = read_jsonl(smoke_run / name / "metrics.jsonl")
        assert [record["step"] for record in records] == [2, 3, 4, 6, 8]
    assert "reverse" in read_jsonl(smoke_run / "transfer" / "metrics.jsonl")[0]
    assert "reverse" not in read_jsonl(smoke_run / "thermal_alone" / "metrics.jsonl")[0]


def prepared(tmp_path, data_dir, **changes):
    """Returns the run of the smoke config, with its datasets opened."""
    config = configs.load("configs/tiny.py", "smoke")
    config.update(changes)
    return run_stage.prepare(config, tmp_path, data_dir=str(data_dir), mesh=sharding.make_mesh(jax.devices()[:1]))


@pytest.mark.parametrize("names", [("thermal_alone", "transfer"), ("light_alone", "compress")])
def test_student_and_control_share_initialisation_and_data(tmp_path, data_dir, names):
    run = prepared(tmp_path, data_dir)
    one, two = (stages.initial_network(name, run.config, mean_shape=run.mean_shape) for name in names)
    assert jax.tree.leaves(one.params)
    jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    alone, taught = (run_stage._batches(run, name, stages.recipe(name, run.config).modalities) for name in names)
    assert ("rgb" in taught[0]) == (names[1] == "transfer") and "rgb" not in alone[0]
    for step in (0, 7):
        assert set(alone[step]) == set(taught[step]) - {"rgb"}
        for key, value in alone[step].items():
            np.testing.assert_array_equal(value, taught[step][key])


def test_the_shape_model_is_fitted_to_augmented_crops_and_kept(tmp_path, data_dir):
    run = prepared(tmp_path, data_dir)
    model = run_stage._shape_model(run, "tolerant")
    batches = run_stage._batches(run, "tolerant", ("rgb",))
    shapes = np.concatenate([batches[k]["landmarks"] for k in range(2048 // run.config.train.batch_size)])
    np.testing.assert_allclose(model.mean, shapes.mean(0, dtype=np.float64), atol=1e-6)
    assert model.variance >= run.config.shape_variance
    written = (tmp_path / "shape_model.npz").stat().st_mtime_ns
    np.testing.assert_array_equal(run_stage._shape_model(run, "tolerant").basis, model.basis)
    assert (tmp_path / "shape_model.npz").stat().st_mtime_ns == written


@pytest.mark.parametrize("content", ["", "{", "3", "[3]", '[{"examples": []}]'])
def test_a_damaged_list_of_skipped_steps_is_replaced(tmp_path, data_dir, content):
    run = prepared(tmp_path, data_dir)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "skipped.json").write_text(content)
    run_stage._note_skipped(run, "teacher", [2])
    assert [one["step"] for one in json.loads((tmp_path / "teacher" / "skipped.json").read_text())] == [2]


def test_a_run_that_resumes_after_sigkill_is_bitwise_the_uninterrupted_one(tmp_path, data_dir, smoke_run):
    names = ("teacher", "transfer")
    # With a checkpoint at every step, the process may well be killed while it is saving.
    more = ("--config.stages=('teacher','transfer')", "--config.log_every=1", "--config.checkpoint_every=1")
    process = start(tmp_path, data_dir, *more)
    wait_for(process, lambda: logged_step(tmp_path, "transfer") >= 3)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    resumed = run_mlcm(*arguments(tmp_path, data_dir, *more))
    assert resumed.returncode == 0, resumed.stderr
    assert "resumes at step" in resumed.stdout
    assert_same_networks(tmp_path, smoke_run, names)
    # The file has every step once, although some were taken twice.
    assert [r["step"] for r in read_jsonl(tmp_path / "transfer" / "metrics.jsonl")] == list(range(1, 9))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_sigkill_at_twenty_random_moments(tmp_path, data_dir, smoke_run, seed):
    rng = random.Random(seed)
    for _ in range(5):
        # With a checkpoint at every step, about half of the kills during training happen during a save.
        process = start(tmp_path, data_dir, "--config.checkpoint_every=1")
        try:
            process.communicate(timeout=rng.uniform(4, 40))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    finished = run_mlcm(*arguments(tmp_path, data_dir))
    assert finished.returncode == 0, finished.stderr
    assert_same_networks(tmp_path, smoke_run, configs.load("configs/tiny.py", "smoke").stages)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 75)])
def test_on_a_signal_the_run_finishes_the_step_saves_and_explains_how_to_resume(tmp_path, data_dir, number, code):
    only = "--config.stages=('teacher',)"
    # There are too many steps to finish before the signal; the run is not compared with the smoke run.
    more = (only, "--config.steps.teacher=100000", "--config.checkpoint_every=100000")
    process = start(tmp_path, data_dir, *more)
    wait_for(process, lambda: logged_step(tmp_path, "teacher") >= 4)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == code, output + errors
    assert "all of it is saved" in errors and "same command again" in errors and "Traceback" not in errors
    saved = [int(p.name) for p in (tmp_path / "teacher" / "checkpoints").iterdir() if p.name.isdigit()]
    assert saved and max(saved) == logged_step(tmp_path, "teacher")


def test_a_finished_run_is_not_trained_again(smoke_run, tmp_path, data_dir):
    copy = tmp_path / "copy"
    shutil.copytree(smoke_run, copy)
    again = run_mlcm(*arguments(copy, data_dir))
    assert again.returncode == 0, again.stderr
    assert "compiling" not in again.stdout
    assert json.loads((copy / "results.json").read_text()) == json.loads((smoke_run / "results.json").read_text())


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("dataset", "synthetic_face/tiny", "did you mean"),
        ("layout", "ibug86", "ibug68"),
        ("stages", ("teacher", "trnsfer"), "trnsfer"),
        (
            "stages",
            ("compress",),
            "Stage compress needs transfer, which was not trained in .*; add it to config.stages",
        ),
        # Of later stages: reported before the teacher is trained.
        ("student.name", "resnet81", "config.student: .*resnet18"),
        ("light.width", -1.0, "config.light: .*width"),
        ("pretrained.light", "absent.npz", "config.light: .*absent.npz"),
        ("student.depths", (1,), "Stage transfer: Features of student and teacher differ in size"),
        ("loss.name", "wings", "wing"),
        ("train.batch_size", 0, "config.train.batch_size"),
        ("transfer.decay", "liner", "linear"),
        ("transfer.reverse_target", "me", "truth"),
        ("seeds", (1, 2, 1), "config.seeds.* names a seed twice"),
        # Errors in the test set are reported before anything is trained.
        ("test_dataset", "synthetic_face/tiny", "did you mean"),
        ("test_split", "tset", "no split 'tset'"),
        ("normalizer", "eyes", "Unknown normaliser 'eyes'"),
        ("eval_batch_size", 0, "config.eval_batch_size"),
        ("thermal_range", (40.0, 20.0), "two increasing numbers"),
    ],
)
def test_a_bad_config_is_reported_in_one_sentence_and_claims_no_work_directory(tmp_path, data_dir, key, value, message):
    config, workdir = configs.load("configs/tiny.py", "smoke"), tmp_path / "run"
    configs.put(config, key, value)
    with pytest.raises(InputError, match=message) as caught:
        train(config, workdir, data_dir=str(data_dir))
    assert "\n" not in str(caught.value)
    assert not workdir.exists(), "a work directory was claimed for a config that cannot be trained"


@pytest.mark.parametrize(
    "override, message, code",
    [("--config.student.widht=1", "did you mean 'student.width'", 2), ("--config.layout=ibug86", "ibug68", 1)],
)
def test_the_command_reports_a_bad_config_in_one_line(tmp_path, data_dir, override, message, code):
    result = run_mlcm(*arguments(tmp_path / "w", data_dir, override))
    assert result.returncode == code, result.stdout + result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_work_directory_of_another_config_is_refused(smoke_run, data_dir):
    before = (smoke_run / "config.json").read_text()
    result = run_mlcm(*arguments(smoke_run, data_dir, "--config.train.lr=0.5"))
    assert result.returncode == 1
    assert "config.train.lr" in result.stderr and "0.016" in result.stderr and "0.5" in result.stderr
    assert (smoke_run / "config.json").read_text() == before


def test_losses_that_are_not_finite_stop_the_run_and_name_the_examples(tmp_path, data_dir):
    result = run_mlcm(*arguments(tmp_path, data_dir, "--config.train.lr=1e30", "--config.train.clip=0.0"))
    assert result.returncode == 1
    assert "config.train.lr" in result.stderr and "skipped.json" in result.stderr and "Traceback" not in result.stderr
    noted = json.loads((tmp_path / "teacher" / "skipped.json").read_text())
    assert noted and all(len(one["examples"]) == 8 for one in noted)


@pytest.mark.slow
def test_a_run_passes_the_debug_checks_of_jax(tmp_path, data_dir):
    # The loop itself forbids transfers inside a step.
    env = os.environ | {"JAX_DEBUG_NANS": "1", "JAX_CHECK_TRACER_LEAKS": "1"}
    env.pop("JAX_COMPILATION_CACHE_DIR")
    result = run_mlcm(*arguments(tmp_path, data_dir), env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not result.stderr.strip()


@pytest.mark.slow
def test_the_memory_of_a_long_run_does_not_grow(tmp_path, data_dir):
    more = ("--config.stages=('teacher',)", "--config.steps.teacher=2000", "--config.checkpoint_every=200")
    process = start(tmp_path, data_dir, *more)

    def memory():
        text = Path(f"/proc/{process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) / 1024

    used = {}
    for step in (500, 1000, 1900):
        wait_for(process, lambda step=step: logged_step(tmp_path, "teacher") >= step)
        used[step] = memory()
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors
    assert used[1900] < used[500] + 16, used  # MiB


@pytest.mark.slow
def test_a_full_disk_is_reported_and_what_was_saved_is_kept(tmp_path, data_dir):
    """A file size limit stands in for a full disk: the kernel refuses to write more."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
    code = limit + "import sys; from mlcm_jax.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments(tmp_path, data_dir)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert result.returncode == 1, result.stdout + result.stderr
    assert str(tmp_path) in result.stderr and "Traceback" not in result.stderr
    resumed = run_mlcm(*arguments(tmp_path, data_dir, "--config.stages=('teacher',)"))
    assert resumed.returncode == 0, resumed.stderr
