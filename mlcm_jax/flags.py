"""The flags of one call of the command `mlcm`."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from mlcm_jax.errors import did_you_mean

# A command's flags: name -> (default, meaning). A flag has the type of its default; with None, it is a string.
FlagTable = Mapping[str, tuple[Any, str]]


class UsageError(Exception):
    """A mistake on the command line; the command exits with code 2."""


class Flags:
    """The flags of one call of the command, in their own registry so that `main` can be called more than once."""

    def __init__(self, table: FlagTable) -> None:
        self.values = flags.FlagValues()
        for name, (default, meaning) in table.items():
            kinds = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float}
            kinds.get(type(default), flags.DEFINE_string)(name, default, meaning, flag_values=self.values)

    def __getattr__(self, name: str) -> Any:
        return self.values[name].value

    def require(self, name: str) -> str:
        """Returns the value of a required flag; raises UsageError if it is missing."""
        value = self.values[name].value if name in self.values else None
        if not value:
            raise UsageError(f"--{name} is missing.")
        return value

    def data_folder(self) -> str:
        """Returns the value of --data_dir, or the default folder."""
        from mlcm_jax.data.build import default_data_dir

        return self.data_dir or default_data_dir()


class Command(NamedTuple):
    """A command: its function, flags and usage, and whether it reads a config or takes positional arguments."""

    run: Callable[[Sequence[str], Flags], None]
    flags: FlagTable
    usage: str
    configured: bool = False
    takes_words: bool = False


def explain(error: flags.Error, name: str, commands: Mapping[str, Command]) -> str:
    """Says in one sentence what is wrong with the flags of a command.

    Args:
        error: what absl raised.
        name: the command.
        commands: all commands by name, because a flag may be that of another one.
    """
    wrong = re.match(r"flag --(\w+)=(.*?): ", str(error), re.DOTALL)
    if wrong and isinstance(error, flags.IllegalFlagValueError) and wrong[1] in commands[name].flags:
        kinds = {bool: "true or false", int: "a whole number", float: "a number"}
        kind = kinds.get(type(commands[name].flags[wrong[1]][0]), "text")
        return f"--{wrong[1]}={wrong[2]} must be {kind}."
    if not isinstance(error, flags.UnrecognizedFlagError):
        return next(line.strip() for line in str(error).splitlines() if line.strip())
    word = error.flagname
    others = [other for other, one in commands.items() if word in one.flags]
    if others:
        return f"--{word} is no flag of `mlcm {name}`, but of {', '.join(others)}; see `mlcm {name} --help`."
    known = [*commands[name].flags, *(["config"] if commands[name].configured else [])]
    return f"--{word} is no flag of `mlcm {name}`; {did_you_mean(f'--{word}', [f'--{one}' for one in known])}"
