"""Tests that the fast ways to read and compute on long arrays give the bits of the plain expressions."""

import cv2
import numpy as np

from mlcm_jax.synthetic import arrays


def test_gathering_equals_brackets():
    rng = np.random.default_rng(0)
    values, index = rng.standard_normal((50, 3), np.float32), rng.integers(0, 50, 200)
    np.testing.assert_array_equal(arrays.gather(values.T, index), values.T[:, index])
    np.testing.assert_array_equal(arrays.gather(values[:, 0], index), values[index, 0])
    found = arrays.rows(values, index)
    np.testing.assert_array_equal(found, values[index])
    assert found[:, 1].flags.c_contiguous
    assert arrays.rows(values, index[:0]).shape == (0, 3)


def test_lengths_have_the_bits_of_numpys_norm():
    vectors = np.random.default_rng(1).standard_normal((1000, 3), np.float32)
    np.testing.assert_array_equal(arrays.length(vectors.T), np.linalg.norm(vectors, axis=1))


def test_values_do_not_depend_on_their_position():
    values = np.random.default_rng(2).uniform(-20, 3, 1000).astype(np.float32)
    whole = arrays.blockwise(cv2.exp, values)
    np.testing.assert_allclose(whole, np.exp(values.astype(np.float64)), rtol=1e-5)
    for count in (0, 1, 3, 257):
        np.testing.assert_array_equal(arrays.blockwise(cv2.exp, values[-count:]), whole[-count:])
    np.testing.assert_array_equal(arrays.blockwise(cv2.exp, values.reshape(10, 100)), whole.reshape(10, 100))
