"""The help texts of the command `mlcm`, as wide as the terminal, but for at most 120 characters in a line."""

import inspect
import shutil
import textwrap
from collections.abc import Mapping

from mlcm_jax import __version__
from mlcm_jax import config as configs
from mlcm_jax.flags import Command

_WIDEST, _NARROWEST = 120, 60  # characters in a line


def _width() -> int:
    return max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns))


def overview(commands: Mapping[str, Command]) -> str:
    """Describes all commands, each in one sentence."""
    title = f"mlcm {__version__}: facial landmarks in thermal images, and what an RGB model can teach a thermal one"
    lines = [line for name, command in commands.items() for line in _column(name, _doc(command).splitlines()[0], 8)]
    hint = "See `mlcm COMMAND --help` for more. Start with: mlcm predict --demo --out=out"
    return "\n".join([*_wrapped(title), "", *lines, "", *_wrapped(hint)])


def of_command(name: str, command: Command) -> str:
    """Describes a command, its flags, and the keys of its config."""
    texts = {flag: meaning for flag, (_, meaning) in command.flags.items()}
    if command.configured:
        shipped = ", ".join(path.stem for path in sorted(configs.shipped().glob("*.py")))
        texts = {"config": f"The config file, such as configs/NAME.py[:variant]; the package ships {shipped}."} | texts
    paragraphs = [" ".join(part.split()) for part in _doc(command).split("\n\n")]
    lines = [*_wrapped(f"mlcm {name} {command.usage}", "    "), ""]
    lines += [line for part in paragraphs for line in (*_wrapped(part), "")] + ["Flags:"]
    width = max(map(len, texts)) + 2
    for flag, text in texts.items():
        lines += _column(f"--{flag}", text, width)
    if command.configured:
        keys = "Keys of the config, set by --config.KEY=VALUE, with their defaults and [what they decide]:"
        lines += ["", *_wrapped(keys)]
        for key_name, key in configs.SCHEMA.items():
            default = "" if key.type is dict else f" = {key.default!r}"
            lines += _column(f"{key_name}{default}", f"{key.comment} [{key.decides}]", 34)
    return "\n".join(lines)


def _doc(command: Command) -> str:
    return inspect.cleandoc(command.run.__doc__)


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _column(name: str, text: str, width: int) -> list[str]:
    """Lays out `name` in a column of its own, with `text` wrapped beside it, or below if the name is too long."""
    wrapped = textwrap.wrap(text, _width() - width - 4, break_long_words=False)
    first = wrapped.pop(0) if len(name) <= width else ""
    return [f"  {name:<{width}}  {first}".rstrip(), *(" " * (width + 4) + line for line in wrapped)]
