"""Temperatures of the regions of a face: forehead, eye corners, nose, cheeks, upper lip, chin, and the whole face.

Regions are polygons whose corners lie on straight lines through two landmarks of iBUG 68, so they move, turn and grow
with the face. The inner eye corners are small discs, whose maximum ISO/TR 13154 measures. docs/regions.md shows them.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.path import Path

from mlcm_jax import landmarks
from mlcm_jax.errors import InputError

LAYOUT = "ibug68"
DISC = 0.05  # radius of the discs over the distance of the outer eye corners, about 4.5 mm


class _Corner(NamedTuple):
    """The point (1 - share) · first + share · second of two landmarks."""

    first: int
    second: int
    share: float


def _polygon(*corners: tuple[int, int, float]) -> tuple[_Corner, ...]:
    return tuple(_Corner(*corner) for corner in corners)


POLYGONS = {
    "forehead": _polygon(
        (33, 19, 1.1), (33, 21, 1.14), (33, 22, 1.14), (33, 24, 1.1), (33, 23, 1.42), (33, 22, 1.44), (33, 21, 1.44),
        (33, 20, 1.42),
    ),
    "nose_tip": _polygon((29, 30, 0.4), (30, 35, 0.6), (30, 33, 0.65), (30, 31, 0.6)),
    "nostrils": _polygon((31, 30, 0.1), (33, 30, 0.2), (35, 30, 0.1), (35, 53, 0.25), (33, 51, 0.3), (31, 49, 0.25)),
    "right_cheek": _polygon((40, 48, 0.35), (31, 48, 0.35), (48, 4, 0.3), (3, 31, 0.3), (2, 40, 0.4)),
    "left_cheek": _polygon((47, 54, 0.35), (35, 54, 0.35), (54, 12, 0.3), (13, 35, 0.3), (14, 47, 0.4)),
    "upper_lip": _polygon(
        (31, 49, 0.35), (33, 51, 0.4), (35, 53, 0.35), (35, 53, 0.85), (33, 51, 0.85), (31, 49, 0.85)
    ),
    "chin": _polygon((58, 7, 0.35), (57, 8, 0.35), (56, 9, 0.35), (56, 9, 0.85), (57, 8, 0.85), (58, 7, 0.85)),
    "face": _polygon(
        *((k, 33, 0.03) for k in range(17)), (33, 26, 1.1), (33, 24, 1.35), (33, 22, 1.45), (33, 21, 1.45),
        (33, 19, 1.35), (33, 17, 1.1),
    ),
}  # fmt: skip
DISCS = {"right_eye_corner": 39, "left_eye_corner": 42}  # the person's right is on the left of the image
NAMES = (*DISCS, *POLYGONS)
# A region whose median is this many kelvins below the 75th percentile of the face is covered: by glasses, hair, a hand
# or a mask. Of rendered regions without a cover, 1 to 3 % are colder (benchmarks/regions.py).
COLDER = {
    "right_eye_corner": 1.5, "left_eye_corner": 1.5, "forehead": 0.6, "nose_tip": 4.0, "nostrils": 4.0,
    "right_cheek": 2.5, "left_cheek": 2.5, "upper_lip": 1.7, "chin": 2.9,
}  # fmt: skip
MASK = 1.6  # if the upper lip and the chin are this much colder, there is a mask, which covers these
MASKED = ("upper_lip", "chin", "nose_tip", "nostrils", "right_cheek", "left_cheek")
TURNED = 0.2  # a cheek with less than this share of the other's area is turned away
INSIDE = 0.5  # share of a region that must lie in the image


@dataclasses.dataclass(frozen=True)
class Region:
    """Temperatures of one region in °C, NaN if it is hidden.

    Attributes:
        mean: their mean.
        max: their maximum.
        std: their standard deviation.
        p10: their 10th percentile.
        p90: their 90th percentile.
        pixels: the number of pixels with a value whose centres lie in the region.
        hidden: whether the region is not measured, because it is covered, turned away, outside the image, or so small
            that it holds no pixel with a value.
    """

    mean: float
    max: float
    std: float
    p10: float
    p90: float
    pixels: int
    hidden: bool


def outline(points: np.ndarray, name: str) -> np.ndarray:
    """Corners of a region in pixels, float64 [N, 2]; discs have 24.

    Args:
        points: [68, 2], landmarks of iBUG 68 in pixels.
        name: one of `NAMES`.
    """
    points = np.asarray(points, np.float64)
    if name in DISCS:
        radius = max(0.75, DISC * float(np.linalg.norm(points[36] - points[45])))  # holds one pixel at least
        angle = np.arange(24) * (2 * np.pi / 24)
        return points[DISCS[name]] + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    first, second, share = (np.array(column) for column in zip(*POLYGONS[name], strict=True))
    return (1 - share[:, None]) * points[first] + share[:, None] * points[second]


def drawn(points: np.ndarray, hidden: Mapping[str, bool]) -> list[tuple[np.ndarray, bool]]:
    """Returns the outline of every region but the whole face, and whether it is measured, for `draw.draw_faces`.

    Args:
        points: [68, 2], landmarks of iBUG 68 in pixels.
        hidden: whether a region is hidden, by its name in `NAMES`.
    """
    return [(outline(points, name), not hidden[name]) for name in NAMES if name != "face"]


def pixels(points: np.ndarray, name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels whose centres lie in a region, int [N] twice; see `outline`."""
    corners = outline(points, name)
    (left, top), (right, bottom) = np.floor(corners.min(0)), np.ceil(corners.max(0))
    columns = np.arange(max(0, int(left)), min(shape[1], int(right) + 1))
    rows = np.arange(max(0, int(top)), min(shape[0], int(bottom) + 1))
    y, x = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    inside = Path(corners).contains_points(np.stack([x, y], 1)) if x.size else np.zeros(0, bool)
    return y[inside], x[inside]


