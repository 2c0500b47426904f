"""The faces of one image, as `Predictor` returns them."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlcm_jax.inference import regions


@dataclasses.dataclass(frozen=True, eq=False)
class Faces:
    """The faces of one image.

    Attributes:
        landmarks: float32 [F, K, 2], (x, y) in pixels of the image.
        boxes: float32 [F, 4], x, y, w, h in pixels: as the caller gave them, or those of the landmarks of faces that
            were found.
        scores: float32 [F] in [0, 1]. For a calibrated network, the probability that the NME by √(w·h) of the face's
            true box is below 10 %, whatever box was given; for others, how well the predictions for the crop and for
            its mirror image agree (1: exactly; 0.5: apart by 5 % of the crop's side on average). A box with one value
            only, or with fewer than 16 pixels of the image, has the score 0.
        detections: float32 [F], the probability that there is a face, by the detector and by the landmarks found in its
            box; NaN for boxes that the caller gave. Faces that were found are sorted by it.
        uncertainty: float32 [F, K], the expected distance of each landmark from the truth in pixels; NaN for networks
            without uncertainty.
        layout: the name of the landmarks' layout.
    """

    landmarks: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    detections: np.ndarray
    uncertainty: np.ndarray
    layout: str

    def __len__(self) -> int:
        return len(self.landmarks)

    def chosen(self, order: np.ndarray) -> Faces:
        """Returns some of the faces, in the order of their numbers in `order`."""
        names = ("landmarks", "boxes", "scores", "detections", "uncertainty")
        return dataclasses.replace(self, **{name: getattr(self, name)[order] for name in names})

    def regions(self, celsius: np.ndarray) -> list[dict[str, regions.Region]]:
        """Measures the temperatures of the regions of every face, by their names in `regions.NAMES`.

        Args:
            celsius: float [H, W] in °C, NaN where there is no value: `Image.celsius`.

        Raises:
            InputError: an image without temperatures, an array of another kind, or another layout than ibug68.
        """
        celsius = regions.check(self.layout, celsius)
        return [regions.measure(points, celsius) for points in self.landmarks]
