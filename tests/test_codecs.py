"""Codecs: the half pixel, and decoders against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcm_jax import codecs

encode = jax.jit(codecs.encode_heatmap, static_argnums=1)
decode = jax.jit(codecs.argmax_decode)


def test_u_has_its_ends_at_the_edges_of_the_picture():
    np.testing.assert_allclose(codecs.to_u(np.array([-0.5, 0.0, 31.5, 63.5]), 64), [0, 0.5 / 64, 0.5, 1])
    x = np.linspace(-3, 70, 11)
    np.testing.assert_allclose(codecs.to_pixels(codecs.to_u(x, 64), 64), x)
    np.testing.assert_allclose(codecs.to_pixels(1 - codecs.to_u(np.arange(64), 64), 64), np.arange(64)[::-1])


def test_to_original_applies_the_matrix_to_pixels():
    rng = np.random.default_rng(0)
    u, matrix = rng.random((4, 7, 2)), rng.normal(size=(4, 2, 3))
    wanted = np.array(
        [[m[:, :2] @ (p * 64 - 0.5) + m[:, 2] for p in points] for points, m in zip(u, matrix, strict=True)]
    )
    np.testing.assert_allclose(codecs.to_original(u, matrix, 64), wanted, rtol=1e-12)
    np.testing.assert_allclose(
        codecs.to_original(jnp.asarray(u), jnp.asarray(matrix), 64), wanted, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(codecs.to_original(u[0], matrix[0], 64), wanted[0], rtol=1e-12)


def test_vectors_interleave_x_and_y():
    points = np.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_array_equal(codecs.to_vector(points)[0], [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(codecs.from_vector(codecs.to_vector(points)), points)
    with pytest.raises(ValueError, match="even length"):
        codecs.from_vector(np.zeros((2, 5)))


def test_heatmaps_against_the_formula():
    points = np.array([[[0.3, 0.6], [1.1, 0.5]]], np.float32)
    maps = jax.jit(lambda p: codecs.encode_heatmap(p, (8, 16), sigma=1.3))(points)
    assert maps.shape == (1, 8, 16, 2)
    for k, (u, v) in enumerate(points[0].astype(float)):
        for j in range(8):
            for i in range(16):
                square = (i + 0.5 - u * 16) ** 2 + (j + 0.5 - v * 8) ** 2
                np.testing.assert_allclose(maps[0, j, i, k], np.exp(-square / (2 * 1.3**2)), rtol=2e-4, atol=1e-7)


def test_square_heatmaps_take_one_number():
    points = jnp.full((1, 1, 2), 0.5)
    np.testing.assert_array_equal(encode(points, 8), encode(points, (8, 8)))


@pytest.mark.parametrize("size", [(16, 16), (24, 40)])
def test_a_dot_is_found_where_it_was_painted(size):
    points = np.random.default_rng(1).uniform(0.3, 0.7, (2, 9, 2)).astype(np.float32)
    cells = np.array(size[::-1])
    maps = encode(points, size)
    refined, score = map(np.asarray, decode(maps))
    assert np.abs(refined - points).max() * cells.max() < 1e-3  # exact for a Gaussian, up to rounding
    assert (score > 0.85).all() and (score <= 1).all()
    np.testing.assert_allclose(np.asarray(jax.jit(codecs.expectation)(maps)) * cells, points * cells, atol=0.02)
    coarse, _ = jax.jit(lambda m: codecs.argmax_decode(m, refine=False))(maps)
    np.testing.assert_allclose(np.asarray(coarse) * cells, np.floor(points * cells) + 0.5, atol=1e-4)


@pytest.mark.parametrize("place", [(0.01, 0.53), (0.99, 0.01), (0.53, 0.99)])
def test_at_the_border_the_cell_centre_is_kept(place):
    found, _ = decode(encode(np.array([[place]], np.float32), 16))
    np.testing.assert_allclose(found[0, 0] * 16, np.clip(np.floor(np.array(place) * 16), 0, 15) + 0.5, atol=1e-5)


def test_flat_maps_decode_to_finite_numbers():
    for maps in (jnp.zeros((1, 8, 8, 2)), jnp.ones((1, 8, 8, 2)), jnp.zeros((1, 2, 2, 1))):
        found, score = decode(maps)
        assert np.isfinite(found).all() and np.isfinite(score).all()
    np.testing.assert_array_equal(codecs.expectation(jnp.zeros((1, 8, 8, 2))), jnp.full((1, 2, 2), 0.5))
    grad = jax.jit(jax.grad(lambda m: codecs.expectation(m).sum()))(jnp.zeros((1, 4, 4, 1)))
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_soft_argmax_against_numpy(temperature):
    logits = np.random.default_rng(2).normal(size=(2, 5, 7, 3)) * 4
    weights = np.exp(logits / temperature)
    weights /= weights.sum((1, 2), keepdims=True)
    x = (weights * ((np.arange(7) + 0.5) / 7)[None, None, :, None]).sum((1, 2))
    y = (weights * ((np.arange(5) + 0.5) / 5)[None, :, None, None]).sum((1, 2))
    found = jax.jit(codecs.soft_argmax)(jnp.asarray(logits, jnp.float32), temperature)
    assert found.shape == (2, 3, 2)
    np.testing.assert_allclose(found, np.stack([x, y], -1), atol=1e-5)


def test_soft_argmax_of_one_sharp_cell_is_its_centre_in_bf16_too():
    logits = jnp.full((1, 64, 64, 1), -30.0).at[0, 10, 53, 0].set(60.0).astype(jnp.bfloat16)
    found = jax.jit(codecs.soft_argmax)(logits)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found[0, 0] * 64, [53.5, 10.5], atol=1e-3)


def test_mirrored_logits_decode_to_one_minus_u():
    logits = jax.random.normal(jax.random.key(0), (1, 6, 9, 4)) * 3
    soft = jax.jit(codecs.soft_argmax)
    there, back = soft(logits), soft(logits[:, :, ::-1])
    np.testing.assert_allclose(back[..., 0], 1 - there[..., 0], atol=1e-6)
    np.testing.assert_allclose(back[..., 1], there[..., 1], atol=1e-6)


def test_soft_argmax_has_the_right_gradient():
    logits = jax.random.normal(jax.random.key(1), (1, 4, 5, 1))
    direction = jax.random.normal(jax.random.key(2), logits.shape)
    function = jax.jit(lambda m: codecs.soft_argmax(m).sum())
    slope = jnp.vdot(jax.grad(function)(logits), direction)
    difference = (function(logits + 1e-2 * direction) - function(logits - 1e-2 * direction)) / 2e-2
    np.testing.assert_allclose(slope, difference, rtol=1e-2)
