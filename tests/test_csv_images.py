"""Tables of temperatures: the exports of cameras' software in every form, and tables that cannot be right."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlcm_jax import csv_images, images, read_image
from mlcm_jax.errors import InputError

CELSIUS = np.random.default_rng(0).uniform(20, 38, (12, 16)).round(2)


def table(separator=",", point=".", values=CELSIUS, end=""):
    return "\n".join(separator.join(f"{v:.2f}".replace(".", point) for v in row) + end for row in values)


def write(path, text, encoding="utf-8"):
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("separator", "point"), [(",", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ","), (", ", ".")]
)
@pytest.mark.parametrize("ending", [".csv", ".txt", ".TSV"])
def test_every_form_has_the_values_that_were_written(tmp_path, separator, point, ending):
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "latin-1"):
        for line_end in ("\n", "\r\n", "\r"):
            text = table(separator, point).replace("\n", line_end)
            image = read_image(write(tmp_path / f"a{ending}", text, encoding))
            np.testing.assert_array_equal(image.values, CELSIUS.astype(np.float32))
            np.testing.assert_array_equal(image.celsius, image.values)


def test_a_separator_at_the_end_of_each_row(tmp_path):
    found = images.read(write(tmp_path / "a.csv", table(";", ",", end=";")))
    np.testing.assert_array_equal(found.array, CELSIUS.astype(np.float32))


HEADER = "File;D:\\a.irb\nDate;01.02.2026 12:13\nEmissivity;0,95\nSize;16;12\n\n[Data]\n"


def test_lines_of_text_are_skipped_and_told(tmp_path):
    found = images.read(write(tmp_path / "a.csv", HEADER + table(";", ",")))
    np.testing.assert_array_equal(found.array, CELSIUS.astype(np.float32))
    assert found.more == "5 lines were skipped, which have no numbers of the image" and found.unit == ""


@pytest.mark.parametrize(
    ("line", "unit"),
    [
        ("Temperature (°F)", "fahrenheit"), ("unit;[K]", "kelvin"), ("in Celsius", "celsius"),
        ("degrees fahrenheit", "fahrenheit"), ("Reflected 20 °C, values in °F", ""),
        ("(c) by a maker", ""), ("Frank;K", ""),
    ],
)  # fmt: skip
def test_a_unit_that_the_text_names_is_taken(tmp_path, line, unit):
    values = {"fahrenheit": CELSIUS * 1.8 + 32, "kelvin": CELSIUS + 273.15}.get(unit, CELSIUS)
    for encoding in ("utf-8", "latin-1"):
        path = write(tmp_path / "a.csv", line + "\n" + table(";", values=values), encoding)
        assert images.read(path).unit == unit
        np.testing.assert_allclose(read_image(path).celsius, CELSIUS, atol=0.006)
        np.testing.assert_allclose(read_image(path, celsius="1,5").celsius, values + 5, atol=0.006)  # the user knows


def test_holes(tmp_path):
    rows = [line.split(";") for line in table(";", ",").split("\n")]
    for k, word in enumerate(("", "NaN", "-", "---", " nan ", "inf")):
        rows[3][k] = word
    values = read_image(write(tmp_path / "a.csv", "\n".join(map(";".join, rows)))).values
    holes = np.zeros(CELSIUS.shape, bool)
    holes[3, :6] = True
    np.testing.assert_array_equal(np.isnan(values), holes)
    np.testing.assert_array_equal(values[~holes], CELSIUS.astype(np.float32)[~holes])


@pytest.mark.parametrize("corner", ["", "y/x", "0"])
def test_numbers_of_rows_and_columns_are_left_out(tmp_path, corner):
    lines = [";".join([corner, *map(str, range(1, 17))])]
    lines += [f"{k};{line}" for k, line in enumerate(table(";").split("\n"), 1)]
    found = images.read(write(tmp_path / "a.csv", "\n".join(lines)))
    np.testing.assert_array_equal(found.array, CELSIUS.astype(np.float32))
    assert "the first column that only counts was left out" in found.more.replace("the first row and ", "")


def test_several_images_in_a_file_are_told(tmp_path):
    text = "Frame 1\n" + table(";") + "\n\nFrame 2\n" + table(";", values=CELSIUS + 1)
    found = images.read(write(tmp_path / "a.csv", text))
    np.testing.assert_array_equal(found.array, CELSIUS.astype(np.float32))
    assert "the file holds 2 tables, of which the first was read" in found.more


def test_whole_numbers_and_counts(tmp_path):
    whole = CELSIUS.round()
    text = "\n".join(",".join(f"{v:.0f}" for v in row) for row in whole)
    np.testing.assert_array_equal(images.read(write(tmp_path / "a.csv", text)).array, whole)
    counts = ((CELSIUS + 273.15) * 100).round()
    text = "\n".join("\t".join(f"{v:.0f}" for v in row) for row in counts)
    np.testing.assert_allclose(read_image(write(tmp_path / "a.csv", text)).celsius, CELSIUS, atol=0.01)


def broken(change):
    lines = table(";", ",").split("\n")
    change(lines)
    return "\n".join(lines)


@pytest.mark.parametrize("row", [0, 1, 5, 11])
@pytest.mark.parametrize("value", ["abc", "1.234,5", "12,5 13,5", "#DIV/0!"])
def test_a_damaged_value_is_refused_with_its_line(tmp_path, row, value):
    def change(lines):
        lines[row] = lines[row].replace(lines[row].split(";")[4], value, 1)

    with pytest.raises(InputError, match=rf"Line {row + 1} of the file .*a\.csv is not a row of 16 numbers"):
        images.read(write(tmp_path / "a.csv", broken(change)))


@pytest.mark.parametrize("keep", [5, 12, 40, 80])
def test_a_table_that_is_cut_off_is_refused(tmp_path, keep):
    def change(lines):
        lines[-1] = lines[-1][:keep]

    with pytest.raises(InputError, match=r"Line 12 of .* is it damaged, or cut off\?"):
        images.read(write(tmp_path / "a.csv", broken(change)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (table(",", ","), "commas seem to separate both numbers and their decimals"),
        ("name,x,y,w,h\na.png,1,2,3,4\n", "holds no table of numbers"),
        ("36.5\n36.6\n", "holds no table"),
        ("1,2\n", "holds no table"),
        ("x,y\n10.5,20\n30.25,21\n20,40.5\n", "a table of 2 x 3 numbers; an image has at least 8 x 8"),
        (table(values=CELSIUS[:7]), "a table of 16 x 7 numbers"),
        ("\n\n", "holds no table"),
        (b"1,2\n3,\0", "NUL bytes"),
    ],
)
def test_what_is_no_table_of_temperatures_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as raised:
        images.read(write(tmp_path / "a.csv", text))
    assert "a.csv" in str(raised.value) and "\n" not in str(raised.value)


@settings(deadline=10_000, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 1000), st.sampled_from(list('0.,;\n\t -aN"°e'))), max_size=4),
    keep=st.integers(1, 1152),
    cut=st.booleans(),
)
@example(changes=[(668, "e")], keep=1, cut=False)  # 2 and more digits of an exponent
def test_a_damaged_table_has_no_other_shape(tmp_path, changes, keep, cut):
    """Unless the separators themselves are changed in all rows; a cut within the last number cannot be seen."""
    text = list(table(";", ","))
    for place, letter in changes:
        text[place] = letter
    whole = "".join(text[:keep] if cut else text)
    try:
        found = images.read(write(tmp_path / "a.csv", whole)).array
    except InputError as error:
        assert "a.csv" in str(error) and "\n" not in str(error)
    else:
        assert found.shape[1] in (15, 16) and found.shape[0] >= 8


@settings(deadline=10_000, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(min_size=1, max_size=60),
        st.text(min_size=1, max_size=60).map(lambda text: text.encode("utf-8", "replace")),
        st.from_regex(rb"[0-9.,;\t\n eE+\-aN\"]{1,80}", fullmatch=True),
    )
)
@example(b"1" * 50_000)
@example(b"1," * 50_000)
@example(b"-" * 50_000 + b";1")
@example(b"1 " * 20_000 + b";" + b" " * 20_000)
@example(b'"' * 20_000 + b";1e" * 5_000)
@example(b"1e999;1\n1;1e-999")
@example(b"nan;1\nnan;1\n")
@example(b"1e99;1;2;3;4;5;6;7\n" * 8)
def test_any_text_gives_an_image_or_an_input_error(tmp_path, content):
    try:
        assert images.read(write(tmp_path / "a.csv", content)).array.size > 0
    except InputError as error:
        assert "a.csv" in str(error) and "\n" not in str(error)


def test_an_empty_last_field_is_a_hole_unless_every_row_has_one():
    rows = [[str(20.5 + (7 * r + 3 * c) % 5) for c in range(9)] for r in range(9)]
    closed = "\n".join(",".join(row) + "," for row in rows).encode()
    assert csv_images.read(closed, "a.csv")[0].shape == (9, 9)
    rows[3][8] = ""
    values = csv_images.read("\n".join(",".join(row) for row in rows).encode(), "a.csv")[0]
    assert values.shape == (9, 9) and np.isnan(values[3, 8]) and np.isfinite(values).sum() == 80
