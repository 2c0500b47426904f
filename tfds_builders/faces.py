"""The base class of the builders of labelled faces.

A dataset's builder sets these attributes and reads the labels:

    class MyDataset(faces.FaceBuilder):
        \"\"\"One line that describes it.\"\"\"

        name = "my_dataset"
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
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow_datasets as tfds

from mlcm_jax import cores, landmarks
from mlcm_jax.errors import InputError, did_you_mean
from tfds_builders import face_labels, formats, options, prepare, resume
from tfds_builders.base import Builder, tensor
from tfds_builders.prepare import Face, Thermal

__all__ = ["LISTS", "Face", "FaceBuilder", "Thermal", "box_configs", "configs", "tensor", "text"]


# Split -> the file that lists its images, for datasets that come with such files.
LISTS = {split: f"{split}.txt" for split in ("train", "val", "test")}


def box_configs() -> list[tfds.core.BuilderConfig]:
    """Returns the `BUILDER_CONFIGS` of a dataset whose files hold the boxes of a face detector."""
    return configs(
        all="every face; boxes from the files, set by a face detector",
        landmark_box="every face; boxes from the landmarks",
    )


def configs(**descriptions: str) -> list[tfds.core.BuilderConfig]:
    """Returns `BUILDER_CONFIGS` from the configs' names and descriptions."""
    return [tfds.core.BuilderConfig(name=name, description=text) for name, text in descriptions.items()]


def text(doc: str) -> tfds.features.Text:
    """Returns a feature of UTF-8 text; `doc` is shown in the dataset's info."""
    return tfds.features.Text(doc=doc)


