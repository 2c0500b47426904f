"""The label of one face, and how it is made and checked, whatever file it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlcm_jax.errors import InputError
from mlcm_jax.landmarks import Box, check_box
from tfds_builders import formats


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
        size: width and height of the image on which the label was made, if the file says so.
        tool: the file, if its form is an annotation tool's, which may hold points of any kind; else "".
        sized: whether the file's form says that its box is x, y, w, h, so that --box_format does not concern it.
        first: what was subtracted from the landmarks, because the file's form counts pixels from there.
    """

    landmarks: np.ndarray | None = None
    known: np.ndarray | None = None
    visible: np.ndarray | None = None
    confidence: np.ndarray | None = None
    box: Box | None = None
    subject: str = ""
    pseudo: bool = False
    size: tuple[int, int] | None = None
    tool: str = ""
    sized: bool = False
    first: float = 0.0


def make(points: Any, where: str, entry: Mapping[str, Any]) -> Label:
    """Makes the label of a face from its points and the other facts about it.

    Args:
        points: K items, each [x, y], or None for a point without a label; None: the face is unlabelled.
        where: the beginning of every message.
        entry: some of `visible`, `confidence`, `box`, `subject` and `pseudo`, as README.md describes them.

    Raises:
        InputError: numbers that are missing, not finite or too large, or flags that do not fit the points.
    """
    label = Label(subject=text(entry.get("subject"), f"{where} subject"))
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
    rows = [(0.0, 0.0) if row is None else floats(row, 2, f"{where} point {k}") for k, row in enumerate(points)]
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
        values = np.array(floats(entry["confidence"], count, f"{where} confidence"))
        if (values < 0).any() or (values > 1).any():
            raise InputError(f"{where} has a confidence outside 0 to 1.")
        label.confidence *= values.astype(np.float32)
    array = np.array(rows, np.float32)
    array[~known] = array[known].mean(0)
    label.landmarks = array
    return label


def floats(value: Any, count: int, where: str) -> list[float]:
    """Checks a list of numbers, which may be of any size that a pixel may have, and returns them as floats.

    Raises:
        InputError: another number of them than `count`, or something that is not a number of a sensible size.
    """
    if not isinstance(value, list | tuple) or len(value) != count:
        needed = formats.counted(count, "number is expected", "numbers are expected")
        raise InputError(f"{where} is {str(value)[:60]} where {needed}.")
    for number in value:
        plain = isinstance(number, int | float) and not isinstance(number, bool)
        if not plain or not (abs(number) <= 10**9):  # also NaN
            raise InputError(f"{where} holds {str(number)[:40]!r}, which is not a number of a sensible size.")
    return [float(number) for number in value]


def items(value: Any, where: str) -> list:
    """Returns a list, and raises InputError for anything else; `where` names it, such as "images in a.json"."""
    if not isinstance(value, list):
        raise InputError(f"The {where} are not a list.")
    return value


def text(value: Any, where: str) -> str:
    """Returns a word or a whole number as text, and "" for None; raises InputError for anything else."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"{where} is {str(value)[:40]}; it must be a word or a number.")
    return str(value).strip()
