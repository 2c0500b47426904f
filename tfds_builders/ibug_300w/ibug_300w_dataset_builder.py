"""TFDS builder of `ibug_300w`: AFW, HELEN, LFPW and iBUG with the 68 landmarks of 300W."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Container, Mapping

from mlcm_jax.errors import InputError
from tfds_builders import faces, formats, tree

# The splits that every publication since Ren et al. (CVPR 2014) uses.
FOLDERS = {
    "train": ("afw", "helen/trainset", "lfpw/trainset"),
    "common": ("helen/testset", "lfpw/testset"),
    "challenge": ("ibug",),
}
_ENDINGS = (".jpg", ".jpeg", ".png")


class Ibug300w(faces.FaceBuilder):
    """300W: 68 points on in-the-wild faces; test splits common (HELEN, LFPW), challenge (iBUG), and both as full."""

    name = "ibug_300w"
    BUILDER_CONFIGS = faces.configs(all="every face; boxes from the landmarks")
    LAYOUT = "ibug68"
    MODALITIES = ("rgb",)
    NORMALIZER = "outer_eyes"
    LICENSE = "research purposes only; the photographs belong to their owners"
    HOMEPAGE = "https://ibug.doc.ic.ac.uk/resources/facial-point-annotations/"
    CITATION = (
        "Sagonas, C., Tzimiropoulos, G., Zafeiriou, S. & Pantic, M. (2013). 300 faces in-the-wild challenge: the first "
        "facial landmark localization challenge. ICCV Workshops. Sagonas, C., Antonakos, E., Tzimiropoulos, G., "
        "Zafeiriou, S. & Pantic, M. (2016). 300 faces in-the-wild challenge: database and results. Image and Vision "
        "Computing 47, 3-18."
    )
    HOW_TO_GET = (
        "Fetch the archives of AFW, HELEN, LFPW and iBUG from ibug.doc.ic.ac.uk/resources/facial-point-annotations and "
        "give --manual_dir the folder that holds afw, helen/trainset, helen/testset, lfpw/trainset, lfpw/testset and "
        "ibug, with NAME.pts beside NAME.jpg or NAME.png."
    )
    EXPECTED = {"all": {"train": 3148, "common": 554, "challenge": 135}}
    UNIONS = {"full": ("common", "challenge")}

    def parse(self, folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        """Reads NAME.pts, which counts from 1, beside NAME.jpg or NAME.png."""
        surplus: dict[str, list[str]] = {"mirrored": [], "copies": []}
        allowed = bool(self.options.get("allow_missing"))
        names = [sub for subs in FOLDERS.values() for sub in subs]
        present = tree.find(folder, names, self.HOW_TO_GET, partly=allowed)
        unlabelled: list[str] = []
        splits = {
            split: [face for sub in subs if sub in present for face in _faces(present[sub], sub, unlabelled, surplus)]
            for split, subs in FOLDERS.items()
        }
        self.remarks = []
        self.passed_over = {*surplus["mirrored"], *surplus["copies"]}
        self.leave_out_unlabelled({key: f"{pathlib.PurePath(key).stem}.pts" for key in unlabelled}, folder)
        sentences = {
            "mirrored": (
                "mirrored image, of a kind that some redistributions add, was left out",
                "mirrored images, which some redistributions add, were left out",
            ),
            "copies": (
                "second download, which browsers mark with (1), was left out",
                "second downloads, which browsers mark with (1), were left out",
            ),
        }
        self.remarks += [
            f"{formats.counted(len(names), *sentences[why])}: {formats.listed(names, 1)}."
            for why, names in surplus.items()
            if names
        ]
        return splits


def _faces(folder: pathlib.Path, sub: str, unlabelled: list[str], surplus: Mapping[str, list[str]]) -> list[faces.Face]:
    """Reads the faces of one folder, sorted by name.

    Args:
        folder: its path.
        sub: its name in `FOLDERS`, with which keys begin.
        unlabelled: gets the keys of images without labels.
        surplus: gets the keys of images that are not part of 300W, by reason (see `_surplus`).
    """
    labels: dict[str, pathlib.Path] = {}
    images: dict[str, list[str]] = {}
    for path in tree.files(folder, "*"):
        ending = path.suffix.lower()
        if ending == ".pts":
            labels[path.stem] = path
        elif ending in _ENDINGS:
            images.setdefault(path.stem, []).append(path.name)
    stems = labels.keys() | images.keys()
    for stem in sorted(stems):
        why = _surplus(stem, stems)
        if why:
            labels.pop(stem, None)
            surplus[why].append(f"{sub}/{(images.pop(stem, None) or [f'{stem}.pts'])[0]}")
    unlabelled += [f"{sub}/{names[0]}" for stem, names in images.items() if stem not in labels]
    found = []
    for stem, path in labels.items():
        names = images.get(stem, [f"{stem}.jpg"])  # a missing image is reported under its usual name
        if len(names) > 1:
            raise InputError(f"Beside {path} lie {names[0]} and {names[1]}; remove the wrong one.")
        points = formats.read_pts(path, 68)
        found.append(faces.Face(f"{sub}/{names[0]}", rgb=folder / names[0], landmarks=points))
    return found


def _surplus(stem: str, stems: Container[str]) -> str:
    """Returns why an image is not part of the dataset ("mirrored" or "copies"), or "" if it is part.

    An image counts as a copy or as mirrored only if its original is among `stems`, the names in its folder.
    """
    if stem.endswith("_mirror") and stem.removesuffix("_mirror") in stems:
        return "mirrored"
    copy = re.fullmatch(r"(.*\S) ?\(\d+\)", stem)
    return "copies" if copy and copy[1] in stems else ""
