"""Scores trained stages by NME, failure rate and AUC, in the original images, with a named normaliser."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.table import Table

from mlcm_jax import codecs, landmarks, metrics, models
from mlcm_jax.console import console, say
from mlcm_jax.data import augment, pipeline
from mlcm_jax.data.examples import Examples, layout_of, open_examples
from mlcm_jax.errors import InputError
from mlcm_jax.models import network as networks
from mlcm_jax.training import sharding, stages
from mlcm_jax.training.workdir import Trained

# Up to this yaw (degrees), both eyes are visible, so that their distance makes sense as a normaliser.
FRONTAL_YAW = 30.0

Predict = Callable[[dict[str, np.ndarray]], np.ndarray]  # batch -> landmarks [B, K, 2] in u


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the networks of a run are scored.

    Attributes:
        size: side of the crops in pixels.
        expand: side of the crop relative to the longer side of the box.
        layout: the layout of the predictions.
        gain: gain of thermal images, see `augment.crop`.
        batch_size: number of examples per batch, over all devices.
        normalizer: see `metrics.normalizer_length`.
    """

    size: int
    expand: float
    layout: landmarks.Layout
    gain: str
    batch_size: int
    normalizer: str


def protocol(config: ConfigDict) -> Protocol:
    """Returns the protocol of a config: image_size, augment.expand, layout, gain, eval_batch_size, normalizer."""
    layout, expand, gain = stages.layout(config), config.augment.expand, stages.gain(config)
    return Protocol(config.image_size, expand, layout, gain, config.eval_batch_size, config.normalizer)


class Scores(NamedTuple):
    """The results of `evaluate_networks`.

    Attributes:
        rows: the rows of the table, one dict each.
        errors: row -> NME [N] as fractions.
        predictions: row -> float64 [N, K, 2] in pixels of the original images.
    """

    rows: list[dict[str, Any]]
    errors: dict[str, np.ndarray]
    predictions: dict[str, np.ndarray]


@functools.lru_cache(maxsize=16)
def _compiled(mesh: Mesh) -> Callable:
    batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    # None: the network stays where it is, whole or split.
    return jax.jit(networks.predict, in_shardings=(None, batch), out_shardings=whole)


def predictor(network: networks.Network, modality: str, mesh: Mesh) -> Predict:
    """Returns a function, batch -> landmarks [rows, K, 2] in u, for this process's rows; it runs on the whole mesh."""

    def predict(batch: dict[str, np.ndarray]) -> np.ndarray:
        images = sharding.put_batch({modality: batch[modality]}, mesh)[modality]
        return jax.device_get(_compiled(mesh)(network, images))[sharding.batch_rows(mesh, len(images))]

    return predict


def collect(
    predict: Predict, batches: Iterable[dict[str, np.ndarray]], of: Protocol, target: landmarks.Layout
) -> dict[str, np.ndarray]:
    """Collects the predictions and the truth of a whole split.

    Args:
        predict: batch -> landmarks [B, K', 2] in u.
        batches: see `pipeline.eval_batches`. If each of several processes has some rows, all of them get all results.
        of: the protocol; its layout is that of the predictions.
        target: layout of the batches, to which the predictions are converted.

    Returns:
        `prediction` and `truth` float64 [N, K, 2] in pixels of the original images, `box` [N, 4], and `known` bool [N,
        K], False where a landmark is unlabelled and its truth a placeholder.
    """
    collected: dict[str, list] = {key: [] for key in ("prediction", "truth", "box", "known", "mask", "index")}
    for batch in batches:
        predicted = landmarks.convert(np.asarray(predict(batch)), of.layout, target)
        for key, points in (("prediction", predicted), ("truth", batch["landmarks"])):
            collected[key].append(codecs.to_original(np.asarray(points, np.float64), batch["to_image"], of.size))
        for key in ("box", "known", "mask", "index"):
            collected[key].append(batch[key])
    found = sharding.gather_processes({key: np.concatenate(value) for key, value in collected.items()})
    # Drop padding, and rows that several processes read.
    real = np.flatnonzero(found.pop("mask"))
    places = real[np.unique(found.pop("index")[real], return_index=True)[1]]
    return {key: value[places] for key, value in found.items()}


