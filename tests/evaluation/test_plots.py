"""Figures: they show truth and prediction, can be opened, and odd values cause no warnings."""

import cv2
import numpy as np
import pytest

from mlcm_jax.data import draw
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import plots

POINTS = np.array([(20.3, 15.0), (40.0, 15.7), (30.0, 25.0), (22.5, 35.0), (38.0, 35.5)], np.float32)


def rows(count, *names):
    rng = np.random.default_rng(0)
    images_of = {"rgb": rng.integers(0, 255, (50, 60, 3), dtype=np.uint8), "thermal": np.zeros((50, 60, 1), np.uint8)}
    known = {"landmarks": POINTS, "prediction": POINTS + 1, "title": "NME 3 %"}
    return [{name: images_of[name] for name in names} | known for _ in range(count)]


@pytest.mark.parametrize("names", [("rgb", "thermal"), ("rgb",), ("thermal",)])
def test_samples_show_truth_and_prediction(tmp_path, names):
    path = tmp_path / "samples.png"
    plots.samples(path, rows(3, *names), layout="tfw5", title="stage compress")
    image = cv2.imread(str(path))[..., ::-1].astype(int)
    assert min(image.shape[:2]) > 200
    strong = np.abs(image - np.array(draw.TRUTH)).max(2) < 40
    assert strong.sum() > 30  # green truth
    assert (np.abs(image - np.array(draw.PREDICTION)).max(2) < 40).sum() > 30  # red prediction


def test_samples_without_predictions_or_rows(tmp_path):
    plain = [{k: v for k, v in row.items() if k not in ("prediction", "title")} for row in rows(1, "thermal")]
    plots.samples(tmp_path / "a.png", plain, layout="tfw5")
    image = cv2.imread(str(tmp_path / "a.png"))[..., ::-1].astype(int)
    assert (np.abs(image - np.array(draw.PREDICTION)).max(2) < 40).sum() == 0
    with pytest.raises(InputError, match="no examples"):
        plots.samples(tmp_path / "b.png", [], layout="tfw5")


def test_curves_are_written(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    values = np.array([0.01, 0.03, 0.02, np.nan])
    plots.ced(tmp_path / "ced.png", {"teacher": values, "mean_shape": values + 0.2}, "the box")
    axis = figures[0].axes[0]
    assert axis.get_xlabel() == "NME, per cent of the box" and axis.get_ylabel() and axis.get_title()
    x, y = axis.lines[0].get_data()
    np.testing.assert_allclose(np.interp(2.5, x, y), 0.5, atol=0.26)
    np.testing.assert_allclose([x[1], y[1], y[3], y[-1]], [1, 0.25, 0.75, 0.75])  # because of the NaN, it stays below 1
    assert axis.get_xlim()[1] >= 10
    plots.loss_curves(tmp_path / "loss.png", {"teacher": ([0, 10], [1.0, 0.1]), "transfer": ([0], [np.nan])})
    axis = figures[1].axes[0]
    assert axis.get_yscale() == "log" and axis.get_xlabel() == "step" and axis.get_ylabel() and axis.get_title()
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["teacher", "transfer"]


@pytest.mark.parametrize("curves", [{}, {"a": ([], [])}, {"a": ([0, 1], [0.0, -1.0])}, {"a": ([1], [np.inf])}])
def test_odd_loss_curves_still_give_a_file(tmp_path, curves):
    plots.loss_curves(tmp_path / "loss.png", curves)
    assert cv2.imread(str(tmp_path / "loss.png")) is not None


def test_odd_errors_still_give_a_file(tmp_path):
    plots.ced(tmp_path / "ced.png", {"a": np.array([np.nan]), "b": np.array([5.0])}, "the box")
    assert cv2.imread(str(tmp_path / "ced.png")) is not None
    with pytest.raises(InputError, match="no errors"):
        plots.ced(tmp_path / "ced.png", {}, "the box")
    with pytest.raises(InputError, match="Cannot write the image"):
        plots.loss_curves(tmp_path / "missing" / "loss.png", {})
