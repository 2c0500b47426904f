"""Reads the label files of `paired_folder` (see README.md): one per image, or one for all images, in many forms."""

from __future__ import annotations

import collections
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlcm_jax import files
from mlcm_jax.errors import InputError
from mlcm_jax.landmarks import Box, check_box
from tfds_builders import formats
from tfds_builders.paired_folder import cvat, label_tables, label_tools, named_points
from tfds_builders.paired_folder import label as face_label
from tfds_builders.paired_folder.label import Label
from tfds_builders.paired_folder.named_points import UNSAID, Marks, Wanted

ENDINGS = (".pts", ".json", ".csv", ".txt", ".npy", ".xml")
TABLES = (".csv", ".tsv", ".txt")

Resolve = Callable[[str, str | os.PathLike], str]
Face = Label | Marks
Rows = list[tuple[str, list[Face]]]
Unread = collections.Counter[str]


def read_all(path: pathlib.Path, resolve: Resolve, wanted: Wanted = UNSAID) -> tuple[dict[str, list[Label]], list[str]]:
    """Reads the faces of all images from one file.

    Args:
        path: JSON (entries by name, a list of entries with `name`, COCO keypoints, labelme, Label Studio or VIA), XML
            from CVAT, or a table.
        resolve: maps a name as the file writes it, and the file's path, to the pair's name (see `folder.Names`).
        wanted: what the user said about the layout, which orders the points of annotation tools.

    Returns:
        Name -> faces, and remarks for the user.

    Raises:
        InputError: another form, NaN, flags that do not fit the points, or two spellings of one image's name.
    """
    rows, remarks, unread = _read(path, None)
    return _finish(_merge([(path, rows)], resolve), unread, remarks, wanted, f"The file {path}")


def read_each(
    paths: Mapping[str, pathlib.Path], resolve: Resolve, wanted: Wanted = UNSAID
) -> tuple[dict[str, list[Label]], list[str]]:
    """Reads the faces of many images from one file for each; a file in the form of one for all is read as that.

    Args:
        paths: what the name of every label file says about its image -> its path.
        resolve: see `read_all`.
        wanted: see `read_all`.

    Returns:
        Name -> faces, and remarks for the user.

    Raises:
        InputError: as `read_all`, or two files for one image.
    """
    sources, remarks, unread = [], [], collections.Counter()
    for word, path in paths.items():
        rows, more, others = _read(path, word)
        remarks += more
        sources.append((path, rows))
        unread += others
    first = next(iter(paths.values()), pathlib.Path())
    where = f"The file {first}" if len(paths) == 1 else f"The folder {first.parent}"
    return _finish(_merge(sources, resolve), unread, remarks, wanted, where)


def _read(path: pathlib.Path, word: str | None) -> tuple[Rows, list[str], Unread]:
    """Reads a file of any form.

    Args:
        path: the file.
        word: what the file's name says about its image; None: the file must name its images.

    Returns:
        The faces by the name of their image, remarks for the user, and the number of shapes of other kinds by kind.
    """
    ending, where, nothing = path.suffix.lower(), f"The file {path}", collections.Counter()
    if ending == ".json":
        return _read_json(path, word)
    if ending == ".xml":
        rows, unread = cvat.read(path)
        return [*rows], [], unread
    if ending in TABLES and (word is None or label_tables.is_table(path)):
        rows, unread = label_tables.read(path)
        return [*rows], [], unread
    if ending not in ENDINGS:
        raise InputError(f"{where} is of no form that is read here; there are {', '.join(ENDINGS)}.")
    if word is None:
        raise InputError(f"{where} labels one image; give --labels its folder, or a pattern such as '*{ending}'.")
    if ending == ".npy":
        points = formats.read_npy(path)
    else:
        points = formats.read_pts(path) if ending == ".pts" else formats.read_points(path)
    label = face_label.make([tuple(row) for row in points.tolist()], where, {})
    label.first = 1.0 if ending == ".pts" else 0.0
    return [(word, [label])], [], nothing


def _read_json(path: pathlib.Path, word: str | None) -> tuple[Rows, list[str], Unread]:
    content, nothing = files.read_json(path), collections.Counter()
    if reader := label_tools.reader_of(content):
        rows, unread = reader(content, path)
        alone = word is not None and reader is label_tools.labelme  # its file may have another name than in imagePath
        return [(word if alone else name, [*some]) for name, some in rows], [], unread
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        return *_coco(content, path), nothing
    if word is not None:
        return [(word, [*_faces(content, f"The file {path}")])], [], nothing
    if isinstance(content, dict):
        return [(name, [*_faces(value, f"{name[:80]!r} in {path}")]) for name, value in content.items()], [], nothing
    if isinstance(content, list):
        return [_row(entry, k, path) for k, entry in enumerate(content)], [], nothing
    raise InputError(f"The file {path} must hold labels by name, a list of them, or COCO keypoints.")


