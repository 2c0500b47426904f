"""Measures the regions of rendered faces with the shipped landmarks: errors in kelvins, and whether covers are told.

    python -m benchmarks.regions --manual_dir=ICT-FaceKit

Faces are 128 pixels wide or so, three quarters of them scan-based if --manual_dir has the head model. "landmarks" is
the difference between the values at the predicted and at the true landmarks in one image; "camera" is that between the
image and the temperatures before the lens (blur, noise, and the drift of the camera), both at the true landmarks. Only
regions without a cover count for these. The last two columns are the shares of regions that are marked as hidden: of
those under a cover, and of those without one in faces turned by less than 40 degrees. The results are in
docs/regions.md, with a picture of the regions on the demo image that the script draws.
"""

import argparse
from typing import Any

import cv2
import numpy as np
from rich.progress import track
from rich.table import Table

from mlcm_jax import read_image
from mlcm_jax.console import console
from mlcm_jax.inference import regions
from mlcm_jax.inference.open_network import SHIPPED
from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.synthetic import generate, raster, scan_head, scan_scene, scan_thermal, scene, thermal
from mlcm_jax.synthetic.gbuffer import Part
from mlcm_jax.synthetic.scan_head import ScanHeads

_SEED, _SIDE = 73, 224  # faces of about 128 pixels
_BARE = (Part.SKIN, Part.LIP, Part.EYE, Part.NECK, Part.EAR, Part.TEETH, Part.MOUTH)
_ENLARGED = 4  # in docs/regions.jpg
_CLEAR, _COVERED = 0.9, 0.5  # shares of bare pixels from which a region counts as clear, and below which as covered


def face(index: int, heads: ScanHeads | None) -> dict[str, Any]:
    """A pair of the generator, with `part` uint8 [S, S] and `before_lens` float32 [S, S] in °C."""
    pair = generate.example(_SEED, index, size=_SIDE, heads=heads)
    draws, heat = (scene, thermal) if heads is None else (scan_scene, scan_thermal)
    subject = draws.sample_subject(_SEED, index // generate.PAIRS_PER_SUBJECT)
    view = draws.sample_scene(np.random.default_rng([_SEED, index, 1]), subject)
    gbuffer, _ = raster.render_gbuffer(subject, view, _SIDE, heads=heads)
    field = heat.temperature(gbuffer, subject, view, np.random.default_rng([_SEED, index, 3]))
    step = gbuffer.supersample
    part = gbuffer.part[step // 2 :: step, step // 2 :: step]
    return pair | {"part": part, "before_lens": cv2.resize(field, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)}


def plain(points: np.ndarray, name: str, celsius: np.ndarray) -> np.ndarray:
    """Mean and maximum of a region, whether it is hidden or not."""
    values = celsius[regions.pixels(points, name, celsius.shape)]
    return np.array([values.mean(), values.max()]) if len(values) else np.full(2, np.nan)


def picture(path: str) -> None:
    """Draws the regions of the demo image that ships with the package, and their names."""
    image = read_image(SHIPPED / "demo.png")
    faces = Predictor()(image)
    points = faces.landmarks[0]
    canvas = cv2.cvtColor(cv2.resize(image.gray, None, fx=_ENLARGED, fy=_ENLARGED), cv2.COLOR_GRAY2BGR)
    for name in regions.NAMES:
        corners = (regions.outline(points, name) + 0.5) * _ENLARGED - 0.5
        cv2.polylines(canvas, [np.round(corners * 16).astype(np.int32)], True, (60, 220, 255), 1, cv2.LINE_AA, shift=4)
        x, y = corners.mean(0) if name != "face" else corners[8] + (-20, 14)
        place = round(float(x)) - 3 * len(name), round(float(y)) + (14 if "eye" in name else 4)
        cv2.putText(canvas, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.35, (80, 80, 255), 1, cv2.LINE_AA)
    x, y, w, h = (_ENLARGED * faces.boxes[0]).astype(int)
    canvas = canvas[max(0, y - h // 6) : y + h + h // 6, max(0, x - w // 4) : x + w + w // 4]
    cv2.imwrite(path, canvas, [cv2.IMWRITE_JPEG_QUALITY, 90])


def main() -> None:
    """Renders, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manual_dir", default="", help="a clone of ICT-FaceKit; without it, hand-made heads only")
    parser.add_argument("--count", type=int, default=400)
    given = parser.parse_args()
    heads, predictor = scan_head.load(given.manual_dir) if given.manual_dir else None, Predictor(detector=False)
    apart: dict[str, list] = {name: [] for name in regions.NAMES}
    shares: dict[str, list] = {name: [] for name in regions.NAMES}
    for index in track(range(given.count), description="faces", console=console):
        one = face(index, heads if index % 4 else None)
        celsius, truth = one["celsius"], one["landmarks"]
        points = predictor(celsius, one["box"][None]).landmarks[0]
        found = regions.measure(points, celsius)
        for name in regions.NAMES:
            inside = regions.pixels(points, name, celsius.shape)
            bare = np.isin(one["part"][inside], _BARE).mean() if len(inside[0]) else 0.0
            if bare < _COVERED or abs(one["pose"][0]) < 40:
                shares[name].append((bare, found[name].hidden))
            if bare >= _CLEAR:
                true = plain(truth, name, celsius)
                differences = plain(points, name, celsius) - true, true - plain(truth, name, one["before_lens"])
                apart[name].append([*np.abs(differences[0]), *np.abs(differences[1]), len(inside[0])])
    table = Table(title=f"{given.count} rendered faces: median errors in K, and what is marked as hidden in %")
    columns = ("pixels", "mean: landmarks", "mean: camera", "max: landmarks", "max: camera", "covered", "clear")
    for column in ("region", *columns):
        table.add_column(column, justify="left" if column == "region" else "right")
    for name in regions.NAMES:
        mean, largest, mean_camera, largest_camera, pixels = np.nanmedian(np.array(apart[name]), 0)
        bare, hidden = np.array(shares[name]).T
        marked = [hidden[bare < _COVERED].mean() if (bare < _COVERED).any() else np.nan, hidden[bare >= _CLEAR].mean()]
        numbers = [f"{value:.3f}" for value in (mean, mean_camera, largest, largest_camera)]
        table.add_row(name, f"{pixels:.0f}", *numbers, *(f"{100 * value:.0f}" for value in marked))
    console.print(table)
    picture("docs/regions.jpg")


if __name__ == "__main__":
    main()
