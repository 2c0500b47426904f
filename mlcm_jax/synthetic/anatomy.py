"""The canonical head as curves: profile, lids, lips, brows, hairline, and the places of the 68 landmarks.

Everything is a plain function of template coordinates in head units, so that the mesh (`template`), its changes of
shape (`blendshapes`), landmarks (`head`), materials (`paint`, `albedo`) and temperatures (`skin_map`) share one set of
numbers. The proportions were set by hand against published facial proportions and against the means of 139 neutral
frontal portraits (DeBruine & Jones, CC BY 4.0); the package contains no image or mesh of a real face.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike

CHIN_Y = 1.31  # menton
CROWN_Y = -1.25
MOUTH_HALF_WIDTH = 0.287
EYE_INNER, EYE_OUTER = 0.205, 0.5
EYE_CENTRE = np.array([0.352, -0.008])
IRIS_RADIUS = 0.064
EYEBALL_RADIUS = 0.15

# Outline of the face in frontal view: half width at heights y, and z of that outline (jaw, cheek, temple).
_OUTLINE_Y = np.array(
    [-1.25, -1.2, -1.1, -0.95, -0.75, -0.5, -0.25, 0.04, 0.26, 0.47, 0.68, 0.88, 1.05, 1.185, 1.275, 1.31]
)
_OUTLINE_W = np.array(
    [0.0, 0.24, 0.42, 0.58, 0.71, 0.80, 0.83, 0.845, 0.828, 0.79, 0.75, 0.685, 0.57, 0.405, 0.212, 0.0]
)
_OUTLINE_Z = np.array(
    [-0.8, -0.8, -0.8, -0.8, -0.8, -0.78, -0.75, -0.7, -0.67, -0.62, -0.56, -0.46, -0.3, -0.12, 0.0, 0.03]
)
# Midline profile without the nose, and the back of the skull.
_FRONT_Z = np.array([-0.8, -0.52, -0.3, -0.1, 0.05, 0.13, 0.12, 0.02, 0.06, 0.13, 0.18, 0.17, 0.15, 0.15, 0.1, 0.03])
_BACK_Z = np.array(
    [-0.8, -1.1, -1.35, -1.6, -1.8, -1.97, -2.03, -1.98, -1.85, -1.65, -1.5, -1.35, -1.2, -1.1, -1.0, -1.0]
)


def smooth_curve(knots_x: ArrayLike, knots_y: ArrayLike, x: ArrayLike) -> np.ndarray:
    """Values at `x` of the monotone piecewise cubic through the knots (Fritsch & Carlson 1980), constant outside."""
    knots_x, knots_y, step, tangent = _cubic(tuple(knots_x), tuple(knots_y))
    x = np.clip(np.asarray(x, np.float64), knots_x[0], knots_x[-1])
    k = np.clip(np.searchsorted(knots_x, x, side="right") - 1, 0, len(step) - 1)
    h, t = step[k], (x - knots_x[k]) / step[k]
    return (
        (1 + 2 * t) * (1 - t) ** 2 * knots_y[k]
        + t * (1 - t) ** 2 * h * tangent[k]
        + t * t * (3 - 2 * t) * knots_y[k + 1]
        + t * t * (t - 1) * h * tangent[k + 1]
    )


@functools.lru_cache(maxsize=64)
def _cubic(knots_x: tuple[float, ...], knots_y: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """The knots as arrays, the distances between them, and the slopes of `smooth_curve` at them."""
    knots_x, knots_y = np.array(knots_x, np.float64), np.array(knots_y, np.float64)
    step = np.diff(knots_x)
    slope = np.diff(knots_y) / step
    before, after = slope[:-1], slope[1:]
    tangent = np.empty_like(knots_y)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = 3 * (step[1:] + step[:-1]) / ((2 * step[1:] + step[:-1]) / before + (step[1:] + 2 * step[:-1]) / after)
    tangent[1:-1] = np.where(before * after > 0, mean, 0.0)
    tangent[0], tangent[-1] = slope[0], slope[-1]
    return knots_x, knots_y, step, tangent


def smoothstep(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, a cubic between; with `low` > `high` the step falls instead."""
    t = np.asarray((x - low) / (high - low))
    t = np.minimum(np.maximum(t, 0.0, out=t), 1.0, out=t)
    return t * t * (3 - 2 * t)


