"""Tests of sf_tl54: a tiny tree with the real names, built and read back, and messages about broken files."""

import json
import pathlib
import tempfile

import cv2
import numpy as np
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

import tfds_builders
from mlcm_jax import images
from mlcm_jax.errors import InputError
from tfds_builders.sf_tl54 import sf_tl54_dataset_builder as sf

SIZE = (116, 87)  # a quarter of the real 464 x 348
FACES = {  # names of both sessions; subjects as in the real splits
    "train": ["1_1_2_1_38_14_1", "1_2_2_5_101_3_1", "7_1_1_9_120_1"],
    "val": ["101_1_2_3_7_88_1"],
    "test": ["111_2_2_3_12_40_1", "142_1_1_3_255_1"],
}
PARTS = {"chin": 17, "right_brow": 5, "left_brow": 5, "bridge": 4, "tip": 5, "eye": 6, "eye_2": 6, "lips": 6}


def labels(points, box) -> dict:
    """The content of a label file: shapes in the order of the points, and the box between them."""
    ends = np.cumsum(list(PARTS.values()))[:-1]
    shapes = [
        {"label": label, "points": part.tolist(), "shape_type": "linestrip", "flags": {}}
        for label, part in zip(PARTS, np.split(points, ends), strict=True)
    ]
    shapes.insert(3, {"label": "face", "points": box, "shape_type": "rectangle", "flags": {}})
    return {"version": "4.5.6", "flags": {}, "shapes": shapes, "imagePath": "x.png", "imageData": None}


def write_tree(root, colour="gray", rgb=True) -> dict:
    """Writes all of FACES under `root`; returns key -> what was written."""
    written = {}
    for split, names in FACES.items():
        for name in names:
            rng = np.random.default_rng(len(written))
            points = np.asarray(trees.make_points("sf_tl54", SIZE, rng), np.float64).round(3)
            points[30] = points[30].round()
            (left, top), (right, bottom) = (points.min(0) - 2).tolist(), (points.max(0) + 2).tolist()
            # Drawn from the top left, or from the bottom right.
            corners = [[left, top], [right, bottom]] if len(written) % 2 else [[right, bottom], [left, top]]
            gray = trees.make_image(SIZE, rng, channels=1, dots=[points[30]])
            thermal = gray if len(written) % 2 else np.repeat(gray[..., None], 3, axis=2)
            if colour == "iron":
                thermal = images.palettes()["iron"].round().astype(np.uint8)[gray]
            folder = root / colour / split
            trees.write_image(folder / "images" / f"{name}.png", thermal)
            (folder / "json").mkdir(exist_ok=True)
            text = json.dumps(labels(points, corners), indent=2)
            (folder / "json" / f"{name}.json").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
            if rgb:
                image = trees.make_image(SIZE, rng, dots=[points[30]])
                trees.write_image(root / "rgb" / split / f"{name[:-1]}3.png", image)
                trees.write_image(root / "rgb" / split / f"{name[:-1]}2.png", 255 - image)  # unaligned
            box = [left, top, right - left, bottom - top]
            key = f"{colour}/{split}/images/{name}.png"
            written[key] = {"points": points, "gray": gray, "box": box, "rgb": image if rgb else None}
    return written


def build(tmp_path, name="gray_all", **options):
    return tfds_builders.build(f"sf_tl54/{name}", tmp_path / "built", manual_dir=tmp_path / "raw", **options)


def read(tmp_path, split, name="gray_all") -> dict:
    return trees.read_back(f"sf_tl54/{name}", split, tmp_path / "built")


def keys(split, colour="gray") -> set[str]:
    return {f"{colour}/{split}/images/{name}.png" for name in FACES[split]}


@pytest.fixture
def raw(tmp_path):
    write_tree(tmp_path / "raw")
    return tmp_path / "raw"


