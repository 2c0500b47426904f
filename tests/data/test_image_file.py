"""Images of users: their values, temperatures, holes and colours, and what networks read of them."""

import numpy as np
import PIL.Image
import pytest

from mlcm_jax import images
from mlcm_jax.data import image_file
from mlcm_jax.errors import InputError

RNG = np.random.default_rng(0)
STORED = {
    "gray8": RNG.integers(0, 256, (24, 30), np.uint8),
    "gray16": RNG.integers(0, 65536, (24, 30), np.uint16),
    "float": RNG.uniform(10, 40, (24, 30)).astype(np.float32),
    "colour": RNG.integers(0, 256, (24, 30, 3), np.uint8),
}


def write(folder, kind):
    """Writes a stored image without loss and returns its path."""
    path = folder / f"{kind}.npy"
    np.save(path, STORED[kind])
    return path


@pytest.mark.parametrize("kind", STORED)
def test_an_image_has_the_files_values(tmp_path, kind):
    path = write(tmp_path, kind)
    image = image_file.read_image(path)
    gray, _ = images.to_gray8(images.read(path))
    np.testing.assert_array_equal(image.values, gray if kind in ("gray8", "colour") else STORED[kind])
    assert image.values.dtype == np.float32 and image.name == str(path)
    np.testing.assert_array_equal(image.gray, gray)
    assert image.gray.dtype == np.uint8 and (image.rgb is not None) == (kind == "colour")


@pytest.mark.parametrize("kind", STORED)
def test_paths_arrays_and_images_of_pillow_are_the_same(tmp_path, kind):
    read = image_file.read_image(write(tmp_path, kind))
    given = [read, str(tmp_path / f"{kind}.npy"), tmp_path / f"{kind}.npy", STORED[kind]]
    given += [] if kind == "float" else [PIL.Image.fromarray(STORED[kind])]
    for one in given:
        np.testing.assert_array_equal(image_file.as_image(one).values, read.values)


def test_temperatures_are_those_of_the_file(tmp_path):
    celsius = np.array([[10.0, 20.0], [30.0, 50.0]], np.float32)
    np.save(tmp_path / "a.npy", celsius)
    np.testing.assert_array_equal(image_file.read_image(tmp_path / "a.npy").celsius, celsius)
    np.save(tmp_path / "b.npy", ((celsius + 273.15) * 100).round().astype(np.uint16))
    np.testing.assert_allclose(image_file.read_image(tmp_path / "b.npy").celsius, celsius, atol=0.006)
    assert image_file.read_image(tmp_path / "b.npy", celsius="none").celsius is None
    np.save(tmp_path / "c.npy", np.arange(600, dtype=np.uint16).reshape(20, 30))  # -273 to -267 °C
    assert image_file.read_image(tmp_path / "c.npy").celsius is None
    with pytest.raises(InputError, match="--celsius=kelvins is no unit; did you mean 'kelvin'"):
        image_file.read_image(tmp_path / "a.npy", celsius="kelvins")


@pytest.mark.parametrize(
    ("unit", "scale", "offset", "kind"),
    [
        ("kelvin", 1, 273.15, np.float32), ("decikelvin", 10, 2731.5, np.uint16), ("fahrenheit", 1.8, 32, np.float64),
        ("centikelvin", 100, 27315, np.uint16), ("celsius", 1, 0, np.float32), ("0.04,-273.15", 25, 6828.75, np.uint16),
    ],
)  # fmt: skip
def test_a_unit_that_is_given_is_that_of_the_values(tmp_path, unit, scale, offset, kind):
    celsius = np.random.default_rng(2).uniform(20, 38, (24, 30))
    np.save(tmp_path / "a.npy", (celsius * scale + offset + (0.5 if kind == np.uint16 else 0)).astype(kind))
    image = image_file.read_image(tmp_path / "a.npy", celsius=unit)
    np.testing.assert_allclose(image.celsius, celsius, atol=0.06)
    assert image.notes == ()
    assert image_file.read_image(tmp_path / "a.npy", celsius="none").celsius is None


