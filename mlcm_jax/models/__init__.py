"""Networks: `create(name, …)` makes a model of two parts, `backbone` and `head`: image -> features -> landmarks."""

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from mlcm_jax import kinds
from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.models import pretrained
from mlcm_jax.models.aam import AAM
from mlcm_jax.models.efficientnet import EfficientNet
from mlcm_jax.models.heads import Boxes, Coordinates, Heatmap, Prediction, checked_mean_shape, soft_argmax
from mlcm_jax.models.mobilenet_v2 import MobileNetV2
from mlcm_jax.models.mobilevit_v2 import MobileViTV2
from mlcm_jax.models.resnet import BottleneckResNet, ResNet
from mlcm_jax.models.size import profile, table
from mlcm_jax.models.swin_v2 import SwinV2

__all__ = ["HEADS", "Model", "Prediction", "create", "names", "pretrained", "profile", "soft_argmax", "table"]

_BACKBONES = {
    "mobilenet_v2": partial(MobileNetV2),
    "efficientnet_b0": partial(EfficientNet, (1.0, 1.0)),
    "efficientnet_b1": partial(EfficientNet, (1.0, 1.1)),
    "efficientnet_b2": partial(EfficientNet, (1.1, 1.2)),
    "efficientnet_b3": partial(EfficientNet, (1.2, 1.4)),
    "efficientnet_b4": partial(EfficientNet, (1.4, 1.8)),
    "resnet18": partial(ResNet, depths=(2, 2, 2, 2)),
    "resnet34": partial(ResNet, depths=(3, 4, 6, 3)),
    "resnet50": partial(BottleneckResNet, depths=(3, 4, 6, 3)),
    "mobilevit_v2": partial(MobileViTV2),
    "swin_v2_t": partial(SwinV2, 96, 3, depths=(2, 2, 6, 2), drop_path=0.2),
    "swin_v2_s": partial(SwinV2, 96, 3, depths=(2, 2, 18, 2), drop_path=0.3),
    "swin_v2_b": partial(SwinV2, 128, 4, depths=(2, 2, 18, 2), drop_path=0.5),
}
HEADS = {"coordinates": Coordinates, "heatmap": Heatmap, "aam": AAM, "boxes": Boxes}


class Model(nnx.Module):
    """A network of two parts: `head(backbone(x))`."""

    def __init__(self, backbone: nnx.Module, head: nnx.Module) -> None:
        self.backbone = backbone
        self.head = head

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> Prediction:
        """Image float32 [B, H, W, 1 or 3] in [0, 1] -> Prediction; `rngs` feeds dropout while training."""
        return self.head(self.backbone(x, rngs=rngs), rngs=rngs)


def names() -> tuple[str, ...]:
    """The backbones that `create` accepts."""
    return tuple(_BACKBONES)


def _options(module: type[nnx.Module]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a backbone or head, which `create` passes on by name."""
    # The signature of the class itself would be that of nnx's metaclass.
    parameters = inspect.signature(module.__init__, eval_str=True).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("rngs", "dtype")}


def _is_float(dtype: DTypeLike) -> bool:
    try:
        return jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        return False


def create(
    name: str,
    *,
    num_landmarks: int,
    head: str = "coordinates",
    rngs: nnx.Rngs,
    dtype: DTypeLike = jnp.float32,
    mean_shape: ArrayLike | None = None,
    weights: str | Path | None = None,
    **options: Any,
) -> Model:
    """A new model in evaluation mode; `model.train()` and `model.eval()` switch batch norm and dropout.

    Args:
        name: one of `names()`.
        num_landmarks: K.
        head: "coordinates", "heatmap", "aam", or "boxes" for a detector.
        rngs: draws the initial parameters (stream `params`).
        dtype: the type that convolutions compute in; parameters, batch statistics and landmarks stay float32.
        mean_shape: float [K, 2] in u, the first prediction of a coordinate head, or of a heatmap head with a prior;
            None is the centre of the image.
        weights: file of ImageNet weights for the backbone, with torchvision's names (see `pretrained.load`).
        options: of the backbone (`width`, `stem`, …) or of the head (`upsample`, `dropout`, …); see their docstrings.

    Returns:
        A Model whose only variables are nnx.Param and nnx.BatchStat, in states with the keys `backbone` and `head`.

    Raises:
        InputError: unknown name, head or option, a value out of range, or weights that do not fit.
    """
    if name not in _BACKBONES:
        raise InputError(f"There is no model {name!r}; {did_you_mean(name, _BACKBONES)}")
    if head not in HEADS:
        raise InputError(f"There is no head {head!r}; {did_you_mean(head, HEADS)}")
    if num_landmarks < 1:
        raise InputError(f"A model needs at least one landmark, not num_landmarks={num_landmarks}.")
    if not _is_float(dtype):
        raise InputError(f"Option dtype is {dtype!r}; it must be a type of real numbers, such as 'bfloat16'.")
    of_backbone, of_head = _options(_BACKBONES[name].func), _options(HEADS[head])
    known = {option: parameter for option, parameter in (of_backbone | of_head).items() if option != "mean_shape"}
    for option, value in options.items():
        if option not in known:
            hint = did_you_mean(option, sorted(known))
            raise InputError(f"Model {name} with head {head} has no option {option!r}; {hint}")
        kind, default = known[option].annotation, known[option].default
        as_default = type(value) is type(default) and value == default  # a limit may be infinite by default
        if not as_default and not kinds.fits(value, kind):
            raise InputError(f"Option {option} is {value!r}; it must be {kinds.name(kind)}.")
    options["mean_shape"] = checked_mean_shape(mean_shape, num_landmarks)

    def make(part: Any, *arguments: int, takes: Mapping[str, Any]) -> nnx.Module:
        return part(*arguments, rngs=rngs, dtype=dtype, **{k: v for k, v in options.items() if k in takes})

    backbone = make(_BACKBONES[name], takes=of_backbone)
    model = Model(backbone, make(HEADS[head], backbone.channels, num_landmarks, takes=of_head))
    if weights is not None:
        pretrained.load(backbone, weights)
    return model