def _merge(sources: Iterable[tuple[pathlib.Path, Rows]], resolve: Resolve) -> dict[str, list[Face]]:
    """Collects the faces by the names of their pairs; an image that a tool lists without a face conflicts with none."""
    result: dict[str, list[Face]] = {}
    words: dict[str, tuple[str, pathlib.Path]] = {}
    for path, rows in sources:
        for word, faces in [(formats.composed(word), faces) for word, faces in rows]:
            name = resolve(word, path)
            earlier, place = words.setdefault(name, (word, path)) if faces else (word, path)
            if place != path:
                raise InputError(f"{path} labels the pair {name}, which {place} labels too; keep one of them.")
            if earlier != word:
                raise InputError(f"{path} labels the pair {name} twice, as {earlier!r} and as {word!r}; keep one.")
            result.setdefault(name, []).extend(faces)
    return result


def _finish(
    found: Mapping[str, list[Face]], unread: Mapping[str, int], remarks: list[str], wanted: Wanted, where: str
) -> tuple[dict[str, list[Label]], list[str]]:
    """Puts the points of annotation tools in order, and says what was not read."""
    marks = [face for faces in found.values() for face in faces if isinstance(face, Marks)]
    made, more = named_points.to_labels(marks, wanted, where)
    label_of = dict(zip(map(id, marks), made, strict=True))
    labels = {name: [label_of.get(id(face), face) for face in faces] for name, faces in found.items()}
    if unread:
        kinds = ", ".join(f"{kind} ({number:,})" for kind, number in sorted(unread.items())[:5])
        more.append(f"{where} has shapes that are neither points nor boxes and were not read: {kinds}.")
    return labels, remarks + more


def _row(entry: Any, k: int, path: pathlib.Path) -> tuple[str, list[Face]]:
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
        return face_label.make(value, where, {})
    if not isinstance(value, dict):
        raise InputError(f"{where} must be null, a list of [x, y], or an object with landmarks.")
    keys = [key for key in value if re.fullmatch(r"landmarks[0-9]*", key)]
    if len(keys) != 1:
        fault = f"has both {keys[0]} and {keys[1]}" if keys else "has no landmarks"
        raise InputError(f"{where} {fault}; one key landmarks is needed, null for an unlabelled face.")
    return face_label.make(value[keys[0]], where, value)


def _coco(content: dict, path: pathlib.Path) -> tuple[Rows, list[str]]:
    """Reads COCO keypoints; returns the faces by `file_name`, and remarks.

    Keypoints are triples x, y, v, where v is 0 for an unlabelled point, 1 for a hidden and 2 for a visible one. Some
    tools, such as MMPose's converters for 300W and WFLW, write 1 for every labelled point. Therefore 1 counts as
    visible if no v in the file is 2.
    """
    file_of: dict = {}
    for k, image in enumerate(face_label.items(content["images"], f"images in {path}")):
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            raise InputError(f"Image {k} of {path} has no file_name.")
        number = image.get("id")
        if not isinstance(number, int | str) or number in file_of:
            raise InputError(f"Image {image['file_name'][:80]!r} of {path} has no unique id.")
        file_of[number] = image["file_name"]
    found: dict[str, list[Face]] = {file: [] for file in file_of.values()}
    triples: list[tuple[str, dict[str, Any], str, list[list[float]]]] = []
    for k, row in enumerate(face_label.items(content["annotations"], f"annotations in {path}")):
        where = f"Annotation {k} of {path}"
        number = row.get("image_id") if isinstance(row, dict) else None
        if not isinstance(number, int | str) or number not in file_of:
            raise InputError(f"{where} has an image_id that is not among the images.")
        keypoints = row.get("keypoints")
        if not isinstance(keypoints, list) or len(keypoints) % 3 or not keypoints:
            raise InputError(f"{where} has no keypoints x, y, v.")
        points = [face_label.floats(keypoints[i : i + 3], 3, where) for i in range(0, len(keypoints), 3)]
        if not all(v in (0, 1, 2) for _, _, v in points):
            raise InputError(f"{where} has a keypoint whose v is not 0, 1 or 2.")
        triples.append((file_of[number], row, where, points))
    values = {v for _, _, _, points in triples for _, _, v in points}
    visible = 2 if 2 in values else 1
    for file, row, where, points in triples:
        entry = {key: row.get(key) for key in ("subject", "pseudo", "confidence")}
        entry["box"] = row.get("bbox") or None
        entry["visible"] = [v == visible for _, _, v in points]
        label = face_label.make([(x, y) if v else None for x, y, v in points], where, entry)
        label.tool = str(path)
        found[file].append(label)
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
