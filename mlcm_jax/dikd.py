"""Dual-Injected Knowledge Distillation (MLCM-KD, arXiv 2510.11128): arrays and two heads in, one loss per example out.

Forward injection (FI) feeds the teacher's features through the student's head, reverse injection (RI) the student's
features through the teacher's frozen head. The functions depend neither on the task loss nor on the networks, and need
no library but jax.

A head is a pair `(apply, params)` with `apply(params, features) -> [B, K, 2]`. Details that the paper leaves open are
marked as inferred; see `reverse_target` and `decay`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient
from jax.typing import ArrayLike

Head = tuple[Callable[[Any, jax.Array], jax.Array], Any]
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def masked_mean(values: ArrayLike, weights: ArrayLike | None = None) -> jax.Array:
    """Weighted mean of each example over all axes but the batch.

    All losses, here and in the training step, are reduced by this function. It is defined here and not in `losses`
    because this file must work with jax alone.

    Args:
        values: float [B, ...].
        weights: float or bool, whose shape is a prefix of that of `values`, such as [B] or [B, K]; None weighs all
            values alike. A value with weight 0 may be NaN: it affects neither the result nor the gradient. Only the
            ratios of an example's weights matter, however small the weights are.

    Returns:
        float [B], of float32 at least. An example without weight gives 0, and no gradient.

    Raises:
        ValueError: the shape of the weights is not such a prefix.
    """
    values = jnp.asarray(values)
    values = values.astype(np.promote_types(values.dtype, np.float32))  # jnp's version raises under strict promotion.
    others = tuple(range(1, values.ndim))
    if weights is None:
        return values.mean(axis=others)
    weights = jnp.asarray(weights)
    if weights.ndim == 0 or weights.shape != values.shape[: weights.ndim]:
        raise ValueError(f"weights of shape {weights.shape} do not fit values of shape {values.shape}")
    shape = weights.shape + (1,) * (values.ndim - weights.ndim)
    weights = jnp.broadcast_to(weights.astype(values.dtype).reshape(shape), values.shape)
    counts = weights > 0
    # Divided by the largest weight of the example, so that the sums of tiny weights do not underflow.
    largest = stop_gradient(weights.max(axis=others, keepdims=True))
    weights = jnp.where(counts, weights, 0.0) / jnp.where(largest > 0, largest, 1.0)
    total = weights.sum(axis=others)
    return (jnp.where(counts, values, 0.0) * weights).sum(axis=others) / jnp.where(total > 0, total, 1.0)


def _labelled(target: ArrayLike, weights: ArrayLike | None) -> jax.Array:
    """The target with 0 where its weight is 0. A NaN must not reach the loss: the gradient would be NaN * 0 = NaN."""
    target = jnp.asarray(target)
    if weights is None:
        return target
    if jnp.shape(weights) != target.shape[:2]:
        raise ValueError(f"weights {jnp.shape(weights)} do not match the landmarks {target.shape[:2]}")
    return jnp.where(jnp.asarray(weights, jnp.float32)[..., None] > 0, target, 0.0)


def _apply(name: str, head: Head, features: jax.Array, target: jax.Array) -> jax.Array:
    apply, params = head
    prediction = apply(params, features)
    if prediction.shape != target.shape:
        raise ValueError(f"the {name}'s head gives {prediction.shape}, but the target has shape {target.shape}")
    return prediction


def forward(
    teacher_features: ArrayLike,
    student_head: Head,
    target: ArrayLike,
    *,
    loss: Loss,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Forward injection alone, FI [B]; arguments as in `dikd`."""
    target = _labelled(target, weights)
    return masked_mean(loss(_apply("student", student_head, stop_gradient(teacher_features), target), target), weights)


def reverse(
    student_features: ArrayLike,
    teacher_features: ArrayLike,
    teacher_head: Head,
    target: ArrayLike,
    *,
    loss: Loss,
    weights: ArrayLike | None = None,
    reverse_target: str = "teacher",
) -> jax.Array:
    """Reverse injection alone, RI [B]; arguments as in `dikd`."""
    if reverse_target not in ("teacher", "truth"):
        raise ValueError(f"reverse_target is 'teacher' or 'truth', not {reverse_target!r}")
    target = _labelled(target, weights)
    apply, params = teacher_head
    params = stop_gradient(params)
    returned = _apply("teacher", (apply, params), student_features, target)
    if reverse_target == "teacher":
        target = stop_gradient(apply(params, stop_gradient(teacher_features)))
    return masked_mean(loss(returned, target), weights)


