"""Swin Transformer V2, T, S and B: Liu et al. 2022, arXiv 2111.09883, as torchvision builds it.

Pixels attend to those of their own window, and in every second block the windows are shifted by half their side. Unlike
in the first Swin, logits are cosines, a small network computes the position bias from log-spaced offsets, and each
residual branch ends in its normalisation. The bias of the keys is a parameter, as in torchvision, but is never used.
Cosines, softmax and normalisations are float32 whatever the dtype.
"""

import functools
import math
from typing import TypeVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from mlcm_jax.errors import InputError
from mlcm_jax.models.biased import add_bias
from mlcm_jax.models.layers import (
    LayerNorm,
    Plain,
    check_depths,
    check_width,
    conv,
    dropout,
    linear,
    make_divisible,
    normalise,
    run_block,
)

_Array = TypeVar("_Array", np.ndarray, jax.Array)


@functools.cache
def log_offsets(window: int) -> np.ndarray:
    """Every offset (dy, dx) between two pixels of a window, scaled to [-8, 8] and log-spaced (equation 4).

    Returns:
        float32 [(2 · window - 1)², 2] in [-log2(9)/3, log2(9)/3], with dx running fastest.
    """
    steps = 8.0 * np.arange(1 - window, window) / (window - 1)
    steps = np.sign(steps) * np.log2(np.abs(steps) + 1.0) / 3.0
    return np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


@functools.cache
def offset_index(window: int) -> np.ndarray:
    """The row of `log_offsets` that holds pixel i minus pixel j, int32 [window², window²]."""
    y, x = np.divmod(np.arange(window * window), window)
    dy, dx = y[:, None] - y[None] + window - 1, x[:, None] - x[None] + window - 1
    return (dy * (2 * window - 1) + dx).astype(np.int32)


def partition(x: _Array, window: int) -> _Array:
    """Map [B, H, W, C], H and W multiples of the window -> windows [B, H · W / window², window², C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, window * window, c)


def join(windows: jax.Array, height: int, width: int) -> jax.Array:
    """The inverse of `partition`, to [B, height, width, C]."""
    b, _, area, c = windows.shape
    window = math.isqrt(area)
    x = windows.reshape(b, height // window, width // window, window, window, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, height, width, c)


@functools.cache
def neighbours(height: int, width: int, window: int, shift: tuple[int, int]) -> np.ndarray:
    """Which pixels of a window may attend to each other once the map is rolled by -shift.

    The roll brings opposite borders of the map together in the last windows; pixels across that seam may not.

    Returns:
        bool [windows, window², window²].
    """
    rows, columns = (
        np.where(np.arange(side) < side - step, 0, 1) if step else np.zeros(side, int)
        for side, step in zip((height, width), shift, strict=True)
    )
    side = 2 * rows[:, None] + columns[None]
    side = partition(side[None, :, :, None], window)[0, :, :, 0]
    return side[:, :, None] == side[:, None, :]


def _unit(x: jax.Array) -> jax.Array:
    """`x` / |x| over the last axis in float32, with a finite gradient even at zero (the keys of padding)."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


