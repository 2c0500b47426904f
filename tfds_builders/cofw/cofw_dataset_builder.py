"""TFDS builder of `cofw`: 29 landmarks and their occlusion, from two MATLAB 7.3 (HDF5) files."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlcm_jax.errors import InputError
from tfds_builders import faces, formats, tree

# Split -> file and its variables: images, shapes, boxes.
FILES = {
    "train": ("COFW_train_color.mat", "IsTr", "phisTr", "bboxesTr"),
    "test": ("COFW_test_color.mat", "IsT", "phisT", "bboxesT"),
}
_POINTS = 29
# HDF5 runs on one thread at a time anyway. The file is opened for every image: this costs 1.5 ms each, 3 s in all, but
# no handle is shared or has to be closed at the end.
_ONE_AT_A_TIME = threading.Lock()
# What h5py raises for a damaged file depends on where the damage is.
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError, OverflowError)


class Cofw(faces.FaceBuilder):
    """Caltech Occluded Faces in the Wild: 29 points, each marked as visible or occluded."""

    name = "cofw"
    BUILDER_CONFIGS = faces.box_configs()
    LAYOUT = "cofw29"
    MODALITIES = ("rgb",)
    NORMALIZER = "outer_eyes"
    LICENSE = "see the record at CaltechDATA; the photographs belong to their owners"
    HOMEPAGE = "https://data.caltech.edu/records/20099"
    CITATION = (
        "Burgos-Artizzu, X. P., Perona, P. & Dollár, P. (2013). Robust face landmark estimation under occlusion. ICCV."
    )
    HOW_TO_GET = (
        "Fetch the colour images (COFW_color.zip) from data.caltech.edu/records/20099 and give --manual_dir the "
        "folder that holds COFW_train_color.mat and COFW_test_color.mat."
    )
    EXPECTED = {name: {"train": 1345, "test": 507} for name in ("all", "landmark_box")}

    def parse(self, folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        """Reads the labels of both files; images are read when their examples are prepared."""
        splits = {}
        found = tree.find(folder, [name for name, *_ in FILES.values()], self.HOW_TO_GET)
        for split, (name, *variables) in FILES.items():
            path = found[name]
            points, visible, boxes, references = read_labels(path, *variables)
            splits[split] = [
                faces.Face(
                    f"{name}/{k + 1:04d}",  # as MATLAB counts the cells
                    rgb=functools.partial(read_image, path, reference, f"Image {k + 1} of {path}"),
                    landmarks=points[k],
                    visible=visible[k],
                    box=boxes[k] if self.builder_config.name == "all" else None,
                )
                for k, reference in enumerate(references)
            ]
        return splits


def read_labels(
    path: str | os.PathLike, images: str, shapes: str, boxes: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list]:
    """Reads the labels of a COFW file, and makes its pixels, which MATLAB counts from 1, count from 0.

    Args:
        path: the MATLAB 7.3 file. HDF5 shows its arrays transposed.
        images: the name of the variable that holds a cell array of images.
        shapes: the name of the variable [N, 87]: 29 x, 29 y, and 29 flags, 1 for occluded.
        boxes: the name of the variable [N, 4]: x, y, w, h.

    Returns:
        Landmarks float32 [N, 29, 2] and boxes float32 [N, 4] in pixels, visible bool [N, 29], and references to the N
        images, in the order landmarks, visible, boxes, references.

    Raises:
        InputError: a missing file, another version of MATLAB, a damaged file, or variables of another kind.
    """
    import h5py

    with _opened(path) as file:
        found = {}
        for name in (images, shapes, boxes):
            if not isinstance(file.get(name), h5py.Dataset):
                raise InputError(f"The file {path} has no variable {name}; is it one of COFW's colour files?")
            found[name] = file[name]
        if h5py.check_ref_dtype(found[images].dtype) is not h5py.Reference:
            raise InputError(f"The variable {images} of {path} is not a cell array of images.")
        count = found[images].size or 0
        for name, rows in ((shapes, 3 * _POINTS), (boxes, 4)):
            if found[name].shape != (rows, count) or found[name].dtype.kind not in "fiu":
                raise InputError(
                    f"The variable {name} of {path} has shape {found[name].shape[::-1]} and type {found[name].dtype}; "
                    f"for {formats.counted(count, 'image', 'images')} it must be numbers of shape ({count}, {rows})."
                )
        references = found[images][()].ravel().tolist()
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, and `prepare.example` refuses them
            phis, rectangles = (found[name][()].T.astype(np.float32) for name in (shapes, boxes))
    occluded = phis[:, 2 * _POINTS :]
    wrong = np.flatnonzero(~np.isin(occluded, (0, 1)).all(1))
    if len(wrong):
        raise InputError(
            f"Face {wrong[0] + 1} of {path} has the occlusion {occluded[wrong[0]].max():g}; it must be 0 or 1."
        )
    points = phis[:, : 2 * _POINTS].reshape(-1, 2, _POINTS).swapaxes(1, 2) - 1
    return points, occluded == 0, rectangles - np.float32([1, 1, 0, 0]), references


def read_image(path: str | os.PathLike, reference: Any, where: str) -> np.ndarray:
    """Reads an image of a COFW file as uint8 [H, W] or [H, W, 3]; may be called from several threads.

    Args:
        path: the MATLAB 7.3 file.
        reference: the HDF5 reference to the image, from `read_labels`.
        where: the beginning of the message, such as "Image 3 of x.mat".

    Raises:
        InputError: an empty reference, something other than an image, or a damaged file.
    """
    import h5py

    with _opened(path) as file:
        data = file[reference] if reference else None
        if not isinstance(data, h5py.Dataset) or data.ndim not in (2, 3) or data.dtype != np.uint8 or not data.size:
            raise InputError(f"{where} is not an 8-bit image.")
        pixels = data[()].T  # HDF5 shows MATLAB's [H, W, 3] as [3, W, H]
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        channels = formats.counted(pixels.shape[2], "channel", "channels")
        raise InputError(f"{where} has {channels}; it must be gray or RGB.")
    return np.ascontiguousarray(pixels)


@contextlib.contextmanager
def _opened(path: str | os.PathLike) -> Iterator[Any]:
    """Opens the HDF5 file for one thread at a time, and turns errors, also those of the body, into InputError."""
    import h5py

    _check_version(pathlib.Path(path))
    try:
        with _ONE_AT_A_TIME, h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"The file {path} is damaged or incomplete ({reason}); fetch it again.") from None


def _check_version(path: pathlib.Path) -> None:
    """Raises InputError unless the file has MATLAB's version 7.3: 512 bytes of header, then HDF5."""
    try:
        with path.open("rb") as file:
            head = file.read(520)
    except OSError as error:
        raise InputError(
            f"The file {path} cannot be read ({error.strerror or error}); check its name and its rights."
        ) from None
    if head[512:] == b"\x89HDF\r\n\x1a\n" or head.startswith(b"\x89HDF\r\n\x1a\n"):
        return
    if head.startswith(b"MATLAB 5.0 MAT-file"):
        raise InputError(f"The file {path} is of MATLAB version 5 to 7; save it again with save(…, '-v7.3').")
    raise InputError(
        f"The file {path} is not a MATLAB file of version 7.3, or its beginning is damaged; fetch it again."
    )
