"""Measures how far a network's uncertainties and scores can be trusted, and fits what makes them right.

A network trained with `losses.laplace` predicts its expected errors on augmented training images. Those of an averaged
network on plain images are smaller, so a factor is fitted on validation images; the score is fitted there too.
"""

from typing import Any

import numpy as np
from scipy import optimize, stats

from mlcm_jax.data.examples import Examples
from mlcm_jax.inference.predictor import Predictor

GOOD = 0.1  # a face whose NME by √(w·h) of the box is below this counts as found


def predictions(predictor: Predictor, examples: Examples) -> dict[str, np.ndarray]:
    """Predicts every example as a user would, with its true box.

    Args:
        predictor: a network with uncertainties.
        examples: labelled examples in the network's layout.

    Returns:
        `distance` and `uncertainty` float [N, K] in pixels, `known` bool [N, K], `score` [N], and `side` [N], which is
        √(w·h) of the box.
    """
    rows: dict[str, list] = {name: [] for name in ("distance", "uncertainty", "known", "side", "score")}
    for k in range(len(examples)):
        example = examples[k]
        faces = predictor(example[predictor.card.modality], example["box"][None])
        rows["distance"].append(np.linalg.norm(faces.landmarks[0] - example["landmarks"], axis=-1))
        rows["uncertainty"].append(faces.uncertainty[0])
        rows["known"].append(example["known"])
        rows["side"].append(np.sqrt(example["box"][2] * example["box"][3]))
        rows["score"].append(faces.scores[0])
    return {name: np.asarray(values) for name, values in rows.items()}


def fit(found: dict[str, np.ndarray]) -> tuple[float, float, float]:
    """Fits the three numbers of `stored.Card.calibration`.

    Args:
        found: of `predictions`, with a network that is not calibrated yet.

    Returns:
        (factor, a, b): the factor is the mean observed over the mean expected distance, both relative to the box; a and
        b maximise the likelihood of the faces with an NME below `GOOD`, with a weak prior that keeps b finite.
    """
    side = found["side"][:, None]
    factor = float(
        (found["distance"] / side)[found["known"]].mean() / (found["uncertainty"] / side)[found["known"]].mean()
    )
    spread = np.log(np.maximum(factor * found["uncertainty"].mean(1) / found["side"], 1e-6))
    good = _nme(found) < GOOD

    def loss(numbers: np.ndarray) -> float:
        logits = numbers[0] + numbers[1] * spread
        return float(np.logaddexp(0.0, np.where(good, -logits, logits)).sum() + 1e-3 * np.square(numbers).sum())

    a, b = optimize.minimize(loss, np.array([0.0, -1.0]), method="Nelder-Mead", options={"maxiter": 4000}).x
    return factor, float(a), float(b)


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
        "score": {"mean": float(found["score"].mean()), "good": float((_nme(found) < GOOD).mean())},
        "nme": float(100 * _nme(found).mean()),
    }


def _nme(found: dict[str, np.ndarray]) -> np.ndarray:
    known = found["known"]
    return (found["distance"] * known).sum(1) / np.maximum(known.sum(1), 1) / found["side"]
