"""Landmark losses: functions of (prediction, target) that return one value per number and reduce nothing.

All take float arrays of one shape (landmarks [B, K, 2], for `awing` heatmaps [B, h, w, K]) and return that shape;
options are keyword-only. The step reduces over `mask` and `visible`. Every gradient is finite everywhere, and zero at
zero error. Options with a unit (`beta`, `w`, `epsilon`) are in the unit of the coordinates: a paper's pixels become u
when divided by the side of the crop.
"""

import jax
import jax.numpy as jnp


def _error(prediction, target) -> jax.Array:
    """prediction - target, refusing to broadcast: [B, 1, 2] against [B, K, 2] would train nonsense in silence."""
    if jnp.shape(prediction) != jnp.shape(target):
        raise ValueError(f"prediction {jnp.shape(prediction)} and target {jnp.shape(target)} differ in shape")
    return jnp.asarray(prediction) - jnp.asarray(target)


def _magnitude(e) -> jax.Array:
    """|e| with slope sign(e), so 0 at 0. JAX's own abs has slope 1 there, and would push what is already right."""
    return e * jax.lax.stop_gradient(jnp.sign(e))


def l1(prediction, target) -> jax.Array:
    """|e|, e = prediction - target."""
    return _magnitude(_error(prediction, target))


def l2(prediction, target) -> jax.Array:
    """e^2 (no factor 1/2)."""
    return jnp.square(_error(prediction, target))


def smooth_l1(prediction, target, *, beta=1.0) -> jax.Array:
    """e^2 / (2 beta) where |e| < beta, else |e| - beta / 2. "Fast R-CNN", Girshick, ICCV 2015 (beta = 1 there).

    Value and slope are continuous at beta. STAR and friends use beta = 0.01 on coordinates in [0, 1].
    """
    if isinstance(beta, int | float) and beta <= 0:
        raise ValueError(f"beta = {beta} must be positive; for beta = 0 use l1")
    e = _magnitude(_error(prediction, target))
    return jnp.where(e < beta, e**2 / (2 * beta), e - beta / 2)


def wing(prediction, target, *, w=10.0, epsilon=2.0) -> jax.Array:
    """w ln(1 + |e| / epsilon) where |e| < w, else |e| - C with C = w - w ln(1 + w / epsilon).

    "Wing loss for robust facial landmark localisation with convolutional neural networks", Feng et al., CVPR 2018,
    eq. 5. The defaults are the paper's, in *pixels*. wing(s e; s w, s epsilon) = s wing(e; w, epsilon), so in u of a
    crop of side S use w = 10 / S and epsilon = 2 / S; with the defaults, coordinates in [0, 1] never leave the
    logarithm.
    """
    e = _magnitude(_error(prediction, target))
    offset = w - w * jnp.log1p(w / epsilon)
    return jnp.where(e < w, w * jnp.log1p(e / epsilon), e - offset)


def awing(prediction, target, *, alpha=2.1, omega=14.0, theta=0.5, epsilon=1.0) -> jax.Array:
    """Adaptive wing loss for heatmaps with values in [0, 1]; y is the target and e = |prediction - y|.

    omega ln(1 + (e / epsilon)^(alpha - y)) where e < theta, else A e - C, with
    A = omega / (1 + (theta/epsilon)^(alpha-y)) (alpha - y) (theta/epsilon)^(alpha-y-1) / epsilon and
    C = theta A - omega ln(1 + (theta/epsilon)^(alpha-y)): value and slope are continuous at theta.
    "Adaptive wing loss for robust face alignment via heatmap regression", Wang et al., ICCV 2019, eq. 3.
    The target carries no gradient: it also sits in the exponent, where its derivative has no meaning.
    """
    target = jax.lax.stop_gradient(target)
    e = _magnitude(_error(prediction, target))
    power = alpha - target
    ratio = theta / epsilon
    at_theta = ratio**power
    slope = omega / (1 + at_theta) * power * ratio ** (power - 1) / epsilon
    offset = theta * slope - omega * jnp.log1p(at_theta)
    near = e < theta
    # Each branch sees only its own numbers, and the power never sees 0, where autodiff of 0^p would meet 0 * inf.
    positive = near & (e > 0)
    base = jnp.where(positive, e, 1.0) / epsilon
    curve = jnp.where(positive, omega * jnp.log1p(base**power), 0.0)
    return jnp.where(near, curve, slope * e - offset)


def scaled(prediction, target, normalizer, *, loss=l1) -> jax.Array:
    """Adaptive scaling: errors in units of the example's own normaliser n, loss(prediction / n, target / n).

    With n the normaliser of the metric (inter-ocular distance or sqrt(w h) of the box, see
    `metrics.normalizer_length`) an L1 loss *is* the NME, and a face that is small in its crop counts as much as a
    large one. n carries no gradient.

    Args:
      prediction: float [B, ...].
      target: float [B, ...].
      normalizer: float [B] > 0, in the unit of the coordinates. Rows that are not positive (padding) give 0.
      loss: any loss of this file; bind options with `functools.partial`.

    Returns:
      float [B, ...].
    """
    error = _error(prediction, target)
    normalizer = jax.lax.stop_gradient(jnp.asarray(normalizer))
    if normalizer.shape != error.shape[:1]:
        raise ValueError(
            f"normalizer has shape {normalizer.shape}, not one value for each of {error.shape[:1]} examples"
        )
    valid = normalizer > 0
    factor = jnp.where(valid, 1.0, 0.0) / jnp.where(valid, normalizer, 1.0)
    factor = factor.reshape(-1, *[1] * (error.ndim - 1))
    return loss(prediction * factor, target * factor)
