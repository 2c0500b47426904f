"""Finds the pixels of a thermal image that hold no temperature, and fills them.

Four kinds are found in this order: rows of telemetry, values that no thermometer gives, dead rows and columns, and
isolated dead pixels. All rules compare values with those of the same image, so that they need no unit.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

# What dead pixels, invalid rows and cut-out backgrounds hold beside 0: a sentinel, or the full scale of some bits.
HUGE = 1e30  # no unit has such values, and their sums would be too large for float32
LOWEST, FULL_SCALES = -9999, (1023, 4095, 16383, 32767, 65535)
KELVINS = 150.0  # values all above this are counts or kelvins, so that none is below 0
COLDEST, HOTTEST = -150.0, 2000.0  # °C that cameras can give, with room; sentinels such as -9999 lie outside
SMALLEST = 16  # rows and columns of an image, in which rows of telemetry can be told apart
MOST_ROWS = 4  # of telemetry at one end
SHARE, TIMES, LEVELS = 0.02, 11.0, 8.0  # see `find`, isolated dead pixels
ALIKE = 0.9  # share of equal neighbours in a dead row, which may have dead pixels of its own
SENSOR = 1 << 22  # pixels; larger images were enlarged, and have no isolated ones
SAMPLE = 20_000  # pixels, whose percentiles stand for those of a larger image


class Holes(NamedTuple):
    """The pixels without a temperature.

    Attributes:
        mask: bool [H, W], all of them.
        top: number of rows of telemetry at the top.
        bottom: number of rows of telemetry at the bottom.
    """

    mask: np.ndarray
    top: int
    bottom: int


def find(array: np.ndarray, *, dead: bool = True) -> Holes:
    """Finds the holes of an image.

    - Telemetry: 1 to 4 rows at the top or the bottom that are unlike the next row of the image, and jump from pixel to
      pixel in a seventh of the places, or lie far from any temperature. Not looked for in 8 bits.
    - Values that no thermometer gives: NaN and infinity; floats below -150 or above 2000 if most of the image is
      between them, or if they are all the same number; 0, and in counts and kelvins whatever is below; -9999,
      1023, 4095, 16383, 32767, 65535 and more, if these values are far from the rest (three times its range, from
      percentile 3 to 97, and at least 3). In 8 bits, none.
    - Dead rows and columns: 1 to 4 that have one value only (in nine of ten pixels), between others that hardly have
      equal neighbours, or of which half the pixels differ by 15 % of the range of the image (from percentile 5 to 95).
    - Isolated dead pixels: those above, or below, all their eight neighbours but one. They must be farther from them
      than the neighbours from each other, farther than eleven times the noise (a quarter of the pixels that differ from
      the median of 3 x 3 differ more, or one pixel in forty), than 2 % of the range of the image, and, in 8 bits, than
      8 levels.

    Args:
        array: [H, W] of uint8, uint16 or float32, in any unit.
        dead: whether dead rows, columns and isolated pixels are looked for; in more than 4 megapixels, they never are.
    """
    levels = array.dtype == np.uint8
    top, bottom = (0, 0) if levels else telemetry(array)
    mask = np.zeros(array.shape, bool)
    body = slice(top, len(array) - bottom)
    image, lost = array[body], mask[body]
    if not levels:
        lost |= _never(image)
    if dead and array.size <= SENSOR:
        lost |= _dead(filled(image, lost), lost)
    mask[:top] = mask[len(array) - bottom :] = True
    return Holes(mask, top, bottom)


def nearest(holes: np.ndarray) -> np.ndarray:
    """For every pixel, the number of the nearest that is no hole, in the order of `values[~holes]`: int [H, W].

    Args:
        holes: bool [H, W], not all of them True.
    """
    # OpenCV numbers the pixels that are no holes from 1 on, row by row, and is three times as fast as scipy. In large
    # holes, the pixel that it finds may be up to 4 % farther away than the nearest.
    mask = np.ascontiguousarray(holes).view(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(mask, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    return labels - 1


def filled(values: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Gives every hole the value of the nearest pixel that is none; unchanged if there are none, or nothing else."""
    if not holes.any() or holes.all():
        return values
    return values[~holes][nearest(holes)]


