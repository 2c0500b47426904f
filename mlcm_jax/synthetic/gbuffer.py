"""What the renderer hands to the two cameras: an image of *what* every pixel shows, and the exact truth.

The RGB and the thermal image of a pair are painted from the same :class:`GBuffer`, so that they cannot disagree about
geometry. Both paint materials as functions of *template coordinates*: the position on a canonical head that knows no
identity, expression or pose (unit: inter-ocular distance, outer eye corners at x = ±0.5; x to the right of a frontal
image, y down, z towards the camera; origin between the eyes).
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np


class Part(enum.IntEnum):
    """What a pixel shows; the values are those of `GBuffer.part` and `GBuffer.under`."""

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


FACE_PARTS = (Part.SKIN, Part.LIP, Part.EYE, Part.MOUTH, Part.TEETH)
# What hides a landmark; lenses do not, because an annotator sees (RGB) or knows (thermal) the eye behind them.
OPAQUE_COVERS = (Part.HAIR, Part.GLASSES_FRAME, Part.CAP, Part.HAND, Part.MASK, Part.CLOTHES)


@dataclasses.dataclass(frozen=True)
class GBuffer:
    """Per-pixel description of one view at render resolution R x R, R = supersample × output side.

    Attributes:
        part: uint8 [R, R], the nearest surface (`Part`), with lenses, frames, masks, hands and caps on top.
        under: uint8 [R, R], the part seen if spectacle lenses were transparent; equals `part` elsewhere.
        template: float32 [R, R, 3], template coordinates of the head-surface point seen there (through lenses); zero
            where `under` is not on the head, neck or ears. On EYE they are those of the eyeball in the mean head, on
            HAIR those of the scalp below.
        normal: float32 [R, R, 3], unit normal of `under` in camera space: x right, y down, z towards the camera; zero
            on the background.
        depth: float32 [R, R], distance of `under` along the optical axis, in inter-ocular units; inf on background.
        brow: float32 [R, R] in [0, 1], coverage by brow hair.
        beard: float32 [R, R] in [0, 1], coverage by beard or stubble.
        lid: float32 [R, R] in [0, 1], coverage by lashes and the lid line.
        iris: float32 [R, R, 2], position on the eyeball relative to the centre of the pupil, in iris radii (the iris
            is where the length is below 1); large off the eye.
        cavity: float32 [R, R] in [0, 1], ambient occlusion of the skin: 0 open, 1 deep (nostrils, sockets, corners).
        shadow: float32 [R, R] in [0, 1], how much of the first light other parts of the head and hat keep away.
        lens: float32 [R, R, 2], position on the spectacle lens in its half widths and half heights; zero off lenses.
        supersample: R / output side.
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
    """What is exactly known about a view; positions in pixels of the *output* image, pixel centres at integers.

    Attributes:
        landmarks: float32 [68, 2], iBUG 68; points 0-16 follow the visible outline of the face.
        jaw3d: float32 [17, 2], the same 17 jaw points fixed on the head instead.
        visible: bool [68]; not hidden by the head itself and not covered by anything opaque other than spectacle
            lenses (which count as visible even when dark). Outline points hide behind covers only.
        pose: float32 [3], yaw, pitch, roll in degrees; yaw > 0 turns the face to image right, pitch > 0 up, roll > 0
            clockwise in the image.
        distance: camera to the point between the eyes, in inter-ocular units.
    """

    landmarks: np.ndarray
    jaw3d: np.ndarray
    visible: np.ndarray
    pose: np.ndarray
    distance: float