def measure(points: np.ndarray, celsius: np.ndarray) -> dict[str, Region]:
    """Measures all regions of one face.

    Args:
        points: [68, 2], landmarks of iBUG 68 in pixels.
        celsius: float [H, W] in °C; NaN where there is no value.

    Returns:
        The regions by their names in `NAMES`.
    """
    values = {name: celsius[pixels(points, name, celsius.shape)] for name in NAMES}
    hidden = _outside(points, values) | _turned(points)
    values = {name: some[np.isfinite(some)] for name, some in values.items()}
    hidden |= {name for name, some in values.items() if not len(some)} | _covered(values)
    return {name: _measured(values[name], hidden=name in hidden) for name in NAMES}


def _measured(values: np.ndarray, *, hidden: bool) -> Region:
    if hidden:
        return Region(*[float("nan")] * 5, len(values), True)
    values = np.asarray(values, np.float64)
    low, high = np.percentile(values, [10, 90])
    numbers = (values.mean(), values.max(), values.std(), low, high)
    return Region(*map(float, numbers), len(values), False)


def _area(corners: np.ndarray) -> float:
    x, y = corners.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def _outside(points: np.ndarray, values: dict[str, np.ndarray]) -> set[str]:
    """The regions of which less than half lies in the image; `values` holds one number for every pixel in it."""
    area = {name: _area(outline(points, name)) for name in NAMES}
    return {name for name in NAMES if area[name] > 4 and len(values[name]) < INSIDE * area[name]}


def _turned(points: np.ndarray) -> set[str]:
    """The cheek that is turned away, and the eye corner above it."""
    right, left = (_area(outline(points, name)) for name in ("right_cheek", "left_cheek"))
    if right < TURNED * left:
        return {"right_cheek", "right_eye_corner"}
    return {"left_cheek", "left_eye_corner"} if left < TURNED * right else set()


def _covered(values: dict[str, np.ndarray]) -> set[str]:
    """The regions that are too cold for skin, next to the rest of the face."""
    if not len(values["face"]):
        return set()
    skin = float(np.percentile(values["face"], 75))
    colder = {name: skin - float(np.median(values[name])) for name in COLDER if len(values[name])}
    covered = {name for name, value in colder.items() if value > COLDER[name]}
    if all(colder.get(name, 0.0) > MASK for name in MASKED[:2]):
        covered.update(MASKED)
    return covered


def rounded(found: Mapping[str, Region]) -> dict[str, dict[str, Any]]:
    """The regions of a face as predictions.json has them: °C with three decimals, null for what is hidden."""

    def plain(value: float) -> Any:
        return None if np.isnan(value) else round(value, 3) if isinstance(value, float) else value

    return {name: {key: plain(value) for key, value in dataclasses.asdict(one).items()} for name, one in found.items()}


def table(predictions: Mapping[str, Mapping[str, Any]]) -> str:
    """The regions in the content of predictions.json as CSV: a row for each image, face and region."""
    fields = [field.name for field in dataclasses.fields(Region)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image", "face", "region", *fields])
    for key, entry in predictions.items():
        for number, face in enumerate(entry.get("faces", [])):
            for name, one in face.get("regions", {}).items():
                values = ["" if one[field] is None else one[field] for field in fields[:-1]]
                writer.writerow([key, number, name, *values, int(one["hidden"])])
    return out.getvalue()


def check(layout: str, celsius: Any) -> np.ndarray:
    """Returns the temperatures as an array.

    Raises:
        InputError: the landmarks of a layout have no regions, or the image has no temperatures, float [H, W].
    """
    if landmarks.get(layout).name != LAYOUT:
        raise InputError(f"Regions are defined on the 68 landmarks of {LAYOUT}; the network has the layout {layout}.")
    if celsius is None:
        raise InputError(
            "The image has gray levels and no temperatures; give one that has some, or, if it holds 16-bit counts or "
            "floats, their unit with --celsius."
        )
    try:
        array = np.asarray(celsius)
    except (TypeError, ValueError):  # such as lists of different lengths
        array = np.asarray(None)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise InputError(
            f"Regions are measured in °C, an array of floats [H, W] such as `Image.celsius`, not in {array.dtype} of "
            f"shape {array.shape}."
        )
    return array
