"""Converts a graph to the bytes of a file, and runs such bytes.

TFLite is made by `litert-converter` and run by LiteRT; ONNX by `jax2onnx` and ONNX Runtime (all in the extra `export`).
StableHLO is what JAX itself exports, with the weights inside: MLIR bytecode that compilers such as IREE read.
"""

import contextlib
import dataclasses
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend
import numpy as np

from mlcm_jax.errors import InputError
from mlcm_jax.export.graph import INPUT, Graph

FORMATS = {"tflite": ".tflite", "onnx": ".onnx", "stablehlo": ".mlirbc"}
OTHER = {"tflite": "onnx", "onnx": "tflite", "stablehlo": "onnx"}  # what is tried if a converter fails
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def convert(graph: Graph, format: str) -> bytes:
    """The content of a file.

    Args:
        graph: what to export.
        format: a key of `FORMATS`.

    Raises:
        ImportError: a library is missing.
        Exception: of any type, an operation that the converter lacks.
    """
    return {"tflite": _tflite, "onnx": _onnx, "stablehlo": _stablehlo}[format](graph)


@contextlib.contextmanager
def explained(format: str, what: str) -> Iterator[None]:
    """Turns the errors of the libraries into one sentence with a remedy; `what` names the network or the step."""
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"--format={format} needs the package {error.name}; install it with `pip install 'mlcm_jax[export]'`."
        ) from error
    except Exception as error:  # converters raise errors of any type for operations that they lack
        reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        raise InputError(f"{what} to {format} ({reason}); try --format={OTHER[format]}.") from error


def runner(content: bytes, graph: Graph, format: str) -> Run:
    """A function that runs a file on one thread (StableHLO: on all): crop float32 [1, S, S, C] -> outputs by name."""
    return {"tflite": _run_tflite, "onnx": _run_onnx, "stablehlo": _run_stablehlo}[format](content, graph)


def _exported(graph: Graph) -> Any:
    return jax.export.export(jax.jit(graph.call), platforms=["cpu"])(*graph.inputs())


def _tflite(graph: Graph) -> bytes:
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager

    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        module = ir.Module.parse(_exported(graph).mlir_module())
        converter.set_signature(module.operation, "serving_default", list(graph.shapes), list(graph.outputs))
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), converter.ConvertToTFLConfig())
        return converter.export_flatbuffer_to_bytes(module.operation)


def _run_tflite(content: bytes, graph: Graph) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        interpreter = Interpreter(model_content=content, num_threads=1)
        runner = interpreter.get_signature_runner()
        runner(**{INPUT: np.zeros(graph.shapes[INPUT], np.float32)})  # it announces its delegate once
    # The runner holds no reference to the interpreter, whose memory the outputs live in.
    return lambda crop: {name: array.copy() for name, array in runner(**{INPUT: crop}).items() if interpreter}


def survives(content: bytes) -> None:
    """Runs a TFLite file in a process of its own, because LiteRT is killed by some quantised files, such as SwinV2's.

    Raises:
        RuntimeError: the process died.
    """
    code = (
        "import sys, numpy; from ai_edge_litert.interpreter import Interpreter; "
        "one = Interpreter(model_content=sys.stdin.buffer.read(), num_threads=1); one.allocate_tensors(); "
        "one.set_tensor(one.get_input_details()[0]['index'], numpy.zeros(one.get_input_details()[0]['shape'], 'f')); "
        "one.invoke()"
    )
    if subprocess.run([sys.executable, "-c", code], input=content, capture_output=True).returncode:
        raise RuntimeError("LiteRT crashes when it runs the file")


def _onnx(graph: Graph) -> bytes:
    # The library replaces layers of Flax while it traces; a function that is traced already has none.
    traced = jax.extend.core.jaxpr_as_fun(jax.make_jaxpr(graph.call)(*graph.inputs()))
    with quiet():  # it prints a traceback for every tool of other libraries that it does not find
        import jax2onnx

        model = jax2onnx.to_onnx(traced, graph.inputs(), model_name="mlcm_jax")
    old = [one.name for one in (*model.graph.input, *model.graph.output)]
    del model.graph.value_info[:]  # some of its shapes are wrong, of which runtimes warn; they infer them again
    _pool_over_space(model)
    return renamed(model, dict(zip(old, (*graph.shapes, *graph.outputs), strict=True))).SerializeToString()


def _pool_over_space(model: Any) -> None:
    """Replaces pooling over all four axes, which jax2onnx writes and no runtime has, by pooling over two."""
    from onnx import helper

    makers = {name: node for node in model.graph.node for name in node.output}
    for node in [one for one in model.graph.node if one.op_type == "MaxPool"]:
        options = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        kernel, pads = options["kernel_shape"], options["pads"]
        if len(kernel) != 4 or kernel[0] != 1 or kernel[3] != 1:
            continue
        source = makers[makers[node.input[0]].input[0]].input[0]  # before two axes were added
        (last,) = [one for one in model.graph.node if node.output[0] in one.input]
        name = last.output[0]
        middle = {"kernel_shape": kernel[1:3], "strides": options["strides"][1:3], "pads": [*pads[1:3], *pads[5:7]]}
        made = [
            helper.make_node("Transpose", [source], [f"{name}_nchw"], perm=[0, 3, 1, 2]),
            helper.make_node("MaxPool", [f"{name}_nchw"], [f"{name}_pooled"], **middle),
            helper.make_node("Transpose", [f"{name}_pooled"], [name], perm=[0, 2, 3, 1]),
        ]
        place = list(model.graph.node).index(node)
        dropped = (node, last, makers[node.input[0]], makers[makers[node.input[0]].input[0]])
        nodes = list(model.graph.node)
        nodes = [*nodes[:place], *made, *nodes[place:]]
        del model.graph.node[:]
        model.graph.node.extend(one for one in nodes if not any(one is other for other in dropped))


def renamed(model: Any, names: dict[str, str]) -> Any:
    """An ONNX model with other names of values, in place: {old: new}."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(one, one) for one in values]
    return model


def session(content: bytes) -> Any:
    """ONNX Runtime's session of a file, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, too
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _run_onnx(content: bytes, graph: Graph) -> Run:
    opened = session(content)
    names = list(graph.outputs)
    return lambda crop: dict(zip(names, opened.run(names, {INPUT: crop}), strict=True))


def _stablehlo(graph: Graph) -> bytes:
    return _exported(graph).mlir_module_serialized


def _run_stablehlo(content: bytes, graph: Graph) -> Run:
    """JAX compiles the bytes of the file, whatever made them."""
    call = jax.jit(dataclasses.replace(_exported(graph), mlir_module_serialized=content).call)
    return lambda crop: {name: np.asarray(array) for name, array in zip(graph.outputs, call(crop), strict=True)}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides warnings, logs, and what libraries in C++ print to the standard error."""
    logging.disable(logging.ERROR)
    with warnings.catch_warnings(), tempfile.TemporaryFile() as sink:
        warnings.simplefilter("ignore")
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            logging.disable(logging.NOTSET)
            os.dup2(kept, 2)
            os.close(kept)
