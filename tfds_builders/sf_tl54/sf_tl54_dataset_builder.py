"""TFDS builder of `sf_tl54`: thermal portraits of 142 people, each with 54 landmarks and an aligned RGB image."""

from __future__ import annotations

import os
import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds

from mlcm_jax import files, images
from mlcm_jax.errors import InputError
from tfds_builders import faces, formats, tree

# {sub}_{trial}_2_{pos}_{cmd}_{frame}_1 in session 2, {sub}_{trial}_1_{pos}_{frame}_1 in session 1.
_NUMBER = "([0-9]{1,6})"
_SESSIONS = {
    2: re.compile(f"{_NUMBER}_{_NUMBER}_2_{_NUMBER}_[0-9]+_[0-9]+_1"),
    1: re.compile(f"{_NUMBER}_{_NUMBER}_1_{_NUMBER}_[0-9]+_1"),
}
_CHALLENGING = "challenging_images.csv"
_FAR = 1e6  # no image is that large


class SfTl54(faces.FaceBuilder):
    """2,556 thermal portraits of 142 people at nine head positions, 54 hand-placed landmarks, aligned RGB images."""

    name = "sf_tl54"
    BUILDER_CONFIGS = faces.configs(
        gray_all="gray thermal images with their RGB mates",
        gray_published="the same without the images in challenging_images.csv, as in the published runs",
        gray_alone="gray thermal images; RGB is not needed",
        iron_all="thermal images coloured with a palette, converted back to gray, with their RGB mates",
        iron_published="the same without the images in challenging_images.csv",
        iron_alone="coloured thermal images, converted back to gray; RGB is not needed",
    )
    LAYOUT = "sf_tl54"
    LICENSE = "MIT, according to its card on Hugging Face"
    HOMEPAGE = "https://github.com/IS2AI/thermal-facial-landmarks-detection"
    CITATION = (
        "Kuzdeuov, A., Koishigarina, D., Aubakirova, D., Abushakimova, S. & Varol, H. A. (2022). SF-TL54: A Thermal "
        "Facial Landmark Dataset with Visual Pairs. IEEE/SICE International Symposium on System Integration, 748-753. "
        "doi:10.1109/SII52469.2022.9708901."
    )
    HOW_TO_GET = (
        "Download sftl.zip from huggingface.co/datasets/issai/SFTL54, or from the link in the README of "
        "github.com/IS2AI/thermal-facial-landmarks-detection, unpack it, and give --manual_dir the folder that holds "
        "gray, iron and rgb."
    )
    _COUNTS = {"train": 1800, "val": 180, "test": 576}
    _PUBLISHED = {"train": 1779, "val": 180, "test": 572}
    EXPECTED = {
        "gray_all": _COUNTS, "gray_alone": _COUNTS, "iron_all": _COUNTS, "iron_alone": _COUNTS,
        "gray_published": _PUBLISHED, "iron_published": _PUBLISHED,
    }  # fmt: skip

    @property
    def MODALITIES(self) -> tuple[str, ...]:
        """The images that a record of this config holds."""
        return ("thermal",) if self._variant == "alone" else ("rgb", "thermal")

    def thermal(self) -> faces.Thermal:
        """Returns that the images are gray, or coloured with the iron palette of the FLIR camera."""
        if self._colour == "gray":
            return faces.Thermal()
        return faces.Thermal("palette", palette=images.palettes()["iron"].round().astype(np.uint8))

    def extra_features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Adds the numbers in the file names."""
        return {
            "trial": faces.tensor((), np.int32, "number of the trial, 1 or 2"),
            "session": faces.tensor((), np.int32, "1: silent; 2: speaking"),
            "position": faces.tensor((), np.int32, "place of the camera, 1 to 9"),
        }

    def notes(self) -> dict[str, int]:
        """Returns how many images the list of challenging ones left out."""
        return {"challenging": self._challenging}

    def parse(self, folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        """Reads {gray,iron}/SPLIT/json/NAME.json beside images/NAME.png; RGB mates are in rgb/SPLIT."""
        names = [self._colour, *(["rgb"] if "rgb" in self.MODALITIES else [])]
        names += [_CHALLENGING] if self._variant == "published" else []
        places = tree.find(folder, names, self.HOW_TO_GET)
        dropped = read_challenging(places[_CHALLENGING]) if self._variant == "published" else set()
        self._challenging = 0
        splits = {}
        for split in ("train", "val", "test"):
            mine = places[self._colour] / split
            if not mine.is_dir():
                continue
            self._check_labelled(mine, split)
            found = [self._face(path, split, places.get("rgb")) for path in tree.files(mine / "json", "*.json")]
            kept = [face for face, image in found if image not in dropped]
            self.passed_over |= {face.key for face, image in found if image in dropped}
            self._challenging += len(found) - len(kept)
            splits[split] = kept
        return splits

    @property
    def _colour(self) -> str:
        return self.builder_config.name.split("_")[0]

    @property
    def _variant(self) -> str:
        return self.builder_config.name.split("_")[1]

    def _check_labelled(self, folder: pathlib.Path, split: str) -> None:
        labelled = {path.stem for path in tree.files(folder / "json", "*.json")}
        lacking = [path for path in tree.files(folder / "images", "*.png") if path.stem not in labelled]
        keys = {f"{self._colour}/{split}/images/{path.name}": f"{path.stem}.json" for path in lacking}
        self.leave_out_unlabelled(keys, folder / "json")

    def _face(
        self, path: pathlib.Path, split: str, rgb: pathlib.Path | None
    ) -> tuple[faces.Face, tuple[int, int, int]]:
        """Reads the face of a label file, and its subject, trial and position; `rgb` is the folder of RGB images."""
        subject, trial, session, position = read_name(path)
        points, box = read_labels(path)
        face = faces.Face(
            f"{self._colour}/{split}/images/{path.stem}.png",
            rgb=rgb / split / f"{path.stem[:-1]}3.png" if rgb else None,
            thermal=path.parent.parent / "images" / f"{path.stem}.png",
            landmarks=points,
            box=box,
            subject=str(subject),
            extra={"trial": trial, "session": session, "position": position},
        )
        return face, (subject, trial, position)


def read_name(path: pathlib.Path) -> tuple[int, int, int, int]:
    """Reads subject, trial, session and position from a file's name; raises InputError for any other pattern."""
    for session, pattern in _SESSIONS.items():
        match = pattern.fullmatch(path.stem)
        if match:
            subject, trial, position = map(int, match.groups())
            return subject, trial, session, position
    raise InputError(
        f"The name of {path} is neither SUB_TRIAL_2_POS_CMD_FRAME_1 nor SUB_TRIAL_1_POS_FRAME_1; remove the file or "
        "restore its name."
    )


