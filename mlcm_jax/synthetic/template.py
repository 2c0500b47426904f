"""The canonical head as a mesh: face with a slit for the mouth, skull, ears, underside of the jaw, neck and shoulders.

`template` makes it from the curves of `anatomy`, once per process. `blendshapes` moves its vertices, `head` places the
landmarks on it, and `raster` draws it. All positions are template coordinates in head units.

The face is a grid whose rows run from side to side. Its first and last column are the frontal outline (jaw line and
front of the ear), so that the border between face and neck is a grid line. Two further rows lie between the lips, as a
strip that has no height until the jaw opens.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from typing import NamedTuple

import numpy as np

from mlcm_jax.synthetic import anatomy


class Region(enum.IntEnum):
    """The piece of the mesh to which a triangle belongs; it decides which materials `raster` may give to a pixel."""

    FACE = 0
    MOUTH = 1
    SKULL = 2
    EAR = 3
    UNDERSIDE = 4
    TORSO = 5


@dataclasses.dataclass(frozen=True)
class Template:
    """The canonical head.

    Attributes:
        points: float32 [V, 3], template coordinates.
        side: float32 [V], +1 on the lower side of the mouth slit (lower lip and below), -1 above.
        strip: float32 [V], 0 at the upper and 1 at the lower edge of the inside of the mouth; 0 elsewhere.
        head: float32 [V], share of the head's rotation that a vertex follows: 1 on the head, falling down the neck.
        faces: int32 [F, 3]; seen from outside, the corners run clockwise in an image with y down.
        region: uint8 [F], `Region`.
    """

    points: np.ndarray
    side: np.ndarray
    strip: np.ndarray
    head: np.ndarray
    faces: np.ndarray
    region: np.ndarray


class _Block(NamedTuple):
    """One piece of the mesh before all are joined; the fields are those of `Template`; scalars apply to all rows."""

    points: np.ndarray
    faces: np.ndarray
    region: np.ndarray | Region
    side: np.ndarray | float
    strip: np.ndarray | float
    head: np.ndarray | float


_SEAM_Y = 0.763  # height at x = 0 of the line where the lips meet
_SKULL_COLUMNS = 13  # columns of the grid between the last and the first column of the face


def _columns() -> np.ndarray:
    """Positions of the face's columns, as x over the half width of the outline; dense in the middle and outside."""
    inner = np.linspace(0, 0.72, 22)
    edge = np.sin(np.linspace(np.arcsin(0.72), np.pi / 2, 9))[1:]
    half = np.concatenate([inner, edge])
    return np.concatenate([-half[:0:-1], half])


def _rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Height y, side and strip (see `Template`) of the face's rows from the crown to the chin."""
    top = -anatomy.CROWN_Y - 0.4
    crown = -0.4 - top * np.sin(np.linspace(np.pi / 2, 0, 12))[:-1]
    above = [np.linspace(-0.4, -0.3, 4)[:-1], np.linspace(-0.3, 0.1, 17)[:-1], np.linspace(0.1, 0.38, 8)[:-1]]
    above += [np.linspace(0.38, 0.56, 10)[:-1], np.linspace(0.56, 0.66, 4)[:-1], np.linspace(0.66, _SEAM_Y, 7)]
    below = [np.linspace(_SEAM_Y, 0.9, 8), np.linspace(0.9, 1.2, 9)[1:]]
    chin = 1.2 + 0.11 * np.sin(np.linspace(0, np.pi / 2, 7))[1:]
    upper, lower = np.concatenate([crown, *above]), np.concatenate([*below, chin])
    y = np.concatenate([upper, [_SEAM_Y, _SEAM_Y], lower])
    side = np.concatenate([-np.ones(len(upper)), [-0.3, 0.3], np.ones(len(lower))])
    strip = np.concatenate([np.zeros(len(upper)), [1 / 3, 2 / 3], [1.0], np.zeros(len(lower) - 1)])
    return y, side, strip


def grid_faces(rows: int, columns: int, *, closed: bool = False) -> np.ndarray:
    """Two triangles per cell of a [rows, columns] grid of vertices, int32 [2 * cells, 3].

    Args:
        rows: number of rows.
        columns: number of columns; the vertices are numbered row by row.
        closed: join the last column to the first.

    Returns:
        Vertex numbers.
    """
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns if closed else columns - 1), indexing="ij")
    k = (j + 1) % columns
    a, b, c, d = (r * columns + q for r, q in ((i, j), (i, k), (i + 1, j), (i + 1, k)))
    return np.stack([np.stack([a, c, b], -1), np.stack([b, c, d], -1)], 2).reshape(-1, 3).astype(np.int32)


