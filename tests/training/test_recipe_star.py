"""The loss of STAR as terms of a stage: values against the losses of its maps, and heads that it refuses."""

import jax.numpy as jnp
import numpy as np
import pytest
from small import (
    BATCH,
    LAYOUT,
    K,
    aam,
    batch,
    changed,
    config_of,
    coordinates,
    distilling,
    make_recipe,
    network,
    predicted,
    start,
    step,
    task,
    value,
)

from mlcm_jax import codecs, losses
from mlcm_jax import config as configs
from mlcm_jax.errors import InputError
from mlcm_jax.training import recipe as recipes
from mlcm_jax.training import stages
from mlcm_jax.training import state as states


def test_star_compares_the_maps_of_landmarks_that_have_a_weight():
    student = network(1, head="aam", upsample=2, head_channels=8, layout="tfw5")
    recipe = make_recipe(*recipes.terms_of_task(config_of("star", drawn=16, eps=1e-3), LAYOUT, edges=True), teachers={})
    data = batch()
    known = np.random.default_rng(3).random((BATCH, K)) < 0.6
    found = value(recipe, start(recipe, student), {}, data | {"known": jnp.asarray(known)})
    maps, target, chains = predicted(student, data), data["landmarks"], codecs.edge_chains(LAYOUT)
    each = {
        "star": losses.star(maps.heatmaps, target, eps=1e-3),
        "points": losses.map_awing(maps.points, codecs.point_maps(target, 8, 16)),
        "edges": losses.map_awing(maps.edges, codecs.edge_maps(target, chains, 8, 16)),
    }
    whole = np.stack([known[:, list(chain)].all(1) for chain in chains], 1)  # an edge needs all of its landmarks
    for name, values in each.items():
        weights = whole if name == "edges" else known
        expected = (np.asarray(values) * weights).sum(1) / np.maximum(weights.sum(1), 1)
        np.testing.assert_allclose(found[name], expected.mean(), rtol=1e-4)
    np.testing.assert_allclose(found["loss"], found["star"] + 10 * found["points"] + 10 * found["edges"], rtol=1e-5)


def test_star_has_finite_gradients_and_is_the_sum_of_its_parts():
    recipe = make_recipe(*task("star", drawn=16), teachers={})
    state = start(recipe, aam(1))
    after, s = step(recipe, state, {}, batch())
    assert np.isfinite(s["gradient_norm"]) and s["gradient_norm"] > 0
    np.testing.assert_allclose(s["loss"], s["star"] + 10 * s["points"], rtol=1e-5)
    assert changed(state.network.params["backbone"], after.network.params["backbone"])
    assert set(s) == {"loss", "task", "star", "points", "gradient_norm", "skipped"}


@pytest.mark.parametrize("edges", [True, False])
def test_star_trains_edge_maps_where_the_head_draws_them(edges):
    config = configs.load("configs/star_tiny.py", "smoke")
    if not edges:
        config.light.layout = None
    network = stages.initial_network("light_alone", config, mean_shape=np.full((51, 2), 0.5, np.float32))
    recipe = stages.recipe("light_alone", config)
    rng = np.random.default_rng(0)
    data = {
        "thermal": jnp.asarray(rng.random((2, 32, 32, 1)), jnp.float32),
        "landmarks": jnp.full((2, 51, 2), 0.4),
        "visible": jnp.ones((2, 51), bool),
        "known": jnp.ones((2, 51), bool),
        "weight": jnp.ones((2, 51)),
        "mask": jnp.ones(2, bool),
    }
    names = {"star", "points", "edges"} if edges else {"star", "points"}
    assert set(value(recipe, states.create(network, {}, recipe.tx), {}, data)) == names | {"loss", "task"}


def test_star_refuses_a_head_without_maps():
    recipe = make_recipe(*task("star"), teachers={})
    with pytest.raises(InputError, match="needs models with head 'aam'"):
        value(recipe, start(recipe, coordinates(1)), {}, batch())


def test_maps_are_distilled_with_their_weight():
    data, teacher = batch(), aam(2, "transposed")
    recipe = make_recipe(*task("star", drawn=16), *distilling(maps=100.0, decay="linear"))
    s = value(recipe, start(recipe, aam(1)).replace(step=jnp.int32(5)), {"teacher": teacher}, data)
    ours = predicted(aam(1), data).heatmaps
    theirs = predicted(teacher, data, "rgb", train=False).heatmaps
    np.testing.assert_allclose(s["maps"], np.square(ours - theirs).mean(), rtol=1e-4)
    np.testing.assert_allclose(s["loss"], s["task"] + 0.5 * 100.0 * s["maps"], rtol=1e-5)


def test_maps_of_two_sizes_and_no_maps_are_refused_in_one_sentence():
    recipe = make_recipe(*distilling(maps=1.0))
    larger = network(2, head="aam", upsample=4, head_channels=8)
    with pytest.raises(InputError, match=r"one size.*8, 8.*16, 16"):
        value(recipe, start(recipe, aam(1)), {"teacher": larger}, batch())
    with pytest.raises(InputError, match="heads with heatmaps"):
        value(recipe, start(recipe, aam(1)), {"teacher": coordinates(3)}, batch())
