"""Turns a labelled face into an example with encoded images, and describes a dataset's faults to the user."""

from __future__ import annotations

import collections
import hashlib
import io
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from mlcm_jax import cores, images, landmarks
from mlcm_jax.errors import InputError
from tfds_builders import face_labels, formats, readings, resume, suspicion, thermal_images
from tfds_builders.face import Face, Source
from tfds_builders.thermal_images import Thermal


def example(
    face: Face, *, layout: landmarks.Layout, thermal: Thermal, measure: str | None = None, doubted: bool = False
) -> dict[str, Any]:
    """Makes the example of a face: encoded images, checked landmarks, `known`, `visible`, `box`, `_facts` for `Tally`.

    Landmarks outside the image are kept and marked invisible; unknown ones are invisible too. An RGB image of another
    size than the thermal one is resized to it if their aspect ratios agree within 2 %.

    Args:
        face: a face from `parse`.
        layout: the layout of its landmarks.
        thermal: how its thermal image is stored.
        measure: what the landmarks and the box of the face are measured in, one of `measures.MEASURES`; None: pixels.
        doubted: whether other readings of the labels are tried (`readings.votes`).

    Raises:
        InputError: an image that is missing, damaged or of another kind than the dataset's; landmarks with NaN, of a
            wrong count, or mostly outside the image; images of a pair that differ in aspect ratio.
    """
    result: dict[str, Any] = {}
    digests: list[str] = []
    told: dict[str, str] = {}
    size = rgb_size = shown = None
    lost: set[str] = set()
    if face.thermal is not None:
        content, shown, digest, lost, told["thermal"] = thermal_images.encode(face.thermal, face.key, thermal)
        size = shown.shape[1], shown.shape[0]
        digests.append(digest)
        result |= content
    if face.rgb is not None:
        content, rgb_size, digest, told["RGB"] = _rgb(face.rgb, face.key, size)
        size = size or rgb_size
        digests.append(digest)
        result["rgb"] = content
    points, known, visible, box, odd = face_labels.in_pixels(face, layout, measure, size, rgb_size)
    odd |= lost | (readings.votes(face, layout, measure, size, rgb_size) if doubted else set())
    if shown is not None:
        where = box if known.any() or face.box is not None else None
        odd |= suspicion.of_image(shown, where, celsius=thermal.kind == "counts")
    odd |= suspicion.of_labels(points[known], layout, box)
    facts = {"digests": digests, "size": size, "plausible": suspicion.plausible(points, layout, known), "odd": odd}
    facts["told"] = {what: text for what, text in told.items() if text}
    labels = {"landmarks": points, "known": known, "visible": visible, "box": box}
    return result | labels | {"subject": face.subject, "key": face.key} | face.extra | {"_facts": facts}


def reading(faces: Sequence[Face], layout: landmarks.Layout, measure: str | None) -> str:
    """Says which options would mend the labels of faces, some of which cannot be used as they are; "" if none would.

    Args:
        faces: all faces of a dataset, whose images are files.
        layout: the layout of their landmarks.
        measure: what the landmarks were taken to be measured in, see `example`.
    """

    def of_face(face: Face) -> tuple[str, set[str]]:
        try:
            found = [
                thermal_images.open_source(source, face.key)[0]
                for source in (face.thermal, face.rgb)
                if source is not None
            ]
            sizes = [(image.display if image.display is not None else image.array).shape[1::-1] for image in found]
            rgb = sizes[-1] if face.rgb is not None else None
            return face.key, readings.votes(face, layout, measure, sizes[0], rgb)
        except InputError:  # another fault, which is reported when this one is mended
            return face.key, set()

    odd: dict[str, list[str]] = {}
    for key, kinds in resume.in_threads(of_face, faces, cores.available()):
        for kind in kinds:
            odd.setdefault(kind, []).append(key)
    return readings.refusal(odd, len(faces), broken=True)


# What a split's checksum covers beside the images, so that changed labels are noticed when a run resumes.
_LABELS = ("landmarks", "visible", "known", "box", "confidence")


class Tally:
    """Statistics of the splits of a dataset, collected while it is built.

    Args:
        expected: split -> published number of examples, if it is known.
        settled: options about the labels that the user gave, which are not doubted any more.

    Attributes:
        duplicates: (key, split, earlier key, earlier split) of every image that is in two splits.
    """

    def __init__(self, expected: Mapping[str, int] | None = None, settled: Collection[str] = ()) -> None:
        self._expected = dict(expected or {})
        self._splits: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, tuple[str, str]] = {}
        self._odd: dict[str, list[str]] = {}
        self._told: dict[str, tuple[list[str], str]] = {}
        self._settled = set(settled)
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
            if kind.partition("=")[0] in self._settled:
                continue
            self._odd.setdefault(kind, []).append(item["key"])
        for what, text in facts.get("told", {}).items():  # sentences that differ in their numbers alone are one
            kind = f"{what}: {re.sub(r'[0-9][0-9.,]*', '#', text)}"
            self._told.setdefault(kind, ([], f"{what} image: {text}"))[0].append(item["key"])
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
        faces = sum(mine["examples"] for mine in self._splits.values())
        return suspicion.refusal(self._odd, faces) or readings.refusal(self._odd, faces)

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
        faces = sum(mine["examples"] for mine in self._splits.values())
        for keys, text in [*self._told.values()][:5]:
            found.append(f"{formats.counted(len(keys), 'face', 'faces')}, such as {keys[0]}, {text}.")
        found += [*suspicion.sentences(self._odd, faces), *readings.remarks(self._odd, faces)]
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


def _rgb(source: Source, key: str, size: tuple[int, int] | None) -> tuple[io.BytesIO, tuple[int, int], str, str]:
    """Returns the encoded image in the given size, its own width and height, the digest, and what else the file has."""
    image, content = thermal_images.open_source(source, key)
    more = "" if image.display is not None else image.more  # the temperatures in the file are not wanted here
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
    return thermal_images.encoded(array, content), own, digest, more
