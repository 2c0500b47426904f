"""Turns a labelled face into an example with encoded images, and describes a dataset's faults to the user."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from mlcm_jax import images, landmarks
from mlcm_jax.errors import InputError
from tfds_builders import formats, measures, suspicion, thermal_images
from tfds_builders.thermal_images import Source, Thermal


@dataclasses.dataclass(eq=False)
class Face:
    """A labelled face as a builder's `parse` finds it; its images are read later.

    Attributes:
        key: the image's path in the dataset, with `#2` for its second face; unique, and the same on every machine.
        rgb: the RGB image, if the dataset has one.
        thermal: the thermal image, if the dataset has one.
        landmarks: float [K, 2] in pixels (x, y) of the thermal image, or of the RGB image if there is no thermal one;
            None: unlabelled.
        known: bool [K], True for labelled landmarks; the others are placeholders. None: all are labelled.
        visible: bool [K]; None: all are visible.
        box: x, y, w, h in the same pixels; None: derived from the landmarks, or the whole image if there are none.
        stated: width and height of the image on which the label was made, if the label file states them.
        subject: the person; "" if the dataset does not name people.
        extra: the values of the features that the builder adds.
    """

    key: str
    rgb: Source | None = None
    thermal: Source | None = None
    landmarks: np.ndarray | None = None
    known: np.ndarray | None = None
    visible: np.ndarray | None = None
    box: Sequence[float] | None = None
    stated: tuple[int, int] | None = None
    subject: str = ""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


def example(face: Face, *, layout: landmarks.Layout, thermal: Thermal, measure: str | None = None) -> dict[str, Any]:
    """Makes the example of a face: encoded images, checked landmarks, `known`, `visible`, `box`, `_facts` for `Tally`.

    Landmarks outside the image are kept and marked invisible; unknown ones are invisible too. An RGB image of another
    size than the thermal one is resized to it if their aspect ratios agree within 2 %.

    Args:
        face: a face from `parse`.
        layout: the layout of its landmarks.
        thermal: how its thermal image is stored.
        measure: what the landmarks and the box of the face are measured in, one of `measures.MEASURES`; None: pixels.

    Raises:
        InputError: an image that is missing, damaged or of another kind than the dataset's; landmarks with NaN, of a
            wrong count, or mostly outside the image; images of a pair that differ in aspect ratio.
    """
    result: dict[str, Any] = {}
    digests: list[str] = []
    size = rgb_size = shown = None
    lost: set[str] = set()
    if face.thermal is not None:
        content, shown, digest, lost = thermal_images.encode(face.thermal, face.key, thermal)
        size = shown.shape[1], shown.shape[0]
        digests.append(digest)
        result |= content
    if face.rgb is not None:
        content, rgb_size, digest = _rgb(face.rgb, face.key, size)
        size = size or rgb_size
        digests.append(digest)
        result["rgb"] = content
    convert = {"measure": measure, "size": size, "rgb": rgb_size}
    stated = _stated(face, **convert)
    points, known, visible, odd = _labels(face, layout, **convert)
    odd |= stated | lost
    box = face.box
    if box is not None and measure:
        box = measures.box_in_pixels(np.asarray(box, np.float64), **convert)
    elif box is None:
        box = _box(points[known], layout, face.key) if known.any() else (0.0, 0.0, *map(float, size))
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, which `checked` refuses
        box = np.asarray(box, np.float32)
    landmarks.check_box_inside(landmarks.check_box(box, f"The box of {face.key}"), *size, f"The box of {face.key}")
    if shown is not None:
        where = box if known.any() or face.box is not None else None
        odd |= suspicion.of_image(shown, where, celsius=thermal.kind == "counts")
    odd |= suspicion.of_labels(points[known], layout, box, size, rgb_size)
    facts = {"digests": digests, "size": size, "plausible": suspicion.plausible(points, layout, known), "odd": odd}
    labels = {"landmarks": points, "known": known, "visible": visible, "box": box}
    return result | labels | {"subject": face.subject, "key": face.key} | face.extra | {"_facts": facts}


# What a split's checksum covers beside the images, so that changed labels are noticed when a run resumes.
_LABELS = ("landmarks", "visible", "known", "box", "confidence")


class Tally:
    """Statistics of the splits of a dataset, collected while it is built.

    Args:
        expected: split -> published number of examples, if it is known.

    Attributes:
        duplicates: (key, split, earlier key, earlier split) of every image that is in two splits.
    """

    def __init__(self, expected: Mapping[str, int] | None = None) -> None:
        self._expected = dict(expected or {})
        self._splits: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, tuple[str, str]] = {}
        self._odd: dict[str, list[str]] = {}
        self.duplicates: list[tuple[str, str, str, str]] = []

    def add(self, split: str, item: dict[str, Any]) -> None:
        """Counts an example that `example` made, and removes its `_facts`."""
        facts = item.pop("_facts")
        start = {"examples": 0, "sizes": collections.Counter(), "hidden": 0, "points": 0, "implausible": 0}
        mine = self._splits.setdefault(split, start | {"hash": hashlib.sha256()})
        mine["examples"] += 1
        mine["sizes"]["x".join(map(str, facts["size"]))] += 1
        known = item.get("known", np.ones_like(item["visible"]))  # synthetic faces have no unknown landmarks
        mine["hidden"] += int((known & ~item["visible"]).sum())
        mine["points"] += int(known.sum())
        mine["implausible"] += not facts["plausible"]
        for kind in facts.get("odd", ()):
            self._odd.setdefault(kind, []).append(item["key"])
        labels = (np.asarray(item[name]).tobytes() for name in _LABELS if name in item)
        mine["hash"].update(b"".join([*(digest.encode() for digest in facts["digests"]), *labels]))
        earlier = [self._seen.setdefault(digest, (item["key"], split)) for digest in facts["digests"]]
        self.duplicates += [(item["key"], split, *one) for one in earlier if one[1] != split][:1]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Split -> {examples, sizes (the five most frequent), invisible (share of known points), sha256}, for JSON."""
        return {
            name: {
                "examples": mine["examples"],
                "sizes": dict(mine["sizes"].most_common(5)),
                "invisible": round(mine["hidden"] / max(1, mine["points"]), 4),
                "sha256": mine["hash"].hexdigest(),
            }
            for name, mine in self._splits.items()
        }

    def describe_duplicates(self) -> str:
        """Returns a sentence that says how many images are in two splits, and names the first one."""
        key, split, other, where = self.duplicates[0]
        count = formats.counted(len(self.duplicates), "image is", "images are")
        such = ":" if len(self.duplicates) == 1 else "; for example,"
        return f"{count} in two splits{such} {key} of {split} is also {other} of {where}."

    def refusal(self) -> str:
        """Returns a sentence about labels that cannot be right, or ""."""
        return suspicion.refusal(self._odd, sum(mine["examples"] for mine in self._splits.values()))

    def remarks(self) -> list[str]:
        """Returns warnings for the user: implausible faces, images in two splits, counts that are not as published."""
        found = []
        for split, mine in self._splits.items():
            implausible, total = mine["implausible"], mine["examples"]
            if implausible > 0.1 * total:
                some = f"{implausible:,} of {formats.counted(total, 'face', 'faces')}"
                found.append(
                    f"In {some} of the split {split} the eyes lie below the mouth or left and right are swapped; "
                    "are the rows [y, x] instead of [x, y] (--points=yx), or is the layout a different one? Look at "
                    "preview.png."
                )
            if mine["points"] and mine["hidden"] == mine["points"]:
                found.append(f"No landmark of the split {split} is visible; is that right, or are the flags inverted?")
        found += suspicion.sentences(self._odd, sum(mine["examples"] for mine in self._splits.values()))
        if self.duplicates:
            found.append(self.describe_duplicates())
        counts = {name: mine["examples"] for name, mine in self._splits.items()}
        differing = [
            f"{counts.get(name, 0):,} {name} (published: {n:,})"
            for name, n in self._expected.items()
            if counts.get(name, 0) != n
        ]
        if differing:
            found.append(f"The counts are not the published ones: {', '.join(differing)}.")
        return found