def eval_batches(examples: Examples, of: Protocol, mesh: Mesh) -> Iterable[dict[str, np.ndarray]]:
    """Returns the batches of a split, without augmentation, with a protocol's crop."""
    sharding.check_batch_size(of.batch_size, mesh, "config.eval_batch_size")
    crop = augment.Crop(of.size, of.expand, examples.layout, of.gain)
    rows = sharding.batch_rows(mesh, of.batch_size)
    return pipeline.eval_batches(examples, crop, batch_size=of.batch_size, rows=rows)


def check_normalizer(normalizer: str, layout: landmarks.Layout) -> None:
    """Raises InputError for a normaliser that is unknown, or needs points that the layout of the test set lacks."""
    points = np.arange(2.0 * layout.count).reshape(1, -1, 2)
    metrics.normalizer_length(points, normalizer=normalizer, layout=layout, box=np.ones((1, 4)))


def scores(found: dict[str, np.ndarray], *, normalizer: str, layout: landmarks.Layout) -> dict[str, Any]:
    """Computes the scores of predictions.

    Args:
        found: see `collect`.
        normalizer: see `metrics.normalizer_length`.
        layout: the layout of the landmarks in `found`.

    Returns:
        {"errors", "row"}: the NME of each face [N] as fractions, and the numbers of a table row: nme, fr8 and fr10 in
        per cent, auc8 and auc10 in [0, 1].

    Raises:
        InputError: the normaliser needs landmarks of the eyes, and a face has none.
    """
    known = found["known"]
    eyes = {"outer_eyes": layout.eye_corners, "pupils": sum(layout.pupils or (), ())}.get(normalizer) or ()
    lost = ~known[:, list(eyes)].all(1)
    if lost.any():
        raise InputError(
            f"{lost.sum()} of {len(lost)} faces have no label at an eye, so {normalizer!r} cannot normalise them; "
            "choose the normaliser 'box'."
        )
    weights = None if known.all() else known
    options = {"normalizer": normalizer, "layout": layout, "box": found["box"], "weights": weights}
    errors = np.asarray(metrics.nme(found["prediction"], found["truth"], **options))
    row = {"nme": 100 * float(errors.mean())}
    for threshold in (8, 10):
        row[f"fr{threshold}"] = 100 * float(metrics.failure_rate(errors, threshold=threshold / 100))
        row[f"auc{threshold}"] = float(metrics.auc(errors, threshold=threshold / 100))
    return {"errors": errors, "row": row}


def frontal(examples: Examples) -> np.ndarray | None:
    """Returns which faces have |yaw| below FRONTAL_YAW, bool [N]; None if the dataset has no poses."""
    if np.shape(examples.metadata(0).get("pose")) != (3,):
        return None
    yaw = np.asarray([examples.metadata(i)["pose"][0] for i in range(len(examples))])
    return np.abs(yaw) < FRONTAL_YAW


def validation(config: ConfigDict, mesh: Mesh) -> Callable[[networks.Network, Examples, str], float]:
    """Returns (network, examples, modality) -> NME in per cent, by which `training.run_stage` chooses checkpoints."""
    of = protocol(config)

    def nme(network: networks.Network, examples: Examples, modality: str) -> float:
        batches = eval_batches(examples.only([modality]), of, mesh)
        found = collect(predictor(network, modality, mesh), batches, of, examples.layout)
        return scores(found, normalizer=of.normalizer, layout=examples.layout)["row"]["nme"]

    return nme


def readable(names: Iterable[str], config: ConfigDict, examples: Examples) -> list[str]:
    """Returns the stages whose modality a test set has; messages tell the user about the others.

    Raises:
        InputError: there is no such stage.
    """
    names = list(names)
    reads = {name: stages.modality(name, config) for name in names}
    usable = [name for name in names if reads[name] in examples.modalities]
    if not usable:
        raise InputError(
            f"No stage of this run reads a modality that {examples.name} has ({', '.join(examples.modalities)}); "
            "choose another config.test_dataset."
        )
    for name in names:
        if name not in usable:
            say(f"Stage {name} reads {reads[name]} images, which {examples.name} lacks: it will not be in the table.")
    return usable


def _constant(mean_shape: np.ndarray, batch: dict[str, np.ndarray]) -> np.ndarray:
    return np.broadcast_to(mean_shape, (len(batch["mask"]), *mean_shape.shape))