def read_labels(path: str | os.PathLike) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Reads landmarks float32 [54, 2] and the box x, y, w, h from a label file, in its pixels.

    The shape `face` holds two opposite corners of the box. The points of all other shapes, in file order, are the
    landmarks.

    Raises:
        InputError: a missing file, no JSON, no or several boxes, another number of landmarks than 54, NaN.
    """
    content = files.read_json(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise InputError(f"The file {path} has no list of shapes, so it is not a label file of SF-TL54.")
    boxes = [_points(shape, path) for shape in shapes if shape.get("label") == "face"]
    if len(boxes) != 1 or len(boxes[0]) != 2:
        raise InputError(
            f"The file {path} must hold one shape 'face' of two points; it holds "
            f"{formats.counted(len(boxes), 'such shape', 'such shapes')}."
        )
    parts = [_points(shape, path) for shape in shapes if shape.get("label") != "face"]
    points = np.concatenate(parts) if parts else np.zeros((0, 2))
    if len(points) != 54:
        raise InputError(
            f"The file {path} holds {formats.counted(len(points), 'landmark', 'landmarks')}; there must be 54. Fix it, "
            "or remove the face."
        )
    (x, y), (right, bottom) = boxes[0].min(0).tolist(), boxes[0].max(0).tolist()
    return points.astype(np.float32), (x, y, right - x, bottom - y)


def read_challenging(path: str | os.PathLike) -> set[tuple[int, int, int]]:
    """Reads (subject, trial, position) from every row of challenging_images.csv; 3, 03 and 3.0 are the same."""
    columns = ("sub_id", "trial_id", "pos_id")
    found = set()
    for k, row in enumerate(formats.read_table(path, columns), 2):
        values = formats.numbers([row[column] for column in columns], f"Row {k} of {path}")
        if (values % 1).any():
            raise InputError(f"Row {k} of {path} holds {values[values % 1 != 0][0]} where a whole number is expected.")
        found.add(tuple(map(int, values)))
    if not found:
        raise InputError(f"The file {path} lists no images; use the file that comes with the dataset.")
    return found


def _points(shape: dict, path: str | os.PathLike) -> np.ndarray:
    """Returns the points of a shape as float64 [N, 2]."""
    rows = shape.get("points")
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise InputError(f"The shape {str(shape.get('label'))[:40]!r} of {path} has no list of points [x, y].")
    # Convert through text, because JSON may hold integers too large for float, booleans, or lists instead of numbers.
    points = formats.numbers([str(value) for row in rows for value in row], f"The file {path}").reshape(-1, 2)
    if points.size and np.abs(points).max() > _FAR:
        raise InputError(f"The file {path} holds the coordinate {np.abs(points).max():g}, which is not a pixel.")
    return points
