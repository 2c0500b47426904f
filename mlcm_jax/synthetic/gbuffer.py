"""The types that the renderer passes to the two cameras: what every pixel shows, and the exact truth.

`raster.render_gbuffer` makes a `GBuffer` and a `Truth`; `rgb.shade_rgb` and `thermal.temperature` read the `GBuffer`.
Both images of a pair are painted from the same buffer, so their geometry is the same, and both paint materials as
functions of template coordinates (see the package's docstring for spaces and units).
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np


class Part(enum.IntEnum):
    """What a pixel shows; the values of `GBuffer.part` and `GBuffer.under`."""

    BACKGROUND = 0
    SKIN = 1
    LIP = 2
    EYE = 3  # the eyeball between the lids
    MOUTH = 4  # the inside of an open mouth
    HAIR = 5
    EAR = 6
    NECK = 7
    CLOTHES = 8
    GLASSES_FRAME = 9
    GLASSES_LENS = 10
    CAP = 11
    HAND = 12
    MASK = 13
    TEETH = 14


def is_part(part: np.ndarray, *which: enum.IntEnum) -> np.ndarray:
    """Where `part`, uint8, is one of `which`, bool of the same shape; for `template.Region` too.

    Comparing with an integer is seven times as fast as with a member of an enumeration.
    """
    out = part == int(which[0])
    for other in which[1:]:
        out |= part == int(other)
    return out


FACE_PARTS = (Part.SKIN, Part.LIP, Part.EYE, Part.MOUTH, Part.TEETH)
# What hides a landmark. Lenses do not: an annotator sees the eye behind them in RGB and can infer its place in thermal.
OPAQUE_COVERS = (Part.HAIR, Part.GLASSES_FRAME, Part.CAP, Part.HAND, Part.MASK, Part.CLOTHES)


@dataclasses.dataclass(frozen=True)
class GBuffer:
    """Per-pixel description of one view at render resolution R x R, R = supersample * side of the output image.

    Attributes:
        part: uint8 [R, R], the nearest surface (`Part`), with lenses, frames, masks, hands and caps on top.
        under: uint8 [R, R], the part seen if spectacle lenses were transparent; equals `part` elsewhere.
        template: float32 [R, R, 3], template coordinates of the surface point that `under` shows; zero on the
            background. On EYE they are those of the eyeball of the canonical head, on HAIR and CAP those of the scalp
            below; on accessories they are `accessories.Piece.coordinates`.
        normal: float32 [R, R, 3], unit normal of `under` in camera space; zero on the background.
        depth: float32 [R, R], distance of `under` along the optical axis, in head units; inf on the background.
        brow: float32 [R, R] in [0, 1], coverage by brow hair.
        beard: float32 [R, R] in [0, 1], coverage by beard or stubble.
        lid: float32 [R, R] in [0, 1], coverage by lashes and the lid line.
        iris: float32 [R, R, 2], position on the eyeball relative to the centre of the pupil, in iris radii (the iris
            is where the length is below 1); 9 off the eye.
        cavity: float32 [R, R] in [0, 1], ambient occlusion of the skin: 0 open, 1 deep (nostrils, sockets, corners).
        shadow: float32 [R, R] in [0, 1], share of the first light that head, hair and accessories block.
        lens: float32 [R, R, 2], position on the spectacle lens, -1 … 1 in its half widths and half heights; zero off
            lenses.
        supersample: R / side of the output image.
    """

    part: np.ndarray
    under: np.ndarray
    template: np.ndarray
    normal: np.ndarray
    depth: np.ndarray
    brow: np.ndarray
    beard: np.ndarray
    lid: np.ndarray
    iris: np.ndarray
    cavity: np.ndarray
    shadow: np.ndarray
    lens: np.ndarray
    supersample: int


@dataclasses.dataclass(frozen=True)
class Truth:
    """The ground truth of a view; positions in pixels of the output image, pixel centres at integers.

    Attributes:
        landmarks: float32 [68, 2], iBUG 68; points 0-16 follow the visible outline of the face.
        jaw3d: float32 [17, 2], the same 17 jaw points fixed on the head instead.
        visible: bool [68], True if inside the image and hidden neither by the head itself nor by one of
            `OPAQUE_COVERS`. Only covers can hide points on the outline.
        pose: float32 [3], yaw, pitch, roll in degrees; yaw > 0 turns the face to image right, pitch > 0 up, roll > 0
            clockwise in the image.
    """

    landmarks: np.ndarray
    jaw3d: np.ndarray
    visible: np.ndarray
    pose: np.ndarray
