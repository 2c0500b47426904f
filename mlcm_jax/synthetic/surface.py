"""What `raster` draws of a head: its triangles in camera space, and how the pixels that show them are painted.

There are two kinds of head. `hand_made` makes the surface of the hand-made head (`template`, `head.build_head`), whose
lids, lips and teeth are painted on one mesh. `scan_head.ScanHeads.build` makes that of a scan-based head, which has
eyeballs, teeth and lids as geometry.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mlcm_jax.synthetic import anatomy, paint
from mlcm_jax.synthetic.arrays import rows
from mlcm_jax.synthetic.gbuffer import Part, is_part
from mlcm_jax.synthetic.head import Head, place
from mlcm_jax.synthetic.scene import Scene, Subject, expressed
from mlcm_jax.synthetic.template import Region, template

_SKULL_MIDDLE = np.array([0.0, -0.25, -0.85], np.float32)


class Painted(NamedTuple):
    """What N fragments of a head show; the maps are those of `GBuffer`.

    Attributes:
        part: uint8 [N], `Part`.
        brow: float32 [N].
        beard: float32 [N].
        lid: float32 [N].
        iris: float32 [N, 2].
        cavity: float32 [N].
    """

    part: np.ndarray
    brow: np.ndarray
    beard: np.ndarray
    lid: np.ndarray
    iris: np.ndarray
    cavity: np.ndarray


def blank(part: np.ndarray) -> Painted:
    """Maps without any cover, for `part` uint8 [N]."""
    brow, beard, lid, cavity = np.zeros((4, len(part)), np.float32)
    return Painted(part, brow, beard, lid, np.full((2, len(part)), 9.0, np.float32).T, cavity)


@dataclasses.dataclass(frozen=True)
class Surface:
    """A posed head with its hair or hat, neck and shoulders, as triangles.

    Attributes:
        points: float32 [V, 3], camera space.
        behind: float32 [V] or 0, by how much a vertex is moved back when the nearest triangle is sought.
        coordinates: float32 [V, 3], template coordinates.
        attributes: float32 [V, A], what `paint` reads besides.
        faces: int32 [F, 3], wound as `zbuffer.rasterise` wants them.
        region: uint8 [F], passed on to `paint`.
        paint: called with template coordinates [N, 3], attributes [N, A] and region [N] of fragments, the subject and
            the scene.
    """

    points: np.ndarray
    behind: np.ndarray | float
    coordinates: np.ndarray
    attributes: np.ndarray
    faces: np.ndarray
    region: np.ndarray
    paint: Callable[[np.ndarray, np.ndarray, np.ndarray, Subject, Scene], Painted]


def hand_made(head: Head, subject: Subject, scene: Scene) -> Surface:
    """The surface of the hand-made head that `head.build_head` posed."""
    mesh = template()
    points = place(_lifted(head.shape, subject, scene), mesh.head, scene)
    return Surface(points, 0.0, mesh.points, mesh.strip[:, None], mesh.faces, mesh.region, _paint)


def hair_lift(points: np.ndarray, subject: Subject, scene: Scene) -> np.ndarray:
    """By how much hair and hat stand off the scalp at template points [N, 3], float64 [N] in head units."""
    inside = paint.hair_margin(points, subject, ragged=False)
    thick = {"buzz": 0.02, "tied": 0.06, "receding": 0.06}.get(subject.hair_style, subject.hair_volume)
    thick = thick if scene.cap == "none" else min(thick, 0.03)
    lift = thick * anatomy.smoothstep(-0.01, 0.22, inside) + 0.4 * thick * anatomy.smoothstep(-0.005, 0.03, inside)
    if scene.cap != "none":
        angle = anatomy.azimuth(points)
        under = paint.cap_edge(angle, scene) - points[:, 1]
        lift = np.maximum(lift, (0.1 if scene.cap == "cap" else 0.13) * anatomy.smoothstep(-0.005, 0.03, under))
    return lift


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
    lift = hair_lift(template().points[index], subject, scene)
    out = shape.copy()
    out[index] += lift[:, None].astype(np.float32) * away
    return out


def _parts(where: np.ndarray, strip: np.ndarray, region: np.ndarray, subject: Subject, scene: Scene) -> np.ndarray:
    """The part that every fragment shows, uint8 [N].

    Args:
        where: template coordinates [N, 3].
        strip: `Template.strip` [N].
        region: `Region` [N].
        subject: gives the hair.
        scene: gives lids, mouth, cap and neckline.

    Returns:
        Values of `Part`.
    """
    part = np.full(len(where), Part.SKIN, np.uint8)
    skull = is_part(region, Region.SKULL)
    part[is_part(region, Region.UNDERSIDE, Region.TORSO)] = Part.NECK
    part[skull & (where[:, 1] > -0.1)] = Part.NECK
    part[is_part(region, Region.EAR)] = Part.EAR
    torso = np.flatnonzero(is_part(region, Region.TORSO))
    part[torso[paint.clothes_margin(rows(where, torso), scene) > 0]] = Part.CLOTHES
    face = is_part(region, Region.FACE)
    x, y = np.abs(where[:, 0]), where[:, 1]
    lips = np.flatnonzero(face & (y > 0.6) & (y < 0.92) & (x < 0.3))
    part[lips[anatomy.lip_margin(where[lips, 0], y[lips]) > 0]] = Part.LIP
    eyes = np.flatnonzero(face & (y > -0.2) & (y < 0.12) & (x > 0.15) & (x < 0.55))
    part[eyes[paint.eye_margin(rows(where, eyes), scene.lids) > 0]] = Part.EYE
    mouth = np.flatnonzero(is_part(region, Region.MOUTH))
    part[mouth] = Part.MOUTH
    # Teeth keep their height: the wider the mouth is open, the smaller is their share of the strip.
    lifts = expressed(scene, "lip_raise") + expressed(scene, "lip_drop")
    gap = 0.36 * expressed(scene, "jaw") + 0.055 * lifts + 1e-3
    shown = 0.085 * np.sqrt(np.clip(1 - (where[mouth, 0] / 0.26) ** 2, 0, 1)) / gap
    lower = 0.035 / gap if gap > 0.12 else -1.0
    part[mouth[(strip[mouth] < shown) | (strip[mouth] > 1 - lower * (x[mouth] < 0.15))]] = Part.TEETH
    scalp = np.flatnonzero((face & ((y < -0.2) | (x > 0.6))) | skull)
    on_scalp = rows(where, scalp)
    part[scalp[paint.hair_margin(on_scalp, subject) > 0]] = Part.HAIR
    if scene.cap != "none":
        under = paint.cap_edge(anatomy.azimuth(on_scalp), scene) - y[scalp]
        part[scalp[under > 0]] = Part.CAP
    return part


def _paint(where: np.ndarray, attributes: np.ndarray, region: np.ndarray, subject: Subject, scene: Scene) -> Painted:
    """`Surface.paint` of the hand-made head; its attribute is `Template.strip`."""
    part = _parts(where, attributes[:, 0], region, subject, scene)
    out = blank(part)
    x, y = np.abs(where[:, 0]), where[:, 1]
    bare = is_part(part, Part.SKIN)
    skin = bare | is_part(part, Part.NECK)
    brows = np.flatnonzero(bare & (y > -0.4) & (y < -0.04) & (x < 0.72))
    out.brow[brows] = paint.brow_cover(rows(where, brows), subject)
    beard = np.flatnonzero(skin & (y > 0.0) & (where[:, 2] > -0.95))
    if subject.beard_style != "none":
        out.beard[beard] = paint.beard_cover(rows(where, beard), subject)
    lids = np.flatnonzero((bare | is_part(part, Part.EYE)) & (y > -0.2) & (y < 0.15) & (x > 0.15) & (x < 0.56))
    out.lid[lids] = paint.lash_cover(rows(where, lids), scene.lids, subject)
    eyes = np.flatnonzero(is_part(part, Part.EYE))
    out.iris[eyes] = paint.iris_position(rows(where, eyes), scene.gaze)
    body = np.flatnonzero(skin | is_part(part, Part.LIP))
    out.cavity[body] = paint.cavity(rows(where, body))
    return out
