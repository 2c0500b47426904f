"""The command `mlcm demo`; `cli` dispatches to it."""

from collections.abc import Sequence

from mlcm_jax.flags import Command, Flags

_FLAGS = {
    "ort": ("", "The package onnxruntime-web, a .tgz file of npm; default: npm downloads it."),
    "out": (None, "The file to write, such as demo.html."),
}


def demo(_: Sequence[str], given: Flags) -> None:
    """Writes a page that finds faces and measures temperatures in a browser: one HTML file, which needs no network.

    Writing it needs the extra `export`, and npm or --ort.
    """
    from mlcm_jax.demo import page

    page.demo(given.require("out"), given.ort)


COMMAND = Command(demo, _FLAGS, "--out=FILE.html [--ort=onnxruntime-web.tgz]")
