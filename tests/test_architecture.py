"""The house's walls: imports run downwards only, and the package loads neither TensorFlow nor PyTorch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mlcm_jax"

# A module may import from its own layer (but not in a circle) and from those before it.
LAYERS = [
    {"errors"},
    {"layouts", "landmarks"},
    {"codecs", "losses", "metrics", "dikd", "augment", "boxes", "imageio", "pictures", "star", "shape_model"},
    {"models", "synthetic", "data"},
    {"sharding", "state", "steps"},
    {"checkpoint", "writers", "distributed", "stages", "run"},
    {"loop", "train", "evaluate", "predict", "summary", "datasets", "label", "grid", "ablate"},
    {"cli", "bench", "__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> set[str]:
    """Full names of what a file imports, `from mlcm_jax import x` as mlcm_jax.x."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_module_has_a_layer():
    assert {room(path) for path in modules()} <= set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    for name in imported(path):
        if name.startswith("mlcm_jax."):
            other = name.split(".")[1]
            if other in LEVEL:
                assert LEVEL[other] <= LEVEL[room(path)], f"{path.name} imports {name} from a layer above"


@pytest.mark.parametrize("name", sorted(LAYERS[1] | LAYERS[2] | {"synthetic"}))
def test_the_lower_layers_know_no_flax(name):
    files = [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").exists() else sorted((PACKAGE / name).glob("*.py"))
    assert files
    for path in files:
        assert not any(module.split(".")[0] == "flax" for module in imported(path))


def test_only_checkpoint_imports_orbax():
    users = {room(path) for path in modules() if any(name.split(".")[0] == "orbax" for name in imported(path))}
    assert users == {"checkpoint"}


def test_builders_import_only_the_lower_rooms():
    allowed = {"mlcm_jax.errors", "mlcm_jax.landmarks", "mlcm_jax.imageio", "mlcm_jax.synthetic"}
    for path in sorted((ROOT / "tfds_builders").rglob("*.py")):
        for name in imported(path):
            if name.startswith("mlcm_jax"):
                assert ".".join(name.split(".")[:2]) in allowed, f"{path.name} imports {name}"


def test_no_file_is_longer_than_400_lines():
    folders = ("mlcm_jax", "configs", "tfds_builders", "tests")
    lengths = {path: len(path.read_text().splitlines()) for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert lengths
    assert not {str(path): length for path, length in lengths.items() if length > 400}


def test_no_tensorflow_and_no_torch_in_a_fresh_process():
    code = (
        "import sys, mlcm_jax.cli, mlcm_jax.train, mlcm_jax.predict\n"
        "bad = {'tensorflow', 'torch'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_the_losses_need_jax_alone():
    code = (
        "import sys\nfrom mlcm_jax import dikd, losses\n"
        "bad = {'flax', 'optax', 'orbax', 'grain', 'tensorflow_datasets', 'cv2'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
