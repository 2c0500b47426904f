"""The one exception that a user is meant to read: the command line prints its message alone, without a traceback."""


class InputError(ValueError):
    """Input that cannot be used. The message is one sentence that names the file or key and the remedy."""
