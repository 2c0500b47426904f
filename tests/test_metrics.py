"""Metrics: hand-computed NME for every normaliser, and the curve's summaries against brute-force integration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcm_jax import landmarks, metrics
from mlcm_jax.errors import InputError


def face(layout, seed=0, batch=2):
    points = np.random.default_rng(seed).uniform(20, 80, (batch, landmarks.get(layout).count, 2))
    return points.astype(np.float32)


def test_a_known_shift_over_a_known_eye_distance():
    target = face("ibug68")
    target[:, 36], target[:, 45] = (30, 40), (90, 120)  # 100 pixels apart
    prediction = target + np.array([3, 4], np.float32)  # 5 pixels off everywhere
    found = metrics.nme(prediction, target, normalizer="outer_eyes", layout="ibug68")
    assert found.shape == (2,) and found.dtype == np.float32 and isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, 0.05, rtol=1e-5)


def test_the_mean_of_distances_is_taken_not_the_distance_of_means():
    target = face("tfw5", batch=1)
    prediction = target.copy()
    prediction[0, 0] += (30, 40)
    box = np.array([[5, 6, 25, 100]])
    np.testing.assert_allclose(metrics.nme(prediction, target, normalizer="box", box=box), 50 / 5 / 50, rtol=1e-5)


@pytest.mark.parametrize(
    ("layout", "normalizer", "first", "second"),
    [
        ("ibug68", "outer_eyes", [36], [45]),
        ("sf_tl54", "outer_eyes", [36], [45]),
        ("wflw98", "outer_eyes", [60], [72]),
        ("cofw29", "outer_eyes", [8], [9]),
        ("tfake70", "outer_eyes", [36], [45]),
        ("ibug68", "pupils", [36, 37, 38, 39, 40, 41], [42, 43, 44, 45, 46, 47]),
        ("wflw98", "pupils", [96], [97]),
        ("cofw29", "pupils", [16], [17]),
        ("tfake70", "pupils", [68], [69]),
        ("tfw5", "pupils", [0], [1]),
    ],
)
def test_normalizers_against_numpy(layout, normalizer, first, second):
    target, prediction = face(layout, 1), face(layout, 2)
    eyes = target[:, first].mean(1) - target[:, second].mean(1)
    wanted = np.hypot(*(prediction - target).transpose(2, 0, 1)).mean(1) / np.hypot(*eyes.T)
    np.testing.assert_allclose(metrics.nme(prediction, target, normalizer=normalizer, layout=layout), wanted, rtol=1e-5)
    compiled = jax.jit(lambda p, t: metrics.nme(p, t, normalizer=normalizer, layout=layout))
    np.testing.assert_allclose(compiled(prediction, target), wanted, rtol=1e-5)


def test_every_normalizer_has_a_description_and_a_length():
    assert set(metrics.NORMALIZERS) == {"outer_eyes", "pupils", "box"}
    for name, description in metrics.NORMALIZERS.items():
        assert description and description != name
        length = metrics.normalizer_length(face("ibug68"), normalizer=name, layout="ibug68", box=np.ones((2, 4)))
        assert length.shape == (2,) and (length > 0).all()


def test_weights_choose_landmarks_and_may_hide_nan():
    target, prediction = face("tfw5"), face("tfw5", 3)
    weights = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0]], bool)
    target[0, 1] = np.nan
    box = np.array([[0, 0, 10, 40]] * 2, np.float32)
    wanted = np.hypot(*(prediction - target)[0, [0, 2, 3]].T).mean() / 20
    for xp in (np, jnp):
        arrays = [xp.asarray(a) for a in (prediction, target, box, weights)]
        found = metrics.nme(arrays[0], arrays[1], normalizer="box", box=arrays[2], weights=arrays[3])
        np.testing.assert_allclose(found, [wanted, np.nan], rtol=1e-5)
    halves = metrics.nme(prediction, target, normalizer="box", box=box, weights=weights * 0.5)
    np.testing.assert_allclose(halves[0], wanted, rtol=1e-5)


def test_degenerate_normalizers_are_errors_on_the_host_and_nan_on_the_device():
    target = face("ibug68")
    target[1, 45] = target[1, 36]
    with pytest.raises(InputError, match=r"'outer_eyes' of example 1 is 0\.0"):
        metrics.nme(target, target, normalizer="outer_eyes", layout="ibug68")
    found = metrics.nme(jnp.asarray(target), jnp.asarray(target), normalizer="outer_eyes", layout="ibug68")
    np.testing.assert_array_equal(found, [0, np.nan])
    for box in ([0, 0, 0, 5], [0, 0, np.nan, 5], [0, 0, -2, -2], [0, 0, np.inf, 1]):
        with pytest.raises(InputError, match="of example 0"):
            metrics.nme(target[:1], target[:1], normalizer="box", box=np.array([box], np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalizer": "eyes"}, r"Unknown normaliser 'eyes'; did you mean 'outer_eyes'\?"),
        ({"normalizer": "head"}, "Unknown normaliser 'head'; there are outer_eyes, pupils, box"),
        ({"normalizer": "box"}, "needs the boxes"),
        ({"normalizer": "box", "box": np.ones((1, 4))}, r"shape \(1, 4\), not \[2, 4\]"),
        ({"normalizer": "pupils"}, "needs the landmarks' layout"),
        ({"normalizer": "outer_eyes", "layout": "tfw5"}, "no eye corners"),
        ({"normalizer": "pupils", "layout": "ibug68"}, "has 68 landmarks, the target 5"),
        ({"normalizer": "pupils", "layout": "tfw5", "weights": np.ones((2, 4))}, r"Weights have shape \(2, 4\)"),
    ],
)
def test_mistakes_are_reported(options, message):
    target = face("tfw5")
    with pytest.raises(InputError, match=message):
        metrics.nme(target, target, **options)
    with pytest.raises(InputError, match="not both"):
        metrics.nme(target[:, :1], target, normalizer="pupils", layout="tfw5")


VALUES = np.random.default_rng(5).gamma(3.0, 0.02, 400)


def brute_force_auc(values, threshold, steps=20_001):
    grid = np.linspace(0, threshold, steps)
    return np.trapezoid([(values <= t).mean() for t in grid], grid) / threshold


@pytest.mark.parametrize("threshold", [0.03, 0.08, 0.1, 0.5])
def test_failure_rate_and_area(threshold):
    assert metrics.failure_rate(VALUES, threshold=threshold) == np.sum(threshold < VALUES) / 400
    np.testing.assert_allclose(metrics.auc(VALUES, threshold=threshold), brute_force_auc(VALUES, threshold), atol=1e-4)


def test_the_ends_of_the_scale():
    assert metrics.auc([0.0, 0.0], threshold=0.08) == 1 and metrics.failure_rate([0.0], threshold=0.08) == 0
    assert metrics.auc([0.2, 9.0], threshold=0.08) == 0 and metrics.failure_rate([0.2], threshold=0.08) == 1
    assert metrics.failure_rate([0.1], threshold=0.1) == 0  # exactly at the threshold is no failure
    np.testing.assert_allclose(metrics.auc([0.02, 0.06], threshold=0.08), 0.5)


def test_nan_counts_as_a_failure():
    values = [0.0, np.nan]
    assert metrics.failure_rate(values, threshold=0.1) == 0.5 and metrics.auc(values, threshold=0.1) == 0.5
    errors, fraction = metrics.ced(values)
    np.testing.assert_array_equal(errors, [0, np.inf])
    np.testing.assert_array_equal(fraction, [0.5, 1])


def test_the_curve_is_the_distribution():
    errors, fraction = metrics.ced(jnp.asarray(VALUES))
    assert (np.diff(errors) >= 0).all() and fraction[-1] == 1
    for k in (0, 17, 399):
        np.testing.assert_allclose(fraction[k], (VALUES.astype(np.float32) <= errors[k]).mean())


@pytest.mark.parametrize("values", [[], [[0.1]], 0.1])
def test_summaries_require_a_list(values):
    for function in (metrics.ced, lambda v: metrics.auc(v, threshold=0.1)):
        with pytest.raises(InputError, match="list of at least one number"):
            function(values)


@pytest.mark.parametrize("threshold", [0, -0.1, float("nan")])
def test_thresholds_are_positive(threshold):
    for function in (metrics.auc, metrics.failure_rate):
        with pytest.raises(InputError, match="threshold must be positive"):
            function([0.1], threshold=threshold)
