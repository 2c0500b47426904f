"""Finds what is probably wrong with a dataset: every face is checked, and the user is told how many are odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mlcm_jax import landmarks, polarity
from mlcm_jax.errors import InputError
from mlcm_jax.units import COLDEST_FACE, HOTTEST_FACE
from tfds_builders import formats

# What is noticed: the share of the faces from which it is told, and what is said after "N of M faces".
_TOLD = {
    "flat": (0.0, "have a thermal image of one value only, such as that of a closed shutter. Leave them out with "
                  "--exclude."),
    "holes": (0.0, "have a thermal image in which some pixels hold no temperature; these count as missing."),
    "telemetry": (0.0, "have a thermal image with rows of telemetry at its top or bottom; these count as missing."),
    "dead": (0.0, "have a thermal image with dead pixels, which were given the gray level of their neighbours."),
    "dark": (0.1, "are darker than what surrounds them. If cold is bright in these images, build them with "
                  "--polarity=black_hot."),
    "unlikely": (0.1, f"have a median temperature outside {COLDEST_FACE:g} to {HOTTEST_FACE:g} °C, which no face has. "
                      "If the unit is another one, state it by --celsius, such as --celsius=fahrenheit."),
    "missing": (0.0, "have landmarks at (0, 0) or (-1, -1), which count as missing."),
    "apart": (0.1, "have a box that does not fit their landmarks. Look at preview.png."),
    "stated": (0.0, "have a label whose file states another size of the image. Look at preview.png, and scale the "
                    "labels if they do not fit."),
}  # fmt: skip


def of_image(values: np.ndarray, box: np.ndarray | None, *, celsius: bool) -> set[str]:
    """Finds what is odd about a thermal image.

    Args:
        values: [H, W], gray levels, or °C with NaN in holes.
        box: x, y, w, h of the face; None if nobody knows it.
        celsius: which of the two they are.

    Returns:
        Some of the keys of `_TOLD`.
    """
    finite = values[np.isfinite(values)]
    if not finite.size or finite.min() == finite.max():
        return {"flat"}
    if box is None:
        return set()
    if not celsius:
        return {"dark"} if polarity.darker(values, box) else set()
    x, y, w, h = map(float, box)
    rows = slice(max(0, int(np.ceil(y))), max(0, int(np.ceil(y + h))))
    face = values[rows, max(0, int(np.ceil(x))) : max(0, int(np.ceil(x + w)))]
    face = face[np.isfinite(face)]
    return {"unlikely"} if face.size and not COLDEST_FACE <= np.median(face) <= HOTTEST_FACE else set()


def of_labels(points: np.ndarray, layout: landmarks.Layout, box: np.ndarray) -> set[str]:
    """Finds what is odd about labels.

    Args:
        points: the known landmarks [N, 2] in pixels.
        layout: their layout.
        box: x, y, w, h of the face.

    Returns:
        Some of the keys of `_TOLD`.
    """
    try:
        own = landmarks.box_from_points(points, layout)
    except InputError:  # too few points
        return set()
    return {"apart"} if overlap(own, box) < 0.3 else set()


def plausible(points: np.ndarray, layout: landmarks.Layout, known: np.ndarray | None = None) -> bool:
    """Whether the eyes lie above the mouth and the subject's right eye on the left, as in nearly every portrait.

    Most faces fail if rows of [y, x] were read as [x, y], or if the points are not in the layout's order. Faces without
    eyes or lips in their layout, or without labels for them, pass.

    Args:
        points: float [K, 2] (x, y) in pixels.
        layout: their layout.
        known: bool [K], True for labelled points; None: all are.
    """

    def middle(*names: str) -> np.ndarray | None:
        indices = next((list(layout.groups[name]) for name in names if name in layout.groups), [])
        indices = [i for i in indices if known is None or known[i]]
        return points[indices].mean(0) if indices else None

    right, left, mouth = middle("right_eye"), middle("left_eye"), middle("outer_lips", "mouth")
    if right is not None and left is not None and right[0] >= left[0]:
        return False
    eyes = [eye for eye in (right, left) if eye is not None]
    return not eyes or mouth is None or bool(np.mean(eyes, axis=0)[1] < mouth[1])


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Computes the intersection over the union of two boxes."""
    sides = [min(one[k] + one[k + 2], other[k] + other[k + 2]) - max(one[k], other[k]) for k in (0, 1)]
    shared = max(0.0, sides[0]) * max(0.0, sides[1])
    return float(shared / (one[2] * one[3] + other[2] * other[3] - shared))


def placeholders(points: np.ndarray) -> np.ndarray:
    """Finds landmarks [K, 2] at (0, 0) or (-1, -1), where tools put those that nobody set: bool [K]."""
    return (points == 0).all(-1) | (points == -1).all(-1)


def sentences(odd: Mapping[str, Sequence[str]], faces: int) -> list[str]:
    """Says what is odd about a dataset of `faces` faces; `odd` has the keys of the odd ones by kind."""
    some = formats.counted(faces, "face", "faces")
    return [
        f"{len(odd[kind]):,} of {some}, such as {odd[kind][0]}, {text}"
        for kind, (share, text) in _TOLD.items()
        if len(odd.get(kind, ())) > share * faces
    ]


def refusal(odd: Mapping[str, Sequence[str]], faces: int) -> str:
    """Says why a dataset cannot be built as it is; "" if it can."""
    if len(odd.get("flat", ())) == faces > 0:
        return "All thermal images are of one value only, such as those of a closed shutter."
    return ""
