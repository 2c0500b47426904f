"""Boxes of faces as maps of one network: targets, loss, and decoding.

The detector is anchor-free (Zhou et al. 2019, "Objects as Points", arXiv 1904.07850): one map of scores, whose peaks
are the middles of faces, and four maps of distances from each cell to the sides of its face, trained in the core of
every face as in Liu et al. 2019, "Training-Time-Friendly Network" (arXiv 1909.00700). Arrays of boxes are (x, y, w, h).

In datasets and batches, the boxes of an image are landmarks of the layout `LAYOUT`: the middles of the left, right,
upper and lower side of up to `FACES` boxes. So crops, mirror images and sharding treat them like any other landmarks.
`known` tells which boxes exist, and `weight` how much of a face is seen.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from mlcm_jax.errors import InputError
from mlcm_jax.layouts import LAYOUTS

LAYOUT = LAYOUTS["boxes6"]
_SIDES = 4
FACES = LAYOUT.count // _SIDES
_DEVIATION = 0.09  # of the peak, over the sides of the box
_CORE = 0.2  # cells whose target is at least this learn the sides of the box
_UNIT = 0.1  # what a distance of exp(0) means, in u
_LIMITS = (-4.0, 3.5)  # of the logarithms of distances
# What `mlcm export` writes beside the graph of a detector: how `find` reads its maps.
DECODING = {
    "scores": "float32 [1, h, w]: logits of a face whose middle lies in the cell; keep those above the logit of "
    "`threshold` that are the largest of their 3 x 3 cells",
    "sides": "float32 [1, h, w, 4]: reach = unit * exp(clip(sides, limits)) is how far the left, right, upper and "
    "lower side of the box lie from ((column + 0.5) / w, (row + 0.5) / h), in u",
    "unit": _UNIT,
    "limits": _LIMITS,
    "overlap": "drop a box whose intersection over union with a better one is at least 0.4",
}


class Maps(NamedTuple):
    """What the head "boxes" returns.

    Attributes:
        scores: float32 [B, h, w], logits; cell i sits at (i + 0.5) / w.
        sides: float32 [B, h, w, 4], logarithms of the distances from a cell to the left, right, upper and lower side of
            its face, in units of 0.1 u.
    """

    scores: jax.Array
    sides: jax.Array


class Targets(NamedTuple):
    """What the maps should be; see `targets`."""

    peaks: jax.Array
    centre: jax.Array
    core: jax.Array
    corners: jax.Array


def points(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes [N, 4] as landmarks of `LAYOUT`, float32 [4 FACES, 2], and which of them exist, bool [4 FACES].

    Of more than `FACES` boxes, the largest are kept.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    boxes = boxes[np.sort(np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")[:FACES])]
    x, y, w, h = boxes.T
    sides = np.stack([[x, y + h / 2], [x + w, y + h / 2], [x + w / 2, y], [x + w / 2, y + h]])  # [4, 2, N]
    found = np.zeros((FACES, _SIDES, 2), np.float32)
    found[: len(boxes)] = sides.transpose(2, 0, 1)
    known = np.zeros((FACES, _SIDES), bool)
    known[: len(boxes)] = True
    return found.reshape(-1, 2), known.reshape(-1)


def corners(landmarks: jax.Array) -> jax.Array:
    """Landmarks of `LAYOUT` [..., 4 FACES, 2] -> left, top, right, bottom [..., FACES, 4]."""
    sides = landmarks.reshape(*landmarks.shape[:-2], FACES, _SIDES, 2)
    x0, x1, y0, y1 = sides[..., 0, 0], sides[..., 1, 0], sides[..., 2, 1], sides[..., 3, 1]
    return jnp.stack([x0, y0, x1, y1], -1)


def targets(landmarks: jax.Array, weights: jax.Array, shape: tuple[int, int]) -> Targets:
    """What the maps should be for the faces of a batch.

    Args:
        landmarks: float32 [B, 4 FACES, 2] in u, in `LAYOUT`.
        weights: float32 [B, 4 FACES]; 0 for boxes that do not exist.
        shape: (h, w) of the maps.

    Returns:
        peaks: float32 [B, h, w], Gaussians with deviations of 9 % of the sides of each box, whose largest counts.
        centre: float32 [B, h, w], the weight of the face whose middle lies in the cell; 0 elsewhere.
        core: float32 [B, h, w], the weight of the nearest face times its Gaussian, divided by the sum over its cells;
            0 where the Gaussian is below 0.2 and outside the face.
        corners: float32 [B, h, w, 4], the box of the nearest face in u.
    """
    h, w = shape
    boxes = corners(landmarks)  # [B, F, 4]
    weight = weights.reshape(len(weights), FACES, _SIDES).min(-1)
    x0, y0, x1, y1 = (boxes[..., k, None] for k in range(4))  # [B, F, 1]
    x, y = ((jnp.arange(n, dtype=jnp.float32).reshape(1, 1, n) + 0.5) / n for n in (w, h))
    dx = (x - (x0 + x1) / 2) / (_DEVIATION * jnp.maximum(x1 - x0, 1e-3))  # [B, F, w]
    dy = (y - (y0 + y1) / 2) / (_DEVIATION * jnp.maximum(y1 - y0, 1e-3))
    gauss = jnp.exp(-0.5 * (jnp.square(dy)[..., :, None] + jnp.square(dx)[..., None, :]))  # [B, F, h, w]
    exists = (weight > 0)[..., None, None]
    on = (jnp.floor(x * w) == jnp.floor((x0 + x1) / 2 * w))[..., None, :]
    on = on & (jnp.floor(y * h) == jnp.floor((y0 + y1) / 2 * h))[..., :, None] & exists  # the cell of the middle
    gauss = jnp.where(exists, jnp.where(on, 1.0, gauss), 0.0)
    nearest = jnp.argmax(gauss, axis=1)  # [B, h, w]
    numbers = jnp.arange(FACES).reshape(1, FACES, 1, 1)
    within = ((x > x0) & (x < x1))[..., None, :] & ((y > y0) & (y < y1))[..., :, None]
    share = jnp.where((numbers == nearest[:, None]) & (gauss >= _CORE) & within, gauss, 0.0)
    share = share / jnp.maximum(share.sum((2, 3), keepdims=True), 1e-6) * weight[..., None, None]
    chosen = jnp.take_along_axis(boxes, nearest.reshape(len(boxes), h * w, 1), 1).reshape(-1, h, w, 4)
    centre = jnp.where(on, weight[..., None, None], 0.0).max(1)
    return Targets(gauss.max(1), centre, share.sum(1), chosen)


def decoded(sides: jax.Array) -> jax.Array:
    """Maps of sides [B, h, w, 4] -> left, top, right, bottom in u, float32 [B, h, w, 4]."""
    _, h, w, _ = sides.shape
    reach = _UNIT * jnp.exp(jnp.clip(sides, *_LIMITS))
    x = ((jnp.arange(w, dtype=jnp.float32) + 0.5) / w).reshape(1, 1, w)
    y = ((jnp.arange(h, dtype=jnp.float32) + 0.5) / h).reshape(1, h, 1)
    return jnp.stack([x - reach[..., 0], y - reach[..., 2], x + reach[..., 1], y + reach[..., 3]], -1)


def overlap(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """IoU and generalised IoU (Rezatofighi et al. 2019) of boxes given by left, top, right, bottom [..., 4]."""
    low, high = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    both = jnp.prod(jnp.maximum(high - low, 0.0), -1)
    area = jnp.prod(jnp.maximum(a[..., 2:] - a[..., :2], 0.0), -1)
    union = jnp.maximum(area + jnp.prod(jnp.maximum(b[..., 2:] - b[..., :2], 0.0), -1) - both, 1e-9)
    hull = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    hull = jnp.maximum(jnp.prod(hull, -1), 1e-9)
    return both / union, both / union - (hull - union) / hull


def loss(maps: Maps, landmarks: jax.Array, weights: jax.Array, *, box_weight: float = 2.0) -> jax.Array:
    """The loss of every image: focal loss of the scores, and `box_weight` times 1 - generalised IoU of the boxes.

    The focal loss is that of arXiv 1904.07850, equation 1, with α = 2 and β = 4. Both parts are divided by the number
    of faces, at least 1.

    Args:
        maps: what the network found.
        landmarks: float32 [B, 4 FACES, 2] in u, in `LAYOUT`.
        weights: float32 [B, 4 FACES] in [0, 1]; a face counts by its weight.
        box_weight: of the second part.

    Returns:
        float32 [B].
    """
    scores = maps.scores.astype(jnp.float32)
    wanted = targets(landmarks, weights, scores.shape[1:])
    found = jax.nn.sigmoid(scores)
    positive = -jnp.square(1 - found) * jax.nn.log_sigmoid(scores) * wanted.centre
    negative = -jnp.square(found) * jax.nn.log_sigmoid(-scores) * (1 - wanted.peaks) ** 4
    focal = (positive + negative).sum((1, 2))
    _, generalised = overlap(decoded(maps.sides.astype(jnp.float32)), wanted.corners)
    boxes = (wanted.core * (1 - generalised)).sum((1, 2))
    count = weights.reshape(len(weights), FACES, _SIDES).min(-1).sum(-1)
    return (focal + box_weight * boxes) / jnp.maximum(count, 1.0)


def peaks(scores: jax.Array) -> jax.Array:
    """Scores [B, h, w] that are the largest among their 3 × 3 neighbours, -inf elsewhere."""
    around = jax.lax.reduce_window(scores, -jnp.inf, jax.lax.max, (1, 3, 3), (1, 1, 1), "SAME")
    return jnp.where(scores >= around, scores, -jnp.inf)


def best(maps: Maps) -> jax.Array:
    """The `FACES` best peaks as landmarks of `LAYOUT`, float32 [B, 4 FACES, 2] in u, overlaps included."""
    b, h, w = maps.scores.shape
    _, place = jax.lax.top_k(peaks(maps.scores.astype(jnp.float32)).reshape(b, h * w), min(FACES, h * w))
    found = decoded(maps.sides.astype(jnp.float32)).reshape(b, h * w, 4)
    x0, y0, x1, y1 = jnp.moveaxis(jnp.take_along_axis(found, place[..., None], 1), -1, 0)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    sides = jnp.stack(
        [jnp.stack([x0, y], -1), jnp.stack([x1, y], -1), jnp.stack([x, y0], -1), jnp.stack([x, y1], -1)], 2
    )
    sides = sides.reshape(b, -1, 2)
    return jnp.pad(sides, ((0, 0), (0, LAYOUT.count - sides.shape[1]), (0, 0)), constant_values=0.5)


def find(
    scores: np.ndarray, sides: np.ndarray, *, threshold: float, max_faces: int, overlap: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the boxes off the maps of one image: peaks above a threshold, best first, without those that overlap.

    Args:
        scores: float32 [h, w], logits.
        sides: float32 [h, w, 4], see `Maps`.
        threshold: smallest score, in (0, 1).
        max_faces: largest number of boxes.
        overlap: IoU with a better box from which a box is dropped.

    Returns:
        Boxes x, y, w, h in u, float32 [N, 4], and their scores float32 [N].
    """
    h, w = scores.shape
    padded = np.pad(scores, 1, constant_values=-np.inf)
    around = np.max([padded[r : r + h, c : c + w] for r in range(3) for c in range(3)], axis=0)
    rows, columns = np.nonzero((scores >= around) & (scores > np.log(threshold / (1 - threshold))))
    order = np.argsort(-scores[rows, columns], kind="stable")[: 20 * max(max_faces, 1)]  # bounds the work
    rows, columns = rows[order], columns[order]
    middle = np.stack([(columns + 0.5) / w, (rows + 0.5) / h], -1)
    reach = _UNIT * np.exp(np.clip(sides[rows, columns], *_LIMITS))
    boxes = np.concatenate([middle - reach[:, ::2], reach[:, ::2] + reach[:, 1::2]], 1)
    kept = without_overlaps(boxes, overlap, max_faces)
    boxes, logits = boxes[kept].reshape(-1, 4), scores[rows, columns][kept]
    return boxes.astype(np.float32), special.expit(logits).astype(np.float32)


