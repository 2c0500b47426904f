"""Heads turn features [B, h, w, C] into a `Prediction`. Landmarks are in u = (x + 0.5) / S for a crop of side S."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from mlcm_jax import codecs, detection
from mlcm_jax.errors import InputError
from mlcm_jax.models import layers
from mlcm_jax.models.depthwise import exporting
from mlcm_jax.models.layers import Common, ConvNorm, check_channels, check_choice, check_upsample, conv, doubled, normal


class Prediction(NamedTuple):
    """What a head returns.

    Attributes:
        landmarks: float32 [B, K, 2], (x, y) in u.
        heatmaps: None, or float32 [B, h', w', K], nonnegative; cell i sits at (i + 0.5) / w'. `Heatmap` gives
            probabilities, which sum to one over h' and w'; `AAM` gives its fused maps, which have any sum.
        points: None, or float32 [B, h', w', K] in [0, 1], the point maps of `AAM`.
        edges: None, or float32 [B, h', w', E] in [0, 1], the edge maps of `AAM`.
        uncertainty: None, or float32 [B, K], the expected distance of a landmark from the truth in u.
        maps: None, or the maps of a detector, whose landmarks are the best boxes in `detection.LAYOUT`.
    """

    landmarks: jax.Array
    heatmaps: jax.Array | None = None
    points: jax.Array | None = None
    edges: jax.Array | None = None
    uncertainty: jax.Array | None = None
    maps: detection.Maps | None = None


def soft_argmax(logits: jax.Array) -> Prediction:
    """The expected position under softmax(logits) over the cells, computed in float32; exact to a fraction of a cell.

    Source: Sun et al. 2018, "Integral Human Pose Regression".

    Args:
        logits: [B, h, w, K], already divided by the temperature.

    Returns:
        Landmarks between the centres of the outermost cells, and the softmax as heatmaps.
    """
    b, h, w, k = logits.shape
    flat = logits.astype(jnp.float32).reshape(b, h * w, k)
    heatmaps = jax.nn.softmax(flat, axis=1)
    if exporting():
        heatmaps = heatmaps.reshape(b, h, w, k)
        return Prediction(codecs.expectation(heatmaps), heatmaps)
    # TF32 on a GPU would cost a thousandth of the image.
    cells = jnp.asarray(places(h, w) - np.float32(0.5))
    landmarks = jnp.einsum("bnk,np->bkp", heatmaps, cells, precision=jax.lax.Precision.HIGHEST) + 0.5
    return Prediction(landmarks, heatmaps.reshape(b, h, w, k))


def checked_mean_shape(mean_shape: ArrayLike | None, num_landmarks: int) -> np.ndarray:
    """`mean_shape` as float32 [K, 2] in u; the centre of the image where it is None.

    Raises:
        InputError: another shape, NaN or infinity.
    """
    if mean_shape is None:
        return np.full((num_landmarks, 2), 0.5, np.float32)
    mean_shape = np.asarray(mean_shape, np.float32)
    if mean_shape.shape != (num_landmarks, 2) or not np.isfinite(mean_shape).all():
        raise InputError(
            f"mean_shape must hold {num_landmarks} finite (x, y) pairs, not an array of shape {list(mean_shape.shape)}"
            f"{'' if np.isfinite(mean_shape).all() else ' with NaN or infinity'}."
        )
    return mean_shape


class Uncertainty(nnx.Module):
    """Mean over h and w, one dense layer to K logarithms of expected distances, kept between 1/1000 and 1 in u.

    Heads with maps add two things for each landmark: a weighted sum of the features where its map lies, and a factor
    times the logarithm of the map's deviation, because a wide map means doubt. A new layer gives 0.05 for every image.
    It is trained by `losses.laplace`.

    Args:
        channels: C of the features.
        num_landmarks: K.
        local: C' of the features of which the maps are made; 0 for a head without maps.
    """

    def __init__(self, channels: int, num_landmarks: int, *, local: int = 0) -> None:
        self.kernel = nnx.Param(jnp.zeros((channels, num_landmarks), jnp.float32))
        self.bias = nnx.Param(jnp.full(num_landmarks, math.log(0.05), jnp.float32))
        if local:
            self.local = nnx.Param(jnp.zeros((num_landmarks, local), jnp.float32))
            self.slope = nnx.Param(jnp.zeros(num_landmarks, jnp.float32))

    def __call__(self, features: jax.Array, maps: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
        """Expected distances.

        Args:
            features: [B, h, w, C].
            maps: means [B, K, C'] of the finer features under the maps, and the variances of the maps [B, K] in u².

        Returns:
            float32 [B, K] in u.
        """
        logs = self.pooled(features)
        if maps is not None:
            means, variance = maps
            logs += (means * self.local[...][None]).sum(-1)
            # The deviation counts relative to a tenth of the image.
            logs += self.slope[...].reshape(1, -1) * (0.5 * jnp.log(jnp.maximum(variance, 1e-6)) - math.log(0.1))
        return jnp.exp(jnp.clip(logs, math.log(1e-3), 0.0))

    def pooled(self, features: jax.Array) -> jax.Array:
        """The logarithms that do not depend on maps, float32 [B, K], from features [B, h, w, C]."""
        mean = features.mean((1, 2), dtype=jnp.float32)
        return jnp.matmul(mean, self.kernel[...], precision=jax.lax.Precision.HIGHEST) + self.bias[...].reshape(1, -1)


class Coordinates(nnx.Module):
    """Mean over h and w, dropout, one dense layer to 2K numbers.

    It computes in float32 whatever the backbone's dtype: bfloat16 would round a landmark to 1/256 of the image.

    Args:
        channels: C of the features.
        num_landmarks: K.
        mean_shape: [K, 2] in u where training starts (the initial bias); None is the centre of the image.
        dropout: rate on the pooled features.
        uncertainty: whether an `Uncertainty` is predicted too.
        rngs: draws the initial kernel, small (deviation 0.01 / sqrt(C)), so that training starts at the mean shape.
        dtype: not used; `create` passes it to every head.
    """

    def __init__(
        self,
        channels: int,
        num_landmarks: int,
        *,
        mean_shape: ArrayLike | None = None,
        dropout: float = 0.0,
        uncertainty: bool = False,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        del dtype
        self.kernel = nnx.Param(normal(rngs.params(), (channels, 2 * num_landmarks), 0.01 / math.sqrt(channels)))
        self.bias = nnx.Param(jnp.asarray(checked_mean_shape(mean_shape, num_landmarks).reshape(-1)))
        self.dropout = layers.dropout(dropout)
        self.num_landmarks = num_landmarks
        self.uncertainty = Uncertainty(channels, num_landmarks) if uncertainty else None

    def __call__(self, features: jax.Array, rngs: nnx.Rngs | None = None) -> Prediction:
        """`rngs` feeds the dropout while training."""
        pooled = self.dropout(features.mean((1, 2), dtype=jnp.float32), rngs=rngs)
        # By default a GPU computes this product in TF32, whose rounding is a thousandth of the image.
        flat = jnp.matmul(pooled, self.kernel[...], precision=jax.lax.Precision.HIGHEST)
        flat = flat + self.bias[...].reshape(1, -1)
        uncertainty = self.uncertainty(features) if self.uncertainty else None
        return Prediction(flat.reshape(-1, self.num_landmarks, 2), uncertainty=uncertainty)


class Heatmap(nnx.Module):
    """Upsampling blocks (resize ×2, 3×3 convolution, batch norm, ReLU), a 1×1 convolution to K maps, soft-argmax.

    Args:
        channels: C of the features.
        num_landmarks: K.
        mean_shape: [K, 2] in u where training starts; None is the centre of the image.
        upsample: power of two by which the features grow; 1 keeps their size.
        head_channels: channels of the upsampling blocks.
        resize: "nearest" or "bilinear".
        temperature: initial divisor of the logits, positive.
        learn_temperature: whether the logarithm of the temperature (one number for all landmarks) is trained.
        prior: deviation of a Gaussian, as a fraction of the image, that multiplies each landmark's map. Its centre
            starts at the mean shape and is trained. A new head then predicts the mean shape instead of the centre of
            the image, which saves the first hundred steps of a short training. Infinity means no prior.
        bn_momentum: see `layers.BatchNorm`.
        uncertainty: whether an `Uncertainty` is predicted too.
        rngs: draws the initial parameters (stream `params`).
        dtype: of the upsampling blocks; the last convolution and the soft-argmax compute in float32.
    """

    def __init__(  # noqa: PLR0913
        self,
        channels: int,
        num_landmarks: int,
        *,
        mean_shape: ArrayLike | None = None,
        upsample: int = 4,
        head_channels: int = 64,
        resize: str = "nearest",
        temperature: float = 1.0,
        learn_temperature: bool = True,
        prior: float = float("inf"),
        bn_momentum: float = 0.9,
        uncertainty: bool = False,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        check_choice("resize", resize, ("nearest", "bilinear"))
        check_upsample(upsample)
        check_channels("head_channels", head_channels)
        if not 0.0 < temperature < math.inf:
            raise InputError(f"Option temperature is {temperature}; it must be positive.")
        if not prior > 0.0:
            raise InputError(f"Option prior is {prior}; it must be positive.")
        self.prior = prior
        local = head_channels if upsample > 1 else channels
        self.uncertainty = Uncertainty(channels, num_landmarks, local=local) if uncertainty else None
        centre = checked_mean_shape(mean_shape, num_landmarks)
        if np.isfinite(prior):
            self.centre = nnx.Param(jnp.asarray(centre))
        common = Common(bn_momentum=bn_momentum, rngs=rngs, dtype=dtype)
        blocks = []
        for _ in range(upsample.bit_length() - 1):
            blocks.append(ConvNorm(channels, head_channels, 3, act=jax.nn.relu, **common))
            channels = head_channels
        self.blocks = nnx.List(blocks)
        self.maps = conv(channels, num_landmarks, bias=True, rngs=rngs, dtype=jnp.float32)
        # Maps are nearly flat at the start: the gradient of a softmax vanishes where one cell has all the weight.
        self.maps.kernel[...] *= 0.1
        self.learn_temperature, self.temperature = learn_temperature, temperature
        if learn_temperature:
            self.log_temperature = nnx.Param(jnp.log(jnp.asarray(temperature, jnp.float32)))
        self.resize = resize

    def __call__(self, features: jax.Array, rngs: nnx.Rngs | None = None) -> Prediction:
        """All heads take `rngs`; this one draws no random numbers."""
        x = self.upsampled(features)
        found = soft_argmax(self.logits(x))
        if self.uncertainty is None:
            return found
        means = jnp.einsum("bhwk,bhwc->bkc", found.heatmaps, x.astype(jnp.float32))
        return found._replace(uncertainty=self.uncertainty(features, (means, codecs.variance(found.heatmaps))))

    def upsampled(self, features: jax.Array) -> jax.Array:
        """Features [B, h, w, C] -> [B, h', w', C'], of which the maps are made."""
        x = features
        for block in self.blocks:
            if self.resize == "nearest":
                x = doubled(x)
            else:
                x = jax.image.resize(x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), "bilinear")
            x = block(x)
        return x

    def logits(self, x: jax.Array) -> jax.Array:
        """The logarithms of the maps up to a constant, float32 [B, h', w', K], from `upsampled` features."""
        temperature = jnp.exp(self.log_temperature[...]) if self.learn_temperature else jnp.float32(self.temperature)
        if not np.isfinite(self.prior):
            return self.maps(x) / temperature
        if exporting():
            return self.maps(x) / temperature + self._log_prior(*x.shape[1:3])
        # On a CPU, the gradients of bias and centre take longer than all others, unless one product has all four.
        b, h, w, c = x.shape
        cells = places(h, w)
        bowl = -0.5 * np.square(cells).sum(1, keepdims=True)
        known = np.tile(np.concatenate([cells, bowl, np.ones_like(bowl)], 1), (b, 1))
        columns = jnp.concatenate([x.astype(jnp.float32).reshape(-1, c), jnp.asarray(known)], 1)
        narrow = 1.0 / self.prior**2
        rows = [self.maps.kernel[...][0, 0] / temperature, narrow * self.centre[...].T]
        rows += [jnp.full((1, self.centre[...].shape[0]), narrow), self.maps.bias[...].reshape(1, -1) / temperature]
        # By default a GPU computes this product in TF32, whose rounding is a thousandth of the image.
        flat = jnp.matmul(columns, jnp.concatenate(rows), precision=jax.lax.Precision.HIGHEST)
        return flat.reshape(b, h, w, -1)

    def _log_prior(self, h: int, w: int) -> jax.Array:
        """Logarithm of the Gaussians on the grid of cells, [1, h, w, K]."""
        x = codecs.cell_centres(w).reshape(1, 1, w, 1) - self.centre[...][:, 0].reshape(1, 1, 1, -1)
        y = codecs.cell_centres(h).reshape(1, h, 1, 1) - self.centre[...][:, 1].reshape(1, 1, 1, -1)
        return -(jnp.square(x) + jnp.square(y)) / (2 * self.prior**2)


def places(h: int, w: int) -> np.ndarray:
    """The centres of h x w cells in u, float32 [h * w, 2]."""
    x, y = np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h)
    return np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)