def edit(raw, change, name="gray/val/json/101_1_2_3_7_88_1.json") -> pathlib.Path:
    """Applies `change` to the content of a label file."""
    path = raw / name
    content = json.loads(path.read_text("utf-8-sig"))
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_faces_are_read_back(tmp_path):
    written = write_tree(tmp_path / "raw")
    builder = build(tmp_path)
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {
        "train": 3, "val": 1, "test": 2
    }  # fmt: skip
    for split in FACES:
        examples = read(tmp_path, split)
        assert examples.keys() == keys(split)
        trees.check_flips(examples.values(), "sf_tl54")
        for key, example in examples.items():
            source = written[key]
            np.testing.assert_allclose(example["landmarks"], source["points"], atol=1e-4)
            np.testing.assert_allclose(example["box"], source["box"], atol=1e-4)
            np.testing.assert_array_equal(example["thermal"][..., 0], source["gray"])
            np.testing.assert_array_equal(example["rgb"], source["rgb"])  # the mate ends in 3, not in 2
            x, y = example["landmarks"][30].astype(int)
            assert example["thermal"][y, x] == 255 and (example["rgb"][y, x] == 255).all()
            assert example["visible"].all()


def test_names_of_both_sessions_give_subject_trial_and_position(tmp_path, raw):
    build(tmp_path)
    facts = {
        key.rsplit("/", 1)[1]: tuple(example["metadata"][name] for name in ("subject", "trial", "session", "position"))
        for split in FACES
        for key, example in read(tmp_path, split).items()
    }
    assert facts["1_2_2_5_101_3_1.png"] == ("1", 2, 2, 5)
    assert facts["7_1_1_9_120_1.png"] == ("7", 1, 1, 9)
    assert facts["142_1_1_3_255_1.png"] == ("142", 1, 1, 3)


def test_images_in_false_colours_become_gray_again(tmp_path):
    written = write_tree(tmp_path / "raw", "iron")
    build(tmp_path, "iron_all")
    for split in FACES:
        examples = read(tmp_path, split, "iron_all")
        assert examples.keys() == keys(split, "iron")
        for key, example in examples.items():
            # At the dark end of the palette, neighbours have the same colour after rounding.
            off = np.abs(example["thermal"][..., 0].astype(int) - written[key]["gray"])
            assert off.max() <= 2 and off.mean() < 0.5


def test_thermal_images_alone_need_no_rgb(tmp_path):
    write_tree(tmp_path / "raw", rgb=False)
    builder = build(tmp_path, "gray_alone")
    assert "rgb" not in builder.info.features
    (example,) = read(tmp_path, "val", "gray_alone").values()
    assert "rgb" not in example and example["thermal"].shape == (87, 116, 1)


@pytest.mark.parametrize(
    "text",
    [
        b"sub_id,trial_id,pos_id\n1,2,5\n142,1,3\n99,1,1\n",
        b"\xef\xbb\xbfsub_id,trial_id,pos_id\r\n001,02,5.0\r\n 142 , 1,3\r\n",
        "sub_id;trial_id;pos_id\n1;2;5\n142.0;1;03".encode("utf-16"),
        b",sub_id,trial_id,pos_id\n0,1,2,5\n1,142,1,3\n",
    ],
    ids=["plain", "bom, crlf, zeros", "utf-16, semicolons", "index column"],
)
def test_published_drops_what_is_listed_however_it_is_written(tmp_path, raw, text):
    (raw / "challenging_images.csv").write_bytes(text)
    builder = build(tmp_path, "gray_published")
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    assert counts == {"train": 2, "val": 1, "test": 1}
    assert builder.info.metadata["challenging"] == 2
    assert any("2 train (published: 1,779)" in remark for remark in builder.info.metadata["remarks"])
    assert "gray/train/images/1_2_2_5_101_3_1.png" not in read(tmp_path, "train", "gray_published")
    assert list(read(tmp_path, "test", "gray_published")) == ["gray/test/images/111_2_2_3_12_40_1.png"]


def test_one_exclude_list_serves_all_configs(tmp_path, raw):
    write_tree(raw, "iron")
    (raw / "challenging_images.csv").write_text("sub_id,trial_id,pos_id\n1,2,5\n")
    listing = tmp_path / "wrong.txt"
    names = ("gray/train/images/1_2_2_5_101_3_1.png", "gray/val/images/101_1_2_3_7_88_1.png")
    listing.write_text("\n".join([*names, "iron/test/images/142_1_1_3_255_1.png"]))
    builder = build(tmp_path, "gray_published", exclude=listing)
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    assert counts == {"train": 2, "test": 2}
    assert "1 face was left out" in builder.info.metadata["remarks"][0]


