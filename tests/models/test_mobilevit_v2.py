"""MobileViTv2: sizes, timm's features, patches and separable attention written out, odd maps, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sine_weights import image, parameter_counts, torch_features

from mlcm_jax import models
from mlcm_jax.errors import InputError
from mlcm_jax.models import pretrained
from mlcm_jax.models.mobilevit_v2 import MobileViTBlock, MobileViTV2, SeparableAttention, fold, resize, unfold

_run = nnx.jit(lambda module, x: module(x))


def _block(**options):
    return MobileViTBlock(16, 1, **({"bn_momentum": 0.9, "rngs": nnx.Rngs(0), "dtype": jnp.float32} | options))


def _map(height, width, channels=16, batch=2):
    return jax.random.normal(jax.random.key(1), (batch, height, width, channels))


@pytest.mark.usefixtures("without_draws")
@pytest.mark.parametrize("row", parameter_counts("mobilevit_v2"), ids=lambda row: str(row["options"]["width"]))
def test_sizes_are_the_published_ones(row):
    def make():
        return models.create(row["name"], num_landmarks=500, rngs=nnx.Rngs(0), **row["options"])

    found = models.profile(nnx.eval_shape(make), 256)
    assert found["params"] == row["params"]
    assert (found["stride"], found["channels"]) == (32, 512 * row["options"]["width"])
    if row["giga_macs"]:
        assert round(found["flops"] / 2e9, row["digits"]) == row["giga_macs"]


def test_features_are_those_of_timm(tmp_path):
    arrays, shape, features = torch_features("mobilevit_v2")
    np.savez(tmp_path / "w.npz", **arrays)
    model = MobileViTV2(width=0.25, rngs=nnx.Rngs(0))
    pretrained.load(model, tmp_path / "w.npz")
    found = np.asarray(_run(model, image(64, 128)))
    assert found.shape == shape
    np.testing.assert_allclose(found.reshape(-1)[::37], features, atol=2e-4)
    np.testing.assert_array_equal(found, _run(model, image(64, 128)))


@pytest.mark.usefixtures("without_draws")
@pytest.mark.parametrize("stem, stride", [("imagenet", 32), ("small", 16)])
@pytest.mark.parametrize("size", [(64, 64), (65, 100), (224, 256)])
def test_any_size_of_image(size, stem, stride):
    model = nnx.eval_shape(lambda: models.create("mobilevit_v2", num_landmarks=5, stem=stem, rngs=nnx.Rngs(0)))
    nnx.split(model, nnx.Param, nnx.BatchStat)  # raises if there is another kind of variable
    features = nnx.eval_shape(lambda model, x: model.backbone(x), model, jnp.zeros((2, *size, 1)))
    assert features.shape == (2, -(-size[0] // stride), -(-size[1] // stride), 512)
    assert model.backbone.stride == stride


def test_unfold_and_fold_by_hand():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    patches = unfold(x)
    assert patches.shape == (2, 4, 6, 3)
    for y in range(4):
        for column in range(6):
            place, patch = 2 * (y % 2) + column % 2, 3 * (y // 2) + column // 2
            np.testing.assert_array_equal(patches[:, place, patch], x[:, y, column])
    np.testing.assert_array_equal(fold(patches, 4, 6), x)


def test_separable_attention_is_the_formula():
    module = SeparableAttention(6, rngs=nnx.Rngs(0), dtype=jnp.float32)
    rng = np.random.default_rng(0)
    module.qkv.bias[...] = rng.normal(size=13).astype(np.float32)
    module.out.bias[...] = rng.normal(size=6).astype(np.float32)
    x = rng.normal(size=(2, 4, 5, 6)).astype(np.float32)
    found = _run(module, x)
    kernel, out = np.float64(module.qkv.kernel[...])[0, 0], np.float64(module.out.kernel[...])[0, 0]
    for b in range(2):
        for place in range(4):
            mixed = x[b, place] @ kernel + np.asarray(module.qkv.bias[...])
            weights = np.exp(mixed[:, 0]) / np.exp(mixed[:, 0]).sum()
            context = sum(weight * key for weight, key in zip(weights, mixed[:, 1:7], strict=True))
            expected = (np.maximum(mixed[:, 7:], 0) * context) @ out + np.asarray(module.out.bias[...])
            np.testing.assert_allclose(found[b, place], expected, atol=1e-5)


def test_odd_maps_keep_their_size_and_positions():
    block = _block()
    x = _map(5, 7)
    assert _run(block, x).shape == x.shape
    # Resizing to 6×8 and back keeps a ramp as it is: nothing is shifted by half a pixel.
    ramp = jnp.broadcast_to(jnp.arange(7.0).reshape(1, 1, 7, 1), (1, 5, 7, 1))
    even = resize(ramp, 6, 8)
    np.testing.assert_allclose(even[0, 2, 1:-1, 0], (np.arange(1, 7) + 0.5) * 7 / 8 - 0.5, atol=1e-5)
    np.testing.assert_allclose(resize(even, 5, 7)[0, 2, 1:-1, 0], np.arange(1.0, 6.0), atol=1e-5)


def test_pixels_attend_to_the_same_place_of_other_patches():
    attention = SeparableAttention(16, rngs=nnx.Rngs(0), dtype=jnp.float32)
    attend = nnx.jit(lambda module, x: fold(module(unfold(x)), 6, 8))
    x = _map(6, 8)
    moved = np.abs(np.asarray(attend(attention, x) - attend(attention, x.at[:, 3, 4].add(1.0)))).max(-1)[0]
    assert (moved[1::2, 0::2] > 0).all()
    assert moved[0::2].max() == 0 and moved[:, 1::2].max() == 0


def test_gradients_are_finite_and_reach_every_parameter():
    block = _block()
    block.train()
    graph, params, stats = nnx.split(block, nnx.Param, nnx.BatchStat)
    target = _map(5, 6)[::-1]

    @jax.jit
    @jax.grad
    def gradient(params, x):
        return jnp.square(nnx.merge(graph, params, stats, copy=True)(x) - target).mean()

    for path, value in nnx.to_flat_state(gradient(params, _map(5, 6))):
        value = np.asarray(value[...])
        assert np.isfinite(value).all() and np.abs(value).max() > 0, path
    for path, value in nnx.to_flat_state(gradient(params, jnp.zeros((2, 5, 6, 16)))):
        assert np.isfinite(value[...]).all(), path


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    x = _map(6, 8)
    low = _run(_block(dtype=jnp.bfloat16), x)
    assert low.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(_block(dtype=jnp.bfloat16)))} == {jnp.dtype("float32")}
    high = _run(_block(), x)
    assert float(jnp.abs(low.astype(jnp.float32) - high).max()) < 0.03 * float(jnp.abs(high).max())


def test_bad_options_are_named_in_one_sentence():
    for options, message in (({"width": -1}, "width"), ({"stem": "tiny"}, "stem is 'tiny'")):
        with pytest.raises(InputError, match=message) as caught:
            models.create("mobilevit_v2", num_landmarks=5, rngs=nnx.Rngs(0), **options)
        assert "\n" not in str(caught.value)
