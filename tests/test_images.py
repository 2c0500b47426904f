"""Image files: every kind is converted to 8 bits, and damaged files are refused."""

import io
import re
import struct
import time
import tracemalloc
import zlib

import cv2
import matplotlib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mlcm_jax import images
from mlcm_jax.errors import InputError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (24, 30), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (24, 30, 3), dtype=np.uint8)  # RGB


def write(path, array):
    """Writes RGB or gray with OpenCV, which is not the library that reads it."""
    assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)
    return path


@pytest.mark.parametrize("image", [GRAY, COLOUR, GRAY.astype(np.uint16) * 257])
def test_png_is_lossless_filtered_and_not_deflated(image):
    content = images.png(image)
    read = np.asarray(Image.open(io.BytesIO(content)))  # another decoder, and RGB
    np.testing.assert_array_equal(read, image)
    rows = zlib.decompress(content[content.index(b"IDAT") + 4 : content.index(b"IEND") - 8])
    lines = np.frombuffer(rows, np.uint8).reshape(len(image), -1)
    assert set(lines[1:, 0]) == {2}  # filter UP, after the PNG specification
    assert len(content) > image.nbytes


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp"])
def test_gray_and_colour_are_read_exactly(tmp_path, suffix):
    gray = images.read(write(tmp_path / f"g{suffix}", GRAY))
    assert gray.kind == "gray8" and gray.array.dtype == np.uint8
    np.testing.assert_array_equal(gray.array, GRAY)
    colour = images.read(write(tmp_path / f"c{suffix}", COLOUR))
    assert colour.kind == "colour"
    np.testing.assert_array_equal(colour.array, COLOUR)
    np.testing.assert_array_equal(images.to_gray8(gray)[0], GRAY)
    image, note = images.to_rgb8(colour)
    np.testing.assert_array_equal(image, COLOUR)
    assert note == ""


def test_colour_file_of_equal_channels_is_gray(tmp_path):
    image = images.read(write(tmp_path / "a.png", np.repeat(GRAY[..., None], 3, 2)))
    assert image.kind == "gray8"
    np.testing.assert_array_equal(image.array, GRAY)
    smooth = cv2.GaussianBlur(GRAY, (0, 0), 3)
    assert images.read(write(tmp_path / "a.jpg", np.repeat(smooth[..., None], 3, 2))).kind == "gray8"


def test_alpha_is_dropped(tmp_path):
    bgra = np.dstack([COLOUR[..., ::-1], RNG.integers(0, 256, (24, 30), dtype=np.uint8)])
    cv2.imwrite(str(tmp_path / "a.png"), bgra)
    np.testing.assert_array_equal(images.read(tmp_path / "a.png").array, COLOUR)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(COLOUR)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(images.read(tmp_path / "a.png").array, np.rot90(COLOUR, -1))


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".npy"])
def test_16_bit_image_is_stretched_between_percentiles(tmp_path, suffix):
    counts = (29000 + 10 * RNG.random((40, 50)) * 60).astype(np.uint16)
    counts[0, :3] = 65535  # dead pixels must not widen the range
    path = tmp_path / f"a{suffix}"
    np.save(path, counts) if suffix == ".npy" else write(path, counts)
    image = images.read(path)
    assert image.kind == "gray16"
    np.testing.assert_array_equal(image.array, counts)
    gray, note = images.to_gray8(image)
    low, high = np.percentile(counts, (0.5, 99.5))
    np.testing.assert_allclose(gray, np.clip((counts - low) / (high - low), 0, 1) * 255, atol=0.51)
    assert gray.dtype == np.uint8 and gray[0, 0] == 255 and "stretched" in note


@pytest.mark.parametrize("suffix", [".tiff", ".npy"])
def test_celsius_with_holes(tmp_path, suffix):
    celsius = (22 + 14 * RNG.random((40, 50))).astype(np.float32)
    celsius[3, 4], celsius[5, 6] = np.nan, np.inf
    path = tmp_path / f"a{suffix}"
    np.save(path, celsius) if suffix == ".npy" else write(path, celsius)
    image = images.read(path)
    assert image.kind == "float"
    np.testing.assert_array_equal(image.array, celsius)
    gray, note = images.to_gray8(image)
    assert all(
        gray[y, x] in gray[y - 1 : y + 2, x - 1 : x + 2][[0, 1, 1, 2], [1, 0, 2, 1]] for y, x in ((3, 4), (5, 6))
    )
    finite = np.isfinite(celsius)
    order = np.argsort(celsius[finite])
    assert (np.diff(gray[finite][order].astype(int)) >= 0).all()  # hot stays bright
    assert gray[finite].min() == 0 and gray[finite].max() == 255 and "from 22." in note


