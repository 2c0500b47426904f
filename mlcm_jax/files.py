"""Small text files: read with one sentence for every mistake, and written so that a crash leaves the old one whole."""

import json
import os
import pathlib
from typing import Any

from etils import epath

from mlcm_jax.errors import InputError


def read_text(path: str | os.PathLike) -> str:
    """A text file without its byte order mark; UTF-8, or UTF-16 where a mark says so; line ends become \\n.

    Raises:
        InputError: a file that is missing, empty, or no text.
    """
    try:
        content = pathlib.Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"The file {path} does not exist.") from None
    except OSError as error:
        raise InputError(
            f"The file {path} cannot be read ({error.strerror or error}); check its name and its rights."
        ) from None
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise InputError(f"The file {path} is not UTF-8 text; save it as UTF-8.") from None
    if not text.strip():
        raise InputError(f"The file {path} is empty.")
    if "\0" in text:
        raise InputError(f"The file {path} is not text: it holds zero bytes.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | os.PathLike):
    """The content of a JSON file; InputError when it is none."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"The file {path} is not JSON: {error}.") from None


def write_json(path: epath.PathLike, content: Any) -> None:
    """Writes JSON (numpy's numbers and arrays too) through a temporary file: a crash leaves the old one whole."""
    path = epath.Path(path)
    temporary = path.parent / (path.name + ".new")
    temporary.write_text(json.dumps(content, indent=2, default=lambda value: value.tolist()) + "\n")
    temporary.replace(path)
