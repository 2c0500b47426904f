"""The renderer: from a subject and a scene to what every pixel shows, and to the exact truth.

`generate` calls `render_gbuffer`. It builds the head (`head`) and its accessories (`accessories`), lifts hair and hats
off the scalp, rasterises all triangles (`zbuffer`), decides the material of every pixel (`paint`) and returns a
`GBuffer` at render resolution and a `Truth` in pixels of the output image. It makes no random draws.
"""

from __future__ import annotations

import functools

import numpy as np

from mlcm_jax.synthetic import accessories, anatomy, paint
from mlcm_jax.synthetic.gbuffer import OPAQUE_COVERS, GBuffer, Part, Truth
from mlcm_jax.synthetic.head import Camera, Head, build_head, place
from mlcm_jax.synthetic.scene import Scene, Subject, expressed
from mlcm_jax.synthetic.template import Region, template
from mlcm_jax.synthetic.zbuffer import Fragments, rasterise, vertex_normals

_SKULL_MIDDLE = np.array([0.0, -0.25, -0.85], np.float32)


@functools.cache
def _scalp() -> tuple[np.ndarray, np.ndarray]:
    """Indices of the vertices that hair or a hat may lift [N], and the unit directions in which they are lifted."""
    mesh = template()
    upper = np.flatnonzero((mesh.points[:, 1] < 0.9) & (mesh.head >= 1))
    face = np.zeros(len(mesh.points), bool)
    face[np.unique(mesh.faces[(mesh.region == Region.FACE) | (mesh.region == Region.SKULL)])] = True
    upper = upper[face[upper]]
    away = mesh.points[upper] - _SKULL_MIDDLE
    return upper, (away / np.linalg.norm(away, axis=1, keepdims=True)).astype(np.float32)


def _lifted(shape: np.ndarray, subject: Subject, scene: Scene) -> np.ndarray:
    """The vertices [V, 3] in head space, moved outwards by the volume of hair and hat."""
    index, away = _scalp()
    points = template().points[index]
    inside = paint.hair_margin(points, subject, ragged=False)
    thick = {"buzz": 0.02, "tied": 0.06, "receding": 0.06}.get(subject.hair_style, subject.hair_volume)
    thick = thick if scene.cap == "none" else min(thick, 0.03)
    lift = thick * anatomy.smoothstep(-0.01, 0.22, inside) + 0.4 * thick * anatomy.smoothstep(-0.005, 0.03, inside)
    if scene.cap != "none":
        angle = anatomy.azimuth(points)
        under = paint.cap_edge(angle, scene.cap) - points[:, 1]
        lift = np.maximum(lift, (0.1 if scene.cap == "cap" else 0.13) * anatomy.smoothstep(-0.005, 0.03, under))
    out = shape.copy()
    out[index] += lift[:, None].astype(np.float32) * away
    return out


