"""Polarity: faces that are darker than their surroundings, and images turned from black-hot to white-hot."""

import numpy as np
import pytest

from mlcm_jax import polarity
from mlcm_jax.errors import InputError

BOX = np.array([20.0, 20, 40, 50])


def gray(face, around, seed=0):
    values = np.random.default_rng(seed).integers(0, 3, (96, 80)) + around
    values[20:70, 20:60] += face - around
    return values.astype(np.float32)


@pytest.mark.parametrize(("face", "around", "dark"), [(180, 60, False), (60, 180, True), (100, 110, True),
                                                      (110, 100, False), (100, 101, False)])  # fmt: skip
def test_a_dark_face_is_known_also_in_faded_images(face, around, dark):
    values = gray(face, around)
    assert polarity.darker(values, BOX) == dark
    values[::7, ::5] = np.nan
    assert polarity.darker(values, BOX) == dark


def test_a_face_without_surroundings_or_pixels_is_not_dark():
    assert not polarity.darker(gray(60, 180), np.array([-50, -50, 500, 500]))
    assert not polarity.darker(np.full((96, 80), np.nan, np.float32), BOX)


def test_inverted_values():
    values = np.array([[0, 100, np.nan, 255]], np.float32)
    np.testing.assert_array_equal(polarity.inverted(values, levels=True), [[255, 155, np.nan, 0]])
    np.testing.assert_array_equal(polarity.inverted(values + 1000, levels=False), [[1255, 1155, np.nan, 1000]])


def test_names():
    assert polarity.is_black_hot("black_hot") and not any(map(polarity.is_black_hot, ("white_hot", "", None)))
    with pytest.raises(InputError, match="--polarity=blackhot is unknown; did you mean 'black_hot'"):
        polarity.is_black_hot("blackhot")
