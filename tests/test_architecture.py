"""The house's walls: imports run downwards only, and the package loads neither TensorFlow nor PyTorch."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A file may import from its own layer (but not in a circle) and from those before it in this list. A name is a file, or
# a folder with all of its files that the list doesn't name.
LAYERS = [
    ["errors", "files", "console"],
    ["layouts", "landmarks", "layout_file", "config"],
    ["codecs", "dikd", "losses", "metrics", "shape_model"],
    ["models", "synthetic", "data/boxes", "data/augment", "data/image_file", "data/draw"],
    ["tfds_builders"],
    ["data"],
    ["training"],
    ["evaluation"],
    ["inference"],
    ["cli", "__init__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
PURE = [name for names in LAYERS[1:3] for name in names]


def files() -> list[Path]:
    return sorted(path for folder in ("mlcm_jax", "tfds_builders") for path in (ROOT / folder).rglob("*.py"))


def module(path: Path) -> str:
    """mlcm_jax/data/boxes.py -> data/boxes, tfds_builders/wflw/__init__.py -> tfds_builders/wflw."""
    name = path.relative_to(ROOT).with_suffix("").as_posix().removeprefix("mlcm_jax/")
    return name.removesuffix("/__init__")


KNOWN = {module(path): path for path in files()}


def level(name: str) -> int:
    """The layer of a module: its own, or that of its folder."""
    return LEVEL[name] if name in LEVEL else LEVEL[name.split("/")[0]]


def imported(path: Path) -> set[str]:
    """Full dotted names of what a file imports, `from a import b` as a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(path: Path) -> set[str]:
    """The modules of this repository that a file imports."""
    found = set()
    for name in imported(path):
        parts = name.split(".")
        if parts[0] not in ("mlcm_jax", "tfds_builders"):
            continue
        parts = parts[1:] if parts[0] == "mlcm_jax" else parts
        while parts and "/".join(parts) not in KNOWN:
            parts = parts[:-1]
        if parts:
            found.add("/".join(parts))
    return found


def test_every_module_has_a_layer():
    assert all(level(name) >= 0 for name in KNOWN)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_imports_run_downwards(name):
    for other in ours(KNOWN[name]):
        assert level(other) <= level(name), f"{name} imports {other} from a later layer"


def test_no_module_imports_itself_by_way_of_others():
    waiting = {name: ours(path) - {name} for name, path in KNOWN.items()}
    while free := [name for name, others in waiting.items() if not others & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting


def test_builders_are_imported_by_two_files_alone():
    users = {name for name, path in KNOWN.items() if any(other.startswith("tfds_builders") for other in ours(path))}
    assert {name for name in users if not name.startswith("tfds_builders")} == {"data/build", "data/examples"}


@pytest.mark.parametrize("name", [*PURE, "synthetic"])
def test_the_pure_core_knows_no_flax(name):
    paths = [path for known, path in KNOWN.items() if known == name or known.startswith(f"{name}/")]
    assert paths
    for path in paths:
        assert not any(other.split(".")[0] == "flax" for other in imported(path))


def test_only_checkpoint_imports_orbax():
    users = {name for name, path in KNOWN.items() if any(other.startswith("orbax") for other in imported(path))}
    assert users == {"training/checkpoint"}


def test_configs_import_mlcm_jax_config_alone():
    paths = sorted((ROOT / "configs").glob("*.py"))
    assert paths
    for path in paths:
        own = {name for name in imported(path) if name.startswith(("mlcm_jax", "tfds_builders", "configs"))}
        assert own and all(name.startswith("mlcm_jax.config.") for name in own), path


def test_no_file_is_longer_than_400_lines():
    folders = ("mlcm_jax", "configs", "tfds_builders", "benchmarks", "tests")
    lengths = {path: len(path.read_text().splitlines()) for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert lengths
    assert not {str(path): length for path, length in lengths.items() if length > 400}


def run(code: str) -> None:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_no_tensorflow_and_no_torch_in_a_fresh_process():
    run(
        "import sys, mlcm_jax.cli, mlcm_jax.evaluation.seeds, mlcm_jax.inference.predictor\n"
        "bad = {'tensorflow', 'torch'} & set(sys.modules)\n"
        "assert not bad, bad"
    )


def test_the_losses_need_jax_alone():
    run(
        "import sys\nfrom mlcm_jax import dikd, losses\n"
        "bad = {'flax', 'optax', 'orbax', 'grain', 'tensorflow_datasets', 'cv2'} & set(sys.modules)\n"
        "assert not bad, bad"
    )


def test_the_wheel_lists_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in files() if path.name == "__init__.py"}
    assert set(listed) == {".".join(folder.parts) for folder in folders} | {"mlcm_jax.configs"}
