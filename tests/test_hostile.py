"""Hostile image files of every form: an image or an InputError, in under a second and with bounded memory."""

import io
import resource
import struct
import time
import zlib

import cv2
import made_flir
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mlcm_jax import read_image
from mlcm_jax.errors import InputError

FIELD = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(24, 32)), (0, 0), 3)
CELSIUS = (25 + 40 * FIELD).astype(np.float32)
COUNTS = ((CELSIUS + 273.15) * 100).round().astype(np.uint16)
GRAY = np.clip(128 + 300 * FIELD, 0, 255).astype(np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
FLIR = made_flir.fff(made_flir.counts(CELSIUS))


def encoded(ending, array):
    return cv2.imencode(ending, array)[1].tobytes()


def stored(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def pillows(form, **options):
    file = io.BytesIO()
    Image.fromarray(COLOURS).quantize(16).save(file, form, **options)
    return file.getvalue()


FILES = [
    ("a.png", encoded(".png", GRAY)), ("b.png", encoded(".png", COUNTS)), ("c.png", pillows("PNG")),
    ("a.jpg", encoded(".jpg", COLOURS)), ("a.bmp", encoded(".bmp", GRAY)), ("a.webp", encoded(".webp", COLOURS)),
    ("a.tif", stored(COUNTS)), ("b.tif", stored(COLOURS, photometric="rgb", byteorder=">", bigtiff=True)),
    ("c.tif", stored(CELSIUS, compression="zlib")), ("d.tif", encoded(".tiff", GRAY)), ("a.gif", pillows("GIF")),
    ("a.pgm", encoded(".pgm", GRAY)), ("b.pgm", encoded(".pgm", COUNTS)), ("a.ppm", encoded(".ppm", COLOURS)),
    ("a.npy", saved(CELSIUS)), ("b.npy", saved(COUNTS)), ("a.raw", np.full((60, 80), 30000, "<u2").tobytes()),
    ("a.csv", "\n".join(";".join(f"{v:.2f}" for v in row) for row in CELSIUS).encode()),
    ("a.fff", FLIR), ("a.seq", FLIR + FLIR), ("b.jpg", made_flir.jpeg(FLIR, COLOURS, piece=500)),
    ("c.jpg", encoded(".jpg", GRAY) + b"HDRI" + bytes(900)), ("a.is2", b"PK\3\4" + bytes(50)),
]  # fmt: skip


def test_a_kind_of_nan_at_which_processors_complain_is_a_hole(tmp_path):
    name, content = FILES[8]
    changed = bytearray(content)
    changed[1067] = 128  # a signalling NaN
    (tmp_path / name).write_bytes(changed)
    assert np.isnan(read_image(tmp_path / name).values).any()


def test_planes_of_colours_are_read(tmp_path):
    planes = stored(COLOURS.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", rowsperstrip=5)
    (tmp_path / "planes.tif").write_bytes(planes)
    np.testing.assert_array_equal(read_image(tmp_path / "planes.tif").rgb, COLOURS)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), which=st.sampled_from(range(len(FILES))))
def test_damaged_files_give_an_image_or_an_input_error(tmp_path, data, which):
    name, content = FILES[which]
    content = bytearray(content)
    places = st.integers(0, min(len(content) - 1, 200)) | st.integers(0, len(content) - 1)
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(places)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    (tmp_path / name).write_bytes(content)
    start = time.thread_time()  # of this thread's own work, so that a busy machine does not matter
    try:
        image = read_image(tmp_path / name)
    except InputError as error:
        assert name in str(error) and "\n" not in str(error).strip()
        return
    finally:
        assert time.thread_time() - start < 1.0
    assert image.values.ndim == 2 and image.values.dtype == np.float32 and image.gray.shape == image.values.shape


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=80), which=st.sampled_from(range(len(FILES))), start=st.integers(0, 40))
def test_any_bytes_give_an_image_or_an_input_error(tmp_path, content, which, start):
    name, whole = FILES[which]
    (tmp_path / name).write_bytes(whole[:start] + content)
    try:
        assert read_image(tmp_path / name).values.size
    except InputError as error:
        assert name in str(error)