def test_gain_of_uniform_images():
    np.testing.assert_array_equal(images.gain8(np.full((4, 5), 21.5))[0], 128)
    hot = np.full((40, 50), 20.0)
    hot[7, 8] = 36.0  # too rare for the percentiles
    assert images.gain8(hot)[0][7, 8] == 255 and np.median(images.gain8(hot)[0]) == 0
    with pytest.raises(InputError, match="x holds no finite value"):
        images.gain8(np.full((4, 5), np.nan), "x")


def heat(height=60, width=80):
    """Returns a smooth gray image that uses the whole range, like an 8-bit thermal image."""
    field = cv2.GaussianBlur(np.random.default_rng(1).normal(size=(height, width)), (0, 0), 6)
    return ((field - field.min()) / np.ptp(field) * 255).round().astype(np.uint8)


@pytest.mark.parametrize("name", ["inferno", "magma", "plasma", "jet", "hot", "turbo", "rainbow"])
def test_false_colours_are_inverted(tmp_path, name):
    gray = heat()
    colours = (255 * matplotlib.colormaps[name](np.arange(256))[:, :3]).round().astype(np.uint8)
    image = images.read(write(tmp_path / "a.png", colours[gray]))
    found, note = images.to_gray8(image)
    assert repr(name) in note and "inverted" in note
    assert np.abs(found.astype(int) - gray).max() <= 3
    cv2.imwrite(str(tmp_path / "a.jpg"), colours[gray][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    found, note = images.to_gray8(images.read(tmp_path / "a.jpg"))
    assert "inverted" in note
    assert np.corrcoef(found.ravel(), gray.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("code", ["RAINBOW", "HOT", "JET", "INFERNO"])
def test_palettes_of_opencv_are_recognised(code):
    gray = heat()
    painted = cv2.applyColorMap(gray, getattr(cv2, f"COLORMAP_{code}"))[..., ::-1]
    found, _ = images.to_gray8(images.ImageFile(np.ascontiguousarray(painted), "colour", "x"))
    assert np.abs(found.astype(int) - gray).mean() < 2.5


def test_no_palette_returns_to_a_colour():
    for name, colours in images.palettes().items():
        assert colours.shape == (256, 3) and colours.dtype == np.float32, name
        assert colours.min() >= 0 and colours.max() <= 255, name
        index, squared = images._nearest(colours, colours)
        # Neighbours may share a colour, but a palette that returned to an earlier colour could not be inverted.
        assert np.abs(index - np.arange(256)).max() <= 6, name
        assert squared.max() < 1, name


def test_palette_is_found_despite_printed_numbers():
    colours = images.palettes()["iron"].round().astype(np.uint8)
    painted = colours[heat()]
    cv2.putText(painted, "36.5", (5, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255))
    assert images.fit_palette(painted)[0] == "iron"


def test_photograph_becomes_its_luminance():
    smooth = np.dstack([heat(60, 80), heat(80, 60).T, heat()[::-1]])
    image = images.ImageFile(smooth, "colour", "x")
    gray, note = images.to_gray8(image)
    np.testing.assert_allclose(gray, smooth @ [0.299, 0.587, 0.114], atol=1)
    assert "luminance" in note


@pytest.mark.parametrize("kind", ["gray8", "gray16", "float"])
def test_thermal_image_for_an_rgb_model(kind):
    types = {"gray8": np.uint8, "gray16": np.uint16, "float": np.float32}
    file = images.ImageFile(heat().astype(types[kind]), kind, "x")
    image, note = images.to_rgb8(file)
    assert image.shape == (60, 80, 3) and image.dtype == np.uint8 and "three channels" in note
    np.testing.assert_array_equal(image[..., 2], images.to_gray8(file)[0])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".bmp", ".webp", ".npy"])
def test_truncated_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    np.save(path, COLOUR) if suffix == ".npy" else write(path, COLOUR)
    content = path.read_bytes()
    assert images.read(path).array.shape == (24, 30, 3)
    for keep in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(InputError) as caught:
            images.read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_16_bit_gray_with_alpha_is_read_without_it(tmp_path):
    counts = RNG.integers(0, 65536, (24, 30), dtype=np.uint16)
    alpha = RNG.integers(0, 65536, (24, 30), dtype=np.uint16)
    rows = np.stack([counts, alpha], -1).astype(">u2")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 30, 24, 16, 4, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    (tmp_path / "a.png").write_bytes(content)
    image = images.read(tmp_path / "a.png")
    assert image.kind == "gray16" and image.more == "the alpha channel was not read"
    np.testing.assert_array_equal(image.array, counts)


def test_what_else_a_file_holds_is_told(tmp_path):
    whole = Image.fromarray(COLOUR)
    whole.save(tmp_path / "a.webp", save_all=True, append_images=[Image.fromarray(255 - COLOUR)], lossless=True)
    whole.save(tmp_path / "a.png", save_all=True, append_images=[Image.fromarray(255 - COLOUR)])
    for name in ("a.webp", "a.png"):
        image = images.read(tmp_path / name)
        np.testing.assert_array_equal(image.array, COLOUR)
        assert image.more == "the file holds 2 images, of which the first was read"
    for alpha, more in ((255, ""), (254, "the alpha channel was not read")):
        Image.fromarray(np.dstack([COLOUR, np.full((24, 30), alpha, np.uint8)])).save(tmp_path / "b.png")
        assert images.read(tmp_path / "b.png").more == more


@pytest.mark.parametrize("shape", ["(1, 4294967296)", "(4294967296, 4294967296)", "(-1, 4)", "(10**99,)"])
def test_an_npy_file_of_a_hostile_size_is_refused_at_once(tmp_path, shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", 118) + header.encode() + bytes(64))
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"a\.npy is not a complete \.npy file"):
        images.read(tmp_path / "a.npy")
    assert time.perf_counter() - start < 1 and tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


@pytest.mark.parametrize("side", [1, 1 << 30])
def test_a_png_of_a_hostile_size_is_refused_at_once(tmp_path, side):
    head = b"IHDR" + struct.pack(">IIBBBBB", (1 << 31) - 1, side, 16, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    (tmp_path / "a.png").write_bytes(content + struct.pack(">I", 9) + b"IDAT" + bytes(13))
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"a\.png"):
        images.read(tmp_path / "a.png")
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colours_are_refused(tmp_path, suffix, channels):
    deep = RNG.integers(0, 65536, (24, 30, channels), dtype=np.uint16)
    path = tmp_path / f"deep{suffix}"
    assert cv2.imwrite(str(path), deep)
    with pytest.raises(InputError, match=f"deep{suffix} has 16 bits in each of several channels"):
        images.read(path)


def test_16_bit_colours_in_ppm_are_refused(tmp_path):
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6 30 24 255\n" + COLOUR.tobytes())
    np.testing.assert_array_equal(images.read(path).array, COLOUR)
    path.write_bytes(b"P6 30 24 65535\n" + COLOUR.astype(">u2").tobytes())
    with pytest.raises(InputError, match="16 bits in each of several channels"):
        images.read(path)


def test_files_that_are_not_images_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.png does not exist"):
        images.read(tmp_path / "none.png")
    with pytest.raises(InputError, match="cannot be read"):
        images.read(tmp_path)
    for name, content, message in (
        ("empty.png", b"", "is empty"),
        ("text.png", b"hello, I am no image", "not an image of a known format"),
        ("text.npy", b"hello, I am no image", r"not a complete \.npy file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            images.read(tmp_path / name)
    np.savez(tmp_path / "a.npz", a=GRAY)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(InputError, match="archive of arrays"):
        images.read(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4, 3), np.float32), r"float32 \(3, 4, 3\)"),
        (np.zeros((0, 4)), "has no pixels"),
        (np.zeros(5), r"float64 \(5,\)"),
        (np.zeros((3, 4), bool), "is bool"),
        (np.zeros((3, 4), complex), "is complex"),
        (np.array([[object()]]), r"not a complete \.npy file"),
    ],
)
def test_arrays_that_are_not_images_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        images.read(tmp_path / "a.npy")


