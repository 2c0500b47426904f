"""The thermal world before the camera: from the G-buffer to the apparent temperature of every pixel in °C.

`generate` calls `temperature` and hands what comes out to `sensor`. Skin is the sum of warm and cool regions in kelvin
(`_REGIONS`: inner eye corners, nose, cheeks, temples, ...) over template coordinates, each with an amplitude of the
subject's own, an asymmetry, and a state of the moment (cold nose, breath, sweat), added to one skin temperature of the
moment, `skin_level`. Everything else lies somewhere between the air (`surroundings.Climate`) and `skin_level`.

Surveys of infrared faces give the order: inner eye corners hottest, then forehead, neck and the region of the mouth;
cheeks, chin and ears cooler; the nose anything from as warm as the forehead to 8 K below it (Ioannou et al. 2014,
"Thermal infrared imaging in psychophysiology").
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

from mlcm_jax.synthetic import anatomy, surroundings
from mlcm_jax.synthetic.gbuffer import FACE_PARTS, GBuffer, Part
from mlcm_jax.synthetic.scene import Scene, Subject
from mlcm_jax.synthetic.surroundings import Climate, blotches

# The skin map is unrolled on a cylinder about the head's vertical axis, because a frontal projection would smear
# temples, ears and the sides of the neck. Lengths are in head units, MAP_SHAPE is (rows, columns).
RADIUS = 0.9
X_RANGE = (-1.75, 1.75)
Y_RANGE = (-1.15, 1.95)
MAP_SHAPE = (160, 176)
Grid = tuple[np.ndarray, np.ndarray]  # columns and rows in the skin map of every pixel, for cv2.remap

# name: (x, y, half width, half height, exponent, mean K, standard deviation K, mirrored, loose). x and y are template
# coordinates; the exponent is 2 for a soft blob and 4 for a patch with a rim. Loose regions follow vessels, whose place
# differs between people; the others are tied to an organ.
_REGIONS: dict[str, tuple[float, float, float, float, int, float, float, bool, bool]] = {
    "canthus": (0.195, 0.02, 0.055, 0.055, 2, 1.9, 0.5, True, False),
    "orbit": (0.33, 0.00, 0.21, 0.14, 2, 1.0, 0.4, True, False),
    "nose_root": (0.17, 0.13, 0.06, 0.13, 2, 0.8, 0.4, True, False),
    "upper_lid": (0.34, -0.11, 0.17, 0.05, 2, 0.6, 0.4, True, False),
    "under_eye": (0.29, 0.12, 0.13, 0.06, 2, 0.6, 0.4, True, False),
    "outer_canthus": (0.52, 0.02, 0.08, 0.07, 2, 0.4, 0.4, True, False),
    "alar_groove": (0.19, 0.43, 0.035, 0.09, 2, 1.0, 0.5, True, False),
    "nasolabial": (0.26, 0.57, 0.07, 0.12, 2, 0.5, 0.5, True, True),
    "mouth_corner": (0.30, 0.79, 0.09, 0.10, 2, 1.0, 0.6, True, True),
    "upper_lip": (0.00, 0.60, 0.15, 0.07, 2, 0.4, 0.5, False, False),
    "lower_lip": (0.00, 0.95, 0.17, 0.05, 2, 0.5, 0.4, False, False),
    "chin": (0.00, 1.15, 0.21, 0.13, 2, -0.8, 0.6, False, True),
    "cheek": (0.46, 0.40, 0.25, 0.26, 2, -1.4, 0.6, True, True),
    "lower_cheek": (0.56, 0.72, 0.18, 0.22, 2, -0.7, 0.5, True, True),
    "outer_cheek": (0.70, 0.25, 0.14, 0.20, 2, -0.5, 0.6, True, True),
    "glabella": (0.00, -0.18, 0.11, 0.14, 2, 0.6, 0.4, False, False),
    "forehead": (0.00, -0.50, 0.60, 0.26, 4, 0.6, 0.4, False, True),
    "forehead_side": (0.40, -0.50, 0.22, 0.20, 2, 0.0, 0.6, True, True),
    "hairline": (0.00, -0.85, 0.70, 0.12, 2, -0.4, 0.6, False, True),
    "temple": (0.75, -0.15, 0.17, 0.24, 2, 0.7, 0.5, True, True),
    "before_ear": (0.81, 0.25, 0.10, 0.40, 2, 0.6, 0.5, True, True),
    "under_jaw": (0.45, 1.42, 0.40, 0.20, 2, 0.6, 0.4, True, True),
    "throat": (0.00, 1.70, 0.30, 0.28, 2, 0.3, 0.5, False, True),
}
# The cool wedge of the nose: half width and strength over y.
_NOSE_Y = (-0.05, 0.08, 0.20, 0.32, 0.42, 0.50, 0.56)
_NOSE_HALF_WIDTH = (0.03, 0.06, 0.09, 0.12, 0.145, 0.14, 0.11)
_NOSE_STRENGTH = (0.0, 0.22, 0.50, 0.85, 1.0, 0.90, 0.0)
_THERMAL = 0x7E3  # separates the draws of a person's warmth from those of the person's shape


def temperature(gbuffer: GBuffer, subject: Subject, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Apparent temperature of every pixel before the camera's optics.

    Args:
        gbuffer: what every pixel shows, R x R.
        subject: the person; only `subject.seed` is read, so that two images of one person share vessels, asymmetry
            and the strength of warm and cool regions.
        scene: not read, because temperature does not depend on visible light; both cameras are called alike.
        rng: draws the moment: climate, chill, breath, surroundings.

    Returns:
        float32 [R, R] in °C.
    """
    del scene
    person = np.random.default_rng([_THERMAL, int(subject.seed)])
    climate = surroundings.sample_climate(rng)
    chill = float(np.clip(rng.beta(1.0, 3.0) + (0.3 if climate.ambient < 12 else 0.0), 0.0, 1.0))
    usual, now = person.normal(34.4, 0.5), rng.normal(0.0, 0.5)
    skin_level = float(usual + now - 3.0 * chill + 0.06 * (climate.ambient - 22.0))

    grid = _unroll(gbuffer.template)
    celsius = surroundings.background(rng, gbuffer.part.shape[0], climate)
    skin = _reflecting(_skin(gbuffer, grid, person, rng, skin_level, chill), gbuffer.normal, climate)
    np.copyto(celsius, skin, where=_is(gbuffer.under, *FACE_PARTS, Part.NECK, Part.EAR))
    hair = _hair(gbuffer, grid, rng, climate, skin_level)
    np.copyto(celsius, hair, where=gbuffer.under == Part.HAIR)
    np.copyto(celsius, _clothes(gbuffer, rng, climate, skin_level), where=gbuffer.under == Part.CLOTHES)
    _cover(celsius, gbuffer, rng, climate, skin_level, hair)
    return celsius


