"""Triangles to pixels: a vectorised z-buffer in numpy.

`raster` calls `rasterise` with vertices in pixels and in head units along the optical axis, and gets `Fragments`: which
triangle every covered pixel shows. Nothing here is specific to heads.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Fragments:
    """The nearest triangle at every covered pixel of an R x R image.

    Attributes:
        pixel: int [N], row * R + column, ascending.
        face: int [N], row of the `faces` array given.
        weight: float32 [N, 3], barycentric weights in the image, without correction for perspective.
        depth: float32 [N], in the unit of the depths given.
    """

    pixel: np.ndarray
    face: np.ndarray
    weight: np.ndarray
    depth: np.ndarray

    def interpolate(self, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values float32 [V, C] at the vertices -> values float32 [N, C] at the fragments."""
        corner = faces[self.face]
        out = self.weight[:, :1] * values[corner[:, 0]]
        out += self.weight[:, 1:2] * values[corner[:, 1]]
        out += self.weight[:, 2:] * values[corner[:, 2]]
        return out


def rasterise(
    xy: np.ndarray, depth: np.ndarray, faces: np.ndarray, size: int, *, two_sided: np.ndarray | None = None
) -> Fragments:
    """The nearest of all triangles at every pixel centre.

    Args:
        xy: float [V, 2], positions in pixels, centres at integers.
        depth: float [V], smaller is nearer.
        faces: int [F, 3]; seen from outside, the corners run clockwise in an image with y down.
        size: side R of the square image.
        two_sided: bool [F] or None; triangles to draw from behind too.

    Returns:
        One fragment per covered pixel.
    """
    corner = np.ascontiguousarray(faces.T)
    x, y = np.ascontiguousarray(xy[:, 0], np.float64), np.ascontiguousarray(xy[:, 1], np.float64)
    (ax, bx, cx), (ay, by, cy) = x[corner], y[corner]
    det = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    front = det > 1e-9 if two_sided is None else (det > 1e-9) | (two_sided & (det < -1e-9))
    left, right = np.minimum(np.minimum(ax, bx), cx), np.maximum(np.maximum(ax, bx), cx)
    top, bottom = np.minimum(np.minimum(ay, by), cy), np.maximum(np.maximum(ay, by), cy)
    left, top = np.maximum(np.ceil(left), 0), np.maximum(np.ceil(top), 0)
    right, bottom = np.minimum(np.floor(right), size - 1), np.minimum(np.floor(bottom), size - 1)
    keep = np.flatnonzero(front & (left <= right) & (top <= bottom))
    ax, ay, bx, by, cx, cy, det, left, right, top, bottom = (
        v[keep] for v in (ax, ay, bx, by, cx, cy, det, left, right, top, bottom)
    )
    # Every weight is an affine function of the pixel. Pixels are counted from the corner of the triangle's box, because
    # float32 is not exact enough for large coordinates.
    plane = np.empty((9, len(keep)), np.float32)
    plane[1], plane[2] = (cy - ay) / det, (ax - cx) / det
    plane[4], plane[5] = (ay - by) / det, (bx - ax) / det
    plane[0] = ((cy - ay) * (left - ax) + (ax - cx) * (top - ay)) / det
    plane[3] = ((ay - by) * (left - ax) + (bx - ax) * (top - ay)) / det
    near, second, third = depth.astype(np.float64)[corner[:, keep]]
    plane[6], plane[7], plane[8] = near, second - near, third - near

    # One candidate per pixel of every triangle's box.
    width = (right - left + 1).astype(np.int32)
    count = width * (bottom - top + 1).astype(np.int32)
    owner = np.repeat(np.arange(len(keep), dtype=np.int32), count)
    local = np.arange(len(owner), dtype=np.int32) - (np.cumsum(count, dtype=np.int32) - count)[owner]
    wide = width[owner]
    row = local // wide
    col = local - row * wide
    col_f, row_f = col.astype(np.float32), row.astype(np.float32)  # int32 * float32 would be float64
    wb = plane[0][owner] + plane[1][owner] * col_f + plane[2][owner] * row_f
    wc = plane[3][owner] + plane[4][owner] * col_f + plane[5][owner] * row_f
    slack = np.float32(1e-5)
    inside = np.flatnonzero((wb >= -slack) & (wc >= -slack) & (wb + wc <= 1 + slack))
    owner, wb, wc = owner[inside], wb[inside], wc[inside]
    z = plane[6][owner] + plane[7][owner] * wb + plane[8][owner] * wc
    corner_pixel = (top * size + left).astype(np.int32)
    pixel = corner_pixel[owner] + row[inside] * size + col[inside]
    nearest = np.full(size * size, np.inf, np.float32)
    np.minimum.at(nearest, pixel, z)
    won = np.flatnonzero(z == nearest[pixel])
    # Of two triangles at exactly the same depth the later one wins, as it overwrites the other's fragment number.
    number = np.full(size * size, -1, np.int32)
    number[pixel[won]] = won
    final = number[number >= 0]
    wb, wc = wb[final], wc[final]
    return Fragments(pixel[final], keep[owner[final]], np.stack([1 - wb - wc, wb, wc], 1), z[final])


def vertex_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Outward unit normals float32 [V, 3]: means of the adjacent triangles' normals, weighted by area."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    corner = faces.T.ravel()
    total = np.stack([np.bincount(corner, np.tile(face[:, k], 3), len(points)) for k in range(3)], 1)
    return (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)).astype(np.float32)
