"""Face boxes: checks them, and parses `--box=x,y,w,h` and `--boxes=FILE.json`."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from mlcm_jax.errors import InputError
from mlcm_jax.files import read_bytes

Box = tuple[float, float, float, float]


def parse_box(text: str) -> Box:
    """Parses a box in pixels from the text of --box, "x,y,w,h"; see `checked` for the errors."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--box={text!r} is not x,y,w,h: four numbers with commas between them.") from None
    return checked(values, f"--box={text!r}")


def read_boxes(path: epath.PathLike) -> dict[str, Box]:
    """Reads boxes by file name from JSON of the form {"file name": [x, y, w, h]}; raises InputError on any other."""
    text = read_bytes(path, "file of boxes")
    try:
        content = json.loads(text.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # also invalid UTF-8, and a name that occurs twice
        raise InputError(
            f'The file of boxes {path} is not JSON of the form {{"name": [x, y, w, h]}}: {error}.'
        ) from None
    if not isinstance(content, dict):
        raise InputError(f'The file of boxes {path} must hold {{"file name": [x, y, w, h]}}, not a {_kind(content)}.')
    return {name: checked(value, f"The box of {name!r} in {path}") for name, value in content.items()}


def checked(value: Any, what: str) -> Box:
    """Checks a box and returns it as four floats.

    Args:
        value: x, y, w, h as a list, a tuple or an array.
        what: the subject of the error message, such as "The box of a.png".

    Raises:
        InputError: not four finite numbers, or a width or height that is not above 0.
    """
    value = value.tolist() if isinstance(value, np.ndarray) else value
    numbers = isinstance(value, list | tuple) and all(type(v) in (int, float) for v in value)
    if not numbers or len(value) != 4:
        found = f"{len(value)} numbers" if numbers else f"a {_kind(value)}"
        raise InputError(f"{what} is {found}, not the four numbers x,y,w,h.")
    try:
        x, y, w, h = map(float, value)
    except OverflowError:  # an integer of 400 digits is valid JSON
        raise InputError(f"{what} holds a number too large for a pixel.") from None
    if not all(map(math.isfinite, (x, y, w, h))):
        raise InputError(f"{what} holds a number that is not finite.")
    if w <= 0 or h <= 0:
        raise InputError(f"{what} is empty: its width and height must be above 0.")
    return x, y, w, h


def check_inside(box: Sequence[float], width: int, height: int, what: str) -> None:
    """Raises InputError if the box is wholly outside the image; it may extend beyond the border."""
    x, y, w, h = box
    if x + w <= 0 or y + h <= 0 or x >= width or y >= height:
        raise InputError(
            f"{what}, {x:g},{y:g},{w:g},{h:g}, lies outside the image, which has {width} x {height} pixels."
        )


def _kind(value: Any) -> str:
    names = {dict: "JSON object", list: "list with something other than numbers", str: "text", type(None): "null"}
    return names.get(type(value), "single value")


def _unique(pairs: list[tuple[str, object]]) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return result
