"""TFDS builder of `charlotte_thermal`: Charlotte-ThermalFace, 16-bit °C, landmarks of frontal and of profile faces."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from tfds_builders import faces, formats, tree

LAYOUTS = {name: landmarks.get(f"charlotte{count}") for name, count in (("frontal", 73), ("profile", 43))}
# Boxes are made without the forehead points, which other datasets lack.
_BOXED = {"frontal": 68, "profile": 39}

# The first of the ten subjects, ordered by the SHA-1 of "charlotte_thermal N", and the two that follow it.
VAL, TEST = (3,), (4, 7)
SUBJECTS = range(1, 11)

_FACTS = {
    "distance": ("Distance", "metres from the camera"),
    "room": ("env-temp", "air temperature in °C"),
    "humidity": ("RH", "relative humidity of the air in %"),
    "airflow": ("Airflow", "as the dataset gives it"),
    "sensation": ("Sensation", "how warm the subject felt, from cold (negative) to warm"),
}


def visible_side(points: np.ndarray) -> str:
    """The subject's side that a profile shows: "left" if the nose points to the left of an upright image.

    The turn from the ear (points 0-3) over the chin (8-11) to the nose (16-21) is clockwise for one side and
    counterclockwise for the other, at any roll of the head.

    Args:
        points: float [43, 2] of layout charlotte43.
    """
    ear, chin, nose = (points[part].mean(0) for part in (slice(0, 4), slice(8, 12), slice(16, 22)))
    (ax, ay), (bx, by) = chin - ear, nose - ear
    return "left" if ax * by - ay * bx > 0 else "right"


def read_labels(path: pathlib.Path) -> list[tuple[str, np.ndarray, dict[str, np.float32]]]:
    """Reads the rows of `S{k}.csv`; a row that repeats the one before it counts once.

    Returns:
        ID, points float32 [K, 2] with NaN for blank cells, and facts of the recording, for every row. K is the number
        of pairs x0, y0, x1, y1, … in the header.

    Raises:
        InputError: a missing file, no CSV, missing columns, a cell that is not a number, an ID that is not a file name.
    """
    found: list[tuple[str, np.ndarray, dict[str, np.float32]]] = []
    for k, row in enumerate(formats.read_table(path, ("ID", *_columns(43))), 2):
        where = f"Row {k} of {path}"
        if not re.fullmatch(r"\w+", row["ID"]):
            raise InputError(f"{where} has the ID {row['ID'][:40]!r}; an image's name such as R11102 belongs there.")
        count = next(i for i in range(43, len(row)) if f"x{i}" not in row or f"y{i}" not in row)
        points = _numbers((row[name] for name in _columns(count)), where).reshape(-1, 2)
        facts = _numbers((row.get(column, "") for column, _ in _FACTS.values()), where)
        same = found and found[-1][0] == row["ID"] and np.array_equal(found[-1][1], points, equal_nan=True)
        if not same:
            found.append((row["ID"], points, dict(zip(_FACTS, facts, strict=True))))
    return found


def _columns(count: int) -> tuple[str, ...]:
    return tuple(f"{axis}{i}" for i in range(count) for axis in "xy")


def _numbers(words: Iterable[str], where: str) -> np.ndarray:
    words = list(words)
    try:
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, and do not count as points
            return np.array([float(word or "nan") for word in words]).astype(np.float32)
    except ValueError:
        raise InputError(f"{where} holds text where a number belongs.") from None


class CharlotteThermal(faces.FaceBuilder):
    """Thermal faces of ten people in absolute °C: four room temperatures, ten distances, 25 poses of the head."""

    name = "charlotte_thermal"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = faces.configs(
        frontal="faces labelled with 73 points: iBUG 68 and the forehead",
        profile="faces labelled with the 43 points of the side that is seen",
    )
    LAYOUT = LAYOUTS["frontal"]  # of the first config; an instance has that of its config
    MODALITIES = ("thermal",)
    NORMALIZER = "box"
    THERMAL = faces.Thermal("counts", 0.01, -273.15)
    LICENSE = "for research; the publisher states no licence text"
    HOMEPAGE = "https://github.com/TeCSAR-UNCC/UNCC-ThermalFace"
    CITATION = (
        "Ashrafi, R., Azarbayjani, M. & Tabkhi, H. (2022). Charlotte-ThermalFace: A fully annotated thermal infrared "
        "face dataset with various environmental conditions and distances. Infrared Physics & Technology, 124, 104209. "
        "doi:10.1016/j.infrared.2022.104209"
    )
    HOW_TO_GET = (
        "Follow the link in the README of github.com/TeCSAR-UNCC/UNCC-ThermalFace, and give --manual_dir the folder "
        "that holds S1.csv, S2.csv, … and the folders S1, S2, … of R*.tiff."
    )

    def __init__(self, options: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        config = kwargs.get("config") or self.BUILDER_CONFIGS[0].name
        self.LAYOUT = LAYOUTS[getattr(config, "name", config)]
        super().__init__(options, **kwargs)

    def extra_features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Adds the circumstances of the recording, and `side` for profiles."""
        side = {"side": faces.text("left or right: the subject's side that is seen, inferred from the landmarks")}
        facts = {name: faces.tensor((), np.float32, f"{doc}; NaN: not told") for name, (_, doc) in _FACTS.items()}
        return facts | (side if self.builder_config.name == "profile" else {})

    def parse(self, folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        """Reads S{k}.csv, which labels S{k}/{ID}.tiff, for every subject k that is there."""
        splits: dict[str, list[faces.Face]] = {"train": [], "val": [], "test": []}
        odd: dict[str, int] = {}
        names = [name for k in SUBJECTS for name in (f"S{k}.csv", f"S{k}")]
        places = tree.find(folder, names, self.HOW_TO_GET, partly=True)
        for subject in (k for k in SUBJECTS if f"S{k}.csv" in places):
            split = "val" if subject in VAL else "test" if subject in TEST else "train"
            images = places.get(f"S{subject}", folder / f"S{subject}")
            for name, points, facts in read_labels(places[f"S{subject}.csv"]):
                face = self._face(f"S{subject}/{name}.tiff", images, points, facts, odd)
                if face:
                    splits[split].append(face)
        self._refuse(odd)
        return splits

    def _face(
        self, key: str, images: pathlib.Path, points: np.ndarray, facts: Mapping, odd: dict[str, int]
    ) -> faces.Face | None:
        """The face of a row, or None if it belongs to the other config; rows that fit neither are added to `odd`."""
        config, layout = self.builder_config.name, self.LAYOUT
        labelled = np.isfinite(points).all(1)
        count = int(labelled.sum())
        if (config == "frontal") != (count > 43):
            return None
        subject = key.split("/")[0]
        extra = dict(facts) | ({"side": ""} if config == "profile" else {})
        face = faces.Face(key, thermal=images / key.split("/")[1], subject=subject, extra=extra)
        whole = count == layout.count or (config == "frontal" and count == 72)  # the paper counts 72 points
        if not whole or not labelled[:count].all():
            odd[key] = count
            return face
        face.landmarks, face.visible = points[: layout.count].copy(), np.arange(layout.count) < count
        if count == 72:
            face.landmarks = np.concatenate([points[:72], points[71:72]])
        if config == "profile":
            face.extra["side"] = visible_side(face.landmarks)
        boxed = face.landmarks[: _BOXED[config]]
        if np.ptp(boxed, axis=0).all():
            face.box = tuple(landmarks.box_from_points(boxed).tolist())
        return face

    def _refuse(self, odd: Mapping[str, int]) -> None:
        excluded = set(formats.read_lines(self.options["exclude"])) if self.options.get("exclude") else set()
        left = {key: count for key, count in odd.items() if key not in excluded}
        if left:
            shown = ", ".join(f"{key} ({count})" for key, count in list(left.items())[:5])
            raise InputError(
                f"{len(left)} rows have neither 73 points nor the first 43: {shown}{', …' if len(left) > 5 else ''}; "
                "fix them, or name them in a file for --exclude."
            )