def test_the_guess_is_told_and_kelvins_are_one():
    image = image_file.as_image(FACE + 273.15)
    np.testing.assert_allclose(image.celsius, FACE, atol=1e-4)
    assert image.notes == ("values were taken for kelvins, so that their median is 30.5 °C",)
    image = image_file.as_image(((FACE + 273.15) * 10).astype(np.uint16))
    assert image.celsius is None and image.notes[0].endswith("such as --celsius=decikelvin")


@pytest.mark.parametrize(("kind", "what"), [("gray8", "8-bit gray"), ("colour", "coloured")])
def test_a_unit_for_eight_bits_is_refused(tmp_path, kind, what):
    path = write(tmp_path, kind)
    with pytest.raises(InputError, match=f"--celsius=kelvin is for 16-bit or float images; .* is {what}"):
        image_file.read_image(path, celsius="kelvin")
    assert image_file.read_image(path, celsius="none").celsius is None


def test_raw_values_of_flir_that_are_not_read_are_told(tmp_path):
    PIL.Image.fromarray(STORED["gray8"]).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    assert image_file.read_image(tmp_path / "a.jpg").notes == ()
    segment = b"FLIR\0\1\0\0" + bytes(40)
    start = content[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    (tmp_path / "b.jpg").write_bytes(start + content[2:])
    (note,) = image_file.read_image(tmp_path / "b.jpg").notes
    assert note.startswith("FLIR's temperatures in the file could not be read, only the picture that it shows")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "HSV", "LAB"])
def test_every_mode_of_pillow_gives_the_same_gray(mode):
    gray = PIL.Image.fromarray(255 * (STORED["gray8"] > 99).astype(np.uint8))
    over = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, "RGB" if mode in ("RGBX", "CMYK", "HSV", "LAB") else "L")
    found = image_file.as_image(gray.convert(over).convert(mode)).values
    np.testing.assert_allclose(found, np.asarray(gray), atol=1)


def test_pillows_counts_are_those_of_the_file(tmp_path):
    """Also where a TIFF stores white as 0, and where Pillow has 32 bits."""
    counts = STORED["gray16"]
    PIL.Image.fromarray(counts).save(tmp_path / "a.tiff", tiffinfo={262: 0})
    with PIL.Image.open(tmp_path / "a.tiff") as image:
        np.testing.assert_array_equal(image_file.as_image(image).values, 65535 - counts.astype(int))
    found = image_file.as_image(PIL.Image.fromarray(counts.astype(np.int32)))
    np.testing.assert_array_equal(found.values, counts)


def test_an_image_of_pillow_with_a_truncated_file_is_reported(tmp_path):
    PIL.Image.fromarray(STORED["gray8"]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-100])
    with PIL.Image.open(tmp_path / "b.png") as image, pytest.raises(InputError, match="its file is damaged"):
        image_file.as_image(image)


def test_arrays_of_any_type_are_images():
    counts = STORED["gray16"].copy()
    counts[0, 0] = 256
    for kind in (">u2", "int32", "int64"):
        found = image_file.as_image(counts.astype(kind))
        np.testing.assert_array_equal(found.values, counts)
    assert image_file.as_image(COUNTS.astype(">u2")).celsius is not None
    np.testing.assert_array_equal(image_file.as_image(STORED["gray8"] > 99).values, STORED["gray8"] > 99)
    huge = np.where(np.arange(600).reshape(20, 30) == 7, 1e300, 30.0 + np.arange(600).reshape(20, 30) / 100)
    assert np.isnan(image_file.as_image(huge).values).sum() == 1  # beyond float32


