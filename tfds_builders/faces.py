"""What the builders of labelled faces share: a set states its facts and a `parse`, the rest is done here.

class MySet(faces.FaceBuilder):
    \"\"\"One line: what it is.\"\"\"

    name = "my_set"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = faces.configs(all="every image")      # the first is the default
    LAYOUT, MODALITIES, NORMALIZER = "ibug68", ("rgb",), "outer_eyes"
    LICENSE, CITATION, HOMEPAGE, HOW_TO_GET = …

    def parse(self, folder): -> {split: [Face]}
"""

from __future__ import annotations

import abc
import contextlib
import io
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mlcm_jax import landmarks
from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.synthetic.workers import available_cores
from tfds_builders import formats, prepare, resume
from tfds_builders.prepare import Face, Thermal

__all__ = ["Face", "FaceBuilder", "Thermal", "configs", "make", "tensor", "text"]


def configs(**descriptions: str) -> list[tfds.core.BuilderConfig]:
    """`BUILDER_CONFIGS` out of name=description."""
    return [tfds.core.BuilderConfig(name=name, description=text) for name, text in descriptions.items()]


def tensor(shape: tuple[int, ...], dtype: type, doc: str) -> tfds.features.Tensor:
    """A documented feature."""
    return tfds.features.Tensor(shape=shape, dtype=dtype, doc=doc)


def text(doc: str) -> tfds.features.Text:
    """A documented feature."""
    return tfds.features.Text(doc=doc)


def make(
    kind: type[FaceBuilder],
    config: str | None,
    data_dir: str | os.PathLike,
    *,
    manual_dir: str | os.PathLike | None = None,
    allow_missing: bool = False,
    exclude: str | os.PathLike | None = None,
) -> FaceBuilder:
    """The builder of a config by name; None is the first one.

    Args:
        kind: the set.
        config: its name.
        data_dir: folder of all built sets.
        manual_dir: folder with the set's own files; needed to build.
        allow_missing: leave pairs out whose mate is missing, instead of refusing.
        exclude: file of keys to leave out, one a line.

    Raises:
        InputError: unknown config.
    """
    names = [c.name for c in kind.BUILDER_CONFIGS]
    config = config or names[0]
    if config not in names:
        raise InputError(f"Unknown config {config!r} of {kind.name}; {did_you_mean(config, names)}")
    options = {"manual_dir": manual_dir, "allow_missing": allow_missing, "exclude": exclude}
    return kind(options, config=config, data_dir=data_dir, file_format="array_record")


def _nothing() -> None:
    """Stands for a progress bar."""


class FaceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of the builders whose faces come from files that the user has."""

    LAYOUT: Any = ""  # name of the layout, or a Layout
    MODALITIES: tuple[str, ...] = ("rgb",)  # images that every example has
    NORMALIZER = "outer_eyes"  # of the NME that publications on this set report
    THERMAL = Thermal()
    LICENSE = CITATION = HOMEPAGE = ""
    HOW_TO_GET = ""  # sentences: where a user gets the files, and what --manual_dir must hold
    EXPECTED: ClassVar[Mapping[str, Mapping[str, int]]] = {}  # config -> split -> published number of examples
    UNIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # further splits made of these, such as full
    SUBSETS: ClassVar[
        Mapping[str, tuple[str, str]]
    ] = {}  # further splits: (split, its bool feature), such as test_pose
    OWN_SPLITS = False  # the splits are the user's, so an image in two of them is a mistake, not the publisher's choice
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    advance: Callable[[], None] = staticmethod(_nothing)
    total: int | None = None

    def __init__(self, options: Mapping[str, Any] | None = None, **kwargs):
        self.options = dict(options or {})
        super().__init__(**kwargs)

    @abc.abstractmethod
    def parse(self, folder: pathlib.Path) -> dict[str, list[Face]]:
        """The labelled faces of every split, from the label files alone; images are not read yet."""

    def thermal(self) -> Thermal:
        """What the thermal files of this config hold."""
        return self.THERMAL

    def extra_features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Features of this set beyond the common ones."""
        return {}

    def notes(self) -> dict[str, Any]:
        """Facts for `info.metadata` that a later load needs; sentences under "left_out" are told to the user."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        layout = landmarks.get(self.LAYOUT)
        features: dict[str, Any] = {}
        if "rgb" in self.MODALITIES:
            features["rgb"] = tfds.features.Image(shape=(None, None, 3), doc="colour image")
        if "thermal" in self.MODALITIES:
            features["thermal"] = tfds.features.Image(shape=(None, None, 1), doc="8 bits, hot = bright")
            if self.thermal().kind == "counts":
                features["celsius"] = tfds.features.Image(
                    shape=(None, None, 1), dtype=np.uint16, encoding_format="png", doc="°C = raw / 100 - 273.15"
                )
        return self.dataset_info_from_configs(
            description=type(self).__doc__,
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            license=self.LICENSE,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
            features=tfds.features.FeaturesDict(
                features
                | {
                    "landmarks": tensor(
                        (layout.count, 2),
                        np.float32,
                        f"{layout.name}; pixels (x, y), pixel centres at integers; NaN: unlabelled",
                    ),
                    "visible": tensor((layout.count,), np.bool_, "not marked as hidden, and inside the image"),
                    "box": tensor((4,), np.float32, "x, y, w, h of the face in pixels"),
                    "subject": text("who it is; empty where the set does not say"),
                    "key": text("the image's path in the set, with #2 for its second face"),
                }
                | self.extra_features()
            ),
        )

    @property
    def work_folder(self) -> pathlib.Path:
        """Where finished pieces of a build are kept until it is whole."""
        return pathlib.Path(self._data_dir_root) / self.name / self.builder_config.name / f".partial_{self.version}"

    def download_and_prepare(self, **options) -> None:
        """As TFDS's; whatever goes wrong on the way, the threads end with it."""
        with contextlib.ExitStack() as self._open:
            super().download_and_prepare(**options)

    def _split_generators(self, dl_manager) -> dict[str, Iterator[tuple[str, dict]]]:
        del dl_manager  # nothing is downloaded
        given = self.options.get("manual_dir")
        if not given:
            raise InputError(f"{self.name} is not built, and its files are not here. {self.HOW_TO_GET}")
        folder = pathlib.Path(given).expanduser()
        if not folder.is_dir():
            raise InputError(f"--manual_dir={given} is not a folder. {self.HOW_TO_GET}")
        splits, remarks = self._usable(self.parse(folder), folder)
        self.total = sum(map(len, splits.values()))
        if not self.total:
            raise InputError(f"{folder} holds no faces of {self.name}. {self.HOW_TO_GET}")
        faces = [face for mine in splits.values() for face in mine]
        stamp = resume.fingerprint(
            str(folder.resolve()), self.info.full_name, self.options, *(_stamp(face) for face in faces)
        )
        layout, thermal = landmarks.get(self.LAYOUT), self.thermal()

        def examples(some: Sequence[Face]):
            return resume.in_threads(
                lambda face: prepare.example(face, layout=layout, thermal=thermal), some, available_cores()
            )

        stream = resume.stream(faces, examples, self.work_folder / stamp)
        self._open.enter_context(contextlib.closing(stream))
        tally = prepare.Tally(self.EXPECTED.get(self.builder_config.name))
        last = list(splits)[-1]
        return {
            split: self._generate_examples(stream, split, len(mine), tally, remarks if split == last else None)
            for split, mine in splits.items()
        }

    def _usable(self, splits: dict[str, list[Face]], folder: pathlib.Path) -> tuple[dict[str, list[Face]], list[str]]:
        """The faces that are left after --exclude and --allow_missing, and what to say about the others."""
        remarks = []
        if self.options.get("exclude"):
            names = set(formats.read_lines(self.options["exclude"]))
            known = {face.key for mine in splits.values() for face in mine}
            strange = sorted(names - known)
            if strange:
                raise InputError(f"{self.options['exclude']} names {strange[0]!r}, which is not a face of {self.name}.")
            splits = {split: [face for face in mine if face.key not in names] for split, mine in splits.items()}
            remarks.append(f"{len(names)} faces were left out by {self.options['exclude']}.")
        faces = [face for mine in splits.values() for face in mine]
        keys: set[str] = set()
        for face in faces:
            if face.key in keys:
                raise InputError(f"{face.key} occurs twice among the faces of {self.name}; remove one from the labels.")
            keys.add(face.key)
        lacking = prepare.missing_images(faces, self.MODALITIES)
        if lacking:
            shown = "; ".join(f"{key} lacks {what}" for key, what in list(lacking.items())[:5])
            told = f"{len(lacking)} of {len(faces)} faces lack an image: {shown}{'; …' if len(lacking) > 5 else ''}"
            if not self.options.get("allow_missing"):
                raise InputError(f"{told}. Complete {folder}, or leave them out with --allow_missing.")
            remarks.append(f"{told}. They were left out.")
            splits = {split: [face for face in mine if face.key not in lacking] for split, mine in splits.items()}
        prepare.check_subjects(splits)
        return {split: mine for split, mine in splits.items() if mine}, remarks

    def _generate_examples(self, stream, split: str, count: int, tally: prepare.Tally, remarks: list[str] | None):
        for k in range(count):
            item = next(stream)
            tally.add(split, item)
            images = {name: io.BytesIO(item[name].getvalue()) for name in item if isinstance(item[name], io.BytesIO)}
            yield f"{split}{k:09d}", item | images
            self.advance()
        if remarks is not None:  # the last split
            if tally.duplicates and self.OWN_SPLITS:
                raise InputError(f"{tally.told_duplicates()} An image belongs to one split only; nothing was built.")
            notes = self.notes()
            remarks = remarks + notes.get("left_out", []) + tally.remarks()
            facts = {"splits": tally.summary(), "remarks": remarks, "exclude": str(self.options.get("exclude") or "")}
            self.info.metadata.update(notes | facts)


def _stamp(face: Face) -> tuple:
    """What a prepared example depends on."""
    sources = [part for source in (face.rgb, face.thermal) for part in (source, *getattr(source, "args", ()))]
    files = [part for part in sources if isinstance(part, pathlib.Path)]  # of a functools.partial: what it reads
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    labels = [
        None if value is None else np.asarray(value).tolist() for value in (face.landmarks, face.visible, face.box)
    ]
    return (face.key, face.subject, *states, *labels, repr(face.extra))
