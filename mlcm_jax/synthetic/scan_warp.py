"""Template coordinates for a scan-based head: where each place of the mean scan lies on the canonical head.

`scan_rig` calls `coordinates`. Materials and temperatures are functions of template coordinates (`anatomy`), so that a
scan which has them can be painted like the hand-made head. The map is a thin-plate interpolation between places that
both heads have: the landmarks, the frontal edge of the face, the profile, and the neck, which stays where it is.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import RBFInterpolator

from mlcm_jax.synthetic import anatomy
from mlcm_jax.synthetic.zbuffer import rasterise, vertex_normals

_VIEW, _EXTENT, _TOP = 900, 3.2, -1.35  # pixels and head units of the frontal view in which the edge is searched
_MOUTH_Y = 0.72  # the fan of rays below the eyes starts here
_INNER = slice(17, 68)


def coordinates(
    points: np.ndarray, faces: np.ndarray, skin: np.ndarray, landmarks: np.ndarray, anchors: np.ndarray
) -> np.ndarray:
    """Template coordinates of the mean scan.

    Args:
        points: float64 [V, 3], the mean scan in head units, its outer eye corners at the height of the template's.
        faces: int [F, 3] of face, head and neck without the ears, wound as `zbuffer.rasterise` wants them.
        skin: bool [V], vertices of face, head and neck.
        landmarks: float64 [68, 3], the scan's landmarks in iBUG's sense.
        anchors: float64 [68, 3], the template's.

    Returns:
        float64 [V, 3].
    """
    source, target = [landmarks[_INNER]], [anchors[_INNER]]

    def tie(here: np.ndarray, there: np.ndarray, *, both: bool = True) -> None:
        for sign in (-1, 1) if both else (1,):
            source.append((np.asarray(here, float) * [sign, 1, 1])[None])
            target.append((np.asarray(there, float) * [sign, 1, 1])[None])

    for here, there in _edge(points, faces):
        tie(here, there)
    # The profile of forehead and crown, and the back of the head.
    middle = skin & (np.abs(points[:, 0]) < 0.08)
    crown = float(points[skin, 1].min())
    for y in (-1.25, -1.1, -0.9, -0.7, -0.5, -0.35, -0.2, 0.1, 0.4):
        height = float(np.interp(y, [anatomy.CROWN_Y, -0.2], [crown, -0.2])) if y < -0.2 else y
        depth = points[middle & (np.abs(points[:, 1] - height) < 0.06), 2]
        if not len(depth):
            continue
        tie([0, height, depth.min()], [0, y, anatomy.back_depth(y)], both=False)
        if y < -0.2:
            tie([0, height, depth.max()], [0, y, anatomy.front_depth(y)], both=False)
    for place in ([0.64, 1.6, -0.95], [1.3, 2.3, -1.0]):
        tie(place, place)
    for place in ([0, 1.9, -0.4], [0, 1.6, -1.6], [0, 2.3, -1.6], [0, 2.5, 0.0]):
        tie(place, place, both=False)
    source, target = np.concatenate(source), np.concatenate(target)
    source, kept = np.unique(np.round(source, 6), axis=0, return_index=True)
    warp = RBFInterpolator(source, target[kept] - source, kernel="linear", smoothing=0.01, degree=1)
    return points + warp(points)


def _edge(points: np.ndarray, faces: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Places on the frontal edge of the scan's face (right half of the image), each with its place on the template."""
    pixels = np.stack([points[:, 0] / _EXTENT * _VIEW + _VIEW / 2, (points[:, 1] - _TOP) / _EXTENT * _VIEW], 1)
    found = rasterise(pixels, 5 - points[:, 2], faces, _VIEW)
    normal = found.interpolate(faces, vertex_normals(points, faces))
    turned, place = np.full(_VIEW * _VIEW, -1.0), np.zeros((_VIEW * _VIEW, 3))
    turned[found.pixel] = normal[:, 2] / np.maximum(np.linalg.norm(normal, axis=1), 1e-9)
    place[found.pixel] = found.interpolate(faces, points.astype(np.float32))
    steps = np.arange(0.0, 1.6, 0.0035)

    def march(start: tuple[float, float], direction: tuple[float, float], first: float, limit: float) -> np.ndarray:
        """The last place along a ray over the image before the skin turns away from the viewer."""
        t = steps[steps >= first]
        col = np.rint((start[0] + t * direction[0]) / _EXTENT * _VIEW + _VIEW / 2).astype(int)
        row = np.rint((start[1] + t * direction[1] - _TOP) / _EXTENT * _VIEW).astype(int)
        pixel = np.clip(row, 0, _VIEW - 1) * _VIEW + np.clip(col, 0, _VIEW - 1)
        beyond = np.flatnonzero(turned[pixel] < limit)
        return place[pixel[max(int(beyond[0]) - 1, 0) if len(beyond) else -1]]

    tied = []
    for y in np.linspace(-0.7, 0.7, 15):  # level rays
        there = np.array([anatomy.outline_width(y), y, anatomy.outline_depth(y)])
        tied.append((march((0.0, y), (1.0, 0.0), 0.6, 0.05), there))
    height = np.linspace(-1.24, anatomy.CHIN_Y, 4000)
    width = anatomy.outline_width(height)
    bearing = np.arctan2(height - _MOUTH_Y, np.maximum(width, 1e-9)) + 9 * (height < _MOUTH_Y)
    for angle in np.radians([*range(8, 90, 6), 90]):  # a fan below the mouth, from sideways to straight down
        down = angle > 1.57
        best = int(np.argmin(np.abs(bearing - angle)))
        x, y = (0.0, anatomy.CHIN_Y) if down else (width[best], height[best])
        limit = float(np.interp(angle, [0.2, 1.0], [0.08, 0.3]))  # chins round off gradually
        there = np.array([x, y, anatomy.outline_depth(y)])
        tied.append((march((0.0, _MOUTH_Y), (np.cos(angle), np.sin(angle)), 0.42, limit), there))
    return tied
