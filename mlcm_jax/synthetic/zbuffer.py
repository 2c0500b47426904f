"""Triangles to pixels: a vectorised z-buffer in numpy.

`raster` calls `rasterise` with vertices in pixels and in head units along the optical axis, and gets `Fragments`: which
triangle every covered pixel shows. Nothing here is specific to heads.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from mlcm_jax.synthetic.arrays import gather, length

_SLACK = np.float32(1e-5)  # a pixel centre on the border of two triangles belongs to both


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
        """Values float32 [V, C] at the vertices -> values float32 [N, C] at the fragments.

        The result is a transposed array, whose channels are contiguous; this makes whatever is computed from it faster.
        """
        corners = gather(np.ascontiguousarray(faces.T, np.intp), self.face)
        weights = self.weight.T
        out = np.empty((values.shape[1], len(self.face)), np.float32)
        for plane, channel in zip(out, np.ascontiguousarray(values.T), strict=True):
            np.multiply(weights[0], gather(channel, corners[0]), out=plane)
            plane += weights[1] * gather(channel, corners[1])
            plane += weights[2] * gather(channel, corners[2])
        return out.T


def rasterise(
    xy: np.ndarray, depth: np.ndarray, faces: np.ndarray, size: int, *, two_sided: np.ndarray | None = None
) -> Fragments:
    """The nearest of all triangles at every pixel centre.

    Args:
        xy: float [V, 2], positions in pixels, centres at integers.
        depth: float [V], smaller is nearer.
        faces: int [F, 3]; seen from outside, the corners run clockwise in an image with y down. All functions here are
            fastest with a transposed array of the type intp.
        size: side R of the square image.
        two_sided: bool [F] or None; triangles to draw from behind too.

    Returns:
        One fragment per covered pixel.
    """
    corner = np.ascontiguousarray(faces.T, np.intp)
    (ax, bx, cx), (ay, by, cy) = (gather(np.ascontiguousarray(xy[:, k], np.float64), corner) for k in range(2))
    det = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    front = det > 1e-9 if two_sided is None else (det > 1e-9) | (two_sided & (det < -1e-9))
    left, right = np.minimum(np.minimum(ax, bx), cx), np.maximum(np.maximum(ax, bx), cx)
    top, bottom = np.minimum(np.minimum(ay, by), cy), np.maximum(np.maximum(ay, by), cy)
    left, top = np.maximum(np.ceil(left), 0), np.maximum(np.ceil(top), 0)
    right, bottom = np.minimum(np.floor(right), size - 1), np.minimum(np.floor(bottom), size - 1)
    keep = np.flatnonzero(front & (left <= right) & (top <= bottom))
    ax, ay, bx, by, cx, cy, det, left, right, top, bottom = (
        gather(v, keep) for v in (ax, ay, bx, by, cx, cy, det, left, right, top, bottom)
    )
    # Every weight is an affine function of the pixel. Pixels are counted from the corner of the triangle's box, because
    # float32 is not exact enough for large coordinates.
    plane = np.empty((9, len(keep)), np.float32)
    plane[1], plane[2] = (cy - ay) / det, (ax - cx) / det
    plane[4], plane[5] = (ay - by) / det, (bx - ax) / det
    plane[0] = ((cy - ay) * (left - ax) + (ax - cx) * (top - ay)) / det
    plane[3] = ((ay - by) * (left - ax) + (bx - ax) * (top - ay)) / det
    near, second, third = gather(depth.astype(np.float64), gather(corner, keep))
    plane[6], plane[7], plane[8] = near, second - near, third - near

    # One span per row of every triangle's box, and one candidate per pixel of a span.
    wide, tall = (right - left).astype(np.float32), (bottom - top + 1).astype(np.intp)
    triangle, row = _counted(tall)
    row_f = row.astype(np.float32)  # int32 * float32 would be float64
    first, count = _spans(plane, triangle, row_f, tall, wide)
    span, col = _counted(count)
    col += gather(first, span)
    col_f = col.astype(np.float32)

    def weight(start: np.ndarray, along: np.ndarray, down: np.ndarray) -> np.ndarray:
        out = gather(gather(along, triangle), span) * col_f
        out += gather(gather(start, triangle), span)
        out += gather(gather(down, triangle) * row_f, span)
        return out

    wb, wc = weight(*plane[:3]), weight(*plane[3:6])
    inside = np.flatnonzero((np.minimum(wb, wc) >= -_SLACK) & (wb + wc <= 1 + _SLACK))
    span, wb, wc = gather(span, inside), gather(wb, inside), gather(wc, inside)
    owner = gather(triangle, span)
    z = gather(plane[7], owner) * wb
    z += gather(plane[6], owner)
    z += gather(plane[8], owner) * wc
    pixel = gather(gather((top * size + left).astype(np.intp), triangle) + row * size, span)
    pixel += gather(col, inside)
    nearest = np.full(size * size, np.inf, np.float32)
    np.minimum.at(nearest, pixel, z)
    won = np.flatnonzero(z == gather(nearest, pixel))
    # Of two triangles at exactly the same depth the later one wins, as it overwrites the other's fragment number.
    number = np.full(size * size, -1, np.int32)
    number[gather(pixel, won)] = won
    final = number[number >= 0].astype(np.intp)
    wb, wc = gather(wb, final), gather(wc, final)
    face = gather(keep, gather(owner, final))
    return Fragments(gather(pixel, final), face, np.stack([1 - wb - wc, wb, wc]).T, gather(z, final))


def _counted(count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For counts [N], every k `count[k]` times, and the numbers 0, 1, ... within each k; both int, equally long."""
    which = np.repeat(np.arange(len(count)), count)
    return which, np.arange(len(which)) - gather(np.cumsum(count) - count, which)


