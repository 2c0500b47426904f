"""Faces that are followed over frames: the filter, identities, and faces that leave and come back."""

import numpy as np
import pytest

from mlcm_jax.errors import InputError
from mlcm_jax.inference import track
from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.synthetic import generate

FPS = 25.0


@pytest.fixture(scope="module")
def predictor():
    return Predictor()


@pytest.fixture(scope="module")
def faces():
    return [generate.example(7, index, size=128, frontal=True, well_lit=True) for index in (8, 21)]


def frame(faces, corners):
    """An image of 160 x 320 with faces at some corners; None leaves one out."""
    canvas = np.full((160, 320), 30, np.uint8)
    for face, corner in zip(faces, corners, strict=True):
        if corner is not None:
            x, y = corner
            canvas[y : y + 128, x : x + 128] = face["thermal"]
    return canvas


def test_the_filter_is_that_of_the_paper():
    """A plain loop over one coordinate, as the paper writes it."""
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(0, 1, 40))
    constants = track.OneEuro(cutoff=1.0, speed=0.7, derivative=1.3)
    state, smooth, speed = None, values[0], 0.0
    for k, value in enumerate(values):
        points = np.array([[value, 0.0]])
        state = track.smooth(state, points, k / FPS, 10.0, constants)
        if k:
            share = 1 / (1 + FPS / (2 * np.pi * 1.3))
            speed = share * (value - smooth) * FPS + (1 - share) * speed
            share = 1 / (1 + FPS / (2 * np.pi * (1.0 + 0.7 * abs(speed) / 10.0)))
            smooth = share * value + (1 - share) * smooth
        np.testing.assert_allclose(state.points, [[smooth, 0.0]], rtol=1e-9, atol=1e-9)


def test_the_filter_does_not_depend_on_the_axes_or_the_size():
    rng = np.random.default_rng(1)
    turn = 3.0 * np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    one = other = None
    for k in range(20):
        points = rng.normal(0, 2, (5, 2)) + k
        one = track.smooth(one, points, k / FPS, 50.0, track.DEFAULT)
        other = track.smooth(other, points @ turn.T, k / FPS, 150.0, track.DEFAULT)
    np.testing.assert_allclose(other.points, one.points @ turn.T, atol=1e-9)


def test_two_people_keep_their_numbers_while_they_move(predictor, faces):
    tracker, left = track.Tracker(predictor), None
    for k in range(12):
        corners = [(4 + 3 * k, 8 + k), (180 - k, 20)]
        found = tracker(frame(faces, corners), k / FPS)
        assert found.people.tolist() in ([1, 2], [2, 1]) and len(found.faces) == 2
        first = found.people[np.argmin(found.faces.boxes[:, 0])]
        left = left or first
        assert first == left
        for face, corner, person in zip(faces, corners, (left, 3 - left), strict=True):
            points = found.faces.landmarks[found.people == person][0]
            apart = np.linalg.norm(points - face["landmarks"] - corner, axis=-1).mean()
            assert apart < 0.07 * np.sqrt(face["box"][2] * face["box"][3])


def test_a_face_that_comes_back_at_its_place_is_the_same_and_elsewhere_or_late_another(predictor, faces):
    tracker = track.Tracker(predictor)
    seen = []
    for k, corner in enumerate([(10, 10), (12, 10), None, None, (14, 10), None, (170, 10)]):
        seen.append(tracker(frame(faces[:1], [corner]), k / FPS).people.tolist())
    assert seen == [[1], [1], [], [], [1], [], [2]]
    assert tracker(frame(faces[:1], [None]), 1.0).people.tolist() == []
    assert tracker(frame(faces[:1], [(170, 10)]), 9.0).people.tolist() == [3]


def test_a_face_that_sinks_out_of_the_image_keeps_its_number(predictor, faces):
    tracker, seen = track.Tracker(predictor), set()
    for k in range(0, 90, 3):
        canvas = np.full((160, 320), 30, np.uint8)
        part = faces[0]["thermal"][: 140 - k]
        canvas[20 + k : 20 + k + len(part), 90:218] = part
        seen.update(tracker(canvas, k / 3 / FPS).people.tolist())
    assert seen == {1}


def test_a_new_face_is_found_while_another_is_followed(predictor, faces):
    tracker = track.Tracker(predictor)
    for k in range(4):
        assert tracker(frame(faces, [(5, 10), None]), k / FPS).people.tolist() == [1]
    for k in range(4, 34):
        found = tracker(frame(faces, [(5, 10), (180, 10)]), k / FPS).people.tolist()
    assert found == [1, 2]
    assert len(track.Tracker(predictor, max_faces=1)(frame(faces, [(5, 10), (180, 10)]), 0.0).people) == 1


def test_frames_without_a_face_and_of_another_size_have_full_shapes(predictor, faces):
    tracker = track.Tracker(predictor)
    tracker(frame(faces[:1], [(100, 10)]), 0.0)
    for k, image in enumerate([np.zeros((40, 30), np.uint8), np.zeros((160, 320), np.uint8)]):
        found = tracker(image, 0.04 * (k + 1))
        assert found.faces.landmarks.shape == (0, 68, 2) and found.people.shape == (0,)
        assert found.faces.uncertainty.shape == (0, 68)


def test_a_predictor_without_a_detector_is_refused():
    with pytest.raises(InputError, match="because the detector finds faces"):
        track.Tracker(Predictor(detector=False))
