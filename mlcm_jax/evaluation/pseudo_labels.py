"""Landmarks for pairs that nobody labelled: an RGB teacher's answers, with a confidence, as files to train from."""

import collections
from typing import Any

import jax
import numpy as np
from etils import epath

from mlcm_jax import codecs, landmarks
from mlcm_jax.console import progress, say
from mlcm_jax.data import augment, draw
from mlcm_jax.data.examples import layout_of, open_examples, require
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import evaluate
from mlcm_jax.files import write_json
from mlcm_jax.training import sharding, stages
from mlcm_jax.training.workdir import load_stage

# Each face is seen in eight crops: shift in x and y and size of the box, in its own units, and whether it is mirrored.
VIEWS = (
    (0.0, 0.0, 1.0, False),
    (0.0, 0.0, 1.0, True),
    (0.0, 0.0, 1.1, False),
    (0.0, 0.0, 0.93, True),
    (0.05, 0.0, 1.0, True),
    (-0.05, 0.0, 1.0, False),
    (0.0, 0.05, 1.0, True),
    (0.0, -0.05, 1.0, False),
)
HALF = 0.02  # spread of the views, in parts of √(w·h) of the box, at which confidence is one half


def label(
    model: str,
    dataset: str,
    *,
    out: str,
    stage: str = "teacher",
    split: str = "unlabelled",
    data_dir: str,
) -> dict[str, dict[str, Any]]:
    """Writes `OUT/NAME.json` for every example of a split, in the format that `paired_folder` reads, and `labels.png`.

    Every face is predicted in eight crops (see VIEWS). The landmarks are the mean; a landmark's confidence is
    1 / (1 + (s / 0.02)²), s the root mean square distance of the eight answers from the mean in units of √(w·h) of the
    box: answers that change with the crop are not to be trusted. It says nothing about a mistake that all crops share.

    Args:
      model: work directory of a run.
      dataset: built dataset, such as `paired_folder/mine`.
      out: folder, made if missing; for `paired_folder` the folder `landmarks` of the pairs.
      stage: whose network; one that reads a modality of the set.
      split: `unlabelled`, or any other (whose landmarks are not looked at).
      data_dir: where built sets are.

    Returns:
      What was written: {name: {"landmarks", "confidence", "box", "layout", "pseudo", "source"}}.

    Raises:
      InputError: no such run, stage, set or split; a modality that the set lacks; a file that exists already.
    """
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    trained = load_stage(model, stage, mesh=mesh, say=say)
    config, modality = trained.config, stages.modality(stage, trained.config)
    layout, folder = stages.layout(config), epath.Path(out)
    # In the set's own layout, whatever it is: its landmarks are not looked at.
    own = layout_of(dataset, data_dir)
    thermal_range = config.thermal_range if modality == "thermal" else ()
    examples = open_examples(dataset, split, data_dir=data_dir, layout=own, thermal_range=thermal_range, labelled=False)
    require([examples], [modality], f"Stage {stage}")
    names = [_name(examples.metadata(k), k) for k in range(len(examples))]
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"Two faces of {dataset} would be written to {twice[0]}.json; give every face its own name.")
    for name in names:
        if (folder / f"{name}.json").exists():
            raise InputError(f"{folder / name}.json exists already; remove it, or give another --out.")
    predict = evaluate.predictor(trained.network, modality, mesh)
    folder.mkdir(parents=True, exist_ok=True)
    written, shown = {}, []
    with progress("label", total=len(examples), start=0, unit_size=1) as advance:
        for k, name in enumerate(names):
            example = examples[k]
            points, confidence = _views(predict, example, modality, layout, config)
            written[name] = {
                "landmarks": np.round(points, 3).tolist(),
                "confidence": np.round(confidence, 4).tolist(),
                "box": None if _whole(example, modality) else example["box"].tolist(),
                "layout": layout.name,
                "pseudo": True,
                "source": f"stage {stage} of {model}",
            }
            if len(shown) < 16:
                shown.append(example | {"landmarks": points, "visible": confidence >= 0.5, "key": name})
            advance(k + 1, "")
    for name, content in written.items():  # all or none: a run that was stopped is simply repeated
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    draw.contact_sheet(folder / "labels.png", shown, layout=layout)
    means = [float(np.mean(label["confidence"])) for label in written.values()]
    say(
        f"Wrote {len(written)} files and labels.png to {folder}; mean confidence {np.mean(means):.2f}, the least sure "
        f"is {names[int(np.argmin(means))]} ({min(means):.2f})."
    )
    return written


def _views(predict, example, modality: str, layout: landmarks.Layout, config) -> tuple[np.ndarray, np.ndarray]:
    """Mean [K, 2] in original pixels over the views, and confidence [K]."""
    x, y, w, h = example["box"].tolist()
    nothing = {"landmarks": np.zeros((layout.count, 2), np.float32), "visible": np.ones(layout.count, bool)}
    crops = []
    for across, down, size, mirrored in VIEWS:
        box = (x + w * (0.5 + across - size / 2), y + h * (0.5 + down - size / 2), w * size, h * size)
        crops.append(
            augment.crop(
                nothing | {modality: example[modality], "box": box},
                size=config.image_size,
                expand=config.augment.expand,
                layout=layout,
                flip=float(mirrored),
                rng=np.random.default_rng(0),
            )
        )
    found = np.asarray(predict({modality: np.stack([crop[modality] for crop in crops])}), np.float64)
    found = codecs.to_original(found, np.stack([crop["to_image"] for crop in crops]), config.image_size)
    for k, (*_, mirrored) in enumerate(VIEWS):
        if mirrored:
            found[k] = found[k][layout.flip]
    mean = found.mean(0)
    spread = np.sqrt(np.square(found - mean).sum(-1).mean(0)) / np.sqrt(w * h)
    return mean.astype(np.float32), 1.0 / (1.0 + np.square(spread / HALF))


def _whole(example, modality: str) -> bool:
    """Whether the box stands for "none was given"; the labels' own is then better than the whole image."""
    height, width = example[modality].shape[:2]
    return example["box"].tolist() == [0, 0, width, height]


def _name(facts: dict[str, Any], index: int) -> str:
    """The pair's name; where the set has none, its key without folders and ending."""
    if facts.get("name"):
        return str(facts["name"])
    return epath.Path(str(facts.get("key", f"{index:06d}"))).stem
