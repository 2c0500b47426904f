"""Finds faces with a detector and a network of landmarks: the landmarks correct each box and judge it.

A detector sees the whole image on a small grid. Its boxes reach too low where a neck or a chest is as warm as the face,
and too high over a cap. So every box is tried as it is, and smaller and higher; of the two crops, the one with the
better score of its landmarks counts, and the box becomes that of these landmarks.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from mlcm_jax import detection, landmarks
from mlcm_jax.data.image_file import Image
from mlcm_jax.inference.detector import Detector
from mlcm_jax.inference.faces import Faces

Judge = Callable[[Image, np.ndarray], Faces]  # finds the landmarks in boxes [N, 4]: a `Predictor`
CANDIDATES, LOWEST = 20, 0.15  # of the detector's boxes, this many are judged, from this score on
RAISED = np.float32([[0.1, -0.05, 0.8, 0.8]])  # the second crop: x, y, w, h in a box of size 1
OVERLAP = 0.4  # IoU with a better box from which a box is dropped


def judge(judging: Judge, image: Image, boxes: np.ndarray) -> Faces:
    """Finds the landmarks in detected boxes, and returns each face with the box of its landmarks.

    Args:
        judging: finds the landmarks, and scores them.
        image: the image.
        boxes: float32 [N, 4], x, y, w, h in pixels, whose middles lie inside the image.

    Returns:
        N faces, in the order of the boxes.
    """
    raised = np.concatenate([boxes[:, :2], np.zeros_like(boxes[:, 2:])], 1) + RAISED * np.tile(boxes[:, 2:], 2)
    both = judging(image, np.concatenate([boxes, raised]))
    number = np.arange(len(boxes))
    faces = both.chosen(np.where(both.scores[len(boxes) :] > both.scores[: len(boxes)], number + len(boxes), number))
    pairs = zip(faces.landmarks, faces.boxes, strict=True)
    fitted = [_fitted(points, box, image.values.shape, faces.layout) for points, box in pairs]
    return dataclasses.replace(faces, boxes=np.float32(fitted).reshape(-1, 4))


def search(judging: Judge, detector: Detector, image: Image, *, max_faces: int, min_score: float | None) -> Faces:
    """Finds faces: the detector's boxes, corrected and judged by the landmarks in them, best first.

    Args:
        judging: finds the landmarks; the one by which `detector.card.second` was fitted.
        detector: finds the boxes.
        image: the image.
        max_faces: see `Predictor`.
        min_score: see `Predictor`.
    """
    boxes, scores = detector(image, max_faces=max(max_faces, CANDIDATES), min_score=LOWEST)
    faces = judge(judging, image, boxes)
    found = detection.probability(scores, faces.scores, detector.card.second)
    order = np.argsort(-found, kind="stable")
    order = order[found[order] >= (detector.card.second[3] if min_score is None else min_score)]
    kept = detection.without_overlaps(faces.boxes[order], OVERLAP)[:max_faces]
    return dataclasses.replace(faces.chosen(order[kept]), detections=found[order[kept]])


def _fitted(points: np.ndarray, box: np.ndarray, shape: tuple[int, ...], layout: str) -> np.ndarray:
    """The box of landmarks; the given one if that of the landmarks is not inside the image."""
    if not (np.ptp(points, axis=0) > 1.5).all():
        return box
    fitted = landmarks.box_from_points(points, layout)
    x, y = fitted[:2] + fitted[2:] / 2
    return fitted if 0 <= x < shape[1] - 0.5 and 0 <= y < shape[0] - 0.5 else box
