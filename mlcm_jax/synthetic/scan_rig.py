"""What is computed once from the scan-based head model: template coordinates, landmarks, attributes of the vertices.

`scan_head` poses a `Rig`. `build` makes one from a `scan_model.ScanModel`, in about ten seconds; `write` and `read`
keep it in a file, so that every worker process need not compute it again. Lengths are in head units, axes those of head
space (y down).
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial import cKDTree

from mlcm_jax import layouts
from mlcm_jax.synthetic import anatomy, blendshapes, scan_warp
from mlcm_jax.synthetic import head as head_lib
from mlcm_jax.synthetic.anatomy import bump, smoothstep
from mlcm_jax.synthetic.head import PointSet
from mlcm_jax.synthetic.scan_model import EXPRESSIONS, STEP, ScanModel, ScanPart
from mlcm_jax.synthetic.template import Region, template
from mlcm_jax.synthetic.zbuffer import rasterise, vertex_normals

UNIT = 8.92  # cm between the outer eye corners of the mean scan
_BACK_STEPS = 8
EAR = 20  # in `Rig.face_part`, beside the values of `ScanPart`
JAW_TOP_Y = 0.055  # puts landmarks 0 and 16 where they lie, on average, in 139 annotated portraits
SKULL_MIDDLE = np.array([0.0, -0.25, -0.85])

# How far the model's landmarks lie from iBUG's sense, in hundredths of the outer-eye distance, as x and y: measured
# against the annotations of 139 portraits (DeBruine & Jones, CC BY 4.0). Image-left half; the other is its mirror.
_MOVE = {
    17: (1.9, -8.7), 18: (3.0, -5.0), 19: (1.1, -3.6), 20: (1.3, -5.2), 21: (0.5, -6.9), 28: (0, -0.7), 29: (0, -2.0),
    30: (0, -1.0), 31: (0.5, 2.4), 32: (0.4, 3.0), 33: (0, 2.6), 37: (-3.3, 0), 38: (-2.6, 0), 41: (-2.8, 0),
    49: (-1.4, 0), 58: (-3.5, 1.0), 59: (-1.2, 1.2), 61: (-2.4, 0), 67: (-3.0, 0),
}  # fmt: skip
# These move along the edge of a lid or of a lip, towards the neighbour named.
_ALONG_EDGE = {37: 38, 38: 39, 41: 40, 44: 43, 43: 42, 46: 47, 61: 62, 63: 62, 67: 66, 65: 66}
# Fields of `blendshapes` that widen the spread of brows, jaw and neck, which the scans' modes leave too small.
WIDENED = ("face_width", "lower_length", "jaw_width", "chin_length", "cheeks", "jaw_square", "neck", "ears")


@dataclasses.dataclass(frozen=True)
class Rig:
    """The mean scan and what belongs to its vertices (V) and triangles (F).

    Attributes:
        points: float32 [V, 3], the mean head.
        coordinates: float32 [V, 3], template coordinates.
        identity: int16 [N, V, 3], displacement of each mode at one standard deviation, times `scale`.
        scale: float32 [3], head units per step of `identity`, with the sign of each axis.
        moved: int32 [M], vertices that the expressions move, one expression after the other.
        movement: float32 [M, 3], their displacements at full strength.
        first: int32 [len(EXPRESSIONS) + 1], where each expression begins in `moved`.
        widened: float32 [len(WIDENED) + 1, V, 3], further displacements of identity; the last is a full chin.
        faces: int32 [F, 3], wound as `zbuffer.rasterise` wants them.
        face_part: uint8 [F], `scan_model.ScanPart` or `EAR`.
        part: uint8 [V], `scan_model.ScanPart`.
        share: float32 [V], share of the head's rotation, see `head.place`.
        attributes: float32 [V, 5]: place on the eyeball in iris radii (x, y; 9 off it), distance to the edge of the
            upper lid and of either lid (9 off the face), share of the surroundings that the head itself hides.
        landmark_index: int32 [68, 3], see `head.PointSet`.
        landmark_weight: float64 [68, 3].
        path_index: int32 [P, 3], points of the paths on which the jaw's outline is searched, see `head.jaw_paths`.
        path_weight: float64 [P, 3].
        proxy_index: int32 [T, 3], where the vertices of `template.template` lie on the scan.
        proxy_weight: float64 [T, 3].
        front: int32 [G, 3], triangles of the front of the face, for `locate`.
        scalp: int32 [S], vertices that hair or a hat lifts.
    """

    points: np.ndarray
    coordinates: np.ndarray
    identity: np.ndarray
    scale: np.ndarray
    moved: np.ndarray
    movement: np.ndarray
    first: np.ndarray
    widened: np.ndarray
    faces: np.ndarray
    face_part: np.ndarray
    part: np.ndarray
    share: np.ndarray
    attributes: np.ndarray
    landmark_index: np.ndarray
    landmark_weight: np.ndarray
    path_index: np.ndarray
    path_weight: np.ndarray
    proxy_index: np.ndarray
    proxy_weight: np.ndarray
    front: np.ndarray
    scalp: np.ndarray


def write(rig: Rig, path: pathlib.Path) -> None:
    """Stores a rig; the file appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part.npz")
    np.savez(part, **{field.name: getattr(rig, field.name) for field in dataclasses.fields(rig)})
    part.replace(path)


