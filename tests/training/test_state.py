"""The state of a stage at step 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import aam, changed, coordinates, make_recipe, network, start

from mlcm_jax.errors import InputError
from mlcm_jax.training import state as states


def test_parameters_of_another_networks_head_are_copied_where_they_fit():
    light, large = aam(1), aam(2, "transposed")
    found = states.with_head_of(light, large)
    for name in ("heat", "points", "reduce"):  # of the same shape; the light head has no decoder
        jax.tree.map(np.testing.assert_array_equal, found.params["head"][name], large.params["head"][name])
    jax.tree.map(np.testing.assert_array_equal, light.params["backbone"], found.params["backbone"])
    wider = aam(4, width=0.25)
    partly = states.with_head_of(wider, large).params["head"]
    jax.tree.map(np.testing.assert_array_equal, partly["reduce"], wider.params["head"]["reduce"])  # of another shape
    jax.tree.map(np.testing.assert_array_equal, partly["heat"], large.params["head"]["heat"])
    with pytest.raises(InputError, match="no parameter of the teacher's head"):
        states.with_head_of(light, coordinates(3))


def test_the_average_starts_as_a_copy_that_shares_no_buffer_with_the_network():
    state = start(make_recipe())
    jax.tree.map(np.testing.assert_array_equal, state.network, state.ema)
    shared = zip(jax.tree.leaves(state.network), jax.tree.leaves(state.ema), strict=True)
    assert not any(a is b or a.unsafe_buffer_pointer() == b.unsafe_buffer_pointer() for a, b in shared)


def test_adapters_exist_where_channels_differ_and_keep_the_variance():
    assert states.init_adapter(16, 16, jax.random.key(0)) == {}
    adapter = states.init_adapter(64, 256, jax.random.key(0))
    features = jax.random.normal(jax.random.key(1), (1000, 64))
    there = features @ adapter["to_teacher"]
    back = there @ adapter["to_student"]
    assert there.shape == (1000, 256) and back.shape == (1000, 64)
    assert 0.8 < float(jnp.std(there)) < 1.2 and 0.8 < float(jnp.std(back)) < 1.2
    other = states.init_adapter(64, 256, jax.random.key(1))
    assert changed(adapter, other)


def test_the_optimiser_updates_network_and_adapter():
    recipe, teacher = make_recipe(), network(2, width=0.25)
    state = start(recipe, teacher=teacher)
    params = states.trainable(state.network, state.adapter)
    assert set(params) == {"network", "adapter"} and set(params["adapter"]) == {"to_teacher", "to_student"}
