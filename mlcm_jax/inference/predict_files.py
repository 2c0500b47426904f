"""The command `mlcm predict`: image files and folders of them -> predictions.json and overlays."""

import collections
import glob
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath

from mlcm_jax import detection, landmarks, units, vendors
from mlcm_jax import polarity as polarities
from mlcm_jax.console import say
from mlcm_jax.data import boxes as box_input
from mlcm_jax.data import draw, gain, image_file
from mlcm_jax.errors import InputError
from mlcm_jax.files import read_json, write_json
from mlcm_jax.images import SUFFIXES
from mlcm_jax.inference import regions as face_regions
from mlcm_jax.inference.faces import Faces
from mlcm_jax.inference.predictor import Predictor

_OVERLAY = "_landmarks.png"  # added to the name of an image


def predict_files(  # noqa: PLR0913
    paths: Sequence[str],
    *,
    model: str | None = None,
    stage: str | None = None,
    box: str = "",
    boxes: str = "",
    celsius: str = "auto",
    polarity: str = "white_hot",
    regions: bool = False,
    out: str,
    overwrite: bool = False,
    max_faces: int = 20,
    min_score: float | str | None = None,
) -> dict[str, dict[str, Any]]:
    """Predicts the faces in every image, and writes `predictions.json` and an overlay of each image to `out`.

    An image that cannot be used does not stop the others: they are predicted and saved first, and then an InputError
    reports those that failed. An image, or a box, with one value only is one of those. A face with a score below
    `Predictor.doubtful` is told. Predictions of other images that `out` holds from an earlier call are kept.

    Args:
        paths: image files (see `data.image_file.read_image`), folders of them, and patterns such as `a/*.png`.
        model: the work directory of a run; None means the shipped network.
        stage: see `Predictor`.
        box: "x,y,w,h" for all images, or "".
        boxes: a JSON file of boxes by key (see below) or by file name, or "".
        celsius: the unit of 16-bit and float images, see `data.image_file.read_image`. A face that would be colder than
            -10 °C or hotter than 45 °C is told.
        polarity: "black_hot" inverts images in which cold is bright, see `data.image_file.read_image`. In an image
            without temperatures, a face that is darker than its surroundings is told.
        regions: whether to measure the temperatures of the regions of each face (`regions.measure`), which then are in
            predictions.json and in regions.csv. An image without temperatures is one that cannot be used.
        out: folder, created if it is missing and anything is predicted.
        overwrite: whether predictions of an earlier call for the same key may be replaced.
        max_faces: the largest number of faces that the detector finds in an image without a given box.
        min_score: the smallest score of such a face; None takes the detector's own.

    Returns:
        The content of predictions.json: {key: {"faces": [{"box", "layout", "landmarks", "score", "detection",
        "uncertainty"}], "box", "layout", "landmarks"}}, in pixels of the original image; the last three repeat the
        first face, and are None without one. Faces have "regions" if these are asked for. The key of an image is its
        path in the folder that was given, or in the folder before the first * of a pattern. The key of a single file
        is its name.

    Raises:
        InputError: no image, two images with one key, a key that `out` holds already, bad boxes, or images that could
            not be predicted.
    """
    if celsius != "auto":
        units.parse(celsius)
    polarities.is_black_hot(polarity)
    folder = epath.Path(out)
    images = _images(paths, folder)
    given = box_input.parse_box(box) if box else None
    by_key = _by_key(images, box_input.read_boxes(boxes), boxes) if boxes else {}
    kept = _earlier(folder / "predictions.json")
    known = [key for key in images if key in kept]
    if known and not overwrite:
        raise InputError(
            f"{folder / 'predictions.json'} holds {len(known)} of these {len(images)} images already, such as "
            f"{known[0]}; replace them by --overwrite, or give another --out."
        )
    predictor, found, failures, undrawn = Predictor(model, stage=stage), {}, [], []
    limits = {"max_faces": max_faces, "min_score": _score(min_score)}
    detection.check_limits(**limits)
    try:
        for key, path in images.items():
            here = given or by_key.get(key)
            if here is None and not predictor.detector:
                missing = f"{boxes} has no box of {key}" if boxes else "no box given"
                say(f"{path}: {missing}, so the whole image is used as the box of the face.")
            elif here is None and boxes:
                say(f"{path}: {boxes} has no box of {key}, so the detector looks for faces.")
            try:
                reading = {"celsius": celsius, "polarity": polarity}
                image, entry = _predict(path, predictor, here, limits, reading, regions=regions)
            except InputError as error:
                failures.append(str(error))
                continue
            _make(folder)
            found[key] = entry
            say(_told(key, entry))
            try:
                _draw(image, entry, folder / f"{key}{_OVERLAY}")  # a.npy and a.png may both be given
            except InputError as error:
                undrawn.append(str(error))
    finally:
        if found:
            write_json(folder / "predictions.json", kept | found)
            if regions or _has_regions(kept):  # a table of earlier calls must not outlive what they measured
                _write_regions(folder / "regions.csv", kept | found)
    if found:
        others = len(kept.keys() - found.keys())
        also = f"; predictions.json also has {others} of earlier calls" * (others > 0)
        what = "predictions.json, regions.csv" if regions else "predictions.json"
        drawn = len(found) - len(undrawn)
        say(f"Wrote {what} and {drawn} overlay{'s' * (drawn != 1)} to {folder}{also}.")
    if failures or undrawn:
        lost = [f"{len(failures)} of {len(images)} images were left out: {' '.join(failures)}"] * bool(failures)
        lost += [f"{len(undrawn)} overlays are missing: {' '.join(undrawn)}"] * bool(undrawn)
        raise InputError(" ".join(lost))
    return kept | found


