"""Losses: values against numpy written from the papers, slopes against finite differences, and no NaN anywhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcm_jax import losses

ERRORS = np.array([-12.0, -10.0, -3.0, -1.0, -0.4, 0.0, 0.2, 0.5, 1.0, 2.0, 10.0, 30.0], np.float64)


def reference_smooth_l1(e, beta=1.0):
    return np.where(np.abs(e) < beta, 0.5 * e**2 / beta, np.abs(e) - 0.5 * beta)


def reference_wing(e, w=10.0, epsilon=2.0):
    constant = w - w * np.log(1 + w / epsilon)
    return np.where(np.abs(e) < w, w * np.log(1 + np.abs(e) / epsilon), np.abs(e) - constant)


def reference_awing(p, y, alpha=2.1, omega=14.0, theta=0.5, epsilon=1.0):
    e = np.abs(y - p)
    a = (
        omega
        * (1 / (1 + (theta / epsilon) ** (alpha - y)))
        * (alpha - y)
        * (theta / epsilon) ** (alpha - y - 1)
        / epsilon
    )
    c = theta * a - omega * np.log(1 + (theta / epsilon) ** (alpha - y))
    return np.where(e < theta, omega * np.log(1 + (e / epsilon) ** (alpha - y)), a * e - c)


CASES = {
    "l1": (losses.l1, np.abs),
    "l2": (losses.l2, np.square),
    "smooth_l1": (losses.smooth_l1, reference_smooth_l1),
    "smooth_l1 0.3": (functools.partial(losses.smooth_l1, beta=0.3), functools.partial(reference_smooth_l1, beta=0.3)),
    "wing": (losses.wing, reference_wing),
    "wing 1.5 0.5": (
        functools.partial(losses.wing, w=1.5, epsilon=0.5),
        functools.partial(reference_wing, w=1.5, epsilon=0.5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_of_coordinate_losses(name):
    loss, reference = CASES[name]
    target = np.linspace(-5, 5, len(ERRORS)).reshape(2, 3, 2)
    prediction = target + ERRORS.reshape(2, 3, 2)
    value = jax.jit(loss)(prediction.astype(np.float32), target.astype(np.float32))
    assert value.shape == (2, 3, 2) and value.dtype == jnp.float32
    np.testing.assert_allclose(value, reference(ERRORS).reshape(2, 3, 2), rtol=1e-5, atol=1e-5)


def test_hand_computed_values():
    one, zero = jnp.ones(()), jnp.zeros(())
    np.testing.assert_allclose(losses.smooth_l1(one * 3, zero), 2.5)
    np.testing.assert_allclose(losses.smooth_l1(one * 0.5, zero), 0.125)
    np.testing.assert_allclose(losses.wing(one * 2, zero), 10 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(losses.wing(one * 20, zero), 20 - (10 - 10 * np.log(6)), rtol=1e-6)
    np.testing.assert_allclose(losses.awing(one * 0.1, zero), 14 * np.log(1 + 0.1**2.1), rtol=1e-5)


def test_values_of_awing():
    prediction, target = (a.ravel() for a in np.meshgrid(np.linspace(-0.3, 1.3, 17), np.linspace(0, 1, 11)))
    value = jax.jit(losses.awing)(prediction.astype(np.float32), target.astype(np.float32))
    np.testing.assert_allclose(value, reference_awing(prediction, target), rtol=2e-4, atol=2e-5)
    options = {"alpha": 1.9, "omega": 8.0, "theta": 0.3, "epsilon": 0.7}
    value = losses.awing(prediction.astype(np.float32), target.astype(np.float32), **options)
    np.testing.assert_allclose(value, reference_awing(prediction, target, **options), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", [*CASES, "awing"])
def test_slopes_against_finite_differences(name):
    if name == "awing":
        loss, reference = losses.awing, reference_awing
        prediction, target = (a.ravel() for a in np.meshgrid([-0.27, 0.13, 0.41, 0.9, 1.2], [0.02, 0.4, 0.98]))
    else:
        loss, function = CASES[name]

        def reference(p, y):
            return function(p - y)

        prediction, target = ERRORS[ERRORS != 0] + 0.013, np.zeros(len(ERRORS) - 1)
    step = 1e-6  # of the float64 reference, so that the check is no check of rounding
    slope = (reference(prediction + step, target) - reference(prediction - step, target)) / (2 * step)
    grad = jax.grad(lambda p: loss(p, jnp.asarray(target, jnp.float32)).sum())(jnp.asarray(prediction, jnp.float32))
    np.testing.assert_allclose(grad, slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*CASES, "awing"])
def test_gradients_at_zero_error_are_zero_and_finite(name):
    loss = losses.awing if name == "awing" else CASES[name][0]
    target = jnp.array([0.0, 0.3, 1.0])
    to_prediction, to_target = jax.grad(lambda p, y: loss(p, y).sum(), argnums=(0, 1))(target, target)
    np.testing.assert_array_equal(to_prediction, 0.0)
    assert np.isfinite(to_target).all()


@pytest.mark.parametrize("name", [*CASES, "awing"])
def test_shapes_must_agree(name):
    loss = losses.awing if name == "awing" else CASES[name][0]
    with pytest.raises(ValueError, match="differ in shape"):
        loss(jnp.zeros((2, 1, 2)), jnp.zeros((2, 3, 2)))


def test_smooth_l1_wants_a_positive_beta():
    with pytest.raises(ValueError, match="use l1"):
        losses.smooth_l1(jnp.zeros(2), jnp.zeros(2), beta=0)


def test_wing_scales_as_its_docstring_says():
    error = jnp.linspace(-0.2, 0.2, 9)
    in_u = losses.wing(error, jnp.zeros(9), w=10 / 256, epsilon=2 / 256)
    np.testing.assert_allclose(256 * in_u, losses.wing(256 * error, jnp.zeros(9)), rtol=1e-5)


def test_awing_does_not_train_the_target():
    grad = jax.grad(lambda y: losses.awing(jnp.array([0.2, 0.9]), y).sum())(jnp.array([0.5, 0.1]))
    np.testing.assert_array_equal(grad, 0.0)


def test_scaled_l1_is_the_error_in_units_of_the_normalizer():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 3, 4, 2)).astype(np.float32)
    length = np.array([0.5, 2.0, 0.0], np.float32)
    value = jax.jit(losses.scaled)(prediction, target, length)
    np.testing.assert_allclose(value[:2], np.abs(prediction - target)[:2] / length[:2, None, None], rtol=1e-5)
    np.testing.assert_array_equal(value[2], 0.0)
    wing = functools.partial(losses.wing, w=1.0, epsilon=0.2)
    value = losses.scaled(prediction, target, length, loss=wing)
    error = (prediction - target).astype(np.float64)[0] / length[0]
    np.testing.assert_allclose(value[0], reference_wing(error, w=1.0, epsilon=0.2), rtol=1e-4, atol=1e-5)


def test_scaled_stops_the_gradient_of_the_normalizer():
    prediction, target = jnp.ones((2, 3, 2)), jnp.zeros((2, 3, 2))
    length = jnp.array([4.0, 0.0])
    to_prediction, to_length = jax.grad(lambda p, n: losses.scaled(p, target, n).sum(), argnums=(0, 1))(
        prediction, length
    )
    np.testing.assert_allclose(to_prediction[0], 0.25)
    np.testing.assert_array_equal(to_prediction[1], 0.0)
    np.testing.assert_array_equal(to_length, 0.0)
    with pytest.raises(ValueError, match="not one value for each"):
        losses.scaled(prediction, target, jnp.ones((2, 1)))
