"""Layers with a bias, whose gradient is summed in float32 whatever type the layer computes in.

If a bias in bfloat16 is added to a map, its gradient is a sum over the map in bfloat16. On a CPU, XLA adds up such a
sum one by one, so that it stops growing when a summand is less than a 256th of it. `spread` sums in float32; its values
are the same to the last bit. In float32, the layers are those of nnx.
"""

import jax
import jax.numpy as jnp
from flax import nnx


def spread(a: jax.Array, like: jax.Array) -> jax.Array:
    """`a` with the type of `like`, for an operation with it; the gradient of `a` is summed in float32.

    Args:
        a: float, of the rank of `like`, with 1 along the axes that are repeated.
        like: float.
    """
    a = a.astype(jnp.float32)
    if like.dtype == jnp.float32:
        return a  # repeated by what uses it; ONNX files would store a bias that is repeated here as a whole map
    return jnp.broadcast_to(a, like.shape).astype(like.dtype)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """The sum of x [..., C] and bias float32 [C], in the type of x."""
    return x + spread(bias.reshape((1,) * (x.ndim - 1) + (-1,)), x)


class Conv(nnx.Conv):
    """A convolution as `layers.conv` makes it: one integer for `strides` and `padding`, no groups, dilation or mask."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, h, w, C']."""
        if self.bias is None or self.dtype == jnp.float32:
            return super().__call__(x)
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        strides, padding = (self.strides,) * 2, ((self.padding,) * 2,) * 2
        y = self.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return add_bias(y, self.bias[...])


class Linear(nnx.Linear):
    """A dense layer as `layers.linear` makes it, without options for its product."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C']."""
        if self.bias is None or self.dtype == jnp.float32:
            return super().__call__(x)
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        y = jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
        return add_bias(y, self.bias[...])
