"""Draws a contact sheet of synthetic faces, such as tfds_builders/synthetic_faces/preview.jpg.

    python -m benchmarks.preview_synthetic --rows 5 --columns 3 --size 128 --out preview.jpg      # three seconds

With `--manual_dir=ICT-FaceKit`, the heads are those of the clone in that folder. Each pair is shown as RGB, as
thermal, and as thermal with landmarks (green; red where hidden).
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from mlcm_jax.errors import InputError
from mlcm_jax.synthetic import generate, scan_head


def tile(pair: Mapping[str, Any], zoom: float) -> np.ndarray:
    """Draws one pair of `generate.example` side by side, uint8 [S * zoom, 3 * S * zoom, 3] in OpenCV's BGR order."""
    side = round(pair["thermal"].shape[0] * zoom)
    gray = cv2.cvtColor(pair["thermal"], cv2.COLOR_GRAY2BGR)
    shown = [cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC) for image in (pair["rgb"][..., ::-1], gray)]
    marked = shown[1].copy()
    points = (pair["landmarks"] + 0.5) * (side / pair["thermal"].shape[0]) - 0.5
    for point, visible in zip(points, pair["visible"], strict=True):
        centre = tuple(int(v) for v in np.round(point * 16))
        cv2.circle(marked, centre, 16, (80, 255, 80) if visible else (80, 80, 255), -1, cv2.LINE_AA, 4)
    return np.concatenate([*shown, marked], axis=1)


def sheet(
    seed: int, rows: int, columns: int, size: int, zoom: float, heads: scan_head.ScanHeads | None = None
) -> np.ndarray:
    """Draws pairs of different subjects in a grid, uint8 [H, W, 3] in OpenCV's BGR order."""
    step = generate.PAIRS_PER_SUBJECT + 1  # always another person, and not always the person's first image
    tiles = [tile(generate.example(seed, step * k, size=size, heads=heads), zoom) for k in range(rows * columns)]
    return np.concatenate([np.concatenate(tiles[k * columns : (k + 1) * columns], axis=1) for k in range(rows)])


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the sheet to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="image to write, .png or .jpg")
    parser.add_argument("--rows", type=int, default=6, help="rows of pairs")
    parser.add_argument("--columns", type=int, default=4, help="pairs in a row")
    parser.add_argument("--size", type=int, default=96, help="side of a rendered image in pixels, 32 to 1024")
    parser.add_argument("--zoom", type=float, default=1.0, help="side of a shown image over that of the rendered one")
    parser.add_argument("--seed", type=int, default=0, help="seed of the dataset")
    parser.add_argument("--manual_dir", type=pathlib.Path, help="clone of ICT-FaceKit, for scan-based heads")
    arguments = parser.parse_args(argv)
    path = arguments.out
    if path.suffix.lower() not in (".png", ".jpg"):
        parser.error(f"--out={path} must end in .png or .jpg")
    if min(arguments.rows, arguments.columns) < 1 or not 32 <= arguments.size <= 1024 or arguments.zoom <= 0:
        parser.error("--rows and --columns must be at least 1, --size 32 to 1024, and --zoom above 0")
    heads = scan_head.load(arguments.manual_dir) if arguments.manual_dir else None
    image = sheet(arguments.seed, arguments.rows, arguments.columns, arguments.size, arguments.zoom, heads)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 82]):
        raise InputError(f"--out={path} cannot be written; check the folder's permissions and the space on its disk.")
    print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
