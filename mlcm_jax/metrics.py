"""Landmark errors as the field reports them: NME with a named normaliser, failure rate, AUC, CED.

`nme` takes numpy or jax arrays (also traced) and returns the same kind; the summaries compute in numpy. An NME is a
fraction here and becomes per cent only where it is printed. Distances are in *pixels of the original image*, never of a
crop.
"""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mlcm_jax import landmarks
from mlcm_jax.errors import InputError, did_you_mean

# The lengths by which errors are divided, as tables and plots describe them.
NORMALIZERS = {
    "outer_eyes": "the distance of the outer eye corners",
    "pupils": "the distance of the pupils",
    "box": "√(w·h) of the box",
}

Array = np.ndarray | jax.Array


def normalizer_length(
    target: Array,
    *,
    normalizer: str,
    layout: str | landmarks.Layout | None = None,
    box: ArrayLike | None = None,
) -> Array:
    """The length in pixels by which the errors of each face are divided.

    Args:
        target: float [B, K, 2], the true landmarks in pixels.
        normalizer: "outer_eyes" (distance of the outer eye corners: 300W, SF-TL54, WFLW, and COFW's "inter-ocular"),
            "pupils" (distance of the eye centres: older 300W and COFW papers), or "box" (sqrt(w h) of the box).
        layout: name or Layout; needed by "outer_eyes" and "pupils".
        box: [B, 4] x, y, w, h in pixels; needed by "box".

    Returns:
        float [B].

    Raises:
        InputError: an unknown normaliser, or one that needs a layout or a box that is missing.
    """
    xp = _namespace(target, box)
    if normalizer == "box":
        if box is None:
            raise InputError("The normaliser 'box' needs the boxes [B, 4].")
        box = xp.asarray(box)
        if box.shape != (target.shape[0], 4):
            raise InputError(f"Boxes have shape {box.shape}, not [{target.shape[0]}, 4].")
        # The product of two negative sides must not pass for a valid length.
        return xp.sqrt(xp.maximum(box[:, 2], 0.0) * xp.maximum(box[:, 3], 0.0))
    if normalizer not in NORMALIZERS:
        raise InputError(f"Unknown normaliser {normalizer!r}; {did_you_mean(normalizer, NORMALIZERS)}")
    if layout is None:
        raise InputError(f"The normaliser {normalizer!r} needs the landmarks' layout.")
    layout = landmarks.get(layout)
    if target.shape[-2] != layout.count:
        raise InputError(f"Layout {layout.name} has {layout.count} landmarks, the target {target.shape[-2]}.")
    if normalizer == "outer_eyes":
        if layout.eye_corners is None:
            raise InputError(f"Layout {layout.name} has no eye corners; use the normaliser 'pupils' or 'box'.")
        right, left = (target[:, i] for i in layout.eye_corners)
    else:
        if layout.pupils is None:
            raise InputError(f"Layout {layout.name} has no eye centres; use the normaliser 'box'.")
        right, left = (target[:, list(group)].mean(axis=1) for group in layout.pupils)
    return xp.sqrt(((right - left) ** 2).sum(axis=-1))


def nme(
    prediction: Array,
    target: Array,
    *,
    normalizer: str,
    layout: str | landmarks.Layout | None = None,
    box: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Array:
    """Normalised mean error: the mean distance of the landmarks from the truth, divided by `normalizer_length`.

    Args:
        prediction: float [B, K, 2] in pixels.
        target: float [B, K, 2] in pixels.
        normalizer: "outer_eyes", "pupils" or "box"; see `normalizer_length`.
        layout: name or Layout; needed by "outer_eyes" and "pupils".
        box: [B, 4] x, y, w, h in pixels; needed by "box".
        weights: optional [B, K], for example visibility: weights of the mean over the landmarks. An example whose
            weights are all 0 gives NaN. Published numbers count all landmarks: leave it out to compare with them.

    Returns:
        float [B], a fraction, not per cent. In jax, an example whose normaliser is not a positive number (padding)
        gives NaN.

    Raises:
        InputError: shapes or names that do not fit, or (numpy only) a normaliser that is not a positive number.
    """
    xp = _namespace(prediction, target, box, weights)
    prediction, target = xp.asarray(prediction), xp.asarray(target)
    if prediction.shape != target.shape or prediction.ndim != 3 or prediction.shape[-1] != 2:
        raise InputError(f"Prediction {prediction.shape} and target {target.shape} are not both [B, K, 2].")
    length = normalizer_length(target, normalizer=normalizer, layout=layout, box=box)
    valid = xp.isfinite(length) & (length > 0)
    if xp is np and not valid.all():
        bad = int(np.argmin(valid))
        raise InputError(f"The normaliser {normalizer!r} of example {bad} is {length[bad]}, not a positive number.")
    distance = xp.sqrt(((prediction - target) ** 2).sum(axis=-1))
    if weights is None:
        mean = distance.mean(axis=-1)
    else:
        weights = xp.asarray(weights).astype(distance.dtype)
        if weights.shape != distance.shape:
            raise InputError(f"Weights have shape {weights.shape}, not {distance.shape}.")
        total = weights.sum(axis=-1)
        some = total > 0
        distance = xp.where(weights > 0, distance, 0.0)  # an unlabelled landmark may hold NaN
        mean = xp.where(some, (distance * weights).sum(axis=-1) / xp.where(some, total, 1.0), xp.nan)
    return xp.where(valid, mean / xp.where(valid, length, 1.0), xp.nan).astype(distance.dtype)


def failure_rate(nme: ArrayLike, *, threshold: float) -> float:
    """Fraction in [0, 1] of examples whose NME (a fraction, like the threshold) exceeds the threshold, or is NaN."""
    values, threshold = _values(nme), _threshold(threshold)
    return float(np.mean(~(values <= threshold)))


def auc(nme: ArrayLike, *, threshold: float) -> float:
    """Area under the cumulative error curve from 0 to the threshold, over the threshold: a perfect model scores 1.

    Exact, without sampling the curve: an example of error e contributes (threshold - e) / threshold, or nothing where e
    exceeds the threshold or is NaN.
    """
    values, threshold = _values(nme), _threshold(threshold)
    kept = np.where(values <= threshold, threshold - values, 0.0)  # False for NaN
    return float(np.mean(kept) / threshold)


def ced(nme: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative error distribution: sorted errors [N], and the fraction [N] of examples with at most that error.

    NaN counts as an infinite error, so that the curve of a model that fails does not reach 1.
    """
    values = _values(nme)
    values = np.sort(np.where(np.isnan(values), np.inf, values))
    return values, np.arange(1, len(values) + 1) / len(values)


def _namespace(*arrays: ArrayLike | None) -> ModuleType:
    """jax.numpy if one of the arrays is jax's, else numpy: evaluation on the host must not go through a device."""
    return jnp if any(isinstance(a, jax.Array) for a in arrays) else np


def _values(nme: ArrayLike) -> np.ndarray:
    values = np.asarray(nme, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise InputError(f"NME values must be a list of at least one number, not an array of shape {values.shape}.")
    return values


def _threshold(threshold: float) -> float:
    if not threshold > 0:
        raise InputError(f"The threshold must be positive, not {threshold}; 0.1 means 10 %.")
    return float(threshold)
