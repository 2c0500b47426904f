"""The borders of materials on the head, pixel by pixel: hair, caps, lids, brows, beard, cavities, clothes.

`raster` calls these functions with the template coordinates [N, 3] of the visible points; they return one number per
point. A *margin* is the distance by which the point lies inside a border, in head units along y, negative outside. A
*cover* is the share of the surface that is hidden, 0 to 1. Painting per pixel instead of per triangle keeps lids, brows
and hairlines sharp at every resolution, and exactly under the landmarks, which lie on the same curves of `anatomy`.
"""

from __future__ import annotations

import numpy as np

from mlcm_jax.synthetic import anatomy, noise
from mlcm_jax.synthetic.anatomy import bump, smoothstep
from mlcm_jax.synthetic.arrays import gather
from mlcm_jax.synthetic.scene import Scene, Subject

# How far a hair style lowers the front hairline, in head units.
_FRONT_SHIFT = {"short": 0.0, "fringe": 0.36, "long": -0.02, "receding": -0.3, "tied": -0.03, "buzz": 0.0, "bald": -9.0}

# Hollows of the skin: strength and the arguments of `anatomy.bump`, by the box (|x| below, y between) outside of which
# they are shallower than 1e-11.
_HOLLOWS = (
    (0.26, 0.38, 0.57, ((0.95, 0.068, 0.474, 0.026, 0.012),)),  # nostrils
    (1.4, -0.54, 0.48, ((0.3, 0.18, -0.03, 0.05, 0.07), (0.22, 0.35, -0.1, 0.14, 0.03))),
    (1.2, -0.1, 0.28, ((0.12, 0.33, 0.09, 0.12, 0.025),)),
    (0.87, 0.11, 0.76, ((0.28, 0.175, 0.435, 0.014, 0.045), (0.2, 0.0, 0.505, 0.12, 0.02))),
    (0.94, 0.68, 1.08, ((0.4, 0.295, 0.775, 0.02, 0.012), (0.22, 0.0, 0.915, 0.13, 0.022))),
)


def wave_noise(x: np.ndarray, seed: int, octaves: int = 3) -> np.ndarray:
    """Smooth noise of about unit amplitude along one axis: a sum of sines with phases drawn from the seed."""
    rng = np.random.default_rng([seed, 77])
    out = np.zeros_like(x)
    for k in range(octaves):
        frequency, phase = 2.0**k * rng.uniform(0.8, 1.25), rng.uniform(0, 2 * np.pi)
        out += np.sin(frequency * x + phase) / 1.5**k
    return out / 1.6


def hair_edge(angle: np.ndarray, subject: Subject) -> np.ndarray:
    """Height y of the lower edge of this person's hair at skull azimuths [N]; far above the head if bald."""
    style = subject.hair_style
    if style == "bald":
        return np.full(angle.shape, -9.0)
    front = smoothstep(1.15, 0.85, angle)
    shift = _FRONT_SHIFT[style] + subject.hairline
    if style == "receding":
        shift = shift - 0.12 * bump(angle, 0 * angle, 0.55, 0, 0.2, 1)
    edge = anatomy.hairline(angle) + front * shift
    if style == "fringe":
        edge = np.minimum(edge, np.where(angle < 0.75, -0.4 + 0.05 * wave_noise(3 * angle, subject.seed), edge))
    return edge


def cap_edge(angle: np.ndarray, scene: Scene) -> np.ndarray:
    """Height y of the lower edge of the cap at skull azimuths [N]."""
    if scene.cap == "none":
        return np.full_like(angle, -9.0)
    low = np.float64(scene.cap_low) * np.interp(angle, [0, 1.6], [1, 0])
    if scene.cap == "cap":
        return low + np.interp(angle, [0, 0.9, 1.6, 3.2], [-0.55, -0.5, -0.38, -0.1])
    return low + np.interp(angle, [0, 0.9, 1.4, 1.8, 3.2], [-0.5, -0.42, -0.12, 0.1, 0.3])


def hair_margin(points: np.ndarray, subject: Subject, *, ragged: bool = True) -> np.ndarray:
    """Margin inside the hair [N]; `ragged` lets single strands cross the hairline, within 0.25 head units of it."""
    angle, y = anatomy.azimuth(points), points[:, 1]
    edge = hair_edge(angle, subject)
    if ragged:  # the longest strand reaches 0.15
        near = np.flatnonzero(np.abs(edge - y) < 0.25)
        signed = gather(angle, near)
        signed = np.where(gather(points[:, 0], near) < 0, -signed, signed)
        strands = noise.sample(noise.FINE, 140 * signed, 16 * gather(y, near), subject.seed)
        edge[near] = gather(edge, near) + 0.025 * strands + 0.015 * wave_noise(9 * signed, subject.seed)
    return edge - y


def eye_margin(points: np.ndarray, lids: np.ndarray) -> np.ndarray:
    """Margin inside the opening between the lids [N], where the eyeball shows; `lids` as in `Scene.lids`."""
    opening = np.where(points[:, 0] < 0, lids[0], lids[1])
    ax = np.abs(points[:, 0])
    upper, lower = anatomy.lid_edges(ax, opening)
    inside = np.minimum(points[:, 1] - upper, lower - points[:, 1])
    across = np.minimum(ax - anatomy.EYE_INNER, anatomy.EYE_OUTER - ax)
    return np.where(across > 0, inside, -1.0)


