"""Face boxes that a user gives: `--box=x,y,w,h` and `--boxes=FILE.json`."""

import json
from collections.abc import Sequence

from etils import epath

from mlcm_jax.errors import InputError, json_kind
from mlcm_jax.files import read_bytes
from mlcm_jax.landmarks import Box, check_box, check_box_inside

_SMALLEST = 8  # pixels that the sides of a face have at least
_FLATTEST = 4  # ratio of the sides that no box of a face has


def parse_box(text: str) -> Box:
    """Parses a box in pixels from the text of --box, "x,y,w,h"; see `landmarks.check_box` for the errors."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--box={text!r} is not x,y,w,h: four numbers with commas between them.") from None
    return check_box(values, f"--box={text!r}")


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
        kind = json_kind(content)
        raise InputError(f'The file of boxes {path} must hold {{"file name": [x, y, w, h]}}, not a {kind}.')
    return {name: check_box(value, f"The box of {name!r} in {path}") for name, value in content.items()}


def check_face(box: Sequence[float], width: int, height: int, what: str) -> str:
    """Checks that a user's box x, y, w, h can be that of a face in an image.

    Returns:
        A doubt for the user: the box may be two corners; or "".

    Raises:
        InputError: most of the box is outside the image, it is a few pixels wide, or far from square.
    """
    check_box_inside(box, width, height, what)
    x, y, w, h = box
    where = f"{what}, {x:g},{y:g},{w:g},{h:g},"
    if min(w, h) < _SMALLEST:
        raise InputError(
            f"{where} is only {min(w, h):g} pixels wide or high, too few for a face; give x,y,w,h in pixels."
        )
    if max(w, h) > _FLATTEST * min(w, h):
        raise InputError(f"{where} is too flat for a face; give x,y,w,h: its left and upper side, width and height.")
    across, along = min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0)
    corners = w > x >= 0 and h > y >= 0 and w <= width and h <= height
    hint = f"; as two corners, its numbers would be the box {x:g},{y:g},{w - x:g},{h - y:g}" if corners else ""
    if across * along < 0.5 * w * h:
        raise InputError(f"{where} is mostly outside the image, which has {width} x {height} pixels{hint}.")
    beyond = max(-x, -y, x + w - width, y + h - height) > 0.02 * max(w, h)
    return f"the box reaches beyond the image{hint}" if beyond and hint else ""


def _unique(pairs: list[tuple[str, object]]) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return result
