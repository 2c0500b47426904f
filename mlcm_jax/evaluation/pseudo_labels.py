"""Pseudo labels for unlabelled pairs: an RGB teacher's predictions with confidences, as files to train on."""

import collections
from typing import Any

import numpy as np
from etils import epath

from mlcm_jax import codecs
from mlcm_jax.console import progress, say
from mlcm_jax.data import augment, draw
from mlcm_jax.data.examples import layout_of, open_examples, require
from mlcm_jax.errors import InputError
from mlcm_jax.files import write_json
from mlcm_jax.inference.predictor import Predictor

# The eight crops of each face: shift of the box in x and y and its size, relative to the box; whether it is mirrored.
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
HALF = 0.02  # spread of the views, over √(w·h) of the box, at which confidence is one half
_SHOWN = 16  # examples on labels.png


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

    Faces without a box are found by the shipped detector, in the thermal image of a pair; an image in which it finds
    none is left out. Every face is predicted in eight crops (see VIEWS). The landmarks are the mean; a landmark's
    confidence is 1 / (1 + (s / 0.02)²), where s is the root mean square distance of the eight predictions from the mean
    in units of √(w·h) of the box: predictions that change with the crop are not to be trusted. A mistake that all crops
    share does not lower the confidence.

    Args:
        model: work directory of a run.
        dataset: built dataset, such as `paired_folder/mine`.
        out: folder, created if it is missing; for `paired_folder` the folder `landmarks` of the pairs.
        stage: the stage that predicts; the dataset must have the modality that it reads.
        split: `unlabelled`, or any other, whose landmarks are then ignored.
        data_dir: the folder of built datasets.

    Returns:
        What was written: {name: {"landmarks", "confidence", "box", "layout", "pseudo", "source"}}.

    Raises:
        InputError: no such run, stage, dataset or split; a modality that the dataset lacks; a file that exists already.
    """
    predictor, folder = Predictor(model, stage=stage), epath.Path(out)
    card = predictor.card
    # Any layout would do, because the dataset's landmarks are ignored: its own needs no conversion.
    own = layout_of(dataset, data_dir)
    options = {"layout": own, "thermal_range": card.thermal_range, "gain": card.gain, "labelled": False}
    examples = open_examples(dataset, split, data_dir=data_dir, **options)
    require([examples], [card.modality], f"Stage {stage}")
    names = [_name(examples.metadata(k), k) for k in range(len(examples))]
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"Two faces of {dataset} would be written to {twice[0]}.json; give every face its own name.")
    for name in names:
        if (folder / f"{name}.json").exists():
            raise InputError(f"{folder / name}.json exists already; remove it, or give another --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot make the folder {out}: {error}; give another --out.") from error
    detector = Predictor() if "thermal" in examples.modalities and not card.thermal_range else None
    written, shown, unboxed, empty = {}, [], 0, []
    with progress("label", total=len(examples), start=0, unit_size=1) as advance:
        for k, name in enumerate(names):
            example = examples[k]
            whole = _whole(example[card.modality], example["box"])
            unboxed += whole
            if detector and whole:
                found = detector(example["thermal"], max_faces=1).boxes
                if not len(found):
                    empty.append(name)
                    continue
                example["box"] = found[0]
            points, confidence = predict_views(predictor, example[card.modality], example["box"])
            written[name] = {
                "landmarks": np.round(points, 3).tolist(),
                "confidence": np.round(confidence, 4).tolist(),
                "box": None if whole else example["box"].tolist(),
                "layout": predictor.layout,
                "pseudo": True,
                "source": f"stage {stage} of {model}",
            }
            if len(shown) < _SHOWN:
                shown.append(example | {"landmarks": points, "visible": confidence >= 0.5, "key": name})
            advance(k + 1, "")
    if unboxed:
        how = "the detector found their faces" if detector else "their faces are taken to fill the image"
        say(f"{unboxed} of {len(names)} images have no box: {how}.")
    if empty:
        say(f"No face was found in {len(empty)} images, such as {empty[0]}; they are left out.")
    if not written:
        raise InputError(f"No face was found in any image of {dataset}; give them boxes.")
    for name, content in written.items():  # written at the end, so that an interrupted command can be repeated
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    draw.contact_sheet(folder / "labels.png", shown, layout=card.layout)
    means = [float(np.mean(one["confidence"])) for one in written.values()]
    say(
        f"Wrote {len(written)} files and labels.png to {folder}; mean confidence {np.mean(means):.2f}, the lowest is "
        f"that of {list(written)[int(np.argmin(means))]} ({min(means):.2f})."
    )
    return written


def predict_views(predictor: Predictor, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predicts a face from all views.

    Args:
        predictor: see `Predictor`.
        image: uint8 [H, W] or [H, W, 3], of the modality that it reads.
        box: x, y, w, h in pixels.

    Returns:
        The mean landmarks float32 [K, 2] in pixels of the image, and the confidence [K].
    """
    x, y, w, h = np.asarray(box, np.float64).tolist()
    card, layout = predictor.card, predictor.card.layout
    nothing = {"landmarks": np.zeros((layout.count, 2), np.float32), "visible": np.ones(layout.count, bool)}
    crops = []
    for across, down, size, mirrored in VIEWS:
        place = (x + w * (0.5 + across - size / 2), y + h * (0.5 + down - size / 2), w * size, h * size)
        crops.append(
            augment.crop(
                nothing | {card.modality: image, "box": place},
                augment.Crop(card.image_size, card.expand, layout, card.gain),
                augmentation=augment.Augmentation(flip=float(mirrored)),
                rng=np.random.default_rng(0),
            )
        )
    found = predictor.predict_crops(np.stack([crop[card.modality] for crop in crops])).astype(np.float64)
    found = codecs.to_original(found, np.stack([crop["to_image"] for crop in crops]), card.image_size)
    for k, (*_, mirrored) in enumerate(VIEWS):
        if mirrored:
            found[k] = found[k][layout.flip]
    mean = found.mean(0)
    spread = np.sqrt(np.square(found - mean).sum(-1).mean(0)) / np.sqrt(w * h)
    return mean.astype(np.float32), 1.0 / (1.0 + np.square(spread / HALF))


def _whole(image: np.ndarray, box: np.ndarray) -> bool:
    """Whether the box is the whole image, as if none was given; the box of the predicted landmarks is then better."""
    height, width = image.shape[:2]
    return box.tolist() == [0, 0, width, height]


def _name(facts: dict[str, Any], index: int) -> str:
    """Returns the pair's name, or, if the dataset has none, its key without folders and extension."""
    if facts.get("name"):
        return str(facts["name"])
    return epath.Path(str(facts.get("key", f"{index:06d}"))).stem
