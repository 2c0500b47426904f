"""The thermal scene before the camera: from the G-buffer to the apparent temperature of every pixel in °C.

`generate` calls `temperature` and passes the result to `sensor`. In one image, all skin has the base temperature
`skin_level` in °C. `skin_map` adds warm and cool regions in kelvin, and this file adds breath, lips, eyes and ears. The
temperatures of all other parts lie between that of the air (`surroundings.Climate`) and `skin_level`.
"""

from __future__ import annotations

import cv2
import numpy as np

from mlcm_jax.synthetic import surroundings
from mlcm_jax.synthetic.arrays import blockwise, gather, rows
from mlcm_jax.synthetic.gbuffer import FACE_PARTS, GBuffer, Part, is_part
from mlcm_jax.synthetic.scene import Scene, Subject
from mlcm_jax.synthetic.skin_map import grain, look_up, skin_map, unroll
from mlcm_jax.synthetic.surroundings import Climate, blotches

PERSON = 0x7E3  # separates the draws of a person's temperatures from those of the person's shape


def temperature(
    gbuffer: GBuffer, subject: Subject, scene: Scene, rng: np.random.Generator, climate: Climate | None = None
) -> np.ndarray:
    """Apparent temperature of every pixel before the camera's optics.

    Args:
        gbuffer: what every pixel shows, R x R.
        subject: the person; only `subject.seed` is read, so that two images of one person share vessels, asymmetry
            and the strength of warm and cool regions.
        scene: unused, because temperature does not depend on visible light; both cameras have the same signature.
        rng: draws what differs between images: climate, chill, breath, surroundings.
        climate: of the surroundings, if it is not to be drawn.

    Returns:
        float32 [R, R] in °C.
    """
    del scene
    person = np.random.default_rng([PERSON, int(subject.seed)])
    climate = climate or surroundings.sample_climate(rng)
    chill = float(np.clip(rng.beta(1.0, 3.0) + (0.3 if climate.ambient < 12 else 0.0), 0.0, 1.0))
    usual, now = person.normal(34.4, 0.5), rng.normal(0.0, 0.5)
    skin_level = float(usual + now - 3.0 * chill + 0.06 * (climate.ambient - 22.0))

    celsius = surroundings.background(rng, gbuffer.part.shape[0], climate)
    flat = celsius.reshape(-1)
    flesh = np.flatnonzero(is_part(gbuffer.under, *FACE_PARTS, Part.NECK, Part.EAR))
    skin = _skin(gbuffer, flesh, (person, rng), skin_level, chill)
    flat[flesh] = reflecting(skin, gather(gbuffer.normal[..., 2].reshape(-1), flesh), climate)
    shown = is_part(gbuffer.under, Part.HAIR)
    hair = _hair(gbuffer, shown, rng, climate, skin_level)
    np.copyto(celsius, hair, where=shown)
    cloth = np.flatnonzero(is_part(gbuffer.under, Part.CLOTHES))
    flat[cloth] = clothes(gbuffer, cloth, rng, climate, skin_level)
    draw_covers(celsius, gbuffer, rng, climate, skin_level, hair)
    return celsius


# ---------------------------------------------------------------------------------------------------------- skin


