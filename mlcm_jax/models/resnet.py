"""ResNet-18, -34 and -50: He et al. 2016, "Deep Residual Learning for Image Recognition", as torchvision builds them.

The bottleneck block strides in its 3×3 convolution ("v1.5"). The last normalisation of a residual branch starts at zero
(Goyal et al. 2017), so that a new network behaves like a shallow one and short trainings make progress at once.
"""

from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from mlcm_jax.models.layers import (
    Common,
    ConvNorm,
    check_channels,
    check_choice,
    check_depths,
    check_width,
    make_divisible,
    normalise,
    run_stages,
)
from mlcm_jax.models.pyramid import Pyramid


class Block(nnx.Module):
    """Residual block: two 3×3 convolutions, or the bottleneck of 1×1, 3×3 and 1×1."""

    def __init__(
        self, cin: int, planes: int, cout: int, stride: int, bottleneck: bool, **common: Unpack[Common]
    ) -> None:
        relu = jax.nn.relu
        if bottleneck:
            self.convs = nnx.List(
                [
                    ConvNorm(cin, planes, act=relu, **common),
                    ConvNorm(planes, planes, 3, stride, act=relu, **common),
                    ConvNorm(planes, cout, scale=0.0, **common),
                ]
            )
        else:
            self.convs = nnx.List(
                [ConvNorm(cin, planes, 3, stride, act=relu, **common), ConvNorm(planes, cout, 3, scale=0.0, **common)]
            )
        self.projects = stride > 1 or cin != cout
        if self.projects:
            self.shortcut = ConvNorm(cin, cout, 1, stride, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, cin] -> [B, ceil(H / stride), ceil(W / stride), cout]."""
        y = x
        for conv in self.convs:
            y = conv(y)
        return jax.nn.relu(y + (self.shortcut(x) if self.projects else x))


class ResNet(nnx.Module):
    """Backbone of residual blocks of two 3×3 convolutions.

    Args:
        depths: blocks per stage; a shorter tuple makes fewer stages.
        width: multiplies all channels, which are then rounded to multiples of 8.
        stem: "imagenet" is a 7×7 convolution of stride 2 and a max-pool, for a total stride of 32 with four stages;
            "small" is one 3×3 convolution of stride 2, for a total stride of 16: an image of 64 px gives 4×4 features;
            "strided" is two of those, which is as coarse as "imagenet" and the cheapest.
        pyramid: channels of the features if they come from a `Pyramid`, as fine as the first stage; 0 takes those of
            the last stage.
        bn_momentum: see `layers.BatchNorm`.
        rngs: draws the initial parameters (stream `params`).
        dtype: of the computation.
    """

    bottleneck = False

    def __init__(
        self,
        *,
        depths: tuple[int, ...],
        width: float = 1.0,
        stem: str = "imagenet",
        pyramid: int = 0,
        bn_momentum: float = 0.9,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        check_width(width)
        check_depths(depths)
        check_choice("stem", stem, ("imagenet", "small", "strided"))
        check_channels("pyramid", pyramid or None)
        common = Common(bn_momentum=bn_momentum, rngs=rngs, dtype=dtype)
        cin = make_divisible(64 * width)
        self.stem = ConvNorm(3, cin, 7 if stem == "imagenet" else 3, 2, act=jax.nn.relu, **common)
        self.pools, self.strides = stem == "imagenet", stem == "strided"
        if self.strides:
            self.second = ConvNorm(cin, cin, 3, 2, act=jax.nn.relu, **common)
        stages, outputs = [], []
        for stage, depth in enumerate(depths):
            planes = make_divisible(64 * 2**stage * width)
            cout = 4 * planes if self.bottleneck else planes
            blocks = []
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Block(cin, planes, cout, stride, self.bottleneck, **common))
                cin = cout
            stages.append(nnx.List(blocks))
            outputs.append(cin)
        self.stages = nnx.List(stages)
        self.pyramid = Pyramid(outputs, pyramid, **common) if pyramid else None
        self.channels = pyramid or cin
        self.stride = (2 if stem == "small" else 4) * (1 if pyramid else 2 ** (len(depths) - 1))
        self.dtype = dtype

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Image [B, H, W, 1 or 3] in [0, 1] -> features [B, ceil(H / stride), ceil(W / stride), channels].

        All backbones take `rngs`; this one draws no random numbers.
        """
        with jax.named_scope("stem"):
            x = self.stem(normalise(x, self.dtype))
            if self.pools:
                x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        if self.strides:
            with jax.named_scope("second"):
                x = self.second(x)
        maps = run_stages(self.stages, x)
        if self.pyramid is None:
            return maps[-1]
        with jax.named_scope("pyramid"):
            return self.pyramid(maps)

    def torch_modules(self) -> dict[str, nnx.Module]:
        """Our convolutions and normalisations by the names that torchvision gives them, for `pretrained`."""
        modules = {"conv1": self.stem.conv, "bn1": self.stem.norm}
        for s, blocks in enumerate(self.stages, start=1):
            for b, block in enumerate(blocks):
                prefix = f"layer{s}.{b}."
                for c, unit in enumerate(block.convs, start=1):
                    modules |= {f"{prefix}conv{c}": unit.conv, f"{prefix}bn{c}": unit.norm}
                if block.projects:
                    shortcut = block.shortcut
                    modules |= {f"{prefix}downsample.0": shortcut.conv, f"{prefix}downsample.1": shortcut.norm}
        return modules


class BottleneckResNet(ResNet):
    """Backbone of the residual blocks of ResNet-50, whose convolutions have planes, planes and 4 · planes channels."""

    bottleneck = True
