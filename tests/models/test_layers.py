"""The shared layers against their formulas in numpy, in float32 and in bfloat16."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mlcm_jax.errors import InputError
from mlcm_jax.models.biased import spread
from mlcm_jax.models.layers import (
    BatchNorm,
    GroupNorm,
    LayerNorm,
    conv,
    depthwise_conv,
    doubled,
    dropout,
    linear,
    normal,
)

BOTH_TYPES = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])


def _random(shape, *, mean=0.0, deviation=1.0, dtype=jnp.float32, seed=0):
    """Normal numbers of `dtype`, and the same numbers as float64."""
    x = jnp.asarray(np.random.default_rng(seed).normal(mean, deviation, shape), dtype)
    return x, np.asarray(x, np.float64)


def _assert_close(found, expected, dtype):
    """Asserts equality to 1e-6 in float32, and in bfloat16 to the rounding of the result alone."""
    assert found.dtype == dtype
    rounding = 1e-6 if dtype == jnp.float32 else 2.0**-8
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=rounding, atol=1e-6)


@partial(jax.jit, static_argnums=0)
def _with_gradients(function, g, *inputs):
    """The value of a function of arrays or of states, and the gradients of its inputs, where g is that of the value."""
    value, pull = jax.vjp(function, *inputs)
    return value, pull(g)


def _of_state(graph, *rest):
    """A module as a function of its parameters and its input."""
    return lambda params, x: nnx.merge(graph, params, *rest, copy=True)(x)


def _assert_rounded(found, expected, dtype):
    """Asserts equality to the rounding of sums in float32, and of their results to `dtype`."""
    rounding = 1e-5 if dtype == jnp.float32 else 2.0**-8
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        limit = 1e-5 * float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, rtol=rounding, atol=limit)


def _standardised(x, axes):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


@BOTH_TYPES
@pytest.mark.parametrize(("make", "axes"), [(LayerNorm, (3,)), (GroupNorm, (1, 2, 3))])
def test_normalisation_is_the_formula(make, axes, dtype):
    norm = make(6)
    scale, wide_scale = _random((6,), mean=1.0, deviation=0.3, seed=1)
    bias, wide_bias = _random((6,), seed=2)
    norm.scale[...], norm.bias[...] = scale, bias
    x, wide = _random((2, 4, 5, 6), dtype=dtype)
    _assert_close(jax.jit(norm)(x), _standardised(wide, axes) * wide_scale + wide_bias, dtype)
    assert {norm.scale.dtype, norm.bias.dtype} == {jnp.dtype("float32")}


@BOTH_TYPES
@pytest.mark.parametrize(("make", "axes"), [(LayerNorm, (3,)), (GroupNorm, (1, 2, 3))])
def test_statistics_of_a_normalisation_are_float32(make, axes, dtype):
    """The mean is 100 deviations: bfloat16 has no digits left for the variance, and one pass over float32 has few."""
    x, wide = _random((2, 4, 5, 16), mean=300.0, deviation=3.0, dtype=dtype)
    found = np.asarray(make(16)(x), np.float64)
    np.testing.assert_allclose(
        found, _standardised(wide, axes), rtol=2.0**-8 if dtype == jnp.bfloat16 else 0, atol=2e-4
    )


@BOTH_TYPES
def test_batch_norm_is_the_formula_in_both_modes(dtype):
    norm = BatchNorm(3, momentum=0.9, scale=2.0, dtype=dtype)
    x, wide = _random((16, 8, 8, 3), mean=1.0, deviation=2.0, dtype=dtype)
    _assert_close(norm(x), 2.0 * wide / np.sqrt(1.0 + 1e-5), dtype)
    norm.train()
    _assert_close(norm(x), 2.0 * _standardised(wide, (0, 1, 2)), dtype)
    np.testing.assert_allclose(norm.mean[...], 0.1 * wide.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * wide.var((0, 1, 2)), rtol=1e-5)
    norm.eval()
    mean, var = 0.1 * wide.mean((0, 1, 2)), 0.9 + 0.1 * wide.var((0, 1, 2))
    _assert_close(norm(x), 2.0 * (wide - mean) / np.sqrt(var + 1e-5), dtype)


@BOTH_TYPES
def test_gradients_of_batch_norm_are_those_of_flax(dtype):
    """The gradients of scale and bias are float32, and those of the input are rounded once, in either type."""
    ours = BatchNorm(3, dtype=dtype)
    theirs = nnx.BatchNorm(3, epsilon=1e-5, use_fast_variance=False, use_running_average=False, rngs=nnx.Rngs(0))
    for norm in (ours, theirs):
        norm.scale[...], norm.bias[...] = jnp.float32([0.5, 2.0, -1.0]), jnp.float32([0.0, -3.0, 1.0])
    ours.train()
    x, _ = _random((4, 6, 5, 3), mean=1.0, deviation=2.0, dtype=dtype)
    g, _ = _random(x.shape, mean=0.5, dtype=dtype, seed=1)
    graphs = [nnx.split(norm, nnx.Param, nnx.BatchStat) for norm in (ours, theirs)]
    wide = [a.astype(jnp.float32) for a in (x, g)]
    (graph, params, stats), (other, others, rest) = graphs
    value, (of_params, of_x) = _with_gradients(_of_state(graph, stats), g, params, x)
    exact, expected = _with_gradients(_of_state(other, rest), wide[1], others, wide[0])
    assert value.dtype == of_x.dtype == dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(of_params)} == {jnp.dtype("float32")}
    _assert_rounded(of_params, expected[0], jnp.float32)
    _assert_rounded((value, of_x), (exact, expected[1]), dtype)


@BOTH_TYPES
@pytest.mark.parametrize("per_example", [False, True])
def test_dropout_is_the_formula(per_example, dtype):
    layer = dropout(0.25, per_example=per_example)
    x, wide = _random((4000, 2, 2, 3), dtype=dtype)
    np.testing.assert_array_equal(layer(x, rngs=None), x)
    layer.train()
    found = layer(x, rngs=nnx.Rngs(dropout=3))
    drawn = (4000, 1, 1, 1) if per_example else x.shape
    kept = np.asarray(jax.random.bernoulli(nnx.Rngs(dropout=3).dropout(), 0.75, drawn))
    _assert_close(found, np.where(kept, wide / 0.75, 0.0), dtype)
    assert abs(kept.mean() - 0.75) < 0.03
    np.testing.assert_array_equal(found, layer(x, rngs=nnx.Rngs(dropout=3)))
    assert (found != layer(x, rngs=nnx.Rngs(dropout=4))).any()


def test_dropout_keeps_no_random_state_and_requires_rngs():
    layer = dropout(0.5)
    assert not jax.tree.leaves(nnx.state(layer))
    layer.train()
    with pytest.raises(ValueError, match="rngs"):
        layer(jnp.ones((2, 3)))
    for rate in (1.0, -0.1):
        with pytest.raises(InputError, match="rate"):
            dropout(rate)


def _convolved(x, kernel, stride, pad):
    """A convolution as the sum over the window of every pixel; `kernel` [k, k, cin, cout]."""
    size = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwcij,ijcd->bhwd", windows, kernel)


@BOTH_TYPES
@pytest.mark.parametrize(
    ("size", "stride", "pads"), [(1, 1, True), (1, 2, True), (3, 1, True), (3, 2, True), (7, 2, True), (4, 4, False)]
)
def test_convolution_is_the_sum(size, stride, pads, dtype):
    layer = conv(5, 6, size, stride, bias=True, pads=pads, rngs=nnx.Rngs(0), dtype=dtype)
    layer.bias[...] = _random((6,), seed=1)[0]
    kernel, bias = (np.asarray(a[...].astype(dtype), np.float64) for a in (layer.kernel, layer.bias))
    x, wide = _random((2, 9, 8, 5), dtype=dtype)
    expected = _convolved(wide, kernel, stride, size // 2 if pads else 0)
    found = jax.jit(layer)(x)
    if dtype == jnp.float32:
        _assert_close(found, expected + bias, dtype)
    else:  # rounded before and after the bias is added
        limit = 2.0**-7 * np.abs(expected).max()
        np.testing.assert_allclose(np.asarray(found, np.float64), expected + bias, atol=limit)
    assert found.dtype == dtype
    assert layer.kernel.dtype == layer.bias.dtype == jnp.float32


@BOTH_TYPES
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_gradients_of_a_product_are_those_of_the_convolution(stride, dtype):
    """A convolution of 1×1 is written as a product. All gradients are summed in float32 and rounded once.

    The gradient of the result has a mean, with which a sum of the bias's gradient in bfloat16 would stop growing.
    """
    layer = conv(5, 6, 1, stride, bias=True, rngs=nnx.Rngs(0), dtype=dtype)
    layer.bias[...] = _random((6,), seed=1)[0]
    x, _ = _random((2, 33, 32, 5), dtype=dtype)
    g, _ = _random((2, -(-33 // stride), -(-32 // stride), 6), mean=1.0, dtype=dtype, seed=2)
    graph, params = nnx.split(layer)

    def convolution(params, x):
        strides, numbers = (stride, stride), ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, params["kernel"], strides, "VALID", dimension_numbers=numbers)
        return y + params["bias"].reshape(1, 1, 1, -1)

    _, found = _with_gradients(_of_state(graph), g, params, x)
    rounded = {name: getattr(layer, name)[...].astype(dtype).astype(jnp.float32) for name in ("bias", "kernel")}
    _, expected = _with_gradients(convolution, g.astype(jnp.float32), rounded, x.astype(jnp.float32))
    assert found[1].dtype == dtype
    _assert_rounded(found, expected, dtype)


@BOTH_TYPES
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 2, 3)])
def test_doubled_and_its_gradient_are_those_of_repetition(shape, dtype):
    x, _ = _random(shape, dtype=dtype)
    g, _ = _random((shape[0], 2 * shape[1], 2 * shape[2], shape[3]), dtype=dtype, seed=1)
    value, (slope,) = _with_gradients(doubled, g, x)

    def repeated(x):
        return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)

    np.testing.assert_array_equal(value, repeated(x))
    assert value.dtype == slope.dtype == dtype
    wide, add = g.astype(jnp.float32), jax.vjp(repeated, x.astype(jnp.float32))[1]
    rounding = 2.0**-23 if dtype == jnp.float32 else 2.0**-8
    # A sum of four is rounded twice: after each sum of two, and at its end.
    assert (jnp.abs(slope.astype(jnp.float32) - add(wide)[0]) <= 2 * rounding * add(jnp.abs(wide))[0]).all()


@BOTH_TYPES
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_depthwise_convolution_is_the_sum_of_each_channel(size, stride, dtype):
    layer = depthwise_conv(5, size, stride, rngs=nnx.Rngs(0), dtype=dtype)
    kernel = np.asarray(layer.kernel[...].astype(dtype), np.float64)
    x, wide = _random((2, 9, 8, 5), dtype=dtype)
    per_channel = [_convolved(wide[..., c : c + 1], kernel[..., c : c + 1], stride, size // 2) for c in range(5)]
    _assert_close(jax.jit(layer)(x), np.concatenate(per_channel, -1), dtype)
    assert not hasattr(nnx.state(layer), "bias")


@pytest.mark.parametrize("make", [partial(conv, size=3, bias=True), linear], ids=["conv", "linear"])
def test_gradient_of_a_bias_is_summed_in_float32(make):
    """A sum of 2048 ones in bfloat16 ends at 256, unless it is taken in parts."""
    graph, params = nnx.split(make(2, 3, rngs=nnx.Rngs(0), dtype=jnp.bfloat16))
    x = jnp.zeros((2, 32, 32, 2), jnp.bfloat16)
    _, (found, _) = _with_gradients(_of_state(graph), jnp.ones((2, 32, 32, 3), jnp.bfloat16), params, x)
    np.testing.assert_array_equal(found["bias"][...], 2048.0)


@BOTH_TYPES
def test_what_is_spread_over_a_map_has_a_gradient_summed_in_float32(dtype):
    a, _ = _random((2, 1, 1, 3), dtype=dtype)
    like, g = jnp.zeros((2, 32, 32, 3), dtype), jnp.ones((2, 32, 32, 3), dtype)
    value, (of_a, of_like) = _with_gradients(lambda a, like: like + spread(a, like), g, a, like)
    np.testing.assert_array_equal(value, np.broadcast_to(a, like.shape))
    np.testing.assert_array_equal(of_a, np.full(a.shape, 1024.0))
    np.testing.assert_array_equal(of_like, g)
    assert value.dtype == of_a.dtype == dtype


def test_in_float32_a_bias_is_repeated_by_the_sum_itself():
    """An ONNX file would store a bias that is repeated before as a whole map."""
    layers = conv(3, 4, 3, bias=True, rngs=nnx.Rngs(0), dtype=jnp.float32), linear(3, 4, rngs=nnx.Rngs(0))
    for layer in layers:
        program = str(jax.make_jaxpr(lambda x, layer=layer: layer(x))(jnp.zeros((1, 16, 16, 3))))
        assert "4] = add" in program and "f32[1,16,16,4] = broadcast_in_dim" not in program


def test_every_convolution_draws_one_key():
    """A bias or a normalisation must not move the draws after it: a network's initial parameters depend on them."""
    keys, rngs = nnx.Rngs(7), nnx.Rngs(7)
    first, second = keys.params(), keys.params()
    layer = conv(3, 8, 3, bias=True, rngs=rngs, dtype=jnp.float32)
    LayerNorm(8), GroupNorm(8), BatchNorm(8)
    last = depthwise_conv(8, 5, rngs=rngs, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(layer.kernel[...], normal(first, (3, 3, 3, 8), 0.5 / 3))
    np.testing.assert_array_equal(last.kernel[...], normal(second, (5, 5, 1, 8), np.sqrt(2.0) / 5))
    np.testing.assert_array_equal(layer.bias[...], 0.0)
