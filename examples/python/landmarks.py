"""Runs an exported ONNX file with numpy and ONNX Runtime alone, as its `model.json` says.

    pip install numpy onnxruntime
    python landmarks.py DIR                             # checks DIR/vectors
    python landmarks.py DIR image.npy 43,48,108,133     # landmarks of the face in a box x,y,w,h
    python landmarks.py DIR image.npy                   # boxes, if DIR has the detector

DIR is what `mlcm export --format=onnx --out=DIR` wrote. An image is uint8 or float [H, W] (NaN where a value is
missing), or uint8 [H, W, 3] for networks that read RGB.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

TOLERANCE = 0.05  # pixels
MOST_FACES, OVERLAP = 20, 0.4


class Model:
    """An exported file with its description."""

    def __init__(self, folder: Path) -> None:
        self.about = json.loads((folder / "model.json").read_text())
        self.session = onnxruntime.InferenceSession(folder / self.about["file"], providers=["CPUExecutionProvider"])

    def __call__(self, image: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
        """Landmarks [K, 2] in pixels of the image; or boxes [F, 4] x, y, w, h, if the file is a detector."""
        crop, to_image = self.crop(image, box)
        return self.decode(self.run(crop), to_image, image.shape)

    def crop(self, image: np.ndarray, box: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Image -> the input float32 [1, S, S, C], and what leads from its pixels to those of the image, [2, 3]."""
        steps = self.about["preprocessing"]
        if "thermal_range" in steps:
            low, high = steps["thermal_range"]
            share = np.clip((image - low) / (high - low), 0, 1)
            image = filled(np.round(255 * np.nan_to_num(share)).astype(np.uint8), np.isnan(image))
        scale = 1.0
        if "longest" in steps:  # a detector
            image, scale = reduced(image, steps["longest"])
            box = np.array([0, 0, image.shape[1], image.shape[0]])
        if steps["gain"]["name"] == "box":
            image = box_gain(image, box, steps["gain"])
        elif steps["gain"]["name"] == "scene":
            image = scene_gain(image, steps["gain"])
        crop, to_image = warp(image, box, steps["crop"])
        to_image = to_image * scale
        to_image[:, 2] += 0.5 * scale - 0.5
        return crop.reshape(self.about["input"]["shape"]).astype(np.float32) / 255, to_image

    def run(self, crop: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of the file by name."""
        names = [one["name"] for one in self.about["outputs"]]
        return dict(zip(names, self.session.run(names, {self.about["input"]["name"]: crop}), strict=True))

    def decode(self, found: dict[str, np.ndarray], to_image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The outputs -> landmarks or boxes in pixels of the image."""
        decoding, size = self.about["decoding"], self.about["image_size"]
        if decoding["decoder"] == "boxes":
            return boxes(found["scores"][0], found["sides"][0], decoding, (to_image, size, shape))
        if decoding["decoder"] == "none":
            points = found["landmarks"][0]
        else:
            points = points_of_maps(found["maps"][0].astype(np.float64), decoding)
        return (size * points - 0.5) * to_image[0, 0] + to_image[:, 2]


def filled(image: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """A copy in which every hole has the value of the nearest pixel that is none."""
    out = image.copy()
    for row, column in np.argwhere(holes):
        reach = 1
        while True:
            top, left = max(0, row - reach), max(0, column - reach)
            rows, columns = np.nonzero(~holes[top : row + reach + 1, left : column + reach + 1])
            apart = np.hypot(rows + top - row, columns + left - column)
            if (len(apart) and apart.min() <= reach) or reach > max(holes.shape):
                break
            reach *= 2
        if len(apart):
            near = apart.argmin()
            out[row, column] = image[rows[near] + top, columns[near] + left]
    return out


def reduced(image: np.ndarray, longest: int) -> tuple[np.ndarray, float]:
    """Shrinks a larger image by area averages; also returns how many original pixels one of its pixels takes."""
    scale = max(image.shape) / longest
    if scale <= 1:
        return image, 1.0
    out = image.astype(np.float64)
    for axis in (0, 1):
        count = max(1, round(image.shape[axis] / scale))
        edges = np.linspace(0, image.shape[axis], count + 1)
        sums = np.concatenate([np.zeros_like(out.take([0], axis)), out.cumsum(axis)], axis)
        whole = np.clip(edges.astype(int), 0, image.shape[axis] - 1)
        part = (edges - whole).reshape([-1 if one == axis else 1 for one in (0, 1)])
        at = sums.take(whole, axis) + part * out.take(whole, axis)
        out = np.diff(at, axis=axis) * count / image.shape[axis]
    return (np.round(out) if image.dtype == np.uint8 else out).astype(image.dtype), scale


def box_gain(image: np.ndarray, box: np.ndarray, gain: dict[str, Any]) -> np.ndarray:
    """Stretches the image by the values in the box; uint8 [H, W]."""
    x, y, w, h = (float(one) for one in box)
    rows = slice(max(0, math.ceil(y)), max(0, math.ceil(y + h)))
    values = image[rows, max(0, math.ceil(x)) : max(0, math.ceil(x + w))]
    values = values[np.isfinite(values)]
    if len(values) < gain["fewest"]:
        values = image[np.isfinite(image)]
    low, high = np.percentile(values.astype(np.float64), gain["percentiles"])
    if low == high:
        low, high = values.min(), values.max()
    if low == high:
        gray = 128 + 127.5 * np.sign(image.astype(np.float64) - low)
    else:
        first, last = gain["levels"]
        # The training computes in this type; a gray level that is wrong by one moves the landmarks of int8 files.
        kind = np.float64 if image.dtype == np.uint8 else np.float32
        gray = (image.astype(kind) - kind(low)) * kind((last - first) / (high - low)) + kind(first)
    holes = ~np.isfinite(image)
    return filled(np.clip(np.nan_to_num(gray), 0, 255).round().astype(np.uint8), holes)


def scene_gain(image: np.ndarray, gain: dict[str, Any]) -> np.ndarray:
    """Returns the gray levels of an image, uint8 [H, W], by a curve through the percentiles of all its values."""
    holes = ~np.isfinite(image)
    values = image[~holes]
    if image.dtype == np.uint8:
        places = np.array(gain["percentiles"]) / 100 * (values.size - 1)
        knots = np.sort(values)[places.astype(int)].astype(np.float64)
    else:
        step = values.size // 20_000 + 1
        while math.gcd(step, image.shape[1]) > 1:
            step += 1
        knots = np.percentile(values[::step], gain["percentiles"])
        knots[0], knots[-1] = values.min(), values.max()
    steps = np.diff(knots)
    unit = max(8 * float(np.median(steps)), float(knots[29] - knots[3]) / 64) or float(steps.max())
    if not unit:
        return np.zeros(image.shape, np.uint8)
    heights = np.concatenate([[0], np.cumsum(np.log1p(steps / unit))])
    places, first = np.unique(knots, return_index=True)
    gray = np.interp(np.nan_to_num(image), places, heights[first] * (255 / heights[-1]))
    return filled(gray.round().astype(np.uint8), holes)


def warp(image: np.ndarray, box: np.ndarray, crop: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The square around the box, uint8 [S, S] or [S, S, 3], and its `to_image`, float64 [2, 3]."""
    x, y, w, h = (float(one) for one in box)
    size = crop["size"]
    step = crop["expand"] * max(w, h) / size
    corner = np.array([x + w / 2, y + h / 2]) - step * (size - 1) / 2  # what crop pixel (0, 0) shows
    halvings = int(math.log2(max(1.0, step * (1 + 1e-6))))
    factor = 2**halvings
    first = [max(0, int(one) - 2 * factor) for one in corner]
    last = [
        min(side, int(one + step * (size - 1)) + 3 * factor)
        for one, side in zip(corner, image.shape[1::-1], strict=True)
    ]
    columns, rows = ((b - a) // factor for a, b in zip(first, last, strict=True))
    part = image[first[1] : first[1] + rows * factor, first[0] : first[0] + columns * factor].astype(np.int64)
    for _ in range(halvings):
        part = (part[::2, ::2] + part[1::2, ::2] + part[::2, 1::2] + part[1::2, 1::2] + 2) // 4
    at = [(one + step * np.arange(size) - start + 0.5) / factor - 0.5 for one, start in zip(corner, first, strict=True)]
    mixed = blend(blend(part.astype(np.float64), at[1], 0), at[0], 1)
    to_image = np.array([[step, 0, corner[0]], [0, step, corner[1]]])
    return mixed.round().astype(np.uint8), to_image


def blend(image: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation along an axis at some places; what lies outside is 0."""
    below = np.floor(at).astype(int)
    part = (at - below).reshape([-1 if one == axis else 1 for one in range(image.ndim)])
    padded = np.pad(image, [(1, 1) if one == axis else (0, 0) for one in range(image.ndim)])
    top = image.shape[axis] + 1
    near = [padded.take(np.clip(one, 0, top), axis) for one in (below + 1, below + 2)]
    return (1 - part) * near[0] + part * near[1]


def points_of_maps(maps: np.ndarray, decoding: dict[str, Any]) -> np.ndarray:
    """Maps [h, w, K] of an int8 file -> landmarks [K, 2] in u."""
    h, w, count = maps.shape
    cells = np.stack(np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h), -1).reshape(-1, 2)
    maps = maps.reshape(-1, count)
    if decoding["decoder"] == "expectation":
        return 0.5 + maps.T @ (cells - 0.5) / np.maximum(maps.sum(0), decoding["floor"])[:, None]
    weights = np.exp(maps - maps.max(0))
    return (weights / weights.sum(0)).T @ cells


def boxes(
    scores: np.ndarray, sides: np.ndarray, decoding: dict[str, Any], where: tuple[np.ndarray, int, tuple[int, ...]]
) -> np.ndarray:
    """A detector's maps -> boxes [F, 4] in pixels of the image, best first; `where` is (to_image, S, image's shape)."""
    (h, w), (to_image, size, shape) = scores.shape, where
    padded = np.pad(scores, 1, constant_values=-np.inf)
    around = np.max([padded[r : r + h, c : c + w] for r in range(3) for c in range(3)], axis=0)
    limit = math.log(decoding["threshold"] / (1 - decoding["threshold"]))
    rows, columns = np.nonzero((scores >= around) & (scores > limit))
    order = np.argsort(-scores[rows, columns], kind="stable")
    kept: list[np.ndarray] = []
    for row, column in zip(rows[order], columns[order], strict=True):
        left, right, upper, lower = decoding["unit"] * np.exp(np.clip(sides[row, column], *decoding["limits"]))
        x, y = (column + 0.5) / w, (row + 0.5) / h
        box = np.array([x - left, y - upper, x + right, y + lower])
        if len(kept) < MOST_FACES and all(iou(box, other) < OVERLAP for other in kept):
            kept.append(box)
    found = []
    for low, high in (one.reshape(2, 2) for one in kept):
        corner, extent = (size * low - 0.5) * to_image[0, 0] + to_image[:, 2], size * (high - low) * to_image[0, 0]
        x, y = corner + extent / 2
        if extent.min() > 1.5 and 0 <= x < shape[1] - 0.5 and 0 <= y < shape[0] - 0.5:
            found.append([*corner, *extent])
    return np.array(found).reshape(-1, 4)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the intersection over union of two boxes, each given as left, top, right and bottom."""
    both = np.prod(np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])))
    return both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both)


def check(model: Model, vectors: Path) -> float:
    """The largest distance from the results in `vectors`, in pixels; prints that of every case."""
    largest = 0.0
    for case in json.loads((vectors / "vectors.json").read_text()):
        arrays = {name: np.load(vectors / file) for name, file in case["arrays"].items()}
        found = model(arrays["image"], arrays["box"])
        same = found.shape == arrays["result"].shape and found.size
        apart = float(np.abs(found - arrays["result"]).max()) if same else math.inf
        level = 255 * np.abs(model.crop(arrays["image"], arrays["box"])[0] - arrays["crop"]).max()
        print(f"{case['name']:10s} result within {apart:.4f} pixels, crop within {level:.0f} gray levels")
        largest = max(largest, apart)
    return largest


def main() -> None:
    """Checks the vectors, or prints landmarks or boxes."""
    if not 2 <= len(sys.argv) <= 4:
        sys.exit("usage: landmarks.py DIR [image.npy [x,y,w,h]]")
    folder, *rest = sys.argv[1:]
    model = Model(Path(folder))
    if len(rest) == 1 and "longest" not in model.about["preprocessing"]:
        sys.exit("landmarks.py: this file finds landmarks in a box; give x,y,w,h")
    if not rest:
        sys.exit(0 if check(model, Path(folder) / "vectors") <= TOLERANCE else 1)
    box = np.array([float(one) for one in rest[1].split(",")]) if len(rest) > 1 else None
    for row in model(np.load(rest[0]), box):
        print(*(f"{value:.2f}" for value in row))


if __name__ == "__main__":
    main()
