"""Draws `landmarks.png` for the READMEs of the datasets in `tfds_builders`.

    python -m benchmarks.layout_images [--only=tfw,wflw]      # two seconds for each dataset

The image shows a synthetic face with the numbered landmarks of the dataset's layout. The face's 68 points are exact,
and so are the points that `landmarks.convert` makes of them. The other points of tfake70, wflw98, cofw29 and
charlotte73 are estimated from the 68, and the image is marked as schematic. Datasets whose README does not show
`landmarks.png` are skipped.
"""

import argparse
import importlib
import inspect
import io
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import tfds_builders
from mlcm_jax import landmarks
from mlcm_jax.data import augment
from mlcm_jax.data.draw import numbered
from mlcm_jax.errors import InputError
from mlcm_jax.synthetic import generate

SIDE = 640
DIM = 0.6  # factor on the brightness of the face, so that the numbers stand out
MOST_BYTES = 60_000


def builder_of(name: str) -> type:
    """Returns the builder class of a dataset, which is the class in its module that has a LAYOUT."""
    module = importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder")
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]
    return next(kind for kind in kinds if hasattr(kind, "LAYOUT"))


def place(points: np.ndarray, jaw3d: np.ndarray, layout: landmarks.Layout) -> tuple[np.ndarray, bool]:
    """Places the landmarks of a layout on a face whose iBUG landmarks are known.

    Args:
        points: the iBUG landmarks, float [68, 2] in pixels.
        jaw3d: the jaw as points fixed on the head, float [17, 2] in pixels.
        layout: one of `landmarks.LAYOUTS`, or charlotte73.

    Returns:
        The landmarks [K, 2], and whether they are only schematic.

    Raises:
        InputError: a layout whose points this function cannot place.
    """
    if layout.name in landmarks.LAYOUTS and landmarks.route("ibug68", layout) is layout:
        return landmarks.convert(points, "ibug68", layout), False
    pupils = [points[36:42].mean(0), points[42:48].mean(0)]
    if layout.name == "tfake70":
        return np.concatenate([jaw3d, points[17:], pupils]), True
    if layout.name == "charlotte73":  # half an ellipse over the ends of the jaw
        angle = np.deg2rad([[20], [55], [90], [125], [160]])
        centre, across = (points[0] + points[16]) / 2, (points[16] - points[0]) / 2
        forehead = centre - across * np.cos(angle) - 0.55 * (points[8] - centre) * np.sin(angle)
        return np.concatenate([points, forehead]), True
    down = points[8] - points[27]
    down *= 0.08 * np.linalg.norm(points[45] - points[36]) / np.linalg.norm(down)  # about the height of a brow
    # The middles of the lids: right upper and lower, left upper and lower.
    lids = [points[[i, i + 1]].mean(0) for i in (37, 40, 43, 46)]
    if layout.name == "wflw98":
        jaw = np.stack([np.interp(np.arange(33) / 2, np.arange(17), column) for column in points[:17].T], axis=-1)
        brows = [points[17:22], points[[21, 20, 19, 18]] + down, points[22:27], points[[25, 24, 23, 22]] + down]
        eyes = [points[36:38], lids[:1], points[38:41], lids[1:2], points[41:44], lids[2:3], points[44:47], lids[3:]]
        return np.concatenate([jaw, *brows, points[27:36], *eyes, points[47:], pupils]), True
    if layout.name == "cofw29":
        found = np.zeros((29, 2))
        found[[0, 1, 2, 3, 8, 9, 10, 11, *range(20, 29)]] = landmarks.convert(points, "ibug68", "common17")
        found[[4, 5, 6, 7]] = points[19], points[19] + down, points[24], points[24] + down
        found[[12, 13, 14, 15]] = lids
        found[[16, 17]] = pupils
        found[18] = points[31] + 0.35 * (points[31] - points[33]) - down
        found[19] = points[35] + 0.35 * (points[35] - points[33]) - down
        return found, True
    raise InputError(f"benchmarks/layout_images.py cannot place the points of {layout.name}; extend its `place`.")


def draw(layout: landmarks.Layout, *, thermal: bool, seed: int, index: int) -> np.ndarray:
    """Draws the numbered landmarks of a layout on a synthetic face, uint8 RGB [SIDE, SIDE, 3]."""
    pair = generate.example(seed, index, size=SIDE, frontal=True, well_lit=True)
    modality = "thermal" if thermal else "rgb"
    known = pair["landmarks" if thermal else "rgb_landmarks"].astype(np.float64)
    jaw = pair["jaw3d"] + (known - pair["landmarks"])[:17]
    points, schematic = place(known, jaw, layout)
    example = {modality: pair[modality], "landmarks": points, "visible": np.ones(len(points), bool)}
    example["box"] = landmarks.box_from_points(np.concatenate([points, known]))
    cut = augment.crop(example, augment.Crop(SIDE, 1.1, layout))
    face = (cut[modality] * (255 * DIM)).round().astype(np.uint8)
    image = Image.fromarray(numbered(face, cut["landmarks"] * SIDE - 0.5, layout, smallest=0))
    text = f"{layout.name}, {layout.count} points" + (", schematic" if schematic else "")
    ImageDraw.Draw(image).text((8, 6), text, (255, 255, 255), ImageFont.load_default(18), stroke_width=2, stroke_fill=0)
    return np.asarray(image)


def encode(image: np.ndarray) -> bytes:
    """Returns the image as PNG with a palette of as many colours as MOST_BYTES allows, but at least 8."""
    for colors in (128, 64, 32, 16, 8):
        buffer = io.BytesIO()
        small = Image.fromarray(image).quantize(colors, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        small.save(buffer, "png", optimize=True)
        if buffer.tell() < MOST_BYTES:
            break
    return buffer.getvalue()


def main(argv: Sequence[str] | None = None) -> None:
    """Writes `landmarks.png` into every folder of `tfds_builders` whose README shows it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=5, help="seed of the synthetic face")
    parser.add_argument("--index", type=int, default=404, help="number of the synthetic pair")
    parser.add_argument("--only", default="", help="names of datasets, separated by commas; all by default")
    arguments = parser.parse_args(argv)
    only = [name for name in arguments.only.split(",") if name]
    root = pathlib.Path(tfds_builders.__file__).parent
    for readme in sorted(root.glob("*/README.md")):
        name = readme.parent.name
        if only and name not in only:
            continue
        if "landmarks.png" not in readme.read_text():
            print(f"{name}: left out, its README shows no landmarks.png")
            continue
        kind = builder_of(name)
        # MODALITIES is a property where configs differ in it; all such datasets have thermal images.
        thermal = kind.MODALITIES != ("rgb",)
        try:
            image = draw(landmarks.get(kind.LAYOUT), thermal=thermal, seed=arguments.seed, index=arguments.index)
        except InputError as error:
            print(f"{name}: left out. {error}")
            continue
        data = encode(image)
        readme.with_name("landmarks.png").write_bytes(data)
        print(f"{name}: wrote landmarks.png ({len(data) / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