def test_other_dtypes_in_npy_become_floats(tmp_path):
    for kind in (np.int16, np.int64, np.float64, np.float16):
        np.save(tmp_path / "a.npy", np.arange(12).reshape(3, 4, 1).astype(kind))
        image = images.read(tmp_path / "a.npy")
        assert image.kind == "float" and image.array.shape == (3, 4)


@pytest.mark.parametrize("kind", [">u2", "int32", "int64", ">i4", "uint64"])
def test_counts_in_integers_of_any_type_are_counts(kind):
    counts = np.array([[0, 30000], [30100, 65535]], kind)
    image = images.from_array(counts, "a")
    assert image.kind == "gray16" and image.array.dtype == np.uint16
    np.testing.assert_array_equal(image.array, counts)


@pytest.mark.parametrize("values", [[-1, 30000], [0, 65536], [0, 255]])
def test_other_integers_become_floats(values):
    assert images.from_array(np.array([values]), "a").kind == "float"


def test_palette_images_with_transparency_are_read_without_a_warning(tmp_path):
    Image.fromarray(GRAY).convert("P").save(tmp_path / "a.png", transparency=b"\x00\x80")
    np.testing.assert_array_equal(images.read(tmp_path / "a.png").array, GRAY)


def test_a_palette_is_inverted_fast_in_large_images():
    rng, palette = np.random.default_rng(0), images.palettes()["inferno"]
    gray = cv2.resize(rng.integers(0, 256, (30, 40), np.uint8), (2000, 1500))
    noisy = palette.astype(np.int16)[gray] + rng.integers(-3, 4, (1500, 2000, 3), np.int8)
    noisy = noisy.clip(0, 255).astype(np.uint8)
    start = time.perf_counter()
    found = images.invert_palette(noisy, palette)
    assert time.perf_counter() - start < 1.0  # sorting the colours takes 3 s
    few = noisy[:20, :20].reshape(-1, 1, 3).astype(np.float32)
    np.testing.assert_array_equal(found[:20, :20].ravel(), np.square(few - palette).sum(-1).argmin(1))