def telemetry(array: np.ndarray) -> tuple[int, int]:
    """Counts the rows of telemetry of an image [H, W] of uint16 or float32 at the top and the bottom, 0 to 4 each."""
    if min(array.shape) < SMALLEST:
        return 0, 0
    rows = array.astype(np.float32)
    body = rows[MOST_ROWS:-MOST_ROWS]
    with np.errstate(invalid="ignore", over="ignore"):
        steps = [_some(np.abs(np.diff(body, axis=axis))) for axis in (0, 1)]
    ordinary, *steps = (one[np.isfinite(one)] for one in (_some(body), *steps))
    if not (ordinary.size and steps[0].size and steps[1].size):
        return 0, 0
    low, high = np.percentile(ordinary, (5, 95)).tolist()
    # Two dead pixels in a hundred spoil four steps in a hundred, so the 90th percentile is still that of the image.
    usual = max(float(np.percentile(one, 90)) for one in steps)
    counts = array.dtype.kind != "f"
    jump = max(10 * usual, 0.5 * (high - low), 200.0 if counts else 2.0)
    # Not even the sky has half the counts of the coldest things on the ground.
    coldest, hottest = (low / 2, high * 2) if counts else (low - 500, high + 1500)

    def unlike(values: np.ndarray) -> np.ndarray:
        return (values < coldest) | (values > hottest)

    return _alien(rows, jump, unlike), _alien(rows[::-1], jump, unlike)


def _alien(rows: np.ndarray, jump: float, unlike: Callable[[np.ndarray], np.ndarray]) -> int:
    """Counts the first rows that are telemetry.

    Args:
        rows: float32 [H, W].
        jump: the difference of neighbouring pixels that an ordinary row hardly has.
        unlike: whether values are far from those of the image.
    """

    def apart(one: np.ndarray, two: np.ndarray) -> bool:
        known = np.isfinite(one) & np.isfinite(two)
        return bool(known.any() and (np.abs(one - two)[known] > jump).mean() > 0.5)

    def counters(row: np.ndarray) -> bool:
        row = row[np.isfinite(row)]
        jumps = np.count_nonzero(np.abs(np.diff(row)) > jump)
        many = jumps > 6 or np.unique(row).size > 3  # in a black border, there is one value
        return jumps > 0.15 * len(row) or (many and bool(unlike(row).mean() > 0.5))

    found = 0
    with np.errstate(invalid="ignore", over="ignore"):
        for count in range(1, MOST_ROWS + 1):
            block, first, second = rows[:count], rows[count], rows[count + 1]
            # Some of the rows may be all 0, as those are that cameras keep for later use.
            if all(apart(row, first) for row in block) and not apart(first, second) and any(map(counters, block)):
                found = count
    return found


def _never(array: np.ndarray) -> np.ndarray:
    """Finds values that no thermometer gives in counts or floats, bool [H, W]."""
    lost = ~(np.abs(array) < HUGE) if array.dtype.kind == "f" else np.zeros(array.shape, bool)  # also NaN
    suspects = (array <= 0) | (array >= FULL_SCALES[-1])
    for value in (LOWEST, *FULL_SCALES[:-1]):
        suspects |= array == value
    suspects &= ~lost
    others = _some(array[~(lost | suspects)])
    if suspects.any() and others.size:
        coldest, hottest = np.percentile(others, (3, 97)).tolist()
        reach = 3 * max(hottest - coldest, 1.0)
        with np.errstate(invalid="ignore"):  # some kinds of NaN, in damaged files
            below, above = array + reach < coldest, array > hottest + reach
        fitting = (array == 0) | (array == LOWEST) | ((array < 0) & (coldest > KELVINS))
        lost |= suspects & ((below & fitting) | above)
    if array.dtype.kind == "f":
        odd = ~lost & ((array < COLDEST) | (array > HOTTEST))
        found, count = array[odd], array.size - np.count_nonzero(lost | odd)
        # In images of another unit, most values are odd, and differ. A fill value may also cover most of an image.
        if len(found) and count and (len(found) < count or found.min() == found.max()):
            lost |= odd
    return lost


