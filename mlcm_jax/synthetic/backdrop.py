"""The background in visible light: gradients, shapes, lines, stripes and noise, out of focus.

`rgb` calls `backdrop` with `Scene.background` as the seed. `surroundings` makes the thermal background.
"""

from __future__ import annotations

import cv2
import numpy as np

from mlcm_jax.synthetic import noise


def _colour(rng: np.random.Generator) -> tuple[float, float, float]:
    """A linear RGB colour, mostly muted, as rooms are."""
    grey = rng.random() ** 1.5
    tint = rng.uniform(0.8, 1.2, 3) if rng.random() < 0.75 else rng.uniform(0.1, 1.9, 3)
    return tuple(float(v) for v in np.clip(grey * tint, 0.005, 0.95))


def _shape(image: np.ndarray, rng: np.random.Generator) -> None:
    """Draws one random shape, in place."""
    size = image.shape[0]
    kind = rng.integers(5)
    x, y = (int(v) for v in rng.uniform(-0.1, 1.1, 2) * size)
    w, h = (max(1, int(v)) for v in rng.gamma(1.6, 0.12, 2) * size)
    colour = _colour(rng)
    if kind == 0:
        cv2.rectangle(image, (x - w, y - h), (x + w, y + h), colour, -1, cv2.LINE_AA)
    elif kind == 1:
        cv2.ellipse(image, (x, y), (w, h), float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == 2:
        corners = (np.array([x, y]) + rng.normal(0, 0.18 * size, (int(rng.integers(3, 7)), 2))).astype(np.int32)
        cv2.fillPoly(image, [corners], colour, cv2.LINE_AA)
    elif kind == 3:
        end = (int(x + rng.normal(0, 0.6 * size)), int(y + rng.normal(0, 0.6 * size)))
        cv2.line(image, (x, y), end, colour, max(1, int(rng.gamma(1.2, 0.015) * size)), cv2.LINE_AA)
    else:  # a shelf, a blind, a fence
        step, count = max(2, int(rng.uniform(0.03, 0.12) * size)), int(rng.integers(3, 9))
        upright = rng.random() < 0.5
        for k in range(count):
            low = (x + k * step, y) if upright else (x, y + k * step)
            high = (low[0] + step // 2, low[1] + 2 * h) if upright else (low[0] + 2 * w, low[1] + step // 2)
            cv2.rectangle(image, low, high, colour, -1)


def backdrop(seed: int, size: int) -> np.ndarray:
    """The background of a seed, linear RGB float32 [size, size, 3]; 1 is a white wall."""
    rng = np.random.default_rng([seed, 1])
    corner = np.array([_colour(rng) for _ in range(4)], np.float32).reshape(2, 2, 3)
    if rng.random() < 0.5:  # a plain wall
        corner = corner[:1, :1] * (1 + rng.uniform(-0.25, 0.25, (2, 2, 1))).astype(np.float32)
    image = np.ascontiguousarray(cv2.resize(corner, (size, size), interpolation=cv2.INTER_LINEAR))
    for _ in range(int(rng.choice([0, rng.integers(1, 6), rng.integers(6, 22)], p=[0.2, 0.4, 0.4]))):
        _shape(image, rng)
    kind, grain = int(rng.integers(3)), float(rng.gamma(1.2, 0.07))
    down, across = rng.integers(noise.SIDE, size=2)
    row, column = ((np.arange(min(size, noise.SIDE)) - shift) % noise.SIDE for shift in (down, across))
    texture = noise.textures()[kind][row[:, None], column]
    texture = texture if size <= noise.SIDE else cv2.resize(texture, (size, size))
    image *= cv2.merge([np.exp(grain * texture)] * 3)
    sigma = float(rng.gamma(1.3, 0.012)) * size
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.4 else image
