"""TFDS builder of `ibug_300w`: AFW, HELEN, LFPW and iBUG as 300W re-annotated them, 68 landmarks."""

from __future__ import annotations

import functools
import pathlib
import re

import tensorflow_datasets as tfds

from mlcm_jax.errors import InputError
from tfds_builders import faces, formats

# The division that every publication since Ren et al. (CVPR 2014) uses.
FOLDERS = {
    "train": ("afw", "helen/trainset", "lfpw/trainset"),
    "common": ("helen/testset", "lfpw/testset"),
    "challenge": ("ibug",),
}
_ENDINGS = (".jpg", ".jpeg", ".png")


class Ibug300w(faces.FaceBuilder):
    """300W: 68 points on in-the-wild faces; tested on common (HELEN, LFPW), challenge (iBUG), or both: full."""

    name = "ibug_300w"
    VERSION = tfds.core.Version("1.0.0")
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
    EXPECTED = {"all": {"train": 3148, "common": 554, "challenge": 135}}  # noqa: RUF012
    UNIONS = {"full": ("common", "challenge")}  # noqa: RUF012

    def parse(self, folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        """NAME.pts, counted from 1, beside NAME.jpg or NAME.png."""
        self._left_out: dict[str, list[str]] = {"mirrored": [], "copies": []}
        allowed = bool(self.options.get("allow_missing"))
        present = [sub for subs in FOLDERS.values() for sub in subs if (folder / sub).is_dir()]
        absent = [sub for subs in FOLDERS.values() for sub in subs if sub not in present]
        if absent and not (allowed and present):
            raise InputError(
                f"{folder} has no folder {absent[0]}{f' (and {len(absent) - 1} more)' if absent[1:] else ''}. "
                f"{self.HOW_TO_GET}"
            )
        unlabelled: list[str] = []
        splits = {
            split: [face for sub in subs if sub in present for face in self._folder(folder, sub, unlabelled)]
            for split, subs in FOLDERS.items()
        }
        if unlabelled and not allowed:
            raise InputError(
                f"{len(unlabelled)} images have no .pts file: {', '.join(unlabelled[:5])}"
                f"{', …' if unlabelled[5:] else ''}. Complete {folder}, or leave them out with --allow_missing."
            )
        return splits

    def notes(self) -> dict[str, list[str]]:
        """`left_out`: what of the folder is no part of 300W, in sentences."""
        because = {
            "mirrored": "mirrored images, which some redistributions add, were left out",
            "copies": "second downloads, which some file managers call (1), were left out",
        }
        return {
            "left_out": [
                f"{len(names)} {because[why]}: {names[0]}{', …' if names[1:] else ''}."
                for why, names in self._left_out.items()
                if names
            ]
        }

    def _folder(self, root: pathlib.Path, sub: str, unlabelled: list[str]) -> list[faces.Face]:
        """Faces of a folder in the order of their names; names of images without labels are appended."""
        labels: dict[str, pathlib.Path] = {}
        images: dict[str, list[str]] = {}
        for path in sorted((root / sub).iterdir()):
            ending = path.suffix.lower()
            if path.name.startswith("."):  # such as ._NAME.pts, which archives from a Mac hold
                continue
            if ending == ".pts":
                labels[path.stem] = path
            elif ending in _ENDINGS:
                images.setdefault(path.stem, []).append(path.name)
        stems = labels.keys() | images.keys()
        for stem in sorted(stems):
            why = _surplus(stem, stems)
            if why:
                labels.pop(stem, None)
                self._left_out[why].append(f"{sub}/{(images.pop(stem, None) or [f'{stem}.pts'])[0]}")
        unlabelled += [f"{sub}/{names[0]}" for stem, names in images.items() if stem not in labels]
        found = []
        for stem, path in labels.items():
            names = images.get(stem, [f"{stem}.jpg"])  # one that is missing is reported under its usual name
            if len(names) > 1:
                raise InputError(f"Beside {path} lie {names[0]} and {names[1]}; remove the wrong one.")
            points = formats.read_pts(path, 68)
            found.append(faces.Face(f"{sub}/{names[0]}", rgb=root / sub / names[0], landmarks=points))
        return found


def _surplus(stem: str, stems) -> str:
    """Why an image is no part of the set, or ""; a name with (1) that has no original beside it is."""
    if stem.endswith("_mirror") and stem.removesuffix("_mirror") in stems:
        return "mirrored"
    copy = re.fullmatch(r"(.*\S) ?\(\d+\)", stem)
    return "copies" if copy and copy[1] in stems else ""


make = functools.partial(faces.make, Ibug300w)


def configs() -> list[str]:
    """Names of the configs."""
    return [config.name for config in Ibug300w.BUILDER_CONFIGS]