def read(path: pathlib.Path) -> Rig:
    """Reads what `write` stored."""
    with np.load(path) as stored:
        return Rig(**{name: stored[name] for name in stored.files})


class Front(NamedTuple):
    """The triangles of a surface that face the viewer, prepared to find places by (x, y).

    Attributes:
        faces: int [F, 3].
        corner: float64 [F, 3, 2], x and y of the corners.
        depth: float [F], mean z.
        low: float64 [2, F], smallest x and y, with a margin.
        high: float64 [2, F], largest x and y, with a margin.
    """

    faces: np.ndarray
    corner: np.ndarray
    depth: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, faces: np.ndarray) -> Front:
        """Prepares the surface with vertices [V, 3] and triangles [F, 3]."""
        corner = points[faces, :2].astype(np.float64)
        u, v = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
        ahead = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0] > 1e-8
        faces, corner = faces[ahead], corner[ahead]
        low, high = (np.ascontiguousarray(a.T) for a in (corner.min(1) - 0.02, corner.max(1) + 0.02))
        return cls(faces, corner, points[faces, 2].mean(1), low, high)

    def locate(self, xy: np.ndarray) -> PointSet:
        """The places at (x, y) float [N, 2], the frontmost of several; points beside go to the nearest triangle."""
        index, weight = np.empty((len(xy), 3), np.int32), np.empty((len(xy), 3))
        for n, p in enumerate(np.asarray(xy, np.float64)):
            beside = (p[0] < self.low[0]) | (p[0] > self.high[0]) | (p[1] < self.low[1]) | (p[1] > self.high[1])
            near = np.flatnonzero(~beside)
            if not len(near):
                near = np.argsort(((self.corner.mean(1) - p) ** 2).sum(1))[:8]
            corner = self.corner[near]
            u, v, q = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0], p - corner[:, 0]
            det = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
            wb = (q[:, 0] * v[:, 1] - q[:, 1] * v[:, 0]) / det
            wc = (u[:, 0] * q[:, 1] - u[:, 1] * q[:, 0]) / det
            w = np.stack([1 - wb - wc, wb, wc], 1)
            best = np.argmax(np.minimum(w.min(1), 0) + 1e-3 * self.depth[near])
            inside = np.clip(w[best], 0, None)
            index[n], weight[n] = self.faces[near[best]], inside / inside.sum()
        return PointSet(index, weight)


def locate(xy: np.ndarray, points: np.ndarray, faces: np.ndarray) -> PointSet:
    """`Front.locate` on the surface with vertices [V, 3] and triangles [F, 3], of which only the front is used."""
    return Front.of(points, faces).locate(xy)


