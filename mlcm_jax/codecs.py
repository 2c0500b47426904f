"""Landmarks to network targets and back: coordinates u, heatmaps, maps of points and edges. Pure functions of arrays.

One convention holds everywhere: pixel centres are integers, and for an image of side S `u = (x + 0.5) / S`. So u = 0
and u = 1 are the *edges* of the image, a mirror image is `1 - u`, and cell i of a heatmap with W cells sits at
`(i + 0.5) / W` whatever W is. A decoder that forgets the half pixel is wrong by half a cell, and no test of a round
trip shows it.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from mlcm_jax import landmarks
from mlcm_jax.errors import InputError, did_you_mean

Array = np.ndarray | jax.Array
Chains = Sequence[Sequence[int]]

GRIDS = ("cells", "published")
_KAPPA = 1e-5  # The published code adds it to V1 and V2, so that the covariance of a one-hot map is 0 and not 0 / 0.
_ROUND = 1e-3  # Where the two variances differ by less than this share, the axes of the ellipse are arbitrary.


def to_u(pixels: Array, size: int) -> Array:
    """Pixel coordinates of an image of `size` pixels a side to u; numpy or jax, as given."""
    return (pixels + 0.5) / size


def to_pixels(u: Array, size: int) -> Array:
    """The inverse of `to_u`."""
    return u * size - 0.5


def to_original(u: Array, to_image: Array, size: int) -> Array:
    """Landmarks of a crop in pixels of the original image.

    Args:
        u: float [..., K, 2], coordinates in the crop.
        to_image: float [..., 2, 3], crop pixels to original pixels (the batch's field of that name).
        size: side of the crop in pixels.

    Returns:
        float [..., K, 2], numpy or jax as given.
    """
    pixels = to_pixels(u, size)
    # Written as a product and a sum: in a matrix product a GPU would round coordinates to TF32, a quarter pixel of 512.
    return (pixels[..., None, :] * to_image[..., None, :, :2]).sum(-1) + to_image[..., None, :, 2]


def cell_centres(count: int, dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
    """The centres of `count` cells along one axis in u, float [count]: (i + 0.5) / count."""
    return (jnp.arange(count, dtype=dtype) + 0.5) / count


def expectation(weights: ArrayLike, *, floor: float = 0.0) -> jax.Array:
    """The centre of mass of each map, in u; the middle of the image for a map that is all zero.

    Args:
        weights: float [B, h, w, K], nonnegative.
        floor: a map with a smaller sum is divided by `floor` instead, and the missing mass counts as lying in the
            middle. This bounds the gradient, which is proportional to one over the divisor. Other maps do not change.

    Returns:
        float [B, K, 2].
    """
    weights = jnp.asarray(weights)
    _, height, width, _ = weights.shape
    total = weights.sum(axis=(1, 2))  # [B, K]
    enough = total > floor
    scale = jnp.where(enough, 1.0, 1.0 / floor if floor else 0.0) / jnp.where(enough, total, 1.0)
    exact = jax.lax.Precision.HIGHEST  # TF32 on a GPU would cost a thousandth of the image.
    x, y = (cell_centres(count, weights.dtype) - 0.5 for count in (width, height))
    x = jnp.einsum("bwk,w->bk", weights.sum(axis=1), x, precision=exact) * scale
    y = jnp.einsum("bhk,h->bk", weights.sum(axis=2), y, precision=exact) * scale
    return jnp.concatenate([x[..., None], y[..., None]], axis=-1) + 0.5  # jax2onnx knows no jnp.stack


def variance(weights: ArrayLike) -> jax.Array:
    """The mean squared distance from the centre of mass of each map, float [B, h, w, K] of sum one, in u²: [B, K]."""
    weights = jnp.asarray(weights)
    x, y = (cell_centres(count, weights.dtype) - 0.5 for count in weights.shape[2:0:-1])
    exact = jax.lax.Precision.HIGHEST
    squares = jnp.einsum("bwk,w->bk", weights.sum(axis=1), jnp.square(x), precision=exact)
    squares += jnp.einsum("bhk,h->bk", weights.sum(axis=2), jnp.square(y), precision=exact)
    return squares - jnp.square(expectation(weights) - 0.5).sum(-1)


def decompose(
    heatmaps: ArrayLike, target: ArrayLike, *, eps: float = 1e-4, grid: str = "cells", floor: float = 1e-6
) -> tuple[jax.Array, jax.Array]:
    """Error v_j^T (y - mu) and variance lambda_j of each map along the two axes v_j of its distribution.

    With p = F / max(sum F, floor) and g the cells, mu = sum p g, and the covariance is the unbiased weighted one,
    sum p d d^T / (V1 - V2 / V1), where d = g - mu, V1 = sum p + 1e-5 and V2 = sum p^2 + 1e-5. The eigenpairs of the 2x2
    matrix [[a, b], [b, c]] have a closed form: lambda = (a + c) / 2 +- r with r = |((a - c) / 2, b)|, and the long axis
    points to the angle atan2(b, (a - c) / 2) / 2.

    Both results carry gradient, as in the published code, which differentiates a symmetric eigen-decomposition. The
    gradient of the *direction* is 1 / (2 r); it is left out where the map is round, r < 1e-3 ((a + c) / 2 + eps),
    because the axes are arbitrary there. Everything else is differentiated exactly, and is finite for a one-hot, a flat
    or an empty map too.

    Args:
        heatmaps: float [B, H, W, K], nonnegative, of any sum.
        target: float [B, K, 2] in u.
        eps: a small variance; it enters only the bound for round maps, see above.
        grid: "cells", in which our heads decode: cell i sits at u = (i + 0.5) / W. "published", the one of STAR's code:
            cell i sits at 2 i / (W - 1) - 1 and the target at 2 u - 1, two axes that differ by the factor (W - 1) / W.
            Its lengths are about twice, its variances about four times those of "cells".
        floor: see `expectation`.

    Returns:
        (error float32 [B, K, 2], variance float32 [B, K, 2] >= 0), both with the long axis first, in units of the grid.

    Raises:
        ValueError: shapes that do not fit, or an unknown grid.
    """
    heatmaps, target = jnp.asarray(heatmaps), jnp.asarray(target)
    if heatmaps.ndim != 4 or target.shape != (heatmaps.shape[0], heatmaps.shape[3], 2):
        raise ValueError(f"heatmaps {heatmaps.shape} and target {target.shape} are not [B, H, W, K] and [B, K, 2]")
    maps = heatmaps.astype(np.promote_types(heatmaps.dtype, np.float32))
    height, width = maps.shape[1:3]
    (x, goal_x), (y, goal_y) = _axis(target[..., 0], width, grid, maps), _axis(target[..., 1], height, grid, maps)
    p = maps / jnp.maximum(maps.sum((1, 2), keepdims=True), floor)

    # Products and sums, not matrix products: TF32 would cost a thousandth of the image.
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
    short = short + stop_gradient(jnp.maximum(short, 0.0) - short)  # Rounding may take it below 0.

    cos2, sin2 = (stop_gradient(jnp.where(some, v / jnp.where(some, radius, 1.0), d)) for v, d in ((half, 1), (xy, 0)))
    oblong = stop_gradient(radius >= _ROUND * (middle + eps)) & some
    # r d(angle): its value is 0, and it carries the gradient.
    turn = (cos2 * (xy - stop_gradient(xy)) - sin2 * (half - stop_gradient(half))) / 2
    angle = stop_gradient(jnp.arctan2(sin2, cos2)) / 2
    angle = angle + jnp.where(oblong, turn / stop_gradient(jnp.where(oblong, radius, 1.0)), 0.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    ex, ey = goal_x - mean_x, goal_y - mean_y
    return jnp.stack([cos * ex + sin * ey, cos * ey - sin * ex], -1), jnp.stack([middle + radius, short], -1)


def _axis(u: jax.Array, count: int, grid: str, like: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cells [1, count, 1] and target [B, K] on one axis, measured from the middle of the image in units of the grid."""
    u = u.astype(like.dtype)
    cells = (cell_centres(count, like.dtype) - 0.5).reshape(1, -1, 1)
    if grid == "cells":
        return cells, u - 0.5
    if grid != "published":
        raise ValueError(f"unknown grid {grid!r}: use {' or '.join(GRIDS)}")
    if count < 2:
        raise ValueError("the grid 'published' needs maps of at least 2 x 2 cells")
    return cells * (2.0 * count / (count - 1)), 2.0 * u - 1.0


@functools.cache
def _resize_matrix(drawn: int, size: int) -> np.ndarray:
    """float32 [size, drawn]: bilinear resampling of one axis between pixel centres, without anti-aliasing.

    `jax.image.resize` of the identity gives the same, after half a second of compilation.
    """
    from scipy import interpolate  # Only drawing needs it, and the import takes a quarter of a second.

    x = np.clip((np.arange(size) + 0.5) * drawn / size - 0.5, 0, drawn - 1)
    return interpolate.make_interp_spline(np.arange(drawn), np.eye(drawn), k=1)(x).astype(np.float32)


def _check_drawn(size: int, drawn: int) -> None:
    if size < 1 or drawn < 2:
        raise ValueError(f"size {size} must be at least 1 and drawn {drawn} at least 2")


def point_maps(points: ArrayLike, size: int = 64, drawn: int = 256, sigma: float = 1.5) -> jax.Array:
    """P* of arXiv 2404.06029: Gaussians drawn on `drawn` x `drawn` pixels, then resized bilinearly to `size` x `size`.

    Both steps are separable, so the full drawing is never computed. As in the published code, resizing reads 2 x 2
    drawn pixels per cell; with sigma 1.5 the maximum of a map therefore depends on where in its cell the landmark lies
    (0.19 to 0.9). Unlike there, a Gaussian is centred on the landmark itself and not on the nearest drawn pixel.

    Args:
        points: float [B, K, 2] in u.
        size: cells per side of the result.
        drawn: pixels per side of the drawing.
        sigma: standard deviation in drawn pixels.

    Returns:
        float [B, size, size, K] in [0, 1].
    """
    _check_drawn(size, drawn)
    points = jnp.asarray(points)
    distance = (points[:, :, None, :] - cell_centres(drawn, points.dtype)[None, None, :, None]) * drawn
    profile = jnp.exp(-(distance**2) / (2 * sigma**2))  # [B, K, drawn, 2]
    matrix = jnp.asarray(_resize_matrix(drawn, size), points.dtype)
    cells = jnp.einsum("bkdc,sd->bskc", profile, matrix, precision=jax.lax.Precision.HIGHEST)
    return cells[:, :, None, :, 1] * cells[:, None, :, :, 0]


def edge_chains(layout: str | landmarks.Layout, *, closed: Sequence[str] = ()) -> tuple[tuple[int, ...], ...]:
    """The lines of a layout, each a tuple of landmarks in order; a closed line repeats its first landmark.

    The lines are sorted. The pairs in `layout.edges` may have any order and direction. An open line runs from its end
    with the lower index, a closed one from its lowest index towards the lower of the two neighbours. For ibug68, jaw,
    brows, nose bridge and nose base are open, eyes and lips closed.

    Args:
        layout: name, or the layout itself.
        closed: groups whose line is to be closed. The published code closes ("right_brow", "left_brow") of 51 points.

    Raises:
        InputError: an unknown layout, one without edges, or a group without a line of its own.
    """
    layout = landmarks.get(layout)
    neighbours: dict[int, set[int]] = {}
    for first, second in layout.edges:
        if first != second:
            neighbours.setdefault(first, set()).add(second)
            neighbours.setdefault(second, set()).add(first)
    if not neighbours:
        raise InputError(f"Layout {layout.name} has no edges; choose a layout that has some, such as ibug68.")
    chains = []
    # Open ends come first: a walk from the middle of an open line would cut it in two.
    for start in sorted(neighbours, key=lambda point: (len(neighbours[point]) % 2 == 0, point)):
        while neighbours[start]:
            chains.append(_walk(start, neighbours, layout.groups))
    chains.sort()
    lines = {name: i for name, group in layout.groups.items() for i, line in enumerate(chains) if set(line) == {*group}}
    for name in closed:
        if name not in lines:
            raise InputError(f"Layout {layout.name} has no line of the group {name!r}; {did_you_mean(name, lines)}")
        line = chains[lines[name]]
        if line[0] != line[-1]:
            chains[lines[name]] = (*line, line[0])
    return tuple(chains)


def _walk(start: int, neighbours: dict[int, set[int]], groups: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Follows edges from `start` until it is reached again or no edge is left; removes them from `neighbours`."""
    chain = [start]
    while neighbours[chain[-1]] and (len(chain) == 1 or chain[-1] != start):
        before, here = chain[-2:][0], chain[-1]
        # Where lines meet, as lips do in their corners, go on within the part of the face that the line comes from.
        after = min(neighbours[here], key=lambda point: (not _share_group(before, point, groups), point))
        neighbours[here].remove(after)
        neighbours[after].remove(here)
        chain.append(after)
    return tuple(chain)


def _share_group(first: int, second: int, groups: dict[str, tuple[int, ...]]) -> bool:
    return any(first in group and second in group for group in groups.values())


def membership(chains: Chains, count: int) -> np.ndarray:
    """A of arXiv 2404.06029, float32 [count, E]: 1 where landmark k lies on edge e, else 0."""
    matrix = np.zeros((count, len(chains)), np.float32)
    for edge, chain in enumerate(chains):
        if not all(0 <= point < count for point in chain):
            raise InputError(f"Edge {chain} names a landmark that {count} landmarks do not have.")
        matrix[list(chain), edge] = 1.0
    return matrix


def edge_weights(chains: Chains, weights: ArrayLike) -> jax.Array:
    """The weight of each edge, [B, E]: the smallest of its landmarks' `weights`, float or bool [B, K]."""
    weights = jnp.asarray(weights)
    return jnp.stack([weights[:, list(chain)].min(-1) for chain in chains], -1)


def _splines(points: jax.Array, chains: Chains, pieces: int) -> tuple[jax.Array, np.ndarray]:
    """Points along the cubic spline through the landmarks of each chain, `pieces` of them per chord.

    A chord joins two consecutive landmarks. The parameter of a spline is the length of its chords; ends are natural, or
    periodic for a closed chain. All chords of all chains are computed at once.

    Args:
        points: float [B, K, 2].
        chains: E tuples of landmarks.
        pieces: number of points per chord.

    Returns:
        (float [B, 2, N], float32 [E, N, S]), whose product over N is the S points of each chain; shorter chains repeat
        their last point.
    """
    first, last = (np.concatenate([chain[part] for chain in chains]) for part in (slice(-1), slice(1, None)))
    chords = np.split(np.arange(len(first)), np.cumsum([len(chain) - 1 for chain in chains])[:-1])
    before, after = (np.concatenate([np.roll(own, shift) for own in chords]) for shift in (1, -1))
    # The second derivative is 0 at both ends of an open chain. That of its first landmark also serves as that of its
    # last one, to which `after` wraps around.
    closed = [len(chain) > 2 and chain[0] == chain[-1] for chain in chains]
    bends = np.concatenate([(own > own[0]) | circle for own, circle in zip(chords, closed, strict=True)])

    y, z = (points.swapaxes(1, 2)[:, :, ends] for ends in (first, last))  # [B, 2, number of chords]
    step = jnp.maximum(jnp.sqrt(((z - y) ** 2).sum(1, keepdims=True)), 1e-3)
    slope = (z - y) / step

    def sweep(_: int, m: jax.Array) -> jax.Array:
        rest = 6 * (slope - slope[..., before]) - step[..., before] * m[..., before] - step * m[..., after]
        return jnp.where(bends[None, None], rest / (2 * (step[..., before] + step)), 0.0)

    # The second derivatives m solve step[i-1] m[i-1] + 2 (step[i-1] + step[i]) m[i] + step[i] m[i+1] = 6 (slope[i] -
    # slope[i-1]). The diagonal is twice the sum of the rest of its row, so each sweep at least halves the error. Unlike
    # a linear solver, sweeps can always be sharded along the batch.
    m = jax.lax.fori_loop(0, 24, sweep, jnp.zeros_like(y))
    parts = jnp.concatenate([y, z, m * step**2 / 6, m[..., after] * step**2 / 6], axis=-1)

    basis = np.zeros((len(chains), 4, len(first), pieces * max(map(len, chords)) + 1), np.float32)
    for e, own in enumerate(chords):
        place = np.minimum(np.arange(basis.shape[-1]) / pieces, len(own))
        chord = np.minimum(place.astype(int), len(own) - 1)
        t = place - chord
        for k, value in enumerate((1 - t, t, (1 - t) ** 3 - (1 - t), t**3 - t)):
            basis[e, k, own[chord], np.arange(len(t))] = value
    return parts, basis.reshape(len(chains), -1, basis.shape[-1])


def edge_maps(
    points: ArrayLike,
    chains: Chains,
    size: int = 64,
    drawn: int = 256,
    thickness: float = 1.3,
    shift: float = 0.0,
) -> jax.Array:
    """E* of arXiv 2404.06029: lines through the landmarks of each edge, drawn anti-aliased, then resized bilinearly.

    The published code draws with OpenCV; this equivalent runs on the device, under jit. A drawn pixel at distance d (in
    drawn pixels) from the line has the intensity clip((thickness + 1) / 2 - d, 0, 1). As in the published code, the
    line is a polyline of five pieces from landmark to landmark, along the cubic spline over the length of the chords.
    Only the 2 x 2 drawn pixels per cell that resizing reads are computed, one edge after the other. Being targets, the
    maps carry no gradient.

    Args:
        points: float [B, K, 2] in u.
        chains: E tuples of landmarks (static), as `edge_chains` gives them; a closed one repeats its first landmark.
        size: cells per side of the result.
        drawn: pixels per side of the drawing.
        thickness: of the line, in drawn pixels; OpenCV's anti-aliased line of 1 (4 on 1024 pixels) is 1.3 wide.
        shift: moves the lines to the right and down, in drawn pixels. -0.375 puts them where the published code does:
            it draws on 4 times as many pixels at 4 x, and not at 4 (x + 0.5) - 0.5.

    Returns:
        float32 [B, size, size, E] in [0, 1].
    """
    _check_drawn(size, drawn)
    points = jax.lax.stop_gradient(jnp.asarray(points, jnp.float32))
    batch, count, _ = points.shape
    for chain in chains:
        if len(chain) < 2 or not all(0 <= point < count for point in chain):
            raise ValueError(f"chain {tuple(chain)} must hold at least two of {count} landmarks")
    if not chains:
        return jnp.zeros((batch, size, size, 0), jnp.float32)
    parts, basis = _splines(points * drawn - 0.5 + shift, chains, pieces=5)
    # The drawn pixels that cells read, and their weights in every cell.
    resize = _resize_matrix(drawn, size)
    used = np.flatnonzero(resize.any(axis=0))
    taps = jnp.asarray(resize[:, used])
    exact = jax.lax.Precision.HIGHEST

    def draw(basis: jax.Array) -> jax.Array:
        """One edge, [B, size, size]."""
        curve = jnp.einsum("bcn,ns->bcs", parts, basis, precision=exact)
        start, along = curve[:, :, :-1], jnp.diff(curve, axis=-1)
        square = (along**2).sum(1)[:, None, None, :]
        x, y = (jnp.asarray(used, jnp.float32).reshape(shape) for shape in ((1, 1, -1, 1), (1, -1, 1, 1)))
        x, y = x - start[:, 0][:, None, None, :], y - start[:, 1][:, None, None, :]
        ax, ay = along[:, 0][:, None, None, :], along[:, 1][:, None, None, :]
        part = jnp.clip((x * ax + y * ay) / jnp.where(square > 0, square, 1.0), 0.0, 1.0)
        distance = jnp.sqrt(((x - part * ax) ** 2 + (y - part * ay) ** 2).min(-1))
        line = jnp.clip((thickness + 1) / 2 - distance, 0.0, 1.0)
        return jnp.einsum("byx,iy,jx->bij", line, taps, taps, precision=exact)

    return jnp.moveaxis(jax.lax.map(draw, jnp.asarray(basis)), 0, -1)
