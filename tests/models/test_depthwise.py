"""The forms of the depthwise convolution agree with XLA's grouped convolution, and every platform gets its form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import depthwise as bench
from mlcm_jax.models import depthwise as forms

# batch, height, width, channels, kernel size, stride; with odd and even sides, and with one and several blocks of rows
CASES = [
    (2, 9, 12, 5, 3, 1),
    (2, 8, 8, 4, 3, 2),
    (2, 9, 7, 4, 3, 2),
    (3, 10, 10, 3, 5, 1),
    (1, 11, 6, 3, 5, 2),
    (1, 4, 4, 2, 7, 2),
    (2, 1, 1, 4, 3, 1),
    (1, 2, 3, 4, 5, 2),
    (8, 16, 34, 64, 3, 1),
    (8, 32, 32, 64, 3, 2),
]


def _arrays(batch, height, width, channels, size, stride, dtype=np.float32):
    rng = np.random.default_rng(0)
    out = (batch, -(-height // stride), -(-width // stride), channels)
    shapes = ((batch, height, width, channels), (size, size, 1, channels), out)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


@partial(jax.jit, static_argnums=(0, 1))
def _forward_and_gradients(form, stride, x, kernel, g):
    y, pull = jax.vjp(lambda x, kernel: form(x, kernel, stride), x, kernel)
    return y, *pull(g)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_form_and_gradients_equal_the_grouped_convolution(case):
    arrays = _arrays(*case)
    expected = _forward_and_gradients(forms.convolution, case[-1], *arrays)
    found = _forward_and_gradients(forms.depthwise, case[-1], *arrays)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("case", [(2, 9, 12, 5, 3, 1), (2, 9, 7, 4, 3, 2), (1, 11, 6, 3, 5, 2), CASES[-1]], ids=str)
def test_form_and_gradients_in_bfloat16_are_those_of_float32_rounded_once(case):
    """XLA's grouped convolution computes the expected values from the same numbers in float32."""
    low = _arrays(*case, jnp.bfloat16)
    expected = _forward_and_gradients(forms.convolution, case[-1], *(a.astype(jnp.float32) for a in low))
    for ours, theirs in zip(_forward_and_gradients(forms.depthwise, case[-1], *low), expected, strict=True):
        assert ours.dtype == jnp.bfloat16
        limit = 1e-5 * float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, rtol=2.0**-8, atol=limit)


def test_bfloat16_sums_in_float32():
    x, kernel, g = _arrays(4, 16, 16, 8, 5, 1)
    low = [a.astype(jnp.bfloat16) for a in (x, kernel, g)]
    exact = [a.astype(jnp.float32) for a in low]
    y, (dx, dk) = forms.shifted(*low[:2], 1), forms.shifted_gradient(*low, 1)
    assert y.dtype == dx.dtype == dk.dtype == jnp.bfloat16
    expected = [forms.convolution(*exact[:2], 1), *forms.convolution_gradient(*exact, 1)]
    for ours, theirs in zip((y, dx, dk), expected, strict=True):
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 0), ("cuda", 3), ("tpu", 3)])
def test_the_form_suits_the_platform_that_the_program_is_for(platform, convolutions):
    def forward_and_gradient(x, kernel, g):
        y, pull = jax.vjp(lambda x, kernel: forms.depthwise(x, kernel, 1), x, kernel)
        return y, pull(g)

    traced = jax.jit(forward_and_gradient).trace(*_arrays(2, 8, 8, 4, 3, 1))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == convolutions


def test_bench_compares_all_forms():
    times = bench.compare(1, 4, 2, 3, 2, repeats=1)
    expected = ["forward conv", "forward shifted", "gradient conv", "gradient automatic", "gradient ours"]
    assert list(times) == expected
    assert all(value > 0.0 for value in times.values())
