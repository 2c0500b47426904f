"""Types of the values that users give: whether a value fits a type, and what the type is called in messages."""

import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

_NAMES = {
    int: ("an integer", "integers"),
    float: ("a finite number", "finite numbers"),
    bool: ("True or False", "truth values"),
    str: ("a string", "strings"),
    dict: ("a dict", "dicts"),
    type(None): ("None", "None"),
}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value fits a type; an int is accepted for a float, and a list for a tuple.

    Args:
        value: what the user gave.
        kind: a class, `Literal`, `tuple[kind, ...]`, `Annotated[kind, interval]` or a union; `Any` or a missing
            annotation accepts all. The interval is a text such as "[0, 1)". A float must be finite.
    """
    if kind in (Any, inspect.Parameter.empty):
        return True
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is Annotated:
        return fits(value, inner[0]) and _inside(value, inner[1])
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in inner)
    if origin is tuple:
        members = inner[:1] * len(value) if inner[1:] == (...,) and isinstance(value, tuple | list) else inner
        return isinstance(value, tuple | list) and len(value) == len(members) and all(map(fits, value, members))
    if kind is dict:
        return isinstance(value, Mapping)
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _inside(value: float, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def name(kind: Any, *, plural: bool = False) -> str:
    """A type in words, such as "an integer of at least 1", "a tuple of strings" or "one of 'a', 'b'".

    Args:
        kind: see `fits`.
        plural: name several values of this type.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(name(one, plural=plural) for one in inner)
    if origin is tuple:
        count = "" if inner[1:] == (...,) else f"{len(inner)} "
        return f"a tuple of {count}{name(inner[0], plural=True)}"
    if origin is Annotated:
        low, high = inner[1][1:-1].split(", ")
        limits = [f"of at least {low}" if inner[1][0] == "[" else f"above {low}"]
        limits += [f"at most {high}" if inner[1][-1] == "]" else f"below {high}"] if high != "inf" else []
        return f"{name(inner[0], plural=plural)} {' and '.join(limits)}"
    return _NAMES[kind][plural] if kind in _NAMES else f"a {kind.__name__}"
