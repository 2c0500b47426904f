"""Layouts that users define: from a YAML file or a dict to `landmarks.Layout`, and back to plain values."""

from __future__ import annotations

import itertools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from mlcm_jax import files, landmarks
from mlcm_jax.errors import InputError, did_you_mean

_KEYS = ("name", "count", "names", "flip", "eye_corners", "pupils", "groups", "edges")
_EYES = {"right_eye", "left_eye"}
_MOST = 5000  # More points than this are a mistake, and would only fill up the memory.

# Several layouts may have the same number of points; these are the ones that people mean by the number.
USUAL = {68: "ibug68", 54: "sf_tl54", 70: "tfake70", 98: "wflw98", 29: "cofw29", 5: "tfw5"}

# So many points mean these landmarks in a file of any tool, which may hold whatever has points; five may be anything.
FACES = frozenset(USUAL) - {5}


def is_file(layout: str | os.PathLike | landmarks.Layout) -> bool:
    """Whether a layout is given as a user's own YAML file, and not by its name."""
    return not isinstance(layout, landmarks.Layout) and os.fspath(layout).lower().endswith((".yaml", ".yml"))


def find(layout: str | os.PathLike | landmarks.Layout) -> landmarks.Layout:
    """The layout of a name, or in a user's own YAML file; a `Layout` is returned as it is.

    Raises:
        InputError: an unknown name, or a file that does not describe a layout.
    """
    return read_layout(layout) if is_file(layout) else landmarks.get(layout)


def read_layout(path: str | os.PathLike) -> landmarks.Layout:
    """The layout in a YAML file, see `layout_from_dict`; without the key `name` it is named after the file.

    Raises:
        InputError: a file that is missing or not YAML, or content that `layout_from_dict` refuses.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", pathlib.Path(path).stem)
    return layout_from_dict({"name": stem} | _content(path), where=f"The layout {path}")


def read_names(path: str | os.PathLike) -> tuple[str, ...] | None:
    """The names of the points in a YAML file that `read_layout` accepts, in order; None if it names none."""
    names = _content(path).get("names")
    return tuple(_names(names, f"The layout {path}")) if names else None


def _content(path: str | os.PathLike) -> dict[str, Any]:
    """The keys and values of a YAML file."""
    text = files.read_text(path)
    try:
        # BaseLoader keeps every scalar as text, so that a point called `no` or `y` is not read as a truth value.
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"The layout {path} is not YAML: {' '.join(str(error).split())[:200]}.") from None
    if not isinstance(content, dict):
        raise InputError(f"The layout {path} must hold keys such as count and flip, not a bare {_kind(content)}.")
    return content


def layout_from_dict(content: Mapping[str, Any], *, where: str = "The layout") -> landmarks.Layout:
    """A layout from plain values. Points are given by 0-based index, or by name where there are `names`.

    Args:
        content: the keys
            name: letters, digits, _ and -, and not the name of a layout of this package (optional);
            count: number of points, or names: their names, or both;
            flip: pairs of points that change places in a mirrored image; [] where there are none;
            eye_corners: outer corner of the subject's right eye, then of the left one (optional);
            pupils: two lists of points whose means are the centres of the right and the left eye (optional);
            groups: part of the face -> points (optional; right_eye, left_eye and outer_lips are used to check that the
            eyes lie above the mouth);
            edges: pairs of points to draw as lines (optional).
        where: the first words of every error message.

    Raises:
        InputError: a key that is unknown or missing, or whose value has the wrong form; a point that does not exist;
            flip pairs that share a point, or do not exchange the right and the left eye.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{where} must be a mapping, not a {_kind(content)}.")
    for key in content:
        if key not in _KEYS:
            raise InputError(f"{where} has the key {str(key)[:40]!r}; {did_you_mean(key, _KEYS)}")
    given = {key: value for key, value in content.items() if value not in (None, "", "null", "~")}
    name = given.get("name", "own")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) or name in landmarks.LAYOUTS:
        raise InputError(
            f"{where} has the name {str(name)[:70]!r}; use letters, digits, _ and -, and not a known layout's name."
        )
    names = _names(given["names"], where) if "names" in given else None
    count = _count(given.get("count", len(names) if names else None), names, where)
    if "flip" not in given:
        raise InputError(
            f"{where} lacks flip, the pairs of points that change places in a mirror; write [] if there are none."
        )

    def points(value: Any, key: str, length: int | None = None) -> tuple[int, ...]:
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            what = f"{length} points" if length else "a list of points"
            raise InputError(f"{where} has {key}: {str(value)[:60]}; it must be {what}.")
        return tuple(_point(item, names, count, f"{where}, {key},") for item in value)

    def pairs(key: str) -> tuple[tuple[int, int], ...]:
        rows = given.get(key, [])
        if not isinstance(rows, list | tuple):
            raise InputError(f"{where} has {key}: {str(rows)[:60]}; it must be a list of pairs.")
        return tuple(points(row, key, 2) for row in rows)

    flip = pairs("flip")
    shared = [point for point in itertools.chain(*flip) if sum(pair.count(point) for pair in flip) > 1]
    if shared:
        raise InputError(f"{where} has point {shared[0]} twice among the flip pairs; a point has one mirror image.")
    mirror = landmarks.flip_permutation(count, flip)
    corners = points(given["eye_corners"], "eye_corners", 2) if "eye_corners" in given else None
    pupils = None
    if "pupils" in given:
        if not isinstance(given["pupils"], list | tuple) or len(given["pupils"]) != 2:
            raise InputError(f"{where} has pupils that are not two lists, one for the right and one for the left eye.")
        pupils = tuple(points(side, "pupils") for side in given["pupils"])
    groups = given.get("groups", {})
    if not isinstance(groups, Mapping):
        raise InputError(f"{where} has groups: {str(groups)[:60]}; it must map parts of the face to their points.")
    groups = {str(part): points(members, f"groups {str(part)[:40]}") for part, members in groups.items()}
    empty = [part for part, members in [*groups.items(), *(("pupils", side) for side in pupils or ())] if not members]
    if empty:
        raise InputError(f"{where} has no points in {empty[0]}.")
    eyes = [("eye_corners", [corners[:1], corners[1:]])] if corners else []
    eyes += [("pupils", pupils)] if pupils else []
    eyes += [("right_eye and left_eye", (groups["right_eye"], groups["left_eye"]))] if groups.keys() >= _EYES else []
    for key, (right, left) in eyes:
        if {int(mirror[point]) for point in right} != set(left):
            raise InputError(f"{where} has {key} that are not each other's mirror images according to its flip pairs.")
    return landmarks.Layout(name, count, groups, mirror, corners, pupils, pairs("edges"))


