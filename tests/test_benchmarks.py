"""Tests that the scripts of benchmarks/ run, and that their docstrings name the command and where the result is."""

import importlib
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

import tfds_builders
from benchmarks import (
    check_synthetic,
    device_augment,
    disturbed,
    generator,
    growth,
    kd_curves,
    kd_sensitivity,
    ktl,
    layout_images,
    loader,
    machine,
    preview_synthetic,
    real_faces,
    steps,
    strong_teacher,
    tiny,
)
from mlcm_jax import config as configs
from mlcm_jax import landmarks, read_image
from mlcm_jax.evaluation import ablation_rows, seeds
from mlcm_jax.inference.predictor import DOUBTFUL, Predictor
from mlcm_jax.synthetic import generate

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))
SMOKE = "configs/tiny.py:smoke"


@pytest.mark.parametrize("name", SCRIPTS)
def test_docstring_has_the_command_and_where_the_result_is(name):
    text = importlib.import_module(f"benchmarks.{name}").__doc__
    assert f"python -m benchmarks.{name}" in text
    places = ("RESULTS.md", "docs/", "tfds_builders")
    assert any(place in text for place in places)


def test_results_name_every_measurement():
    results = (FOLDER / "RESULTS.md").read_text()
    for name in SCRIPTS:
        text = importlib.import_module(f"benchmarks.{name}").__doc__
        section = text.partition('RESULTS.md, "')[2].partition('"')[0]
        assert not section or f"## {section}" in results, name


def test_machine_is_described(tmp_path):
    assert re.search(r", \d+ cores, load \S+, ten million additions \d+\.\d s, Python 3\.\d+", machine.describe())
    assert all(f", {name} " in machine.describe() for name in machine.PACKAGES)
    assert machine.commit(tmp_path) == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.example"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "empty"]):
        subprocess.run([*git, *words], check=True)
    name = machine.commit(tmp_path)
    (tmp_path / "folder").mkdir()
    assert re.fullmatch(r"[0-9a-f]{7,}", name) and machine.commit(tmp_path / "folder") == "unknown"
    (tmp_path / "file").write_text("")
    assert machine.commit(tmp_path) == f"{name} (changed)"


@pytest.mark.parametrize("rate", ["10", "1,234"])
def test_imports_are_counted_until_the_end_of_the_first_stage(rate):
    line = "import time:      1500 |       9000 |   {}\n"
    bar = f"teacher        ━━━━━━━━━━━━━━━━━━ 8/8 {rate} images/s loss 6.729 0:00:52 ETA 0:00:00\n"
    log = line.format("jax") + line.format("flax") + bar + line.format("matplotlib")
    assert tiny.imports(log) == pytest.approx(3e-3)
    with pytest.raises(SystemExit, match="There is no stage"):
        tiny.imports(line.format("jax"))


@pytest.mark.slow
def test_the_whole_run_is_timed(capsys):
    tiny.main(["--turns=1", f"--config={SMOKE}", f"--before={FOLDER.parent}"])
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| before", "| now", "| now, cached"]
    nme = {row.rpartition(" | ")[2] for row in rows}
    assert len(nme) == 1 and "compress" in nme.pop()  # the same code has the same results
    assert 0.5 < float(re.search(r"imports until the end of the first stage: (\S+) s", out)[1]) < 60


LOADER = ("nothing kept: ", "first pass: ", "later passes: ", "Python's part: ", "plain crop alone: ", "ordinary PNG: ")
LOADER += tuple(f"nothing kept, {text}: " for text in ("pairs/s by the clock, threads 1", "a batch of 64"))
LOADER += ("Python's part, pairs/s by the clock, processes 1: ",)
LARGER = "resnet18 0.125 32 8 train"


@pytest.mark.parametrize(("row", "line"), [("", ()), pytest.param(LARGER, (f"{LARGER}, ",), marks=pytest.mark.slow)])
def test_loader(row, line, data_dir):
    flags = ["--dataset=synthetic_faces/48x48", "--size=32", f"--data_dir={data_dir}"]
    flags += ["--threads=1", "--turns=1", f"--steps={row}"]
    # The script runs in its own process, because it pins itself to one core.
    command = [sys.executable, "-m", "benchmarks.loader", *flags]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert all(any(line.startswith(text) for line in lines) for text in (*LOADER, *line))


def test_augmentation_on_the_devices_warps_as_opencv_does(capsys):
    device_augment.main(["--pairs=4", "--side=32", "--turns=1"])
    lines = capsys.readouterr().out.splitlines()
    difference = float(re.search(r"differ by at most (\d+) gray levels", lines[1])[1])
    assert difference <= 1 and len(lines) == 8