def test_the_published_counts_are_known_for_every_config():
    assert sf.SfTl54.EXPECTED.keys() == {config.name for config in sf.SfTl54.BUILDER_CONFIGS}
    assert sf.SfTl54.EXPECTED["iron_published"] == {"train": 1779, "val": 180, "test": 572}


def test_broken_lists_of_challenging_images(tmp_path, raw):
    path = raw / "challenging_images.csv"
    with pytest.raises(InputError, match=r"has no challenging_images.csv. Download sftl.zip"):
        build(tmp_path, "gray_published")
    for text, message in [
        ("sub_id,trial_id\n1,2\n", "no column 'pos_id'"),
        ("sub_id,trial_id,pos_id\n1,2,five\n", "Row 2 of .* holds 'five' where a number is expected"),
        ("sub_id,trial_id,pos_id\n1,2,3\n1,2.5,3\n", "Row 3 of .* holds 2.5 where a whole number is expected"),
        ("sub_id,trial_id,pos_id\n", "lists no images"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            build(tmp_path, "gray_published")


def test_an_unpacked_archive_with_a_folder_of_its_own(tmp_path):
    write_tree(tmp_path / "raw" / "sftl")
    (tmp_path / "raw/sftl/gray/val/json/._101_1_2_3_7_88_1.json").write_bytes(b"\0\x05\x16\x07")  # macOS leaves these
    build(tmp_path)
    assert read(tmp_path, "val").keys() == keys("val")


def test_errors_of_a_wrong_folder_say_how_to_get_the_dataset(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match=r"holds any of: gray, rgb. Download sftl.zip from huggingface"):
        build(tmp_path)
    with pytest.raises(InputError, match=r"is not built, and its files are not here. Download"):
        tfds_builders.build("sf_tl54", tmp_path)


def test_missing_mates_are_counted_and_left_out_on_request(tmp_path, raw):
    (raw / "rgb/test/142_1_1_3_255_3.png").unlink()
    with pytest.raises(InputError, match=r"1 of 6 faces lacks an image: gray/test/images/142_1_1_3_255_1.png lacks"):
        build(tmp_path)
    builder = build(tmp_path, allow_missing=True)
    assert builder.info.splits["test"].num_examples == 1
    assert any("1 of 6 faces lacks an image" in remark for remark in builder.info.metadata["remarks"])


def test_images_without_labels(tmp_path, raw):
    (raw / "gray/train/json/7_1_1_9_120_1.json").unlink()
    with pytest.raises(
        InputError, match=r"1 image has no labels: .*7_1_1_9_120_1.png lacks .* leave it out with --allow_missing"
    ):
        build(tmp_path)
    builder = build(tmp_path, allow_missing=True)
    assert builder.info.splits["train"].num_examples == 2
    remark = "1 image has no labels: gray/train/images/7_1_1_9_120_1.png lacks 7_1_1_9_120_1.json. It was left out."
    assert remark in builder.info.metadata["remarks"]


def drop_last(content):
    content["shapes"][-1]["points"].pop()


def nan(content):
    content["shapes"][0]["points"][2][1] = float("nan")


def huge(content):
    content["shapes"][0]["points"][2][1] = 10**400


def far(content):
    content["shapes"][3]["points"][1][0] = 1e300


def word(content):
    content["shapes"][0]["points"][0] = ["left", 3]


def no_box(content):
    del content["shapes"][3]


def flat_box(content):
    content["shapes"][3]["points"] = [[3, 4], [3, 40]]


def three_corners(content):
    content["shapes"][3]["points"].append([1, 1])


def outside(content):
    for shape in content["shapes"]:
        shape["points"] = [[x + 500, y] for x, y in shape["points"]]


def no_shapes(content):
    del content["shapes"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_last, "101_1_2_3_7_88_1.json holds 53 landmarks; there must be 54"),
        (nan, "101_1_2_3_7_88_1.json holds a number that is not finite"),
        (huge, "101_1_2_3_7_88_1.json holds a number that is not finite"),
        (far, "101_1_2_3_7_88_1.json holds the coordinate 1e\\+300, which is not a pixel"),
        (word, "101_1_2_3_7_88_1.json holds 'left' where a number is expected"),
        (no_box, "one shape 'face' of two points; it holds 0"),
        (three_corners, "one shape 'face' of two points"),
        (flat_box, "The box of gray/val/images/101_1_2_3_7_88_1.png is"),
        (outside, "101_1_2_3_7_88_1.png: 54 of 54 landmarks lie outside the image"),
        (no_shapes, "has no list of shapes"),
    ],
)
def test_broken_labels(tmp_path, raw, change, message):
    edit(raw, change)
    with pytest.raises(InputError, match=message):
        build(tmp_path)
    assert not (tmp_path / "built/sf_tl54/gray_all/1.1.0").exists()


