"""Export: bad arguments, and, in an environment of its own, both formats of the shipped network."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import stored_runs

from mlcm_jax import detection
from mlcm_jax.errors import InputError
from mlcm_jax.inference import export as exports
from mlcm_jax.inference.export import export
from mlcm_jax.models import network as networks

ROOT = Path(__file__).resolve().parents[2]


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--format='tflit' is unknown; did you mean 'tflite'\?"):
        export(format="tflit", out=tmp_path / "a")


@pytest.mark.parametrize("head", ["heatmap", "coordinates"])
def test_the_graph_is_the_network(head):
    """In the form in which it is exported, but run by JAX."""
    options = {"upsample": 4, "head_channels": 8, "prior": 0.2} if head == "heatmap" else {}
    architecture = stored_runs.ARCHITECTURE | {"head": head, "uncertainty": True} | options
    card = stored_runs.card(architecture=architecture, calibration=(0.5, 0.8, 1.0, -1.0))
    network = stored_runs.network(card)
    network = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), network)
    crop = np.random.default_rng(0).random((1, 32, 32, 1), np.float32)
    points, spread = jax.jit(exports._graph(network, card))(crop)
    found = networks.run(network, crop)
    np.testing.assert_allclose(points, found.landmarks, atol=1e-5)
    np.testing.assert_allclose(spread, 0.5 * np.asarray(found.uncertainty) ** 0.8, rtol=1e-5)


@pytest.mark.parametrize(("format", "package"), [("tflite", "ai_edge_litert"), ("onnx", "jax2onnx")])
def test_a_missing_library_is_named_with_the_remedy(tmp_path, monkeypatch, format, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        InputError, match=rf"needs the package {package}.*; install it with `pip install 'mlcm_jax\[export\]'`"
    ):
        export(format=format, out=tmp_path / "a")


def test_a_network_that_cannot_be_converted_is_reported_in_one_line(tmp_path, monkeypatch):
    def fails(*_):
        raise ValueError("no kernel for this operation\nand forty lines more")

    monkeypatch.setattr(exports, "_tflite", fails)
    with pytest.raises(InputError) as raised:
        export(format="tflite", out=tmp_path / "a")
    assert str(raised.value).endswith(
        "cannot be converted to tflite (no kernel for this operation); try --format=onnx."
    )


def test_a_detector_is_described_so_that_its_maps_can_be_read_without_this_package(tmp_path, monkeypatch):
    """The first box that `find` returns follows from the numbers and the sentences of the description alone."""
    out = []

    def converted(graph, shape):
        return b"graph", lambda crop: [np.asarray(one) for one in out.append(jax.jit(graph)(crop)) or out[-1]]

    monkeypatch.setattr(exports, "_tflite", converted)
    path = export(format="tflite", network="detector", out=tmp_path / "detector.tflite")
    about = json.loads(Path(f"{path}.json").read_text())["outputs"]
    scores, sides = (np.asarray(one)[0] for one in out[0])
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    left, right, upper, lower = about["unit"] * np.exp(np.clip(sides[row, column], *about["limits"]))
    x, y = (column + 0.5) / scores.shape[1], (row + 0.5) / scores.shape[0]
    (box, *_), _ = detection.find(scores, sides, threshold=1e-9, max_faces=1)
    np.testing.assert_allclose(box, [x - left, y - upper, left + right, upper + lower], rtol=1e-5)
    assert "left, right, upper and lower side" in about["sides"]


@pytest.mark.slow
def test_the_extra_resolves_and_both_formats_agree_with_jax(tmp_path):
    """The command itself compares each file with JAX, and fails if they differ."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", f"{ROOT}[export]"], check=True, timeout=900)
    sizes = {}
    for format in ("tflite", "onnx"):
        out = tmp_path / f"network.{format}"
        command = [python, "-m", "mlcm_jax.cli", "export", f"--format={format}", f"--out={out}"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
        sizes[format] = out.stat().st_size
        assert json.loads(Path(f"{out}.json").read_text())["image_size"] > 0
    assert max(sizes.values()) < 1.3e6
