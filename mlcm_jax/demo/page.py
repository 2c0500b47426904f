"""The command `mlcm demo`: writes the page."""

import base64
import gzip
import html
import importlib.util
import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from mlcm_jax import __version__
from mlcm_jax.console import console, say
from mlcm_jax.demo import runtime as runtimes
from mlcm_jax.demo.constants import constants
from mlcm_jax.demo.samples import Sample, samples
from mlcm_jax.errors import InputError
from mlcm_jax.export import export as exports
from mlcm_jax.files import check_replaceable, write_text
from mlcm_jax.inference.detector import SHIPPED_DETECTOR
from mlcm_jax.inference.open_network import SHIPPED, load

SCRIPTS = (
    "numbers", "holes", "units", "jpeg", "png", "flir", "tables", "images", "crops", "networks", "regions", "view",
    "page",
)  # fmt: skip
LARGEST = 25_000_000  # bytes of the page
_MARK = '<meta name="generator" content="mlcm demo">'


def demo(out: str, ort: str = "") -> Path:
    """Writes the page: both shipped networks, ONNX Runtime Web and samples in one HTML file.

    Args:
        out: the file to write.
        ort: the package onnxruntime-web, a file of npm; "" downloads it by npm.

    Returns:
        The path of the page.

    Raises:
        InputError: no runtime, no package for ONNX, a file that cannot be written, or one that would be overwritten
            and is no page of this command.
    """
    path = Path(out)
    check_replaceable(path, _MARK, "page of this command")
    _check_converter()
    runtime = runtimes.read(ort) if ort else runtimes.fetch()
    say("Converting both networks for the page, which can take half a minute …")
    text = build(runtime, _graphs(), samples())
    size = len(text.encode())
    if size > LARGEST:
        raise InputError(f"The page would have {size / 1e6:.1f} MB, too much for a file; report this as a fault.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror or error}; give another --out.") from error
    say(f"Wrote {path} ({size / 1e6:.1f} MB); open it in a browser.")
    return path


def _check_converter() -> None:
    """Raises InputError if the library that makes ONNX files is missing; it is called before anything is downloaded."""
    if not importlib.util.find_spec("jax2onnx"):
        raise InputError("The page needs its networks as ONNX: run `pip install 'mlcm_jax[export]'` first.")


def _graphs() -> dict[str, bytes]:
    """Both shipped networks as ONNX, by the names of `exports.NETWORKS`."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("landmarks", "detector"):
            with console.capture():  # the files are not kept, so they are not told
                path = exports.export(network=name, format="onnx", out=f"{folder}/{name}", count=8)
            found[name] = _without_inner_shapes(path.read_bytes())
    return found


def _without_inner_shapes(graph: bytes) -> bytes:
    """Leaves out the shapes of inner arrays, which the runtime infers.

    jax2onnx 0.13 states some of them wrongly. ONNX Runtime warns of that, but its WebAssembly build refuses the graph.
    """
    import onnx  # comes with jax2onnx

    model = onnx.load_from_string(graph)
    del model.graph.value_info[:]
    return model.SerializeToString()


def build(runtime: runtimes.Runtime, graphs: Mapping[str, bytes], offered: Sequence[Sample]) -> str:
    """Puts the page together.

    Args:
        runtime: ONNX Runtime Web.
        graphs: "landmarks" and "detector", the content of ONNX files.
        offered: images to try.
    """
    return _filled(
        _read("page.html"),
        style=_read("page.css"),
        wasm=_packed(runtime.wasm),
        landmarks=_packed(graphs["landmarks"]),
        detector=_packed(graphs["detector"]),
        runtime=runtime.script,
        script=script(offered),
        about=html.escape(
            f"Made by mlcm_jax {__version__} (Apache-2.0) with ONNX Runtime Web {runtimes.VERSION} (MIT, © Microsoft)."
        ),
    )


def script(offered: Sequence[Sample] = ()) -> str:
    """The JavaScript of the page, which starts when it is read, if there is a document."""
    _, landmarks, _ = load(None, None, shipped=SHIPPED)
    _, boxes, _ = load(None, None, shipped=SHIPPED_DETECTOR)
    known = constants(landmarks, boxes)
    known["samples"] = [{"name": s.name, "title": s.title, "data": _packed(s.content)} for s in offered]
    text = json.dumps(known, separators=(",", ":")).replace("<", "\\u003c")
    parts = [_read(f"{name}.js").replace('"use strict";\n', "", 1) for name in SCRIPTS]
    names = "numbers, holes, units, jpeg, png, flir, tables, images, crops, networks, regions, page"
    end = f'globalThis.mlcm = {{ {names} }};  // for tests\nif (typeof document !== "undefined") page.open();'
    return "\n".join(['(() => {\n"use strict";', f"const CONSTANTS = {text};", *parts, end, "})();"])


def _read(name: str) -> str:
    return (resources.files("mlcm_jax.demo") / name).read_text(encoding="utf-8")


def _packed(content: bytes) -> str:
    """Base64 of the compressed bytes; equal bytes give equal text."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _filled(template: str, **values: str) -> str:
    """Replaces every {{name}} of a template once; what is filled in is not looked at."""
    parts = template.split("{{")
    out = [parts[0]]
    for part in parts[1:]:
        name, _, rest = part.partition("}}")
        out += [values[name], rest]
    return "".join(out)
