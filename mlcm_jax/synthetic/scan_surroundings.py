"""What surrounds a scan-based head in a thermal image, and what its spectacle lenses show, in °C.

`scan_thermal` calls `background` and `draw_lenses`.
"""

from __future__ import annotations

import cv2
import numpy as np

from mlcm_jax.synthetic import surroundings
from mlcm_jax.synthetic.gbuffer import GBuffer, Part, is_part
from mlcm_jax.synthetic.surroundings import Climate, blotches

_WALL = 0.6  # share of rooms with nothing but a wall behind the person
_SEAT_BEFORE_WALL, _SEAT = 0.2, 0.4  # shares of these and of all other images with a seat behind the head


def background(rng: np.random.Generator, gbuffer: GBuffer, climate: Climate, skin: float) -> np.ndarray:
    """Temperatures behind the person.

    Args:
        rng: draws everything.
        gbuffer: tells where the head is, in front of its seat.
        climate: of the surroundings.
        skin: base temperature of the skin, °C.

    Returns:
        float32 [R, R] in °C.
    """
    size = gbuffer.part.shape[0]
    if not climate.outdoors and rng.random() < _WALL:
        field = blotches(rng, (size, size), (3, 3), float(rng.uniform(0.05, 0.4))) + np.float32(climate.ambient)
        field += np.linspace(-0.5, 0.5, size, dtype=np.float32)[:, None] * np.float32(rng.normal(0, 0.8))
        chance = _SEAT_BEFORE_WALL
    else:
        field, chance = surroundings.background(rng, size, climate), _SEAT
    if rng.random() < chance:
        rows, columns = np.nonzero((gbuffer.part > 0) & ~is_part(gbuffer.part, Part.CLOTHES))
        if len(rows):
            half = np.ptp(columns) / 2 + 1.0, np.ptp(rows) / 2 + 1.0
            seat(field, rng, (columns.mean(), rows.min() + half[1], *half), climate, skin)
    return field


def seat(field: np.ndarray, rng: np.random.Generator, head: tuple[float, ...], climate: Climate, skin: float) -> None:
    """Draws a seat with a head-rest behind a head, in place.

    Args:
        field: float32 [R, R] in °C.
        rng: draws the seat.
        head: middle x and y, half width and half height of the head in pixels.
        climate: of the surroundings.
        skin: base temperature of the skin, °C.
    """
    size = field.shape[0]
    middle_x, middle_y, wide, high = head
    x = middle_x + rng.normal(0, 0.35) * wide
    top = middle_y - high + high * rng.uniform(-0.1, 0.9)
    canvas = np.zeros((size, size), np.float32)
    half = wide * rng.uniform(0.8, 1.4)
    rest = top + 2 * half * rng.uniform(0.6, 1.1)
    tilt = float(rng.normal(0, 8))
    middle = (float(x), float(0.5 * (top + rest)))
    cv2.ellipse(canvas, (middle, (float(2 * half), float(rest - top)), tilt), 1.0, -1)
    box = cv2.boxPoints((middle, (float(1.7 * half), float(0.9 * (rest - top))), tilt))
    cv2.fillConvexPoly(canvas, box.astype(np.int32), 1.0)
    back = int(rest + high * rng.uniform(0.0, 0.4))  # the back of the seat begins below
    cv2.rectangle(canvas, (int(x - 2.6 * half), back), (int(x + 2.6 * half), size), 1.0, -1)
    for side in (-0.35, 0.35):  # the bars of the head-rest
        at = int(x + side * half)
        cv2.line(canvas, (at, int(rest) - 2), (at, back + 2), 0.8, max(1, int(0.08 * half)))
    canvas = cv2.GaussianBlur(canvas, (0, 0), max(0.6, 0.02 * half))
    share = float(rng.uniform(-0.05, 0.45))
    warmth = climate.ambient + share * (skin - climate.ambient) + blotches(rng, (size, size), (4, 4), 0.4)
    field += canvas * (warmth - field)


def draw_lenses(celsius: np.ndarray, gbuffer: GBuffer, rng: np.random.Generator, climate: Climate, skin: float) -> None:
    """Draws spectacle lenses over the finished image, in place.

    Glass and plastic are opaque here. A lens has a temperature of its own between air and skin, mirrors a little of
    what is in front of it, as a gradient and as the bright shapes of people and lamps, and is warmer at its rim, which
    faces brow and cheek.

    Args:
        celsius: float32 [R, R], changed where the lens is.
        gbuffer: tells where the lenses are.
        rng: draws lens and reflections.
        climate: gives the temperature of the air.
        skin: temperature of the skin, °C.
    """
    on = is_part(gbuffer.part, Part.GLASSES_LENS)
    if not on.any():
        return
    size = celsius.shape[0]
    gap = np.float32(skin - climate.ambient)
    field = surroundings.mirror(rng, size, climate, skin)
    x, y = gbuffer.lens[..., 0], gbuffer.lens[..., 1]
    share = np.full_like(x, rng.uniform(0.0, 0.25))
    share += np.float32(rng.normal(0, 0.05)) * x + np.float32(rng.normal(0.05, 0.06)) * y
    near = np.maximum(np.abs(x), np.abs(y))
    share += np.float32(rng.uniform(0, 0.12)) * np.clip((near - 0.6) / 0.4, 0, 1)  # the rim, which mirrors skin
    for _ in range(int(rng.integers(0, 3))):  # the photographer, a lamp, a bright window frame
        cx, cy, rx, ry = *rng.uniform(-0.7, 0.7, 2), *rng.uniform(0.05, 0.35, 2)
        blob = cv2.exp(-(((x - np.float32(cx)) / np.float32(rx)) ** 2 + ((y - np.float32(cy)) / np.float32(ry)) ** 2))
        share += np.float32(rng.normal(0.06, 0.06)) * blob
    lens = field + share * gap
    celsius[on] = np.minimum(lens, np.float32(skin - 0.3 * gap))[on]