def check_subjects(splits: Mapping[str, Sequence[Face]]) -> None:
    """Raises InputError if a known subject is in two splits."""
    owner: dict[str, str] = {}
    for split, faces in splits.items():
        for face in faces if split != "unlabelled" else ():
            if face.subject and owner.setdefault(face.subject, split) != split:
                raise InputError(
                    f"Subject {face.subject} is in the splits {owner[face.subject]} and {split} ({face.key}); a person "
                    "belongs to one split only."
                )


def missing_images(faces: Sequence[Face], modalities: Sequence[str]) -> dict[str, str]:
    """Finds faces without an image: key -> the missing file or modality."""
    lacking = {}
    for face in faces:
        for modality in modalities:
            source = getattr(face, modality)
            if source is None or (isinstance(source, pathlib.Path) and not source.is_file()):
                lacking[face.key] = str(source) if source else f"its {modality} image"
    return lacking


def _box(points: np.ndarray, layout: landmarks.Layout, key: str) -> np.ndarray:
    try:
        return landmarks.box_from_points(points, layout)
    except InputError as error:
        raise InputError(f"{key}: {error} Fix it, or name it in a file for --exclude.") from None


def _stated(face: Face, measure: str | None, size: measures.Size, rgb: measures.Size | None) -> set[str]:
    """Returns what is odd about the size of the image on which the label was made, according to the label's file."""
    stated, needed = face.stated, (rgb or size) if measure == "rgb" else size
    if stated in (None, needed):
        return set()
    if stated not in (rgb, size):
        return {"stated"}
    which, flag = ("RGB", "with") if stated == rgb else ("thermal", "without")
    raise InputError(
        f"{face.key}: its label was made on an image of {stated[0]} x {stated[1]}, which is the size of the {which} "
        f"image; build {flag} --points=rgb."
    )


