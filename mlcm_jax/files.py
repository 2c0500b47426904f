"""Small text files: every failure to read is told in one sentence, and a crash while writing keeps the old file."""

import json
import os
import pathlib
from typing import Any

from etils import epath

from mlcm_jax.errors import InputError


def read_text(path: str | os.PathLike) -> str:
    """The content of a text file: UTF-8, or UTF-16 if it has that byte order mark; line ends become newlines.

    Raises:
        InputError: a file that is missing, empty, or not text.
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


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: a file that is missing, or not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The file {path} is not JSON: {error}.") from None


def write_json(path: epath.PathLike, content: Any) -> None:
    """Writes JSON (numpy's numbers and arrays too) through a temporary file, so that a crash keeps the old one."""
    path = epath.Path(path)
    temporary = path.parent / (path.name + ".new")
    temporary.write_text(json.dumps(content, indent=2, default=lambda value: value.tolist()) + "\n")
    temporary.replace(path)
