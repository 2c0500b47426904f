"""MobileViTv2, widths 0.5 to 2: Mehta & Rastegari 2022, arXiv 2206.02680, as timm builds it.

Inverted residuals, and in the last three stages transformers whose attention costs no more than a weighted mean: of all
2×2 patches of a map, pixels at the same place in their patch see each other. Softmax and group normalisation are
float32 whatever the dtype. Images enter in [0, 1], not standardised.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from mlcm_jax.models.layers import (
    Conv,
    ConvNorm,
    LayerNorm,
    check_choice,
    check_width,
    make_divisible,
    three_channels,
)

# channels at width 1, stride of the first block, inverted residuals, layers of the transformer after them
_STAGES = ((64, 1, 1, 0), (128, 2, 2, 0), (256, 2, 1, 2), (384, 2, 1, 4), (512, 2, 1, 3))


def unfold(x: jax.Array) -> jax.Array:
    """Map [B, H, W, C], H and W even -> [B, 4, H · W / 4, C]: place in the 2×2 patch, patch. Both row by row."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 2, 4, 1, 3, 5).reshape(b, 4, -1, c)


def fold(patches: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse of `unfold`, to [B, height, width, C]."""
    b, _, _, c = patches.shape
    x = patches.reshape(b, 2, 2, height // 2, width // 2, c)
    return x.transpose(0, 3, 1, 4, 2, 5).reshape(b, height, width, c)


def resize(x: jax.Array, height: int, width: int) -> jax.Array:
    """[B, H, W, C] -> [B, height, width, C], bilinear; the centres of pixels are at +0.5, as everywhere here."""
    if x.shape[1:3] == (height, width):
        return x
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "bilinear", antialias=False)


class InvertedResidual(nnx.Module):
    """1×1 to twice the channels, 3×3 depthwise, linear 1×1: [B, H, W, cin] -> [B, ceil(H / stride), …, cout]."""

    def __init__(self, cin: int, cout: int, stride: int, **common):
        hidden = make_divisible(2 * cin)
        self.expand = ConvNorm(cin, hidden, act=jax.nn.silu, **common)
        self.spatial = ConvNorm(hidden, hidden, 3, stride, act=jax.nn.silu, depthwise=True, **common)
        self.project = ConvNorm(hidden, cout, **common)
        self.adds = stride == 1 and cin == cout

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.project(self.spatial(self.expand(x)))
        return x + y if self.adds else y


class SeparableAttention(nnx.Module):
    """out(relu(value) · Σ_patches softmax(query) · key), [B, 4, N, C] -> the same; equation 4 of the paper.

    The query is one number per pixel; the softmax and the sum run over the N patches.
    """

    def __init__(self, channels: int, **common):
        self.qkv = Conv(channels, 1 + 2 * channels, bias=True, **common)
        self.out = Conv(channels, channels, bias=True, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        query, key, value = jnp.split(self.qkv(x), [1, 1 + x.shape[-1]], axis=-1)
        scores = jax.nn.softmax(query.astype(jnp.float32), axis=2)
        context = (scores * key.astype(jnp.float32)).sum(2, keepdims=True).astype(value.dtype)
        return self.out(jax.nn.relu(value) * context)


class Layer(nnx.Module):
    """Separable attention, then two 1×1 convolutions, each a residual branch that begins with its normalisation."""

    def __init__(self, channels: int, **common):
        self.norm1 = LayerNorm(channels, whole=True, dtype=common["dtype"])
        self.attn = SeparableAttention(channels, **common)
        self.norm2 = LayerNorm(channels, whole=True, dtype=common["dtype"])
        self.expand = Conv(channels, 2 * channels, bias=True, **common)
        self.project = Conv(2 * channels, channels, bias=True, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attn(self.norm1(x))
        return x + self.project(jax.nn.silu(self.expand(self.norm2(x))))


class MobileViTBlock(nnx.Module):
    """3×3 depthwise, 1×1 to half the channels, transformer over patches, linear 1×1: [B, H, W, C] -> the same.

    An odd map is resized to the next even size for the transformer and back (bilinear, centres of pixels at +0.5), as
    in the first MobileViT; timm's second leaves it at the even size, which the stride does not announce.
    """

    def __init__(self, channels: int, depth: int, *, bn_momentum: float, rngs: nnx.Rngs, dtype):
        plain = {"rngs": rngs, "dtype": dtype}
        common = plain | {"bn_momentum": bn_momentum}
        inner = make_divisible(channels / 2)
        self.spatial = ConvNorm(channels, channels, 3, act=jax.nn.silu, depthwise=True, **common)
        self.reduce = Conv(channels, inner, **plain)
        self.layers = nnx.List([Layer(inner, **plain) for _ in range(depth)])
        self.norm = LayerNorm(inner, whole=True, dtype=dtype)
        self.project = ConvNorm(inner, channels, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        h, w = x.shape[1:3]
        height, width = h + h % 2, w + w % 2
        x = unfold(resize(self.reduce(self.spatial(x)), height, width))
        for layer in self.layers:
            x = layer(x)
        return self.project(resize(fold(self.norm(x), height, width), h, w))


class MobileViTV2(nnx.Module):
    """Backbone, image [B, H, W, 1 or 3] in [0, 1] -> features [B, ceil(H / stride), ceil(W / stride), channels].

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
        dtype=jnp.float32,
    ):
        check_width(width)
        check_choice("stem", stem, ("imagenet", "small"))
        common = {"bn_momentum": bn_momentum, "rngs": rngs, "dtype": dtype}
        cin = make_divisible(32 * width)
        self.stem = ConvNorm(3, cin, 3, 2 if stem == "imagenet" else 1, act=jax.nn.silu, **common)
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
        self.stride = 32 if stem == "imagenet" else 16
        self.dtype = dtype

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """`rngs` is taken for the sake of one signature and not used: no layer here draws numbers."""
        with jax.named_scope("stem"):
            x = self.stem(three_channels(x))
        for index, blocks in enumerate(self.stages):
            with jax.named_scope(f"stages.{index}"):
                for block in blocks:
                    x = block(x)
        return x

    def torch_modules(self) -> dict[str, nnx.Module]:
        """timm's module names (torchvision has no MobileViTv2) -> our layers, for `pretrained`."""
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