def without_overlaps(boxes: np.ndarray, overlap: float, most: int | None = None) -> list[int]:
    """Non-maximum suppression: the numbers of the boxes to keep.

    Args:
        boxes: [N, 4], x, y, w, h, best first.
        overlap: IoU with a better box from which a box is dropped.
        most: largest number of boxes; None keeps all.
    """
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    kept: list[int] = []
    for k in range(len(corners)):
        if most is not None and len(kept) >= most:
            break
        if all(iou(corners[k], corners[other]) < overlap for other in kept):
            kept.append(k)
    return kept


def probability(scores: np.ndarray, seconds: np.ndarray, second: Sequence[float]) -> np.ndarray:
    """The probability that a box is that of a face, float32 [N].

    Args:
        scores: of the detector, [N] in (0, 1).
        seconds: scores of the landmarks in these boxes, [N] in [0, 1].
        second: a, b and c of `models.stored.Card.second`.
    """
    a, b, c = second[:3]
    return special.expit(a + b * _logit(scores) + c * _logit(seconds)).astype(np.float32)


def _logit(scores: np.ndarray) -> np.ndarray:
    return special.logit(np.clip(np.asarray(scores, np.float64), 1e-4, 1 - 1e-4))


def fit_second(scores: np.ndarray, seconds: np.ndarray, right: np.ndarray) -> tuple[float, float, float]:
    """Fits a, b and c of `probability` to boxes of which it is known whether they are right, bool [N]."""
    features = np.stack([np.ones(len(scores)), _logit(scores), _logit(seconds)])

    def loss(numbers: np.ndarray) -> float:
        logits = numbers @ features
        return float(np.logaddexp(0.0, np.where(right, -logits, logits)).sum() + 1e-3 * np.square(numbers).sum())

    from scipy import optimize  # Only this needs it, and the import takes a fifth of a second.

    a, b, c = optimize.minimize(loss, np.array([0.0, 1.0, 0.5]), method="Nelder-Mead", options={"maxiter": 4000}).x
    return float(a), float(b), float(c)


