"""The map of warm and cool skin: the offset of every place of the unrolled head from the skin's level, in kelvin.

`thermal` calls `skin_map`, which draws the map of one person in one moment, and `unroll`, which gives the position of
every pixel in that map. The map is the sum of the regions below (inner eye corners, nose, cheeks, temples, ...), each
with an amplitude of the person's own and an asymmetry, of vessels, and of smooth noise; then the nose is cooled.

Surveys of infrared faces agree on the order: the inner eye corners are hottest, followed by forehead, neck and the
region of the mouth; cheeks, chin and ears are cooler; the nose is anything from as warm as the forehead to 8 K cooler
(Ioannou et al. 2014, "Thermal infrared imaging in psychophysiology").
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from mlcm_jax.synthetic import anatomy
from mlcm_jax.synthetic.arrays import blockwise
from mlcm_jax.synthetic.surroundings import blotches

# The skin map is unrolled on a cylinder about the head's vertical axis, because a frontal projection would smear
# temples, ears and the sides of the neck. Lengths are in head units, MAP_SHAPE is (rows, columns).
RADIUS = 0.9
X_RANGE = (-1.75, 1.75)
Y_RANGE = (-1.15, 1.95)
MAP_SHAPE = (160, 176)
Grid = tuple[np.ndarray, np.ndarray]  # column and row in the skin map for every pixel, as cv2.remap takes them


class _Region(NamedTuple):
    """A warm or cool place of the skin, in head units and kelvin.

    Attributes:
        x: template x of the middle.
        y: template y of the middle.
        half_width: along x.
        half_height: along y.
        exponent: 2 for a soft blob, 4 for a patch with a rim.
        mean: average offset from the skin's level.
        deviation: standard deviation of the offset between people and moments.
        mirrored: whether the other half of the face has the region too.
        loose: whether its place differs between people, as that of vessels does; other regions are tied to an organ.
    """

    x: float
    y: float
    half_width: float
    half_height: float
    exponent: int
    mean: float
    deviation: float
    mirrored: bool
    loose: bool


_REGIONS = {
    "canthus": _Region(0.195, 0.02, 0.055, 0.055, 2, 1.9, 0.5, True, False),
    "orbit": _Region(0.33, 0.00, 0.21, 0.14, 2, 1.0, 0.4, True, False),
    "nose_root": _Region(0.17, 0.13, 0.06, 0.13, 2, 0.8, 0.4, True, False),
    "upper_lid": _Region(0.34, -0.11, 0.17, 0.05, 2, 0.6, 0.4, True, False),
    "under_eye": _Region(0.29, 0.12, 0.13, 0.06, 2, 0.6, 0.4, True, False),
    "outer_canthus": _Region(0.52, 0.02, 0.08, 0.07, 2, 0.4, 0.4, True, False),
    "alar_groove": _Region(0.19, 0.43, 0.035, 0.09, 2, 1.0, 0.5, True, False),
    "nasolabial": _Region(0.26, 0.57, 0.07, 0.12, 2, 0.5, 0.5, True, True),
    "mouth_corner": _Region(0.30, 0.79, 0.09, 0.10, 2, 1.0, 0.6, True, True),
    "upper_lip": _Region(0.00, 0.60, 0.15, 0.07, 2, 0.4, 0.5, False, False),
    "lower_lip": _Region(0.00, 0.95, 0.17, 0.05, 2, 0.5, 0.4, False, False),
    "chin": _Region(0.00, 1.15, 0.21, 0.13, 2, -0.8, 0.6, False, True),
    "cheek": _Region(0.46, 0.40, 0.25, 0.26, 2, -1.4, 0.6, True, True),
    "lower_cheek": _Region(0.56, 0.72, 0.18, 0.22, 2, -0.7, 0.5, True, True),
    "outer_cheek": _Region(0.70, 0.25, 0.14, 0.20, 2, -0.5, 0.6, True, True),
    "glabella": _Region(0.00, -0.18, 0.11, 0.14, 2, 0.6, 0.4, False, False),
    "forehead": _Region(0.00, -0.50, 0.60, 0.26, 4, 0.6, 0.4, False, True),
    "forehead_side": _Region(0.40, -0.50, 0.22, 0.20, 2, 0.0, 0.6, True, True),
    "hairline": _Region(0.00, -0.85, 0.70, 0.12, 2, -0.4, 0.6, False, True),
    "temple": _Region(0.75, -0.15, 0.17, 0.24, 2, 0.7, 0.5, True, True),
    "before_ear": _Region(0.81, 0.25, 0.10, 0.40, 2, 0.6, 0.5, True, True),
    "under_jaw": _Region(0.45, 1.42, 0.40, 0.20, 2, 0.6, 0.4, True, True),
    "throat": _Region(0.00, 1.70, 0.30, 0.28, 2, 0.3, 0.5, False, True),
}
# The cool wedge of the nose: half width and strength over y.
_NOSE_Y = (-0.05, 0.08, 0.20, 0.32, 0.42, 0.50, 0.56)
_NOSE_HALF_WIDTH = (0.03, 0.06, 0.09, 0.12, 0.145, 0.14, 0.11)
_NARROW = 0.8  # the nose protrudes from the cylinder, which makes it narrower there
_NOSE_STRENGTH = (0.0, 0.22, 0.50, 0.85, 1.0, 0.90, 0.0)


class Look(NamedTuple):
    """Adjustments of the map.

    Attributes:
        flank: half width of the border of the cool nose, head units.
        drop: factor of the nose's cooling.
        means: average offset in kelvin by the name of the region, in place of those in `_REGIONS`.
    """

    flank: float = 0.015
    drop: float = 1.0
    means: Mapping[str, float] = types.MappingProxyType({})


PLAIN = Look()


class _Basis(NamedTuple):
    """Maps of the regions over the unrolled skin, [H, W] = MAP_SHAPE.

    Attributes:
        maps: float32 [N, H, W], loose regions first; a mirrored region has two maps.
        mean: float32 [N], kelvin.
        deviation: float32 [N], kelvin, standard deviation between people and moments.
        number: int [N], index of the region to which each map belongs.
        loose: how many maps are loose.
        nose: float32 [H, W], the cool wedge of the nose, 0 to 1.
    """

    maps: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    number: np.ndarray
    loose: int
    nose: np.ndarray


@functools.cache
def _basis() -> _Basis:
    height, width = MAP_SHAPE
    x = np.linspace(*X_RANGE, width)
    y = np.linspace(*Y_RANGE, height)
    maps, means, deviations, number, loose = [], [], [], [], 0
    for k, region in enumerate(sorted(_REGIONS.values(), key=lambda region: not region.loose)):
        # From x in the frontal view to the arc on the cylinder; below the chin the neck takes the place of the face.
        depth = float(anatomy.face_depth(region.x, region.y)) if region.y < 1.25 else -0.5
        arc = RADIUS * np.arctan2(region.x, depth + RADIUS)
        for side in (-1.0, 1.0) if region.mirrored else (1.0,):
            along_x = np.exp(-(np.abs((x - side * arc) / region.half_width) ** region.exponent))
            along_y = np.exp(-(np.abs((y - region.y) / region.half_height) ** region.exponent))
            maps.append(np.outer(along_y, along_x))
            means.append(region.mean)
            deviations.append(region.deviation)
            number.append(k)
            loose += region.loose
    half_width = np.interp(y, _NOSE_Y, _NOSE_HALF_WIDTH)[:, None]
    strength = np.interp(y, _NOSE_Y, _NOSE_STRENGTH)[:, None]
    nose = strength / (1.0 + np.exp((np.abs(x)[None] - _NARROW * half_width) / PLAIN.flank))
    maps, means, deviations = (np.asarray(a, np.float32) for a in (maps, means, deviations))
    return _Basis(maps, means, deviations, np.asarray(number), loose, nose.astype(np.float32))


def unroll(template: np.ndarray) -> Grid:
    """Template coordinates [..., 3] -> columns and rows in the skin map, two float32 [...]."""
    # A fast arctan2 in [0, 2 pi).
    x = RADIUS * blockwise(cv2.phase, template[..., 2] + np.float32(RADIUS), template[..., 0])
    x = np.where(x > RADIUS * np.pi, x - np.float32(2.0 * np.pi * RADIUS), x).astype(np.float32)
    column = (x - X_RANGE[0]) * ((MAP_SHAPE[1] - 1) / (X_RANGE[1] - X_RANGE[0]))
    row = (template[..., 1] - Y_RANGE[0]) * ((MAP_SHAPE[0] - 1) / (Y_RANGE[1] - Y_RANGE[0]))
    return column.astype(np.float32), row.astype(np.float32)


def look_up(field: np.ndarray, grid: Grid, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """The skin map, or anything of its shape, at the places that `unroll` gives; float32 of the shape of those.

    Args:
        field: float32 [H, W].
        grid: columns and rows.
        border: OpenCV's name of what lies outside the map.
    """
    return blockwise(lambda *at: cv2.remap(field, *at, cv2.INTER_LINEAR, borderMode=border), *grid)


def _vessels(rng: np.random.Generator) -> np.ndarray:
    """Warm lines of superficial veins and arteries over the skin map, float32 [H, W], from 0 to about 1."""
    canvas = np.zeros(MAP_SHAPE, np.float32)
    scale = (MAP_SHAPE[1] - 1) / (X_RANGE[1] - X_RANGE[0])
    # Start and end of the typical course: frontal vein, temporal artery with two branches, angular and facial vein.
    courses = [
        ((0.08, -0.15), (0.12, -0.9)),
        ((1.15, 0.1), (0.9, -0.5)),
        ((0.95, -0.25), (0.6, -0.7)),
        ((0.18, 0.1), (0.62, 1.0)),
        ((0.7, 1.1), (0.9, 1.9)),
    ]
    for start, end in courses:
        for side in (-1, 1):
            if rng.random() < 0.35:
                continue
            t = np.linspace(0.0, 1.0, 12)[:, None]
            bend = np.cumsum(rng.normal(0.0, 0.03, (12, 2)), axis=0)
            line = (np.asarray(start) * (1 - t) + np.asarray(end) * t + bend + rng.normal(0.0, 0.05, 2)) * (side, 1.0)
            points = np.round((line - (X_RANGE[0], Y_RANGE[0])) * scale * 16).astype(np.int32)
            cv2.polylines(
                canvas, [points], False, float(rng.uniform(0.4, 1.2)), int(rng.integers(2, 5)), cv2.LINE_AA, 4
            )
    return cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(1.2, 3.0)))


def _nose_drop(person: np.random.Generator, rng: np.random.Generator, chill: float) -> float:
    """How much cooler than the skin around it the tip of the nose is, in kelvin; it varies more than anything else."""
    tendency = person.gamma(2.0, 0.8)
    moment = rng.uniform(-0.6, 0.5) if rng.random() < 0.3 else tendency * rng.uniform(0.4, 1.8)
    return float(np.clip(moment + 4.0 * chill * rng.random(), -0.8, 8.5))


def _soft_nose(flank: float) -> np.ndarray:
    """The cool wedge of the nose with softer borders than in `_basis`, float32 [H, W]."""
    y, x = np.linspace(*Y_RANGE, MAP_SHAPE[0]), np.linspace(*X_RANGE, MAP_SHAPE[1])
    half_width = np.interp(y, _NOSE_Y, _NOSE_HALF_WIDTH)[:, None]
    strength = np.interp(y, _NOSE_Y, _NOSE_STRENGTH).astype(np.float32)[:, None]
    strength = cv2.GaussianBlur(strength, (1, 9), 2.0)
    return (strength / (1.0 + np.exp((np.abs(x)[None] - 1.06 * _NARROW * half_width) / flank))).astype(np.float32)


def skin_map(person: np.random.Generator, rng: np.random.Generator, chill: float, look: Look = PLAIN) -> np.ndarray:
    """Offset of the skin from its level over the unrolled head.

    Args:
        person: draws what is the same in all images of a person.
        rng: draws what differs between images.
        chill: how much cold has cooled the face, 0 to 1.
        look: adjustments.

    Returns:
        float32 [H, W] in kelvin.
    """
    maps, mean, deviation, number, loose, nose = _basis()
    if look.means:
        names = sorted(_REGIONS, key=lambda name: not _REGIONS[name].loose)
        mean = np.array([look.means.get(names[k], own) for k, own in zip(number, mean, strict=True)], np.float32)
    if look.flank != PLAIN.flank:
        nose = _soft_nose(look.flank)
    contrast = person.uniform(0.7, 1.7)
    both, side = (  # common to a region's two maps, and each map's own
        0.75 * person.standard_normal(n) + 0.45 * rng.standard_normal(n) for n in (number.max() + 1, len(mean))
    )
    amplitude = mean + deviation * (0.85 * both[number] + 0.5 * side)  # faces are lopsided, but only a little
    amplitude = contrast * amplitude * np.where(mean < 0, 1.0 + 0.8 * chill, 1.0)
    amplitude = amplitude.astype(np.float32)
    free = np.tensordot(amplitude[:loose], maps[:loose], 1)
    free += _vessels(person) * np.float32(contrast * rng.uniform(0.3, 1.3))
    free += grain(person, (5, 6), 0.35) + grain(rng, (10, 11), 0.25) + grain(person, (24, 26), 0.15)
    if rng.random() < 0.08:  # sweat: a fine pattern of cool spots, in places
        free -= np.maximum(grain(rng, (80, 88), 0.5), 0.0) * np.maximum(grain(rng, (6, 7), 1.0), 0.0)

    # Vessels run differently in everyone, so the loose map is bent by a smooth random displacement, in map pixels.
    coarse, fine = (person.standard_normal((2, *cells), np.float32) for cells in ((7, 8), (20, 22)))
    step = [_stretch(a * 3.0) + _stretch(b * 1.5) for a, b in zip(coarse, fine, strict=True)]
    column, row = np.meshgrid(np.arange(MAP_SHAPE[1], dtype=np.float32), np.arange(MAP_SHAPE[0], dtype=np.float32))
    free = cv2.remap(free, column + step[0], row + step[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    gentle = np.float32(0.3)
    cool = cv2.remap(nose, column + gentle * step[0], row + gentle * step[1], cv2.INTER_LINEAR)
    fixed = np.tensordot(amplitude[loose:], maps[loose:], 1)
    departure = free + fixed
    low = np.float32(-2.2)  # blood warms the skin, so departures below this are compressed
    departure = np.maximum(departure, low + np.float32(0.3) * (departure - low))
    return departure - np.float32(look.drop * _nose_drop(person, rng, chill)) * cool


def _stretch(knots: np.ndarray) -> np.ndarray:
    """Random knots stretched over the skin map, float32 [H, W]."""
    return cv2.resize(knots, MAP_SHAPE[::-1], interpolation=cv2.INTER_LINEAR)


def grain(rng: np.random.Generator, cells: tuple[int, int], deviation: float) -> np.ndarray:
    """Smooth noise over the skin map, float32 [H, W]."""
    return blotches(rng, MAP_SHAPE, cells, deviation)
