"""`create`, and what training relies on: split, merge, train, eval, no random state, shapes, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlcm_jax import models
from mlcm_jax.errors import InputError

TINY = {"depths": (1, 1), "width": 0.125, "stem": "small", "num_landmarks": 5}


def _tiny(**options):
    return models.create("resnet18", rngs=nnx.Rngs(0), **(TINY | options))


# Compiled, because every operation of an eager call would be compiled as a program of its own.
_run = nnx.jit(lambda module, x: module(x))


def _images(batch=2, side=16, channels=1):
    return jax.random.uniform(jax.random.key(1), (batch, side, side, channels))


@pytest.mark.usefixtures("without_draws")
@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "resnet18", "resnet50"])
def test_features_have_the_announced_size(name, stem):
    model = nnx.eval_shape(lambda: models.create(name, num_landmarks=5, width=0.25, stem=stem, rngs=nnx.Rngs(0)))
    features = nnx.eval_shape(lambda model, x: model.backbone(x), model, jnp.zeros((2, 64, 96, 1)))
    stride = model.backbone.stride
    assert stride == {"imagenet": 32, "small": 16}[stem]
    assert features.shape == (2, 64 // stride, 96 // stride, model.backbone.channels)
    assert features.dtype == jnp.float32
    prediction = nnx.eval_shape(lambda model, x: model(x), model, jnp.zeros((2, 64, 96, 3)))
    assert prediction.landmarks.shape == (2, 5, 2)


@pytest.mark.usefixtures("without_draws")
def test_width_multiplies_and_rounds_to_eight():
    assert nnx.eval_shape(lambda: _tiny(width=0.25)).backbone.channels == 32
    assert nnx.eval_shape(lambda: _tiny(width=0.33)).backbone.channels == 40
    light = nnx.eval_shape(
        lambda: models.create("mobilenet_v2", num_landmarks=5, width=0.5, last_channels=256, rngs=nnx.Rngs(0))
    )
    assert light.backbone.channels == 256
    assert light.backbone.stem.norm.scale.shape == (16,)


def test_one_channel_is_repeated_to_three():
    model, x = _tiny(depths=(1,)), _images()
    np.testing.assert_allclose(_run(model, x).landmarks, _run(model, x.repeat(3, axis=-1)).landmarks, atol=1e-7)
    with pytest.raises(InputError, match=r"\[2, 16, 16, 2\]"):
        model(_images(channels=2))


@pytest.mark.parametrize("head", ["coordinates", "heatmap"])
def test_only_parameters_and_statistics_are_in_the_graph(head):
    model = _tiny(head=head, **({"dropout": 0.5} if head == "coordinates" else {"upsample": 2}))
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # raises if anything else is left
    assert set(params) == {"backbone", "head"}
    assert set(stats) == ({"backbone"} if head == "coordinates" else {"backbone", "head"})
    for leaf in jax.tree.leaves((params, stats)):
        assert leaf.dtype == jnp.float32
    for part in (model.head, model.backbone):
        graph, part_params, part_stats = nnx.split(part, nnx.Param, nnx.BatchStat)
        assert jax.tree.leaves(nnx.merge(graph, part_params, part_stats, copy=True))


@pytest.mark.usefixtures("without_draws")
def test_efficientnet_keeps_no_random_state_either():
    model = nnx.eval_shape(lambda: models.create("efficientnet_b0", num_landmarks=5, width=0.25, rngs=nnx.Rngs(0)))
    nnx.split(model, nnx.Param, nnx.BatchStat)
    model.train()
    x = jnp.zeros((2, 64, 64, 1))
    with pytest.raises(ValueError, match="rngs"):
        nnx.eval_shape(lambda model: model(x), model)
    assert nnx.eval_shape(lambda model: model(x, rngs=nnx.Rngs(0)), model).landmarks.shape == (2, 5, 2)


def test_a_training_step_in_jit_learns_and_moves_the_statistics():
    model = _tiny(bn_momentum=0.5)
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    x = _images(batch=8)
    target = jax.random.uniform(jax.random.key(2), (8, 5, 2))

    @jax.jit
    def step(params, stats):
        def loss(params):
            m = nnx.merge(graph, params, stats, copy=True)
            m.train()
            value = jnp.square(m(x).landmarks - target).mean()
            return value, nnx.split(m, nnx.Param, nnx.BatchStat)[2]

        (value, new_stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient), new_stats, value

    values = []
    new_stats = stats
    for _ in range(60):
        params, new_stats, value = step(params, new_stats)
        values.append(float(value))
    assert values[-1] < 0.6 * values[0]
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), stats, new_stats)
    assert min(jax.tree.leaves(moved)) > 0.0
    # The original is untouched by the merged copies, and evaluation uses the running values.
    before = nnx.state(model, nnx.BatchStat)
    _run(model, x)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model, nnx.BatchStat), before)


def test_dropout_draws_from_the_rngs_of_the_call_and_is_off_in_evaluation():
    model, x = _tiny(dropout=0.5), _images()
    model.head.kernel[...] *= 1e3
    np.testing.assert_array_equal(_run(model, x).landmarks, _run(model, x).landmarks)
    model.train()
    with pytest.raises(ValueError, match="rngs"):
        _run(model, x)
    features = _run(model.backbone, x)
    one, again, other = (model.head(features, rngs=nnx.Rngs(dropout=seed)).landmarks for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert float(jnp.abs(one - other).max()) > 0.0
    model.eval()
    mean = model.head(features).landmarks
    model.train()
    draws = jnp.stack([model.head(features, rngs=nnx.Rngs(dropout=seed)).landmarks for seed in range(200)])
    error = (draws.mean(0) - mean) / (draws.std(0) / np.sqrt(200) + 1e-9)
    assert float(jnp.abs(error).max()) < 5.0


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    low, high = _tiny(dtype=jnp.bfloat16), _tiny()
    x = _images()
    features = _run(low.backbone, x)
    assert features.dtype == jnp.bfloat16
    prediction = _run(low, x)
    assert prediction.landmarks.dtype == jnp.float32
    for leaf in jax.tree.leaves(nnx.state(low)):
        assert leaf.dtype == jnp.float32
    np.testing.assert_allclose(features.astype(jnp.float32), _run(high.backbone, x), atol=0.05)


def test_same_seed_same_parameters():
    one, two, other = _tiny(), _tiny(), models.create("resnet18", rngs=nnx.Rngs(1), **TINY)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(one), nnx.state(two))
    assert not np.array_equal(one.backbone.stem.conv.kernel[...], other.backbone.stem.conv.kernel[...])
    traced = nnx.jit(lambda: _tiny())()
    np.testing.assert_allclose(
        traced.backbone.stem.conv.kernel[...], one.backbone.stem.conv.kernel[...], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet19"}, "did you mean 'resnet18'"),
        ({"name": "vit"}, "There is no model 'vit'; there are"),
        ({"head": "heatmaps"}, "did you mean 'heatmap'"),
        ({"widht": 0.5}, "'widht'; did you mean 'width'"),
        ({"upsample": 4}, "no option 'upsample'"),
        ({"stem": "tiny"}, "stem is 'tiny'"),
        ({"num_landmarks": 0}, "at least one landmark"),
        ({"width": -1.0}, "width"),
        ({"width": float("inf")}, "Option width is inf; it must be a finite number"),
        ({"depths": ()}, "depths"),
        ({"depths": "22"}, "Option depths is '22'; it must be a tuple of integers"),
        ({"name": "mobilenet_v2", "depths": ()}, "no option 'depths'"),
        ({"depths": 3}, "Option depths is 3; it must be a tuple of integers"),
        ({"depths": (1.5,)}, "depths is .* integers"),
        ({"width": "0.5"}, "Option width is '0.5'; it must be a finite number"),
        ({"width": True}, "Option width is True"),
        ({"dropout": None}, "Option dropout is None; it must be a finite number"),
        ({"bn_momentum": 1.5}, "Option bn_momentum is 1.5"),
        ({"bn_momentum": "x"}, "Option bn_momentum is 'x'; it must be a finite number"),
        ({"head": "heatmap", "head_channels": 0}, "Option head_channels is 0; it must be positive"),
        ({"head": "heatmap", "upsample": 2.0}, "Option upsample is 2.0; it must be an integer"),
        ({"head": "heatmap", "temperature": float("nan")}, "Option temperature is nan"),
        ({"head": "heatmap", "learn_temperature": "no"}, "it must be True or False"),
        ({"name": "mobilenet_v2", "depths": ..., "last_channels": 0}, "Option last_channels is 0"),
        (
            {"name": "mobilenet_v2", "depths": ..., "last_channels": "x"},
            "last_channels is 'x'; it must be an integer",
        ),
        ({"head": "aam", "layout": 3}, "Option layout is 3; it must be a string or a Path or a Layout or None"),
        ({"dtype": "int8"}, "Option dtype is 'int8'"),
        ({"dtype": "float23"}, "Option dtype is 'float23'"),
    ],
)
def test_bad_arguments_are_named_in_one_sentence(arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        given = {"name": "resnet18", "rngs": nnx.Rngs(0)} | TINY | arguments
        models.create(**{option: value for option, value in given.items() if value is not ...})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stem, stride", [("imagenet", 4), ("small", 2), ("strided", 4)])
def test_every_stem_has_its_stride_and_lets_gradients_through(stem, stride):
    model = _tiny(stem=stem, depths=(1,))
    assert model.backbone.stride == stride
    assert nnx.eval_shape(lambda m, x: m.backbone(x), model, _images()).shape[1] == 16 // stride

    def loss(x):
        return jnp.square(model.backbone(x)).sum()

    gradient = jax.jit(jax.grad(loss))(_images())
    assert jnp.isfinite(gradient).all() and (gradient != 0).mean() > 0.5
