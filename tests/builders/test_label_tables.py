"""Tests of CSV files with the landmarks of all images, and of .npy files of one: values, mistakes, fuzzing."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcm_jax.errors import InputError
from tfds_builders.paired_folder import label_tables, labels
from tfds_builders.paired_folder.named_points import UNSAID, Wanted

FUZZ = settings(max_examples=80, derandomize=True)
XY = [[10.5, 20.0], [30.25, 21.0], [20.0, 40.5]]
CELLS = "10.5,20,30.25,21,20,40.5"
NAMES = Wanted(3, ("eye", "other eye", "mouth"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


def read(place, text, wanted=UNSAID):
    path = place / "made.csv"
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    return labels.read_all(path, lambda word, source: word, wanted)[0]


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("file,x0,y0,x1,y1,x2,y2", UNSAID),
        ("name,x1,y1,x2,y2,x3,y3", Wanted(3)),
        ("image_path,0_x,0_y,1_x,1_y,2_x,2_y", UNSAID),
        ("filename,p0.x,p0.y,p1.x,p1.y,p2.x,p2.y", UNSAID),
        ("File,X_0,Y_0,X_1,Y_1,X_2,Y_2", UNSAID),
        ("file,eye_x,eye_y,other eye_x,other eye_y,mouth_x,mouth_y", NAMES),
    ],
)
def test_one_row_per_face(place, header, wanted):
    found = read(place, f"{header},note\nthermal/a.png,{CELLS},x\nb.png,,,,,,,\n", wanted)
    (face,) = found["thermal/a.png"]
    np.testing.assert_array_equal(face.landmarks, np.float32(XY))
    assert face.known.all() and face.visible.all() and face.box is None
    assert found["b.png"][0].landmarks is None and label_tables.is_table(place / "made.csv")


def test_columns_in_another_order_boxes_people_and_hidden_points(place):
    header = "subject;y0;y1;x1;x0;v0;v1;x;y;w;h;file"
    found = read(place, f"{header}\nanna;20;21;30;10;0;1;5;6;45;54;a\nbert;;41;40;;;1;;;;;a\n")
    first, second = found["a"]
    np.testing.assert_array_equal(first.landmarks, [[10, 20], [30, 21]])
    assert first.visible.tolist() == [False, True] and first.known.all() and first.box == (5, 6, 45, 54)
    assert second.known.tolist() == [False, True] and second.box is None
    assert (first.subject, second.subject) == ("anna", "bert") and first.sized


@pytest.mark.parametrize("first", [0, 1])
def test_one_row_per_point(place, first):
    rows = [f"a.png\t{k + first}\t{x}\t{y}\t{int(k != 1)}" for k, (x, y) in enumerate(XY)]
    found = read(place, "\n".join(["file\tpoint\tx\ty\tvisible", *rows[::-1], f"b.png\t{first}\t\t\t"]), Wanted(3))
    (face,) = found["a.png"]
    np.testing.assert_array_equal(face.landmarks, np.float32(XY))
    assert face.visible.tolist() == [True, False, True] and face.known.all()
    assert found["b.png"][0].landmarks is None and label_tables.is_table(place / "made.csv")


def test_one_row_per_point_of_two_faces(place):
    rows = ["image,face,landmark,x,y", "a,1,eye,1,2", "a,2,eye,11,12", "a,2,mouth,13,14"]
    first, second = read(place, "\n".join(rows), NAMES)["a"]
    assert first.known.tolist() == [True, False, False] and second.known.tolist() == [True, False, True]
    assert second.landmarks[2].tolist() == [13, 14]


def test_vias_table(place):
    head = "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    rows = [
        f'a.png,9,{{}},4,{k},"{{""name"":""point"",""cx"":{x},""cy"":{y}}}","{{""point"":""{k}""}}"'
        for k, (x, y) in enumerate(XY)
    ]
    rows.append('a.png,9,{},4,3,"{""name"":""rect"",""x"":5,""y"":6,""width"":45,""height"":54}",{}')
    found = read(place, "\n".join([head, *rows, "b.png,9,{},0,0,{},{}"]))
    (face,) = found["a.png"]
    np.testing.assert_array_equal(face.landmarks, np.float32(XY))
    assert face.box == (5, 6, 45, 54) and found["b.png"] == []
    with pytest.raises(InputError, match=r"Row 2 of .*, region_attributes, does not hold a JSON object"):
        read(place, f"{head}\na.png,9,{{}},1,0,{{}},x")
    with pytest.raises(InputError, match=r"'a\.png' in .* has two points '0'"):
        read(place, "\n".join([head, rows[0], rows[0]]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,1,2,3,4,5,6\n", "has a header but no rows"),
        ("a.png,1,2\nb.png,3,4\n", "must have a header with a column file and columns x0,y0"),
        ("x0,y0\n1,2\n", "must have a header with a column file"),
        ("file,x,y\na,1,2\n", "but no column point that names the point"),
        ("file,x0,y0,X0,y1\na,1,2,3,4\n", "two columns 'x0'"),
        ("file,x0,y0\n,1,2\n", "Row 2 of .* names no file"),
        ("file,x0,y0\na,1,\n", "Row 2 of .*, point 0, has only one of x and y"),
        ("file,x0,y0\na,1,b\n", "point 0, holds 'b' where a number"),
        ("file,x0,y0\na,1,inf\n", "holds a number that is not finite"),
        ("file,x0,y0\na,1\n", "Row 2 of .* has 2 columns; the header has 3"),
        ("file,x0,y0,v0\na,1,2,2\n", r"the visibility '2'; it must be 1 \(visible\) or 0"),
        ("file,x1,y1,x2,y2\na,1,2,3,4\n", "from 1 to 2, and the layout has 3 points, so they may count"),
        ("file,x0,y0,x1,y1,x2,y2,x3,y3\na,1,2,3,4,5,6,7,8\n", "from 0 to 3, but the layout has 3 points"),
        ("file,point,x,y\na,0,1,2\na,0,3,4\n", "'a' in .* has two points '0'"),
        ("file,point,x,y\na,,1,2\n", "Row 2 of .* names no point"),
        ("file,point,x,y\na,tip,1,2\n", "names its points 'tip'; list the names"),
        ("file,x0,y0,x,y,w,h\na,1,2,1,2,0,4\n", "Row 2 of .* has a box that is empty"),
        ("file,x0,y0,a_x,a_y,a_w,a_h,b_x,b_y,b_w,b_h\na,1,2,1,2,3,4,1,2,3,4\n", "several boxes in a row"),
    ],
)
def test_tables_that_are_wrong(place, text, message):
    with pytest.raises(InputError, match=message) as error:
        read(place, text, Wanted(3))
    assert "made.csv" in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["r,g,b\n1,2,3\n", "name,x,y,w,h\na,1,2,3,4\n", "name,subject\na,b\n", "x,y\n1,2\n", "1,2\n3,4\n", "", "file\n"],
)
def test_what_is_no_table_of_landmarks(place, text):
    (place / "b.csv").write_text(text)
    assert not label_tables.is_table(place / "b.csv")


_CELLS = st.sampled_from(
    ["file", "point", "x", "y", "x0", "y0", "x1", "y1", "v0", "w", "h", "1", "2.5", "a", "", "nan"]
)
_ROWS = st.lists(st.lists(_CELLS, min_size=3, max_size=5).map(",".join), min_size=1, max_size=4).map("\n".join)


@FUZZ
@given(content=st.binary(max_size=60) | _ROWS | st.lists(st.sampled_from(["a,1,2", 'b,"', "a,0,1,2", "a,1"])).map(
    lambda rows: "\n".join(["file,x0,y0", *rows])))  # fmt: skip
def test_any_bytes_are_read_or_refused(place, content):
    try:
        found = read(place, content)
    except InputError as error:
        assert "made.csv" in str(error) and len(str(error)) < 700
        return
    for face in (face for some in found.values() for face in some):
        assert face.landmarks is None or np.isfinite(face.landmarks).all()


def read_npy(place):
    return labels.read_each({"a": place / "a.npy"}, lambda word, source: word)[0]["a"]


def _npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_npy(place):
    for dtype in (np.float64, np.float32, ">f4"):
        (place / "a.npy").write_bytes(_npy(np.array(XY).astype(dtype)))
        np.testing.assert_array_equal(read_npy(place)[0].landmarks, np.float32(XY))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_npy(np.ones((3, 3))), r"holds float64 of shape \(3, 3\); it must hold numbers, one row of x and y"),
        (_npy(np.ones(6)), r"of shape \(6,\)"),
        (_npy(np.ones((3, 2), complex)), "complex128"),
        (_npy(np.array([[1, np.nan]])), "not finite"),
        (_npy(np.zeros((0, 2))), "holds no points"),
        (_npy(np.array([[1e9, 1]])), "which is not a pixel"),
        (_npy(np.ones((3, 2)))[:-5], "is damaged or not an array"),
        (_npy(np.ones((3, 2)))[:20], "is damaged or not an array"),
        (b"PK\x03\x04", "is not an array that numpy.save wrote"),
    ],
)
def test_npy_that_is_wrong(place, content, message):
    (place / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_npy(place)


@FUZZ
@given(start=st.integers(0, 140), noise=st.binary(max_size=4))
def test_damaged_npy_files_are_read_or_refused(place, start, noise):
    content = _npy(np.ones((3, 2)))
    (place / "a.npy").write_bytes(content[:start] + noise + content[start + len(noise) :])
    try:
        assert np.isfinite(read_npy(place)[0].landmarks).all()
    except InputError as error:
        assert "a.npy" in str(error)
