"""Swin Transformer V2, T, S and B: Liu et al. 2022, arXiv 2111.09883, as torchvision builds it.

Windows of a map attend within themselves, every second time shifted by half a window. Beside the first Swin it has
cosine attention, a position bias that a small network computes from log-spaced offsets, and the normalisation at the
end of each residual branch. The bias of the keys is counted among the parameters, as in torchvision, but never used.
Cosines, softmax and normalisations are float32 whatever the dtype.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mlcm_jax.errors import InputError
from mlcm_jax.models.layers import Conv, Dropout, LayerNorm, check_width, linear, make_divisible, normalise, run_block


@functools.cache
def log_offsets(window: int) -> np.ndarray:
    """Every offset (dy, dx) between two pixels of a window, log-spaced in [-log2(9)/3, log2(9)/3].

    float32 [(2 · window - 1)², 2], dy major. Source: equation 4, of offsets scaled to [-8, 8].
    """
    steps = 8.0 * np.arange(1 - window, window) / (window - 1)
    steps = np.sign(steps) * np.log2(np.abs(steps) + 1.0) / 3.0
    return np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


@functools.cache
def offset_index(window: int) -> np.ndarray:
    """The row of `log_offsets` for pixel i minus pixel j, int32 [window², window²]."""
    y, x = np.divmod(np.arange(window * window), window)
    dy, dx = y[:, None] - y[None] + window - 1, x[:, None] - x[None] + window - 1
    return (dy * (2 * window - 1) + dx).astype(np.int32)


def partition(x, window: int):
    """Map [B, H, W, C], multiples of the window -> windows [B, H · W / window², window², C]. NumPy or JAX."""
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
    """Which pixels of a window of the map rolled by -shift were neighbours before: bool [windows, window², window²].

    The roll brings opposite borders of the map together in the last windows.
    """
    rows, columns = (
        np.where(np.arange(side) < side - step, 0, 1) if step else np.zeros(side, int)
        for side, step in zip((height, width), shift, strict=True)
    )
    side = 2 * rows[:, None] + columns[None]
    side = partition(side[None, :, :, None], window)[0, :, :, 0]
    return side[:, :, None] == side[:, None, :]


def _unit(x: jax.Array) -> jax.Array:
    """x / |x| over the last axis in float32, with a finite gradient at zero, where padding puts the keys."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


class WindowAttention(nnx.Module):
    """Scaled cosine attention within (shifted) windows, [B, H, W, C] -> the same; equations 2 and 3.

    As in torchvision, maps are padded with zeros to multiples of the window, the padding takes part, and an axis that
    one window covers is not shifted.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int, **common):
        self.qkv = linear(channels, 3 * channels, **common)
        self.proj = linear(channels, channels, **common)
        self.logit_scale = nnx.Param(jnp.asarray(np.full((heads, 1, 1), np.log(10.0), np.float32)))
        # The position bias stays in float32: it reaches 16, where bfloat16 is coarse.
        self.offset_hidden = linear(2, 512, rngs=common["rngs"])
        self.offset_heads = linear(512, heads, bias=False, rngs=common["rngs"])
        self.heads, self.window, self.shift, self.dtype = heads, window, shift, common["dtype"]

    def position_bias(self) -> jax.Array:
        """float32 [heads, window², window²], in [0, 16]."""
        table = self.offset_heads(jax.nn.relu(self.offset_hidden(jnp.asarray(log_offsets(self.window)))))
        return (16.0 * jax.nn.sigmoid(table))[offset_index(self.window)].transpose(2, 0, 1)

    def _queries_keys_values(self, windows: jax.Array) -> list[jax.Array]:
        """[B, n, window², C] -> three of [B, n, window², heads, C / heads]."""
        b, n, area, c = windows.shape
        # A bias of the keys would only add to all logits of a query in plain attention; cosines would feel it.
        bias = self.qkv.bias[...] * np.repeat(np.float32([1.0, 0.0, 1.0]), c)
        qkv = jnp.matmul(windows.astype(self.dtype), self.qkv.kernel[...].astype(self.dtype))
        qkv = qkv + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        qkv = qkv.reshape(b, n, area, 3, self.heads, c // self.heads)
        return [qkv[:, :, :, i] for i in range(3)]

    def __call__(self, x: jax.Array) -> jax.Array:
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
    """Window attention, then two dense layers, each a residual branch that ends in its normalisation."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, drop_path: float, **common):
        self.attn = WindowAttention(channels, heads, window, shift, **common)
        self.norm1 = LayerNorm(channels, dtype=common["dtype"])
        self.expand = linear(channels, 4 * channels, **common)
        self.project = linear(4 * channels, channels, **common)
        self.norm2 = LayerNorm(channels, dtype=common["dtype"])
        self.drop = Dropout(drop_path, per_example=True)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        x = x + self.drop(self.norm1(self.attn(x)), rngs)
        y = self.project(jax.nn.gelu(self.expand(x), approximate=False))
        return x + self.drop(self.norm2(y), rngs)


