"""How landmarks correct and judge the boxes of a detector; the detectors here are made up, the landmarks are not."""

import types

import numpy as np
import pytest

from mlcm_jax import landmarks
from mlcm_jax.data import image_file
from mlcm_jax.detection import box_iou
from mlcm_jax.inference import search
from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.synthetic import generate


@pytest.fixture(scope="module")
def judging():
    return Predictor(detector=False)


@pytest.fixture(scope="module")
def pair():
    return generate.example(7, 8, size=160, frontal=True, well_lit=True)


def detector(*boxes, scores=None, second=(0.0, 1.0, 1.0, 0.5)):
    """A detector that finds these boxes in any image."""

    def find(image, *, max_faces, min_score):
        return np.float32(boxes).reshape(-1, 4), np.float32(scores or [0.9] * len(boxes))

    find.card = types.SimpleNamespace(second=second)
    return find


def found(judging, pair, *boxes, max_faces=20, min_score=None, **options):
    image = image_file.as_image(pair["thermal"])
    return search.search(judging, detector(*boxes, **options), image, max_faces=max_faces, min_score=min_score)


@pytest.mark.parametrize("change", [(0.05, 0.05, 0.95, 1.3), (0.0, 0.2, 1.0, 1.15), (-0.1, -0.1, 1.25, 1.25)])
def test_the_landmarks_correct_the_box(judging, pair, change):
    x, y, w, h = pair["box"]
    wrong = x + change[0] * w, y + change[1] * h, change[2] * w, change[3] * h
    faces = found(judging, pair, wrong)
    assert len(faces) == 1 and box_iou(faces.boxes[0], pair["box"]) > max(0.8, box_iou(wrong, pair["box"]) + 0.05)
    np.testing.assert_allclose(faces.boxes[0], landmarks.box_from_points(faces.landmarks[0]), rtol=1e-5)
    apart = np.linalg.norm(faces.landmarks[0] - pair["landmarks"], axis=-1).mean()
    assert apart < 0.05 * np.sqrt(w * h)


def test_two_boxes_of_one_face_become_one(judging, pair):
    x, y, w, h = pair["box"]
    lower = x, y + 0.3 * h, w, h
    assert box_iou(lower, pair["box"]) < 0.6
    faces = found(judging, pair, lower, (x, y, w, h), scores=[0.9, 0.8])
    assert len(faces) == 1 and box_iou(faces.boxes[0], pair["box"]) > 0.75


def test_the_probability_counts_both_scores_and_sorts(judging, pair):
    empty = pair["thermal"].copy()
    empty[:] = np.random.default_rng(0).integers(0, 255, empty.shape)
    two = np.concatenate([empty, pair["thermal"]], 1)
    right = pair["box"] + np.float32([two.shape[0], 0, 0, 0])
    faces = found(judging, {"thermal": two}, pair["box"], right, scores=[0.95, 0.9], min_score=1e-9)
    assert box_iou(faces.boxes[0], right) > 0.8 and (np.diff(faces.detections) < 0).all()
    logit = np.log(faces.scores[0] / (1 - faces.scores[0])) + np.log(0.9 / 0.1)
    assert faces.detections[0] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-3)
    assert len(found(judging, {"thermal": two}, pair["box"], right, max_faces=1, min_score=1e-9)) == 1


def test_no_box_is_no_face(judging, pair):
    faces = found(judging, pair)
    assert len(faces) == 0 and faces.boxes.shape == (0, 4) and faces.landmarks.shape == (0, 68, 2)


def test_boxes_at_the_border_stay_usable(judging, pair):
    image = image_file.as_image(pair["thermal"])
    side = image.values.shape[0]
    for x, y in ((0, 0), (side - 2, 0), (0, side - 2), (side - 2, side - 2)):
        for size in (1.6, 8.0, 3.0 * side):
            box = x - size / 2 + 0.5, y - size / 2 + 0.5, size, size
            faces = found(judging, pair, box, min_score=1e-9)
            assert np.isfinite(faces.boxes).all() and len(judging(image, faces.boxes)) == 1


def test_another_layout_has_the_same_faces(pair):
    one, other = Predictor()(pair["thermal"]), Predictor(layout="ibug51")(pair["thermal"])
    np.testing.assert_array_equal(one.boxes, other.boxes)
    np.testing.assert_array_equal(landmarks.convert(one.landmarks, "ibug68", "ibug51"), other.landmarks)
    assert other.layout == "ibug51" and other.uncertainty.shape == (1, 51)