def _labels(
    face: Face, layout: landmarks.Layout, *, measure: str | None, size: measures.Size, rgb: measures.Size | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, set[str]]:
    """Returns landmarks float32 [K, 2], `known` bool [K] and `visible` bool [K] of a face, and what is odd."""
    if face.landmarks is None:
        nothing = np.zeros(layout.count, bool)
        return np.full((layout.count, 2), np.nan, np.float32), nothing, nothing, set()
    try:
        points = landmarks.check(np.asarray(face.landmarks, np.float32), layout)
    except InputError as error:
        raise InputError(f"{face.key}: {error} Fix it, or name it in a file for --exclude.") from None
    known, visible = (_flags(flags, layout, face.key) for flags in (face.known, face.visible))
    empty = suspicion.placeholders(points)
    odd = {"missing"} if (known & empty).any() else set()
    known = known & ~empty
    points = measures.points_in_pixels(points, measure, size, rgb)
    if known.sum() > 1 and np.abs(points[known]).max() <= 1.0:
        raise InputError(
            f"{face.key}: all landmarks lie between -1 and 1, in the first pixel; if they are shares of the image's "
            "width and height, build with --points=normalized."
        )
    inside = ((points > -0.5 - 1e-3) & (points < np.array(size) - 0.5 + 1e-3)).all(1)
    count, outside = int(known.sum()), int((known & ~inside).sum())
    if not count:
        raise InputError(f"{face.key}: none of its landmarks is known; fix it, or name it in a file for --exclude.")
    if outside > 0.5 * count:
        which = f"{outside} of {formats.counted(count, 'landmark', 'landmarks')}"
        raise InputError(
            f"{face.key}: {which} {'lies' if outside == 1 else 'lie'} outside the image, which is {size[0]} x "
            f"{size[1]}; fix it, or name it in a file for --exclude."
        )
    return points, known, visible & inside & known, odd


def _flags(given: np.ndarray | None, layout: landmarks.Layout, key: str) -> np.ndarray:
    """Returns flags of landmarks as bool [K]; None gives all True."""
    flags = np.ones(layout.count, bool) if given is None else np.asarray(given, bool)
    if flags.shape != (layout.count,):
        count = formats.counted(flags.size, "flag", "flags")
        raise InputError(f"{key}: {count} for {formats.counted(layout.count, 'landmark', 'landmarks')}.")
    return flags


def _rgb(source: Source, key: str, size: tuple[int, int] | None) -> tuple[io.BytesIO, tuple[int, int], str]:
    """Returns the encoded image in the given size, its own width and height, and the digest."""
    image, content = thermal_images.open_source(source, key)
    if image.display is not None:
        image = images.from_array(image.display, image.name)
    if image.kind not in ("colour", "gray8"):
        raise InputError(f"The RGB image {image.name} has {image.array.dtype} pixels; 8 bits are needed.")
    array = images.to_rgb8(image)[0]
    digest = thermal_images.digest_of(content, array)
    own = array.shape[1], array.shape[0]
    if size and own != size:
        if abs(own[0] * size[1] / (own[1] * size[0]) - 1.0) > 0.02:
            raise InputError(
                f"The images of the pair {key} differ in shape: RGB {own[0]} x {own[1]}, thermal {size[0]} x "
                f"{size[1]}; align and crop them first."
            )
        shrinks = own[0] > size[0]
        array, content = cv2.resize(array, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), None
    return thermal_images.encoded(array, content), own, digest