def layout_to_dict(layout: landmarks.Layout) -> dict[str, Any]:
    """Plain values that fit JSON, from which `layout_from_dict` makes the same layout; names of points are lost."""
    flip = [[i, int(j)] for i, j in enumerate(layout.flip) if i < j]
    plain = {"name": layout.name, "count": layout.count, "flip": flip}
    plain["groups"] = {part: list(members) for part, members in layout.groups.items()}
    plain["edges"] = [list(edge) for edge in layout.edges]
    plain["eye_corners"] = list(layout.eye_corners) if layout.eye_corners else None
    plain["pupils"] = [list(side) for side in layout.pupils] if layout.pupils else None
    return plain


def by_count(count: int, option: str = "") -> str:
    """The name of the layout that a number of points usually means.

    Args:
        count: the number of points.
        option: the option in which the user gave it, or "" if it was counted in a label; used in the message.

    Raises:
        InputError: no layout has that many points, or several do and none is the usual one.
    """
    fits = [layout.name for layout in landmarks.LAYOUTS.values() if layout.count == count]
    # Nobody's labels are in common17, which this package picks from other layouts; 17 points are COCO's body, say.
    fits = fits if option else [name for name in fits if name != "common17"]
    if count in USUAL or len(fits) == 1:
        return USUAL.get(count) or fits[0]
    what = f"{option} is" if option else f"The first label has {count} points, which is"
    known = f"one of {', '.join(fits)}; say which with --layout=NAME" if fits else "no known layout"
    raise InputError(f"{what} {known}; a layout of your own goes into --layout=FILE.yaml.")


def _names(value: Any, where: str) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item.strip() for item in value):
        raise InputError(f"{where} has names that are not a list of words.")
    names = [item.strip() for item in value]
    twice = [name for name in names if names.count(name) > 1] if len(names) <= _MOST else []
    if twice:
        raise InputError(f"{where} has two points with the name {twice[0][:40]!r}.")
    digits = [name for name in names if _integer(name) is not None]
    if digits:
        raise InputError(f"{where} names a point {digits[0]!r}, which would be mistaken for an index.")
    return names


def _count(value: Any, names: list[str] | None, where: str) -> int:
    count = _integer(value)
    if value is None or count is None or not 1 <= count <= _MOST:
        raise InputError(f"{where} needs count, a number of points from 1 to {_MOST}, or names.")
    if names is not None and len(names) != count:
        raise InputError(f"{where} has {len(names)} names for {count} points.")
    return count


def _point(value: Any, names: list[str] | None, count: int, where: str) -> int:
    if isinstance(value, str) and names and value.strip() in names:
        return names.index(value.strip())
    index = _integer(value)
    if index is None:
        raise InputError(
            f"{where} refers to {str(value)[:40]!r}, which is no point's index{' or name' if names else ''}."
        )
    if not 0 <= index < count:
        raise InputError(f"{where} refers to point {index}; points run from 0 to {count - 1}.")
    return index


def _integer(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip(), re.ASCII):
        return int(value)
    return None


def _kind(value: Any) -> str:
    """The name of the type of a value in the terms of YAML."""
    return {str: "text", list: "list", type(None): "null"}.get(type(value), "value")
