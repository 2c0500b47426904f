"""Reads the JSON files of the annotation tools labelme, Label Studio and VIA (VGG Image Annotator).

Every reader returns the faces by the name that the file gives to their image, with coordinates as the tool measures
them in pixels, and counts the shapes that are neither points nor boxes.
"""

from __future__ import annotations

import collections
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

from mlcm_jax.errors import InputError
from mlcm_jax.landmarks import Box, check_box
from tfds_builders.paired_folder import label as face_label
from tfds_builders.paired_folder import named_points
from tfds_builders.paired_folder.named_points import Marks

Rows = list[tuple[str, list[Marks]]]
Unread = collections.Counter[str]

# The attributes of a region of VIA that may name its point, if it has several.
_NAMES = ("point", "landmark", "keypoint", "index", "id", "name", "label")


def reader_of(content: Any) -> Callable[[Any, pathlib.Path], tuple[Rows, Unread]] | None:
    """Returns the reader of a JSON file's content, or None if no annotation tool of these wrote it."""
    if is_labelme(content):
        return labelme
    if isinstance(content, dict):
        if "_via_img_metadata" in content:
            return via
        values = list(content.values())
        return via if values and all(isinstance(value, dict) and "regions" in value for value in values) else None
    if not isinstance(content, list) or not content or not all(isinstance(task, dict) for task in content):
        return None
    tasks = all("data" in task and ("annotations" in task or "completions" in task) for task in content)
    return label_studio if tasks or any(_minimal(task) for task in content) else None


def is_labelme(content: Any) -> bool:
    """Whether the content of a JSON file is labelme's, which describes one image."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "landmarks" not in content


def labelme(content: dict[str, Any], path: pathlib.Path) -> tuple[Rows, Unread]:
    """Reads a labelme file: points are named by their label, rectangles are boxes, and a `group_id` makes a face."""
    name = content.get("imagePath")
    word = re.sub(r"^(\.\.?/)+", "", name.replace("\\", "/")) if isinstance(name, str) and name.strip() else path.stem
    if re.match(r"/|[A-Za-z]:", word):  # on the machine where the labels were made
        word = word.rpartition("/")[2]
    base = Marks(f"The file {path}", str(path), size=_size(content, ("imageWidth", "imageHeight"), f"The file {path}"))
    points, boxes, unread = [], [], collections.Counter()
    for k, shape in enumerate(content["shapes"]):
        where = f"Shape {k} of {path}"
        if not isinstance(shape, dict):
            raise InputError(f"{where} is not an object; save the file in labelme again.")
        rows = face_label.items(shape.get("points"), f"points of shape {k} of {path}")
        places = [face_label.floats(row, 2, f"{where}, point {n},") for n, row in enumerate(rows)]
        kind = shape.get("shape_type") or ("point" if len(places) == 1 else "shape of unknown type")
        group = face_label.text(shape.get("group_id"), f"{where} group_id")
        if kind == "point":
            if len(places) != 1:
                raise InputError(f"{where} is a point with {len(places)} places; it must have one.")
            flags = shape.get("flags")
            hidden = isinstance(flags, dict) and any(flags.get(word) is True for word in ("occluded", "hidden"))
            points.append((group, _named(shape.get("label"), where), (places[0][0], places[0][1]), hidden))
        elif kind == "rectangle":
            if len(places) not in (2, 4):
                raise InputError(f"{where} is a rectangle with {len(places)} corners; it must have two or four.")
            (x, right), (y, bottom) = ((min(values), max(values)) for values in zip(*places, strict=True))
            boxes.append((group, _box([x, y, right - x, bottom - y], where)))
        else:
            unread[str(kind)[:30]] += 1
    return [(word, _faces(points, boxes, base))], unread


def label_studio(content: list[dict[str, Any]], path: pathlib.Path) -> tuple[Rows, Unread]:
    """Reads Label Studio's export as JSON or JSON-MIN, in which places are per cent of the image's width and height.

    A point is named by its label. The points that have one rectangle as their parent, or a relation to it, are those of
    one face.
    """
    rows, unread = [], collections.Counter()
    for k, task in enumerate(content):
        data, where = task.get("data", task), f"Task {k} of {path}"
        word = data.get("image") if isinstance(data, dict) else None
        if word is None and isinstance(task.get("file_upload"), str):
            word = f"/data/upload/{task['file_upload']}"
        if not isinstance(word, str):
            texts = [value for value in data.values() if _is_image(value)] if isinstance(data, dict) else []
            word = texts[0] if len(texts) == 1 else None
        if not word:
            raise InputError(f"{where} does not say which image it is about; its data needs a key image.")
        word = _uploaded(word)
        rows.append((word, _task(_results(task, where), Marks(f"{word[:80]!r} in {path}", str(path)), unread)))
    return rows, unread


def via(content: dict[str, Any], path: pathlib.Path) -> tuple[Rows, Unread]:
    """Reads VIA's project or its export as JSON: points are named by an attribute of their region, rects are boxes."""
    files = content.get("_via_img_metadata", content)
    if not isinstance(files, dict):
        raise InputError(f"The file {path} has _via_img_metadata that is not an object; save the project in VIA again.")
    rows, unread = [], collections.Counter()
    for key, entry in files.items():
        word = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(word, str) or not word.strip():
            raise InputError(f"The image {key[:80]!r} of {path} has no filename.")
        regions = entry.get("regions")
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        regions = face_label.items(regions, f"regions of {word[:80]!r} in {path}")
        rows.append((word, via_faces(regions, Marks(f"{word[:80]!r} in {path}", str(path)), unread)))
    return rows, unread


