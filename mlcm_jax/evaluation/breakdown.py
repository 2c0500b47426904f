"""Where the error of a network lies: by part of the face, yaw, hidden landmarks and resolution."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlcm_jax import landmarks, metrics
from mlcm_jax.data.examples import Examples

YAW = (15, 30, 45, 60)  # limits of the bands of |yaw| in degrees
SIDE = (32, 48, 64, 96, 128, 192, 256)  # of √(w·h) of the box in pixels
HIDDEN = (10, 30)  # of the share of hidden landmarks in per cent


def relative(found: Mapping[str, np.ndarray], *, normalizer: str, layout: landmarks.Layout) -> np.ndarray:
    """Returns the error of every landmark as a fraction of the normaliser, float64 [N, K]; NaN if it is unlabelled.

    Args:
        found: see `evaluate.collect`.
        normalizer: see `metrics.normalizer_length`.
        layout: the layout of the landmarks in `found`.
    """
    length = metrics.normalizer_length(found["truth"], normalizer=normalizer, layout=layout, box=found["box"])
    distance = np.linalg.norm(found["prediction"] - found["truth"], axis=-1)
    return np.where(found["known"], distance / np.asarray(length)[:, None], np.nan)


def mean(values: np.ndarray, axis: int | None = None) -> Any:
    """Returns the mean of the numbers that are not NaN, and NaN, without a warning, if there are none."""
    count = np.isfinite(values).sum(axis)
    total = np.where(np.isfinite(values), values, 0.0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)[()]


def by_region(errors: np.ndarray, layout: landmarks.Layout) -> dict[str, float]:
    """Returns the mean error of each part of the face, such as "jaw": of its labelled landmarks, then of the faces.

    Args:
        errors: see `relative`.
        layout: their layout; a layout without groups gives {}.
    """
    return {name: float(mean(mean(errors[:, list(places)], 1))) for name, places in layout.groups.items()}


def by_visibility(errors: np.ndarray, visible: np.ndarray) -> dict[str, float]:
    """Returns the mean error of the visible landmarks and of the hidden ones.

    Args:
        errors: see `relative`.
        visible: bool [N, K].
    """
    parts = {"visible landmarks": visible, "hidden landmarks": ~visible}
    return {name: float(mean(np.where(of, errors, np.nan))) for name, of in parts.items()}


def by_band(errors: np.ndarray, faces: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the mean of `errors` [N] over the faces of each band; see `bands`."""
    return {name: float(mean(errors[of])) for name, of in faces.items()}


def bands(values: np.ndarray, limits: Sequence[float], unit: str) -> dict[str, np.ndarray]:
    """Divides faces into bands of a number, and leaves out the empty ones.

    Args:
        values: [N]; NaN lies in no band.
        limits: the increasing limits between the bands; a value at a limit lies in the band above it.
        unit: written after a limit, such as "°".

    Returns:
        name -> bool [N].
    """
    edges = [-np.inf, *limits, np.inf]
    names = [f"below {limits[0]:g}{unit}"]
    names += [f"{low:g} to {high:g}{unit}" for low, high in itertools.pairwise(limits)]
    names += [f"{limits[-1]:g}{unit} and more"]
    found = {
        name: (values >= low) & (values < high) for name, low, high in zip(names, edges[:-1], edges[1:], strict=True)
    }
    return {name: faces for name, faces in found.items() if faces.any()}


def yaw(examples: Examples) -> np.ndarray | None:
    """Returns |yaw| of every face in degrees, float64 [N], NaN where it is unknown; None if no face has a pose."""
    poses = [examples.metadata(i).get("pose") for i in range(len(examples))]
    known = [np.shape(pose) == (3,) for pose in poses]
    if not any(known):
        return None
    return np.array([abs(float(pose[0])) if has else np.nan for pose, has in zip(poses, known, strict=True)])


def hidden_share(visible: np.ndarray, known: np.ndarray) -> np.ndarray | None:
    """Returns the share of each face's labelled landmarks that are hidden, in per cent [N]; None if no landmark is.

    Args:
        visible: bool [N, K].
        known: bool [N, K].
    """
    if (visible | ~known).all():
        return None
    return 100 * (known & ~visible).sum(1) / np.maximum(known.sum(1), 1)


def occlusion_bands(share: np.ndarray) -> dict[str, np.ndarray]:
    """Divides faces by their hidden landmarks; the first band has those without any. See `bands`."""
    some = np.where(share > 0, share, np.nan)
    none = {"none hidden": share == 0} if (share == 0).any() else {}
    return none | bands(some, HIDDEN, " % hidden")


def side(box: np.ndarray) -> np.ndarray:
    """Returns √(w·h) of boxes [N, 4] in pixels, float64 [N]."""
    return np.sqrt(np.prod(np.asarray(box, np.float64)[:, 2:], axis=1))