def _score(given: float | str | None) -> float | None:
    """Returns --min_score as a number; None for "", which means the detector's own."""
    try:
        return None if given in (None, "") else float(given)
    except ValueError:
        raise InputError(f"--min_score={given} is not a number; give one between 0 and 1, such as 0.5.") from None


def _images(paths: Sequence[str], out: epath.Path) -> dict[str, epath.Path]:
    """Finds the images: key -> path."""
    found: dict[str, epath.Path] = {}
    written = out.resolve()
    for text in paths:
        path = epath.Path(text)
        if path.is_dir():
            inner = path.resolve() in written.parents  # of what earlier calls wrote into it, nothing is an image
            inside = [one for one in _below(path, SUFFIXES) if not (inner and written in one.resolve().parents)]
            if others := _below(path, tuple(vendors.ENDINGS)):
                kinds = ", ".join(sorted({one.suffix.lower() for one in others}))
                say(f"{text}: {len(others)} files of forms that are not read ({kinds}) were left out.")
            if not inside:
                raise InputError(f"The folder {text} holds no image ({', '.join(SUFFIXES)}).")
            some = {one.relative_to(path).as_posix(): one for one in inside}
        elif glob.has_magic(text) and not path.exists():
            parts = path.parts
            start = next(k for k, part in enumerate(parts) if glob.has_magic(part))
            top = epath.Path(*parts[:start]) if start else epath.Path(".")
            matches = [epath.Path(one) for one in sorted(glob.glob(text, recursive=True))]
            some = {one.relative_to(top).as_posix(): one for one in matches if not one.is_dir()}
            if not some:
                raise InputError(f"No file fits the pattern {text}.")
        else:
            some = {path.name: path}
        for key, one in some.items():
            if one.name.endswith(_OVERLAY) and one.with_name(one.name.removesuffix(_OVERLAY)).exists():
                continue
            if found.setdefault(key, one) != one:
                raise InputError(
                    f"Two images would both be called {key}, {found[key]} and {one}; give a folder that holds both, or "
                    "predict them into different folders."
                )
    return found


def _below(folder: epath.Path, endings: Sequence[str]) -> list[epath.Path]:
    """Lists the files with some endings in a folder and its folders, sorted; hidden ones are skipped."""
    found = []
    for one in sorted(folder.iterdir()):
        if one.name.startswith("."):
            continue
        if one.is_dir():
            found += _below(one, endings)
        elif one.suffix.lower() in endings:
            found.append(one)
    return found


def _by_key(
    images: Mapping[str, epath.Path], given: Mapping[str, landmarks.Box], path: str
) -> dict[str, landmarks.Box]:
    """Finds the boxes of the images, which are given by key, or by a file name that only one image has.

    Names are compared in the form NFC, because macOS writes accents in another form than everybody else.
    """
    boxes = {unicodedata.normalize("NFC", name): box for name, box in given.items()}
    names = collections.Counter(one.name for one in images.values())
    found = {}
    for key, one in images.items():
        for name in (key, one.name) if names[one.name] == 1 else (key,):
            if (normal := unicodedata.normalize("NFC", name)) in boxes:
                found.setdefault(key, boxes[normal])
    if not found:
        first = next(iter(images))
        raise InputError(f"{path} has no box for any of the images; its keys must be file names, such as {first}.")
    return found


def _earlier(path: epath.Path) -> dict[str, dict[str, Any]]:
    """Returns the predictions of earlier calls; raises InputError if the file holds something else."""
    if not path.exists():
        return {}
    content = read_json(path)
    try:
        face_regions.table(content)  # what cannot be read as predictions cannot become a table
    except (AttributeError, KeyError, TypeError):
        raise InputError(
            f"{path} holds no predictions and would be overwritten; remove it, or give another --out."
        ) from None
    return content


def _has_regions(predictions: Mapping[str, Mapping[str, Any]]) -> bool:
    return any("regions" in face for entry in predictions.values() for face in entry.get("faces", []))


