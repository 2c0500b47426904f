"""The stages of a run: the next one's step is compiled while a stage trains, and this changes no result."""

import threading

import jax
import numpy as np
import pytest

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


def test_what_is_begun_or_finished_is_not_compiled_ahead(tmp_path, data_dir, compiled):
    names = ("teacher", "light_alone")
    run_stage.train_stages(prepared(tmp_path, data_dir, names))
    compiled.clear()
    run_stage.train_stages(prepared(tmp_path, data_dir, names))
    assert not compiled


def test_a_stage_with_a_shape_model_is_compiled_when_it_begins(tmp_path, data_dir, compiled):
    run_stage.train_stages(prepared(tmp_path, data_dir, ("teacher", "tolerant", "kd"), "configs/kdloss_tiny.py"))
    assert [by_main for _, by_main in compiled if by_main] == [True, True]
    assert dict(compiled)[("teacher", "tolerant", "thermal")] is False


def test_a_stage_that_fails_ends_the_run_and_the_compilation(tmp_path, data_dir, compiled, monkeypatch):
    def broken(*_, **__):
        raise InputError("the disk is full")

    monkeypatch.setattr(pipeline, "iterate", broken)
    run = prepared(tmp_path, data_dir, ("teacher", "light_alone", "thermal_alone"))
    with pytest.raises(InputError, match="the disk is full"):
        run_stage.train_stages(run)
    for thread in threading.enumerate():
        if thread.name.startswith("compile"):
            thread.join(60)
            assert not thread.is_alive()
    assert len(compiled) <= 2  # the third stage was never asked for
