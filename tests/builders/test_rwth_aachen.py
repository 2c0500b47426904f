"""Tests of rwth_aachen: [y, x] in menpo's .ljson, names, splits, points without coordinates, and bit depths."""

import json
import pathlib

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import trees

import tfds_builders
from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from tfds_builders.rwth_aachen import rwth_aachen_dataset_builder as module

SIZE = (160, 120)
NOSE = 30
# README.md lists these subjects; all others are in train.
VAL = (4, 15, 26, 39, 48, 53, 61, 75, 82)
TEST = (1, 7, 11, 13, 25, 30, 31, 33, 41, 42, 56, 60, 66, 68, 71, 76, 87, 90)


def make_face(rng) -> np.ndarray:
    """A face float64 [68, 2] (x, y); only the nose tip is at whole pixels."""
    points = trees.make_points("ibug68", SIZE, rng).astype(np.float64)
    points[NOSE] = points[NOSE].round()
    return points


def write_labels(path, points, **more) -> None:
    """Writes a file in menpo's version 2: rows of [y, x], null for a point without coordinates."""
    rows = [[None if np.isnan(v) else v for v in (y, x)] for x, y in np.asarray(points).tolist()]
    content = {"version": 2, "labels": [{"label": "all", "mask": list(range(68))}]} | more
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | {"landmarks": {"points": rows, "connectivity": [[0, 1]]}}))


def write_face(folder, name, points, rng, *, labels="") -> None:
    dots = points[[NOSE]] if np.isfinite(points[NOSE]).all() else ()
    trees.write_image(folder / f"{name}.png", trees.make_image(SIZE, rng, channels=1, dots=dots))
    write_labels(folder / labels / f"{name}.ljson", points)


@pytest.mark.parametrize("labels", ["", "landmarks"])
def test_faces_come_back(tmp_path, labels):
    rng = np.random.default_rng(0)
    names = {
        "train": ("irface_sub002_seq02_frm00155.jpg_lfb", "irface_sub002_seq03_frm00020.jpg_lfb"),
        "val": ("irface_sub004_seq07_frm00160.jpg_lfb",),
        "test": ("irface_sub090_seq01_frm00001.jpg_lfb",),
    }
    truth = {f"{name}.png": make_face(rng) for mine in names.values() for name in mine}
    for key, points in truth.items():
        write_face(tmp_path / "set", key.removesuffix(".png"), points, rng, labels=labels)
    built = tfds_builders.build("rwth_aachen", tmp_path / "data", manual_dir=tmp_path / "set")
    for split, mine in names.items():
        examples = trees.read_back("rwth_aachen/all", split, tmp_path / "data")
        assert sorted(examples) == sorted(f"{name}.png" for name in mine)
        for key, example in examples.items():
            np.testing.assert_allclose(example["landmarks"], truth[key], atol=1e-4)
            x, y = truth[key][NOSE].astype(int)
            assert example["thermal"][y, x, 0] == 255 and example["thermal"].shape == (*SIZE[::-1], 1)
            assert example["metadata"]["subject"] == key[10:13] and example["visible"].all()
            assert int(example["metadata"]["sequence"]) == int(key[17:19])
            assert int(example["metadata"]["frame"]) == int(key[23:28])
        trees.check_flips(examples.values(), "ibug68")
    assert not any("[y, x]" in remark for remark in built.info.metadata["remarks"])


def test_the_split_is_that_of_the_readme_and_depends_on_the_subject_alone():
    subjects = range(1, 91)
    assert tuple(n for n in subjects if module.split_of(n) == "val") == VAL
    assert tuple(n for n in subjects if module.split_of(n) == "test") == TEST
    readme = (pathlib.Path(module.__file__).parent / "README.md").read_text()
    for listed in (VAL, TEST):
        assert ", ".join(map(str, listed)) in " ".join(readme.split())