def _spans(
    plane: np.ndarray, triangle: np.ndarray, row: np.ndarray, tall: np.ndarray, wide: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The columns of a row of a triangle's box that may be inside the triangle.

    Most boxes are much larger than their triangles. A span may be too long, by as much as the rounding of the weights
    requires; only the weights decide what is inside.

    Args:
        plane: float32 [9, K], affine functions as in `rasterise`.
        triangle: int [S], to which triangle each row belongs.
        row: float32 [S], rows from the top of the box.
        tall: [K], rows of the box.
        wide: [K], last column of the box.

    Returns:
        The first column int [S], and the number of columns int [S].
    """
    b, c = plane[:3], plane[3:6]
    room_b, room_c = (np.abs(p[0]) + np.abs(p[1]) * wide + np.abs(p[2]) * tall for p in (b, c))
    room = np.stack([room_b, room_c, 1 + room_b + room_c]).astype(np.float32)
    start, along, down = np.stack([b, c, -b - c], 1)
    start[2] += 1
    level = along == 0
    turn = 1 / np.where(level, np.float32(1), along)
    reach = np.float32(4e-6) * room * np.abs(turn) + np.float32(0.01)  # float32 rounds by 3e-7 of `room`
    start = (-_SLACK - start) * turn
    slope = np.where(level, np.float32(0), -down * turn)
    low = np.where(along > 0, start - reach, np.float32(-np.inf))
    high = np.where(along < 0, start + reach, np.float32(np.inf))
    first, last = np.zeros(len(row), np.float32), gather(wide, triangle)
    for k in range(3):
        line = gather(slope[k], triangle)
        line *= row
        np.maximum(first, gather(low[k], triangle) + line, out=first)
        np.minimum(last, gather(high[k], triangle) + line, out=last)
    np.ceil(first, out=first)
    np.floor(last, out=last)
    return first.astype(np.intp), np.maximum(last - first + 1, 0).astype(np.intp)


def vertex_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Outward unit normals float32 [V, 3]: means of the adjacent triangles' normals, weighted by area."""
    corner = np.ascontiguousarray(faces.T, np.intp)
    first, second, third = np.moveaxis(gather(np.ascontiguousarray(points.T), corner), 1, 0)  # [3 axes, F] each
    (ux, uy, uz), (vx, vy, vz) = second - first, third - first
    total = np.empty((3, len(points)))
    for out, face in zip(total, (uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx), strict=True):
        out[:] = np.bincount(corner.ravel(), np.concatenate([face] * 3), len(points))
    return (total / np.maximum(length(total), 1e-12)).astype(np.float32).T