def via_faces(regions: Iterable[Any], base: Marks, unread: Unread) -> list[Marks]:
    """Reads the regions of one image of VIA, in JSON or in a table; `unread` counts the shapes of other kinds."""
    points, boxes = [], []
    for k, region in enumerate(regions):
        where = f"{base.where}, region {k},"
        shape = region.get("shape_attributes") if isinstance(region, dict) else None
        if not isinstance(shape, dict):
            raise InputError(f"{where} has no shape_attributes; save the project in VIA again.")
        kind = shape.get("name")
        if kind == "point":
            x, y = face_label.floats([shape.get("cx"), shape.get("cy")], 2, where)
            points.append(("", _named(_attribute(region.get("region_attributes"), where), where), (x, y), False))
        elif kind == "rect":
            boxes.append(("", _box([shape.get(side) for side in ("x", "y", "width", "height")], where)))
        else:
            unread[str(kind)[:30]] += 1
    return _faces(points, boxes, base)


def _faces(points: Iterable[tuple], boxes: list[tuple[str, Box]], base: Marks) -> list[Marks]:
    """Returns the faces of an image; if it has boxes alone, they are faces without points."""
    faces = named_points.grouped(points, base)
    named_points.attach(faces, boxes)
    return faces or [Marks(base.where, base.tool, box=box, size=base.size) for _, box in boxes]


def _attribute(given: Any, where: str) -> Any:
    """Returns the attribute of a region that names its point."""
    given = {key: value for key, value in given.items() if value not in ("", None)} if isinstance(given, dict) else {}
    named = [given[key] for key in _NAMES if key in given] if len(given) > 1 else list(given.values())
    if not named:
        more = f"; of its attributes {', '.join(given)[:80]}, none is called {', '.join(_NAMES)}" if given else ""
        raise InputError(f"{where} has no attribute that says which landmark it is{more}.")
    return named[0]


def _named(value: Any, where: str) -> str:
    """Returns the name of a point; raises InputError if it has none."""
    name = face_label.text(value, f"{where} name")
    if not name:
        raise InputError(f"{where} has no name; name every point by its landmark, or by the landmark's number.")
    return name


def _box(values: list[Any], where: str) -> Box:
    return check_box(values, f"{where} has a box that")


def _size(entry: dict[str, Any], keys: tuple[str, str], where: str) -> tuple[int, int] | None:
    """Returns the width and height of an image, or None if the file does not state them."""
    values = [entry.get(key) for key in keys]
    if None in values:
        return None
    width, height = face_label.floats(values, 2, f"{where} {keys[0]} and {keys[1]}")
    if not (width >= 1 and height >= 1 and width % 1 == height % 1 == 0):
        raise InputError(f"{where} has an image of {width:g} x {height:g}, which must be whole pixels.")
    return int(width), int(height)


def _is_image(value: Any) -> bool:
    return isinstance(value, str) and re.search(r"\.[A-Za-z]{3,5}$", value) is not None


