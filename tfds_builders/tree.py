"""Finds a dataset's files in --manual_dir, also inside the archive's own folder and under names in another case."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from mlcm_jax.errors import InputError
from tfds_builders import formats


def locate(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns the path of `name`, such as "helen/trainset", in `folder`, ignoring case; None if it does not exist.

    Composed and decomposed letters are the same too.

    Raises:
        InputError: two files or folders that differ from `name` only in case.
    """
    path = folder
    for part in name.split("/"):
        if (path / part).exists():
            path /= part
            continue
        same = sorted(found for found in _entries(path) if _folded(found.name) == _folded(part))
        if not same:
            return None
        if len(same) > 1:
            raise InputError(f"{same[0]} and {same[1]} could both be {name}; remove one.")
        path = same[0]
    return path


def find(
    folder: pathlib.Path, names: Sequence[str], how_to_get: str, *, partly: bool = False
) -> dict[str, pathlib.Path]:
    """Finds files and folders of a dataset in --manual_dir or in one folder directly below it.

    The folder that holds most of the names is used; on a tie, `folder` itself comes first.

    Args:
        folder: --manual_dir.
        names: paths with /, relative to the dataset's top folder.
        how_to_get: sentences that end the message if something is missing.
        partly: whether to accept a folder that holds only some of the names.

    Returns:
        Name -> path, for the names that were found.

    Raises:
        InputError: no folder holds any of the names, some are missing although `partly` is False, or two folders below
            `folder` hold equally many.
    """
    found = {folder: _held(folder, names)}
    if len(found[folder]) < len(names):
        found |= {path: _held(path, names) for path in subfolders(folder)}
    most = max(map(len, found.values()))
    best = [place for place in found if len(found[place]) == most]
    if not most:
        raise InputError(f"Neither {folder} nor a folder in it holds any of: {formats.listed(names)}. {how_to_get}")
    if folder not in best and len(best) > 1:
        raise InputError(
            f"{best[0]} and {best[1]} both hold {formats.listed(found[best[0]])}; give --manual_dir one of them."
        )
    missing = [name for name in names if name not in found[best[0]]]
    if missing and not partly:
        raise InputError(f"{best[0]} has no {formats.listed(missing)}. {how_to_get}")
    return found[best[0]]


def files(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Lists the files that match a pattern such as "**/*.png", sorted, without hidden ones (macOS adds `._` files)."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the folders directly below a folder, sorted."""
    return sorted(path for path in _entries(folder) if path.is_dir())


def _folded(name: str) -> str:
    return formats.composed(name).lower()


def _held(folder: pathlib.Path, names: Sequence[str]) -> dict[str, pathlib.Path]:
    return {name: path for name in names if (path := locate(folder, name))}


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists a folder, without hidden entries and the `__MACOSX` folders that macOS puts into archives."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
