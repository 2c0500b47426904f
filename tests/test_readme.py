"""The README: its picture of the tree equals the tree, its links exist, and its example of the loss runs."""

import re
import shlex
from pathlib import Path

import pytest

from mlcm_jax import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
(PICTURE,) = re.findall(r"## The parts\n\n```\n(.*?)```", README, re.S)
GENERIC = {"synthetic"}  # folders whose own __init__.py lists the files


def pictured() -> dict[str, set[str]]:
    """Folder -> what the picture names in it, before its column of explanations."""
    found: dict[str, set[str]] = {"": set(), "mlcm_jax": set()}
    folder = ""
    for line in PICTURE.splitlines():
        indent = len(line) - len(line.lstrip())
        words = re.split(r" {2,}", line.strip())[0].split()
        parent = {0: "", 2: "mlcm_jax", 4: f"mlcm_jax/{folder}"}[indent]
        for word in words:
            found.setdefault(parent, set()).add(word)
            if indent == 2 and word.endswith("/"):
                folder = word.rstrip("/")
    return found


def present(folder: Path) -> set[str]:
    names = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    return names | {f"{path.name}/" for path in folder.iterdir() if any(path.glob("*.py"))}


def test_picture_of_the_tree_equals_the_tree():
    named = pictured()
    folders = {"configs/", "tfds_builders/", "benchmarks/", "docs/", "examples/", "colab/", "tests/", "mlcm_jax/"}
    assert named[""] == folders
    assert all((ROOT / folder).is_dir() for folder in named[""])
    assert named["mlcm_jax"] == present(ROOT / "mlcm_jax")
    for folder in {name.rstrip("/") for name in named["mlcm_jax"] if name.endswith("/")} - GENERIC:
        assert named[f"mlcm_jax/{folder}"] == present(ROOT / "mlcm_jax" / folder), folder


def test_map_of_the_renderer_names_all_its_files():
    text = (ROOT / "mlcm_jax" / "synthetic" / "__init__.py").read_text()
    assert set(re.findall(r"^ {4,}(\w+\.py) ", text, re.M)) == present(ROOT / "mlcm_jax" / "synthetic")


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_example_of_the_loss_runs():
    example = next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "dikd.dikd(" in block)
    names: dict = {}
    exec(example, names)
    assert names["loss"].shape == (8,) and set(names["parts"]) == {"forward", "reverse"}


BLOCKS = re.findall(r"```bash\n(.*?)```", README.replace("\\\n", " "), re.S)
COMMANDS = [
    shlex.split(line, comments=True)[1:] for block in BLOCKS for line in block.splitlines() if line[:5] == "mlcm "
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_work_as_they_are_pasted(words):
    """Their flags exist, and so does what they read, or an earlier command makes it."""
    name, *rest = words
    left, given = cli._parse(name, rest)
    if name == "predict":
        assert given.out and given.demo and not left
        assert given.model in ("", "runs/tiny")  # which the command of "Two commands" makes
    if cli.COMMANDS[name].configured:
        assert (ROOT / next(word for word in rest if word.startswith("--config=")).split("=")[1].split(":")[0]).exists()


def test_the_first_command_puts_the_environment_on_the_path():
    assert "source .venv/bin/activate" in BLOCKS[0].splitlines()[0]
    assert (ROOT / re.search(r'Predictor\(\)\("(.*?)"\)', README)[1]).exists()
