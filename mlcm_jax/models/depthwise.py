"""Depthwise convolution in the form that suits each platform.

On a CPU, XLA runs a convolution with `feature_group_count` 10 to 40 times slower than its arithmetic would need. There
we write it as k² shifted multiply-adds, with a gradient of our own; GPUs and TPUs, and compile-only topologies of them,
get the convolution. `jax.lax.platform_dependent` chooses when the program is lowered, so that the choice follows the
device that the program is for, not the one that traces it. For timings see `benchmarks/RESULTS.md`.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp

_PLAIN = contextvars.ContextVar("plain", default=False)


@contextlib.contextmanager
def as_convolution() -> Iterator[None]:
    """While it lasts, `chosen` traces the convolution for every platform: exported files should have one operation."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def exporting() -> bool:
    """Whether `as_convolution` lasts."""
    return _PLAIN.get()


def chosen(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`depthwise`, or `convolution` inside `as_convolution`."""
    return (convolution if exporting() else depthwise)(x, kernel, stride)


def convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """XLA's grouped convolution. Shapes are those of `depthwise`."""
    size, channels = kernel.shape[0], x.shape[-1]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((size // 2, size // 2), (size // 2, size // 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def _window(padded: jax.Array, i: int, j: int, height: int, width: int, stride: int) -> jax.Array:
    """The pixels of `padded` that tap (i, j) of the kernel is multiplied with, [B, height, width, C]."""
    return padded[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]


def shifted(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`convolution` as k² shifted multiply-adds, accumulated in float32."""
    size = kernel.shape[0]
    pad = size // 2
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))).astype(jnp.float32)
    kernel = kernel.astype(jnp.float32)
    total = jnp.zeros((x.shape[0], height, width, x.shape[3]), jnp.float32)
    for i in range(size):
        for j in range(size):
            total += _window(padded, i, j, height, width, stride) * kernel[i, j].reshape(1, 1, 1, -1)
    return total.astype(x.dtype)


def convolution_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """Gradients of `convolution` with respect to x and kernel, where g [B, h, w, C] is that of its result."""
    return jax.vjp(partial(convolution, stride=stride), x, kernel)[1](g)


def shifted_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """`convolution_gradient` in a form that is fast on a CPU."""
    size = kernel.shape[0]
    gaps = [(0, x.shape[axis] - stride * (g.shape[axis] - 1) - 1, stride - 1) for axis in (1, 2)]
    spread = jax.lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), *gaps, (0, 0, 0)))
    dx = shifted(spread, kernel[::-1, ::-1], 1)
    return dx, _kernel_gradient(x, g, size, stride).reshape(kernel.shape).astype(kernel.dtype)


def _largest_divisor(number: int, limit: int) -> int:
    return max(d for d in range(1, max(1, min(number, limit)) + 1) if number % d == 0)


def _kernel_gradient(x: jax.Array, g: jax.Array, size: int, stride: int) -> jax.Array:
    """For every tap, the sum of window · g over B, h and w: float32 [size², C].

    If XLA is left alone, it writes each of the k² products to memory before summing it, which takes 90 % of the time of
    the whole gradient. Here a loop runs over blocks of rows that fit into the cache, and inside it the columns are
    summed in one expression, which XLA fuses. The batch axis is never split, so that a sharded batch needs no
    communication except for the last sum.
    """
    batch, height, width, channels = g.shape
    pad = size // 2
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))).astype(jnp.float32)
    g = g.astype(jnp.float32)
    terms = _largest_divisor(width, 16)  # of the fused expression; more terms gain nothing and take longer to compile
    columns = width // terms
    rows = _largest_divisor(height, 256 * 1024 // (4 * batch * width * channels))
    span = min(stride * (rows - 1) + size, padded.shape[1])

    def add_rows(block: jax.Array, totals: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        rows_of_g = jax.lax.dynamic_slice_in_dim(g, block * rows, rows, axis=1)
        rows_of_x = jax.lax.dynamic_slice_in_dim(padded, block * rows * stride, span, axis=1)
        sums = []
        for tap, total in enumerate(totals):
            for first in range(0, width, columns):
                window = _window(rows_of_x, tap // size, tap % size + first * stride, rows, columns, stride)
                total = total + window * rows_of_g[:, :, first : first + columns]
            sums.append(total)
        return tuple(sums)

    zeros = tuple(jnp.zeros((batch, rows, columns, channels), jnp.float32) for _ in range(size * size))
    totals = jax.lax.fori_loop(0, height // rows, add_rows, zeros)
    return jnp.stack([total.sum((0, 1, 2)) for total in totals])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Depthwise convolution with PyTorch's symmetric padding.

    Args:
        x: [B, H, W, C].
        kernel: [k, k, 1, C], k odd, of x's dtype.
        stride: 1 or 2.

    Returns:
        [B, ceil(H / stride), ceil(W / stride), C] of x's dtype.
    """
    return jax.lax.platform_dependent(
        x, kernel, cpu=partial(shifted, stride=stride), default=partial(convolution, stride=stride)
    )


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise(x, kernel, stride), (x, kernel)


def _backward(stride: int, residual: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residual
    return jax.lax.platform_dependent(
        x, kernel, g, cpu=partial(shifted_gradient, stride=stride), default=partial(convolution_gradient, stride=stride)
    )


depthwise.defvjp(_forward, _backward)
