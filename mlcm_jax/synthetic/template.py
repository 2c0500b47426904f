"""The canonical head as a mesh: face with a slit for the mouth, skull, ears, underside of the jaw, neck and shoulders.

The face is a grid of level rows; column ±1 is its frontal outline (jaw line and front of the ear), so that the border
between face and neck is a grid line. Two rows lie on the line where the lips meet, with a strip between them
that has no height until the jaw opens.
"""

from __future__ import annotations

import dataclasses
import enum
import functools

import numpy as np

from mlcm_jax.synthetic import anatomy


class Region(enum.IntEnum):
    """Which piece of the mesh a triangle belongs to; materials are decided per pixel from it."""

    FACE = 0
    MOUTH = 1
    SKULL = 2
    EAR = 3
    UNDERSIDE = 4
    TORSO = 5
    ACCESSORY = 6


@dataclasses.dataclass(frozen=True)
class Template:
    """The mean head.

    Attributes:
        points: float32 [V, 3], template coordinates.
        side: float32 [V], +1 on the lower side of the mouth slit (lower lip and below), -1 above.
        strip: float32 [V], 0 at the upper and 1 at the lower edge of the inside of the mouth; 0 elsewhere.
        head: float32 [V], share of the head's rotation a vertex follows: 1 on the head, falling down the neck.
        faces: int32 [F, 3], wound so that the outside looks counter-clockwise with y up.
        region: uint8 [F], `Region`.
    """

    points: np.ndarray
    side: np.ndarray
    strip: np.ndarray
    head: np.ndarray
    faces: np.ndarray
    region: np.ndarray


def _columns() -> np.ndarray:
    """s = x / outline width of the face's columns, -1 … 1, dense in the middle and at the rounded edge."""
    inner = np.linspace(0, 0.72, 22)
    edge = np.sin(np.linspace(np.arcsin(0.72), np.pi / 2, 9))[1:]
    half = np.concatenate([inner, edge])
    return np.concatenate([-half[:0:-1], half])


def _rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nominal y, side and strip coordinate of the face's rows from the crown to the chin."""
    top = -anatomy.CROWN_Y - 0.4
    crown = -0.4 - top * np.sin(np.linspace(np.pi / 2, 0, 12))[:-1]
    above = [np.linspace(-0.4, -0.3, 4)[:-1], np.linspace(-0.3, 0.1, 17)[:-1], np.linspace(0.1, 0.38, 8)[:-1]]
    above += [np.linspace(0.38, 0.56, 10)[:-1], np.linspace(0.56, 0.66, 4)[:-1], np.linspace(0.66, 0.763, 7)]
    below = [np.linspace(0.763, 0.9, 8), np.linspace(0.9, 1.2, 9)[1:]]
    chin = 1.2 + 0.11 * np.sin(np.linspace(0, np.pi / 2, 7))[1:]
    upper, lower = np.concatenate([crown, *above]), np.concatenate([*below, chin])
    y = np.concatenate([upper, [0.763, 0.763], lower])
    side = np.concatenate([-np.ones(len(upper)), [-0.3, 0.3], np.ones(len(lower))])
    strip = np.concatenate([np.zeros(len(upper)), [1 / 3, 2 / 3], [1.0], np.zeros(len(lower) - 1)])
    return y, side, strip


def grid_faces(rows: int, columns: int, start: int = 0, closed: bool = False) -> np.ndarray:
    """Two triangles per cell of a [rows, columns] grid of vertices numbered from `start`; `closed` joins the last
    column to the first. int32 [cells * 2, 3]."""
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns if closed else columns - 1), indexing="ij")
    k = (j + 1) % columns
    a, b, c, d = (start + r * columns + q for r, q in ((i, j), (i, k), (i + 1, j), (i + 1, k)))
    return np.stack([np.stack([a, c, b], -1), np.stack([b, c, d], -1)], 2).reshape(-1, 3).astype(np.int32)


def _face_and_skull() -> tuple[np.ndarray, ...]:
    y, side, strip = _rows()
    s = _columns()
    yy, ss = np.meshgrid(y, s, indexing="ij")
    x = ss * anatomy.outline_width(yy)
    # Near the lips the rows bend along the line where they meet.
    pull = anatomy.smoothstep(0.13, 0.0, np.abs(yy - 0.763)) * anatomy.smoothstep(0.5, 0.3, np.abs(x))
    yy = yy + pull * (anatomy.lip_seam(x) - 0.763)
    z = anatomy.face_depth(x, yy)
    face = np.stack([x, yy, z], -1)

    tau = np.linspace(0, 1, 8)[1:]
    y2, t2 = np.meshgrid(y, np.concatenate([tau, tau[-2::-1]]), indexing="ij")
    sign = np.concatenate([np.ones(len(tau)), -np.ones(len(tau) - 1)])
    width, edge = anatomy.outline_width(y2), anatomy.outline_depth(y2)
    swell = 0.05 * np.sin(np.pi * t2) * anatomy.smoothstep(-1.2, -0.8, y2) * anatomy.smoothstep(0.3, -0.1, y2)
    x2 = (width * np.cos(np.pi * t2 / 2) ** 0.85 + swell) * sign
    z2 = edge + (anatomy.back_depth(y2) - edge) * np.sin(np.pi * t2 / 2)
    grid = np.concatenate([face, np.stack([x2, y2, z2], -1)], 1)
    rows, columns = grid.shape[:2]
    faces = grid_faces(rows, columns, closed=True)
    # The diagonals of one half mirror those of the other, or a mirrored head would not give a mirrored image.
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
    # The inside recedes once it opens; the back of the head below the nape lies inside the neck.
    keep = ~((region == Region.SKULL) & (y[row] > 0.62)) & ~(slit & (region != Region.MOUTH))
    spread = np.broadcast_to(side[:, None], (rows, columns)), np.broadcast_to(strip[:, None], (rows, columns))
    return grid.reshape(-1, 3), spread[0].ravel(), spread[1].ravel(), faces[keep], region[keep]