def _skin(
    gbuffer: GBuffer,
    flesh: np.ndarray,
    draws: tuple[np.random.Generator, np.random.Generator],
    skin_level: float,
    chill: float,
) -> np.ndarray:
    """Temperature of skin, lips, eyes, mouth, ears and neck, float32 [N] in °C at the flat indices `flesh`.

    `draws` are those of the person and of the image.
    """
    person, rng = draws
    under, template = gather(gbuffer.under.reshape(-1), flesh), rows(gbuffer.template.reshape(-1, 3), flesh)
    x, y, _ = template.T
    skin = look_up(skin_map(person, rng, chill), unroll(template))
    skin += np.float32(skin_level)
    # Cavities lose less heat and radiate like a black body, so grooves and corners are warmer.
    skin += gather(gbuffer.cavity.reshape(-1), flesh) * np.float32(rng.uniform(0.3, 1.4))
    breath = rng.uniform(0.3, 2.2) if rng.random() < 0.5 else -rng.uniform(0.3, 3.5)  # out or in
    skin += bump(template, 0.068, 0.495, 0.05, 0.03) * np.float32(breath)
    if breath > 0:
        skin += bump(template, 0.05, 0.59, 0.12, 0.07) * np.float32(0.35 * breath)

    lips = np.flatnonzero(is_part(under, Part.LIP))
    seam = (y[lips] - np.float32(0.757) - np.float32(0.24) * x[lips] ** 2) / np.float32(0.022)
    slit = blockwise(cv2.exp, -seam * seam)
    lip_warmth = rng.normal(0.3, 0.5) - 1.0 * chill
    skin[lips] += np.float32(lip_warmth) + slit * np.float32(rng.uniform(0.0, 1.8))
    inside = skin_level + (rng.uniform(0.8, 2.2) if rng.random() < 0.7 else rng.uniform(-3.0, 0.3))
    skin[is_part(under, Part.MOUTH)] = inside
    skin[is_part(under, Part.TEETH)] = inside - rng.uniform(0.5, 3.0)

    eye = np.flatnonzero(is_part(under, Part.EYE))
    across, down = gather(gbuffer.iris.reshape(-1, 2).T, flesh[eye])
    pupil = blockwise(cv2.exp, np.float32(-0.2) * (across**2 + down**2))
    skin[eye] -= np.float32(rng.uniform(0.1, 0.9)) + pupil * np.float32(rng.uniform(0.0, 0.6))
    ear = np.flatnonzero(is_part(under, Part.EAR))
    if len(ear):
        for side in (-1, 1):
            drop = person.gamma(1.5, 0.9) + rng.uniform(-1.0, 1.0) + 4.0 * chill * rng.random()
            cooler = ear[np.sign(x[ear]) == side]
            skin[cooler] -= np.float32(drop) + np.float32(rng.normal(0.0, 1.5)) * (y[cooler] - 0.25)
    skin[is_part(under, Part.NECK)] += np.float32(rng.normal(0.5, 0.4) + 0.8 * chill)
    return skin


