"""Exports every architecture, with random weights, in every format; run by test_export_slow.py where the extra is.

    python script_architectures.py FOLDER [FORMAT…]

Prints one line of JSON for each: {"architecture", "format", "quantize", "file", "report", "refused"}.
"""

import json
import sys
import time
from pathlib import Path

import jax

sys.path[:0] = [str(Path(__file__).resolve().parents[k]) for k in (1, 2)]  # tests, and the repository

import stored_runs  # noqa: E402

from mlcm_jax import detection, models  # noqa: E402
from mlcm_jax.errors import InputError  # noqa: E402
from mlcm_jax.export import formats  # noqa: E402
from mlcm_jax.export.export import export  # noqa: E402
from mlcm_jax.models import stored  # noqa: E402

ALIKE = {f"efficientnet_b{k}" for k in (1, 2, 3, 4)} | {"swin_v2_s", "swin_v2_b", "resnet34"}  # of no new operations
HEADS = {
    "coordinates": {"uncertainty": True},
    "heatmap": {"uncertainty": True, "upsample": 2, "head_channels": 16, "prior": 0.2},
    "heatmap bilinear": {"upsample": 4, "head_channels": 16, "resize": "bilinear"},
    "aam": {"layout": "as above", "head_channels": 16},
    "aam nearest": {"layout": "as above", "head_channels": 16, "decoder": "nearest"},
    "boxes": {},
}


def cases():
    """Every backbone with coordinates, and every head on the smallest backbone."""
    for name in models.names():
        yield {"name": name, "head": "coordinates", "uncertainty": True}
    for head, options in HEADS.items():
        yield {**stored_runs.ARCHITECTURE, "head": head.split()[0], **options}


def write(folder, architecture):
    """A run with random weights, so that no two landmarks are alike."""
    head, size = architecture["head"], 64
    layout = detection.LAYOUT if head == "boxes" else stored_runs.card().layout
    if "layout" in architecture:
        architecture = architecture | {"layout": layout}
    gain = "scene" if head == "boxes" else "box"
    card = stored_runs.card(architecture=architecture, image_size=size, layout=layout, gain=gain, threshold=0.003)
    network = stored_runs.network(card)
    network = network.replace(
        params=jax.tree.map(
            lambda x: x + 0.05 * jax.random.normal(jax.random.key(x.size), x.shape) * jax.numpy.abs(x).mean(),
            network.params,
        )
    )
    if head == "coordinates":  # a new one gives nearly the same for all images
        network.params["head"]["kernel"] *= 100.0
    stored.save(folder, network, card)


def main():
    folder, *only = sys.argv[1:]
    for number, architecture in enumerate(cases()):
        run = Path(folder) / str(number)
        write(run, architecture)
        for format in ("onnx", "tflite", "stablehlo"):
            for quantize in ("", "fp16", "int8"):
                plain = format == "stablehlo" or architecture["name"] in ALIKE
                if (only and format not in only) or (plain and quantize):
                    continue
                line = {"architecture": architecture, "format": format, "quantize": quantize, "refused": ""}
                start = time.perf_counter()
                try:
                    out = run / f"{format}{quantize}"
                    export(run, format=format, quantize=quantize, out=out, count=2, force=True)
                    line["file"] = str(next(out.glob(f"*{formats.FORMATS[format]}")))
                    line["report"] = json.loads((out / "report.json").read_text())
                except InputError as error:
                    line["refused"] = str(error)
                print(json.dumps(line | {"seconds": round(time.perf_counter() - start, 1)}), flush=True)


if __name__ == "__main__":
    main()
