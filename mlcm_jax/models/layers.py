"""The building blocks that the networks share: convolutions, normalisations, squeeze-excitation and dropout.

Arrays are NHWC, kernels HWIO. Parameters and batch statistics are always float32; `dtype` is the type that the
convolutions compute in. Padding is PyTorch's (k // 2 on both sides), not TensorFlow's SAME, so that torchvision's
weights see the pixels they were trained on. No module keeps random state: a layer that draws random numbers takes
`rngs` when it is called.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from mlcm_jax.errors import InputError
from mlcm_jax.models.biased import Conv, Linear, spread
from mlcm_jax.models.depthwise import chosen, exporting

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_EPSILON = 1e-5  # of all normalisations, as in torchvision's ResNet, MobileNetV2, EfficientNet B0 to B4 and SwinV2


class Plain(TypedDict):
    """Keyword arguments that every layer takes, passed on as `**plain`.

    Attributes:
        rngs: draws the initial parameters (stream `params`).
        dtype: the type that the layer computes in.
    """

    rngs: nnx.Rngs
    dtype: DTypeLike


class Common(Plain):
    """Keyword arguments of blocks with batch normalisation, passed on as `**common`.

    Attributes:
        bn_momentum: see `BatchNorm`.
    """

    bn_momentum: float


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Channels rounded to a multiple of `divisor`, at least `divisor`, and never below 90 % of `channels`.

    Source: `_make_divisible` of torchvision's mobilenet_v2; the published parameter counts depend on it.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def check_width(width: float) -> None:
    """Raises InputError unless the multiplier of the channels is positive and finite."""
    if not 0.0 < width < math.inf:
        raise InputError(f"Option width is {width!r}; it must be positive.")


def check_channels(name: str, channels: int | None) -> None:
    """Raises InputError, naming the option, unless a number of channels is positive or None."""
    if channels is not None and channels < 1:
        raise InputError(f"Option {name} is {channels!r}; it must be positive.")


def check_choice(name: str, value: Any, choices: tuple) -> None:
    """Raises InputError, naming the option, unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"Option {name} is {value!r}; it must be one of {', '.join(map(repr, choices))}.")


def check_depths(depths: tuple[int, ...]) -> None:
    """Raises InputError unless there is at least one stage, and every stage has at least one block."""
    if not depths or min(depths) < 1:
        raise InputError(f"Option depths is {depths!r}; it must name at least one stage, of at least one block.")


def check_upsample(upsample: int) -> None:
    """Raises InputError unless the factor between features and maps is a power of two."""
    if upsample < 1 or upsample & (upsample - 1):
        raise InputError(f"Option upsample is {upsample}; it must be a power of two.")


def stem_stride(stem: str) -> int:
    """Stride of the first convolution: 2 for the stem "imagenet", 1 for "small"; InputError for another name."""
    check_choice("stem", stem, ("imagenet", "small"))
    return 2 if stem == "imagenet" else 1


_CHUNK = 1 << 16


@jax.jit
def _chunk(key: jax.Array, index: int) -> jax.Array:
    return jax.random.normal(jax.random.fold_in(key, index), (_CHUNK,))


@partial(jax.jit, static_argnums=(1, 2))
def _assemble(chunks: list[jax.Array], shape: tuple[int, ...], deviation: float) -> jax.Array:
    return jnp.concatenate(chunks)[: math.prod(shape)].reshape(shape) * deviation