def _ear(sign: float) -> tuple[np.ndarray, np.ndarray]:
    """A dish that stands off the head behind the outline: points [N, 3] and faces [M, 3]."""
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
    return points.reshape(-1, 3), grid_faces(len(radius), len(angle), closed=True)


def _underside(contour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From the jaw line [N, 3] (ear, chin, ear) inwards to the neck: points and faces."""
    side = np.abs(contour[:, 0]) / 0.8
    target = contour * [0.66, 1, 1] + np.stack([0 * side, 0.03 + 0.2 * side, 0 * side], 1)
    target[:, 2] = -0.45 - 0.45 * side**1.5
    t = np.linspace(0, 1, 4)[:, None, None]
    points = contour * (1 - t) + target * t
    points[..., 1] += 0.015 * np.sin(np.pi * t[..., 0]) * (1 - side)
    return points.reshape(-1, 3), grid_faces(len(t), len(contour))


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


def _torso() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neck and shoulders as a lathe body: points, head share, faces."""
    fine = np.interp(np.linspace(0, len(_NECK) - 1, 24), np.arange(len(_NECK)), _NECK[:, 0])
    y, width, front, back, share = (
        smooth[:, None]
        for smooth in [np.asarray(fine)] + [anatomy.smooth_curve(_NECK[:, 0], _NECK[:, k], fine) for k in range(1, 5)]
    )
    a = np.linspace(0, 2 * np.pi, 33)[:-1][None]
    power = np.where(y > 1.9, 0.75, 1.0)  # shoulders are boxier than the neck
    sin, cos = np.sin(a), np.cos(a)
    x = width * np.sign(sin) * np.abs(sin) ** power
    z = 0.5 * (front + back) + 0.5 * (front - back) * cos
    points = np.stack([x, y + 0 * x, z], -1)
    return points.reshape(-1, 3), (share + 0 * x).ravel(), grid_faces(len(fine), 32, closed=True)


def _outwards(points: np.ndarray, faces: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The faces wound so that most normals point away from `centre`."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    away = np.einsum("ij,ij->i", np.cross(b - a, c - a), (a + b + c) / 3 - centre)
    return faces if away.sum() > 0 else faces[:, [0, 2, 1]]


@functools.cache
def template() -> Template:
    """The mean head, built once per process."""
    points, side, strip, faces, region = _face_and_skull()
    columns = len(_columns()) + 13
    grid = points.reshape(-1, columns, 3)
    y = grid[:, 0, 1]
    rows = np.flatnonzero((y > 0.3) & (np.r_[True, np.diff(y) > 1e-9]))
    contour = np.concatenate([grid[rows, 0], grid[rows[:-1][::-1], len(_columns()) - 1]])
    middle = np.array([0.0, 0.1, -0.8])
    pieces = [(points, _outwards(points, faces, middle), region, side, strip, np.ones(len(points)))]
    for sign in (-1.0, 1.0):
        ear, ear_faces = _ear(sign)
        inner = np.array([sign * 0.5, 0.17, -1.2])
        ear_faces = _outwards(ear, ear_faces, inner)
        pieces.append((ear, ear_faces, Region.EAR, -1.0, 0.0, 1.0))
    under, under_faces = _underside(contour)
    pieces.append((under, _outwards(under, under_faces, middle), Region.UNDERSIDE, 1.0, 0.0, 1.0))
    torso, share, torso_faces = _torso()
    pieces.append((torso, _outwards(torso, torso_faces, np.array([0, 2.0, -1.0])), Region.TORSO, 1.0, 0.0, share))
    offsets = np.cumsum([0] + [len(p[0]) for p in pieces[:-1]])
    full = [
        [np.broadcast_to(value, (len(p[k]),)) for p in pieces for value in [p[v]]]
        for k, v in ((0, 3), (0, 4), (0, 5), (1, 2))
    ]
    return Template(
        points=np.concatenate([p[0] for p in pieces]).astype(np.float32),
        side=np.concatenate(full[0]).astype(np.float32),
        strip=np.concatenate(full[1]).astype(np.float32),
        head=np.concatenate(full[2]).astype(np.float32),
        faces=np.concatenate([p[1] + o for p, o in zip(pieces, offsets, strict=True)]).astype(np.int32),
        region=np.concatenate(full[3]).astype(np.uint8),
    )
