"""The anisotropic attention head: heatmaps, point maps and edge maps, fused. For a teacher and for its light student.

Source: arXiv 2404.06029 and its code, after "ADNet: leveraging error-bias towards normal direction in face alignment",
Huang et al., ICCV 2021.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from mlcm_jax import codecs, landmarks
from mlcm_jax.errors import InputError
from mlcm_jax.models.heads import Prediction, checked_mean_shape
from mlcm_jax.models.layers import BatchNorm, Conv, check_choice, normal


class UpNorm(nnx.Module):
    """Transposed convolution, batch norm, ReLU: [B, h, w, cin] -> [B, stride h, stride w, cout] of `dtype`.

    The kernel has stride + 2 cells a side and a padding of 1: 4x4 for stride 2, 6x6 for stride 4, as in the published
    code, whose bias before the batch norm is left out. It is stored HWIO, for the image with zeros between its cells.
    """

    def __init__(self, cin, cout, stride, *, bn_momentum, rngs: nnx.Rngs, dtype):
        size = stride + 2
        # (size / stride)^2 of the kernel's cells meet one cell of the result, on average.
        self.kernel = nnx.Param(normal(rngs.params(), (size, size, cin, cout), math.sqrt(2.0 / cout) * stride / size))
        self.norm = BatchNorm(cout, momentum=bn_momentum, dtype=dtype)
        self.stride, self.dtype = stride, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        pad = (self.stride, self.stride)  # size - 1 - padding
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            (1, 1),
            (pad, pad),
            lhs_dilation=(self.stride, self.stride),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.nn.relu(self.norm(y))


def instance_norm(x: jax.Array) -> jax.Array:
    """(x - mean) / sqrt(variance + 1e-5) over h and w of every example and channel, float32; no parameters."""
    x = x.astype(jnp.float32)
    x = x - x.mean((1, 2), keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean((1, 2), keepdims=True) + 1e-5)


def fuse(heat: jax.Array, points: jax.Array, edges: jax.Array | None, chains) -> jax.Array:
    """F = ((A E + bias) * P) * H, float32 [B, h, w, K].

    A is the membership of landmarks in edges; bias is 1 for landmarks on no edge and 0 for all others.

    Args:
        heat, points: H and P, float32 [B, h, w, K].
        edges: E, float32 [B, h, w, number of chains]; None where there are no chains.
        chains: tuples of landmarks, `codecs.edge_chains`.
    """
    if edges is None:
        return points * heat
    member = codecs.membership(chains, points.shape[-1])
    on_edge = jnp.einsum("bhwe,ke->bhwk", edges, jnp.asarray(member), precision=jax.lax.Precision.HIGHEST)
    bias = jnp.asarray((member.sum(1) == 0).astype(member.dtype)).reshape(1, 1, 1, -1)
    return (on_edge + bias) * points * heat


class AAM(nnx.Module):
    """Decoder to maps of `upsample` times the features' size, then the anisotropic attention module.

    With H = ReLU(InstanceNorm(conv1x1)), P = sigmoid(conv1x1), E = sigmoid(conv1x1) on the decoded features:
    F = ((A E + bias) * P) * H (see `fuse`), and the landmarks are sum grid F / max(sum F, 1e-6), cell i at (i + 0.5) /
    w. A fresh head answers near the centre of the image. Train it with `losses.star_system`.

    Parameters: `heat`, `points`, `edges` are the three convolutions, [1, 1, c, K or E] whatever the decoder, with c =
    `head_channels`, so that a student can start from its teacher's where both have the same c: copy these three.

    Args:
        channels: C of the features.
        num_landmarks: K.
        mean_shape: checked and not used: the instance norm leaves no place for it.
        layout: name of the landmarks' layout, for the edges; None is a face without edges, M = P.
        decoder: "transposed" (the teacher's): a 1x1 convolution to `head_channels`, then two transposed convolutions
            with batch norm and ReLU, of strides 4 and 2 for an `upsample` of 8 (inferred from a public version of the
            code, which lacks the 1x1 convolution). "nearest" (the student's): each cell repeated, without parameters.
        head_channels: c. With "nearest" and C = c nothing stands before the three convolutions, as in the published
            student; with C other than c, a 1x1 convolution (our addition).
        upsample: power of two; 8 takes 8x8 features to 64x64 maps.
        bn_momentum, rngs, dtype: as in the backbones; the three convolutions and what follows compute in float32.
    """

    def __init__(
        self,
        channels: int,
        num_landmarks: int,
        *,
        mean_shape=None,
        layout: str | None = None,
        decoder: str = "transposed",
        head_channels: int = 256,
        upsample: int = 8,
        bn_momentum: float = 0.9,
        rngs: nnx.Rngs,
        dtype=jnp.float32,
    ):
        check_choice("decoder", decoder, ("transposed", "nearest"))
        if upsample < 1 or upsample & (upsample - 1):
            raise InputError(f"Option upsample is {upsample}; it must be a power of two.")
        if head_channels < 1:
            raise InputError(f"Option head_channels is {head_channels}; it must be at least 1.")
        checked_mean_shape(mean_shape, num_landmarks)
        if layout is not None and landmarks.get(layout).count != num_landmarks:
            count = landmarks.get(layout).count
            raise InputError(f"Option layout is {layout!r}, which has {count} landmarks, not {num_landmarks}.")
        self.chains = () if layout is None else codecs.edge_chains(layout)
        self.decoder, self.upsample = decoder, upsample
        if decoder == "transposed" or channels != head_channels:
            self.reduce = Conv(channels, head_channels, bias=True, rngs=rngs, dtype=dtype)
        else:
            self.reduce = None
        blocks = []
        if decoder == "transposed":
            power = upsample.bit_length() - 1
            for stride in (2 ** (power - power // 2), 2 ** (power // 2)):
                blocks.append(
                    UpNorm(head_channels, head_channels, stride, bn_momentum=bn_momentum, rngs=rngs, dtype=dtype)
                )
        self.blocks = nnx.List(blocks)
        self.heat = Conv(head_channels, num_landmarks, bias=True, rngs=rngs, dtype=jnp.float32)
        self.points = Conv(head_channels, num_landmarks, bias=True, rngs=rngs, dtype=jnp.float32)
        self.edges = (
            Conv(head_channels, len(self.chains), bias=True, rngs=rngs, dtype=jnp.float32) if self.chains else None
        )

    def __call__(self, features: jax.Array, rngs: nnx.Rngs | None = None) -> Prediction:
        """`rngs` is taken for the sake of one signature and not used: no layer here draws numbers."""
        x = features if self.reduce is None else self.reduce(features)
        for block in self.blocks:
            x = block(x)
        heat = jax.nn.relu(instance_norm(self.heat(x)))
        points = jax.nn.sigmoid(self.points(x))
        edges = None if self.edges is None else jax.nn.sigmoid(self.edges(x))
        fused = fuse(heat, points, edges, self.chains)
        if self.decoder == "nearest":
            # All of the above works cell by cell or on means over the cells, so repeating the cells commutes with it.
            fused, points, edges = (None if m is None else self._repeat(m) for m in (fused, points, edges))
        return Prediction(codecs.expectation(fused, floor=1e-6), fused, points, edges)

    def _repeat(self, maps: jax.Array) -> jax.Array:
        return maps.repeat(self.upsample, axis=1).repeat(self.upsample, axis=2)
