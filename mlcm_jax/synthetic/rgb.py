"""The RGB camera: from the G-buffer to an 8-bit colour image.

`generate` calls `shade_rgb`. Materials get their albedo from `albedo`, the background comes from `backdrop`. Shading is
done in linear light at render resolution and averaged down to the output. `develop` then turns that into a photograph:
exposure, tone curve, lens blur, sensor noise, JPEG.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

from mlcm_jax.synthetic.albedo import surface_albedo
from mlcm_jax.synthetic.anatomy import smoothstep
from mlcm_jax.synthetic.arrays import gather
from mlcm_jax.synthetic.backdrop import backdrop
from mlcm_jax.synthetic.gbuffer import GBuffer, Part, is_part
from mlcm_jax.synthetic.scene import Scene, Subject

# Per part: wrap of the diffuse term (light that scatters under the surface), strength and exponent of the highlight.
_WRAP = np.full(len(Part), 0.1, np.float32)
_WRAP[[Part.SKIN, Part.LIP, Part.EAR, Part.NECK, Part.HAND]] = 0.25
_WRAP[Part.HAIR] = 0.35
_GLOSS = np.zeros(len(Part), np.float32)
_GLOSS[[Part.SKIN, Part.NECK, Part.EAR, Part.HAND]] = 0.05
_GLOSS[[Part.LIP, Part.HAIR, Part.TEETH, Part.GLASSES_FRAME]] = 0.12, 0.05, 0.25, 0.3
_POWER = np.full(len(Part), 14.0, np.float32)
_POWER[[Part.LIP, Part.TEETH, Part.GLASSES_FRAME]] = 40.0
_SHIFT = 14  # see `_thresholds`


def _occlusion(depth: np.ndarray, supersample: int) -> np.ndarray:
    """Share of the ambient light that reaches each pixel, float32 [R, R] in (0, 1].

    A pixel is darker the farther it lies behind the blurred depth around it.
    """
    near = float(depth.min())
    if not np.isfinite(near):
        return np.ones_like(depth)
    flat = np.minimum(depth, near + 1.5)
    small = cv2.resize(flat, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    wide = cv2.GaussianBlur(small, (0, 0), max(1.0, 0.018 * depth.shape[0] / 2))
    behind = flat - cv2.resize(wide, depth.shape[::-1], interpolation=cv2.INTER_LINEAR)
    behind = np.minimum(np.maximum(behind, 0, out=behind), 0.6, out=behind)
    behind *= -2.2
    return np.exp(behind, out=behind)


def _illuminate(
    albedo: np.ndarray, normal: np.ndarray, part: np.ndarray, open_sky: np.ndarray, shadow: np.ndarray, scene: Scene
) -> np.ndarray:
    """Light that leaves N surface pixels, linear RGB [3, N].

    Args:
        albedo: linear RGB [3, N].
        normal: unit normals in camera space [3, N].
        part: uint8 [N], `Part`.
        open_sky: share of the ambient light that arrives [N].
        shadow: share of the first light that is blocked [N].
        scene: gives the lights.

    Returns:
        Diffuse light and highlights, linear RGB [3, N].
    """
    out = albedo * (open_sky * (0.75 - 0.25 * normal[1]))
    out *= scene.ambient[:, None]
    exposed = 0.35 + 0.65 * open_sky
    number = part.astype(np.intp)
    wrap, gloss = gather(_WRAP, number), gather(_GLOSS, number)
    rows = np.ascontiguousarray(normal.T)  # [N, 3], as the product with a vector wants it
    for number, light in enumerate(scene.lights):
        lit = np.maximum((rows @ light.direction + wrap) / (1 + wrap), 0) * exposed
        half = light.direction + np.array([0, 0, 1], np.float32)
        half = half / max(float(np.linalg.norm(half)), 1e-3)
        facing = np.minimum(rows @ half.astype(np.float32), 1)
        # Powers are slow, and below this the highlight is less than 1e-11.
        glossy = np.flatnonzero((facing > 0.2) & (gloss > 0))
        shine = gather(gloss, glossy) * gather(facing, glossy) ** gather(_POWER, gather(part, glossy))
        if number == 0:
            lit *= 1 - 0.85 * shadow
            shine *= 1 - gather(shadow, glossy)
        highlight = np.zeros_like(lit)
        highlight[glossy] = shine
        for plane, colour, strength in zip(out, albedo, light.colour, strict=True):
            reflected = colour * lit
            reflected += highlight
            reflected *= strength
            plane += reflected
    return out


def _glints(position: np.ndarray, scene: Scene) -> np.ndarray:
    """Reflections of the lights on the wet eyeball, linear RGB [3, N] to be added; the mesh is too coarse for them.

    Args:
        position: on the eyeball relative to the pupil, in iris radii [2, N].
        scene: gives the lights.
    """
    out = np.zeros((3, position.shape[1]), np.float32)
    for light in scene.lights[:2]:
        spot = light.direction[:2] * 0.6
        size = np.hypot(*(position - spot[:, None]))
        out += (0.8 * np.exp(-((size / 0.22) ** 2))) * light.colour[:, None]
    return out


def _glass(image: np.ndarray, buffer: GBuffer, scene: Scene, surround: np.ndarray) -> None:
    """Draws the lenses over the finished head, in place: clear or dark glass that mirrors `surround`."""
    rows, cols = np.nonzero(is_part(buffer.part, Part.GLASSES_LENS))
    if not len(rows):
        return
    rng = np.random.default_rng([scene.background, 9])
    place = buffer.lens[rows, cols]
    angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.8, 0.8)
    stripe = place @ np.array([np.cos(angle), np.sin(angle)]) - offset
    glare = rng.random() ** 3 * 0.6 * smoothstep(0.35, 0.1, np.abs(stripe)) + 0.03 * (1 - place[:, 1])
    through = 0.93 if scene.glasses == "clear" else 0.05 + 0.1 * rng.random()
    tint = np.array([1, 1, 1]) if scene.glasses == "clear" else 1 + 0.3 * rng.uniform(-1, 1, 3)
    image[rows, cols] = image[rows, cols] * through * tint + (glare[:, None] * surround).astype(np.float32)


def _exposure(illumination: float) -> float:
    """Linear gain of the image, which leaves photographs of dark rooms dark."""
    return 0.004 + 1.3 * illumination**2.2


@functools.cache
def _thresholds() -> tuple[np.ndarray, np.ndarray]:
    """The least float32 in [0, 1] of every gray level with gamma 2.2, [256], and the level where every bin begins.

    A bin holds the numbers that share sign, exponent and 9 bits of the mantissa; no bin has more than two levels.
    """

    def level(bits: np.ndarray) -> np.ndarray:
        return (bits.astype(np.int32).view(np.float32) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)

    one = int(np.float32(1).view(np.int32))
    low, high = np.full(256, -1), np.full(256, one)  # numbers below and at the level, as bits
    while (high - low > 1).any():
        middle = np.maximum((low + high) // 2, 0)
        reached = level(middle) >= np.arange(256)
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return high.astype(np.int32).view(np.float32), level(np.arange(0, one + 1, 1 << _SHIFT))


def _encoded(value: np.ndarray) -> np.ndarray:
    """Linear light -> uint8, clip(clip(value, 0, 1) ** (1 / 2.2) * 255 + 0.5), without the slow power."""
    least, first = _thresholds()
    value = np.minimum(np.maximum(value, 0), 1)
    value += 0.0  # -0 would be a negative number of bits
    out = gather(first, (value.view(np.int32) >> _SHIFT).reshape(value.shape[0], -1))
    beyond = cv2.LUT(out, np.append(least[1:], np.float32(2)))
    out += value.reshape(out.shape) >= beyond
    return out.reshape(value.shape)


def develop(linear: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Linear RGB float32 [S, S, 3] -> uint8 [S, S, 3]: colour cast, exposure, tone curve, blur, noise, JPEG."""
    size = linear.shape[0]
    exposed = np.tile(scene.cast * np.float32(_exposure(scene.illumination)), size)
    value = (linear.reshape(size, -1) * exposed).reshape(linear.shape)
    value = value / (1 + 0.25 * value) * 1.15  # a soft shoulder, so that highlights do not clip at once
    sigma = scene.blur * size
    if sigma > 0.25:
        value = cv2.GaussianBlur(value, (0, 0), sigma)
    grain = rng.standard_normal(value.shape, np.float32)
    # Shot noise grows with the root of the light; a dark image is amplified, so its floor is higher.
    floor = scene.noise * (0.15 + 0.5 * (1 - scene.illumination) ** 2) * 0.15
    value = value + grain * (scene.noise * np.sqrt(np.clip(value, 0, 1)) + floor)
    byte = _encoded(value)
    if scene.jpeg:
        _, data = cv2.imencode(".jpg", byte[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, scene.jpeg])
        byte = np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
    return byte


