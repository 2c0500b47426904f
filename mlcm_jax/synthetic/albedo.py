"""The colours of the head in visible light: linear RGB albedo of skin, lips, eyes, hair, hands and cloth.

`rgb` calls `surface_albedo` with a G-buffer, whose template coordinates [N, 3] become albedo [N, 3]. The thermal image
does not depend on this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlcm_jax.synthetic import anatomy, noise
from mlcm_jax.synthetic.anatomy import bump, smoothstep
from mlcm_jax.synthetic.arrays import gather
from mlcm_jax.synthetic.gbuffer import GBuffer, Part, is_part
from mlcm_jax.synthetic.scene import Scene, Subject, expressed


def wrinkles(points: np.ndarray, subject: Subject, scene: Scene) -> np.ndarray:
    """Darkening by folds of the skin, 0 to 0.75, deepened by age and expression; template points [N, 3] -> [N]."""
    signed, height = points[:, 0], points[:, 1]
    distance = np.abs(signed)
    smile, raised, lowered = (expressed(scene, name) for name in ("smile", "brow_raise", "brow_lower"))
    old = subject.age
    out = np.zeros(len(points))

    def within(left: float, right: float, top: float, bottom: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The points of a box, outside of which a fold is shallower than 1e-10, and their |x| and y."""
        on = np.flatnonzero((distance > left) & (distance < right) & (height > top) & (height < bottom))
        return on, gather(distance, on), gather(height, on)

    on, x, y = within(0.04, 0.48, 0.42, 0.8)
    out[on] += (
        (0.06 + 0.25 * old + 0.22 * smile)
        * np.exp(-0.5 * ((x - np.interp(y, [0.42, 0.55, 0.78], [0.19, 0.24, 0.33])) / 0.02) ** 2)
        * smoothstep(0.42, 0.5, y)
        * smoothstep(0.8, 0.68, y)
    )
    depth = 0.35 * max(0.0, old - 0.25) + 0.25 * raised
    if depth > 0:
        on, x, y = within(-1.0, 0.55, -0.78, -0.34)
        forehead = smoothstep(-0.34, -0.42, y) * smoothstep(-0.78, -0.65, y) * smoothstep(0.55, 0.3, x)
        wave = 0.5 * np.sin(9 * gather(signed, on) + subject.seed % 5)
        lines = np.clip(np.sin(38 * (y + 0.05 * x * x) + wave), 0, 1) ** 6
        out[on] += depth * forehead * lines
    on, x, y = within(-1.0, 0.15, -0.64, 0.2)
    out[on] += (
        (0.25 * old + 0.25 * lowered) * np.exp(-0.5 * ((x - 0.055) / 0.012) ** 2) * bump(x, y, 0.055, -0.22, 1.0, 0.06)
    )
    depth = 0.3 * max(0.0, old - 0.3) + 0.2 * smile * old
    if depth > 0:
        on, x, y = within(0.25, 0.95, -0.56, 0.56)
        crow = bump(x, y, 0.6, 0.0, 0.05, 0.08) * np.clip(np.sin(90 * (y - 0.5 * (x - 0.55) * np.sign(y))), 0, 1) ** 4
        out[on] += depth * crow
    on, x, y = within(0.17, 0.5, 0.015, 0.2)
    bag = (
        np.exp(-0.5 * ((y - 0.10 - 0.25 * (x - 0.35) ** 2) / 0.012) ** 2)
        * smoothstep(0.17, 0.25, x)
        * smoothstep(0.5, 0.4, x)
    )
    out[on] += (0.08 + 0.25 * old) * bag
    # The crease of the upper lid runs parallel to its edge.
    on, x, y = within(0.2, 0.54, -0.28, -0.01)
    opening = np.where(gather(signed, on) < 0, scene.lids[0], scene.lids[1])
    upper, _ = anatomy.lid_edges(x, opening)
    fold = np.minimum(upper, -0.05) - 0.028
    eye = smoothstep(0.2, 0.26, x) * smoothstep(0.54, 0.46, x)
    out[on] += 0.3 * eye * np.exp(-0.5 * ((y - fold) / 0.009) ** 2)
    return np.clip(out, 0, 0.75)