def evaluate_networks(trained: Mapping[str, Trained], examples: Examples, *, config: ConfigDict, mesh: Mesh) -> Scores:
    """Scores the mean shape, and every stage whose modality the examples have.

    Args:
        trained: networks by stage.
        examples: the test set (see `open_test`); predictions are converted to its layout.
        config: the run's config.
        mesh: the devices.
    """
    of, front, target = protocol(config), frontal(examples), examples.layout
    usable = readable(trained, config, examples)
    mean = trained[usable[0]].mean_shape
    found_scores = Scores([], {}, {})
    for name in ("mean_shape", *usable):
        modality = stages.modality(usable[0] if name == "mean_shape" else name, config)
        if name == "mean_shape":
            row = {"name": name, "modality": "none", "params": 0, "flops": 0}
            predict = functools.partial(_constant, mean)
        else:
            network = trained[name].network
            size = models.profile(networks.join(network), of.size, channels=augment.CHANNELS[modality])
            row = {"name": name, "modality": modality, "params": size["params"], "flops": size["flops"]}
            predict = predictor(network, modality, mesh)
        found = collect(predict, eval_batches(examples.only([modality]), of, mesh), of, target)
        result = scores(found, normalizer=of.normalizer, layout=target)
        row |= result["row"] | {"images": len(result["errors"])}
        if of.normalizer != "outer_eyes" and target.eye_corners and front is not None and front.any():
            part = {key: value[front] for key, value in found.items()}
            row["nme_outer_eyes_frontal"] = scores(part, normalizer="outer_eyes", layout=target)["row"]["nme"]
        found_scores.rows.append(row)
        found_scores.errors[name], found_scores.predictions[name] = result["errors"], found["prediction"]
    return found_scores


def results(config: ConfigDict, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns rows with what they were measured on, as results.json holds them."""
    dataset = config.test_dataset or config.dataset
    return {"dataset": dataset, "split": config.test_split, "normalizer": config.normalizer, "rows": rows}


def open_test(config: ConfigDict, *, data_dir: str) -> Examples:
    """Opens the config's test split, in the richest layout to which its landmarks and the networks' both convert."""
    name, layout = config.test_dataset or config.dataset, stages.layout(config)
    shared = landmarks.route(layout, layout_of(name, data_dir))
    if shared.name != layout.name:
        say(f"{name} is scored in the layout {shared.name}, which its landmarks and those of the networks share.")
    options = {"data_dir": data_dir, "layout": shared, "thermal_range": config.thermal_range}
    return open_examples(name, config.test_split, gain=stages.gain(config), **options)


def over(rows: Iterable[Mapping[str, Any]]) -> str:
    """Says over how many images rows of results.json are, such as "640 images"; "" for files that do not say so."""
    counts = sorted({int(row["images"]) for row in rows if row.get("images")})
    if not counts:
        return ""
    some = " to ".join(f"{count:,}" for count in sorted({counts[0], counts[-1]}))
    return f"{some} image{'' if counts == [1] else 's'}"


def print_table(content: dict[str, Any]) -> None:
    """Prints the rows of results.json."""
    normalizer = metrics.NORMALIZERS[content["normalizer"]]
    where = ", ".join(filter(None, (content["dataset"], f"split {content['split']}", over(content["rows"]))))
    table = Table(title=f"{where}: NME in per cent of {normalizer}")
    columns = ("row", "reads", "params", "MFLOPs", "NME %", "FR@10", "AUC@10", "eyes*")
    for column in columns:  # they fit into 80 characters; results.json has more
        table.add_column(column, justify="left" if column in ("row", "reads") else "right", no_wrap=True)
    for row in content["rows"]:
        eyes = row.get("nme_outer_eyes_frontal")
        table.add_row(
            row["name"],
            row["modality"],
            f"{row['params']:,}",
            f"{row['flops'] / 1e6:,.1f}",
            f"{row['nme']:.2f}",
            f"{row['fr10']:.1f}",
            f"{row['auc10']:.3f}",
            f"{eyes:.2f}" if eyes is not None else "",
        )
    console.print(table)
    if any("nme_outer_eyes_frontal" in row for row in content["rows"]):
        say(f"FR in per cent. * NME by the outer eye corners, faces with |yaw| < {FRONTAL_YAW:.0f}° only.")
