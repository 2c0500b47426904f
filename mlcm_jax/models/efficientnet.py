"""EfficientNet B0 to B4: Tan & Le 2019, as torchvision builds it (normalisation with eps 1e-5, symmetric padding)."""

import math
from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from mlcm_jax.models.layers import (
    Common,
    ConvNorm,
    SqueezeExcite,
    check_width,
    dropout,
    make_divisible,
    normalise,
    run_stages,
    stem_stride,
)

# of B0: expansion, kernel size, stride of the first block, channels, number of blocks
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class MBConv(nnx.Module):
    """1×1 expansion, depthwise convolution, squeeze-excitation, linear 1×1 projection, stochastic depth."""

    def __init__(
        self,
        cin: int,
        cout: int,
        size: int,
        stride: int,
        expansion: int,
        drop_path: float,
        **common: Unpack[Common],
    ) -> None:
        hidden = make_divisible(cin * expansion)
        act = jax.nn.silu
        self.expands = hidden != cin
        if self.expands:
            self.expand = ConvNorm(cin, hidden, act=act, **common)
        self.spatial = ConvNorm(hidden, hidden, size, stride, act=act, depthwise=True, **common)
        self.excite = SqueezeExcite(hidden, max(1, cin // 4), rngs=common["rngs"], dtype=common["dtype"])
        self.project = ConvNorm(hidden, cout, **common)
        self.drop = dropout(drop_path, per_example=True)
        self.adds = stride == 1 and cin == cout

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, H, W, cin] -> [B, ceil(H / stride), ceil(W / stride), cout]."""
        y = self.expand(x) if self.expands else x
        y = self.project(self.excite(self.spatial(y)))
        return x + self.drop(y, rngs=rngs) if self.adds else y


class EfficientNet(nnx.Module):
    """Backbone of inverted residuals with squeeze-excitation.

    Args:
        scales: factors, relative to B0, of the channels and of the blocks per stage (rounded up).
        width: multiplies all channels once more; they are rounded to multiples of 8 after each multiplication.
        stem: "imagenet" strides by 2 in the first convolution, for a total stride of 32; "small" does not, for 16.
        drop_path: stochastic depth of the last block while training, growing linearly from 0 at the first. Needs `rngs`
            in the call.
        bn_momentum: see `layers.BatchNorm`.
        rngs: draws the initial parameters (stream `params`).
        dtype: of the computation.
    """

    def __init__(
        self,
        scales: tuple[float, float],
        *,
        width: float = 1.0,
        stem: str = "imagenet",
        drop_path: float = 0.2,
        bn_momentum: float = 0.9,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        check_width(width)
        common = Common(bn_momentum=bn_momentum, rngs=rngs, dtype=dtype)
        scale, depth = scales
        cin = make_divisible(32 * scale * width)
        self.stem = ConvNorm(3, cin, 3, stem_stride(stem), act=jax.nn.silu, **common)
        total, done, stages = sum(math.ceil(s[4] * depth) for s in _STAGES), 0, []
        for expansion, size, first_stride, channels, number in _STAGES:
            cout = make_divisible(channels * scale * width)
            blocks = []
            for block in range(math.ceil(number * depth)):
                stride = first_stride if block == 0 else 1
                blocks.append(MBConv(cin, cout, size, stride, expansion, drop_path * done / total, **common))
                cin, done = cout, done + 1
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.channels = 4 * cin
        self.last = ConvNorm(cin, self.channels, act=jax.nn.silu, **common)
        self.stride = 16 * stem_stride(stem)
        self.dtype = dtype

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Image [B, H, W, 1 or 3] in [0, 1] -> features [B, ceil(H / stride), ceil(W / stride), channels]."""
        with jax.named_scope("stem"):
            x = self.stem(normalise(x, self.dtype))
        x = run_stages(self.stages, x, rngs)[-1]
        with jax.named_scope("last"):
            return self.last(x)

    def torch_modules(self) -> dict[str, nnx.Module]:
        """Our convolutions and normalisations by the names that torchvision gives them, for `pretrained`."""
        modules = {"features.0.0": self.stem.conv, "features.0.1": self.stem.norm}
        for s, blocks in enumerate(self.stages, start=1):
            for b, block in enumerate(blocks):
                units = [block.expand] if block.expands else []
                units += [block.spatial, block.excite, block.project]
                for u, unit in enumerate(units):
                    prefix = f"features.{s}.{b}.block.{u}."
                    if unit is block.excite:
                        modules |= {f"{prefix}fc1": unit.fc1, f"{prefix}fc2": unit.fc2}
                    else:
                        modules |= {f"{prefix}0": unit.conv, f"{prefix}1": unit.norm}
        last = len(self.stages) + 1
        return modules | {f"features.{last}.0": self.last.conv, f"features.{last}.1": self.last.norm}