def build(model: ScanModel) -> Rig:
    """Computes the rig of a model."""
    kept = np.flatnonzero(model.part <= ScanPart.RIGHT_EYE)
    number = np.full(len(model.part), -1)
    number[kept] = np.arange(len(kept))
    faces = number[model.faces[:, [0, 2, 1]]].astype(np.int32)  # y runs down here
    faces = faces[(faces >= 0).all(1)]
    part, origin_landmarks = model.part[kept], number[model.landmarks]
    face_part = part[faces[:, 0]]
    anchors = head_lib.fixed_points().on(template().points.astype(np.float64))
    everything = _to_units(model.mean.astype(np.float64), model.landmarks, anchors)
    points = everything[kept]
    skin = part <= ScanPart.HEAD

    x, y, z = points.T
    ear = skin & (np.abs(x) > 0.74) & (y > -0.03) & (y < 0.64) & (z < -0.79) & (z > -1.28)
    on_face = faces[face_part == ScanPart.FACE]
    landmarks = _landmarks(points, on_face, origin_landmarks)
    bare = faces[(face_part <= ScanPart.HEAD) & ~ear[faces].any(1)]
    coordinates = scan_warp.coordinates(points, bare, skin, landmarks.on(points), anchors)
    coordinates[np.abs(x) < 1e-6, 0] = 0
    scale = np.array([1, -1, 1], np.float32) * STEP / np.float32(UNIT)
    delta = [model.expression[k][kept].astype(np.float32) * scale for k in range(len(EXPRESSIONS))]
    lower = delta[EXPRESSIONS.index("jawOpen")][:, 1] > 1.3 / UNIT  # the lower side of the mouth
    coordinates = _part_lips(coordinates, part == ScanPart.FACE, lower)
    moving = [np.flatnonzero(np.abs(d).max(1) > 1e-5) for d in delta]

    face_part = face_part.copy()
    face_part[(ear[faces].sum(1) >= 2) & (face_part <= ScanPart.HEAD)] = EAR
    front = faces[(face_part <= ScanPart.HEAD) & (coordinates[faces, 2].min(1) > -1.0)]
    path = _jaw_paths(coordinates, np.flatnonzero(skin & ~ear), front)
    proxy = _proxy(coordinates, skin, front)
    share = _share(coordinates, skin & ~ear)
    scalp = np.flatnonzero(skin & ~ear & (coordinates[:, 1] < 0.9) & (share > 0.99))
    attributes = [_iris(points, part, everything, model.part), _lid_distance(coordinates, on_face, part)]
    attributes.append(_hidden(points, faces)[:, None])
    return Rig(
        points=points.astype(np.float32), coordinates=coordinates.astype(np.float32),
        identity=model.identity[:, kept], scale=scale,
        moved=np.concatenate(moving).astype(np.int32),
        movement=np.concatenate([d[on] for d, on in zip(delta, moving, strict=True)]),
        first=np.cumsum([0, *map(len, moving)]).astype(np.int32),
        widened=_widened(coordinates, lower), faces=faces, face_part=face_part, part=part, share=share,
        attributes=np.concatenate(attributes, 1).astype(np.float32),
        landmark_index=landmarks.index, landmark_weight=landmarks.weight,
        path_index=path.index, path_weight=path.weight, proxy_index=proxy.index, proxy_weight=proxy.weight,
        front=front, scalp=scalp.astype(np.int32),
    )  # fmt: skip


def _to_units(cm: np.ndarray, landmarks: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """The model in head units, its eyes at the template's height and its face at the template's depth."""
    height = cm[landmarks[[36, 45]], 1].mean()
    depth = np.median(cm[landmarks[17:], 2] - anchors[17:, 2] * UNIT)
    return (cm - [0, height, depth]) * [1, -1, 1] / UNIT


def _landmarks(points: np.ndarray, faces: np.ndarray, vertices: np.ndarray) -> PointSet:
    """The 68 landmarks in iBUG's sense; the jaw's are those of the model, which `head.outline` replaces."""
    flip = np.asarray(layouts.get("ibug68").flip)
    normal = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]])
    frontal = faces[(normal[:, 2] > 0) & (points[faces, 2].min(1) > -0.6)]
    index, weight = np.stack([vertices] * 3, 1).astype(np.int32), np.tile([1.0, 0, 0], (68, 1))
    for k, (dx, dy) in _MOVE.items():
        for mine, sign in {k: 1, int(flip[k]): 1 if flip[k] == k else -1}.items():
            goal = points[vertices[mine], :2] - np.array([sign * dx, dy]) / 100
            if mine in _ALONG_EDGE:
                here, there = vertices[mine], vertices[_ALONG_EDGE[mine]]
                along = (goal[0] - points[here, 0]) / (points[there, 0] - points[here, 0])
                index[mine], weight[mine] = [here, there, there], [1 - along, along, 0]
            else:
                found = locate(goal[None], points, frontal)
                index[mine], weight[mine] = found.index[0], found.weight[0]
    return PointSet(index, weight)


