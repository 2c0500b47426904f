"""Measures how far a network's uncertainties and scores can be trusted, and fits what makes them right.

A network trained with `losses.laplace` predicts its expected errors on augmented training images. Those of an averaged
network on plain images are smaller, so a factor is fitted on validation images; the score is fitted there too.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, stats

from mlcm_jax.errors import InputError
from mlcm_jax.inference.predictor import Predictor, side_of

GOOD = 0.1  # a face whose NME by √(w·h) of the box is below this counts as found


def predictions(
    predictor: Predictor,
    examples: Sequence[Mapping[str, Any]],
    *,
    change: Callable[[np.ndarray], np.ndarray] = lambda image: image,
    factor: float = 1.0,
) -> dict[str, np.ndarray]:
    """Predicts every example as a user would, with its true box or one that is `factor` times as wide and high.

    Args:
        predictor: a network with uncertainties.
        examples: labelled examples (`data.examples`) in the network's layout.
        change: what is done to each image before it is predicted.
        factor: by which the box grows around its middle.

    Returns:
        `distance` and `uncertainty` float [N, K] in pixels, `known` bool [N, K], and [N] each: `score`; `side`, which
        is √(w·h) of the true box; `found`, which is that of the box around the predicted landmarks; and `crop`, the
        side of the crop in pixels.

    Raises:
        InputError: the network predicts no uncertainties.
    """
    rows: dict[str, list] = {
        name: [] for name in ("distance", "uncertainty", "known", "side", "found", "crop", "score")
    }
    for k in range(len(examples)):
        example = examples[k]
        x, y, w, h = example["box"]
        box = np.array([x - (factor - 1) * w / 2, y - (factor - 1) * h / 2, factor * w, factor * h], np.float32)
        faces = predictor(change(example[predictor.card.modality]), box[None])
        if np.isnan(faces.uncertainty).any():
            raise InputError(
                f"The network of stage {predictor.card.stage} predicts no uncertainties; train it with "
                "config.loss.uncertainty, and the option uncertainty of its head."
            )
        rows["distance"].append(np.linalg.norm(faces.landmarks[0] - example["landmarks"], axis=-1))
        rows["uncertainty"].append(faces.uncertainty[0])
        rows["known"].append(example["known"])
        rows["side"].append(np.sqrt(w * h))
        rows["found"].append(side_of(faces.landmarks[0], faces.layout))
        rows["crop"].append(predictor.card.expand * box[2:].max())
        rows["score"].append(faces.scores[0])
    return {name: np.asarray(values) for name, values in rows.items()}


def fit(found: dict[str, np.ndarray], *wrong: dict[str, np.ndarray]) -> tuple[float, float, float, float]:
    """Fits the four numbers of `stored.Card.calibration`.

    Args:
        found: of `predictions`, with a network that is not calibrated yet.
        *wrong: the same with boxes of the wrong size, for the score alone.

    Returns:
        (f, p, a, b): f and p maximise the likelihood of the distances (`losses.laplace`), and a and b that of the faces
        with an NME below `GOOD`, with a weak prior that keeps b finite.
    """
    known, crop = found["known"], found["crop"][:, None]
    logs, distance = np.log((found["uncertainty"] / crop)[known]), (found["distance"] / crop)[known]

    def unlikely(numbers: np.ndarray) -> float:
        expected = numbers[0] + numbers[1] * logs
        return float((distance * np.exp(-expected) + expected).mean())

    log_factor, power = optimize.minimize(unlikely, np.array([0.0, 1.0]), method="Nelder-Mead").x
    spreads, goods = [], []
    for part in (found, *wrong):
        crop = part["crop"][:, None]
        expected = crop * np.exp(log_factor) * (part["uncertainty"] / crop) ** power
        spreads.append(np.log(np.maximum(expected.mean(1) / part["found"], 1e-6)))
        goods.append(nme(part) < GOOD)
    spread, good = np.concatenate(spreads), np.concatenate(goods)

    def loss(numbers: np.ndarray) -> float:
        logits = numbers[0] + numbers[1] * spread
        return float(np.logaddexp(0.0, np.where(good, -logits, logits)).sum() + 1e-3 * np.square(numbers).sum())

    a, b = optimize.minimize(loss, np.array([0.0, -1.0]), method="Nelder-Mead", options={"maxiter": 4000}).x
    return float(np.exp(log_factor)), float(power), float(a), float(b)


def report(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Compares what a calibrated network expects with what is observed.

    Returns:
        `ratio`: expected over observed distance, relative to the box, in each tenth of the landmarks by expectation;
        `spearman`: the smallest and the median rank correlation over the landmarks; `score`: the mean score and the
        share of faces with an NME below `GOOD`; `nme` in per cent.
    """
    side = found["side"][:, None]
    expected, observed = found["uncertainty"] / side, found["distance"] / side
    order = np.argsort(expected[found["known"]])
    tenths = [
        (expected[found["known"]][part].mean(), observed[found["known"]][part].mean())
        for part in np.array_split(order, 10)
    ]
    ranks = [
        float(stats.spearmanr(expected[:, k][known], observed[:, k][known]).statistic)
        for k, known in enumerate(found["known"].T)
        if known.sum() > 10
    ]
    return {
        "ratio": [float(one / two) for one, two in tenths],
        "spearman": {"smallest": min(ranks), "median": float(np.median(ranks))},
        "score": {"mean": float(found["score"].mean()), "good": float((nme(found) < GOOD).mean())},
        "nme": float(100 * nme(found).mean()),
    }


def nme(found: dict[str, np.ndarray]) -> np.ndarray:
    """The NME of each face, a fraction of √(w·h) of the box, from the result of `predictions`."""
    known = found["known"]
    return (found["distance"] * known).sum(1) / np.maximum(known.sum(1), 1) / found["side"]