def _is(part: np.ndarray, *which: Part) -> np.ndarray:
    """Where `part` is one of `which`, bool of the same shape."""
    table = np.zeros(256, bool)
    table[list(which)] = True
    return table[part]


# ---------------------------------------------------------------------------------------------------------- skin


@functools.cache
def _basis() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int, np.ndarray]:
    """Maps of the regions over the unrolled skin, [H, W] = MAP_SHAPE.

    Returns:
        Six things: the maps float32 [N, H, W], loose regions first, two maps for a mirrored region; their means in
        kelvin [N]; their standard deviations in kelvin [N]; the number of the region of each map, int [N]; how many
        maps are loose; and the cool wedge of the nose, float32 [H, W].
    """
    height, width = MAP_SHAPE
    x = np.linspace(*X_RANGE, width)
    y = np.linspace(*Y_RANGE, height)
    maps, means, deviations, region, loose = [], [], [], [], 0
    ordered = sorted(_REGIONS.values(), key=lambda row: not row[-1])
    for number, (cx, cy, sx, sy, power, mean, deviation, mirrored, free) in enumerate(ordered):
        # Frontal x -> arc on the cylinder; below the chin the neck stands for the face.
        depth = float(anatomy.face_depth(np.asarray(cx), np.asarray(cy))) if cy < 1.25 else -0.5
        arc = RADIUS * np.arctan2(cx, depth + RADIUS)
        for side in (-1.0, 1.0) if mirrored else (1.0,):
            along_x = np.exp(-(np.abs((x - side * arc) / sx) ** power))
            along_y = np.exp(-(np.abs((y - cy) / sy) ** power))
            maps.append(np.outer(along_y, along_x))
            means.append(mean)
            deviations.append(deviation)
            region.append(number)
            loose += free
    half_width = np.interp(y, _NOSE_Y, _NOSE_HALF_WIDTH)[:, None]
    strength = np.interp(y, _NOSE_Y, _NOSE_STRENGTH)[:, None]
    # The nose stands out of the cylinder, which narrows it there.
    nose = strength / (1.0 + np.exp((np.abs(x)[None] - 0.8 * half_width) / 0.015))
    arrays = (np.asarray(a, np.float32) for a in (maps, means, deviations))
    return (*arrays, np.asarray(region), loose, nose.astype(np.float32))