def test_dataset_of_the_loader(tmp_path, monkeypatch):
    pair = generate.example(0, 0, size=48)
    pairs = {"train": [{key: pair[key] for key in ("rgb", "thermal", "landmarks")}]}
    real = tfds_builders.build

    def build(name, data_dir, **options):
        small = types.SimpleNamespace(as_data_source=lambda split: pairs[split])
        return small if name.startswith("synthetic_faces") else real(name, data_dir, **options)

    monkeypatch.setattr(tfds_builders, "build", build)
    loader.make_bench(str(tmp_path), copies=3)
    built = real(loader.BENCH, tmp_path)
    assert built.info.splits["train"].num_examples == 3
    for found in built.as_data_source(split="train"):
        np.testing.assert_allclose(found["landmarks"], pair["landmarks"], atol=1e-3)
    loader.make_bench(str(tmp_path))  # it is left alone
    assert real(loader.BENCH, tmp_path).info.splits["train"].num_examples == 3


def test_generator_compares_two_checkouts(capsys):
    root = FOLDER.parent
    generator._rates({"before": root, "now": root}, None, 32, 8)
    first, second, ratio = capsys.readouterr().out.splitlines()
    assert first.startswith("hand-made, 32 px, before: ") and second.startswith("hand-made, 32 px, now: ")
    assert ratio.endswith("; all arrays are equal")


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_kd_loss_has_the_published_weights(variant):
    rows = kd_curves.check(0.03, 0.05, variant)
    assert len(rows) == 6
    for _, _, published, found, slope in rows:
        assert found == pytest.approx(published, abs=1e-3)
        assert np.isfinite(slope)
    value, slope = kd_curves.terms(np.array([1e-7]), 0.03, 0.05, "paper")["KD-Loss"]
    assert slope[0] == pytest.approx(0.25, abs=1e-3) and value[0] > 0


def test_kd_curves_are_drawn(tmp_path):
    kd_curves.draw(str(tmp_path / "kd.png"), 0.03, 0.05)
    assert cv2.imread(str(tmp_path / "kd.png")).shape[1] > 600


def test_preview_of_synthetic_faces(tmp_path):
    out = tmp_path / "new" / "preview.png"
    preview_synthetic.main([f"--out={out}", "--rows=1", "--columns=2", "--size=32"])
    assert cv2.imread(str(out)).shape == (32, 2 * 3 * 32, 3)


def shown_layouts():
    """Yields the layouts of the datasets whose README shows landmarks.png."""
    for readme in sorted(Path(tfds_builders.__file__).parent.glob("*/README.md")):
        if "landmarks.png" in readme.read_text():
            yield landmarks.get(layout_images.builder_of(readme.parent.name).LAYOUT)


def test_layout_images_place_the_landmarks_of_every_dataset():
    face = generate.example(5, 404, size=64, frontal=True, well_lit=True)
    names = set()
    for layout in shown_layouts():
        points, schematic = layout_images.place(face["landmarks"].astype(np.float64), face["jaw3d"], layout)
        assert landmarks.check(points, layout).shape == (layout.count, 2)
        # In a layout that is not mirrored, the subject's right side is on the left of the image.
        left, right = (points[list(layout.groups[eye])].mean(0) for eye in ("right_eye", "left_eye"))
        assert left[0] < right[0]
        names |= {layout.name} if schematic else set()
    assert names == {"tfake70", "wflw98", "cofw29", "charlotte73"}


def test_layout_image_is_small():
    image = layout_images.draw(landmarks.get("tfw5"), thermal=True, seed=5, index=404)
    assert image.shape == (layout_images.SIDE, layout_images.SIDE, 3)
    assert len(layout_images.encode(image)) < layout_images.MOST_BYTES


def test_dlib_finds_the_synthetic_faces():
    pytest.importorskip("dlib")
    pytest.importorskip("face_recognition_models", exc_type=ImportError)
    report = check_synthetic.check(3, 0, None)
    assert report.count == 3 and report.rate > 0.6 and np.median(report.nme) < 0.08


@pytest.mark.slow
def test_ktl(capsys):
    ktl.main(["--model=resnet18", "--size=32", "--batch=4", "--steps=2"])
    assert "images/s of 32 px" in capsys.readouterr().out


def test_cost_of_dikd_is_that_of_each_turn(capsys):
    times = {("a 1 forward", "ours"): [1.0, 1.0, 3.0], ("a 1 train", "ours"): [3.0, 4.0, 3.0]}
    times["a 1 ktl", "ours"] = [4.0, 6.0, 9.0]
    for row in ("a 1 forward", "a 1 ktl", "b 1 ktl"):
        steps._say_cost_of_dikd(row, times)
    assert capsys.readouterr().out == "a 1 ktl: 1.20 (1.00–1.50) times forward + train\n"


