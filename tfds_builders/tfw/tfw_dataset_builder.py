"""TFDS builder of `tfw`: Thermal Faces in the Wild, with a box and five points for every face of an image."""

from __future__ import annotations

import collections
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from mlcm_jax.errors import InputError
from tfds_builders import faces, formats, tree

_SPLITS = ("train", "val", "test")
_ENVIRONMENTS = {
    "all": ("indoor", "outdoor"),
    "indoor": ("indoor",),
    "outdoor": ("outdoor",),
    "indoor_rgb": ("indoor",),
}


def read_labels(path: pathlib.Path) -> list[tuple[str, np.ndarray]]:
    """Reads the rows of a CSV file; a header row is skipped.

    Returns:
        The image's name and float32 [14] (xs, ys, xe, ye, and five points x, y, in pixels) for every row. Blank cells,
        "nan" and spreadsheet errors become NaN, which the build refuses unless the face is excluded.

    Raises:
        InputError: a missing file, no CSV, a row without 15 columns, without a name, or with text among the numbers.
    """
    found = []
    for k, (name, *words) in enumerate(formats.read_rows(path), 1):
        if len(words) != 14 or not name:
            raise InputError(
                f"Row {k} of {path} has {formats.counted(1 + len(words), 'column', 'columns')}; a name, a box of 4 and "
                "5 points are 15."
            )
        if k == 1 and not any(word.lower() == "nan" or word.lstrip("+-")[:1].isdigit() for word in words):
            continue  # the header
        found.append((name, formats.cells(words, f"Row {k} of {path}")))
    return found


def _folder(split: pathlib.Path, environment: str) -> pathlib.Path:
    """Returns the folder of the images, the gray one if it exists, because its images need no palette inversion."""
    found = tree.locate(split, f"{environment}_gray") or tree.locate(split, environment)
    return found or split / environment


def _mate(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the colour image of thermal `…_1.png`: `…_3.png`, as in SpeakingFaces, or a file of the same name."""
    stem, _, ending = name.rpartition(".")
    aligned = folder / f"{stem.removesuffix('_1')}_3.{ending}"
    same = folder / name
    return same if same.is_file() and not aligned.is_file() else aligned


class Tfw(faces.FaceBuilder):
    """9,982 thermal images with 16,509 faces, indoors and outdoors; a box and five points for each face."""

    name = "tfw"
    BUILDER_CONFIGS = faces.configs(
        all="indoors and outdoors",
        indoor="indoors",
        outdoor="outdoors",
        indoor_rgb="indoors, with the aligned colour images of SpeakingFaces",
    )
    LAYOUT = "tfw5"
    NORMALIZER = "box"
    THERMAL = faces.Thermal("palette")  # gray images are taken as they are
    LICENSE = "MIT (card of the dataset on Hugging Face)"
    HOMEPAGE = "https://github.com/IS2AI/TFW"
    CITATION = (
        "Kuzdeuov, A., Aubakirova, D., Koishigarina, D. & Varol, H. A. (2022). TFW: Annotated thermal faces in the "
        "wild dataset. IEEE Transactions on Information Forensics and Security, 17, 2084-2094. "
        "doi:10.1109/TIFS.2022.3177949"
    )
    HOW_TO_GET = (
        "Download it from huggingface.co/datasets/issai/TFW, or as github.com/IS2AI/TFW says, and give --manual_dir "
        "the folder that holds train, val and test."
    )

    @property
    def MODALITIES(self) -> tuple[str, ...]:
        """The images that a record of this config holds."""
        return ("rgb", "thermal") if self.builder_config.name == "indoor_rgb" else ("thermal",)

    def extra_features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Adds where the image was taken."""
        return {"environment": faces.text("indoor or outdoor")}

    def parse(self, folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        """Reads {train,val,test}/{indoor,outdoor}.csv; images are in the folder of the same name, or in *_gray."""
        wanted = [(split, environment) for split in _SPLITS for environment in _ENVIRONMENTS[self.builder_config.name]]
        places = tree.find(folder, [f"{split}/{environment}.csv" for split, environment in wanted], self.HOW_TO_GET)
        splits: dict[str, list[faces.Face]] = {split: [] for split in _SPLITS}
        for split, environment in wanted:
            splits[split] += self._faces(places[f"{split}/{environment}.csv"], split, environment)
        return splits

    def _faces(self, listing: pathlib.Path, split: str, environment: str) -> list[faces.Face]:
        images = _folder(listing.parent, environment)
        times: collections.Counter[str] = collections.Counter()
        found = []
        for name, values in read_labels(listing):
            image = formats.inside(images, name, listing)
            key = f"{split}/{environment}/{image.relative_to(images).as_posix()}"
            times[key] += 1
            xs, ys, xe, ye = values[:4].tolist()
            face = faces.Face(
                key if times[key] == 1 else f"{key}#{times[key]}",
                thermal=image,
                landmarks=values[4:].reshape(5, 2),
                box=(xs, ys, xe - xs, ye - ys),
                extra={"environment": environment},
            )
            if "rgb" in self.MODALITIES:
                face.rgb = _mate(listing.parent / f"{environment}_rgb", name)
            found.append(face)
        return found
