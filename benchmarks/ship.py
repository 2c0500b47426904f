"""Calibrates a trained stage and writes it where `Predictor()` finds it: mlcm_jax/inference/shipped.

    python -m benchmarks.ship --workdir=runs/shipped --stage=compress

The calibration is fitted on the splits val of the run's datasets; for the score, boxes of the wrong size are added. It
is printed as JSON for each split test, with the NME (per cent of √(w·h) of the box) by yaw, by the size of the face,
and of inverted images, and with the scores of boxes of the wrong size. The script also writes origin.json,
fingerprints of the data and the code; demo.png, a rendered image to try the network on; and in docs/ shipped.jpg,
rendered faces with what the network finds, and shipped_failures.jpg, the worst of them.
"""

import argparse
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mlcm_jax.console import say
from mlcm_jax.data import augment, draw
from mlcm_jax.data.build import default_data_dir
from mlcm_jax.data.examples import Examples, open_examples
from mlcm_jax.evaluation import calibration
from mlcm_jax.inference.open_network import SHIPPED
from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.models import stored
from mlcm_jax.synthetic import generate
from mlcm_jax.training.workdir import load_config

FACTORS = (0.33, 0.5, 1.5, 2.0, 3.0)  # of boxes of the wrong size


def demo() -> np.ndarray:
    """A rendered face before a dark wall, uint8 [240, 320]; the README has its box."""
    pair = generate.example(11, 0, size=200, frontal=True, well_lit=True)
    image = np.full((240, 320), np.percentile(pair["thermal"][:20], 50).astype(np.uint8))
    image[40:240, 60:260] = pair["thermal"]
    x, y, w, h = pair["box"] + [60, 40, 0, 0]
    say(f"The box of the face in demo.png is [{x:.0f}, {y:.0f}, {w:.0f}, {h:.0f}].")
    return image


def sheet(predictor: Predictor, examples: Examples, chosen: Sequence[int]) -> np.ndarray:
    """Faces of a split with the landmarks that the network finds, in rows of 6, uint8 [H, W, 3]."""
    tiles = []
    for k in chosen:
        image, box = examples[k]["thermal"], examples[k]["box"]
        points = predictor(image, box[None]).landmarks[0]
        example = {"thermal": image, "box": box, "landmarks": points, "visible": np.ones(len(points))}
        crop = augment.crop(example, augment.Crop(240, 1.5, predictor.card.layout))
        gray = (255 * crop["thermal"][..., 0]).astype(np.uint8)
        tiles.append(draw.draw_landmarks(gray, 240 * crop["landmarks"] - 0.5, predictor.card.layout, smallest=0))
    return np.vstack([np.hstack(tiles[k : k + 6]) for k in range(0, len(tiles), 6)])


def bands(found: dict[str, np.ndarray], examples: Examples) -> dict[str, float]:
    """NME in per cent by the yaw and by the size of the face."""
    errors = 100 * calibration.nme(found)
    yaw = np.abs([examples.metadata(k)["pose"][0] for k in range(len(examples))])
    groups = {f"yaw {low}-{high}": (yaw >= low) & (yaw < high) for low, high in ((0, 15), (15, 30), (30, 50), (50, 90))}
    for low, high in ((0, 40), (40, 60), (60, 200)):
        groups[f"box of {low}-{high} pixels"] = (found["side"] >= low) & (found["side"] < high)
    return {name: round(float(errors[chosen].mean()), 2) for name, chosen in groups.items() if chosen.any()}


def predictions(predictor: Predictor, parts: Sequence[Examples], factor: float) -> dict[str, np.ndarray]:
    """`calibration.predictions` of several datasets."""
    found = [calibration.predictions(predictor, examples, factor=factor) for examples in parts]
    return {key: np.concatenate([part[key] for part in found]) for key in found[0]}


def main() -> None:
    """Fits, reports and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="the run's work directory")
    parser.add_argument("--stage", default="compress", help="the stage to ship")
    parser.add_argument("--data_dir", default=default_data_dir(), help="folder of the built datasets")
    parser.add_argument("--out", default=str(SHIPPED), help="folder for model.safetensors and model.json")
    given = parser.parse_args()
    config = load_config(given.workdir)
    network, card = stored.load(Path(given.workdir) / given.stage)
    names = (config.dataset, *config.more_datasets)

    def opened(split: str) -> list[Examples]:
        options = {"data_dir": given.data_dir, "layout": card.layout, "gain": card.gain}
        return [open_examples(name, split, **options) for name in names]

    with tempfile.TemporaryDirectory() as folder:
        stored.save(folder, network, dataclasses.replace(card, calibration=()))
        plain = Predictor(folder)
        true, *wrong = [predictions(plain, opened("val"), factor) for factor in (1.0, *FACTORS)]
    fitted = calibration.fit(true, *wrong)
    stored.save(given.out, network, dataclasses.replace(card, calibration=fitted))
    shutil.copy(Path(given.workdir) / "origin.json", given.out)
    predictor = Predictor(given.out)
    results: dict[str, Any] = {"calibration": fitted}
    for name, examples in zip(names, opened("test"), strict=True):
        found = calibration.predictions(predictor, examples)
        inverted = calibration.predictions(predictor, examples, change=lambda image: 255 - image)
        results[name] = calibration.report(found) | {"bands": bands(found, examples)}
        for factor in FACTORS:
            wrong_box = calibration.predictions(predictor, examples, factor=factor)
            good = float((calibration.nme(wrong_box) < calibration.GOOD).mean())
            results[name][f"box {factor:.2g} times"] = {"score": float(wrong_box["score"].mean()), "good": good}
        results[name]["nme inverted"] = 100 * float(calibration.nme(inverted).mean())
        if name == names[0]:
            every = np.linspace(0, len(examples) - 1, 12).astype(int).tolist()
            cv2.imwrite("docs/shipped.jpg", sheet(predictor, examples, every)[..., ::-1])
            worst = np.argsort(-calibration.nme(found))[:12].tolist()
            cv2.imwrite("docs/shipped_failures.jpg", sheet(predictor, examples, worst)[..., ::-1])
    cv2.imwrite(str(Path(given.out) / "demo.png"), demo())
    say(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
