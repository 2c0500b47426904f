"""Errors by part of the face, band and visibility, against numbers that were worked out by hand."""

import numpy as np
import pytest

from mlcm_jax import landmarks
from mlcm_jax.evaluation import breakdown, measure

TFW5 = landmarks.get("tfw5")
NAN = float("nan")


def found(distance, known=None):
    """Two faces of five landmarks with a box of 50 x 200 pixels, √(w·h) = 100."""
    truth = np.arange(20.0).reshape(2, 5, 2)
    shift = np.asarray(distance, float)[..., None] * np.array([0.6, 0.8])
    known = np.ones((2, 5), bool) if known is None else np.asarray(known, bool)
    return {"prediction": truth + shift, "truth": truth, "box": np.array([[0, 0, 50, 200.0]] * 2), "known": known}


def test_errors_of_landmarks_and_parts():
    errors = breakdown.relative(found([[1, 2, 3, 4, 5], [10, 20, 30, 40, 50]]), normalizer="box", layout=TFW5)
    np.testing.assert_allclose(errors, [[0.01, 0.02, 0.03, 0.04, 0.05], [0.1, 0.2, 0.3, 0.4, 0.5]])
    for name, places in TFW5.groups.items():
        expected = errors[:, list(places)].mean()
        assert breakdown.by_region(errors, TFW5)[name] == pytest.approx(expected)


def test_unlabelled_landmarks_do_not_count():
    known = [[True, False, True, True, True], [False] * 5]
    errors = breakdown.relative(found([[1, 99, 3, 4, 5], [9] * 5], known), normalizer="box", layout=TFW5)
    assert np.isnan(errors[0, 1]) and np.isnan(errors[1]).all()
    assert breakdown.mean(errors) == pytest.approx(0.0325) and np.isnan(breakdown.mean(errors, 0)[1])
    visible = np.array([[True, True, True, True, False]] * 2)
    by = breakdown.by_visibility(errors, visible)
    assert by == {"visible landmarks": pytest.approx(0.08 / 3), "hidden landmarks": pytest.approx(0.05)}


def test_bands_have_every_face_once_and_no_band_is_empty():
    bands = breakdown.bands(np.array([0.0, 14.9, 15.0, 80.0, NAN]), (15, 30, 45), "°")
    assert {name: faces.nonzero()[0].tolist() for name, faces in bands.items()} == {
        "below 15°": [0, 1],
        "15 to 30°": [2],
        "45° and more": [3],
    }
    assert breakdown.by_band(np.array([1.0, 3.0, 5.0, 7.0, 9.0]), bands) == {
        "below 15°": 2.0,
        "15 to 30°": 5.0,
        "45° and more": 7.0,
    }


def test_faces_by_their_hidden_landmarks():
    known = np.ones((3, 10), bool)
    visible = known.copy()
    assert breakdown.hidden_share(visible, known) is None
    visible[1, :2], visible[2, :9], known[2, 5:] = False, False, False
    share = breakdown.hidden_share(visible, known)
    assert share.tolist() == [0, 20, 100]
    bands = breakdown.occlusion_bands(share)
    assert list(bands) == ["none hidden", "10 to 30 % hidden", "30 % hidden and more"]


class Posed(list):
    def metadata(self, index):
        return {} if self[index] is None else {"pose": np.array([self[index], 50.0, 0.0])}


def test_yaw_where_the_dataset_has_it():
    assert breakdown.yaw(Posed([None, None])) is None
    np.testing.assert_array_equal(breakdown.yaw(Posed([-20.0, None, 40.0])), [20, NAN, 40])
    np.testing.assert_allclose(breakdown.side(np.array([[1, 2, 9, 4.0]])), [6])


def test_the_gain_over_a_control_is_paired():
    errors = {"thermal_alone": np.array([0.05, 0.07, 0.09]), "transfer": np.array([0.04, 0.07, 0.06])}
    gain = measure.gain_over_control(errors, "transfer")
    # Differences in points: -1, 0, -3, with a mean of -4/3 and a deviation of √(7/3).
    assert gain["control"] == "thermal_alone" and gain["difference"] == pytest.approx(-4 / 3)
    assert gain["half"] == pytest.approx(1.96 * np.sqrt(7 / 3) / np.sqrt(3)) and gain["better"] == pytest.approx(
        200 / 3
    )
    assert measure.gain_over_control(errors, "thermal_alone") is None
    assert measure.gain_over_control(errors, "mean_shape") is None
