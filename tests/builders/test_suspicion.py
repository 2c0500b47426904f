"""Tests what is found wrong with a dataset, what the user is told, and what the options mend."""

import json

import cv2
import numpy as np
import pytest
import trees

import tfds_builders
from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from tfds_builders import measures, suspicion

LAYOUT = landmarks.get("ibug68")
SIZE = (80, 96)
BOX = np.array([20.0, 20, 40, 50])


def gray(face, around, seed=0, box=BOX):
    """Makes a thermal image with one gray level in the box, another around it, and a little noise."""
    values = np.random.default_rng(seed).integers(0, 4, SIZE[::-1]) + around
    x, y, w, h = np.round(box).astype(int)
    values[max(y, 0) : y + h, max(x, 0) : x + w] += face - around
    return values.astype(np.uint8)


@pytest.mark.parametrize(
    ("values", "celsius", "found"),
    [
        (gray(180, 60), False, set()),
        (gray(60, 180), False, {"dark"}),
        (np.full((96, 80), 128, np.uint8), False, {"flat"}),
        (np.full((96, 80), np.nan), True, {"flat"}),
        (gray(34, 20).astype(float), True, set()),
        (gray(90, 70).astype(float), True, {"unlikely"}),
        (np.where(gray(34, 20) == 21, np.nan, gray(34, 20)), True, set()),
    ],
)
def test_thermal_images(values, celsius, found):
    assert suspicion.of_image(values, BOX, celsius=celsius) == found
    assert suspicion.of_image(values, None, celsius=celsius) == found - {"dark", "unlikely"}


def test_labels():
    points = trees.make_points("ibug68", SIZE, np.random.default_rng(0))
    x, y, w, h = own = landmarks.box_from_points(points)
    assert suspicion.of_labels(points, LAYOUT, own) == set()
    assert suspicion.of_labels(points, LAYOUT, np.array([x + w / 2, y + h / 2, w, h])) == {"apart"}
    assert suspicion.of_labels(points, LAYOUT, np.array([0, 0, 8, 8])) == {"apart"}
    assert suspicion.of_labels(points[:1], LAYOUT, own) == set()


def test_what_is_told_depends_on_the_share_of_the_faces():
    keys = list("abcdef")
    (sentence,) = suspicion.sentences({"dark": keys}, 10)
    assert sentence.startswith("6 of 10 faces, such as a, are darker than what surrounds them")
    assert suspicion.sentences({"dark": keys[:1], "unlikely": ["a"]}, 10) == []
    assert suspicion.refusal({"dark": keys, "unlikely": keys}, 6) == ""
    assert "All thermal images are of one value" in suspicion.refusal({"flat": keys[:3]}, 3)
    assert "1 of 3 faces, such as f, have a thermal image of one value" in suspicion.sentences({"flat": ["f"]}, 3)[0]


def test_measures_give_pixels():
    points, box = np.array([[10.0, 20], [30, 40]]), np.array([5.0, 6, 30, 40])
    np.testing.assert_array_equal(measures.points_in_pixels(points, None, SIZE, None), points)
    for measure, given in {
        "one_based": (points + 1, box + np.array([1, 1, 0, 0])),
        "yx": (points[:, ::-1], box),
        "normalized": ((points + 0.5) / SIZE, np.concatenate([(box[:2] + 0.5) / SIZE, box[2:] / SIZE])),
        "rgb": ((points + 0.5) * 2 - 0.5, np.concatenate([(box[:2] + 0.5) * 2 - 0.5, box[2:] * 2])),
    }.items():
        found = measures.points_in_pixels(given[0], measure, SIZE, (160, 192))
        np.testing.assert_allclose(found, points, atol=1e-4)
        np.testing.assert_allclose(measures.box_in_pixels(given[1], measure, SIZE, (160, 192)), box, atol=1e-9)
    with pytest.raises(InputError, match="--points=rgb needs RGB images"):
        measures.points_in_pixels(points, "rgb", SIZE, None)


@pytest.fixture
def folder(tmp_path):
    """Writes ten labelled pairs of images; returns their folder, and the landmarks by name."""
    rng, written = np.random.default_rng(1), {}
    for name in "abcdefghij":
        written[name] = points = trees.make_points("ibug68", SIZE, rng)
        image = gray(180, 60, ord(name))
        trees.write_image(tmp_path / "thermal" / f"{name}.png", image)
        trees.write_image(tmp_path / "rgb" / f"{name}.png", np.repeat(image[..., None], 3, -1))
        (tmp_path / "landmarks").mkdir(exist_ok=True)
        (tmp_path / "landmarks" / f"{name}.json").write_text(json.dumps(points.tolist()))
    return tmp_path, written


def build(folder, config="default", **options):
    return tfds_builders.build(f"paired_folder/{config}", folder / "built", manual_dir=folder, **options)


def read(builder):
    return {e["name"].decode(): e for s in builder.info.splits for e in builder.as_data_source(split=s)}


def test_boxes_as_corners_are_refused_and_the_option_mends_them(folder):
    place, written = folder
    boxes = {name: landmarks.box_from_points(points).tolist() for name, points in written.items()}
    corners = {name: [x, y, x + w, y + h] for name, (x, y, w, h) in boxes.items()}
    (place / "boxes.json").write_text(json.dumps(corners))
    with pytest.raises(
        InputError,
        match=r"^10 of 10 faces, such as thermal/[a-j]\.png, have a box that .* --box_format=xyxy\. Nothing was bui",
    ):
        build(place)
    found = read(build(place, box_format="xyxy"))
    for name, box in boxes.items():
        np.testing.assert_allclose(found[name]["box"], box, atol=1e-3)
    with pytest.raises(InputError, match=r"--box_format=corner is unknown"):
        build(place, "other", box_format="corner")


