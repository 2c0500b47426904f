"""Layers with a bias, whose gradient is summed in float32 whatever type the layer computes in.

If a bias in bfloat16 is added to a map, its gradient is a sum over the map in bfloat16. On a CPU, XLA adds up such a
sum one by one, so that it stops growing when a summand is less than a 256th of it: over 16 maps of 16×16, a quarter of
the sum was found. `spread` sums in float32; its values are the same to the last bit.
"""

import jax
import jax.numpy as jnp
from flax import nnx


def spread(a: jax.Array, like: jax.Array) -> jax.Array:
    """`a` with the shape and the type of `like`; the gradient of `a` is summed in float32.

    Args:
        a: float, of the rank of `like`, with 1 along the axes that are repeated.
        like: float.
    """
    return jnp.broadcast_to(a.astype(jnp.float32), like.shape).astype(like.dtype)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """The sum of x [..., C] and bias float32 [C], in the type of x."""
    return x + spread(bias.reshape((1,) * (x.ndim - 1) + (-1,)), x)


class Conv(nnx.Conv):
    """A convolution of maps; `strides` and `padding` are those of `layers.conv`, one integer each."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, h, w, C']."""
        if self.bias is None:
            return super().__call__(x)
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        strides, padding = (self.strides,) * 2, ((self.padding,) * 2,) * 2
        y = self.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return add_bias(y, self.bias[...])


class Linear(nnx.Linear):
    """A dense layer."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C']."""
        if self.bias is None:
            return super().__call__(x)
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        y = jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
        return add_bias(y, self.bias[...])
