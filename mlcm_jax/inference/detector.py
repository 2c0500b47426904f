"""`Detector` finds the faces in a thermal image: boxes for `Predictor`, which calls it when the caller gives none."""

from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from etils import epath

from mlcm_jax import detection
from mlcm_jax.data import augment, image_file
from mlcm_jax.errors import InputError
from mlcm_jax.inference.open_network import SHIPPED, load
from mlcm_jax.models import network as networks

SHIPPED_DETECTOR = SHIPPED / "detector"
LONGEST = 640  # larger images are reduced first: the network sees 160 pixels


class Found(NamedTuple):
    """Boxes by the convention of `landmarks.box_from_points`, float32 [F, 4], and their scores [F], best first."""

    boxes: np.ndarray
    scores: np.ndarray


class Detector:
    """A trained detector, ready to be called on one image after another, also from several threads.

    Attributes:
        card: the description of the network (`models.stored.Card`).
    """

    def __init__(self, path: epath.PathLike | None = None, *, stage: str | None = None) -> None:
        """Loads a detector.

        Args:
            path: the work directory of a run of configs/detector.py, or a folder with `model.json`; None loads the one
                that ships with this package.
            stage: see `Predictor`.

        Raises:
            InputError: no such network, or one that finds no boxes.
        """
        self._network, self.card, _ = load(path, stage, shipped=SHIPPED_DETECTOR)
        if self.card.layout.name != detection.LAYOUT.name:
            raise InputError(f"The network {path} finds landmarks, not boxes; give a run of configs/detector.py.")
        self._run = jax.jit(lambda network, crop: networks.run(network, crop).maps)

    def __call__(self, image: Any, *, max_faces: int = 20, min_score: float | None = None) -> Found:
        """Finds faces of any number and size, white-hot or black-hot, that are upright to about 30 degrees.

        Images turned by 90 degrees must be turned back first: in them, it finds few faces or none.

        Args:
            image: an `Image`, or what `image_file.as_image` takes.
            max_faces: the largest number of boxes, at least 1.
            min_score: the smallest score of a box, in (0, 1); None takes the detector's own threshold.

        Raises:
            InputError: numbers out of range.
        """
        detection.check_limits(max_faces, min_score)
        image = image_file.as_image(image)
        card, threshold = self.card, self.card.threshold if min_score is None else min_score
        pixels = image_file.for_network(image, modality=card.modality, gain=card.gain)
        pixels, scale = reduced(pixels)
        height, width = pixels.shape[:2]
        example = {card.modality: pixels, "box": (0.0, 0.0, float(width), float(height))}
        example |= {"landmarks": np.zeros((card.layout.count, 2), np.float32)}
        example |= {"visible": np.ones(card.layout.count, bool)}
        crop = augment.crop(example, augment.Crop(card.image_size, card.expand, card.layout, card.gain))
        maps = jax.device_get(self._run(self._network, crop[card.modality][None]))
        boxes, scores = detection.find(maps.scores[0], maps.sides[0], threshold=threshold, max_faces=max_faces)
        boxes = detection.to_original(boxes, crop["to_image"], card.image_size)
        boxes[:, :2] = (boxes[:, :2] + 0.5) * scale - 0.5
        boxes[:, 2:] *= scale
        inside = [overlaps(box, image.values.shape) for box in boxes]
        return Found(boxes[inside].astype(np.float32), scores[inside])


def reduced(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """The image with a longer side of at most `LONGEST`, and how many original pixels one of its pixels takes."""
    height, width = pixels.shape[:2]
    factor = max(height, width) / LONGEST
    if factor <= 1.0:
        return pixels, 1.0
    size = max(1, round(width / factor)), max(1, round(height / factor))
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():  # an average would spread the holes
        return cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST), factor
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), factor


def overlaps(box: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether a box is larger than a pixel, and its middle lies inside the image, not in the letterbox's padding."""
    (x, y), larger = box[:2] + box[2:] / 2, bool((box[2:] > 1.5).all())
    return larger and bool(0 <= x < shape[1] - 0.5 and 0 <= y < shape[0] - 0.5)
