"""Tests of the label, box and palette files of `paired_folder`: values, error messages and fuzzing."""

import json

import cv2
import numpy as np
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcm_jax import units
from mlcm_jax.errors import InputError
from tfds_builders import formats
from tfds_builders.paired_folder import folder, labels, thermal_kind
from tfds_builders.paired_folder import paired_folder_dataset_builder as paired

FUZZ = settings(max_examples=80, derandomize=True)
TWO = [[1, 2], [3.5, -4]]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def _one(path):
    found, _ = labels.read_each({"a": path}, lambda word, source: word)
    return [face for some in found.values() for face in some]


def _read(place, content, read=_one):
    path = place / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    if read is _one:
        return read(path)
    found = read(path, lambda word, source: word)
    return found[0] if read is labels.read_all else found


def test_an_entry(place):
    (plain,) = _read(place, TWO)
    np.testing.assert_array_equal(plain.landmarks, np.float32(TWO))
    assert plain.known.all() and plain.visible.all() and plain.confidence.tolist() == [1, 1]
    assert plain.box is None and not plain.pseudo
    entry = {
        "landmarks": [[1, 2], None, [3, 6]],
        "visible": [1, True, False],
        "confidence": [0.5, 1, 1],
        "x": "ignored",
    }
    (full,) = _read(place, entry | {"pseudo": True, "box": [0, 1, 2, 3], "subject": "anna"})
    np.testing.assert_array_equal(full.landmarks, np.float32([[1, 2], [2, 4], [3, 6]]))  # null: the mean of the others
    assert full.known.tolist() == [True, False, True]
    assert full.visible.tolist() == [True, False, False] and full.confidence.tolist() == [0.5, 0, 1]
    assert full.pseudo and full.box == (0, 1, 2, 3) and full.subject == "anna"


@pytest.mark.parametrize("content", ["null", '{"landmarks": null}', "[null, null]", '{"landmarks68": [null]}'])
def test_unlabelled(place, content):
    (label,) = _read(place, content)
    assert label.landmarks is None and label.known is None and label.confidence is None


def test_several_faces(place):
    first, second = _read(place, [{"landmarks": TWO}, {"landmarks": [[5, 6], [7, 8]]}])
    assert first.landmarks[0, 0] == 1 and second.landmarks[0, 0] == 5
    found = _read(place, {"a": [{"landmarks": TWO}, {"landmarks": TWO}], "b": None}, labels.read_all)
    assert {name: len(some) for name, some in found.items()} == {"a": 2, "b": 1}
    found = _read(place, [{"name": "a", "landmarks": TWO}, {"file_name": "a", "landmarks": TWO}], labels.read_all)
    assert len(found["a"]) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"landmark": TWO}, "has no landmarks; one key"),
        ({"landmarks": TWO, "landmarks68": TWO}, "has both landmarks and landmarks68"),
        ([], "not a list of"),
        ("3", "must be null, a list"),
        ([[1, 2, 3]], r"point 0 is \[1, 2, 3\] where 2 numbers are expected"),
        ([[1, "2"]], "point 0 holds '2'"),
        ([[1, True]], "point 0 holds 'True'"),
        ("[[1, 1e999]]", "holds 'inf'"),
        (f"[[1, {10**300}]]", "not a number of a sensible size"),
        ({"landmarks": TWO, "visible": [True]}, "visible, which must be one true or false for each of its 2"),
        ({"landmarks": TWO, "visible": [2, 1]}, "visible, which must be"),
        ({"landmarks": TWO, "confidence": [1]}, "confidence is .* where 2 numbers are expected"),
        ({"landmarks": TWO, "confidence": [1, 1.5]}, "confidence outside 0 to 1"),
        ({"landmarks": TWO, "box": [1, 2, 3]}, "a.json has a box that is 3 numbers, not the four numbers x,y,w,h"),
        ({"landmarks": TWO, "box": [1, 2, 0, 4]}, "a.json has a box that is empty: its width"),
        ({"landmarks": TWO, "pseudo": "yes"}, "pseudo: yes; it must be true or false"),
        ({"landmarks": TWO, "subject": [1]}, "it must be a word or a number"),
        ("{", "is not JSON"),
    ],
)
def test_entries_that_are_wrong(place, content, message):
    with pytest.raises(InputError, match=message):
        _read(place, content)


COCO = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [{"image_id": 1, "keypoints": [1, 2, 2, 3, 4, 1], "bbox": [0, 0, 9, 9]}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {}}, "images in .* are not a list"),
        ({"images": [{"id": 1}]}, "Image 0 .* has no file_name"),
        ({"images": COCO["images"] * 2}, "has no unique id"),
        ({"annotations": [{"image_id": 2, "keypoints": [1, 2, 2]}]}, "image_id that is not among"),
        ({"annotations": [{"image_id": [1]}]}, "image_id that is not among"),
        ({"annotations": [{"image_id": 1}]}, "no keypoints x, y, v"),
        ({"annotations": [{"image_id": 1, "keypoints": [1, 2]}]}, "no keypoints x, y, v"),
        ({"annotations": [{"image_id": 1, "keypoints": [1, 2, 3]}]}, "v is not 0, 1 or 2"),
        (
            {"annotations": [{"image_id": 1, "keypoints": [1, 2, 2], "bbox": [1, 2]}]},
            "Annotation 0 of .* has a box that is 2 numbers",
        ),
    ],
)
def test_coco_that_is_wrong(place, change, message):
    assert len(_read(place, COCO, labels.read_all)["a.png"]) == 1
    with pytest.raises(InputError, match=message):
        _read(place, COCO | change, labels.read_all)


@pytest.mark.parametrize(
    ("flags", "visible", "remarked"), [([1, 1, 1], "111", True), ([0, 1, 1], "011", True), ([2, 1, 0], "100", False)]
)
def test_coco_of_tools_that_write_1_for_labelled(place, flags, visible, remarked):
    keypoints = [value for k, flag in enumerate(flags) for value in (k, k + 1, flag)]
    annotations = [{"image_id": 1, "keypoints": keypoints}, {"image_id": 1, "keypoints": [0] * 9}]
    (place / "a.json").write_text(json.dumps(COCO | {"annotations": annotations}))
    found, remarks = labels.read_all(place / "a.json", lambda word, source: word)
    assert "".join(str(int(flag)) for flag in found["a.png"][0].visible) == visible
    assert [remark.split(",")[0] for remark in remarks] == ["No keypoint in a.json has v = 2"] * remarked


def test_two_words_for_one_pair(place):
    (place / "a.json").write_text(json.dumps({"rgb/a.png": None, "thermal/a.png": None}))
    names = folder.Names({"rgb": {"a": "rgb/a.png"}, "thermal": {"a": "thermal/a.png"}}, place)
    with pytest.raises(InputError, match=r"labels the pair a twice, as 'rgb/a\.png' and as 'thermal/a\.png'"):
        labels.read_all(place / "a.json", names)


def test_boxes(place):
    names = folder.Names({"rgb": {"a": "rgb/a.png", "b": "rgb/b.png"}}, place)
    (place / "boxes.json").write_text('{"a.png": [1, 2, 3, 4], "rgb/a.png#2": [5, 6, 7, 8.5], "b": [0, 0, 1, 1]}')
    (place / "boxes.csv").write_text("name,x,y,w,h\na,1,2,3,4\na#2,5,6,7,8.5\nb.jpg,0,0,1,1\n")
    for file in ("boxes.json", "boxes.csv"):
        found = labels.read_boxes(place / file, names)
        assert {name: list(box) for name, box in found.items()} == {
            "a": [1, 2, 3, 4], "a#2": [5, 6, 7, 8.5], "b": [0, 0, 1, 1]
        }  # fmt: skip
    (place / "boxes.csv").write_text("name,x,y,w,h\na,1,2,3,4\na.png,5,6,7,8\n")
    with pytest.raises(InputError, match="two boxes for a; a second face of an image is a#2"):
        labels.read_boxes(place / "boxes.csv", names)


def test_names_in_label_files(place):
    images = {"rgb": {"s1/a": "rgb/s1/a.png", "b.v2": "rgb/b.v2.png"}, "thermal": {"s1/a": "thermal/s1/a.tiff"}}
    names = folder.Names(images, place)
    for word in ("s1/a", "s1/a.png", "rgb/s1/a.png", "thermal\\s1\\a.tiff", "./data/rgb/s1/a.jpg", " s1/a.json "):
        assert names(word, "list") == "s1/a"
    assert names("b.v2", "list") == names("b.v2.png", "list") == "b.v2"
    assert names("a", "list") == "a" and names("zzz.png", "list") == "zzz.png"  # no such image


def test_names_are_compared_with_composed_letters(place):
    """macOS and some archives write "ü" as "u" and two dots."""
    composed, apart = "J\u00fcrgen", "Ju\u0308rgen"
    found = {"rgb": folder.match([f"{apart}_rgb.png"], "*_rgb.png", "rgb_glob")}
    found["thermal"] = folder.match([f"{composed}_thermal.png"], "*_thermal.png", "thermal_glob")
    assert found == {"rgb": {composed: f"{apart}_rgb.png"}, "thermal": {composed: f"{composed}_thermal.png"}}
    names = folder.Names(found, place)
    for word in (composed, apart, f"{apart}_rgb.png", f"{composed}_rgb.png", f"{apart}.json"):
        assert names(word, "a.json") == composed and names.known(names(word, "a.json"))


def test_patterns():
    paths = ["a_rgb.png", "a_thermal.png", "b_x_rgb.png", "_rgb.png", "s/a_rgb.png", "s/t[1].png"]
    assert folder.match(paths, "*_rgb.png", "f") == {"a": "a_rgb.png", "b_x": "b_x_rgb.png"}
    assert folder.match(paths, "*/*_rgb.png", "f") == {"s/a": "s/a_rgb.png"}
    assert folder.match(paths, "./s/t[*].png", "f") == {"1": "s/t[1].png"}
    with pytest.raises(InputError, match=r"--f=\*/\* has two files for the name"):
        folder.match(["a/b", "a/b"], "*/*", "f")


def test_files_of_boxes_and_subjects_override_the_labels(tmp_path):
    (tmp_path / "rgb").mkdir()
    assert cv2.imwrite(str(tmp_path / "rgb/a.png"), np.zeros((60, 50), np.uint8))
    face = {"landmarks": [[10, 20], [30, 20], [20, 35], [12, 50], [28, 50]], "box": [1, 1, 9, 9], "subject": "x"}
    (tmp_path / "labels.json").write_text(json.dumps({"a": [face, face, face]}))
    (tmp_path / "boxes.csv").write_text("name,x,y,w,h\na,2,2,8,8\na#2,3,3,7,7\n")
    (tmp_path / "subjects.csv").write_text("name,subject\na,anna\na.png#2,bert\n")
    some = paired.PairedFolder.make(None, tmp_path / "built", manual_dir=tmp_path).parse(tmp_path)["train"]
    assert [face.key for face in some] == ["rgb/a.png", "rgb/a.png#2", "rgb/a.png#3"]
    assert [face.subject for face in some] == ["anna", "bert", "anna"]
    assert [list(face.box) for face in some] == [[2, 2, 8, 8], [3, 3, 7, 7], [1, 1, 9, 9]]
    builder = paired.PairedFolder.make(None, tmp_path / "built", manual_dir=tmp_path)
    assert builder.remarks == []
    (tmp_path / "boxes.csv").write_text("name,x,y,w,h\na#2,3,3,7,7\nb,2,2,8,8\nc#2,2,2,8,8\n")
    (tmp_path / "subjects.csv").write_text("name,subject\nann,anna\n")
    remarks = paired.PairedFolder.make(None, tmp_path / "built", manual_dir=tmp_path).remarks
    assert remarks == [
        "2 boxes have names that no image has: 'b', 'c#2'. Check the spelling.",
        "1 subject has a name that no image has: 'ann'. Check the spelling.",
    ]


@pytest.mark.parametrize("celsius", ["0.01", "0,1", "-1,2", "a,b", "1,2,3", "inf,0"])
def test_celsius_that_is_wrong(place, celsius):
    np.save(place / "t.npy", np.full((4, 4), 300.0))
    with pytest.raises(InputError, match=f"--celsius={celsius}"):
        thermal_kind.of_image(place / "t.npy", None, celsius=celsius)
    kind = thermal_kind.of_image(place / "t.npy", None, celsius="0.5, -10")
    assert (kind.kind, kind.scale, kind.offset) == ("counts", 0.5, -10.0)


@pytest.mark.parametrize(
    ("name", "values", "unit", "told"),
    [
        (
            "t.npy",
            np.full((4, 4), 300.0),
            units.KELVIN,
            "t.npy: values were taken for kelvins, so that their median is",
        ),
        ("t.npy", np.full((4, 4), 30.0), units.CELSIUS, "t.npy: values were taken for °C"),
        ("t.npy", np.full((4, 4), 30000, np.uint16), units.CENTIKELVIN, "16-bit values were taken for hundredths"),
        ("t.npy", np.full((4, 4), 3000, np.uint16), units.CENTIKELVIN, "such as --celsius=decikelvin"),
        ("t.csv", "in °F\n" + "90,91,92,92,91,90,91,92\n" * 8, units.NAMES["fahrenheit"], ""),
    ],
)
@pytest.mark.parametrize("celsius", [None, "auto"])
def test_a_unit_that_is_not_given_is_guessed_and_told(place, capsys, name, values, unit, told, celsius):
    (place / name).write_text(values) if isinstance(values, str) else np.save(place / name, values)
    kind = thermal_kind.of_image(place / name, None, celsius=celsius)
    assert (kind.kind, kind.scale, kind.offset) == ("counts", *unit)
    said = " ".join(capsys.readouterr().out.split())
    assert told in said and bool(told) == bool(said)


@pytest.mark.parametrize("rows", ["1,2,3\n", "1,2,3\n" * 257, "1,2,3\n4,5,256\n", "1,2,3\n-1,0,0\n"])
def test_palettes_that_are_wrong(place, rows):
    (place / "own.csv").write_text(f"r,g,b\n{rows}")
    with pytest.raises(InputError, match=r"own\.csv must hold 2 to 256 rows of r, g and b from 0 to 255"):
        thermal_kind.read_palette("own.csv", place)


def test_palettes_by_name(place):
    np.testing.assert_allclose(
        thermal_kind.read_palette("gray", place), np.repeat(np.arange(256)[:, None], 3, 1), atol=1
    )
    assert thermal_kind.read_palette("iron", place).shape == (256, 3)  # this package's, not matplotlib's
    with pytest.raises(InputError, match=r"--colormap=none\.csv exists neither"):
        thermal_kind.read_palette("none.csv", place)


_NUMBERS = st.lists(st.lists(st.integers(-9, 9) | st.none(), min_size=2, max_size=3) | st.none(), max_size=4)
_ENTRY = st.fixed_dictionaries(
    {"landmarks": _NUMBERS},
    optional={
        "visible": trees.JSON,
        "box": trees.JSON,
        "confidence": trees.JSON,
        "pseudo": trees.SCALARS,
        "subject": trees.SCALARS,
    },
)
_ANNOTATION = st.fixed_dictionaries(
    {"image_id": st.integers(0, 1)}, optional={"keypoints": trees.JSON, "bbox": trees.JSON}
)
_COCO = st.fixed_dictionaries({
    "images": st.just([{"id": 0, "file_name": "a"}]) | trees.JSON,
    "annotations": st.lists(_ANNOTATION, max_size=2) | trees.JSON,
})  # fmt: skip


@FUZZ
@given(content=trees.JSON | _ENTRY | st.lists(_ENTRY, max_size=2) | _COCO)
def test_any_json_is_read_or_refused(place, content):
    for read in (_one, labels.read_all, labels.read_boxes):
        try:
            found = _read(place, content, read)
        except InputError as error:
            assert len(str(error)) < 600
            continue
        faces = found if isinstance(found, list) else [face for some in found.values() for face in some]
        for face in faces:
            if isinstance(face, labels.Label) and face.landmarks is not None:
                count = len(face.landmarks)
                assert face.landmarks.shape == (count, 2) and np.isfinite(face.landmarks).all()
                assert face.visible.shape == face.confidence.shape == (count,)


@FUZZ
@given(word=st.text(max_size=12))
def test_any_name_is_resolved_or_refused(place, word):
    names = folder.Names({"rgb": {"a": "rgb/a.png"}}, place)
    try:
        found = names(word, "list.txt")
    except InputError as error:
        assert "list.txt" in str(error)
        return
    assert found == "a" or found == formats.composed(word.strip())
