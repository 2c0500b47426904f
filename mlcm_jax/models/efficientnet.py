"""EfficientNet B0 to B4: Tan & Le 2019, as torchvision builds it (normalisation with eps 1e-5, symmetric padding)."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from mlcm_jax.models.layers import (
    ConvNorm,
    Dropout,
    SqueezeExcite,
    check_choice,
    check_width,
    make_divisible,
    normalise,
)

# expansion, kernel size, stride of the first block, channels, blocks: of B0
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
    """1×1 expansion, depthwise, squeeze-excitation, linear 1×1, stochastic depth.

    [B, H, W, cin] -> [B, ceil(H / stride), ceil(W / stride), cout].
    """

    def __init__(self, cin, cout, size, stride, expansion, drop_path, **common):
        hidden = make_divisible(cin * expansion)
        act = jax.nn.silu
        self.expands = hidden != cin
        if self.expands:
            self.expand = ConvNorm(cin, hidden, act=act, **common)
        self.spatial = ConvNorm(hidden, hidden, size, stride, act=act, depthwise=True, **common)
        self.excite = SqueezeExcite(hidden, max(1, cin // 4), rngs=common["rngs"], dtype=common["dtype"])
        self.project = ConvNorm(hidden, cout, **common)
        self.drop = Dropout(drop_path, per_example=True)
        self.adds = stride == 1 and cin == cout

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        y = self.expand(x) if self.expands else x
        y = self.project(self.excite(self.spatial(y)))
        return x + self.drop(y, rngs) if self.adds else y


class EfficientNet(nnx.Module):
    """Backbone, image [B, H, W, 1 or 3] in [0, 1] -> features [B, ceil(H / stride), ceil(W / stride), channels].

    Args:
        scale: channels of this member of the family, in B0's.
        depth: blocks per stage of this member, in B0's, rounded up.
        width: multiplies all channels once more; they are rounded to multiples of 8 after each multiplication.
        stem: "imagenet" strides by 2 in the first convolution, for a total stride of 32; "small" does not, for 16.
        drop_path: stochastic depth of the last block while training, growing linearly from 0. Needs `rngs` in the call.
        bn_momentum: see `layers.BatchNorm`.
        rngs: draws the initial parameters (stream `params`).
        dtype: of the computation.
    """

    def __init__(
        self,
        scale: float,
        depth: float,
        *,
        width: float = 1.0,
        stem: str = "imagenet",
        drop_path: float = 0.2,
        bn_momentum: float = 0.9,
        rngs: nnx.Rngs,
        dtype=jnp.float32,
    ):
        check_width(width)
        check_choice("stem", stem, ("imagenet", "small"))
        common = {"bn_momentum": bn_momentum, "rngs": rngs, "dtype": dtype}
        cin = make_divisible(32 * scale * width)
        self.stem = ConvNorm(3, cin, 3, 2 if stem == "imagenet" else 1, act=jax.nn.silu, **common)
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
        self.stride = 32 if stem == "imagenet" else 16
        self.dtype = dtype

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        with jax.named_scope("stem"):
            x = self.stem(normalise(x, self.dtype))
        for index, blocks in enumerate(self.stages):
            with jax.named_scope(f"stages.{index}"):
                for block in blocks:
                    x = block(x, rngs)
        with jax.named_scope("last"):
            return self.last(x)

    def torch_modules(self) -> dict[str, nnx.Module]:
        """torchvision's module names -> our convolutions and normalisations, for `pretrained`."""
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
