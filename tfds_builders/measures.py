"""What landmarks and boxes may be measured in, and their conversion to pixels of the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

MEASURES = {
    "rgb": "pixels of an RGB image of another size",
    "normalized": "shares of the image's width and height",
    "one_based": "pixels from (1, 1)",
    "yx": "rows of y, x",
}


def in_pixels(
    points: ArrayLike | None,
    box: ArrayLike | None,
    measure: str | None,
    *,
    size: tuple[int, int],
    rgb: tuple[int, int] | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Landmarks and box in pixels of the image; the centre of its first pixel is at 0.

    Args:
        points: [K, 2], or None.
        box: x, y, w, h, or None.
        measure: one of `MEASURES`; None: pixels already.
        size: width and height of the image.
        rgb: those of the RGB image, if there is one.
    """
    places = None if points is None else np.asarray(points, np.float64)
    corner = None if box is None else np.asarray(box, np.float64)
    if not measure:
        return points, box
    if measure == "yx":
        return None if places is None else places[..., ::-1], corner
    # A place p of one kind is (p + first) · scale - 0.5 in pixels.
    first, scale = {
        "rgb": (0.5, np.array(size) / np.array(rgb or size)),
        "normalized": (0.0, np.array(size, float)),
        "one_based": (-0.5, np.ones(2)),
    }[measure]
    return (
        None if places is None else (places + first) * scale - 0.5,
        None if corner is None else np.concatenate([(corner[:2] + first) * scale - 0.5, corner[2:] * scale]),
    )
