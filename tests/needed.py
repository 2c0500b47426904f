"""Tools that a test needs and not every machine has: without one, the test is skipped, but in .ci/nightly it fails."""

import importlib
import os
import shutil

import chromium
import pytest


def need(*names: str) -> None:
    """Skips the calling test unless every name is a package that can be imported, a program, or "chromium"."""
    for name in names:
        if shutil.which(name) or (name == "chromium" and chromium.PROGRAM):
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            reason = f"needs {name}, which is not installed or lacks {error.name}"
            if os.environ.get("MLCM_NIGHTLY"):
                pytest.fail(f"{reason}; .ci/nightly installs what its tests need")
            pytest.skip(reason)
