"""Noise that is the same on every machine: three periodic textures from a fixed seed, sampled at any position.

`paint` and `albedo` call `sample` with template coordinates scaled to texture pixels; `backdrop` reads `textures`.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

_BITS = 9
SIDE = 1 << _BITS
FINE, MEDIUM, COARSE = range(3)


@functools.cache
def textures() -> np.ndarray:
    """Periodic noise, float32 [3, 512, 512], each of zero mean and unit deviation: fine, medium, coarse grain."""
    rng = np.random.default_rng(20261121)
    out = []
    for sigma in (1.2, 4.0, 14.0):
        white = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
        pad = 64
        tile = np.pad(white, pad, mode="wrap")
        smooth = cv2.GaussianBlur(tile, (0, 0), sigma)[pad:-pad, pad:-pad]
        out.append((smooth - smooth.mean()) / smooth.std())
    return np.stack(out)


def sample(kind: int, x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """One texture at N positions, without interpolation.

    Args:
        kind: FINE, MEDIUM or COARSE.
        x: columns in texture pixels [N].
        y: rows in texture pixels [N].
        seed: shifts the origin.

    Returns:
        float32 [N], zero mean and unit deviation over the texture.
    """
    col, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    col += seed % 509
    row += seed // 509 % 509
    col &= SIDE - 1
    row &= SIDE - 1
    row <<= _BITS
    row += col
    return textures()[kind].ravel().take(row, mode="clip")