def check_limits(max_faces: int, min_score: float | None) -> None:
    """Raises InputError unless max_faces is a whole number of at least 1, and min_score None or between 0 and 1."""
    if isinstance(max_faces, bool) or not isinstance(max_faces, int | np.integer) or max_faces < 1:
        raise InputError(f"max_faces={max_faces} must be at least 1, and a whole number.")
    if min_score is not None and not (isinstance(min_score, float | np.floating) and 0.0 < min_score < 1.0):
        shown = f"{min_score:g}" if isinstance(min_score, int | float) else repr(min_score)
        raise InputError(f"min_score={shown} must be between 0 and 1.")


def to_original(boxes: np.ndarray, to_image: np.ndarray, size: int) -> np.ndarray:
    """Boxes [N, 4] in u of an upright crop -> pixels of the original image, float64 [N, 4].

    Args:
        boxes: x, y, w, h in u.
        to_image: [2, 3], see `data.augment.crop`; without rotation or mirror image.
        size: side of the crop in pixels.
    """
    scale = float(to_image[0, 0])
    corner = (np.asarray(boxes[:, :2], np.float64) * size - 0.5) * scale + np.asarray(to_image)[:, 2]
    return np.concatenate([corner, np.asarray(boxes[:, 2:], np.float64) * size * scale], 1)


def box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    """IoU of two boxes x, y, w, h."""
    a, b = ((x, y, x + w, y + h) for x, y, w, h in (map(float, box) for box in (one, other)))
    return iou(a, b)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU of two boxes given by left, top, right, bottom."""
    both = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0