class WindowAttention(nnx.Module):
    """Scaled cosine attention within (shifted) windows; equations 2 and 3.

    As in torchvision, maps are padded with zeros to multiples of the window, the padding takes part in the attention,
    and an axis that one window covers is not shifted.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int, **plain: Unpack[Plain]) -> None:
        self.qkv = linear(channels, 3 * channels, **plain)
        self.proj = linear(channels, channels, **plain)
        self.logit_scale = nnx.Param(jnp.asarray(np.full((heads, 1, 1), np.log(10.0), np.float32)))
        # The position bias stays in float32: it reaches 16, where bfloat16 is coarse.
        self.offset_hidden = linear(2, 512, rngs=plain["rngs"])
        self.offset_heads = linear(512, heads, bias=False, rngs=plain["rngs"])
        self.heads, self.window, self.shift, self.dtype = heads, window, shift, plain["dtype"]

    def position_bias(self) -> jax.Array:
        """The bias of the logits of pixels i and j of a window: float32 [heads, window², window²] in [0, 16]."""
        table = self.offset_heads(jax.nn.relu(self.offset_hidden(jnp.asarray(log_offsets(self.window)))))
        return (16.0 * jax.nn.sigmoid(table))[offset_index(self.window)].transpose(2, 0, 1)

    def _queries_keys_values(self, windows: jax.Array) -> list[jax.Array]:
        """[B, n, window², C] -> three of [B, n, window², heads, C / heads]."""
        b, n, area, c = windows.shape
        # A bias of the keys cancels out in the softmax of plain attention. It would change cosines, so it is left out.
        bias = self.qkv.bias[...] * np.repeat(np.float32([1.0, 0.0, 1.0]), c)
        qkv = jnp.matmul(windows.astype(self.dtype), self.qkv.kernel[...].astype(self.dtype))
        qkv = add_bias(qkv, bias).reshape(b, n, area, 3, self.heads, c // self.heads)
        return [qkv[:, :, :, i] for i in range(3)]

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> the same shape."""
        h, w = x.shape[1:3]
        x = jnp.pad(x, ((0, 0), (0, -h % self.window), (0, -w % self.window), (0, 0)))
        height, width = x.shape[1:3]
        shift = tuple(0 if self.window >= side else self.shift for side in (height, width))
        if any(shift):
            x = jnp.roll(x, (-shift[0], -shift[1]), (1, 2))
        q, k, v = self._queries_keys_values(partition(x, self.window))
        q, k = _unit(q).astype(self.dtype), _unit(k).astype(self.dtype)
        logits = jnp.einsum("bnihd,bnjhd->bnhij", q, k, preferred_element_type=jnp.float32)
        scale = jnp.exp(jnp.minimum(self.logit_scale[...], math.log(100.0)))
        logits = logits * scale.reshape(1, 1, self.heads, 1, 1)
        logits = logits + self.position_bias().reshape(1, 1, *logits.shape[2:])
        if any(shift):
            near = neighbours(height, width, self.window, shift)
            logits = jnp.where(near[None, :, None], logits, logits - 100.0)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        windows = jnp.einsum("bnhij,bnjhd->bnihd", weights, v)
        x = join(self.proj(windows.reshape(*windows.shape[:3], -1)), height, width)
        if any(shift):
            x = jnp.roll(x, shift, (1, 2))
        return x[:, :h, :w]


class Block(nnx.Module):
    """Window attention, then two dense layers: two residual branches that end in a normalisation."""

    def __init__(
        self, channels: int, heads: int, window: int, shift: int, drop_path: float, **plain: Unpack[Plain]
    ) -> None:
        self.attn = WindowAttention(channels, heads, window, shift, **plain)
        self.norm1 = LayerNorm(channels)
        self.expand = linear(channels, 4 * channels, **plain)
        self.project = linear(4 * channels, channels, **plain)
        self.norm2 = LayerNorm(channels)
        self.drop = dropout(drop_path, per_example=True)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, H, W, C] -> the same shape."""
        x = x + self.drop(self.norm1(self.attn(x)), rngs=rngs)
        y = self.project(jax.nn.gelu(self.expand(x), approximate=False))
        return x + self.drop(self.norm2(y), rngs=rngs)


class Stage(nnx.Module):
    """Patch merging (in all stages but the first), then the blocks."""

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        drop_paths: list[float],
        merges: bool,
        remat: bool,
        **plain: Unpack[Plain],
    ) -> None:
        self.merges, self.remat = merges, remat
        if merges:
            self.reduction = linear(2 * channels, channels, bias=False, **plain)
            self.norm = LayerNorm(channels)
        self.blocks = nnx.List(
            [
                Block(channels, heads, window, 0 if index % 2 == 0 else window // 2, drop_path, **plain)
                for index, drop_path in enumerate(drop_paths)
            ]
        )

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, H, W, channels] -> the same shape; with merging it takes [B, 2 H, 2 W, channels / 2] (or odd sides)."""
        if self.merges:
            x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
            quarters = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]  # in torchvision's order of channels
            x = self.norm(self.reduction(jnp.concatenate(quarters, axis=-1)))
        for block in self.blocks:
            x = run_block(block, x, rngs, remat=self.remat)
        return x


