"""Several real processes on loopback train, evaluate, die and resume together (gloo collectives)."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mlcm_jax.training import sharding
from mlcm_jax.training.log import read_jsonl
from mlcm_jax.training.workdir import load_stage

SMOKE = "configs/tiny.py:smoke"
TEACHER = "--config.stages=('teacher',)"


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start_one(arguments, **env):
    return subprocess.Popen(
        [sys.executable, "-m", "mlcm_jax.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | env,
    )


def start(count, *arguments):
    """Starts `mlcm …` as `count` processes of one device each."""
    joined = [f"--coordinator=localhost:{free_port()}", f"--processes={count}"]
    return [start_one([*arguments, *joined, f"--process={k}"]) for k in range(count)]


def finish(processes, timeout=400):
    """Waits for processes and returns [(output, errors, exit code)]; kills those that are still running."""
    deadline = time.monotonic() + timeout
    try:
        return [(*p.communicate(timeout=max(deadline - time.monotonic(), 0.1)), p.returncode) for p in processes]
    finally:
        for process in processes:
            process.kill()


def train(count, workdir, data_dir, *more):
    flags = (f"--config={SMOKE}", f"--workdir={workdir}", f"--data_dir={data_dir}", *more)
    return start(count, "train", *flags)


def assert_done(processes):
    found = finish(processes)
    for output, errors, code in found:
        assert code == 0, output + errors
    return [output for output, _, _ in found]


def wait_for_step(processes, workdir, step, stage="teacher"):
    deadline = time.monotonic() + 300
    while not any(record["step"] >= step for record in read_jsonl(workdir / stage / "metrics.jsonl")):
        ended = [p for p in processes if p.poll() is not None]
        assert not ended, ended[0].communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_same_run(one, two, stage="teacher"):
    """Asserts that losses and averaged networks of a stage agree."""
    records = [read_jsonl(workdir / stage / "metrics.jsonl") for workdir in (one, two)]
    assert [r["step"] for r in records[0]] == [r["step"] for r in records[1]]
    losses = [[r["loss"] for r in some] for some in records]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    mesh = sharding.make_mesh()
    networks = [load_stage(workdir, stage, mesh=mesh).network for workdir in (one, two)]
    # Adam can turn the last bit of a gradient near 0 into a whole step, so weights are compared all together, loosely.
    flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(network)]) for network in networks]
    assert np.linalg.norm(flat[0] - flat[1]) < 1e-2 * np.linalg.norm(flat[0])


def test_two_processes_train_and_evaluate_as_one(tmp_path, data_dir, smoke_run):
    outputs = assert_done(train(2, tmp_path / "two", data_dir, TEACHER))
    assert_same_run(tmp_path / "two", smoke_run)
    # Only process 0 prints; messages of gloo itself do not count.
    assert "Wrote results.json" in outputs[0]
    assert not [line for line in outputs[1].splitlines() if line.strip() and "Gloo" not in line]
    found, expected = (
        json.loads((workdir / "results.json").read_text())["rows"] for workdir in (tmp_path / "two", smoke_run)
    )
    assert [row["name"] for row in found] == ["mean_shape", "teacher"]
    assert found[0]["nme"] == pytest.approx(expected[0]["nme"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_one_checkpoint_scores_the_same_on_any_number_of_processes(tmp_path, data_dir, smoke_run, count):
    shutil.copytree(smoke_run, tmp_path / "w")
    # 16 examples in batches of 12: the last batch is padded.
    assert_done(start(count, "evaluate", f"--workdir={tmp_path / 'w'}", f"--data_dir={data_dir}"))
    found = json.loads((tmp_path / "w" / "results_synthetic_faces_48x48_test.json").read_text())["rows"]
    expected = json.loads((smoke_run / "results.json").read_text())["rows"]
    for one, two in zip(found, expected, strict=True):
        assert one["name"] == two["name"]
        for key in ("nme", "fr10", "auc10"):
            assert one[key] == pytest.approx(two[key], rel=1e-5)


ENDLESS = (TEACHER, "--config.steps.teacher=100000", "--config.checkpoint_every=100000", "--config.log_every=1")


@pytest.mark.slow
@pytest.mark.parametrize(("count", "victim"), [(2, 1), (2, 0), (4, 2)])
def test_when_one_process_dies_the_others_stop_and_report_it(tmp_path, data_dir, count, victim):
    processes = train(count, tmp_path, data_dir, *ENDLESS)
    wait_for_step(processes, tmp_path, 3)
    processes[victim].kill()
    began = time.monotonic()
    found = finish(processes, timeout=60)
    assert time.monotonic() - began < 60
    for k, (_, errors, code) in enumerate(found):
        if k != victim:
            # If JAX's own check is first, it prints a message and aborts.
            assert (
                code == 75 and "another process of this run is gone" in errors and "start all of them" in errors
            ) or (code == -signal.SIGABRT and "another task died" in errors), errors
            assert "Traceback" not in errors


@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_processes(tmp_path, data_dir, smoke_run):
    more = (TEACHER, "--config.checkpoint_every=1")
    for count, step in ((4, 3), (2, 5)):
        processes = train(count, tmp_path / "w", data_dir, *more)
        wait_for_step(processes, tmp_path / "w", step)
        processes[-1].kill()
        finish(processes, timeout=60)
    (output,) = assert_done(train(1, tmp_path / "w", data_dir, *more))
    assert "resumes at step" in output
    # With the same batches in the same order, every loss is that of an uninterrupted run.
    found = {r["step"]: r["loss"] for r in read_jsonl(tmp_path / "w" / "teacher" / "metrics.jsonl")}
    assert sorted(found) == list(range(1, 9))
    uninterrupted = tmp_path / "one"
    assert_done(train(1, uninterrupted, data_dir, *more))
    assert_same_run(tmp_path / "w", uninterrupted)


@pytest.mark.slow
def test_sigterm_to_one_process_saves_and_stops_all_with_the_exit_code_for_a_restart(tmp_path, data_dir):
    # This is done twice: the second time, the run resumes and saves often, which must not lose the signal.
    for step, every in ((3, 100000), (40, 2)):
        processes = train(2, tmp_path, data_dir, *ENDLESS, f"--config.checkpoint_every={every}")
        wait_for_step(processes, tmp_path, step)
        processes[1].send_signal(signal.SIGTERM)
        for _, errors, code in finish(processes, timeout=120):
            assert code == 75 and "all of it is saved" in errors and "Traceback" not in errors, errors
    steps = [r["step"] for r in read_jsonl(tmp_path / "teacher" / "metrics.jsonl")]
    saved = [int(p.name) for p in (tmp_path / "teacher" / "checkpoints").iterdir() if p.name.isdigit()]
    assert steps == list(range(1, len(steps) + 1)) and max(saved) == steps[-1]


@pytest.mark.slow
def test_all_processes_skip_a_checkpoint_that_is_damaged_for_one(tmp_path, data_dir):
    sharded = (TEACHER, "--config.mesh.fsdp=2", "--config.mesh.data=1", "--config.steps.teacher=6")
    sharded += ("--config.checkpoint_every=2", "--config.teacher.width=0.5")
    assert_done(train(2, tmp_path, data_dir, *sharded))
    newest = tmp_path / "teacher" / "checkpoints" / "6"
    for item in ("state", "model"):  # a stage is finished if its last model can be read, even if its state cannot
        files = [p for p in (newest / item).rglob("*") if "ocdbt.process_1" in str(p) and "/d/" in str(p)]
        largest = max(filter(Path.is_file, files), key=lambda p: p.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:100])
    outputs = assert_done(train(2, tmp_path, data_dir, *sharded))
    assert "cannot be used" in outputs[0] and "resumes at step 4" in outputs[0]


@pytest.mark.slow
def test_slurm_determines_the_processes(tmp_path, data_dir):
    job = {"SLURM_JOB_ID": "4711", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    job["JAX_COORDINATOR_PORT"] = str(free_port())
    flags = ["train", f"--config={SMOKE}", f"--workdir={tmp_path}", f"--data_dir={data_dir}", TEACHER]
    ranks = [{"SLURM_PROCID": str(k), "SLURM_LOCALID": str(k)} for k in range(2)]
    outputs = assert_done([start_one([*flags, "--distributed=auto"], **job, **rank) for rank in ranks])
    assert "Wrote results.json" in outputs[0] and "Wrote" not in outputs[1]


def test_inconsistent_flags_are_reported_in_one_sentence():
    for flags, message in (
        (["--processes=2"], "--coordinator"),
        (["--coordinator=localhost", "--processes=2", "--process=0"], "address:port"),
        (["--coordinator=localhost:1", "--processes=2", "--process=2"], "from 0"),
        (["--distributed=auto"], "found no cluster"),
    ):
        ((_, errors, code),) = finish([start_one(["train", f"--config={SMOKE}", "--workdir=/nowhere", *flags])])
        assert code == 1 and message in errors, errors
        assert len(errors.strip().splitlines()) == 1