def _make(folder: epath.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot make the folder {folder}: {error}; give another --out.") from error


def _predict(
    path: epath.Path,
    predictor: Predictor,
    box: Sequence[float] | None,
    limits: Mapping[str, Any],
    reading: Mapping[str, str],
    *,
    regions: bool,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns the image to draw on, and the entry of predictions.json."""
    image = image_file.read_image(path, **reading)
    for note in image.notes:
        say(f"{path}: {note}")
    if regions and image.levels:
        raise InputError(
            f"{path}: The image has gray levels or colours of 8 bits, which are no temperatures; give the camera's "
            "radiometric file, or leave out --regions."
        )
    height, width = image.values.shape
    if box is not None and (doubt := box_input.check_face(box, width, height, f"The box of {path}")):
        say(f"{path}: {doubt}.")
    seen = image.rgb if predictor.card.modality == "rgb" and image.rgb is not None else image.values
    if gain.shows_nothing(seen):
        raise InputError(f"{path} shows nothing: all its pixels have one value, such as those of a closed shutter.")
    if box is not None and gain.shows_nothing(gain.inside(seen, box)):
        raise InputError(f"The box of {path} shows nothing: all pixels in it have one value, or it has hardly any.")
    faces = predictor(image, None if box is None else np.asarray([box], np.float32), **limits)
    if image.celsius is not None:
        parts = [(gain.inside(image.values, one), gain.inside(image.celsius, one)) for one in faces.boxes]
        for doubt in dict.fromkeys(filter(None, (units.doubt(*part) for part in parts))):
            say(f"{path}: {doubt}.")
    elif predictor.card.modality == "thermal":
        dark = sum(polarities.darker(image.gray, one) for one in faces.boxes)
        if dark:
            say(f"{path}: {_counted(dark, faces)} darker than the surroundings; {_POLARITY[reading['polarity']]}.")
    for k, score in enumerate(faces.scores):
        if score < predictor.doubtful:
            which = "the face" if len(faces) == 1 else f"face {k + 1} of {len(faces)}"
            say(f"Warning: {path}: {which} has the score {score:.2f}; below {predictor.doubtful:g}, {_DOUBT}.")
    entries = [_entry(faces, k, box) for k in range(len(faces))]
    if regions:
        try:
            found = faces.regions(image.celsius)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        for entry, one in zip(entries, found, strict=True):
            entry["regions"] = face_regions.rounded(one)
    first = {key: entries[0][key] if entries else None for key in ("box", "layout", "landmarks")}
    return image.gray if seen is image.values else image.rgb, {"faces": entries, **first}


# What is said of faces that are darker than their surroundings, by --polarity.
_POLARITY = {
    "white_hot": "if cold is bright in the image, add --polarity=black_hot",
    "black_hot": "is cold really bright in the image, as --polarity=black_hot says?",
}
_DOUBT = "the landmarks are probably wrong: look at the overlay, and give a box that fits the face"


def _counted(dark: int, faces: Faces) -> str:
    if len(faces) == 1:
        return "the face is"
    return f"{dark} of {len(faces)} faces {'is' if dark == 1 else 'are'}"


def _entry(faces: Faces, k: int, box: Sequence[float] | None) -> dict[str, Any]:
    """Face k as predictions.json has it; `box` is that of the user, which is not rounded."""
    detection = float(faces.detections[k])
    return {
        "box": [round(float(value), 3) for value in faces.boxes[k]] if box is None else [float(value) for value in box],
        "layout": faces.layout,
        "landmarks": [[round(float(x), 3), round(float(y), 3)] for x, y in faces.landmarks[k]],
        "score": round(float(faces.scores[k]), 4),
        "detection": None if np.isnan(detection) else round(detection, 4),
        "uncertainty": [None if np.isnan(value) else round(float(value), 3) for value in faces.uncertainty[k]],
    }


def _write_regions(path: epath.Path, predictions: Mapping[str, Mapping[str, Any]]) -> None:
    temporary = path.with_name(f"{path.name}.new")
    try:
        temporary.write_text(face_regions.table(predictions))
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error}; predictions.json has the same numbers.") from error


def _told(key: str, entry: Mapping[str, Any]) -> str:
    """One line about the faces of an image."""
    scores = ", ".join(f"{face['score']:.2f}" for face in entry["faces"])
    if not scores:
        return f"{key}: no face was found; if there is one, give its --box, or a smaller --min_score."
    count = len(entry["faces"])
    return f"{key}: score {scores}" if count == 1 else f"{key}: {count} faces, scores {scores}"


def _outlines(face: Mapping[str, Any]) -> list[tuple[np.ndarray, bool]]:
    """Returns the regions to draw; there are none unless they were measured."""
    hidden = {name: one["hidden"] for name, one in face.get("regions", {}).items()}
    return face_regions.drawn(np.asarray(face["landmarks"]), hidden) if hidden else []


def _draw(image: np.ndarray, entry: Mapping[str, Any], path: epath.Path) -> None:
    """Draws all faces of an image, and writes the overlay."""
    faces = [face | {"outlines": _outlines(face)} for face in entry["faces"]]
    overlay = draw.draw_faces(image, faces)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = cv2.imwrite(str(path), cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))
    except OSError:
        written = False
    if not written:
        raise InputError(f"Cannot write {path}; is the disk full, or the folder read-only?")
