"""Converts landmarks and boxes to pixels of the image, whatever they are measured in."""

from __future__ import annotations

import numpy as np

from mlcm_jax.errors import InputError

MEASURES = {
    "rgb": "pixels of an RGB image of another size",
    "normalized": "shares of the image's width and height",
    "one_based": "pixels from (1, 1)",
    "yx": "rows of y, x",
}
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


def _scale(measure: str | None, size: Size, rgb: Size | None) -> tuple[float, np.ndarray]:
    """Returns (first, scale): a place p lies at (p + first) · scale - 0.5 in pixels."""
    if measure == "rgb" and rgb is None:
        raise InputError("--points=rgb needs RGB images, and this dataset has none.")
    if measure == "rgb":
        return 0.5, np.array(size) / np.array(rgb)
    return (0.0, np.array(size, float)) if measure == "normalized" else (-0.5, np.ones(2))
