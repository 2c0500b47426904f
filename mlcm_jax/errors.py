"""The one exception that a user is meant to read: the command line prints its message alone, without a traceback."""


class InputError(ValueError):
    """Input that cannot be used. The message is one sentence that names the file or key and the remedy."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: what was trained is saved. `number` is the signal's."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number
