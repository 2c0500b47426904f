"""A labelled face as a builder finds it in a user's files."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# An image file, or a function that returns the pixels of an image in a container file.
Source = pathlib.Path | Callable[[], np.ndarray]


@dataclasses.dataclass(eq=False)
class Face:
    """A labelled face as a builder's `parse` finds it; its images are read later.

    Attributes:
        key: the image's path in the dataset, with `#2` for its second face; unique, and the same on every machine.
        rgb: the RGB image, if the dataset has one.
        thermal: the thermal image, if the dataset has one.
        landmarks: float [K, 2] in pixels (x, y) of the thermal image, or of the RGB image if there is no thermal one;
            None: unlabelled.
        known: bool [K], True for labelled landmarks; the others are placeholders. None: all are labelled.
        visible: bool [K]; None: all are visible.
        box: x, y, w, h in the same pixels; None: derived from the landmarks, or the whole image if there are none.
        form: what the numbers of the box are, one of `measures.BOXES` with one of `measures.UNITS`; "": x, y, w, h, as
            is known for sure.
        first: what was subtracted from the landmarks because their file counts from there.
        stated: width and height of the image on which the label was made, if the label file states them.
        subject: the person; "" if the dataset does not name people.
        extra: the values of the features that the builder adds.
    """

    key: str
    rgb: Source | None = None
    thermal: Source | None = None
    landmarks: np.ndarray | None = None
    known: np.ndarray | None = None
    visible: np.ndarray | None = None
    box: Sequence[float] | None = None
    form: str = ""
    first: float = 0.0
    stated: tuple[int, int] | None = None
    subject: str = ""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
