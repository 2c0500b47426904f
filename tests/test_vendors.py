"""Tests that thermal data which are not read, and whatever else a file holds beside its picture, are told."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tfds_builders
from mlcm_jax import read_image, vendors
from mlcm_jax.errors import InputError

GRAY = np.tile(np.linspace(0, 250, 96).astype(np.uint8), (80, 1))
NOISE = np.random.default_rng(0).integers(1, 256, 60_000, np.uint8).tobytes()
JPEG = cv2.imencode(".jpg", GRAY)[1].tobytes()
PNG = cv2.imencode(".png", GRAY)[1].tobytes()


def of_camera(maker):
    """A JPEG whose EXIF names the maker of the camera."""
    exif = Image.Exif()
    exif[0x10F] = maker
    file = io.BytesIO()
    Image.fromarray(GRAY).save(file, "JPEG", exif=exif)
    return file.getvalue()


def with_segments(jpeg, *segments):
    """Puts segments (number, content) in front of a JPEG's tables."""
    start = jpeg.index(b"\xff\xdb")
    made = b"".join(b"\xff" + bytes([0xE0 + k]) + struct.pack(">H", len(one) + 2) + one for k, one in segments)
    return jpeg[:start] + made + jpeg[start:]


def with_chunk(kind, content):
    body = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return PNG[:33] + body + PNG[33:]


OWNERS = {
    "DJI": with_segments(of_camera("DJI"), (3, NOISE), (3, NOISE), (4, b"\xaa\x55\x12\x06" + NOISE[:60])),
    "DJI's tool": with_segments(JPEG, (6, b"DTAT\0\0\1{}")),
    "InfiRay": with_segments(JPEG, (2, b"\1\0\0\0IJPEG\0" + bytes(50)), (3, NOISE)),
    "HIKMICRO": JPEG + b"HDRI" + NOISE,
    "Parrot": with_segments(JPEG, (1, b"PARROT\0II*\0" + NOISE)),
}


@pytest.mark.parametrize("owner", OWNERS)
def test_thermal_data_of_other_makers_are_told_and_the_picture_is_read(tmp_path, owner):
    (tmp_path / "a.jpg").write_bytes(OWNERS[owner])
    image = read_image(tmp_path / "a.jpg")
    assert np.abs(image.values - GRAY).max() < 8 and image.celsius is None
    (note,) = image.notes
    assert (
        note.startswith(f"the file holds {owner[:3]}") and "thermal data, which are not read, but its picture" in note
    )


@pytest.mark.parametrize(
    ("name", "content", "count"),
    [
        ("a.jpg", JPEG + NOISE, "60,000 bytes"),
        ("a.jpg", with_segments(JPEG, (9, NOISE), (9, NOISE)), "120,000 bytes"),
        ("a.png", PNG + NOISE, "60,000 bytes"),
        ("a.png", with_chunk(b"teMp", NOISE), "60,000 bytes"),
        ("a.bmp", cv2.imencode(".bmp", GRAY)[1].tobytes() + NOISE, "60,000 bytes"),
        ("a.webp", cv2.imencode(".webp", GRAY)[1].tobytes() + NOISE, "60,000 bytes"),
    ],
)
def test_whatever_else_a_file_holds_is_told(tmp_path, name, content, count):
    (tmp_path / name).write_bytes(content)
    assert any(f"the file holds {count} beside its picture" in note for note in read_image(tmp_path / name).notes)


@pytest.mark.parametrize(
    "content",
    [
        of_camera("Canon"),
        with_segments(
            of_camera("DJI"), (2, b"ICC_PROFILE\0\1\1" + NOISE), (1, b"http://ns.adobe.com/xap/1.0/\0" + NOISE)
        ),
        JPEG + bytes(5000),
        PNG,
        with_chunk(b"iTXt", NOISE),
        cv2.imencode(".bmp", GRAY)[1].tobytes(),
        cv2.imencode(".webp", GRAY)[1].tobytes(),
    ],
)
def test_ordinary_files_have_nothing_to_tell(content):
    assert vendors.unread(content, "a") == ""


def test_a_bmt_file_is_a_picture_with_temperatures(tmp_path):
    (tmp_path / "a.BMT").write_bytes(cv2.imencode(".bmp", np.dstack([GRAY, 255 - GRAY, GRAY]))[1].tobytes())
    assert any("Testo's thermal data" in note for note in read_image(tmp_path / "a.BMT").notes)


@pytest.mark.parametrize(("name", "owner"), [("a.is2", "Fluke's"), ("a.IS3", "Fluke's"), ("b.irb", "InfraTec's")])
def test_forms_that_are_not_read_are_named(tmp_path, name, owner):
    (tmp_path / name).write_bytes(b"PK\3\4" + NOISE)
    with pytest.raises(InputError, match=f"{name} has {owner} own form, which is not read; export its temperatures as"):
        read_image(tmp_path / name)


def test_a_build_tells_what_was_not_read(tmp_path):
    (tmp_path / "thermal").mkdir()
    for name, content in {"a": OWNERS["DJI"], "b": OWNERS["DJI"] + b"1", "c": JPEG + NOISE, "d": JPEG}.items():
        (tmp_path / "thermal" / f"{name}.jpg").write_bytes(content)
    builder = tfds_builders.build("paired_folder", tmp_path / "built", manual_dir=tmp_path)
    first, second = builder.info.metadata["remarks"]
    assert first.startswith("2 faces, such as thermal/a.jpg, thermal image: the file holds DJI's thermal data")
    assert second.startswith("1 face, such as thermal/c.jpg, thermal image: the file holds 60,000 bytes beside")


@settings(max_examples=200)
@given(data=st.data(), start=st.sampled_from([*OWNERS.values(), PNG, b"BM", b"RIFF____WEBP", b""]))
def test_any_bytes_are_looked_through(data, start):
    content = bytearray(start[: data.draw(st.integers(0, 3000))])
    for _ in range(data.draw(st.integers(0, 8)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(vendors.unread(bytes(content) + data.draw(st.binary(max_size=40)), "a"), str)


def test_a_file_full_of_markers_is_looked_through_at_once():
    content = b"\xff\xd8\xff\xda\0\2" + b"\xff\0" * 4_000_000 + b"\xff\xe1\0\0" * 100_000
    assert isinstance(vendors.unread(content, "a"), str)
