"""The ellipse of a heatmap: its mean, and the error of that mean along the axes of its covariance, as STAR needs them.

`losses.star` is the loss; this file is its linear algebra. Pure functions of arrays.
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from mlcm_jax import codecs

GRIDS = ("cells", "align_corners")
_KAPPA = 1e-5  # added to V1 and V2 by the original, so that the covariance of a one-hot map is 0 and not 0 / 0
_ROUND = 1e-3  # below this relative difference of the two variances the axes of an ellipse mean nothing


def decompose(heatmaps, target, *, eps=1e-4, grid="cells", floor=1e-6) -> tuple[jax.Array, jax.Array]:
    """v_j^T (y - mu) and lambda_j of each map: error along the axes of the distribution, and variance along them.

    With p = F / max(sum F, floor): mu = sum p g, and the unbiased weighted covariance sum p d d^T / (V1 - V2 / V1),
    d = g - mu, V1 = sum p + 1e-5, V2 = sum p^2 + 1e-5. The eigenpairs of the 2x2 matrix [[a, b], [b, c]] are in closed
    form: lambda = (a + c) / 2 +- r with r = |((a - c) / 2, b)|, and the long axis points to atan2(b, (a - c) / 2) / 2.

    Both carry gradient, as in the published code (a symmetric eigen-decomposition inside the graph). The gradient of
    the *direction* is 1 / (2 r) and left out where the map is round, r < 1e-3 ((a + c) / 2 + eps): its axes are
    arbitrary there. Everything else is differentiated exactly, and finite also for a one-hot, a flat, or an empty map.

    Args:
      heatmaps: float [B, H, W, K], nonnegative; any sum.
      target: float [B, K, 2] in u.
      eps: the variance below which a map counts as a point; see above.
      grid: "cells": cell i sits at u = (i + 0.5) / W. "align_corners": at 2 i / (W - 1) - 1, the [-1, 1] of the
        original code, where lengths are about twice and variances about four times those of "cells"; `target`, still
        in u, is mapped to it.
      floor: sum below which a map is not normalised further; the missing mass then sits in the middle of the picture.

    Returns:
      (error float32 [B, K, 2], variance float32 [B, K, 2] >= 0), both with the long axis first, in units of the grid.

    Raises:
      ValueError: shapes that do not fit, or an unknown grid.
    """
    heatmaps, target = jnp.asarray(heatmaps), jnp.asarray(target)
    if heatmaps.ndim != 4 or target.shape != (heatmaps.shape[0], heatmaps.shape[3], 2):
        raise ValueError(f"heatmaps {heatmaps.shape} and target {target.shape} are not [B, H, W, K] and [B, K, 2]")
    maps = heatmaps.astype(jnp.promote_types(heatmaps.dtype, jnp.float32))
    height, width = maps.shape[1:3]
    (x, goal_x), (y, goal_y) = _axis(target[..., 0], width, grid, maps), _axis(target[..., 1], height, grid, maps)
    p = maps / jnp.maximum(maps.sum((1, 2), keepdims=True), floor)

    # Products and sums, no matrix products: TF32 would cost a thousandth of the picture.
    columns, rows = p.sum(1), p.sum(2)  # [B, W, K], [B, H, K]
    mean_x, mean_y = (columns * x).sum(1), (rows * y).sum(1)
    dx, dy = x - mean_x[:, None, :], y - mean_y[:, None, :]
    # V1 - V2 / V1 = (V1^2 - V2) / V1 with sum p = 1, written so that a sharp map does not cancel to rounding.
    scale = (1 + _KAPPA) / ((p * (1 - p)).sum((1, 2)) + _KAPPA + _KAPPA**2)
    xx, yy = (columns * dx**2).sum(1) * scale, (rows * dy**2).sum(1) * scale
    xy = ((p * dx[:, None]).sum(2) * dy).sum(1) * scale

    middle, half = (xx + yy) / 2, (xx - yy) / 2
    square = half**2 + xy**2
    some = square > 0
    radius = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)
    short = middle - radius
    short = short + stop_gradient(jnp.maximum(short, 0.0) - short)  # rounding may take it below 0

    cos2, sin2 = (stop_gradient(jnp.where(some, v / jnp.where(some, radius, 1.0), d)) for v, d in ((half, 1), (xy, 0)))
    long_enough = stop_gradient(radius >= _ROUND * (middle + eps)) & some
    turn = (cos2 * (xy - stop_gradient(xy)) - sin2 * (half - stop_gradient(half))) / 2  # r d(angle); zero in value
    angle = stop_gradient(jnp.arctan2(sin2, cos2)) / 2
    angle = angle + jnp.where(long_enough, turn / stop_gradient(jnp.where(long_enough, radius, 1.0)), 0.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    ex, ey = goal_x - mean_x, goal_y - mean_y
    return jnp.stack([cos * ex + sin * ey, cos * ey - sin * ex], -1), jnp.stack([middle + radius, short], -1)


def _axis(u, count: int, grid: str, like) -> tuple[jax.Array, jax.Array]:
    """Cells [1, count, 1] and the goal [B, K] of one axis, from the middle of the picture, in units of the grid."""
    u = u.astype(like.dtype)
    if grid == "cells":
        return (codecs.cell_centres(count, like.dtype) - 0.5).reshape(1, -1, 1), u - 0.5
    if grid != "align_corners":
        raise ValueError(f"unknown grid {grid!r}: use {' or '.join(GRIDS)}")
    if count < 2:
        raise ValueError("the grid 'align_corners' needs maps of at least 2 x 2 cells")
    stretch = 2.0 * count / (count - 1)
    return (codecs.cell_centres(count, like.dtype) - 0.5).reshape(1, -1, 1) * stretch, (u - 0.5) * stretch
