"""Rendered images for the calibration of int8, the parity report and the test vectors; they need no files.

Calibration and report use different people: their seeds differ from each other and from those of every training.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from mlcm_jax import detection, landmarks
from mlcm_jax.data import augment, image_file
from mlcm_jax.errors import InputError
from mlcm_jax.inference.detector import reduced
from mlcm_jax.models.stored import Card
from mlcm_jax.synthetic import crowd, generate

CALIBRATION, REPORT, VECTORS = 9_001, 9_002, 9_003  # seeds
_SIDE = 224  # pixels of an image, in which a face is about 130 pixels high


@dataclasses.dataclass(frozen=True)
class View:
    """An image as a network sees it.

    Attributes:
        image: [H, W] uint8 or float32 in °C, or uint8 [H, W, 3]: what a user's file holds.
        box: float32 [4], x, y, w, h of the face in pixels; the whole image for a detector.
        crop: float32 [1, S, S, C] in [0, 1], the input.
        to_image: float32 [2, 3], crop pixels to image pixels.
        truth: float32 [K, 2] in pixels, in the network's layout, or [N, 4], the boxes of a detector's image; None
            where the layout has points that the renderer lacks.
    """

    image: np.ndarray
    box: np.ndarray
    crop: np.ndarray
    to_image: np.ndarray
    truth: np.ndarray | None


def views(card: Card, seed: int, count: int, *, boxes: bool) -> Iterator[View]:
    """Renders faces, or whole scenes for a detector, and crops them for a network."""
    for index in range(count):
        if boxes:
            scene = crowd.example(seed, index, size=320)
            image, seen = scene["thermal"], scene["shown"] > 0.5
            yield view(card, image, whole_image(image), scene["boxes"][seen])
        else:
            pair = generate.example(seed, index, size=_SIDE, pairs_per_subject=1)
            rgb = card.modality == "rgb"
            points = pair["rgb_landmarks" if rgb else "landmarks"]
            gray = card.gain == "as_is" and not card.thermal_range
            image = pair["rgb" if rgb else "thermal" if gray else "celsius"]
            yield view(card, image, landmarks.box_from_points(points), _converted(points, card))


def view(card: Card, image: np.ndarray, box: np.ndarray, truth: np.ndarray | None = None) -> View:
    """Crops an image for a network, as `Predictor` and `Detector` do."""
    given = image_file.Image(
        values=image.astype(np.float32) if image.ndim == 2 else image[..., 0].astype(np.float32),
        celsius=image if image.dtype == np.float32 else None,
        rgb=image if image.ndim == 3 else None,
        notes=(),
        name="rendered",
        levels=image.dtype == np.uint8,
    )
    pixels = image_file.for_network(given, modality=card.modality, thermal_range=card.thermal_range, gain=card.gain)
    layout, scale, inside = card.layout, 1.0, box
    if layout.name == detection.LAYOUT.name:
        pixels, scale = reduced(pixels)
        inside = whole_image(pixels)
    example = {"landmarks": np.zeros((layout.count, 2), np.float32), "visible": np.ones(layout.count, bool)}
    example |= {card.modality: pixels, "box": inside}
    crop = augment.crop(example, augment.Crop(card.image_size, card.expand, layout, card.gain))
    to_image = crop["to_image"].astype(np.float64) * scale  # through the reduced image to the original
    to_image[:, 2] += 0.5 * scale - 0.5
    return View(image, np.asarray(box, np.float32), crop[card.modality][None], to_image.astype(np.float32), truth)


def whole_image(image: np.ndarray) -> np.ndarray:
    """The box of a whole image, float32 [4]."""
    return np.array([0, 0, image.shape[1], image.shape[0]], np.float32)


def _converted(points: np.ndarray, card: Card) -> np.ndarray | None:
    try:
        return np.asarray(landmarks.convert(points, "ibug68", card.layout), np.float32)
    except InputError:
        return None
