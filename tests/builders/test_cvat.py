"""Tests of CVAT's XML files in `paired_folder`: exact values, mistakes, unsafe files, fuzzing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcm_jax.errors import InputError
from tfds_builders.paired_folder import cvat, labels
from tfds_builders.paired_folder.named_points import UNSAID, Wanted

FUZZ = settings(max_examples=80, derandomize=True)
XY = [[10.5, 20.0], [30.25, 21.0], [20.0, 40.5]]
LIST = '<points label="face" occluded="0" source="manual" points="10.50,20.00;30.25,21.00;20.00,40.50" z_order="0"/>'
BOX = '<box label="head" occluded="0" xtl="5.0" ytl="6.0" xbr="50.0" ybr="60.0" z_order="0"/>'


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cvat")


def image(*shapes, name="thermal/a.png", size='width="64" height="80"'):
    return f'<image id="0" name="{name}" {size}>{"".join(shapes)}</image>'


def file(*images, head='<?xml version="1.0" encoding="utf-8"?>\n'):
    return f"{head}<annotations><version>1.1</version><meta><task/></meta>{''.join(images)}</annotations>"


def skeleton(*points, more=""):
    """Each point is its label, x, y and further attributes."""
    rows = [
        f'<points label="{name}" source="manual" outside="0" occluded="0" points="{x},{y}"/>'
        if not flags else f'<points label="{name}" {flags} points="{x},{y}"/>'
        for name, x, y, flags in points
    ]  # fmt: skip
    return f'<skeleton label="face" z_order="0" {more}>{"".join(rows)}</skeleton>'


def whole(more="", shift=0, first=1):
    return skeleton(*[(str(k), x + shift, y, "") for k, (x, y) in enumerate(XY, first)], more=more)


def read(place, text, wanted=UNSAID):
    path = place / "made.xml"
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    return labels.read_all(path, lambda word, source: word, wanted)


@pytest.mark.parametrize(
    "shapes",
    [
        LIST,
        whole(first=0),
        whole(),
        "".join(f'<points label="{k}" occluded="0" points="{x},{y}"/>' for k, (x, y) in enumerate(XY)),
    ],
)
def test_points_and_skeletons(place, shapes):
    found, remarks = read(place, file(image(BOX, shapes, '<tag label="x"/>'), image(name="b.png")), Wanted(3))
    (face,) = found["thermal/a.png"]
    np.testing.assert_array_equal(face.landmarks, np.float32(XY))
    assert face.known.all() and face.visible.all() and remarks == [] and found["b.png"] == []
    assert face.box == (5, 6, 45, 54) and face.size == (64, 80) and face.tool.endswith("made.xml") and face.sized
    (lone,) = read(place, file(image(BOX)))[0]["thermal/a.png"]
    assert lone.landmarks is None and lone.box == (5, 6, 45, 54)


def test_hidden_and_missing_points(place):
    points = [("0", 10, 20, 'outside="1" occluded="0"'), ("1", 30, 40, 'outside="0" occluded="1"'), ("2", 20, 60, "")]
    (face,) = read(place, file(image(skeleton(*points))))[0]["thermal/a.png"]
    np.testing.assert_array_equal(face.landmarks, [[25, 50], [30, 40], [20, 60]])
    assert face.known.tolist() == [False, True, True] and face.visible.tolist() == [False, False, True]
    (face,) = read(place, file(image(LIST.replace('occluded="0"', 'occluded="1"'))))[0]["thermal/a.png"]
    assert face.known.all() and not face.visible.any()


def test_two_faces_and_other_shapes(place):
    """The boxes belong to faces by their group, or by where they are."""
    far = BOX.replace('"5.0"', '"105.0"').replace('"50.0"', '"150.0"')
    other = '<polygon label="hair" points="1,2;3,4;5,6"/><polyline label="l" points="1,2;3,4"/>'
    found, remarks = read(place, file(image(far, other, BOX, whole(), whole(shift=100))), Wanted(3))
    assert [face.box[0] for face in found["thermal/a.png"]] == [5, 105]
    assert [face.landmarks[0, 0] for face in found["thermal/a.png"]] == [10.5, 110.5]
    assert "polygon (1), polyline (1)" in remarks[0]
    grouped = BOX.replace("<box", '<box group_id="3"'), far.replace("<box", '<box group_id="2"')
    found, _ = read(place, file(image(*grouped, whole('group_id="2"'), whole('group_id="3"', 100))), Wanted(3))
    assert [face.box[0] for face in found["thermal/a.png"]] == [105, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (file(image(skeleton(("1", 1, 2, ""), ("1", 3, 4, "")))), "'thermal/a.png' in .* has two points '1'"),
        (file(image(skeleton(("nose", 1, 2, "")))), r"names its points 'nose'; .*--layout=FILE\.yaml"),
        (file(image(skeleton(("1", 1, 2, ""), ("2", 3, 4, "")))), "from 1 to 2, and the layout has 3 points, so they"),
        (file(image(skeleton(("9", 1, 2, "")))), "from 9 to 9, but the layout has 3 points"),
        (file(image(skeleton(("", 1, 2, "")))), "has a point without a label"),
        (file(image(skeleton(("1", "1,2;3", 2, "")))), "a skeleton point with 2 places"),
        (file(image(skeleton(("1", 1, 2, 'outside="yes"')))), "has outside='yes'; it must be 0 or 1"),
        (file(image(LIST.replace("20.00;", "nan;"))), "not finite"),
        (file(image(LIST.replace("20.00;", "20,0;"))), "not pairs x,y separated by semicolons"),
        (file(image(LIST.replace("20.00;", "abc;"))), "holds 'abc' where a number is expected"),
        (file(image(LIST.replace("20.00;", "1e300;"))), "not a number of a sensible size"),
        (file(image(LIST, BOX.replace("50.0", "5.0"))), "a box that is empty"),
        (file(image(LIST, BOX.replace('xtl="5.0"', ""))), "holds '' where a number is expected"),
        (file(image(LIST, BOX, BOX.replace("50.0", "51.0"))), "2 boxes around one face"),
        (file(image(whole(), whole(), BOX)), "one box around two faces"),
        (file(image(LIST, size='width="a" height="3"')), "holds 'a'"),
        (file(image(LIST, name="")), "Image 0 of .* has no name"),
        (file(), "lists no image"),
        (file("<track/>"), "tracks of a video; export the task from CVAT as 'CVAT for images 1.1'"),
        ("<annotation><folder/></annotation>", "not from CVAT: it starts with <annotation>"),
        (file(image(LIST))[:-30], "is not XML"),
        (file(image(LIST), head='<!DOCTYPE a [<!ENTITY b "c">]>'), "has a DOCTYPE, which .* unsafe; remove it"),
        (file(image(LIST), head="<!-- --><!doctype a>"), "has a DOCTYPE"),
        ("", "is empty"),
        (file(image(LIST, name="ü")).encode("latin-1"), "not UTF-8 text; save it as UTF-8"),
    ],
)
def test_files_that_are_wrong(place, text, message):
    with pytest.raises(InputError, match=message) as error:
        read(place, text, Wanted(3))
    assert "made.xml" in str(error.value)


def test_what_looks_like_cvat(place):
    for text, looks in ((file(image(LIST)), True), ("<!-- a --><annotations/>", True), ("<a/>", False), ("", False)):
        (place / "b.xml").write_text(text)
        assert cvat.is_cvat(place / "b.xml") is looks


_WORDS = st.sampled_from(
    ["1,2", ";", "nan", '"', "<", "/>", "&amp;", "&x;", "<!DOCTYPE", "points", "skeleton", "1", "é"]
)
_TEXT = file(image(LIST, BOX, whole()), image(whole(), name="b"))


@FUZZ
@given(start=st.integers(0, len(_TEXT)), skip=st.integers(0, 40), noise=st.lists(_WORDS, max_size=3).map("".join))
def test_truncated_and_damaged_files_are_read_or_refused(place, start, skip, noise):
    for text in (_TEXT[:start], _TEXT[:start] + noise + _TEXT[start + skip :]):
        _read_or_refuse(place, text)


@FUZZ
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: f"<annotations>{text}</annotations>"))
def test_any_bytes_are_read_or_refused(place, content):
    _read_or_refuse(place, content)


def _read_or_refuse(place, content):
    try:
        found, _ = read(place, content)
    except InputError as error:
        assert "made.xml" in str(error) and len(str(error)) < 700
        return
    for face in (face for some in found.values() for face in some):
        assert face.landmarks is None or np.isfinite(face.landmarks).all()
