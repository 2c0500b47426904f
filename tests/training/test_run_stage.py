"""The stages of a run: the next one's step is compiled while a stage trains, and this changes no result."""

import os
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from commands import SMOKE

from mlcm_jax import cli, memory
from mlcm_jax import config as configs
from mlcm_jax.data import pipeline
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import evaluate
from mlcm_jax.training import loop, run_stage, sharding


def prepared(folder, data_dir, stages, file="configs/tiny.py"):
    config = configs.load(file, "smoke")
    config.stages, config.log_every, config.checkpoint_every = stages, 1, 100
    config.steps.update(dict.fromkeys(("teacher", "student", "light"), 2))
    mesh = sharding.make_mesh(jax.devices()[:1])
    validate = evaluate.validation(config, mesh)
    return run_stage.prepare(config, folder, data_dir=str(data_dir), mesh=mesh, validate=validate)


@pytest.fixture
def compiled(monkeypatch):
    """[((teachers…, modality), whether by the main thread)] of every step that was made for compilation."""
    made, compile_step = [], loop.compile_step

    def noted(recipe, *arguments):
        made.append(((*recipe.teachers, recipe.modality), threading.current_thread() is threading.main_thread()))
        return compile_step(recipe, *arguments)

    monkeypatch.setattr(loop, "compile_step", noted)
    return made


def test_steps_are_compiled_once_and_ahead_with_the_same_results(tmp_path, data_dir, compiled, monkeypatch):
    names = ("teacher", "transfer", "compress")
    ahead = run_stage.train_stages(prepared(tmp_path / "ahead", data_dir, names))
    made = {("rgb",): True, ("teacher", "thermal"): False, ("transfer", "thermal"): False}
    assert dict(compiled) == made and len(compiled) == 3

    monkeypatch.setattr(run_stage, "_compiles_ahead", lambda *_: False)
    compiled.clear()
    plain = run_stage.train_stages(prepared(tmp_path / "plain", data_dir, names))
    assert dict(compiled) == dict.fromkeys(made, True) and len(compiled) == 3
    for name in names:
        jax.tree.map(np.testing.assert_array_equal, ahead[name].network.params, plain[name].network.params)


def test_what_is_finished_is_not_compiled_ahead(tmp_path, data_dir, compiled):
    names = ("teacher", "light_alone")
    run_stage.train_stages(prepared(tmp_path, data_dir, names))
    compiled.clear()
    run_stage.train_stages(prepared(tmp_path, data_dir, names))
    assert not compiled


def test_a_stage_with_a_shape_model_is_compiled_when_it_begins(tmp_path, data_dir, compiled):
    run_stage.train_stages(prepared(tmp_path, data_dir, ("teacher", "tolerant", "kd"), "configs/kdloss_tiny.py"))
    assert [by_main for _, by_main in compiled if by_main] == [True, True]
    assert dict(compiled)[("teacher", "tolerant", "thermal")] is False


def test_a_step_compiled_ahead_fits_the_teacher_of_an_earlier_command(tmp_path, data_dir, compiled):
    """A program is compiled from shapes alone."""
    names = ("teacher", "thermal_alone", "transfer")
    run_stage.train_stages(prepared(tmp_path, data_dir, names[:1]))
    trained = run_stage.train_stages(prepared(tmp_path, data_dir, names[1:]))
    assert dict(compiled) == {("rgb",): True, ("thermal",): True, ("teacher", "thermal"): False}
    assert "transfer" in trained


def test_a_program_that_cannot_be_compiled_ahead_is_compiled_in_its_place(tmp_path, data_dir, compiled, monkeypatch):
    def broken(*_):
        raise MemoryError("no memory beside a training")

    monkeypatch.setattr(run_stage, "compile_stage", broken)
    trained = run_stage.train_stages(prepared(tmp_path, data_dir, ("teacher", "light_alone")))
    assert dict(compiled) == {("rgb",): True, ("thermal",): True} and "light_alone" in trained


def test_a_program_of_soft_landmarks_needs_the_shape_model(tmp_path, data_dir):
    run = prepared(tmp_path, data_dir, ("teacher", "tolerant", "kd"), "configs/kdloss_tiny.py")
    with pytest.raises(ValueError, match="tolerant needs a shape model"):
        run_stage.compile_stage("tolerant", run, {})


def test_a_stage_that_fails_does_not_wait_for_the_next_program(tmp_path, data_dir, monkeypatch):
    begun, held = threading.Event(), threading.Event()

    def compile_stage(*_):
        begun.set()
        held.wait(60)

    def broken(*_, **__):
        assert begun.wait(60)
        raise InputError("the disk is full")

    monkeypatch.setattr(run_stage, "compile_stage", compile_stage)
    monkeypatch.setattr(pipeline, "iterate", broken)
    run = prepared(tmp_path, data_dir, ("teacher", "light_alone"))
    with pytest.raises(InputError, match="the disk is full"):
        run_stage.train_stages(run)
    assert not held.is_set() and any(one.name.startswith(run_stage.COMPILER) for one in threading.enumerate())
    held.set()


STOPPED = """
import os, signal, sys, time
from mlcm_jax import start
from mlcm_jax.training import run_stage

def compile_stage(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(300)

run_stage.compile_stage = compile_stage
sys.argv = ["mlcm", *sys.argv[1:]]
start.main()
"""


def test_a_command_that_is_stopped_does_not_wait_for_the_next_program(tmp_path, data_dir):
    flags = f"--config={SMOKE}", f"--workdir={tmp_path}", f"--data_dir={data_dir}"
    command = [sys.executable, "-c", STOPPED, "train", *flags, "--config.stages=('teacher','light_alone')"]
    environment = os.environ | {memory.VARIABLE: memory.SETTINGS}  # `start` starts nothing again
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == cli.RESTART, done.stderr
    assert "the same command again to resume" in done.stderr
