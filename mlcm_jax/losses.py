"""Landmark losses: functions of (prediction, target) that return a value per number, map or example, never their mean.

Losses of coordinates take float arrays of the same shape (landmarks [B, K, 2], for `awing` heatmaps [B, h, w, K]) and
keep shape and dtype. Losses of maps compute in float32 at least: `star` returns [B, K], `map_awing` [B, N],
`map_distillation` [B]. Options are keyword-only. The training step reduces by `dikd.masked_mean`. Every gradient is
finite, and zero at zero error. Options with a unit (`beta`, `w`, `epsilon`) are in the unit of the coordinates: divide
a paper's pixels by the side of the crop to get u.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from mlcm_jax import codecs, dikd


def _error(prediction: ArrayLike, target: ArrayLike) -> jax.Array:
    """The difference of equal shapes; broadcasting [B, 1, 2] against [B, K, 2] would silently train nonsense."""
    if jnp.shape(prediction) != jnp.shape(target):
        raise ValueError(f"prediction {jnp.shape(prediction)} and target {jnp.shape(target)} differ in shape")
    return jnp.asarray(prediction) - jnp.asarray(target)


def _magnitude(e: jax.Array) -> jax.Array:
    """|e| with the gradient sign(e), which is 0 at 0; that of `jnp.abs` is 1 there and would push exact predictions."""
    return e * stop_gradient(jnp.sign(e))


def l1(prediction: ArrayLike, target: ArrayLike) -> jax.Array:
    """|e| with e = prediction - target."""
    return _magnitude(_error(prediction, target))


def l2(prediction: ArrayLike, target: ArrayLike) -> jax.Array:
    """e^2 with e = prediction - target, without the factor 1/2."""
    return jnp.square(_error(prediction, target))


def smooth_l1(prediction: ArrayLike, target: ArrayLike, *, beta: float = 1.0) -> jax.Array:
    """e^2 / (2 beta) where |e| < beta, else |e| - beta / 2, with e = prediction - target.

    Value and slope are continuous at beta. STAR uses beta = 0.01 on coordinates in [-1, 1]. "Fast R-CNN", Girshick,
    ICCV 2015, has beta = 1.

    Raises:
        ValueError: a beta that is not positive.
    """
    if isinstance(beta, int | float) and beta <= 0:
        raise ValueError(f"beta = {beta} must be positive; for beta = 0 use l1")
    import optax  # Here, so that the other losses need jax alone.

    return optax.huber_loss(_error(prediction, target), delta=beta) / beta


def wing(prediction: ArrayLike, target: ArrayLike, *, w: float = 10.0, epsilon: float = 2.0) -> jax.Array:
    """Wing loss: w ln(1 + |e| / epsilon) where |e| < w, else |e| - C with C = w - w ln(1 + w / epsilon).

    "Wing loss for robust facial landmark localisation with convolutional neural networks", Feng et al., CVPR 2018,
    eq. 5. The defaults are the paper's, in *pixels*; in u, no error would reach the linear part. Since wing(s e; s w, s
    epsilon) = s wing(e; w, epsilon), use w = 10 / S and epsilon = 2 / S for u in a crop of side S.

    Raises:
        ValueError: w or epsilon is not positive.
    """
    if any(isinstance(number, int | float) and number <= 0 for number in (w, epsilon)):
        raise ValueError(f"w = {w} and epsilon = {epsilon} must be positive")
    e = _magnitude(_error(prediction, target))
    offset = w - w * jnp.log1p(w / epsilon)
    return jnp.where(e < w, w * jnp.log1p(e / epsilon), e - offset)


def laplace(prediction: ArrayLike, uncertainty: ArrayLike, target: ArrayLike) -> jax.Array:
    """Negative log-likelihood of a landmark under a Laplace density in two dimensions: 2 (r / d + ln d) + ln(pi / 2).

    r = |prediction - target|, [..., K] from [..., K, 2], and `uncertainty` [..., K] is d > 0, the mean of r under the
    density 2 exp(-2 r / d) / (pi d^2), in the unit of the landmarks. Returns [..., K].

    Raises:
        ValueError: shapes that do not fit.
    """
    error, uncertainty = _error(prediction, target), jnp.asarray(uncertainty)
    if error.ndim == 0 or error.shape[-1] != 2 or uncertainty.shape != error.shape[:-1]:
        raise ValueError(f"uncertainty {uncertainty.shape} does not fit landmarks {error.shape}")
    square = jnp.square(error).sum(-1)  # at 0, its square root has no gradient
    distance = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return 2.0 * (distance / uncertainty + jnp.log(uncertainty)) + math.log(math.pi / 2.0)


def awing(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    alpha: float = 2.1,
    omega: float = 14.0,
    theta: float = 0.5,
    epsilon: float = 1.0,
) -> jax.Array:
    """Adaptive wing loss for heatmaps with values in [0, 1]; y is the target and e = |prediction - y|.

    omega ln(1 + (e / epsilon)^(alpha - y)) where e < theta, else A e - C, with
    A = omega / (1 + (theta/epsilon)^(alpha-y)) (alpha - y) (theta/epsilon)^(alpha-y-1) / epsilon and
    C = theta A - omega ln(1 + (theta/epsilon)^(alpha-y)), so that value and slope are continuous at theta.
    "Adaptive wing loss for robust face alignment via heatmap regression", Wang et al., ICCV 2019, eq. 3.
    The target carries no gradient, because it is also in the exponent, where its derivative has no meaning.
    """
    target = stop_gradient(target)
    e = _magnitude(_error(prediction, target))
    power = alpha - target
    ratio = theta / epsilon
    at_theta = ratio**power
    slope = omega / (1 + at_theta) * power * ratio ** (power - 1) / epsilon
    offset = theta * slope - omega * jnp.log1p(at_theta)
    near = e < theta
    # Each branch gets only its own values, and the power never gets 0, where autodiff of 0^p would compute 0 * inf.
    positive = near & (e > 0)
    base = jnp.where(positive, e, 1.0) / epsilon
    curve = jnp.where(positive, omega * jnp.log1p(base**power), 0.0)
    return jnp.where(near, curve, slope * e - offset)


_KD = {"paper": (0.4, (0.9, -0.45), (0.9, -0.45)), "released": (0.15, (1.9, -0.45), (1.8, -0.40))}


def kd_numbers(variant: str) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """The constants of a variant of KD-Loss: beta, then (alpha, inner) of the tough and of the tolerant teacher."""
    if variant not in _KD:
        raise ValueError(f"unknown variant {variant!r}: use {' or '.join(_KD)}")
    return _KD[variant]


def assistive(  # noqa: PLR0913
    prediction: ArrayLike,
    teacher: ArrayLike,
    target: ArrayLike,
    *,
    alpha: float | None = None,
    inner: float | None = None,
    beta: float | None = None,
    variant: str = "paper",
    stop_factor: bool = False,
) -> jax.Array:
    """Assistive loss of one teacher: omega |t - e|, with e = |prediction - target| and t = |teacher - target|.

    | region            | omega, "paper"         | omega, "released" |
    |-------------------|------------------------|-------------------|
    | t <= e            | alpha                  | alpha             |
    | beta t <= e < t   | inner                  | inner             |
    | e < beta t        | inner e / (beta t)     | 0                 |

    It pulls harder when the student errs more than the teacher, and pushes back when it errs less. The regions and t
    carry no gradient. The loss depends on e and t alone, *never on the direction of the teacher's error*. What the
    teacher contributes is therefore the gain over a shuffled or a constant t; see `control`.
    Fard and Mahoor, "Facial landmark points detection using knowledge distillation-based neural networks", CVIU 2022;
    "released" is their code.

    Args:
        prediction: float [B, K, 2] in u, as are the other two. (The paper's coordinates are u - 0.5.)
        teacher: float [B, K, 2], the teacher's landmarks.
        target: float [B, K, 2], the true landmarks.
        alpha: weight where the student errs more; None is 0.9 ("paper") or 1.9 ("released", its tough teacher; its
            tolerant one has 1.8).
        inner: weight where it errs less; None is -0.45 (the tolerant teacher of "released" has -0.40).
        beta: share of t below which the weight fades; None is 0.4 ("paper") or 0.15 ("released").
        variant: "paper" or "released".
        stop_factor: whether to stop the gradient of the factor e / (beta t) of "paper". Without it, the loss is the
            curve that the paper draws, with the slope inner / beta at e = 0.

    Returns:
        float [B, K, 2], negative where e < t.
    """
    default_beta, (default_alpha, default_inner), _ = kd_numbers(variant)
    alpha = default_alpha if alpha is None else alpha
    inner = default_inner if inner is None else inner
    beta = default_beta if beta is None else beta
    e = _magnitude(_error(prediction, target))
    t = stop_gradient(jnp.abs(_error(teacher, target)))
    edge = beta * t
    near = e < edge  # never where t = 0
    factor = jnp.where(near, e, 0.0) / jnp.where(near, edge, 1.0) if variant == "paper" else jnp.zeros_like(e)
    factor = stop_gradient(factor) if stop_factor else factor
    omega = jnp.where(e >= t, alpha, jnp.where(near, inner * factor, inner))
    return omega * _magnitude(t - e)


def main(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    tolerant: ArrayLike | None = None,
    gamma: float = 0.5,
    variant: str = "paper",
) -> jax.Array:
    """The main term of KD-Loss, a continuous function of e = |prediction - target|; see `assistive` for the source.

    "paper": e where e <= gamma, else e^2 + gamma - gamma^2. "released": 3 e where e <= t, else e^2 + 3 t - t^2, with
    t = |tolerant - target| (no gradient).

    Args:
        prediction: float [B, K, 2] in u.
        target: float [B, K, 2] in u.
        tolerant: float [B, K, 2], the tolerant teacher's landmarks; "released" needs them, "paper" ignores them.
        gamma: the error at which "paper" turns from linear to quadratic.
        variant: "paper" or "released".

    Returns:
        float [B, K, 2].
    """
    kd_numbers(variant)
    e = _magnitude(_error(prediction, target))
    if variant == "paper":
        return jnp.where(e <= gamma, e, e**2 + gamma - gamma**2)
    if tolerant is None:
        raise ValueError("the main loss of variant 'released' needs the tolerant teacher's landmarks")
    t = stop_gradient(jnp.abs(_error(tolerant, target)))
    return jnp.where(e <= t, 3 * e, e**2 + 3 * t - t**2)


def kd(  # noqa: PLR0913
    prediction: ArrayLike,
    tough: ArrayLike | None,
    tolerant: ArrayLike | None,
    target: ArrayLike,
    *,
    main_weight: float = 2.5,
    gamma: float = 0.5,
    variant: str = "paper",
    tough_numbers: tuple[float, float] | None = None,
    tolerant_numbers: tuple[float, float] | None = None,
    beta: float | None = None,
    stop_factor: bool = False,
) -> jax.Array:
    """KD-Loss: main_weight * `main` + `assistive` of the tough teacher + `assistive` of the tolerant teacher.

    The tough teacher learnt the true landmarks, the tolerant one their projection on a shape model
    (`shape_model.project`). With the paper's numbers the slope at e = 0 is 2.5 - 2 * 0.45 / 0.4 = +0.25. With a
    `main_weight` below 2.25 it is negative: the loss pushes exact predictions away from the truth.

    Args:
        prediction: float [B, K, 2] in u.
        tough: float [B, K, 2], the tough teacher's landmarks; None leaves its term out (the paper's row without it).
        tolerant: float [B, K, 2] or None, likewise; "released" needs it for its main term.
        target: float [B, K, 2], the true landmarks.
        main_weight: 2.5 in the paper; in the released code it is an argument whose value is not published.
        gamma: see `main`.
        variant: "paper" or "released".
        tough_numbers: (alpha, inner) of the tough teacher; None takes the variant's.
        tolerant_numbers: (alpha, inner) of the tolerant teacher; None takes the variant's.
        beta: for both teachers, see `assistive`.
        stop_factor: for both teachers, see `assistive`.

    Returns:
        float [B, K, 2], which depends only on e and the t of both teachers.
    """
    _, *defaults = kd_numbers(variant)
    total = main_weight * main(prediction, target, tolerant=tolerant, gamma=gamma, variant=variant)
    for teacher, given, default in zip((tough, tolerant), (tough_numbers, tolerant_numbers), defaults, strict=True):
        if teacher is not None:
            alpha, inner = default if given is None else given
            options = {"alpha": alpha, "inner": inner, "beta": beta, "variant": variant, "stop_factor": stop_factor}
            total = total + assistive(prediction, teacher, target, **options)
    return total


def control(
    teacher: ArrayLike, target: ArrayLike, kind: str, *, key: jax.Array | None = None, weights: ArrayLike | None = None
) -> jax.Array:
    """A control for the teacher of `assistive` or `kd`: the same errors, without information about the image.

    A teacher that beats neither control has contributed nothing but a weighting of the student's errors.

    Args:
        teacher: float [B, K, 2] in u, finite.
        target: float [B, K, 2] in u, finite.
        kind: "shuffled" gives every example the errors t of another one (the batch, in random order, is rotated);
            "constant" gives all of them the batch's mean t.
        key: draws the rotation of "shuffled".
        weights: float [B, K]; None means ones. They weigh the mean. In "shuffled", the mean also replaces errors with
            weight 0: otherwise a labelled landmark could get the error of an unlabelled one, which is a placeholder.

    Returns:
        float [B, K, 2]: target + t, without gradient.
    """
    t = stop_gradient(jnp.abs(_error(teacher, target)))
    weights = jnp.ones(t.shape[:2]) if weights is None else stop_gradient(jnp.asarray(weights))
    mean = dikd.masked_mean(t[None], weights[None])[0].astype(t.dtype)  # of the whole batch
    if kind == "shuffled":
        if key is None:
            raise ValueError("the control 'shuffled' needs a key")
        known = jnp.where(weights[..., None] > 0, t, mean)
        t = jnp.roll(known, jax.random.randint(key, (), 1, max(len(t), 2)), axis=0)
    elif kind == "constant":
        t = jnp.full_like(t, mean)
    else:
        raise ValueError(f"unknown control {kind!r}: use shuffled or constant")
    return stop_gradient(target) + t


_STEEPEST = 1e5  # the slope for a Gaussian with a deviation of half a cell that is twenty cells off the target


def star(
    heatmaps: ArrayLike,
    target: ArrayLike,
    *,
    weight: float = 1.0,
    eps: float = 1e-4,
    distance: str = "smooth_l1",
    scale: float = 0.01,
    grid: str = "cells",
) -> jax.Array:
    """STAR: sum_j rho(v_j^T (y - mu)) / sqrt(lambda_j + eps) + weight sum_j |lambda_j| of each map.

    mu is the map's mean and (lambda_j, v_j) are the eigenpairs of its covariance, so that an error along an ambiguous
    edge costs less than one across it. The last term keeps maps from lowering the loss by growing wider. Eigenvalues
    and eigenvectors carry gradient; see `codecs.decompose`. Zhou et al., "STAR loss: reducing semantic ambiguity in
    facial landmark detection", CVPR 2023; as in their code, rho is taken before the division.

    The published weight 1, eps 1e-5 (1e-4 in arXiv 2404.06029) and scale 0.01 are in units of the grid "published".
    Lengths in "cells" are half as long: weight 4, eps / 4 and scale / 2 give the same loss, up to a factor (W - 1) / W.

    The gradient of an empty or one-hot map would be up to 1e17, because the first additional cell changes everything.
    The gradient of each map is therefore scaled down until no cell exceeds 1e5 / max(sum F, 1), which other maps do not
    reach.

    Args:
        heatmaps: float [B, H, W, K], nonnegative, of any sum.
        target: float [B, K, 2] in u.
        weight: weight of the sum of the eigenvalues.
        eps: what is added to each eigenvalue, in squared units of the grid.
        distance: rho: "smooth_l1" (beta = `scale`), "l1", "l2", or "wing" (w = `scale`, epsilon = 2).
        scale: the parameter of rho, in units of the grid.
        grid: "cells" or "published"; see `codecs.decompose`.

    Returns:
        float32 [B, K].
    """
    distances = {
        "smooth_l1": functools.partial(smooth_l1, beta=scale),
        "l1": l1,
        "l2": l2,
        "wing": functools.partial(wing, w=scale),
    }
    if distance not in distances:
        raise ValueError(f"unknown distance {distance!r}: use one of {', '.join(distances)}")

    def loss(maps: jax.Array) -> jax.Array:
        error, variance = codecs.decompose(maps, target, eps=eps, grid=grid)
        value = distances[distance](error, jnp.zeros_like(error)) / jnp.sqrt(variance + eps)
        return value.sum(-1) + weight * variance.sum(-1)

    maps = jnp.asarray(heatmaps)
    maps = maps.astype(np.promote_types(maps.dtype, np.float32))
    fixed = stop_gradient(maps)
    slope = jnp.abs(stop_gradient(jax.grad(lambda maps: loss(maps).sum())(fixed))).max((1, 2), keepdims=True)
    steepest = _STEEPEST / jnp.maximum(fixed.sum((1, 2), keepdims=True), 1.0)
    return loss(fixed + (maps - fixed) * (steepest / jnp.maximum(slope, steepest)))


def awing_weight(target: ArrayLike) -> jax.Array:
    """The weights of `awing` on sparse maps: 11 where the target, dilated by 3x3 cells, reaches 0.2, else 1.

    "Adaptive wing loss", Wang et al., ICCV 2019.

    Args:
        target: float [B, h, w, K].

    Returns:
        The same shape and dtype, without gradient.
    """
    dilated = jax.lax.reduce_window(stop_gradient(target), -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    return jnp.where(dilated >= 0.2, 11.0, 1.0).astype(dilated.dtype)


def map_awing(maps: ArrayLike, drawing: ArrayLike) -> jax.Array:
    """`awing` of each point or edge map against its drawing, times `awing_weight`, as a mean over the cells.

    The terms AWing(P, P*) and AWing(E, E*) of arXiv 2404.06029, each of weight 10 there.

    Args:
        maps: float [B, h, w, N] in [0, 1].
        drawing: float [B, h, w, N] in [0, 1], from `codecs.point_maps` or `codecs.edge_maps`; it carries no gradient.

    Returns:
        float32 [B, N].
    """
    return (awing(jnp.asarray(maps).astype(jnp.float32), drawing) * awing_weight(drawing)).mean((1, 2))


def map_distillation(student_maps: ArrayLike, teacher_maps: ArrayLike) -> jax.Array:
    """Mean squared difference of two stacks of maps: float [B, h, w, K] twice -> float32 [B].

    The teacher's maps carry no gradient. In arXiv 2404.06029 these are the fused maps F, and the weight is 100.
    """
    error = _error(student_maps, stop_gradient(teacher_maps))
    return dikd.masked_mean(jnp.square(error.astype(np.promote_types(error.dtype, np.float32))))
