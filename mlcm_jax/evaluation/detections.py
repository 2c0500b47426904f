"""Scores a detector: recall and precision at an IoU of 0.4, by the size and the yaw of the faces, and false alarms."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from rich.table import Table

from mlcm_jax import codecs, detection, models
from mlcm_jax.console import console, say
from mlcm_jax.data import augment
from mlcm_jax.data.examples import Examples, open_examples
from mlcm_jax.evaluation import evaluate, plots
from mlcm_jax.files import write_json
from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.models import network as networks
from mlcm_jax.models import stored
from mlcm_jax.training import distributed, sharding, stages
from mlcm_jax.training.workdir import Trained

IOU = 0.4  # from which a box counts as that of a face
_LOWEST = 0.02  # score from which boxes are collected
_MOST = 20  # boxes per image
_PRECISION, _FALSE_ALARMS = 0.97, 0.015  # what `threshold` keeps
_SIZES = ((0.0, 0.12), (0.12, 0.25), (0.25, 0.5), (0.5, 9.0))  # longer side of a face over that of the image
_YAWS = ((0.0, 30.0), (30.0, 60.0), (60.0, 91.0))


class Matches(NamedTuple):
    """The boxes that were found in a set of images, and its faces.

    Attributes:
        scores: float [D], of the boxes found.
        right: bool [D], whether the box is that of a face; boxes of faces that are hardly seen are left out.
        image: int [D], the image of each.
        found: float [N], the score of the box of each face that is seen whole; 0 without one.
        size: float [N], its longer side over that of the image.
        yaw: float [N], |yaw| in degrees; NaN if it is not known.
        empty: int [M], images without any face.
    """

    scores: np.ndarray
    right: np.ndarray
    image: np.ndarray
    found: np.ndarray
    size: np.ndarray
    yaw: np.ndarray
    empty: np.ndarray


def match(images: Iterable[Mapping[str, Any]]) -> Matches:
    """Matches boxes with faces, image by image: the best box takes the face with which it overlaps most.

    Args:
        images: for each, `found` [D, 4] and `scores` [D], best first; `boxes` [N, 4] of all faces (all x, y, w, h);
            `counts` bool [N], False for faces that are hardly seen; `side`, the image's longer side; and, if it is
            known, `yaw` [N].
    """
    scores, right, where, hit, size, yaw, empty = [], [], [], [], [], [], []
    for number, one in enumerate(images):
        boxes, counts = np.asarray(one["boxes"], float).reshape(-1, 4), np.asarray(one["counts"], bool)
        taken = np.zeros(len(boxes))
        for box, score in zip(one["found"], one["scores"], strict=True):
            overlaps = [detection.box_iou(box, face) for face in boxes]
            free = [k for k, value in enumerate(overlaps) if value >= IOU and not taken[k]]
            best = max(free, key=lambda k: overlaps[k], default=None)
            if best is not None:
                taken[best] = score
                if not counts[best]:
                    continue
            elif any(value >= 0.2 and not counts[k] for k, value in enumerate(overlaps)):
                continue
            scores.append(score)
            right.append(best is not None)
            where.append(number)
        hit.extend(taken[counts])
        size.extend(boxes[counts, 2:].max(1) / one["side"])
        yaw.extend(np.abs(np.asarray(one.get("yaw", np.full(len(boxes), np.nan)), float)[counts]))
        empty += [number] * (not len(boxes))
    integers = np.asarray(where, int), np.asarray(empty, int)
    return Matches(
        *map(np.asarray, (scores, np.asarray(right, bool))),
        integers[0],
        *map(np.asarray, (hit, size, yaw)),
        integers[1],
    )


def rates(found: Matches, threshold: float) -> dict[str, float]:
    """Recall, precision, and the share of images without a face in which something is found, at a threshold."""
    over = found.scores >= threshold
    right = int((found.right & over).sum())
    alarms = np.isin(found.empty, found.image[over]).mean() if len(found.empty) else 0.0
    return {
        "recall": float((found.found >= threshold).mean()) if len(found.found) else float("nan"),
        "precision": right / max(1, int(over.sum())),
        "false_alarms": float(alarms),
    }


def threshold(found: Matches, empty: Matches | None = None) -> float:
    """The smallest score at which precision is at least 97 % and at most 1.5 % of images without a face have a box.

    Args:
        found: of scenes with and without faces.
        empty: of further scenes without a face, which count for the second condition alone.

    Returns:
        The threshold; 0.95, with a message, if none has both.
    """
    parts = [found] if empty is None else [found, empty]
    number = sum(len(part.empty) for part in parts)
    for value in np.linspace(0.05, 0.95, 91):
        alarms = sum(rates(part, float(value))["false_alarms"] * len(part.empty) for part in parts) / max(1, number)
        if rates(found, float(value))["precision"] >= _PRECISION and alarms <= _FALSE_ALARMS:
            return round(float(value), 2)
    say("No threshold gives this detector a precision of 97 % with few false alarms; it gets 0.95.")
    return 0.95


def average_precision(found: Matches) -> float:
    """Area under precision over recall, with precision made monotone (as in COCO, over all points)."""
    recall, precision = curve(found)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(np.concatenate([[0.0], recall])) * precision)) if len(recall) else 0.0


def curve(found: Matches, faces: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at the score of every right box, best first.

    Args:
        found: see `match`.
        faces: bool [N], the faces whose recall is meant; None means all. Precision is always that of all boxes.
    """
    hits = found.found if faces is None else found.found[faces]
    scores = np.sort(hits[hits > 0])[::-1]
    recall = np.arange(1, len(scores) + 1) / max(1, len(hits))
    all_scores, right = np.sort(found.scores), np.sort(found.scores[found.right])
    over = len(all_scores) - np.searchsorted(all_scores, scores)
    correct = len(right) - np.searchsorted(right, scores)
    return recall, correct / np.maximum(over, 1)


