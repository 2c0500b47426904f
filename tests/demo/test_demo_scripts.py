"""The scripts of the page give the numbers of the Python modules that they repeat."""

import dataclasses
import io
import struct
import zlib

import cv2
import demo_images
import demo_scripts
import made_flir
import numpy as np
import pytest
from PIL import Image

from mlcm_jax import detection, holes, polarity, units
from mlcm_jax.data import augment, gain, image_file
from mlcm_jax.errors import InputError
from mlcm_jax.inference import regions
from mlcm_jax.layouts import LAYOUTS


def pillow(array, **options):
    out = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(out, "PNG", **options)
    return out.getvalue()


def interlaced(array):
    """A PNG of 16-bit gray whose pixels come in the seven passes of Adam7."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b"".join(
        b"\0" + row.astype(">u2").tobytes() for x, y, dx, dy in passes for row in array[y::dy, x::dx] if row.size
    )

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, 0, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def disturbed(celsius, rng):
    """Temperatures with dead pixels, a dead row and a dead column."""
    out = celsius.copy()
    out[rng.integers(5, 150, 12), rng.integers(5, 150, 12)] = 90.0
    out[40], out[:, 77] = 12.0, 60.0
    return out


def with_telemetry(counts, rng):
    rows = rng.integers(0, 60000, (2, counts.shape[1]), np.uint16)
    return np.concatenate([counts, rows])


@pytest.fixture(scope="module")
def files():
    """Files of every kind that the page reads without a browser: name -> content."""
    rng = np.random.default_rng(3)
    pair, celsius = demo_images.face(40, 160), demo_images.face(44, 160)["celsius"]
    gray, counts = pair["thermal"], demo_images.centikelvin(celsius)
    cut = celsius.copy()
    cut[:30, :30] = np.nan
    rows = [[f"{value:.1f}" if np.isfinite(value) else "" for value in row] for row in cut]
    counted = ";".join(["", *map(str, range(160))])
    return {
        "gray.png": demo_images.png(gray),
        "small.png": demo_images.png(gray[:9, :11]),
        "bits1.png": pillow(Image.fromarray(gray > 100)),
        "palette.png": pillow(Image.fromarray(gray).quantize(16)),
        "alpha.png": pillow(np.dstack([gray, gray, gray, 255 - gray])),
        "inferno.png": demo_images.png(cv2.applyColorMap(gray, cv2.COLORMAP_INFERNO)),
        "photo.png": demo_images.png(np.ascontiguousarray(pair["rgb"][..., ::-1])),
        "dead8.png": demo_images.png(np.where(rng.random(gray.shape) < 0.002, 255, gray).astype(np.uint8)),
        "dead1.png": demo_images.png(np.where(np.arange(gray.size).reshape(gray.shape) == 4040, 255 - gray, gray)),
        "turned.png": pillow(gray, exif=_turned(6)),
        "counts.png": demo_images.png(counts),
        "interlaced.png": interlaced(counts[:53, :71]),
        "zeros.png": demo_images.png(np.where(rng.random(counts.shape) < 0.01, 0, counts).astype(np.uint16)),
        "dead.png": demo_images.png(demo_images.centikelvin(disturbed(celsius, rng))),
        "telemetry.png": demo_images.png(with_telemetry(counts, rng)),
        "plain.png": demo_images.png(counts // 40 + 3000),  # of no unit
        "table.csv": demo_images.csv(celsius),
        "german.csv": demo_images.csv(celsius, ";", ","),
        "kelvin.txt": b"Unit: [K]\n" + demo_images.csv(celsius + 273.15, "\t").split(b"\n", 1)[1],
        "holes.csv": "\r\n".join(";".join(row) for row in rows).encode("utf-16"),
        "counted.csv": "\n".join([counted, *(";".join([str(k), *row]) for k, row in enumerate(rows))]).encode(),
        "closed.csv": "\n".join(",".join(row) + "," for row in rows).encode("latin-1"),
        "a.fff": made_flir.fff(made_flir.counts(celsius)),
        "b.fff": made_flir.fff(made_flir.counts(celsius), order=">", header=">", png=True, swapped=True),
        "c.fff": made_flir.fff(made_flir.counts(celsius, humidity=60.0, distance=7.0, emissivity=0.9),
                               png=True, humidity=60.0, distance=7.0, emissivity=0.9),
        "two.seq": 2 * made_flir.fff(made_flir.counts(celsius)),
    }  # fmt: skip


def _turned(way):
    exif = Image.Exif()
    exif[0x112] = way
    return exif


def test_images_are_read_as_by_python(files, tmp_path):
    found = demo_scripts.call(*(("images.read", content, name) for name, content in files.items()))
    for (name, content), one in zip(files.items(), found, strict=True):
        (tmp_path / name).write_bytes(content)
        image = image_file.read_image(tmp_path / name)
        assert "error" not in one, (name, one)
        assert (one["celsius"] is None) == (image.celsius is None) and one["levels"] == image.levels, name
        np.testing.assert_array_equal(np.isnan(one["values"]), np.isnan(image.values), name)
        np.testing.assert_allclose(one["values"], image.values, atol=2e-5, rtol=1e-6, err_msg=name)
        if image.celsius is not None:
            np.testing.assert_allclose(one["celsius"], image.celsius, atol=2e-3, err_msg=name)
        np.testing.assert_array_equal(one["gray"], image.gray, name)
        for word in ("telemetry", "dead", "no temperature", "palette", "alpha", "frames", "skipped", "left out", "K)"):
            assert (word in " ".join(one["notes"])) == (word in " ".join(image.notes)), (name, word)
        counted = [[note for note in notes if "pixel" in note] for notes in (one["notes"], image.notes)]
        assert counted[0] == counted[1], name


def test_units_and_polarity_are_those_of_python(tmp_path):
    celsius = demo_images.face(48, 96)["celsius"]
    gray = demo_images.face(48, 96)["thermal"]
    (tmp_path / "a.png").write_bytes(demo_images.png((celsius * 10 + 2731.5).round().astype(np.uint16)))
    (tmp_path / "b.png").write_bytes(demo_images.png(gray))
    none = {"celsius": "none"}
    settings = [{"celsius": "decikelvin"}, {"celsius": "0.1,-273.15"}, none, none | {"polarity": "black_hot"}]
    cases = [*(("a.png", one) for one in settings), ("b.png", {"polarity": "black_hot"})]
    calls = [("images.read", (tmp_path / name).read_bytes(), name, options) for name, options in cases]
    for (name, options), one in zip(cases, demo_scripts.call(*calls), strict=True):
        image = image_file.read_image(tmp_path / name, **options)
        np.testing.assert_allclose(one["values"], image.values, rtol=1e-6)
        np.testing.assert_array_equal(one["gray"], image.gray)
        assert (one["celsius"] is None) == (image.celsius is None)
    box = [20.0, 20.0, 50.0, 60.0]
    hot = (celsius + 60, celsius)
    found = demo_scripts.call(
        ("units.darker", demo_scripts.grid(gray), box),
        ("units.darker", demo_scripts.grid(255 - gray), box),
        *(("units.doubt", demo_images.centikelvin(one).astype(np.float32).ravel(), one.ravel()) for one in hot),
    )
    assert found[:2] == [polarity.darker(gray, box), polarity.darker(255 - gray, box)]
    assert bool(units.doubt(demo_images.centikelvin(hot[0]).astype(np.float32), hot[0])) == bool(found[2]) is True
    assert found[3] == ""


BAD = {
    "cut.png": (lambda good: good[:3000], "cut off"),
    "flipped.png": (lambda good: good[:500] + bytes([good[500] ^ 1]) + good[501:], "damaged"),
    "deep.png": (lambda _: demo_images.png(np.zeros((9, 9, 3), np.uint16)), "16 bits in each of several channels"),
    "empty.png": (lambda _: b"", "empty"),
    "a.tif": (lambda _: b"II*\0" + bytes(99), "TIFF"),
    "a.xyz": (lambda _: b"something", "no form that this page reads"),
    "torn.csv": (lambda _: b"\n".join([b"21,5,21,6,21,7,21,8,21,9,22,0,22,1,22,2,22,3,22,4"] * 12), "decimals"),
    "small.csv": (lambda _: b"1,2,3\n4,5,6\n", "at least 8 x 8"),
    "short.csv": (lambda _: demo_images.csv(np.full((20, 20), 21.0))[:-30], "damaged, or cut off"),
    "words.csv": (lambda _: b"a,b\nc,d\n", "no table"),
    "cut.fff": (lambda _: made_flir.fff(np.full((30, 40), 9000, np.uint16))[:2000], "FLIR"),
    "bare.fff": (lambda _: b"FFF\0" + bytes(100), "unknown version"),
    "zero.png": (lambda _: demo_images.png(np.zeros((30, 40), np.uint16)), ""),
}


def test_bad_files_are_refused_in_a_sentence_as_by_python(files, tmp_path):
    contents = {name: make(files["gray.png"]) for name, (make, _) in BAD.items()}
    found = demo_scripts.call(*(("images.read", content, name) for name, content in contents.items()))
    for (name, content), one in zip(contents.items(), found, strict=True):
        (tmp_path / name).write_bytes(content)
        try:
            image_file.read_image(tmp_path / name)
            refused = False
        except InputError:
            refused = True
        assert ("error" in one) == refused, (name, one)
        if refused:
            assert one["error"].startswith("InputError: ") and BAD[name][1] in one["error"], (name, one)
            assert one["error"].endswith((".", "?")) and len(one["error"]) < 300


def test_units_are_refused_as_by_python(files):
    cases = [("gray.png", {"celsius": "kelvin"}), ("counts.png", {"polarity": "black_hot"}),
             ("counts.png", {"celsius": "0,1"}), ("counts.png", {"celsius": "1;2"})]  # fmt: skip
    found = demo_scripts.call(*(("images.read", files[name], name, options) for name, options in cases))
    assert all(one.get("error", "").startswith("InputError: ") for one in found), found


def test_gray_levels_and_crops_are_those_of_python():
    rng = np.random.default_rng(0)
    pair = demo_images.face(52, 200)
    holed = pair["celsius"].copy()
    holed[20:40, 50:90] = np.nan
    flat = np.full((40, 50), 3.0, np.float32)
    flat[5, 5] = 4.0
    boxes = [pair["box"], [-20, 30, 90, 120], [150, 150, 90, 90], [60, 60, 3, 3], [10, 10, 180, 170]]
    boxes = [np.float32(box).tolist() for box in boxes]
    arrays = [
        pair["thermal"],
        pair["celsius"],
        holed,
        flat,
        demo_images.centikelvin(pair["celsius"]).astype(np.float32),
    ]
    calls, wanted = [], []
    for array in arrays:
        calls.append(("crops.sceneGain", demo_scripts.grid(array)))
        wanted.append(gain.scene_gain(array))
        for box in boxes if array is not flat else ([0.0, 0.0, 40.0, 40.0],):
            calls.append(("crops.gain", demo_scripts.grid(array), box))
            wanted.append(gain.gain(array, box))
    found = demo_scripts.call(*calls)
    for one, other in zip(found, wanted, strict=True):
        different = np.abs(one.astype(int) - other)  # float32 and float64 round some values otherwise
        assert different.max() <= 1 and (different > 0).mean() < 1e-3
    large = cv2.resize(pair["thermal"], (1300, 1100), interpolation=cv2.INTER_LINEAR)
    cases = [(image, box, size) for image in (pair["thermal"], large) for box in boxes for size in (96, 160)]
    cases += [(large, (0.0, 0.0, 1300.0, 1100.0), 96), (large, (300.5, 200.25, 700.0, 800.0), 96)]
    found = demo_scripts.call(
        *(("crops.square", demo_scripts.grid(image), box, 1.2, size) for image, box, size in cases)
    )
    for (image, box, size), one in zip(cases, found, strict=True):
        example = {"thermal": image, "box": tuple(box), "landmarks": np.zeros((68, 2)), "visible": np.ones(68, bool)}
        crop = augment.crop(example, augment.Crop(size, 1.2, "ibug68"))
        different = np.abs(one["crop"].reshape(size, size) - crop["thermal"][..., 0]) * 255
        assert different.max() < 1.01 and (different > 0.5).mean() < 0.01
        np.testing.assert_allclose(
            [one["step"], one["left"], one["top"]], crop["to_image"][[0, 0, 1], [0, 2, 2]], rtol=1e-5
        )
    shapes = [(pair["thermal"], (130, 111)), (pair["celsius"], (64, 50)), (rng.random((30, 40), np.float32), (20, 15))]
    found = demo_scripts.call(*(("crops.shrunk", demo_scripts.grid(image), *size) for image, size in shapes))
    for (image, size), one in zip(shapes, found, strict=True):
        other = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(one.astype(float), other, atol=1e-4 if image.dtype == np.float32 else 1)
    (one,) = demo_scripts.call(("crops.enlarged", demo_scripts.grid(pair["celsius"]), 400, 420))
    np.testing.assert_allclose(one, cv2.resize(pair["celsius"], (400, 420)), atol=1e-4)


def test_holes_take_the_nearest_value_as_by_python():
    rng = np.random.default_rng(1)
    masks = [rng.random((40, 57)) < share for share in (0.02, 0.5, 0.95)]
    masks[1][10:30, 5:40] = True
    found = demo_scripts.call(*(("holes.nearest", mask.ravel().view(np.uint8), 57, 40) for mask in masks))
    assert len(found) == 3
    for mask, one in zip(masks, found, strict=True):
        places = np.flatnonzero(~mask.ravel())[holes.nearest(mask)]
        np.testing.assert_array_equal(np.reshape(one, (40, 57)), places)


def test_regions_are_those_of_python():
    cases = []
    for index in (0, 4, 8, 12):
        pair = demo_images.face(index, 160)
        celsius = pair["celsius"].copy()
        celsius[100:110, 30:60] = np.nan
        points = pair["landmarks"] + (70.0 if index == 4 else 0.0)  # partly outside the image
        cases.append((np.float32(points), celsius))
    turned = cases[0][0].copy()
    turned[:17, 0] = np.maximum(turned[:17, 0], turned[28, 0] - 10)
    cases.append((turned, cases[0][1]))
    found = demo_scripts.call(*(("regions.measure", points.tolist(), demo_scripts.grid(c)) for points, c in cases))
    hidden = 0
    for (points, celsius), one in zip(cases, found, strict=True):
        wanted = regions.measure(points, celsius)
        assert list(one) == list(wanted) == list(regions.NAMES)
        for name, region in wanted.items():
            assert (one[name]["pixels"], one[name]["hidden"]) == (region.pixels, region.hidden), name
            for key, value in dataclasses.asdict(region).items():
                np.testing.assert_allclose(one[name][key], value, atol=1e-4)
            hidden += region.hidden
    assert hidden > 3


def test_boxes_are_read_off_the_maps_as_by_python():
    rng = np.random.default_rng(2)
    scores = rng.normal(-3, 2, (40, 40)).astype(np.float32)
    sides = rng.normal(0.3, 0.5, (40, 40, 4)).astype(np.float32)
    boxes, found = detection.find(scores, sides, threshold=0.15, max_faces=20)
    (one,) = demo_scripts.call(("networks.boxesOf", scores.ravel(), sides.ravel(), [40, 40], 0.15, 20))
    np.testing.assert_allclose([face["box"] for face in one], boxes, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([face["score"] for face in one], found, rtol=1e-5)
    assert len(one) > 5


def test_the_box_of_landmarks_is_that_of_python():
    points = demo_images.face(0, 160)["landmarks"]
    (one,) = demo_scripts.call(("networks.boxOf", points.tolist()))
    np.testing.assert_allclose(one, demo_images.face(0, 160)["box"], rtol=1e-6)
    assert LAYOUTS["ibug68"].count == len(points)
