"""What surrounds a face in a thermal image, in °C: the climate, the background, and what spectacle lenses show.

`thermal` calls these functions. None of them depends on the head.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np


@dataclasses.dataclass(frozen=True)
class Climate:
    """Temperatures of one moment.

    Attributes:
        ambient: temperature of the air, and of things at equilibrium with it, in °C.
        reflected: mean temperature of what the skin reflects, in °C.
        outdoors: whether the background is sky and ground, by day or night, instead of a room.
    """

    ambient: float
    reflected: float
    outdoors: bool


def sample_climate(rng: np.random.Generator) -> Climate:
    """A room at 15-30 °C in 70 % of images, otherwise outdoors at 3-33 °C."""
    if rng.random() < 0.7:
        ambient = float(np.clip(rng.normal(22.5, 2.2), 15.0, 30.0))
        return Climate(ambient, ambient + float(rng.normal(0.0, 0.7)), False)
    ambient = float(rng.uniform(3.0, 33.0))
    return Climate(ambient, ambient - float(rng.uniform(0.0, 8.0)), True)


def blotches(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int], deviation: float) -> np.ndarray:
    """Smooth noise, float32 `shape`: a grid of `cells` normal random numbers, interpolated to that shape."""
    knots = rng.standard_normal(cells, np.float32) * np.float32(deviation)
    return cv2.resize(knots, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def background(rng: np.random.Generator, size: int, climate: Climate) -> np.ndarray:
    """Temperatures behind the person, float32 [size, size] in °C."""
    shape = (size, size)
    field = blotches(rng, shape, (3, 3), float(rng.uniform(0.1, 1.0))) + np.float32(climate.ambient)
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    field += ramp[:, None] * np.float32(rng.normal(0.0, 1.0)) + ramp[None] * np.float32(rng.normal(0.0, 0.7))
    if climate.outdoors:
        _ground(field, rng, climate)
    plain = rng.random() < (0.15 if climate.outdoors else 0.45)
    for _ in range(0 if plain else int(rng.integers(1, 8))):
        _thing(field, rng, climate)
    if rng.random() < 0.25:
        field += blotches(rng, shape, (40, 40), float(rng.uniform(0.05, 0.2)))
    return cv2.GaussianBlur(field, (0, 0), size * float(rng.uniform(0.002, 0.012)))


def _ground(field: np.ndarray, rng: np.random.Generator, climate: Climate) -> None:
    """Adds bands of ground below a horizon, sun-warmed or cold at night, and a mostly colder sky, in place."""
    size = field.shape[0]
    horizon = int(size * rng.uniform(0.0, 0.6))
    field[:horizon] -= np.float32(rng.uniform(0.0, 20.0) if rng.random() < 0.5 else rng.uniform(-2.0, 3.0))
    top = horizon
    sun = rng.uniform(0.0, 14.0) if rng.random() < 0.6 else rng.uniform(-4.0, 1.0)
    while top < size:
        bottom = min(size, top + max(2, int(size * rng.uniform(0.05, 0.6))))
        field[top:bottom] += np.float32(sun * rng.uniform(0.2, 1.0))
        top = bottom
    field += blotches(
        rng, field.shape, (int(rng.integers(8, 60)), int(rng.integers(4, 30))), float(rng.uniform(0.1, 1.5))
    )


def _thing(field: np.ndarray, rng: np.random.Generator, climate: Climate) -> None:
    """Draws one window, screen, lamp, pipe, piece of furniture or other person, in place."""
    size = field.shape[0]
    x, y = (int(v) for v in rng.integers(0, size, 2))
    w, h = (max(1, int(v)) for v in size * rng.uniform(0.03, 0.35, 2))
    kind = rng.choice(["window", "screen", "lamp", "pipe", "furniture", "furniture", "person"])
    warmth = climate.ambient
    if kind == "window":
        cv2.rectangle(field, (x - w, y - h), (x + w, y + h), warmth + float(rng.uniform(-10.0, 5.0)), -1)
    elif kind == "screen":
        cv2.rectangle(field, (x - w, y - h // 2), (x + w, y + h // 2), warmth + float(rng.uniform(2.0, 12.0)), -1)
    elif kind == "lamp":
        cv2.circle(field, (x, y), max(1, w // 4), warmth + float(rng.uniform(5.0, 35.0)), -1, cv2.LINE_AA)
    elif kind == "pipe":
        end = (x + int(rng.normal(0, size)), y + int(rng.normal(0, size)))
        cv2.line(field, (x, y), end, warmth + float(rng.normal(0.0, 5.0)), max(1, w // 8), cv2.LINE_AA)
    elif kind == "furniture":
        angle, offset = float(rng.uniform(0, 180)), float(rng.normal(0.0, 1.6))
        box = cv2.boxPoints(((float(x), float(y)), (2.0 * w, 2.0 * h), angle)).astype(np.int32)
        cv2.fillConvexPoly(field, box, warmth + offset, cv2.LINE_AA)
    else:
        shirt, face = warmth + float(rng.uniform(2.0, 8.0)), float(rng.uniform(30.0, 35.0))
        cv2.ellipse(field, (x, y + 3 * w), (2 * w, 2 * w), 0, 0, 360, shirt, -1, cv2.LINE_AA)
        cv2.ellipse(field, (x, y), (max(1, 3 * w // 4), w), 0, 0, 360, face, -1, cv2.LINE_AA)
        cv2.ellipse(field, (x, y - w // 2), (max(1, 3 * w // 4), max(1, w // 2)), 0, 0, 360, shirt, -1, cv2.LINE_AA)


def mirror(rng: np.random.Generator, size: int, climate: Climate, skin: float) -> np.ndarray:
    """Apparent temperature of spectacle lenses, float32 [size, size] in °C.

    Glass is opaque to thermal radiation: a lens shows its own temperature, which is a little above the air's, and
    mirrors a tenth to a fifth of what is in front of it.

    Args:
        rng: draws the lens and its reflections.
        size: side of the image in pixels.
        climate: gives the temperature of the air.
        skin: temperature of the skin, °C.

    Returns:
        A field over the whole image, from which the caller cuts out the lenses.
    """
    own = climate.ambient + rng.uniform(0.05, 0.35) * (skin - climate.ambient)
    field = blotches(rng, (size, size), (3, 3), 0.35) + np.float32(own)
    field += np.linspace(-1.0, 1.0, size, dtype=np.float32)[:, None] * np.float32(rng.normal(0.0, 1.5))
    for _ in range(int(rng.integers(0, 5))):  # windows, lamps and the photographer
        x, y = rng.integers(0, size, 2)
        w, h = size * rng.uniform(0.01, 0.10, 2)
        corner, other = (int(x - w), int(y - h)), (int(x + w), int(y + h))
        cv2.rectangle(field, corner, other, float(own + rng.normal(0.3, 1.2)), -1)
    return field
