"""MobileViTv2, widths 0.5 to 2: Mehta & Rastegari 2022, arXiv 2206.02680, as timm builds it.

The network consists of inverted residuals and, in the last three stages, of transformers whose attention costs no more
than a weighted mean. A map is cut into patches of 2×2 pixels, and pixels attend to those at the same place in the other
patches. Softmax and group normalisation are float32 whatever the dtype. Images enter in [0, 1], not standardised.
"""

from typing import Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from mlcm_jax.models.biased import spread
from mlcm_jax.models.layers import (
    Common,
    ConvNorm,
    GroupNorm,
    Plain,
    check_width,
    conv,
    make_divisible,
    run_stages,
    stem_stride,
    three_channels,
)

# channels at width 1, stride of the first block, number of inverted residuals, layers of the transformer after them
_STAGES = ((64, 1, 1, 0), (128, 2, 2, 0), (256, 2, 1, 2), (384, 2, 1, 4), (512, 2, 1, 3))


def unfold(x: jax.Array) -> jax.Array:
    """Map [B, H, W, C], H and W even -> [B, 4, H · W / 4, C].

    Axis 1 is the place in the 2×2 patch, axis 2 the patch; both run row by row.
    """
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 2, 4, 1, 3, 5).reshape(b, 4, -1, c)


def fold(patches: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse of `unfold`, to [B, height, width, C]."""
    b, _, _, c = patches.shape
    x = patches.reshape(b, 2, 2, height // 2, width // 2, c)
    return x.transpose(0, 3, 1, 4, 2, 5).reshape(b, height, width, c)


def resize(x: jax.Array, height: int, width: int) -> jax.Array:
    """[B, H, W, C] -> [B, height, width, C], bilinear, with the centres of pixels at +0.5."""
    if x.shape[1:3] == (height, width):
        return x
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "bilinear", antialias=False)


class InvertedResidual(nnx.Module):
    """1×1 convolution to twice the channels, 3×3 depthwise convolution, linear 1×1 projection."""

    def __init__(self, cin: int, cout: int, stride: int, **common: Unpack[Common]) -> None:
        hidden = make_divisible(2 * cin)
        self.expand = ConvNorm(cin, hidden, act=jax.nn.silu, **common)
        self.spatial = ConvNorm(hidden, hidden, 3, stride, act=jax.nn.silu, depthwise=True, **common)
        self.project = ConvNorm(hidden, cout, **common)
        self.adds = stride == 1 and cin == cout

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, cin] -> [B, ceil(H / stride), ceil(W / stride), cout]."""
        y = self.project(self.spatial(self.expand(x)))
        return x + y if self.adds else y


class SeparableAttention(nnx.Module):
    """out(relu(value) · Σ_patches softmax(query) · key), equation 4 of the paper.

    The query is one number per pixel; the softmax and the sum run over the N patches.
    """

    def __init__(self, channels: int, **plain: Unpack[Plain]) -> None:
        self.qkv = conv(channels, 1 + 2 * channels, bias=True, **plain)
        self.out = conv(channels, channels, bias=True, **plain)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, 4, N, C] -> the same shape."""
        query, key, value = jnp.split(self.qkv(x), [1, 1 + x.shape[-1]], axis=-1)
        scores = jax.nn.softmax(query.astype(jnp.float32), axis=2)
        context = (scores * key.astype(jnp.float32)).sum(2, keepdims=True)
        return self.out(jax.nn.relu(value) * spread(context, value))


class Layer(nnx.Module):
    """Separable attention, then two 1×1 convolutions: two residual branches that start with a normalisation."""

    def __init__(self, channels: int, **plain: Unpack[Plain]) -> None:
        self.norm1 = GroupNorm(channels)
        self.attn = SeparableAttention(channels, **plain)
        self.norm2 = GroupNorm(channels)
        self.expand = conv(channels, 2 * channels, bias=True, **plain)
        self.project = conv(2 * channels, channels, bias=True, **plain)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, 4, N, C] -> the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.project(jax.nn.silu(self.expand(self.norm2(x))))


class MobileViTBlock(nnx.Module):
    """3×3 depthwise convolution, 1×1 to half the channels, transformer over patches, linear 1×1 projection.

    An odd map is resized to the next even size for the transformer and back (bilinear, centres of pixels at +0.5), as
    in the first MobileViT. timm's MobileViTv2 does not resize it back, so that its features are larger than the stride
    says.
    """

    def __init__(self, channels: int, depth: int, **common: Unpack[Common]) -> None:
        plain = Plain(rngs=common["rngs"], dtype=common["dtype"])
        inner = make_divisible(channels / 2)
        self.spatial = ConvNorm(channels, channels, 3, act=jax.nn.silu, depthwise=True, **common)
        self.reduce = conv(channels, inner, **plain)
        self.layers = nnx.List([Layer(inner, **plain) for _ in range(depth)])
        self.norm = GroupNorm(inner)
        self.project = ConvNorm(inner, channels, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> the same shape."""
        h, w = x.shape[1:3]
        height, width = h + h % 2, w + w % 2
        x = unfold(resize(self.reduce(self.spatial(x)), height, width))
        for layer in self.layers:
            x = layer(x)
        return self.project(resize(fold(self.norm(x), height, width), h, w))


