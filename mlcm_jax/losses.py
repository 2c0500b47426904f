"""Landmark losses: functions of (prediction, target) that return one value per number and reduce nothing.

Those of coordinates take float arrays of one shape (landmarks [B, K, 2], for `awing` heatmaps [B, h, w, K]) and return
that shape; `star` returns [B, K], `star_system` and `map_distillation` [B]. Options are keyword-only. The step reduces
over `mask` and `visible`. Every gradient is finite everywhere, and zero at zero error. Options with a unit (`beta`,
`w`, `epsilon`) are in the unit of the coordinates: a paper's pixels become u when divided by the side of the crop.
"""

import functools

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from mlcm_jax import codecs
from mlcm_jax.codecs import decompose


def _error(prediction, target) -> jax.Array:
    """prediction - target, refusing to broadcast: [B, 1, 2] against [B, K, 2] would train nonsense in silence."""
    if jnp.shape(prediction) != jnp.shape(target):
        raise ValueError(f"prediction {jnp.shape(prediction)} and target {jnp.shape(target)} differ in shape")
    return jnp.asarray(prediction) - jnp.asarray(target)


def _magnitude(e) -> jax.Array:
    """|e| with slope sign(e), so 0 at 0. JAX's own abs has slope 1 there, and would push what is already right."""
    return e * stop_gradient(jnp.sign(e))


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
    target = stop_gradient(target)
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


# KD-Loss, variant -> beta, (alpha, inner) of the tough teacher, (alpha, inner) of the tolerant one.
_KD = {"paper": (0.4, (0.9, -0.45), (0.9, -0.45)), "released": (0.15, (1.9, -0.45), (1.8, -0.40))}


def _kd_numbers(variant: str):
    if variant not in _KD:
        raise ValueError(f"unknown variant {variant!r}: use {' or '.join(_KD)}")
    return _KD[variant]


def assistive(
    prediction, teacher, target, *, alpha=None, inner=None, beta=None, variant="paper", stop_factor=False
) -> jax.Array:
    """Assistive loss of one teacher: omega |t - e|, with e = |prediction - target| and t = |teacher - target|.

    | region            | omega, "paper"         | omega, "released" |
    |-------------------|------------------------|-------------------|
    | t <= e            | alpha                  | alpha             |
    | beta t <= e < t   | inner                  | inner             |
    | e < beta t        | inner e / (beta t)     | 0                 |

    Behind the teacher's error it pulls harder, within it it holds back. The regions and t carry no gradient. In "paper"
    the factor e / (beta t) is differentiated: the loss is the drawn curve, whose slope at e = 0 is inner / beta;
    `stop_factor` stops it. The loss depends on e and t alone, *never on the side on which the teacher errs*: what it
    gains over a shuffled or a constant t is what the teacher teaches; see `control`.
    Fard and Mahoor, "Facial landmark points detection using knowledge distillation-based neural networks", CVIU 2022;
    "released" is their code.

    Args:
      prediction, teacher, target: float [B, K, 2] in u. (The paper's coordinates are u - 0.5, so of the same scale.)
      alpha, inner, beta: None takes the variant's: 0.9, -0.45, 0.4 in "paper"; 1.9, -0.45, 0.15 in "released", its
        tough teacher's (its tolerant one's are 1.8, -0.40, 0.15).

    Returns:
      float [B, K, 2]; negative where e < t.
    """
    beta_default, (alpha_default, inner_default), _ = _kd_numbers(variant)
    alpha, inner, beta = (
        default if value is None else value
        for value, default in ((alpha, alpha_default), (inner, inner_default), (beta, beta_default))
    )
    e = _magnitude(_error(prediction, target))
    t = stop_gradient(jnp.abs(_error(teacher, target)))
    edge = beta * t
    near = e < edge  # never where t = 0
    factor = jnp.where(near, e, 0.0) / jnp.where(near, edge, 1.0) if variant == "paper" else jnp.zeros_like(e)
    factor = stop_gradient(factor) if stop_factor else factor
    omega = jnp.where(e >= t, alpha, jnp.where(near, inner * factor, inner))
    return omega * _magnitude(t - e)


