"""Boxes from users: valid ones are read exactly, and anything else raises an InputError."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlcm_jax.data import boxes
from mlcm_jax.errors import InputError

FINITE = st.floats(-1e6, 1e6, allow_nan=False)
SIDE = st.floats(1e-3, 1e6)


@given(x=FINITE, y=FINITE, w=SIDE, h=SIDE)
def test_box_is_parsed_exactly(x, y, w, h):
    assert boxes.parse_box(f"{x!r}, {y!r},{w!r},{h!r}") == (x, y, w, h)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not x,y,w,h"),
        ("1,2,3", "is 3 numbers, not the four"),
        ("1,2,3,4,5", "is 5 numbers"),
        ("1;2;3;4", "is not x,y,w,h"),
        ("1,2,3,nan", "not finite"),
        ("1,inf,3,4", "not finite"),
        ("1,2,0,4", "is empty"),
        ("1,2,3,-4", "is empty"),
        ("a,b,c,d", "is not x,y,w,h"),
    ],
)
def test_text_that_is_not_a_box_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        boxes.parse_box(text)


@given(st.text(max_size=40))
@example("1,2,3,4")
@example("1e999,0,1,1")
def test_any_text_gives_a_box_or_an_input_error(text):
    try:
        box = boxes.parse_box(text)
    except InputError as error:
        assert "--box=" in str(error)
    else:
        assert len(box) == 4 and all(map(math.isfinite, box)) and min(box[2:]) > 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
GOOD = st.dictionaries(st.text(max_size=8), st.tuples(FINITE, FINITE, SIDE, SIDE), max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("boxes")


@given(content=JSON | GOOD)
def test_any_json_gives_boxes_or_an_input_error(folder, content):
    path = folder / "any.json"
    path.write_text(json.dumps(content))
    try:
        found = boxes.read_boxes(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert found.keys() == content.keys()
        for name, box in found.items():
            assert box == tuple(map(float, content[name])) and min(box[2:]) > 0


@given(content=GOOD)
def test_file_of_boxes_is_read_exactly(folder, content):
    (folder / "good.json").write_text(json.dumps(content))
    assert boxes.read_boxes(folder / "good.json") == content


@given(content=st.binary(max_size=60))
def test_any_bytes_give_boxes_or_an_input_error(folder, content):
    path = folder / "bytes.json"
    path.write_bytes(content)
    try:
        boxes.read_boxes(path)
    except InputError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[[1, 2, 3, 4]]", 'must hold {"file name"'),
        ('{"a.png": [1, 2, 3]}', "'a.png' in .* is 3 numbers"),
        ('{"a.png": [1, 2, 3, "4"]}', "list with something other than numbers"),
        ('{"a.png": [1, 2, 3, true]}', "list with something other than numbers"),
        ('{"a.png": {"x": 1}}', "is a JSON object"),
        ('{"a.png": null}', "is a null"),
        ('{"a.png": [1, 2, 3, NaN]}', "not finite"),
        ('{"a.png": [1, 2, 3, 0]}', "is empty"),
        ('{"a.png": [1, 2, 3, 1%s]}' % ("0" * 400), "too large for a pixel"),
        ('{"a": [1, 2, 3, 4], "a": [5, 6, 7, 8]}', "'a' occurs twice"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_malformed_file_is_refused(tmp_path, content, message):
    path = tmp_path / "boxes.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        boxes.read_boxes(path)


def test_unreadable_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        boxes.read_boxes(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        boxes.read_boxes(tmp_path)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((10, 10, 7.9, 20), "only 7.9 pixels wide or high"),
        ((10, 10, 9, 40), "too flat"),
        ((-41, 10, 80, 60), "mostly outside"),
        ((50, 40, 95, 70), "mostly outside .* as two corners, its numbers would be the box 50,40,45,30"),
        ((101, 10, 20, 20), "outside the image"),
        ((0.3, 0.2, 0.4, 0.5), "give pixels, not shares"),
    ],
)
def test_boxes_that_no_face_has_are_refused(box, message):
    with pytest.raises(InputError, match=f"^The box of a.*{message}"):
        boxes.check_face(box, 100, 80, "The box of a")


@pytest.mark.parametrize(
    ("box", "doubt"),
    [((-39, 10, 80, 60), ""), ((0, 0, 100, 80), ""), ((20, 10, 90, 75), "two corners"), ((9, 9, 8, 9), "")],
)
def test_boxes_that_a_face_may_have_are_taken(box, doubt):
    found = boxes.check_face(box, 100, 80, "The box of a")
    assert doubt in found and bool(doubt) == bool(found)
