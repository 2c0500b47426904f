"""Writes a made-up head as a clone of ICT-FaceKit holds its own: the same files and numbers of vertices, few shapes.

Its face is the canonical one of `anatomy` with holes for the eyes; eyeballs are hemispheres; all other parts are there,
but hardly any of their triangles.
"""

import json
import os
from pathlib import Path

import numpy as np

from mlcm_jax.synthetic import anatomy, head, paint, scan_model
from mlcm_jax.synthetic.template import template

UNIT = 8.92
SIDE = 97  # 97 x 97 vertices are the 9,409 of the face
IDENTITIES = 3  # instead of 100; tests set `scan_model.IDENTITIES` to it


def _grid(rows, columns, first, keep=None):
    """Quads of a grid of vertices, counter-clockwise seen from the viewer with y up."""
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    quads = np.stack([i * columns + j, (i + 1) * columns + j, (i + 1) * columns + j + 1, i * columns + j + 1], -1)
    quads = quads.reshape(-1, 4)
    if keep is not None:
        quads = quads[keep[quads].all(1)]
    return quads + first


def _face():
    """The canonical face, and six rows more that run back under the chin."""
    y = np.linspace(-1.2, 1.3095, SIDE - 6)[:, None]
    s = np.sin(np.linspace(-1, 1, SIDE) * np.pi / 2 * 0.98)[None]
    x = s * anatomy.outline_width(y)
    front = np.stack([x, y + 0 * x, anatomy.face_depth(x, y + 0 * x)], -1)
    t = np.linspace(0, 1, 7)[1:, None]
    under = np.stack([s * (0.1 + 0.3 * t), 1.31 + 0.03 * t + 0 * s, 0.02 - 0.5 * t + 0 * s], -1)
    return np.concatenate([front, under]).reshape(-1, 3)


def _back():
    """Skull, ears left out, and neck: 42 closed rings of 43 vertices, and 33 more."""
    y = np.linspace(-1.18, 2.4, 42)[:, None]
    a = np.linspace(0, 2 * np.pi, 43)[None]
    neck = y > 1.15
    wide = np.where(neck, 0.5 + 0.9 * np.clip(y - 1.8, 0, None), 0.96 * anatomy.outline_width(np.clip(y, -1.2, 1.2)))
    front = np.where(neck, -0.45, anatomy.outline_depth(np.clip(y, -1.2, 1.2)) - 0.08)
    back = np.where(neck, -1.5, anatomy.back_depth(np.clip(y, -1.2, 1.2)))
    x = wide * np.sin(a)
    z = (front + back) / 2 + (front - back) / 2 * np.cos(a)
    rings = np.stack([x, y + 0 * x, z], -1).reshape(-1, 3)
    return np.concatenate([rings, np.tile([[0.0, 0.5, -1.0]], (33, 1))])


def _ball(side, rows, columns, radius, cap):
    """A cap of a sphere that faces the viewer, at the eye of image left (-1) or right (+1)."""
    polar = np.linspace(1e-3, cap, rows)[:, None]
    around = np.linspace(0, 2 * np.pi, columns)[None]
    x, y = np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around)
    middle = np.array([side * anatomy.EYE_CENTRE[0], anatomy.EYE_CENTRE[1], -0.2])
    return (middle + radius * np.stack([x, y, np.cos(polar) + 0 * x], -1)).reshape(-1, 3)


def _inside(count):
    return np.tile([[0.0, 0.8, -0.6]], (count, 1))


def mean():
    """Vertices in head units with y down, [VERTICES, 3]."""
    return np.concatenate([
        _face(), _back(), _inside(2046), _inside(384), _inside(384), _inside(2977), _inside(4412),
        _ball(1, 22, 35, 0.14, 1.5), _ball(1, 20, 40, 0.135, 0.5), _ball(-1, 22, 35, 0.14, 1.5),
        _ball(-1, 20, 40, 0.135, 0.5),
    ])  # fmt: skip


def _quads(points):
    face = points[: SIDE**2]
    keep = paint.eye_margin(face, np.ones(2)) < 0.004
    quads = [_grid(SIDE, SIDE, 0, keep), _grid(42, 43, SIDE**2)]
    quads += [_grid(22, 35, first) for first in (21451, 23021)]
    return np.concatenate(quads)


def _outwards(quads, points):
    """Quads counter-clockwise seen from outside, with y up."""
    corner = (points * [1, -1, 1])[quads]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    centre = np.where(quads[:, :1] >= 21451, [[0, 0, -9]], [[0, -0.3, -0.9]])
    inward = ((corner.mean(1) - centre) * normal).sum(1) < 0
    quads[inward] = quads[inward][:, ::-1]
    return quads


def _shapes(points):
    """Displacements in head units (y down) by file name; the other files repeat the mean."""
    x, y, _ = points.T
    face = np.arange(len(points)) < SIDE**2
    zero = np.zeros(len(points))
    shapes = {"identity000": np.stack([0.06 * x, zero, zero], 1)}
    shapes["identity001"] = np.stack([zero, 0.05 * np.clip(y, 0, 1.3) * (y < 1.31), zero], 1)
    lower = face & (y > anatomy.lip_seam(x))
    shapes["jawOpen"] = np.stack([zero, np.where(lower, 0.25, 0), np.where(lower, -0.05, 0)], 1)
    for side, name in ((1, "eyeBlink_L"), (-1, "eyeBlink_R")):
        upper, under = anatomy.lid_edges(np.abs(x), 1.0)
        near = face & (side * x > 0.18) & (side * x < 0.53) & (y < 0.5 * (upper + under)) & (y > -0.3)
        fade = anatomy.smoothstep(-0.3, -0.09, y)
        shapes[name] = np.where(near, fade, 0)[:, None] * np.stack([zero, under - upper + 0.03, zero + 0.02], 1)
    shapes["mouthSmile_L"] = 0.05 * np.where(face, anatomy.bump(x, y, 0.28, 0.78, 0.1, 0.1), 0)[:, None] * [1, -1, 0]
    return shapes


def _write(path, points, quads=None):
    cm = points * [UNIT, -UNIT, UNIT] + [0, 3.5, 9.0]
    lines = ["# a made-up head", *(f"v {a:.5f} {b:.5f} {c:.5f}" for a, b, c in cm), "v 99 99 99", "vt 0 0"]
    if quads is not None:
        lines += ["f " + " ".join(f"{v + 1}/1" for v in quad) for quad in quads]
    path.write_text("\n".join(lines) + "\n")


def write(folder: Path) -> Path:
    """Writes the clone; returns its folder."""
    files = folder / "FaceXModel"
    files.mkdir(parents=True)
    points = mean()
    neutral = files / f"{scan_model.NEUTRAL}.obj"
    _write(neutral, points, _outwards(_quads(points), points))
    shapes = _shapes(points)
    for name in [*(f"identity{k:03d}" for k in range(IDENTITIES)), *scan_model.EXPRESSIONS]:
        if name in shapes:
            _write(files / f"{name}.obj", points + shapes[name])
        else:
            os.link(neutral, files / f"{name}.obj")
    places = head.fixed_points().on(template().points.astype(np.float64))
    near = [int(np.argmin(((points[: SIDE**2] - p) ** 2 * [1, 1, 0.1]).sum(1))) for p in places]
    (files / "vertex_indices.json").write_text(json.dumps({"idx_to_landmark_verts": near}))
    return folder