def shade_rgb(gbuffer: GBuffer, subject: Subject, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The RGB image of a view.

    Args:
        gbuffer: what every pixel shows, R x R.
        subject: the person for whom `gbuffer` was rendered.
        scene: the scene for which `gbuffer` was rendered.
        rng: draws the sensor noise; nothing else is drawn here.

    Returns:
        uint8 [R / supersample, R / supersample, 3], RGB order.
    """
    side = gbuffer.part.shape[0]
    size = side // gbuffer.supersample
    under = gbuffer.under.ravel()
    where = np.flatnonzero(under)
    part = gather(under, where)
    image = cv2.resize(backdrop(scene.background, size), (side, side), interpolation=cv2.INTER_LINEAR)
    surround = scene.ambient + sum((0.4 * light.colour for light in scene.lights), np.zeros(3, np.float32))
    albedo = surface_albedo(gbuffer, where, subject, scene).T
    open_sky = gather(_occlusion(gbuffer.depth, gbuffer.supersample).ravel(), where)
    open_sky *= 1 - gather(gbuffer.cavity.ravel(), where)
    normal = gather(gbuffer.normal.reshape(-1, 3).T, where)
    lit = _illuminate(albedo, normal, part, open_sky, gather(gbuffer.shadow.ravel(), where), scene)
    eyes = np.flatnonzero(is_part(part, Part.EYE))
    lit[:, eyes] += _glints(gather(gbuffer.iris.reshape(-1, 2).T, gather(where, eyes)), scene) * open_sky[eyes]
    lit[:, is_part(part, Part.MOUTH)] *= 0.35
    planes = cv2.split(image)
    for plane, level, values in zip(planes, surround, lit, strict=True):
        plane *= level
        plane.reshape(-1)[where] = values
    image = cv2.merge(planes)
    _glass(image, gbuffer, scene, surround)
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) if side != size else image
    return develop(small, scene, rng)
