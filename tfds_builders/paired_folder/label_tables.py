"""Reads one CSV file with the landmarks of all images: one row per face, one row per point, or VIA's export."""

from __future__ import annotations

import collections
import json
import pathlib
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

from mlcm_jax.errors import InputError
from mlcm_jax.landmarks import check_box
from tfds_builders import formats
from tfds_builders.paired_folder import label_tools
from tfds_builders.paired_folder.named_points import Marks

_FILE = ("file", "filename", "file_name", "name", "image", "image_name", "path", "image_path", "img")
_POINT = ("point", "landmark", "keypoint", "index", "point_id", "landmark_id", "point_name")
_VIA = ("filename", "region_shape_attributes", "region_attributes")
_FLAGS = {"1": True, "1.0": True, "true": True, "yes": True, "0": False, "0.0": False, "false": False, "no": False}

Rows = list[tuple[str, list[Marks]]]


def is_table(path: pathlib.Path) -> bool:
    """Whether the header of a CSV file names a column of files and columns of landmarks."""
    try:
        header = _header(formats.read_rows(path)[0])
    except (InputError, IndexError):
        return False
    if set(_VIA) <= set(header):
        return True
    pairs = [(name, column) for name, column in _pairs(header) if not _is_box(column, header)]
    return _column(header, _FILE) is not None and any(name or _column(header, _POINT) for name, _ in pairs)


def read(path: pathlib.Path) -> tuple[Rows, collections.Counter[str]]:
    """Reads all faces of a file.

    Returns:
        The faces by the name that the file gives to their image, in pixels, and how many of VIA's shapes there are that
        are neither points nor boxes, by kind.

    Raises:
        InputError: a header that names no landmarks, cells that are not numbers, or a point that is given twice.
    """
    table = formats.read_table(path)
    if not table:
        raise InputError(f"The file {path} has a header but no rows.")
    header = _header(list(table[0]))
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice:
        raise InputError(f"The file {path} has two columns {twice!r}; rename one of them.")
    rows = [dict(zip(header, row.values(), strict=True)) for row in table]
    if set(_VIA) <= set(header):
        return _via(rows, path)
    file, point = _column(header, _FILE), _column(header, _POINT)
    pairs = _pairs(header)
    if file is None or not pairs:
        raise InputError(
            f"The file {path} must have a header with a column file and columns x0,y0,x1,y1,…, or file,point,x,y; its "
            f"columns are {', '.join(header)[:200]}."
        )
    words = [row[file] for row in rows]
    if not all(words):
        raise InputError(f"Row {words.index('') + 2} of {path} names no file.")
    if point and pairs[0][0] == "":
        return _long(rows, (file, point, pairs[0][1]), path), collections.Counter()
    if not any(name for name, _ in pairs):
        raise InputError(f"The file {path} has one x and one y for each row, but no column point that names the point.")
    return _wide(rows, file, pairs, path), collections.Counter()


def _wide(rows: Sequence[Mapping[str, str]], file: str, pairs: Sequence[tuple[str, str]], path: pathlib.Path) -> Rows:
    """Reads one row per face; a further row for the same file is another face of it."""
    found: Rows = []
    boxes = [column for _, column in pairs if _is_box(column, rows[0])]
    for k, row in enumerate(rows, 2):
        where = f"Row {k} of {path}"
        face = Marks(where, subject=row.get("subject", ""))
        for name, column in pairs:
            if column in boxes or not name:
                continue
            place = _place(row, column, f"{where}, point {name},")
            flag = _swapped(column, "v")
            hidden = flag in row and place is not None and not _visible(row[flag], f"{where}, point {name},")
            face.add(name, place, hidden=hidden)
        if len(boxes) > 1:
            raise InputError(f"The file {path} has several boxes in a row; keep the columns of the face's box.")
        if boxes and not all(map(formats.is_blank, (row[side] for side in _sides(boxes[0])))):
            sides = formats.numbers([row[side] for side in _sides(boxes[0])], where).tolist()
            face.box = check_box(sides, f"{where} has a box that")
        found.append((row[file], [face]))
    return found


