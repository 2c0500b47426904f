"""TFDS builder of `paired_folder`: the user's own RGB-thermal pairs, only thermal, or only RGB, in any layout."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow_datasets as tfds

from mlcm_jax import landmarks, layout_file
from mlcm_jax.errors import InputError, did_you_mean
from tfds_builders import faces, formats, options, resume, tree
from tfds_builders.measures import MEASURES, check_form
from tfds_builders.paired_folder import folder as folders
from tfds_builders.paired_folder import labels as label_files
from tfds_builders.paired_folder import sources, splits, thermal_kind
from tfds_builders.paired_folder.label import Label
from tfds_builders.paired_folder.named_points import UNSAID, Wanted


class PairedFolder(faces.FaceBuilder):
    """The user's own images and landmarks."""

    name = "paired_folder"
    BUILDER_CONFIGS = faces.configs(default="a folder of the user's; any other name makes another dataset")
    OPTIONS = options.FILES | options.PAIRED_FOLDER
    LAYOUT = "ibug68"
    MODALITIES = ("rgb", "thermal")
    OWN_SPLITS = True
    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES: ClassVar = faces.FaceBuilder.RELEASE_NOTES | {"1.2.0": "Boxes of ibug51 are those of whole faces."}
    LICENSE = "the user's"
    HOW_TO_GET = (
        "Give --manual_dir a folder with rgb/NAME.png, thermal/NAME.png and landmarks/NAME.pts (or .json, .csv, .txt); "
        "for other names, use --rgb_glob, --thermal_glob and --labels."
    )

    def __init__(self, options: Mapping[str, Any], facts: Mapping[str, Any], **kwargs: Any) -> None:
        self.facts = dict(facts)
        if "layout" in facts:
            self.LAYOUT, self.MODALITIES = facts["layout"], tuple(facts["modalities"])
            self.THERMAL = facts["thermal"]
        super().__init__(options, **kwargs)
        self.remarks = list(facts.get("remarks", ()))

    @classmethod
    def make(cls, config: str | None, data_dir: str | os.PathLike, **options: Any) -> Self:
        """Constructs the builder of a user's dataset, which needs no options once it is built.

        Args:
            config: the user's name for the dataset: letters, digits, _ and -; None means "default".
            data_dir: the folder of all built datasets.
            **options: some of `OPTIONS`, which `tfds_builders.options` describes.

        Raises:
            InputError: an error in an option or a file, or options that differ from those of the built dataset.
        """
        name = config or "default"
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name, re.ASCII):
            raise InputError(
                f"The name of the dataset, paired_folder/{name[:80]}, may hold letters, digits, _ and - only."
            )
        given = _normalised(options)
        built = pathlib.Path(data_dir) / cls.name / name / str(cls.VERSION)
        facts: dict[str, Any] = {}
        if built.is_dir():
            facts = _read_built(built, given, name)
        elif given["manual_dir"]:
            facts = _read_folder(given)
        default = cls.BUILDER_CONFIGS[0]
        own = tfds.core.BuilderConfig(name=name, description="the user's")
        return cls(
            given | {"stamp": facts.get("stamp")},
            facts,
            config=default if name == default.name else own,
            data_dir=data_dir,
            file_format="array_record",
        )

    def extra_features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Adds the confidence of a label, whether a model made it, and the pair's name."""
        count = landmarks.get(self.LAYOUT).count
        return {
            "confidence": faces.tensor(
                (count,), np.float32, "0 to 1, from the label, where 1 is the default; 0: this point has no label"
            ),
            "pseudo": faces.tensor((), np.bool_, "the landmarks were set by a model"),
            "name": faces.text("the pair's name, which is also that of its label file"),
        }

    def notes(self) -> dict[str, Any]:
        """Returns what loading the dataset without options needs, and the number of images in no list."""
        return {
            "layout": layout_file.layout_to_dict(landmarks.get(self.LAYOUT)),
            "modalities": list(self.MODALITIES),
            "thermal": self.THERMAL.kind,
            "options": self.facts["options"],
            "not_listed": self.facts["not_listed"],
        }

    def parse(self, folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        """Sorts the faces that `make` found into train, val, test and unlabelled."""
        images, found, boxes = (self.facts[key] for key in ("images", "labels", "boxes"))
        subjects = self.facts["subjects"]
        by_name: dict[str, list[faces.Face]] = {}
        for name in sorted({*found, *(name for files in images.values() for name in files)}):
            mine = found.get(name) or [Label()]
            # An annotation without points counts as an unlabelled face only if the image has no labelled ones.
            mine = [label for label in mine if label.landmarks is not None] or mine[:1]
            files = {modality: folder / paths[name] for modality, paths in images.items() if name in paths}
            path = next((images[m][name] for m in ("thermal", "rgb") if m in files), name)
            by_name[name] = []
            for k, label in enumerate(mine):
                mark = f"#{k + 1}" if k else ""
                count = landmarks.get(self.LAYOUT).count
                stated = label.sized and f"{name}{mark}" not in boxes
                confidence = np.zeros(count, np.float32) if label.confidence is None else label.confidence
                face = faces.Face(
                    formats.composed(f"{path}{mark}"),
                    **files,
                    stated=label.size,
                    landmarks=label.landmarks,
                    known=label.known,
                    visible=label.visible,
                    box=boxes.get(f"{name}{mark}", label.box),
                    form="" if stated else self.facts["options"]["box_format"] or "xywh",
                    first=label.first,
                    subject=subjects.get(f"{name}{mark}") or subjects.get(name) or label.subject,
                    extra={"confidence": confidence, "pseudo": label.pseudo, "name": name},
                )
                by_name[name].append(face)
        return self._split(by_name, folder)

    def _keys_of_other_configs(self, folder: pathlib.Path) -> set[str]:
        """Returns no keys, because other configs are other datasets of the user's."""
        return set()

    def _split(self, by_name: dict[str, list[faces.Face]], folder: pathlib.Path) -> dict[str, list[faces.Face]]:
        lists = {split: path for split, name in faces.LISTS.items() if (path := tree.locate(folder, name))}
        shares = self.facts["options"]["splits"]
        if lists and shares:
            raise InputError(
                f"--splits={shares} and {next(iter(lists.values()))} exclude each other; drop one of them."
            )
        labelled = {name: some for name, some in by_name.items() if some[0].landmarks is not None}
        mine = self._listed(by_name, lists) if lists else splits.by_subject(labelled, splits.parse_shares(shares))
        known = {face.subject for some in mine.values() for face in some}
        mine["unlabelled"] = [some[0] for name, some in by_name.items() if name not in labelled]
        for face in mine["unlabelled"]:
            # A person may be both in a split and unlabelled, because labels made later put the image into that split.
            face.subject = "" if face.subject in known else face.subject
        return mine

    def _listed(
        self, by_name: dict[str, list[faces.Face]], lists: Mapping[str, pathlib.Path]
    ) -> dict[str, list[faces.Face]]:
        """Returns the labelled faces that train.txt, val.txt and test.txt name."""
        resolve = folders.Names(self.facts["images"], pathlib.Path(self.facts["options"]["manual_dir"]))
        place: dict[str, str] = {}
        mine: dict[str, list[faces.Face]] = {}
        for split, path in lists.items():
            mine[split] = []
            for word in formats.read_lines(path):
                name = resolve(word, path)
                if name in place:
                    raise InputError(f"{path} names {word!r}, which is in the split {place[name]} already.")
                place[name] = split
                some = by_name.setdefault(name, [faces.Face(name)])  # a missing image is reported later
                mine[split] += [face for face in some if face.landmarks is not None]
        left = [some for name, some in by_name.items() if some[0].landmarks is not None and name not in place]
        self.facts["not_listed"] = len(left)
        self.passed_over = {face.key for some in left for face in some}
        return mine


def _normalised(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all options in the form that a built dataset keeps in its metadata; None: not given."""
    folder = given.get("manual_dir")
    made: dict[str, Any] = {
        "manual_dir": str(pathlib.Path(folder).expanduser().resolve()) if folder else None,
        "allow_missing": bool(given.get("allow_missing")),
    }
    texts = {name: given.get(name) for name in PairedFolder.OPTIONS if name not in made}
    return made | {name: str(value) if value not in (None, "") else None for name, value in texts.items()}


def _read_built(built: pathlib.Path, options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Reads the metadata of a built dataset; raises InputError if it was built with other options than are given."""
    try:
        notes = json.loads((built / "metadata.json").read_text(encoding="utf-8"))
        layout, modalities, kind = notes["layout"], notes["modalities"], notes["thermal"]
        then = notes["options"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"paired_folder/{name} in {built} is damaged; delete that folder and build it again."
        ) from None
    for flag, value in options.items():
        if value and value != then.get(flag):
            was = f"--{flag}={then[flag]}" if then.get(flag) else f"no --{flag}"
            raise InputError(
                f"paired_folder/{name} is built already, with {was}; to use --{flag}={value}, delete {built}, or build "
                "under another name, paired_folder/NAME."
            )
    known = landmarks.LAYOUTS.get(layout["name"])
    layout = known.name if known else layout_file.layout_from_dict(layout, where=f"The layout in {built}")
    return {"layout": layout, "modalities": modalities, "thermal": faces.Thermal(kind), "options": then}


def _read_folder(options: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the user's folder: images, labels, boxes, subjects, and what the features depend on."""
    folder = pathlib.Path(options["manual_dir"])
    if not folder.is_dir():
        raise InputError(f"--manual_dir={folder} is not a folder. {PairedFolder.HOW_TO_GET}")
    images = folders.find_images(folder, options["rgb_glob"], options["thermal_glob"])
    resolve = folders.Names(images, folder)
    wanted = _wanted(options["layout"], folder)
    files = {folder / path for paths in images.values() for path in paths.values()}
    labels = sources.read(folder, options, files, resolve, wanted)
    found, remarks = labels.faces, labels.remarks
    labelled = next((label for some in found.values() for label in some if label.landmarks is not None), None)
    layout = _layout(options["layout"], labelled, folder)
    without = set(map(formats.composed, formats.read_lines(options["exclude"]))) if options["exclude"] else set()
    first = next((path for path in images.get("thermal", {}).values() if formats.composed(path) not in without), None)
    thermal = faces.Thermal()
    if first:
        palette = None
        if options["colormap"]:
            palette = thermal_kind.read_palette(options["colormap"], folder)
        given = {name: options[name] for name in ("colormap", "celsius", "polarity")}
        thermal = thermal_kind.of_image(folder / first, palette, **given)
    for flag in ("colormap", "celsius", "polarity"):
        if options[flag] and "thermal" not in images:
            raise InputError(f"--{flag}={options[flag]} is for thermal images, and {folder} has none.")
    if options["points"] and options["points"] not in MEASURES:
        raise InputError(f"--points={options['points']} is unknown; {did_you_mean(options['points'], MEASURES)}")
    check_form(options["box_format"] or "xywh")
    place = sources.locate(folder, options["boxes"], ("boxes.csv", "boxes.json"), "boxes")
    boxes = label_files.read_boxes(place, resolve) if place else {}
    subjects = _subjects(tree.locate(folder, "subjects.csv"), resolve)
    strays = {
        words: [name for name in some if not resolve.known(name)]
        for words, some in ((("box", "boxes"), boxes), (("subject", "subjects"), subjects))
    }
    state = (
        thermal.kind,
        thermal.inverted,
        thermal.scale,
        thermal.offset,
        None if thermal.palette is None else thermal.palette.tolist(),
    )
    named = {name for files in images.values() for name in files}
    if named - {name for name, some in found.items() if any(label.landmarks is not None for label in some)}:
        read = files | {*labels.files, *([place] if place else [])}
        remarks += sources.unread(folder, read, [options[flag] for flag in ("exclude", "layout", "colormap")])
    return {
        "images": images,
        "labels": found,
        "boxes": boxes,
        "subjects": subjects,
        "remarks": remarks
        + [
            f"{formats.counted(len(names), f'{what} has a name', f'{many} have names')} that no image has: "
            f"{formats.listed(map(repr, names), 3)}. Check the spelling."
            for (what, many), names in strays.items()
            if names
        ],
        "layout": layout,
        "modalities": [modality for modality in ("rgb", "thermal") if modality in images],
        "thermal": thermal,
        "options": dict(options),
        "not_listed": 0,
        "stamp": resume.fingerprint(*state),  # because a palette file may change between builds
    }


def _wanted(given: str | None, folder: pathlib.Path) -> Wanted:
    """Returns what --layout says about the points, which orders those that a tool stores by name."""
    if not given:
        return UNSAID
    count = landmarks.get(_layout(given, None, folder)).count
    if not layout_file.is_file(given):
        return Wanted(count)
    return Wanted(count, layout_file.read_names(sources.locate(folder, given, (), "layout")))


def _layout(given: str | None, first: Label | None, folder: pathlib.Path) -> str | landmarks.Layout:
    """Returns the layout that the user gave, or else the one that the points of the first label usually have."""
    if given and layout_file.is_file(given):
        return layout_file.read_layout(sources.locate(folder, given, (), "layout"))
    if given and not re.fullmatch(r"[0-9]{1,6}", given, re.ASCII):
        try:
            return landmarks.get(given).name
        except InputError as error:
            raise InputError(f"--layout={given}: {error} Or give a .yaml file.") from None
    if given:
        return layout_file.by_count(int(given), f"--layout={given}")
    if first is None:
        return "ibug68"
    count = len(first.landmarks)
    if first.tool and count not in layout_file.FACES:
        raise InputError(
            f"The file {first.tool} has {formats.counted(count, 'point', 'points')} for each face, which may be any; "
            "say which with --layout, a name such as tfw5 or a YAML file of your own."
        )
    return layout_file.by_count(count)


def _subjects(path: pathlib.Path | None, resolve: folders.Names) -> dict[str, str]:
    if path is None:
        return {}
    rows = [(row["name"].partition("#"), row["subject"]) for row in formats.read_table(path, ("name", "subject"))]
    return {f"{resolve(head, path)}{sign}{number}": who for (head, sign, number), who in rows}
