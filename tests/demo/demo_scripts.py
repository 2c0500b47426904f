"""Runs the scripts of the page in node, which has all that they need but a screen."""

import base64
import json
import shutil
import subprocess
import tempfile

import numpy as np
import pytest

from mlcm_jax.demo import page

_KINDS = {"Uint8Array": "u1", "Uint16Array": "u2", "Float32Array": "f4", "Int32Array": "i4"}
# Arrays travel as {"kind", "data", "width", "height"}; what throws an InputError gives {"error"}.
_HARNESS = """
const arrays = { Uint8Array, Uint16Array, Float32Array };
const packed = (value) => {
  if (value === undefined) return null;
  if (ArrayBuffer.isView(value)) {
    const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    return { kind: value.constructor.name, base64: bytes.toString("base64") };
  }
  if (Array.isArray(value)) return value.map(packed);
  if (typeof value === "number" && !Number.isFinite(value)) return { number: String(value) };
  if (!value || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, packed(one)]));
};
const opened = (value) => {
  if (Array.isArray(value)) return value.map(opened);
  if (!value || typeof value !== "object") return value;
  if ("kind" in value) {
    const bytes = Uint8Array.from(Buffer.from(value.base64, "base64"));
    return new arrays[value.kind](bytes.buffer);
  }
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, opened(one)]));
};
(async () => {
  const calls = JSON.parse(require("fs").readFileSync(0, "utf-8"));
  const found = [];
  for (const [path, given] of calls) {
    const [part, name] = path.split(".");
    try {
      found.push(packed(await mlcm[part][name](...opened(given))));
    } catch (error) {
      found.push({ error: `${error.constructor.name}: ${error.message}` });
    }
  }
  process.stdout.write(JSON.stringify(found));
})();
"""


def grid(array):
    """An image for the scripts: {data, width, height}."""
    return {"data": array.ravel(), "width": array.shape[1], "height": array.shape[0]}


def _packed(value):
    if isinstance(value, bytes):
        value = np.frombuffer(value, np.uint8)
    if isinstance(value, np.ndarray):
        kind = next(name for name, short in _KINDS.items() if np.dtype(short) == value.dtype)
        return {"kind": kind, "base64": base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()}
    if isinstance(value, dict):
        return {name: _packed(one) for name, one in value.items()}
    return [_packed(one) for one in value] if isinstance(value, list | tuple) else value


def _opened(value):
    if isinstance(value, list):
        return [_opened(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "kind" in value:
        return np.frombuffer(base64.b64decode(value["base64"]), _KINDS[value["kind"]])
    if set(value) == {"number"}:
        return float(value["number"].replace("Infinity", "inf"))
    found = {name: _opened(one) for name, one in value.items()}
    if {"data", "width", "height"} <= set(found):
        pixels = found["data"].reshape(found["height"], found["width"], -1)
        return pixels[..., 0] if pixels.shape[2] == 1 else pixels
    return found


def call(*calls):
    """What functions of the page return: calls are ("images.read", argument, …); skips where node is missing."""
    if not shutil.which("node"):
        pytest.skip("node is missing")
    given = json.dumps([[name, _packed(arguments)] for name, *arguments in calls])
    with tempfile.NamedTemporaryFile("w", suffix=".js") as file:  # too long for an argument
        file.write(page.script() + _HARNESS)
        file.flush()
        result = subprocess.run(["node", file.name], input=given, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    return _opened(json.loads(result.stdout))
