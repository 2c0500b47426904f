"""Chooses the threshold of a trained detector and writes it where `Predictor()` finds it: inference/shipped/detector.

    python -m benchmarks.ship_detector --workdir=runs/detector
    python -m benchmarks.ship_detector         # fits the shipped detector again, after the shipped landmarks changed

The thresholds, of the detector alone and with the judgement of the shipped landmarks (`models.stored.Card.second`), are
chosen on the split val of the run's dataset (`detections.threshold`), the second also by 2,000 further scenes without a
face. Rates and the recall by size and yaw are printed as JSON for the split test. The script also writes origin.json,
fingerprints of the data and the code, and in docs/ detector.jpg, rendered scenes with what is found, and
detector_curves.png, precision over recall.
"""

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from etils import epath

from mlcm_jax import config as configs
from mlcm_jax import detection
from mlcm_jax.console import say
from mlcm_jax.data import image_file
from mlcm_jax.data.build import default_data_dir
from mlcm_jax.data.examples import Examples, open_examples
from mlcm_jax.evaluation import detections
from mlcm_jax.inference import search
from mlcm_jax.inference.detector import SHIPPED_DETECTOR, Detector
from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.models import stored
from mlcm_jax.synthetic import crowd
from mlcm_jax.training import sharding
from mlcm_jax.training.workdir import load_config

_SHOWN = 24  # scenes in docs/detector.jpg
_LOWEST = 0.02  # probability from which boxes are counted
_EMPTY = 2000  # further scenes without a face, by which the threshold is chosen


def sheet(predictor: Predictor, examples: Examples) -> np.ndarray:
    """Scenes with their faces (green; thin if they are hardly seen) and what is found (red), uint8 [H, W, 3] BGR."""
    tiles = []
    for k in np.linspace(0, len(examples) - 1, _SHOWN).astype(int).tolist():
        example = examples[k]
        faces = predictor(example["thermal"][..., 0])
        gray = example["thermal"][..., 0]
        scale = 240 / max(gray.shape)
        small = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        tile = np.zeros((240, 240, 3), np.uint8)
        tile[: small.shape[0], : small.shape[1]] = small[..., None]
        known = example["known"].reshape(detection.FACES, -1).all(-1)
        for left, top, right, bottom in np.asarray(detection.corners(example["landmarks"]))[known] * scale:
            cv2.rectangle(tile, (round(left), round(top)), (round(right), round(bottom)), (0, 200, 0), 1)
        for (x, y, w, h), score in zip(faces.boxes * scale, faces.detections, strict=True):
            cv2.rectangle(tile, (round(x), round(y)), (round(x + w), round(y + h)), (60, 60, 255), 1)
            place = round(x), max(10, round(y) - 3)
            cv2.putText(tile, f"{score:.2f}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.35, (60, 220, 255), 1)
        tiles.append(tile)
    return np.vstack([np.hstack(tiles[k : k + 6]) for k in range(0, len(tiles), 6)])


def with_detector(folder: str) -> Predictor:
    """The shipped landmarks, with the detector of a folder."""
    predictor = Predictor()
    predictor.detector = Detector(folder)
    return predictor


def looked(predictor: Predictor, image: np.ndarray) -> dict[str, np.ndarray]:
    """The faces that are found in an image, as `detections.match` takes them."""
    faces = predictor(image, min_score=_LOWEST)
    return {"found": faces.boxes, "scores": faces.detections}


def pairs(detector: Detector, examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of the detector's boxes, those of their landmarks, and which boxes are right in the end, bool [N]."""
    predictor, rows = Predictor(detector=False), []
    for k in range(len(examples)):
        example = examples[k]
        image = image_file.as_image(example["thermal"])
        boxes, scores = detector(image, max_faces=search.CANDIDATES, min_score=search.LOWEST)
        faces = np.asarray(detection.corners(example["landmarks"]))[
            example["known"].reshape(detection.FACES, -1).all(-1)
        ]
        judged = search.judge(predictor, image, boxes)
        corners = np.concatenate([judged.boxes[:, :2], judged.boxes[:, :2] + judged.boxes[:, 2:]], 1)
        right = [any(detection.iou(one, face) >= detections.IOU for face in faces) for one in corners]
        rows.append((scores, judged.scores, np.array(right, bool)))
    scores, seconds, right = (np.concatenate(values) for values in zip(*rows, strict=True))
    return scores, seconds, right


def summary(found: detections.Matches, chosen: float) -> dict[str, Any]:
    """Rates at a threshold, and the recall of each band of size and yaw."""
    recall = {name: float((found.found[of] >= chosen).mean()) for name, of in detections.bands(found).items()}
    return {"ap": detections.average_precision(found), **detections.rates(found, chosen), "recall of": recall}


def main() -> None:
    """Chooses, reports and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", help="a run of configs/detector.py; default: the shipped detector, fitted again")
    parser.add_argument("--stage", default="light_alone", help="the stage of --workdir")
    parser.add_argument("--data_dir", default=default_data_dir(), help="folder of the built datasets")
    parser.add_argument("--out", default=str(SHIPPED_DETECTOR), help="folder for model.safetensors and model.json")
    given = parser.parse_args()
    mesh, source = sharding.make_mesh(), Path(given.workdir or SHIPPED_DETECTOR)
    config = load_config(source) if given.workdir else configs.load("configs/detector.py", "")
    network, card = stored.load(source / given.stage if given.workdir else source)
    options = {"data_dir": given.data_dir, "layout": card.layout, "gain": card.gain}
    val, test = (open_examples(config.dataset, split, **options) for split in ("val", "test"))
    alone = detections.threshold(detections.search(network, val, config=config, mesh=mesh))
    card = dataclasses.replace(card, threshold=alone)
    stored.save(given.out, network, card)
    if Path(given.out).resolve() != source.resolve():
        shutil.copy(source / "origin.json", given.out)
    scores, seconds, right = pairs(Detector(given.out), val)
    weights = detection.fit_second(scores, seconds, right)
    stored.save(given.out, network, dataclasses.replace(card, second=(*weights, 0.5)))
    empty = [crowd.example(78, k, size=(128, 256), empty=True)["thermal"] for k in range(_EMPTY)]
    predictor = with_detector(given.out)
    rows = [{"boxes": [], "counts": [], "side": 1.0} | looked(predictor, image) for image in empty]
    chosen = detections.threshold(detections.judged(predictor, val, lowest=_LOWEST), detections.match(rows))
    stored.save(given.out, network, dataclasses.replace(card, second=(*weights, chosen)))
    report = {"threshold alone": alone, "second": (*weights, chosen), "scenes": len(test)}
    found = detections.search(network, test, config=config, mesh=mesh)
    report["alone"] = summary(found, alone)
    found = detections.judged(with_detector(given.out), test, lowest=_LOWEST)
    report["judged by the landmarks"] = summary(found, chosen)
    report["faces of each band"] = {name: int(of.sum()) for name, of in detections.bands(found).items()}
    say(json.dumps(report | {"scenes without a face": len(found.empty)}, indent=1))
    detections.draw(epath.Path("docs/detector_curves.png"), found, chosen)
    image = sheet(with_detector(given.out), test)
    cv2.imwrite("docs/detector.jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