def main(prediction, target, *, tolerant=None, gamma=0.5, variant="paper") -> jax.Array:
    """The main term of KD-Loss, e = |prediction - target|; continuous, unreduced [B, K, 2]. Source: `assistive`.

    "paper": e where e <= gamma, else e^2 + gamma - gamma^2. "released": 3 e where e <= t, else e^2 + 3 t - t^2, with
    t = |tolerant - target| (no gradient), which it needs and "paper" ignores.
    """
    _kd_numbers(variant)
    e = _magnitude(_error(prediction, target))
    if variant == "paper":
        return jnp.where(e <= gamma, e, e**2 + gamma - gamma**2)
    if tolerant is None:
        raise ValueError("the main loss of variant 'released' needs the tolerant teacher's landmarks")
    t = stop_gradient(jnp.abs(_error(tolerant, target)))
    return jnp.where(e <= t, 3 * e, e**2 + 3 * t - t**2)


def kd(
    prediction,
    tough,
    tolerant,
    target,
    *,
    main_weight=2.5,
    gamma=0.5,
    variant="paper",
    tough_numbers=None,
    tolerant_numbers=None,
    beta=None,
    stop_factor=False,
) -> jax.Array:
    """KD-Loss with two teachers: main_weight `main` + `assistive` of the tough + `assistive` of the tolerant teacher.

    The tough teacher learnt the true landmarks, the tolerant one their projection on a shape model
    (`shape_model.project`). With the paper's numbers the slope towards the truth at e = 0 is 2.5 - 2 * 0.45 / 0.4 =
    +0.25; below a `main_weight` of 2.25 the truth repels. 2.5 is the paper's; in the released code the weight is an
    argument whose value is not known.

    Args:
      prediction, tough, tolerant, target: float [B, K, 2] in u. A teacher that is None leaves its term out: the
        paper's rows with one teacher ("released" needs the tolerant one for its main term).
      tough_numbers, tolerant_numbers: (alpha, inner) of each; None takes the variant's.
      beta, stop_factor: of both, see `assistive`.

    Returns:
      float [B, K, 2], a function of e and the two t alone.
    """
    _, *defaults = _kd_numbers(variant)
    total = main_weight * main(prediction, target, tolerant=tolerant, gamma=gamma, variant=variant)
    for teacher, given, default in zip((tough, tolerant), (tough_numbers, tolerant_numbers), defaults, strict=True):
        if teacher is not None:
            alpha, inner = default if given is None else given
            options = {"alpha": alpha, "inner": inner, "beta": beta, "variant": variant, "stop_factor": stop_factor}
            total = total + assistive(prediction, teacher, target, **options)
    return total


def control(teacher, target, kind, *, key=None, weights=None) -> jax.Array:
    """Landmarks to give `assistive` or `kd` for the teacher's: the same errors t, without what they say of an image.

    "shuffled": every example gets the t of another one, drawn by `key` (the batch, in random order, is rotated).
    "constant": all get the batch's mean t. A teacher that beats neither has taught nothing but a schedule of weights.

    Args:
      teacher, target: float [B, K, 2] in u; finite.
      weights: float [B, K]; None: ones. The mean is weighted, and stands for errors without weight when they are
        shuffled: a placeholder's would reach a labelled landmark.

    Returns:
      float [B, K, 2]: target + t, without gradient.
    """
    t = stop_gradient(jnp.abs(_error(teacher, target)))
    weights = jnp.ones(t.shape[:2]) if weights is None else stop_gradient(weights)
    mean = (t.mean(-1) * weights).sum() / jnp.maximum(weights.sum(), 1e-6)
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


