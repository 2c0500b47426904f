"""Tests of wflw: a tiny tree in the form of the real lists, built and read back, and messages about broken lists."""

import pathlib
import tempfile

import numpy as np
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

import tfds_builders
from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from tfds_builders.wflw import wflw_dataset_builder as wflw

SIZE = (80, 64)
SOCCER = "37--Soccer/37_Soccer_soccer_ball_37_45.jpg"
PARADE = "0--Parade/0_Parade_Parade_0_12.jpg"
FACES = {  # image, and the attributes pose expression illumination make-up occlusion blur
    "train": [(PARADE, "000000"), (SOCCER, "100010"), (SOCCER, "000001"), ("6--Funeral/a name.png", "000000")],
    "test": [
        ("2--Demonstration/2_Demonstration_Demonstrators_2_3.jpg", "100000"),
        ("5--Car_Accident/5_Car_Accident_Accident_5_1.jpg", "011100"),
        (PARADE, "100011"),  # another face of an image of the training list
    ],
}
LISTS = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{}.txt"


def line(points, box, attributes, name) -> str:
    """One line of a list."""
    numbers = [f"{v:.6f}" for v in np.asarray(points, np.float64).ravel()]
    return " ".join([*numbers, *map(str, box), *attributes, name])


def write_tree(root) -> dict:
    """Writes FACES under `root`; (split, k) -> landmarks, box x y x y, attributes, key."""
    written, drawn, count = {}, {}, {}
    for split, rows in FACES.items():
        lines = []
        for k, (name, attributes) in enumerate(rows):
            rng = np.random.default_rng(len(written))
            points = trees.make_points("wflw98", SIZE, rng)
            points[54] = points[54].round()
            points[54, 0] += 3 * count.get(name, 0)  # faces of one image have their own dots
            box = (10 + k, 8, 70, 60 - k)
            lines.append(line(points, box, attributes, name))
            drawn.setdefault(name, []).append(points[54])
            count[name] = count.get(name, 0) + 1
            key = name if count[name] == 1 else f"{name}#{count[name]}"
            written[split, k] = (points, box, attributes, key)
        path = root / LISTS.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = "\n".join(lines) + "\n"
        path.write_bytes(
            content.encode() if split == "test" else b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode()
        )
    for k, (name, dots) in enumerate(drawn.items()):
        image = trees.make_image(SIZE, np.random.default_rng(100 + k), dots=dots)
        trees.write_image(root / "WFLW_images" / name, image)
    return written


def build(root, data_dir, config="all", **options):
    return tfds_builders.build(f"wflw/{config}", data_dir, manual_dir=root, **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wflw")
    written = write_tree(folder / "WFLW")
    return folder / "built", written, build(folder / "WFLW", folder / "built")


def test_what_is_read_is_what_the_lists_say(built):
    data_dir, written, _ = built
    for split, rows in FACES.items():
        examples = trees.read_back("wflw/all", split, data_dir)
        assert list(examples) == [written[split, k][3] for k in range(len(rows))]
        for k, example in enumerate(examples.values()):
            points, (left, top, right, bottom), attributes, _ = written[split, k]
            np.testing.assert_allclose(example["landmarks"], points, atol=1e-5)
            np.testing.assert_array_equal(example["box"], [left, top, right - left, bottom - top])
            x, y = points[54].astype(int)
            image = example["rgb"].astype(int).sum(2)
            assert image[y, x] > 550 and image[y, x] == image[y - 1 : y + 2, x - 1 : x + 2].max()
            flags = [example["metadata"][name] for name in wflw.ATTRIBUTES]
            assert "".join(str(int(flag)) for flag in flags) == attributes
        trees.check_flips(examples.values(), "wflw98")
    assert SOCCER + "#2" in trees.read_back("wflw/all", "train", data_dir)
    assert PARADE + "#2" in trees.read_back("wflw/all", "test", data_dir)


def test_subsets_are_the_test_faces_with_an_attribute(built):
    data_dir, written, builder = built
    names = ("pose", "expression", "illumination", "makeup", "occlusion", "blur")
    assert {f"test_{name}": ("test", name) for name in names} == builder.SUBSETS
    assert builder.NORMALIZER == "outer_eyes" and builder.EXPECTED["all"] == {"train": 7500, "test": 2500}
    for place, name in enumerate(names):
        expected = [written["test", k][3] for k, (_, flags) in enumerate(FACES["test"]) if flags[place] == "1"]
        assert expected and list(trees.read_back("wflw/all", f"test_{name}", data_dir)) == expected
        assert builder.info.features[name].np_dtype == np.bool_ and builder.info.features[name].doc.desc


def test_an_image_in_both_lists_and_other_counts_are_remarked(built):
    remarks = built[2].info.metadata["remarks"]
    assert any(f"{PARADE}#2 of test is also {PARADE} of train" in remark for remark in remarks)
    assert any("4 train (published: 7,500)" in remark for remark in remarks)


def test_landmark_box_has_boxes_of_the_landmarks(tmp_path):
    written = write_tree(tmp_path / "WFLW")
    build(tmp_path / "WFLW", tmp_path, "landmark_box")
    example = trees.read_back("wflw/landmark_box", "train", tmp_path)[SOCCER]
    np.testing.assert_allclose(example["box"], landmarks.box_from_points(written["train", 1][0]), rtol=1e-5)


def test_points_outside_the_image_are_invisible(tmp_path):
    root = tmp_path / "WFLW"
    written = write_tree(root)
    points, box, attributes, key = written["train", 3]
    points[0], points[16] = (-5.5, 30), (40, SIZE[1] + 0.75)
    _change(root / LISTS.format("train"), lambda rows: [*rows[:3], line(points, box, attributes, key)])
    build(root, tmp_path)
    example = trees.read_back("wflw", "train", tmp_path)[key]
    assert np.flatnonzero(~example["visible"]).tolist() == [0, 16]
    np.testing.assert_allclose(example["landmarks"], points, atol=1e-5)


def test_rows_of_y_and_x_are_remarked(tmp_path):
    root = tmp_path / "WFLW"
    written = write_tree(root)
    for split, rows in FACES.items():
        lines = [
            line(written[split, k][0][:, ::-1], written[split, k][1], flags, name)
            for k, (name, flags) in enumerate(rows)
        ]
        (root / LISTS.format(split)).write_text("\n".join(lines))
    remarks = build(root, tmp_path).info.metadata["remarks"]
    assert any("[y, x]" in remark for remark in remarks)


def test_missing_images_are_listed_and_left_out_on_request(tmp_path):
    root = tmp_path / "WFLW"
    write_tree(root)
    (root / "WFLW_images" / SOCCER).unlink()
    with pytest.raises(InputError, match=rf"2 of 7 faces lack an image: {SOCCER} lacks .*--allow_missing"):
        build(root, tmp_path)
    builder = build(root, tmp_path, allow_missing=True)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 2, "test": 3}


