"""Finds a user's label files, reads them, and names those that nobody read."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Collection, Mapping, Sequence

from mlcm_jax.errors import InputError
from tfds_builders import faces, formats, tree
from tfds_builders.paired_folder import cvat, label_tables
from tfds_builders.paired_folder import folder as folders
from tfds_builders.paired_folder import labels as label_files
from tfds_builders.paired_folder.label import Label
from tfds_builders.paired_folder.named_points import Wanted

_LIKE_LABELS = (
    ".asf", ".csv", ".json", ".jsonl", ".land", ".ljson", ".lms", ".mat", ".npy", ".npz", ".ods", ".parquet", ".pkl",
    ".pts", ".tps", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml",
)  # fmt: skip
_OTHERS = ("boxes.csv", "boxes.json", "subjects.csv", *faces.LISTS.values())  # files with another meaning


@dataclasses.dataclass(eq=False)
class Found:
    """The labels of a user's folder.

    Attributes:
        faces: the pair's name -> its faces, from the first source that labels it.
        remarks: sentences for the user.
        files: the files that were read.
    """

    faces: dict[str, list[Label]] = dataclasses.field(default_factory=dict)
    remarks: list[str] = dataclasses.field(default_factory=list)
    files: list[pathlib.Path] = dataclasses.field(default_factory=list)


def read(
    folder: pathlib.Path,
    options: Mapping[str, str | None],
    images: Collection[pathlib.Path],
    resolve: folders.Names,
    wanted: Wanted,
) -> Found:
    """Reads all labels.

    Args:
        folder: the user's folder.
        options: `labels`, which names the sources (None: the folder `landmarks`, or else the only file of labels in
            `folder`).
        images: the files of the images, which are no labels, not even arrays in a folder of labels.
        resolve: maps a name that a label file writes to the pair's name.
        wanted: what the user said about the layout.

    Raises:
        InputError: an error in a file, or several files without a word about which to use.
    """
    found = Found()
    given = options["labels"]
    for source in [word.strip() for word in given.split(",")] if given else _usual(folder):
        paths = _paths(folder, source, images)
        if isinstance(paths, pathlib.Path):
            labelled, remarks = label_files.read_all(paths, resolve, wanted)
            found.files.append(paths)
        else:
            labelled, remarks = label_files.read_each(paths, resolve, wanted)
            found.files += paths.values()
        found.remarks += remarks
        for name, some in labelled.items():
            if all(label.landmarks is None for label in found.faces.get(name, [])):
                found.faces[name] = some
    return found


def unread(folder: pathlib.Path, read: Collection[pathlib.Path], options: Sequence[str | None]) -> list[str]:
    """Returns a remark about files that look like labels and were not read, for a folder with unlabelled images.

    Args:
        folder: the user's folder.
        read: the files that were read.
        options: the files, or other values, of the options that name no labels.
    """
    known = {path.resolve() for path in read}
    for value in filter(None, options):
        known |= {path.resolve() for path in (folder / value, pathlib.Path(value).expanduser()) if path.exists()}
    others = [
        path
        for path in folders.find_files(folder)
        if path.lower().endswith(_LIKE_LABELS)
        and path.lower() not in _OTHERS
        and (folder / path).resolve() not in known
        and not (folder / path).with_name("dataset_info.json").exists()  # a built dataset
    ]
    if not others:
        return []
    count = formats.counted(len(others), "file that may hold some was", "files that may hold some were")
    forms = ", ".join(ending for ending in label_files.ENDINGS if ending != ".xml")
    return [
        f"Some images have no landmarks, and {count} not read: {formats.listed(others, 10)}. Known are landmarks/NAME"
        f"{forms} and one JSON, XML or CSV file for all images; name others by --labels."
    ]


def locate(folder: pathlib.Path, given: str | None, usual: Sequence[str], flag: str) -> pathlib.Path | None:
    """Returns the file that an option names, in the user's folder or elsewhere; without it, the usual file or None."""
    if given:
        for path in (folder / pathlib.Path(given).expanduser(), pathlib.Path(given).expanduser()):
            if path.exists():
                return path
        if not pathlib.Path(given).is_absolute() and (path := tree.locate(folder, given)):  # spelt in another way
            return path
        raise InputError(f"--{flag}={given} exists neither in {folder} nor relative to the working directory.")
    return next((path for name in usual if (path := tree.locate(folder, name))), None)


def _usual(folder: pathlib.Path) -> list[str]:
    """Returns the source that is read without --labels, or none; raises InputError if there are several."""
    place = tree.locate(folder, "landmarks")
    names = [place.name] if place else []
    for path in tree.files(folder, "*"):
        ending = path.suffix.lower()
        if path.name.lower() in _OTHERS or not path.is_file():
            continue
        if (
            ending == ".json"
            or (ending == ".xml" and cvat.is_cvat(path))
            or (ending in (".csv", ".tsv") and label_tables.is_table(path))
        ):
            names.append(path.name)
    if len(names) > 1:
        raise InputError(
            f"{folder} has {names[0]} and {names[1]}; name the one to use with --labels, or both with "
            f"--labels={names[0]},{names[1]}."
        )
    return names


def _paths(
    folder: pathlib.Path, source: str, images: Collection[pathlib.Path]
) -> pathlib.Path | Mapping[str, pathlib.Path]:
    """Returns the file of all images that a source names, or the files of single images by what their name says."""
    if "*" in source:
        paths = folders.match(folders.find_files(folder), source, "labels")
        if not paths:
            raise InputError(f"--labels={source} matches no file in {folder}.")
        return {word: folder / path for word, path in paths.items()}
    place = locate(folder, source, (), "labels")
    if place.is_dir():
        paths = folders.by_stem(place, label_files.ENDINGS, images)
        return {word: place / path for word, path in paths.items()}
    return place
