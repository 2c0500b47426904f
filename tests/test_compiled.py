"""The folder of compiled programs: what is kept, what is removed, and that a damaged entry does no harm."""

import os
import subprocess
import sys
import time

import pytest
from commands import SMOKE, run_mlcm

from mlcm_jax import compiled

PROGRAM = """
import sys, pathlib
from mlcm_jax import compiled
folder = compiled.keep_programs(pathlib.Path(sys.argv[1]))
import jax, jax.numpy as jnp
found = jax.jit(lambda x: jnp.linalg.svd(x @ x.T)[1].sum())(jnp.arange(12.0).reshape(3, 4))
print(folder, float(found))
"""


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    yield
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)


def entry(folder, name, content=b"program", age=0.0):
    path = folder / f"{name}-cache"
    path.write_bytes(content)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def run(root):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(root)], capture_output=True, text=True, check=True)
    assert not done.stderr
    folder, value = done.stdout.split()
    entries = {path.name: path for path in compiled.Path(folder).glob("*-cache")}
    return float(value), entries


def test_second_process_finds_the_programs_of_the_first_and_a_damaged_one_is_made_again(tmp_path):
    first, entries = run(tmp_path)
    times = {name: path.stat().st_mtime_ns for name, path in entries.items()}
    again, found = run(tmp_path)
    assert again == first and entries
    assert {name: path.stat().st_mtime_ns for name, path in found.items()} == times
    name, path = next((name, path) for name, path in entries.items() if "lambda" in name)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    third, found = run(tmp_path)
    assert third == first and len(found[name].read_bytes()) > len(whole) // 2


def test_entries_that_were_not_written_to_their_end_are_removed(tmp_path):
    folder = compiled.keep_programs(tmp_path)
    done, cut = entry(folder, "done"), entry(folder, "cut", age=7200.0)
    new = entry(folder, "new")  # perhaps of a command that still runs
    compiled.note(folder)
    (folder / "cut-crc32").unlink()
    (folder / "new-crc32").unlink()
    changed = entry(folder, "changed")
    compiled.note(folder)
    (folder / "new-crc32").unlink()
    (folder / "cut-crc32").unlink()
    changed.write_bytes(b"progrma")
    os.environ.pop("JAX_COMPILATION_CACHE_DIR")
    assert compiled.keep_programs(tmp_path) == folder
    assert done.exists() and new.exists() and not cut.exists() and not changed.exists()


def test_damaged_checksum_removes_its_entry(tmp_path):
    folder = compiled.keep_programs(tmp_path)
    spoiled = entry(folder, "spoiled")
    (folder / "spoiled-crc32").write_bytes(b"\xff\xfe\0")  # is no text
    os.environ.pop("JAX_COMPILATION_CACHE_DIR")
    assert compiled.keep_programs(tmp_path) == folder and not spoiled.exists()


def test_a_command_vouches_only_for_what_it_wrote(tmp_path, monkeypatch):
    noted = []
    monkeypatch.setattr(compiled.atexit, "register", lambda *call: noted.append(call))
    folder = compiled.keep_programs(tmp_path)
    half = entry(folder, "half")  # of another command, which was killed
    os.environ.pop("JAX_COMPILATION_CACHE_DIR")
    compiled.keep_programs(tmp_path)
    entry(folder, "own")
    function, *words = noted[-1]
    function(*words)
    assert (folder / "own-crc32").exists() and half.exists() and not (folder / "half-crc32").exists()


def test_oldest_entries_leave_a_folder_that_has_grown_too_large(tmp_path, monkeypatch):
    folder = compiled.keep_programs(tmp_path)
    old, newer, newest = (entry(folder, str(age), b"x" * 100, age) for age in (300.0, 200.0, 100.0))
    monkeypatch.setattr(compiled, "_LARGEST", 250)
    os.environ.pop("JAX_COMPILATION_CACHE_DIR")
    compiled.keep_programs(tmp_path)
    assert not old.exists() and newer.exists() and newest.exists()


def test_another_jaxlib_or_processor_has_a_folder_of_its_own(tmp_path, monkeypatch):
    here = compiled.keep_programs(tmp_path)
    os.environ.pop("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(compiled.platform, "machine", lambda: "riscv64")
    other = compiled.keep_programs(tmp_path)
    os.environ.pop("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setattr(compiled.metadata, "version", lambda name: "0.0.1")
    assert len({here, other, compiled.keep_programs(tmp_path)}) == 3


def test_folder_that_cannot_be_made_and_a_folder_of_the_user_are_left_alone(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert compiled.keep_programs(tmp_path / "file") is None
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/own")
    assert compiled.keep_programs(tmp_path) is None and os.environ["JAX_COMPILATION_CACHE_DIR"] == "/own"


def test_stage_is_compiled_once_and_not_again_by_the_next_command(tmp_path, data_dir):
    """Also holds that a step's program is the same text in every process."""
    home = os.environ | {"HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    flags = f"--config={SMOKE}", "--config.stages=('light_alone',)", f"--data_dir={data_dir}"
    for run in ("first", "second"):
        done = run_mlcm("train", *flags, f"--workdir={tmp_path / run}", env=home)
        assert done.returncode == 0, done.stderr
        programs = [path.name for path in tmp_path.glob(".cache/mlcm_jax/compiled/*/*-cache")]
        assert sum("train_step" in name for name in programs) == 1
    networks = [(tmp_path / run / "light_alone/model.safetensors").read_bytes() for run in ("first", "second")]
    assert networks[0] == networks[1]
