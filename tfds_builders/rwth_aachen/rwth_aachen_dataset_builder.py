"""TFDS builder of `rwth_aachen`: the thermal face database of RWTH Aachen, 68 landmarks, 1024 x 768."""

from __future__ import annotations

import functools
import hashlib
import math
import pathlib
import re
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mlcm_jax import files, images, landmarks
from mlcm_jax.errors import InputError
from tfds_builders import faces, formats, tree

_NAME = re.compile(r"irface_sub(\d{1,9})_seq(\d{1,9})_frm(\d{1,9})\b.*")


def split_of(subject: int) -> str:
    """Returns the split of a subject, which depends only on the subject's number.

    Every ten numbers (1-10, 11-20, …) are ordered by the SHA-1 of "rwth_aachen N". The first is val, the next two are
    test, and the others are train.
    """
    first = (subject - 1) // 10 * 10 + 1
    order = sorted(range(first, first + 10), key=_hash)
    rank = order.index(subject)
    return "val" if rank == 0 else "test" if rank <= 2 else "train"


def _hash(subject: int) -> bytes:
    return hashlib.sha1(f"rwth_aachen {subject}".encode(), usedforsecurity=False).digest()


def read_ljson(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads landmarks from a menpo `.ljson` file, whose `landmarks.points` are rows of [y, x].

    A point without coordinates (null) is placed at the mean of the other points of its part of the face, or of all
    points if that part has none, so that the box stays the same. If fewer than half of the points have coordinates, the
    others stay NaN, which the build refuses.

    Returns:
        float32 [68, 2] (x, y) in pixels from 0, and bool [68], True for points with coordinates in the file.

    Raises:
        InputError: a missing file, no JSON, another structure, another number of points, text or infinity in a row.
    """
    content = files.read_json(path)
    found = content.get("landmarks") if isinstance(content, dict) else None
    rows = found.get("points") if isinstance(found, dict) else None
    if not isinstance(rows, list):
        raise InputError(f"The file {path} holds no landmarks.points; menpo's .ljson of version 2 is needed.")
    if len(rows) != 68:
        raise InputError(f"The file {path} holds {formats.counted(len(rows), 'point', 'points')}; there must be 68.")
    points = np.full((68, 2), np.nan, np.float32)
    for k, row in enumerate(rows):
        if row is None or (isinstance(row, list) and len(row) == 2 and any(map(_absent, row))):
            continue
        if not isinstance(row, list) or len(row) != 2 or not all(map(_plain, row)):
            raise InputError(f"Point {k} in {path} is {str(row)[:40]}, which is not [y, x] in pixels.")
        points[k] = row[::-1]
    placed = np.isfinite(points).all(1)
    if placed.sum() >= 34:
        for part in landmarks.get("ibug68").groups.values():
            part = np.array(part)
            known = part[placed[part]] if placed[part].any() else np.flatnonzero(placed)
            points[part[~placed[part]]] = points[known].mean(0)
    return points, placed


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _has_16_bits(path: pathlib.Path) -> bool:
    """Whether a PNG file has 16 bits; False for a missing file, which is reported later."""
    try:
        with open(path, "rb") as file:
            head = file.read(25)
    except OSError:
        return False
    return head[:4] == b"\x89PNG" and head[24:] == b"\x10"


def _gray(path: pathlib.Path) -> np.ndarray:
    return images.to_gray8(images.read(path))[0]


class RwthAachen(faces.FaceBuilder):
    """2,935 thermal images of 90 people at 1024 x 768: head movements, action units, emotions; 68 points."""

    name = "rwth_aachen"
    BUILDER_CONFIGS = faces.configs(all="all 2,935 images")
    LAYOUT = "ibug68"
    MODALITIES = ("thermal",)
    NORMALIZER = "outer_eyes"
    LICENSE = "for academic use, on registration with the publisher"
    HOMEPAGE = "https://github.com/marcinkopaczka/thermalfaceproject"
    CITATION = (
        "Kopaczka, M., Kolk, R., Schock, J., Burkhard, F. & Merhof, D. (2019). A thermal infrared face database with "
        "facial landmarks and emotion labels. IEEE Transactions on Instrumentation and Measurement, 68(5), 1389-1401. "
        "doi:10.1109/TIM.2018.2884364"
    )
    HOW_TO_GET = (
        "Ask RWTH Aachen for the database (github.com/marcinkopaczka/thermalfaceproject), and give --manual_dir the "
        "folder that holds irface_*.png and, beside them or in a folder of their own, .ljson files of the same stems."
    )

    def extra_features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Adds the numbers in the file name."""
        return {
            "sequence": faces.tensor((), np.int32, "number of the recording of this subject"),
            "frame": faces.tensor((), np.int32, "number of the frame in it"),
        }

    def parse(self, folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        """Reads every .ljson file and finds the image of the same stem; images without labels are left out."""
        images = {path.stem: path for path in tree.files(folder, "**/irface_*.png")}
        splits: dict[str, list[faces.Face]] = {"train": [], "val": [], "test": []}
        for path in tree.files(folder, "**/*.ljson"):
            match = _NAME.fullmatch(path.stem)
            if not match or not int(match[1]):
                raise InputError(
                    f"The name {path.name} has no subject number, as irface_sub001_seq02_frm00155.jpg_lfb.ljson has; "
                    "rename or remove that file."
                )
            subject, sequence, frame = map(int, match.groups())
            beside = path.with_suffix(".png")
            image = beside if beside.is_file() else images.get(path.stem, beside)
            points, placed = read_ljson(path)
            face = faces.Face(
                beside.name,
                thermal=functools.partial(_gray, image) if _has_16_bits(image) else image,
                landmarks=points,
                known=placed,
                subject=f"{subject:03d}",
                extra={"sequence": np.int32(sequence), "frame": np.int32(frame)},
            )
            splits[split_of(subject)].append(face)
        return splits
