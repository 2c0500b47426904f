"""Reads CVAT's export "CVAT for images 1.1": points, skeletons and boxes in an XML file."""

from __future__ import annotations

import collections
import pathlib
import re
import xml.etree.ElementTree as ElementTree

from mlcm_jax import files
from mlcm_jax.errors import InputError
from mlcm_jax.landmarks import Box, check_box
from tfds_builders import formats
from tfds_builders.paired_folder import named_points
from tfds_builders.paired_folder.named_points import Marks

_EXPORT = "export the task from CVAT as 'CVAT for images 1.1'"
_IGNORED = ("tag", "attribute")


def is_cvat(path: pathlib.Path) -> bool:
    """Whether an XML file looks like one of CVAT's, by its first tag."""
    try:
        text = files.read_text(path)
    except InputError:
        return False
    text = re.sub(r"<\?.*?\?>|<!--.*?-->", "", text[:5000], flags=re.DOTALL)
    return text.lstrip().startswith("<annotations")


def read(path: pathlib.Path) -> tuple[list[tuple[str, list[Marks]]], collections.Counter[str]]:
    """Reads all faces of a file.

    Returns:
        The faces by the name that the file gives to their image, in pixels, and how many shapes there are that are
        neither points nor skeletons nor boxes, by kind.

    Raises:
        InputError: no XML, an XML file with a DOCTYPE, or of another form than CVAT's for images.
    """
    text = files.read_text(path)
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise InputError(f"The file {path} has a DOCTYPE, which no label file needs and which is unsafe; remove it.")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise InputError(f"The file {path} is not XML: {error}; {_EXPORT} again.") from None
    if root.tag != "annotations":
        raise InputError(f"The file {path} is not from CVAT: it starts with <{root.tag[:40]}>; {_EXPORT}.")
    if root.find("track") is not None:
        raise InputError(f"The file {path} holds the tracks of a video; {_EXPORT} instead.")
    rows, unread = [], collections.Counter()
    for k, image in enumerate(root.findall("image")):
        name = image.get("name", "")
        if not name.strip():
            raise InputError(f"Image {k} of {path} has no name; {_EXPORT} again.")
        rows.append((name, _faces(image, Marks(f"{name[:80]!r} in {path}", str(path)), unread)))
    if not rows:
        raise InputError(f"The file {path} lists no image; {_EXPORT} again.")
    return rows, unread


def _faces(image: ElementTree.Element, base: Marks, unread: collections.Counter[str]) -> list[Marks]:
    """Reads the faces of one image: each skeleton, each shape of several points, and each group of single points."""
    if image.get("width") and image.get("height"):
        width, height = formats.numbers([image.get("width"), image.get("height")], base.where).tolist()
        base.size = round(width), round(height)
    faces: list[Marks] = []
    single: list[tuple[str, str, tuple[float, float] | None, bool]] = []
    boxes: list[tuple[str, Box]] = []
    for shape in image:
        group = shape.get("group_id", "")
        group = "" if group == "0" else group
        if shape.tag == "skeleton":
            face = Marks(base.where, base.tool, group=group, size=base.size)
            for point in shape.findall("points"):
                places = _places(point, base.where)
                if len(places) != 1:
                    raise InputError(f"{base.where} has a skeleton point with {len(places)} places; {_EXPORT} again.")
                absent = _flag(point, "outside", base.where)
                hidden = _flag(point, "occluded", base.where) or _flag(shape, "occluded", base.where)
                face.add(_name(point, base.where), None if absent else places[0], hidden=hidden)
            faces.append(face)
        elif shape.tag == "points":
            places, hidden = _places(shape, base.where), _flag(shape, "occluded", base.where)
            absent = _flag(shape, "outside", base.where)
            if len(places) == 1:
                single.append((group, _name(shape, base.where), None if absent else places[0], hidden))
                continue
            points = {str(k): None if absent else place for k, place in enumerate(places)}
            hiding = set(points) if hidden else set()
            faces.append(Marks(base.where, base.tool, points, hiding, ordered=True, group=group, size=base.size))
        elif shape.tag == "box":
            corners = [shape.get(key, "") for key in ("xtl", "ytl", "xbr", "ybr")]
            x, y, right, bottom = formats.numbers(corners, base.where).tolist()
            boxes.append((group, check_box([x, y, right - x, bottom - y], f"{base.where} has a box that")))
        elif shape.tag not in _IGNORED:
            unread[shape.tag[:30]] += 1
    faces += named_points.grouped(single, base)
    named_points.attach(faces, boxes)
    return faces or [Marks(base.where, base.tool, box=box, size=base.size) for _, box in boxes]


def _places(shape: ElementTree.Element, where: str) -> list[tuple[float, float]]:
    """Returns the places in the attribute points="x,y;x,y;…"."""
    pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise InputError(f"{where} has points that are not pairs x,y separated by semicolons; {_EXPORT} again.")
    values = formats.numbers([word for pair in pairs for word in pair], where).tolist()
    return list(zip(values[::2], values[1::2], strict=True))


def _name(shape: ElementTree.Element, where: str) -> str:
    name = shape.get("label", "").strip()
    if not name:
        raise InputError(f"{where} has a point without a label; {_EXPORT} again.")
    return name


def _flag(shape: ElementTree.Element, key: str, where: str) -> bool:
    value = shape.get(key, "0")
    if value not in ("0", "1"):
        raise InputError(f"{where} has {key}={value[:20]!r}; it must be 0 or 1.")
    return value == "1"