FACE = 30.0 + np.random.default_rng(1).random((40, 50)).astype(np.float32)  # °C
COUNTS = ((FACE + 273.15) * 100).round().astype(np.uint16)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -273.15, -9999.0, 1e6, 0, 65535])
def test_values_that_no_thermometer_gives_are_holes(value):
    image = (COUNTS if value in (0, 65535) else FACE).copy()
    image[:5] = value
    found = image_file.as_image(image)
    holes = np.zeros(image.shape, bool)
    holes[:5] = True
    np.testing.assert_array_equal(np.isnan(found.values), holes)
    np.testing.assert_array_equal(np.isnan(found.celsius), holes)
    np.testing.assert_array_equal(found.values[5:], image[5:].astype(np.float32))
    assert found.notes[0] == "12 % of the pixels hold no temperature and were treated as missing"
    assert "were taken for" in found.notes[1] and len(found.notes) == 2


UNITS = {"°C": FACE, "K": FACE + 273.15, "counts": COUNTS, "counts in floats": COUNTS.astype(np.float32)}


@pytest.mark.parametrize(
    ("unit", "value"),
    [(unit, value) for unit in UNITS for value in (0, 65535)]
    + [(unit, value) for unit in ("°C", "K") for value in (-9999.0, -273.15, 1e6)],
)
def test_a_face_that_is_cut_out_has_one_large_hole(unit, value):
    image = UNITS[unit].copy()
    image[:30] = value
    found = image_file.as_image(image).values
    np.testing.assert_array_equal(np.isnan(found), np.arange(40)[:, None].repeat(50, 1) < 30)


@pytest.mark.parametrize(
    "image",
    [
        np.linspace(0, 65535, 2000).round().astype(np.uint16).reshape(40, 50),  # stretched to 16 bits
        np.linspace(-9000, -2000, 2000, dtype=np.float32).reshape(40, 50),  # another unit
        np.zeros((40, 50), np.uint16),
        np.zeros((40, 50), np.float32),
        np.linspace(0, 36, 2000).reshape(40, 50),  # 0 °C is a temperature
        np.linspace(0, 1, 2000).reshape(40, 50),
        COUNTS,
        FACE,
    ],
)
def test_other_values_are_none(image):
    found = image_file.as_image(image)
    assert not np.isnan(found.values).any() and len(found.notes) == 1 and "were taken for" in found.notes[0]


def test_thermal_networks_read_values_or_gray_and_rgb_networks_colours(tmp_path):
    for kind, stored in STORED.items():
        image = image_file.as_image(stored)
        rgb = image_file.for_network(image, modality="rgb")
        np.testing.assert_array_equal(rgb, stored if kind == "colour" else np.repeat(image.gray[..., None], 3, 2))
        wanted = image.gray if image.levels else image.values
        assert image_file.for_network(image, modality="thermal", gain="box") is wanted
        np.testing.assert_array_equal(image_file.for_network(image, modality="thermal"), image.gray)


def test_temperatures_are_converted_with_the_range_of_the_training():
    celsius = np.array([[10.0, 20.0], [30.0, 50.0], [np.nan, 40.0]], np.float32)
    options = {"modality": "thermal", "thermal_range": (20.0, 40.0), "gain": "box"}
    found = image_file.for_network(image_file.as_image(celsius), **options)
    np.testing.assert_array_equal(found, [[0, 0], [128, 255], [128, 255]])  # a hole takes what is next to it
    with pytest.raises(InputError, match="holds no temperatures, which this network reads"):
        image_file.for_network(image_file.as_image(STORED["gray8"]), **options)


def test_fixed_range_is_linear_and_clipped():
    celsius = np.array([[-10, 20, 25, 30, 40, 90, np.nan]])
    gray = image_file.fixed_range(celsius, 20.0, 40.0)
    assert gray.dtype == np.uint8 and gray.tolist() == [[0, 0, 64, 128, 255, 255, 255]]
    assert image_file.fixed_range(np.full((2, 2), np.nan), 20.0, 40.0).tolist() == [[0, 0], [0, 0]]
    for low, high in ((40.0, 20.0), (20.0, 20.0)):
        with pytest.raises(InputError, match=r"config\.thermal_range=.* must be increasing"):
            image_file.fixed_range(celsius, low, high)


