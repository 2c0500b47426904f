"""The renderer: from a subject and a scene to what every pixel shows, and to the exact truth.

`generate` calls `render_gbuffer`. It builds the head with its `Surface` and its accessories (`accessories`), rasterises
all triangles (`zbuffer`), lets the surface decide the material of every pixel and returns a `GBuffer` at render
resolution and a `Truth` in pixels of the output image. It makes no random draws.
"""

from __future__ import annotations

import numpy as np

from mlcm_jax.synthetic import accessories, anatomy
from mlcm_jax.synthetic import surface as surface_lib
from mlcm_jax.synthetic.arrays import gather, length
from mlcm_jax.synthetic.gbuffer import OPAQUE_COVERS, GBuffer, Part, Truth
from mlcm_jax.synthetic.head import Camera, Head, build_head, place
from mlcm_jax.synthetic.scan_head import ScanHeads
from mlcm_jax.synthetic.scene import Scene, Subject
from mlcm_jax.synthetic.zbuffer import Fragments, rasterise, vertex_normals


def _shadow(points: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Soft shadow at every vertex, float32 [V] in [0, 1], from a coarse depth map in the view of the light."""
    axis = direction / np.linalg.norm(direction)
    right = np.cross([0.0, 1.0, 0.0], axis)
    right = right / max(np.linalg.norm(right), 1e-6)
    down = np.cross(axis, right)
    cells, extent = 88, 2.2
    towards = (points @ axis).astype(np.float32)
    place_in_view = points.astype(np.float64)
    col = np.clip((place_in_view @ right / extent * 0.5 + 0.5) * cells, 0, cells - 1).astype(np.intp)
    row = np.clip((place_in_view @ down / extent * 0.5 + 0.5) * cells, 0, cells - 1).astype(np.intp)
    nearest = np.full(cells * cells, -9.0, np.float32)
    np.maximum.at(nearest, row * cells + col, towards)
    grid = np.pad(nearest.reshape(cells, cells), 1, constant_values=-9.0).ravel()
    cell = (row + 1) * (cells + 2) + col + 1
    total = np.zeros(len(points), np.float32)
    for step in (0, 1, -1, cells + 2, -cells - 2):
        total += anatomy.smoothstep(0.09, 0.22, gather(grid, cell + step) - towards)
    return np.minimum(total / 5, 1)


def render_gbuffer(
    subject: Subject, scene: Scene, size: int, supersample: int = 2, *, heads: ScanHeads | None = None
) -> tuple[GBuffer, Truth]:
    """Renders one view.

    Args:
        subject: the person.
        scene: the pose, expression, camera, lights and accessories.
        size: side of the output image in pixels.
        supersample: render pixels per output pixel and axis.
        heads: the scan-based heads to render, or None for the hand-made ones.

    Returns:
        The G-buffer with size * supersample pixels a side, and the truth in pixels of the output image.
    """
    side = size * supersample
    # 1. Geometry: the head and all opaque accessories as one set of triangles in camera space.
    if heads is None:
        head = build_head(subject, scene)
        surface = surface_lib.hand_made(head, subject, scene)
    else:
        head, surface = heads.build(subject, scene)
    pieces = accessories.pieces(subject, scene, head.shape)
    solid = [p for p in pieces if p.part != Part.GLASSES_LENS]
    glass = [p for p in pieces if p.part == Part.GLASSES_LENS]

    count = len(surface.points)
    points = np.concatenate([surface.points] + [place(p.points, p.share, scene) for p in solid])
    offsets = np.cumsum([count] + [len(p.points) for p in solid])
    more = [(p.faces + o).T for p, o in zip(solid, offsets, strict=False)]
    faces = np.concatenate([surface.faces.T, *more], 1, dtype=np.intp).T  # as `zbuffer` wants them
    behind = np.zeros(len(points), np.float32)
    behind[:count] = surface.behind
    extra = np.concatenate([np.full(len(p.faces), p.part, np.uint8) for p in solid] or [np.zeros(0, np.uint8)])
    named = np.concatenate([np.zeros(len(surface.faces), np.uint8), extra])  # the part of accessories' faces
    accessory = np.arange(len(faces)) >= len(surface.faces)

    # 2. The nearest triangle at every pixel, and what is interpolated over it. From here on, arrays hold one channel
    # after the other, [C, N], because numpy is several times as fast on long rows as on rows of three.
    found = _visible(points, faces, head.camera, side, two_sided=accessory, behind=behind)
    channels = np.zeros((7 + surface.attributes.shape[1], len(points)), np.float32)
    channels[:3] = np.concatenate([surface.coordinates] + [p.coordinates for p in solid]).T
    channels[3:6] = vertex_normals(points, faces).T
    if scene.lights:
        channels[6] = _shadow(points, scene.lights[0].direction)
    channels[7:, :count] = surface.attributes.T
    values = found.interpolate(faces, channels.T).T
    where, normal = values[:3], values[3:6]
    own, mine, part = np.arange(len(found.face)), values, named[found.face]
    if solid:
        seen_from_behind = (normal[2] < -0.2) & accessory[found.face]
        normal = np.where(seen_from_behind, -normal, normal)
        own = np.flatnonzero(part == 0)
        mine = gather(values, own)
    normal = normal / np.maximum(length(normal), 1e-6)

    # 3. Materials of the head's pixels, as functions of template coordinates.
    region = surface.region[gather(found.face, own)]
    painted = surface.paint(mine[:3].T, mine[7:].T, region, subject, scene)
    part[own] = painted.part
    own = gather(found.pixel, own)

    def image(data: np.ndarray, empty: float = 0.0, pixel: np.ndarray = found.pixel) -> np.ndarray:
        """Data [N] or [C, N] -> the image [R, R] or [R, R, C], whose channels are contiguous."""
        out = np.full((*data.shape[:-1], side * side), empty, data.dtype)
        for plane, values in zip(out.reshape(-1, side * side), data.reshape(-1, data.shape[-1]), strict=True):
            plane[pixel] = values
        out = out.reshape(*data.shape[:-1], side, side)
        return np.moveaxis(out, 0, -1) if data.ndim == 2 else out

    # 4. Lenses in front of all that, and the truth.
    under, depth = image(part), image(found.depth, np.inf)
    top, lens = _lenses(glass, scene, head, under, depth, side)
    place_shown = image(where)
    truth = _truth(head, scene, top, depth, place_shown, size, supersample)
    buffer = GBuffer(
        part=top, under=under, template=place_shown, normal=image(normal), depth=depth,
        brow=image(painted.brow, 0.0, own), beard=image(painted.beard, 0.0, own), lid=image(painted.lid, 0.0, own),
        iris=image(painted.iris.T, 9.0, own), cavity=image(painted.cavity, 0.0, own),
        shadow=image(np.clip(values[6], 0, 1)), lens=lens, supersample=supersample,
    )  # fmt: skip
    return buffer, truth


def _visible(
    points: np.ndarray,
    faces: np.ndarray,
    camera: Camera,
    side: int,
    *,
    two_sided: np.ndarray,
    behind: np.ndarray | float = 0.0,
) -> Fragments:
    """Rasterises triangles given in camera space; vertices count as `behind` head units farther away than they are."""
    pixels = camera.project(points) * side - 0.5
    return rasterise(pixels, camera.distance - points[:, 2] + behind, faces, side, two_sided=two_sided)


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
    probe = u.copy()
    probe[:17] += head.inset * (u[[27, 30, 33, 51, 57]].mean(0) - u[:17])
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
    slack = np.broadcast_to(head.slack, 68)[:, None, None]
    deep = own[:, None, None] <= depth[rows, cols] + 0.03 + 1.5 * pitch + slack
    away = np.linalg.norm(surface[rows, cols, :2] - head.places[:, None, None, :2], axis=-1)
    seen = (deep & (away < 0.025 + 1.5 * pitch + slack)).any((1, 2))
    seen[:17] = True
    return Truth(
        landmarks=(u * size - 0.5).astype(np.float32),
        jaw3d=(head.camera.project(head.jaw) * size - 0.5).astype(np.float32),
        visible=inside & ~covered & seen,
        pose=np.asarray(scene.pose, np.float32),
    )
