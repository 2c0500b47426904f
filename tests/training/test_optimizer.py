"""The optimiser: schedules, decay and updates against formulas and numpy, and what Muon leaves to Adam."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from mlcm_jax import config as configs
from mlcm_jax.models import network as networks
from mlcm_jax.training import optimizer as optimizers
from mlcm_jax.training import state as states


@pytest.fixture(autouse=True)
def standard_promotion():
    """As in the training step: optax adds its integer step counts to floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("warmup", [0.0, 0.1])
@pytest.mark.parametrize("name", typing.get_args(configs.SCHEMA["train.schedule"].type))
def test_schedules_match_their_formulas(name, warmup):
    config = configs.base()
    config.train.update({"schedule": name, "warmup": warmup, "decay_rate": 1e-2 if name == "inverse_time" else 0.0})
    found = optimizers.schedule(0.5, config.train, 100)
    for count in (0, 3, 10, 40, 99):
        begin = round(100 * warmup)
        after = count - begin
        if after < 0:
            expected = 0.5 * count / begin
        elif name == "cosine":
            expected = 0.25 * (1 + np.cos(np.pi * after / (100 - begin)))
        else:
            expected = 0.5 / (1 + 1e-2 * after) if name == "inverse_time" else 0.5
        np.testing.assert_allclose(
            found(jnp.int32(count)), expected, rtol=1e-5, atol=1e-7, err_msg=f"{name} at {count}"
        )


def test_published_adam_is_that_of_keras():
    """Adam with `decay` as in Keras 2: lr_t = lr / (1 + decay · t), no weight decay, epsilon outside the root."""
    config = configs.load("configs/kdloss_300w.py")
    tx = optimizers.optimizer(config, config.steps.light)
    params = {"head": {"kernel": jnp.full((1, 1), 1.0)}}
    opt_state, rng = tx.init(params), np.random.default_rng(0)
    w, m, v = 1.0, 0.0, 0.0
    for t in range(20):
        g = float(rng.normal())
        updates, opt_state = tx.update({"head": {"kernel": jnp.full((1, 1), g)}}, opt_state, params)
        params = optax.apply_updates(params, updates)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        unbiased = m / (1 - 0.9 ** (t + 1)), v / (1 - 0.999 ** (t + 1))
        w -= 1e-3 / (1 + 1e-4 * t) * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    np.testing.assert_allclose(params["head"]["kernel"], w, rtol=1e-5)


MODELS = [
    {"name": "resnet18", "width": 0.125, "depths": (1, 1), "head": "heatmap"},
    {"name": "mobilenet_v2", "width": 0.25, "head": "aam", "layout": "tfw5"},
    {"name": "swin_v2_t", "width": 0.25, "depths": (1,), "window": 4},
    {"name": "mobilevit_v2", "width": 0.25},
]


@pytest.mark.parametrize("rule", ["adamw", "muon"])
@pytest.mark.parametrize("model", MODELS, ids=[model["name"] for model in MODELS])
def test_only_kernels_decay(model, rule):
    """Biases, scales, SwinV2's temperatures, and the places in u and temperature of a heatmap head do not decay."""
    config = configs.base()
    config.train.update({"optimizer": rule, "lr": 1.0, "weight_decay": 0.5, "clip": 0.0, "warmup": 0.0})
    tx = optimizers.optimizer(config, 100)
    shape = np.full((5, 2), 0.5, np.float32)
    make = functools.partial(networks.create, model, num_landmarks=5, key=jax.random.key(0), mean_shape=shape)
    params = states.trainable(make(), {"to_teacher": jnp.ones((2, 2)), "to_student": jnp.ones((2, 2))})
    params = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    seen = set()
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        name = path[-1].key
        seen.add(name)
        assert (np.asarray(update) < 0).all() == (name in ("kernel", "to_teacher", "to_student")), path
    assert {"kernel", "bias"} < seen


def test_heads_have_their_own_learning_rate():
    """Compares head, backbone and adapter with AdamW run by hand on each of them."""
    config = configs.base()
    config.train.update({"lr": 1e-2, "head_lr": 5e-2, "warmup": 0.0, "clip": 0.0, "weight_decay": 0.1})
    tx = optimizers.optimizer(config, 10)
    rng = np.random.default_rng(0)
    params = {
        "network": {part: {"kernel": jnp.asarray(rng.normal(size=(3, 2)))} for part in ("backbone", "head")},
        "adapter": {"to_teacher": jnp.asarray(rng.normal(size=(2, 2)))},
    }
    grads = [jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params) for _ in range(4)]
    found, opt_state = params, tx.init(params)
    for grad in grads:
        updates, opt_state = tx.update(grad, opt_state, found)
        found = optax.apply_updates(found, updates)

    def by_hand(pick, rate):
        leaf, rule = pick(params), optax.adamw(optax.cosine_decay_schedule(rate, 10), weight_decay=0.1)
        own = rule.init(leaf)
        for grad in grads:
            update, own = rule.update(pick(grad), own, leaf)
            leaf = optax.apply_updates(leaf, update)
        return leaf

    for pick, rate in (
        (lambda tree: tree["network"]["head"]["kernel"], 5e-2),
        (lambda tree: tree["network"]["backbone"]["kernel"], 1e-2),
        (lambda tree: tree["adapter"]["to_teacher"], 1e-2),
    ):
        np.testing.assert_allclose(pick(found), by_hand(pick, rate), rtol=1e-6)


