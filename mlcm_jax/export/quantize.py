"""Smaller files: weights in float16 (`half`), or weights and maps in int8 (`eight`), which rendered faces calibrate.

TFLite is quantised by `ai-edge-quantizer`, ONNX by ONNX Runtime's own tools. Inputs and outputs stay float32 in all.
With float16, the sums are still float32: runtimes expand the weights when they load the file, and only accelerators
compute in float16.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlcm_jax.export import formats
from mlcm_jax.export.graph import INPUT, Graph, joined

_LARGE = 4096  # numbers of a kernel; smaller ones, such as the first and the last, cost much accuracy for few bytes
_TAKE_KERNELS = {"Conv", "ConvTranspose", "Einsum", "MatMul", "Transpose", "Squeeze"}


def half(content: bytes, format: str) -> bytes:
    """A float32 file with its weights in float16."""
    with formats.quiet():
        return _half_onnx(content) if format == "onnx" else _half_tflite(content)


def eight(body: Graph, tail: Graph | None, format: str, crops: Sequence[np.ndarray]) -> bytes:
    """A file whose body computes in int8.

    Args:
        body: see `graph.split`.
        tail: stays in float32.
        format: "tflite" or "onnx".
        crops: float32 [1, S, S, C] each, from which the ranges of all maps are read.
    """
    if format == "tflite":
        whole = formats.convert(joined(body, tail), format)
        with formats.quiet():
            return _eight_tflite(whole, crops)
    first = formats.convert(body, format)
    with formats.quiet():
        content = _eight_onnx(first, crops)
    return content if tail is None else _appended(content, formats.convert(tail, format))


# TFLite


def _half_tflite(content: bytes) -> bytes:
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    smaller = quantizer.Quantizer(bytearray(content))
    for name in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"):
        smaller.update_quantization_recipe(
            ".*", qtyping.TFLOperationName(name), config, algorithm_manager.AlgorithmName.FLOAT_CASTING
        )
    return bytes(smaller.quantize(enable_progress_report=False).quantized_model)


def _eight_tflite(content: bytes, crops: Sequence[np.ndarray]) -> bytes:
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    smaller = quantizer.Quantizer(bytearray(content))
    every = qtyping.TFLOperationName.ALL_SUPPORTED
    smaller.add_static_config(".*", every, activation_num_bits=8, weight_num_bits=8)
    floats: dict[str, Any] = {"algorithm_key": algorithm_manager.AlgorithmName.NO_QUANTIZE}
    smaller.update_quantization_recipe(r".*jit\(call\)/tail/.*", every, **floats)
    for name in ("INPUT", "OUTPUT", "CONV_2D_TRANSPOSE"):  # the last one gets scales that the runtime refuses
        smaller.update_quantization_recipe(".*", qtyping.TFLOperationName(name), **floats)
    ranges = smaller.calibrate({"serving_default": [{INPUT: crop} for crop in crops]}, num_threads=1)
    return bytes(smaller.quantize(ranges, enable_progress_report=False).quantized_model)


# ONNX


def _half_onnx(content: bytes) -> bytes:
    """Stores large arrays as float16, each with a cast to float32, which runtimes do once, when they load the file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(content)
    # Only kernels: grids of coordinates, with which maps are decoded, need all their digits.
    kernels = {name for node in model.graph.node for name in node.input if node.op_type in _TAKE_KERNELS}
    casts = []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        large = tensor.data_type == TensorProto.FLOAT and array.size >= _LARGE
        if large and tensor.name in kernels and np.abs(array).max() < 65_000:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}_half"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def _eight_onnx(content: bytes, crops: Sequence[np.ndarray]) -> bytes:
    import onnxruntime
    from onnxruntime import quantization

    class Crops(quantization.CalibrationDataReader):
        """The crops, one after another."""

        def __init__(self) -> None:
            self.left = iter(crops)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(({INPUT: crop} for crop in self.left), None)

    with tempfile.TemporaryDirectory() as folder:
        simple, small = Path(folder) / "simple.onnx", Path(folder) / "small.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(simple)  # folds batch norms into convolutions
        plain = _simplified(content).SerializeToString()
        onnxruntime.InferenceSession(plain, options, providers=["CPUExecutionProvider"])
        quantization.quantize_static(
            simple,
            small,
            Crops(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # 7 bits: sums of 8-bit products overflow on processors that lack VNNI instructions
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
            op_types_to_quantize=["Conv", "MatMul"],
        )
        return small.read_bytes()


def _simplified(content: bytes) -> Any:
    """The ONNX model with operations that its tools quantise: Relu for max(x, 0), MatMul for products of channels."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(content)
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    zeros = {name for name, array in constants.items() if not array.any()}
    for node in model.graph.node:
        others = [name for name in node.input if name not in zeros]
        if node.op_type == "Max" and len(node.input) == 2 and len(others) == 1:
            node.op_type, node.input[:] = "Relu", others
        equation = [one.s.decode().replace(" ", "") for one in node.attribute if one.name == "equation"]
        if node.op_type == "Einsum" and equation and _is_product(equation[0]):
            node.CopyFrom(helper.make_node("MatMul", list(node.input), list(node.output), node.name))
    return model


def _is_product(equation: str) -> bool:
    """Whether an equation such as bhwc,cd->bhwd is a matrix product of the last axis."""
    pattern = re.fullmatch(r"(\w*)(\w),(\w)(\w)->(\w*)(\w)", equation)
    return bool(pattern) and (pattern[1], pattern[2], pattern[4]) == (pattern[5], pattern[3], pattern[6])


def _appended(body: bytes, tail: bytes) -> bytes:
    """One file of two."""
    import onnx
    from onnx import compose

    first, second = onnx.load_from_string(body), onnx.load_from_string(tail)
    second.ir_version = first.ir_version
    del first.opset_import[:]
    first.opset_import.extend(second.opset_import)
    links = [(one.name, one.name) for one in second.graph.input]
    second = compose.add_prefix(second, "tail_")
    links = [(name, f"tail_{name}") for name, _ in links]
    whole = compose.merge_models(first, second, io_map=links)
    names = {one.name: one.name.removeprefix("tail_") for one in whole.graph.output}
    return formats.renamed(whole, names).SerializeToString()
