"""ONNX Runtime Web: its plain WebAssembly build (SIMD, no GPU), taken from the package of npm."""

import gzip
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

from mlcm_jax.errors import InputError

VERSION = "1.30.0"
_PACKAGE = f"onnxruntime-web@{VERSION}"
_SCRIPT, _WASM = "package/dist/ort.wasm.bundle.min.mjs", "package/dist/ort-wasm-simd-threaded.wasm"
_REMEDY = f"give the file that `npm pack {_PACKAGE}` makes, as --ort=onnxruntime-web-{VERSION}.tgz"


class Runtime(NamedTuple):
    """What the page needs of ONNX Runtime Web.

    Attributes:
        script: JavaScript that defines the global object `ort`.
        wasm: the WebAssembly module.
    """

    script: str
    wasm: bytes


def fetch() -> Runtime:
    """Downloads the package by npm.

    Raises:
        InputError: npm is missing or fails.
    """
    npm = shutil.which("npm")
    if not npm:
        raise InputError(f"The page needs ONNX Runtime Web, which comes by npm, and npm is not installed: {_REMEDY}.")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", _PACKAGE, "--silent", f"--pack-destination={folder}"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        found = list(Path(folder).glob("*.tgz"))
        if result.returncode or not found:
            reason = (result.stderr.strip().splitlines() or ["it wrote no file"])[0][:200]
            raise InputError(f"npm could not download {_PACKAGE} ({reason}); on another machine, {_REMEDY}.")
        return read(found[0])


def read(path: str | Path) -> Runtime:
    """Reads the package from a file.

    Raises:
        InputError: a file that is missing or damaged, or another package or version.
    """
    try:
        content = gzip.decompress(Path(path).read_bytes())  # all of it, so that its checksum is looked at
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            about, script, wasm = (_member(archive, name) for name in ("package/package.json", _SCRIPT, _WASM))
        card = json.loads(about)
        version, name = card["version"], card["name"]
        text = script.decode()
    except FileNotFoundError:
        raise InputError(f"The file {path} does not exist; {_REMEDY}.") from None
    except (OSError, tarfile.TarError, zlib.error, EOFError, KeyError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise InputError(f"{path} is not the whole package onnxruntime-web ({reason}); {_REMEDY}.") from None
    if (name, version) != ("onnxruntime-web", VERSION):
        raise InputError(f"{path} holds {name} {version}, with which the page was not tested; {_REMEDY}.")
    if not wasm.startswith(b"\0asm"):
        raise InputError(f"{path} holds a damaged WebAssembly module; {_REMEDY}.")
    return Runtime(_classic(text, str(path)), wasm)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is no file")
    return file.read()


def _classic(module: str, path: str) -> str:
    """Turns the module into a plain script, because a page that is opened from a disk can import no modules.

    Its exports become the properties of the global object `ort`. The address of the module, from which it would load
    files that the page holds already, becomes one that leads nowhere.
    """
    module = re.sub(r"\n//# sourceMappingURL=.*", "", module).rstrip()
    found = re.search(r"export\{([^{}]*)\};?$", module)
    names = [re.fullmatch(r"([\w$]+) as ([\w$]+)", one.strip()) for one in found[1].split(",")] if found else []
    if not found or not all(names) or "</script" in module or "<!--" in module:
        raise InputError(f"The script in {path} has another form than that of version {VERSION}; {_REMEDY}.")
    ort = ",".join(f"{one[2]}:{one[1]}" for one in names if one)
    body = module[: found.start()].replace("import.meta.url", '"about:blank"')
    return f"(() => {{\n{body}\nglobalThis.ort={{{ort}}};\n}})();"
