"""Polarity: whether hot or cold is bright, in thermal images without temperatures."""

import numpy as np

from mlcm_jax.errors import InputError, did_you_mean

NAMES = ("white_hot", "black_hot")
DARKER = 8.0  # gray levels by which a face that is darker than its surroundings is not so by chance


def is_black_hot(name: str | None) -> bool:
    """Reads a value of the option --polarity; None and "" mean white_hot.

    Raises:
        InputError: an unknown value.
    """
    if name and name not in NAMES:
        raise InputError(f"--polarity={name} is unknown; {did_you_mean(name, NAMES)}")
    return name == "black_hot"


def inverted(values: np.ndarray, *, levels: bool) -> np.ndarray:
    """Turns cold = large into hot = large.

    Args:
        values: float32 [H, W], NaN in holes.
        levels: whether they are gray levels, of which 0 becomes 255; else the smallest value becomes the largest.
    """
    ends = 255.0 if levels else float(np.nanmin(values)) + float(np.nanmax(values))
    return (ends - values).astype(np.float32)


def darker(values: np.ndarray, box: np.ndarray) -> bool:
    """Whether a face is darker than what surrounds it, so that cold is probably bright in the image.

    The medians are compared. They must differ by a tenth of the range of the image (from percentile 5 to 95), at most 8
    gray levels and at least 1.

    Args:
        values: [H, W] gray levels; NaN in holes.
        box: x, y, w, h of the face in pixels. Its surroundings are 30 % of its size wide.
    """
    x, y, w, h = map(float, box)
    face, wider = np.zeros(values.shape, bool), np.zeros(values.shape, bool)
    for mask, more in ((face, 0.0), (wider, 0.3)):
        rows = slice(max(0, int(np.ceil(y - more * h))), max(0, int(np.ceil(y + (1 + more) * h))))
        mask[rows, max(0, int(np.ceil(x - more * w))) : max(0, int(np.ceil(x + (1 + more) * w)))] = True
    known = np.isfinite(values)
    inside, around = values[face & known], values[wider & ~face & known]
    if not inside.size or not around.size:
        return False
    low, high = np.percentile(values[known], (5, 95))
    return bool(np.median(inside) + min(DARKER, max(1.0, 0.1 * float(high - low))) < np.median(around))
