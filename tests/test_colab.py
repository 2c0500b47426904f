"""Tests that the notebooks run from top to bottom, show their results, and are stored without outputs."""

import ast
import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "colab"
DEMO, PLAYGROUND, DISTILL = "demo.ipynb", "dikd_playground.ipynb", "distill.ipynb"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def read(name):
    return nbformat.read(FOLDER / name, as_version=nbformat.NO_CONVERT)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Runs a notebook in its own kernel, in `tmp_path` and without this machine's Jupyter settings."""
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("MPLBACKEND", raising=False)

    def run(notebook):
        options = {"timeout": 600, "iopub_timeout": 60, "raise_on_iopub_timeout": True}
        resources = {"metadata": {"path": str(tmp_path)}}
        client = NotebookClient(notebook, kernel_name="python3", resources=resources, **options)
        # By default, nbclient acts as the front end of output widgets, and reports their contents to the kernel through
        # the socket on which it waits for the kernel's reply. Sending can consume the wake-up for a reply that has just
        # arrived, and the cell then waits until it times out (jupyter/nbclient#312). Without this front end, a widget's
        # contents are among the outputs of the cell that made it.
        client.comm_open_handlers["jupyter.widget"] = lambda message: None
        return client.execute()

    return run


def streams(notebook, name):
    outputs = [output for cell in code(notebook) for output in cell.outputs if output.output_type == "stream"]
    return "".join(output.text for output in outputs if output.name == name)


def images(notebook):
    """Returns the number of PNG images that each code cell shows, by the cell's id, without cells that show none."""
    shown = {cell.id: [o for o in cell.outputs if "image/png" in o.get("data", {})] for cell in code(notebook)}
    return {name: len(outputs) for name, outputs in shown.items() if outputs}


