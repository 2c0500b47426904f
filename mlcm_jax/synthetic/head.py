"""One person's head in one pose before one camera, and where its 68 landmarks are.

Landmarks are barycentric points of the mesh, so that they move with identity, expression and pose exactly as the
rendered surface does. Jaw points 0-16 are the exception: they follow the visible outline. For 31 levels per side a path
runs over the surface from the fixed jaw line inwards; the outline is where the path reaches farthest outwards in the
image (left or right at the height of the eyes, downwards at the chin, in between in proportion). Where the jaw line
itself is in sight that is the jaw line; on the far side of a turned head the point slides along the contour. The points
are then spread evenly by arc length between ear and chin, as annotators place them.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from mlcm_jax.synthetic import anatomy
from mlcm_jax.synthetic.blendshapes import deform
from mlcm_jax.synthetic.scene import Scene, Subject
from mlcm_jax.synthetic.template import Region, template

NECK_PIVOT = np.array([0.0, 1.1, -0.9])
JAW_TOP_Y = 0.015  # the outline starts beside the eyes, in front of the ear
_LEVELS, _STEPS = 31, 28


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole at (0, 0, distance) looking along -z: u = scale * x / (distance - z) + offset, in image sides."""

    distance: float
    scale: float
    offset: np.ndarray

    def project(self, points: np.ndarray) -> np.ndarray:
        """Camera space [..., 3] to u [..., 2], 0 … 1 across the image."""
        return self.scale * points[..., :2] / (self.distance - points[..., 2:]) + self.offset


@dataclasses.dataclass(frozen=True)
class PointSet:
    """Points fixed on the mesh: vertex numbers int [N, 3] and weights float [N, 3]."""

    index: np.ndarray
    weight: np.ndarray

    def on(self, vertices: np.ndarray) -> np.ndarray:
        """Positions [N, C] for vertex values [V, C]."""
        return np.einsum("nk,nkc->nc", self.weight, vertices[self.index])


@functools.cache
def _front() -> tuple[np.ndarray, np.ndarray]:
    """Faces of the front of the head that have an area in (x, y), and their side of the mouth slit (mean)."""
    mesh = template()
    faces = mesh.faces[mesh.region == Region.FACE]
    a, b, c = (mesh.points[faces[:, k], :2].astype(np.float64) for k in range(3))
    u, v = b - a, c - a
    area = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    faces = faces[area > 1e-9]
    return faces, mesh.side[faces].mean(1)