def _shadow(points: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Soft shadow at every vertex, float32 [V] in [0, 1], from a coarse depth map in the view of the light."""
    axis = direction / np.linalg.norm(direction)
    right = np.cross([0.0, 1.0, 0.0], axis)
    right = right / max(np.linalg.norm(right), 1e-6)
    down = np.cross(axis, right)
    cells, extent = 88, 2.2
    towards = (points @ axis).astype(np.float32)
    col = np.clip((points @ right / extent * 0.5 + 0.5) * cells, 0, cells - 1).astype(np.int64)
    row = np.clip((points @ down / extent * 0.5 + 0.5) * cells, 0, cells - 1).astype(np.int64)
    nearest = np.full(cells * cells, -9.0, np.float32)
    np.maximum.at(nearest, row * cells + col, towards)
    grid = np.pad(nearest.reshape(cells, cells), 1, constant_values=-9.0)
    total = np.zeros(len(points), np.float32)
    for dr, dc in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)):
        total += anatomy.smoothstep(0.09, 0.22, grid[row + 1 + dr, col + 1 + dc] - towards).astype(np.float32)
    return np.minimum(total / 5, 1)


def render_gbuffer(subject: Subject, scene: Scene, size: int, supersample: int = 2) -> tuple[GBuffer, Truth]:
    """Renders one view.

    Args:
        subject: the person.
        scene: the pose, expression, camera, lights and accessories.
        size: side of the output image in pixels.
        supersample: render pixels per output pixel and axis.

    Returns:
        The G-buffer with size * supersample pixels a side, and the truth in pixels of the output image.
    """
    side = size * supersample
    # 1. Geometry: the head and all opaque accessories as one set of triangles in camera space.
    head = build_head(subject, scene)
    mesh = template()
    lifted = place(_lifted(head.shape, subject, scene), mesh.head, scene)
    pieces = accessories.pieces(subject, scene, head.shape)
    solid = [p for p in pieces if p.part != Part.GLASSES_LENS]
    glass = [p for p in pieces if p.part == Part.GLASSES_LENS]

    points = np.concatenate([lifted] + [place(p.points, p.share, scene) for p in solid])
    offsets = np.cumsum([len(lifted)] + [len(p.points) for p in solid])
    faces = np.concatenate([mesh.faces] + [p.faces + o for p, o in zip(solid, offsets, strict=False)])
    coordinates = np.concatenate([mesh.points] + [p.coordinates for p in solid])
    strip = np.concatenate([mesh.strip, np.zeros(len(points) - len(lifted), np.float32)])
    extra = np.concatenate([np.full(len(p.faces), p.part, np.uint8) for p in solid] or [np.zeros(0, np.uint8)])
    region = np.concatenate([mesh.region, np.full(len(extra), Region.ACCESSORY, np.uint8)])
    named = np.concatenate([np.zeros(len(mesh.faces), np.uint8), extra])  # the part of accessories' faces

    # 2. The nearest triangle at every pixel, and what is interpolated over it.
    found = _visible(points, faces, head.camera, side, two_sided=region == Region.ACCESSORY)
    normals = vertex_normals(points, faces)
    shadow = _shadow(points, scene.lights[0].direction) if scene.lights else np.zeros(len(points), np.float32)
    values = found.interpolate(
        faces, np.concatenate([coordinates, normals, strip[:, None], shadow[:, None]], 1).astype(np.float32)
    )
    where, normal = values[:, :3], values[:, 3:6]
    seen_from_behind = (normal[:, 2:] < -0.2) & (region[found.face] == Region.ACCESSORY)[:, None]
    normal = np.where(seen_from_behind, -normal, normal)
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)

    # 3. Materials of these pixels, as functions of template coordinates.
    part = _parts(where, values[:, 6], region[found.face], named[found.face], subject, scene)
    maps = _maps(where, part, subject, scene)

    def image(data: np.ndarray, empty: float = 0.0) -> np.ndarray:
        out = np.full((side * side, *data.shape[1:]), empty, data.dtype)
        out[found.pixel] = data
        return out.reshape(side, side, *data.shape[1:])

    # 4. Lenses in front of all that, and the truth.
    under, depth = image(part), image(found.depth, np.inf)
    top, lens = _lenses(glass, scene, head, under, depth, side)
    surface = image(where)
    truth = _truth(head, scene, top, depth, surface, size, supersample)
    buffer = GBuffer(
        part=top, under=under, template=surface, normal=image(normal.astype(np.float32)), depth=depth,
        brow=image(maps["brow"]), beard=image(maps["beard"]), lid=image(maps["lid"]),
        iris=image(maps["iris"], 9.0), cavity=image(maps["cavity"]),
        shadow=image(np.clip(values[:, 7], 0, 1)), lens=lens, supersample=supersample,
    )  # fmt: skip
    return buffer, truth


def _visible(points: np.ndarray, faces: np.ndarray, camera: Camera, side: int, two_sided: np.ndarray) -> Fragments:
    """Rasterises triangles given in camera space."""
    pixels = camera.project(points) * side - 0.5
    return rasterise(pixels, camera.distance - points[:, 2], faces, side, two_sided=two_sided)


def _parts(
    where: np.ndarray, strip: np.ndarray, region: np.ndarray, named: np.ndarray, subject: Subject, scene: Scene
) -> np.ndarray:
    """The part that every fragment shows, uint8 [N].

    Args:
        where: template coordinates [N, 3].
        strip: `Template.strip` [N].
        region: `Region` [N].
        named: the part of fragments on accessories [N].
        subject: gives the hair.
        scene: gives lids, mouth, cap and neckline.

    Returns:
        Values of `Part`.
    """
    part = np.full(len(where), Part.SKIN, np.uint8)
    part[(region == Region.UNDERSIDE) | (region == Region.TORSO)] = Part.NECK
    part[(region == Region.SKULL) & (where[:, 1] > -0.1)] = Part.NECK
    part[region == Region.EAR] = Part.EAR
    torso = np.flatnonzero(region == Region.TORSO)
    part[torso[paint.clothes_margin(where[torso], scene) > 0]] = Part.CLOTHES
    face = region == Region.FACE
    x, y = np.abs(where[:, 0]), where[:, 1]
    lips = np.flatnonzero(face & (y > 0.6) & (y < 0.92) & (x < 0.3))
    part[lips[anatomy.lip_margin(where[lips, 0], y[lips]) > 0]] = Part.LIP
    eyes = np.flatnonzero(face & (y > -0.2) & (y < 0.12) & (x > 0.15) & (x < 0.55))
    part[eyes[paint.eye_margin(where[eyes], scene.lids) > 0]] = Part.EYE
    mouth = np.flatnonzero(region == Region.MOUTH)
    part[mouth] = Part.MOUTH
    # Teeth keep their height: the wider the mouth is open, the smaller is their share of the strip.
    lifts = expressed(scene, "lip_raise") + expressed(scene, "lip_drop")
    gap = 0.36 * expressed(scene, "jaw") + 0.055 * lifts + 1e-3
    shown = 0.085 * np.sqrt(np.clip(1 - (where[mouth, 0] / 0.26) ** 2, 0, 1)) / gap
    lower = 0.035 / gap if gap > 0.12 else -1.0
    part[mouth[(strip[mouth] < shown) | (strip[mouth] > 1 - lower * (x[mouth] < 0.15))]] = Part.TEETH
    scalp = np.flatnonzero((face & ((y < -0.2) | (x > 0.6))) | (region == Region.SKULL))
    part[scalp[paint.hair_margin(where[scalp], subject) > 0]] = Part.HAIR
    if scene.cap != "none":
        under = paint.cap_edge(anatomy.azimuth(where[scalp]), scene.cap) - y[scalp]
        part[scalp[under > 0]] = Part.CAP
    part[region == Region.ACCESSORY] = named[region == Region.ACCESSORY]
    return part


def _maps(where: np.ndarray, part: np.ndarray, subject: Subject, scene: Scene) -> dict[str, np.ndarray]:
    """Covers, cavity [N] and iris position [N, 2] of the fragments, by the names of the fields of `GBuffer`."""
    count = len(where)
    out = {name: np.zeros(count, np.float32) for name in ("brow", "beard", "lid", "cavity")}
    out["iris"] = np.full((count, 2), 9.0, np.float32)
    x, y = np.abs(where[:, 0]), where[:, 1]
    skin = (part == Part.SKIN) | (part == Part.NECK)
    brows = np.flatnonzero((part == Part.SKIN) & (y > -0.4) & (y < -0.04) & (x < 0.72))
    out["brow"][brows] = paint.brow_cover(where[brows], subject)
    beard = np.flatnonzero(skin & (y > 0.0) & (where[:, 2] > -0.95))
    if subject.beard_style != "none":
        out["beard"][beard] = paint.beard_cover(where[beard], subject)
    lids = np.flatnonzero(
        ((part == Part.SKIN) | (part == Part.EYE)) & (y > -0.2) & (y < 0.15) & (x > 0.15) & (x < 0.56)
    )
    out["lid"][lids] = paint.lash_cover(where[lids], scene.lids, subject)
    eyes = np.flatnonzero(part == Part.EYE)
    out["iris"][eyes] = paint.iris_position(where[eyes], scene.gaze)
    body = np.flatnonzero(skin | (part == Part.LIP))
    out["cavity"][body] = paint.cavity(where[body])
    return out


def _lenses(
    glass: list[accessories.Piece], scene: Scene, head: Head, under: np.ndarray, depth: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """`under` with lenses on top, uint8 [R, R], and the position on the lens, float32 [R, R, 2]."""
    top, lens = under.copy(), np.zeros((side, side, 2), np.float32)
    for piece in glass:
        points = place(piece.points, piece.share, scene)
        found = _visible(points, piece.faces, head.camera, side, two_sided=np.ones(len(piece.faces), bool))
        nearer = found.depth < depth.ravel()[found.pixel]
        top.ravel()[found.pixel[nearer]] = Part.GLASSES_LENS
        lens.reshape(-1, 2)[found.pixel[nearer]] = found.interpolate(piece.faces, piece.coordinates)[nearer, :2]
    return top, lens


def _truth(
    head: Head, scene: Scene, part: np.ndarray, depth: np.ndarray, surface: np.ndarray, size: int, supersample: int
) -> Truth:
    """Landmarks in pixels of the output image, and whether they are visible; see `gbuffer.Truth`."""
    u = head.camera.project(head.landmarks)
    side = size * supersample
    # An outline point lies on the border of the face, so its covers are looked up slightly inside of it.
    probe = u.copy()
    probe[:17] += 0.04 * (u[[27, 30, 33, 51, 57]].mean(0) - u[:17])
    pixel = np.rint(probe * side - 0.5).astype(int)
    inside = ((pixel >= 0) & (pixel < side)).all(1)
    col, row = np.clip(pixel, 0, side - 1).T
    covered = np.isin(part[row, col], OPAQUE_COVERS)
    # A landmark is seen if one of the 3 x 3 pixels around it has about its depth and its place on the template.
    step = np.arange(-1, 2)
    rows = np.clip(row[:, None, None] + step[:, None], 0, side - 1)
    cols = np.clip(col[:, None, None] + step, 0, side - 1)
    pitch = scene.distance / (head.camera.scale * side)  # head units per pixel
    own = scene.distance - head.landmarks[:, 2]
    deep = own[:, None, None] <= depth[rows, cols] + 0.03 + 1.5 * pitch
    away = np.linalg.norm(surface[rows, cols, :2] - head.places[:, None, None, :2], axis=-1)
    seen = (deep & (away < 0.025 + 1.5 * pitch)).any((1, 2))
    seen[:17] = True
    return Truth(
        landmarks=(u * size - 0.5).astype(np.float32),
        jaw3d=(head.camera.project(head.jaw) * size - 0.5).astype(np.float32),
        visible=inside & ~covered & seen,
        pose=np.asarray(scene.pose, np.float32),
    )
