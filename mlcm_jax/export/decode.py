"""Reads the outputs of an exported file in numpy; model.json describes the same steps for other languages.

Files of float32 and float16 give landmarks. Those of int8 give maps, because 256 levels are too few for coordinates.
"""

from typing import Any

import numpy as np

from mlcm_jax import detection
from mlcm_jax.export.graph import Graph
from mlcm_jax.models import network as networks
from mlcm_jax.models.stored import Card

_CELLS = "cell (row, column) of maps [1, h, w, K] sits at x = (column + 0.5) / w, y = (row + 0.5) / h, in u"
_SPREAD = (
    "uncertainty = calibration[0] * d ^ calibration[1] (d itself without a calibration), with d = exp(clip(doubt + "
    "sum over the cells of weight * local + slope * (0.5 * ln(max(variance, floor)) - ln(deviation)), ln of limits)), "
    "where variance = sum of weight * (x^2 + y^2) - (mean x)^2 - (mean y)^2"
)


def described(network: networks.Network, card: Card, graph: Graph) -> dict[str, Any]:
    """What model.json says about the decoding, and every number that it takes; "decoder" names it."""
    if graph.decoder == "boxes":
        return {"decoder": "boxes", "threshold": card.threshold} | detection.DECODING
    if graph.decoder == "none":
        return {"decoder": "none", "landmarks": "the graph computes them; they are in u"}
    if graph.decoder == "expectation":
        how = "x, y = 0.5 + sum of maps * (x, y - 0.5 of the cell) / max(sum of maps, floor)"
        return {"decoder": "expectation", "landmarks": how, "cells": _CELLS, "floor": 1e-6}
    how = "weight = softmax of maps over all cells, for each landmark; x, y = sum of weight * (x, y of the cell)"
    text = {"decoder": "soft_argmax", "landmarks": how, "cells": _CELLS}
    if "doubt" not in graph.outputs:
        return text
    slope = networks.join(network).head.uncertainty.slope[...]
    numbers = {"slope": [float(one) for one in slope], "floor": 1e-6, "deviation": 0.1, "limits": [1e-3, 1.0]}
    return text | {"uncertainty": _SPREAD, "calibration": list(card.calibration[:2])} | numbers


def landmarks(found: dict[str, np.ndarray], decoding: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the landmarks of one face, float32 [K, 2] in u, and their expected distances, float32 [K] in u, or None.

    Args:
        found: the outputs of a file by name.
        decoding: of `described`.
    """
    if decoding["decoder"] == "none":
        spread = found.get("uncertainty")
        return found["landmarks"][0], None if spread is None else spread[0]
    maps = found["maps"][0].astype(np.float64)
    h, w, k = maps.shape
    x, y = (one.ravel() for one in np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h))
    maps = maps.reshape(h * w, k)
    if decoding["decoder"] == "expectation":
        total = np.maximum(maps.sum(0), decoding["floor"])
        return (0.5 + np.stack([(x - 0.5) @ maps, (y - 0.5) @ maps], -1) / total[:, None]).astype(np.float32), None
    weights = np.exp(maps - maps.max(0))
    weights /= weights.sum(0)
    points = np.stack([x @ weights, y @ weights], -1)
    if "doubt" not in found:
        return points.astype(np.float32), None
    variance = (x**2 + y**2) @ weights - np.square(points).sum(-1)
    logs = found["doubt"][0] + (weights * found["local"][0].reshape(h * w, k)).sum(0)
    logs = logs + np.asarray(decoding["slope"]) * (
        0.5 * np.log(np.maximum(variance, decoding["floor"])) - np.log(decoding["deviation"])
    )
    spread = np.exp(np.clip(logs, *np.log(decoding["limits"])))
    if decoding["calibration"]:
        spread = decoding["calibration"][0] * spread ** decoding["calibration"][1]
    return points.astype(np.float32), spread.astype(np.float32)