def normal(key: jax.Array, shape: tuple[int, ...], deviation: float) -> jax.Array:
    """Normal numbers, float32 of `shape`, drawn in chunks of one size.

    XLA would compile a generator for every new shape, which takes half a second each on a CPU and over ten seconds for
    a whole network.
    """
    chunks = [_chunk(key, index) for index in range(-(-math.prod(shape) // _CHUNK))]
    return _assemble(chunks, shape, deviation)


def three_channels(x: jax.Array) -> jax.Array:
    """Image float [B, H, W, 1 or 3] -> float32 [B, H, W, 3].

    A single channel (thermal) is repeated three times, so that one architecture serves both modalities.
    """
    if x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise InputError(f"A model takes images of shape [B, H, W, 1 or 3], not {list(x.shape)}.")
    return jnp.broadcast_to(x.astype(jnp.float32), (*x.shape[:-1], 3))


def normalise(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Image float [B, H, W, 1 or 3] in [0, 1] -> [B, H, W, 3] of `dtype`, with ImageNet's mean and deviation."""
    mean = jnp.asarray(IMAGENET_MEAN, jnp.float32).reshape(1, 1, 1, 3)
    std = jnp.asarray(IMAGENET_STD, jnp.float32).reshape(1, 1, 1, 3)
    return ((three_channels(x) - mean) / std).astype(dtype)


def linear(cin: int, cout: int, *, bias: bool = True, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32) -> Linear:
    """A dense layer [..., cin] -> [..., cout] of `dtype`, whose kernel starts with deviation 0.02, as in Swin."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return normal(key, shape, 0.02).astype(dtype)

    return Linear(cin, cout, use_bias=bias, dtype=dtype, kernel_init=init, rngs=rngs)


# `nnx.Conv` and `biased.Conv` call the next two in place of `conv_general_dilated`. They ignore the arguments for
# padding, dilation and groups, which `conv` and `depthwise_conv` fix.


def _pointwise(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], *_: Any, **__: Any) -> jax.Array:
    """A 1×1 convolution as a product of two matrices.

    On a CPU, the gradient takes a third to two thirds of the time that it takes in a product of [B, H, W, C] with the
    kernel (benchmarks/RESULTS.md, "Training steps").
    """
    if exporting() and 1 in (*x.shape[1:3], kernel.shape[3]):  # the converter to TFLite fails at such products
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = x[:, :: strides[0], :: strides[1]]
    if exporting():  # files keep their form
        return jnp.einsum("bhwc,cd->bhwd", x, kernel[0, 0])
    return (x.reshape(-1, x.shape[3]) @ kernel[0, 0]).reshape(*x.shape[:3], kernel.shape[3])


def _depthwise(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], *_: Any, **__: Any) -> jax.Array:
    return chosen(x, kernel, strides[0])


def conv(
    cin: int,
    cout: int,
    size: int = 1,
    stride: int = 1,
    *,
    bias: bool = False,
    pads: bool = True,
    **plain: Unpack[Plain],
) -> Conv:
    """A dense k×k convolution [B, H, W, cin] -> [B, ceil(H / stride), ceil(W / stride), cout].

    Its kernel starts normal with variance 2 / (k² · cout) (He et al. 2015, fan out), as torchvision's networks do.

    Args:
        cin: channels of the input.
        cout: channels of the output.
        size: k; odd where the input is padded.
        stride: along both axes.
        bias: whether there is a bias; it starts at zero.
        pads: whether to pad; without padding, a patch embedding of k = stride drops the remainder of the image.
        plain: see `Plain`.
    """
    form = _pointwise if size == 1 else jax.lax.conv_general_dilated
    options = _conv_options(math.sqrt(2.0 / cout) / size, **plain)
    padding = size // 2 if pads else 0
    return Conv(cin, cout, (size, size), stride, padding=padding, use_bias=bias, conv_general_dilated=form, **options)


def depthwise_conv(channels: int, size: int = 3, stride: int = 1, **plain: Unpack[Plain]) -> nnx.Conv:
    """One k×k filter per channel, [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), C], without bias."""
    return nnx.Conv(
        channels,
        channels,
        (size, size),
        stride,
        padding=size // 2,
        use_bias=False,
        feature_group_count=channels,
        conv_general_dilated=_depthwise,
        **_conv_options(math.sqrt(2.0) / size, **plain),  # the fan out of one filter is k²
    )


def _conv_options(deviation: float, **plain: Unpack[Plain]) -> dict[str, Any]:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return normal(key, shape, deviation).astype(dtype)

    return {"dtype": plain["dtype"], "kernel_init": init, "rngs": _Draw(plain["rngs"].params())}


class _Draw:
    """Stands in for the `rngs` of one flax layer, and gives the same key however often the layer asks for one.

    Flax's layers draw a key for every constant too. If they drew from the network's `rngs`, a bias or a normalisation
    would change all kernels after it; and each draw takes milliseconds while a network is traced.
    """

    def __init__(self, key: jax.Array | None) -> None:
        self.key = key

    def params(self) -> jax.Array | None:
        """The key of the next parameter; None where there are only constants."""
        return self.key


class BatchNorm(nnx.Module):
    """Batch normalisation over all but the last axis.

    Statistics are computed, kept and applied in float32, whatever `dtype`. Under a sharded batch they are those of the
    global batch. `Module.train()` and `.eval()` switch `use_running_average`.

    `nnx.BatchNorm` computes the same from (x - mean), whose gradient needs a third sum over the batch: on a CPU, a
    training step of MobileNetV2 takes 13 % longer with it, and one of the small ResNet of configs/tiny.py 3 %.

    Args:
        channels: C.
        momentum: the share of the old running value that a step keeps, as in flax (0.9 is PyTorch's 0.1).
        scale: initial gain.
        dtype: of the result.
    """

    def __init__(
        self, channels: int, *, momentum: float = 0.9, scale: float = 1.0, dtype: DTypeLike = jnp.float32
    ) -> None:
        if not 0.0 <= momentum < 1.0:
            raise InputError(f"Option bn_momentum is {momentum!r}; it must be at least 0 and below 1.")
        self.scale = nnx.Param(jnp.asarray(np.full((channels,), scale, np.float32)))
        self.bias = nnx.Param(jnp.asarray(np.zeros((channels,), np.float32)))
        self.mean = nnx.BatchStat(jnp.asarray(np.zeros((channels,), np.float32)))
        self.var = nnx.BatchStat(jnp.asarray(np.ones((channels,), np.float32)))
        self.momentum, self.dtype = momentum, dtype
        self.use_running_average = True

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> the same shape in `dtype`; while training it also updates the running statistics."""
        x = x.astype(jnp.float32)
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean = x.mean((0, 1, 2))
            # One pass over x; rounding can take the difference below zero where a channel is constant.
            var = jnp.maximum(jnp.square(x).mean((0, 1, 2)) - jnp.square(mean), 0.0)
            self.mean[...] = self.momentum * self.mean[...] + (1.0 - self.momentum) * jax.lax.stop_gradient(mean)
            self.var[...] = self.momentum * self.var[...] + (1.0 - self.momentum) * jax.lax.stop_gradient(var)
        factor = self.scale[...] * jax.lax.rsqrt(var + _EPSILON)
        shift = self.bias[...] - mean * factor
        return (x * factor.reshape(1, 1, 1, -1) + shift.reshape(1, 1, 1, -1)).astype(self.dtype)


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation over the channels (Ba et al. 2016), computed in float32 whatever the type of its input."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, **_norm_options())

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> the same shape and dtype."""
        return super().__call__(x).astype(x.dtype)


class GroupNorm(nnx.GroupNorm):
    """Like `LayerNorm`, but over all axes except the batch: group normalisation with one group (Wu & He 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, **_norm_options())

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, ..., C] -> the same shape and dtype."""
        return super().__call__(x).astype(x.dtype)


def _norm_options() -> dict[str, Any]:
    # The fast variance loses digits where the mean is large.
    return {"epsilon": _EPSILON, "dtype": jnp.float32, "use_fast_variance": False, "rngs": _Draw(None)}


class ConvNorm(nnx.Module):
    """Convolution (dense or depthwise), batch normalisation with the initial gain `scale`, activation."""

    def __init__(
        self,
        cin: int,
        cout: int,
        size: int = 1,
        stride: int = 1,
        *,
        act: Callable[[jax.Array], jax.Array] | None = None,
        depthwise: bool = False,
        scale: float = 1.0,
        **common: Unpack[Common],
    ) -> None:
        plain = Plain(rngs=common["rngs"], dtype=common["dtype"])
        if depthwise:
            self.conv = depthwise_conv(cin, size, stride, **plain)
        else:
            self.conv = conv(cin, cout, size, stride, **plain)
        self.norm = BatchNorm(cout, momentum=common["bn_momentum"], scale=scale, dtype=common["dtype"])
        self.act = act

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, cin] -> [B, ceil(H / stride), ceil(W / stride), cout]."""
        x = self.norm(self.conv(x))
        return self.act(x) if self.act else x


class SqueezeExcite(nnx.Module):
    """Channel gates: x · sigmoid(fc2(silu(fc1(mean over H, W)))). Hu et al. 2018."""

    def __init__(self, channels: int, squeezed: int, **plain: Unpack[Plain]) -> None:
        self.fc1 = conv(channels, squeezed, bias=True, **plain)
        self.fc2 = conv(squeezed, channels, bias=True, **plain)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> the same shape."""
        pooled = x.mean((1, 2), keepdims=True, dtype=jnp.float32)
        return x * spread(jax.nn.sigmoid(self.fc2(jax.nn.silu(self.fc1(pooled)))), x)


def doubled(x: jax.Array) -> jax.Array:
    """Every cell of [B, h, w, C] four times, [B, 2 h, 2 w, C].

    It concatenates, because TensorFlow Lite repeats so slowly that this takes half the time of an exported network.
    """
    b, h, w, c = x.shape
    x = jnp.concatenate([x, x], axis=-1).reshape(b, h, 2 * w, c)
    return jnp.concatenate([x, x], axis=2).reshape(b, 2 * h, 2 * w, c)


def run_stages(stages: nnx.List, x: jax.Array, *arguments: Any) -> list[jax.Array]:
    """Runs the blocks of a backbone one after the other as `block(x, *arguments)`; returns the output of every stage.

    Every stage has a name scope `stages.N`, by which `size.profile` counts its operations.
    """
    outputs = []
    for index, blocks in enumerate(stages):
        with jax.named_scope(f"stages.{index}"):
            for block in blocks:
                x = block(x, *arguments)
        outputs.append(x)
    return outputs


def run_block(block: nnx.Module, x: jax.Array, rngs: nnx.Rngs | None, *, remat: bool) -> jax.Array:
    """`block(x, rngs)`; with `remat` the backward pass recomputes the inside of the block instead of keeping it.

    This saves memory only block by block: around a whole backbone, all of it would be recomputed and kept at once.
    """
    if not remat:
        return block(x, rngs)
    return nnx.remat(lambda block, x, rngs: block(x, rngs))(block, x, rngs)


def dropout(rate: float, *, per_example: bool = False) -> nnx.Dropout:
    """Dropout in evaluation mode, without random state: while training it draws from the `rngs` of the call.

    Args:
        rate: probability of a zero, at least 0 and below 1.
        per_example: whether one draw decides for a whole example of [B, H, W, C]: stochastic depth of a residual branch
            (Huang et al. 2016, the row mode of torchvision).

    Raises:
        InputError: a rate out of range.
    """
    if not 0.0 <= rate < 1.0:
        raise InputError(f"A dropout rate is at least 0 and below 1, not {rate}.")
    return nnx.Dropout(rate, broadcast_dims=(1, 2, 3) if per_example else (), deterministic=True)
