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
    step = 1e-6  # of the float64 reference, whose rounding errors are small enough for this step
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


UNREDUCED = {
    **{name: case[0] for name, case in CASES.items()},
    "awing": losses.awing,
    "assistive": lambda p, y: losses.assistive(p, p + y, y),
    "main": losses.main,
    "main released": lambda p, y: losses.main(p, y, tolerant=p * y, variant="released"),
    "kd": lambda p, y: losses.kd(p, p + y, p * y, y),
    "kd released": lambda p, y: losses.kd(p, p + y, p * y, y, variant="released"),
    "control": lambda p, y: losses.control(p, y, "constant"),
    "control shuffled": lambda p, y: losses.control(p, y, "shuffled", key=jax.random.key(0)),
}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", UNREDUCED)
def test_losses_of_coordinates_keep_dtype_and_shape(name, dtype):
    with jax.enable_x64(dtype == jnp.float64), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        p, y = (jax.ShapeDtypeStruct((2, 3, 2), dtype) for _ in range(2))
        found = jax.eval_shape(UNREDUCED[name], p, y)
        slope = jax.eval_shape(jax.grad(lambda p, y: UNREDUCED[name](p, y).sum()), p, y)
    assert (found.shape, found.dtype) == (slope.shape, slope.dtype) == ((2, 3, 2), dtype)


@pytest.mark.parametrize("name", [*CASES, "awing"])
def test_shapes_must_agree(name):
    loss = losses.awing if name == "awing" else CASES[name][0]
    with pytest.raises(ValueError, match="differ in shape"):
        loss(jnp.zeros((2, 1, 2)), jnp.zeros((2, 3, 2)))


@pytest.mark.parametrize("beta", [0.01, 0.5, 1.0, 3.0])
def test_smooth_l1_is_the_formula_also_where_its_pieces_meet(beta):
    error = np.array([-1e3, -2 * beta, -beta, -beta / 3, 0.0, beta / 2, beta, 1.5 * beta, 40.0], np.float32)

    def loss(e):
        return losses.smooth_l1(e, jnp.zeros_like(e), beta=beta)

    np.testing.assert_allclose(jax.jit(loss)(error), reference_smooth_l1(error.astype(float), beta), rtol=1e-6)
    slope = jax.jit(jax.grad(lambda e: loss(e).sum()))(error)
    np.testing.assert_allclose(slope, np.clip(error.astype(float) / beta, -1, 1), rtol=1e-6)
    assert slope[4] == 0


@pytest.mark.parametrize("options", [{"w": 0.0}, {"w": -1.0}, {"epsilon": 0.0}])
def test_wing_requires_positive_constants(options):
    with pytest.raises(ValueError, match="must be positive"):
        losses.wing(jnp.ones(3), jnp.zeros(3), **options)


def test_smooth_l1_requires_a_positive_beta():
    with pytest.raises(ValueError, match="use l1"):
        losses.smooth_l1(jnp.zeros(2), jnp.zeros(2), beta=0)


def test_wing_scales_as_its_docstring_says():
    error = jnp.linspace(-0.2, 0.2, 9)
    in_u = losses.wing(error, jnp.zeros(9), w=10 / 256, epsilon=2 / 256)
    np.testing.assert_allclose(256 * in_u, losses.wing(256 * error, jnp.zeros(9)), rtol=1e-5)


def test_awing_does_not_train_the_target():
    grad = jax.grad(lambda y: losses.awing(jnp.array([0.2, 0.9]), y).sum())(jnp.array([0.5, 0.1]))
    np.testing.assert_array_equal(grad, 0.0)


def reference_assistive(p, teacher, y, alpha, inner, beta, released):
    e, t = abs(p - y), abs(teacher - y)
    if e >= t:
        omega = alpha
    elif e >= beta * t:
        omega = inner
    else:
        omega = 0.0 if released else inner * e / (beta * t)
    return omega * abs(t - e)


def reference_main(p, y, t, gamma, released):
    e = abs(p - y)
    if released:
        return 3 * e if e <= t else e**2 + 3 * t - t**2
    return e if e <= gamma else e**2 + gamma - gamma**2


def reference_kd(p, tough, tolerant, y, released, main_weight=2.5, gamma=0.5):
    numbers = ((1.9, -0.45, 0.15), (1.8, -0.40, 0.15)) if released else ((0.9, -0.45, 0.4), (0.9, -0.45, 0.4))
    total = main_weight * reference_main(p, y, abs(tolerant - y), gamma, released)
    for teacher, n in zip((tough, tolerant), numbers, strict=True):
        total += reference_assistive(p, teacher, y, *n, released)
    return total


