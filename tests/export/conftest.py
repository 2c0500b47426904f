"""The example in Python, as tests use it."""

import runpy
from pathlib import Path

import pytest
from needed import need

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "python" / "landmarks.py"


@pytest.fixture
def example(monkeypatch):
    """The functions of examples/python/landmarks.py."""
    need("onnxruntime")
    return runpy.run_path(str(EXAMPLE))
