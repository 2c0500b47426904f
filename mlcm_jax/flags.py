"""The flags of one call of the command `mlcm`."""

from collections.abc import Mapping
from typing import Any

from absl import flags

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
