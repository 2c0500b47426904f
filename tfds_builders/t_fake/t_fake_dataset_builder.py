"""TFDS builder of `t_fake`: synthetic thermal versions of Face Synthetics, with its RGB images and 70 landmarks."""

from __future__ import annotations

import hashlib
import pathlib
import re

from mlcm_jax.errors import InputError
from tfds_builders import faces, formats, tree

_THERMAL_NAME = re.compile(r"([0-9]{6})(_thermal)?\.png")
_LABEL_NAME = re.compile(r"([0-9]{6})_ldmks\.txt")


class TFake(faces.FaceBuilder):
    """100,000 rendered faces of Face Synthetics, 512 x 512, which a network converted to thermal, warm and cold."""

    name = "t_fake"
    BUILDER_CONFIGS = faces.configs(
        warm="warm faces with their RGB mates",
        cold="faces after cold exposure with their RGB mates",
        warm_alone="warm faces; RGB images are not needed",
        cold_alone="faces after cold exposure; RGB images are not needed",
    )
    LAYOUT = "tfake70"
    # We infer that 16 bits span the 20 to 40 °C of the authors' reference temperatures; see README.md.
    THERMAL = faces.Thermal("counts", scale=20.0 / 65535.0, offset=20.0)
    LICENSE = "CC BY-NC-SA 4.0 (thermal images); the licence of Face Synthetics, non-commercial research (the rest)"
    HOMEPAGE = "https://github.com/phflot/tfake"
    CITATION = (
        "Flotho, P., Piening, M., Kukleva, A. & Steidl, G. (2025). T-FAKE: Synthesizing Thermal Images for Facial "
        "Landmarking. CVPR, 26356-26366. arXiv:2408.15127. Wood, E., Baltrušaitis, T., Hewitt, C., Dziadzio, S., "
        "Johnson, M., Estellers, V., Cashman, T. J. & Shotton, J. (2021). Fake It Till You Make It: Face analysis in "
        "the wild using synthetic data alone. ICCV. arXiv:2109.15102."
    )
    HOW_TO_GET = (
        "Download warm or cold from the links in the README of github.com/phflot/tfake, and Face Synthetics from those "
        "in the README of github.com/microsoft/FaceSynthetics; unpack them into the folders face_synthetics (ID.png, "
        "ID_ldmks.txt) and warm or cold (ID_thermal.png), and give --manual_dir the folder that holds these."
    )
    _COUNTS = {"train": 80087, "val": 9930, "test": 9983}
    EXPECTED = {"warm": _COUNTS, "cold": _COUNTS, "warm_alone": _COUNTS, "cold_alone": _COUNTS}

    @property
    def MODALITIES(self) -> tuple[str, ...]:
        """The images that a record of this config holds."""
        return ("thermal",) if self.builder_config.name.endswith("_alone") else ("rgb", "thermal")

    def parse(self, folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        """Reads {warm,cold}/ID_thermal.png, and face_synthetics/ID_ldmks.txt and ID.png, at any depth."""
        version = self.builder_config.name.removesuffix("_alone")
        found = tree.find(folder, (version, "face_synthetics"), self.HOW_TO_GET)
        thermal = _by_id(found[version], _THERMAL_NAME)
        labels = _by_id(found["face_synthetics"], _LABEL_NAME)
        lacking = sorted(thermal.keys() - labels.keys())
        keys = {number: f"{version}/{path.relative_to(found[version]).as_posix()}" for number, path in thermal.items()}
        self.leave_out_unlabelled({keys[k]: f"{k}_ldmks.txt" for k in lacking}, found["face_synthetics"])
        splits: dict[str, list[faces.Face]] = {"train": [], "val": [], "test": []}
        for number in sorted(thermal.keys() & labels.keys()):
            face = faces.Face(
                keys[number],
                rgb=labels[number].with_name(f"{number}.png") if "rgb" in self.MODALITIES else None,
                thermal=thermal[number],
                landmarks=formats.read_points(labels[number], 70),
                subject=number,
            )
            splits[split_of(number)].append(face)
        return splits


def split_of(number: str) -> str:
    """Returns the split of a face from its six digits: "train" (80 %), "val" or "test" (10 % each).

    The first two bytes of SHA-256 of "t_fake NUMBER", as a fraction of 65,536, decide: below 0.1 is test, below 0.2 is
    val. Therefore a face is in the same split in both versions, and in the samples of 100 and 1,000 faces.
    """
    place = int.from_bytes(hashlib.sha256(f"t_fake {number}".encode()).digest()[:2], "big") / 65536.0
    return "test" if place < 0.1 else "val" if place < 0.2 else "train"


def _by_id(folder: pathlib.Path, pattern: re.Pattern) -> dict[str, pathlib.Path]:
    """Finds the files below `folder` whose names match: six digits -> path.

    Raises:
        InputError: no such file, or two for one face.
    """
    found: dict[str, pathlib.Path] = {}
    for path in tree.files(folder, "**/*"):
        match = pattern.fullmatch(path.name)
        if match and found.setdefault(match[1], path) != path:
            raise InputError(f"Both {found[match[1]]} and {path} are face {match[1]}; remove one of them.")
    if not found:
        raise InputError(f"{folder} holds no files of T-FAKE. {TFake.HOW_TO_GET}")
    return found
