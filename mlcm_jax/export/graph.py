"""The function that an exported file computes, built from a network and its card.

`whole` goes from the crop to the landmarks. `split` is for int8, whose 256 levels are too few for coordinates: `body`
holds the convolutions and ends at maps, and `tail`, which stays in float32, holds what is left for heads without maps.
The maps are read outside the file, by `decode`.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mlcm_jax.data.augment import CHANNELS
from mlcm_jax.models import Model, Prediction, depthwise, heads
from mlcm_jax.models import network as networks
from mlcm_jax.models.aam import AAM
from mlcm_jax.models.stored import Card

Call = Callable[..., tuple[jax.Array, ...]]
INPUT = "crop"


@dataclasses.dataclass(frozen=True)
class Graph:
    """A function to export.

    Attributes:
        call: float32 arrays of `shapes` -> arrays, in the order of `outputs`.
        shapes: shapes of the inputs by name, batch included; the only input of a whole graph is "crop".
        outputs: names of the outputs.
        decoder: who turns the outputs into the result (`decode`): "none" if they are the landmarks already.
    """

    call: Call
    shapes: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    decoder: str = "none"

    def inputs(self) -> list[jax.ShapeDtypeStruct]:
        """The inputs as JAX's shapes."""
        return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in self.shapes.values()]

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the outputs by name."""
        return dict(zip(self.outputs, (one.shape for one in jax.eval_shape(self.call, *self.inputs())), strict=True))


def _plain(call: Call) -> Call:
    """Traces a function in the form that converters know: see `depthwise.as_convolution`."""

    @functools.wraps(call)
    def traced(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        with depthwise.as_convolution():
            return call(*arrays)

    return traced


def crop_shape(card: Card) -> tuple[int, int, int, int]:
    """The shape of the crop, [1, S, S, C]."""
    return 1, card.image_size, card.image_size, CHANNELS[card.modality]


def whole(network: networks.Network, card: Card) -> Graph:
    """The crop -> landmarks in u, and the expected distances of networks that have them; a detector's maps."""
    model = networks.join(network)

    @_plain
    def call(crop: jax.Array) -> tuple[jax.Array, ...]:
        features = model.backbone(crop)
        if isinstance(model.head, heads.Heatmap):
            x = model.head.upsampled(features)
            landmarks, maps = _soft_argmax(model.head.logits(x), x)
            uncertainty = model.head.uncertainty(features, maps) if model.head.uncertainty else None
            return outputs(Prediction(landmarks, uncertainty=uncertainty), card)
        if isinstance(model.head, heads.Boxes):
            return tuple(model.head.raw(features))
        return outputs(model.head(features), card)

    boxes = isinstance(model.head, heads.Boxes)
    named = ("scores", "sides") if boxes else ("landmarks", "uncertainty") if _doubts(model) else ("landmarks",)
    return Graph(call, {INPUT: crop_shape(card)}, named, "boxes" if boxes else "none")


def split(network: networks.Network, card: Card) -> tuple[Graph, Graph | None, str]:
    """The parts of an int8 file.

    Returns:
        body: the crop -> what is decoded outside the file, or the features that `tail` takes.
        tail: the rest, which stays in float32, or None.
        decoder: "soft_argmax", "expectation", "boxes" or "none"; see `decode`.
    """
    model, crop = networks.join(network), {INPUT: crop_shape(card)}
    head = model.head
    if isinstance(head, heads.Boxes):
        raw = _plain(lambda x: tuple(head.raw(model.backbone(x))))
        return Graph(raw, crop, ("scores", "sides"), "boxes"), None, "boxes"
    if isinstance(head, AAM):
        body = Graph(_plain(lambda x: (head.fused(model.backbone(x)),)), crop, ("maps",), "expectation")
        return body, None, "expectation"
    if isinstance(head, heads.Coordinates):
        body = Graph(_plain(lambda x: (model.backbone(x),)), crop, ("features",))
        tail = Graph(_plain(lambda x: outputs(head(x), card)), body.output_shapes(), whole(network, card).outputs)
        return body, tail, "none"

    @_plain
    def maps(x: jax.Array) -> tuple[jax.Array, ...]:
        features = model.backbone(x)
        fine = head.upsampled(features)
        if head.uncertainty is None:
            return (head.logits(fine),)
        # A weighted mean of features, times a kernel, is the weighted mean of the product: K maps instead of C'.
        local = jnp.einsum("bhwc,kc->bhwk", fine, head.uncertainty.local[...])
        return head.logits(fine), local, head.uncertainty.pooled(features)

    named = ("maps", "local", "doubt") if _doubts(model) else ("maps",)
    return Graph(maps, crop, named, "soft_argmax"), None, "soft_argmax"


def joined(body: Graph, tail: Graph | None) -> Graph:
    """Body and tail as one graph."""
    if tail is None:
        return body

    def call(crop: jax.Array) -> tuple[jax.Array, ...]:
        features = body.call(crop)
        with jax.named_scope("tail"):
            return tail.call(*features)

    return Graph(call, body.shapes, tail.outputs)


def outputs(found: Prediction, card: Card) -> tuple[jax.Array, ...]:
    """What the graph of a network returns."""
    if found.maps is not None:
        return tuple(found.maps)
    spread = found.uncertainty
    return (found.landmarks,) if spread is None else (found.landmarks, _calibrated(spread, card))


def _doubts(model: Model) -> bool:
    return getattr(model.head, "uncertainty", None) is not None


def _calibrated(uncertainty: jax.Array, card: Card) -> jax.Array:
    """The expected distances in u."""
    if not card.calibration:
        return uncertainty
    factor, power = card.calibration[:2]
    return factor * jnp.exp(power * jnp.log(uncertainty))


def _soft_argmax(logits: jax.Array, features: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The landmarks of `heads.soft_argmax` for one example, and `maps` of `heads.Uncertainty`.

    Few matrix products are faster where operations are not fused.
    """
    _, h, w, k = logits.shape
    x, y = heads.places(h, w).T
    places = np.stack([np.ones(h * w, np.float32), x, y, x**2 + y**2])
    flat = logits.reshape(h * w, k)
    weights = jnp.exp(flat - flat.max(0, keepdims=True))
    sums = places @ weights
    moments = sums[1:] / sums[:1]
    means = (features.reshape(h * w, -1).T @ weights) / sums[:1]
    variance = moments[2:] - jnp.square(moments[:1]) - jnp.square(moments[1:2])
    return moments[:2].T[None], (means.T[None], variance)
