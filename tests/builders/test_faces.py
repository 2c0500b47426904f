"""Tests of what all builders of labelled faces share, with a dataset defined in this file."""

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
import trees
from etils import epath

import tfds_builders
from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from tfds_builders import faces, prepare, suspicion

LAYOUT = landmarks.get("tfw5")
POINTS = np.array([[10, 10], [30, 10], [20, 20], [13, 30], [27, 30]], np.float32)


class Made(faces.FaceBuilder):
    """A dataset of the faces that a test puts into `found`."""

    name = "made"
    BUILDER_CONFIGS = faces.configs(all="everything", other="the same")
    LAYOUT, MODALITIES = "tfw5", ("rgb", "thermal")
    HOW_TO_GET = "Ask the test."
    EXPECTED = {"all": {"train": 2}}  # noqa: RUF012
    found = None
    pkg_dir_path = epath.Path(__file__).parent  # otherwise TFDS searches for a package around the class

    def parse(self, folder):
        """Returns `found`."""
        return type(self).found


@pytest.fixture
def folder(tmp_path):
    """Three pairs, with a bright dot on each landmark of the thermal image."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        trees.write_image(tmp_path / f"{name}_t.png", trees.make_image((48, 40), rng, channels=1, dots=POINTS))
        trees.write_image(tmp_path / f"{name}_r.jpg", cv2.GaussianBlur(trees.make_image((48, 40), rng), (9, 9), 3))
    return tmp_path


def face(folder, name, **changes):
    given = {"rgb": folder / f"{name}_r.jpg", "thermal": folder / f"{name}_t.png", "landmarks": POINTS, "subject": name}
    return faces.Face(name, **given | changes)


def build(folder, splits, **options):
    Made.found = splits
    builder = Made.make(None, folder / "built", manual_dir=folder, **options)
    builder.download_and_prepare()
    return builder


def test_faces_are_read_back(folder):
    builder = build(folder, {"train": [face(folder, "a"), face(folder, "b", visible=np.arange(5) > 0)]})
    one, two = list(builder.as_data_source(split="train"))
    np.testing.assert_array_equal(one["landmarks"], POINTS)
    np.testing.assert_allclose(one["box"], landmarks.box_from_points(POINTS, LAYOUT))
    assert one["key"] == b"a" and one["subject"] == b"a" and two["visible"].tolist() == [False, True, True, True, True]
    written = cv2.imread(str(folder / "a_t.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(one["thermal"][..., 0], written)
    assert (one["thermal"][POINTS[:, 1].astype(int), POINTS[:, 0].astype(int)] == 255).all()
    # The JPEG file is stored unchanged, not compressed a second time.
    stored = builder.as_data_source(split="train", decoders={"rgb": tfds.decode.SkipDecoding()})
    assert stored[0]["rgb"] == (folder / "a_r.jpg").read_bytes()
    facts = dict(builder.info.metadata)
    assert facts["splits"]["train"]["examples"] == 2 and facts["splits"]["train"]["sizes"] == {"48x40": 2}
    assert facts["splits"]["train"]["invisible"] == 0.1 and facts["remarks"] == []


def test_the_checksum_depends_on_labels_and_images(folder):
    def checksum(where, **changes):
        Made.found = {"train": [face(folder, "a", **changes)]}
        builder = Made.make(None, folder / where, manual_dir=folder)
        builder.download_and_prepare()
        return builder.info.metadata["splits"]["train"]["sha256"]

    hidden = np.array([True, True, False, True, True])
    changes = [
        {},
        {"landmarks": POINTS + 0.25},
        {"visible": hidden},
        {"known": hidden},
        {"box": (2.0, 3.0, 30.0, 31.0)},
    ]
    changes += [{"rgb": face(folder, "b").rgb}]
    found = [checksum(str(place), **change) for place, change in enumerate(changes)]
    assert checksum("again") == found[0] and len(set(found)) == len(changes)


def test_the_box_of_an_unlabelled_face_is_the_whole_image(folder):
    builder = build(folder, {"unlabelled": [face(folder, "a", landmarks=None)]})
    (one,) = builder.as_data_source(split="unlabelled")
    assert np.isnan(one["landmarks"]).all() and not one["visible"].any() and one["box"].tolist() == [0, 0, 48, 40]


def test_points_outside_are_kept_and_invisible(folder):
    points = POINTS.copy()
    points[3] = (-3.0, 30.0)
    (one,) = build(folder, {"train": [face(folder, "a", landmarks=points)]}).as_data_source(split="train")
    assert one["visible"].tolist() == [True, True, True, False, True] and one["landmarks"][3].tolist() == [-3.0, 30.0]


def test_unlabelled_points_are_not_known_and_do_not_count(folder):
    points = POINTS.copy()
    points[[0, 1]] = (30, 39), (-9, 39)  # placeholders that put the eyes below the mouth, and swapped
    known, visible = np.arange(5) > 1, np.arange(5) != 4
    labelled = [face(folder, "a", landmarks=points, known=known, visible=visible), face(folder, "b", visible=visible)]
    builder = build(folder, {"train": labelled, "unlabelled": [face(folder, "c", landmarks=None)]})
    first, second = builder.as_data_source(split="train")
    assert first["known"].tolist() == known.tolist() and second["known"].all()
    assert first["visible"].tolist() == [False, False, True, True, False]
    np.testing.assert_array_equal(first["landmarks"], points)
    np.testing.assert_allclose(first["box"], landmarks.box_from_points(POINTS[2:], LAYOUT))
    assert not builder.as_data_source(split="unlabelled")[0]["known"].any()
    facts = dict(builder.info.metadata)
    assert facts["splits"]["train"]["invisible"] == 0.25  # 2 of the 3 + 5 known ones
    assert facts["splits"]["unlabelled"]["invisible"] == 0 and not any("eyes lie" in one for one in facts["remarks"])
    assert builder.info.features["known"].np_dtype == np.bool_ and "1.1.0" in builder.info.release_notes


def test_a_dataset_of_an_older_version_must_be_built_again(folder):
    (folder / "built/made/all/1.0.0").mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"are not here\. Version 1\.0\.0, which is on disk, cannot be used any more\. Ask"
    ):
        Made.make("all", folder / "built").download_and_prepare()


def test_rgb_of_another_size_is_resized_and_of_another_shape_refused(folder):
    large = trees.make_image((96, 80), np.random.default_rng(1))
    trees.write_image(folder / "b_r.jpg", large)
    (one,) = build(folder, {"train": [face(folder, "b")]}).as_data_source(split="train")
    assert one["rgb"].shape == (40, 48, 3)
    trees.write_image(folder / "b_r.jpg", large[:, :60])
    with pytest.raises(InputError, match="pair b differ in shape: RGB 60 x 80, thermal 48 x 40"):
        build(folder / "again", {"train": [face(folder, "b")]})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"landmarks": POINTS + 100}, "a: 5 of 5 landmarks lie outside the image, which is 48 x 40"),
        ({"landmarks": POINTS[:4]}, "a: Landmarks have shape"),
        ({"landmarks": np.where(POINTS == 20, np.nan, POINTS)}, "a: Landmark 2 is not a finite number"),
        ({"box": (0, 0, 0, 5)}, "The box of a is empty: its width and height must be above 0"),
        ({"box": (0, 0, 5)}, "The box of a is 3 numbers, not the four"),
        ({"box": (0, 0, 1e300, 5)}, "The box of a holds a number that is not finite"),
        ({"box": (500, 0, 9, 5)}, "The box of a, 500,0,9,5, lies outside the image, which has 48 x 40 pixels"),
        ({"box": (-20, 0, 20, 5)}, "The box of a, .*, lies outside the image"),
        ({"visible": np.ones(4, bool)}, "a: 4 flags for 5 landmarks"),
        ({"known": np.ones(1, bool)}, "a: 1 flag for 5 landmarks"),
        ({"known": np.zeros(5, bool)}, "a: none of its landmarks is known; fix it"),
        (
            {"known": np.arange(5) < 1, "landmarks": POINTS + 48 * (np.arange(5) < 1)[:, None]},
            "a: 1 of 1 landmark lies outside the image",
        ),
    ],
)
def test_bad_labels_name_the_face(folder, changes, message):
    with pytest.raises(InputError, match=message):
        build(folder, {"train": [face(folder, "a", **changes)]})
    assert not (folder / "built" / "made" / "all" / "1.1.0").exists()


def test_boxes_are_accepted_if_finite_not_empty_and_touching_the_image(folder):
    rng = np.random.default_rng(0)
    given = rng.choice([-50, -10, 0, 10, 48, 60, np.nan, np.inf], (300, 4), p=[0.14] * 4 + [0.19, 0.19, 0.03, 0.03])
    accepted = []
    for box in given:
        one = face(folder, "a", landmarks=None, box=box, rgb=None)
        with contextlib.suppress(InputError):
            example = prepare.example(one, layout=LAYOUT, thermal=prepare.Thermal())
            assert example["box"].dtype == np.float32 and (example["box"] == box).all()
            accepted.append(box)
    x, y, w, h = given.T
    valid = np.isfinite(given).all(1) & (w > 0) & (h > 0) & (x + w > 0) & (y + h > 0) & (x < 48) & (y < 40)
    np.testing.assert_array_equal(accepted, given[valid])
    assert 10 < valid.sum() < 290


def test_bad_images_name_the_file(folder):
    whole = (folder / "a_t.png").read_bytes()
    (folder / "a_t.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a_t\.png is damaged or incomplete"):
        build(folder, {"train": [face(folder, "a")]})
    trees.write_image(folder / "b_t.png", np.zeros((40, 48), np.uint16) + 300)
    with pytest.raises(InputError, match=r"b_t\.png has uint16 pixels; 8-bit gray is needed"):
        build(folder, {"train": [face(folder, "b")]})


def test_shares_of_the_size_are_not_taken_for_pixels(folder):
    points = np.linspace(0.1, 0.9, 2 * landmarks.get(LAYOUT).count).reshape(-1, 2)
    one = prepare.Face("a", thermal=folder / "a_t.png", landmarks=points)
    with pytest.raises(InputError, match=r"a: all landmarks lie between -1 and 1, .* --points=normalized"):
        prepare.example(one, layout=landmarks.get(LAYOUT), thermal=prepare.Thermal())


def test_counts_that_are_no_temperatures_name_the_flag(folder):
    one = prepare.Face("a", thermal=lambda: np.full((40, 48), 60000, np.uint16))
    kind = prepare.Thermal("counts", 0.01, -273.15)
    with pytest.raises(InputError, match=r"would be at 327 °C; state its unit by --celsius=scale,offset"):
        prepare.example(one, layout=landmarks.get(LAYOUT), thermal=kind)


def test_missing_mates_are_listed_and_counted(folder):
    splits = {"train": [face(folder, "a"), face(folder, "b", rgb=folder / "lost.jpg"), face(folder, "c", rgb=None)]}
    with pytest.raises(InputError, match=r"2 of 3 faces lack an image: b lacks \S+lost\.jpg, c lacks its rgb"):
        build(folder, splits)
    builder = build(folder, splits, allow_missing=True)
    assert builder.info.splits["train"].num_examples == 1
    assert "They were left out." in builder.info.metadata["remarks"][0]
    assert "not the published ones: 1 train (published: 2)" in builder.info.metadata["remarks"][1]


def test_excluded_faces_are_left_out(folder):
    (folder / "bad.txt").write_text("# seen by eye\nb\n")
    splits = {"train": [face(folder, "a"), face(folder, "b")]}
    builder = build(folder, splits, exclude=folder / "bad.txt")
    assert builder.info.splits["train"].num_examples == 1
    assert builder.info.metadata["remarks"][0] == f"1 face was left out by {folder / 'bad.txt'}."
    (folder / "bad.txt").write_text("z\n")
    with pytest.raises(InputError, match="names 'z', which is not a face of made"):
        build(folder / "again", splits, exclude=folder / "bad.txt")


def test_a_subject_and_a_key_belong_to_one_split(folder):
    with pytest.raises(InputError, match="Subject a is in the splits train and test"):
        build(folder, {"train": [face(folder, "a")], "test": [face(folder, "b", subject="a")]})
    with pytest.raises(InputError, match="a occurs twice"):
        build(folder, {"train": [face(folder, "a"), face(folder, "a")]})


def test_one_image_in_two_splits(folder, monkeypatch):
    (folder / "b_t.png").write_bytes((folder / "a_t.png").read_bytes())
    splits = {"train": [face(folder, "a")], "test": [face(folder, "b")]}
    remarks = build(folder, splits).info.metadata["remarks"]
    assert any("1 image is in two splits: b of test is also a of train" in remark for remark in remarks)
    monkeypatch.setattr(Made, "OWN_SPLITS", True)
    with pytest.raises(InputError, match="nothing was built"):
        Made.found = splits
        Made.make("other", folder / "built", manual_dir=folder).download_and_prepare()


def test_swapped_coordinates_are_remarked_not_refused(folder):
    names = ("a", "b", "c")
    found = build(folder, {"train": [face(folder, name, landmarks=POINTS[:, ::-1]) for name in names]})
    assert any(r.startswith("In 3 of 3 faces of the split train the eyes") for r in found.info.metadata["remarks"])


def test_swapped_coordinates_in_a_small_split_are_remarked_beside_a_large_one():
    tally = prepare.Tally()
    for k in range(30):
        split = "test" if k == 0 else "train"
        facts = {"size": (48, 40), "plausible": k > 0, "digests": [str(k)]}
        flags = {"known": np.ones(5, bool), "visible": np.ones(5, bool)}
        tally.add(split, {"key": str(k), "landmarks": POINTS, "_facts": facts} | flags)
    (remark,) = tally.remarks()
    assert remark.startswith("In 1 of 1 face of the split test the eyes lie below the mouth")


def test_a_split_without_any_visible_landmark_is_remarked(folder):
    hidden = [face(folder, "a", visible=np.zeros(5, bool))]
    remarks = build(folder, {"train": [face(folder, "b")], "test": hidden}).info.metadata["remarks"]
    assert [remark for remark in remarks if remark.startswith("No landmark of the split test is visible")]
    assert not [remark for remark in remarks if "split train" in remark]


def test_several_images_in_two_splits(folder):
    for name in "bc":
        (folder / f"{name}_t.png").write_bytes((folder / "a_t.png").read_bytes())
    splits = {"train": [face(folder, "a")], "test": [face(folder, "b"), face(folder, "c")]}
    remarks = build(folder, splits).info.metadata["remarks"]
    assert "2 images are in two splits; for example, b of test is also a of train." in remarks


def test_one_rgb_image_in_two_splits_of_pairs(folder):
    (folder / "b_r.jpg").write_bytes((folder / "a_r.jpg").read_bytes())
    remarks = build(folder, {"train": [face(folder, "a")], "test": [face(folder, "b")]}).info.metadata["remarks"]
    assert any("1 image is in two splits: b of test is also a of train" in remark for remark in remarks)


@pytest.mark.parametrize("name", sorted(landmarks.LAYOUTS.keys() - {"boxes6"}))
def test_an_upright_face_is_plausible_and_its_transposed_or_mirrored_one_is_not(name):
    points = trees.make_points(name, (100, 100), np.random.default_rng(0))
    layout = landmarks.get(name)
    assert suspicion.plausible(points, layout)
    if {"right_eye", "left_eye"} <= layout.groups.keys():
        assert not suspicion.plausible(points * [-1, 1], layout)
    if "outer_lips" in layout.groups and "right_eye" in layout.groups:
        assert not suspicion.plausible(points * [1, -1], layout)


def test_errors_about_what_does_not_exist(tmp_path):
    with pytest.raises(InputError, match=r"made is not built, and its files are not here\. Ask the test\."):
        Made.make("all", tmp_path).download_and_prepare()
    with pytest.raises(InputError, match=r"manual_dir=\S+ is not a folder"):
        Made.make("all", tmp_path, manual_dir=tmp_path / "no").download_and_prepare()
    with pytest.raises(InputError, match="did you mean 'other'"):
        Made.make("otter", tmp_path)
    with pytest.raises(InputError, match="takes no --celsius"):
        tfds_builders.load("webmorph_faces", tmp_path, celsius="1,0")


def test_every_option_has_a_help_text_and_a_dataset_that_takes_it(tmp_path):
    taken = {}
    for name in {name.partition("/")[0] for name in tfds_builders.names()}:
        taken |= tfds_builders.load(name, tmp_path).OPTIONS
    assert taken.keys() == tfds_builders.OPTIONS.keys() >= tfds_builders.SWITCHES
    assert all(text.endswith(".") for text in tfds_builders.OPTIONS.values())
    assert tfds_builders.load("synthetic_faces", tmp_path).OPTIONS.keys() == {"manual_dir"}


def test_a_failed_build_resumes_with_what_was_prepared(folder, monkeypatch):
    splits = {"train": [face(folder, "a"), face(folder, "b"), face(folder, "c")]}
    stream = faces.resume.stream
    monkeypatch.setattr(faces.resume, "stream", lambda *given: stream(*given, piece=1))
    made, failed, example = [], [], prepare.example

    def counting(one, **options):
        made.append(one.key)
        if one.key == "c" and not failed:
            failed.append(one)
            raise InputError("stop here")
        return example(one, **options)

    monkeypatch.setattr(prepare, "example", counting)
    with pytest.raises(InputError, match="stop here"):
        build(folder, splits)
    assert not (folder / "built" / "made" / "all" / "1.1.0").exists()
    made.clear()
    builder = build(folder, splits)
    assert "a" not in made and "c" in made
    assert [one["key"] for one in builder.as_data_source(split="train")] == [b"a", b"b", b"c"]


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import tfds_builders
from tfds_builders import prepare
example = prepare.example
def slow(*arguments, **options):
    time.sleep(0.02)
    return example(*arguments, **options)
prepare.example = slow
tfds_builders.build("paired_folder/many", sys.argv[1], manual_dir=sys.argv[2], layout="tfw5")
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_build_does_not_pass_for_complete_and_resumes(tmp_path, how):
    rng = np.random.default_rng(0)
    for k in range(200):
        for side, channels in (("rgb", 3), ("thermal", 1)):
            image = trees.make_image((40, 40), rng, channels=channels)
            trees.write_image(tmp_path / "own" / side / f"{k:03d}.png", image)
        (tmp_path / "own" / "landmarks").mkdir(exist_ok=True)
        np.savetxt(tmp_path / "own" / "landmarks" / f"{k:03d}.txt", POINTS)
    root = tmp_path / "built" / "paired_folder" / "many"
    arguments = [sys.executable, "-c", SLOW, str(tmp_path / "built"), str(tmp_path / "own")]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not list(root.glob(".partial_*/*/*.pickle")):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
        process.send_signal(how)
        process.communicate(timeout=30)
    assert process.returncode != 0 and not (root / "1.1.0").exists()
    kept = {path: path.stat().st_mtime_ns for path in root.glob(".partial_*/*/*.pickle")}
    options = {"manual_dir": str(tmp_path / "own"), "layout": "tfw5"}
    builder = tfds_builders.build("paired_folder/many", tmp_path / "built", **options)
    assert sum(split.num_examples for split in builder.info.splits.values()) == 200
    assert kept and not Path(builder.work_folder).exists()