def png(width, height):
    head = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(width, height, *, big=False, photometric=1):
    tags = [
        (256, width),
        (257, height),
        (258, 16),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, height),
        (279, 99),
    ]
    if big:
        rows = b"".join(struct.pack("<HHQQ", tag, 4, 1, value) for tag, value in tags)
        return b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, len(tags)) + rows + bytes(99)
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(99)


def bmp(width, height, bits, compression=0):
    return (
        b"BM"
        + struct.pack("<IIIIiiHHIIIIII", 200, 0, 54, 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
        + bytes(99)
    )


def lengthened(array, height, **options):
    """A TIFF whose header claims more rows than its strips hold."""
    content = bytearray(stored(array, **options))
    entry = content.index(struct.pack("<HHI", 257, 4, 1))
    content[entry : entry + 12] = struct.pack("<HHII", 257, 4, 1, height)
    return bytes(content)


def widened(count):
    """A TIFF with several widths, and many rows."""
    content = bytearray(lengthened(CELSIUS, 2**23, compression="zlib"))
    entry = content.index(struct.pack("<HHI", 256, 4, 1))
    content[entry : entry + 12] = struct.pack("<HHII", 256, 4, count, 8)
    return bytes(content)


def npy(shape):
    return (
        b"\x93NUMPY\1\0"
        + struct.pack("<H", 118)
        + f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}}}".ljust(118).encode()
    )


JPEG = encoded(".jpg", GRAY)
START = JPEG.index(b"\xff\xc0") + 5
HOSTILE = {
    "one row.png": png(2**31 - 1, 1), "square.png": png(60_000, 60_000),
    "tall.tif": lengthened(COUNTS, 2_097_156), "long.tif": lengthened(COUNTS, 100), "grey.tif": lengthened(GRAY, 2**21),
    "planes.tif": lengthened(COLOURS.transpose(2, 0, 1), 60, photometric="rgb", planarconfig="separate"),
    "widths.tif": widened(8),
    "one row.tif": tiff(2**32 - 1, 1), "big.tif": tiff(2**32 - 1, 1, big=True), "column.tif": tiff(1, 2**32 - 1),
    "white.tif": tiff(2**31, 2, photometric=0), "square.tif": tiff(65_535, 65_535),
    "one row.bmp": bmp(2**31 - 1, 1, 24), "square.bmp": bmp(60_000, 60_000, 8, 1), 
    "turned.bmp": bmp(60_000, -60_000, 1),
    "square.jpg": JPEG[:START] + struct.pack(">HH", 65_500, 65_500) + JPEG[START + 4 :],
    "square.gif": b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6) + b"," + struct.pack(
        "<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\x02\x44\x01\0;",
    "vp8x.webp": b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff" * 6,
    "one row.pgm": b"P5 4294967295 1 65535\n" + bytes(99), "text.pgm": b"P2 1 4294967295 255\n1 2 3\n",
    "one row.ppm": b"P6 4294967295 1 255\n" + bytes(99), "square.ppm": b"P6 60000 60000 255\n" + bytes(99),
    "one row.npy": npy((1, 2**32)), "square.npy": npy((2**20, 2**20)), "endless.npy": npy((2**63, 2**63)),
    "square.fff": FLIR.replace(struct.pack("<3H", 2, 32, 24), struct.pack("<3H", 2, 65_535, 65_535)),
    "frames.fff": FLIR[:28] + b"\xff\xff\xff\xff" + FLIR[32:],
    "one row.csv": b"1;" * 2_000_000, "rows.csv": b"1;2\n" * 500_000, "digits.csv": b"1" * 4_000_000,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sizes_are_refused_at_once(tmp_path, name):
    (tmp_path / name).write_bytes(HOSTILE[name])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if name == "frames.fff":  # a directory of 4 billion records, of which the file has two
        np.testing.assert_allclose(read_image(tmp_path / name).celsius, CELSIUS, atol=0.05)
    else:
        with pytest.raises(InputError, match=name):
            read_image(tmp_path / name)
    assert time.process_time() - start < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB
