"""Tests of the JSON files of labelme, Label Studio and VIA in `paired_folder`: exact values, mistakes, fuzzing."""

import json

import numpy as np
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcm_jax.errors import InputError
from tfds_builders.paired_folder import label_tools, labels
from tfds_builders.paired_folder.named_points import UNSAID, Wanted

FUZZ = settings(max_examples=60, derandomize=True)
XY = [[10.5, 20.0], [30.25, 21.0], [20.0, 40.5]]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tools")


def read(place, content, wanted=UNSAID, *, one=False):
    """Returns the faces by the name in the file, and the remarks."""
    path = place / "made.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    if one:
        return labels.read_each({"a": path}, lambda word, source: word, wanted)
    return labels.read_all(path, lambda word, source: word, wanted)


def shape(label, *points, kind="point", **more):
    return {"label": label, "points": [list(xy) for xy in points], "shape_type": kind, "group_id": None} | more


def labelme(*shapes, **more):
    return {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": "..\\thermal\\a.png"} | more


def studio(*results, image="/data/upload/3/0a1b2c3d-a.png", **more):
    return {"id": 1, "data": {"image": image}, "annotations": [{"result": list(results)} | more]}


def region(kind, value, **more):
    size = {"original_width": 200, "original_height": 400, "image_rotation": 0}
    return {"id": f"r{len(json.dumps(value))}", "type": kind, "value": value} | size | more


def dot(label, x, y, **more):
    return region("keypointlabels", {"x": x, "y": y, "width": 0.5, "keypointlabels": [label]}, **more)


def via(*regions, name="a.png"):
    return {f"{name}1234": {"filename": name, "size": 1234, "regions": list(regions), "file_attributes": {}}}


def spot(label, x, y):
    return {"shape_attributes": {"name": "point", "cx": x, "cy": y}, "region_attributes": {"landmark": label}}


def check(face, box=None, size=None):
    """Whether a face has exactly the three points of `XY`."""
    np.testing.assert_array_equal(face.landmarks, np.float32(XY))
    assert face.known.all() and face.visible.all() and face.confidence.tolist() == [1, 1, 1]
    assert face.box == box and face.size == size and face.tool.endswith("made.json")


@pytest.mark.parametrize("names", [("0", "1", "2"), ("p1", "p2", "p3"), (1, 2, 3), ("eye", "other eye", "mouth")])
def test_labelme(place, names):
    """The file's own name says which image it is; the box is a rectangle with its corners in any order."""
    shapes = [shape(name, xy) for name, xy in zip(names, XY, strict=True)]
    frame = shape("face", (50, 60), (5, 6), kind="rectangle")
    wanted = Wanted(3, ("eye", "other eye", "mouth"))
    content = labelme(frame, *shapes[::-1], imageWidth=64, imageHeight=80)
    found, remarks = read(place, content, wanted, one=True)
    check(*found["a"], box=(5, 6, 45, 54), size=(64, 80))
    assert list(found) == ["a"] and remarks == []
    assert list(read(place, content, wanted)[0]) == ["thermal/a.png"]  # a file given by itself says so inside


def test_labelme_with_two_faces_hidden_missing_and_other_shapes(place):
    one = [shape(str(k), xy, group_id=7) for k, xy in enumerate(XY)]
    two = [shape("0", (70, 20), group_id=8, flags={"occluded": True}), shape("2", (80, 50), group_id=8)]
    boxes = [
        shape("f", (60, 10), (90, 60), kind="rectangle", group_id=8),
        shape("f", (5, 5), (55, 60), kind="rectangle"),
    ]
    hair = shape("hair", (1, 1), (2, 2), (3, 1), kind="polygon")
    found, remarks = read(place, labelme(*one, *two, *boxes, hair), one=True)
    first, second = found["a"]
    check(first, box=(5, 5, 50, 55))
    np.testing.assert_array_equal(second.landmarks, np.float32([[70, 20], [75, 35], [80, 50]]))
    assert second.known.tolist() == [True, False, True] and second.visible.tolist() == [False, False, True]
    assert second.box == (60, 10, 30, 50)
    assert len(remarks) == 1 and "neither points nor boxes and were not read: polygon (1)" in remarks[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (labelme(shape("0", XY[0]), shape("0", XY[1])), r"made\.json has two points '0'; delete one, or"),
        (labelme(shape("1", XY[0]), shape("01", XY[1]), shape("0", XY[1])), "two points of one number, '1' and '01'"),
        (labelme(shape("1", XY[0]), shape("2", XY[1])), r"numbers its points from 1 to 2, and the layout has 3.*0 or "),
        (labelme(shape("0", XY[0]), shape("3", XY[1])), "from 0 to 3, but the layout has 3 points"),
        (labelme(shape("nose", XY[0])), r"names its points 'nose'; .*--layout=FILE\.yaml"),
        (labelme(shape("left 1", XY[0]), shape("right 1", XY[1])), "names its points 'left 1', 'right 1'"),
        (labelme(shape("", XY[0])), "Shape 0 of .* has no name"),
        (labelme(shape([1], XY[0])), "it must be a word or a number"),
        (labelme(shape("0", [1, "2"])), "Shape 0 .* point 0, holds '2'"),
        (labelme(shape("0", *XY[:2])), "is a point with 2 places"),
        (labelme(shape("0", XY[0]), shape("f", *XY, kind="rectangle")), "rectangle with 3 corners"),
        (labelme(shape("0", XY[0]), shape("f", (1, 1), (1, 5), kind="rectangle")), "Shape 1 .* a box that is empty"),
        (labelme("0"), "Shape 0 of .* is not an object"),
        (labelme(shape("0", XY[0]), imageWidth=0, imageHeight=9), "which must be whole pixels"),
        (labelme(shape("0", XY[0]), shape("1", XY[1]), shape("2", XY[2]),
                 *[shape("f", (0, 0), (60 + k, 60), kind="rectangle") for k in (0, 1)]), "2 boxes around one face"),
        (json.dumps(labelme(shape("0", XY[0])))[:-9], "is not JSON"),
        ('{"shapes": [{"label": "0", "shape_type": "point", "points": [[NaN, 1]]}]}', "holds 'nan'"),
    ],
)  # fmt: skip
def test_labelme_that_is_wrong(place, content, message):
    with pytest.raises(InputError, match=message):
        read(place, content, Wanted(3), one=True)


def test_names_that_the_layout_lacks(place):
    with pytest.raises(
        InputError, match=r"made\.json has a point 'moth', which the layout lacks; did you mean 'mouth'"
    ):
        read(place, labelme(shape("moth", XY[0])), Wanted(2, ("eye", "mouth")), one=True)


@pytest.mark.parametrize("form", ["json", "min"])
def test_label_studio(place, form):
    """Per cent of 200 x 400 pixels; Label Studio writes eight digits before the names of uploaded images."""
    dots = [dot(str(k), x / 2, y / 4) for k, (x, y) in enumerate(XY)]
    frame = region("rectanglelabels", {"x": 2.5, "y": 5, "width": 25, "height": 12.5, "rotation": 0}, id="f")
    frame["value"]["rectanglelabels"] = ["face"]
    content = [studio(*dots, frame), studio(image="s3://bucket/thermal/b%20c.png")]
    if form == "min":
        size = {"original_width": 200, "original_height": 400}
        content = [{"image": content[0]["data"]["image"], "kp": [one["value"] | size for one in dots], "id": 1}]
        content[0]["box"] = [frame["value"] | size]
    found, remarks = read(place, content)
    check(*found["a.png"], box=(5, 20, 50, 50), size=(200, 400))
    assert remarks == [] and found.get("thermal/b c.png", []) == []


def test_label_studio_with_two_faces_and_two_annotations(place):
    frames = []
    for name, x in (("f1", 0), ("f2", 50)):
        value = {"x": x, "y": 0, "width": 49, "height": 100, "rectanglelabels": ["face"]}
        frames.append(region("rectanglelabels", value, id=name))
    dots = [dot(str(k), x + 10, 30, parentID=name) for name, x in (("f1", 0), ("f2", 50)) for k in (0, 1)]
    dots[3] = dot("1", 90, 30, id="last")
    tie = {"type": "relation", "from_id": "last", "to_id": "f2", "direction": "right"}
    other = {"result": [dot("0", 1, 1)], "was_cancelled": True}
    task = studio(*frames, *dots, tie, region("brushlabels", {"rle": [1]}), image="/data/local-files/?d=x%2Fa.png")
    task["annotations"].append(other)
    found, remarks = read(place, [task])
    assert [face.landmarks.tolist() for face in found["x/a.png"]] == [[[20, 120]] * 2, [[120, 120], [180, 120]]]
    assert [face.box for face in found["x/a.png"]] == [(0, 0, 98, 400), (100, 0, 98, 400)]
    assert "brushlabels (1)" in remarks[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([studio(dot("0", 431, 5))], "region 0, is at 431, which is not a per cent"),
        ([studio(dot("0", 4, 5), dot("0", 5, 5))], "has two points '0'"),
        ([studio(dot("0", 4, 5), dot("1", 5, 5, original_width=9))], "image of another size"),
        ([studio(dot("0", 4, 5, original_width=None))], "has no original_width and original_height"),
        ([studio(dot("0", 4, 5, image_rotation=90))], "is rotated"),
        ([studio(dot("0", 4, None))], "holds 'None'"),
        ([studio({"type": "keypointlabels"})], "has no type and value"),
        ([studio(dot("0", 4, 5)) | {"annotations": [{"result": [dot("0", 4, 5)]}] * 2}], "has 2 annotations; delete"),
        ([studio(dot("0", 4, 5)) | {"data": {"text": "hello"}}], "Task 0 .* does not say which image"),
        ([studio(dot("0", 4, 5)) | {"annotations": 3}], "annotations of Task 0 .* are not a list"),
        (json.dumps([studio(dot("0", 4, 5))])[:-20], "is not JSON"),
    ],
)
def test_label_studio_that_is_wrong(place, content, message):
    with pytest.raises(InputError, match=message):
        read(place, content, Wanted(3))


@pytest.mark.parametrize("form", ["export", "project", "version 1"])
def test_via(place, form):
    frame = {"shape_attributes": {"name": "rect", "x": 5, "y": 6, "width": 45, "height": 54}, "region_attributes": {}}
    other = {"shape_attributes": {"name": "ellipse", "cx": 1}, "region_attributes": {}}
    spots = [spot(str(k), x, y) for k, (x, y) in enumerate(XY)]
    spots[1]["region_attributes"]["colour"] = "red"
    content = via(*spots, frame, other) | via(name="b.png")
    if form == "version 1":
        for entry in content.values():
            entry["regions"] = {str(k): one for k, one in enumerate(entry["regions"])}
    found, remarks = read(place, {"_via_settings": {}, "_via_img_metadata": content} if form == "project" else content)
    check(*found["a.png"], box=(5, 6, 45, 54))
    assert found["b.png"] == [] and len(remarks) == 1 and "ellipse (1)" in remarks[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (via(spot("0", 1, 2), spot("0", 3, 4)), "'a.png' in .* has two points '0'"),
        (via(spot("", 1, 2)), "region 0, has no attribute that says which landmark it is"),
        (via(spot("0", 1, 2) | {"region_attributes": {"a": "1", "b": "2"}}), "of its attributes a, b, none is called"),
        (via(spot("0", None, 2)), "region 0, holds 'None'"),
        (via({"shape_attributes": []}), "has no shape_attributes"),
        ({"a": {"regions": []}}, "The image 'a' of .* has no filename"),
        ({"_via_img_metadata": []}, "not an object"),
        (via(spot("3", 1, 2)), "numbers its points from 3 to 3, and the layout has 5 points, so they may"),
        (json.dumps(via(spot("0", 1, 2)))[:-5], "is not JSON"),
        (json.dumps(via(spot("0", 1, 2))).replace('"cx": 1', '"cx": Infinity'), "holds 'inf'"),
    ],
)
def test_via_that_is_wrong(place, content, message):
    with pytest.raises(InputError, match=message):
        read(place, content, Wanted(5))


_SHAPES = st.lists(
    st.fixed_dictionaries(
        {"points": st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), max_size=3) | trees.JSON},
        optional={
            "label": trees.SCALARS | st.sampled_from("012"),
            "shape_type": st.sampled_from(["point", "rectangle", "line"]) | trees.SCALARS,
            "group_id": trees.SCALARS,
            "flags": trees.JSON,
        },
    )
    | trees.JSON,
    max_size=3,
)
_VALUE = st.fixed_dictionaries(
    {}, optional={key: st.integers(0, 100) | trees.SCALARS for key in ("x", "y", "width", "height", "rotation")}
    | {"keypointlabels": st.sampled_from([["0"], ["1"]]) | trees.JSON},
)  # fmt: skip
_RESULT = st.fixed_dictionaries(
    {"type": st.sampled_from(["keypointlabels", "rectanglelabels", "relation"]) | trees.SCALARS, "value": _VALUE},
    optional={key: st.just(50) | trees.SCALARS for key in ("original_width", "original_height", "id", "parentID")},
)
_TASK = st.fixed_dictionaries(
    {
        "data": st.just({"image": "a"}) | st.fixed_dictionaries({"image": trees.SCALARS}) | trees.JSON,
        "annotations": st.lists(
            st.fixed_dictionaries({"result": st.lists(_RESULT, max_size=2) | trees.JSON}), max_size=2
        )
        | trees.JSON,
    }
)
_REGION = st.fixed_dictionaries(
    {
        "shape_attributes": st.fixed_dictionaries(
            {"name": st.sampled_from(["point", "rect"]) | trees.SCALARS},
            optional=dict.fromkeys(("cx", "cy", "x", "y", "width", "height"), trees.SCALARS),
        )
        | trees.JSON,
        "region_attributes": st.fixed_dictionaries({"point": trees.SCALARS}) | trees.JSON,
    }
)
_VIA = st.dictionaries(
    st.text(max_size=3),
    st.fixed_dictionaries({"filename": trees.SCALARS, "regions": st.lists(_REGION, max_size=2) | trees.JSON}),
    max_size=2,
)


def safely(place, content, *, one=False):
    """Reads content, which may only be refused in one sentence, and checks what was read."""
    try:
        found, _ = read(place, content, one=one)
    except InputError as error:
        assert "made.json" in str(error) and len(str(error)) < 700, error
        return
    for face in (face for some in found.values() for face in some):
        if face.landmarks is not None:
            assert face.landmarks.ndim == 2 and np.isfinite(face.landmarks).all()


@FUZZ
@given(content=_SHAPES.map(lambda shapes: {"shapes": shapes}) | st.lists(_TASK, min_size=1, max_size=2) | _VIA)
def test_any_content_is_read_or_refused(place, content):
    safely(place, content)
    if label_tools.is_labelme(content):
        safely(place, content, one=True)


WHOLE = [
    labelme(*[shape(str(k), xy) for k, xy in enumerate(XY)]),
    [studio(*[dot(str(k), *xy) for k, xy in enumerate(XY)])],
    via(*[spot(str(k), *xy) for k, xy in enumerate(XY)]),
]


@FUZZ
@given(which=st.sampled_from(WHOLE), end=st.integers(0, 900), noise=st.text(max_size=3), skip=st.integers(0, 9))
def test_truncated_and_damaged_files_are_read_or_refused(place, which, end, noise, skip):
    text = json.dumps(which)
    safely(place, text[:end] + noise + text[end + skip :])
    safely(place, text[:end])
