"""Landmarks in a user's images: `Predictor` for code, `predict_files` for the command line."""

from collections.abc import Sequence

import cv2
import jax
import numpy as np
from etils import epath

from mlcm_jax import codecs
from mlcm_jax.console import say
from mlcm_jax.data import augment, draw, image_file
from mlcm_jax.data import boxes as box_input
from mlcm_jax.data.examples import fixed_range
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import evaluate
from mlcm_jax.files import write_json
from mlcm_jax.training import sharding, stages
from mlcm_jax.training.workdir import load_stage


class Predictor:
    """A trained stage, ready to be called on one image after another.

    Args:
      path: the work directory of a run.
      stage: whose network; `compress`, the light thermal student, by default.

    Raises:
      InputError: no such run or stage, or the stage is not trained to its end.
    """

    def __init__(self, path: epath.PathLike | None = None, *, stage: str = "compress"):
        if path is None:
            raise InputError(
                "No model ships with this version; train one with "
                "`mlcm train --config=configs/tiny.py --workdir=runs/tiny` and name its work directory."
            )
        # Images come one at a time and have no batch to split.
        self._mesh = sharding.make_mesh(jax.local_devices()[:1])
        self._trained = load_stage(path, stage, mesh=self._mesh, say=say)
        config = self._trained.config
        self.layout = stages.layout(config).name
        self._layout = stages.layout(config)
        self.modality = stages.modality(stage, config)
        # °C that are black and white for a network that reads temperatures; () for the others.
        self.thermal_range = tuple(config.thermal_range) if self.modality == "thermal" else ()
        self._size, self._expand = config.image_size, config.augment.expand
        self._predict = evaluate.predictor(self._trained.network, self.modality, self._mesh)

    def __call__(self, image: np.ndarray, boxes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks of every face.

        Args:
          image: uint8 [H, W, 3] for a network that reads RGB, uint8 [H, W] for one that reads thermal images
            (see `image_file.to_rgb8` and `image_file.to_gray8` for other kinds).
          boxes: [F, 4] (x, y, w, h) in pixels by the convention of `landmarks.box_from_points`; None takes the whole
            image as one face.

        Returns:
          landmarks float32 [F, K, 2] in pixels of `image`, and scores float32 [F] in (0, 1]: how well the answers for
          the crop and for its mirror image agree (1: exactly; 0.5: apart by 5 % of the crop's side on average).

        Raises:
          InputError: an image of another type, or a box that is empty or outside the image.
        """
        height, width = image.shape[:2]
        boxes = np.asarray([[0, 0, width, height]] if boxes is None else boxes, np.float32).reshape(-1, 4)
        layout = self._layout
        nothing = {"landmarks": np.zeros((layout.count, 2), np.float32), "visible": np.ones(layout.count, bool)}
        points, scores = [], []
        for box in boxes:
            example = nothing | {self.modality: image, "box": box}
            crop = augment.crop(example, size=self._size, expand=self._expand, layout=layout)
            pair = self._predict({self.modality: np.stack([crop[self.modality], crop[self.modality][:, ::-1]])})
            mirrored = (np.array([1.0, 0.0]) + np.array([-1.0, 1.0]) * pair[1])[layout.flip]
            found = (pair[0] + mirrored) / 2
            apart = np.linalg.norm(pair[0] - mirrored, axis=-1).mean()
            points.append(codecs.to_original(found[None], crop["to_image"][None], self._size)[0])
            scores.append(1.0 / (1.0 + apart / 0.05))
        return np.asarray(points, np.float32), np.asarray(scores, np.float32)


def predict_files(
    paths: Sequence[str], *, model: str, stage: str = "compress", box: str = "", boxes: str = "", out: str
) -> dict[str, dict]:
    """Predicts one face in every image, writes `predictions.json` and one overlay an image to `out`.

    An image that cannot be used does not stop the others: they are finished and saved first, then an InputError names
    what failed.

    Args:
      paths: image files (see `image_file.read_image`).
      model, stage: see `Predictor`.
      box: "x,y,w,h" for all images, or "".
      boxes: a JSON file of boxes by file name, or "".
      out: folder, made if missing.

    Returns:
      The content of predictions.json: {"file name": {"box", "layout", "landmarks"}}, pixels of the original image.
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
    predictions, failures = {}, []
    for path in paths:
        name = epath.Path(path).name
        try:
            predictions[name] = _predict_file(path, predictor, given or by_name.get(name), folder)
        except InputError as error:
            failures.append(str(error))
    write_json(folder / "predictions.json", predictions)
    say(f"Wrote predictions.json and {len(predictions)} overlays to {folder}.")
    if failures:
        raise InputError(f"{len(failures)} of {len(paths)} images were left out: {' '.join(failures)}")
    return predictions


def _in_range(image: image_file.ImageFile, thermal_range: Sequence[float]) -> np.ndarray:
    """Temperatures as the network was trained to read them (config.thermal_range): uint8 [H, W]."""
    if image.kind != "float":
        raise InputError(f"{image.name} holds no temperatures, which this network reads; give °C (.npy, .tiff).")
    raw = np.nan_to_num((image.array.astype(np.float64) + 273.15) * 100.0)
    return fixed_range(raw.round().clip(0, 65535).astype(np.uint16), *thermal_range)


def _check_names(paths: Sequence[str], by_name: dict, boxes: str) -> None:
    names = [epath.Path(path).name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"Two images are both called {twice[0]}; results go by file name, so predict them separately.")
    if boxes and not set(names) & set(by_name):
        raise InputError(f"{boxes} has a box for none of the images; its keys are file names such as {names[0]}.")


def _predict_file(path, predictor, box, folder) -> dict:
    file = image_file.read_image(path)
    if predictor.thermal_range:
        image, note = _in_range(file, predictor.thermal_range), ""
    else:
        image, note = (image_file.to_gray8 if predictor.modality == "thermal" else image_file.to_rgb8)(file)
    if note:
        say(f"{path}: {note}")
    height, width = image.shape[:2]
    if box is None:
        say(f"{path}: no box given, so the whole image is taken to be the face.")
        box = (0, 0, width, height)
    box_input.check_inside(box, width, height, f"The box of {path}")
    points, scores = predictor(image, np.asarray([box], np.float32))
    overlay = draw.draw_landmarks(image, points[0], predictor._layout, box=box)
    name = epath.Path(path).name
    target = folder / f"{name}_landmarks.png"  # with its ending: a.npy and a.png may lie side by side
    if not cv2.imwrite(str(target), cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR)):
        raise InputError(f"Cannot write {target}; is the disk full, or the folder read-only?")
    say(f"{name}: agreement with the mirror image {scores[0]:.2f}")
    return {
        "box": [float(value) for value in box],
        "layout": predictor.layout,
        "landmarks": [[round(float(x), 3), round(float(y), 3)] for x, y in points[0]],
    }
