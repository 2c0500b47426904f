"""Reads the label files of `paired_folder` (see README.md): one per image, one JSON file for all, or COCO keypoints."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from mlcm_jax import files
from mlcm_jax.errors import InputError
from mlcm_jax.landmarks import Box, check_box
from tfds_builders import formats

ENDINGS = (".pts", ".json", ".csv", ".txt")


@dataclasses.dataclass(eq=False)
class Label:
    """The label of one face.

    Attributes:
        landmarks: float32 [K, 2] in pixels; None: unlabelled. A point without a label is placed at the mean of the
            others, is not visible, and has the confidence 0.
        known: bool [K], True for points that have a label.
        visible: bool [K].
        confidence: float32 [K], 0 to 1.
        box: x, y, w, h in pixels.
        subject: the person; "" if the file names nobody.
        pseudo: whether the landmarks come from a model, not from a person.
    """

    landmarks: np.ndarray | None = None
    known: np.ndarray | None = None
    visible: np.ndarray | None = None
    confidence: np.ndarray | None = None
    box: Box | None = None
    subject: str = ""
    pseudo: bool = False


def read_one(path: pathlib.Path) -> list[Label]:
    """Reads the faces of one image from its own .pts, .json, .csv or .txt file."""
    ending = path.suffix.lower()
    if ending == ".json":
        return _faces(files.read_json(path), f"The file {path}")
    points = formats.read_pts(path) if ending == ".pts" else formats.read_points(path)
    return [_label([tuple(row) for row in points.tolist()], f"The file {path}", {})]


def read_all(
    path: pathlib.Path, resolve: Callable[[str, str | os.PathLike], str]
) -> tuple[dict[str, list[Label]], list[str]]:
    """Reads the faces of all images from one JSON file.

    Args:
        path: a file with a list of entries with `name`, entries by name, or COCO keypoints.
        resolve: maps a name as the file writes it, and the file's path, to the pair's name (see `folder.Names`).

    Returns:
        Name -> faces, and remarks for the user.

    Raises:
        InputError: another form, NaN, flags that do not fit the points, or two spellings of one image's name.
    """
    content, remarks = files.read_json(path), []
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        rows, remarks = _coco(content, path)
    elif isinstance(content, dict):
        rows = [(word, _faces(value, f"{word[:80]!r} in {path}")) for word, value in content.items()]
    elif isinstance(content, list):
        rows = [_row(entry, k, path) for k, entry in enumerate(content)]
    else:
        raise InputError(f"The file {path} must hold labels by name, a list of them, or COCO keypoints.")
    result: dict[str, list[Label]] = {}
    words: dict[str, str] = {}
    for word, faces in rows:
        name = resolve(word, path)
        if words.setdefault(name, word) != word:
            raise InputError(f"{path} labels the pair {name} twice, as {words[name]!r} and as {word!r}; keep one.")
        result.setdefault(name, []).extend(faces)
    return result, remarks


def _row(entry: Any, k: int, path: pathlib.Path) -> tuple[str, list[Label]]:
    word = entry.get("name", entry.get("file_name")) if isinstance(entry, dict) else None
    if not isinstance(word, str) or not word.strip():
        raise InputError(f"Entry {k} of {path} must be an object with a name or file_name.")
    return word, [_face(entry, f"{word[:80]!r} in {path}")]


def _faces(value: Any, where: str) -> list[Label]:
    """Reads the value of an image: a list of objects is several faces, anything else is one face."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [_face(item, f"{where}, face {k + 1},") for k, item in enumerate(value)]
    return [_face(value, where)]


def _face(value: Any, where: str) -> Label:
    if value is None:
        return Label()
    if isinstance(value, list):
        return _label(value, where, {})
    if not isinstance(value, dict):
        raise InputError(f"{where} must be null, a list of [x, y], or an object with landmarks.")
    keys = [key for key in value if re.fullmatch(r"landmarks[0-9]*", key)]
    if len(keys) != 1:
        fault = f"has both {keys[0]} and {keys[1]}" if keys else "has no landmarks"
        raise InputError(f"{where} {fault}; one key landmarks is needed, null for an unlabelled face.")
    return _label(value[keys[0]], where, value)


def _label(points: Any, where: str, entry: dict) -> Label:
    """Makes the label of a face from its points, each [x, y] or null, and the other keys of its entry."""
    label = Label(subject=_text(entry.get("subject"), f"{where} subject"))
    if entry.get("pseudo") not in (None, True, False):
        raise InputError(f"{where} has pseudo: {str(entry['pseudo'])[:40]}; it must be true or false.")
    label.pseudo = bool(entry.get("pseudo"))
    if entry.get("box") is not None:
        label.box = check_box(entry["box"], f"{where} has a box that")
    if points is None:
        return label
    if not isinstance(points, list) or not points:
        raise InputError(f"{where} has landmarks that are not a list of [x, y]; null stands for a face without labels.")
    known = np.array([point is not None for point in points])
    rows = [(0.0, 0.0) if row is None else _floats(row, 2, f"{where} point {k}") for k, row in enumerate(points)]
    if not known.any():
        return label
    count = len(points)
    label.known, label.visible, label.confidence = known, known.copy(), known.astype(np.float32)
    if entry.get("visible") is not None:
        flags = entry["visible"]
        if not isinstance(flags, list) or len(flags) != count or not all(flag in (0, 1) for flag in flags):
            points = formats.counted(count, "point", "points")
            raise InputError(f"{where} has visible, which must be one true or false for each of its {points}.")
        label.visible &= np.array(flags, bool)
    if entry.get("confidence") is not None:
        values = np.array(_floats(entry["confidence"], count, f"{where} confidence"))
        if (values < 0).any() or (values > 1).any():
            raise InputError(f"{where} has a confidence outside 0 to 1.")
        label.confidence *= values.astype(np.float32)
    array = np.array(rows, np.float32)
    array[~known] = array[known].mean(0)
    label.landmarks = array
    return label