class Boxes(nnx.Module):
    """The maps of a detector, `detection.Maps`: one 3×3 convolution, and one 1×1 convolution to five maps.

    Args:
        channels: C of the features.
        num_landmarks: of `detection.LAYOUT`.
        head_channels: channels of the first convolution.
        bn_momentum: see `layers.BatchNorm`.
        rngs: draws the initial parameters (stream `params`).
        dtype: of the first convolution; the second computes in float32.
    """

    def __init__(
        self,
        channels: int,
        num_landmarks: int,
        *,
        head_channels: int = 32,
        bn_momentum: float = 0.9,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        check_channels("head_channels", head_channels)
        if num_landmarks != detection.LAYOUT.count:
            raise InputError(f"The head 'boxes' needs the layout {detection.LAYOUT.name} (config.layout).")
        common = Common(bn_momentum=bn_momentum, rngs=rngs, dtype=dtype)
        self.block = ConvNorm(channels, head_channels, 3, act=jax.nn.relu, **common)
        self.maps = conv(head_channels, 5, bias=True, rngs=rngs, dtype=jnp.float32)
        self.maps.kernel[...] *= 0.1
        self.maps.bias[...] = jnp.array([-4.6, 0.0, 0.0, 0.0, 0.0])  # nearly all cells are background

    def __call__(self, features: jax.Array, rngs: nnx.Rngs | None = None) -> Prediction:
        """All heads take `rngs`; this one draws no random numbers."""
        maps = self.raw(features)
        return Prediction(detection.best(maps), maps=maps)

    def raw(self, features: jax.Array) -> detection.Maps:
        """The maps alone."""
        found = self.maps(self.block(features))
        return detection.Maps(found[..., 0], found[..., 1:])
