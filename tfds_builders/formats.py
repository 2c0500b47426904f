"""Readers of the small text formats that datasets use for labels, and helpers for messages to the user."""

from __future__ import annotations

import csv
import io
import math
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable

import numpy as np

from mlcm_jax.errors import InputError
from mlcm_jax.files import read_bytes, read_text


def counted(number: float, one: str, many: str) -> str:
    """Joins a number and a noun that agrees with it, for messages: "1 face is", "2,000 faces are".

    Args:
        number: how many.
        one: what follows 1, such as "face is".
        many: what follows any other number, such as "faces are".
    """
    return f"{number:,} {one if number == 1 else many}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """Joins the first `most` names with commas, and adds how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def composed(name: str) -> str:
    """Returns a name with composed letters (NFC): macOS and some archives write "ü" as "u" and two dots."""
    return unicodedata.normalize("NFC", name)


def numbers(words: Iterable[str], where: str) -> np.ndarray:
    """Converts words to float64 [N].

    Args:
        words: numbers as text.
        where: the beginning of the message, such as "The file a.txt".

    Raises:
        InputError: a word that is not a finite number.
    """
    words = list(words)
    try:
        values = [float(word) for word in words]
    except (TypeError, ValueError, OverflowError):
        bad = next((word for word in words if not _is_number(word)), "")
        raise InputError(f"{where} holds {str(bad)[:40]!r} where a number is expected.") from None
    if not all(map(math.isfinite, values)):
        raise InputError(f"{where} holds a number that is not finite.")
    return np.array(values, np.float64)


# Errors that spreadsheets write into cells, in any language: #DIV/0!, #N/A, #NAME?, #¡VALOR!, #GETTING_DATA, #####.
_SPREADSHEET_ERROR = re.compile(r"#+|#[¡¿]?[^\W\d_]+([/_][^\W_]+)?[!?]?|ERR:\d+")


def is_blank(word: str) -> bool:
    """Whether a cell of a table has no content: no text, or a spreadsheet error such as #DIV/0! or Err:502."""
    error = _SPREADSHEET_ERROR.fullmatch(word.upper()) and (word.isupper() or word.startswith(("##", "Err:")))
    return not word or bool(error)


def cells(words: Iterable[str], where: str) -> np.ndarray:
    """Converts cells of a table to float32 [N]; blank cells and spreadsheet errors become NaN.

    Args:
        words: the cells, without spaces around them.
        where: the beginning of the message, such as "Row 3 of a.csv".

    Raises:
        InputError: a cell that holds other text.
    """
    words = list(words)
    bad = next((word for word in words if not is_blank(word) and not _is_number(word)), None)
    if bad is not None:
        raise InputError(f"{where} holds {bad[:40]!r} where a number is expected.")
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, and count as unlabelled or are refused
        return np.array([math.nan if is_blank(word) else float(word) for word in words]).astype(np.float32)


def read_pts(path: str | os.PathLike, count: int | None = None, *, first: float = 1.0) -> np.ndarray:
    """Reads landmarks from a `.pts` file: `version: 1`, `n_points: 68`, `{`, rows of x y, `}`.

    Args:
        path: the file.
        count: the number of points that the file must hold; None accepts the `n_points` in it.
        first: the coordinate of the first pixel's centre in the file, which becomes 0; 300-W counts from 1.

    Returns:
        float32 [K, 2] (x, y) in pixels, with pixel centres at integers from 0.

    Raises:
        InputError: a missing file, another format, another number of points, NaN.
    """
    text = re.sub(r"(//|#).*", "", read_text(path))
    match = re.fullmatch(r"(?P<head>[^{}]*)\{(?P<body>[^{}]*)\}\s*", text)
    announced = re.search(r"n_points\s*:\s*(\d+)", match["head"]) if match else None
    if not announced:
        raise InputError(f"The file {path} is not a .pts file, which has version, n_points and rows between braces.")
    values = numbers(match["body"].split(), f"The file {path}")
    _check_count(path, len(values), int(announced[1]), "n_points is")
    return _points(path, values, count) - np.float32(first)


