"""Exceptions whose messages are written for users; the command line prints them without a traceback."""

import difflib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Input that cannot be used. The message is one sentence that names the file or key, and the remedy."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM stopped the training after its state was saved; `number` is the number of the signal."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def did_you_mean(word: str, known: Iterable[str], *, further: str = "") -> str:
    """The second half of a message about an unknown word: the nearest known one, or a list of all.

    Args:
        word: the unknown word.
        known: the words that are allowed.
        further: a remark after the list, such as " and sizes like 6000x96".

    Returns:
        "did you mean 'x'?", or "there are x, y, z."
    """
    known = list(known)
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}{further}."


def json_kind(value: Any) -> str:
    """Says what a value read from JSON is, for messages: "JSON object", "text", "null"."""
    names = {dict: "JSON object", list: "list with something other than numbers", str: "text", type(None): "null"}
    return names.get(type(value), "single value")