def _skin(points: np.ndarray, subject: Subject, scene: Scene) -> np.ndarray:
    x, y = points[:, 0], points[:, 1]
    ax = np.abs(x)
    red = (
        bump(ax, y, 0.45, 0.36, 0.17, 0.15)
        + 0.8 * bump(ax, y, 0.0, 0.42, 0.11, 0.09)
        + 0.4 * bump(ax, y, 0.0, 1.12, 0.15, 0.1)
    )
    red = red * (0.15 + 0.5 * subject.redness)
    grain = noise.sample(noise.FINE, 330 * x, 330 * y, subject.seed)
    patch = noise.sample(noise.COARSE, 160 * x, 160 * y, subject.seed + 7)
    tone = (
        1
        + 0.022 * grain
        + 0.03 * patch
        + 0.05 * subject.blemishes * np.clip(-noise.sample(noise.MEDIUM, 150 * x, 150 * y, subject.seed) - 1.2, -0.2, 1)
    )
    if subject.freckles > 0.1:
        dots = noise.sample(noise.FINE, 120 * x, 120 * y, subject.seed + 31)
        zone = bump(ax, y, 0.35, 0.28, 0.3, 0.2)
        tone = tone - 0.35 * subject.freckles * zone * smoothstep(1.2, 1.8, dots)
    shade = bump(ax, y, 0.33, 0.1, 0.13, 0.05) * (0.08 + 0.15 * subject.age) + 0.08 * bump(
        ax, y, 0.36, -0.1, 0.13, 0.05
    )
    dark = (tone - shade) * (1 - wrinkles(points, subject, scene))
    dark = np.clip(dark, 0.05, 2)
    out = np.empty((3, len(points)), np.float32)
    for plane, colour, lost in zip(out, subject.skin, np.array([0.05, 0.35, 0.3], np.float32), strict=True):
        np.multiply(colour * (1 - red * lost), dark, out=plane, casting="same_kind")
    return out.T


def _hand(points: np.ndarray, subject: Subject) -> np.ndarray:
    """Albedo [N, 3] of a hand."""
    mottled = noise.sample(noise.MEDIUM, 200 * points[:, 0], 200 * points[:, 1], subject.seed)
    return (subject.skin[:, None] * (1 + 0.03 * mottled)).T


def _hair(points: np.ndarray, subject: Subject) -> np.ndarray:
    """Albedo [N, 3] of hair: strands are noise stretched along the direction of growth."""
    angle = np.arctan2(points[:, 0], points[:, 2] + 0.85)
    strands = noise.sample(noise.FINE, 130 * angle, 12 * points[:, 1], subject.seed)
    locks = noise.sample(noise.MEDIUM, 60 * angle, 14 * points[:, 1], subject.seed + 3)
    return (subject.hair_colour[:, None] * np.exp(0.4 * strands + 0.25 * locks)).T


def _eye(position: np.ndarray, subject: Subject) -> np.ndarray:
    """Albedo [N, 3] of sclera, iris with its darker rim and fibres, and pupil; position in iris radii [N, 2]."""
    radius = np.hypot(position[:, 0], position[:, 1])
    angle = np.arctan2(position[:, 1], position[:, 0])
    white = np.array([0.62, 0.56, 0.52]) * (1 - 0.12 * smoothstep(1.5, 3.0, radius))[:, None]
    fibres = 1 + 0.2 * np.sin(23 * angle) * np.sin(7 * angle + 1)
    iris = subject.eye_colour * (fibres * (1.25 - 0.75 * smoothstep(0.65, 1.0, radius)))[:, None]
    colour = white + (iris - white) * smoothstep(1.06, 0.94, radius)[:, None]
    return colour * smoothstep(0.36, 0.46, radius)[:, None] + 0.004