def faces(seed, shape=(3, 40, 2)):
    """Prediction, tough teacher, tolerant teacher and target, whose errors cover every region of the loss."""
    rng = np.random.default_rng(seed)
    y = rng.uniform(0.2, 0.8, shape)
    t = [rng.uniform(0.01, 0.2, shape) * rng.choice([-1, 1], shape) for _ in range(2)]
    e = rng.uniform(0, 1.5, shape) * np.abs(t[0]) * rng.choice([-1, 1], shape)
    e[:, ::8] *= 8
    return y + e, y + t[0], y + t[1], y


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_kd_and_its_parts_against_the_formula(variant):
    arrays, released = faces(0), variant == "released"
    p, tough, tolerant, y = (a.ravel() for a in arrays)
    ratio = np.abs(p - y) / np.abs(tough - y)
    for low, high in ((0, 0.15), (0.15, 0.4), (0.4, 1), (1, 100)):
        assert ((ratio >= low) & (ratio < high)).sum() > 5
    assert (np.abs(p - y) > 0.5).sum() > 3
    single = [a.astype(np.float32) for a in arrays]

    def wanted(function, *args):
        return np.array([function(*values) for values in zip(*args, strict=True)]).reshape(3, 40, 2)

    found = jax.jit(functools.partial(losses.kd, variant=variant))(*single)
    assert found.shape == (3, 40, 2) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted(lambda *v: reference_kd(*v, released), p, tough, tolerant, y), atol=2e-6)
    found = losses.assistive(single[0], single[1], single[3], variant=variant)
    numbers = (1.9, -0.45, 0.15) if released else (0.9, -0.45, 0.4)
    expected = wanted(lambda *v: reference_assistive(*v, *numbers, released), p, tough, y)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    found = losses.assistive(single[0], single[1], single[3], alpha=1.1, inner=-0.3, beta=0.25, variant=variant)
    expected = wanted(lambda *v: reference_assistive(*v, 1.1, -0.3, 0.25, released), p, tough, y)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    found = losses.main(single[0], single[3], tolerant=single[2], variant=variant, gamma=0.3)
    expected = wanted(lambda a, b, c: reference_main(a, b, abs(c - b), 0.3, released), p, y, tolerant)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_kd_slopes_against_finite_differences(variant):
    p, tough, tolerant, y = (a.ravel() for a in faces(1, (1, 30, 2)))
    step = 1e-7  # of the float64 reference; no sample is that close to a border of a region
    high, low = (
        np.array([reference_kd(*v, variant == "released") for v in zip(p + s, tough, tolerant, y, strict=True)])
        for s in (step, -step)
    )
    slopes = jax.jit(jax.grad(lambda *a: losses.kd(*a, variant=variant).sum(), argnums=(0, 1, 2)))
    to_p, *to_teachers = slopes(*(jnp.asarray(a, jnp.float32) for a in (p, tough, tolerant, y)))
    np.testing.assert_allclose(to_p, (high - low) / (2 * step), rtol=1e-3, atol=1e-3)
    for gradient in to_teachers:  # t and the regions carry no gradient
        np.testing.assert_array_equal(gradient, 0.0)


@functools.partial(jax.jit, static_argnames=("variant", "stop_factor"))
def kd_slope(e, **options):
    """d kd / d e where both teachers err by 0.1."""
    tough, tolerant, target = jnp.asarray(0.1), jnp.asarray(-0.1), jnp.asarray(0.0)
    return jax.grad(lambda e: losses.kd(e, tough, tolerant, target, **options))(e)


def test_the_slope_at_the_truth_is_a_quarter():
    assert kd_slope(1e-6) == pytest.approx(2.5 - 2 * 0.45 / 0.4, abs=1e-3) == pytest.approx(0.25, abs=1e-3)
    assert kd_slope(-1e-6) == pytest.approx(-0.25, abs=1e-3)
    assert kd_slope(1e-6, main_weight=2.25) == pytest.approx(0.0, abs=1e-3)
    assert kd_slope(1e-6, main_weight=2.0) < -0.2  # pushes away from the truth
    assert kd_slope(1e-6, stop_factor=True) == pytest.approx(2.5, abs=1e-3)
    assert kd_slope(1e-6, variant="released") == pytest.approx(7.5, abs=1e-3)
    assert kd_slope(0.03) == pytest.approx(2.5 - 0.9 * (0.1 - 0.06) / 0.04, rel=1e-4)
    assert kd_slope(0.03, stop_factor=True) == pytest.approx(2.5 + 0.9 * 0.03 / 0.04, rel=1e-4)
    assert kd_slope(0.07) == pytest.approx(2.5 + 0.9, rel=1e-5)
    assert kd_slope(0.2) == pytest.approx(2.5 + 1.8, rel=1e-5)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_an_exact_teacher_gives_finite_numbers(variant):
    y = jnp.full((1, 3, 2), 0.5)
    p = y + jnp.array([0.0, 0.1, -0.7]).reshape(1, 3, 1)
    total = jax.value_and_grad(lambda *a: losses.kd(*a, variant=variant).sum(), argnums=(0, 1, 2, 3))
    value, gradients = jax.jit(total)(p, y, y, y)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)
    expected = np.where(np.abs(p - y) > 0, 1.9 if variant == "released" else 0.9, 0.0) * np.abs(p - y)
    np.testing.assert_allclose(losses.assistive(p, y, y, variant=variant), expected, atol=1e-6)
    np.testing.assert_array_equal(gradients[0][0, 0], 0.0)


