"""Holes: what holds no temperature is found, whatever it holds in its place, and ordinary images have none."""

import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcm_jax import holes
from mlcm_jax.synthetic import generate


def room(seed=0, shape=(60, 80)):
    """°C of a room with a warm ellipse and a little noise, float32."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    warm = 12 * np.exp(-((((x - shape[1] / 2) / 14) ** 2 + ((y - shape[0] / 2) / 18) ** 2) ** 3))
    noise = np.random.default_rng(seed).normal(0, 0.05, shape)
    return (21 + 0.02 * x + warm + noise).astype(np.float32)


def stored(celsius, kind):
    """The values of a file: hundredths of a kelvin, kelvins, 14-bit counts, or faded gray levels."""
    if kind == "counts":
        return generate.to_raw(celsius)
    if kind == "14-bit":
        return (7000 + 40 * celsius).round().astype(np.uint16)
    if kind == "faded":
        return (60 + 2.5 * celsius).round().astype(np.uint8)
    return celsius if kind == "°C" else celsius + np.float32(273.15)


KINDS = ("counts", "14-bit", "°C", "K", "faded")


def words(rng, rows, width, used=1.0):
    """Rows of telemetry, of which some words are not used."""
    found = rng.integers(0, 65536, (rows, width))
    found[:, rng.random(width) > used] = 0
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_images_have_no_holes(kind):
    found = holes.find(stored(room(), kind))
    assert not found.mask.any() and (found.top, found.bottom) == (0, 0)


@pytest.mark.parametrize("kind", ["counts", "14-bit", "°C", "K"])
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize("end", ["top", "bottom"])
@pytest.mark.parametrize("used", [1.0, 0.3])
def test_telemetry_is_found_at_both_ends(kind, rows, end, used):
    rng = np.random.default_rng(rows)
    image = stored(room(), kind)
    lines = words(rng, rows, image.shape[1], used)
    lines = lines.astype(image.dtype) if image.dtype == np.uint16 else (lines / 100 - 273.15).astype(image.dtype)
    parts = [lines, image] if end == "top" else [image, lines]
    found = holes.find(np.concatenate(parts))
    assert (found.top, found.bottom) == ((rows, 0) if end == "top" else (0, rows))
    expected = np.zeros(len(found.mask), bool)
    expected[slice(rows) if end == "top" else slice(-rows, None)] = True
    np.testing.assert_array_equal(found.mask.all(1), expected)
    np.testing.assert_array_equal(found.mask.any(1), expected)


@pytest.mark.parametrize("line", ["ramp", "unused between", "few words"])
def test_telemetry_of_other_kinds(line):
    image = stored(room(), "counts")
    lines = {
        "ramp": np.arange(80)[None],
        "unused between": np.concatenate([words(np.random.default_rng(0), 1, 80), np.zeros((2, 80), int)]),
        "few words": np.where(np.arange(80) % 16 == 3, 40000, 0)[None],
    }[line]
    found = holes.find(np.concatenate([image, lines.astype(np.uint16)]))
    assert (found.top, found.bottom) == (0, len(lines))
    assert found.mask[-len(lines) :].all() and not found.mask[: -len(lines)].any()


def test_dead_pixels_do_not_hide_telemetry():
    rng = np.random.default_rng(0)
    image = stored(room(), "counts")
    spots = rng.random(image.shape) < 0.02
    image = np.where(spots, rng.choice((0, 65535, 20000, 40000), image.shape), image).astype(np.uint16)
    found = holes.find(np.concatenate([image, words(rng, 3, 80).astype(np.uint16)]))
    assert found.bottom == 3 and found.mask[:-3][spots].mean() > 0.98 and found.mask[:-3][~spots].mean() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        "sky",
        "strip of sky",
        "black border",
        "letterbox",
        "bars",
        "radiator",
        "lamp",
        "noise",
        "stripes",
        "table",
    ],
)
def test_what_lies_at_the_border_of_ordinary_images_is_no_telemetry(kind, change):
    celsius, rng = room(), np.random.default_rng(0)
    if change == "sky":
        celsius[:20] = -40 + rng.normal(0, 0.1, (20, 80))
    elif change == "strip of sky":
        celsius[:3] = -40 + rng.normal(0, 0.1, (3, 80))
    elif change == "radiator":
        celsius[-4:, ::8] = celsius[-4:, 1::8] = 60
    elif change == "lamp":
        celsius[-3:, 20:35] = 180
    elif change == "noise":
        celsius = rng.normal(25, 4, celsius.shape).astype(np.float32)
    elif change == "stripes":
        celsius[::2] += 3
    elif change == "table":
        celsius[-2:] = 30 + rng.normal(0, 0.5, (2, 80))
    image = stored(celsius, kind)
    if change == "black border":
        image[:2] = image[-2:] = image[:, :2] = image[:, -2:] = image.min()
    elif change == "letterbox":
        image[:9] = image[-9:] = 0
    elif change == "bars":
        image[:3] = image[-1:] = 0
    found = holes.find(image)
    assert (found.top, found.bottom) == (0, 0)
    if change not in ("letterbox", "bars", "strip of sky", "noise"):
        assert found.mask.mean() < 0.002


def test_rendered_faces_have_hardly_any_holes():
    for k in range(6):
        pair = generate.example(11, 4 * k, size=72)
        for image in (pair["thermal"], pair["celsius"], generate.to_raw(pair["celsius"])):
            found = holes.find(image)
            assert found.mask.mean() < 0.002 and (found.top, found.bottom) == (0, 0)


SENTINELS = {
    "counts": (0, 65535), "14-bit": (0, 16383, 65535), "°C": (np.nan, np.inf, -273.15, -300, -9999, 1e6, -32768),
    "K": (np.nan, 0, -1, -9999, 1e6, 65535), "faded": (),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, some in SENTINELS.items() for value in some])
@pytest.mark.parametrize("place", ["rows", "frame", "block", "pixels"])
def test_values_that_no_thermometer_gives(kind, value, place):
    image, spoilt = stored(room(), kind), np.zeros((60, 80), bool)
    if place == "rows":
        spoilt[:6] = spoilt[30] = True
    elif place == "frame":
        spoilt[:4] = spoilt[-4:] = spoilt[:, :4] = spoilt[:, -4:] = True
    elif place == "block":
        spoilt[20:32, 30:50] = True
    else:
        spoilt = np.random.default_rng(0).random(spoilt.shape) < 0.02
    image[spoilt] = value
    found = holes.find(image)
    np.testing.assert_array_equal(found.mask, spoilt)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kelvins", [-30.0, -8.0, 8.0, 60.0])
def test_isolated_dead_pixels_in_the_face_and_elsewhere(kind, kelvins):
    spots = np.random.default_rng(1).random((60, 80)) < 0.01
    image = stored(np.where(spots, room() + np.float32(kelvins), room()), kind)
    found = holes.find(image)
    assert found.mask[spots].mean() > 0.9 and not found.mask[~spots].any()
    filled = holes.filled(image, found.mask)
    clean = stored(room(), kind).astype(float)
    assert filled.dtype == image.dtype
    away = np.abs(filled.astype(float) - clean)[found.mask].max()
    assert away < 0.25 * abs(kelvins) * (clean.max() - clean.min()) / 13
    assert not holes.find(image, dead=False).mask.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lines", [[30], [7, 50], [30, 31], [12, 13, 14, 15]])
@pytest.mark.parametrize("kelvins", [-25.0, 0.0, 40.0])
def test_dead_rows_and_columns(kind, lines, kelvins):
    celsius, other = room(), room()
    celsius[lines] = 24 + kelvins
    other[:, lines] = 24 + kelvins
    expected = np.isin(np.arange(60), lines)
    if kind == "faded" and kelvins == 0:
        return  # in 8 bits, a row of one value is not unusual
    np.testing.assert_array_equal(holes.find(stored(celsius, kind)).mask, np.broadcast_to(expected[:, None], (60, 80)))
    expected = np.isin(np.arange(80), lines)
    np.testing.assert_array_equal(holes.find(stored(other, kind)).mask, np.broadcast_to(expected, (60, 80)))


def test_clusters_lines_and_edges_are_things_not_dead_pixels():
    image = room()
    image[10:12, 10:12] = 60.0
    image[40, 5:30] = 35.0  # a wire
    image[20:50, 70] = 35.0
    cv2.line(image, (50, 5), (75, 25), 40.0)
    image[45:, :20] += 5
    found = holes.find(image).mask
    assert found.sum() <= 12  # the ends of lines
    assert not found[10:12, 10:12].any() and not found[40, 7:28].any() and not found[22:48, 70].any()


@pytest.mark.parametrize("value", [0, 7, 255])
def test_images_of_one_value_have_no_holes(value):
    for dtype in (np.uint8, np.uint16, np.float32):
        assert not holes.find(np.full((20, 30), value, dtype)).mask.any()
    assert not holes.find(np.full((1, 1), value, np.uint8)).mask.any()


def test_nothing_is_left_of_an_image_of_nan():
    nothing = np.full((20, 30), np.nan, np.float32)
    assert holes.find(nothing).mask.all()
    assert np.isnan(holes.filled(nothing, np.isnan(nothing))).all()


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_any_image_is_searched(seed, height, width):
    dtype = ("uint8", "uint16", "float32")[seed % 3]
    rng = np.random.default_rng(seed)
    image = (rng.choice((1, 50, 60000)) * rng.normal(0, 1, (height, width))).clip(-1e30, 1e30)
    image = np.abs(image).astype(dtype) if dtype != "float32" else image.astype(dtype)
    if dtype == "float32":
        image[rng.random(image.shape) < rng.random()] = rng.choice((np.nan, np.inf, -9999, 1e38))
    before = image.copy()
    found = holes.find(image)
    assert found.mask.shape == image.shape and found.mask.dtype == bool
    np.testing.assert_array_equal(image, before)


def test_a_large_image_takes_a_second_at_most():
    image = cv2.resize(room(), (3000, 2500))
    for kind in ("counts", "faded"):
        values = stored(image, kind)
        holes.find(values[:100])
        start = time.perf_counter()
        holes.find(values)
        assert time.perf_counter() - start < 2.5


@pytest.mark.parametrize("ordinary", [0, 4])
def test_values_of_which_no_sum_can_be_made_are_holes(ordinary):
    """Values of a damaged file, such as one in the wrong byte order; warnings are errors in the tests."""
    rng = np.random.default_rng(0)
    image = rng.normal(0.0, 1e38, (40, 40)).clip(-3e38, 3e38).astype(np.float32)
    image[20, :ordinary] = 30.0
    found = holes.find(image)
    assert found.mask.sum() >= image.size - ordinary and not found.mask[20, :ordinary].any()
