"""Models as pure data: a split model predicts what the module does, and its functions keep no state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlcm_jax import models
from mlcm_jax.errors import InputError
from mlcm_jax.models import network as networks

OPTIONS = {"name": "resnet18", "stem": "small", "width": 0.125, "depths": (1, 1), "head": "heatmap", "upsample": 1}
IMAGES = np.random.default_rng(0).random((3, 16, 16, 1), np.float32)


def model(seed=0):
    return models.create(num_landmarks=5, rngs=nnx.Rngs(jax.random.key(seed)), **OPTIONS)


@pytest.fixture(scope="module")
def network():
    return networks.create(OPTIONS, num_landmarks=5, key=jax.random.key(0))


def same(one, two):
    assert jax.tree.leaves(one)
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_a_key_and_options_determine_the_network(network):
    again = networks.create(OPTIONS, num_landmarks=5, key=jax.random.key(0))
    other = networks.create(OPTIONS, num_landmarks=5, key=jax.random.key(1))
    same(network, again)
    assert jax.tree.structure(network) == jax.tree.structure(again) == jax.tree.structure(other)
    assert not np.array_equal(jax.tree.leaves(network.params)[-1], jax.tree.leaves(other.params)[-1])
    assert set(network.params) == set(network.stats) == {"backbone", "head"}


def test_an_unknown_model_or_option_is_reported():
    with pytest.raises(InputError, match="resnet18"):
        networks.create(OPTIONS | {"name": "resnet81"}, num_landmarks=5, key=jax.random.key(0))
    with pytest.raises(InputError, match="width"):
        networks.create(OPTIONS | {"widht": 1.0}, num_landmarks=5, key=jax.random.key(0))


def test_a_split_model_predicts_what_the_module_does():
    module = model()
    network = networks.split(module)
    module.eval()
    wanted = module(jnp.asarray(IMAGES)).landmarks
    np.testing.assert_allclose(networks.predict(network, IMAGES), wanted, atol=1e-5)
    np.testing.assert_allclose(networks.join(network)(jnp.asarray(IMAGES)).landmarks, wanted, atol=1e-5)


def test_backbone_and_head_make_up_the_prediction(network):
    features, stats = networks.run_backbone(network, IMAGES)
    assert features.shape == (3, 4, 4, networks.channels(network))
    same(stats, network.stats["backbone"])
    prediction, _ = networks.run_head(network, features)
    assert prediction.landmarks.shape == (3, 5, 2)
    np.testing.assert_array_equal(prediction.landmarks, networks.predict(network, IMAGES))
    landmarks = networks.head_function(network)(network.params["head"], features)
    np.testing.assert_array_equal(landmarks, prediction.landmarks)


def test_training_uses_the_batch_and_returns_new_statistics(network):
    before = jax.tree.map(np.array, network)
    trained, stats = networks.run_backbone(network, IMAGES, train=True)
    assert not np.allclose(trained, networks.run_backbone(network, IMAGES)[0], atol=1e-4)
    assert not np.array_equal(jax.tree.leaves(stats)[0], jax.tree.leaves(network.stats["backbone"])[0])
    # The statistics are those of the batch, so each image by itself gives other features.
    alone = jnp.concatenate([networks.run_backbone(network, IMAGES[k : k + 1], train=True)[0] for k in range(3)])
    assert not np.allclose(trained, alone, atol=1e-4)
    same(network, before)  # the network itself is unchanged


def test_a_head_of_other_parameters_runs_on_the_same_features(network):
    """What DIKD needs: the teacher's head on the student's features, and gradients with respect to both."""
    features, _ = networks.run_backbone(network, IMAGES)
    other = networks.create(OPTIONS, num_landmarks=5, key=jax.random.key(1))
    apply = networks.head_function(network)
    mine, theirs = apply(network.params["head"], features), apply(other.params["head"], features)
    assert np.abs(mine - theirs).max() > 1e-4
    gradients = jax.grad(lambda params, x: apply(params, x).sum(), argnums=(0, 1))(network.params["head"], features)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients[0])) and np.abs(gradients[1]).max() > 0


def test_a_network_goes_through_jit_and_grad(network):
    jitted = jax.jit(networks.predict)(network, IMAGES)
    np.testing.assert_allclose(jitted, networks.predict(network, IMAGES), atol=1e-5)
    compiled = jax.jit(lambda network, images: networks.predict(network, images))
    for seed in (0, 1):  # the arrays are arguments, so another network of that kind compiles nothing anew
        compiled(networks.create(OPTIONS, num_landmarks=5, key=jax.random.key(seed)), IMAGES)
    assert compiled._cache_size() == 1


def test_dropout_follows_its_key():
    options = {key: value for key, value in OPTIONS.items() if key != "upsample"}
    options |= {"head": "coordinates", "dropout": 0.5}
    network = networks.create(options, num_landmarks=5, key=jax.random.key(0))
    features = jnp.ones((3, 4, 4, networks.channels(network)))
    one, two, three = (
        networks.run_head(network, features, train=True, key=jax.random.key(k))[0].landmarks for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, three)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_landmarks": 3}, "Option num_landmarks is set by the run; leave it out"),
        ({"mean_shape": ()}, "Option mean_shape is set by the run"),
        ({"name": ...}, "A model needs the option name"),
    ],
)
def test_options_that_the_run_sets_and_a_missing_name_are_refused(options, message):
    given = {name: value for name, value in ({"name": "resnet18"} | options).items() if value is not ...}
    with pytest.raises(InputError, match=message):
        networks.create(given, num_landmarks=5, key=jax.random.key(0), mean_shape=None)