def read_points(path: str | os.PathLike, count: int | None = None) -> np.ndarray:
    """Reads rows "x y" or "x,y" as float32 [K, 2], unchanged; a header row of words is skipped."""
    rows = [re.split(r"[\s,;]+", line.strip().strip(",;")) for line in read_text(path).splitlines() if line.strip()]
    if not any(map(_is_number, rows[0])):
        rows = rows[1:]
    wrong = next((k for k, row in enumerate(rows, 1) if len(row) != 2), None)
    if wrong or not rows:
        raise InputError(f"The file {path} must hold rows of x and y; row {wrong or 1} does not.")
    return _points(path, numbers([word for row in rows for word in row], f"The file {path}"), count)


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """Reads points from a file that `numpy.save` wrote.

    Returns:
        float32 [K, 2] (x, y), unchanged.

    Raises:
        InputError: a missing or damaged file, another shape than [K, 2], NaN.
    """
    content = read_bytes(path)
    if not content.startswith(b"\x93NUMPY"):
        raise InputError(f"The file {path} is not an array that numpy.save wrote.")
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception:  # numpy evaluates the header as Python, which fails in many ways
        raise InputError(f"The file {path} is damaged or not an array of numbers; write it with numpy.save.") from None
    if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != 2:
        what = f"{array.dtype} of shape {array.shape}"
        raise InputError(f"The file {path} holds {what}; it must hold numbers, one row of x and y for each point.")
    if not len(array) or not np.isfinite(array).all():
        raise InputError(f"The file {path} holds {'a number that is not finite' if len(array) else 'no points'}.")
    return _points(path, array.astype(np.float64).ravel(), None)


def read_rows(path: str | os.PathLike) -> list[list[str]]:
    """Reads the rows of a CSV file, without spaces around the cells.

    The delimiter may be a comma, a semicolon or a tab. Rows in which every cell `is_blank` are skipped.

    Raises:
        InputError: a missing file, or one that is not a CSV file.
    """
    text = read_text(path).lstrip("\n")
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    try:
        reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
        rows = [[word.strip() for word in row] for row in reader]
    except csv.Error as error:
        raise InputError(f"The file {path} is not a CSV file: {error}.") from None
    return [row for row in rows if not all(map(is_blank, row))]


def read_table(path: str | os.PathLike, required: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """Reads the rows of a CSV file with a header, as {column: text}; see `read_rows`.

    Args:
        path: the file.
        required: the columns that it must have.

    Raises:
        InputError: a missing file or column, or a row that is longer or shorter than the header.
    """
    rows = read_rows(path)
    if not rows:
        raise InputError(f"All rows of the file {path} are blank.")
    names = rows[0]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise InputError(f"The file {path} has two columns {twice!r}.")
    missing = [name for name in required if name not in names]
    if missing:
        found = " ".join(", ".join(names).split())[:200]
        raise InputError(f"The file {path} has no column {missing[0]!r}; its columns are {found}.")
    for k, row in enumerate(rows[1:], 2):
        if len(row) != len(names):
            columns = counted(len(row), "column", "columns")
            raise InputError(f"Row {k} of {path} has {columns}; the header has {len(names)}.")
    return [dict(zip(names, row, strict=True)) for row in rows[1:]]


def read_lines(path: str | os.PathLike) -> list[str]:
    """Reads a list of names, one per line; blank lines and those that start with # are skipped."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def inside(folder: pathlib.Path, name: str, source: str | os.PathLike) -> pathlib.Path:
    """Returns `folder / name` for a name that a list or label file gives, with slashes or backslashes.

    Args:
        folder: the folder that must hold the named file.
        name: a path relative to it.
        source: the list or label file, for the message.

    Raises:
        InputError: an empty name, or one that leads out of the folder.
    """
    if not str(name).strip():
        raise InputError(f"{source} holds an empty name where a file name is expected.")
    parts = pathlib.PurePosixPath(str(name).strip().replace("\\", "/"))
    drive = len(parts.parts) and parts.parts[0].endswith(":")
    if not parts.parts or parts.is_absolute() or drive or ".." in parts.parts or "\0" in str(name):
        raise InputError(f"{source} names the file {str(name)[:80]!r}, which lies outside {folder}.")
    return folder.joinpath(*parts.parts)


def _points(path: str | os.PathLike, values: np.ndarray, count: int | None) -> np.ndarray:
    if len(values) % 2:
        raise InputError(f"The file {path} holds an odd number of values ({len(values)}), not pairs of x and y.")
    if count is not None:
        _check_count(path, len(values), count, "there must be")
    if values.size and np.abs(values).max() > 1e6:
        raise InputError(f"The file {path} holds the coordinate {np.abs(values).max():g}, which is not a pixel.")
    return values.reshape(-1, 2).astype(np.float32)


def _check_count(path: str | os.PathLike, values: int, count: int, words: str) -> None:
    if values != 2 * count:
        points = f"{values / 2:g} point" + ("" if values == 2 else "s")
        raise InputError(f"The file {path} holds {points}; {words} {count}.")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
