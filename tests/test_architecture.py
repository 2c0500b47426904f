"""The architecture: imports run downwards only, and no import loads more than it needs."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlcm_jax

ROOT = Path(__file__).resolve().parents[1]

# PARTS has the members of every part of the tree, BELOW the other parts that it may import. A member is a file or a
# whole folder.
PARTS = {
    "core": {
        "errors", "files", "console", "cores", "memory", "compiled", "kinds", "layouts", "landmarks", "layout_file",
        "flir", "units", "tiff", "vendors", "raw_images", "csv_images", "decoding", "holes", "polarity", "images",
        "config", "codecs", "detection", "dikd", "losses", "metrics", "shape_model",
    },
    "models": {"models"},
    "synthetic": {"synthetic"},
    "tfds_builders": {"tfds_builders"},
    "data": {"data"},
    "training": {"training"},
    "inference": {"inference"},
    "export": {"export"},
    "evaluation": {"evaluation"},
    "demo": {"demo"},
    "command": {
        "start", "cli", "flags", "help_texts", "demo_command", "export_command", "report_command", "video_command",
        "__init__",
    },
}  # fmt: skip
BELOW = {
    "core": set(),
    "models": {"core"},
    "synthetic": {"core"},
    "tfds_builders": {"core", "synthetic"},
    "data": {"core", "tfds_builders"},
    "training": {"core", "models", "data"},
    "inference": {"core", "models", "data"},
    "export": {"core", "models", "synthetic", "data", "inference"},
    "evaluation": {"core", "models", "data", "training", "inference"},
    "demo": {"core", "models", "synthetic", "data", "inference", "export"},
    "command": set(PARTS) - {"command"},
}


def module(path: Path) -> str:
    """Names a module: mlcm_jax/data/boxes.py -> data/boxes, tfds_builders/wflw/__init__.py -> tfds_builders/wflw."""
    name = path.relative_to(ROOT).with_suffix("").as_posix().removeprefix("mlcm_jax/")
    return name.removesuffix("/__init__")


MODULES = {module(path): path for folder in ("mlcm_jax", "tfds_builders") for path in (ROOT / folder).rglob("*.py")}


def part(name: str) -> str:
    """Returns the part of which a module's file or folder is a member."""
    for found, members in PARTS.items():
        if name.split("/")[0] in members:
            return found
    raise AssertionError(f"{name} belongs to no part; add it to PARTS")


