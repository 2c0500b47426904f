"""FLIR's radiometric files: the temperatures of made-up files in every form, and damaged ones."""

import struct
import sys
import types

import cv2
import made_flir
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from mlcm_jax import flir, images, read_image
from mlcm_jax.errors import InputError

CELSIUS = np.linspace(15, 40, 24 * 32).reshape(24, 32)
PICTURE = np.full((24, 32, 3), (40, 90, 200), np.uint8)


@pytest.mark.parametrize(("header", "order"), [("<", "<"), (">", "<"), ("<", ">"), (">", ">")])
@pytest.mark.parametrize("form", [{}, {"png": True}, {"png": True, "swapped": True}])
@pytest.mark.parametrize("changes", [{}, {"distance": 6.0, "humidity": 80.0}, {"transmission": 0.9, "window": 300.0}])
def test_temperatures_are_those_that_the_camera_saw(header, order, form, changes):
    seen = changes | ({"humidity": 0.8} if "humidity" in changes else {})  # written in per cent, as some cameras do
    data = made_flir.fff(made_flir.counts(CELSIUS, **seen), header=header, order=order, **form, **changes)
    found, note = flir.celsius(data)
    assert found.dtype == np.float32 and np.abs(found - CELSIUS).max() < 0.05
    assert "emissivity 0.95" in note


def test_settings_that_nobody_made_do_not_count():
    unset = {"reflected": 0.0, "air": 0.0, "window": 0.0, "transmission": 0.0}
    own = made_flir.counts(CELSIUS, emissivity=1.0, distance=0.0)
    found, note = flir.celsius(made_flir.fff(own, **unset))
    assert np.abs(found - CELSIUS).max() < 0.05 and "emissivity 1.00" in note


