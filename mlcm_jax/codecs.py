"""Landmarks to network targets and back: coordinates in u, flat vectors, Gaussian heatmaps. Pure functions of arrays.

One convention rules everything here (`design/house.md`): pixel centres are integers, and for a picture of side S
`u = (x + 0.5) / S`. So u = 0 and u = 1 are the picture's *edges*, a mirror image is `1 - u`, and cell i of a heatmap
with W cells sits at `(i + 0.5) / W` whatever W is. A decoder that forgets the half pixel is wrong by half a cell, which
no round trip shows.
"""

import jax
import jax.numpy as jnp


def to_u(pixels, size):
    """Pixel coordinates to u: `(x + 0.5) / size`, `size` the side in pixels. Numpy in, numpy out."""
    return (pixels + 0.5) / size


def to_pixels(u, size):
    """The inverse of `to_u`: `u * size - 0.5`."""
    return u * size - 0.5


def to_original(u, to_image, size):
    """Landmarks of a crop to pixels of the original picture.

    Args:
      u: float [..., K, 2], coordinates in the crop.
      to_image: float [..., 2, 3], crop pixels to original pixels (a batch's field of that name).
      size: side of the crop in pixels.

    Returns:
      float [..., K, 2] in pixels of the original picture.
    """
    pixels = to_pixels(u, size)
    # A product and a sum: as a matrix product, a GPU would round the coordinates to TF32, a quarter pixel of 512.
    return (pixels[..., None, :] * to_image[..., None, :, :2]).sum(-1) + to_image[..., None, :, 2]


def to_vector(points):
    """[..., K, 2] to the vector x0, y0, x1, y1, … of shape [..., 2K] that a regression layer gives."""
    return points.reshape(*points.shape[:-2], points.shape[-2] * 2)


def from_vector(vector):
    """The inverse of `to_vector`: [..., 2K] to [..., K, 2]."""
    if vector.shape[-1] % 2:
        raise ValueError(f"a vector of x, y pairs has an even length, not {vector.shape[-1]}")
    return vector.reshape(*vector.shape[:-1], vector.shape[-1] // 2, 2)


def cell_centres(count: int, dtype=jnp.float32) -> jax.Array:
    """u of the centres of `count` cells along one axis, float [count]: (i + 0.5) / count."""
    return (jnp.arange(count, dtype=dtype) + 0.5) / count


def encode_heatmap(points, size, *, sigma=1.5) -> jax.Array:
    """Gaussians of height 1 at the landmarks, sampled at the cell centres (not at the nearest cell: no quantisation).

    `exp(-((x - x_i)^2 + (y - y_j)^2) / (2 sigma^2))`, distances in cells. A landmark outside the map leaves the tail
    that falls inside it.

    Args:
      points: float [B, K, 2] in u.
      size: (h, w) of the maps, or one int for square ones.
      sigma: standard deviation in cells.

    Returns:
      float [B, h, w, K].
    """
    height, width = (size, size) if isinstance(size, int) else size
    points = jnp.asarray(points)

    def profile(u, count):  # [B, K] -> [B, count, K]
        distance = (cell_centres(count, points.dtype)[None, :, None] - u[:, None, :]) * count
        return jnp.exp(-(distance**2) / (2 * sigma**2))

    return profile(points[..., 1], height)[:, :, None, :] * profile(points[..., 0], width)[:, None, :, :]


def expectation(weights) -> jax.Array:
    """Centre of mass of nonnegative maps [B, h, w, K] in u, [B, K, 2]; the middle of a map that is all zero."""
    _, height, width, _ = weights.shape
    total = weights.sum(axis=(1, 2))  # [B, K]
    some = total > 0
    scale = jnp.where(some, 1.0, 0.0) / jnp.where(some, total, 1.0)
    exact = jax.lax.Precision.HIGHEST  # a GPU's TF32 would cost a thousandth of the picture
    x = jnp.einsum("bwk,w->bk", weights.sum(axis=1), cell_centres(width, weights.dtype), precision=exact) * scale
    y = jnp.einsum("bhk,h->bk", weights.sum(axis=2), cell_centres(height, weights.dtype), precision=exact) * scale
    return jnp.where(some[..., None], jnp.stack([x, y], axis=-1), 0.5)


def soft_argmax(logits, temperature=1.0) -> jax.Array:
    """Differentiable decoding: the mean position under `softmax(logits / temperature)` over the cells.

    "Integral human pose regression", Sun et al., ECCV 2018. The result is a convex combination of cell centres, so it
    stays in [0.5/w, 1 - 0.5/w]. Computed in float32 at least, as bf16 cannot hold a position to a tenth of a pixel.

    Args:
      logits: float [B, h, w, K].
      temperature: float > 0; smaller is sharper.

    Returns:
      float32 [B, K, 2] in u.
    """
    batch, height, width, count = logits.shape
    flat = logits.astype(jnp.promote_types(logits.dtype, jnp.float32)).reshape(batch, height * width, count)
    return expectation(jax.nn.softmax(flat / temperature, axis=1).reshape(batch, height, width, count))


def argmax_decode(heatmaps, *, refine: bool = True) -> tuple[jax.Array, jax.Array]:
    """The highest cell of each map, moved to the top of the parabola through the logarithm of its neighbourhood.

    The move is one Newton step, `-H^-1 g` of log(heatmap) by central differences: "Distribution-aware coordinate
    representation" (DARK), Zhang et al., CVPR 2020, without its pre-blur. Exact for a Gaussian whose peak is a cell
    away from the border. The step is limited to one cell, and left out where the peak touches the border or is no
    strict maximum.

    Args:
      heatmaps: float [B, h, w, K], nonnegative.
      refine: False gives cell centres.

    Returns:
      (float32 [B, K, 2] in u, float32 [B, K] value of the highest cell).
    """
    batch, height, width, count = heatmaps.shape
    maps = heatmaps.astype(jnp.promote_types(heatmaps.dtype, jnp.float32)).transpose(0, 3, 1, 2)
    flat = maps.reshape(batch, count, height * width)
    best = jnp.argmax(flat, axis=-1)
    score = jnp.max(flat, axis=-1)
    row, column = best // width, best % width
    cell = jnp.stack([column, row], axis=-1).astype(maps.dtype)
    if refine and height >= 3 and width >= 3:
        r, c = jnp.clip(row, 1, height - 2), jnp.clip(column, 1, width - 2)
        log = jnp.log(jnp.maximum(flat, 1e-10))

        def at(dy, dx):
            return jnp.take_along_axis(log, ((r + dy) * width + c + dx)[..., None], axis=-1)[..., 0]

        gx, gy = (at(0, 1) - at(0, -1)) / 2, (at(1, 0) - at(-1, 0)) / 2
        xx, yy = at(0, 1) - 2 * at(0, 0) + at(0, -1), at(1, 0) - 2 * at(0, 0) + at(-1, 0)
        xy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
        determinant = xx * yy - xy**2
        inside = (r == row) & (c == column)
        peaked = inside & (xx < 0) & (determinant > 0)
        safe = jnp.where(peaked, determinant, 1.0)
        step = jnp.stack([-(yy * gx - xy * gy) / safe, -(xx * gy - xy * gx) / safe], axis=-1)
        cell = cell + jnp.where(peaked[..., None], jnp.clip(step, -1.0, 1.0), 0.0)
    return (cell + 0.5) / jnp.array([width, height], maps.dtype)[None, None, :], score