def bands(found: Matches) -> dict[str, np.ndarray]:
    """The faces of every band of size and of yaw, bool [N]."""
    sizes = {
        f"{low:g} to {min(high, 1):g} of the image": (found.size >= low) & (found.size < high) for low, high in _SIZES
    }
    yaws = {f"yaw {low:.0f} to {high:.0f}°": (found.yaw >= low) & (found.yaw < high) for low, high in _YAWS}
    return {name: inside for name, inside in (sizes | yaws).items() if inside.any()}


def draw(path: epath.PathLike, found: Matches, chosen: float) -> None:
    """Draws precision over recall for all faces and for every band; a dot marks the threshold."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    kinds = {
        "by size": [one for one in bands(found) if "image" in one],
        "by yaw": [one for one in bands(found) if "yaw" in one],
    }
    for axis, (title, names) in zip(figure.subplots(1, 2), kinds.items(), strict=True):
        for name, faces in {"all": None, **{name: bands(found)[name] for name in names}}.items():
            recall, precision = curve(found, faces)
            (line,) = axis.plot(recall, precision, label=name, color="black" if faces is None else None)
            hits = found.found if faces is None else found.found[faces]
            if len(hits):
                axis.plot((hits >= chosen).mean(), rates(found, chosen)["precision"], "o", color=line.get_color())
        axis.set(xlabel="recall", ylabel="precision of all boxes", title=title, xlim=(0.5, 1.005), ylim=(0.8, 1.005))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower left")
    plots.save(figure, path)


@functools.lru_cache(maxsize=4)
def _compiled(mesh: Mesh) -> Callable:
    batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)

    def maps(network: networks.Network, images: jax.Array) -> detection.Maps:
        return networks.run(network, images).maps

    return jax.jit(maps, in_shardings=(None, batch), out_shardings=whole)


def search(network: networks.Network, examples: Examples, *, config: ConfigDict, mesh: Mesh) -> Matches:
    """Runs a detector over a split of scenes, and matches what it finds."""
    of = evaluate.protocol(config)

    def images() -> Iterable[dict[str, Any]]:
        for batch in evaluate.eval_batches(examples, of, mesh):
            put = sharding.put_batch({"thermal": batch["thermal"]}, mesh)["thermal"]
            rows = sharding.batch_rows(mesh, len(put))
            maps = [np.asarray(one)[rows] for one in jax.device_get(_compiled(mesh)(network, put))]
            for k in np.flatnonzero(batch["mask"]):
                found, scores = detection.find(maps[0][k], maps[1][k], threshold=_LOWEST, max_faces=_MOST)
                points = codecs.to_original(
                    batch["landmarks"][k][None].astype(np.float64), batch["to_image"][k][None], of.size
                )
                corners = np.asarray(detection.corners(points[0].astype(np.float32)))
                known = batch["known"][k].reshape(detection.FACES, -1).all(-1)
                boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)[known]
                yaw = examples.metadata(int(batch["index"][k])).get("yaw", np.full(detection.FACES, np.nan))
                yield {
                    "found": detection.to_original(found, batch["to_image"][k], of.size),
                    "scores": scores,
                    "boxes": boxes,
                    "counts": batch["weight"][k].reshape(detection.FACES, -1).min(-1)[known] >= 1.0,
                    "yaw": np.asarray(yaw)[known],
                    "side": float(max(batch["box"][k][2:])),
                }

    return match(images())


def judged(predictor: Predictor, examples: Examples, *, lowest: float) -> Matches:
    """Runs a predictor with its detector over a split of scenes, and matches the faces that it finds.

    Args:
        predictor: finds the faces.
        examples: scenes in the layout `detection.LAYOUT`, with their gray levels.
        lowest: smallest probability of a face.
    """
    rows = []
    for k in range(len(examples)):
        example = examples[k]
        faces = predictor(example["thermal"][..., 0], min_score=lowest)
        corners = np.asarray(detection.corners(example["landmarks"]))
        known = example["known"].reshape(detection.FACES, -1).all(-1)
        row = {"found": faces.boxes, "scores": faces.detections, "side": float(max(example["box"][2:]))}
        row["boxes"] = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)[known]
        row["counts"] = example["weight"].reshape(detection.FACES, -1).min(-1)[known] >= 1.0
        rows.append(row | {"yaw": np.asarray(examples.metadata(k)["yaw"])[known]})
    return match(rows)


def report(
    trained: Mapping[str, Trained],
    test: Examples,
    *,
    config: ConfigDict,
    mesh: Mesh,
    path: epath.Path,
    data_dir: str,
) -> dict[str, Any]:
    """Scores detectors on a test split, at the thresholds chosen on the split val of the run's dataset.

    It prints a table and writes the results to `path`. It also draws precision over recall beside that file, and stores
    each threshold in the model.json of its stage.

    Returns:
        The content of the file.
    """
    options = {"data_dir": data_dir, "layout": test.layout, "gain": stages.gain(config)}
    val = open_examples(config.dataset, "val", **options)
    rows, pictures = [], {}
    for name, one in trained.items():
        chosen = threshold(search(one.network, val, config=config, mesh=mesh))
        found = search(one.network, test, config=config, mesh=mesh)
        size = models.profile(networks.join(one.network), config.image_size, channels=augment.CHANNELS["thermal"])
        row = {
            "name": name,
            "modality": stages.modality(name, config),
            "params": size["params"],
            "flops": size["flops"],
        }
        row |= {"threshold": chosen, "ap": average_precision(found), **rates(found, chosen)}
        row |= {"faces": len(found.found), "images": len(test)}
        row["recall_of"] = {band: float((found.found[faces] >= chosen).mean()) for band, faces in bands(found).items()}
        rows.append(row)
        pictures[name] = found, chosen
        if distributed.is_main():
            folder = path.parent / name
            network, card = stored.load(folder)
            stored.save(folder, network, dataclasses.replace(card, threshold=chosen))
    content = {"dataset": config.test_dataset or config.dataset, "split": config.test_split, "iou": IOU, "rows": rows}
    if distributed.is_main():
        write_json(path, content)
        for name, (found, chosen) in pictures.items():
            draw(path.parent / f"{path.stem}_{name}.png", found, chosen)
        say(f"Wrote {path.name} and its precision over recall to {path.parent}.")
    _print(content)
    return content


def _print(content: Mapping[str, Any]) -> None:
    count = content["rows"][0]["images"]
    table = Table(
        title=f"{content['dataset']}, split {content['split']}, {count:,} images: "
        f"boxes with an IoU of {content['iou']:g}"
    )
    for column in ("row", "params", "MFLOPs", "threshold", "recall %", "precision %", "false alarms %", "AP"):
        table.add_column(column, justify="left" if column == "row" else "right")
    for row in content["rows"]:
        shares = (f"{100 * row[name]:.1f}" for name in ("recall", "precision", "false_alarms"))
        table.add_row(
            row["name"],
            f"{row['params']:,}",
            f"{row['flops'] / 1e6:,.1f}",
            f"{row['threshold']:.2f}",
            *shares,
            f"{row['ap']:.3f}",
        )
    console.print(table)
    for row in content["rows"]:
        parts = ", ".join(f"{name} {100 * value:.1f}" for name, value in row["recall_of"].items())
        say(f"Recall of {row['name']} in per cent: {parts}. False alarms: share of the images without a face.")
