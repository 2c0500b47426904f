"""TFDS builder of `charlotte_thermal`: 16-bit °C images, with landmarks of frontal and of profile faces."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from tfds_builders import faces, formats, tree

LAYOUTS = {name: landmarks.get(f"charlotte{count}") for name, count in (("frontal", 73), ("profile", 43))}
# Boxes enclose this many first points: the others, on the forehead, are missing in other datasets.
_BOXED = {"frontal": 68, "profile": 39}

SUBJECTS = range(1, 11)
# The ten subjects are ordered by the SHA-1 of "charlotte_thermal N": the first is val, the next two are test.
_SPLITS = {"S3": "val", "S4": "test", "S7": "test"}
_SHOWN = 60  # keys listed in a remark; the published tables have 48 rows with a wrong number of points

_FACTS = {
    "distance": ("Distance", "metres from the camera"),
    "room": ("env-temp", "air temperature in °C"),
    "humidity": ("RH", "relative humidity of the air in %"),
    "airflow": ("Airflow", "in the unit of the dataset"),
    "sensation": ("Sensation", "how warm the subject felt, from cold (negative) to warm"),
}


def visible_side(points: np.ndarray) -> str:
    """Returns the subject's side that a profile shows: "left" if the nose of an upright face points left in the image.

    The triangle of ear (points 0-3), chin (8-11) and nose (16-21), in this order, is clockwise for one side and
    counterclockwise for the other, whatever the roll of the head.

    Args:
        points: float [43, 2] in pixels, of the layout charlotte43.
    """
    ear, chin, nose = (points[part].mean(0) for part in (slice(0, 4), slice(8, 12), slice(16, 22)))
    (ax, ay), (bx, by) = chin - ear, nose - ear
    return "left" if ax * by - ay * bx > 0 else "right"


@dataclasses.dataclass(eq=False)
class Table:
    """The rows of `S{k}.csv`.

    Attributes:
        points: ID -> float32 [K, 2] in pixels, NaN for blank cells. K is the number of pairs x0, y0, x1, y1, … in the
            header.
        facts: ID -> name -> fact of the recording; NaN if it is missing, or if rows with this ID disagree.
        nameless: the number of rows without an ID, which were skipped.
        unclear: IDs whose rows disagree on facts.
        contradicting: IDs whose rows disagree on points; `points` and `facts` leave them out.
    """

    points: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    facts: dict[str, dict[str, np.float32]] = dataclasses.field(default_factory=dict)
    nameless: int = 0
    unclear: set[str] = dataclasses.field(default_factory=set)
    contradicting: set[str] = dataclasses.field(default_factory=set)


def read_labels(path: pathlib.Path) -> Table:
    """Reads `S{k}.csv`. Spreadsheet errors in cells, such as #DIV/0!, count as blank.

    Raises:
        InputError: a missing file, no CSV, missing columns, a cell that is not a number, an ID that is not a file name.
    """
    table = Table()
    facts_of_rows: dict[str, list[np.ndarray]] = {}
    for k, row in enumerate(formats.read_table(path, ("ID", *_columns(43))), 2):
        where, name = f"Row {k} of {path}", row["ID"]
        if formats.is_blank(name):
            table.nameless += 1
            continue
        if not re.fullmatch(r"\w+", name):
            raise InputError(f"{where} has the ID {name[:40]!r}, which is not an image's name such as R11102.")
        count = next(i for i in range(43, len(row)) if f"x{i}" not in row or f"y{i}" not in row)
        points = formats.cells([row[column] for column in _columns(count)], where).reshape(-1, 2)
        if not np.array_equal(table.points.setdefault(name, points), points, equal_nan=True):
            table.contradicting.add(name)
        facts = formats.cells([row.get(column, "") for column, _ in _FACTS.values()], where)
        facts_of_rows.setdefault(name, []).append(facts)
    for name in table.contradicting:
        del table.points[name], facts_of_rows[name]
    for name, rows in facts_of_rows.items():
        distinct = [{value for value in column if np.isfinite(value)} for column in np.transpose(rows).tolist()]
        if any(len(values) > 1 for values in distinct):
            table.unclear.add(name)
        single = [values.pop() if len(values) == 1 else np.nan for values in distinct]
        table.facts[name] = dict(zip(_FACTS, map(np.float32, single), strict=True))
    return table


def _columns(count: int) -> tuple[str, ...]:
    return tuple(f"{axis}{i}" for i in range(count) for axis in "xy")


class CharlotteThermal(faces.FaceBuilder):
    """Thermal faces of ten people in absolute °C: four room temperatures, ten distances, 25 poses of the head."""

    name = "charlotte_thermal"
    BUILDER_CONFIGS = faces.configs(
        frontal="faces labelled with 73 points: iBUG 68 and the forehead",
        profile="faces labelled with the 43 points of the visible side",
    )
    LAYOUT = LAYOUTS["frontal"]  # that of the first config; __init__ sets that of the instance's config
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
        side = {"side": faces.text("left or right: the subject's visible side, inferred from the landmarks")}
        facts = {
            name: faces.tensor((), np.float32, f"{doc}; NaN: missing or unclear") for name, (_, doc) in _FACTS.items()
        }
        return facts | (side if self.builder_config.name == "profile" else {})

    def parse(self, folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        """Reads S{k}.csv, which labels S{k}/{ID}.tiff, for every subject k whose table exists."""
        names = [name for k in SUBJECTS for name in (f"S{k}.csv", f"S{k}")]
        places = tree.find(folder, names, self.HOW_TO_GET, partly=True)
        tables = {f"S{k}": read_labels(places[f"S{k}.csv"]) for k in SUBJECTS if f"S{k}.csv" in places}
        splits: dict[str, list[faces.Face]] = {"train": [], "val": [], "test": []}
        odd: dict[str, int] = {}
        for subject, table in tables.items():
            split = _SPLITS.get(subject, "train")
            for name, points in table.points.items():
                key = f"{subject}/{name}.tiff"
                if self._fits(points):
                    image = places.get(subject, folder / subject) / f"{name}.tiff"
                    splits[split].append(self._face(key, image, points, table.facts[name]))
                    continue
                self.passed_over.add(key)
                count = int(_labelled(points).sum())
                if (self.builder_config.name == "frontal") == (count > 43):
                    odd[key] = count
            self.passed_over |= {f"{subject}/{name}.tiff" for name in table.contradicting}
        built = {face.key for mine in splits.values() for face in mine}
        self.remarks = list(_remarks(tables, odd, built))
        return splits

    def _fits(self, points: np.ndarray) -> bool:
        """Whether a row has exactly the points of this config: the first 43, or all 73 or the first 72 of these."""
        labelled = _labelled(points)
        count = int(labelled.sum())
        # The paper counts 72 points.
        known = count == self.LAYOUT.count or (self.builder_config.name == "frontal" and count == 72)
        return known and bool(labelled[:count].all())

    def _face(self, key: str, image: pathlib.Path, points: np.ndarray, facts: Mapping[str, np.float32]) -> faces.Face:
        """Makes the face of a row that `_fits`; a missing 73rd point is placed at the 72nd."""
        config, count = self.builder_config.name, int(_labelled(points).sum())
        points = np.concatenate([points[:72], points[71:72]]) if count == 72 else points[: self.LAYOUT.count].copy()
        boxed = points[: _BOXED[config]]
        return faces.Face(
            key,
            thermal=image,
            landmarks=points,
            known=np.arange(self.LAYOUT.count) < count,
            box=landmarks.box_from_points(boxed).tolist() if np.ptp(boxed, axis=0).all() else None,
            subject=key.split("/")[0],
            extra=dict(facts) | ({"side": visible_side(points)} if config == "profile" else {}),
        )


def _labelled(points: np.ndarray) -> np.ndarray:
    return np.isfinite(points).all(1)


def _remarks(tables: Mapping[str, Table], odd: Mapping[str, int], built: Container[str]) -> Iterator[str]:
    """Yields remarks about rows that were left out or are unclear.

    Args:
        tables: subject -> table.
        odd: key -> number of points, of rows with a wrong number.
        built: keys of the faces that this config has.
    """
    nameless = {subject: table.nameless for subject, table in tables.items() if table.nameless}
    if nameless:
        where = ", ".join(f"{number} in {subject}.csv" for subject, number in nameless.items())
        rows = formats.counted(sum(nameless.values()), "row without an ID was", "rows without an ID were")
        yield f"{rows} skipped: {where}."
    if odd:
        rows = formats.counted(len(odd), "row has", "rows have")
        shown = formats.listed((f"{key} ({number})" for key, number in odd.items()), _SHOWN)
        left = "It was" if len(odd) == 1 else "They were"
        yield f"{rows} neither 73 points nor only the first 43: {shown}. {left} left out."
    contradicting = [
        f"{subject}/{name}.tiff" for subject, table in tables.items() for name in sorted(table.contradicting)
    ]
    if contradicting:
        images = formats.counted(len(contradicting), "image has rows", "images have rows")
        left = "It was" if len(contradicting) == 1 else "They were"
        yield f"{images} with different points: {formats.listed(contradicting, _SHOWN)}. {left} left out."
    unclear = [f"{subject}/{name}.tiff" for subject, table in tables.items() for name in sorted(table.unclear)]
    unclear = [key for key in unclear if key in built]
    if unclear:
        images = formats.counted(len(unclear), "image has", "images have")
        yield (
            f"{images} several rows with the same points but different facts, such as the room's temperature: "
            f"{formats.listed(unclear)}. Facts that differ are stored as missing (NaN)."
        )