def test_points_without_coordinates(tmp_path):
    rng = np.random.default_rng(1)
    points = make_face(rng)
    gone = [0, 36, 60, 61, 62, 63, 64, 65, 66, 67]  # one of the jaw, one of the right eye, all of the inner lips
    stored = points.copy()
    stored[gone] = np.nan
    name = "irface_sub002_seq01_frm00001.jpg_lfb"
    write_face(tmp_path / "set", name, stored, rng)
    built = tfds_builders.build("rwth_aachen", tmp_path / "data", manual_dir=tmp_path / "set")
    (example,) = built.as_data_source(split="train")
    kept = np.setdiff1d(np.arange(68), gone)
    np.testing.assert_allclose(example["landmarks"][kept], points[kept], atol=1e-4)
    np.testing.assert_array_equal(np.flatnonzero(~example["known"]), gone)
    np.testing.assert_array_equal(example["visible"], example["known"])
    assert built.info.metadata["splits"]["train"]["invisible"] == 0
    np.testing.assert_allclose(example["landmarks"][36], points[37:42].mean(0), atol=1e-3)
    np.testing.assert_allclose(example["landmarks"][60], points[kept].mean(0), atol=1e-3)
    np.testing.assert_allclose(example["box"], landmarks.box_from_points(points[kept]), atol=1e-3)
    stored[:40] = np.nan
    write_labels(tmp_path / "set" / f"{name}.ljson", stored)
    with pytest.raises(
        InputError, match=rf"{name}.png: Landmark 0 is not a finite number. Fix it, or name it in a file"
    ):
        tfds_builders.build("rwth_aachen", tmp_path / "other", manual_dir=tmp_path / "set")


def test_16_bits_are_brought_to_8_and_colours_are_refused(tmp_path):
    rng = np.random.default_rng(2)
    points, name = make_face(rng), "irface_sub002_seq01_frm00001.jpg_lfb"
    write_labels(tmp_path / "set" / f"{name}.ljson", points)
    counts = rng.integers(29_000, 31_000, SIZE[::-1]).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "set" / f"{name}.png"), counts)
    tfds_builders.build("rwth_aachen", tmp_path / "data", manual_dir=tmp_path / "set")
    (example,) = trees.read_back("rwth_aachen/all", "train", tmp_path / "data").values()
    low, high = np.percentile(counts, (0.5, 99.5))
    expected = (np.clip((counts - low) / (high - low), 0, 1) * 255).round()
    np.testing.assert_allclose(example["thermal"][..., 0], expected, atol=1)
    trees.write_image(tmp_path / "set" / f"{name}.png", trees.make_image(SIZE, rng))
    with pytest.raises(InputError, match=rf"{name}.png has colours; 8-bit gray is needed"):
        tfds_builders.build("rwth_aachen", tmp_path / "other", manual_dir=tmp_path / "set")


