"""The file of `mlcm demo`: complete, without any address, the same for the same input; and what it refuses."""

import base64
import gzip
import importlib.util
import io
import json
import re
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import mlcm_jax.demo
from mlcm_jax import cli
from mlcm_jax.demo import page, runtime, samples
from mlcm_jax.errors import InputError

FOLDER = Path(mlcm_jax.demo.__file__).parent
MODULE = """/*! a licence */
var a=1,b=import.meta.url;export{a as InferenceSession,b as env};
//# sourceMappingURL=ort.wasm.bundle.min.mjs.map
"""


def package(path, *, version=runtime.VERSION, script=MODULE, wasm=b"\0asm\1\0\0\0", left_out=""):
    """A small file in the form of the package onnxruntime-web."""
    members = {
        "package/package.json": json.dumps({"name": "onnxruntime-web", "version": version}).encode(),
        "package/dist/ort.wasm.bundle.min.mjs": script.encode(),
        "package/dist/ort-wasm-simd-threaded.wasm": wasm,
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            if not left_out or left_out not in name:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def offered():
    return samples.samples()


@pytest.fixture
def written(tmp_path, monkeypatch, offered):
    """The page that the command writes, with a made-up runtime and graphs."""
    monkeypatch.setattr(page, "samples", lambda: offered)
    monkeypatch.setattr(page, "_check_converter", lambda: None)
    monkeypatch.setattr(page, "_without_inner_shapes", lambda graph: graph)
    monkeypatch.setattr(
        page.exports, "export", lambda network, out, **_: Path(out).write_bytes(network.encode()) and Path(out)
    )
    cli.main(["demo", f"--out={tmp_path / 'new' / 'demo.html'}", f"--ort={package(tmp_path / 'ort.tgz')}"])
    return (tmp_path / "new" / "demo.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Collects the attributes of all elements, and the text of scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self._inside = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") or len(self.scripts) if tag == "script" else None

    def handle_data(self, data):
        if self._inside is not None:
            self.scripts[self._inside] = self.scripts.get(self._inside, "") + data

    def handle_endtag(self, tag):
        self._inside = None


def test_the_page_holds_everything_and_names_no_address(written, offered):
    read = Reader(written)
    for name, content in {"wasm": b"\0asm\1\0\0\0", "landmarks": b"landmarks", "detector": b"detector"}.items():
        assert gzip.decompress(base64.b64decode(read.scripts[name])) == content
    code = "".join(text for name, text in read.scripts.items() if isinstance(name, int))
    assert "globalThis.ort={InferenceSession:a,env:b};" in code and 'b="about:blank"' in code
    assert "import.meta" not in code and "sourceMappingURL" not in code and "a licence" in code
    for name in page.SCRIPTS:
        assert f"const {name} = (() => {{" in code
    known = json.loads(re.search(r"const CONSTANTS = (\{.*\});", code)[1])
    assert [gzip.decompress(base64.b64decode(one["data"])) for one in known["samples"]] == [s.content for s in offered]
    assert known["detector"]["image_size"] == 160 and known["landmarks"]["image_size"] == 96
    assert not re.findall(
        r"https?://\w|src=|//[a-z]+\.|\bfetch\(|\bimport\(|XMLHttpRequest|WebSocket|<link rel=.style", written
    )
    for _, attributes in read.elements:
        assert "src" not in attributes and attributes.get("href", "data:,") == "data:,"
    (policy,) = [a["content"] for _, a in read.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ") and "connect-src" not in policy


def test_every_control_of_the_page_has_a_name_and_headings_are_in_order(written):
    read = Reader(written)
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {attributes.get("for") for tag, attributes in read.elements if tag == "label"}
    for tag, attributes in read.elements:
        if tag in ("input", "select") and attributes.get("type") != "checkbox":  # whose labels are around them
            assert attributes["id"] in labelled or attributes.get("aria-label"), attributes
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, ids[0]) in ids
    assert [tag for tag, _ in read.elements if tag in ("h1", "h2")] == ["h1", "h2", "h2", "h2"]
    assert dict(read.elements)["html"]["lang"] == "en"
    (status,) = [attributes for _, attributes in read.elements if attributes.get("role") == "status"]
    assert status["aria-live"] == "polite"


def test_the_same_input_gives_the_same_page(tmp_path, offered):
    made = runtime.read(package(tmp_path / "ort.tgz"))
    graphs = {"landmarks": b"1", "detector": b"2"}
    assert page.build(made, graphs, offered) == page.build(made, graphs, offered)


def test_the_samples_show_faces_with_temperatures(offered, tmp_path):
    from mlcm_jax import Predictor, read_image

    counts = {}
    for sample in offered:
        (tmp_path / sample.name).write_bytes(sample.content)
        image = read_image(tmp_path / sample.name)
        counts[sample.name] = (len(Predictor()(image)), image.celsius is not None)
    assert counts == {"gray.png": (1, False), "two_people.png": (2, True), "table.csv": (1, True)}


@pytest.mark.parametrize("name", [*(f"{name}.js" for name in page.SCRIPTS), "page.css", "page.html"])
def test_the_files_of_the_page_are_readable(name):
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400
    assert not [line for line in lines if len(line) > 120 and "Content-Security-Policy" not in line]
    assert not name.endswith(".js") or (lines[0] == '"use strict";' and lines[1].startswith("// "))


@pytest.mark.parametrize("name", page.SCRIPTS)
def test_no_function_of_a_script_replaces_another(name):
    functions = re.findall(r"^  (?:async )?function (\w+)", (FOLDER / f"{name}.js").read_text(), re.M)
    assert len(functions) == len(set(functions))


def test_all_scripts_are_put_in():
    assert {path.stem for path in FOLDER.glob("*.js")} == set(page.SCRIPTS)


BROKEN = {
    "version": ({"version": "1.17.0"}, "holds onnxruntime-web 1.17.0, with which the page was not tested"),
    "member": ({"left_out": "bundle"}, "is not the whole package onnxruntime-web"),
    "module": ({"script": "var a=1;"}, "has another form than that of version"),
    "tag": ({"script": MODULE.replace("a licence", "</script>")}, "has another form than that of version"),
    "wasm": ({"wasm": b"\x7fELF"}, "holds a damaged WebAssembly module"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_another_package_is_refused(tmp_path, case):
    options, told = BROKEN[case]
    with pytest.raises(InputError, match=told) as raised:
        runtime.read(package(tmp_path / "ort.tgz", **options))
    assert str(raised.value).endswith(f"`npm pack onnxruntime-web@{runtime.VERSION}` makes, as "
                                      f"--ort=onnxruntime-web-{runtime.VERSION}.tgz.")  # fmt: skip


def test_a_file_that_is_missing_or_cut_off_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist; give the file that `npm pack"):
        runtime.read(tmp_path / "none.tgz")
    whole = package(tmp_path / "ort.tgz").read_bytes()
    for content in (whole[:100], b"", b"no archive"):
        (tmp_path / "cut.tgz").write_bytes(content)
        with pytest.raises(InputError, match="is not the whole package onnxruntime-web"):
            runtime.read(tmp_path / "cut.tgz")


def test_a_file_with_a_damaged_byte_is_refused(tmp_path):
    wasm = b"\0asm" + np.random.default_rng(0).integers(0, 60, 5000, np.uint8).tobytes()
    whole = package(tmp_path / "ort.tgz", wasm=wasm).read_bytes()
    for place in range(len(whole) // 50, len(whole) - 20, len(whole) // 50):
        damaged = bytearray(whole)
        damaged[place] ^= 0x5A
        (tmp_path / "damaged.tgz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"^[^\n]* is not the whole package onnxruntime-web [^\n]*$"):
            runtime.read(tmp_path / "damaged.tgz")


def test_without_npm_and_file_one_sentence_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(page, "_check_converter", lambda: None)
    with pytest.raises(SystemExit) as raised:
        cli.main(["demo", f"--out={tmp_path / 'demo.html'}"])
    assert raised.value.code == 1
    assert capsys.readouterr().err == (
        "mlcm: The page needs ONNX Runtime Web, which comes by npm, and npm is not installed: give the file that "
        f"`npm pack onnxruntime-web@{runtime.VERSION}` makes, as --ort=onnxruntime-web-{runtime.VERSION}.tgz.\n"
    )
    assert not (tmp_path / "demo.html").exists()


def test_without_the_converter_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        InputError, match=r"^The page needs its networks as ONNX: run `pip install 'mlcm_jax\[export\]'`"
    ):
        page.demo(str(tmp_path / "demo.html"), str(package(tmp_path / "ort.tgz")))


def test_an_npm_that_fails_is_reported_in_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'no connection' >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(InputError, match=r"npm could not download onnxruntime-web@.* \(no connection\); on another"):
        runtime.fetch()


def test_graphs_lose_the_shapes_of_inner_arrays_but_compute_the_same():
    """jax2onnx 0.13 states some wrongly, and the runtime of the page then refuses the graph."""
    onnx = pytest.importorskip("onnx", reason="onnx, of the extra `export`, is missing")
    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Add", ["x", "x"], ["inner"]), onnx.helper.make_node("Neg", ["inner"], ["y"])]
    ends = [[value(name, onnx.TensorProto.FLOAT, [1, 2])] for name in "xy"]
    wrong = [value("inner", onnx.TensorProto.FLOAT, [3, 2])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", *ends, value_info=wrong))
    found = onnx.load_from_string(page._without_inner_shapes(model.SerializeToString()))
    assert not found.graph.value_info
    assert (found.graph.node, found.graph.input, found.graph.output) == (
        model.graph.node, model.graph.input, model.graph.output,
    )  # fmt: skip


def test_a_page_is_written_anew_but_nothing_else_is_overwritten(tmp_path, written, monkeypatch, offered):
    monkeypatch.setattr(page, "samples", lambda: offered)
    out, ort = tmp_path / "new" / "demo.html", tmp_path / "ort.tgz"
    page.demo(str(out), str(ort))
    assert out.read_text(encoding="utf-8") == written
    assert [path.name for path in out.parent.iterdir()] == ["demo.html"]
    out.write_text("<p>my own page</p>")
    with pytest.raises(InputError, match="exists and is no page of this command; remove it, or give another --out"):
        page.demo(str(out), str(ort))
    assert out.read_text() == "<p>my own page</p>"
    with pytest.raises(InputError, match=r"is a folder; give the name of a file, such as --out=.*page\.html"):
        page.demo(str(tmp_path), str(ort))
    with pytest.raises(InputError, match="Cannot write"):
        page.demo(str(out / "below.html"), str(ort))
