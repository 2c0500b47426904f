"""Warm and hot things that are no faces, drawn into the background of a thermal scene, in °C.

`crowd` calls `draw`. The things have the sizes, shapes and temperatures with which detectors confuse faces: blobs of
skin temperature (hands, animals, bodies without a head), round lamps, machines, screens, windows and the sun.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from mlcm_jax.synthetic.surroundings import Climate, blotches

Draw = Callable[[np.ndarray, np.ndarray, np.random.Generator, float], None]


def draw(field: np.ndarray, rng: np.random.Generator, climate: Climate, count: int) -> None:
    """Draws `count` things, in place.

    Args:
        field: float32 [R, R] in °C.
        rng: draws everything.
        climate: of the surroundings.
        count: number of things.
    """
    side = field.shape[0]
    for kind in rng.choice(len(_KINDS), count):
        size = side * float(np.exp(rng.uniform(np.log(0.03), np.log(0.5))))
        centre = rng.uniform(0, side, 2)
        _paint(field, _KINDS[int(kind)], centre, size, rng, climate)


def _paint(
    field: np.ndarray, kind: Draw, centre: np.ndarray, size: float, rng: np.random.Generator, climate: Climate
) -> None:
    """Draws one thing on a canvas of its own, turns it, softens its border, and lays it over the field."""
    cells = int(np.clip(size, 24, 160))
    shape = np.zeros((2 * cells, 2 * cells), np.float32)  # how much of a pixel the thing covers
    heat = np.zeros_like(shape)
    kind(shape, heat, rng, climate.ambient)
    heat += blotches(rng, heat.shape, (5, 5), float(rng.uniform(0.0, 0.8)))
    scale = size / cells
    turn = cv2.getRotationMatrix2D((cells - 0.5, cells - 0.5), float(rng.normal(0, 35)), scale)
    turn[:, 2] += centre - (cells - 0.5)
    flags = cv2.INTER_LINEAR if scale > 0.5 else cv2.INTER_AREA
    cover = cv2.warpAffine(shape, turn, field.shape[::-1], flags=flags)
    warm = cv2.warpAffine(heat * shape, turn, field.shape[::-1], flags=flags)
    cover = np.clip(cv2.GaussianBlur(cover, (0, 0), max(0.5, 0.02 * size)), 0, 1)
    warm = cv2.GaussianBlur(warm, (0, 0), max(0.5, 0.02 * size))
    field *= 1 - cover
    field += warm


def _ellipse(shape: np.ndarray, heat: np.ndarray, place: tuple[float, ...], value: float) -> None:
    """Fills an ellipse; `place` is x, y, half width, half height (in half sides of the canvas) and the angle."""
    half = shape.shape[0] / 2
    x, y, w, h, angle = place
    box = ((half * (1 + x), half * (1 + y)), (max(2 * half * w, 1.0), max(2 * half * h, 1.0)), angle)
    cv2.ellipse(shape, box, 1.0, -1, cv2.LINE_AA)
    cv2.ellipse(heat, box, value, -1)


def _line(shape: np.ndarray, heat: np.ndarray, ends: np.ndarray, width: float, value: float) -> None:
    """Draws a line with round ends; `ends` [2, 2] and `width` are in half sides of the canvas."""
    half = shape.shape[0] / 2
    a, b = (tuple(int(v) for v in half * (1 + end)) for end in ends)
    thick = max(1, int(half * width))
    cv2.line(shape, a, b, 1.0, thick, cv2.LINE_AA)
    cv2.line(heat, a, b, value, thick)


def _hand(shape: np.ndarray, heat: np.ndarray, rng: np.random.Generator, ambient: float) -> None:
    """A palm with some fingers and a piece of the arm."""
    skin = float(rng.uniform(26, 35))
    _line(shape, heat, np.array([[0, 0.2], [rng.normal(0, 0.15), 0.95]]), 0.32, skin + float(rng.normal(0, 0.8)))
    _ellipse(shape, heat, (0, 0.1, 0.27, 0.33, 0), skin)
    bent = rng.random() < 0.3
    for k, angle in enumerate(np.linspace(-0.45, 0.45, 4) + rng.normal(0, 0.06, 4)):
        reach = rng.uniform(0.2, 0.35) if bent else rng.uniform(0.5, 0.72)
        start = np.array([0.19 * (k - 1.5) / 1.5, -0.1])
        end = start + reach * np.array([np.sin(angle), -np.cos(angle)])
        _line(shape, heat, np.stack([start, end]), 0.11, skin - float(rng.uniform(0, 3)))
    side = rng.choice([-1, 1])
    thumb = np.array([[side * 0.2, 0.2], [side * rng.uniform(0.35, 0.6), rng.uniform(-0.25, 0.1)]])
    _line(shape, heat, thumb, 0.13, skin - float(rng.uniform(0, 2)))


def _animal(shape: np.ndarray, heat: np.ndarray, rng: np.random.Generator, ambient: float) -> None:
    """A body, a head with ears, legs; fur lies between air and skin, eyes and muzzle are warmer."""
    fur = ambient + float(rng.uniform(0.25, 0.9)) * (36 - ambient)
    _ellipse(shape, heat, (0.1, 0.15, rng.uniform(0.35, 0.6), rng.uniform(0.2, 0.4), rng.normal(0, 15)), fur)
    for x in rng.uniform(-0.3, 0.6, int(rng.integers(0, 5))):
        _line(shape, heat, np.array([[x, 0.2], [x + rng.normal(0, 0.1), 0.85]]), 0.12, fur - float(rng.uniform(0, 3)))
    x, y, r = rng.uniform(-0.6, -0.3), rng.uniform(-0.45, 0.0), rng.uniform(0.18, 0.3)
    for side in (-1, 1):
        ear = (x + 0.8 * side * r, y - r, 0.35 * r, rng.uniform(0.4, 0.9) * r, float(25 * side))
        _ellipse(shape, heat, ear, fur + float(rng.normal(0.5, 1)))
    _ellipse(shape, heat, (x, y, r, r * rng.uniform(0.8, 1.2), 0), fur + float(rng.normal(0.5, 0.7)))
    if rng.random() < 0.6:
        _ellipse(shape, heat, (x, y + 0.5 * r, 0.4 * r, 0.35 * r, 0), fur - float(rng.uniform(-2, 5)))
        for side in (-1, 1):
            _ellipse(shape, heat, (x + 0.4 * side * r, y - 0.15 * r, 0.14 * r, 0.12 * r, 0), fur + 2.5)


def _body(shape: np.ndarray, heat: np.ndarray, rng: np.random.Generator, ambient: float) -> None:
    """A torso whose head is out of sight or turned away: shoulders, a neck, perhaps the back of a head."""
    cloth = ambient + float(rng.uniform(0.1, 0.7)) * (34 - ambient)
    if rng.random() < 0.6:
        _line(shape, heat, np.array([[0, -0.6], [0, 0.0]]), rng.uniform(0.2, 0.34), float(rng.uniform(31, 35)))
    if rng.random() < 0.5:
        hair = cloth + float(rng.uniform(-1, 6))
        _ellipse(shape, heat, (0, -0.62, rng.uniform(0.22, 0.32), rng.uniform(0.28, 0.37), 0), hair)
    _ellipse(shape, heat, (0, 0.6, rng.uniform(0.55, 0.9), rng.uniform(0.6, 0.9), 0), cloth)


def _lamp(shape: np.ndarray, heat: np.ndarray, rng: np.random.Generator, ambient: float) -> None:
    """A round lamp, a hot plate, a cup or the sun."""
    warmth = ambient + float(np.exp(rng.uniform(np.log(3), np.log(120))))
    ratio = float(np.exp(rng.normal(0, 0.25)))
    _ellipse(shape, heat, (0, 0, 0.7 * min(1, ratio), 0.7 * min(1, 1 / ratio), 0), warmth)
    if rng.random() < 0.4:
        inner = warmth + float(rng.normal(0, 6))
        _ellipse(shape, heat, (*rng.normal(0, 0.1, 2), *rng.uniform(0.1, 0.5, 2), 0), inner)


def _machine(shape: np.ndarray, heat: np.ndarray, rng: np.random.Generator, ambient: float) -> None:
    """A box with warmer and colder parts: an engine, an oven, a rack, a radiator."""
    half, base = shape.shape[0] / 2, ambient + float(rng.uniform(1, 15))
    w, h = rng.uniform(0.3, 0.95, 2)
    corners = [int(half * (1 - w)), int(half * (1 - h))], [int(half * (1 + w)), int(half * (1 + h))]
    cv2.rectangle(shape, corners[0], corners[1], 1.0, -1)
    cv2.rectangle(heat, corners[0], corners[1], base, -1)
    for _ in range(int(rng.integers(0, 8))):
        a = half + half * np.array([w, h]) * rng.uniform(-0.9, 0.9, 2)
        b = a + half * rng.uniform(0.05, 0.5, 2)
        b = np.minimum(b, half * (1 + np.array([w, h])))
        a, b = a.astype(int).tolist(), b.astype(int).tolist()
        value = base + float(rng.normal(0, 8))
        if rng.random() < 0.6:
            cv2.rectangle(heat, a, b, value, -1)
        else:
            cv2.circle(heat, a, max(1, (b[0] - a[0]) // 2), value, -1)
    if rng.random() < 0.3:  # the ribs of a radiator
        for x in np.arange(half * (1 - w), half * (1 + w), max(3.0, 0.16 * half)):
            cv2.line(heat, (int(x), corners[0][1]), (int(x), corners[1][1]), base - 4.0, max(1, int(0.05 * half)))


def _panel(shape: np.ndarray, heat: np.ndarray, rng: np.random.Generator, ambient: float) -> None:
    """A window, a screen or a door, mostly of one temperature, perhaps with a cross-bar."""
    half, value = shape.shape[0] / 2, ambient + float(rng.uniform(-12, 12))
    w, h = rng.uniform(0.3, 0.95, 2)
    low, high = [int(half * (1 - w)), int(half * (1 - h))], [int(half * (1 + w)), int(half * (1 + h))]
    cv2.rectangle(shape, low, high, 1.0, -1)
    cv2.rectangle(heat, low, high, value, -1)
    if rng.random() < 0.5:
        bar = ambient + float(rng.normal(0, 2))
        cv2.line(heat, (int(half), low[1]), (int(half), high[1]), bar, max(1, int(0.06 * half)))
        cv2.line(heat, (low[0], int(half)), (high[0], int(half)), bar, max(1, int(0.06 * half)))


def _blob(shape: np.ndarray, heat: np.ndarray, rng: np.random.Generator, ambient: float) -> None:
    """An ellipse of skin temperature with dark and bright spots, nearly a face, but without its order."""
    skin = float(rng.uniform(27, 36))
    _ellipse(shape, heat, (0, 0, rng.uniform(0.4, 0.75), rng.uniform(0.5, 0.8), 0), skin)
    for _ in range(int(rng.integers(0, 7))):
        spot = (*rng.uniform(-0.5, 0.5, 2), *rng.uniform(0.04, 0.25, 2), float(rng.uniform(0, 180)))
        _ellipse(np.zeros_like(shape), heat, spot, skin + float(rng.normal(-1, 3)))


_KINDS = (_hand, _animal, _body, _lamp, _machine, _panel, _blob)
