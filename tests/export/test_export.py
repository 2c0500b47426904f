"""The folder that an export writes, and what goes wrong."""

import hashlib
import json
import sys

import numpy as np
import pytest
from commands import run_mlcm
from exported import run_of

from mlcm_jax import codecs
from mlcm_jax.data import augment
from mlcm_jax.errors import InputError
from mlcm_jax.export import formats, parity
from mlcm_jax.export.export import export
from mlcm_jax.inference.predictor import Predictor

# ----------------------------------------------------------------------------------------------------- the folder


def test_a_folder_of_stablehlo_has_all_that_its_use_takes(tmp_path, capsys):
    run = run_of(tmp_path, gain="box")
    path = export(run, format="stablehlo", out=tmp_path / "out", count=3)
    assert path.name == "landmarks.mlirbc" and path.read_bytes()[:4] == b"ML\xefR"
    about, report = (json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("model", "report"))
    card = json.loads((run / "model.json").read_text())
    assert about["input"] | {"meaning": ""} == {
        "name": "crop", "shape": [1, 32, 32, 1], "axes": "NHWC", "dtype": "float32", "range": [0.0, 1.0], "meaning": "",
    }  # fmt: skip
    assert [(one["name"], one["shape"]) for one in about["outputs"]] == [
        ("landmarks", [1, 68, 2]),
        ("uncertainty", [1, 68]),
    ]
    assert about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert about["weights_sha256"] == card["weights_sha256"]
    kept = ("stage", "architecture", "image_size", "expand", "modality", "thermal_range", "gain", "calibration")
    assert {key: about[key] for key in kept} == {key: card[key] for key in kept}
    assert about["layout"]["name"] == "ibug68" and about["layout"]["flip"][36] == 45
    steps = about["preprocessing"]
    assert steps["gain"]["percentiles"] == [2.0, 98.0] and steps["gain"]["levels"] == [25.5, 229.5]
    assert (steps["crop"]["size"], steps["crop"]["expand"], steps["crop"]["outside_the_image"]) == (32, 1.25, 0)
    assert about["decoding"]["decoder"] == "none"
    assert report["bound"]["holds"] and report["difference_px"]["max"] < 0.01 and report["images"] == 3
    assert report["nme_percent"]["before"] == pytest.approx(report["nme_percent"]["after"], abs=1e-3)
    assert report["bytes"] == len(path.read_bytes()) and report["latency_ms"]["median"] > 0
    said = capsys.readouterr().out
    assert f"({report['bytes'] / 1e6:.2f} MB)" in said and "3 rendered images" in said and "NME" in said
    assert said.startswith("Converting the network to landmarks.mlirbc")  # it takes a while


@pytest.mark.parametrize("gain", ["box", "as_is", "range", "rgb"])
def test_vectors_hold_what_predictor_does(tmp_path, gain):
    changes = {
        "box": {"gain": "box"},
        "as_is": {},
        "range": {"thermal_range": (20.0, 40.0)},
        "rgb": {"modality": "rgb"},
    }
    run = run_of(tmp_path, **changes[gain])
    export(run, format="stablehlo", out=tmp_path / "out", count=2)
    cases = json.loads((tmp_path / "out" / "vectors" / "vectors.json").read_text())
    names = {
        "box": ["plain", "holes", "8 bits", "border", "large"],
        "as_is": ["plain", "border", "large"],
        "range": ["plain", "holes"],
        "rgb": ["plain", "border", "large"],
    }
    assert [case["name"] for case in cases] == names[gain]
    predictor = Predictor(run, detector=False)
    for case in cases:
        arrays = {key: np.load(tmp_path / "out" / "vectors" / file) for key, file in case["arrays"].items()}
        points = predictor.predict_crops(arrays["crop"])[0]
        np.testing.assert_allclose(arrays["landmarks"][0], points, atol=1e-5)
        np.testing.assert_allclose(arrays["result"], codecs.to_original(points, arrays["to_image"], 32), atol=1e-2)
        spec = augment.Crop(32, 1.25, "ibug68", predictor.card.gain)
        if case["name"] != "holes" and gain != "range":
            key = "rgb" if gain == "rgb" else "thermal"
            whole = {key: arrays["image"], "box": arrays["box"], "landmarks": np.zeros((68, 2)), "visible": np.ones(68)}
            np.testing.assert_array_equal(augment.crop(whole, spec)[key], arrays["crop"][0])


def test_an_earlier_export_is_replaced_only_on_demand(tmp_path):
    run, out = run_of(tmp_path), tmp_path / "out"
    path = export(run, format="stablehlo", out=out, count=2)
    (out / "vectors" / "9_crop.npy").write_bytes(b"stale")
    (out / "mine.txt").write_text("mine")
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match=r"holds model.json already; give another folder, or --overwrite"):
        export(run, format="stablehlo", out=out, count=2)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before
    about = json.loads((out / "model.json").read_text())
    (out / "model.json").write_text(json.dumps(about | {"file": "landmarks.onnx"}))
    (out / "landmarks.onnx").write_bytes(b"of the earlier export")
    export(run, format="stablehlo", out=out, count=2, overwrite=True)
    about = json.loads((out / "model.json").read_text())
    assert about["file"] == "landmarks.mlirbc" and about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (out / "mine.txt").exists()
    assert not (out / "vectors" / "9_crop.npy").exists() and not (out / "landmarks.onnx").exists()