def _change(path, edit) -> None:
    path.write_text("\n".join(edit(path.read_text(encoding="utf-8-sig").splitlines())))


def _word(row, place, word) -> str:
    words = row.split(" ")
    return " ".join([*words[:place], word, *words[place + 1 :]])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda row: _word(row, 3, "nan"), r"Line 2 of .*attr_train\.txt holds a number that is not finite"),
        (lambda row: _word(row, 3, "x7"), r"Line 2 of .* holds 'x7' where a number is expected"),
        (lambda row: _word(row, 3, "1e300"), r"Line 2 of .* holds 1e\+300, which is not a pixel"),
        (lambda row: row.split(" ", 2)[2], r"Line 2 of .* has 205 columns; 196 coordinates"),
        (lambda row: _word(row, 198, "3"), r"Line 2 of .* has the box 11 8 3 59, which is not left, top"),
        (lambda row: _word(row, 201, "2"), r"Line 2 of .* has the attributes 1 2 0 0 1 0; each"),
        (lambda row: _word(row, 206, "../../secret.jpg"), r"attr_train\.txt names the file .* which lies outside"),
        (lambda row: _word(row, 206, "/etc/passwd"), r"attr_train\.txt names the file .* which lies outside"),
        (lambda row: _word(row, 206, "..\\..\\secret.jpg"), r"attr_train\.txt names the file .* which lies outside"),
        (lambda row: line(np.full((98, 2), 999.0), (1, 1, 9, 9), "000000", SOCCER), r"98 of 98 landmarks lie outside"),
    ],
)
def test_broken_lists_are_refused(tmp_path, edit, message):
    root = tmp_path / "WFLW"
    write_tree(root)
    path = root / LISTS.format("train")
    _change(path, lambda rows: [rows[0], edit(rows[1]), *rows[2:]])
    with pytest.raises(InputError, match=message) as caught:
        build(root, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_truncated_image_and_a_missing_list_are_refused(tmp_path):
    root = tmp_path / "WFLW"
    write_tree(root)
    image = root / "WFLW_images" / "6--Funeral/a name.png"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(InputError, match=r"a name\.png is damaged or incomplete"):
        build(root, tmp_path)
    (root / LISTS.format("test")).unlink()
    with pytest.raises(InputError, match=r"has no .*list_98pt_rect_attr_test\.txt\. Fetch the images"):
        build(root, tmp_path)


_GOOD = line(np.arange(196).reshape(98, 2), (1, 2, 3, 4), "010101", "a/b c.jpg").split(" ")


@settings(max_examples=80, derandomize=True)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.tuples(st.integers(0, len(_GOOD) - 1), st.text(max_size=6)).map(
            lambda change: " ".join([*_GOOD[: change[0]], change[1], *_GOOD[change[0] + 1 :]]).encode("utf-8", "ignore")
        ),
    )
)
def test_any_list_is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "list.txt")
        path.write_bytes(content)
        try:
            rows = wflw.read_list(path)
        except InputError:
            return
        assert all(row.landmarks.shape == (98, 2) and row.box[2] > 0 and row.name for row in rows)