def _lips(points: np.ndarray, subject: Subject) -> np.ndarray:
    x, y = points[:, 0], points[:, 1]
    seam = np.exp(-0.5 * ((y - anatomy.lip_seam(x)) / 0.010) ** 2)
    soft = smoothstep(-0.002, 0.02, anatomy.lip_margin(x, y))[:, None]
    lines = 1 + 0.06 * np.sin(170 * x + 2 * np.sin(30 * x))
    upper = np.where(y < anatomy.lip_seam(x), 0.85, 1.0)
    return (subject.skin * (1 - soft) + subject.lip_colour * soft) * (lines * upper * (1 - 0.75 * seam))[:, None]


def _cloth(points: np.ndarray, scene: Scene) -> np.ndarray:
    rng = np.random.default_rng([scene.background, 3])
    kind, frequency = rng.integers(4), rng.uniform(12, 40)
    fold = 1 + 0.08 * noise.sample(noise.COARSE, 60 * points[:, 0], 60 * points[:, 1], scene.background)
    if kind == 1:
        fold = fold * (1 + 0.4 * np.sign(np.sin(frequency * points[:, 1])))
    elif kind == 2:
        fold = fold * (
            1 + 0.25 * np.sign(np.sin(frequency * points[:, 0])) + 0.25 * np.sign(np.sin(frequency * points[:, 1]))
        )
    return (scene.clothes_colour[:, None] * fold).T


def surface_albedo(buffer: GBuffer, where: np.ndarray, subject: Subject, scene: Scene) -> np.ndarray:
    """Linear RGB albedo [N, 3] of the pixels with the flat indices `where`, seen through spectacle lenses.

    The result is a transposed array, whose channels are contiguous.
    """
    part = gather(buffer.under.ravel(), where)
    template = buffer.template.reshape(-1, 3).T
    plain = np.zeros((3, len(Part)), np.float32)
    table = {
        Part.MOUTH: np.array([0.16, 0.03, 0.03]), Part.TEETH: np.array([0.62, 0.58, 0.48]),
        Part.GLASSES_FRAME: scene.glasses_colour, Part.CAP: scene.cap_colour, Part.MASK: scene.mask_colour,
    }  # fmt: skip
    for which, colour in table.items():
        plain[:, which] = colour
    out = gather(plain, part.astype(np.intp))

    def fill(chosen: np.ndarray, paint: Callable[..., np.ndarray], *arguments: Any) -> None:
        if len(chosen):
            colours = paint(gather(template, gather(where, chosen)).T, *arguments)
            for plane, values in zip(out, colours.T, strict=True):
                plane[chosen] = values

    fill(np.flatnonzero(is_part(part, Part.SKIN, Part.NECK, Part.EAR)), _skin, subject, scene)
    out[1:, is_part(part, Part.EAR)] *= np.float32(0.85)
    fill(np.flatnonzero(is_part(part, Part.HAND)), _hand, subject)
    fill(np.flatnonzero(is_part(part, Part.HAIR)), _hair, subject)
    fill(np.flatnonzero(is_part(part, Part.LIP)), _lips, subject)
    eyes = np.flatnonzero(is_part(part, Part.EYE))
    out[:, eyes] = _eye(gather(buffer.iris.reshape(-1, 2).T, gather(where, eyes)).T, subject).T
    fill(np.flatnonzero(is_part(part, Part.CLOTHES)), _cloth, scene)
    for cover, colour in (
        (buffer.beard, subject.hair_colour),
        (buffer.brow, 0.6 * subject.hair_colour),
        (buffer.lid, 0.25 * subject.skin * subject.skin),
    ):
        share = gather(cover.ravel(), where)
        some = np.flatnonzero(share > 0)
        share = gather(share, some)
        for plane, value in zip(out, colour, strict=True):
            own = gather(plane, some)
            plane[some] = own + (value - own) * share
    return out.T
