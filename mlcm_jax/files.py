"""Small files: read errors are reported in one sentence, and a crash while writing keeps the old file."""

import json
from typing import Any

from etils import epath

from mlcm_jax.errors import InputError


def read_bytes(path: epath.PathLike, kind: str = "file") -> bytes:
    """The content of a file.

    Args:
        path: the file.
        kind: what the message calls it, such as "image".

    Raises:
        InputError: a file that is missing or cannot be read.
    """
    try:
        return epath.Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"The {kind} {path} does not exist.") from None
    except OSError as error:
        raise InputError(
            f"The {kind} {path} cannot be read ({error.strerror or error}); check its name and permissions."
        ) from None


def read_text(path: epath.PathLike) -> str:
    """The content of a text file, with newlines as line ends.

    The encoding is UTF-8, or UTF-16 if the file starts with its byte order mark.

    Raises:
        InputError: a file that is missing, empty, or not text.
    """
    content = read_bytes(path)
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise InputError(f"The file {path} is not UTF-8 text; save it as UTF-8.") from None
    if not text.strip():
        raise InputError(f"The file {path} is empty.")
    if "\0" in text:
        raise InputError(f"The file {path} is not text: it contains NUL bytes.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: epath.PathLike) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: a file that is missing, or not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The file {path} is not JSON: {error}.") from None


def write_text(path: epath.PathLike, content: str) -> None:
    """Writes UTF-8 through a temporary file, so that a crash keeps the old file."""
    path = epath.Path(path)
    temporary = path.parent / (path.name + ".new")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(path)


def write_json(path: epath.PathLike, content: Any) -> None:
    """Writes JSON, also of numpy's numbers and arrays, as `write_text` does."""
    write_text(path, json.dumps(content, indent=2, default=lambda value: value.tolist()) + "\n")


def check_replaceable(path: epath.PathLike, mark: str, kind: str) -> None:
    """Raises InputError if a page cannot be written without replacing something else.

    Args:
        path: the HTML file to write, the value of --out.
        mark: text in the first 1,000 bytes of every page of this kind.
        kind: what the message calls such a page.
    """
    path = epath.Path(path)
    if path.is_dir():
        raise InputError(f"--out={path} is a folder; give the name of a file, such as --out={path / 'page.html'}.")
    if path.exists() and mark.encode() not in read_bytes(path)[:1000]:
        raise InputError(f"{path} exists and is no {kind}; remove it, or give another --out.")