class Stem(nnx.Module):
    """Patch embedding: patches of 4×4 pixels become vectors."""

    def __init__(self, channels: int, **plain: Unpack[Plain]) -> None:
        self.conv = conv(3, channels, 4, 4, bias=True, pads=False, **plain)
        self.norm = LayerNorm(channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, 3] -> [B, ceil(H / 4), ceil(W / 4), channels]."""
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % 4), (0, -x.shape[2] % 4), (0, 0)))
        return self.norm(self.conv(x))


class SwinV2(nnx.Module):
    """Backbone of window attention.

    Images may have any size: maps are padded with zeros. (Where a side is not a multiple of 4, torchvision drops up to
    three rows or columns of pixels instead.)

    Args:
        embed: channels of the first stage; they double with each stage.
        heads: attention heads of the first stage; they double too, so that the channels of a head stay the same.
        depths: blocks per stage; a shorter tuple makes fewer stages.
        width: multiplies all channels and keeps the number of heads; a head gets a multiple of 8 channels (32 at 1).
        window: side of the windows in pixels of the map. torchvision's weights were trained with 8; for another side,
            the position bias that they learnt is stretched over the window.
        drop_path: stochastic depth of the last block while training, growing linearly from 0 at the first. Needs `rngs`
            in the call.
        remat: whether the backward pass recomputes the inside of each block instead of keeping it.
        rngs: draws the initial parameters (stream `params`).
        dtype: of the computation.
    """

    def __init__(  # noqa: PLR0913
        self,
        embed: int,
        heads: int,
        *,
        depths: tuple[int, ...],
        width: float = 1.0,
        window: int = 8,
        drop_path: float = 0.2,
        remat: bool = False,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        check_width(width)
        check_depths(depths)
        if window != int(window) or window < 2:
            raise InputError(f"Option window is {window!r}; it must be a whole number of at least 2 pixels.")
        plain = Plain(rngs=rngs, dtype=dtype)
        channels = make_divisible(embed * width, 8 * heads)
        self.stem = Stem(channels, **plain)
        drop_paths = [drop_path * block / max(1, sum(depths) - 1) for block in range(sum(depths))]
        stages = []
        for index, depth in enumerate(depths):
            first = sum(depths[:index])
            some = drop_paths[first : first + depth]
            merges = index > 0
            stages.append(Stage(channels * 2**index, heads * 2**index, window, some, merges, remat, **plain))
        self.stages = nnx.List(stages)
        self.channels = channels * 2 ** (len(depths) - 1)
        self.last = LayerNorm(self.channels)
        self.stride = 4 * 2 ** (len(depths) - 1)
        self.dtype = dtype

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Image [B, H, W, 1 or 3] in [0, 1] -> features [B, ceil(H / stride), ceil(W / stride), channels]."""
        with jax.named_scope("stem"):
            x = self.stem(normalise(x, self.dtype))
        for index, stage in enumerate(self.stages):
            with jax.named_scope(f"stages.{index}"):
                x = stage(x, rngs)
        with jax.named_scope("last"):
            return self.last(x)

    def torch_modules(self) -> dict[str, nnx.Module | nnx.Param]:
        """Our layers by the names that torchvision gives them, for `pretrained`."""
        modules = {"features.0.0": self.stem.conv, "features.0.2": self.stem.norm, "norm": self.last}
        for s, stage in enumerate(self.stages):
            if stage.merges:
                modules |= {f"features.{2 * s}.reduction": stage.reduction, f"features.{2 * s}.norm": stage.norm}
            for b, block in enumerate(stage.blocks):
                prefix = f"features.{2 * s + 1}.{b}."
                modules |= {
                    f"{prefix}norm1": block.norm1,
                    f"{prefix}attn.qkv": block.attn.qkv,
                    f"{prefix}attn.proj": block.attn.proj,
                    f"{prefix}attn.logit_scale": block.attn.logit_scale,
                    f"{prefix}attn.cpb_mlp.0": block.attn.offset_hidden,
                    f"{prefix}attn.cpb_mlp.2": block.attn.offset_heads,
                    f"{prefix}norm2": block.norm2,
                    f"{prefix}mlp.0": block.expand,
                    f"{prefix}mlp.3": block.project,
                }
        return modules
