"""Finds options under which the labels of a dataset fit its images better than without them.

Every face votes for the options that would mend its labels: --points says what they are measured in, and --box_format
what the numbers of a box are. If many faces want an option, the dataset is refused without it; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from tfds_builders import face_labels, formats, measures, suspicion
from tfds_builders.face import Face
from tfds_builders.measures import Size

_MEASURES = ("normalized", "rgb", "yx", "pixels")  # in the order in which they are tried
_BETTER = 0.05  # by which the overlap of a box with the landmarks' box must grow
# What is wrong with the labels of the faces that vote for an option, after "N of M faces".
_WRONG = {
    "points=normalized": "have landmarks that all lie within one pixel, unless they are shares of the image's width "
    "and height",
    "points=rgb": "have landmarks outside the thermal image, and none outside the RGB image, which has another size",
    "points=yx": "have landmarks that are an upright face inside the image only if their rows are y, x",
    "points=pixels": "have landmarks that fit the image only if they are its pixels",
}
_UNITS = zip(measures.UNITS, ("", ", as shares of the image's width and height", " in pixels"), strict=True)
_WRONG |= {
    f"box_format={form}{unit}": f"have a box that fits their landmarks and the image only if it is {text}{more}"
    for unit, more in _UNITS
    for form, text in measures.BOXES.items()
}


def votes(face: Face, layout: landmarks.Layout, measure: str | None, size: Size, rgb: Size | None) -> set[str]:
    """Finds the options that would mend the labels of a face, and other facts that count in the whole dataset.

    Args:
        face: the face, with its labels as they are in the file.
        layout: the layout of its landmarks.
        measure: what they are taken to be measured in, one of `measures.MEASURES`; None: pixels.
        size: width and height of the image.
        rgb: those of the RGB image, if there is one.

    Returns:
        Some of the options "points=…" and "box_format=…", and some of "labelled", "sizes" (the RGB image has another
        size, so that the landmarks may be set on that), "end" and "start" (a coordinate lies at the image's width or
        height, or near 0 or beyond the image, which tells whether they count from 1).
    """
    found, goal = set(), None
    if face.landmarks is not None:
        found.add("labelled")
        given, known, _ = face_labels.known_points(face, layout)
        if not known.any():
            return found

        def pixels(one: str | None) -> np.ndarray:
            return face_labels.converted(face, given, one, size, rgb)

        points, other = pixels(measure), rgb not in (None, size)
        better = [one for one in _MEASURES if one != measure and (one != "rgb" or other)]
        better = [one for one in better if _fits(pixels(one), known, layout, size)]
        if not _fits(points, known, layout, size):
            found |= {f"points={one}" for one in better[:1]}
            measure = better[0] if better else measure
        elif other and measure is None and _outside(points[known], size) and not _outside(pixels("rgb")[known], size):
            found.add("points=rgb")
            measure = "rgb"
        elif measure is None:
            most = np.array(size) - 0.5
            found |= {"sizes"} if other and face.stated is None else set()
            found |= {"end"} if ((points[known] > most) & (points[known] <= most + 1)).any() else set()
            found |= {"start"} if ((points[known] < 0.5) | (points[known] > most + 1)).any() else set()
        try:
            goal = landmarks.box_from_points(pixels(measure)[known], layout)
        except InputError:  # too few points
            return found
    return found | _vote_of_box(face, measure, size, rgb, goal)


def _vote_of_box(face: Face, measure: str | None, size: Size, rgb: Size | None, goal: np.ndarray | None) -> set[str]:
    """Finds the form in which the numbers of a box fit best; `goal` is the box of the landmarks, if there are any."""
    if face.box is None or not face.form:
        return set()
    quality = {}
    for form in (f"{one}{unit}" for unit in measures.UNITS for one in measures.BOXES):
        unit = measures.measure_of_box(form, measure)
        box = measures.box_in_pixels(measures.box_of_form(face.box, form), unit, size, rgb)
        whole = box[2:].min() > 1 and _shared(box, (0, 0, *size)) / max(box[2] * box[3], 1e-9)
        quality[form] = float(whole) if goal is None else suspicion.overlap(goal, box) if box[2:].min() > 0 else 0.0
    good = 0.5 if goal is not None else 0.95
    found = {f"may be {form}" for form, value in quality.items() if value >= good}
    best, given = max(quality, key=quality.get), quality[face.form]
    better = quality[best] > max(good, given + _BETTER) if goal is not None else given < 0.7 and quality[best] > good
    return found | ({f"box_format={best}"} if better else set())


def _fits(points: np.ndarray, known: np.ndarray, layout: landmarks.Layout, size: Size) -> bool:
    """Whether landmarks [K, 2] can be those of a face in an image of this size."""
    mine = points[known]
    inside = ((mine > -0.5) & (mine < np.array(size) - 0.5)).all(1)
    if inside.mean() < 0.5 or (len(mine) > 1 and np.ptp(mine, axis=0).max() <= 1.0):
        return False
    return suspicion.plausible(points, layout, known)


def _outside(points: np.ndarray, size: Size) -> bool:
    return bool(((points < -0.5) | (points > np.array(size) - 0.5)).any())


def _shared(one: Sequence[float], other: Sequence[float]) -> float:
    """Computes the area that two boxes x, y, w, h share."""
    sides = [min(one[k] + one[k + 2], other[k] + other[k + 2]) - max(one[k], other[k]) for k in (0, 1)]
    return max(0.0, sides[0]) * max(0.0, sides[1])


def refusal(odd: Mapping[str, Sequence[str]], faces: int, *, broken: bool = False) -> str:
    """Says which options would mend the labels of a dataset; "" if none is needed.

    Args:
        odd: the votes: option -> keys of the faces.
        faces: the number of faces.
        broken: whether some labels cannot be used as they are, so that the votes of a few faces count too.
    """
    many, few = _sentences(odd, faces)
    return " ".join(many or (few if broken else []))


def remarks(odd: Mapping[str, Sequence[str]], faces: int) -> list[str]:
    """Says which labels may be meant in another way, in a dataset that can be built."""
    found = _sentences(odd, faces)[1]
    labelled = len(odd.get("labelled", ())) or faces
    if odd.get("sizes") and not odd.get("points=rgb"):
        found.append(
            f"{_some(odd['sizes'], labelled)} have an RGB image of another size than the thermal image; landmarks and "
            "boxes were taken for pixels of the thermal image. If they were set on the RGB image, build with "
            "--points=rgb, or else with --points=pixels."
        )
    if len(odd.get("end", ())) > 1 and not odd.get("start"):
        found.append(
            f"{_some(odd['end'], labelled)} have landmarks at the width or height of the image, and no face has any at "
            "0, so that they may count from 1. If they do, build with --points=one_based, or else with "
            "--points=pixels."
        )
    return found


def _sentences(odd: Mapping[str, Sequence[str]], faces: int) -> tuple[list[str], list[str]]:
    """Says what is wrong in so many faces that an option is needed, and what in a few."""
    many, few = [], []
    for kind, wrong in _WRONG.items():
        keys, of_points = odd.get(kind, ()), kind.startswith("points")
        total = (of_points and len(odd.get("labelled", ()))) or faces
        # Landmarks on a larger image lie outside only in some faces, and corners are also a box in many of them.
        possible = kind == "points=rgb" or len(odd.get(kind.replace("box_format=", "may be "), ())) >= 0.95 * total
        if len(keys) > (0.1 if possible else 0.5) * total:
            option = kind.replace("points=rgb", "points=rgb if they were set on that, or else with --points=pixels")
            many.append(f"{_some(keys, total)} {wrong}; build with --{option}.")
        elif len(keys) > (0.02 if of_points else 0.0) * total:
            few.append(f"{_some(keys, total)} {wrong}; convert them, or leave them out with --exclude.")
    return many, few


def _some(keys: Sequence[str], faces: int) -> str:
    return f"{len(keys):,} of {formats.counted(faces, 'face', 'faces')}, such as {keys[0]},"
