"""The pages of the documentation, taken apart: blocks of code with the comments that say how to test them."""

import ast
import dataclasses
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
BUILDERS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tfds_builders").glob("*/README.md"))]

_BLOCK = re.compile(r"(?:^<!-- test: (?P<test>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
_COMMAND = re.compile(r"(?:^|(?<=[\s'\"/;]))mlcm (?P<name>[a-z]+)\b(?P<rest>[^\n|;&]*)")
_BENCHMARK = re.compile(r"python -m benchmarks\.(?P<name>\w+)(?P<rest>[^\n|;&`]*)")


@dataclasses.dataclass
class Block:
    """A block of code.

    Attributes:
        page: its page, relative to the repository.
        line: the number of its first line.
        language: "bash", "python", …
        code: the text.
        slow: whether only the nightly tests execute it.
        skipped: the reason why it is not executed; "".
        prints: what its output must have.
        needs: modules and programs without which it cannot be executed.
    """

    page: str
    line: int
    language: str
    code: str
    slow: bool = False
    skipped: str = ""
    prints: list[str] = dataclasses.field(default_factory=list)
    needs: list[str] = dataclasses.field(default_factory=list)

    @property
    def small(self) -> str:
        """The code that is executed."""
        return self._small

    def read(self, marker: str) -> None:
        """Reads the comment above the block; it fails if a part does not fit the block or means nothing."""
        where, self._small = f"{self.page}:{self.line}", self.code
        for part in filter(None, map(str.strip, marker.split(";"))):
            old, arrow, new = part.partition(" => ")
            reason = re.fullmatch(r"not run(?: (\S+))?: (.+)", part)
            if arrow:
                assert old in self._small, f"{where}: the block does not have {old!r}"
                self._small = self._small.replace(old, new)
            elif reason and reason[1]:
                kept = [line for line in self._small.splitlines(keepends=True) if reason[1] not in line]
                assert len(kept) < len(self._small.splitlines()), f"{where}: no line has {reason[1]!r}"
                self._small = "".join(kept)
            elif reason:
                self.skipped = reason[2]
            elif part == "slow":
                self.slow = True
            elif part.startswith("prints "):
                self.prints.append(part.removeprefix("prints "))
            else:
                assert part.startswith("needs "), f"{where}: {part!r} means nothing"
                self.needs.append(part.removeprefix("needs "))


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Returns the blocks of a page in order."""
    found, whole = [], text(page)
    for match in _BLOCK.finditer(whole):
        block = Block(page, whole.count("\n", 0, match.start("code")) + 1, match["language"], match["code"])
        block.read(match["test"] or "")
        found.append(block)
    return found


def _words(rest: str) -> list[str]:
    rest = re.sub(r"\$\w+", "0", rest.replace("…", ""))
    try:
        return shlex.split(rest, comments=True)
    except ValueError:  # the command stands in quotes, of which one is left
        return shlex.split(rest.replace("'", ""), comments=True)


def _plain(code: str) -> str:
    """Returns shell code without comments, with every command in one line."""
    return re.sub(r"(?m)(^|\s)#.*$", "", re.sub(r"\\\n\s*", " ", code))


def commands(code: str) -> list[tuple[str, list[str]]]:
    """Returns (command, its words) for every `mlcm` in some code, also in YAML; `$NAME` becomes 0."""
    listed = re.sub(r"\[mlcm, (.*?)\]", lambda match: "mlcm " + re.sub(r",\s+", " ", match[1]), code, flags=re.S)
    return [(match["name"], _words(match["rest"])) for match in _COMMAND.finditer(_plain(listed))]


def benchmarks(code: str) -> list[tuple[str, list[str]]]:
    """Returns (module, its flags) for every `python -m benchmarks.…` in some code."""
    return [(match["name"], re.findall(r"--[\w-]+", match["rest"])) for match in _BENCHMARK.finditer(_plain(code))]


def indented(page: str) -> str:
    """Returns the lines of a page that are code because four spaces stand before them."""
    return "\n".join(line[4:] for line in _BLOCK.sub("", text(page)).splitlines() if line.startswith("    "))


def spans(page: str) -> list[str]:
    """Returns the code within the sentences of a page."""
    prose = "\n".join(line for line in _BLOCK.sub("", text(page)).splitlines() if not line.startswith("    "))
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def flags_of(name: str) -> set[str]:
    """Returns the texts that begin with -- in the source of a benchmark: its flags."""
    tree = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text())
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {value for value in texts if re.fullmatch(r"--[\w-]+", value)}


def anchors(page: str) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", text(page)), re.M)
    return {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings}
