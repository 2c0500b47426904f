"""Reading and computing on long arrays fast: what numpy and OpenCV do several times as slowly by default.

The renderer holds the values of N pixels channel by channel, [C, N] or its transposed view [N, C], because numpy is
several times as fast on long rows as on rows of three. All functions give the same bits as the plain expressions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_WIDTH = 256


def gather(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """`values[..., index]` several times as fast, for indices from 0 to N - 1.

    Other indices are clipped without an error. This is faster than numpy's check of all of them, for which it buffers
    the result.
    """
    return values.take(index, axis=-1, mode="clip")


def rows(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """`values[index]` of [N, C], as a transposed array whose channels are contiguous; see `gather`."""
    return gather(values.T, index).T


def length(vectors: np.ndarray) -> np.ndarray:
    """Euclidean length [N] of vectors [3, N]; the same bits as `np.linalg.norm` of [N, 3] along its last axis."""
    x, y, z = vectors
    return np.sqrt(x * x + y * y + z * z)


def blockwise(function: Callable[..., np.ndarray], *values: np.ndarray) -> np.ndarray:
    """Applies an element by element function of OpenCV to float32 arrays of one shape.

    OpenCV computes the last few elements of an array in another way, with other last bits. The arrays are padded, so
    that a value does not depend on its position.
    """
    shape, count = values[0].shape, values[0].size
    blocks = np.zeros((len(values), max(1, -(-count // _WIDTH)), _WIDTH), np.float32)
    for block, value in zip(blocks, values, strict=True):
        block.reshape(-1)[:count] = value.reshape(-1)
    return function(*blocks).reshape(-1)[:count].reshape(shape)
