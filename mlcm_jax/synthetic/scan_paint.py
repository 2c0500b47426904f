"""The materials of scan-based heads: which part every pixel shows, and its covers and cavities.

`scan_head` puts `paint` into the `Surface` that `raster` draws. Eyes, teeth and the inside of the mouth are triangles
of their own; hair, lips, brows, beard and clothes are painted as functions of template coordinates (`paint`), as on the
hand-made head.
"""

from __future__ import annotations

import numpy as np

from mlcm_jax.synthetic import anatomy, scan_scene
from mlcm_jax.synthetic import paint as paint_lib
from mlcm_jax.synthetic.anatomy import smoothstep
from mlcm_jax.synthetic.arrays import gather, rows
from mlcm_jax.synthetic.gbuffer import Part, is_part
from mlcm_jax.synthetic.scan_model import ScanPart
from mlcm_jax.synthetic.scan_rig import EAR
from mlcm_jax.synthetic.scene import Scene, Subject
from mlcm_jax.synthetic.surface import Painted, blank

TORSO = 21  # the shoulders, in `Surface.region` beside `scan_model.ScanPart` and `scan_rig.EAR`
_PLAIN = {
    ScanPart.MOUTH: Part.MOUTH, ScanPart.LEFT_SOCKET: Part.SKIN, ScanPart.RIGHT_SOCKET: Part.SKIN,
    ScanPart.GUMS: Part.MOUTH, ScanPart.TEETH: Part.TEETH, ScanPart.LEFT_EYE: Part.EYE, ScanPart.RIGHT_EYE: Part.EYE,
    EAR: Part.EAR, TORSO: Part.CLOTHES,
}  # fmt: skip
_PART = np.full(256, Part.SKIN, np.uint8)
_PART[list(_PLAIN)] = list(_PLAIN.values())


def paint(where: np.ndarray, attributes: np.ndarray, region: np.ndarray, subject: Subject, scene: Scene) -> Painted:
    """`Surface.paint` of scan-based heads; `attributes` are those of `scan_rig.Rig`."""
    part = gather(_PART, region)
    skin = region <= int(ScanPart.HEAD)
    x, y, z = np.abs(where[:, 0]), where[:, 1], where[:, 2]
    # The edge of the face lies between z = -0.8 and 0.03, which decides for most points.
    face = skin & (z >= 0.03) & (y < 1.33)
    side = np.flatnonzero(skin & (z > -0.83) & (z < 0.03) & (y < 1.33))
    face[side] = gather(z, side) >= anatomy.outline_depth(gather(y, side)) - 0.02
    back = skin & ~face
    part[back & (y > -0.1)] = Part.NECK
    body = np.flatnonzero((back & (y > 1.3)) | (region == TORSO))
    # The scan has shoulders of its own, which slope from the neck to above the neckline of the hand-made torso.
    cloth = paint_lib.clothes_margin(where[body], scene) + 0.5 * smoothstep(0.56, 0.85, x[body]) > 0
    part[body] = np.where(cloth, Part.CLOTHES, Part.NECK)
    lips = np.flatnonzero(face & (y > 0.6) & (y < 0.92) & (x < 0.3))
    part[lips[anatomy.lip_margin(where[lips, 0], y[lips]) > 0]] = Part.LIP
    scalp = np.flatnonzero((face & ((y < -0.2) | (x > 0.6))) | (back & (y < 0.62)))
    on_scalp = rows(where, scalp)
    part[scalp[paint_lib.hair_margin(on_scalp, subject) > 0]] = Part.HAIR
    if scene.cap != "none":
        under = paint_lib.cap_edge(anatomy.azimuth(on_scalp), scene) - y[scalp]
        part[scalp[under > 0]] = Part.CAP

    out = blank(part)
    bare = is_part(part, Part.SKIN)
    fleshy = bare | is_part(part, Part.NECK)
    brows = np.flatnonzero(bare & (y > -0.48) & (y < 0.0) & (x < 0.78))
    moved = rows(where, brows)
    moved[:, :2] -= scan_scene.brow_shift(subject.seed, moved[:, 0]).astype(np.float32)
    out.brow[brows] = paint_lib.brow_cover(moved, subject)
    if subject.beard_style != "none":
        beard = np.flatnonzero(fleshy & (y > 0.0) & (z > -0.85))
        out.beard[beard] = paint_lib.beard_cover(rows(where, beard), subject) * smoothstep(-0.85, -0.6, z[beard])
    lids = np.flatnonzero(skin & (y > -0.2) & (y < 0.15) & (x > 0.15) & (x < 0.56))
    out.lid[lids] = _lashes(attributes[lids, 2], attributes[lids, 3], x[lids], subject)
    eyes = np.flatnonzero(is_part(part, Part.EYE))
    out.iris[eyes] = attributes[eyes, :2]
    open_skin = np.flatnonzero(fleshy | is_part(part, Part.LIP, Part.EAR))
    hidden = smoothstep(0.25, 0.9, attributes[open_skin, 4])
    out.cavity[open_skin] = np.clip(np.maximum(paint_lib.cavity(rows(where, open_skin)), hidden), 0, 1)
    return out


def _lashes(upper: np.ndarray, either: np.ndarray, x: np.ndarray, subject: Subject) -> np.ndarray:
    """Cover by lashes at distances [N] from the edges of the upper lid and of either lid; x is the template's, >= 0."""
    width = 0.009 + 0.010 * subject.lashes
    top = np.exp(-0.5 * (upper / width) ** 2) * (0.72 + 0.28 * subject.lashes)
    bottom = 0.4 * np.exp(-0.5 * (either / 0.008) ** 2)
    inner, outer = anatomy.EYE_INNER, anatomy.EYE_OUTER
    ends = smoothstep(inner - 0.015, inner + 0.04, x) * smoothstep(outer + 0.03, outer - 0.01, x)
    return np.clip(np.maximum(top, bottom) * ends, 0, 1)
