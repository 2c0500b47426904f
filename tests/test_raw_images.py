"""PGM, and raw files without a header: the values that were written, and files that cannot be right."""

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlcm_jax import images, raw_images, read_image, units
from mlcm_jax.errors import InputError

RNG = np.random.default_rng(0)


def smooth(height, width, low, high):
    """uint16 counts of a smooth image."""
    field = cv2.GaussianBlur(RNG.normal(size=(height, width)), (0, 0), 3)
    return ((field - field.min()) / np.ptp(field) * (high - low) + low).astype(np.uint16)


@pytest.mark.parametrize("frame", [one for one in raw_images.FRAMES if one.dtype == "u2"], ids=str)
@pytest.mark.parametrize("order", "<>")
def test_counts_in_both_byte_orders(tmp_path, frame, order):
    counts = smooth(frame.height, frame.width, 18500, 20500)
    (tmp_path / "a.raw").write_bytes(bytes(frame.skipped) + counts.astype(f"{order}u2").tobytes())
    found = images.read(tmp_path / "a.raw")
    assert found.kind == "gray16" and found.array.dtype == np.uint16 and found.unit == frame.unit
    np.testing.assert_array_equal(found.array, counts)
    assert f"taken for {frame}" in found.more and ("big" if order == ">" else "little") + "-endian" in found.more
    assert ("the picture above the temperatures was not read" in found.more) == (frame.skipped > 0)


def test_a_camera_whose_unit_is_known_gives_celsius(tmp_path):
    counts = smooth(192, 256, 18800, 20000)  # 20.6 to 39.4 °C in 1/64 K
    (tmp_path / "a.raw").write_bytes(counts.tobytes())
    np.testing.assert_allclose(read_image(tmp_path / "a.raw").celsius, counts / 64.0 - 273.15, atol=1e-3)


def test_floats(tmp_path):
    celsius = RNG.uniform(20, 40, (120, 160)).astype("<f4")
    (tmp_path / "a.BIN").write_bytes(celsius.tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "a.BIN").celsius, celsius)


def test_floats_of_the_size_of_a_video_are_floats(tmp_path):
    celsius = RNG.uniform(20, 40, (192, 256)).astype("<f4")
    celsius[0, :9] = np.nan
    (tmp_path / "a.raw").write_bytes(celsius.tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "a.raw").celsius, celsius)


def test_a_unit_that_cannot_be_that_of_the_values_is_not_taken(tmp_path):
    counts = smooth(192, 256, 29400, 31000)  # °C in hundredths of a kelvin; over 186 °C in 1/64 K
    (tmp_path / "a.raw").write_bytes(counts.tobytes())
    image = read_image(tmp_path / "a.raw")
    np.testing.assert_allclose(image.celsius, counts / 100.0 - 273.15, atol=1e-3)
    assert any("hundredths of a kelvin" in note for note in image.notes)


@pytest.mark.parametrize("values", [bytes(196608), np.random.default_rng(3).bytes(196608), b"\x10\x42" * 98304])
def test_frames_of_one_size_are_refused_with_both_names(tmp_path, values):
    both = [frame for frame in raw_images.FRAMES if frame.size == len(values)]
    assert len(both) == 2
    (tmp_path / "a.raw").write_bytes(values)
    with pytest.raises(InputError, match=r"a\.raw has the size of .* and of ") as raised:
        images.read(tmp_path / "a.raw")
    assert all(str(frame) in str(raised.value) for frame in both) and ".npy" in str(raised.value)


