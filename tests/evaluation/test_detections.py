"""Matching boxes with faces, and the rates that follow, against values by hand."""

import numpy as np
import pytest

from mlcm_jax.evaluation import detections

FACE, OTHER, FAR = [10, 10, 20, 20], [50, 10, 20, 20], [200, 200, 20, 20]


def scene(found, scores, boxes, counts=None, yaw=None):
    row = {"found": np.array(found, float).reshape(-1, 4), "scores": np.array(scores, float)}
    row |= {"boxes": np.array(boxes, float).reshape(-1, 4), "counts": counts or [True] * len(boxes), "side": 100.0}
    return row | ({"yaw": yaw} if yaw else {})


def test_matches_by_hand():
    found = detections.match(
        [
            scene([[12, 10, 20, 20], FACE, FAR], [0.9, 0.8, 0.7], [FACE, OTHER], yaw=[-40.0, 5.0]),
            scene([], [], []),
            scene([FAR], [0.3], []),
        ]
    )
    # The second box finds a face that is taken, so it counts as wrong.
    assert found.right.tolist() == [True, False, False, False]
    assert found.image.tolist() == [0, 0, 0, 2]
    assert found.found.tolist() == [0.9, 0.0] and found.size.tolist() == [0.2, 0.2]
    assert found.yaw.tolist() == [40.0, 5.0] and found.empty.tolist() == [1, 2]
    assert detections.rates(found, 0.75) == {"recall": 0.5, "precision": 0.5, "false_alarms": 0.0}
    assert detections.rates(found, 0.2) == {"recall": 0.5, "precision": 0.25, "false_alarms": 0.5}


def test_faces_that_are_hardly_seen_count_neither_way():
    found = detections.match([scene([FACE, [52, 22, 20, 20]], [0.9, 0.8], [FACE, OTHER], counts=[False, False])])
    assert len(found.scores) == 0 and len(found.found) == 0 and len(found.empty) == 0


@pytest.mark.parametrize(("shift", "right"), [(8, True), (9, False)])
def test_the_overlap_that_counts(shift, right):
    """A shift of 8 of 20 pixels gives 12 / 28 = 0.43, one of 9 gives 11 / 29 = 0.38."""
    found = detections.match([scene([[10 + shift, 10, 20, 20]], [0.5], [FACE])])
    assert found.right.tolist() == [right]


def ranked(right, scores, missed=0):
    faces = [score for score, hit in zip(scores, right, strict=True) if hit] + [0.0] * missed
    count = len(faces)
    return detections.Matches(
        np.array(scores), np.array(right, bool), np.arange(len(right)), np.array(faces), np.full(count, 0.3),
        np.full(count, np.nan), np.array([], int),
    )  # fmt: skip


def test_average_precision_by_hand():
    found = ranked([True, False, True], [0.9, 0.8, 0.7], missed=1)
    recall, precision = detections.curve(found)
    np.testing.assert_allclose(recall, [1 / 3, 2 / 3])
    np.testing.assert_allclose(precision, [1.0, 2 / 3])
    assert detections.average_precision(found) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    assert detections.average_precision(ranked([], [])) == 0.0


def test_the_threshold_keeps_wrong_boxes_out():
    right = [True] * 97 + [False] * 4
    scores = [*np.linspace(0.9, 0.6, 97).tolist(), 0.5, 0.45, 0.4, 0.3]
    # With the boxes from 0.4 on, precision is 97 / 100, and with that of 0.3 it is 97 / 101.
    assert detections.threshold(ranked(right, scores)) == pytest.approx(0.31)
    # One empty image in 40 is more than 1.5 %.
    alarmed = ranked(right, scores)._replace(empty=np.array([100, *range(200, 239)]))
    assert detections.threshold(alarmed) == pytest.approx(0.31)
    alarmed = ranked(right, scores)._replace(empty=np.array([98, *range(200, 239)]))
    assert detections.threshold(alarmed) == pytest.approx(0.46)
    # Among 1,000 further scenes, it is less.
    quiet = ranked([], [])._replace(empty=np.arange(1000))
    assert detections.threshold(alarmed, quiet) == pytest.approx(0.31)


def test_bands_of_size_and_yaw():
    found = ranked([True], [0.9])._replace(size=np.array([0.3]), yaw=np.array([45.0]))
    assert sorted(detections.bands(found)) == ["0.25 to 0.5 of the image", "yaw 30 to 60°"]
