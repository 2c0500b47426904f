"""The anisotropic attention head of a teacher or of its lightweight student: heatmaps, point maps and edge maps.

Source: arXiv 2404.06029 and its code, after "ADNet: leveraging error-bias towards normal direction in face alignment",
Huang et al., ICCV 2021.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from mlcm_jax import codecs, landmarks, layout_file
from mlcm_jax.errors import InputError
from mlcm_jax.models.heads import Prediction
from mlcm_jax.models.layers import BatchNorm, Common, Plain, check_choice, check_upsample, conv, normal


class UpNorm(nnx.Module):
    """Transposed convolution, batch norm, ReLU.

    The kernel has stride + 2 cells a side and a padding of 1: 4×4 for stride 2, 6×6 for stride 4, as in the published
    code, but without its bias before the batch norm. It is stored HWIO and applied as a plain convolution to the map
    with zeros between its cells.
    """

    def __init__(self, cin: int, cout: int, stride: int, **common: Unpack[Common]) -> None:
        size = stride + 2
        # On average, (size / stride)² cells of the kernel contribute to one cell of the result.
        deviation = math.sqrt(2.0 / cout) * stride / size
        self.kernel = nnx.Param(normal(common["rngs"].params(), (size, size, cin, cout), deviation))
        self.norm = BatchNorm(cout, momentum=common["bn_momentum"], dtype=common["dtype"])
        self.stride, self.dtype = stride, common["dtype"]

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, cin] -> [B, stride · h, stride · w, cout] of `dtype`."""
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
    """Instance normalisation without parameters: (x - mean) / sqrt(variance + 1e-5) over h and w, in float32.

    Args:
        x: [B, h, w, C] of any float type.
    """
    x = x.astype(jnp.float32)
    x = x - x.mean((1, 2), keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean((1, 2), keepdims=True) + 1e-5)


def fuse(heat: jax.Array, points: jax.Array, edges: jax.Array | None, chains: Sequence[tuple[int, ...]]) -> jax.Array:
    """F = ((A·E + bias) ∘ P) ∘ H: each heatmap is kept where its point map and the maps of its edges agree.

    A is the membership of landmarks in edges; the bias is 1 for landmarks on no edge and 0 for all others.

    Args:
        heat: H, float32 [B, h, w, K].
        points: P, float32 [B, h, w, K].
        edges: E, float32 [B, h, w, number of chains]; None where there are no chains.
        chains: the landmarks of each edge, in order: `codecs.edge_chains`.

    Returns:
        float32 [B, h, w, K].
    """
    if edges is None:
        return points * heat
    member = codecs.membership(chains, points.shape[-1])
    on_edge = jnp.einsum("bhwe,ke->bhwk", edges, jnp.asarray(member), precision=jax.lax.Precision.HIGHEST)
    bias = jnp.asarray((member.sum(1) == 0).astype(member.dtype)).reshape(1, 1, 1, -1)
    return (on_edge + bias) * points * heat


def _edge_chains(layout: str | Path | landmarks.Layout, num_landmarks: int) -> tuple[tuple[int, ...], ...]:
    found = layout_file.find(layout)
    if found.count != num_landmarks:
        raise InputError(f"Option layout is {found.name!r}, which has {found.count} landmarks, not {num_landmarks}.")
    return codecs.edge_chains(found)


