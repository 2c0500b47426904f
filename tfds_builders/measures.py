"""Converts landmarks and boxes to pixels of the image, whatever they are measured in, and boxes of any form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlcm_jax.errors import InputError, did_you_mean

MEASURES = {
    "pixels": "pixels of the image, which is also what no measure means",
    "rgb": "pixels of an RGB image of another size",
    "normalized": "shares of the image's width and height",
    "one_based": "pixels from (1, 1)",
    "yx": "rows of y, x",
}
BOXES = {
    "xywh": "x, y, width and height",
    "xyxy": "two corners x, y, x, y",
    "cxcywh": "the centre x, y, width and height",
    "yxhw": "y, x, height and width",
    "yxyx": "two corners y, x, y, x",
}
# After a form of `BOXES`: what the box is measured in, if that is another measure than that of the landmarks.
UNITS = ("", "_normalized", "_pixels")
Size = tuple[int, int]


def points_in_pixels(points: np.ndarray, measure: str | None, size: Size, rgb: Size | None) -> np.ndarray:
    """Converts landmarks to pixels; the centre of the first pixel is at 0.

    Args:
        points: [K, 2].
        measure: one of `MEASURES`; None: pixels already.
        size: width and height of the image.
        rgb: those of the RGB image, if there is one.

    Returns:
        float32 [K, 2].

    Raises:
        InputError: the measure is "rgb", and there is no RGB image.
    """
    if measure == "yx":
        points = points[..., ::-1]
    first, scale = _scale(measure, size, rgb)
    return ((points + first) * scale - 0.5).astype(np.float32) if measure in _SCALED else points


def box_in_pixels(box: np.ndarray, measure: str | None, size: Size, rgb: Size | None) -> np.ndarray:
    """Converts a box x, y, w, h like `points_in_pixels`; "yx" concerns landmarks alone."""
    if measure not in _SCALED:
        return box
    first, scale = _scale(measure, size, rgb)
    return np.concatenate([(box[:2] + first) * scale - 0.5, box[2:] * scale])


_SCALED = ("rgb", "normalized", "one_based")


def check_form(form: str) -> None:
    """Raises InputError unless a value of --box_format is one of `BOXES` with one of `UNITS`."""
    if form not in (known := [f"{one}{unit}" for unit in UNITS for one in BOXES]):
        raise InputError(f"--box_format={form} is unknown; {did_you_mean(form, known)}")


def box_of_form(numbers: Sequence[float], form: str) -> np.ndarray:
    """Converts the four numbers of a box in a form of `BOXES` ("": x, y, w, h) to x, y, w, h, in the same unit."""
    a, b, c, d = map(float, numbers)
    x, y, w, h = (b, a, d, c) if form.startswith("yx") else (a, b, c, d)
    if form.startswith(("xyxy", "yxyx")):
        w, h = w - x, h - y
    elif form.startswith("cxcy"):
        x, y = x - w / 2, y - h / 2
    return np.array([x, y, w, h])


def measure_of_box(form: str, measure: str | None) -> str | None:
    """Returns what a box is measured in, for a value of --box_format and the measure of the landmarks."""
    _, sign, unit = form.partition("_")
    return unit if sign else measure


def _scale(measure: str | None, size: Size, rgb: Size | None) -> tuple[float, np.ndarray]:
    """Returns (first, scale): a place p lies at (p + first) · scale - 0.5 in pixels."""
    if measure == "rgb" and rgb is None:
        raise InputError("--points=rgb needs RGB images, and this dataset has none.")
    if measure == "rgb":
        return 0.5, np.array(size) / np.array(rgb)
    return (0.0, np.array(size, float)) if measure == "normalized" else (-0.5, np.ones(2))