def bump(template: np.ndarray, x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    """A pair of soft blobs at template (±x, y) of [..., 3], float32 [...] in [0, 1]; zero at the back of the head.

    Unlike in `anatomy.bump`, a half width is where the blob falls to 1/e. It is zero where it would be below 1e-11.
    """
    across, down, depth = (template[..., k].reshape(-1) for k in range(3))
    dx = np.abs(across) - np.float32(x)
    dy = down - np.float32(y)
    near = (np.abs(dx) < 5.1 * half_width) & (np.abs(dy) < 5.1 * half_height) & (depth > -0.6)
    near = np.flatnonzero(near)
    dx, dy = gather(dx, near) / np.float32(half_width), gather(dy, near) / np.float32(half_height)
    out = np.zeros(across.shape, np.float32)
    out[near] = blockwise(cv2.exp, -(dx * dx + dy * dy))
    return out.reshape(template.shape[:-1])


def reflecting(skin: np.ndarray, facing: np.ndarray, climate: Climate) -> np.ndarray:
    """Skin radiates less, and mirrors the surroundings more, at grazing angles (emissivity 0.98 falling to 0.6).

    `facing` is the third coordinate of the normal, of the shape of `skin`.
    """
    grazing = 1.0 - np.clip(facing, 0.0, 1.0)
    grazing *= grazing
    mirror = np.float32(0.02) + np.float32(0.40) * grazing * grazing
    return skin + mirror * (np.float32(climate.reflected) - skin)


# ------------------------------------------------------------------------------------------- hair, clothes, covers


def between(climate: Climate, skin_level: float, share: float | np.ndarray) -> float | np.ndarray:
    """The temperature in °C that lies `share` of the way from the air to the skin; float32 for a float32 array."""
    return climate.ambient + share * (skin_level - climate.ambient)


def near_skin(gbuffer: GBuffer) -> np.ndarray:
    """Share of skin around each pixel, float32 [R, R], because hair is warm where it lies on the forehead."""
    skin = is_part(gbuffer.under, Part.SKIN).astype(np.float32)
    side = max(3, gbuffer.part.shape[0] // 12) | 1
    return cv2.blur(skin, (side, side))


def covered(gbuffer: GBuffer) -> np.ndarray:
    """The skin that brows, beard or lashes cover, bool [R, R]."""
    some = np.maximum(np.maximum(gbuffer.beard, gbuffer.brow), gbuffer.lid) > 0
    some &= is_part(gbuffer.part, Part.SKIN, Part.LIP, Part.EYE, Part.NECK)
    return some


def _hair(
    gbuffer: GBuffer, shown: np.ndarray, rng: np.random.Generator, climate: Climate, skin_level: float
) -> np.ndarray:
    """Hair, float32 [R, R] in °C: strands run down the scalp, warmer near the skin.

    It is computed where hair is shown, bool [R, R], and where brows, beard or lashes are, and is 0 elsewhere.
    """
    on = np.flatnonzero(shown | covered(gbuffer))
    share = rng.uniform(0.25, 0.65)
    glow = gather(near_skin(gbuffer).reshape(-1), on) * np.float32(rng.uniform(0.1, 0.45))
    strands = grain(rng, (int(rng.integers(3, 7)), int(rng.integers(50, 140))), float(rng.uniform(0.02, 0.07)))
    hair = look_up(strands, unroll(rows(gbuffer.template.reshape(-1, 3), on)), cv2.BORDER_REFLECT)
    hair += gather(blotches(rng, gbuffer.part.shape, (5, 5), 0.05).reshape(-1), on) + glow + np.float32(share)
    out = np.zeros(gbuffer.part.shape, np.float32)
    out.reshape(-1)[on] = between(climate, skin_level, np.minimum(hair, np.float32(0.9)))
    return out


def clothes(
    gbuffer: GBuffer, on: np.ndarray, rng: np.random.Generator, climate: Climate, skin_level: float
) -> np.ndarray:
    """Clothes, float32 [N] in °C at the flat indices `on`: warm where they lie close to the skin, cool in the folds."""
    shape = gbuffer.part.shape
    share = np.float32(rng.uniform(0.1, 0.65))
    folds = blotches(rng, shape, (int(rng.integers(3, 8)), int(rng.integers(5, 16))), 1.0)
    folds = np.abs(gather(folds.reshape(-1), on))
    close = share + folds * np.float32(rng.uniform(-0.08, 0.08))
    close += gather(blotches(rng, shape, (4, 4), 0.06).reshape(-1), on)
    close += gather(gbuffer.normal[..., 2].reshape(-1), on) * np.float32(rng.uniform(-0.1, 0.1))
    return between(climate, skin_level, close)


def draw_covers(
    celsius: np.ndarray,
    gbuffer: GBuffer,
    rng: np.random.Generator,
    climate: Climate,
    skin_level: float,
    hair: np.ndarray,
) -> None:
    """Paints what lies in front of the skin, in place: brows, lashes, beard, glasses, cap, mask, hand."""
    part, size = gbuffer.part, gbuffer.part.shape[0]
    on = np.flatnonzero(covered(gbuffer))
    beard, brow, lid, hair, bare = (
        gather(image.reshape(-1), on) for image in (gbuffer.beard, gbuffer.brow, gbuffer.lid, hair, celsius)
    )
    grown = gather(rng.standard_normal((size, size), np.float32).reshape(-1), on)
    stubble = np.clip(1.0 + 0.5 * grown, 0.0, 2.0)
    cover = beard * stubble * np.float32(rng.uniform(0.25, 0.75))
    cover = np.maximum(cover, brow * np.float32(rng.uniform(0.25, 0.8)))
    cover = np.maximum(cover, lid * np.float32(rng.uniform(0.1, 0.5)))
    cold = np.minimum(hair, bare)  # hair insulates, so it never looks warmer than the skin it covers
    celsius.reshape(-1)[on] = bare + np.minimum(cover, 1.0) * (cold - bare)

    lens = is_part(part, Part.GLASSES_LENS)
    if lens.any():
        celsius[lens] = surroundings.mirror(rng, size, climate, skin_level)[lens]
    frame = is_part(part, Part.GLASSES_FRAME)
    celsius[frame] = between(climate, skin_level, rng.uniform(0.0, 0.45))
    for which, shares in ((Part.CAP, (0.1, 0.6)), (Part.MASK, (0.35, 0.85)), (Part.HAND, (0.55, 1.05))):
        on = is_part(part, which)
        if not on.any():
            continue
        field = blotches(rng, (size, size), (4, 4), 0.06) + blotches(rng, (size, size), (14, 14), 0.025)
        field += np.float32(rng.uniform(*shares))
        if which == Part.MASK:  # breath warms or cools the cloth before nose and mouth
            field += _patch(on, 0.0, 0.25) * np.float32(rng.uniform(-0.35, 0.3))
        if which == Part.HAND:  # the fingertips, at the upper end, are cooler
            field -= _patch(on, -0.6, 0.5) * np.float32(rng.uniform(0.0, 0.35))
        celsius[on] = between(climate, skin_level, field)[on]


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