def _coco(content: dict, path: pathlib.Path) -> tuple[list[tuple[str, list[Label]]], list[str]]:
    """Reads COCO keypoints; returns the faces by `file_name`, and remarks.

    Keypoints are triples x, y, v, where v is 0 for an unlabelled point, 1 for a hidden and 2 for a visible one. Some
    tools, such as MMPose's converters for 300W and WFLW, write 1 for every labelled point. Therefore 1 counts as
    visible if no v in the file is 2.
    """
    file_of: dict = {}
    for k, image in enumerate(_list(content["images"], f"images in {path}")):
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            raise InputError(f"Image {k} of {path} has no file_name.")
        number = image.get("id")
        if not isinstance(number, int | str) or number in file_of:
            raise InputError(f"Image {image['file_name'][:80]!r} of {path} has no unique id.")
        file_of[number] = image["file_name"]
    found: dict[str, list[Label]] = {file: [] for file in file_of.values()}
    triples: list[tuple[str, dict[str, Any], str, list[list[float]]]] = []
    for k, row in enumerate(_list(content["annotations"], f"annotations in {path}")):
        where = f"Annotation {k} of {path}"
        number = row.get("image_id") if isinstance(row, dict) else None
        if not isinstance(number, int | str) or number not in file_of:
            raise InputError(f"{where} has an image_id that is not among the images.")
        keypoints = row.get("keypoints")
        if not isinstance(keypoints, list) or len(keypoints) % 3 or not keypoints:
            raise InputError(f"{where} has no keypoints x, y, v.")
        points = [_floats(keypoints[i : i + 3], 3, where) for i in range(0, len(keypoints), 3)]
        if not all(v in (0, 1, 2) for _, _, v in points):
            raise InputError(f"{where} has a keypoint whose v is not 0, 1 or 2.")
        triples.append((file_of[number], row, where, points))
    values = {v for _, _, _, points in triples for _, _, v in points}
    visible = 2 if 2 in values else 1
    for file, row, where, points in triples:
        entry = {key: row.get(key) for key in ("subject", "pseudo", "confidence")}
        entry["box"] = row.get("bbox") or None
        entry["visible"] = [v == visible for _, _, v in points]
        found[file].append(_label([(x, y) if v else None for x, y, v in points], where, entry))
    remark = f"No keypoint in {path.name} has v = 2, so v = 1 counts as visible; hidden points are not marked."
    return list(found.items()), [remark] if 1 in values and 2 not in values else []


def read_boxes(path: pathlib.Path, resolve: Callable[[str, str | os.PathLike], str]) -> dict[str, Box]:
    """Reads boxes from CSV (name,x,y,w,h) or JSON ({"name": [x, y, w, h]}).

    Args:
        path: the file.
        resolve: maps a name as the file writes it, and the file's path, to the pair's name (see `folder.Names`).

    Returns:
        The pair's name, or name#2 for its second face -> box.

    Raises:
        InputError: another form, an empty box, two boxes for one face.
    """
    if path.suffix.lower() == ".json":
        rows = files.read_json(path)
        if not isinstance(rows, dict):
            raise InputError(f'The file {path} must hold {{"name": [x, y, w, h]}}.')
        given = [(word, value, f"The box of {word[:80]!r} in {path}") for word, value in rows.items()]
    else:
        table = formats.read_table(path, ("name", "x", "y", "w", "h"))
        given = [(row["name"], [row[k] for k in "xywh"], f"The box of {row['name']!r} in {path}") for row in table]
        given = [(word, formats.numbers(texts, where), where) for word, texts, where in given]
    result: dict[str, Box] = {}
    for word, value, where in given:
        head, sign, number = word.rpartition("#")
        numbered = bool(sign) and re.fullmatch(r"[0-9]+", number, re.ASCII)
        name = f"{resolve(head, path)}#{int(number)}" if numbered else resolve(word, path)
        if name in result:
            raise InputError(f"{path} has two boxes for {name}; a second face of an image is {name}#2.")
        result[name] = check_box(value, where)
    return result


def _floats(value: Any, count: int, where: str) -> list[float]:
    if not isinstance(value, list | tuple) or len(value) != count:
        needed = formats.counted(count, "number is expected", "numbers are expected")
        raise InputError(f"{where} is {str(value)[:60]} where {needed}.")
    for number in value:
        plain = isinstance(number, int | float) and not isinstance(number, bool)
        if not plain or not (abs(number) <= 10**9):  # also NaN
            raise InputError(f"{where} holds {str(number)[:40]!r}, which is not a number of a sensible size.")
    return [float(number) for number in value]


def _list(value: Any, where: str) -> list:
    if not isinstance(value, list):
        raise InputError(f"The {where} are not a list.")
    return value


def _text(value: Any, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"{where} is {str(value)[:40]}; it must be a word or a number.")
    return str(value).strip()