@pytest.mark.slow
def test_steps_are_timed(capsys):
    rows = "--rows=mobilenet_v2 0.25 32 4 train,mobilenet_v2 0.25 32 4 forward"
    steps.main([rows, "--turns=2", "--steps=1", "--xla_flag=--xla_cpu_enable_fast_math=true"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| mobilenet")]
    assert len(rows) == 2 and all(row.count("images/s") == 2 for row in rows)  # without the flag and with it
    assert all(re.search(r"\d\) ms, [1-9]\d* images/s, 412,328 parameters", row) for row in rows)


@pytest.mark.slow
def test_growth(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(growth, "BASE", {"side": 32, "batch": 4, "landmarks": 68, "devices": 1})
    monkeypatch.setattr(growth, "POINTS", {"batch": (4, 64), "devices": (1, 2)})
    growth.main([f"--out={tmp_path / 'growth.png'}", "--repeats=3"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[:2] for row in rows] == [["| batch", "4"], ["| batch", "64"], ["| devices", "1"], ["| devices", "2"]]
    assert 0.1 < float(rows[1][3]) < 1.5 and 0.1 < float(rows[1][5]) < 1.1
    assert cv2.imread(str(tmp_path / "growth.png")).std() > 10


def test_strong_teacher(smoke_run, data_dir, tmp_path, capsys):
    flags = [f"--config={SMOKE}", f"--run={smoke_run}", f"--data_dir={data_dir}"]
    strong_teacher.main([*flags, f"--workdir={tmp_path}"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["seed"] == 0 and list(found["nme"]) == ["DIKD", "FD + LD", "none"]
    rows = {row["name"]: row["nme"] for row in json.loads((smoke_run / "results.json").read_text())["rows"]}
    # The teacher is that of the smoke run, so two of the students must equal stages of that run.
    assert found["nme"]["DIKD"] == pytest.approx(rows["transfer"], abs=1e-3)
    assert found["nme"]["none"] == pytest.approx(rows["thermal_alone"], abs=1e-3)


@pytest.mark.slow
def test_kd_sensitivity(data_dir, tmp_path, capsys):
    config = ablation_rows.base(configs.load("configs/ablation_kdloss.py", "smoke"))
    config.stages = kd_sensitivity.TEACHERS
    seeds.train(config, tmp_path / "shared" / "seed_0", data_dir=str(data_dir))
    flags = ["--config=configs/ablation_kdloss.py:smoke", f"--run={tmp_path / 'shared'}", f"--data_dir={data_dir}"]
    kd_sensitivity.main([*flags, f"--workdir={tmp_path / 'own'}", "--only=as published,main weight 10"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].startswith("| change |")
    assert lines[-2].startswith("| as published |") and lines[-1].startswith("| main weight 10 |")
    control = [line.split("|")[2] for line in lines[-2:]]
    assert control[0] == control[1]  # the change does not affect the student without teachers


def test_real_faces_draws_fewer_faces_than_a_row(tmp_path):
    rng = np.random.default_rng(0)
    images, boxes = [rng.integers(0, 256, (60, 80), np.uint8)] * 2, [np.array([20, 10, 30, 40])] * 2
    truths = [rng.uniform(20, 50, (54, 2)) for _ in images]
    real_faces.draw(str(tmp_path / "a.png"), images, truths, [truth + 1 for truth in truths], boxes)
    assert cv2.imread(str(tmp_path / "a.png")).shape == (240, 1200, 3)


def test_disturbances_cost_hardly_anything():
    """Dead pixels, rows without values, telemetry and things in view, in files of three kinds, with the true box."""
    faces = 6
    found, wrong = disturbed.measure(Predictor(layout="ibug68", detector=False), faces)
    nme = {key: np.mean([one.nme for one in answers]) for key, answers in found.items()}
    assert len(nme) == 3 * 7 - 1 and all(len(answers) == faces for answers in found.values())
    assert 0.5 < nme["plain", "16-bit"] < 4
    assert max(nme.values()) < nme["plain", "16-bit"] + 0.3
    answers = [one for some in found.values() for one in some]
    assert disturbed.rates(answers, DOUBTFUL)[0] < 0.05  # good ones that are warned of
    nothing = [
        one for name in ("closed shutter (noise)", "clouds", "gradient", "3 times the size") for one in wrong[name]
    ]
    assert disturbed.rates(nothing, DOUBTFUL)[1] > 0.9


def test_what_is_disturbed_is_in_the_files(tmp_path):
    one, rng = disturbed.scene(1), np.random.default_rng(0)
    for name, change in disturbed.DISTURBANCES.items():
        changed = change(one, np.random.default_rng(3))
        path, corner = disturbed.write(changed, "16-bit", tmp_path, rng)
        image = read_image(path)
        height = len(one.celsius)
        assert len(image.values) == height + abs(changed.telemetry)
        seen = image.celsius[int(corner[1]) : int(corner[1]) + height]
        holes = np.isnan(seen)
        assert holes.mean() == pytest.approx(
            {"2 % dead pixels": 0.02, "rows without values": 13 / height}.get(name, 0), abs=2e-3
        )
        hot, cold = (seen > 100).any(), (seen < -10).any()
        assert hot == (name == "lamp") and cold == (name == "cold window")
        same = np.abs(seen - one.celsius)[~holes] < 0.02
        x, y, w, h = one.box.round().astype(int)
        face = np.zeros(seen.shape, bool)
        face[y : y + h, x + 2 : x + w - 2] = True
        assert same[face[~holes]].mean() > 0.95