def test_bad_images_and_names(tmp_path):
    rng = np.random.default_rng(3)
    points, name = make_face(rng), "irface_sub002_seq01_frm00001.jpg_lfb"
    with pytest.raises(InputError, match="holds no faces of rwth_aachen"):
        tfds_builders.build("rwth_aachen", tmp_path / "data", manual_dir=tmp_path)
    write_face(tmp_path, name, points, rng)
    write_labels(tmp_path / "irface_sub003_seq01_frm00001.jpg_lfb.ljson", points)
    with pytest.raises(
        InputError, match=r"1 of 2 faces lacks an image: irface_sub003_seq01_frm00001.jpg_lfb.png lacks"
    ):
        tfds_builders.build("rwth_aachen", tmp_path / "data", manual_dir=tmp_path)
    built = tfds_builders.build("rwth_aachen", tmp_path / "data", manual_dir=tmp_path, allow_missing=True)
    assert built.info.splits["train"].num_examples == 1
    assert "1 of 2 faces lacks an image" in built.info.metadata["remarks"][0]
    whole = (tmp_path / f"{name}.png").read_bytes()
    (tmp_path / f"{name}.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"{name}.png"):
        tfds_builders.build("rwth_aachen", tmp_path / "other", manual_dir=tmp_path, allow_missing=True)
    write_labels(tmp_path / "someone.ljson", points)
    with pytest.raises(InputError, match=r"The name someone.ljson has no subject number, as irface_sub001"):
        tfds_builders.build("rwth_aachen", tmp_path / "other", manual_dir=tmp_path)


def test_labels_in_x_y_are_remarked_and_labels_outside_are_refused(tmp_path):
    rng = np.random.default_rng(4)
    for k in range(3):
        name = f"irface_sub002_seq01_frm{k:05d}.jpg_lfb"
        write_face(tmp_path / "set", name, make_face(rng), rng)
        write_labels(tmp_path / "set" / f"{name}.ljson", make_face(rng)[:, ::-1] * 0.7)  # then read as (y, x)
    built = tfds_builders.build("rwth_aachen", tmp_path / "data", manual_dir=tmp_path / "set")
    assert any("are the rows [y, x]" in remark for remark in built.info.metadata["remarks"])
    write_labels(tmp_path / "set" / f"{name}.ljson", make_face(rng) + 500)
    with pytest.raises(InputError, match=f"{name}.png: 68 of 68 landmarks lie outside the image"):
        tfds_builders.build("rwth_aachen", tmp_path / "other", manual_dir=tmp_path / "set")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("{", "is not JSON"),
        ("[]", r"holds no landmarks.points; menpo's .ljson of version 2"),
        ('{"version": 3, "groups": {"LJSON": {}}}', r"holds no landmarks.points"),
        ('{"landmarks": {"points": [[1, 2]]}}', r"holds 1 point; there must be 68"),
        ('{"landmarks": {"points": [' + "[1, 2]," * 67 + "[1]]}}", r"Point 67 in .* is \[1\], which is not \[y, x\]"),
        ('{"landmarks": {"points": [' + "[1, 2]," * 67 + '["1", 2]]}}', r"Point 67 in .* is \['1', 2\]"),
        ('{"landmarks": {"points": [' + "[1, 2]," * 67 + "[Infinity, 2]]}}", r"Point 67 in .* is \[inf, 2\]"),
    ],
)
def test_bad_labels(tmp_path, text, sentence):
    path = tmp_path / "irface_sub001_seq02_frm00155.jpg_lfb.ljson"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        module.read_ljson(path)


def test_bom_and_crlf(tmp_path):
    points, path = make_face(np.random.default_rng(5)), tmp_path / "a.ljson"
    write_labels(path, points)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b", ", b",\r\n"))
    np.testing.assert_allclose(module.read_ljson(path)[0], points, atol=1e-4)


_VALUES = st.none() | st.booleans() | st.integers(-(10**320), 10**320) | st.floats() | st.text(max_size=3)
_ROWS = st.lists(_VALUES, min_size=2, max_size=2) | st.lists(st.floats(0, 99), min_size=2, max_size=2) | _VALUES


@hypothesis.settings(max_examples=60, derandomize=True)
@hypothesis.given(
    rows=st.lists(_ROWS, min_size=1, max_size=4),
    content=st.none() | st.binary(max_size=40) | st.dictionaries(st.sampled_from(["landmarks", "points"]), _VALUES),
)
def test_any_file_parses_or_is_refused(tmp_path_factory, rows, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed.ljson"
    written = {"landmarks": {"points": (rows * 68)[:68]}} if content is None else content
    path.write_bytes(written if isinstance(written, bytes) else json.dumps(written).encode())
    try:
        points, placed = module.read_ljson(path)
    except InputError as error:
        assert str(error)
    else:
        assert points.shape == (68, 2) and np.isfinite(points[placed]).all()
        assert np.isfinite(points).all() == (placed.sum() >= 34)