def test_heads_have_their_own_learning_rate_with_muon_too():
    config = configs.base()
    config.train.update({"optimizer": "muon", "lr": 1e-2, "warmup": 0.0, "clip": 0.0, "weight_decay": 0.1})
    params = {"network": {part: {"kernel": jnp.arange(6.0).reshape(3, 2)} for part in ("backbone", "head")}}
    found = []
    for rate in (0.0, 5e-2):
        config.train.head_lr = rate
        tx = optimizers.optimizer(config, 10)
        found.append(tx.update(params, tx.init(params), params)[0]["network"])
    np.testing.assert_allclose(found[1]["backbone"]["kernel"], found[0]["backbone"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(found[1]["head"]["kernel"], 5.0 * found[0]["head"]["kernel"], rtol=1e-6)


def muon_in_numpy(kernel, grads, rates, decay):
    """Takes Muon's steps: Nesterov's momentum, three Newton-Schulz steps, and the root mean square of AdamW."""
    width, (a, b, c) = kernel.shape[-1], (3.4445, -4.7750, 2.0315)
    moment = np.zeros_like(kernel)
    for t, (grad, rate) in enumerate(zip(grads, rates, strict=True), 1):
        moment = 0.95 * moment + 0.05 * grad
        x = (0.95 * moment / (1 - 0.95 ** (t + 1)) + 0.05 * grad / (1 - 0.95**t)).reshape(-1, width)
        x = x / np.linalg.norm(x)
        for _ in range(3):
            square = x.T @ x
            x = x @ (a * np.eye(width) + b * square + c * square @ square)
        direction = 0.2 * np.sqrt(max(x.shape)) * x.reshape(kernel.shape)
        kernel = kernel - rate * (direction + decay * kernel)
    return kernel


@pytest.mark.parametrize("shape", [(3, 3, 2, 5), (1, 1, 3, 7), (4, 6)], ids=str)
def test_muon_matches_its_iteration_by_hand(shape):
    """A head and a bias move as Adam with Nesterov's momentum moves them."""
    config = configs.base()
    config.train.update({"optimizer": "muon", "lr": 1e-2, "warmup": 0.0, "clip": 0.0, "weight_decay": 0.1})
    tx = optimizers.optimizer(config, 10)
    rng = np.random.default_rng(0)
    start = rng.normal(size=shape), rng.normal(size=shape[-1]), rng.normal(size=shape)
    grads = [tuple(rng.normal(size=leaf.shape) for leaf in start) for _ in range(4)]

    def tree(kernel, bias, head):
        params = {"network": {"backbone": {"kernel": kernel, "bias": bias}, "head": {"kernel": head}}}
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)

    params = tree(*start)
    opt_state, update = tx.init(params), jax.jit(tx.update)
    for grad in grads:
        updates, opt_state = update(tree(*grad), opt_state, params)
        params = optax.apply_updates(params, updates)
    rates = [0.5e-2 * (1 + np.cos(np.pi * t / 10)) for t in range(4)]
    expected = muon_in_numpy(start[0], [grad[0] for grad in grads], rates, 0.1)
    np.testing.assert_allclose(params["network"]["backbone"]["kernel"], expected, rtol=1e-4, atol=1e-5)

    def adam(leaf, gradients, decay):
        m, v = np.zeros_like(leaf), np.zeros_like(leaf)
        for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            ahead = 0.9 * m / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
            leaf = leaf - rate * (ahead / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + decay * leaf)
        return leaf

    bias, head = (adam(start[i], [grad[i] for grad in grads], decay) for i, decay in ((1, 0.0), (2, 0.1)))
    np.testing.assert_allclose(params["network"]["backbone"]["bias"], bias, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(params["network"]["head"]["kernel"], head, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model", MODELS, ids=[model["name"] for model in MODELS])
def test_muon_updates_the_kernels_outside_heads_that_mix_channels(model):
    make = functools.partial(networks.create, model, num_landmarks=5, key=jax.random.key(0))
    adapter = {"to_teacher": jnp.ones((2, 2)), "to_student": jnp.ones((2, 2))}
    params = jax.eval_shape(lambda: states.trainable(make(mean_shape=np.full((5, 2), 0.5, np.float32)), adapter))
    numbers = optimizers.orthogonalised(params)
    assert set(jax.tree.leaves(numbers["network"]["head"])) == set(jax.tree.leaves(numbers["adapter"])) == set()
    matrices = []
    stops = (type(None), contrib.MuonDimensionNumbers)
    found = jax.tree.leaves(numbers, is_leaf=lambda leaf: isinstance(leaf, stops))
    for number, leaf in zip(found, jax.tree.leaves(params), strict=True):
        if number is not None:
            matrices.append(leaf.shape)
            assert number.output_axis == leaf.ndim - 1 and number.reduction_axis == tuple(range(leaf.ndim - 1))
    assert all(len(shape) > 1 and shape[-2] > 1 for shape in matrices)
    # Most parameters of a network are in such kernels; depthwise ones are not.
    share = sum(map(np.prod, matrices)) / sum(leaf.size for leaf in jax.tree.leaves(params["network"]["backbone"]))
    assert 0.8 < share < 1.0