def dikd(  # noqa: PLR0913
    student_features: ArrayLike,
    teacher_features: ArrayLike,
    student_head: Head,
    teacher_head: Head,
    target: ArrayLike,
    *,
    loss: Loss,
    weights: ArrayLike | None = None,
    alpha: ArrayLike = 1.0,
    beta: ArrayLike = 1.0,
    reverse_target: str = "teacher",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Dual injection, alpha * FI + beta * RI.

    With features f_t, f_r and heads h_t, h_r of student and teacher, and sg for stop-gradient:

        FI = mean loss(h_t(sg[f_r]), y)                  trains h_t only
        RI = mean loss(h_r(f_t), sg[h_r(f_r)] or y)      trains b_t, the backbone behind f_t, only

    The teacher is never trained: the gradients of its features and of its head's parameters are stopped. The head stays
    differentiable with respect to its *input*, as RI could not train the student otherwise. If the student's head needs
    an adapter for the teacher's channels, put it inside `student_head`; if the teacher's head needs one for the
    student's channels, apply it to `student_features` before the call.

    Args:
        student_features: float [B, ...], from the student's backbone.
        teacher_features: float [B, ...], from the teacher's backbone for the paired image.
        student_head: (apply, params).
        teacher_head: (apply, params).
        target: float [B, K, 2], the true landmarks.
        loss: (prediction, target) -> unreduced [B, K, 2].
        weights: optional float or bool [B, K], for example visibility: weights of the mean over K and xy.
            None weighs all landmarks alike.
        alpha: weight of FI; may be traced.
        beta: weight of RI; may be traced.
        reverse_target: "teacher" (default, inferred) compares RI with the teacher's own prediction, "truth" with
            `target`.

    Returns:
        (float [B], {"forward": FI [B], "reverse": RI [B]}); the parts are not weighted by alpha and beta.

    Raises:
        ValueError: shapes that do not fit, or an unknown `reverse_target`.

    Example:
        FI trains the student's head, RI its features.

        >>> import jax, jax.numpy as jnp
        >>> from mlcm_jax import dikd
        >>> head = lambda params, features: (features @ params).reshape(-1, 3, 2)
        >>> f_t, f_r = jnp.sin(jnp.arange(64.0)).reshape(2, 4, 8)  # thermal student, RGB teacher
        >>> p_t, p_r = jnp.cos(jnp.arange(96.0)).reshape(2, 8, 6)
        >>> y, loss = jnp.ones((4, 3, 2)), lambda prediction, target: jnp.square(prediction - target)
        >>> run = lambda f, p: dikd.dikd(f, f_r, (head, p), (head, p_r), y, loss=loss, beta=0.5)
        >>> to_f_t, to_p_t = jax.grad(lambda f, p: run(f, p)[0].mean(), argnums=(0, 1))(f_t, p_t)
        >>> {name: round(float(part.mean()), 2) for name, part in run(f_t, p_t)[1].items()}
        {'forward': 1.39, 'reverse': 0.11}
        >>> [round(float(jnp.linalg.norm(gradient)), 2) for gradient in (to_f_t, to_p_t)]
        [0.2, 0.72]
    """
    parts = {
        "forward": forward(teacher_features, student_head, target, loss=loss, weights=weights),
        "reverse": reverse(
            student_features,
            teacher_features,
            teacher_head,
            target,
            loss=loss,
            weights=weights,
            reverse_target=reverse_target,
        ),
    }
    return alpha * parts["forward"] + beta * parts["reverse"], parts


def feature(student_features: ArrayLike, teacher_features: ArrayLike) -> jax.Array:
    """Feature distillation, FD = mean (f_t - sg[f_r])^2 over all axes but the batch.

    Where channels differ, apply the adapter A to `student_features` before the call.

    Args:
        student_features: float [B, ...].
        teacher_features: float [B, ...] of the same shape.

    Returns:
        float [B].
    """
    if jnp.shape(student_features) != jnp.shape(teacher_features):
        raise ValueError(
            f"features {jnp.shape(student_features)} of the student and {jnp.shape(teacher_features)} of the teacher "
            "differ; apply an adapter to the student's first"
        )
    student, teacher = jnp.asarray(student_features), stop_gradient(jnp.asarray(teacher_features))
    dtype = np.promote_types(student.dtype, teacher.dtype)  # an adapter's features are float32, even of bfloat16
    return masked_mean(jnp.square(student.astype(dtype) - teacher.astype(dtype)))


def logit(student_landmarks: ArrayLike, teacher_landmarks: ArrayLike, *, loss: Loss) -> jax.Array:
    """Logit distillation, LD = mean loss(h_t(f_t), sg[h_r(f_r)]). Landmarks [B, K, 2] of both -> float [B]."""
    return masked_mean(loss(student_landmarks, stop_gradient(teacher_landmarks)))


def decay(progress: ArrayLike, schedule: str = "linear") -> jax.Array:
    """The time-adaptive weight lambda(e) of distillation.

    The schedules are inferred: the paper says only that the weight decreases.

    | schedule      | lambda(e)             | e = 0 | e = 1           |
    |---------------|-----------------------|-------|-----------------|
    | "linear"      | 1 - e                 | 1     | 0               |
    | "cosine"      | (1 + cos(pi e)) / 2   | 1     | 0               |
    | "exponential" | exp(-5 e)             | 1     | exp(-5) = 0.0067|
    | "none"        | 1                     | 1     | 1               |

    Args:
        progress: e, the fraction of the training that is done, clipped to [0, 1]. May be traced.
        schedule: a name from the table.

    Returns:
        float, with the shape of `progress`.
    """
    e = jnp.clip(jnp.asarray(progress, dtype=jnp.result_type(float)), 0.0, 1.0)
    if schedule == "linear":
        return 1.0 - e
    if schedule == "cosine":
        return (1.0 + jnp.cos(jnp.pi * e)) / 2.0
    if schedule == "exponential":
        return jnp.exp(-5.0 * e)
    if schedule == "none":
        return jnp.ones_like(e)
    raise ValueError(f"unknown decay schedule {schedule!r}: use linear, cosine, exponential or none")