def _dead(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Finds dead rows, columns and isolated pixels, bool [H, W].

    Args:
        values: [H, W], without holes.
        known: bool [H, W], where holes were filled.
    """
    found, levels = np.zeros(values.shape, bool), values.dtype == np.uint8
    if min(values.shape) < 3 or known.all():
        return found
    low, high = np.percentile(_some(values), (5, 95)).tolist()
    if not high > low:
        return found
    if min(values.shape) >= SMALLEST:
        for lines, mask in ((values, found), (values.T, found.T)):
            mask[_lines(lines, max(0.15 * (high - low), LEVELS if levels else 0.0))] = True
        found &= ~known
    values = np.array(filled(values, found), order="C")
    smooth = cv2.medianBlur(values, 3)
    distance = cv2.absdiff(values, smooth)
    # Most of an image may have one value, so that only differences count; in a smooth one, only dead pixels differ.
    every = _some(distance)
    differ = every[every > 0]
    noise = float(min(np.percentile(differ, 75), np.percentile(every, 97.5))) if differ.size else 0.0
    limit = max(SHARE * (high - low), TIMES * noise, LEVELS if levels else 0.0)
    suspects = np.flatnonzero((distance > limit) & ~(known | found))  # much faster than in two dimensions
    rows, columns = np.unravel_index(suspects, values.shape)
    for _ in range(2 if len(suspects) else 0):  # the second time finds those that touch another
        around = np.stack([
            values[_reflected(rows + dy, values.shape[0]), _reflected(columns + dx, values.shape[1])]
            for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dx or dy
        ]).astype(np.float32)  # fmt: skip
        around = np.partition(around, (1, 6), axis=0)
        low, high = around[1], around[6]
        own = values[rows, columns].astype(np.float32)
        alone = np.maximum(own - high, low - own) > np.maximum(limit, high - low)
        here = rows[alone], columns[alone]
        found[here], values[here] = True, smooth[here]
    return found


def _lines(rows: np.ndarray, limit: float) -> np.ndarray:
    """Finds dead rows, bool [H]; those at the ends may be a frame around the image, and are none."""
    found = np.zeros(len(rows), bool)
    alike = (rows[:, 1:] == rows[:, :-1]).mean(1)
    flat = alike >= ALIKE
    if not flat.any():
        return found
    values = np.median(rows[:, :: max(1, rows.shape[1] // 101)], axis=1).astype(np.float32)
    # Runs of rows of one value: they begin and end where a row is not flat, or its value is another.
    breaks = np.flatnonzero((flat[1:] != flat[:-1]) | (np.abs(np.diff(values)) > limit)) + 1
    for start, stop in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        if not flat[start] or stop - start > MOST_ROWS or start == 0 or stop == len(rows):
            continue
        beside = [start - 1, stop]
        far = all((np.abs(rows[k].astype(np.float32) - values[start]) > limit).mean() > 0.5 for k in beside)
        found[start:stop] = far or alike[beside].max() < 0.3
    return found


def _reflected(places: np.ndarray, size: int) -> np.ndarray:
    """Replaces -1 by 1, and `size` by `size` - 2."""
    places = np.abs(places)
    return np.where(places >= size, 2 * size - 2 - places, places)


def _some(values: np.ndarray) -> np.ndarray:
    """At most about `SAMPLE` of the values, evenly spread."""
    step = values.size // SAMPLE + 1
    return values.ravel()[:: step | 1]  # an odd step takes pixels of all columns
