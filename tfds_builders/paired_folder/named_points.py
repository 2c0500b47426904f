"""Puts the points that annotation tools store by name into the order of a layout, and gives each face its box."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from mlcm_jax import layout_file
from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.landmarks import Box
from tfds_builders import formats
from tfds_builders.paired_folder import label as face_label
from tfds_builders.paired_folder.label import Label


@dataclasses.dataclass(eq=False)
class Marks:
    """A face as an annotation tool stores it.

    Attributes:
        where: the face, for messages, such as "a.png in labels.json".
        tool: the file, if an annotation tool wrote it; else "".
        points: what the user called a point -> its x, y in pixels; None for one that the tool marks as absent.
        hidden: the names of points that are marked as hidden.
        ordered: whether the points stand in the layout's order, so that their names tell nothing.
        group: what the tool ties points and boxes of one face together by; "" for nothing.
        box: x, y, w, h in pixels.
        size: width and height of the image, if the file states them.
        subject: the person; "" if the file names nobody.
    """

    where: str
    tool: str = ""
    points: dict[str, tuple[float, float] | None] = dataclasses.field(default_factory=dict)
    hidden: set[str] = dataclasses.field(default_factory=set)
    ordered: bool = False
    group: str = ""
    box: Box | None = None
    size: tuple[int, int] | None = None
    subject: str = ""

    def add(self, name: str, place: tuple[float, float] | None, *, hidden: bool = False) -> None:
        """Adds a point; raises InputError if the face has one of that name already."""
        if name in self.points:
            raise InputError(
                f"{self.where} has two points {name[:40]!r}; delete one, or, if they belong to two faces, group the "
                "points of each face in your tool."
            )
        self.points[name] = place
        if hidden:
            self.hidden.add(name)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user said about the layout: its number of points, and their names in order. None: not said."""

    count: int | None = None
    names: tuple[str, ...] | None = None


UNSAID = Wanted()


def attach(faces: Sequence[Marks], boxes: Iterable[tuple[str, Box]]) -> None:
    """Gives every face its box, in place: that of its group, else the one that holds the middle of its points.

    A single box belongs to a single face wherever it lies. Boxes of no face are left out.

    Args:
        faces: the faces of one image.
        boxes: the group ("" for none) and x, y, w, h of every box.

    Raises:
        InputError: two boxes for one face, or two faces in one box.
    """
    boxes = list(boxes)
    taken: dict[int, Marks] = {}
    for face in faces:
        mine = [k for k, (group, _) in enumerate(boxes) if group and group == face.group]
        if not mine:
            free = [k for k, (group, _) in enumerate(boxes) if not group or all(group != one.group for one in faces)]
            mine = free if len(free) == len(faces) == 1 else [k for k in free if _holds(boxes[k][1], face)]
        if len(mine) > 1:
            raise InputError(f"{face.where} has {len(mine)} boxes around one face; keep the face's box only.")
        if mine and taken.setdefault(mine[0], face) is not face:
            raise InputError(f"{face.where} has one box around two faces; draw a box for each, or none.")
        if mine:
            face.box = boxes[mine[0]][1]


def to_labels(faces: Sequence[Marks], wanted: Wanted, where: str) -> tuple[list[Label], list[str]]:
    """Makes the labels of all faces of a source, whose points have names or numbers.

    Args:
        faces: the faces.
        wanted: what the user said about the layout.
        where: the source, for messages, such as "The file a.json".

    Returns:
        One label for each face, and remarks for the user.

    Raises:
        InputError: a name that the layout lacks, numbers that may count from 0 or from 1, or two names of one point.
    """
    used: dict[str, str] = {}
    for face in faces:
        used |= {name: face.where for name in face.points if not face.ordered and name not in used}
    order, count = _order(used, wanted, where) if used else ({}, 0)
    labels = [_label(face, order, count) for face in faces]
    labelled = {
        order[name] for face in faces if not face.ordered for name, place in face.points.items() if place is not None
    }
    never = sorted(set(range(count)) - labelled)
    if not never or not labelled:
        return labels, []
    points = formats.counted(len(never), "point", "points")
    return labels, [f"{where} labels {points} of the layout in no face: {formats.listed(map(str, never), 8)} (from 0)."]


