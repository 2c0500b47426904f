"""Tests of the readers of text formats: encodings and line ends of editors, mistakes, and random bytes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcm_jax import files
from mlcm_jax.errors import InputError
from tfds_builders import formats

FUZZ = settings(max_examples=60, derandomize=True)
PTS = "version: 1\nn_points: 3\n{\n1 1\n2.5 3\n-4 5e1\n}\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("formats") / "file.txt"


@pytest.mark.parametrize(
    "content",
    [b"a\nb\n", b"\xef\xbb\xbfa\nb\n", b"a\r\nb\r\n", b"a\rb\r", "a\nb\n".encode("utf-16"), b"\xfe\xff\0a\0\n\0b\0\n"],
    ids=["plain", "bom", "crlf", "cr", "utf-16", "utf-16-be"],
)
def test_text_is_the_same_whatever_the_editor(path, content):
    path.write_bytes(content)
    assert files.read_text(path) == "a\nb\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \r\n", "is empty"),
        (b"\xff\x00abc", "not UTF-8"),
        (b"caf\xe9", "UTF-8"),
        (b"a\0b", "NUL bytes"),
    ],
)
def test_files_that_are_not_text_are_refused(path, content, message):
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        files.read_text(path)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt does not exist"):
        files.read_text(tmp_path / "none.txt")
    with pytest.raises(InputError, match="cannot be read"):
        files.read_text(tmp_path)


@pytest.mark.parametrize("content", [PTS, PTS.replace("\n", "\r\n"), "\ufeff" + PTS, PTS.replace("3\n{", "3 {", 1)])
def test_pts_count_from_one(path, content):
    path.write_bytes(content.encode())
    expected = np.array([[0, 0], [1.5, 2], [-5, 49]], np.float32)
    points = formats.read_pts(path)
    assert points.dtype == np.float32
    np.testing.assert_array_equal(points, expected)
    np.testing.assert_array_equal(formats.read_pts(path, 3, first=0.0), expected + 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 1\n2 2\n", r"not a \.pts file"),
        (PTS.replace("}", ""), r"not a \.pts file"),
        (PTS.replace("n_points: 3", ""), r"not a \.pts file"),
        (PTS.replace("2.5 3\n", ""), "holds 2 points; n_points is 3"),
        (PTS.replace("2.5 3", "2.5"), "holds 2.5 points"),
        (PTS.replace("2.5", "nan"), "not finite"),
        (PTS.replace("2.5", "2,5"), "holds '2,5' where a number"),
        (PTS.replace("-4", "x"), "'x'"),
    ],
)
def test_pts_that_are_wrong(path, content, message):
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        formats.read_pts(path)


def test_pts_of_another_count(path):
    path.write_text(PTS)
    with pytest.raises(InputError, match="holds 3 points; there must be 68"):
        formats.read_pts(path, 68)


@pytest.mark.parametrize(
    "content",
    ["1 2\n3 4\n", "x,y\n1,2\n3,4\n", "1;2\n\n3;4", "x\ty\n1\t2\n3\t4\n", " 1  2 \n3, 4,\n", "1 2\r\n3 4\r\n"],
)
def test_rows_of_points(path, content):
    path.write_bytes(content.encode())
    np.testing.assert_array_equal(formats.read_points(path, 2), np.array([[1, 2], [3, 4]], np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 2\n3\n", "row 2 does not"),
        ("1 2 3\n", "row 1"),
        ("x y\n", "rows of x and y"),
        ("1 2\n3 inf\n", "not finite"),
    ],
)
def test_rows_that_are_not_points(path, content, message):
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        formats.read_points(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables(path, delimiter):
    rows = [["name", "x"], ["a b", "1"], ["", ""], [' "c"', " 2 "]]
    path.write_text("\ufeff" + "\r\n".join(delimiter.join(row) for row in rows))
    assert formats.read_table(path, ("name", "x")) == [{"name": "a b", "x": "1"}, {"name": "c", "x": "2"}]


def test_a_quoted_comma_stays(path):
    path.write_text('name,x\n"a,b",1\n')
    assert formats.read_table(path) == [{"name": "a,b", "x": "1"}]


@pytest.mark.parametrize(
    "word",
    ["", "#DIV/0!", "#N/A", "#NAME?", "#REF!", "#VALUE!", "#¡VALOR!", "#ÜBERLAUF!", "#GETTING_DATA", "####", "Err:502"],
)
def test_spreadsheet_errors_count_as_blank(word):
    assert formats.is_blank(word)


@pytest.mark.parametrize("word", ["0", "a", "#12", "#12.png", "#a", "#name?", "a#2", "N/A", "Err", "nan", "-"])
def test_names_and_numbers_are_not_blank(word):
    assert not formats.is_blank(word)


def test_cells_of_spreadsheets(path):
    path.write_text("name,x,y\n,#DIV/0!,\na,#N/A,2\n")
    assert formats.read_table(path) == [{"name": "a", "x": "#N/A", "y": "2"}]
    np.testing.assert_array_equal(
        formats.cells(["#N/A", "2", "", "nan", "Err:502"], "Row 2"), [np.nan, 2, *[np.nan] * 3]
    )
    for word in ("x", "N/A", "1,5", "Err: no"):
        with pytest.raises(InputError, match=f"Row 2 holds '{word}' where a number is expected"):
            formats.cells(["1", word], "Row 2")


def test_tables_that_are_wrong(path):
    path.write_text("name,y\na,1\n")
    with pytest.raises(InputError, match="no column 'x'; its columns are name, y"):
        formats.read_table(path, ("name", "x"))
    path.write_text("name,x\na,1\nb\n")
    with pytest.raises(InputError, match=r"Row 3 of .* has 1 column; the header has 2"):
        formats.read_table(path)
    path.write_text(",\n,\n")  # only blank cells
    with pytest.raises(InputError):
        formats.read_table(path)
    path.write_text("name,x\n" + "a" * 200_000 + ",1\n")
    with pytest.raises(InputError, match="not a CSV file"):
        formats.read_table(path)


def test_json(path):
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, null]}')
    assert files.read_json(path) == {"a": [1, None]}
    for content in ('{"a": ', "[" * 100_000, "{'a': 1}"):
        path.write_text(content)
        with pytest.raises(InputError, match="is not JSON"):
            files.read_json(path)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 faces are"), (1, "1 face is"), (2, "2 faces are"), (2500, "2,500 faces are")]
)
def test_the_noun_agrees_with_the_number(number, text):
    assert formats.counted(number, "face is", "faces are") == text


def test_long_lists_are_cut():
    assert (
        formats.listed("abc") == "a, b, c"
        and formats.listed("abc", 2) == "a, b and 1 more"
        and formats.listed([]) == ""
    )


def test_lists_of_names(path):
    path.write_bytes(b"# chosen\r\n a \r\n\r\nb c\r\n#d\r\n")
    assert formats.read_lines(path) == ["a", "b c"]


def test_numbers():
    np.testing.assert_array_equal(formats.numbers(["1", " 2.5 ", "-3e1"], "It"), [1.0, 2.5, -30.0])
    for words, message in ((["1", "a"], "It holds 'a'"), (["1", None], "It holds 'None'"), (["inf"], "not finite")):
        with pytest.raises(InputError, match=message):
            formats.numbers(words, "It")


@pytest.mark.parametrize("name", ["a.png", "sub/a.png", "sub\\a.png", "./a.png", "..a.png", "a..b/c.png"])
def test_names_inside(tmp_path, name):
    inside = formats.inside(tmp_path, name, "list.txt")
    assert inside.resolve().is_relative_to(tmp_path.resolve())
    assert inside == tmp_path / name.replace("\\", "/")


@pytest.mark.parametrize(
    "name", ["../a", "a/../../b", "/etc/passwd", "..\\a", "\\a", "C:\\a", "c:/a", ".", "a\0b", "sub/.."]
)
def test_names_outside_the_folder(tmp_path, name):
    with pytest.raises(InputError, match=r"list\.txt names the file .*, which lies outside"):
        formats.inside(tmp_path, name, "list.txt")


@pytest.mark.parametrize("name", ["", " "])
def test_empty_names(tmp_path, name):
    with pytest.raises(InputError, match=r"list\.txt holds an empty name where a file name is expected"):
        formats.inside(tmp_path, name, "list.txt")


@FUZZ
@given(name=st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "a", "", "b:"]), max_size=5).map("/".join))
def test_no_name_leaves_the_folder(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp().resolve()
    try:
        found = formats.inside(folder, name, "list.txt")
    except InputError:
        return
    assert found != folder and ".." not in found.parts and found.is_relative_to(folder)


_WORDS = st.lists(
    st.sampled_from(["version: 1", "n_points: 2", "{", "}", "1 2", "nan", "//", "#", ",", ";", "x", "\r"])
)
_ANY = st.binary(max_size=120) | st.text(max_size=120).map(str.encode) | _WORDS.map(lambda w: "\n".join(w).encode())


@FUZZ
@given(content=_ANY)
@pytest.mark.parametrize(
    "read", [files.read_text, formats.read_pts, formats.read_points, formats.read_table, files.read_json]
)
def test_any_bytes_are_read_or_refused(path, read, content):
    path.write_bytes(content)
    try:
        result = read(path)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error).strip()
        return
    if isinstance(result, np.ndarray):
        assert result.ndim == 2 and result.shape[1] == 2 and np.isfinite(result).all()


_FLOATS = st.floats(-1e5, 1e5, width=32)


@FUZZ
@given(points=st.lists(st.tuples(_FLOATS, _FLOATS), min_size=1, max_size=9))
def test_points_are_read_back(path, points):
    rows = "\n".join(f"{x!r} {y!r}" for x, y in points)
    path.write_text(f"version: 1\nn_points: {len(points)}\n{{\n{rows}\n}}\n")
    np.testing.assert_array_equal(formats.read_pts(path, first=0.0), np.array(points, np.float32))
    path.write_text(rows)
    np.testing.assert_array_equal(formats.read_points(path, len(points)), np.array(points, np.float32))
    path.write_text(json.dumps(points))
    np.testing.assert_array_equal(np.float32(files.read_json(path)), np.array(points, np.float32))
