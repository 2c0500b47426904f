"""The exception that a user is meant to read; the command line prints its message alone, without a traceback."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used. The message is one sentence naming the file or key, and the remedy."""


class Interrupted(Exception):
    """Training stopped by Ctrl-C or SIGTERM, after saving what was trained; `number` is the signal's."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def did_you_mean(word: str, known: Iterable[str], *, further: str = "") -> str:
    """The second half of a message about an unknown word: the nearest known one, or a list of all.

    Args:
        word: what was given.
        known: what is allowed.
        further: a remark after the list, such as " and sizes like 6000x96".

    Returns:
        "did you mean 'x'?", or "there are x, y, z."
    """
    known = list(known)
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}{further}."
