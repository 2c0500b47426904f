"""TIFF: every type, byte order, compression and orientation; other images in the file; damaged files."""

import struct
import time
import tracemalloc

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mlcm_jax import images
from mlcm_jax.errors import InputError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (5, 7), np.uint8)
COUNTS = RNG.integers(300, 65536, (50, 70), np.uint16)


def turned(array, orientation):
    """What an image that is stored with an orientation of TIFF shows."""
    return {
        1: array, 2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1], 5: array.T, 6: np.rot90(array, -1),
        7: array[::-1, ::-1].T, 8: np.rot90(array),
    }[orientation]  # fmt: skip


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "f2", "f4", "f8"])
def test_gray_of_every_type(tmp_path, kind, big, order):
    stored = (GRAY.astype(np.float64) * (1 if kind[1] == "1" or kind == "f2" else 100.5)).astype(kind)
    for compression in (None, "zlib"):
        tifffile.imwrite(tmp_path / "a.tif", stored, bigtiff=big, byteorder=order, compression=compression)
        found = images.read(tmp_path / "a.tif")
        np.testing.assert_array_equal(found.array.astype(np.float32), stored.astype(np.float32))
        wanted = {"u1": "gray8", "u2": "gray16", "u4": "gray16", "u8": "gray16", "i2": "gray16", "i4": "gray16"}
        assert found.kind == wanted.get(kind, "float") and found.more == ""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "f4"])
def test_orientation_and_white_is_zero_are_obeyed_at_every_depth(tmp_path, kind, orientation):
    stored = (GRAY.astype(np.float64) * (1 if kind == "u1" else 100)).astype(kind)
    tags = [(274, 3, 1, orientation, True)]
    for photometric in ("minisblack", "miniswhite"):
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric=photometric, extratags=tags)
        white = {"u1": 255, "u2": 65535, "i2": -1}.get(kind)
        wanted = white - stored.astype(int) if photometric == "miniswhite" and kind != "f4" else stored
        found = images.read(tmp_path / "a.tif")
        np.testing.assert_array_equal(found.array, turned(wanted, orientation))
        told = "the file says that 0 is white, which does not change values in floats"
        assert found.more == (told if photometric == "miniswhite" and kind == "f4" else "")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_deflate"])
def test_compressions_of_pillow(tmp_path, kind, compression):
    stored = (COUNTS >> 8 if kind == np.uint8 else COUNTS).astype(kind)
    for orientation in (1, 6):
        tags = {274: orientation}
        Image.fromarray(stored).save(tmp_path / "a.tif", compression=compression, tiffinfo=tags)
        np.testing.assert_array_equal(images.read(tmp_path / "a.tif").array, turned(stored, orientation))


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32, np.float64])
def test_files_of_opencv(tmp_path, kind):
    stored = (COUNTS / 2).astype(kind)
    assert cv2.imwrite(str(tmp_path / "a.tif"), stored)
    np.testing.assert_array_equal(images.read(tmp_path / "a.tif").array, stored)


@pytest.mark.parametrize("layout", [{"tile": (16, 32)}, {"rowsperstrip": 7}])
@pytest.mark.parametrize("compression", [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}])
def test_strips_and_tiles(tmp_path, layout, compression):
    tifffile.imwrite(tmp_path / "a.tif", COUNTS, **layout, **compression)
    np.testing.assert_array_equal(images.read(tmp_path / "a.tif").array, COUNTS)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_gray_with_alpha(tmp_path, planar):
    stored = np.stack([COUNTS, COUNTS[::-1]], -1 if planar == "contig" else 0)
    options = {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": planar}
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    found = images.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.array, COUNTS)
    assert found.more == "of 2 channels, only the first was read"


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_palettes(tmp_path, kind):
    count = int(np.iinfo(kind).max) + 1
    colours = RNG.integers(0, 256, (3, count), np.uint8)
    index = (COUNTS & (count - 1)).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=colours.astype(np.uint16) * 257)
    found = images.read(tmp_path / "a.tif")
    assert found.kind == "colour"
    np.testing.assert_array_equal(found.array, colours.T[index])