def test_a_jpeg_holds_them_in_pieces_and_keeps_its_picture(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(made_flir.jpeg(made_flir.fff(made_flir.counts(CELSIUS)), PICTURE, piece=700))
    image = read_image(path)
    assert np.abs(image.celsius - CELSIUS).max() < 0.05 and image.rgb.shape == (24, 32, 3)
    assert any("computed from FLIR's counts" in note for note in image.notes)
    (tmp_path / "a.fff").write_bytes(made_flir.fff(made_flir.counts(CELSIUS)))
    assert np.abs(read_image(tmp_path / "a.fff").celsius - CELSIUS).max() < 0.05


def test_further_frames_of_a_recording_are_told(tmp_path):
    first, second = (made_flir.fff(made_flir.counts(one)) for one in (CELSIUS, CELSIUS + 3))
    (tmp_path / "a.seq").write_bytes(first + second)
    image = read_image(tmp_path / "a.seq")
    assert np.abs(image.celsius - CELSIUS).max() < 0.05
    assert image.notes[0].endswith("the file holds 2 frames, of which the first was read")


def test_values_are_where_the_picture_shows_them(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(made_flir.jpeg(made_flir.fff(made_flir.counts(CELSIUS)), cv2.resize(PICTURE, (64, 48))))
    found = images.read(path)
    assert found.array.shape == (48, 64) and "resized to the picture's 64 x 48" in found.more
    assert np.abs(found.array - cv2.resize(CELSIUS, (64, 48))).max() < 0.06
    path.write_bytes(made_flir.jpeg(made_flir.fff(made_flir.counts(CELSIUS)), cv2.resize(PICTURE, (32, 32))))
    found = images.read(path)
    assert found.array.shape == (24, 32) and "of another shape than the picture of 32 x 32" in found.more


def test_a_turned_picture_turns_the_values(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    Image.fromarray(PICTURE).save(tmp_path / "plain.jpg", exif=exif)
    content = (tmp_path / "plain.jpg").read_bytes()
    part = b"FLIR\0\1\0\0" + made_flir.fff(made_flir.counts(CELSIUS))
    content = content[:2] + b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part + content[2:]
    (tmp_path / "a.jpg").write_bytes(content)
    assert np.abs(images.read(tmp_path / "a.jpg").array - CELSIUS[::-1, ::-1]).max() < 0.05


@pytest.mark.parametrize("fault", ["a piece", "cut", "no counts", "odd constants", "JPEG-LS", "size"])
def test_what_cannot_be_read_is_told_and_the_picture_is_used(tmp_path, fault):
    raw, changes = made_flir.counts(CELSIUS), {"r1": -1.0} if fault == "odd constants" else {}
    data = made_flir.fff(raw, png=fault == "size", **changes)
    if fault == "cut":
        data = data[:900]
    elif fault == "size":
        data = data.replace(struct.pack(">II", 32, 24), struct.pack(">II", 32000, 24000))
    elif fault == "JPEG-LS":
        data = data.replace(raw.tobytes()[:8], b"\xff\xd8\xff\xf7" + bytes(4))
    elif fault == "no counts":
        data = data.replace(struct.pack(">HHI", 1, 0, 100), struct.pack(">HHI", 7, 0, 100))
    content = made_flir.jpeg(data, PICTURE, piece=500)
    if fault == "a piece":
        content = content.replace(b"FLIR\0\1\1", b"FLIX\0\1\1")
    (tmp_path / "a.jpg").write_bytes(content)
    image = read_image(tmp_path / "a.jpg")
    assert image.celsius is None and image.values.shape == (24, 32)
    assert any("temperatures in the file could not be read, only the picture" in note for note in image.notes)
    if fault not in ("a piece",):
        (tmp_path / "a.fff").write_bytes(data)
        with pytest.raises(InputError, match=r"The image .*a\.fff cannot be read: .*FLIR's"):
            read_image(tmp_path / "a.fff")


@pytest.mark.parametrize("ending", ["jpg", "fff"])
def test_counts_without_constants_are_counts(tmp_path, ending):
    raw = ((CELSIUS + 273.15) * 100).round().astype(np.uint16)
    data = made_flir.fff(raw, png=True, swapped=True)
    data = data.replace(struct.pack(">HHI", 32, 0, 100), struct.pack(">HHI", 7, 0, 100))
    path = tmp_path / f"a.{ending}"
    path.write_bytes(made_flir.jpeg(data, 255 - PICTURE) if ending == "jpg" else data)
    image = read_image(path)
    np.testing.assert_array_equal(image.values, raw)  # and not the picture, which may be black-hot
    np.testing.assert_allclose(image.celsius, CELSIUS, atol=0.0051)
    assert "no constants of the camera" in image.notes[0] and "hundredths of a kelvin" in image.notes[1]
    assert read_image(path, celsius="none").celsius is None


@settings(max_examples=150)
@given(st.data())
def test_damaged_data_raise_one_kind_of_error(data):
    content = bytearray(made_flir.fff(made_flir.counts(CELSIUS), png=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, 140))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found, _ = flir.celsius(content)
    except InputError:
        return
    assert found.ndim == 2 and np.isfinite(found).any()


def test_csq_files_need_a_decoder_and_are_read_with_it(tmp_path, monkeypatch):
    raw = made_flir.counts(CELSIUS)
    head = b"\xff\xd8\xff\xf7\0\x0b\x10" + struct.pack(">2H", *raw.shape) + b"\x01\x01\x11\0"
    (tmp_path / "a.csq").write_bytes(made_flir.fff(raw, packed=head + bytes(99)))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(InputError, match=r"a\.csq cannot be read: .*JPEG-LS.*pip install imagecodecs"):
        read_image(tmp_path / "a.csq")
    decoder = types.SimpleNamespace(jpegls_decode=lambda content: raw if content[:4] == head[:4] else None)
    monkeypatch.setitem(sys.modules, "imagecodecs", decoder)
    np.testing.assert_allclose(read_image(tmp_path / "a.csq").celsius, CELSIUS, atol=0.05)
    wrong = head[:7] + struct.pack(">2H", 60000, 60000) + head[11:]  # is never decoded
    (tmp_path / "a.csq").write_bytes(made_flir.fff(raw, packed=wrong + bytes(99)))
    with pytest.raises(InputError, match="counts of another size or kind than they say"):
        read_image(tmp_path / "a.csq")
    decoder.jpegls_decode = lambda content: struct.unpack("I", b"")
    (tmp_path / "a.csq").write_bytes(made_flir.fff(raw, packed=head + bytes(99)))
    with pytest.raises(InputError, match="JPEG-LS image that is damaged"):
        read_image(tmp_path / "a.csq")


def test_csq_files_of_the_real_encoder(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    raw = made_flir.counts(CELSIUS)
    content = made_flir.fff(raw, packed=imagecodecs.jpegls_encode(raw))
    (tmp_path / "a.csq").write_bytes(content)
    np.testing.assert_allclose(read_image(tmp_path / "a.csq").celsius, CELSIUS, atol=0.05)
    for end in range(300, len(content) - 1100, 31):
        (tmp_path / "a.csq").write_bytes(content[:end])
        with pytest.raises(InputError, match="FLIR's"):
            read_image(tmp_path / "a.csq")


# The constants of a camera of FLIR's, and the formulas, that Thermimage publishes:
# https://github.com/gtatters/Thermimage/blob/master/R/raw2temp.R
PUBLISHED = {"r1": 21106.77, "b": 1501.0, "f": 1.0, "r2": 0.012545258}
PUBLISHED_O = -7340


def published(raw, e, distance, reflected, air, humidity):
    """°C of counts by the published formulas. They halve the air at a window; FLIR does not, which matters far away."""
    water = humidity * np.exp(1.5587 + 0.06939 * air - 0.00027816 * air**2 + 0.00000068455 * air**3)
    root = np.sqrt(distance / 2)
    tau = 1.9 * np.exp(-root * (0.006569 - 0.002276 * np.sqrt(water)))
    tau += (1 - 1.9) * np.exp(-root * (0.01262 - 0.00667 * np.sqrt(water)))

    def counts(celsius):
        return 21106.77 / (0.012545258 * (np.exp(1501 / (celsius + 273.15)) - 1)) + 7340

    seen = raw / e / tau**2 - (1 - tau) / e / tau * counts(air) - (1 - tau) / e / tau**2 * counts(air)
    seen = seen - (1 - e) / e * counts(reflected)
    return 1501 / np.log(21106.77 / (0.012545258 * (seen - 7340)) + 1) - 273.15


@pytest.mark.parametrize(
    ("e", "distance", "reflected", "air", "humidity"),
    [
        (1.0, 0.0, 20.0, 20.0, 0.5),
        (0.95, 0.0, 15.0, 20.0, 0.5),
        (0.98, 1.0, 22.0, 21.0, 0.4),
        (0.97, 0.5, 30.0, 28.0, 0.6),
    ],
)
def test_the_conversion_is_that_of_published_constants(monkeypatch, e, distance, reflected, air, humidity):
    raw = np.linspace(16_000, 22_000, 32 * 24).reshape(24, 32).round().astype(np.uint16)
    monkeypatch.setattr(made_flir, "OFFSET", PUBLISHED_O)
    seen = {"emissivity": e, "distance": distance, "reflected": reflected + 273.15, "air": air + 273.15}
    found = flir.celsius(made_flir.fff(raw, **PUBLISHED, **seen, humidity=humidity))[0]
    expected = published(raw.astype(np.float64), e, distance, reflected, air, humidity)
    assert expected.min() < 15 and expected.max() > 40
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_a_black_body_by_hand(monkeypatch):
    """18109 counts: 1501 / ln(21106.77 / (0.012545258 · (18109 - 7340)) + 1) = 1501 / ln(157.231) = 296.774 K."""
    monkeypatch.setattr(made_flir, "OFFSET", PUBLISHED_O)
    data = made_flir.fff(np.full((8, 8), 18_109, np.uint16), **PUBLISHED, emissivity=1.0, distance=0.0)
    np.testing.assert_allclose(flir.celsius(data)[0], 23.624, atol=0.002)
