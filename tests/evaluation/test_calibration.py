"""Calibration: the fitted numbers are those with which made-up errors were drawn."""

import numpy as np
import pytest
import stored_runs

from mlcm_jax import landmarks
from mlcm_jax.data.examples import open_examples
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import calibration
from mlcm_jax.inference.predictor import Predictor, score_of

RNG = np.random.default_rng(0)


def expected(uncertainty, factor, power):
    return 60 * factor * (uncertainty / 60) ** power


@pytest.fixture(scope="module")
def drawn():
    """Errors whose mean is 0.8 u^0.9 for an uncertainty u in a crop of 60 pixels; the box has a side of 50 pixels."""
    uncertainty = 60 * np.exp(RNG.normal(np.log(0.06), 0.5, (3000, 1)) + RNG.normal(0, 0.2, (3000, 9)))
    distance = expected(uncertainty, 0.8, 0.9) * RNG.gamma(2.0, 0.5, uncertainty.shape)
    known = RNG.random(uncertainty.shape) < 0.9
    return {
        "distance": np.where(known, distance, 1e6),
        "uncertainty": uncertainty,
        "known": known,
        "side": np.full(3000, 50.0),
        "found": np.full(3000, 50.0),
        "crop": np.full(3000, 60.0),
        "score": np.full(3000, 0.5),
    }


def test_the_expected_distances_and_the_score_are_recovered(drawn):
    factor, power, a, b = calibration.fit(drawn)
    assert power == pytest.approx(0.9, abs=0.05)
    assert factor * 0.06**power == pytest.approx(0.8 * 0.06**0.9, rel=0.02)
    spread = expected(drawn["uncertainty"], factor, power).mean(1) / drawn["side"]
    scores = score_of(spread, a, b)
    errors = (drawn["distance"] * drawn["known"]).sum(1) / drawn["known"].sum(1) / drawn["side"]
    for part in np.array_split(np.argsort(scores), 5):
        assert scores[part].mean() == pytest.approx((errors[part] < 0.1).mean(), abs=0.06)


def test_boxes_of_the_wrong_size_are_fitted_by_the_size_of_the_found_face(drawn):
    """Faces found at twice their size, with errors of 40 %: their scores are low, and those of others stay high."""
    wrong = drawn | {"distance": np.full_like(drawn["distance"], 20.0), "found": np.full(3000, 100.0)}
    wrong["uncertainty"] = drawn["uncertainty"] * 12
    factor, power, a, b = calibration.fit(drawn, wrong)
    assert (factor, power) == calibration.fit(drawn)[:2]

    def scores(part):
        spread = expected(part["uncertainty"], factor, power).mean(1) / part["found"]
        return score_of(spread, a, b)

    errors = (drawn["distance"] * drawn["known"]).sum(1) / drawn["known"].sum(1) / drawn["side"]
    assert scores(wrong).mean() < 0.1
    assert scores(drawn).mean() == pytest.approx((errors < 0.1).mean(), abs=0.1)


def test_the_report_compares_expected_and_observed(drawn):
    factor, power, a, b = calibration.fit(drawn)
    calibrated = drawn | {"uncertainty": expected(drawn["uncertainty"], factor, power)}
    calibrated["score"] = score_of(calibrated["uncertainty"].mean(1) / 50, a, b)
    found = calibration.report(calibrated)
    assert len(found["ratio"]) == 10 and all(0.9 < one < 1.1 for one in found["ratio"])
    assert found["score"]["mean"] == pytest.approx(found["score"]["good"], abs=0.01)
    assert 0.3 < found["spearman"]["smallest"] <= found["spearman"]["median"] < 0.9
    useless = calibration.report(calibrated | {"uncertainty": RNG.permutation(calibrated["uncertainty"])})
    assert abs(useless["spearman"]["median"]) < 0.1


def test_predictions_are_those_of_a_user(tmp_path, data_dir):
    architecture = stored_runs.ARCHITECTURE | {"uncertainty": True}
    stored_runs.write(tmp_path, stored_runs.card(architecture=architecture, gain="box"))
    predictor = Predictor(tmp_path)
    examples = open_examples("synthetic_faces/48x48", "val", data_dir=str(data_dir), layout=predictor.card.layout)
    found = calibration.predictions(predictor, examples)
    assert found["distance"].shape == found["uncertainty"].shape == found["known"].shape == (len(examples), 68)
    faces = predictor(examples[1]["thermal"], examples[1]["box"][None])
    np.testing.assert_allclose(
        found["distance"][1], np.linalg.norm(faces.landmarks[0] - examples[1]["landmarks"], axis=-1)
    )
    # A new layer expects 5 % of the crop, whose side is 1.25 times the longer side of the box.
    np.testing.assert_allclose(found["uncertainty"][1], 0.05 * 1.25 * max(examples[1]["box"][2:]), rtol=1e-4)
    assert (found["score"] > 0).all()
    larger = calibration.predictions(predictor, examples, factor=1.5)
    x, y, w, h = examples[1]["box"]
    faces = predictor(examples[1]["thermal"], [[x - w / 4, y - h / 4, 1.5 * w, 1.5 * h]])
    np.testing.assert_allclose(larger["uncertainty"][1], faces.uncertainty[0], rtol=1e-5)
    np.testing.assert_allclose(larger["side"], found["side"])
    assert larger["found"][1] == pytest.approx(np.sqrt(np.prod(landmarks.box_from_points(faces.landmarks[0])[2:])))


def test_a_network_without_uncertainties_is_refused(tmp_path, data_dir):
    stored_runs.write(tmp_path, stored_runs.card())
    examples = open_examples("synthetic_faces/48x48", "val", data_dir=str(data_dir), layout="ibug68")
    with pytest.raises(InputError, match="The network of stage transfer predicts no uncertainties"):
        calibration.predictions(Predictor(tmp_path), examples)
