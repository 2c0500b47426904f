"""The parity report: how much an exported file differs from the network in JAX, on rendered faces."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mlcm_jax import cores, detection, metrics
from mlcm_jax.errors import InputError
from mlcm_jax.export import graph as graphs
from mlcm_jax.export import vectors
from mlcm_jax.export.faces import View
from mlcm_jax.export.formats import Run
from mlcm_jax.models import network as networks
from mlcm_jax.models.stored import Card

BOUNDS = {"": 0.01, "fp16": 0.05, "int8": 0.1}  # pixels, pixels, points of NME
_SPREAD = 0.5  # int8 of layouts that the renderer lacks: mean difference, in per cent of √(w·h) of the box
_POINTS = 2.0  # int8 of a detector: points of recall or precision that may be lost
_CALLS, _SECONDS = 200, 10.0  # at most, for the latency


def reference(network: networks.Network, card: Card) -> Run:
    """The network as JAX runs it on the CPU, with the outputs of `graph.whole`."""
    names = graphs.whole(network, card).outputs
    call = jax.jit(lambda arrays, crop: graphs.outputs(networks.run(arrays, crop), card))
    cpu = jax.local_devices(backend="cpu")[0]
    arrays = jax.device_put(network, cpu)

    def run(crop: np.ndarray) -> dict[str, np.ndarray]:
        with jax.default_device(cpu):
            return {name: np.asarray(one) for name, one in zip(names, call(arrays, crop), strict=True)}

    return run


def report(views: Sequence[View], before: Run, after: Run, card: Card, decoding: dict[str, Any]) -> dict[str, Any]:
    """Compares a file with JAX.

    Args:
        views: rendered images with their truth.
        before: JAX, as of `reference`.
        after: the file.
        card: of the network.
        decoding: of the file; see `decode.described`.

    Returns:
        images, difference_px (max and mean, in pixels of the images), latency_ms, and for landmarks nme_percent (before
        and after; None for layouts that the renderer lacks) and difference_percent (mean, of √(w·h) of the box), or for
        a detector recall_percent and precision_percent (before and after).
    """
    found = _boxes(views, before, after, card, decoding) if card.layout.name == detection.LAYOUT.name else None
    found = found or _landmarks(views, before, after, card, decoding)
    return {"images": len(views)} | found | {"latency_ms": latency(lambda: after(views[0].crop))}


def check(found: dict[str, Any], quantize: str) -> dict[str, Any]:
    """Compares a report with its bound: {"what", "value", "limit", "holds"}."""
    limit = BOUNDS[quantize]
    if quantize != "int8":
        what, value = "largest difference in pixels", found["difference_px"]["max"]
    elif "recall_percent" in found:
        both = [found[name]["before"] - found[name]["after"] for name in ("recall_percent", "precision_percent")]
        what, value, limit = "points of recall or precision lost", max(0.0, *both), _POINTS
    elif found["nme_percent"] is None:
        what, value, limit = "mean difference in % of √(w·h) of the box", found["difference_percent"], _SPREAD
    else:
        what, value = "points of NME lost", found["nme_percent"]["after"] - found["nme_percent"]["before"]
    return {"what": what, "value": value, "limit": limit, "holds": bool(value <= limit)}


def latency(call: Callable[[], Any]) -> dict[str, Any]:
    """The time of a call in ms: median and percentiles 10 and 90 of 200 calls, or of as many as 10 s allow."""
    times: list[float] = []
    for _ in range(5):
        call()
    start = time.perf_counter()
    while len(times) < _CALLS and (len(times) < 5 or time.perf_counter() - start < _SECONDS):
        one = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - one))
    low, middle, high = np.percentile(times, (10, 50, 90))
    spread = {"median": float(middle), "p10": float(low), "p90": float(high)}
    return spread | {"calls": len(times), "cpu": cores.processor()}


def _landmarks(views: Sequence[View], before: Run, after: Run, card: Card, decoding: dict[str, Any]) -> dict[str, Any]:
    runs = ((before, {"decoder": "none"}), (after, decoding))
    points = np.stack(
        [[vectors.result_of(run(one.crop), one, card, how) for run, how in runs] for one in views]
    )  # [N, 2, K, 2]
    apart = np.linalg.norm(points[:, 1] - points[:, 0], axis=-1)
    boxes = np.stack([one.box for one in views])
    relative = apart.mean(1) / np.sqrt(boxes[:, 2] * boxes[:, 3])
    nme = None
    if all(one.truth is not None for one in views):
        truth = np.stack([one.truth for one in views])
        both = [100 * float(metrics.nme(points[:, k], truth, normalizer="box", box=boxes).mean()) for k in (0, 1)]
        nme = {"before": both[0], "after": both[1], "normalizer": metrics.NORMALIZERS["box"]}
    return {
        "difference_px": {"max": float(apart.max()), "mean": float(apart.mean())},
        "difference_percent": 100 * float(relative.mean()),
        "nme_percent": nme,
    }


def _boxes(views: Sequence[View], before: Run, after: Run, card: Card, decoding: dict[str, Any]) -> dict[str, Any]:
    """Differences of the sides of the boxes that JAX finds, in the same cells of both maps."""
    apart: list[float] = []
    counts = np.zeros((2, 3), int)  # before and after: true boxes found, boxes found, true boxes
    for one in views:
        maps = [run(one.crop) for run in (before, after)]
        for row, found in enumerate(maps):
            boxes = vectors.result_of(found, one, card, decoding)
            right = sum(any(detection.box_iou(box, true) >= 0.5 for box in boxes) for true in one.truth)
            counts[row] += right, len(boxes), len(one.truth)
        peak = np.asarray(detection.peaks(maps[0]["scores"])) > np.log(card.threshold / (1 - card.threshold))
        corners = [np.asarray(detection.decoded(found["sides"]))[peak] for found in maps]
        apart += (np.abs(corners[1] - corners[0]) * card.image_size * one.to_image[0, 0]).ravel().tolist()
    if not apart:
        raise InputError("The detector finds no face in rendered scenes, so that its file cannot be checked; train it.")
    share = [[100 * right / max(1, found), 100 * right / max(1, true)] for right, found, true in counts]
    return {
        "difference_px": {"max": float(max(apart)), "mean": float(np.mean(apart))},
        "recall_percent": {"before": share[0][1], "after": share[1][1], "faces": int(counts[0, 2])},
        "precision_percent": {"before": share[0][0], "after": share[1][0]},
    }
