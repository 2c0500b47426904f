"""Finds the images of every pair in a user's folder, and the pair that a name in a label file refers to."""

from __future__ import annotations

import collections
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from mlcm_jax.errors import InputError
from mlcm_jax.images import SUFFIXES
from tfds_builders import formats, tree
from tfds_builders.formats import composed


def find_files(folder: pathlib.Path) -> list[str]:
    """Lists the paths of all files in a folder, relative to it, with forward slashes; hidden files are left out.

    Links to folders are followed, except those that lead back to a folder above them.
    """
    return sorted(_walk(folder, "", frozenset()))


def _walk(folder: pathlib.Path, head: str, above: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(folder / head)
    try:
        entries = list(os.scandir(real)) if real not in above else []
    except OSError:  # a folder that the user may not read
        return
    for entry in entries:
        if entry.name.startswith("."):  # such as .git; macOS adds files ._NAME
            continue
        if os.path.isdir(entry.path):
            yield from _walk(folder, f"{head}{entry.name}/", above | {real})
        else:
            yield head + entry.name


def match(paths: Iterable[str], glob: str, flag: str) -> dict[str, str]:
    """Finds the files that match a pattern: name -> path. The name is what the stars matched, joined by slashes.

    A star matches one or more characters other than a slash; all other characters match themselves.

    Args:
        paths: all paths in the user's folder.
        glob: the pattern.
        flag: the option that holds the pattern, for messages.

    Raises:
        InputError: a pattern without a star, or with ** or ?; two files with one name.
    """
    if "*" not in glob or "**" in glob or "?" in glob:
        raise InputError(
            f"--{flag}={glob} must hold a * for the pair's name, such as *_rgb.png; ** and ? are not supported."
        )
    pattern = re.compile("([^/]+)".join(map(re.escape, composed(glob).removeprefix("./").split("*"))), re.DOTALL)
    matches = [(pattern.fullmatch(composed(path)), path) for path in paths]
    return _unique([("/".join(one.groups()), path) for one, path in matches if one], f"--{flag}={glob}")


def by_stem(folder: pathlib.Path, endings: tuple[str, ...], without: Collection[pathlib.Path] = ()) -> dict[str, str]:
    """Finds the files with one of the endings: name -> path in the folder. The name is the path without its ending.

    Args:
        folder: the folder.
        endings: in small letters, with their dots.
        without: files that are left out.

    Raises:
        InputError: two files with one name.
    """
    matches = [path for path in find_files(folder) if path.lower().endswith(endings) and folder / path not in without]
    return _unique([(path.rpartition(".")[0], path) for path in matches], f"The folder {folder}")


def find_images(
    folder: pathlib.Path, rgb_glob: str | None = None, thermal_glob: str | None = None
) -> dict[str, dict[str, str]]:
    """Finds the images of every pair: modality -> name -> path in the folder.

    Args:
        folder: the user's folder.
        rgb_glob: the pattern of the RGB images. Without it, the images in the folder `rgb` are taken if `thermal_glob`
            is None too, and no RGB images otherwise.
        thermal_glob: the same for thermal images.

    Raises:
        InputError: neither patterns nor folders; a pattern that matches no file; a folder without images.
    """
    found: dict[str, dict[str, str]] = {}
    for modality, glob in (("rgb", rgb_glob), ("thermal", thermal_glob)):
        if glob:
            found[modality] = match(find_files(folder), glob, f"{modality}_glob")
            if not found[modality]:
                raise InputError(f"--{modality}_glob={glob} matches no file in {folder}.")
        elif not (rgb_glob or thermal_glob) and (place := tree.locate(folder, modality)):
            stems = by_stem(place, SUFFIXES)
            found[modality] = {name: f"{place.name}/{path}" for name, path in stems.items()}
            if not found[modality]:
                raise InputError(f"{place} holds no images ({', '.join(SUFFIXES)}); fill or remove it.")
    if not found:
        inner = [path for path in tree.subfolders(folder) if tree.locate(path, "rgb") or tree.locate(path, "thermal")]
        hint = f"give --manual_dir={inner[0]}, which has one" if inner else "create them"
        raise InputError(
            f"{folder} has neither a folder rgb nor a folder thermal; {hint}, or say which files are which with "
            "--rgb_glob='*_rgb.png' --thermal_glob='*_thermal.png'."
        )
    return found


class Names:
    """Maps a name as written in a label file or list to the pair that it refers to: `names(word, source)`.

    The word may be the pair's name, an image's path in the dataset, that path without its first folders or with
    additional ones before it (as annotation tools write them), or any of these with another ending. A word that refers
    to no image is returned unchanged, and will be reported as a face without images.

    Args:
        images: modality -> name -> path, from `find_images`.
        folder: the user's folder.
    """

    def __init__(self, images: Mapping[str, Mapping[str, str]], folder: pathlib.Path) -> None:
        self._folder = folder
        means: dict[str, set[str]] = collections.defaultdict(set)
        for modality, files in images.items():
            for name, path in files.items():
                head, _, tail = path.partition("/")
                for alias in map(composed, (path, tail if head.lower() == modality else path)):
                    means[alias].add(name)
                    means[_stem(alias)].add(name)
        self._means = {alias: next(iter(names)) for alias, names in means.items() if len(names) == 1}
        self._means |= {name: name for files in images.values() for name in files}

    def known(self, name: str) -> bool:
        """Whether a name that a call returned has an image; the name may end in `#2` for the image's second face."""
        return any(self._means.get(word) == word for word in (name, name.partition("#")[0]))

    def __call__(self, word: str, source: str | os.PathLike) -> str:
        """Returns the name of a pair; raises InputError, which names `source`, for a path outside the folder."""
        word = composed(str(word).strip())
        formats.inside(self._folder, word, source)
        parts = word.replace("\\", "/").removeprefix("./").split("/")
        for k in range(len(parts)):
            tail = "/".join(parts[k:])
            if tail in self._means or _stem(tail) in self._means:
                return self._means.get(tail) or self._means[_stem(tail)]
        return word


def _stem(path: str) -> str:
    head, dot, ending = path.rpartition(".")
    return head if dot and head and "/" not in ending else path


def _unique(found: list[tuple[str, str]], where: str) -> dict[str, str]:
    result: dict[str, str] = {}
    for name, path in ((composed(name), path) for name, path in found):
        if name in result:
            raise InputError(f"{where} has two files for the name {name}: {result[name]} and {path}; remove one.")
        result[name] = path
    return result