PNG = cv2.imencode(".png", GRAY)[1].tobytes()
JPEG = cv2.imencode(".jpg", COLOUR)[1].tobytes()
TIFF = cv2.imencode(".tiff", GRAY)[1].tobytes()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), source=st.sampled_from([PNG, JPEG, TIFF, b""]))
def test_damaged_bytes_give_an_image_or_an_input_error(tmp_path, data, source):
    content = bytearray(source) + data.draw(st.binary(max_size=20))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=8)):
        if content:
            content[place % len(content)] = value
    path = tmp_path / data.draw(st.sampled_from(["a.png", "a.npy"]))
    path.write_bytes(bytes(content))
    try:
        image = images.read(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert image.array.size > 0 and image.kind in ("gray8", "gray16", "float", "colour")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_images_in_which_white_is_zero_are_inverted(tmp_path, dtype):
    values = np.arange(12, dtype=dtype).reshape(3, 4)
    path = tmp_path / "a.tiff"
    Image.fromarray(values).save(path)
    stored = bytearray(path.read_bytes())
    tag = stored.index(b"\x06\x01\x03\x00\x01\x00\x00\x00")  # 262, one value of 16 bits
    stored[tag + 8 : tag + 10] = b"\x00\x00"
    path.write_bytes(stored)
    np.testing.assert_array_equal(images.read(path).array, np.iinfo(dtype).max - values)


@pytest.mark.parametrize("name", ["Blues", "coolwarm", "RdYlBu_r", "YlOrRd", "cividis"])
def test_palettes_whose_hot_end_is_dark_keep_the_order_of_temperatures(name):
    colours = (255 * matplotlib.colormaps[name](np.arange(256))[:, :3]).round().astype(np.uint8)
    gray = heat()
    found, note = images.to_gray8(images.ImageFile(colours[gray], "colour", "x"))
    assert np.abs(found.astype(int) - gray).max() <= 3
    assert f"colours follow the palette '{name}' (median distance 0." in note


def test_reversed_palettes_are_those_of_the_same_colours():
    colours = (255 * matplotlib.colormaps["inferno_r"](np.arange(256))[:, :3]).round().astype(np.uint8)
    gray = heat()
    found, note = images.to_gray8(images.ImageFile(colours[gray], "colour", "x"))
    assert np.abs(found.astype(int) - (255 - gray)).max() <= 3 and "'inferno'" in note  # --polarity=black_hot mends it


def test_a_photograph_tells_its_distance_from_the_nearest_palette():
    _, note = images.to_gray8(images.ImageFile(COLOUR, "colour", "x"))
    assert re.search(r"no known thermal palette closely \(median distance \d+\.\d of 255 from the nearest\)", note)
