"""Converts the labels of a face to pixels of its image, and refuses those that cannot be right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from tfds_builders import formats, measures, suspicion
from tfds_builders.face import Face
from tfds_builders.measures import Size

_FIX = "fix it, or name it in a file for --exclude."


class LabelError(InputError):
    """Labels that cannot be right as they are; an option may mend them, and those of the dataset's other faces."""


class Labels(NamedTuple):
    """The labels of a face in pixels.

    Attributes:
        points: float32 [K, 2] (x, y); NaN without labels.
        known: bool [K].
        visible: bool [K].
        box: float32 [4], x, y, w, h.
        odd: what is odd about them, some of the kinds of `suspicion`.
    """

    points: np.ndarray
    known: np.ndarray
    visible: np.ndarray
    box: np.ndarray
    odd: set[str]


def in_pixels(face: Face, layout: landmarks.Layout, measure: str | None, size: Size, rgb: Size | None) -> Labels:
    """Converts and checks the labels of a face.

    Args:
        face: the face.
        layout: the layout of its landmarks.
        measure: what the landmarks are measured in, one of `measures.MEASURES`; None: pixels.
        size: width and height of the image.
        rgb: those of the RGB image, if there is one.

    Raises:
        InputError: landmarks that do not fit the layout, or of which none is known.
        LabelError: landmarks or a box that cannot be in this image.
    """
    odd = _stated(face, measure, size, rgb)
    if face.landmarks is None:
        points, known = np.full((layout.count, 2), np.nan, np.float32), np.zeros(layout.count, bool)
        visible = known
    else:
        points, known, visible, more = _landmarks(face, layout, measure, size, rgb)
        odd |= more
    box = face.box
    if box is not None and (measure or face.form):
        box = measures.box_of_form(box, face.form)
        box = measures.box_in_pixels(box, measures.measure_of_box(face.form, measure), size, rgb)
    elif box is None:
        box = _own_box(points[known], layout, face.key) if known.any() else (0.0, 0.0, *map(float, size))
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, which `check_box` refuses
        box = np.asarray(box, np.float32)
    try:
        where = f"The box of {face.key}"
        landmarks.check_box_inside(landmarks.check_box(box, where), *size, where)
    except InputError as error:
        raise LabelError(str(error)) from None
    return Labels(points, known, visible, box, odd)


def known_points(face: Face, layout: landmarks.Layout) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns the landmarks as they are given, float32 [K, 2], and which are known, bool [K].

    The last value says whether some are placeholders, which do not count as known.

    Raises:
        InputError: landmarks that do not fit the layout.
    """
    try:
        points = landmarks.check(np.asarray(face.landmarks, np.float32), layout)
    except InputError as error:
        raise InputError(f"{face.key}: {error} Fix it, or name it in a file for --exclude.") from None
    known = _flags(face.known, layout, face.key)
    empty = suspicion.placeholders(points)
    if face.first:
        empty |= suspicion.placeholders(points + np.float32(face.first))
    return points, known & ~empty, bool((known & empty).any())


def converted(face: Face, points: np.ndarray, measure: str | None, size: Size, rgb: Size | None) -> np.ndarray:
    """Converts the landmarks of a face from a measure to pixels, float32 [K, 2]."""
    if measure in ("normalized", "one_based"):  # nothing, or 1 again, must have been subtracted
        points = points + np.float32(face.first)
    return measures.points_in_pixels(points, measure, size, rgb)


def _landmarks(
    face: Face, layout: landmarks.Layout, measure: str | None, size: Size, rgb: Size | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, set[str]]:
    """Returns landmarks float32 [K, 2], `known` bool [K] and `visible` bool [K] of a face, and what is odd."""
    given, known, missing = known_points(face, layout)
    visible = _flags(face.visible, layout, face.key)
    points = converted(face, given, measure, size, rgb)
    if known.sum() > 1 and np.abs(points[known]).max() <= 1.0:
        raise LabelError(
            f"{face.key}: all landmarks lie between -1 and 1, in the first pixel; if they are shares of the image's "
            "width and height, build with --points=normalized."
        )
    inside = ((points > -0.5 - 1e-3) & (points < np.array(size) - 0.5 + 1e-3)).all(1)
    count, outside = int(known.sum()), int((known & ~inside).sum())
    if not count:
        raise InputError(f"{face.key}: none of its landmarks is known; {_FIX}")
    if outside > 0.5 * count:
        which = f"{outside} of {formats.counted(count, 'landmark', 'landmarks')}"
        raise LabelError(
            f"{face.key}: {which} {'lies' if outside == 1 else 'lie'} outside the image, which is {size[0]} x "
            f"{size[1]}; {_FIX}"
        )
    return points, known, visible & inside & known, {"missing"} if missing else set()


def _own_box(points: np.ndarray, layout: landmarks.Layout, key: str) -> np.ndarray:
    try:
        return landmarks.box_from_points(points, layout)
    except InputError as error:
        raise InputError(f"{key}: {error} Fix it, or name it in a file for --exclude.") from None


def _stated(face: Face, measure: str | None, size: Size, rgb: Size | None) -> set[str]:
    """Returns what is odd about the size of the image on which the label was made, according to the label's file."""
    stated, needed = face.stated, (rgb or size) if measure == "rgb" else size
    if stated in (None, needed):
        return set()
    if stated not in (rgb, size) or measure == "pixels":
        return {"stated"}
    which, flag = ("RGB", "with") if stated == rgb else ("thermal", "without")
    raise InputError(
        f"{face.key}: its label was made on an image of {stated[0]} x {stated[1]}, which is the size of the {which} "
        f"image; build {flag} --points=rgb."
    )


def _flags(given: np.ndarray | None, layout: landmarks.Layout, key: str) -> np.ndarray:
    """Returns flags of landmarks as bool [K]; None gives all True."""
    flags = np.ones(layout.count, bool) if given is None else np.asarray(given, bool)
    if flags.shape != (layout.count,):
        count = formats.counted(flags.size, "flag", "flags")
        raise InputError(f"{key}: {count} for {formats.counted(layout.count, 'landmark', 'landmarks')}.")
    return flags