def bump(x: np.ndarray, y: np.ndarray | float, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    """A Gaussian hill of height 1 at (cx, cy) with standard deviations rx and ry."""
    across, down = (x - cx) / rx, (y - cy) / ry
    across *= across
    down *= down
    total = np.asarray(across + down)
    total *= -0.5
    return np.exp(total, out=total)


def outline_width(y: ArrayLike) -> np.ndarray:
    """Half width of the face's frontal outline at height y."""
    y = np.asarray(y, np.float64)
    width = smooth_curve(_OUTLINE_Y, _OUTLINE_W, y)
    # The chin and the crown end in circular arcs instead of points.
    chin = 0.212 * np.sqrt(np.clip((CHIN_Y - y) / (CHIN_Y - 1.275), 0, 1))
    crown = 0.24 * np.sqrt(np.clip((y - CROWN_Y) / 0.05, 0, 1))
    return np.where(y > 1.275, chin, np.where(y < -1.2, crown, width))


def outline_depth(y: ArrayLike) -> np.ndarray:
    """Coordinate z of the frontal outline (temple, front of the ear, jaw, chin) at height y."""
    return smooth_curve(_OUTLINE_Y, _OUTLINE_Z, y)


def front_depth(y: ArrayLike) -> np.ndarray:
    """Coordinate z of the midline at height y, without the nose."""
    return smooth_curve(_OUTLINE_Y, _FRONT_Z, y)


def back_depth(y: ArrayLike) -> np.ndarray:
    """Coordinate z of the back of the skull at height y."""
    return smooth_curve(_OUTLINE_Y, _BACK_Z, y)


def face_depth(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Coordinate z of the canonical face at (x, y) inside the frontal outline: a swept profile with hills on it."""
    x = np.abs(np.asarray(x, np.float64))
    y = np.asarray(y, np.float64)
    s = np.clip(x / np.maximum(outline_width(y), 1e-6), 0, 1)
    edge, front = outline_depth(y), front_depth(y)
    z = edge + (front - edge) * np.sqrt(np.clip(1 - s**2.35, 0, 1))
    flank = smoothstep(1.0, 0.8, s)  # features fade towards the outline so that they never bend it
    z = z + flank * _features(x, y)
    # The lids lie on the eyeball: a smooth maximum of socket and ball.
    dx, dy = x - EYE_CENTRE[0], y - EYE_CENTRE[1]
    ball = -0.172 - 0.1 * dx + np.sqrt(np.clip(EYEBALL_RADIUS**2 - 0.7 * dx * dx - dy * dy, 0, None))
    near = smoothstep(0.2, 0.1, np.hypot(dx, 1.3 * dy))
    sharp = 45.0
    merged = np.logaddexp(sharp * z, sharp * ball) / sharp
    return z + near * (merged - z)


def _features(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Hills and hollows of half a face, x >= 0, as z to be added to the swept profile."""
    z = -0.115 * bump(x, y, 0.35, 0.0, 0.16, 0.10)  # socket
    z -= 0.03 * bump(x, y, 0.19, -0.01, 0.07, 0.07)  # inner corner, beside the bridge
    z -= 0.03 * bump(x, y, 0.62, -0.05, 0.1, 0.16)  # temple
    z += 0.055 * bump(x, y, 0.34, -0.235, 0.17, 0.055) + 0.03 * bump(x, y, 0.1, -0.2, 0.08, 0.06)  # brow ridge
    z += 0.055 * bump(x, y, 0.5, 0.24, 0.15, 0.11)  # cheekbone
    z -= 0.04 * bump(x, y, 0.52, 0.62, 0.13, 0.16)  # hollow of the cheek
    z += 0.03 * bump(x, y, 0.3, 0.42, 0.1, 0.14)  # cheek beside the nose
    z -= 0.03 * bump(x, y, 0.22, 0.54, 0.045, 0.1)  # nasolabial fold
    z += nose_height(x, y)
    # Mouth: a barrel under the lips, two rolls, the seam, the corners, philtrum and mentolabial fold.
    z += 0.05 * bump(x, y, 0.0, 0.74, 0.22, 0.13)
    seam = lip_seam(x)
    inside = smoothstep(0.31, 0.2, x)
    z += inside * (0.06 * np.exp(-0.5 * ((y - seam + 0.048) / 0.032) ** 2))
    z += inside * (0.065 * np.exp(-0.5 * ((y - seam - 0.055) / 0.036) ** 2) * smoothstep(0.3, 0.1, x))
    z -= inside * 0.03 * np.exp(-0.5 * ((y - seam) / 0.014) ** 2)
    z -= 0.04 * bump(x, y, 0.3, 0.775, 0.045, 0.05)
    z -= 0.014 * bump(x, y, 0.0, 0.61, 0.028, 0.05) - 0.008 * bump(x, y, 0.06, 0.62, 0.025, 0.05)
    z -= 0.035 * bump(x, y, 0.0, 0.96, 0.16, 0.045)
    z += 0.05 * bump(x, y, 0.0, 1.13, 0.15, 0.09)  # chin
    return z


def nose_height(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far the nose stands out of the profile at x >= 0 and y: bridge, tip, wings, columella, nostrils."""
    ridge = smooth_curve(
        [-0.16, -0.04, 0.1, 0.25, 0.36, 0.42, 0.46, 0.50, 0.535], [0, 0.06, 0.115, 0.185, 0.26, 0.26, 0.17, 0.03, 0], y
    )
    width = smooth_curve([-0.15, 0.0, 0.2, 0.34, 0.42, 0.5], [0.1, 0.085, 0.09, 0.1, 0.105, 0.085], y)
    z = ridge * np.exp(-0.5 * (np.abs(x) / width) ** 2.3)
    z = z + 0.035 * bump(x, y, 0.0, 0.39, 0.055, 0.05)
    z = z + 0.115 * np.exp(-0.5 * ((np.abs(x - 0.122) / 0.036) ** 2.6 + (np.abs(y - 0.41) / 0.055) ** 2.6))
    return z - 0.07 * bump(x, y, 0.067, 0.472, 0.025, 0.014)


def lip_seam(x: ArrayLike) -> np.ndarray:
    """Height y where the closed lips meet."""
    x = np.asarray(x, np.float64)
    return 0.757 + 0.02 * np.clip(x / MOUTH_HALF_WIDTH, -1.2, 1.2) ** 2 + 0.006 * np.exp(-((x / 0.045) ** 2))


def lip_edges(x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Heights y of the outer edges of the upper and of the lower lip at x; they meet at the corners."""
    x = np.minimum(np.abs(np.asarray(x, np.float64)), MOUTH_HALF_WIDTH)
    upper = smooth_curve(
        [0, 0.03, 0.076, 0.12, 0.177, 0.24, MOUTH_HALF_WIDTH], [0.69, 0.682, 0.669, 0.678, 0.708, 0.75, 0.777], x
    )
    lower = smooth_curve([0, 0.081, 0.13, 0.179, 0.24, MOUTH_HALF_WIDTH], [0.877, 0.871, 0.86, 0.843, 0.81, 0.777], x)
    return upper, lower


def lip_margin(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far inside the red of the lips a point lies, in head units along y; negative outside."""
    upper, lower = lip_edges(x)
    inside = np.minimum(y - upper, lower - y)
    return np.where(np.abs(x) < MOUTH_HALF_WIDTH, inside, -1.0)


def lid_edges(x: np.ndarray, opening: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heights y of the upper and lower lid edge at |x|; opening 0 is shut, 1 the mean, about 1.5 the widest."""
    u = np.clip((np.abs(x) - EYE_INNER) / (EYE_OUTER - EYE_INNER), 0.0, 1.0)
    base = 0.013 * (1 - u)
    arch = np.clip(np.sin(np.pi * u), 0, None) ** 0.7
    shut = 0.030 * arch  # where the lids meet: low, as only the upper lid travels
    upper = base + shut + (-0.078 * arch - shut) * opening
    lower = base + shut + ((0.030 + 0.018 * u) * arch - shut) * np.minimum(opening, 1.2)
    return upper, lower


def brow_curve(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Height y of the middle line of the brow at |x|, and its half thickness there."""
    x = np.abs(x)
    y = smooth_curve(
        [0.1, 0.137, 0.281, 0.432, 0.58, 0.678, 0.7], [-0.195, -0.205, -0.255, -0.272, -0.235, -0.145, -0.12], x
    )
    half = smooth_curve([0.1, 0.15, 0.3, 0.45, 0.6, 0.69], [0.022, 0.038, 0.040, 0.034, 0.026, 0.016], x)
    return y, half


BROW_SPAN = (0.105, 0.705)
_HAIR_AZIMUTH = np.array([0.0, 0.35, 0.6, 0.8, 0.98, 1.12, 1.22, 1.32, 1.42, 1.5, 1.75, 1.95, 2.4, 3.15])
_HAIR_Y = np.array([-0.83, -0.82, -0.78, -0.66, -0.48, -0.28, -0.08, 0.14, 0.16, -0.16, -0.1, 0.45, 0.75, 0.85])


def azimuth(points: np.ndarray) -> np.ndarray:
    """Angle round the vertical axis of the skull, 0 at the nose, π at the back; points [..., 3]."""
    return np.arctan2(np.abs(points[..., 0]), points[..., 2] + 0.75)


def hairline(angle: np.ndarray) -> np.ndarray:
    """Height y of the lower edge of the hair at an azimuth."""
    return np.interp(angle, _HAIR_AZIMUTH, _HAIR_Y)


# Template (x, y) of the iBUG landmarks of brows and nose in the right half of the image. The other landmarks lie on
# curves: `head` puts the jaw on the outline, and, at the places given below, the lids on `lid_edges` and the lips on
# `lip_edges` and `lip_seam`.
BROWS = np.array([[0.655, -0.163], [0.566, -0.25], [0.42, -0.288], [0.274, -0.272], [0.132, -0.216]])
NOSE = np.array([[0, -0.045], [0, 0.088], [0, 0.22], [0, 0.355]])
NOSE_BASE = np.array([[0.147, 0.472], [0.074, 0.492], [0.0, 0.508]])
# Shares of the way from the inner to the outer eye corner: outer then inner above, inner then outer below.
LID_FRACTIONS = {"upper": (0.70, 0.32), "lower": (0.34, 0.72)}
OUTER_LIP_X = (0.287, 0.177, 0.076)
LOWER_LIP_X = (0.179, 0.081)
INNER_LIP_X = (0.238, 0.077)
