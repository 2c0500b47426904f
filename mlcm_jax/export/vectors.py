"""`vectors/` beside an exported file: images with what every step must give, to test a program that uses the file.

`vectors.json` lists the cases. Arrays are `.npy` files: N_image (uint8 or float32 [H, W], NaN in holes; or uint8
[H, W, 3]), N_box float32 [4], N_crop float32 [1, S, S, C], N_to_image float32 [2, 3], one for every output of the file,
and N_result: landmarks float32 [K, 2] or boxes float32 [F, 4] in pixels of the image.
"""

import functools
from typing import Any

import numpy as np

from mlcm_jax import codecs, detection, landmarks
from mlcm_jax.export import decode, faces
from mlcm_jax.export.faces import View
from mlcm_jax.export.formats import Run
from mlcm_jax.inference.detector import overlaps
from mlcm_jax.models.stored import Card
from mlcm_jax.synthetic import crowd, generate


def cases(card: Card, *, boxes: bool) -> dict[str, View]:
    """The images by name: plain, 8 bits, at the border, large (halved while it is cropped), and with holes."""
    found = _scenes() if boxes else _faces(card)
    return {name: faces.view(card, image, box) for name, (image, box) in found.items()}


def results(views: dict[str, View], run: Run, card: Card, decoding: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """All arrays of every case, by name of the case and then of the array."""
    out = {}
    for name, view in views.items():
        found = run(view.crop)
        result = result_of(found, view, card, decoding)
        out[name] = {"image": view.image, "box": view.box, "crop": view.crop, "to_image": view.to_image}
        out[name] |= {key: np.asarray(value, np.float32) for key, value in found.items()} | {"result": result}
    return out


def result_of(found: dict[str, np.ndarray], view: View, card: Card, decoding: dict[str, Any]) -> np.ndarray:
    """Landmarks float32 [K, 2], or boxes float32 [F, 4], in pixels of the image, from the outputs of a file."""
    if decoding["decoder"] != "boxes":
        points, _ = decode.landmarks(found, decoding)
        return codecs.to_original(points, view.to_image, card.image_size).astype(np.float32)
    boxes, _ = detection.find(found["scores"][0], found["sides"][0], threshold=card.threshold, max_faces=20)
    boxes = detection.to_original(boxes, view.to_image, card.image_size)
    inside = [overlaps(box, view.image.shape) for box in boxes]
    return boxes[inside].astype(np.float32)


@functools.cache
def _pair(index: int, side: int) -> dict[str, Any]:
    return generate.example(faces.VECTORS, index, size=side)


def _faces(card: Card) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rgb = card.modality == "rgb"
    key, points = ("rgb", "rgb_landmarks") if rgb else ("thermal", "landmarks")
    small, large = (_pair(index, side) for index, side in ((0, 160), (4, 560)))
    box = landmarks.box_from_points(small[points])
    cut = int(box[0] + 0.2 * box[2])
    found = {
        "border": (np.ascontiguousarray(small[key][:, cut:]), box - [cut, 0, 0, 0]),
        "large": (large[key], landmarks.box_from_points(large[points])),
    }
    if rgb or (card.gain == "as_is" and not card.thermal_range):
        return {"plain": (small[key], box)} | found
    celsius = small["celsius"]
    thermal = {"plain": (celsius, box), "holes": (_with_holes(celsius), box)}
    if card.thermal_range:  # gray levels are no temperatures
        return thermal
    return thermal | {"8 bits": (small[key], box)} | found


@functools.cache
def _scenes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    numbers = iter(range(200))
    images = []
    while len(images) < 3:  # scenes in which there is something to find
        scene = crowd.example(faces.VECTORS, next(numbers), size=400)
        if (scene["shown"] > 0.9).any() and scene["boxes"][:, 3].max() > 80:
            images.append(scene["thermal"])
    small, large, celsius = images
    large = large.repeat(2, 0).repeat(2, 1)
    celsius = (15.0 + 0.1 * celsius).astype(np.float32)
    named = {"8 bits": small, "large": large, "plain": celsius, "holes": _with_holes(celsius)}
    return {name: (image, faces.whole_image(image)) for name, image in named.items()}


def _with_holes(values: np.ndarray) -> np.ndarray:
    """A copy with a row and some pixels without a value."""
    values = values.copy()
    values[values.shape[0] // 2] = np.nan
    values[::17, ::13] = np.nan
    return values
