"""The wheel holds all files of the package, and works outside of the clone."""

import fnmatch
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def folder_of(package: str) -> Path:
    """The folder with the files of a listed package."""
    return ROOT / SETUPTOOLS["package-dir"].get(package, package.replace(".", "/"))


def test_every_package_is_listed():
    paths = [path for name in ("mlcm_jax", "tfds_builders") for path in (ROOT / name).rglob("*.py")]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in paths}
    assert set(SETUPTOOLS["packages"]) == packages | {"mlcm_jax.configs"}
    # Without it, the folder would not be a package.
    assert all((folder_of(name) / "__init__.py").exists() for name in packages)


def test_other_files_are_packaged_too():
    patterns = SETUPTOOLS["package-data"]["*"]
    files = [path for package in SETUPTOOLS["packages"] for path in folder_of(package).iterdir() if path.is_file()]
    others = {path.name for path in files if path.suffix not in (".py", ".pyc")}
    assert {"README.md", "landmarks.png"} <= others
    assert not [name for name in others if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def run(*command, cwd=None) -> str:
    """The output of a command, which must succeed, and for which PYTHONPATH is unset, as it may name this tree."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, cwd=cwd, env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this tree, built without a download."""
    built_by = importlib.metadata.version("setuptools")
    assert int(built_by.split(".")[0]) >= 77, f"setuptools {built_by} cannot build the wheel; install the dev extra"
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in (
        "mlcm_jax",
        "tfds_builders",
        "configs",
        "benchmarks",
        "tests",
        "docs",
    ):  # setuptools writes to the tree
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", out, tree)
    (found,) = out.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_the_configs_as_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"mlcm_jax", "tfds_builders"}
    for package in SETUPTOOLS["packages"]:
        for path in folder_of(package).iterdir():
            if path.is_file() and path.suffix != ".pyc":
                assert f"{package.replace('.', '/')}/{path.name}" in names
    assert len(names) == len(set(names)) and not [name for name in names if name.endswith(".pyc")]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The command `mlcm` of an environment with the wheel, which borrows the dependencies of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A plain path in a .pth file: an editable install of this tree, which may be among them, is not taken along.
    (packages / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")) + "\n")
    where = run(python, "-c", "import mlcm_jax; print(mlcm_jax.__file__)", cwd=folder)
    assert Path(where.strip()).is_relative_to(folder)
    return folder / "bin" / "mlcm"


@pytest.mark.slow
@pytest.mark.parametrize("own_configs", [False, True], ids=["an empty folder", "a folder with its own configs"])
def test_the_installed_command_trains_and_predicts_from_any_folder(installed, tmp_path, data_dir, own_configs):
    if own_configs:
        (tmp_path / "configs").mkdir()
        (tmp_path / "configs" / "__init__.py").write_text("raise RuntimeError('this is not the package of configs')\n")
        (tmp_path / "configs" / "other.py").write_text("VALUE = 1\n")
    words = ["--config=configs/tiny.py:smoke", "--workdir=run", f"--data_dir={data_dir}"]
    shown = run(installed, "train", *words, cwd=tmp_path)
    assert "compress" in shown and "mlcm_jax/configs/tiny.py" in "".join(shown.split())
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert [row["name"] for row in rows][-1] == "compress"
    np.save(tmp_path / "face.npy", np.random.default_rng(0).uniform(20, 36, (64, 64)).astype(np.float32))
    run(installed, "predict", "--model=run", "--out=out", "--box=8,8,40,48", "face.npy", cwd=tmp_path)
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert np.shape(found["face.npy"]["landmarks"]) == (68, 2)
    # The configs of ablations import another config, and `--help` lists those that the wheel ships.
    assert "ablation_synthetic" in run(installed, "ablate", "--help", cwd=tmp_path)
