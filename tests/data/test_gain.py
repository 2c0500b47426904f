"""The gain: what changes the gray levels of a face, and what must not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcm_jax.data.gain import gain, scene_gain

BOX = (20, 16, 40, 48)


@pytest.fixture
def face():
    """°C of a warm disc before a cooler gradient, float32 [80, 96]."""
    y, x = np.mgrid[:80, :96]
    disc = np.exp(-(((x - 40) / 18) ** 2 + ((y - 40) / 22) ** 2))
    return (21.0 + 0.02 * x + 12.0 * disc).astype(np.float32)


def inside(gray):
    x, y, w, h = BOX
    return gray[y : y + h, x : x + w]


def test_percentiles_of_the_box_become_a_tenth_and_nine_tenths(face):
    gray = gain(face, BOX)
    assert gray.dtype == np.uint8 and gray.shape == face.shape
    low, high = np.percentile(inside(face), (2, 98))
    expected = np.clip(25.5 + (face.astype(float) - low) * (204.0 / (high - low)), 0, 255)
    np.testing.assert_allclose(gray, expected, atol=0.51)


@pytest.mark.parametrize("disturbance", ["lamp", "window", "second person", "telemetry", "dead rows"])
def test_nothing_outside_the_box_changes_the_face(face, disturbance):
    changed = face.copy()
    if disturbance == "lamp":
        changed[2:8, 70:80] = 180.0
    elif disturbance == "window":
        changed[:, 75:] = -15.0
    elif disturbance == "second person":
        changed[30:60, 66:90] = 34.0
    elif disturbance == "telemetry":
        changed[-3:] = 65535.0
    else:
        changed[:10] = np.nan
    np.testing.assert_array_equal(inside(gain(changed, BOX)), inside(gain(face, BOX)))


@given(st.floats(1, 500), st.floats(-300, 300))
def test_unit_and_offset_of_the_values_do_not_matter(scale, offset):
    values = np.random.default_rng(0).random((40, 40))
    plain = gain(values.astype(np.float32), (5, 5, 30, 30)).astype(int)
    changed = gain((values * scale + offset).astype(np.float32), (5, 5, 30, 30))
    assert np.abs(changed - plain).max() <= 1  # float32 has fewer digits far from 0


def test_integers_are_stretched_like_floats(face):
    counts = (100 * (face + 273.15)).round().astype(np.uint16)
    np.testing.assert_array_equal(gain(counts, BOX), gain(counts.astype(np.float32), BOX))
    faded = (100 + (face - face.min())).round().astype(np.uint8)  # 14 of 256 levels
    assert np.ptp(inside(gain(faded, BOX)).astype(int)) > 180


def test_holes_take_the_level_of_their_neighbour_and_do_not_count(face):
    plain = gain(face, BOX)
    holes = np.random.default_rng(1).random(face.shape) < 0.02
    spoiled = np.where(holes, np.float32(np.nan), face)
    spoiled[40, 40] = np.inf
    found = gain(spoiled, BOX)
    assert np.abs(found.astype(int) - plain)[~holes].max() <= 3  # the percentiles are those of fewer pixels
    assert np.abs(found.astype(int) - plain).max() <= 16


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_hole_is_filled_by_one_of_the_nearest_pixels(share):
    rng = np.random.default_rng(3)
    values = rng.random((30, 40)).astype(np.float32)
    holes = rng.random(values.shape) < share
    values[holes] = np.nan
    gray = gain(values, (0, 0, 40, 30))
    known = np.argwhere(~holes)
    for hole in np.argwhere(holes):
        distance = np.square(known - hole).sum(1)
        assert gray[tuple(hole)] in gray[tuple(known[distance == distance.min()].T)]


def test_the_box_may_reach_beyond_the_image_or_miss_it(face):
    np.testing.assert_array_equal(gain(face, (-30, -20, 200, 200)), gain(face, (0, 0, 96, 80)))
    for outside in ((200, 10, 40, 40), (10, 10, 2, 3), (-50, -50, 20, 20)):
        np.testing.assert_array_equal(gain(face, outside), gain(face, (0, 0, 96, 80)))


def test_the_pixels_of_a_box_are_those_with_their_centres_in_it():
    values = np.zeros((20, 20), np.float32)
    values[4:9, 4:9] = np.arange(25).reshape(5, 5)
    low, high = np.percentile(np.arange(25), (2, 98))
    expected = np.clip(25.5 + (values - low) * (204 / (high - low)), 0, 255)
    np.testing.assert_allclose(gain(values, (3.5, 3.5, 5, 5)), expected, atol=0.51)


def test_flat_and_empty_images():
    flat = np.full((20, 20), 31.0, np.float32)
    np.testing.assert_array_equal(gain(flat, (2, 2, 10, 10)), 128)
    flat[0, 0], flat[0, 1] = 40.0, 20.0
    assert gain(flat, (2, 2, 10, 10))[0].tolist()[:3] == [255, 0, 128]
    np.testing.assert_array_equal(gain(np.full((20, 20), np.nan, np.float32), (2, 2, 10, 10)), 0)
    flat[5, 5] = 31.5  # one warm pixel on a uniform background is still an image
    assert gain(flat, (2, 2, 10, 10))[5, 5] == round(0.9 * 255) and gain(flat, (2, 2, 10, 10))[6, 6] == round(25.5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 256), st.integers(1, 30), st.integers(1, 30))
def test_8_bits_are_stretched_like_floats(seed, levels, height, width):
    values = np.random.default_rng(seed).integers(0, levels, (height, width), np.uint8)
    floats = gain(values.astype(np.float32), (2, 3, 20, 16)).astype(int)
    assert np.abs(gain(values, (2, 3, 20, 16)) - floats).max() <= 1  # where rounding decides


@pytest.fixture
def scene():
    """°C of a room with a person, float32 [120, 160]."""
    room = np.random.default_rng(0).normal(22, 0.2, (120, 160))
    room[60:, 40:110] = 26
    room[30:70, 60:90] = np.random.default_rng(1).normal(33.5, 1.0, (40, 30))
    return room.astype(np.float32)


def contrast(gray):
    """Gray levels between the face and the wall, and the deviation in the face."""
    return float(gray[35:65, 65:85].mean() - gray[:25, 120:].mean()), float(gray[35:65, 65:85].std())


@given(st.floats(0.1, 100), st.floats(-300, 300))
def test_the_unit_of_a_scene_does_not_matter(scale, offset):
    values = np.random.default_rng(0).gamma(2.0, 2.0, (40, 40))
    plain = scene_gain(values.astype(np.float32)).astype(int)
    changed = scene_gain((values * scale + offset).astype(np.float32))
    assert np.abs(changed - plain).max() <= 2


@pytest.mark.parametrize("heat", [80.0, 400.0, -60.0])
def test_a_lamp_or_a_cold_sky_does_not_blind_the_detector(scene, heat):
    apart, deviation = contrast(scene_gain(scene))
    changed = scene.copy()
    changed[:20, :25] = heat
    still_apart, still_deviation = contrast(scene_gain(changed))
    assert still_apart > 0.5 * apart and still_deviation > 0.5 * deviation


def test_gray_levels_of_a_scene_are_stretched_like_values(scene):
    levels = np.clip((scene - 15) * 10, 0, 255).round().astype(np.uint8)
    bits, floats = scene_gain(levels), scene_gain(levels.astype(np.float32))
    assert bits.min() == 0 and bits.max() == 255
    assert np.abs(bits.astype(int) - floats).mean() < 15  # levels of 0.1 K split noise of 0.2 K into few steps


def test_holes_of_a_scene_take_the_nearest_value(scene):
    holed = scene.copy()
    holed[40:44, 70:74] = np.nan
    holed[::17, ::13] = np.nan
    assert np.abs(scene_gain(holed).astype(int) - scene_gain(scene)).mean() < 8


@pytest.mark.parametrize("value", [7, 7.0, np.nan])
def test_a_scene_of_one_value_is_black(value):
    dtype = np.uint8 if isinstance(value, int) else np.float32
    assert not scene_gain(np.full((9, 12), value, dtype)).any()
    assert scene_gain(np.full((1, 1), value, dtype)).shape == (1, 1)


def test_columns_of_any_period_count(scene):
    """The percentiles are those of pixels from all columns, whatever the width is."""
    wide = np.repeat(np.repeat(scene, 4, 0), 4, 1)  # 640 pixels
    wide += np.random.default_rng(0).normal(0, 0.1, wide.shape).astype(np.float32)
    wide[:, ::16] = 22.0
    apart, deviation = contrast(scene_gain(np.ascontiguousarray(wide[1::4, 1::4])))
    still_apart, still = contrast(scene_gain(wide)[1::4, 1::4])
    assert still_apart > 0.7 * apart and still > 0.5 * deviation