def _long(rows: Sequence[Mapping[str, str]], columns: tuple[str, str, str], path: pathlib.Path) -> Rows:
    """Reads one row per point; a column `face` tells the faces of an image apart."""
    faces: dict[str, dict[str, Marks]] = {}
    file, point, x = columns
    visible = next((name for name in ("visible", "visibility", "v") if name in rows[0]), None)
    for k, row in enumerate(rows, 2):
        where = f"Row {k} of {path}"
        if not row[point]:
            raise InputError(f"{where} names no point.")
        mine = faces.setdefault(row[file], {})
        face = Marks(f"{row[file][:80]!r} in {path}", subject=row.get("subject", ""))
        face = mine.setdefault(row.get("face", ""), face)
        place = _place(row, x, where)
        face.add(row[point], place, hidden=bool(visible) and place is not None and not _visible(row[visible], where))
    return [(word, list(mine.values())) for word, mine in faces.items()]


def _via(rows: Sequence[Mapping[str, str]], path: pathlib.Path) -> tuple[Rows, collections.Counter[str]]:
    """Reads VIA's export as CSV, which has one row per region, and one without a shape for an image that has none."""
    unread: collections.Counter[str] = collections.Counter()
    regions: dict[str, list[dict[str, Any]]] = {}
    for k, row in enumerate(rows, 2):
        where = f"Row {k} of {path}"
        if not row["filename"]:
            raise InputError(f"{where} names no file.")
        shape, attributes = (_object(row[key], f"{where}, {key},") for key in _VIA[1:])
        mine = regions.setdefault(row["filename"], [])
        if shape:
            mine.append({"shape_attributes": shape, "region_attributes": attributes})
    found = []
    for word, mine in regions.items():
        found.append((word, label_tools.via_faces(mine, Marks(f"{word[:80]!r} in {path}", str(path)), unread)))
    return found, unread


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{where} does not hold a JSON object in braces; export the project from VIA again.")
    return value


def _header(names: Sequence[str]) -> list[str]:
    return [name.lower().lstrip("#") for name in names]


def _column(header: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in header), None)


def _pairs(header: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the point's name and the column of x for every two columns that differ in x and y alone.

    The name is the rest of the column's: 12 for x12, x_12 or p12_x without its p, nose for nose_x, "" for a bare x.
    """
    found = []
    for column in header:
        if (other := _swapped(column, "y")) and other in header:
            name = re.sub(r"(?<![a-z])x(?![a-z])", "", column, count=1)
            found.append((name.strip(" _.-"), column))
    return found


def _swapped(column: str, letter: str) -> str | None:
    """Returns the name of a column of x with another letter in place of the x, which stands apart from words."""
    other = re.sub(r"(?<![a-z])x(?![a-z])", letter, column, count=1)
    return None if other == column else other


def _sides(column: str) -> tuple[str, ...]:
    """Returns the columns of x, y, w and h that belong to a column of x, whether the table has them or not."""
    return column, *(_swapped(column, side) or "" for side in "ywh")


def _is_box(column: str, header: Container[str]) -> bool:
    """Whether a column of x belongs to a box, which has a width and a height too."""
    return all(side in header for side in _sides(column))


def _place(row: Mapping[str, str], column: str, where: str) -> tuple[float, float] | None:
    """Returns x and y of a point, or None if both cells are blank."""
    words = row[column], row[_swapped(column, "y") or ""]
    blank = [formats.is_blank(word) for word in words]
    if all(blank):
        return None
    if any(blank):
        raise InputError(f"{where} has only one of x and y; leave both blank for a point without a label.")
    x, y = formats.numbers(words, where).tolist()
    return x, y


def _visible(word: str, where: str) -> bool:
    if word.lower() not in _FLAGS:
        raise InputError(f"{where} has the visibility {word[:20]!r}; it must be 1 (visible) or 0 (hidden).")
    return _FLAGS[word.lower()]
