"""Predicts the test split of a run once more, for its report: the error of every landmark of every face."""

import dataclasses
import functools
import json
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from mlcm_jax import landmarks
from mlcm_jax.data.examples import Examples
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import breakdown, evaluate, rescore
from mlcm_jax.models import network as networks
from mlcm_jax.models import stored
from mlcm_jax.training import stages
from mlcm_jax.training.workdir import load_stage

Stored = tuple[networks.Network, stored.Card]


@dataclasses.dataclass(frozen=True)
class Measured:
    """The predictions of all rows on one split.

    Attributes:
        examples: the split.
        layout: the layout of all landmarks here.
        normalizer: see `metrics.normalizer_length`.
        errors: row -> NME [N] as fractions.
        relative: row -> error of every landmark [N, K] as a fraction of the normaliser, NaN if it is unlabelled.
        predictions: row -> [N, K, 2] in pixels of the images.
        truth: [N, K, 2] in pixels of the images.
        box: [N, 4].
        visible: bool [N, K].
        known: bool [N, K].
    """

    examples: Examples
    layout: landmarks.Layout
    normalizer: str
    errors: dict[str, np.ndarray]
    relative: dict[str, np.ndarray]
    predictions: dict[str, np.ndarray]
    truth: np.ndarray
    box: np.ndarray
    visible: np.ndarray
    known: np.ndarray


def measure(workdir: str, config: ConfigDict, trained: Mapping[str, Stored], *, data_dir: str) -> Measured:
    """Predicts the test split of a run with its mean shape and its stored networks.

    The mean shape is that of a checkpoint; there is no such row if no checkpoint can be read.

    Args:
        workdir: the run's work directory.
        config: its config.
        trained: the stored networks by stage.
        data_dir: the folder of built datasets.

    Raises:
        InputError: the dataset cannot be opened, or no stage reads its images.
    """
    mesh = rescore.fit_to_devices(config)
    examples = evaluate.open_test(config, data_dir=data_dir)
    of, target = evaluate.protocol(config), examples.layout
    usable = evaluate.readable(trained, config, examples)
    predictors = {}
    for name in usable:
        try:
            mean = load_stage(workdir, name, mesh=mesh, say=lambda text: None).mean_shape
        except (InputError, OSError):
            continue
        predictors["mean_shape"] = functools.partial(_constant, mean)
        break
    for name in usable:
        predictors[name] = evaluate.predictor(trained[name][0], stages.modality(name, config), mesh)
    errors, relative, predictions = {}, {}, {}
    for name, predict in predictors.items():
        found = evaluate.collect(predict, evaluate.eval_batches(examples, of, mesh), of, target)
        errors[name] = evaluate.scores(found, normalizer=of.normalizer, layout=target)["errors"]
        relative[name] = breakdown.relative(found, normalizer=of.normalizer, layout=target)
        predictions[name] = found["prediction"]
    visible = np.stack([examples.labels(i)["visible"] for i in range(len(examples))]).astype(bool)
    same = {"truth": found["truth"], "box": found["box"], "known": found["known"], "visible": visible}
    return Measured(examples, target, of.normalizer, errors, relative, predictions, **same)


def _constant(shape: np.ndarray, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.broadcast_to(shape, (len(batch["mask"]), *shape.shape))


def architectures(trained: Mapping[str, Stored]) -> dict[str, list[str]]:
    """Returns which stages have the same architecture and input, by a text that describes both."""
    found: dict[str, list[str]] = {}
    for name, (_, card) in trained.items():
        key = json.dumps([card.architecture, card.modality, card.image_size], sort_keys=True, default=str)
        found.setdefault(key, []).append(name)
    return found


def gain_over_control(errors: Mapping[str, np.ndarray], row: str) -> dict[str, float | str] | None:
    """Compares a stage with its control, face by face.

    Args:
        errors: row -> NME [N] as fractions.
        row: the name of a stage.

    Returns:
        {"control", "difference", "half", "better"}: the mean difference of the NME in percentage points (negative if
        the stage is better), half of its 95 % interval over the faces, and the share of the faces that are better, in
        per cent. None for a row without a control among the rows, or with fewer than two faces.
    """
    control = stages.STAGES[row].control if row in stages.STAGES else ""
    if row not in errors or control not in errors or len(errors[row]) < 2:
        return None
    difference = 100 * (errors[row] - errors[control])
    half = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    better = 100 * float((difference < 0).mean())
    return {"control": control, "difference": float(difference.mean()), "half": float(half), "better": better}
