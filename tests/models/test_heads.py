"""Heads: sub-pixel exactness of the soft-argmax, the start at the mean shape, types and shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlcm_jax import codecs
from mlcm_jax.errors import InputError
from mlcm_jax.models import HEADS, create, soft_argmax
from mlcm_jax.models.depthwise import as_convolution

# Compiled once; called eagerly, every operation is a program of its own.
_run = nnx.jit(lambda head, x: head(x))


def test_a_delta_is_located_at_the_centre_of_its_cell():
    logits = np.zeros((1, 8, 16, 2), np.float32)
    logits[0, 3, 5, 0] = logits[0, 7, 0, 1] = 200.0
    found = jax.jit(soft_argmax)(jnp.asarray(logits))
    np.testing.assert_allclose(found.landmarks, [[[5.5 / 16, 3.5 / 8], [0.5 / 16, 7.5 / 8]]], atol=1e-6)
    np.testing.assert_allclose(found.heatmaps.sum((1, 2)), 1.0, rtol=1e-6)


def test_soft_argmax_and_its_gradient_are_the_formula():
    logits = np.random.default_rng(2).normal(size=(2, 5, 7, 3)) * 4
    weights = np.exp(logits)
    weights /= weights.sum((1, 2), keepdims=True)
    x, y = ((np.arange(7) + 0.5) / 7)[None, None, :, None], ((np.arange(5) + 0.5) / 5)[None, :, None, None]
    expected = np.stack([(weights * x).sum((1, 2)), (weights * y).sum((1, 2))], -1)
    found = jax.jit(soft_argmax)(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(found.landmarks, expected, atol=1e-6)
    np.testing.assert_allclose(found.heatmaps, weights, atol=1e-6)
    slope = jax.jit(jax.grad(lambda z: soft_argmax(z).landmarks.sum()))(jnp.asarray(logits, jnp.float32))
    apart = x + y - expected.sum(-1)[:, None, None]
    np.testing.assert_allclose(slope, weights * apart, atol=1e-6)


def test_soft_argmax_of_bfloat16_computes_in_float32():
    logits = jnp.full((1, 64, 64, 1), -30.0).at[0, 10, 53, 0].set(60.0).astype(jnp.bfloat16)
    found = jax.jit(soft_argmax)(logits).landmarks
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[0, 0] * 64, [53.5, 10.5], atol=1e-3)


@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.413, 0.571), (0.37, 0.66)])
def test_a_gaussian_between_cells_is_located_to_a_thousandth_of_a_cell(centre):
    width, height, sigma = 64, 32, 1.5  # sigma in cells
    x = (np.arange(width) + 0.5)[None, :] - centre[0] * width
    y = (np.arange(height) + 0.5)[:, None] - centre[1] * height
    logits = -(x**2 + y**2) / (2 * sigma**2)
    found = np.asarray(jax.jit(soft_argmax)(jnp.asarray(logits[None, :, :, None], jnp.float32)).landmarks[0, 0])
    np.testing.assert_allclose(found * [width, height], np.array(centre) * [width, height], atol=1e-3)


def test_a_huge_logit_leaves_the_gradient_finite():
    logits = jnp.full((1, 4, 4, 1), 1e4).at[0, 1, 1, 0].set(3e4)
    gradient = jax.jit(jax.grad(lambda z: soft_argmax(z).landmarks.sum()))(logits)
    assert bool(jnp.isfinite(gradient).all())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(2, 4, 4, 8), (1, 3, 7, 8)])
def test_prior_inside_the_product_gives_the_maps_and_gradients_of_the_plain_form(shape, dtype):
    """Of features in bfloat16 only their own gradient is rounded: the plain form reads the same numbers in float32."""
    mean_shape = np.random.default_rng(0).uniform(0.2, 0.8, (5, 2))
    options = {"mean_shape": mean_shape, "upsample": 1, "temperature": 0.3, "prior": 0.15}
    head = HEADS["heatmap"](8, 5, rngs=nnx.Rngs(0), dtype=dtype, **options)
    head.maps.bias[...] = jnp.linspace(-1.0, 1.0, 5)
    graph, params = nnx.split(head)
    x = jax.random.normal(jax.random.key(1), shape).astype(dtype)

    def found(params, x):
        prediction = nnx.merge(graph, params)(x)
        return jnp.square(prediction.landmarks - 0.3).sum() + jnp.square(prediction.heatmaps).sum(), prediction

    with as_convolution():
        plain = jax.jit(jax.value_and_grad(found, argnums=(0, 1), has_aux=True))(params, x.astype(jnp.float32))
    fast = jax.jit(jax.value_and_grad(lambda *a: found(*a), argnums=(0, 1), has_aux=True))(params, x)
    assert fast[1][1].dtype == dtype
    for one, other in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        rounding = 1e-4 if one.dtype == jnp.float32 else 2.0**-8
        limit = 4e-6 * max(1.0, float(jnp.abs(other).max()))
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=rounding, atol=limit)


def test_coordinates_start_at_the_mean_shape():
    mean_shape = np.random.default_rng(0).uniform(0.2, 0.8, (5, 2))
    head = HEADS["coordinates"](32, 5, mean_shape=mean_shape, rngs=nnx.Rngs(0))
    features = jax.random.normal(jax.random.key(1), (3, 4, 4, 32))
    prediction = _run(head, features)
    assert prediction.heatmaps is None
    np.testing.assert_allclose(prediction.landmarks, np.broadcast_to(mean_shape, (3, 5, 2)), atol=0.02)
    assert float(jnp.abs(prediction.landmarks[0] - prediction.landmarks[1]).max()) > 0.0


def test_coordinates_are_the_pooled_product():
    head = HEADS["coordinates"](6, 3, rngs=nnx.Rngs(0))
    features = jax.random.normal(jax.random.key(1), (2, 3, 5, 6))
    pooled = np.asarray(features, np.float64).mean((1, 2))
    expected = (pooled @ np.asarray(head.kernel[...], np.float64)).reshape(2, 3, 2) + 0.5
    np.testing.assert_allclose(_run(head, features).landmarks, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 2), (5, 3)])
def test_wrong_mean_shape_is_refused(shape):
    for head in HEADS:
        with pytest.raises(InputError, match="5 finite"):
            create("resnet18", num_landmarks=5, head=head, mean_shape=np.zeros(shape), depths=(1,), rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="NaN"):
        HEADS["coordinates"](8, 5, mean_shape=np.full((5, 2), np.nan), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("upsample", "resize"), [(1, "nearest"), (4, "nearest"), (2, "bilinear")])
def test_heatmap_grows_by_upsample(upsample, resize):
    head = HEADS["heatmap"](8, 5, upsample=upsample, resize=resize, head_channels=16, rngs=nnx.Rngs(0))
    features = jax.random.normal(jax.random.key(1), (2, 3, 4, 8))
    prediction = _run(head, features.astype(jnp.bfloat16))
    assert prediction.heatmaps.shape == (2, 3 * upsample, 4 * upsample, 5)
    assert prediction.heatmaps.dtype == prediction.landmarks.dtype == jnp.float32
    np.testing.assert_allclose(prediction.heatmaps.sum((1, 2)), 1.0, rtol=1e-5)
    assert float(jnp.abs(prediction.landmarks - 0.5).max()) < 0.2


_maps = nnx.jit(lambda head, x: head.maps(x))


def test_temperature_divides_the_logits():
    features = jax.random.normal(jax.random.key(1), (2, 4, 4, 8))
    for learned in (True, False):
        options = {"upsample": 1, "learn_temperature": learned}
        cold = HEADS["heatmap"](8, 5, temperature=0.25, rngs=nnx.Rngs(0), **options)
        warm = HEADS["heatmap"](8, 5, temperature=1.0, rngs=nnx.Rngs(0), **options)
        expected = jax.jit(soft_argmax)(_maps(warm, features) * 4).landmarks
        np.testing.assert_allclose(_run(cold, features).landmarks, expected, atol=1e-6)
        assert hasattr(nnx.state(cold, nnx.Param), "log_temperature") == learned


@pytest.mark.parametrize("options", [{"upsample": 3}, {"upsample": 0}, {"temperature": 0.0}, {"resize": "cubic"}])
def test_bad_heatmap_options_are_named(options):
    with pytest.raises(InputError, match=next(iter(options))):
        HEADS["heatmap"](8, 5, rngs=nnx.Rngs(0), **options)


def test_a_heatmap_head_with_a_prior_starts_at_the_mean_shape():
    mean_shape = np.random.default_rng(0).uniform(0.3, 0.7, (5, 2))
    head = HEADS["heatmap"](8, 5, mean_shape=mean_shape, prior=0.1, upsample=1, rngs=nnx.Rngs(0))
    prediction = _run(head, jnp.zeros((2, 32, 32, 8)))
    np.testing.assert_allclose(prediction.landmarks, np.broadcast_to(mean_shape, (2, 5, 2)), atol=0.02)


def test_the_prior_multiplies_the_map_by_a_gaussian():
    options = {"mean_shape": np.full((1, 2), 0.25), "upsample": 1}
    plain = HEADS["heatmap"](8, 1, rngs=nnx.Rngs(0), **options)
    bounded = HEADS["heatmap"](8, 1, prior=0.2, rngs=nnx.Rngs(0), **options)
    features = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 8, 8)), jnp.float32)
    y, x = np.meshgrid((np.arange(6) + 0.5) / 6, (np.arange(8) + 0.5) / 8, indexing="ij")
    gaussian = np.exp(-((x - 0.25) ** 2 + (y - 0.25) ** 2) / 0.08)
    expected = np.asarray(_run(plain, features).heatmaps)[0, :, :, 0] * gaussian
    np.testing.assert_allclose(_run(bounded, features).heatmaps[0, :, :, 0], expected / expected.sum(), rtol=1e-4)


@pytest.mark.parametrize("name", ["coordinates", "heatmap"])
def test_uncertainty_starts_at_five_hundredths_and_depends_on_the_features(name):
    plain = HEADS[name](8, 5, rngs=nnx.Rngs(0))
    head = HEADS[name](8, 5, uncertainty=True, rngs=nnx.Rngs(0))
    features = jax.random.normal(jax.random.key(1), (3, 4, 4, 8))
    found = _run(head, features)
    np.testing.assert_allclose(found.uncertainty, np.full((3, 5), 0.05), rtol=1e-5)
    np.testing.assert_array_equal(found.landmarks, _run(plain, features).landmarks)  # the same random numbers
    assert _run(plain, features).uncertainty is None
    head.uncertainty.kernel[...] = jax.random.normal(jax.random.key(2), (8, 5))
    pooled = np.asarray(features, np.float64).mean((1, 2)) @ np.asarray(head.uncertainty.kernel[...], np.float64)
    np.testing.assert_allclose(_run(head, features).uncertainty, np.clip(0.05 * np.exp(pooled), 1e-3, 1), rtol=1e-4)


@pytest.mark.parametrize("upsample", [1, 2])
def test_wide_maps_and_features_at_the_landmark_mean_doubt_by_trained_factors(upsample):
    head = HEADS["heatmap"](8, 5, uncertainty=True, upsample=upsample, head_channels=6, rngs=nnx.Rngs(0))
    rng, features = np.random.default_rng(0), 5 * jax.random.normal(jax.random.key(1), (3, 4, 4, 8))
    slope, local = np.linspace(-0.5, 1.5, 5), rng.normal(0, 0.3, (5, 8 if upsample == 1 else 6))
    head.uncertainty.slope[...], head.uncertainty.local[...] = jnp.float32(slope), jnp.float32(local)
    found, x = _run(head, features), np.asarray(head.upsampled(features), np.float64)
    maps = np.asarray(found.heatmaps, np.float64)
    means = np.einsum("bhwk,bhwc->bkc", maps, x)
    deviation = np.sqrt(np.asarray(codecs.variance(maps), np.float64))
    expected = 0.05 * np.exp((means * local).sum(-1)) * (deviation / 0.1) ** slope
    np.testing.assert_allclose(found.uncertainty, np.clip(expected, 1e-3, 1), rtol=1e-3)
