"""The automatic gain: how the values of a thermal image become the gray levels that a network reads."""

import math

import cv2
import numpy as np

from mlcm_jax.holes import nearest

PERCENTILES = (2.0, 98.0)
LEVELS = (0.1 * 255.0, 0.9 * 255.0)  # what the percentiles become: hotter and colder pixels keep some contrast
KNOTS = np.linspace(0.0, 100.0, 33)  # percentiles of `scene_gain`
FEWEST = 16  # pixels with a value, without which a box is too small to set the gain


def gain(values: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Stretches a thermal image by the face in it, so that nothing else in view changes what the network sees.

    The percentiles 2 and 98 of the values inside the box become 10 % and 90 % of the gray levels. All other values
    follow the same line, and are cut at black and white. Training, scoring and prediction all call this function with
    the box that they crop by, so an image is stretched for a network exactly as in its training.

    - Region: the pixels whose centres lie in the part of the box that is inside the image. If fewer than 16 of them
      have a value, the whole image.
    - Holes: pixels that are NaN or infinite take no part in the percentiles, and take the gray level of the nearest
      pixel that has a value.
    - One value in the whole region: the limits are the smallest and largest value of the region; if these are equal,
      the image becomes 128 where it has this value, white above and black below it.

    Args:
        values: [H, W], uint8, uint16 or float32 in any unit, hot = large; holes are not finite.
        box: x, y, w, h in pixels; it may reach beyond the image.

    Returns:
        uint8 [H, W]. An image without any value is all 0.
    """
    values = np.asarray(values)
    region = inside(values, box)
    region = region if region.size >= FEWEST else values
    if values.dtype == np.uint8:  # the same line, as a table of the 256 levels
        return cv2.LUT(values, _stretched(np.arange(256.0), *_limits_of_levels(region)))
    if values.dtype.kind != "f":
        return _stretched(values.astype(np.float32), *_limits(region.astype(np.float32)))
    holes = ~np.isfinite(values)
    if not holes.any():
        return _stretched(values, *_limits(region))
    if holes.all():
        return np.zeros(values.shape, np.uint8)
    known = region[np.isfinite(region)]
    whole = values[~holes]
    return _stretched(whole[nearest(holes)], *_limits(known if len(known) >= FEWEST else whole))


def scene_gain(values: np.ndarray) -> np.ndarray:
    """Stretches a thermal image for the detector, which does not know yet where the face is.

    The curve is piecewise linear between 33 percentiles. It rises from one to the next by ln(1 + d / s), where d is
    their difference and s is eight times the median of all differences (at least 1/64 of the span of the middle 80 %).
    So an image of a plain camera is stretched almost linearly, but what is far hotter or colder than everything else,
    such as a lamp or the sun, takes only a small part of the gray levels. Any linear change of the unit leaves the
    result as it is.

    Args:
        values: [H, W], uint8, uint16 or float32 in any unit, hot = large; holes are not finite, and take the gray level
            of the nearest pixel that has a value.

    Returns:
        uint8 [H, W], from 0 to 255; all 0 if the image has one value only, or none.
    """
    values = np.asarray(values)
    holes = ~np.isfinite(values) if values.dtype.kind == "f" else None
    if holes is not None and holes.any():
        if holes.all():
            return np.zeros(values.shape, np.uint8)
        whole = values[~holes]
        values = whole[nearest(holes)]
    else:
        whole = values
    if values.dtype == np.uint8:  # the percentiles of its histogram, and a table of its 256 levels
        ends = np.cumsum(np.bincount(values.ravel(), minlength=256))
        knots = np.searchsorted(ends, KNOTS / 100 * (ends[-1] - 1), side="right").astype(np.float64)
        return cv2.LUT(values, _curve(np.arange(256.0), knots))
    # Some 20,000 pixels, from all columns, give the percentiles as well as all, and are sorted in a tenth of the time.
    step = whole.size // 20_000 + 1
    while math.gcd(step, values.shape[1]) > 1:
        step += 1
    knots = np.percentile(whole.ravel()[::step], KNOTS)
    knots[0], knots[-1] = whole.min(), whole.max()
    return _curve(values, knots)


def inside(values: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The pixels of an image with their centres inside a box, [h, w] or [h, w, 3]; perhaps none."""
    height, width = values.shape[:2]
    x, y, w, h = (float(one) for one in box)
    columns = slice(max(0, int(np.ceil(x))), max(0, min(width, int(np.ceil(x + w)))))
    rows = slice(max(0, int(np.ceil(y))), max(0, min(height, int(np.ceil(y + h)))))
    return values[rows, columns]


def shows_nothing(part: np.ndarray) -> bool:
    """Whether a part of an image, [h, w] or [h, w, 3], has one value or colour only, or hardly a pixel with a value."""
    pixels = part.reshape(-1, 3) if part.ndim == 3 else part[np.isfinite(part)]
    return len(pixels) < FEWEST or bool((pixels.min(0) == pixels.max(0)).all())


def _limits(known: np.ndarray) -> tuple[float, float]:
    """The two percentiles; the smallest and the largest value if they are equal."""
    low, high = np.percentile(known, PERCENTILES).tolist()
    # A few warm pixels on a uniform background are still an image.
    return (low, high) if high > low else (float(known.min()), float(known.max()))


def _limits_of_levels(levels: np.ndarray) -> tuple[float, float]:
    """The limits of uint8 values, from their histogram, which is ten times as fast as sorting them."""
    # OpenCV counts four times as fast as numpy, but in float32, which is exact up to 2^24.
    few = levels.size < 1 << 24
    counts = cv2.calcHist([levels], [0], None, [256], [0, 256]) if few else np.bincount(levels.ravel(), minlength=256)
    ends = np.cumsum(counts.ravel().astype(np.int64))
    found = []
    for percent in PERCENTILES:
        place = percent / 100 * (ends[-1] - 1)
        below, above = np.searchsorted(ends, (int(place), min(int(place) + 1, ends[-1] - 1)), side="right").tolist()
        found.append(below + (above - below) * (place - int(place)))
    return (found[0], found[1]) if found[1] > found[0] else (float(levels.min()), float(levels.max()))


def _stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps the limits to their gray levels, and all other values by the same line."""
    if high > low:
        slope = (LEVELS[1] - LEVELS[0]) / (high - low)
        gray = (values - low) * slope + LEVELS[0]
    else:
        gray = np.where(values > low, 255.0, np.where(values < low, 0.0, 128.0))
    return np.clip(gray, 0.0, 255.0).round().astype(np.uint8)


def _curve(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """The gray levels of `scene_gain`, uint8 of the shape of `values`."""
    steps = np.diff(knots)
    unit = max(8.0 * float(np.median(steps)), float(knots[-4] - knots[3]) / 64.0)
    if unit <= 0.0:  # nearly all pixels have one value
        unit = max(float(steps.max()), np.finfo(np.float32).tiny)
    heights = np.concatenate([[0.0], np.cumsum(np.log1p(steps / unit))])
    if heights[-1] <= 0.0:
        return np.zeros(values.shape, np.uint8)
    places, first = np.unique(knots, return_index=True)
    gray = np.interp(values, places, heights[first] * (255.0 / heights[-1]))
    return gray.round().astype(np.uint8)
