"""Contact sheet of the synthetic faces: `python -m benchmarks.preview_synthetic --out FILE`.

Each pair is shown as RGB, thermal as the network sees it, and thermal with landmarks (green; red where hidden).
"""

from __future__ import annotations

import pathlib

import cv2
import numpy as np
from absl import app, flags

from mlcm_jax.errors import InputError
from mlcm_jax.synthetic import generate

_OUT = flags.DEFINE_string("out", None, "image to write, .png or .jpg", required=True)
_ROWS = flags.DEFINE_integer("rows", 6, "rows of pairs", lower_bound=1)
_COLUMNS = flags.DEFINE_integer("columns", 4, "pairs in a row", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 96, "side of a rendered image, pixels", lower_bound=32, upper_bound=1024)
_ZOOM = flags.DEFINE_float("zoom", 1.0, "side of a shown image over that of a rendered one", lower_bound=0.1)
_SEED = flags.DEFINE_integer("seed", 0, "number of the set", lower_bound=0)


def tile(pair: dict, zoom: float) -> np.ndarray:
    """One pair of `generate.example` side by side, uint8 [S * zoom, 3 * S * zoom, 3] in OpenCV's BGR order."""
    side = round(pair["thermal"].shape[0] * zoom)
    gray = cv2.cvtColor(pair["thermal"], cv2.COLOR_GRAY2BGR)
    shown = [cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC) for image in (pair["rgb"][..., ::-1], gray)]
    marked = shown[1].copy()
    points = (pair["landmarks"] + 0.5) * (side / pair["thermal"].shape[0]) - 0.5
    for point, visible in zip(points, pair["visible"], strict=True):
        centre = tuple(int(v) for v in np.round(point * 16))
        cv2.circle(marked, centre, 16, (80, 255, 80) if visible else (80, 80, 255), -1, cv2.LINE_AA, 4)
    return np.concatenate([*shown, marked], axis=1)


def sheet(seed: int, rows: int, columns: int, size: int, zoom: float) -> np.ndarray:
    """Pairs of different subjects in a grid, uint8 [H, W, 3] in OpenCV's BGR order."""
    step = generate.PAIRS_PER_SUBJECT + 1  # another person every time, and not always that person's first image
    tiles = [tile(generate.example(seed, step * k, size=size), zoom) for k in range(rows * columns)]
    return np.concatenate([np.concatenate(tiles[k * columns : (k + 1) * columns], axis=1) for k in range(rows)])


def main(_: list[str]) -> None:
    """Write the sheet to `--out`."""
    path = pathlib.Path(_OUT.value)
    if path.suffix.lower() not in (".png", ".jpg"):
        raise InputError(f"--out={path} must end in .png or .jpg.")
    image = sheet(_SEED.value, _ROWS.value, _COLUMNS.value, _SIZE.value, _ZOOM.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 82]):
        raise InputError(f"--out={path} cannot be written; check the folder's rights and the space on its disk.")
    print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    app.run(main)