class Stage(nnx.Module):
    """Patch merging (all but the first), then the blocks.

    [B, H, W, channels] -> the same in the first stage; [B, H, W, channels / 2] -> [B, ceil(H / 2), ceil(W / 2),
    channels] in the others.
    """

    def __init__(
        self, channels: int, heads: int, window: int, drop_paths: list[float], merges: bool, remat: bool, **common
    ):
        self.merges, self.remat = merges, remat
        if merges:
            self.reduction = linear(2 * channels, channels, bias=False, **common)
            self.norm = LayerNorm(channels, dtype=common["dtype"])
        self.blocks = nnx.List(
            [
                Block(channels, heads, window, 0 if index % 2 == 0 else window // 2, drop_path, **common)
                for index, drop_path in enumerate(drop_paths)
            ]
        )

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        if self.merges:
            x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
            quarters = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]  # down first: torchvision's order of channels
            x = self.norm(self.reduction(jnp.concatenate(quarters, axis=-1)))
        for block in self.blocks:
            x = run_block(block, x, rngs, remat=self.remat)
        return x


class Stem(nnx.Module):
    """Patches of 4×4 pixels as vectors, [B, H, W, 3] -> [B, ceil(H / 4), ceil(W / 4), channels]."""

    def __init__(self, channels: int, **common):
        self.conv = Conv(3, channels, 4, 4, bias=True, pads=False, **common)
        self.norm = LayerNorm(channels, dtype=common["dtype"])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % 4), (0, -x.shape[2] % 4), (0, 0)))
        return self.norm(self.conv(x))


class SwinV2(nnx.Module):
    """Backbone, image [B, H, W, 1 or 3] in [0, 1] -> features [B, ceil(H / stride), ceil(W / stride), channels].

    Images of any size: maps are padded with zeros (torchvision drops up to three rows or columns of pixels instead
    where a side is no multiple of 4).

    Args:
        embed: channels of the first stage of this member of the family; they double with each stage.
        heads: of the first stage; they double too, which keeps the channels of a head.
        depths: blocks per stage; shorter tuples make fewer stages.
        width: multiplies all channels and keeps the number of heads; a head gets a multiple of 8 channels (32 at 1).
        window: side of the windows in pixels of the map. torchvision's weights were trained with 8; with another, the
            position bias they learnt is stretched over the window.
        drop_path: stochastic depth of the last block while training, growing linearly from 0. Needs `rngs` in the call.
        remat: the backward pass computes the inside of each block again instead of keeping it.
        rngs: draws the initial parameters (stream `params`).
        dtype: of the computation.
    """

    def __init__(
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
        dtype=jnp.float32,
    ):
        check_width(width)
        if not depths or min(depths) < 1:
            raise InputError(f"Option depths is {depths!r}; it must name at least one stage, of at least one block.")
        if window != int(window) or window < 2:
            raise InputError(f"Option window is {window!r}; it must be a whole number of at least 2 pixels.")
        common = {"rngs": rngs, "dtype": dtype}
        channels = make_divisible(embed * width, 8 * heads)
        self.stem = Stem(channels, **common)
        drop_paths = [drop_path * block / max(1, sum(depths) - 1) for block in range(sum(depths))]
        stages = []
        for index, depth in enumerate(depths):
            first = sum(depths[:index])
            some = drop_paths[first : first + depth]
            merges = index > 0
            stages.append(Stage(channels * 2**index, heads * 2**index, window, some, merges, remat, **common))
        self.stages = nnx.List(stages)
        self.channels = channels * 2 ** (len(depths) - 1)
        self.last = LayerNorm(self.channels, dtype=dtype)
        self.stride = 4 * 2 ** (len(depths) - 1)
        self.dtype = dtype

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        with jax.named_scope("stem"):
            x = self.stem(normalise(x, self.dtype))
        for index, stage in enumerate(self.stages):
            with jax.named_scope(f"stages.{index}"):
                x = stage(x, rngs)
        with jax.named_scope("last"):
            return self.last(x)

    def torch_modules(self) -> dict[str, nnx.Module | nnx.Param]:
        """torchvision's module names -> our layers, for `pretrained`."""
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
