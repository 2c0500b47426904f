"""`Predictor` finds landmarks in a user's images; the commands use it too.

Only the stored model of a stage is read (`models.stored`), so none of the training code is loaded.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath
from numpy.typing import ArrayLike
from scipy import special

from mlcm_jax import codecs, detection, landmarks
from mlcm_jax.data import augment, image_file
from mlcm_jax.data.gain import inside, shows_nothing
from mlcm_jax.errors import InputError
from mlcm_jax.inference import search
from mlcm_jax.inference.detector import Detector
from mlcm_jax.inference.faces import Faces
from mlcm_jax.inference.open_network import load
from mlcm_jax.models import network as networks

# Mean distance of the predictions for a crop and its mirror image, over the crop's side, at which the score is 0.5.
_APART = 0.05
# Landmarks with a lower score are probably wrong. 97.8 % of the bad answers for wrong boxes and for images without a
# face have a lower one, and so do fewer than one in a thousand of the good answers for disturbed images
# (docs/real_faces.md, "Disturbed images").
DOUBTFUL = 0.8
APART_DOUBTFUL = 0.6  # of networks without calibration, whose score is another


class Predictor:
    """A trained network, ready to be called on one image after another, also from several threads.

    Attributes:
        layout: the name of the landmarks' layout.
        card: the description of the network (`models.stored.Card`).
        detector: finds the faces where the caller gives no boxes; None: it takes the whole image.
        doubtful: landmarks with a score below this are probably wrong.
    """

    def __init__(
        self,
        path: epath.PathLike | None = None,
        *,
        stage: str | None = None,
        layout: str | None = None,
        detector: bool = True,
    ) -> None:
        """Loads a network.

        Args:
            path: the work directory of a run, or a folder with `model.json`; None loads the network that ships with
                this package.
            stage: the stage of the run whose network is loaded; by default, the last stage of the run's config.
            layout: the layout to which landmarks are converted, such as "sf_tl54"; None keeps that of the network.
            detector: whether the detector that ships with this package finds the faces where the caller gives no boxes.
                If False, and for networks that read RGB images, the whole image is then the box of one face.

        Raises:
            InputError: no such run or stage, a stage that is not trained to its end, damaged files, or a layout to
                which the network's landmarks do not convert.
        """
        self._network, self.card, _ = load(path, stage)
        if self.card.layout.name == detection.LAYOUT.name:
            raise InputError(f"The network {path} finds boxes, not landmarks; `inference.detector.Detector` reads it.")
        self._target = landmarks.get(layout or self.card.layout)
        landmarks.convert(np.zeros((1, self.card.layout.count, 2), np.float32), self.card.layout, self._target)
        self.layout = self._target.name
        self.doubtful = DOUBTFUL if self.card.calibration else APART_DOUBTFUL
        self._run = jax.jit(networks.run)
        self.detector = Detector() if detector and self.card.modality == "thermal" else None
        self._shipped = path is None
        # The shipped network looks at every box that the detector finds, in its own layout.
        own = self._shipped and self.layout == self.card.layout.name
        self._judge = self if own else Predictor(detector=False) if self.detector else None

    def __call__(
        self, image: Any, boxes: ArrayLike | None = None, *, max_faces: int = 20, min_score: float | None = None
    ) -> Faces:
        """Predicts the landmarks of every face.

        Args:
            image: an `Image`, a path, an image of Pillow, or an array: [H, W] of uint8, uint16 or float in any unit
                (hot = large, NaN where a value is missing), or uint8 [H, W, 3] RGB; see `data.image_file`.
            boxes: [F, 4] (x, y, w, h) in pixels by the convention of `landmarks.box_from_points`; None lets the
                detector find them, perhaps none.
            max_faces: the largest number of faces that the detector finds.
            min_score: the smallest score of a face that it finds, in (0, 1); None takes the detector's own.

        Raises:
            InputError: an image that cannot be used, or a box that is empty or outside the image.
        """
        detection.check_limits(max_faces, min_score)
        card, given = self.card, image_file.as_image(image)
        pixels = image_file.for_network(given, modality=card.modality, thermal_range=card.thermal_range, gain=card.gain)
        height, width = pixels.shape[:2]
        if boxes is None and self.detector:
            return self._search(given, max_faces, min_score)
        boxes = _boxes([[0, 0, width, height]] if boxes is None else boxes)
        found = [self._face(pixels, box) for box in boxes]
        points = np.asarray([one[0] for one in found], np.float32).reshape(-1, card.layout.count, 2)
        uncertainty = np.asarray([one[1] for one in found], np.float32).reshape(-1, card.layout.count)
        return self._converted(
            Faces(
                landmarks=points,
                boxes=boxes,
                scores=np.asarray([one[2] for one in found], np.float32),
                detections=np.full(len(boxes), np.nan, np.float32),
                uncertainty=uncertainty,
                layout=card.layout.name,
            )
        )

    def _converted(self, faces: Faces) -> Faces:
        """Converts faces from the network's layout to that of this predictor."""
        card = self.card
        # Each point of the target is one of the network's or the mean of some; so is its uncertainty.
        twice = np.nan_to_num(faces.uncertainty)[..., None].repeat(2, -1)
        spread = landmarks.convert(twice, card.layout, self._target)[..., 0]
        spread = np.where(np.isnan(faces.uncertainty).any(-1, keepdims=True), np.nan, spread)
        points = np.asarray(landmarks.convert(faces.landmarks, card.layout, self._target), np.float32)
        return dataclasses.replace(
            faces, landmarks=points, uncertainty=np.asarray(spread, np.float32), layout=self.layout
        )

    def _search(self, image: image_file.Image, max_faces: int, min_score: float | None) -> Faces:
        """Finds faces: boxes that the shipped landmarks judge (`search`), and this network's landmarks in them."""
        if not self.detector.card.second:
            boxes, scores = self.detector(image, max_faces=max_faces, min_score=min_score)
            return dataclasses.replace(self(image, boxes), detections=scores)
        faces = search.search(self._judge, self.detector, image, max_faces=max_faces, min_score=min_score)
        if self._shipped:
            return self._converted(faces)
        return dataclasses.replace(self(image, faces.boxes), detections=faces.detections)

    def _face(self, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Returns landmarks [K, 2] and uncertainties [K] in pixels, and the score."""
        card, layout = self.card, self.card.layout
        box = landmarks.check_box(box, "The box")
        landmarks.check_box_inside(box, image.shape[1], image.shape[0], "The box")
        window, corner = _window(image, box, card.expand)
        example = {"landmarks": np.zeros((layout.count, 2), np.float32), "visible": np.ones(layout.count, bool)}
        example |= {card.modality: window, "box": (box[0] - corner[0], box[1] - corner[1], box[2], box[3])}
        crop = augment.crop(example, augment.Crop(card.image_size, card.expand, layout, card.gain))
        plain = crop[card.modality]
        pair, spreads = self._predict(np.stack([plain, plain[:, ::-1]]))
        mirrored = (np.array([1.0, 0.0]) + np.array([-1.0, 1.0]) * pair[1])[layout.flip]
        mean = (pair[0] + mirrored) / 2
        points = codecs.to_original(mean[None], crop["to_image"][None], card.image_size)[0] + corner
        side = card.image_size * np.hypot(*crop["to_image"][:, 0])
        if spreads is None:
            uncertainty = np.full(layout.count, np.nan)
        else:
            uncertainty = (spreads[0] + spreads[1][layout.flip]) / 2
            if card.calibration:
                uncertainty = card.calibration[0] * uncertainty ** card.calibration[1]
            uncertainty = side * uncertainty
        if shows_nothing(inside(image, box)):
            score = 0.0
        elif card.calibration and spreads is not None:
            score = score_of(uncertainty.mean() / side_of(points, layout), *card.calibration[2:])
        else:
            apart = np.linalg.norm(pair[0] - mirrored, axis=-1).mean()
            score = 1.0 / (1.0 + apart / _APART)
        return points, uncertainty, float(score)

    def predict_crops(self, crops: np.ndarray) -> np.ndarray:
        """Predicts landmarks, float32 [N, K, 2] in u, for crops as of `augment.crop`, float32 [N, S, S, 1 or 3]."""
        return self._predict(crops)[0]

    def _predict(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        found = self._run(self._network, crops)
        return np.asarray(found.landmarks), None if found.uncertainty is None else np.asarray(found.uncertainty)


def side_of(points: np.ndarray, layout: str | landmarks.Layout) -> float:
    """√(w·h) of the box around landmarks [K, 2]: the size of the face, whatever box was given; 1e-3 if it has none."""
    if not (np.ptp(points, axis=0) > 1e-3).all():
        return 1e-3
    _, _, w, h = landmarks.box_from_points(points, layout)
    return float(np.sqrt(w * h))


def score_of(spread: ArrayLike, a: float, b: float) -> np.ndarray:
    """The calibrated score 1 / (1 + exp(-a - b ln spread)); see `stored.Card.calibration`."""
    return special.expit(a + b * np.log(np.maximum(spread, 1e-6)))


def _window(image: np.ndarray, box: tuple[float, ...], expand: float) -> tuple[np.ndarray, list[int]]:
    """Cuts out what the crop of a box can read, so that the cost does not grow with the image: (pixels, its corner)."""
    x, y, w, h = box
    reach = 0.5 * max(expand, 1.0) * max(w, h) * 1.25 + 8.0
    centre, size = (x + w / 2, y + h / 2), image.shape[1::-1]
    low = [min(max(0, int(middle - reach)), side - 1) for middle, side in zip(centre, size, strict=True)]
    high = [min(max(1, int(middle + reach) + 1), side) for middle, side in zip(centre, size, strict=True)]
    return image[low[1] : high[1], low[0] : high[0]], low


def _boxes(given: ArrayLike) -> np.ndarray:
    """Returns boxes as float32 [F, 4]; raises InputError if they are something else."""
    try:
        boxes = np.asarray(given)
    except (TypeError, ValueError):  # such as lists of different lengths
        boxes = np.asarray(None)
    if boxes.dtype.kind not in "buif":
        raise InputError(f"The array of boxes must hold numbers; {type(given).__name__} was given.")
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which `check_box` refuses
        boxes = boxes.astype(np.float32)
    boxes = boxes.reshape(0, 4) if boxes.shape == (0,) else boxes
    if boxes.shape[1:] != (4,):
        raise InputError(f"Boxes have shape {boxes.shape}, not [F, 4] (x, y, w, h).")
    return boxes