def test_further_images_are_told(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([COUNTS, COUNTS + 1, COUNTS]), photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", np.stack([COUNTS, COUNTS + 1, COUNTS]), imagej=True)
    Image.fromarray(GRAY).save(tmp_path / "c.tif", save_all=True, append_images=[Image.fromarray(GRAY)] * 2)
    for name, stored in (("a", COUNTS), ("b", COUNTS), ("c", GRAY)):
        found = images.read(tmp_path / f"{name}.tif")
        np.testing.assert_array_equal(found.array, stored)
        assert found.more == "the file holds 3 images, of which the first was read"
    with tifffile.TiffWriter(tmp_path / "d.tif") as file:
        file.write(COUNTS, subifds=1)
        file.write(COUNTS[::2, ::2], subfiletype=1)
    found = images.read(tmp_path / "d.tif")
    np.testing.assert_array_equal(found.array, COUNTS)
    assert found.more == "it has 1 smaller image inside the first, not read"


@pytest.mark.parametrize("stored", [np.zeros((5, 7, 3), np.float32), np.zeros((5, 7), np.complex64)])
def test_kinds_that_are_not_read_are_named(tmp_path, stored):
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb" if stored.ndim == 3 else "minisblack")
    with pytest.raises(InputError, match=rf"a\.tif is not an image .* it is TIFF of {stored.dtype}"):
        images.read(tmp_path / "a.tif")


def header(width, height, bits=16, count=1, size=10):
    """A TIFF file whose header states any size."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 150), (277, 3, 1)]
    tags += [(278, 4, height), (279, 4, size)]
    entries = b"".join(struct.pack("<HHII", tag, kind, count, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4 + 10)


@pytest.mark.parametrize("size", [(1 << 32) - 1, 10])
@pytest.mark.parametrize("side", [(1 << 32) - 1, 1])
def test_hostile_sizes_are_refused_at_once(tmp_path, side, size):
    (tmp_path / "a.tif").write_bytes(header((1 << 32) - 1, side, size=size))
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(InputError):
        images.read(tmp_path / "a.tif")
    assert time.perf_counter() - start < 1 and tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_a_bomb_is_not_unpacked(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4000, 5000), np.uint16), compression="zlib", rowsperstrip=4000)
    content = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tag = file.pages[0].tags[257]
    place = tag.offset + 8
    (tmp_path / "a.tif").write_bytes(content[:place] + struct.pack("<I", 1) + content[place + 4 :])
    tracemalloc.start()
    found = images.read(tmp_path / "a.tif")  # libtiff stops after the first row
    assert found.array.shape == (1, 5000) and tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_a_chain_of_images_that_never_ends(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", COUNTS, metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * entries, first)
    (tmp_path / "a.tif").write_bytes(bytes(content))
    np.testing.assert_array_equal(images.read(tmp_path / "a.tif").array, COUNTS)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("sources"), []
    for options in ({}, {"compression": "zlib"}, {"bigtiff": True}, {"tile": (16, 16)}, {"byteorder": ">"}):
        tifffile.imwrite(folder / "a.tif", COUNTS[:20, :30], **options)
        found.append((folder / "a.tif").read_bytes())
    return found


def test_truncated_files_are_refused(tmp_path, sources):
    for content in sources:
        for share in (0.01, 0.1, 0.5, 0.9):
            (tmp_path / "a.tif").write_bytes(content[: int(share * len(content))])
            with pytest.raises(InputError, match=r"a\.tif"):
                images.read(tmp_path / "a.tif")


@settings(deadline=1000, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_an_image_or_an_input_error(tmp_path, sources, data):
    content = bytearray(data.draw(st.sampled_from(sources)))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6)):
        content[place if data.draw(st.booleans()) else -place - 1] = value
    (tmp_path / "a.tif").write_bytes(bytes(content))
    try:
        found = images.read(tmp_path / "a.tif")
    except InputError as error:
        assert "a.tif" in str(error) and "\n" not in str(error)
    else:
        assert found.array.size > 0