def _uploaded(word: str) -> str:
    """Returns the path in an image's address; Label Studio puts eight digits before the names of uploaded files."""
    if not re.match(r"[a-z0-9.+-]{2,12}://|/data/", word):
        return word
    try:
        address = urllib.parse.urlsplit(word)
    except ValueError:  # such as http://[
        return word
    local = urllib.parse.parse_qs(address.query).get("d", [""])[0]
    path = local or urllib.parse.unquote(address.path)
    if "/upload/" in path:
        path = re.sub(r"^[0-9a-f]{8}-", "", path.rpartition("/")[2])
    return path.lstrip("/")


def _minimal(task: dict[str, Any]) -> bool:
    return "image" in task and any(_regions_of(value) for value in task.values())


def _regions_of(value: Any) -> bool:
    """Whether a value of a task in JSON-MIN is a list of regions."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(one, dict) and one.keys() & {"keypointlabels", "rectanglelabels"} for one in value)


def _results(task: dict[str, Any], where: str) -> list[Any]:
    """Returns the regions of a task, from its only annotation that was not cancelled."""
    if "data" not in task:  # JSON-MIN
        return [
            one | {"value": one, "type": next(kind for kind in ("keypointlabels", "rectanglelabels") if kind in one)}
            for value in task.values()
            if _regions_of(value)
            for one in value
        ]
    given = face_label.items(task.get("annotations", task.get("completions")), f"annotations of {where}")
    if not all(isinstance(one, dict) for one in given):
        raise InputError(f"{where} has an annotation that is not an object; export the project again.")
    given = [one for one in given if not one.get("was_cancelled") and one.get("result")]
    given = [one for one in given if one.get("ground_truth")] or given
    if len(given) > 1:
        raise InputError(f"{where} has {len(given)} annotations; delete all but one, or mark one as ground truth.")
    return face_label.items(given[0]["result"], f"results of {where}") if given else []


def _task(results: list[Any], base: Marks, unread: Unread) -> list[Marks]:
    points, boxes, face_of = [], [], {}
    for one in results:
        if isinstance(one, dict) and one.get("type") == "relation":
            face_of |= {str(one.get("from_id")): str(one.get("to_id")), str(one.get("to_id")): str(one.get("from_id"))}
    for k, one in enumerate(results):
        where = f"{base.where}, region {k},"
        kind, value = (one.get("type"), one.get("value")) if isinstance(one, dict) else (None, None)
        if kind in ("relation", "choices", "textarea", "rating", "number", "taxonomy"):
            continue
        if not isinstance(kind, str) or not isinstance(value, dict):
            raise InputError(f"{where} has no type and value; export the project again.")
        if kind not in ("keypointlabels", "rectanglelabels"):
            unread[kind[:30]] += 1
            continue
        size = _size(one, ("original_width", "original_height"), where)
        if size is None:
            raise InputError(f"{where} has no original_width and original_height, which turn per cent into pixels.")
        if one.get("image_rotation") or value.get("rotation"):
            raise InputError(f"{where} is rotated; rotate the image file itself, or the box back, and label it again.")
        if base.size not in (None, size):
            raise InputError(f"{where} is on an image of another size than the region before it; export again.")
        base.size, number = size, str(one.get("id"))
        if kind == "keypointlabels":
            x, y = _pixels(value, ("x", "y"), size, where)
            given = value.get(kind)
            name = given[0] if isinstance(given, list) and len(given) == 1 else None
            group = str(one.get("parentID") or face_of.get(number, ""))
            points.append((group, _named(name, where), (x, y), False))
        else:
            place = _pixels(value, ("x", "y"), size, where) + _pixels(value, ("width", "height"), size, where)
            boxes.append((number, _box(place, where)))
    known = {number for number, _ in boxes}
    points = [(group if group in known else "", *rest) for group, *rest in points]
    return _faces(points, boxes, base)


def _pixels(value: dict[str, Any], keys: tuple[str, str], size: tuple[int, int], where: str) -> list[float]:
    """Converts two values from per cent of the image's width and height."""
    shares = face_label.floats([value.get(key) for key in keys], 2, where)
    wrong = next((share for share in shares if not -0.01 <= share <= 100.01), None)
    if wrong is not None:
        raise InputError(f"{where} is at {wrong:g}, which is not a per cent of the image; do not convert the export.")
    return [share / 100.0 * side for share, side in zip(shares, size, strict=True)]
