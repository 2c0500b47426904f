"""Finds landmarks in a user's images: `Predictor` for code, `predict_files` for the command line.

Only the stored model of a stage is read (`models.stored`), so none of the training code is loaded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import jax
import numpy as np
from etils import epath
from numpy.typing import DTypeLike

from mlcm_jax import codecs, images
from mlcm_jax import landmarks as landmarks_lib
from mlcm_jax.console import say
from mlcm_jax.data import augment, draw, image_file
from mlcm_jax.data import boxes as box_input
from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.files import read_json, write_json
from mlcm_jax.models import network as networks
from mlcm_jax.models import stored

# Mean distance of the predictions for a crop and its mirror image, over the crop's side, at which the score is 0.5.
_APART = 0.05


class Predictor:
    """A trained stage, ready to be called on one image after another.

    Attributes:
        layout: the name of the landmarks' layout.
        card: the description of the model (`models.stored.Card`).
    """

    def __init__(self, path: epath.PathLike | None = None, *, stage: str | None = None) -> None:
        """Loads the model.

        Args:
            path: the work directory of a run.
            stage: the stage whose network is loaded; by default, the last stage of the run's config.

        Raises:
            InputError: no such run or stage, or a stage that is not trained to its end.
        """
        if path is None:
            raise InputError(
                "No model ships with this version; train one with "
                "`mlcm train --config=configs/tiny.py --workdir=runs/tiny` and name its work directory."
            )
        self._network, self.card = stored.load(_stage_folder(epath.Path(path), stage))
        self.layout = self.card.layout.name
        self._predict = jax.jit(networks.predict)

    def __call__(self, image: np.ndarray, boxes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Predicts the landmarks of every face.

        Args:
            image: uint8 [H, W, 3] for a network that reads RGB, uint8 [H, W] for one that reads thermal images (see
                `images.to_rgb8` and `images.to_gray8` for other kinds).
            boxes: [F, 4] (x, y, w, h) in pixels by the convention of `landmarks.box_from_points`; None uses the whole
                image as the box of one face.

        Returns:
            landmarks float32 [F, K, 2] in pixels of `image`, and scores float32 [F] in (0, 1]: how well the predictions
            for the crop and for its mirror image agree (1: exactly; 0.5: apart by 5 % of the crop's side on average).

        Raises:
            InputError: an image of the wrong type, or a box that is empty or outside the image.
        """
        image = _array(image, "The image")
        if image.ndim not in (2, 3):
            raise InputError(f"The image must be an array [H, W] or [H, W, 3] of uint8, not of shape {image.shape}.")
        height, width = image.shape[:2]
        boxes = _array([[0, 0, width, height]] if boxes is None else boxes, "The array of boxes", np.float32)
        boxes = boxes.reshape(0, 4) if boxes.shape == (0,) else boxes
        if boxes.shape[1:] != (4,):
            raise InputError(f"Boxes have shape {boxes.shape}, not [F, 4] (x, y, w, h).")
        card, layout = self.card, self.card.layout
        nothing = {"landmarks": np.zeros((layout.count, 2), np.float32), "visible": np.ones(layout.count, bool)}
        points, scores = [], []
        for box in boxes:
            example = nothing | {card.modality: image, "box": box}
            crop = augment.crop(example, size=card.image_size, expand=card.expand, layout=layout)
            plain = crop[card.modality]
            pair = self.predict_crops(np.stack([plain, plain[:, ::-1]]))
            mirrored = (np.array([1.0, 0.0]) + np.array([-1.0, 1.0]) * pair[1])[layout.flip]
            mean = (pair[0] + mirrored) / 2
            apart = np.linalg.norm(pair[0] - mirrored, axis=-1).mean()
            points.append(codecs.to_original(mean[None], crop["to_image"][None], card.image_size)[0])
            scores.append(1.0 / (1.0 + apart / _APART))
        return np.asarray(points, np.float32).reshape(-1, layout.count, 2), np.asarray(scores, np.float32)

    def predict_crops(self, crops: np.ndarray) -> np.ndarray:
        """Predicts landmarks, float32 [N, K, 2] in u, for crops as of `augment.crop`, float32 [N, S, S, 1 or 3]."""
        return np.asarray(self._predict(self._network, crops))


