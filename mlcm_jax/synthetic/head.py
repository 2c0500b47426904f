"""One person's head in one pose before one camera, and the positions of its 68 landmarks.

`raster` calls `build_head`, which makes a `Head` from a Subject and a Scene: vertices in head space, landmarks in
camera space (both in head units) and the camera that projects them to u. `accessories` uses `locate` to attach things
to the face, and `raster` uses `place` to pose them.

Landmarks are barycentric points of the mesh, so that they move with identity, expression and pose exactly as the
rendered surface does. Jaw points 0-16 are the exception, because they follow the visible outline. From each of 31
places on either half of the fixed jaw line a path runs over the surface towards the middle of the face; the outline
lies where that path reaches farthest outwards in the image (sideways at the height of the eyes, downwards at the chin,
in between in proportion). Where the jaw line itself is in sight, that is the jaw line; on the far side of a turned head
the point slides along the contour. The points are then spread evenly by arc length between ear and chin, as annotators
place them.
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
_LEVELS, _STEPS = 31, 28  # paths per half of the jaw, points per path


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole at (0, 0, distance) that looks along -z: u = scale * (x, y) / (distance - z) + offset.

    Attributes:
        distance: from the camera to the origin of camera space, head units.
        scale: focal length in sides of the image.
        offset: float [2], u of the optical axis.
    """

    distance: float
    scale: float
    offset: np.ndarray

    def project(self, points: np.ndarray) -> np.ndarray:
        """Camera space [..., 3] to u [..., 2]."""
        return self.scale * points[..., :2] / (self.distance - points[..., 2:]) + self.offset


@dataclasses.dataclass(frozen=True)
class PointSet:
    """Points fixed on the mesh.

    Attributes:
        index: int [N, 3], numbers of the three vertices around each point.
        weight: float [N, 3], barycentric weights of these vertices.
    """

    index: np.ndarray
    weight: np.ndarray

    def on(self, vertices: np.ndarray) -> np.ndarray:
        """Interpolates values [V, C] at the vertices to values float64 [N, C] at the points."""
        return np.einsum("nk,nkc->nc", self.weight, vertices[self.index].astype(np.float64))


@functools.cache
def _front() -> tuple[np.ndarray, np.ndarray]:
    """Triangles of `Region.FACE` that have an area in (x, y) [F, 3], and their side of the mouth slit [F]."""
    mesh = template()
    faces = mesh.faces[mesh.region == Region.FACE]
    a, b, c = (mesh.points[faces[:, k], :2].astype(np.float64) for k in range(3))
    u, v = b - a, c - a
    area = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    faces = faces[area > 1e-9]
    return faces, mesh.side[faces].mean(1)


@functools.cache
def _lid_cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The triangles around the eyes, and what turns template (x, y) into barycentric weights.

    Returns:
        Faces [F, 3], first corners [F, 2], and matrices [F, 2, 2] from offsets to that corner to the other two weights.
    """
    faces, _ = _front()
    corners = template().points[faces, :2].astype(np.float64)
    middle = corners.mean(1)
    near = (np.abs(np.abs(middle[:, 0]) - 0.352) < 0.2) & (middle[:, 1] > -0.2) & (middle[:, 1] < 0.14)
    faces, corners = faces[near], corners[near]
    edges = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], 2)
    return faces, corners[:, 0], np.linalg.inv(edges)


def locate_lids(xy: np.ndarray) -> PointSet:
    """A fast `locate` for points around the eyes [N, 2]; unlike other points, they are located anew for every image."""
    faces, corner, inverse = _lid_cells()
    away = xy[:, None] - corner
    wb = away[..., 0] * inverse[:, 0, 0] + away[..., 1] * inverse[:, 0, 1]
    wc = away[..., 0] * inverse[:, 1, 0] + away[..., 1] * inverse[:, 1, 1]
    best = np.argmax(np.minimum(np.minimum(wb, wc), 1 - wb - wc), axis=1)
    n = np.arange(len(xy))
    weight = np.clip(np.stack([1 - wb[n, best] - wc[n, best], wb[n, best], wc[n, best]], 1), 0, None)
    return PointSet(faces[best], weight / weight.sum(1, keepdims=True))


def locate(xy: np.ndarray, side: np.ndarray | float = 0.0) -> PointSet:
    """The mesh points at given template positions.

    Args:
        xy: float [N, 2], template x and y on the front of the head; points beside the face go to the nearest triangle.
        side: [N] or scalar; -1 takes only triangles above the mouth slit, +1 only those below, 0 any.

    Returns:
        N points on `Region.FACE`.
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


