"""Tests of t_fake: a tiny tree with the names that the authors' code reads, built and read back, and messages."""

import hashlib
import pathlib
import tempfile

import cv2
import numpy as np
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

import tfds_builders
from mlcm_jax.errors import InputError
from tfds_builders import formats
from tfds_builders.t_fake import t_fake_dataset_builder as tfake

SIZE = (64, 64)  # 512 x 512 in the real dataset
SPLITS = {"train": ("000000", "000003", "099999"), "val": ("000005", "000010"), "test": ("000016",)}
IDS = sorted(number for numbers in SPLITS.values() for number in numbers)


def write_tree(root, version="warm", *, rgb=True, inner="", ending="_thermal") -> dict:
    """Writes all of SPLITS under `root`; returns six digits -> landmarks, RGB image and 16-bit counts."""
    written = {}
    labels = root / "face_synthetics" / inner
    labels.mkdir(parents=True, exist_ok=True)
    for number in IDS:
        rng = np.random.default_rng(int(number))
        points = np.asarray(trees.make_points("tfake70", SIZE, rng), np.float64).round(4)
        points[30] = points[30].round()
        column, row = points[30].astype(int)
        counts = rng.integers(30000, 45000, SIZE[::-1]).astype(np.uint16)
        counts[:8] = 0  # the background is the coldest
        counts[row, column] = 60000
        trees.write_image(root / version / inner / f"{number}{ending}.png", counts)
        (labels / f"{number}_ldmks.txt").write_text("".join(f"{x} {y}\n" for x, y in points))
        trees.write_image(labels / f"{number}_seg.png", np.zeros(SIZE[::-1], np.uint8))
        image = trees.make_image(SIZE, rng, dots=[points[30]])
        if rgb:
            trees.write_image(labels / f"{number}.png", image)
        written[number] = {"points": points, "rgb": image, "counts": counts}
    return written


def build(tmp_path, name="warm", **options):
    return tfds_builders.build(f"t_fake/{name}", tmp_path / "built", manual_dir=tmp_path / "raw", **options)


def read(tmp_path, split, name="warm") -> dict:
    return trees.read_back(f"t_fake/{name}", split, tmp_path / "built")


@pytest.fixture
def raw(tmp_path):
    write_tree(tmp_path / "raw")
    return tmp_path / "raw"


@pytest.mark.parametrize("version", ["warm", "cold"])
def test_faces_are_read_back(tmp_path, version):
    written = write_tree(tmp_path / "raw", version)
    builder = build(tmp_path, version)
    for split, numbers in SPLITS.items():
        examples = read(tmp_path, split, version)
        assert list(examples) == [f"{version}/{number}_thermal.png" for number in numbers]
        trees.check_flips(examples.values(), "tfake70")
        for number, example in zip(numbers, examples.values(), strict=True):
            source = written[number]
            np.testing.assert_allclose(example["landmarks"], source["points"], atol=1e-4)
            np.testing.assert_array_equal(example["rgb"], source["rgb"])
            x, y = example["landmarks"][30].astype(int)
            assert example["thermal"][y, x] == 255 and (example["rgb"][y, x] == 255).all()
            assert example["thermal"][:8].max() == 0  # cold is dark
            assert example["metadata"]["subject"] == number
    assert builder.info.metadata["splits"]["train"]["examples"] == 3


def test_counts_become_degrees(tmp_path):
    written = write_tree(tmp_path / "raw")
    raw = build(tmp_path).as_data_source(split="test")[0]
    celsius = raw["celsius"][..., 0] / 100.0 - 273.15
    np.testing.assert_allclose(celsius, 20.0 + written["000016"]["counts"] / 65535.0 * 20.0, atol=0.0051)
    assert celsius.min() == pytest.approx(20.0, abs=0.0051)


def test_thermal_images_alone_need_no_rgb(tmp_path):
    write_tree(tmp_path / "raw", rgb=False)
    assert "rgb" not in build(tmp_path, "warm_alone").info.features
    (example,) = read(tmp_path, "test", "warm_alone").values()
    assert example.keys() >= {"thermal", "landmarks", "box"} and "rgb" not in example
    with pytest.raises(InputError, match=r"6 of 6 faces lack an image: warm/000000_thermal.png lacks .*000000.png"):
        build(tmp_path, "warm")


@pytest.mark.parametrize(("inner", "ending"), [("dataset_1000/a", "_thermal"), ("", "")])
def test_inner_folders_and_names_without_thermal(tmp_path, inner, ending):
    written = write_tree(tmp_path / "raw", inner=inner, ending=ending)
    build(tmp_path)
    ((key, example),) = read(tmp_path, "test").items()
    assert key == str(pathlib.PurePosixPath("warm", inner, f"000016{ending}.png"))
    np.testing.assert_allclose(example["landmarks"], written["000016"]["points"], atol=1e-4)
    np.testing.assert_array_equal(example["rgb"], written["000016"]["rgb"])


def test_the_split_of_a_face_never_changes():
    hundred = [tfake.split_of(f"{k:06d}") for k in range(100)]
    digest = hashlib.sha256(" ".join(tfake.split_of(f"{k:06d}") for k in range(2000)).encode()).hexdigest()
    assert [k for k, split in enumerate(hundred) if split == "test"] == [16, 63, 66, 80, 86, 97]
    assert [k for k, split in enumerate(hundred) if split == "val"] == [5, 10, 32, 47, 48, 75, 77, 81, 96]
    assert digest.startswith("461e29c9ecde3f93")
    assert all(tfake.split_of(number) == split for split, numbers in SPLITS.items() for number in numbers)