class AAM(nnx.Module):
    """A decoder to maps of `upsample` times the features' size, then the anisotropic attention module.

    The decoded features give H = ReLU(InstanceNorm(conv1×1)), P = σ(conv1×1) and E = σ(conv1×1), which `fuse` combines
    into F. The landmarks are Σ grid·F / max(ΣF, 1e-6), with cell i at (i + 0.5) / w. A new head predicts landmarks
    near the centre of the image; the instance norm leaves no place for a mean shape. The loss is
    `losses.star` of F and `losses.map_awing` of P and E.

    The three convolutions `heat`, `points` and `edges` have kernels [1, 1, c, K or E] whatever the decoder, with c =
    `head_channels`. A student with the teacher's c can therefore start from copies of them.

    Args:
        channels: C of the features.
        num_landmarks: K.
        layout: the layout whose edges are drawn: a name, a `landmarks.Layout`, or the YAML file of a user's own layout;
            None means no edge maps.
        decoder: "transposed" (the teacher's) is a 1×1 convolution to `head_channels` and two transposed convolutions
            with batch norm and ReLU, of strides 4 and 2 for an `upsample` of 8 (inferred from a public version of the
            code, which lacks the 1×1 convolution). "nearest" (the student's) repeats each cell, without parameters.
        head_channels: c. Where C = c, the "nearest" decoder has nothing before the three convolutions, as in the
            published student; otherwise it has a 1×1 convolution (our addition).
        upsample: power of two; 8 takes 8×8 features to 64×64 maps.
        bn_momentum: see `layers.BatchNorm`.
        plain: `layers.Plain`; the dtype is that of the decoder, and everything after it computes in float32.
    """

    def __init__(
        self,
        channels: int,
        num_landmarks: int,
        *,
        layout: str | Path | landmarks.Layout | None = None,
        decoder: str = "transposed",
        head_channels: int = 256,
        upsample: int = 8,
        bn_momentum: float = 0.9,
        **plain: Unpack[Plain],
    ) -> None:
        check_choice("decoder", decoder, ("transposed", "nearest"))
        check_upsample(upsample)
        if head_channels < 1:
            raise InputError(f"Option head_channels is {head_channels}; it must be at least 1.")
        self.chains = () if layout is None else _edge_chains(layout, num_landmarks)
        self.decoder, self.upsample = decoder, upsample
        if decoder == "transposed" or channels != head_channels:
            self.reduce = conv(channels, head_channels, bias=True, **plain)
        else:
            self.reduce = None
        blocks = []
        if decoder == "transposed":
            power = upsample.bit_length() - 1
            for stride in (2 ** (power - power // 2), 2 ** (power // 2)):
                blocks.append(UpNorm(head_channels, head_channels, stride, bn_momentum=bn_momentum, **plain))
        self.blocks = nnx.List(blocks)
        exact = Plain(rngs=plain["rngs"], dtype=jnp.float32)
        self.heat = conv(head_channels, num_landmarks, bias=True, **exact)
        self.points = conv(head_channels, num_landmarks, bias=True, **exact)
        self.edges = conv(head_channels, len(self.chains), bias=True, **exact) if self.chains else None

    def __call__(self, features: jax.Array, rngs: nnx.Rngs | None = None) -> Prediction:
        """All heads take `rngs`; this one draws no random numbers."""
        fused, points, edges = self._maps(features)
        if self.decoder == "nearest":
            # Repeating cells last is cheaper and gives the same: all of the above works cell by cell, or on means over
            # cells.
            fused, points, edges = (None if m is None else self._repeat(m) for m in (fused, points, edges))
        return Prediction(codecs.expectation(fused, floor=1e-6), fused, points, edges)

    def fused(self, features: jax.Array) -> jax.Array:
        """F before its cells are repeated, float32 [B, h, w, K]; repeating them moves no landmark."""
        return self._maps(features)[0]

    def _maps(self, features: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """F, P and E before their cells are repeated."""
        x = features if self.reduce is None else self.reduce(features)
        for block in self.blocks:
            x = block(x)
        heat = jax.nn.relu(instance_norm(self.heat(x)))
        points = jax.nn.sigmoid(self.points(x))
        edges = None if self.edges is None else jax.nn.sigmoid(self.edges(x))
        return fuse(heat, points, edges, self.chains), points, edges

    def _repeat(self, maps: jax.Array) -> jax.Array:
        return maps.repeat(self.upsample, axis=1).repeat(self.upsample, axis=2)