@pytest.mark.parametrize("measure", ["normalized", "rgb", "one_based", "yx"])
def test_landmarks_of_every_measure(folder, measure):
    place, written = folder
    for name, points in written.items():
        given = {
            "normalized": (points + 0.5) / SIZE,
            "rgb": (points + 0.5) * 1.5 - 0.5,
            "one_based": points + 1,
            "yx": points[:, ::-1],
        }[measure]
        (place / "landmarks" / f"{name}.json").write_text(json.dumps(given.tolist()))
        image = cv2.imread(str(place / "rgb" / f"{name}.png"))
        trees.write_image(place / "rgb" / f"{name}.png", cv2.resize(image, (120, 144)))
    for name, example in read(build(place, points=measure)).items():
        np.testing.assert_allclose(example["landmarks"], written[name], atol=1e-3)
        np.testing.assert_allclose(example["box"], landmarks.box_from_points(written[name]), atol=1e-2)
    with pytest.raises(InputError, match=r"--points=percent is unknown"):
        build(place, "other", points="percent")


def test_black_hot_images_are_told_and_the_option_inverts_them(folder):
    place, written = folder
    images = {n: gray(60, 180, ord(n), landmarks.box_from_points(points)) for n, points in written.items()}
    for name, image in images.items():
        trees.write_image(place / "thermal" / f"{name}.png", image)
    (remark,) = build(place).info.metadata["remarks"]
    assert (
        remark.startswith("10 of 10 faces, such as thermal/")
        and ", are darker" in remark
        and remark.endswith("--polarity=black_hot.")
    )
    builder = build(place, "inverted", polarity="black_hot")
    assert builder.info.metadata["remarks"] == []
    np.testing.assert_array_equal(read(builder)["a"]["thermal"][..., 0], 255 - images["a"])
    with pytest.raises(InputError, match="--polarity=cold is unknown"):
        build(place, "other", polarity="cold")


@pytest.mark.parametrize(
    ("unit", "scale", "offset"),
    [("kelvin", 1, 273.15), ("decikelvin", 10, 2731.5), ("centikelvin", 100, 27315), ("fahrenheit", 1.8, 32)],
)
def test_units_of_temperatures_in_a_word(folder, unit, scale, offset):
    place, written = folder
    for name in written:
        celsius = gray(34, 20, ord(name)).astype(np.float32)
        (place / "thermal" / f"{name}.png").unlink()
        np.save(place / "thermal" / f"{name}.npy", celsius * np.float32(scale) + np.float32(offset))
    found = read(build(place, celsius=unit))["j"]
    np.testing.assert_allclose(found["celsius"][..., 0] / 100 - 273.15, celsius, atol=0.02)
    if unit == "fahrenheit":  # which passes for °C
        (remark,) = build(place, "untold").info.metadata["remarks"]
        assert (
            "10 of 10 faces" in remark
            and "have a median temperature outside -10 to 45 °C" in remark
            and "fahrenheit" in remark
        )
    with pytest.raises(InputError, match="--celsius=rankine is no unit"):
        build(place, "other", celsius="rankine")


def test_counts_without_a_unit_and_dead_pixels(folder):
    place, written = folder
    for name in written:
        counts = (gray(180, 60, ord(name)).astype(np.uint16) * 20 + 2000).astype(np.uint16)
        counts[5, 7] = 0
        trees.write_image(place / "thermal" / f"{name}.png", counts)
    with pytest.raises(InputError, match=r"would be at -2\d\d °C; .* --celsius=none"):
        build(place)
    builder = build(place, celsius="none")
    found = read(builder)["a"]
    assert "celsius" not in found and found["thermal"].dtype == np.uint8
    assert (
        np.median(found["thermal"][25:65, 25:55]) > 200
        and found["thermal"][5, 7] in found["thermal"][4:7, 6:9][[0, 1, 1, 2], [1, 0, 2, 1]]
    )
    assert any("some pixels hold no temperature" in one for one in builder.info.metadata["remarks"])


@pytest.mark.parametrize("measure", [None, "normalized"])
def test_placeholders_are_missing_landmarks(folder, measure):
    place, written = folder
    for name, points in written.items():
        given = (points + 0.5) / SIZE if measure else points.copy()
        given[[3, 60]] = [[0, 0], [-1, -1]]
        (place / "landmarks" / f"{name}.json").write_text(json.dumps(given.tolist()))
    builder = build(place, points=measure)
    assert any("have landmarks at (0, 0) or (-1, -1)" in one for one in builder.info.metadata["remarks"])
    example = read(builder)["a"]
    assert np.flatnonzero(~example["known"]).tolist() == [3, 60]
    np.testing.assert_allclose(
        example["box"], landmarks.box_from_points(np.delete(written["a"], [3, 60], 0)), atol=1e-3
    )


def test_files_that_may_be_labels_and_were_not_read_are_told(folder):
    place, _ = folder
    (place / "notes").mkdir()
    (place / "notes/annotations.xml").write_text("<annotations/>")
    assert build(place).info.metadata["remarks"] == []  # all images are labelled
    (place / "landmarks/a.json").unlink()
    (remark,) = build(place, "other").info.metadata["remarks"]
    assert "1 file that may hold some was not read: notes/annotations.xml." in remark and "--labels" in remark