def _unroll(template: np.ndarray) -> Grid:
    """Template coordinates [R, R, 3] -> columns and rows in the skin map, two float32 [R, R]."""
    x = RADIUS * cv2.phase(template[..., 2] + np.float32(RADIUS), template[..., 0])  # fast arctan2 in [0, 2 pi)
    x = np.where(x > RADIUS * np.pi, x - np.float32(2.0 * np.pi * RADIUS), x).astype(np.float32)
    column = (x - X_RANGE[0]) * ((MAP_SHAPE[1] - 1) / (X_RANGE[1] - X_RANGE[0]))
    row = (template[..., 1] - Y_RANGE[0]) * ((MAP_SHAPE[0] - 1) / (Y_RANGE[1] - Y_RANGE[0]))
    return column.astype(np.float32), row.astype(np.float32)


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


def skin_map(person: np.random.Generator, rng: np.random.Generator, chill: float) -> np.ndarray:
    """Departure of the skin from its level over the unrolled head.

    Args:
        person: draws what stays the same in all images of a person.
        rng: draws the moment.
        chill: how far the cold has cooled the face, 0 to 1.

    Returns:
        float32 [H, W] in kelvin.
    """
    basis, mean, deviation, region, loose, nose = _basis()
    contrast = person.uniform(0.7, 1.7)
    both, side = (
        0.75 * person.standard_normal(n) + 0.45 * rng.standard_normal(n) for n in (region.max() + 1, len(mean))
    )
    amplitude = mean + deviation * (0.85 * both[region] + 0.5 * side)  # faces are lopsided, but only a little
    amplitude = contrast * amplitude * np.where(mean < 0, 1.0 + 0.8 * chill, 1.0)
    amplitude = amplitude.astype(np.float32)
    free = np.tensordot(amplitude[:loose], basis[:loose], 1)
    free += _vessels(person) * np.float32(contrast * rng.uniform(0.3, 1.3))
    free += _grain(person, (5, 6), 0.35) + _grain(rng, (10, 11), 0.25) + _grain(person, (24, 26), 0.15)
    if rng.random() < 0.08:  # sweat: a fine pattern of cool spots, in places
        free -= np.maximum(_grain(rng, (80, 88), 0.5), 0.0) * np.maximum(_grain(rng, (6, 7), 1.0), 0.0)

    # Vessels run differently in everyone, so the loose map is bent by a smooth random displacement, in map pixels.
    coarse, fine = (person.standard_normal((2, *cells), np.float32) for cells in ((7, 8), (20, 22)))
    step = [_stretch(a * 3.0) + _stretch(b * 1.5) for a, b in zip(coarse, fine, strict=True)]
    column, row = np.meshgrid(np.arange(MAP_SHAPE[1], dtype=np.float32), np.arange(MAP_SHAPE[0], dtype=np.float32))
    free = cv2.remap(free, column + step[0], row + step[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    gentle = np.float32(0.3)
    cool = cv2.remap(nose, column + gentle * step[0], row + gentle * step[1], cv2.INTER_LINEAR)
    fixed = np.tensordot(amplitude[loose:], basis[loose:], 1)
    departure = free + fixed
    low = np.float32(-2.2)  # blood warms the skin, so departures below this are compressed
    departure = np.maximum(departure, low + np.float32(0.3) * (departure - low))
    return departure - np.float32(_nose_drop(person, rng, chill)) * cool


def _stretch(knots: np.ndarray) -> np.ndarray:
    """Random knots stretched over the skin map, float32 [H, W]."""
    return cv2.resize(knots, MAP_SHAPE[::-1], interpolation=cv2.INTER_LINEAR)


def _grain(rng: np.random.Generator, cells: tuple[int, int], deviation: float) -> np.ndarray:
    """Smooth noise over the skin map, float32 [H, W]."""
    return blotches(rng, MAP_SHAPE, cells, deviation)


def _skin(
    gbuffer: GBuffer,
    grid: Grid,
    person: np.random.Generator,
    rng: np.random.Generator,
    skin_level: float,
    chill: float,
) -> np.ndarray:
    """Temperature of skin, lips, eyes, mouth, ears and neck, float32 [R, R] in °C (meaningless elsewhere)."""
    under, template = gbuffer.under, gbuffer.template
    departure = skin_map(person, rng, chill)
    skin = cv2.remap(departure, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) + np.float32(skin_level)
    # Cavities lose less heat and radiate like a black body, so grooves and corners glow.
    skin += gbuffer.cavity * np.float32(rng.uniform(0.3, 1.4))
    nostrils = _bump(template, 0.068, 0.495, 0.05, 0.03)
    breath = rng.uniform(0.3, 2.2) if rng.random() < 0.5 else -rng.uniform(0.3, 3.5)  # out or in
    skin += nostrils * np.float32(breath)
    if breath > 0:
        skin += _bump(template, 0.05, 0.59, 0.12, 0.07) * np.float32(0.35 * breath)

    lips = under == Part.LIP
    seam = (template[..., 1] - np.float32(0.757) - np.float32(0.24) * template[..., 0] ** 2) / np.float32(0.022)
    slit = cv2.exp(-seam * seam)
    lip_warmth = rng.normal(0.3, 0.5) - 1.0 * chill
    np.add(skin, np.float32(lip_warmth) + slit * np.float32(rng.uniform(0.0, 1.8)), out=skin, where=lips)
    inside = skin_level + (rng.uniform(0.8, 2.2) if rng.random() < 0.7 else rng.uniform(-3.0, 0.3))
    skin[under == Part.MOUTH] = inside
    skin[under == Part.TEETH] = inside - rng.uniform(0.5, 3.0)

    pupil = cv2.exp(np.float32(-0.2) * (gbuffer.iris[..., 0] ** 2 + gbuffer.iris[..., 1] ** 2))
    eye = under == Part.EYE
    np.subtract(
        skin, np.float32(rng.uniform(0.1, 0.9)) + pupil * np.float32(rng.uniform(0.0, 0.6)), out=skin, where=eye
    )
    ear = under == Part.EAR
    if ear.any():
        for side in (-1, 1):
            drop = person.gamma(1.5, 0.9) + rng.uniform(-1.0, 1.0) + 4.0 * chill * rng.random()
            cooler = ear & (np.sign(template[..., 0]) == side)
            skin[cooler] -= np.float32(drop) + np.float32(rng.normal(0.0, 1.5)) * (template[..., 1][cooler] - 0.25)
    skin[under == Part.NECK] += np.float32(rng.normal(0.5, 0.4) + 0.8 * chill)
    return skin


def _bump(template: np.ndarray, x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    """A pair of soft blobs at template (±x, y), float32 [R, R] in [0, 1]; zero at the back of the head.

    Unlike in `anatomy.bump`, a half width is where the blob falls to 1/e.
    """
    dx = (np.abs(template[..., 0]) - np.float32(x)) / np.float32(half_width)
    dy = (template[..., 1] - np.float32(y)) / np.float32(half_height)
    blob = cv2.exp(-(dx * dx + dy * dy))
    return np.where(template[..., 2] > -0.6, blob, np.float32(0.0))


def _reflecting(skin: np.ndarray, normal: np.ndarray, climate: Climate) -> np.ndarray:
    """Skin radiates less, and mirrors the surroundings more, at grazing angles (emissivity 0.98 falling to 0.6)."""
    grazing = 1.0 - np.clip(normal[..., 2], 0.0, 1.0)
    grazing *= grazing
    mirror = np.float32(0.02) + np.float32(0.40) * grazing * grazing
    return skin + mirror * (np.float32(climate.reflected) - skin)


# ------------------------------------------------------------------------------------------- hair, clothes, covers


def _between(climate: Climate, skin_level: float, share: float | np.ndarray) -> float | np.ndarray:
    """The temperature in °C that lies `share` of the way from the air to the skin; float32 for a float32 array."""
    return climate.ambient + share * (skin_level - climate.ambient)


def _near_skin(gbuffer: GBuffer) -> np.ndarray:
    """Share of skin around each pixel, float32 [R, R]; hair is warm where it lies on the forehead."""
    skin = (gbuffer.under == Part.SKIN).astype(np.float32)
    side = max(3, gbuffer.part.shape[0] // 12) | 1
    return cv2.blur(skin, (side, side))


def _hair(gbuffer: GBuffer, grid: Grid, rng: np.random.Generator, climate: Climate, skin_level: float) -> np.ndarray:
    """Hair, float32 [R, R] in °C: strands run down the scalp, warmer near the skin."""
    share = rng.uniform(0.25, 0.65)
    glow = _near_skin(gbuffer) * np.float32(rng.uniform(0.1, 0.45))
    strands = _grain(rng, (int(rng.integers(3, 7)), int(rng.integers(50, 140))), float(rng.uniform(0.02, 0.07)))
    hair = cv2.remap(strands, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    hair += blotches(rng, gbuffer.part.shape, (5, 5), 0.05) + glow + np.float32(share)
    return _between(climate, skin_level, np.minimum(hair, np.float32(0.9)))


def _clothes(gbuffer: GBuffer, rng: np.random.Generator, climate: Climate, skin_level: float) -> np.ndarray:
    """Clothes, float32 [R, R] in °C: warm where they lie close to the skin, cool in the folds."""
    shape = gbuffer.part.shape
    share = np.float32(rng.uniform(0.1, 0.65))
    folds = np.abs(blotches(rng, shape, (int(rng.integers(3, 8)), int(rng.integers(5, 16))), 1.0))
    close = share + folds * np.float32(rng.uniform(-0.08, 0.08)) + blotches(rng, shape, (4, 4), 0.06)
    close += gbuffer.normal[..., 2] * np.float32(rng.uniform(-0.1, 0.1))
    return _between(climate, skin_level, close)


def _cover(
    celsius: np.ndarray,
    gbuffer: GBuffer,
    rng: np.random.Generator,
    climate: Climate,
    skin_level: float,
    hair: np.ndarray,
) -> None:
    """Paint what lies in front of the skin, in place: brows, lashes, beard, glasses, cap, mask, hand."""
    part, size = gbuffer.part, gbuffer.part.shape[0]
    skin = _is(part, Part.SKIN, Part.LIP, Part.EYE, Part.NECK)
    stubble = np.clip(1.0 + 0.5 * rng.standard_normal((size, size), np.float32), 0.0, 2.0)
    cover = gbuffer.beard * stubble * np.float32(rng.uniform(0.25, 0.75))
    cover = np.maximum(cover, gbuffer.brow * np.float32(rng.uniform(0.25, 0.8)))
    cover = np.maximum(cover, gbuffer.lid * np.float32(rng.uniform(0.1, 0.5)))
    cold = np.minimum(hair, celsius)  # hair insulates: it never warms the skin it covers
    np.add(celsius, np.minimum(cover, 1.0) * (cold - celsius), out=celsius, where=skin)

    lens = part == Part.GLASSES_LENS
    if lens.any():
        celsius[lens] = surroundings.mirror(rng, size, climate, skin_level)[lens]
    frame = part == Part.GLASSES_FRAME
    celsius[frame] = _between(climate, skin_level, rng.uniform(0.0, 0.45))
    for which, shares in ((Part.CAP, (0.1, 0.6)), (Part.MASK, (0.35, 0.85)), (Part.HAND, (0.55, 1.05))):
        on = part == which
        if not on.any():
            continue
        field = blotches(rng, (size, size), (4, 4), 0.06) + blotches(rng, (size, size), (14, 14), 0.025)
        field += np.float32(rng.uniform(*shares))
        if which == Part.MASK:  # breath warms or cools the cloth before nose and mouth
            field += _patch(on, 0.0, 0.25) * np.float32(rng.uniform(-0.35, 0.3))
        if which == Part.HAND:  # the fingertips, at the upper end, are cooler
            field -= _patch(on, -0.6, 0.5) * np.float32(rng.uniform(0.0, 0.35))
        celsius[on] = _between(climate, skin_level, field)[on]


def _patch(on: np.ndarray, down: float, spread: float) -> np.ndarray:
    """A soft blob on the pixels `on`, float32 [R, R] in [0, 1].

    Args:
        on: bool [R, R], the pixels of one thing.
        down: how far below the middle of the thing the blob lies, in its half heights.
        spread: size of the blob over that of the thing.

    Returns:
        1 in the middle of the blob, falling to 0.
    """
    rows, columns = np.flatnonzero(on.any(1)), np.flatnonzero(on.any(0))
    half_height, half_width = max(1.0, np.ptp(rows) / 2.0), max(1.0, np.ptp(columns) / 2.0)
    y = (np.arange(on.shape[0]) - rows.mean() - down * half_height) / (2.0 * spread * half_height)
    x = (np.arange(on.shape[1]) - columns.mean()) / (2.0 * spread * half_width)
    return np.outer(np.exp(-(y**2)), np.exp(-(x**2))).astype(np.float32)