def test_another_size_is_refused_with_the_sizes_that_are_known(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(InputError, match=r"a\.raw has 1000 bytes, like no known frame") as raised:
        images.read(tmp_path / "a.raw")
    assert all(str(frame) in str(raised.value) for frame in raw_images.FRAMES) and ".npy" in str(raised.value)


def test_the_units_of_frames_are_units():
    assert all(units.parse(frame.unit) for frame in raw_images.FRAMES if frame.unit)


GRAY = RNG.integers(0, 256, (24, 30), np.uint8)
COUNTS = RNG.integers(0, 65536, (24, 30), np.uint16)


def pgm(array, most, text=False, comment=b""):
    head = b"P%d\n%b%d %d\n%d\n" % (2 if text else 5, comment, array.shape[1], array.shape[0], most)
    if text:
        return head + b"\n".join(b" ".join(b"%d" % value for value in row) for row in array.tolist()) + b"\n"
    return head + array.astype(">u2" if most > 255 else "u1").tobytes()


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("comment", [b"", b"# by a camera, 1 2 3\n#\n"])
def test_pgm_is_read_exactly(tmp_path, text, comment):
    for array, most in ((GRAY, 255), (COUNTS, 65535), (COUNTS & 4095, 4095)):
        (tmp_path / "a.pgm").write_bytes(pgm(array, most, text, comment))
        found = images.read(tmp_path / "a.pgm")
        np.testing.assert_array_equal(found.array, array)
        assert found.kind == ("gray8" if most == 255 else "gray16") and found.more == ""


def test_pgm_of_opencv(tmp_path):
    for array in (GRAY, COUNTS):
        assert cv2.imwrite(str(tmp_path / "a.pgm"), array)
        np.testing.assert_array_equal(images.read(tmp_path / "a.pgm").array, array)


def test_few_gray_levels_are_stretched_and_this_is_told(tmp_path):
    (tmp_path / "a.pgm").write_bytes(pgm(GRAY >> 4, 15))
    found = images.read(tmp_path / "a.pgm")
    np.testing.assert_array_equal(found.array, (GRAY >> 4) * 17)
    assert found.more == "gray levels from 0 to 15 were stretched to 255"


def test_a_second_pgm_in_the_file_is_told(tmp_path):
    for text in (False, True):
        (tmp_path / "a.pgm").write_bytes(pgm(GRAY, 255, text) + pgm(GRAY, 255, text))
        found = images.read(tmp_path / "a.pgm")
        np.testing.assert_array_equal(found.array, GRAY)
        assert found.more.endswith("bytes after the first image were not read")


@pytest.mark.parametrize(
    "content",
    [
        b"P5\n4294967295 1\n255\n", b"P5\n999999999 999999999\n255\n", b"P5 0 5 255\n", b"P5 2 2 0\n", b"P5\n",
        b"P5 2 2 65536\n", b"P5 2 2 255\n123", b"P5 1 1 15\n\xff", b"P2 2 2 255\n1 2 3", b"P2 2 2 255\n1 2 3 x",
        b"P2 2 2 255\n1 2 3 256", b"P2 9999 9999 255\n1 2 3", b"P2 1 1 9\n99999999999999999999",
    ],
)  # fmt: skip
def test_pgm_that_cannot_be_right_is_refused(tmp_path, content):
    (tmp_path / "a.pgm").write_bytes(content)
    with pytest.raises(InputError, match=r"The PGM image .*a\.pgm is damaged") as raised:
        images.read(tmp_path / "a.pgm")
    assert "\n" not in str(raised.value)


@settings(deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from([b"", b"P5 3 2 255\n", b"P2 3 2 255\n", b"P5 3 2 65535\n", b"P5 ", b"P2#"]),
    rest=st.one_of(st.binary(max_size=40), st.from_regex(rb"[0-9 #\n]{0,40}", fullmatch=True)),
    ending=st.sampled_from([".pgm", ".raw"]),
)
@example(start=b"P5", rest=b" #" * 50_000, ending=".pgm")
@example(start=b"P2", rest=b" 1" * 50_000, ending=".pgm")
def test_any_bytes_give_an_image_or_an_input_error(tmp_path, start, rest, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(start + rest)
    try:
        assert images.read(path).array.size > 0
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
