"""Face boxes that a user gives: `--box=x,y,w,h` and `--boxes=FILE.json`."""

import json

from etils import epath

from mlcm_jax.errors import InputError, json_kind
from mlcm_jax.files import read_bytes
from mlcm_jax.landmarks import Box, check_box


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


def _unique(pairs: list[tuple[str, object]]) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return result
