"""The thermal scene with scan-based heads: from the G-buffer to the apparent temperature of every pixel in °C.

`generate` calls `temperature` in place of `thermal.temperature`, whose parts it uses. It differs in what real images
show: soft borders (hairline, lips, brows, jaw), a neck that is often as warm as the chin, folds, mottled skin, eyeballs
nearly as warm as the lids, cavities that glow, and a plain wall or a seat behind the head.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from mlcm_jax.synthetic import albedo, anatomy, noise, paint, scan_surroundings, surroundings
from mlcm_jax.synthetic.anatomy import smoothstep
from mlcm_jax.synthetic.gbuffer import FACE_PARTS, GBuffer, Part
from mlcm_jax.synthetic.scene import Scene, Subject
from mlcm_jax.synthetic.skin_map import Grid, Look, grain, skin_map, unroll
from mlcm_jax.synthetic.surroundings import Climate, blotches
from mlcm_jax.synthetic.thermal import PERSON, between, bump, clothes, draw_covers, is_part, near_skin, reflecting

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

    grid = unroll(gbuffer.template)
    celsius = scan_surroundings.background(rng, gbuffer, climate, now.level)
    skin = _reflecting(_skin(gbuffer, grid, subject, scene, (person, rng), now), gbuffer, climate)
    np.copyto(celsius, skin, where=is_part(gbuffer.under, *_FLESH))
    hair = _hair(gbuffer, grid, rng, now)
    shown = _hair_share(gbuffer, subject, rng)
    # Hair insulates, so it never looks warmer than the skin it covers.
    mixed = skin + shown * (np.minimum(hair, skin) - skin)
    np.copyto(celsius, mixed, where=is_part(gbuffer.under, *_FLESH, Part.HAIR))
    np.copyto(celsius, _cloth(gbuffer, rng, now), where=gbuffer.under == Part.CLOTHES)

    _draw_beard(celsius, gbuffer, rng, np.minimum(hair, skin), now)
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
    on = gbuffer.under == Part.SKIN
    step = np.abs(np.diff(gbuffer.template[..., 1], axis=0))[on[1:] & on[:-1]]
    return float(np.median(step)) + 1e-4 if step.size else 0.01


def _blurred(image: np.ndarray, deviation: float, now: _Moment) -> np.ndarray:
    """The image blurred by a Gaussian whose deviation is given in head units."""
    return cv2.GaussianBlur(image, (0, 0), max(0.3, deviation / now.pitch))


def _reflecting(skin: np.ndarray, gbuffer: GBuffer, climate: Climate) -> np.ndarray:
    """Skin that mirrors the surroundings at grazing angles, but not in cavities, which mirror skin."""
    deep = smoothstep(0.35, 0.8, gbuffer.cavity).astype(np.float32)
    deep[is_part(gbuffer.under, Part.MOUTH, Part.TEETH, Part.EYE)] = 1.0
    normal = gbuffer.normal.copy()
    normal[..., 2] += deep * (1 - normal[..., 2])
    return reflecting(skin, normal, climate)


# ---------------------------------------------------------------------------------------------------------- skin


def _skin(
    gbuffer: GBuffer,
    grid: Grid,
    subject: Subject,
    scene: Scene,
    draws: tuple[np.random.Generator, np.random.Generator],
    now: _Moment,
) -> np.ndarray:
    """Temperature of all flesh, float32 [R, R] in °C; `draws` are those of the person and of the image."""
    person, rng = draws
    under, template = gbuffer.under, gbuffer.template
    look = Look(flank=float(rng.uniform(0.02, 0.06)), drop=0.48, means=_MEANS)
    departure = skin_map(person, rng, now.chill, look)
    mottled = float(person.uniform(0.05, 0.35))
    departure += grain(person, (12, 13), mottled) + grain(person, (30, 33), 0.6 * mottled)
    departure += grain(rng, (16, 18), 0.4 * mottled)
    skin = cv2.remap(departure, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) + np.float32(now.level)
    skin += gbuffer.cavity * np.float32(rng.uniform(0.5, 2.0))
    breath = rng.uniform(0.3, 2.2) if rng.random() < 0.5 else -rng.uniform(0.3, 3.5)  # out or in
    skin += bump(template, 0.068, 0.495, 0.05, 0.03) * np.float32(breath)
    if breath > 0:
        skin += bump(template, 0.05, 0.59, 0.12, 0.07) * np.float32(0.35 * breath)
    _face_details(skin, gbuffer, subject, scene, rng, now)

    inside = now.level + (rng.uniform(0.8, 2.2) if rng.random() < 0.7 else rng.uniform(-3.0, 0.3))
    skin[under == Part.MOUTH] = inside
    skin[under == Part.TEETH] = inside - rng.uniform(0.5, 3.0)
    # Eyeballs are as warm as the lids at their rims, and a little cooler over the cornea.
    cornea = cv2.exp(np.float32(-0.45) * (gbuffer.iris[..., 0] ** 2 + gbuffer.iris[..., 1] ** 2))
    cooler = np.float32(rng.uniform(-0.3, 0.35)) + cornea * np.float32(rng.uniform(0.0, 0.9))
    np.subtract(skin, cooler, out=skin, where=under == Part.EYE)
    ear = under == Part.EAR
    if ear.any():
        for side in (-1, 1):
            drop = person.gamma(1.5, 0.7) + rng.uniform(-0.8, 0.8) + 4.0 * now.chill * rng.random()
            on = ear & (np.sign(template[..., 0]) == side)
            slope = np.float32(rng.normal(0.0, 1.5)) * (template[..., 1][on] - 0.25)
            skin[on] -= (np.float32(drop) + slope) * (1 - 0.8 * gbuffer.cavity[on])  # the concha is as warm as skin
    skin += _neck(gbuffer, rng, now)
    return skin


def _face_details(
    skin: np.ndarray,
    gbuffer: GBuffer,
    subject: Subject,
    scene: Scene,
    rng: np.random.Generator,
    now: _Moment,
) -> None:
    """Adds folds, lips with soft rims, and the slit between the lips to `skin`, in place."""
    on = is_part(gbuffer.under, Part.SKIN, Part.LIP) & (gbuffer.template[..., 2] > -0.8)
    face = np.flatnonzero(on)
    points = gbuffer.template.reshape(-1, 3)[face]
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
    skin.reshape(-1)[face] += change.astype(np.float32)


def _neck(gbuffer: GBuffer, rng: np.random.Generator, now: _Moment) -> np.ndarray:
    """How much warmer the neck is than the face, float32 [R, R] in kelvin: often not at all, and without an edge."""
    template = gbuffer.template
    jaw = np.interp(template[..., 2], [-2.1, -1.2, -0.85, -0.55, -0.2, 0.05], [0.7, 0.65, 0.7, 1.05, 1.33, 1.5])
    below = smoothstep(-0.1, 0.16, template[..., 1] - jaw)
    step = rng.normal(0.0, 0.25) if rng.random() < 0.5 else rng.normal(0.7, 0.45) + 0.8 * now.chill
    return np.where(is_part(gbuffer.under, Part.SKIN, Part.NECK), below * step, 0).astype(np.float32)


# --------------------------------------------------------------------------------------------- hair and clothes


def _hair(gbuffer: GBuffer, grid: Grid, rng: np.random.Generator, now: _Moment) -> np.ndarray:
    """Hair, float32 [R, R] in °C: strands run down the scalp, which glows through."""
    share = rng.uniform(0.25, 0.75)
    glow = near_skin(gbuffer) * np.float32(rng.uniform(0.15, 0.5))
    strands = grain(rng, (int(rng.integers(3, 7)), int(rng.integers(50, 140))), float(rng.uniform(0.02, 0.08)))
    hair = cv2.remap(strands, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    hair += blotches(rng, gbuffer.part.shape, (6, 6), 0.08) + glow + np.float32(share)
    if rng.random() < 0.3:  # a parting shows the scalp
        along = float(rng.normal(0, 0.2))
        away = (gbuffer.template[..., 0] - along) / np.float32(rng.uniform(0.015, 0.04))
        hair += cv2.exp(-away * away) * np.float32(rng.uniform(0.1, 0.4)) * (gbuffer.template[..., 1] < -0.6)
    return between(now.climate, now.level, np.minimum(hair, np.float32(0.95)))


def _hair_share(gbuffer: GBuffer, subject: Subject, rng: np.random.Generator) -> np.ndarray:
    """Share of each pixel that hair covers, float32 [R, R]: sparse at the hairline, dense behind it."""
    template = gbuffer.template
    out = (gbuffer.under == Part.HAIR).astype(np.float32)
    density, width = np.float32(rng.uniform(0.82, 1.0)), float(rng.uniform(0.05, 0.22))
    stray = float(rng.uniform(0.2, 0.7)) if rng.random() < 0.3 else 0.0
    beside = (template[..., 1] < -0.2) | (np.abs(template[..., 0]) > 0.55)
    zone = np.flatnonzero(is_part(gbuffer.under, Part.HAIR, Part.SKIN) & beside)
    if len(zone) and subject.hair_style != "bald":
        points = template.reshape(-1, 3)[zone]
        margin = paint.hair_margin(points, subject, ragged=False)
        angle = np.arctan2(points[:, 0], points[:, 2] + 0.85)
        strands = noise.sample(noise.FINE, 130 * angle, 12 * points[:, 1], subject.seed + 3)
        share = smoothstep(-0.35 * width, width, margin + 0.2 * width * strands)
        if stray:  # single strands before the forehead
            thin = noise.sample(noise.FINE, 60 * points[:, 0], 5 * points[:, 1], subject.seed + 11)
            share = np.maximum(share, stray * smoothstep(1.3, 2.0, thin) * smoothstep(-0.4, -0.1, margin))
        hangs = (gbuffer.under.reshape(-1)[zone] == Part.HAIR) & (margin <= -0.03)  # long hair before the face
        out.reshape(-1)[zone] = np.where(hangs, 1.0, share)
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


def _cloth(gbuffer: GBuffer, rng: np.random.Generator, now: _Moment) -> np.ndarray:
    """Clothes, float32 [R, R] in °C: never as cold as the room, with fine folds, and a seat belt in some images."""
    cloth = np.maximum(clothes(gbuffer, rng, now.climate, now.level), np.float32(between(now.climate, now.level, 0.2)))
    gap = abs(now.level - now.climate.ambient)
    cells = (int(rng.integers(10, 36)), int(rng.integers(8, 24)))
    cloth += blotches(rng, cloth.shape, cells, float(rng.uniform(0.01, 0.07)) * gap)
    if rng.random() < 0.15:
        x, y = gbuffer.template[..., 0], gbuffer.template[..., 1]
        side, slope = rng.choice([-1.0, 1.0]), rng.uniform(0.7, 1.6)
        across = np.abs(side * x - 0.9 + slope * (y - 2.0)) / np.hypot(1, slope)
        cloth += (across < 0.16) * np.float32(rng.normal(-0.5, 1.5))
    return cloth
