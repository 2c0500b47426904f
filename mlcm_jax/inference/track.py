"""Follows faces from frame to frame, and smooths their landmarks.

A face that was found is looked for around its last landmarks, which costs a tenth of the detector. The detector runs
when there is no face, when one is lost, and from time to time for new ones.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from mlcm_jax import detection, landmarks
from mlcm_jax.data import image_file
from mlcm_jax.errors import InputError
from mlcm_jax.inference.faces import Faces
from mlcm_jax.inference.predictor import Predictor, side_of

_KEPT = 0.3  # score of the landmarks below which a face is lost
_SAME = 0.3  # IoU from which a box that the detector finds is that of a face already followed
_LOOK = 1.0  # seconds between two looks for new faces while some are followed
_FORGET = 2.0  # seconds after which a lost face is a new one


class OneEuro(NamedTuple):
    """The constants of the One-Euro filter (Casiez, Roussel and Vogel, CHI 2012).

    Attributes:
        cutoff: frequency in Hz below which a face at rest is left as it is; smaller is smoother.
        speed: how much the cutoff grows, in Hz, if a landmark moves by one face per second; larger lags less.
        derivative: cutoff for the speed itself, Hz.
    """

    cutoff: float = 1.0
    speed: float = 6.5
    derivative: float = 3.0


DEFAULT = OneEuro()


class Filtered(NamedTuple):
    """The state of the filter: positions [K, 2] in pixels and speeds [K, 2] in pixels per second, at a time in s."""

    points: np.ndarray
    speed: np.ndarray
    time: float


def smooth(before: Filtered | None, points: np.ndarray, time: float, side: float, constants: OneEuro) -> Filtered:
    """One step of the One-Euro filter for all landmarks of a face.

    Args:
        before: the state after the last frame; None for the first.
        points: [K, 2], landmarks in pixels of this frame.
        time: of this frame in seconds.
        side: of the face in pixels, the unit of the speed.
        constants: of the filter.

    Returns:
        The new state, whose `points` are smooth.
    """
    if before is None or time <= before.time:
        return Filtered(points, np.zeros_like(points), time)
    step = time - before.time
    share = _share(constants.derivative, step)
    speed = share * (points - before.points) / step + (1 - share) * before.speed
    # One cutoff for the two coordinates of a landmark, so that the filter does not depend on the axes.
    moved = np.linalg.norm(speed, axis=-1, keepdims=True) / side
    share = _share(constants.cutoff + constants.speed * moved, step)
    return Filtered(share * points + (1 - share) * before.points, speed, time)


def _share(cutoff: Any, step: float) -> Any:
    """The share of the new value in an exponential filter with a cutoff in Hz."""
    return 1.0 / (1.0 + 1.0 / (2 * np.pi * cutoff * step))


class Tracked(NamedTuple):
    """The faces of a frame, and the number of each person, int [F], which stays the same from frame to frame."""

    faces: Faces
    people: np.ndarray


@dataclasses.dataclass
class _Track:
    """A face that is followed, or was lost lately.

    Attributes:
        person: its number.
        state: of the filter.
        box: of the last landmarks, before the filter.
        seen: time of the last frame with this face.
        lost: whether the frame before had none.
    """

    person: int
    state: Filtered | None
    box: np.ndarray
    seen: float
    lost: bool = False


class Tracker:
    """Finds and follows the faces of a video, frame by frame."""

    def __init__(
        self,
        predictor: Predictor,
        *,
        constants: OneEuro | None = DEFAULT,
        max_faces: int = 20,
    ) -> None:
        """Begins with no face.

        Args:
            predictor: finds the landmarks; it must have a detector.
            constants: of the filter; None leaves the landmarks as they are predicted.
            max_faces: the largest number of faces.

        Raises:
            InputError: a predictor without a detector, or no face allowed.
        """
        if not predictor.detector:
            raise InputError("A video needs a network of thermal images, because the detector finds faces in these.")
        detection.check_limits(max_faces, None)
        self._predictor, self._constants, self._most = predictor, constants, max_faces
        self._tracks: list[_Track] = []
        self._looked, self._count = -np.inf, 0

    def __call__(self, image: Any, time: float) -> Tracked:
        """Finds the faces of the next frame.

        Args:
            image: as `Predictor` takes it; its size may change.
            time: of the frame in seconds, later than that of the frame before.

        Returns:
            The faces, with smooth landmarks and the boxes of these, sorted by person.

        Raises:
            InputError: an image that cannot be used.
        """
        image = image_file.as_image(image)
        self._tracks = [track for track in self._tracks if time - track.seen <= _FORGET]
        for track in self._tracks:  # who has left the image may come back there
            track.lost |= not _inside(track.box, image.values.shape)
        followed = [track for track in self._tracks if not track.lost]
        found = self._follow(image, followed)
        for track in followed:
            track.lost = all(track is not other for other, _ in found)
        if not found or len(found) < len(followed) or time - self._looked >= _LOOK:
            found += self._look(image, [_box(face) for _, face in found])
            self._looked = time
        found = sorted(found[: self._most], key=lambda pair: pair[0].person)
        return self._updated(found, time)

    def _follow(self, image: image_file.Image, followed: list[_Track]) -> list[tuple[_Track, Faces]]:
        """The faces that are where they were, each as `Faces` of one; the better first."""
        if not followed:
            return []
        faces = self._predictor(image, np.float32([track.box for track in followed]))
        order = np.argsort(-faces.scores, kind="stable")
        order = order[faces.scores[order] >= _KEPT]
        each = [(followed[k], faces.chosen(np.array([k]))) for k in order]
        apart = detection.without_overlaps(np.float32([_box(face) for _, face in each]).reshape(-1, 4), _SAME)
        return [each[k] for k in apart]

    def _look(self, image: image_file.Image, taken: list[np.ndarray]) -> list[tuple[_Track, Faces]]:
        """The faces that are not followed yet: new people, and those who were lost near the same place."""
        faces, found = self._predictor(image, max_faces=self._most), []
        for k in range(len(faces)):
            face = faces.chosen(np.array([k]))
            box = _box(face)
            if faces.scores[k] < _KEPT or any(detection.box_iou(box, other) >= _SAME for other in taken):
                continue
            taken = [*taken, box]
            lost = [track for track in self._tracks if track.lost and _near(track.box, box)]
            if not lost:
                self._count += 1
                lost = [_Track(self._count, None, box, -np.inf)]
                self._tracks += lost
            track = min(lost, key=lambda one: float(np.abs(one.box - box).sum()))
            track.lost, track.state = False, None  # the filter must not draw it from its old place
            found.append((track, face))
        return found

    def _updated(self, found: list[tuple[_Track, Faces]], time: float) -> Tracked:
        """Filters the landmarks, and remembers where the faces are."""
        points = []
        for track, face in found:
            track.box, track.seen = _box(face), time
            side = side_of(face.landmarks[0], face.layout)
            constants = self._constants or OneEuro(cutoff=np.inf)
            track.state = smooth(track.state, face.landmarks[0].astype(np.float64), time, side, constants)
            points.append(track.state.points)
        if not found:
            none = self._predictor(np.zeros((8, 8), np.uint8), np.zeros((0, 4), np.float32))
            return Tracked(none, np.zeros(0, int))
        all_faces = [face for _, face in found]
        joined = {
            name: np.concatenate([getattr(face, name) for face in all_faces])
            for name in ("scores", "detections", "uncertainty")
        }
        smoothed = np.float32(points)
        boxes = np.float32([landmarks.box_from_points(one, all_faces[0].layout) for one in smoothed])
        faces = Faces(landmarks=smoothed, boxes=boxes, layout=all_faces[0].layout, **joined)
        return Tracked(faces, np.array([track.person for track, _ in found]))


def _box(face: Faces) -> np.ndarray:
    """The box of the landmarks of one face."""
    if not (np.ptp(face.landmarks[0], axis=0) > 1.5).all():
        return face.boxes[0]
    return landmarks.box_from_points(face.landmarks[0], face.layout)


def _inside(box: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether the middle of a box lies in the image."""
    x, y = box[:2] + box[2:] / 2
    return 0 <= x < shape[1] - 0.5 and 0 <= y < shape[0] - 0.5


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes may be those of one face: less than its side apart, and of half to twice its size."""
    side = float(np.sqrt(one[2] * one[3]))
    apart = float(np.linalg.norm(one[:2] + one[2:] / 2 - other[:2] - other[2:] / 2))
    return apart < side and 0.5 < float(np.sqrt(other[2] * other[3])) / side < 2.0
