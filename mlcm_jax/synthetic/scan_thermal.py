"""The thermal scene with scan-based heads: from the G-buffer to the apparent temperature of every pixel in °C.

`generate` calls `temperature` in place of `thermal.temperature`, whose parts it uses. It differs in what real images
show: soft borders (hairline, lips, brows, jaw), a neck that is often as warm as the chin, folds, mottled skin, eyeballs
nearly as warm as the lids, cavities that glow, and a plain wall or a seat behind the head.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np

from mlcm_jax.synthetic import albedo, anatomy, noise, paint, scan_surroundings, surroundings
from mlcm_jax.synthetic.anatomy import smoothstep
from mlcm_jax.synthetic.arrays import blockwise, gather, rows
from mlcm_jax.synthetic.gbuffer import FACE_PARTS, GBuffer, Part, is_part
from mlcm_jax.synthetic.scene import Scene, Subject
from mlcm_jax.synthetic.skin_map import Grid, Look, grain, look_up, skin_map, unroll
from mlcm_jax.synthetic.surroundings import Climate, blotches
from mlcm_jax.synthetic.thermal import PERSON, between, bump, clothes, draw_covers, near_skin, reflecting

_FLESH = (*FACE_PARTS, Part.NECK, Part.EAR)
_MEANS = {
    "cheek": -0.6,
    "mouth_corner": 1.9,
    "chin": -0.4,
    "lower_cheek": -0.3,
    "outer_cheek": -0.3,
    "glabella": 0.4,
}  # K


@dataclasses.dataclass(frozen=True)
class _Moment:
    """What is drawn for one image.

    Attributes:
        climate: of the surroundings.
        level: base temperature of the skin, °C.
        chill: how much cold has cooled the face, 0 to 1.
        pitch: head units per pixel.
    """

    climate: Climate
    level: float
    chill: float
    pitch: float


class _Here(NamedTuple):
    """The N pixels that show the head, and what is computed there.

    Attributes:
        pixel: int [N], flat indices.
        under: uint8 [N], `GBuffer.under`.
        template: float32 [N, 3], `GBuffer.template`.
        grid: places in the skin map, two float32 [N].
    """

    pixel: np.ndarray
    under: np.ndarray
    template: np.ndarray
    grid: Grid


def temperature(
    gbuffer: GBuffer, subject: Subject, scene: Scene, rng: np.random.Generator, climate: Climate | None = None
) -> np.ndarray:
    """Apparent temperature of every pixel before the camera's optics.

    Args:
        gbuffer: what every pixel shows, R x R.
        subject: the person; skin, hair and brows are the same in all images of a person.
        scene: gives expression, which deepens folds, and spectacles.
        rng: draws what differs between images.
        climate: of the surroundings, if it is not to be drawn.

    Returns:
        float32 [R, R] in °C.
    """
    person = np.random.default_rng([PERSON, int(subject.seed)])
    climate = climate or surroundings.sample_climate(rng)
    chill = float(np.clip(rng.beta(1.0, 3.0) + (0.3 if climate.ambient < 12 else 0.0), 0.0, 1.0))
    level = person.normal(34.4, 0.5) + rng.normal(0.0, 0.5) - 3.0 * chill + 0.06 * (climate.ambient - 22.0)
    now = _Moment(climate, float(level), chill, _pitch(gbuffer))

    celsius = scan_surroundings.background(rng, gbuffer, climate, now.level)
    head = np.flatnonzero(is_part(gbuffer.under, *_FLESH, Part.HAIR))
    flat, template = celsius.reshape(-1), rows(gbuffer.template.reshape(-1, 3), head)
    here = _Here(head, gather(gbuffer.under.reshape(-1), head), template, unroll(template))
    skin = _reflecting(_skin(gbuffer, here, subject, scene, (person, rng), now), gbuffer, here, climate)
    hair, cold = np.zeros_like(celsius), np.zeros_like(celsius)
    hair.reshape(-1)[head] = own = _hair(gbuffer, here, rng, now)
    shown = _hair_share(here, subject, rng)
    # Hair insulates, so it never looks warmer than the skin it covers.
    cold.reshape(-1)[head] = own = np.minimum(own, skin)
    flat[head] = skin + shown * (own - skin)
    cloth = np.flatnonzero(is_part(gbuffer.under, Part.CLOTHES))
    flat[cloth] = _cloth(gbuffer, cloth, rng, now)

    _draw_beard(celsius, gbuffer, rng, cold, now)
    strength = float(0.35 + 0.85 * rng.beta(1.5, 2.0))
    soft = dataclasses.replace(
        gbuffer,
        brow=np.minimum(_blurred(gbuffer.brow, float(rng.uniform(0.01, 0.03)), now) * np.float32(strength), 1),
        beard=np.zeros_like(gbuffer.beard),
        lid=gbuffer.lid * np.float32(rng.uniform(0.3, 1.0)),
    )
    draw_covers(celsius, soft, rng, climate, now.level, hair)
    scan_surroundings.draw_lenses(celsius, gbuffer, rng, climate, now.level)
    return celsius


def _pitch(gbuffer: GBuffer) -> float:
    """Head units per pixel, as the template coordinates tell."""
    on = is_part(gbuffer.under, Part.SKIN)
    upper = np.flatnonzero(on[1:] & on[:-1])
    y = gbuffer.template[..., 1].reshape(-1)
    step = np.abs(gather(y, upper + on.shape[1]) - gather(y, upper))
    return float(np.median(step)) + 1e-4 if step.size else 0.01


def _blurred(image: np.ndarray, deviation: float, now: _Moment) -> np.ndarray:
    """The image blurred by a Gaussian whose deviation is given in head units."""
    return cv2.GaussianBlur(image, (0, 0), max(0.3, deviation / now.pitch))


def _reflecting(skin: np.ndarray, gbuffer: GBuffer, here: _Here, climate: Climate) -> np.ndarray:
    """Skin that mirrors the surroundings at grazing angles, but not in cavities, which mirror skin."""
    deep = smoothstep(0.35, 0.8, gather(gbuffer.cavity.reshape(-1), here.pixel))
    deep[is_part(here.under, Part.MOUTH, Part.TEETH, Part.EYE)] = 1.0
    facing = gather(gbuffer.normal[..., 2].reshape(-1), here.pixel)
    return reflecting(skin, facing + deep * (1 - facing), climate)


# ---------------------------------------------------------------------------------------------------------- skin


def _skin(
    gbuffer: GBuffer,
    here: _Here,
    subject: Subject,
    scene: Scene,
    draws: tuple[np.random.Generator, np.random.Generator],
    now: _Moment,
) -> np.ndarray:
    """Temperature of all flesh, float32 [N] in °C; `draws` are those of the person and of the image."""
    person, rng = draws
    under, template = here.under, here.template
    look = Look(flank=float(rng.uniform(0.02, 0.06)), drop=0.48, means=_MEANS)
    departure = skin_map(person, rng, now.chill, look)
    mottled = float(person.uniform(0.05, 0.35))
    departure += grain(person, (12, 13), mottled) + grain(person, (30, 33), 0.6 * mottled)
    departure += grain(rng, (16, 18), 0.4 * mottled)
    cavity = gather(gbuffer.cavity.reshape(-1), here.pixel)
    skin = look_up(departure, here.grid)
    skin += np.float32(now.level)
    skin += cavity * np.float32(rng.uniform(0.5, 2.0))
    breath = rng.uniform(0.3, 2.2) if rng.random() < 0.5 else -rng.uniform(0.3, 3.5)  # out or in
    skin += bump(template, 0.068, 0.495, 0.05, 0.03) * np.float32(breath)
    if breath > 0:
        skin += bump(template, 0.05, 0.59, 0.12, 0.07) * np.float32(0.35 * breath)
    _face_details(skin, here, subject, scene, rng, now)

    inside = now.level + (rng.uniform(0.8, 2.2) if rng.random() < 0.7 else rng.uniform(-3.0, 0.3))
    skin[is_part(under, Part.MOUTH)] = inside
    skin[is_part(under, Part.TEETH)] = inside - rng.uniform(0.5, 3.0)
    # Eyeballs are as warm as the lids at their rims, and a little cooler over the cornea.
    eye = np.flatnonzero(is_part(under, Part.EYE))
    across, down = gather(gbuffer.iris.reshape(-1, 2).T, here.pixel[eye])
    cornea = blockwise(cv2.exp, np.float32(-0.45) * (across**2 + down**2))
    skin[eye] -= np.float32(rng.uniform(-0.3, 0.35)) + cornea * np.float32(rng.uniform(0.0, 0.9))
    ear = np.flatnonzero(is_part(under, Part.EAR))
    if len(ear):
        for side in (-1, 1):
            drop = person.gamma(1.5, 0.7) + rng.uniform(-0.8, 0.8) + 4.0 * now.chill * rng.random()
            on = ear[np.sign(template[ear, 0]) == side]
            slope = np.float32(rng.normal(0.0, 1.5)) * (template[on, 1] - 0.25)
            skin[on] -= (np.float32(drop) + slope) * (1 - 0.8 * cavity[on])  # the concha is as warm as skin
    on = np.flatnonzero(is_part(under, Part.SKIN, Part.NECK) & (template[:, 1] > 0.55))
    skin[on] += _neck(rows(template, on), rng, now)
    return skin


def _face_details(
    skin: np.ndarray,
    here: _Here,
    subject: Subject,
    scene: Scene,
    rng: np.random.Generator,
    now: _Moment,
) -> None:
    """Adds folds, lips with soft rims, and the slit between the lips to `skin` [N], in place."""
    face = np.flatnonzero(is_part(here.under, Part.SKIN, Part.LIP) & (here.template[:, 2] > -0.8))
    points = rows(here.template, face)
    change = albedo.wrinkles(points, subject, scene) * rng.uniform(0.2, 1.5)
    warmth = rng.normal(0.55, 0.5) - 0.8 * now.chill
    rim_warmth, slit_warmth, slit_width = rng.uniform(0, 0.8), rng.uniform(0, 2.2), rng.uniform(0.015, 0.035)
    x, y = points[:, 0], points[:, 1]
    near = np.flatnonzero((np.abs(x) < 0.33) & (y > 0.6) & (y < 0.95))
    x, y = x[near], y[near]
    margin = anatomy.lip_margin(x, y)
    lips = smoothstep(-0.02, 0.025, margin)
    seam = (y - 0.757 - 0.24 * x**2) / slit_width
    change[near] += warmth * lips + rim_warmth * np.exp(-((margin / 0.014) ** 2))
    change[near] += slit_warmth * np.exp(-seam * seam) * lips
    skin[face] += change.astype(np.float32)


def _neck(points: np.ndarray, rng: np.random.Generator, now: _Moment) -> np.ndarray:
    """How much warmer the neck is than the face at template points [N, 3], float32 [N] in kelvin.

    It is often not warmer at all, and there is no edge. Above y = 0.55, there is no neck.
    """
    jaw = np.interp(points[:, 2], [-2.1, -1.2, -0.85, -0.55, -0.2, 0.05], [0.7, 0.65, 0.7, 1.05, 1.33, 1.5])
    below = smoothstep(-0.1, 0.16, points[:, 1] - jaw)
    step = rng.normal(0.0, 0.25) if rng.random() < 0.5 else rng.normal(0.7, 0.45) + 0.8 * now.chill
    return (below * step).astype(np.float32)


# --------------------------------------------------------------------------------------------- hair and clothes


def _hair(gbuffer: GBuffer, here: _Here, rng: np.random.Generator, now: _Moment) -> np.ndarray:
    """Hair, float32 [N] in °C: strands run down the scalp, which glows through."""
    share = rng.uniform(0.25, 0.75)
    glow = gather(near_skin(gbuffer).reshape(-1), here.pixel) * np.float32(rng.uniform(0.15, 0.5))
    strands = grain(rng, (int(rng.integers(3, 7)), int(rng.integers(50, 140))), float(rng.uniform(0.02, 0.08)))
    hair = look_up(strands, here.grid, cv2.BORDER_REFLECT)
    hair += gather(blotches(rng, gbuffer.part.shape, (6, 6), 0.08).reshape(-1), here.pixel) + glow + np.float32(share)
    if rng.random() < 0.3:  # a parting shows the scalp
        along = float(rng.normal(0, 0.2))
        away = (here.template[:, 0] - along) / np.float32(rng.uniform(0.015, 0.04))
        parting = blockwise(cv2.exp, -away * away) * np.float32(rng.uniform(0.1, 0.4))
        hair += parting * (here.template[:, 1] < -0.6)
    return between(now.climate, now.level, np.minimum(hair, np.float32(0.95)))


def _hair_share(here: _Here, subject: Subject, rng: np.random.Generator) -> np.ndarray:
    """Share of each pixel that hair covers, float32 [N]: sparse at the hairline, dense behind it."""
    template = here.template
    grown = is_part(here.under, Part.HAIR)
    out = grown.astype(np.float32)
    density, width = np.float32(rng.uniform(0.82, 1.0)), float(rng.uniform(0.05, 0.22))
    stray = float(rng.uniform(0.2, 0.7)) if rng.random() < 0.3 else 0.0
    beside = (template[:, 1] < -0.2) | (np.abs(template[:, 0]) > 0.55)
    zone = np.flatnonzero((grown | is_part(here.under, Part.SKIN)) & beside)
    if len(zone) and subject.hair_style != "bald":
        points = rows(template, zone)
        margin = paint.hair_margin(points, subject, ragged=False)
        angle = np.arctan2(points[:, 0], points[:, 2] + 0.85)
        strands = noise.sample(noise.FINE, 130 * angle, 12 * points[:, 1], subject.seed + 3)
        share = smoothstep(-0.35 * width, width, margin + 0.2 * width * strands)
        if stray:  # single strands before the forehead
            thin = noise.sample(noise.FINE, 60 * points[:, 0], 5 * points[:, 1], subject.seed + 11)
            share = np.maximum(share, stray * smoothstep(1.3, 2.0, thin) * smoothstep(-0.4, -0.1, margin))
        out[zone] = np.where(grown[zone] & (margin <= -0.03), 1.0, share)  # long hair hangs before the face
    return out * density


def _draw_beard(
    celsius: np.ndarray, gbuffer: GBuffer, rng: np.random.Generator, hair: np.ndarray, now: _Moment
) -> None:
    """Draws the beard, in place: soft at its borders, mottled, and thin enough to be warmed by the skin."""
    if not gbuffer.beard.any():
        return
    size = gbuffer.part.shape[0]
    texture = _blurred(rng.standard_normal((size, size), np.float32), 0.008, now)
    texture *= np.float32(0.25) / max(float(texture.std()), 1e-3)
    cover = _blurred(gbuffer.beard, 0.012, now) * np.clip(1 + texture, 0, 2) * np.float32(0.8 * rng.uniform(0.25, 0.75))
    on = is_part(gbuffer.part, Part.SKIN, Part.LIP, Part.NECK)
    np.add(celsius, np.clip(cover, 0, 1) * (hair - celsius), out=celsius, where=on & (hair < celsius))


def _cloth(gbuffer: GBuffer, on: np.ndarray, rng: np.random.Generator, now: _Moment) -> np.ndarray:
    """Clothes, float32 [N] in °C at the flat indices `on`.

    Clothes are never as cold as the room, and they have fine folds. Some people wear a seat belt.
    """
    cloth = clothes(gbuffer, on, rng, now.climate, now.level)
    cloth = np.maximum(cloth, np.float32(between(now.climate, now.level, 0.2)))
    gap = abs(now.level - now.climate.ambient)
    cells = (int(rng.integers(10, 36)), int(rng.integers(8, 24)))
    cloth += gather(blotches(rng, gbuffer.part.shape, cells, float(rng.uniform(0.01, 0.07)) * gap).reshape(-1), on)
    if rng.random() < 0.15:
        x, y, _ = gather(gbuffer.template.reshape(-1, 3).T, on)
        side, slope = rng.choice([-1.0, 1.0]), rng.uniform(0.7, 1.6)
        across = np.abs(side * x - 0.9 + slope * (y - 2.0)) / np.hypot(1, slope)
        cloth += (across < 0.16) * np.float32(rng.normal(-0.5, 1.5))
    return cloth
