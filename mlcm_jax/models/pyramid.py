"""A top-down pathway over the stages of a backbone: Lin et al. 2017, "Feature Pyramid Networks"."""

from collections.abc import Sequence
from typing import Unpack

import jax
from flax import nnx

from mlcm_jax.models.layers import Common, ConvNorm, doubled


class Pyramid(nnx.Module):
    """Coarse features, doubled again and again and added to finer ones: as fine as the first stage, aware of the last.

    Unlike the paper's, it has batch normalisation and ReLU, and returns its finest map alone.

    Args:
        stages: channels of the outputs of the stages, each of half the size of the one before.
        channels: C of the result.
    """

    def __init__(self, stages: Sequence[int], channels: int, **common: Unpack[Common]) -> None:
        self.laterals = nnx.List([ConvNorm(cin, channels, **common) for cin in stages])
        self.blocks = nnx.List([ConvNorm(channels, channels, 3, act=jax.nn.relu, **common) for _ in stages])

    def __call__(self, maps: Sequence[jax.Array]) -> jax.Array:
        """Outputs of the stages, [B, h, w, C'] and smaller, -> [B, h, w, C]."""
        *finer, last = zip(maps, self.laterals, self.blocks, strict=True)
        x, lateral, block = last
        x = block(jax.nn.relu(lateral(x)))
        for fine, lateral, block in reversed(finer):
            x = block(jax.nn.relu(doubled(x)[:, : fine.shape[1], : fine.shape[2]] + lateral(fine)))
        return x