def test_the_expected_counts_are_those_of_the_rule():
    whole = [tfake.split_of(f"{k:06d}") for k in range(100_000)]
    assert tfake.TFake.EXPECTED["cold"] == {split: whole.count(split) for split in ("train", "val", "test")}


def test_more_rgb_than_thermal_images_is_fine(tmp_path, raw):
    (raw / "warm/000003_thermal.png").unlink()
    assert build(tmp_path).info.splits["train"].num_examples == 2


def test_missing_mates_and_labels(tmp_path, raw):
    (raw / "face_synthetics/000005.png").unlink()
    with pytest.raises(InputError, match=r"1 of 6 faces lacks an image: warm/000005_thermal.png lacks"):
        build(tmp_path)
    (raw / "face_synthetics/000010_ldmks.txt").unlink()
    with pytest.raises(
        InputError, match=r"1 image has no labels: warm/000010_thermal.png lacks 000010_ldmks.txt\. Complete"
    ):
        build(tmp_path)
    builder = build(tmp_path, allow_missing=True)
    assert "val" not in builder.info.splits
    assert any(remark.startswith("1 image has no labels: ") for remark in builder.info.metadata["remarks"])


def test_a_face_twice(tmp_path, raw):
    trees.write_image(raw / "warm/000003.png", np.full(SIZE[::-1], 30000, np.uint16))
    with pytest.raises(InputError, match=r"Both .*000003.png and .*000003_thermal.png are face 000003; remove one"):
        build(tmp_path)


def test_folders_without_the_dataset(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match=r"holds any of: warm, face_synthetics. Download warm or cold from the links"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n" * 69, "000005_ldmks.txt holds 69 points; there must be 70"),
        ("1 2\n" * 69 + "1 nan\n", "000005_ldmks.txt holds a number that is not finite"),
        ("1 2\n" * 69 + "1 x\n", "000005_ldmks.txt holds 'x' where a number is expected"),
        ("1 2 3\n" * 70, "000005_ldmks.txt must hold rows of x and y; row 1 does not"),
        ("900 2\n" * 70, "70 of 70 landmarks lie outside the image"),
        ("", "000005_ldmks.txt is empty"),
    ],
)
def test_broken_landmarks(tmp_path, raw, text, message):
    (raw / "face_synthetics/000005_ldmks.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        build(tmp_path)


def test_bom_and_crlf_change_nothing(tmp_path, raw):
    path = raw / "face_synthetics/000016_ldmks.txt"
    points = np.loadtxt(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    build(tmp_path)
    (example,) = read(tmp_path, "test").values()
    np.testing.assert_allclose(example["landmarks"], points, atol=1e-4)


def test_a_landmark_outside_the_image_is_kept_and_marked(tmp_path, raw):
    path = raw / "face_synthetics/000016_ldmks.txt"
    points = np.loadtxt(path)
    points[0] = [-7.25, 31.5]  # jaws of turned heads are projected from 3-D
    np.savetxt(path, points)
    build(tmp_path)
    (example,) = read(tmp_path, "test").values()
    np.testing.assert_allclose(example["landmarks"][0], [-7.25, 31.5], atol=1e-4)
    assert not example["visible"][0] and example["visible"][1:].all()


def test_swapped_coordinates_are_remarked_not_refused(tmp_path, raw):
    for path in (raw / "face_synthetics").glob("*_ldmks.txt"):
        np.savetxt(path, np.loadtxt(path)[:, ::-1])
    assert any("are the rows [y, x]" in remark for remark in build(tmp_path).info.metadata["remarks"])


def test_broken_images(tmp_path, raw):
    path = raw / "warm/000005_thermal.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"000005_thermal.png is damaged or incomplete"):
        build(tmp_path)
    cv2.imwrite(str(path), np.full(SIZE[::-1], 77, np.uint8))
    with pytest.raises(InputError, match=r"000005_thermal.png has uint8 pixels; 16-bit counts or float °C are needed"):
        build(tmp_path)
    path.write_bytes(whole)
    cv2.imwrite(str(raw / "face_synthetics/000005.png"), np.zeros((64, 96, 3), np.uint8))
    with pytest.raises(InputError, match=r"warm/000005_thermal.png differ in shape: RGB 96 x 64, thermal 64 x 64"):
        build(tmp_path)


def test_every_feature_is_documented(tmp_path):
    builder = tfds_builders.load("t_fake/cold", tmp_path)
    assert {"rgb", "thermal", "celsius", "landmarks"} <= builder.info.features.keys()
    assert all(feature.doc.desc for feature in builder.info.features.values())


@settings(max_examples=150, derandomize=True)
@given(
    st.binary(max_size=80)
    | st.text(max_size=40).map(lambda text: text.encode(errors="replace"))
    | st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(width=16)), min_size=69, max_size=71).map(
        lambda rows: "".join(f"{x} {y}\n" for x, y in rows).encode()
    )
)
def test_any_landmark_file_is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "000000_ldmks.txt"
        path.write_bytes(content)
        try:
            points = formats.read_points(path, 70)
        except InputError as error:
            assert "000000_ldmks.txt" in str(error)
        else:
            assert points.shape == (70, 2)
