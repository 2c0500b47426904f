"""Quick compilation: only options that XLA knows, and steps whose results are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import batch, distilling, make_recipe, network, start, task

from mlcm_jax import config as configs
from mlcm_jax.evaluation.seeds import train
from mlcm_jax.training import loop, quick, sharding


@pytest.fixture
def fresh():
    quick.options.cache_clear()
    yield
    quick.options.cache_clear()


def test_options_that_xla_does_not_know_are_left_out(monkeypatch, fresh):
    monkeypatch.setattr(quick, "_OPTIONS", {"xla_backend_optimization_level": 1, "xla_no_such_option": True})
    assert quick.options() == {"xla_backend_optimization_level": 1}


def test_a_value_that_an_option_cannot_have_is_an_error(monkeypatch, fresh):
    monkeypatch.setattr(quick, "_OPTIONS", {"xla_backend_optimization_level": "none"})
    with pytest.raises(jax.errors.JaxRuntimeError):
        quick.options()


def test_other_devices_get_no_options(monkeypatch, fresh):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert quick.options() == {}


def test_a_step_that_was_compiled_quickly_has_the_same_results():
    recipe = make_recipe(*task(), *distilling(alpha=1.0, beta=1.0), tx=optax.sgd(0.1))
    teachers, mesh = {"teacher": network(2)}, sharding.make_mesh(jax.devices()[:1])
    after = []
    for fast in (False, True):
        state = jax.tree.map(jnp.copy, start(recipe))  # it is donated
        step = loop.compile_step(recipe, state, teachers, mesh, options=quick.options() if fast else None)
        after.append(step(state, teachers, batch(), jax.random.key(0)))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(close, after[0][0].network.params, after[1][0].network.params)
    jax.tree.map(close, after[0][1], after[1][1])


@pytest.mark.parametrize("fast", [False, True])
def test_a_stage_is_compiled_as_its_config_says(tmp_path, data_dir, monkeypatch, fast):
    config, found, compile_step = configs.load("configs/tiny.py", "smoke"), [], loop.compile_step

    def noted(*arguments, **options):
        found.append(options)
        return compile_step(*arguments, **options)

    monkeypatch.setattr(loop, "compile_step", noted)
    config.stages, config.steps.light, config.quick_compile = ("light_alone",), 1, fast
    train(config, tmp_path, data_dir=str(data_dir))
    assert found == [{"options": quick.options() if fast else {}}] and quick.options()


def test_the_options_of_a_step_reach_the_compiler():
    recipe, mesh = make_recipe(*task(), tx=optax.sgd(0.1)), sharding.make_mesh(jax.devices()[:1])
    step = loop.compile_step(recipe, start(recipe), {}, mesh, options={"xla_no_such_option": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        step.lower(start(recipe), {}, batch(), jax.random.key(0)).compile()