class FaceBuilder(Builder, skip_registration=True):
    """Base class of the builders whose faces come from files that the user provides.

    Attributes:
        MODALITIES: the images that every example has.
        NORMALIZER: the normaliser of the NME that publications on this dataset report.
        THERMAL: what the thermal files hold.
        HOW_TO_GET: sentences that say where to get the files, and what --manual_dir must hold.
        EXPECTED: config -> split -> published number of examples.
        UNIONS: additional splits that join several stored ones, such as `full`: name -> the splits.
        SUBSETS: additional splits that hold the examples of a split for which a bool feature is true, such as
            `test_pose`: name -> (split, feature).
        OWN_SPLITS: whether the user defines the splits. If so, an image in two splits is an error; otherwise it is the
            publisher's choice and only a remark.
        remarks: sentences for the user; `parse` may add some.
        passed_over: keys of faces that `parse` found but left out; a file for --exclude may list them.
    """

    OPTIONS = options.FILES
    MODALITIES: tuple[str, ...] = ("rgb",)
    NORMALIZER = "outer_eyes"
    THERMAL = Thermal()
    LICENSE = CITATION = HOMEPAGE = ""
    HOW_TO_GET = ""
    EXPECTED: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    UNIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    SUBSETS: ClassVar[Mapping[str, tuple[str, str]]] = {}
    OWN_SPLITS = False
    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version.", "1.1.0": "`known` marks the landmarks that are labelled."}

    def __init__(self, options: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.options = dict(options or {})
        self.remarks: list[str] = []
        self.passed_over: set[str] = set()
        super().__init__(**kwargs)

    @classmethod
    def make(cls, config: str | None, data_dir: str | os.PathLike, **options: Any) -> Self:
        """See `Builder.make`."""
        names = [c.name for c in cls.BUILDER_CONFIGS]
        config = config or names[0]
        if config not in names:
            raise InputError(f"Unknown config {config!r} of {cls.name}; {did_you_mean(config, names)}")
        return cls(options, config=config, data_dir=data_dir, file_format="array_record")

    @abc.abstractmethod
    def parse(self, folder: pathlib.Path) -> dict[str, list[Face]]:
        """Reads the faces of every split from the label files; images are not read yet.

        Args:
            folder: --manual_dir. The dataset's files may lie in a folder inside it, which `tree.find` finds.

        Returns:
            Split -> faces.
        """

    def thermal(self) -> Thermal:
        """Returns what the thermal files of this config hold."""
        return self.THERMAL

    def extra_features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Returns the features of this dataset beyond the common ones."""
        return {}

    def notes(self) -> dict[str, Any]:
        """Returns facts for `info.metadata` that are needed when the built dataset is loaded."""
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
        points = f"{layout.name}; pixels (x, y), pixel centres at integers; NaN: unlabelled"
        features |= {
            "landmarks": tensor((layout.count, 2), np.float32, points),
            "known": tensor(
                (layout.count,), np.bool_, "False: this point has no label; its coordinates are a placeholder"
            ),
            "visible": tensor((layout.count,), np.bool_, "known, not marked as hidden, and inside the image"),
            "box": tensor((4,), np.float32, "x, y, w, h of the face in pixels"),
            "subject": text("the person; empty if the dataset does not name people"),
            "key": text("the image's path in the dataset, with #2 for its second face"),
        }
        return self.dataset_info_from_configs(
            description=type(self).__doc__,
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            license=self.LICENSE,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
            features=tfds.features.FeaturesDict(features | self.extra_features()),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        given = self.options.get("manual_dir")
        if not given:
            older = sorted(path.name for path in pathlib.Path(self.data_dir).parent.glob("[0-9]*.[0-9]*.[0-9]*"))
            hint = f" Version {older[-1]}, which is on disk, cannot be used any more." if older else ""
            raise InputError(f"{self.name} is not built, and its files are not here.{hint} {self.HOW_TO_GET}")
        folder = pathlib.Path(given).expanduser()
        if not folder.is_dir():
            raise InputError(f"--manual_dir={given} is not a folder. {self.HOW_TO_GET}")
        splits, remarks = self._usable(self._parsed(folder), folder)
        self.total = sum(map(len, splits.values()))
        if not self.total:
            advice = " ".join([*remarks, *self.remarks, self.HOW_TO_GET])
            raise InputError(f"{folder} holds no faces of {self.name}/{self.builder_config.name}. {advice}")
        faces = [face for mine in splits.values() for face in mine]
        how = {"layout": landmarks.get(self.LAYOUT), "thermal": self.thermal(), "measure": self.options.get("points")}
        how["doubted"] = self.OWN_SPLITS

        def examples(some: Sequence[Face]) -> Generator[dict[str, Any], None, None]:
            try:
                yield from resume.in_threads(lambda face: prepare.example(face, **how), some, cores.available())
            except face_labels.LabelError:
                if reason := prepare.reading(faces, how["layout"], how["measure"]) if self.OWN_SPLITS else "":
                    raise InputError(f"{reason} Nothing was built.") from None
                raise

        facts = (str(folder.resolve()), self.info.full_name, self.options, *map(_stamp, faces))
        stream = self._resumed(faces, examples, facts)
        settled = [flag for flag in ("points", "box_format") if self.options.get(flag)]
        tally = prepare.Tally(self.EXPECTED.get(self.builder_config.name), settled)
        last = list(splits)[-1]
        return {
            split: self._generate_examples(stream, split, len(mine), tally, remarks if split == last else None)
            for split, mine in splits.items()
        }

    def _parsed(self, folder: pathlib.Path) -> dict[str, list[Face]]:
        """Calls `parse`, and adds to messages about missing files where to get the dataset."""
        try:
            return self.parse(folder)
        except InputError as error:
            if isinstance(error.__context__, FileNotFoundError):
                raise InputError(f"{error} {self.HOW_TO_GET}") from None
            raise

    def _usable(self, splits: dict[str, list[Face]], folder: pathlib.Path) -> tuple[dict[str, list[Face]], list[str]]:
        """Returns the faces that remain after --exclude and --allow_missing, and remarks about the others."""
        remarks = []
        if self.options.get("exclude"):
            names = set(map(formats.composed, formats.read_lines(self.options["exclude"])))
            known = {face.key for mine in splits.values() for face in mine}
            unknown = sorted(names - known - self.passed_over)
            unknown = unknown and sorted({*unknown} - self._keys_of_other_configs(folder))
            if unknown:
                raise InputError(f"{self.options['exclude']} names {unknown[0]!r}, which is not a face of {self.name}.")
            splits = {split: [face for face in mine if face.key not in names] for split, mine in splits.items()}
            left, others = formats.counted(len(names & known), "face was", "faces were"), len(names - known)
            more = f"; {formats.counted(others, 'name in it is', 'names in it are')} not needed for this config"
            remarks.append(f"{left} left out by {self.options['exclude']}{more if others else ''}.")
        faces = [face for mine in splits.values() for face in mine]
        keys: set[str] = set()
        for face in faces:
            if face.key in keys:
                raise InputError(f"{face.key} occurs twice among the faces of {self.name}; remove one from the labels.")
            keys.add(face.key)
        lacking = prepare.missing_images(faces, self.MODALITIES)
        if lacking:
            shown = formats.listed(f"{key} lacks {what}" for key, what in lacking.items())
            verb = "lacks" if len(lacking) == 1 else "lack"
            message = f"{len(lacking):,} of {formats.counted(len(faces), 'face', 'faces')} {verb} an image: {shown}"
            hint = f" {self.HOW_TO_GET}" if len(lacking) == len(faces) else ""
            remarks.append(self._may_be_missing(message, len(lacking), folder, hint))
            splits = {split: [face for face in mine if face.key not in lacking] for split, mine in splits.items()}
        prepare.check_subjects(splits)
        return {split: mine for split, mine in splits.items() if mine}, remarks

    def leave_out_unlabelled(self, lacking: Mapping[str, str], folder: pathlib.Path) -> None:
        """Records images that `parse` left out because they have no labels, which only --allow_missing permits.

        Args:
            lacking: key of an image -> name of its missing label file.
            folder: the folder of the label files, for the message.

        Raises:
            InputError: there are such images, and --allow_missing is not given.
        """
        if lacking:
            shown = formats.listed(f"{key} lacks {name}" for key, name in lacking.items())
            message = f"{formats.counted(len(lacking), 'image has', 'images have')} no labels: {shown}"
            self.remarks.append(self._may_be_missing(message, len(lacking), folder))
            self.passed_over |= lacking.keys()

    def _may_be_missing(self, message: str, count: int, folder: pathlib.Path, hint: str = "") -> str:
        """Returns a remark if --allow_missing is given, and raises InputError otherwise."""
        what, were = ("it", "It was") if count == 1 else ("them", "They were")
        if self.options.get("allow_missing"):
            return f"{message}. {were} left out."
        raise InputError(f"{message}. Complete {folder}, or leave {what} out with --allow_missing.{hint}")

    def _keys_of_other_configs(self, folder: pathlib.Path) -> set[str]:
        """Finds the keys of faces of the other configs, because one file for --exclude serves all configs."""
        found: set[str] = set()
        for config in self.BUILDER_CONFIGS:
            if config.name != self.builder_config.name:
                with contextlib.suppress(InputError):  # the files of another config need not exist
                    other = self.make(config.name, self._data_dir_root, **self.options)
                    found |= {face.key for mine in other.parse(folder).values() for face in mine} | other.passed_over
        return found

    def _generate_examples(
        self, stream: Iterator[dict[str, Any]], split: str, count: int, tally: prepare.Tally, remarks: list[str] | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the next `count` examples of the stream.

        `remarks` is None except for the last split, which completes the dataset's metadata with them.
        """
        for k in range(count):
            item = next(stream)
            tally.add(split, item)
            images = {name: io.BytesIO(item[name].getvalue()) for name in item if isinstance(item[name], io.BytesIO)}
            yield f"{split}{k:09d}", item | images
            self.advance()
        if remarks is not None:
            if tally.duplicates and self.OWN_SPLITS:
                raise InputError(
                    f"{tally.describe_duplicates()} An image belongs to one split only; nothing was built."
                )
            if self.OWN_SPLITS and (reason := tally.refusal()):
                raise InputError(f"{reason} Nothing was built.")
            notes = self.notes()
            remarks = remarks + self.remarks + tally.remarks()
            facts = {"splits": tally.summary(), "remarks": remarks, "exclude": str(self.options.get("exclude") or "")}
            self.info.metadata.update(notes | facts)


def _stamp(face: Face) -> tuple:
    """Returns everything that the prepared example of a face depends on."""
    sources = [part for source in (face.rgb, face.thermal) for part in (source, *getattr(source, "args", ()))]
    files = [part for part in sources if isinstance(part, pathlib.Path)]  # also the arguments of a functools.partial
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    labels = (face.landmarks, face.known, face.visible, face.box)
    values = [None if value is None else np.asarray(value).tolist() for value in labels]
    return (face.key, face.subject, *states, *values, repr(face.extra))