@pytest.mark.parametrize("end", ["top", "bottom"])
def test_telemetry_stays_in_the_image_as_holes_and_is_told(end):
    words = np.random.default_rng(5).integers(0, 65536, (2, 50)).astype(np.uint16)
    image = np.concatenate([words, COUNTS] if end == "top" else [COUNTS, words])
    found = image_file.as_image(image)
    rows = slice(2) if end == "top" else slice(40, None)
    assert found.values.shape == (42, 50) and np.isnan(found.values[rows]).all() and np.isnan(found.celsius[rows]).all()
    others = np.delete(found.values, rows, axis=0)
    np.testing.assert_array_equal(others, COUNTS.astype(np.float32))
    which = "first" if end == "top" else "last"
    told = f"the {which} 2 rows hold telemetry in place of temperatures, and were treated as missing"
    assert found.notes[0] == told and len(found.notes) == 2
    assert not (found.gray[rows] == 0).all()  # filled by what is next to it


def test_dead_pixels_of_gray_levels_are_filled_and_told():
    gray = (100 + 20 * np.sin(np.arange(2000).reshape(40, 50) / 300)).round().astype(np.uint8)
    spoilt = gray.copy()
    spoilt[5, 7], spoilt[20, 30], spoilt[0, 0] = 0, 255, 255
    found = image_file.as_image(spoilt)
    assert np.argwhere(np.isnan(found.values)).tolist() == [[0, 0], [5, 7], [20, 30]]
    np.testing.assert_allclose(found.gray.astype(int), gray, atol=4)
    assert found.notes == ("0.15 % of the pixels are dead, and were given the gray level of their neighbours",)
    np.testing.assert_array_equal(image_file.for_network(found, modality="thermal", gain="box"), found.gray)


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (1, "1 pixel holds no temperature and was treated as missing"),
        (4, "4 pixels hold no temperature and were treated as missing"),
        (5, "0.1 % of the pixels hold no temperature and were treated as missing"),
    ],
)
def test_few_pixels_are_counted(count, told):
    values = np.linspace(20, 36, 5000, dtype=np.float32).reshape(50, 100)
    values[20, 10 : 10 + count] = np.nan
    assert image_file.as_image(values).notes[0] == told


def test_nothing_is_at_or_below_absolute_zero_in_a_stated_unit(tmp_path):
    kelvin = FACE + 273.15
    kelvin[:10], kelvin[10:20] = -1.0, 0.0
    np.save(tmp_path / "a.npy", kelvin)
    found = image_file.read_image(tmp_path / "a.npy", celsius="kelvin")
    np.testing.assert_array_equal(np.isnan(found.celsius), np.arange(40)[:, None].repeat(50, 1) < 20)
    fahrenheit = (FACE * 1.8 + 32).astype(np.float32)
    fahrenheit[3, :30] = -459.67
    np.save(tmp_path / "b.npy", fahrenheit)
    assert np.isnan(image_file.read_image(tmp_path / "b.npy", celsius="fahrenheit").values).sum() == 30


def test_black_hot_images_are_inverted_on_request(tmp_path):
    gray = (60 + 100 * (FACE - 30)).round().astype(np.uint8)
    np.save(tmp_path / "a.npy", 255 - gray)
    found = image_file.read_image(tmp_path / "a.npy", polarity="black_hot")
    np.testing.assert_array_equal(found.values, gray)
    np.testing.assert_array_equal(found.gray, gray)
    np.save(tmp_path / "b.npy", COUNTS)
    with pytest.raises(InputError, match=r"--polarity=black_hot is for images without temperatures; .* --celsius=none"):
        image_file.read_image(tmp_path / "b.npy", polarity="black_hot")
    found = image_file.read_image(tmp_path / "b.npy", polarity="black_hot", celsius="none").values
    np.testing.assert_array_equal(found, (COUNTS.min() + COUNTS.max() - COUNTS.astype(int)).astype(np.float32))
    with pytest.raises(InputError, match="--polarity=whitehot is unknown; did you mean 'white_hot'"):
        image_file.read_image(tmp_path / "a.npy", polarity="whitehot")
