"""NME, failure rate and AUC of trained stages, in original picture pixels, under a named normaliser."""

import functools
import json
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.table import Table

from mlcm_jax import codecs, data, metrics, models, run, sharding, stages, steps
from mlcm_jax import state as states
from mlcm_jax.errors import InputError
from mlcm_jax.writers import console, say

NORMALIZERS = ("box", "outer_eyes", "pupils")
# Yaw within which both eyes are seen and an eye distance makes sense as a normaliser (degrees).
FRONTAL_YAW = 30.0


@functools.lru_cache(maxsize=16)
def _compiled(mesh: Mesh):
    batch, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    return jax.jit(steps.eval_step, in_shardings=(whole, batch), out_shardings=whole)


def predictor(network: states.Network, modality: str, mesh: Mesh) -> Callable[[dict], np.ndarray]:
    """`batch -> landmarks [B, K, 2] in u` by a network, on all devices of the mesh."""

    def predict(batch):
        images = sharding.put_batch({"images": batch[modality]}, mesh)["images"]
        return jax.device_get(_compiled(mesh)(network, images))

    return predict


def collect(predict: Callable[[dict], np.ndarray], batches: Iterable[dict], *, size: int) -> dict[str, np.ndarray]:
    """Predicted and true landmarks float64 [N, K, 2] in original pixels, `box` [N, 4], padding dropped.

    Args:
      predict: batch -> landmarks [B, K, 2] in u.
      batches: see `data.eval_batches`; crops of side `size`.
    """
    collected: dict[str, list] = {"prediction": [], "truth": [], "box": []}
    for batch in batches:
        mask = batch["mask"]
        for key, points in (("prediction", predict(batch)), ("truth", batch["landmarks"])):
            collected[key].append(codecs.to_original(np.asarray(points, np.float64), batch["to_image"], size)[mask])
        collected["box"].append(batch["box"][mask])
    return {key: np.concatenate(value) for key, value in collected.items()}


def eval_batches(examples: data.Examples, config: ConfigDict, mesh: Mesh):
    """Unaugmented batches of a split under the config's crop."""
    sharding.check_batch_size(config.eval_batch_size, mesh, "config.eval_batch_size")
    return data.eval_batches(
        examples,
        batch_size=config.eval_batch_size,
        size=config.image_size,
        expand=config.augment.expand,
        layout=config.layout,
    )


def scores(found: dict[str, np.ndarray], *, normalizer: str, layout: str) -> dict[str, Any]:
    """`errors` [N] (fractions) and the numbers of a table row: nme, fr8, fr10 in per cent, auc8, auc10 in [0, 1]."""
    errors = metrics.nme(found["prediction"], found["truth"], normalizer=normalizer, layout=layout, box=found["box"])
    errors = np.asarray(errors)
    row = {"nme": 100 * float(errors.mean())}
    for threshold in (8, 10):
        row[f"fr{threshold}"] = 100 * float(metrics.failure_rate(errors, threshold=threshold / 100))
        row[f"auc{threshold}"] = float(metrics.auc(errors, threshold=threshold / 100))
    return {"errors": errors, "row": row}


def frontal(examples: data.Examples) -> np.ndarray | None:
    """bool [N]: |yaw| below FRONTAL_YAW; None where the data set knows no pose."""
    if "pose" not in examples.metadata(0):
        return None
    yaw = np.asarray([examples.metadata(i)["pose"][0] for i in range(len(examples))])
    return np.abs(yaw) < FRONTAL_YAW


def _row(name, modality, size, found, front, config, extra_normalizer):
    result = scores(found, normalizer=config.normalizer, layout=config.layout)
    row = {"name": name, "modality": modality, **size, **result["row"]}
    if extra_normalizer and front is not None and front.any():
        part = {key: value[front] for key, value in found.items()}
        row["nme_outer_eyes_frontal"] = scores(part, normalizer="outer_eyes", layout=config.layout)["row"]["nme"]
    return row, result["errors"]


def evaluate_networks(
    trained: dict[str, run.Trained], examples: data.Examples, *, config: ConfigDict, split: str, mesh: Mesh
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores the mean shape and every stage.

    Returns:
      The content of results.json; errors [N] by row name; predictions [N, K, 2] in original pixels by row name.
    """
    front = frontal(examples)
    usable = {name: t for name, t in trained.items() if stages.STAGES[name].modality in examples.modalities}
    for name in trained.keys() - usable.keys():
        say(f"Stage {name} reads {stages.STAGES[name].modality} pictures, which this data set lacks: left out.")
    if not usable:
        raise InputError("No stage of this run reads a modality that the data set has.")
    rows, errors, predictions = [], {}, {}
    mean = next(iter(usable.values())).mean_shape
    for name in ("mean_shape", *usable):
        if name == "mean_shape":
            size, modality = {"params": 0, "flops": 0}, "none"
            found = collect(
                lambda batch: np.broadcast_to(mean, batch["landmarks"].shape),
                eval_batches(examples, config, mesh),
                size=config.image_size,
            )
        else:
            network, modality = usable[name].network, stages.STAGES[name].modality
            found = collect(
                predictor(network, modality, mesh), eval_batches(examples, config, mesh), size=config.image_size
            )
            profile = models.profile(states.join(network), config.image_size, channels=3 if modality == "rgb" else 1)
            size = {key: profile[key] for key in ("params", "flops")}
        row, errors[name] = _row(name, modality, size, found, front, config, config.normalizer != "outer_eyes")
        predictions[name] = found["prediction"]
        rows.append(row)
    results = {"dataset": config.dataset, "split": split, "normalizer": config.normalizer, "rows": rows}
    return results, errors, predictions


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


def write_json(path: epath.PathLike, content: Any) -> None:
    """Writes JSON through a temporary file, so that a crash leaves the old one whole."""
    path = epath.Path(path)
    temporary = path.parent / (path.name + ".new")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def evaluate(workdir: epath.PathLike, *, dataset: str = "", split: str = "test", data_dir: str) -> dict[str, Any]:
    """Scores the finished stages of a run, prints the table and saves it as `results_<dataset>_<split>.json`.

    Raises:
      InputError: not a work directory, nothing trained in it, or an unknown data set or split.
    """
    mesh = sharding.make_mesh()
    config = run.load_config(workdir)
    config.dataset = dataset or config.dataset
    finished = [name for name in stages.STAGES if (epath.Path(workdir) / name / "checkpoints").exists()]
    if not finished:
        raise InputError(f"{workdir} has no trained stage; run the training command again to finish it.")
    trained = {}
    for name in finished:
        try:
            trained[name] = run.load_stage(workdir, name, mesh=mesh, say=say)
        except InputError as error:
            say(f"{error} Left out of the table.")
    if not trained:
        raise InputError(f"{workdir} has no finished stage to evaluate; run the training command again.")
    examples = data.open_examples(config.dataset, split, data_dir=data_dir, layout=config.layout)
    results, _, _ = evaluate_networks(trained, examples, config=config, split=split, mesh=mesh)
    print_table(results)
    path = epath.Path(workdir) / f"results_{config.dataset.replace('/', '_')}_{split}.json"
    write_json(path, results)
    say(f"Saved {path}")
    return results