def _label(face: Marks, order: Mapping[str, int], count: int) -> Label:
    if face.ordered:
        order, count = {name: k for k, name in enumerate(face.points)}, len(face.points)
    names: list[str | None] = [None] * count
    for name in face.points:
        if names[order[name]] is not None:
            both = f"{names[order[name]]!r} and {name!r}"
            raise InputError(f"{face.where} has two points of one number, {both}; delete one of them.")
        names[order[name]] = name
    points = [None if name is None or (place := face.points[name]) is None else [*place] for name in names]
    entry = {
        "visible": [name is not None and name not in face.hidden for name in names],
        "box": None if face.box is None else list(face.box),
        "subject": face.subject,
    }
    label = face_label.make(points or None, face.where, entry)
    label.size, label.tool, label.sized = face.size, face.tool, True
    return label


def _order(used: Mapping[str, str], wanted: Wanted, where: str) -> tuple[dict[str, int], int]:
    """Returns the index of every name, and the number of points; `used` has the first face of every name."""
    unknown = sorted(used.keys() - set(wanted.names or ()))
    if wanted.names and not unknown:
        return {name: wanted.names.index(name) for name in used}, len(wanted.names)
    numbers = _numbers(used)
    if numbers is None and wanted.names:
        raise InputError(
            f"{used[unknown[0]]} has a point {unknown[0][:40]!r}, which the layout lacks; "
            f"{did_you_mean(unknown[0], wanted.names)}"
        )
    if numbers is None:
        some = formats.listed((repr(name[:40]) for name in sorted(used)), 3)
        raise InputError(
            f"{where} names its points {some}; list the names in order in a layout of your own, and give it with "
            "--layout=FILE.yaml, or call the points by their numbers in the layout."
        )
    low, high = min(numbers.values()), max(numbers.values())
    counting = f"{where} numbers its points from {low} to {high}"
    count = wanted.count
    if count is None:
        if low == 0:
            count = high + 1
        elif low == 1 and high in layout_file.USUAL:
            count = high
        else:
            raise InputError(f"{counting}, which may be some or all points of a layout; say which with --layout=NAME.")
    first = [k for k in (0, 1) if low >= k and high < count + k]
    if not first:
        points = formats.counted(count, "point", "points")
        raise InputError(f"{counting}, but the layout has {points}; mend the numbers or --layout.")
    if wanted.count is not None and len(first) > 1:
        raise InputError(
            f"{counting}, and the layout has {count} points, so they may count from 0 or from 1; label point 0 or "
            f"point {count} in one image at least, whichever of the two exists."
        )
    start = 0 if low == 0 else 1
    return {name: number - start for name, number in numbers.items()}, count


def _numbers(names: Iterable[str]) -> dict[str, int] | None:
    """Returns name -> number for names such as 12, or p12 with one prefix for all; None for other names."""
    matches = {name: re.fullmatch(r"([^0-9]*?)[ _.-]?([0-9]{1,4})", name, re.ASCII) for name in names}
    if not all(matches.values()) or len({match[1] for match in matches.values()}) != 1:
        return None
    return {name: int(match[2]) for name, match in matches.items()}


def _holds(box: Box, face: Marks) -> bool:
    """Whether a box holds the middle of a face's points."""
    places = [place for place in face.points.values() if place is not None]
    if not places:
        return False
    x, y = (math.fsum(values) / len(places) for values in zip(*places, strict=True))
    return box[0] <= x <= box[0] + box[2] and box[1] <= y <= box[1] + box[3]


def grouped(marks: Iterable[tuple[str, str, tuple[float, float] | None, bool]], base: Marks) -> list[Marks]:
    """Makes the faces of an image from single points, one face for each group.

    Args:
        marks: group, name, place and whether it is hidden, of every point.
        base: a face without points, whose other facts all faces get.
    """
    faces: dict[str, Marks] = collections.defaultdict(lambda: dataclasses.replace(base, points={}, hidden=set()))
    for group, name, place, hidden in marks:
        faces[group].group = group
        faces[group].add(name, place, hidden=hidden)
    return list(faces.values())
