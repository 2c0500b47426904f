"""Export in an environment that the extra makes: every format of both networks, the examples, and all architectures."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import once
from needed import need

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
FILES = [
    *((format, quantize) for format in ("onnx", "tflite") for quantize in ("", "fp16", "int8")),
    ("stablehlo", ""),
]
LIMITS = {"": 1.3e6, "fp16": 0.75e6, "int8": 0.55e6}  # bytes of the landmarks
# What the converters cannot do (docs/export.md has the table).
REFUSED = {
    ("resnet18", "aam", "transposed", "onnx", ""),
    ("resnet18", "aam", "transposed", "onnx", "fp16"),
    ("swin_v2_t", "coordinates", "", "tflite", "int8"),
}

pytestmark = pytest.mark.slow


def run(*words, cwd, timeout=600, code=0):
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=cwd, timeout=timeout)
    assert result.returncode == code, f"{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(scope="session")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment with the extra `export`."""

    def make(folder):
        run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        run(folder / "venv/bin/python", "-m", "pip", "install", "-q", f"{ROOT}[export]", cwd=folder, timeout=1800)

    return once(tmp_path_factory, "export_extra", make) / "venv/bin/python"


@pytest.fixture(scope="session")
def exported(tmp_path_factory, python) -> Path:
    """Folders NETWORK-FORMAT-QUANTIZE of everything that the command writes."""

    def make(folder):
        for network in ("landmarks", "detector"):
            for format, quantize in FILES:
                out = folder / f"{network}-{format}-{quantize}"
                flags = [f"--network={network}", f"--format={format}", f"--out={out}"]
                flags += [f"--quantize={quantize}"] if quantize else []
                result = run(python, "-m", "mlcm_jax.cli", "export", *flags, cwd=folder)
                assert "Traceback" not in result.stderr and "Wrote" in result.stdout

    return once(tmp_path_factory, "exported", make)


@pytest.mark.parametrize("network", ["landmarks", "detector"])
@pytest.mark.parametrize(("format", "quantize"), FILES)
def test_shipped_networks_keep_their_bounds_in_every_format(exported, network, format, quantize):
    folder = exported / f"{network}-{format}-{quantize}"
    report, about = (json.loads((folder / f"{name}.json").read_text()) for name in ("report", "model"))
    assert report["bound"]["holds"] and report["images"] == 64
    if not quantize:
        assert report["difference_px"]["max"] < 0.01
    if quantize == "fp16":
        assert report["difference_px"]["max"] < 0.05
    if network == "landmarks":
        assert report["nme_percent"]["before"] < 2.2
        assert report["nme_percent"]["after"] - report["nme_percent"]["before"] < 0.1
        assert report["bytes"] < LIMITS[quantize]
    decoder = "boxes" if network == "detector" else "soft_argmax" if quantize == "int8" else "none"
    assert about["decoding"]["decoder"] == decoder
    assert about["bytes"] == (folder / about["file"]).stat().st_size


def test_the_example_in_python_reproduces_the_vectors_without_jax(exported, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "-q", "numpy", "onnxruntime", cwd=tmp_path, timeout=900)
    run(python, "-c", "import jax", cwd=tmp_path, code=1)
    script = ROOT / "examples/python/landmarks.py"
    for folder in exported.glob("*-onnx-*"):
        result = run(python, script, folder, cwd=tmp_path)
        assert result.stdout.count("within") == len(json.loads((folder / "vectors/vectors.json").read_text())) * 2
    vectors = exported / "landmarks-onnx-" / "vectors"
    result = run(python, script, exported / "landmarks-onnx-", vectors / "0_image.npy", "20,20,90,110", cwd=tmp_path)
    assert len(result.stdout.splitlines()) == 68
    result = run(
        python, script, exported / "detector-onnx-", exported / "detector-onnx-/vectors/0_image.npy", cwd=tmp_path
    )
    assert len(result.stdout.splitlines()[0].split()) == 4
    assert "usage: landmarks.py DIR" in run(python, script, cwd=tmp_path, code=1).stderr
    result = run(python, script, exported / "landmarks-onnx-", vectors / "0_image.npy", cwd=tmp_path, code=1)
    assert result.stderr.endswith("this file finds landmarks in a box; give x,y,w,h\n")


def test_the_example_in_cpp_reproduces_the_vectors(exported, python, tmp_path):
    need("cmake", "g++")
    (library,) = python.parents[1].glob("lib/python*/site-packages/onnxruntime/capi/libonnxruntime.so.*")
    for name in ("include", "lib"):
        (tmp_path / "ort" / name).mkdir(parents=True)
    shutil.copy(HERE / "onnxruntime_c_api.h", tmp_path / "ort/include")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / "ort/lib" / name).symlink_to(library)
    source, build = ROOT / "examples/cpp", tmp_path / "build"
    result = run("cmake", "-S", source, "-B", tmp_path / "none", cwd=tmp_path, code=1)
    assert "ONNX Runtime was not found; unpack a release archive" in " ".join(result.stderr.split())
    run("cmake", "-S", source, "-B", build, f"-DONNXRUNTIME_DIR={tmp_path / 'ort'}", cwd=tmp_path)
    assert "warning" not in run("cmake", "--build", build, cwd=tmp_path).stdout
    for folder in exported.glob("*-onnx-*"):
        result = run(build / "landmarks", folder, cwd=tmp_path)
        assert result.stdout.count("within") == len(json.loads((folder / "vectors/vectors.json").read_text()))
    folder = exported / "landmarks-onnx-"
    assert "give x,y,w,h" in run(build / "landmarks", folder, "a.npy", cwd=tmp_path, code=2).stderr
    assert "cannot read" in run(build / "landmarks", folder, "a.npy", "1,2,30,40", cwd=tmp_path, code=2).stderr
    (folder / "vectors/0_result.npy").rename(tmp_path / "kept.npy")
    shutil.copy(folder / "vectors/1_box.npy", folder / "vectors/0_result.npy")  # a wrong result is not passed over
    run(build / "landmarks", folder, cwd=tmp_path, code=1)
    (tmp_path / "kept.npy").rename(folder / "vectors/0_result.npy")


def test_every_architecture_is_exported_or_refused_in_one_sentence(python, tmp_path):
    result = run(python, HERE / "script_architectures.py", tmp_path, cwd=tmp_path, timeout=7200)
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert len({json.dumps(line["architecture"]) for line in lines}) >= 18
    for line in lines:
        architecture = line["architecture"]
        decoder = architecture.get("decoder", "transposed" if architecture["head"] == "aam" else "")
        key = architecture["name"], architecture["head"], decoder, line["format"], line["quantize"]
        assert bool(line["refused"]) == (key in REFUSED), line
        if line["refused"]:
            assert "\n" not in line["refused"] and "; try --format=" in line["refused"]
        else:
            assert Path(tmp_path / line["file"]).stat().st_size == line["report"]["bytes"]
        if not line["refused"] and not line["quantize"]:
            assert line["report"]["difference_px"]["max"] < 0.01, line