def predict_files(
    paths: Sequence[str], *, model: str, stage: str | None = None, box: str = "", boxes: str = "", out: str
) -> dict[str, dict[str, Any]]:
    """Predicts one face in every image, and writes `predictions.json` and an overlay of each image to `out`.

    An image that cannot be used does not stop the others: they are predicted and saved first, and then an InputError
    reports those that failed. Predictions of other images that `out` holds from an earlier call are kept.

    Args:
        paths: image files (see `images.read`).
        model: the work directory of a run.
        stage: see `Predictor`.
        box: "x,y,w,h" for all images, or "".
        boxes: a JSON file of boxes by file name, or "".
        out: folder, created if it is missing.

    Returns:
        The content of predictions.json: {"file name": {"box", "layout", "landmarks"}}, in pixels of the original image.
    """
    given = box_input.parse_box(box) if box else None
    by_name = box_input.read_boxes(boxes) if boxes else {}
    _check_names(paths, by_name, boxes)
    predictor = Predictor(model, stage=stage)
    folder = epath.Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot make the folder {out}: {error}; give another --out.") from error
    predictions, failures = _earlier(folder / "predictions.json"), []
    count = 0
    for path in paths:
        name = epath.Path(path).name
        try:
            predictions[name] = _predict_file(path, predictor, given or by_name.get(name), folder)
            count += 1
        except InputError as error:
            failures.append(str(error))
    if count:
        write_json(folder / "predictions.json", predictions)
        kept = f"; predictions.json also has {len(predictions) - count} of earlier calls" * (len(predictions) > count)
        say(f"Wrote predictions.json and {count} overlays to {folder}{kept}.")
    if failures:
        raise InputError(f"{len(failures)} of {len(paths)} images were left out: {' '.join(failures)}")
    return predictions


def _earlier(path: epath.Path) -> dict[str, dict[str, Any]]:
    """Returns the predictions of earlier calls; raises InputError if the file holds something else."""
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no predictions and would be overwritten; remove it, or give another --out.")
    return content


def _array(given: Any, what: str, dtype: DTypeLike | None = None) -> np.ndarray:
    """Returns numbers as an array; `what` is the subject of the message if they are something else."""
    try:
        array = np.asarray(given, dtype)
    except (TypeError, ValueError):  # such as lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "buif":
        raise InputError(f"{what} must hold numbers; {type(given).__name__} was given.")
    return array


def _stage_folder(workdir: epath.Path, stage: str | None) -> epath.Path:
    """Returns the folder of a finished stage; raises InputError if there is none."""
    if not (workdir / "config.json").exists():
        raise stored.no_run(workdir)
    named = read_json(workdir / "config.json")
    asked = named.get("stages") if isinstance(named, dict) else None
    if not asked or not isinstance(asked, list) or not all(isinstance(name, str) for name in asked):
        raise InputError(f"{workdir / 'config.json'} names no stages; restore it, or use another work directory.")
    finished = [path.parent.name for path in workdir.glob(f"*/{stored.CARD}")]
    stage = stage or asked[-1]
    if stage in finished:
        return workdir / stage
    if stage not in asked:
        raise InputError(f"{workdir} has no stage {stage!r}; {did_you_mean(stage, dict.fromkeys([*asked, *finished]))}")
    raise InputError(f"Stage {stage} of {workdir} is not finished; run the training command again to finish it.")


def _check_names(paths: Sequence[str], by_name: Mapping[str, Any], boxes: str) -> None:
    names = [epath.Path(path).name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"Two images are both called {twice[0]}; results go by file name, so predict them separately.")
    if boxes and not set(names) & set(by_name):
        raise InputError(f"{boxes} has no box for any of the images; its keys must be file names, such as {names[0]}.")


def _predict_file(path: str, predictor: Predictor, box: Sequence[float] | None, folder: epath.Path) -> dict[str, Any]:
    image, note = image_file.for_network(images.read(path), predictor.card.modality, predictor.card.thermal_range)
    if note:
        say(f"{path}: {note}")
    height, width = image.shape[:2]
    if box is None:
        say(f"{path}: no box given, so the whole image is used as the box of the face.")
        box = (0, 0, width, height)
    landmarks_lib.check_box_inside(box, width, height, f"The box of {path}")
    points, scores = predictor(image, np.asarray([box], np.float32))
    overlay = draw.draw_landmarks(image, points[0], predictor.card.layout, box=box)
    name = epath.Path(path).name
    target = folder / f"{name}_landmarks.png"  # it keeps its extension, because a.npy and a.png may both be given
    if not cv2.imwrite(str(target), cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR)):
        raise InputError(f"Cannot write {target}; is the disk full, or the folder read-only?")
    say(f"{name}: agreement with the mirror image {scores[0]:.2f}")
    return {
        "box": [float(value) for value in box],
        "layout": predictor.layout,
        "landmarks": [[round(float(x), 3), round(float(y), 3)] for x, y in points[0]],
    }