class MobileViTV2(nnx.Module):
    """Backbone of inverted residuals and transformers.

    Args:
        width: multiplies all channels, which are then rounded to multiples of 8; published are 0.5 to 2 by quarters.
        stem: "imagenet" strides by 2 in the first convolution, for a total stride of 32; "small" does not, for 16.
        bn_momentum: see `layers.BatchNorm`.
        rngs: draws the initial parameters (stream `params`).
        dtype: of the computation.
    """

    def __init__(
        self,
        *,
        width: float = 1.0,
        stem: str = "imagenet",
        bn_momentum: float = 0.9,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        check_width(width)
        common = Common(bn_momentum=bn_momentum, rngs=rngs, dtype=dtype)
        cin = make_divisible(32 * width)
        self.stem = ConvNorm(3, cin, 3, stem_stride(stem), act=jax.nn.silu, **common)
        stages = []
        for channels, first_stride, residuals, layers in _STAGES:
            cout = make_divisible(channels * width)
            blocks = []
            for block in range(residuals):
                blocks.append(InvertedResidual(cin, cout, first_stride if block == 0 else 1, **common))
                cin = cout
            if layers:
                blocks.append(MobileViTBlock(cout, layers, **common))
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.channels = cin
        self.stride = 16 * stem_stride(stem)
        self.dtype = dtype

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Image [B, H, W, 1 or 3] in [0, 1] -> features [B, ceil(H / stride), ceil(W / stride), channels].

        All backbones take `rngs`; this one draws no random numbers.
        """
        with jax.named_scope("stem"):
            x = self.stem(three_channels(x))
        return run_stages(self.stages, x)[-1]

    def torch_modules(self) -> dict[str, nnx.Module]:
        """Our layers by the names that timm gives them (torchvision has no MobileViTv2), for `pretrained`."""
        modules = _conv_norm("stem", self.stem)
        for s, blocks in enumerate(self.stages):
            for b, block in enumerate(blocks):
                prefix = f"stages.{s}.{b}."
                if isinstance(block, InvertedResidual):
                    modules |= _conv_norm(f"{prefix}conv1_1x1", block.expand)
                    modules |= _conv_norm(f"{prefix}conv2_kxk", block.spatial)
                    modules |= _conv_norm(f"{prefix}conv3_1x1", block.project)
                    continue
                modules |= _conv_norm(f"{prefix}conv_kxk", block.spatial)
                modules |= _conv_norm(f"{prefix}conv_proj", block.project)
                modules |= {f"{prefix}conv_1x1": block.reduce, f"{prefix}norm": block.norm}
                for t, layer in enumerate(block.layers):
                    inner = f"{prefix}transformer.{t}."
                    modules |= {
                        f"{inner}norm1": layer.norm1,
                        f"{inner}attn.qkv_proj": layer.attn.qkv,
                        f"{inner}attn.out_proj": layer.attn.out,
                        f"{inner}norm2": layer.norm2,
                        f"{inner}mlp.fc1": layer.expand,
                        f"{inner}mlp.fc2": layer.project,
                    }
        return modules


def _conv_norm(name: str, unit: ConvNorm) -> dict[str, nnx.Module]:
    return {f"{name}.conv": unit.conv, f"{name}.bn": unit.norm}