@functools.cache
def _lid_cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The triangles around the eyes and the affine maps from template (x, y) to their barycentric weights: faces
    [F, 3], offset [F, 2], matrix [F, 2, 2]."""
    faces, _ = _front()
    corners = template().points[faces, :2].astype(np.float64)
    middle = corners.mean(1)
    near = (np.abs(np.abs(middle[:, 0]) - 0.352) < 0.2) & (middle[:, 1] > -0.2) & (middle[:, 1] < 0.14)
    faces, corners = faces[near], corners[near]
    edges = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], 2)
    return faces, corners[:, 0], np.linalg.inv(edges)


def locate_lids(xy: np.ndarray) -> PointSet:
    """`locate` for points around the eyes only, for lids that move with every image; xy float [N, 2]."""
    faces, origin, inverse = _lid_cells()
    away = xy[:, None] - origin
    wb = away[..., 0] * inverse[:, 0, 0] + away[..., 1] * inverse[:, 0, 1]
    wc = away[..., 0] * inverse[:, 1, 0] + away[..., 1] * inverse[:, 1, 1]
    best = np.argmax(np.minimum(np.minimum(wb, wc), 1 - wb - wc), axis=1)
    n = np.arange(len(xy))
    weight = np.clip(np.stack([1 - wb[n, best] - wc[n, best], wb[n, best], wc[n, best]], 1), 0, None)
    return PointSet(faces[best], weight / weight.sum(1, keepdims=True))


def locate(xy: np.ndarray, side: np.ndarray | float = 0.0) -> PointSet:
    """The mesh points at template positions xy [N, 2]; points off the face go to the nearest triangle.

    Args:
        xy: float [N, 2], template x and y on the front of the head.
        side: [N] or scalar; -1 takes only triangles above the mouth slit, +1 only those below, 0 any.
    """
    faces, face_side = _front()
    xy = np.atleast_2d(np.asarray(xy, np.float64))
    side = np.broadcast_to(side, (len(xy),))
    corners = template().points[faces, :2].astype(np.float64)
    index, weight = np.empty((len(xy), 3), np.int64), np.empty((len(xy), 3))
    low, high = corners.min(1) - 0.02, corners.max(1) + 0.02
    for n, (p, s) in enumerate(zip(xy, side, strict=True)):
        allowed = s * face_side >= 0
        near = np.flatnonzero(((p >= low) & (p <= high)).all(1) & allowed)
        if not len(near):
            middle = corners.mean(1) + np.where(allowed, 0, 100)[:, None]
            near = np.argsort(((middle - p) ** 2).sum(1))[:8]
        a, b, c = (corners[near, k] for k in range(3))
        u, v, q = b - a, c - a, p - a
        det = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
        wb = (q[:, 0] * v[:, 1] - q[:, 1] * v[:, 0]) / det
        wc = (u[:, 0] * q[:, 1] - u[:, 1] * q[:, 0]) / det
        w = np.stack([1 - wb - wc, wb, wc], 1)
        best = np.argmax(w.min(1))
        chosen = np.clip(w[best], 0, None)
        index[n], weight[n] = faces[near[best]], chosen / chosen.sum()
    return PointSet(index, weight)


def _jaw_start() -> np.ndarray:
    """Dense fixed jaw line of the right half of the image, from the chin (first) to beside the eye; [L, 2]."""
    y = anatomy.CHIN_Y - (anatomy.CHIN_Y - JAW_TOP_Y) * np.linspace(0, 1, 400) ** 2
    line = np.stack([anatomy.outline_width(y), y], 1)
    arc = np.r_[0, np.cumsum(np.hypot(*np.diff(line, axis=0).T))]
    even = np.linspace(0, arc[-1], _LEVELS)
    return np.stack([np.interp(even, arc, line[:, k]) for k in range(2)], 1)


@functools.cache
def _jaw_paths() -> tuple[PointSet, np.ndarray]:
    """Paths of both halves, points [2 * L * S] (image left first, chin to ear), and outward directions [2, L, 2]."""
    start = _jaw_start()
    tangent = np.gradient(start, axis=0)
    outward = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    outward = outward / np.linalg.norm(outward, axis=1, keepdims=True)
    outward[0] = [0.0, 1.0]
    # Inner ends: beside the eye for the upper levels, below the mouth for the chin.
    t = np.linspace(0, 1, _LEVELS)
    goal = np.stack(
        [np.interp(t, [0, 0.3, 0.6, 1], [0.0, 0.24, 0.36, 0.42]), np.interp(t, [0, 0.35, 1], [1.08, 0.86, JAW_TOP_Y])],
        1,
    )
    along = np.linspace(0, 1, _STEPS)[None, :, None] ** 1.4  # dense at the rounded edge
    path = start[:, None] * (1 - along) + goal[:, None] * along
    mirror = np.array([-1.0, 1.0])
    points = np.concatenate([(path * mirror).reshape(-1, 2), path.reshape(-1, 2)])
    return locate(points), np.stack([outward * mirror, outward])


def _mirrored(points: np.ndarray) -> np.ndarray:
    return points * [-1, 1]


@functools.cache
def fixed_points() -> PointSet:
    """The 68 landmarks that keep their place on the mesh: the 3-D jaw, brows, nose, lips; lids at opening 1."""
    start = _jaw_start()
    step = (_LEVELS - 1) / 8
    half = np.stack(
        [[np.interp(k * step, np.arange(_LEVELS), start[:, c]) for c in range(2)] for k in range(8, -1, -1)]
    )
    jaw = np.concatenate([_mirrored(half), half[-2::-1]])
    brows = np.concatenate([_mirrored(anatomy.BROWS), anatomy.BROWS[::-1]])
    base = np.concatenate([_mirrored(anatomy.NOSE_BASE), anatomy.NOSE_BASE[1::-1]])
    xs = np.array(anatomy.OUTER_LIP_X)
    top = np.stack([xs, anatomy.lip_edges(xs)[0]], 1)
    low = np.stack([np.array(anatomy.LOWER_LIP_X), anatomy.lip_edges(np.array(anatomy.LOWER_LIP_X))[1]], 1)
    middle_top, middle_low = ([[0.0, float(edge)]] for edge in anatomy.lip_edges(np.zeros(())))
    outer = np.concatenate([_mirrored(top), middle_top, top[::-1], low, middle_low, _mirrored(low[::-1])])
    far, near = anatomy.INNER_LIP_X
    inner_x = np.array([-far, -near, 0.0, near, far, near, 0.0, -near])
    inner = np.stack([inner_x, anatomy.lip_seam(inner_x)], 1)
    xy = np.concatenate([jaw, brows, anatomy.NOSE, base, lid_points(np.ones(2)), outer, inner])
    side = np.zeros(68)
    side[60:65], side[65:68] = -1, 1
    side[48:55], side[55:60] = -1, 1
    return locate(xy, side)


def lid_points(opening: np.ndarray) -> np.ndarray:
    """Template positions of landmarks 36-47 for the two lid openings (image left, image right); float [12, 2]."""
    span = anatomy.EYE_OUTER - anatomy.EYE_INNER
    eyes = []
    for value in opening:
        xu = anatomy.EYE_INNER + span * np.array(anatomy.LID_FRACTIONS["upper"])
        xl = anatomy.EYE_INNER + span * np.array(anatomy.LID_FRACTIONS["lower"])
        upper, lower = anatomy.lid_edges(xu, value)[0], anatomy.lid_edges(xl, value)[1]
        corners = anatomy.lid_edges(np.array([anatomy.EYE_OUTER, anatomy.EYE_INNER]), value)[0]
        eyes.append(
            [
                [anatomy.EYE_OUTER, corners[0]],
                *zip(xu, upper, strict=True),
                [anatomy.EYE_INNER, corners[1]],
                *zip(xl, lower, strict=True),
            ]
        )
    left, right = (np.array(e) for e in eyes)
    return np.concatenate([_mirrored(left), right[[3, 2, 1, 0, 5, 4]]])


def rotation(pose: np.ndarray) -> np.ndarray:
    """Rotation matrix of yaw, pitch, roll in degrees: first yaw, then pitch, then roll (signs as in `Truth.pose`)."""
    yaw, pitch, roll = np.radians(np.asarray(pose, np.float64))
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def place(points: np.ndarray, share: np.ndarray | float, scene: Scene) -> np.ndarray:
    """Head space to camera space: `share` 1 follows the head, 0 the torso; origin between the eyes. float32 [V, 3]."""
    turn = rotation(scene.pose)
    body = rotation(np.array([scene.torso_yaw, 0.0, 0.15 * float(scene.pose[2])]))
    head = points @ turn.T.astype(np.float32)
    if np.ndim(share) == 0 and share == 1:
        return head
    torso = (points - NECK_PIVOT) @ body.T + turn @ NECK_PIVOT
    share = np.broadcast_to(share, (len(points),))[:, None]
    return (share * head + (1 - share) * torso).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Head:
    """A posed head: bare vertices in head space and in camera space [V, 3], landmarks in camera space, the camera.

    `landmarks` float64 [68, 3] has the outline's points at 0-16; `jaw` [17, 3] are the fixed ones; `places` [68, 3] are
    the template coordinates of the landmarks (of the fixed jaw at 0-16).
    """

    shape: np.ndarray
    posed: np.ndarray
    landmarks: np.ndarray
    jaw: np.ndarray
    places: np.ndarray
    camera: Camera


def outline(posed: np.ndarray, scene: Scene) -> np.ndarray:
    """Jaw points on the visible outline, camera space [17, 3]; see the head of this file."""
    paths, outward = _jaw_paths()
    points = paths.on(posed).reshape(2, _LEVELS, _STEPS, 3)
    flat = points[..., :2] / (scene.distance - points[..., 2:])
    c, s = np.cos(np.radians(scene.pose[2])), np.sin(np.radians(scene.pose[2]))
    direction = outward @ np.array([[c, s], [-s, c]])  # turned with the roll of the head
    reach = np.einsum("hlsc,hlc->hls", flat, direction)
    best = np.argmax(reach, axis=2)
    # Sub-step position of the maximum, by a parabola through its neighbours.
    k = np.clip(best, 1, _STEPS - 2)
    h, lev = np.ogrid[:2, :_LEVELS]
    before, at, after = reach[h, lev, k - 1], reach[h, lev, k], reach[h, lev, k + 1]
    bend = before - 2 * at + after
    shift = np.where((bend < -1e-12) & (best == k), 0.5 * (before - after) / np.where(bend == 0, 1, bend), 0.0)
    at = np.where(best == k, k + np.clip(shift, -0.5, 0.5), best)
    low = np.clip(np.floor(at).astype(int), 0, _STEPS - 2)
    part = (at - low)[..., None]
    line = points[h, lev, low] * (1 - part) + points[h, lev, low + 1] * part
    halves = []
    for half in line:
        seen = half[:, :2] / (scene.distance - half[:, 2:])
        arc = np.r_[0, np.cumsum(np.linalg.norm(np.diff(seen, axis=0), axis=1))]
        even = np.linspace(arc[-1], 0, 9)
        halves.append(np.stack([np.interp(even, arc, half[:, c]) for c in range(3)], 1))
    chin = 0.5 * (halves[0][8:] + halves[1][8:])
    return np.concatenate([halves[0][:8], chin, halves[1][7::-1]])


def build_head(subject: Subject, scene: Scene) -> Head:
    """Deform, pose and frame: the camera is set so that the landmarks' box fills `scene.fill` around `scene.centre`."""
    shape = deform(subject.identity, scene.expression)
    posed = place(shape, template().head, scene)
    anchors, lids = fixed_points(), locate_lids(lid_points(scene.lids))
    both = np.concatenate([posed, template().points], 1).astype(np.float64)
    values = anchors.on(both)
    values[36:48] = lids.on(both)
    landmarks, places = np.split(values, 2, axis=1)
    jaw = landmarks[:17].copy()
    landmarks[:17] = outline(posed.astype(np.float64), scene)
    flat = landmarks[:, :2] / (scene.distance - landmarks[:, 2:])
    low, high = flat.min(0), flat.max(0)
    scale = scene.fill / float((high - low).max())
    camera = Camera(scene.distance, scale, scene.centre - scale * 0.5 * (low + high))
    return Head(shape, posed, landmarks, jaw, places, camera)
