"""TFDS builder of `youtube_faces_68`: face crops of YouTube Faces, 68 machine-made landmarks, research use only."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow_datasets as tfds

from mlcm_jax.errors import InputError
from tfds_builders import faces, formats, tree

_COORDINATES = [f"{axis}{k}" for k in range(68) for axis in "xy"]


class YoutubeFaces68(faces.FaceBuilder):
    """3,470 crops of 347 people, 192 pixels wide, with 68 machine-made points. Research use only."""

    name = "youtube_faces_68"
    BUILDER_CONFIGS = faces.configs(all="all 3,470 crops")
    LAYOUT = "ibug68"
    MODALITIES = ("rgb",)
    LICENSE = "research use only: ship neither the images nor weights trained on them"
    HOMEPAGE = "https://github.com/udacity/P1_Facial_Keypoints"
    CITATION = (
        "Wolf, L., Hassner, T. & Maoz, I. (2011). Face recognition in unconstrained videos with matched background "
        "similarity. CVPR 2011."
    )
    HOW_TO_GET = (
        "Download the frames and the keypoint tables from github.com/udacity/P1_Facial_Keypoints, and give "
        "--manual_dir a folder with images/NAME.jpg, landmarks.csv (name, identity, split, scale, x0, y0, … x67, y67), "
        "train.txt, val.txt and test.txt."
    )
    EXPECTED = {"all": {"train": 2430, "val": 350, "test": 690}}

    def extra_features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Adds `scale`, the enlargement of the crop."""
        return {"scale": faces.tensor((), np.float32, "pixels of the crop per pixel of the video frame")}

    def parse(self, folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        """Reads the rows of landmarks.csv (pixels from 0) for the names in train.txt, val.txt and test.txt."""
        places = tree.find(folder, ("images", "landmarks.csv", *faces.LISTS.values()), self.HOW_TO_GET)
        table = places["landmarks.csv"]
        rows: dict[str, dict[str, str]] = {}
        for row in formats.read_table(table, ("name", "identity", "split", "scale", *_COORDINATES)):
            if row["name"] and row["name"] in rows:
                raise InputError(f"{table} has two rows for {row['name']!r}; remove one.")
            rows[row["name"]] = row
        return {split: self._faces(split, rows, places) for split in faces.LISTS}

    def _faces(
        self, split: str, rows: Mapping[str, Mapping[str, str]], places: Mapping[str, pathlib.Path]
    ) -> list[faces.Face]:
        table, listing = places["landmarks.csv"], places[faces.LISTS[split]]
        found = []
        for name in formats.read_lines(listing):
            image = formats.inside(places["images"], name, listing)
            if name not in rows:
                raise InputError(f"{listing} names {name!r}, which has no row in {table}.")
            row, where = rows[name], f"The row of {name} in {table}"
            if row["split"] != split:
                raise InputError(
                    f"{listing} names {name}, which is in the split {row['split']!r} according to {table}."
                )
            points = formats.cells([row[c] for c in _COORDINATES], where).reshape(68, 2)
            scale = formats.numbers([row["scale"]], where).astype(np.float32)[0]
            found.append(
                faces.Face(
                    f"images/{name}", rgb=image, landmarks=points, subject=row["identity"], extra={"scale": scale}
                )
            )
        return found
