"""Photometric changes: they stay in range, depend on the seed alone, and move nothing."""

import cv2
import numpy as np
import pytest
from dots import centroid, dots

from mlcm_jax.data import photometric


def ramp(size=64, channels=3):
    """Returns an image with every gray value from 0 to 255, [size, size, channels]."""
    gray = np.linspace(0, 1, size * size, dtype=np.float32).reshape(size, size, 1)
    return np.repeat((gray * 255).round() / np.float32(255), channels, axis=2)


both = pytest.mark.parametrize(("change", "channels"), [(photometric.rgb, 3), (photometric.thermal, 1)])


@both
def test_results_stay_in_range_and_depend_on_the_seed_alone(change, channels):
    image = ramp(channels=channels)
    before, changed = image.copy(), []
    for seed in range(40):
        one, two = (change(image, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(one, two)
        assert one.dtype == np.float32 and one.shape == image.shape
        assert one.min() >= 0 and one.max() <= 1 and np.isfinite(one).all()
        changed.append(np.abs(one - image).mean())
    np.testing.assert_array_equal(image, before)
    assert np.median(changed) > 0.02 and max(changed) > 0.1
    assert len(np.unique(np.round(changed, 6))) == 40


@both
def test_uint8_stays_uint8_and_gives_the_same_image(change, channels):
    image = ramp(channels=channels)
    for seed in range(20):
        small = change((image * 255).round().astype(np.uint8), np.random.default_rng(seed))
        assert small.dtype == np.uint8 and small.shape == image.shape
        floats = change(image, np.random.default_rng(seed))
        np.testing.assert_allclose(small / 255.0, floats, atol=1e-6)


def test_noise_of_8_bits_is_within_one_gray_level_of_float_noise():
    bank = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)
    for value, sigma, u in ((128, 0.03, 0.3), (5, 0.06, 0.0), (250, 0.01, 0.99)):
        image = np.full((64, 64, 3), value, np.uint8)
        start = int(u * (len(bank) - image.size))
        expected = (value + 255 * sigma * bank[start : start + image.size]).clip(0, 255)
        photometric._add_noise(image, sigma, u)
        assert np.abs(image.ravel() - expected).max() < 1.0
        assert image.std() > 0.5


@both
def test_strength_zero_copies_the_image(change, channels):
    image = ramp(channels=channels)
    result = change(image, np.random.default_rng(0), strength=0.0)
    np.testing.assert_array_equal(result, image)
    assert not np.shares_memory(result, image)


@both
def test_nothing_moves(change, channels):
    place = np.array([30.3, 33.8])
    image = dots(64, 64, [place], 3.0)[1][..., None].repeat(channels, 2).astype(np.float32) / 255
    moved = []
    for seed in range(60):
        out = change(image, np.random.default_rng(seed)).max(axis=2)
        out = np.clip(out - np.quantile(out, 0.7), 0, None)
        moved.append(centroid(out / max(out.max(), 1e-6), place, 8) - place)
    # Single results scatter by the noise of dark images, but the median would show a systematic shift, such as half a
    # pixel in a resize.
    assert np.abs(np.median(moved, axis=0)).max() < 0.1


def test_thermal_tone_curve_never_falls():
    flat = np.arange(256, dtype=np.float32).repeat(256).reshape(256, 256, 1) / np.float32(255)
    curves = []
    for seed in range(60):
        out = photometric.thermal(flat, np.random.default_rng(seed))[..., 0]
        rows = np.median(out, axis=1)  # without the noise
        curves.append(rows)
        assert np.diff(cv2.blur(rows[:, None], (1, 31))[:, 0]).min() > -0.01
    assert np.ptp([curve[128] for curve in curves]) > 0.3


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7, 1), (4, 3, 3, 2)])
def test_to_floats_divides_by_255(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    floats = photometric.to_floats(image)
    assert floats.dtype == np.float32 and floats.shape == shape
    np.testing.assert_allclose(floats, image / 255.0, rtol=1e-7)