def _jaw_start(top: float = JAW_TOP_Y) -> np.ndarray:
    """Fixed jaw line in the right half of the image, from the chin to height `top`; template (x, y) [L, 2]."""
    y = anatomy.CHIN_Y - (anatomy.CHIN_Y - top) * np.linspace(0, 1, 400) ** 2
    line = np.stack([anatomy.outline_width(y), y], 1)
    arc = np.r_[0, np.cumsum(np.hypot(*np.diff(line, axis=0).T))]
    even = np.linspace(0, arc[-1], _LEVELS)
    return np.stack([np.interp(even, arc, line[:, k]) for k in range(2)], 1)


@functools.cache
def jaw_paths(top: float = JAW_TOP_Y, inner: float = 1.0) -> tuple[PointSet, np.ndarray]:
    """The paths along which the outline is searched (see the module's docstring).

    Args:
        top: template y at which the jaw line ends beside the eye.
        inner: factor of the distances from the midline at which the paths end.

    Returns:
        The points of the paths (2 halves with image left first, L paths from chin to ear, S points per path), and the
        outward directions at the beginnings of the paths [2, L, 2].
    """
    start = _jaw_start(top)
    tangent = np.gradient(start, axis=0)
    outward = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
    outward = outward / np.linalg.norm(outward, axis=1, keepdims=True)
    outward[0] = [0.0, 1.0]
    # Inner ends: beside the eye for the upper levels, below the mouth for the chin.
    t = np.linspace(0, 1, _LEVELS)
    goal = np.stack(
        [
            inner * np.interp(t, [0, 0.3, 0.6, 1], [0.0, 0.24, 0.36, 0.42]),
            np.interp(t, [0, 0.35, 1], [1.08, 0.86, top]),
        ],
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
    """The 68 landmarks with their fixed places on the mesh; the jaw is `Truth.jaw3d`, the lids are at opening 1."""
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
    """Template (x, y) of landmarks 36-47 for the openings of the eyes on image left and right; float [12, 2]."""
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
    """Rotation matrix of (yaw, pitch, roll) in degrees, applied in this order; signs as in `gbuffer.Truth`."""
    return _rotation(*(float(angle) for angle in pose))


@functools.lru_cache(maxsize=16)  # a scene poses many things alike
def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    yaw, pitch, roll = np.radians((yaw, pitch, roll))
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    matrix = about_z @ about_x @ about_y
    matrix.setflags(write=False)
    return matrix


def place(points: np.ndarray, share: np.ndarray | float, scene: Scene) -> np.ndarray:
    """Head space -> camera space, float32 [V, 3].

    Args:
        points: float32 [V, 3] in head space.
        share: [V] or scalar, share of the head's rotation that a point follows; 0 follows the torso.
        scene: gives the poses of head and torso.

    Returns:
        Posed points; the origin, between the eyes, stays where it is.
    """
    turn = rotation(scene.pose)
    body = rotation(np.array([scene.torso_yaw, 0.0, 0.15 * float(scene.pose[2])]))
    head = points @ turn.T.astype(np.float32)
    if np.ndim(share) == 0 and share == 1:
        return head
    share = np.broadcast_to(share, (len(points),))
    moved = np.flatnonzero(share != 1)
    torso = (points[moved] - NECK_PIVOT) @ body.T + turn @ NECK_PIVOT
    share = share[moved, None]
    head[moved] = share * head[moved] + (1 - share) * torso
    return head


@dataclasses.dataclass(frozen=True)
class Head:
    """A head with one identity and expression, its landmarks, and the camera that sees it.

    Attributes:
        shape: float32 [V, 3], vertices of the bare head in head space, for the vertices of `template.template`.
        landmarks: float64 [68, 3], camera space; points 0-16 lie on the visible outline.
        jaw: float64 [17, 3], camera space, the jaw points fixed on the head.
        places: float64 [68, 3], template coordinates of the landmarks, and of the fixed jaw at 0-16.
        camera: frames the landmarks.
        slack: float [68] or 0, head units by which depth and place of the surface may be off at a visible landmark,
            beside what the size of a pixel explains.
        inset: float [17, 1] or a number, share of the way to the middle of the face at which covers of a jaw landmark
            are looked up, because a point on the outline lies on the border of the face.
    """

    shape: np.ndarray
    landmarks: np.ndarray
    jaw: np.ndarray
    places: np.ndarray
    camera: Camera
    slack: np.ndarray | float = 0.0
    inset: np.ndarray | float = 0.04


def _perspective(points: np.ndarray, distance: float) -> np.ndarray:
    """Camera space [..., 3] -> slopes of the lines of sight [..., 2], which `Camera` scales and shifts to u."""
    return points[..., :2] / (distance - points[..., 2:])


def outline(posed: np.ndarray, scene: Scene, paths: tuple[PointSet, np.ndarray] | None = None) -> np.ndarray:
    """Jaw points on the visible outline (see the module's docstring).

    Args:
        posed: float [V, 3], vertices in camera space.
        scene: gives the distance of the camera and the roll of the head.
        paths: as `jaw_paths` gives them, on the mesh of `posed`; None for those of the hand-made head.

    Returns:
        float64 [17, 3], camera space.
    """
    points_on, outward = jaw_paths() if paths is None else paths
    points = points_on.on(posed).reshape(2, _LEVELS, -1, 3)
    steps = points.shape[2]
    flat = _perspective(points, scene.distance)
    c, s = np.cos(np.radians(scene.pose[2])), np.sin(np.radians(scene.pose[2]))
    direction = outward @ np.array([[c, s], [-s, c]])  # turned with the roll of the head
    reach = np.einsum("hlsc,hlc->hls", flat, direction)
    best = np.argmax(reach, axis=2)
    # Sub-step position of the maximum, by a parabola through its neighbours.
    k = np.clip(best, 1, steps - 2)
    h, lev = np.ogrid[:2, :_LEVELS]
    before, at, after = reach[h, lev, k - 1], reach[h, lev, k], reach[h, lev, k + 1]
    bend = before - 2 * at + after
    shift = np.where((bend < -1e-12) & (best == k), 0.5 * (before - after) / np.where(bend == 0, 1, bend), 0.0)
    at = np.where(best == k, k + np.clip(shift, -0.5, 0.5), best)
    low = np.clip(np.floor(at).astype(int), 0, steps - 2)
    part = (at - low)[..., None]
    line = points[h, lev, low] * (1 - part) + points[h, lev, low + 1] * part
    halves = []
    for half in line:
        arc = np.r_[0, np.cumsum(np.linalg.norm(np.diff(_perspective(half, scene.distance), axis=0), axis=1))]
        even = np.linspace(arc[-1], 0, 9)
        halves.append(np.stack([np.interp(even, arc, half[:, c]) for c in range(3)], 1))
    chin = 0.5 * (halves[0][8:] + halves[1][8:])
    return np.concatenate([halves[0][:8], chin, halves[1][7::-1]])


def framed(landmarks: np.ndarray, scene: Scene) -> Camera:
    """The camera that sees landmarks [68, 3] in camera space as `scene.fill` and `scene.centre` ask."""
    flat = _perspective(landmarks, scene.distance)
    low, high = flat.min(0), flat.max(0)
    scale = scene.fill / float((high - low).max())
    return Camera(scene.distance, scale, scene.centre - scale * 0.5 * (low + high))


def build_head(subject: Subject, scene: Scene) -> Head:
    """Deforms, poses and frames a head.

    Args:
        subject: gives the identity.
        scene: gives expression, lids, pose, and how the landmarks' box lies in the image (`fill`, `centre`).

    Returns:
        The head.
    """
    shape = deform(subject.identity, scene.expression)
    posed = place(shape, template().head, scene)
    anchors, lids = fixed_points(), locate_lids(lid_points(scene.lids))
    both = np.concatenate([posed, template().points], 1)
    values = anchors.on(both)
    values[36:48] = lids.on(both)
    landmarks, places = np.split(values, 2, axis=1)
    jaw = landmarks[:17].copy()
    landmarks[:17] = outline(posed, scene)
    return Head(shape, landmarks, jaw, places, framed(landmarks, scene))
