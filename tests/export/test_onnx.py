"""ONNX of a tiny network, and the example in Python, which runs it without JAX."""

import json

import numpy as np
import pytest
from exported import run_of
from needed import need

from mlcm_jax.data import gain
from mlcm_jax.export import faces, formats, quantize
from mlcm_jax.export.export import export
from mlcm_jax.inference.open_network import SHIPPED
from mlcm_jax.models import stored


@pytest.mark.parametrize("smaller", ["", "fp16", "int8"])
def test_onnx_of_a_tiny_network_agrees_with_jax_and_runs_without_it(tmp_path, example, smaller, capsys):
    need("jax2onnx", "onnx")
    path = export(
        run_of(tmp_path, gain="box"), format="onnx", quantize=smaller, out=tmp_path / "out", count=4, force=True
    )
    session = formats.session(path.read_bytes())
    (given,) = session.get_inputs()
    assert (given.name, given.shape, given.type) == ("crop", [1, 32, 32, 1], "tensor(float)")
    names = ["maps", "local", "doubt"] if smaller == "int8" else ["landmarks", "uncertainty"]
    assert [one.name for one in session.get_outputs()] == names
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["difference_px"]["max"] < {"": 0.01, "fp16": 0.1, "int8": 20.0}[smaller]
    assert report["bound"]["holds"]
    assert example["check"](example["Model"](tmp_path / "out"), tmp_path / "out" / "vectors") < 0.05
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out and "WARNING" not in captured.err


def test_onnx_of_coordinates_in_int8_keeps_the_last_product_in_float(tmp_path, example):
    need("jax2onnx", "onnx")
    path = export(
        run_of(tmp_path, "coordinates"), format="onnx", quantize="int8", out=tmp_path / "out", count=4, force=True
    )
    assert [one.name for one in formats.session(path.read_bytes()).get_outputs()] == ["landmarks", "uncertainty"]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["difference_px"]["mean"] < 3.0
    assert example["check"](example["Model"](tmp_path / "out"), tmp_path / "out" / "vectors") < 0.05


def test_int8_kernels_of_onnx_have_seven_bits(tmp_path):
    """Without VNNI instructions, processors add products of 8 bits in pairs of 16 bits, which overflow."""
    need("jax2onnx", "onnx")
    import onnx
    from onnx import numpy_helper

    path = export(run_of(tmp_path), format="onnx", quantize="int8", out=tmp_path / "out", count=4, force=True)
    arrays = [numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    kernels = [array for array in arrays if array.dtype == np.int8 and array.ndim > 1]
    assert kernels and all(32 < np.abs(kernel.astype(int)).max() <= 64 for kernel in kernels)


def test_onnx_with_float16_keeps_what_is_no_kernel(tmp_path):
    need("onnx")
    import onnx
    from onnx import helper, numpy_helper

    large = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    arrays = [numpy_helper.from_array(large, name) for name in ("kernel", "grid")]
    nodes = [helper.make_node("MatMul", ["x", "kernel"], ["y"]), helper.make_node("Add", ["y", "grid"], ["z"])]
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [64, n]) for name, n in (("x", 64), ("z", 128))
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], arrays))
    small = onnx.load_from_string(quantize.half(model.SerializeToString(), "onnx"))
    kinds = {one.name: numpy_helper.to_array(one).dtype for one in small.graph.initializer}
    assert kinds == {"kernel_half": np.float16, "grid": np.float32}
    onnx.checker.check_model(small)


@pytest.mark.parametrize("kind", ["uint8", "celsius", "holes"])
def test_the_example_makes_the_crops_of_the_shipped_network(example, kind):
    """For boxes of all sizes, also beyond the border: gray levels differ by at most 1, and hardly any does."""
    rng = np.random.default_rng(3)
    gain = json.loads((SHIPPED / "model.json").read_text())
    card = stored.load(SHIPPED)[1]
    steps = {"percentiles": [2, 98], "levels": [25.5, 229.5], "fewest": 16}
    for _ in range(8):
        coarse = rng.random((12, 16)).astype(np.float32)
        image = np.kron(coarse, np.ones((26, 23), np.float32)) + 0.1 * rng.random((312, 368), dtype=np.float32)
        image = (200 * image).astype(np.uint8) if kind == "uint8" else 20 + 15 * image
        if kind == "holes":
            image[40:43, 50:60] = np.nan
        side = float(np.exp(rng.uniform(np.log(20), np.log(500))))
        box = np.array([rng.uniform(0, 300), rng.uniform(0, 250), side, side * rng.uniform(0.8, 1.2)], np.float32)
        wanted = faces.view(card, image, box)
        gray = example["box_gain"](image, box, steps)
        found, to_image = example["warp"](gray, box, {"size": 96, "expand": gain["expand"]})
        apart = np.abs(found - 255 * wanted.crop[0, ..., 0])
        # The nearest pixel of a hole may be one of several; so may gray levels between it and its neighbours.
        assert (apart > 1.5).mean() < (0.01 if kind == "holes" else 1e-9) and (apart > 0.5).mean() < 0.02
        np.testing.assert_allclose(to_image, wanted.to_image, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["uint8", "celsius", "holes", "large"])
def test_the_example_makes_the_crops_and_boxes_of_the_shipped_detector(example, tmp_path, kind):
    export(network="detector", format="stablehlo", out=tmp_path / "out", count=6)
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    cases = json.loads((tmp_path / "out" / "vectors" / "vectors.json").read_text())
    name = {"uint8": "8 bits", "celsius": "plain"}.get(kind, kind)
    (case,) = [one for one in cases if one["name"] == name]
    arrays = {key: np.load(tmp_path / "out" / "vectors" / file) for key, file in case["arrays"].items()}
    model = type("Model", (), {"about": about})()
    crop, to_image = example["Model"].crop(model, arrays["image"], None)
    assert np.abs(255 * (crop - arrays["crop"])).max() <= 1.5
    found = example["Model"].decode(model, arrays, to_image, arrays["image"].shape)
    assert len(found) and found.shape == arrays["result"].shape
    np.testing.assert_allclose(found, arrays["result"], atol=0.01)
    assert about["decoding"]["threshold"] == 0.56 and about["decoding"]["decoder"] == "boxes"


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_the_example_stretches_images_to_the_very_levels_of_the_training(example, kind):
    """One wrong gray level has moved the landmarks of an int8 file by 0.35 pixels."""
    steps = {"percentiles": gain.PERCENTILES, "levels": gain.LEVELS, "fewest": gain.FEWEST}
    rng = np.random.default_rng(0)
    for _ in range(100):
        image = np.clip(rng.normal(rng.uniform(60, 200), rng.uniform(2, 40), (60, 80)), 0, 255).astype(kind)
        box = np.concatenate([rng.uniform(-10, 30, 2), rng.uniform(20, 60, 2)]).astype(np.float32)
        np.testing.assert_array_equal(example["box_gain"](image, box, steps), gain.gain(image, box))