def test_an_earlier_export_outlives_an_interruption(tmp_path, monkeypatch):
    run, out = run_of(tmp_path), tmp_path / "out"
    export(run, format="stablehlo", out=out, count=2)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    saves, calls = np.save, iter(range(100))

    def save(*words):
        if next(calls) == 4:
            raise KeyboardInterrupt
        saves(*words)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(np, "save", save)
        export(run, format="stablehlo", out=out, count=2, overwrite=True)
    assert all(path.exists() and path.read_bytes() == content for path, content in before.items())
    (out / "model.json").write_text(json.dumps(json.loads((out / "model.json").read_text()) | {"file": 3}))
    export(run, format="stablehlo", out=out, count=2, overwrite=True)
    assert {path for path in out.rglob("*") if path.is_file()} == before.keys()
    assert not (out / "vectors.new").exists()


def test_a_trained_network_is_never_overwritten(tmp_path):
    run = run_of(tmp_path)
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds a model.json that no export wrote; give another folder\.$"):
            export(run, format="stablehlo", out=run, overwrite=overwrite)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def test_a_file_and_a_folder_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match=r"--out=.*a is a file; give a folder\.$"):
        export(run_of(tmp_path), format="stablehlo", out=tmp_path / "a")
    with pytest.raises(InputError, match=r"Cannot write .*; give another --out\.$"):
        export(tmp_path / "run", format="stablehlo", out=tmp_path / "a" / "b", count=2)


def test_an_exported_folder_is_no_run(tmp_path):
    export(run_of(tmp_path), format="stablehlo", out=tmp_path / "out", count=2)
    with pytest.raises(InputError, match=r"describes an exported file; give the work directory of the run"):
        Predictor(tmp_path / "out")


# --------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflit"}, r"--format='tflit' is unknown; did you mean 'tflite'\?"),
        ({"format": "onnx", "network": "detectors"}, r"--network='detectors' is unknown; did you mean 'detector'\?"),
        ({"format": "onnx", "quantize": "fp61"}, r"--quantize='fp61' is unknown; did you mean 'fp16'\?"),
        ({"format": "stablehlo", "quantize": "int8"}, "--quantize=int8 needs --format=tflite or onnx"),
    ],
)
def test_unknown_options_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        export(out=tmp_path / "a", **options)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("format", "package"), [("tflite", "litert_converter"), ("onnx", "jax2onnx")])
def test_a_missing_library_is_named_with_the_remedy(tmp_path, monkeypatch, format, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        InputError, match=rf"needs the package {package}.*; install it with `pip install 'mlcm_jax\[export\]'`"
    ):
        export(format=format, out=tmp_path / "a")


def test_a_network_that_cannot_be_converted_is_reported_in_one_line(tmp_path, monkeypatch):
    def fails(*_):
        raise ValueError("no kernel for this operation\nand forty lines more")

    monkeypatch.setattr(formats, "convert", fails)
    with pytest.raises(InputError) as raised:
        export(format="tflite", out=tmp_path / "a")
    assert str(raised.value).endswith(
        "cannot be converted to tflite (no kernel for this operation); try --format=onnx."
    )


@pytest.mark.parametrize(
    ("quantize", "report", "what"),
    [
        (
            "fp16",
            {"difference_px": {"max": 0.06, "mean": 0.01}},
            "largest difference in pixels: 0.06, where at most 0.05",
        ),
        ("int8", {"nme_percent": {"before": 2.0, "after": 2.2}}, "points of NME lost: 0.2, where at most 0.1"),
        ("int8", {"nme_percent": None, "difference_percent": 0.7}, "mean difference .*: 0.7, where at most 0.5"),
        (
            "int8",
            {"recall_percent": {"before": 70, "after": 71}, "precision_percent": {"before": 90, "after": 87}},
            "points of recall or precision lost: 3, where at most 2",
        ),
    ],
)
def test_a_quantised_file_beyond_its_bound_needs_force(tmp_path, monkeypatch, capsys, quantize, report, what):
    full = {"difference_px": {"max": 1.0, "mean": 0.5}, "latency_ms": {"median": 1.0}, "images": 2} | report
    monkeypatch.setattr(parity, "report", lambda *_: full)
    monkeypatch.setattr("mlcm_jax.export.quantize.half", lambda content, _: content)
    monkeypatch.setattr("mlcm_jax.export.quantize.eight", lambda body, tail, *_: formats.convert(body, "stablehlo"))
    monkeypatch.setattr("mlcm_jax.export.export._check", lambda *_: None)
    run, options = run_of(tmp_path), {"format": "stablehlo", "quantize": quantize, "count": 2}
    with pytest.raises(InputError, match=rf"loses too much on rendered faces \({what} are allowed\); .*--force"):
        export(run, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    export(run, out=tmp_path / "out", force=True, **options)
    assert "it is written because of --force" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["bound"]["holds"] is False


def test_a_float_file_that_differs_is_a_fault_that_force_does_not_hide(tmp_path, monkeypatch):
    runner = formats.runner
    monkeypatch.setattr(
        formats, "runner", lambda *given: lambda crop: {k: v + 1e-3 for k, v in runner(*given)(crop).items()}
    )
    with pytest.raises(InputError, match=r"differs from the network \(largest difference .*\); report this as a fault"):
        export(run_of(tmp_path), format="stablehlo", out=tmp_path / "out", count=2, force=True)
    assert not (tmp_path / "out").exists()


def test_the_command_takes_the_flags(tmp_path):
    run = run_of(tmp_path)
    result = run_mlcm("export", f"--model={run}", "--format=stablehlo", "--quantize=int8", f"--out={tmp_path / 'out'}")
    assert result.returncode == 1 and "mlcm: --quantize=int8 needs --format=tflite or onnx" in result.stderr
    result = run_mlcm("export", f"--model={run}", "--network=detector", "--format=onnx", f"--out={tmp_path / 'out'}")
    assert result.returncode == 2 and "--network names a shipped network" in result.stderr
