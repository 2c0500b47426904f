"""Images as tables of numbers: the CSV files of temperatures that the software of thermal cameras exports."""

import re
from typing import NamedTuple

import numpy as np

from mlcm_jax.errors import InputError

SUFFIXES = (".csv", ".tsv", ".txt")
_LARGEST = 1 << 27  # bytes
_SMALLEST = 8  # rows and columns of the smallest sensors; tables of landmarks or boxes have fewer columns
_NUMBER = r"[+-]?(?:\d++(?:{point}\d*+)?+|{point}\d++)(?:[eE][+-]?\d{{1,3}}+)?+"
_HOLE = r"(?:[nN][aA][nN]|[+-]?[iI][nN][fF]|-{1,3})?+"
_UNIT = re.compile(r"[°º]\s?([CFK])\b|\b(celsius|fahrenheit|kelvin)\b|(?-i:[\[(]([CFK])[\])])", re.IGNORECASE)
_NUMBERS_ONLY = re.compile(r"[-+0-9.,;\t eE]*\d[-+0-9.,;\t eE]*")


class _Form(NamedTuple):
    """How the numbers of a table are written."""

    separator: str
    point: str

    @property
    def row(self) -> re.Pattern:
        """Matches a line of at least two fields, one of which at least begins with a number."""
        field = rf"[ \"]*+(?:{_NUMBER.format(point=re.escape(self.point))}|{_HOLE})[ \"]*+"
        return re.compile(rf"(?=.*\d){field}(?:{self.separator}{field})++")


class _Table(NamedTuple):
    """The lines of a table, and the number of fields in each."""

    rows: range
    width: int

    @property
    def size(self) -> int:
        """The number of fields."""
        return len(self.rows) * self.width


_FORMS = (_Form("\t", "."), _Form("\t", ","), _Form(";", "."), _Form(";", ","), _Form(",", "."))


def read(content: bytes, name: str) -> tuple[np.ndarray, str, str]:
    """Reads the first table of numbers in a file.

    The numbers are separated by commas, semicolons or tabs, and may have decimal commas if they are not separated by
    commas. Other lines, such as a header, are skipped. A first row or column that counts the columns or rows is left
    out. Empty fields, `NaN` and `-` are holes.

    Returns:
        (float32 [H, W]; a sentence about what was skipped, or ""; the unit that the other lines name, as the option
        --celsius has it, or "").

    Raises:
        InputError: no table of at least 8 x 8 numbers, one that may be read in two ways, or one with a row that is
            damaged or cut off.
    """
    lines = _lines(content, name)
    marks = {mark for mark in "\t;," if any(mark in line for line in lines)} | {"."}
    found = {form: _tables(lines, form) for form in _FORMS if marks.issuperset(form)}
    found = {form: tables for form, tables in found.items() if tables}
    if not found:
        raise InputError(
            f"The file {name} holds no table of numbers that are separated by commas, semicolons or tabs, with the "
            "same number in each row."
        )
    form = max(found, key=lambda form: max(table.size for table in found[form]))
    largest = max(table.size for table in found[form])
    tables = [table for table in found[form] if 2 * table.size >= largest]  # smaller ones are settings, say
    table = tables[0]
    if table.width < _SMALLEST:  # before millions of rows are read
        _check_size((len(table.rows), table.width), name)
    values = np.stack([_numbers(lines[k], form) for k in table.rows])
    if all(not lines[k].rpartition(form.separator)[2].strip(' "') for k in table.rows):
        values = values[:, :-1]  # every row has a closing separator
    if form.separator == "," and _torn([lines[k] for k in table.rows], values):
        raise InputError(
            f"In the file {name}, commas seem to separate both numbers and their decimals; export it with semicolons "
            "or tabs between the numbers, or with decimal points."
        )
    values, counted = _without_counts(values)
    taken = {k for one in tables for k in one.rows}
    others = {k: line for k, line in enumerate(lines) if k not in taken}
    _check_others(others, table, form, name)
    _check_size(values.shape, name)
    text = list(others.values())
    skipped = sum(1 for line in text if line.strip(' \t;,"'))
    unit = _unit(text)
    lost = "1 line was" if skipped == 1 else f"{skipped} lines were"
    notes = [f"{lost} skipped, which have no numbers of the image"] if skipped else []
    notes += [f"{counted} that only counts was left out"] if counted else []
    notes += [f"the file holds {len(tables)} tables, of which the first was read"] if len(tables) > 1 else []
    notes += [f"its text says that the unit is {unit}"] if unit else []
    with np.errstate(over="ignore"):  # 1e99 becomes infinite, a value that no thermometer gives
        return values.astype(np.float32), "; ".join(notes), unit