def star(
    heatmaps, target, *, weight=1.0, eps=1e-4, distance="smooth_l1", scale=0.01, grid="cells", floor=1e-6
) -> jax.Array:
    """STAR: sum_j rho(v_j^T (y - mu)) / sqrt(lambda_j + eps) + weight sum_j |lambda_j| of each map.

    mu is the map's mean and (lambda_j, v_j) are the eigenpairs of its covariance, so that an error along an ambiguous
    edge costs less than one across it; the last term keeps the map from buying that with width. Eigenvalues and
    eigenvectors carry gradient; `codecs.decompose` says how. Zhou et al., "STAR loss: reducing semantic ambiguity in
    facial landmark detection", CVPR 2023. Their code divides first and takes rho of the length of the scaled vector;
    this is the formula.

    Args:
      heatmaps: float [B, H, W, K], nonnegative, of any sum.
      target: float [B, K, 2] in u.
      weight: of the eigenvalues.
      eps: 1e-4 in arXiv 2404.06029, 1e-5 in STAR itself.
      distance: rho: "smooth_l1" (beta = `scale`), "l1", "l2", or "wing" (w = `scale`, epsilon = 2).
      scale: of rho; like eps, in units of the grid.
      grid, floor: see `codecs.decompose`.

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
    error, variance = decompose(heatmaps, target, eps=eps, grid=grid, floor=floor)
    value = distances[distance](error, jnp.zeros_like(error)) / jnp.sqrt(variance + eps)
    return value.sum(-1) + weight * variance.sum(-1)


def awing_weight(target) -> jax.Array:
    """1 + 10 where the target, dilated by 3x3 cells, reaches 0.2: what `awing` of sparse maps is multiplied by.

    float [B, h, w, K] -> the same shape, without gradient. "Adaptive wing loss", Wang et al., ICCV 2019.
    """
    dilated = jax.lax.reduce_window(stop_gradient(target), -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    return 1.0 + 10.0 * (dilated >= 0.2)


def _weighted_mean(values, weights) -> jax.Array:
    """[B, N] to [B]; an example of no weight gives 0."""
    total = weights.sum(-1)
    return jnp.where(weights > 0, values * weights, 0.0).sum(-1) / jnp.where(total > 0, total, 1.0)


def star_system(
    heatmaps,
    points,
    edges,
    target,
    *,
    chains=(),
    weights=None,
    point_weight=10.0,
    edge_weight=10.0,
    drawn=256,
    sigma=1.5,
    **star_options,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """STAR(F, y) + 10 AWing(P, P*) + 10 AWing(E, E*), the loss of arXiv 2404.06029 without its distillation.

    P* and E* are drawn here, on the device (`codecs.point_maps`, `codecs.edge_maps`). Each term is a mean: over the
    landmarks, or over the cells and then over the landmarks or edges.

    Args:
      heatmaps: float [B, S, S, K], the fused maps F.
      points: float [B, S, S, K] in [0, 1], the point maps P.
      edges: float [B, S, S, E] in [0, 1], the edge maps E; None, with no chains, leaves the term out.
      target: float [B, K, 2] in u.
      chains: the E edges as tuples of landmarks, `codecs.edge_chains`.
      weights: optional float or bool [B, K] (visibility), weigh the means over landmarks; a landmark of weight 0 may
        hold NaN. An edge weighs what its least landmark does.
      drawn, sigma: see `codecs.point_maps`.
      star_options: of `star`.

    Returns:
      (float32 [B], {"star", "points", "edges"}), the parts [B] not multiplied by their weights; "edges" is missing
      where there are none.
    """
    target = jnp.asarray(target)
    if heatmaps.shape != points.shape or heatmaps.shape[1] != heatmaps.shape[2]:
        raise ValueError(f"heatmaps {heatmaps.shape} and points {points.shape} are not both [B, S, S, K]")
    found = 0 if edges is None else edges.shape[-1]
    if found != len(chains):
        raise ValueError(f"{found} edge maps do not fit {len(chains)} chains")
    if weights is None:
        weights = jnp.ones(target.shape[:2], jnp.float32)
    weights = jnp.asarray(weights).astype(jnp.float32)
    target = jnp.where(weights[..., None] > 0, target, 0.5)  # before the loss: NaN * 0 is NaN, in the gradient too
    size = heatmaps.shape[1]

    def maps(prediction, drawing):  # [B, S, S, N] -> [B, N]
        return (awing(prediction.astype(jnp.float32), drawing) * awing_weight(drawing)).mean((1, 2))

    parts = {
        "star": _weighted_mean(star(heatmaps, target, **star_options), weights),
        "points": _weighted_mean(maps(points, codecs.point_maps(target, size, drawn, sigma)), weights),
    }
    total = parts["star"] + point_weight * parts["points"]
    if found:
        of_edges = jnp.stack([weights[:, list(chain)].min(-1) for chain in chains], -1)
        parts["edges"] = _weighted_mean(maps(edges, codecs.edge_maps(target, chains, size, drawn)), of_edges)
        total = total + edge_weight * parts["edges"]
    return total, parts


def map_distillation(student_maps, teacher_maps) -> jax.Array:
    """Mean squared difference of two stacks of maps, float [B, h, w, K] twice -> [B]; the teacher's are stopped.

    Between the fused maps F of teacher and student with weight 100: arXiv 2404.06029.
    """
    error = _error(student_maps, stop_gradient(teacher_maps))
    return jnp.square(error.astype(jnp.promote_types(error.dtype, jnp.float32))).mean((1, 2, 3))
