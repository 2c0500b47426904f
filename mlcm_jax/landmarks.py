"""Arrays of landmarks: checks, conversion between layouts (which `layouts` defines), face boxes. Needs numpy only.

Indices are 0-based. "left" and "right" are the *subject's*; the subject's right eye is on the left of the image, and
every layout here names it first. Points are (x, y), x to the right, y down, pixel centres at integers.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mlcm_jax.errors import InputError, json_kind
from mlcm_jax.layouts import COFW_TO_COMMON, LAYOUTS, Layout, flip_permutation, get

__all__ = [
    "LAYOUTS",
    "Box",
    "Layout",
    "box_from_points",
    "check",
    "check_box",
    "check_box_inside",
    "convert",
    "flip_permutation",
    "get",
    "route",
]

Box = tuple[float, float, float, float]  # x, y, w, h in pixels


def check(points: ArrayLike, layout: str | Layout) -> np.ndarray:
    """Returns `points` as a numpy array [..., K, 2] of finite numbers, after checking that they fit a layout.

    An array keeps its dtype; a list becomes float32.

    Raises:
        InputError: points that are not finite numbers, or have another shape.
    """
    layout = get(layout)
    try:
        points = np.asarray(points, dtype=None if isinstance(points, np.ndarray) else np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"Landmarks are not a list of x, y pairs: {error}.") from None
    if points.dtype.kind not in "fiu":
        raise InputError(f"Landmarks must be numbers, not {points.dtype}.")
    if points.ndim < 2 or points.shape[-2:] != (layout.count, 2):
        raise InputError(
            f"Landmarks have shape {points.shape}, but layout {layout.name} has {layout.count} points of x, y: "
            f"[{layout.count}, 2]."
        )
    if not np.isfinite(points).all():
        bad = np.argwhere(~np.isfinite(points).all(axis=-1))[0]
        raise InputError(f"Landmark {int(bad[-1])} is not a finite number.")
    return points


# WFLW -> 300W as in all published comparisons: every second jaw point, the upper edge of the brows, lids without their
# middle point, and all points of lips and nose.
_WFLW_EYES = (60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75)
_WFLW_TO_IBUG = np.array(
    [*range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60), *_WFLW_EYES, *range(76, 96)]
)
_PICKS = {
    ("ibug68", "sf_tl54"): np.array([*range(49), 51, 54, 57, 62, 66]),
    ("ibug68", "ibug51"): np.arange(17, 68),
    ("ibug68", "common17"): np.array([17, 26, 21, 22, 36, 45, 39, 42, 30, 33, 48, 54, 51, 62, 66, 57, 8]),
    ("tfake70", "ibug68"): np.arange(68),
    ("charlotte73", "ibug68"): np.arange(68),
    ("wflw98", "ibug68"): _WFLW_TO_IBUG,
    ("sf_tl54", "common17"): np.array([17, 26, 21, 22, 36, 45, 39, 42, 30, 33, 48, 50, 49, 52, 53, 51, 8]),
    ("cofw29", "common17"): np.array(COFW_TO_COMMON),
}
for _target in ("sf_tl54", "ibug51", "common17"):  # through iBUG 68
    for _source in ("tfake70", "wflw98", "charlotte73"):
        _PICKS[_source, _target] = _PICKS[_source, "ibug68"][_PICKS["ibug68", _target]]
# What tfw5 takes from each source: the tip of the nose and the mouth corners. (Its eyes are the means of their rims.)
_NOSE_AND_MOUTH = {source: picks[[8, 10, 11]] for (source, target), picks in _PICKS.items() if target == "common17"}
_NOSE_AND_MOUTH |= {"ibug51": (13, 31, 37), "common17": (8, 10, 11)}


def same(a: Layout, b: Layout) -> bool:
    """Whether two layouts hold the same points in the same order; layouts of users may differ under the same name."""
    return (a.name, a.count, a.groups) == (b.name, b.count, b.groups) and np.array_equal(a.flip, b.flip)


def _own(layout: Layout) -> bool:
    """Whether a user defined the layout, even if it has the name of a public one."""
    return layout.name not in LAYOUTS or not same(layout, LAYOUTS[layout.name])


def _recipe(source: Layout, target: Layout) -> list[tuple[int, ...]] | None:
    """For every point of `target`, the points of `source` to average; None if the conversion is not defined."""
    if same(source, target):
        return [(i,) for i in range(source.count)]
    if _own(source) or _own(target):
        return None
    if (source.name, target.name) in _PICKS:
        return [(int(i),) for i in _PICKS[source.name, target.name]]
    if target.name == "tfw5" and source.name in _NOSE_AND_MOUTH:
        eyes = [source.groups["right_eye"], source.groups["left_eye"]]
        return [*eyes, *((i,) for i in _NOSE_AND_MOUTH[source.name])]
    return None


def _common(first: Layout, second: Layout) -> Layout | None:
    """The layout with the most points to which both can be converted; None if there is none."""
    both = [layout for layout in (second, *LAYOUTS.values()) if _recipe(first, layout) and _recipe(second, layout)]
    return max(both, key=lambda layout: layout.count, default=None)


def convert(points: ArrayLike, source: str | Layout, target: str | Layout) -> np.ndarray:
    """The same faces in another layout, whose points are picked or averaged from the given ones.

    These conversions are defined: a layout to itself; tfake70, wflw98 and charlotte73 to ibug68; these three and ibug68
    to ibug51, sf_tl54 and common17; sf_tl54 and cofw29 to common17; and all of these layouts to tfw5, where an eye is
    the mean of its rim (from common17, of its corners). On turned heads the jaw of tfake70 differs from that of the
    other layouts: it is fixed on the head, and theirs follows the visible outline.

    Args:
        points: [..., K, 2] in `source`.
        source: name or Layout.
        target: name or Layout.

    Returns:
        [..., K', 2] of the same dtype.

    Raises:
        InputError: points that `check` refuses, or a target with points that the source lacks; the message names the
            layout in which the two can be compared, if there is one.
    """
    source, target = get(source), get(target)
    points = check(points, source)
    recipe = _recipe(source, target)
    if recipe is None:
        reason = _reason(source, target)
        raise InputError(f"Landmarks cannot be converted from {source.name} to {target.name}: {reason}.")
    if all(len(parts) == 1 for parts in recipe):
        return points[..., [parts[0] for parts in recipe], :]
    return np.stack([points[..., list(parts), :].mean(axis=-2) for parts in recipe], axis=-2).astype(points.dtype)


def route(model_layout: str | Layout, dataset_layout: str | Layout) -> Layout:
    """The layout in which predictions are compared with a dataset's landmarks, after `convert` of either or both.

    It is the layout with the most points to which both can be converted: ibug68 for wflw98 and ibug68, common17 for
    ibug68 and cofw29, ibug68 for wflw98 and tfake70. If it is tfw5, there are no eye corners to normalise by.

    Args:
        model_layout: name or Layout of the predictions.
        dataset_layout: name or Layout of the dataset's landmarks.

    Raises:
        InputError: an unknown name, or layouts without a common one.
    """
    model_layout, dataset_layout = get(model_layout), get(dataset_layout)
    found = _common(model_layout, dataset_layout)
    if found is None:
        what = f"in {model_layout.name} cannot be compared with landmarks in {dataset_layout.name}"
        raise InputError(f"Predictions {what}: {_reason(model_layout, dataset_layout)}.")
    return found


def _reason(source: Layout, target: Layout) -> str:
    """Why `source` cannot be converted to `target`, and what to do instead."""
    for layout in (source, target):
        if _own(layout):
            return f"it is not known which points of {layout.name}, a layout of your own, correspond to those of others"
    common = _common(source, target)
    if common is None:
        return f"{source.name} and {target.name} have no layout in common"
    hint = f"; {target.name if common.name == source.name else 'both'} can be converted to {common.name}"
    if target.name == "cofw29" and common.name == "common17":
        missing = "sides of the nose" if source.name == "wflw98" else "brow edges, lid middles, pupils or nose sides"
        return f"it has no points at COFW's {missing}{hint}"
    return f"its {source.count} points lack some of the {target.count} of {target.name}{hint}"


# The box of a whole face by points without a jaw: its width, its height, and how far its middle lies below theirs, over
# the longer side of their extent. Means over webmorph_faces for tfw5 (deviations 0.13, 0.08), and over 8,000 rendered
# faces for ibug51 (0.12, 0.11, 0.04).
_WITHOUT_JAW = {"tfw5": (2.24, 2.45, 0.035), "ibug51": (1.36, 1.52, 0.08)}


def box_from_points(points: ArrayLike, layout: str | Layout = "ibug68") -> np.ndarray:
    """The face box that fits landmarks, by the convention of SF-TL54's `face`.

    It is the landmarks' extent plus margins of 4.5 % of the box's width on the left and on the right, 13.5 % of its
    height at the top and 4 % at the bottom; so the extent is 91 % of the width and 82.5 % of the height. For layouts
    without a jaw, tfw5 and ibug51, this would be too tight: their extent grows by factors measured on whole faces.

    Args:
        points: [..., K, 2] in pixels; perhaps only the known ones of the layout.
        layout: the landmarks' layout.

    Returns:
        float32 [..., 4]: x, y, w, h.

    Raises:
        InputError: NaN, or all points on one horizontal or vertical line (in one place, without a jaw).
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim < 2 or points.shape[-1] != 2 or points.shape[-2] == 0:
        raise InputError(f"Landmarks have shape {points.shape}, not [..., K, 2].")
    low, high = points.min(axis=-2), points.max(axis=-2)
    if get(layout).name in _WITHOUT_JAW:
        w, h, down = _WITHOUT_JAW[get(layout).name]
        side = (high - low).max(axis=-1, keepdims=True)
        size = side * (w, h)
        corner = (low + high - size) / 2 + side * (0.0, down)
    else:
        size = (high - low) / (0.91, 0.825)
        corner = low - size * (0.045, 0.135)
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise InputError("No face box fits these landmarks: they hold NaN, or lie on one line.")
    return np.concatenate([corner, size], axis=-1).astype(np.float32)


_FARTHEST = 1e6  # pixels; float32 has no exact pixels far beyond it


def check_box(value: Any, what: str) -> Box:
    """Checks a box and returns it as four floats.

    Args:
        value: x, y, w, h as a list, a tuple or an array.
        what: the subject of the error message, such as "The box of a.png".

    Raises:
        InputError: not four finite numbers of at most 1e6, or a width or height that is not above 0.
    """
    value = value.tolist() if isinstance(value, np.ndarray) else value
    numbers = isinstance(value, list | tuple) and all(type(v) in (int, float) for v in value)
    if not numbers or len(value) != 4:
        found = f"{len(value)} numbers" if numbers else f"a {json_kind(value)}"
        raise InputError(f"{what} is {found}, not the four numbers x,y,w,h.")
    try:
        x, y, w, h = map(float, value)
    except OverflowError:  # an integer of 400 digits is valid JSON
        raise InputError(f"{what} holds a number too large for a pixel.") from None
    if not all(map(math.isfinite, (x, y, w, h))):
        raise InputError(f"{what} holds a number that is not finite.")
    if max(map(abs, (x, y, w, h))) > _FARTHEST:
        raise InputError(f"{what} holds a number too large for a pixel.")
    if w <= 0 or h <= 0:
        raise InputError(f"{what} is empty: its width and height must be above 0.")
    return x, y, w, h


def check_box_inside(box: Sequence[float], width: int, height: int, what: str) -> None:
    """Checks that a box, which may extend beyond the border of the image, can hold a face.

    Raises:
        InputError: the box is wholly outside the image, or its sides are at most one pixel of a larger image, as those
            of boxes in shares of the image are.
    """
    x, y, w, h = box
    if max(w, h) <= 1 < max(width, height):
        raise InputError(
            f"{what}, {x:g},{y:g},{w:g},{h:g}, is not larger than a pixel; give pixels, not shares of the image."
        )
    if x + w <= 0 or y + h <= 0 or x >= width or y >= height:
        raise InputError(
            f"{what}, {x:g},{y:g},{w:g},{h:g}, lies outside the image, which has {width} x {height} pixels."
        )