def _check_size(shape: tuple[int, ...], name: str) -> None:
    if min(shape) < _SMALLEST:
        raise InputError(
            f"The file {name} holds a table of {shape[1]} x {shape[0]} numbers; an image has at least {_SMALLEST} x "
            f"{_SMALLEST}."
        )


def _lines(content: bytes, name: str) -> list[str]:
    if len(content) > _LARGEST:
        raise InputError(f"The file {name} has {len(content):,} bytes, which is too much for a table of temperatures.")
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # ° in the files of older software
    if "\0" in text:
        raise InputError(f"The file {name} is not text: it contains NUL bytes.")
    return re.split(r"\r\n|\r|\n", text)


def _tables(lines: list[str], form: _Form) -> list[_Table]:
    """Finds the tables: at least two lines that follow each other and have the same number of fields."""
    matches, separator, found, start, width = form.row.fullmatch, form.separator, [], 0, 0
    for k, line in enumerate([*lines, ""]):
        fields = line.count(separator) + 1 if separator in line and matches(line) else 0
        if fields != width:
            if width and k - start > 1:
                found.append(_Table(range(start, k), width))
            start, width = k, fields
    return found


def _check_others(others: dict[int, str], table: _Table, form: _Form, name: str) -> None:
    """Raises InputError if a line that is not in a table seems to be a row of one, damaged or cut off.

    It does if it follows the table, and has as many fields or numbers only; and anywhere if half of its fields are
    numbers, unless these count the columns.
    """
    number = re.compile(_NUMBER.format(point=re.escape(form.point)))
    found = []
    for k, line in others.items():
        fields = [one.strip(' "') for one in line.split(form.separator)]
        numbers = [float(one.replace(form.point, ".")) for one in fields if number.fullmatch(one)]
        broken = 2 * len(numbers) >= table.width and not (np.diff(numbers) == 1).all()
        if k == table.rows.stop and any(fields):
            broken = broken or len(fields) == table.width or bool(_NUMBERS_ONLY.fullmatch(line))
        if broken:
            found.append((len(numbers) == table.width, k + 1))
    if found:
        # A whole row is among them if the next one is damaged.
        raise InputError(
            f"Line {min(found)[1]} of the file {name} is not a row of {table.width} numbers, unlike others; is it "
            "damaged, or cut off?"
        )


def _numbers(line: str, form: _Form) -> np.ndarray:
    """Reads a row, float64 [W]."""
    fields = line.replace('"', "").replace(form.point, ".").split(form.separator)
    return np.array([field if (field := one.strip()).strip("-") else "nan" for one in fields], np.float64)


def _torn(lines: list[str], values: np.ndarray) -> bool:
    """Whether every second number continues the one before it: 21,5,21,6 for 21.5 and 21.6."""
    if values.shape[1] < 4 or values.shape[1] % 2 or np.isnan(values).any() or any("." in line for line in lines):
        return False
    near = np.abs(np.diff(values[:, ::2], axis=1)).mean()
    across = np.abs(values[:, ::2] - values[:, 1::2]).mean()
    return bool(across > 4 * near + 1)


def _without_counts(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Removes a first row and column that hold 0, 1, 2, … or 1, 2, 3, …; says which."""
    found = []
    if values.shape[0] > 2 and _counts(values[0]):
        values, found = values[1:], ["the first row"]
    if values.shape[1] > 2 and _counts(values[:, 0]):
        values, found = values[:, 1:], [*found, "the first column"]
    return values, " and ".join(found)


def _counts(numbers: np.ndarray) -> bool:
    """Whether numbers count up by one from 0 or 1; the first may be missing, in the corner of a table."""
    start = numbers[1] - 1 if np.isnan(numbers[0]) else numbers[0]
    return len(numbers) >= 4 and start in (-1, 0, 1) and np.array_equal(numbers[1:], start + np.arange(1, len(numbers)))


def _unit(lines: list[str]) -> str:
    """Finds the unit that the lines of text name, if it is only one."""
    names = {"c": "celsius", "f": "fahrenheit", "k": "kelvin"}
    found = {next(filter(None, groups)).lower()[0] for line in lines for groups in _UNIT.findall(line[:10_000])}
    return names[found.pop()] if len(found) == 1 else ""