def imported(path: Path) -> set[str]:
    """Returns the full dotted names of what a file imports; `from a import b` is a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import, which these tests do not follow"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(path: Path) -> set[str]:
    """Returns the modules of this repository that a file imports."""
    found = set()
    for name in imported(path):
        parts = name.split(".")
        if parts[0] not in ("mlcm_jax", "tfds_builders"):
            continue
        parts = parts[1:] if parts[0] == "mlcm_jax" else parts
        while parts and "/".join(parts) not in MODULES:
            parts = parts[:-1]
        if parts:
            found.add("/".join(parts))
    return found


def importers_of(*wanted: str) -> set[str]:
    """Returns the modules that import one of the named modules, or a module below it."""
    prefixes = tuple(f"{name}/" for name in wanted)
    return {
        name
        for name, path in MODULES.items()
        if any(other in wanted or other.startswith(prefixes) for other in ours(path))
    }


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_downwards(name):
    allowed = BELOW[part(name)] | {part(name)}
    for other in ours(MODULES[name]):
        assert part(other) in allowed, f"{name} ({part(name)}) must not import {other} ({part(other)})"


def test_the_parts_form_no_cycle():
    waiting = {name: set(below) for name, below in BELOW.items()}
    while free := [name for name, below in waiting.items() if not below & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting


def test_no_module_imports_itself_through_others():
    waiting = {name: ours(path) - {name} for name, path in MODULES.items()}
    while free := [name for name, others in waiting.items() if not others & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting


def test_no_folder_imports_itself_through_others():
    """The folders of the packages, and the files beside them, form no cycle."""
    waiting = {}
    for name, path in MODULES.items():
        top = name.split("/")[0]
        waiting.setdefault(top, set()).update(other.split("/")[0] for other in ours(path))
    waiting = {name: others - {name} for name, others in waiting.items()}
    while free := [name for name, others in waiting.items() if not others & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting


def test_of_data_inference_imports_what_opens_no_dataset():
    used = {other for name in MODULES if name.startswith("inference") for other in ours(MODULES[name])}
    allowed = {
        "data/image_file",
        "data/frames",
        "data/boxes",
        "data/augment",
        "data/gain",
        "data/photometric",
        "data/draw",
    }
    assert {name for name in used if name.startswith("data")} <= allowed
    assert all(part(other) in ("core", "data") for name in allowed for other in ours(MODULES[name]))
    assert {other for name in allowed for other in ours(MODULES[name]) if other.startswith("data/")} <= allowed


def test_only_two_modules_open_datasets_and_the_command_reads_only_their_options():
    users = {name for name in importers_of("tfds_builders") if not name.startswith("tfds_builders")}
    assert users == {"data/build", "data/examples", "cli"}
    assert {other for other in ours(MODULES["cli"]) if other.startswith("tfds_builders")} == {"tfds_builders/options"}
    assert not ours(MODULES["tfds_builders/options"])


def test_only_training_and_the_layers_above_it_read_configs():
    """Everything below training takes arguments, so that it can be used without a config."""
    assert {name.split("/")[0] for name in importers_of("config")} == {
        "training",
        "evaluation",
        "cli",
        "help_texts",
    }


@pytest.mark.parametrize("name", sorted(PARTS["core"] | {"synthetic"}))
def test_the_core_and_the_synthetic_faces_need_no_flax(name):
    paths = [path for known, path in MODULES.items() if known == name or known.startswith(f"{name}/")]
    assert paths
    for path in paths:
        assert not any(other.split(".")[0] == "flax" for other in imported(path))


def test_only_checkpoint_imports_orbax():
    users = {name for name, path in MODULES.items() if any(other.startswith("orbax") for other in imported(path))}
    assert users == {"training/checkpoint"}


def test_configs_import_mlcm_jax_config_alone():
    paths = sorted((ROOT / "configs").glob("*.py"))
    assert paths
    for path in paths:
        own = {name for name in imported(path) if name.split(".")[0] in ("mlcm_jax", "tfds_builders", "configs")}
        assert own and all(f"{name}.".startswith("mlcm_jax.config.") for name in own), path


def test_no_file_is_longer_than_400_lines():
    folders = ("mlcm_jax", "configs", "tfds_builders", "benchmarks", "tests")
    lengths = {path: len(path.read_text().splitlines()) for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert lengths
    assert not {str(path): length for path, length in lengths.items() if length > 400}


def run(code: str, *options: str) -> subprocess.CompletedProcess:
    """Runs Python code in a new process, which must succeed."""
    result = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result


def loaded_by(code: str) -> set[str]:
    """Returns the modules that some code loads in a new process, beyond those of a bare interpreter."""
    show = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    after, bare = (set(json.loads(run(f"{lines}\n{show}").stdout)) for lines in (code, ""))
    return after - bare


def test_importing_the_package_takes_no_time_and_loads_nothing():
    # -X importtime gives the microseconds of this import alone. The fastest of five counts, as the machine may be busy.
    times = []
    for _ in range(5):
        last = run("import mlcm_jax", "-X", "importtime").stderr.strip().splitlines()[-1]
        times.append(int(re.fullmatch(r"import time: +\d+ \| +(\d+) \| mlcm_jax", last)[1]))
    assert min(times) < 100_000
    loaded = loaded_by("import mlcm_jax")
    assert {name for name in loaded if name.startswith("mlcm_jax")} == {"mlcm_jax"}
    assert not loaded & {"jax", "numpy", "flax", "absl", "cv2"}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("from mlcm_jax import landmarks\nassert landmarks.LAYOUTS", {"jax", "flax", "cv2", "mlcm_jax.models"}),
        (
            "from mlcm_jax import dikd, losses, metrics\nassert dikd.dikd and losses.wing and metrics.nme",
            {"flax", "optax", "orbax.checkpoint", "grain", "cv2", "tensorflow_datasets", "mlcm_jax.models"},
        ),
        (
            "from mlcm_jax import Predictor, models\nassert callable(Predictor) and models.create",
            {
                "orbax.checkpoint",
                "grain",
                "tensorflow_datasets",
                "tfds_builders",
                "mlcm_jax.training",
                "mlcm_jax.data.examples",
            },
        ),
        (
            "import mlcm_jax.cli, mlcm_jax.evaluation.seeds, mlcm_jax.evaluation.ablation",
            {"tensorflow", "torch"},
        ),
    ],
)
def test_a_new_process_loads_no_more_than_it_needs(code, absent):
    loaded = loaded_by(code)
    assert not absent & loaded, absent & loaded


def test_the_public_names_are_listed_and_others_are_refused():
    assert set(mlcm_jax.__all__) <= set(dir(mlcm_jax))
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        _ = mlcm_jax.Predicter
