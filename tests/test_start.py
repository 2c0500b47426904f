"""`mlcm` starts itself again with the settings of `memory`, and keeps its arguments and its exit code."""

import os
import subprocess
import sys

import pytest

from mlcm_jax import __version__, memory

# Fills 64 MB twice, as a training step does, and prints the pages that had to be mapped for the second time.
FAULTS = """
import resource
from mlcm_jax import cli, start
def main(size=64 << 20):
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        b"x" * size
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
cli.main = main
start.main()
"""


def run(*arguments, **variables):
    environment = {key: value for key, value in os.environ.items() if key != memory.VARIABLE} | variables
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(not memory.missing({}), reason="only glibc has these settings")
def test_memory_is_kept_unless_somebody_has_settings_of_their_own():
    kept, given_back = run("-c", FAULTS), run("-c", FAULTS, **{memory.VARIABLE: ""})
    assert not kept.stderr and int(kept.stdout) < 20
    assert int(given_back.stdout) > 30  # 32 pages of 2 MB, or 16,384 of 4 KB


def test_command_has_its_arguments_and_exit_code():
    shown = run("-m", "mlcm_jax.start", "--version")
    assert (shown.returncode, shown.stdout.strip()) == (0, __version__)
    refused = run("-m", "mlcm_jax.start", "two words", "--x=*")
    assert refused.returncode == 2 and "There is no command 'two words'" in refused.stderr


def test_only_glibc_without_settings_misses_them(monkeypatch):
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    assert memory.missing({}) and not memory.missing({memory.VARIABLE: "glibc.malloc.hugetlb=0"})
    monkeypatch.setattr(os, "confstr", lambda name: None)
    assert not memory.missing({})

    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    assert not memory.missing({})
    monkeypatch.delattr(os, "confstr")
    assert not memory.missing({})