def test_all_notebooks_exist():
    assert set(NOTEBOOKS) == {DEMO, PLAYGROUND, DISTILL}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_first_code_cell_installs_from_a_repository(name):
    source = code(read(name))[0].source
    assert re.search(r'^REPOSITORY = "\.\."  # @param \{type:"string"\}', source, re.M)
    assert re.search(r'^ +%pip install -q .*"\{REPOSITORY\}"', source, re.M)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_files_are_valid_and_hold_no_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    for cell in code(notebook):
        assert cell.outputs == [] and cell.execution_count is None
    assert "widgets" not in notebook.metadata


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_cell_names_an_absolute_path(name):
    for cell in read(name).cells:
        assert not re.search(r"""(?:^|[\s"'`(=])(?:/\w|~/|file:|[A-Z]:\\)""", cell.source), cell.source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_thin(name):
    trees = [ast.parse(TransformerManager().transform_cell(cell.source)) for cell in code(read(name))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    assert not [node for node in nodes if isinstance(node, ast.ClassDef | ast.While | ast.Try)]
    assert sum(isinstance(node, ast.stmt) for node in nodes) < 64


HIDE_WIDGETS = """
import importlib.util
_find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "ipywidgets" else _find(name)
"""
MOVE_SLIDER = """
alpha_slider = next(child for child in draw.widget.children if child.description == "alpha")
alpha_slider.value = 0.3
"""
ASK = """
import json, sys
asked = [(1.0, 1.0, "none", 0.0), (0.5, 2.0, "none", 0.0), (1.0, 1.0, "linear", 0.75)]
loaded = {"flax", "optax", "orbax", "grain", "tensorflow_datasets", "cv2"} & set(sys.modules)
print(json.dumps({"flows": [flow(*a).tolist() for a in asked], "loaded": sorted(loaded)}))
"""


def code_cell(name, source):
    cell = nbformat.v4.new_code_cell(source)
    cell.id = name
    return cell


@pytest.mark.parametrize("slides", [True, False], ids=["sliders", "no ipywidgets"])
def test_playground_draws_where_gradients_flow(execute, slides):
    notebook = read(PLAYGROUND)
    if slides:
        pytest.importorskip("ipywidgets")
        notebook.cells.append(code_cell("move", MOVE_SLIDER))
    else:
        notebook.cells.insert(0, code_cell("hide", HIDE_WIDGETS))
    notebook.cells.append(code_cell("ask", ASK))
    execute(notebook)

    assert streams(notebook, "stderr") == ""
    if slides:
        assert images(notebook) == {"plain": 1, "sliders": 1, "move": 1}
        states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
        sliders = [state["state"] for state in states if state["model_name"] == "FloatSliderModel"]
        assert {slider["description"]: slider["value"] for slider in sliders} == {
            "alpha": 0.3,
            "beta": 1.0,
            "progress": 0.5,
        }
    else:
        assert images(notebook) == {"plain": 1}
        assert "ipywidgets is not installed" in streams(notebook, "stdout")

    found = json.loads(streams(notebook, "stdout").splitlines()[-1])
    assert found["loaded"] == []
    plain, weighted, decayed = np.asarray(found["flows"])
    # Rows: α FI, β RI, α FI + β RI, FD, LD. Columns: the student's backbone and head, the teacher's head and features.
    backbone, of_head = [0, 1, 1, 1, 1], [1, 0, 1, 0, 1]
    np.testing.assert_array_equal(plain > 1e-2, np.array([backbone, of_head, [0] * 5, [0] * 5], bool).T)
    np.testing.assert_array_equal(plain[:, 2:], 0.0)
    assert plain[0, 0] == plain[1, 1] == plain[3, 1] == 0
    np.testing.assert_allclose(plain[2], plain[0] + plain[1], rtol=1e-5)  # no receiver gets gradients of both terms
    np.testing.assert_allclose(weighted[0], 0.5 * plain[0], rtol=1e-5)
    np.testing.assert_allclose(weighted[1], 2.0 * plain[1], rtol=1e-5)
    np.testing.assert_allclose(decayed, 0.25 * plain, rtol=1e-5)


def check_distill(notebook, workdir):
    results = json.loads((workdir / "results.json").read_text())
    assert [row["name"] for row in results["rows"]][-1] == "compress"
    assert images(notebook) == {"plots": 3, "overlay": 1}
    table = next(cell for cell in notebook.cells if cell.id == "table").outputs
    text = "".join(output.get("text", "") or output["data"]["text/plain"] for output in table)
    for row in results["rows"]:
        assert row["name"] in text and f"{row['nme']:.2f}" in text
    printed = streams(notebook, "stdout")
    assert "synthetic_faces/48x48" in printed
    assert 0 < float(re.search(r"mirror image: ([\d.]+)", printed).group(1)) <= 1
    assert "Warning" not in streams(notebook, "stderr")


def test_distill_shows_a_finished_run(execute, tmp_path, monkeypatch, data_dir, smoke_run):
    """Runs all cells on stages that are trained already, as after a restart of the kernel."""
    monkeypatch.setenv("MLCM_DATA_DIR", str(data_dir))
    workdir = tmp_path / "runs" / "distill_smoke"
    shutil.copytree(smoke_run, workdir)
    (workdir / "results.json").unlink()
    for image in workdir.glob("*.png"):
        image.unlink()
    notebook = execute(read(DISTILL))
    check_distill(notebook, workdir)
    before, now = (json.loads((folder / "results.json").read_text()) for folder in (smoke_run, workdir))
    assert now == before


@pytest.mark.slow
def test_distill_trains_from_scratch(execute, tmp_path, monkeypatch):
    monkeypatch.setenv("MLCM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MLCM_VARIANT", "smoke")
    check_distill(execute(read(DISTILL)), tmp_path / "runs" / "distill_smoke")


def check_demo(notebook, folder, frames):
    assert streams(notebook, "stderr") == ""
    assert images(notebook) == {"overlay": 1, "plot": 1, "frames": 1}
    printed = streams(notebook, "stdout")
    assert "values were taken for °C" in printed
    found = re.search(r"1 face, score (1\.00|0\.9\d), mean error ([\d.]+) %", printed)
    assert float(found[2]) < 2.5
    corners = [float(value) for value in re.findall(r"eye_corner +[\d.]+ +([\d.]+)$", printed, re.M)]
    assert len(corners) == 2 and all(36.5 < value < 38.5 for value in corners)
    lines = [json.loads(line) for line in (folder / "clip.npy.jsonl").read_text().splitlines()]
    assert len(lines) == frames and all([face["person"] for face in line["faces"]] == [1] for line in lines)
    rows = [row.split(",") for row in (folder / "clip.npy_regions.csv").read_text().splitlines()]
    region, mean = rows[0].index("region"), rows[0].index("mean")
    return np.array([float(row[mean]) for row in rows if row[region] == "nostrils"])


def test_demo_measures_an_image_and_a_short_clip(execute, tmp_path):
    notebook = read(DEMO)
    cell = next(cell for cell in notebook.cells if cell.id == "clip")
    cell.source = cell.source.replace("FPS, FRAMES, BREATHS = 8.0, 48, 0.5", "FPS, FRAMES, BREATHS = 8.0, 8, 0.5")
    assert len(check_demo(execute(notebook), tmp_path / "demo" / "out", 8)) == 8


@pytest.mark.slow
def test_demo_shows_the_breath(execute, tmp_path):
    course = check_demo(execute(read(DEMO)), tmp_path / "demo" / "out", 48)
    power = np.abs(np.fft.rfft(course - course.mean()))  # of 6 s, in steps of 1/6 Hz
    assert power.argmax() == 3 and np.ptp(course) > 0.5
