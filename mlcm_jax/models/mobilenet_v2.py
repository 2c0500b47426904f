"""MobileNetV2: Sandler et al. 2018, "Inverted Residuals and Linear Bottlenecks", as torchvision builds it."""

from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from mlcm_jax.models.layers import (
    Common,
    ConvNorm,
    check_channels,
    check_width,
    make_divisible,
    normalise,
    run_stages,
    stem_stride,
)

# expansion, channels, number of blocks, stride of the first block
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nnx.Module):
    """1×1 expansion, 3×3 depthwise convolution, linear 1×1 projection."""

    def __init__(self, cin: int, cout: int, stride: int, expansion: int, **common: Unpack[Common]) -> None:
        hidden = cin * expansion
        act = jax.nn.relu6
        units = [] if expansion == 1 else [ConvNorm(cin, hidden, act=act, **common)]
        units.append(ConvNorm(hidden, hidden, 3, stride, act=act, depthwise=True, **common))
        units.append(ConvNorm(hidden, cout, **common))
        self.units = nnx.List(units)
        self.adds = stride == 1 and cin == cout

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, cin] -> [B, ceil(H / stride), ceil(W / stride), cout]."""
        y = x
        for unit in self.units:
            y = unit(y)
        return x + y if self.adds else y


class MobileNetV2(nnx.Module):
    """Backbone of inverted residuals.

    Args:
        width: multiplies all channels, which are then rounded to multiples of 8; the last layer's only if above 1.
        stem: "imagenet" strides by 2 in the first convolution, for a total stride of 32; "small" does not, for 16.
        last_channels: channels of the features; None is 1280 · max(1, width).
        bn_momentum: see `layers.BatchNorm`.
        rngs: draws the initial parameters (stream `params`).
        dtype: of the computation.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        stem: str = "imagenet",
        last_channels: int | None = None,
        bn_momentum: float = 0.9,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        check_width(width)
        check_channels("last_channels", last_channels)
        common = Common(bn_momentum=bn_momentum, rngs=rngs, dtype=dtype)
        cin = make_divisible(32 * width)
        self.stem = ConvNorm(3, cin, 3, stem_stride(stem), act=jax.nn.relu6, **common)
        stages = []
        for expansion, channels, depth, first_stride in _STAGES:
            cout = make_divisible(channels * width)
            blocks = []
            for block in range(depth):
                stride = first_stride if block == 0 else 1
                blocks.append(InvertedResidual(cin, cout, stride, expansion, **common))
                cin = cout
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.channels = last_channels or make_divisible(1280 * max(1.0, width))
        self.last = ConvNorm(cin, self.channels, act=jax.nn.relu6, **common)
        self.stride = 16 * stem_stride(stem)
        self.dtype = dtype

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Image [B, H, W, 1 or 3] in [0, 1] -> features [B, ceil(H / stride), ceil(W / stride), channels].

        All backbones take `rngs`; this one draws no random numbers.
        """
        with jax.named_scope("stem"):
            x = self.stem(normalise(x, self.dtype))
        x = run_stages(self.stages, x)[-1]
        with jax.named_scope("last"):
            return self.last(x)

    def torch_modules(self) -> dict[str, nnx.Module]:
        """Our convolutions and normalisations by the names that torchvision gives them, for `pretrained`."""
        modules = {"features.0.0": self.stem.conv, "features.0.1": self.stem.norm}
        blocks = [block for stage in self.stages for block in stage]
        for b, block in enumerate(blocks, start=1):
            prefix = f"features.{b}.conv."
            *inner, project = block.units
            for u, unit in enumerate(inner):
                modules |= {f"{prefix}{u}.0": unit.conv, f"{prefix}{u}.1": unit.norm}
            modules |= {f"{prefix}{len(inner)}": project.conv, f"{prefix}{len(inner) + 1}": project.norm}
        last = len(blocks) + 1
        return modules | {f"features.{last}.0": self.last.conv, f"features.{last}.1": self.last.norm}