def _part_lips(coordinates: np.ndarray, face: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Coordinates in which the upper lip lies above the template's seam and the lower lip below it."""
    x, y = coordinates[:, 0], coordinates[:, 1]
    seam = anatomy.lip_seam(x)
    zone = face & (np.abs(x) < 0.3) & (y > 0.6) & (y < 0.92)
    out = coordinates.copy()
    out[:, 1] = np.where(zone, np.where(lower, np.maximum(y, seam), np.minimum(y, seam)), y)
    return out


def _share(coordinates: np.ndarray, bends: np.ndarray) -> np.ndarray:
    """Share of the head's rotation float32 [V]: it falls below a border that runs from the nape to under the chin."""
    border = np.interp(coordinates[:, 2], [-2.1, -1.2, -0.85, -0.55, -0.2, 0.05], [0.85, 0.75, 0.75, 1.05, 1.33, 1.5])
    return np.where(bends, 1 - smoothstep(0.0, 0.95, coordinates[:, 1] - border), 1.0).astype(np.float32)


def _iris(points: np.ndarray, part: np.ndarray, everything: np.ndarray, every_part: np.ndarray) -> np.ndarray:
    """Place on the eyeball relative to the pupil in iris radii, [V, 2]; 9 off the eyeballs and on their back."""
    out = np.full((len(points), 2), 9.0)
    pairs = ((ScanPart.LEFT_EYE, ScanPart.LEFT_IRIS), (ScanPart.RIGHT_EYE, ScanPart.RIGHT_IRIS))
    for ball, iris in pairs:
        disc = everything[every_part == iris]
        ahead = disc[disc[:, 2] >= np.percentile(disc[:, 2], 60)]
        on = np.flatnonzero((part == ball) & (points[:, 2] >= disc[:, 2].min()))
        out[on] = (points[on, :2] - ahead[:, :2].mean(0)) / (1.03 * anatomy.IRIS_RADIUS)
    return out


def _lid_distance(coordinates: np.ndarray, faces: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Distance to the edge of the upper lid, and to that of either lid, [V, 2]; 9 off the face."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    edges, count = np.unique(edges, axis=0, return_counts=True)
    rim = np.unique(edges[count == 1])  # an edge with one triangle lies on the border of an opening
    x, y, z = coordinates[rim].T
    rim = rim[(np.abs(y) < 0.2) & (z > -0.4) & (np.abs(x) > 0.12)]
    upper = rim[coordinates[rim, 1] < 0.012]
    if not len(upper):
        return np.full((len(coordinates), 2), 9.0)
    out = np.stack([cKDTree(coordinates[some]).query(coordinates)[0] for some in (upper, rim)], 1)
    out[part != ScanPart.FACE] = 9.0
    return out


def _jaw_paths(coordinates: np.ndarray, skin: np.ndarray, front: np.ndarray) -> PointSet:
    """The paths of `head.jaw_paths` on the scan, begun farther back, where the jaw's edge lies seen from the side.

    Seen from the front, the outline is the edge of the face. On the near side of a turned head, annotators follow the
    ear and the edge of the jawbone, which lie behind it.

    Args:
        coordinates: template coordinates [V, 3].
        skin: vertices of the skin without the ears.
        front: triangles of the front of the face.

    Returns:
        Points of the paths, ordered as in `head.jaw_paths`, with `_BACK_STEPS` more points at the beginning of each.
    """
    paths, outward = head_lib.jaw_paths(JAW_TOP_Y, inner=0.85)  # the far outline of a turned head lies near the nose
    on_template = paths.on(template().points.astype(np.float64))
    ahead = locate(on_template[:, :2], coordinates, front)
    levels = outward.shape[1]
    start = ahead.on(coordinates).reshape(2, levels, -1, 3)[:, :, 0]  # ear side last
    reach = np.interp(np.linspace(0, 1, levels), [0, 0.25, 0.5, 0.8, 1], [0.05, 0.05, 0.13, 0.13, 0.08])
    along = np.linspace(1, 0, _BACK_STEPS + 1)[:-1]
    behind = start[:, :, None] - reach[None, :, None, None] * along[:, None] * np.array([0, 0, 1.0])
    away, near = cKDTree(coordinates[skin]).query(behind.reshape(-1, 3), k=3)
    weight = 1 / np.maximum(away, 1e-4) ** 2
    weight /= weight.sum(1, keepdims=True)

    def joined(back: np.ndarray, front_rows: np.ndarray) -> np.ndarray:
        both = [rows.reshape(2, levels, -1, 3) for rows in (back, front_rows)]
        return np.concatenate(both, axis=2).reshape(-1, 3)

    return PointSet(joined(skin[near].astype(np.int32), ahead.index), joined(weight, ahead.weight))


def _proxy(coordinates: np.ndarray, skin: np.ndarray, front: np.ndarray) -> PointSet:
    """Where the vertices of the template lie on the scan, so that accessories made for the template fit it."""
    mesh = template()
    near = np.flatnonzero(skin)[cKDTree(coordinates[skin]).query(mesh.points)[1]]
    index, weight = np.stack([near] * 3, 1).astype(np.int32), np.tile([1.0, 0, 0], (len(near), 1))
    face = np.unique(mesh.faces[(mesh.region == Region.FACE) | (mesh.region == Region.MOUTH)])
    found = locate(mesh.points[face, :2], coordinates, front)
    index[face], weight[face] = found.index, found.weight
    return PointSet(index, weight)


def _widened(coordinates: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Displacements of identity beside the model's own modes, float32 [len(WIDENED) + 1, V, 3]."""
    fields = blendshapes.fields(coordinates, np.where(lower, 1.0, -1.0))
    x, y, z = np.abs(coordinates[:, 0]), coordinates[:, 1], coordinates[:, 2]
    # A full chin: the underside of the jaw comes down and forwards, and joins the neck without a step.
    under = bump(x, y, 0.0, 1.43, 0.42, 0.17) * smoothstep(0.04, -0.14, z) * smoothstep(-1.1, -0.6, z)
    full = np.stack([0.1 * np.sign(coordinates[:, 0]) * x * under, 0.16 * under, 0.2 * under], 1)
    return np.stack([*(fields[name] for name in WIDENED), full]).astype(np.float32)


def _hidden(points: np.ndarray, faces: np.ndarray, count: int = 64, size: int = 300) -> np.ndarray:
    """Share of the surroundings that the head itself hides from each vertex [V], cosine weighted.

    Args:
        points: the mean head [V, 3].
        faces: its triangles [F, 3].
        count: number of directions, on a spiral over the sphere.
        size: side in pixels of the depth image of each direction.

    Returns:
        0 open to 1 enclosed.
    """
    normal = vertex_normals(points, faces).astype(np.float64)
    step = np.arange(count) + 0.5
    azimuth, polar = np.pi * (1 + 5**0.5) * step, np.arccos(1 - 2 * step / count)
    toward = np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], 1)
    seen, total = np.zeros(len(points)), np.zeros(len(points))
    half = 1.03 * np.linalg.norm(points, axis=1).max()
    both = np.ones(len(faces), bool)
    for d in toward:
        right = np.cross([0, 1.0, 0] if abs(d[1]) < 0.9 else [1.0, 0, 0], d)
        right /= np.linalg.norm(right)
        pixels = (np.stack([points @ right, points @ np.cross(d, right)], 1) / half + 1) * size * 0.5
        depth = half - points @ d
        found = rasterise(pixels, depth, faces, size, two_sided=both)
        nearest = np.full(size * size, 99.0, np.float32)
        nearest[found.pixel] = found.depth
        nearest = cv2.dilate(nearest.reshape(size, size), np.ones((3, 3)))  # a vertex lies between pixels
        col, row = np.clip(np.rint(pixels), 0, size - 1).astype(int).T
        cosine = np.clip(normal @ d, 0, None)
        seen += cosine * (depth <= nearest[row, col] + 0.012)
        total += cosine
    return 1 - seen / np.maximum(total, 1e-9)
