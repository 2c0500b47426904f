"""What an exported file computes, run by JAX: the graph, the parts of int8 and their decoder."""

import json

import jax
import numpy as np
import pytest
import stored_runs
from exported import HEADS, made

from mlcm_jax.export import decode, graph
from mlcm_jax.models import network as networks


@pytest.fixture
def crop():
    return np.random.default_rng(0).random((1, 32, 32, 1), np.float32)


@pytest.mark.parametrize("head", HEADS)
def test_the_graph_is_the_network(head, crop):
    """In the form in which it is exported, but run by JAX."""
    network, card = made(head)
    whole = graph.whole(network, card)
    found = networks.run(network, crop)
    values = dict(zip(whole.outputs, jax.jit(whole.call)(crop), strict=True))
    if head == "boxes":
        np.testing.assert_allclose(values["scores"], found.maps.scores, atol=1e-5)
        np.testing.assert_allclose(values["sides"], found.maps.sides, atol=1e-5)
        return
    np.testing.assert_allclose(values["landmarks"], found.landmarks, atol=1e-5)
    assert ("uncertainty" in values) == (found.uncertainty is not None)
    if found.uncertainty is not None:
        np.testing.assert_allclose(values["uncertainty"], 0.5 * np.asarray(found.uncertainty) ** 0.8, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_the_graph_of_int8_and_its_decoder_give_the_same(head, crop):
    network, card = made(head)
    body, tail, decoder = graph.split(network, card)
    parts = graph.joined(body, tail)
    values = {name: np.asarray(one) for name, one in zip(parts.outputs, jax.jit(parts.call)(crop), strict=True)}
    found = networks.run(network, crop)
    described = decode.described(network, card, parts)
    assert described["decoder"] == decoder
    described = json.loads(json.dumps(described))
    if head == "boxes":
        np.testing.assert_allclose(values["scores"], found.maps.scores, atol=1e-5)
        return
    points, spread = decode.landmarks(values, described)
    np.testing.assert_allclose(points, found.landmarks[0], atol=1e-5)
    if found.uncertainty is None:
        assert spread is None
    else:
        np.testing.assert_allclose(spread, 0.5 * np.asarray(found.uncertainty[0]) ** 0.8, rtol=1e-4)
    assert tail is None or tail.outputs == ("landmarks", "uncertainty")


def test_depthwise_convolutions_are_exported_as_such():
    """Not as the nine products that are faster on a CPU, of which other runtimes know nothing."""
    card = stored_runs.card(architecture={"name": "mobilenet_v2", "head": "coordinates", "width": 0.25})
    whole = graph.whole(stored_runs.network(card), card)
    text = str(jax.make_jaxpr(whole.call)(*whole.inputs()))
    assert "feature_group_count=8" in text and "platform_index" not in text
