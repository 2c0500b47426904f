"""TFDS builder of `wflw`: faces of WIDER FACE with 98 landmarks and six attributes."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from mlcm_jax import files
from mlcm_jax.errors import InputError
from tfds_builders import faces, formats, tree

# The attributes in the order of their columns, and the meaning of 1.
ATTRIBUTES = {
    "pose": "large pose",
    "expression": "exaggerated expression",
    "illumination": "extreme illumination",
    "makeup": "make-up",
    "occlusion": "occluded",
    "blur": "blurred",
}
_LISTS = {
    split: f"WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{split}.txt"
    for split in ("train", "test")
}


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A line of a WFLW list."""

    landmarks: np.ndarray  # float32 [98, 2], pixels
    box: tuple[float, float, float, float]  # x, y, w, h in pixels
    attributes: dict[str, bool]
    name: str  # the image's path


class Wflw(faces.FaceBuilder):
    """10,000 faces of WIDER FACE with 98 hand-placed points, and test splits by pose, expression, blur and more."""

    name = "wflw"
    BUILDER_CONFIGS = faces.box_configs()
    LAYOUT = "wflw98"
    MODALITIES = ("rgb",)
    NORMALIZER = "outer_eyes"
    LICENSE = "no licence is stated; for research"
    HOMEPAGE = "https://wywu.github.io/projects/LAB/WFLW.html"
    CITATION = (
        "Wu, W., Qian, C., Yang, S., Wang, Q., Cai, Y. & Zhou, Q. (2018). Look at boundary: a boundary-aware face "
        "alignment algorithm. CVPR."
    )
    HOW_TO_GET = (
        "Fetch the images and the annotations from wywu.github.io/projects/LAB/WFLW.html and give --manual_dir the "
        "folder that holds WFLW_images and WFLW_annotations."
    )
    EXPECTED = {name: {"train": 7500, "test": 2500} for name in ("all", "landmark_box")}
    SUBSETS = {f"test_{name}": ("test", name) for name in ATTRIBUTES}

    def extra_features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Adds the six attributes."""
        return {name: faces.tensor((), np.bool_, f"{what}, by the annotators") for name, what in ATTRIBUTES.items()}

    def parse(self, folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        """Reads one face per line; an image with several faces has several lines, and may be in both lists."""
        seen: collections.Counter[str] = collections.Counter()
        places = tree.find(folder, ("WFLW_images", *_LISTS.values()), self.HOW_TO_GET)
        images = places["WFLW_images"]
        splits = {}
        for split, name in _LISTS.items():
            listing = places[name]
            found = splits[split] = []
            for row in read_list(listing):
                path = formats.inside(images, row.name, listing)
                name = path.relative_to(images).as_posix()
                seen[name] += 1
                found.append(
                    faces.Face(
                        name if seen[name] == 1 else f"{name}#{seen[name]}",
                        rgb=path,
                        landmarks=row.landmarks,
                        box=row.box if self.builder_config.name == "all" else None,
                        extra=row.attributes,
                    )
                )
        return splits


def read_list(path: str | os.PathLike) -> list[Row]:
    """Reads a WFLW list, one face per line: 98 x and y, box x y x y, six attributes 0 or 1, path of the image.

    Raises:
        InputError: a missing file, or a line of another form; the message names it.
    """
    lines = files.read_text(path).split("\n")
    return [_row(line, f"Line {k} of {path}") for k, line in enumerate(lines, 1) if line.strip()]


def _row(line: str, where: str) -> Row:
    words = line.split(maxsplit=206)  # the rest of the line is the path, which may hold spaces
    if len(words) != 207:
        raise InputError(
            f"{where} has {formats.counted(len(words), 'column', 'columns')}; 196 coordinates, a box of 4, 6 "
            "attributes and a path are 207."
        )
    values = formats.numbers(words[:206], where)
    if np.abs(values).max() > 1e6:
        raise InputError(f"{where} holds {max(values, key=abs):g}, which is not a pixel.")
    left, top, right, bottom = values[196:200].tolist()
    if right <= left or bottom <= top:
        raise InputError(f"{where} has the box {' '.join(words[196:200])}, which is not left, top, right, bottom.")
    flags = values[200:]
    if not np.isin(flags, (0, 1)).all():
        raise InputError(f"{where} has the attributes {' '.join(words[200:206])}; each must be 0 or 1.")
    points = values[:196].reshape(98, 2).astype(np.float32)
    attributes = dict(zip(ATTRIBUTES, flags.astype(bool).tolist(), strict=True))
    return Row(points, (left, top, right - left, bottom - top), attributes, words[206].strip())