def test_kd_depends_on_the_size_but_not_the_sign_of_the_teachers_errors():
    p, tough, tolerant, y = (jnp.asarray(a, jnp.float32) for a in faces(2))
    mirrored = losses.kd(p, 2 * y - tough, 2 * y - tolerant, y)
    np.testing.assert_allclose(losses.kd(p, tough, tolerant, y), mirrored, atol=1e-6)


def test_one_teacher_leaves_the_other_term_out():
    p, tough, tolerant, y = (jnp.asarray(a, jnp.float32) for a in faces(3))
    both, base = losses.kd(p, tough, tolerant, y), losses.kd(p, None, None, y)
    one = losses.kd(p, tough, None, y) + losses.kd(p, None, tolerant, y) - base
    np.testing.assert_allclose(both, one, atol=1e-6)
    np.testing.assert_allclose(base, 2.5 * losses.main(p, y), atol=1e-6)
    doubled = losses.kd(p, tough, None, y, main_weight=0.0, tough_numbers=(1.8, -0.9))
    np.testing.assert_allclose(doubled, 2 * losses.assistive(p, tough, y), atol=1e-6)
    with pytest.raises(ValueError, match="tolerant"):
        losses.kd(p, tough, None, y, variant="released")
    with pytest.raises(ValueError, match="paper or released"):
        losses.assistive(p, tough, y, variant="code")


def test_controls_keep_the_errors_and_lose_the_example():
    _, tough, _, y = (jnp.asarray(a, jnp.float32) for a in faces(4, (5, 6, 2)))
    t = np.abs(np.asarray(tough - y))
    shuffled = np.asarray(losses.control(tough, y, "shuffled", key=jax.random.key(1)) - y)
    order = [int(np.abs(t - row).max((1, 2)).argmin()) for row in shuffled]
    assert sorted(order) == list(range(5)) and order != list(range(5))
    np.testing.assert_allclose(shuffled, t[order], atol=1e-6)
    np.testing.assert_allclose(losses.control(tough, y, "constant") - y, t.mean(), atol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda a: losses.control(a, y, "constant").sum())(tough), 0.0)
    # No example keeps its own errors, whatever the key.
    several = jax.vmap(lambda key: losses.control(tough[:2], y[:2], "shuffled", key=key))(
        jax.random.split(jax.random.key(0), 16)
    )
    np.testing.assert_allclose(several - y[None, :2], np.broadcast_to(t[None, 1::-1], several.shape), atol=1e-6)
    # An error without weight affects neither the mean nor another example.
    weights = jnp.asarray(np.random.default_rng(0).random((5, 6)) < 0.5, jnp.float32)
    wild = jnp.where(weights[..., None] > 0, tough, 99.0)
    mean = t[np.asarray(weights) > 0].mean()
    np.testing.assert_allclose(losses.control(wild, y, "constant", weights=weights) - y, mean, rtol=1e-4)
    tiny = losses.control(wild, y, "constant", weights=1e-12 * weights)
    np.testing.assert_allclose(tiny - y, mean, rtol=1e-4)  # only ratios count
    shuffled = losses.control(wild, y, "shuffled", key=jax.random.key(1), weights=weights) - y
    expected = np.where(np.asarray(weights)[..., None] > 0, t, mean)[order]
    np.testing.assert_allclose(shuffled, expected, atol=1e-5)
    with pytest.raises(ValueError, match="key"):
        losses.control(tough, y, "shuffled")
    with pytest.raises(ValueError, match="random"):
        losses.control(tough, y, "random")


def test_laplace_is_minus_the_logarithm_of_a_density_whose_mean_distance_is_the_uncertainty():
    d, step = 0.3, 0.004
    x = np.arange(-4.0, 4.0, step) + step / 2
    points = np.stack(np.meshgrid(x, x), -1).reshape(1, -1, 2)
    loss = losses.laplace(
        jnp.asarray(points, jnp.float32), jnp.full(points.shape[:2], d), jnp.zeros_like(points, jnp.float32)
    )
    density = np.exp(-np.asarray(loss, np.float64)) * step**2
    assert density.sum() == pytest.approx(1.0, abs=2e-3)
    assert (density * np.linalg.norm(points, axis=-1)).sum() == pytest.approx(d, rel=5e-3)


def test_slopes_of_laplace_are_finite_and_those_of_the_formula():
    prediction = jnp.array([[0.0, 0.0], [0.03, 0.04]])
    target, uncertainty = jnp.zeros((2, 2)), jnp.array([0.1, 0.1])
    slopes = jax.grad(lambda *inputs: losses.laplace(*inputs, target).sum(), argnums=(0, 1))(prediction, uncertainty)
    np.testing.assert_allclose(slopes[0], [[0.0, 0.0], [20 * 0.6, 20 * 0.8]], rtol=1e-5)
    np.testing.assert_allclose(slopes[1], [2 / 0.1, 2 / 0.1 - 2 * 0.05 / 0.01], rtol=1e-5)
    with pytest.raises(ValueError, match="does not fit"):
        losses.laplace(prediction, jnp.zeros((2, 2)), target)