def lash_cover(points: np.ndarray, lids: np.ndarray, subject: Subject) -> np.ndarray:
    """Cover by the lashes and the line of the lids around the opening of the eye [N]."""
    opening = np.where(points[:, 0] < 0, lids[0], lids[1])
    ax = np.abs(points[:, 0])
    upper, lower = anatomy.lid_edges(ax, opening)
    across = smoothstep(anatomy.EYE_INNER - 0.015, anatomy.EYE_INNER + 0.04, ax) * smoothstep(
        anatomy.EYE_OUTER + 0.025, anatomy.EYE_OUTER - 0.01, ax
    )
    width = 0.009 + 0.010 * subject.lashes
    top = np.exp(-0.5 * ((points[:, 1] - upper + 0.004) / width) ** 2)
    bottom = 0.4 * np.exp(-0.5 * ((points[:, 1] - lower) / 0.008) ** 2)
    return across * np.clip(np.maximum(top * (0.72 + 0.28 * subject.lashes), bottom), 0, 1)


def brow_cover(points: np.ndarray, subject: Subject) -> np.ndarray:
    """How much of the skin the hairs hide at each point, float [N] in [0, 1]."""
    ax, y = np.abs(points[:, 0]), points[:, 1]
    middle, half = anatomy.brow_curve(ax)
    half = half * subject.brow_width
    low, high = anatomy.BROW_SPAN
    ends = smoothstep(low, low + 0.06, ax) * smoothstep(high - 0.005, high - 0.09, ax)
    body = smoothstep(1.25, 0.55, np.abs(y - middle) / np.maximum(half, 1e-3))
    slant = 230 * (points[:, 0] + 0.7 * np.sign(points[:, 0]) * (y - middle))
    hairs = 0.88 + 0.14 * noise.sample(noise.FINE, slant, 30 * y, subject.seed)
    return np.clip(ends * body * hairs * subject.brow_strength, 0, 1)


def beard_cover(points: np.ndarray, subject: Subject) -> np.ndarray:
    """Cover by beard, moustache or stubble [N]."""
    style = subject.beard_style
    x, y = np.abs(points[:, 0]), points[:, 1]
    if style == "none":
        return np.zeros_like(x)
    edge = np.interp(x, [0.0, 0.3, 0.45, 0.6, 0.72, 0.85], [0.92, 0.86, 0.84, 0.7, 0.3, 0.1]) + 0.02 * wave_noise(
        30 * x, subject.seed
    )
    cheek = smoothstep(-0.03, 0.05, y - edge)
    beside = smoothstep(0.42, 0.36, x) * smoothstep(0.24, 0.3, x) * smoothstep(0.6, 0.74, y)
    moustache = smoothstep(1.15, 0.6, np.abs(y - 0.6 - 0.9 * x * x) / 0.065) * smoothstep(0.32, 0.2, x)
    circle = (x / 0.33) ** 2.5 + (np.abs(y - 0.95) / 0.37) ** 2.5
    if style == "moustache":
        cover = moustache
    elif style == "goatee":
        cover = np.maximum(
            moustache, smoothstep(1.1, 0.75, circle) * smoothstep(0.86, 0.94, y + 0.25 * smoothstep(0.24, 0.29, x))
        )
    else:
        cover = np.maximum(np.maximum(cheek, moustache), beside)
    cover = cover.astype(np.float64)
    lips = np.flatnonzero((x < 0.3) & (y > 0.64) & (y < 0.9))  # elsewhere the lips' margin is below -0.006
    cover[lips] *= smoothstep(0.012, -0.006, anatomy.lip_margin(gather(points[:, 0], lips), gather(y, lips)))
    cover *= smoothstep(1.62, 1.36, y)
    density = 0.28 + 0.3 * subject.beard_strength if style == "stubble" else 0.7 + 0.3 * subject.beard_strength
    grain = noise.sample(noise.FINE, 260 * points[:, 0], 90 * y, subject.seed)
    return np.clip(cover * density * (1 + 0.13 * grain), 0, 1)


def iris_position(points: np.ndarray, gaze: np.ndarray) -> np.ndarray:
    """Position on the eyeball relative to the pupil, in iris radii [N, 2]; `gaze` as in `Scene.gaze`."""
    centre_x = np.where(points[:, 0] < 0, -1, 1) * anatomy.EYE_CENTRE[0] + gaze[0]
    centre_y = anatomy.EYE_CENTRE[1] - 0.006 + gaze[1]
    return np.stack([points[:, 0] - centre_x, points[:, 1] - centre_y], 1) / anatomy.IRIS_RADIUS


def cavity(points: np.ndarray) -> np.ndarray:
    """Ambient occlusion of the skin [N], 0 open to 1 deep: at nostrils, eye corners, nose, lower lip and chin."""
    distance, height = np.abs(points[:, 0]), points[:, 1]
    out = np.zeros(len(points), points.dtype)
    for width, top, bottom, hollows in _HOLLOWS:
        on = np.flatnonzero((distance < width) & (height > top) & (height < bottom))
        ax, y = gather(distance, on), gather(height, on)
        depth, *others = (strength * bump(ax, y, *place) for strength, *place in hollows)
        for other in others:
            depth += other
        out[on] += depth
    on = np.flatnonzero((height > 1.28) & (height < 2.2))
    y, z = gather(height, on), gather(points[:, 2], on)
    out[on] += 0.4 * smoothstep(1.28, 1.5, y) * smoothstep(0.05, -0.3, z) * smoothstep(2.2, 1.6, y)
    return np.clip(out, 0, 1)


def clothes_margin(points: np.ndarray, scene: Scene) -> np.ndarray:
    """Margin inside the clothes [N], for points on the torso."""
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    front = smoothstep(-1.0, -0.5, z)
    if scene.neckline == "vee":
        return y - 1.78 - front * 0.75 * np.clip(1 - x / 0.4, 0, 1)
    if scene.neckline == "high":
        return y - 1.5
    if scene.neckline == "collar":
        return y - 1.62 - front * 0.3 * np.clip(1 - x / 0.22, 0, 1)
    return y - 1.82 - 0.1 * front