def test_swapped_coordinates_are_remarked_not_refused(tmp_path, raw):
    def swap(content):
        for shape in content["shapes"]:
            shape["points"] = [[y, x] for x, y in shape["points"]]

    for path in sorted(raw.glob("gray/*/json/*.json")):
        edit(raw, swap, path.relative_to(raw))
    assert any("are the rows [y, x]" in remark for remark in build(tmp_path).info.metadata["remarks"])


@pytest.mark.parametrize("name", ["101_1_3_3_7_88_1", "101_1_2_3_88_1", "101_1_2_3_7_88_3", "a_1_2_3_7_88_1", "1_1"])
def test_names_of_another_pattern(raw, tmp_path, name):
    (raw / "gray/val/images/101_1_2_3_7_88_1.png").rename(raw / f"gray/val/images/{name}.png")
    (raw / "gray/val/json/101_1_2_3_7_88_1.json").rename(raw / f"gray/val/json/{name}.json")
    with pytest.raises(InputError, match=rf"name of .*{name}.json is neither SUB_TRIAL_2_POS"):
        build(tmp_path)


def test_a_subject_in_two_splits(tmp_path, raw):
    for kind, ending in (("images", "png"), ("json", "json")):
        (raw / f"gray/val/{kind}/101_1_2_3_7_88_1.{ending}").rename(raw / f"gray/val/{kind}/1_1_2_3_7_88_1.{ending}")
    (raw / "rgb/val/101_1_2_3_7_88_3.png").rename(raw / "rgb/val/1_1_2_3_7_88_3.png")
    with pytest.raises(InputError, match="Subject 1 is in the splits train and val"):
        build(tmp_path)


def test_broken_images(tmp_path, raw):
    path = raw / "gray/val/images/101_1_2_3_7_88_1.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"101_1_2_3_7_88_1.png is damaged or incomplete"):
        build(tmp_path)
    cv2.imwrite(str(path), np.full((87, 116), 3000, np.uint16))
    with pytest.raises(InputError, match=r"101_1_2_3_7_88_1.png has uint16 pixels; 8-bit gray is needed"):
        build(tmp_path)
    path.write_bytes(whole)
    assert build(tmp_path).info.splits["val"].num_examples == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.just(10**500),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["label", "points", "x"]), inner),
    max_leaves=12,
)
SHAPE = st.fixed_dictionaries(
    {"label": st.sampled_from(["face", "chin", 3, None]), "points": st.lists(JSON, max_size=3)}
)


@settings(max_examples=150, derandomize=True)
@given(
    st.binary(max_size=60)
    | JSON.map(lambda content: json.dumps(content).encode())
    | (st.lists(SHAPE | JSON, max_size=4) | JSON).map(lambda shapes: json.dumps({"shapes": shapes}).encode())
)
def test_any_label_file_is_refused_with_an_input_error(content):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.json"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.json"):  # none of these has 54 points
            sf.read_labels(path)


@settings(max_examples=100, derandomize=True)
@given(st.text(alphabet='0123456789.,-e\n\r;" \tnaif', max_size=40) | st.text(max_size=20))
def test_any_list_is_read_or_refused(text):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "challenging_images.csv"
        path.write_bytes(b"sub_id,trial_id,pos_id\n" + text.encode(errors="replace"))
        try:
            found = sf.read_challenging(path)
        except InputError as error:
            assert "challenging_images.csv" in str(error)
        else:
            assert found and all(isinstance(number, int) for row in found for number in row)
