"""NME, failure rate and AUC of trained stages, in original image pixels, under a named normaliser."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.table import Table

from mlcm_jax import codecs, landmarks, metrics, models
from mlcm_jax.console import console, say
from mlcm_jax.data import pipeline
from mlcm_jax.data.examples import Examples, layout_of, open_examples
from mlcm_jax.errors import InputError
from mlcm_jax.files import write_json
from mlcm_jax.training import distributed, sharding, stages
from mlcm_jax.training import state as states
from mlcm_jax.training import step as steps
from mlcm_jax.training.workdir import Trained, checkpoint_folder, load_config, load_stage

NORMALIZERS = ("box", "outer_eyes", "pupils")
# Yaw within which both eyes are seen and an eye distance makes sense as a normaliser (degrees).
FRONTAL_YAW = 30.0


@functools.lru_cache(maxsize=16)
def _compiled(mesh: Mesh):
    batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    # None: the network stays as it lies, whole or split.
    return jax.jit(steps.eval_step, in_shardings=(None, batch), out_shardings=whole)


def predictor(network: states.Network, modality: str, mesh: Mesh) -> Callable[[dict], np.ndarray]:
    """`batch -> landmarks [rows, K, 2] in u` by a network, on all devices of the mesh, for the rows of this process."""

    def predict(batch):
        images = sharding.put_batch({"images": batch[modality]}, mesh)["images"]
        return jax.device_get(_compiled(mesh)(network, images))[sharding.batch_rows(mesh, len(images))]

    return predict


def collect(
    predict: Callable[[dict], np.ndarray], batches: Iterable[dict], *, size: int, source: str, target: Any
) -> dict[str, np.ndarray]:
    """Predicted and true landmarks float64 [N, K, 2] in original pixels, `box` [N, 4], padding dropped; `known` bool
    [N, K] is False where a label is a placeholder for a point that nobody marked.

    Args:
      predict: batch -> landmarks [B, K', 2] in u.
      batches: see `pipeline.eval_batches`; crops of side `size`. Where each of several processes has some of the rows,
        all of them get all results.
      source, target: layouts of the predictions, and of the batches; the former are converted to the latter.
    """
    collected: dict[str, list] = {key: [] for key in ("prediction", "truth", "box", "known", "mask", "index")}
    for batch in batches:
        predicted = landmarks.convert(np.asarray(predict(batch)), source, target)
        for key, points in (("prediction", predicted), ("truth", batch["landmarks"])):
            collected[key].append(codecs.to_original(np.asarray(points, np.float64), batch["to_image"], size))
        collected["known"].append(batch["weight"] > 0)
        for key in ("box", "mask", "index"):
            collected[key].append(batch[key])
    found = sharding.gather_processes({key: np.concatenate(value) for key, value in collected.items()})
    # Once each: padding goes, and what two processes with the same rows both have.
    real = np.flatnonzero(found.pop("mask"))
    places = real[np.unique(found.pop("index")[real], return_index=True)[1]]
    return {key: value[places] for key, value in found.items()}


def eval_batches(examples: Examples, config: ConfigDict, mesh: Mesh):
    """Unaugmented batches of a split under the config's crop."""
    sharding.check_batch_size(config.eval_batch_size, mesh, "config.eval_batch_size")
    return pipeline.eval_batches(
        examples,
        batch_size=config.eval_batch_size,
        size=config.image_size,
        expand=config.augment.expand,
        layout=examples.layout,
        rows=sharding.batch_rows(mesh, config.eval_batch_size),
    )


def check_normalizer(config: ConfigDict, examples: Examples) -> None:
    """Raises InputError where config.normalizer is unknown, or needs points that the layout of the test set lacks."""
    metrics.normalizer_length(
        np.arange(2.0 * examples.layout.count).reshape(1, -1, 2),
        normalizer=config.normalizer,
        layout=examples.layout,
        box=np.ones((1, 4)),
    )


def scores(found: dict[str, np.ndarray], *, normalizer: str, layout: Any) -> dict[str, Any]:
    """`errors` [N] (fractions) and the numbers of a table row: nme, fr8, fr10 in per cent, auc8, auc10 in [0, 1]."""
    layout, known = landmarks.get(layout), found["known"]
    eyes = {"outer_eyes": layout.eye_corners, "pupils": sum(layout.pupils or (), ())}.get(normalizer) or ()
    lost = ~known[:, list(eyes)].all(1)
    if lost.any():
        raise InputError(
            f"{lost.sum()} of {len(lost)} faces have no label at an eye, so {normalizer!r} cannot normalise them; "
            "choose the normaliser 'box'."
        )
    weights = None if known.all() else known
    errors = metrics.nme(
        found["prediction"], found["truth"], normalizer=normalizer, layout=layout, box=found["box"], weights=weights
    )
    errors = np.asarray(errors)
    row = {"nme": 100 * float(errors.mean())}
    for threshold in (8, 10):
        row[f"fr{threshold}"] = 100 * float(metrics.failure_rate(errors, threshold=threshold / 100))
        row[f"auc{threshold}"] = float(metrics.auc(errors, threshold=threshold / 100))
    return {"errors": errors, "row": row}


def frontal(examples: Examples) -> np.ndarray | None:
    """bool [N]: |yaw| below FRONTAL_YAW; None where the dataset knows no pose."""
    if np.shape(examples.metadata(0).get("pose")) != (3,):
        return None
    yaw = np.asarray([examples.metadata(i)["pose"][0] for i in range(len(examples))])
    return np.abs(yaw) < FRONTAL_YAW


def _row(name, modality, size, found, front, layout, normalizer):
    result = scores(found, normalizer=normalizer, layout=layout)
    row = {"name": name, "modality": modality, **size, **result["row"]}
    if normalizer != "outer_eyes" and layout.eye_corners and front is not None and front.any():
        part = {key: value[front] for key, value in found.items()}
        row["nme_outer_eyes_frontal"] = scores(part, normalizer="outer_eyes", layout=layout)["row"]["nme"]
    return row, result["errors"]


def validation_error(
    network: states.Network, examples: Examples, *, config: ConfigDict, modality: str, mesh: Mesh
) -> float:
    """NME in per cent of a network that reads `modality`."""
    options = {"size": config.image_size, "source": stages.layout(config), "target": examples.layout}
    found = collect(predictor(network, modality, mesh), eval_batches(examples, config, mesh), **options)
    return scores(found, normalizer=config.normalizer, layout=examples.layout)["row"]["nme"]


def evaluate_networks(
    trained: dict[str, Trained], examples: Examples, *, config: ConfigDict, split: str, mesh: Mesh
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores the mean shape and every stage.

    Predictions, in the layout of the config, are converted to that of `examples` (see `open_test`).

    Returns:
      The content of results.json; errors [N] by row name; predictions [N, K, 2] in original pixels by row name.
    """
    front = frontal(examples)
    reads = {name: stages.modality(name, config) for name in trained}
    usable = {name: t for name, t in trained.items() if reads[name] in examples.modalities}
    for name in trained.keys() - usable.keys():
        say(f"Stage {name} reads {reads[name]} images, which this dataset lacks: left out.")
    if not usable:
        raise InputError("No stage of this run reads a modality that the dataset has.")
    rows, errors, predictions = [], {}, {}
    options = {"size": config.image_size, "source": stages.layout(config), "target": examples.layout}
    mean = next(iter(usable.values())).mean_shape
    for name in ("mean_shape", *usable):
        if name == "mean_shape":
            size, modality = {"params": 0, "flops": 0}, "none"
            found = collect(
                lambda batch: np.broadcast_to(mean, (len(batch["mask"]), *mean.shape)),
                eval_batches(examples, config, mesh),
                **options,
            )
        else:
            network, modality = usable[name].network, reads[name]
            found = collect(predictor(network, modality, mesh), eval_batches(examples, config, mesh), **options)
            profile = models.profile(states.join(network), config.image_size, channels=3 if modality == "rgb" else 1)
            size = {key: profile[key] for key in ("params", "flops")}
        row, errors[name] = _row(name, modality, size, found, front, examples.layout, config.normalizer)
        predictions[name] = found["prediction"]
        rows.append(row)
    results = {"dataset": config.test_dataset or config.dataset, "split": split, "normalizer": config.normalizer}
    results["rows"] = rows
    return results, errors, predictions


def open_test(config: ConfigDict, split: str, *, data_dir: str) -> Examples:
    """A split of the config's test set, in the richest layout that both the network's and the set's convert to."""
    name = config.test_dataset or config.dataset
    layout = stages.layout(config)
    shared = landmarks.route(layout, layout_of(name, data_dir))
    if shared.name != layout.name:
        say(f"{name} is scored in the layout {shared.name}, which its landmarks and those of the networks share.")
    return open_examples(name, split, data_dir=data_dir, layout=shared, thermal_range=config.thermal_range)


def print_table(results: dict[str, Any]) -> None:
    """The rows of results.json for people."""
    normalizer = results["normalizer"]
    table = Table(title=f"{results['dataset']}, split {results['split']}: NME in per cent of {describe(normalizer)}")
    columns = ("row", "reads", "params", "MFLOPs", "NME %", "FR@10", "AUC@10", "eyes*")
    for column in columns:  # within 80 characters; results.json holds more
        table.add_column(column, justify="left" if column in ("row", "reads") else "right", no_wrap=True)
    for row in results["rows"]:
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
    if any("nme_outer_eyes_frontal" in row for row in results["rows"]):
        say(f"FR in per cent. * NME by the outer eye corners, faces with |yaw| < {FRONTAL_YAW:.0f}° only.")


def describe(normalizer: str) -> str:
    """What a normaliser's name means."""
    return {
        "box": "√(w·h) of the box",
        "outer_eyes": "the distance of the outer eye corners",
        "pupils": "the distance of the pupils",
    }[normalizer]


def evaluate(workdir: epath.PathLike, *, dataset: str = "", split: str = "test", data_dir: str) -> dict[str, Any]:
    """Scores the finished stages of a run, prints the table and saves it as `results_<dataset>_<split>.json`.

    Raises:
      InputError: not a work directory, nothing trained in it, or an unknown dataset or split.
    """
    config = load_config(workdir)
    try:
        mesh = sharding.make_mesh(shape=config.mesh)
    except InputError:  # other devices than those it was trained on
        mesh = sharding.make_mesh()
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    config.eval_batch_size = -(-config.eval_batch_size // parts) * parts
    config.test_dataset = dataset = dataset or config.test_dataset or config.dataset
    finished = [name for name in stages.STAGES if checkpoint_folder(workdir, name, config).exists()]
    if not finished:
        raise InputError(f"{workdir} has no trained stage; run the training command again to finish it.")
    trained = {}
    for name in finished:
        try:
            trained[name] = load_stage(workdir, name, mesh=mesh, say=say)
        except InputError as error:
            say(f"{error} Left out of the table.")
    if not trained:
        raise InputError(f"{workdir} has no finished stage to evaluate; run the training command again.")
    examples = open_test(config, split, data_dir=data_dir)
    results, _, _ = evaluate_networks(trained, examples, config=config, split=split, mesh=mesh)
    print_table(results)
    path = epath.Path(workdir) / f"results_{dataset.replace('/', '_')}_{split}.json"
    if distributed.is_main():
        write_json(path, results)
    say(f"Saved {path}")
    return results
