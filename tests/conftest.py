"""Shared settings: strict promotion, so that mistakes in dtype or rank fail where they are made; and one small run."""

import os
import tempfile
from pathlib import Path

import hypothesis
import jax
import pytest
from commands import SMOKE, once, run_mlcm

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_platforms", "cpu")

hypothesis.settings.register_profile("any machine", deadline=None)  # how long an example takes is no test's matter
hypothesis.settings.load_profile("any machine")

# Tests spend most of their time on compiling small programs that run once. So XLA optimises little, here and in
# the processes that tests start. `.ci/nightly` sets the two variables to other values, and compiles as users do. If XLA
# does not know a flag, it ends the process; jaxlib 0.10 and 0.11 know this one.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
if jax.__version_info__ < (0, 12):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

# The compilation cache of processes that tests start, which compile the same small programs again and again. (This
# process does not use it.) The folder belongs to the user and is kept for later test runs.
_CACHE = Path(tempfile.gettempdir()) / f"mlcm_jax_tests_{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """The folder in which the dataset of the smoke config is built."""

    def make(folder):
        result = run_mlcm("build", "synthetic_faces/48x48", f"--data_dir={folder}")
        assert result.returncode == 0, result.stderr

    return once(tmp_path_factory, "data", make)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory, data_dir) -> Path:
    """The work directory of a finished smoke run, for reading only; its output is in `output.txt`."""

    def make(folder):
        result = run_mlcm("train", f"--config={SMOKE}", f"--workdir={folder}", f"--data_dir={data_dir}")
        assert result.returncode == 0, result.stdout + result.stderr
        (folder / "output.txt").write_text(result.stdout)

    return once(tmp_path_factory, "smoke", make)