def _face_and_skull() -> _Block:
    """The closed grid round the head, [rows, face's columns + _SKULL_COLUMNS] vertices."""
    y, side, strip = _rows()
    s = _columns()
    yy, ss = np.meshgrid(y, s, indexing="ij")
    x = ss * anatomy.outline_width(yy)
    # Near the lips the rows bend along the line where they meet.
    pull = anatomy.smoothstep(0.13, 0.0, np.abs(yy - _SEAM_Y)) * anatomy.smoothstep(0.5, 0.3, np.abs(x))
    yy = yy + pull * (anatomy.lip_seam(x) - _SEAM_Y)
    z = anatomy.face_depth(x, yy)
    face = np.stack([x, yy, z], -1)

    # Round the back: t is 0 on the outline and 1 in the middle of the back.
    tau = np.linspace(0, 1, _SKULL_COLUMNS // 2 + 2)[1:]
    y2, t2 = np.meshgrid(y, np.concatenate([tau, tau[-2::-1]]), indexing="ij")
    sign = np.concatenate([np.ones(len(tau)), -np.ones(len(tau) - 1)])
    width, edge = anatomy.outline_width(y2), anatomy.outline_depth(y2)
    swell = 0.05 * np.sin(np.pi * t2) * anatomy.smoothstep(-1.2, -0.8, y2) * anatomy.smoothstep(0.3, -0.1, y2)
    x2 = (width * np.cos(np.pi * t2 / 2) ** 0.85 + swell) * sign
    z2 = edge + (anatomy.back_depth(y2) - edge) * np.sin(np.pi * t2 / 2)
    grid = np.concatenate([face, np.stack([x2, y2, z2], -1)], 1)
    rows, columns = grid.shape[:2]
    faces = grid_faces(rows, columns, closed=True)
    # The diagonals of one half mirror those of the other, so that a mirrored head gives a mirrored image.
    a, c, b, d = faces[::2, 0], faces[::2, 1], faces[::2, 2], faces[1::2, 2]
    other = np.stack([np.stack([a, c, d], -1), np.stack([a, d, b], -1)], 1).reshape(-1, 3)
    left = grid.reshape(-1, 3)[np.stack([a, b, c, d], 1), 0].sum(1) < 0
    faces = np.where(np.repeat(left, 2)[:, None], other, faces)
    cell = np.repeat(np.arange(len(faces) // 2), 2)
    row, column = cell // columns, cell % columns
    region = np.where(column < len(s) - 1, Region.FACE, Region.SKULL)
    slit = (row >= np.argmax(strip > 0) - 1) & (row < np.argmax(strip))  # between the upper and the lower lip's edge
    middle = np.abs(grid[row, column % columns, 0]) < 0.34
    region = np.where(slit & (region == Region.FACE) & middle, Region.MOUTH, region)
    # Left out: the back of the head below the nape, which lies inside the neck, and the slit beside the mouth.
    keep = ~((region == Region.SKULL) & (y[row] > 0.62)) & ~(slit & (region != Region.MOUTH))
    side, strip = (np.repeat(value, columns) for value in (side, strip))
    return _Block(grid.reshape(-1, 3), faces[keep], region[keep], side, strip, 1.0)


def _ear(sign: float) -> _Block:
    """A dish that sticks out from the head behind the outline; sign -1 is image left."""
    radius = np.array([0.0, 0.25, 0.5, 0.72, 0.88, 1.0])
    angle = np.linspace(0, 2 * np.pi, 19)[:-1]
    r, a = np.meshgrid(radius, angle, indexing="ij")
    along, down = r * np.cos(a), r * np.sin(a)
    width = 0.165 * (1 - 0.22 * down)  # broad at the top, narrow at the lobe
    back = np.array([0.5, 0.0, -0.866])
    outward = np.array([0.866, 0.0, 0.5])
    relief = 0.05 * anatomy.smoothstep(0.55, 0.88, r) - 0.06 * anatomy.smoothstep(0.6, 0.1, r) - 0.06 * (r > 0.95)
    points = np.array([0.80, 0.17, -0.70]) + 0.12 * back
    points = points + (along * width)[..., None] * back + (0.31 * down + 0.04 * along)[..., None] * [0, 1, -0.12]
    points = points + relief[..., None] * outward
    points = points * [sign, 1, 1]
    faces = grid_faces(len(radius), len(angle), closed=True)
    return _Block(points.reshape(-1, 3), faces, Region.EAR, -1.0, 0.0, 1.0)


def _underside(contour: np.ndarray) -> _Block:
    """The surface from the jaw line [N, 3] (ear, chin, ear) inwards to the neck."""
    side = np.abs(contour[:, 0]) / 0.8
    target = contour * [0.66, 1, 1] + np.stack([0 * side, 0.03 + 0.2 * side, 0 * side], 1)
    target[:, 2] = -0.45 - 0.45 * side**1.5
    t = np.linspace(0, 1, 4)[:, None, None]
    points = contour * (1 - t) + target * t
    points[..., 1] += 0.015 * np.sin(np.pi * t[..., 0]) * (1 - side)
    return _Block(points.reshape(-1, 3), grid_faces(len(t), len(contour)), Region.UNDERSIDE, 1.0, 0.0, 1.0)


_NECK = np.array(  # y, half width, front z, back z, share of the head's rotation
    [
        [0.45, 0.52, -0.55, -1.45, 0.95],
        [0.8, 0.54, -0.5, -1.5, 0.9],
        [1.1, 0.54, -0.42, -1.5, 0.8],
        [1.3, 0.53, -0.4, -1.5, 0.68],
        [1.5, 0.53, -0.42, -1.52, 0.5],
        [1.68, 0.56, -0.44, -1.55, 0.32],
        [1.82, 0.66, -0.42, -1.6, 0.2],
        [1.95, 0.92, -0.38, -1.65, 0.1],
        [2.08, 1.3, -0.32, -1.7, 0.04],
        [2.22, 1.65, -0.25, -1.75, 0.0],
        [2.45, 1.92, -0.15, -1.8, 0.0],
        [2.8, 2.05, -0.05, -1.85, 0.0],
        [3.4, 2.1, 0.0, -1.9, 0.0],
        [4.2, 2.1, 0.0, -1.9, 0.0],
    ]
)


def _torso() -> _Block:
    """Neck and shoulders: rings whose half widths and depths are in `_NECK`."""
    height = np.interp(np.linspace(0, len(_NECK) - 1, 24), np.arange(len(_NECK)), _NECK[:, 0])
    curves = [anatomy.smooth_curve(_NECK[:, 0], _NECK[:, k], height) for k in range(1, 5)]
    y, width, front, back, share = (curve[:, None] for curve in (height, *curves))
    a = np.linspace(0, 2 * np.pi, 33)[:-1][None]
    power = np.where(y > 1.9, 0.75, 1.0)  # shoulders are boxier than the neck
    sin, cos = np.sin(a), np.cos(a)
    x = width * np.sign(sin) * np.abs(sin) ** power
    z = 0.5 * (front + back) + 0.5 * (front - back) * cos
    points = np.stack([x, y + 0 * x, z], -1)
    faces = grid_faces(len(height), 32, closed=True)
    return _Block(points.reshape(-1, 3), faces, Region.TORSO, 1.0, 0.0, (share + 0 * x).ravel())


def _outwards(block: _Block, centre: list[float]) -> _Block:
    """The block with its faces wound so that most normals point away from `centre`."""
    a, b, c = (block.points[block.faces[:, k]] for k in range(3))
    away = np.einsum("ij,ij->i", np.cross(b - a, c - a), (a + b + c) / 3 - np.array(centre))
    return block if away.sum() > 0 else block._replace(faces=block.faces[:, [0, 2, 1]])


def _jaw_contour(grid: np.ndarray) -> np.ndarray:
    """The frontal outline below the eyes, from one ear over the chin to the other [N, 3]; `grid` [rows, columns, 3]."""
    y = grid[:, 0, 1]
    rows = np.flatnonzero((y > 0.3) & (np.r_[True, np.diff(y) > 1e-9]))
    first, last = grid[rows, 0], grid[rows[:-1][::-1], len(_columns()) - 1]
    return np.concatenate([first, last])


@functools.cache
def template() -> Template:
    """The canonical head, built once per process."""
    face = _face_and_skull()
    contour = _jaw_contour(face.points.reshape(-1, len(_columns()) + _SKULL_COLUMNS, 3))
    middle = [0.0, 0.1, -0.8]
    blocks = [
        _outwards(face, middle),
        _outwards(_ear(-1.0), [-0.5, 0.17, -1.2]),
        _outwards(_ear(1.0), [0.5, 0.17, -1.2]),
        _outwards(_underside(contour), middle),
        _outwards(_torso(), [0.0, 2.0, -1.0]),
    ]
    offsets = np.cumsum([0] + [len(block.points) for block in blocks[:-1]])

    def joined(name: str, per: str) -> np.ndarray:
        return np.concatenate([np.broadcast_to(getattr(b, name), len(getattr(b, per))) for b in blocks])

    return Template(
        points=np.concatenate([block.points for block in blocks]).astype(np.float32),
        side=joined("side", "points").astype(np.float32),
        strip=joined("strip", "points").astype(np.float32),
        head=joined("head", "points").astype(np.float32),
        faces=np.concatenate([b.faces + offset for b, offset in zip(blocks, offsets, strict=True)]).astype(np.int32),
        region=joined("region", "faces").astype(np.uint8),
    )
