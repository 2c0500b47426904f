"""Finds faces in real thermal images, and in rendered scenes without a face: recall, precision and false alarms.

    python -m benchmarks.detection FOLDER
    python -m benchmarks.detection FOLDER --model=runs/detector --min_score=0.4 --overlays=found.png
    python -m benchmarks.detection FOLDER --mediapipe=face_detection_short_range.tflite --dlib --scenes=2000

FOLDER holds `labelled/thermal/*.jpg` with `labelled/boxes.json` and `labelled/labels.json`, `fever16/*.png` with
`fever16/boxes.json` (every image has one face), and `negatives/*.png` (none has any). Every image is taken as it is,
and inverted (black-hot). A box is right if its IoU with the face is at least 0.4. MediaPipe's file comes from the wheel
of 0.10.21 (see benchmarks/inference.py); it has its own threshold, 0.5. The results are in docs/real_faces.md.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from mlcm_jax import detection
from mlcm_jax.console import say
from mlcm_jax.data import draw, image_file
from mlcm_jax.evaluation import detections
from mlcm_jax.inference.detector import Detector
from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.synthetic import crowd, generate

Side = Callable[[image_file.Image], tuple[np.ndarray, np.ndarray]]  # boxes [F, 4] and scores [F]


def ours(model: str | None, min_score: float | None) -> Side:
    """The boxes of `finder`."""
    predictor = finder(model)

    def find(image: image_file.Image) -> tuple[np.ndarray, np.ndarray]:
        faces = predictor(image, min_score=min_score)
        return faces.boxes, faces.detections

    return find


def alone(model: str | None) -> Side:
    """The detector without the judgement of the landmarks, at its own threshold."""
    detector = Detector(model)
    return lambda image: detector(image)


def mediapipe(path: Path) -> Side:
    """MediaPipe's short-range detector: anchors of strides 8 and 16, and non-maximum suppression at 0.3."""
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(str(path), num_threads=1)
    network.allocate_tensors()
    (inputs,), outputs = network.get_input_details(), network.get_output_details()
    side = int(inputs["shape"][1])
    raw, logits = (next(o["index"] for o in outputs if o["shape"][-1] == width) for width in (16, 1))
    grids = [np.stack(np.meshgrid(*[(np.arange(side // s) + 0.5) * s / side] * 2), -1) for s in (8, 16)]
    anchors = np.concatenate([grid.reshape(-1, 2).repeat(n, 0) for grid, n in zip(grids, (2, 6), strict=True)])

    def find(image: image_file.Image) -> tuple[np.ndarray, np.ndarray]:
        gray = image.gray
        step = max(gray.shape) / side
        corner = np.array([gray.shape[1] / 2, gray.shape[0] / 2]) - step * side / 2
        move = np.float32([[step, 0, corner[0]], [0, step, corner[1]]])
        crop = cv2.warpAffine(gray, move, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        network.set_tensor(inputs["index"], np.repeat(crop[None, ..., None], 3, -1).astype(np.float32) / 127.5 - 1)
        network.invoke()
        values = network.get_tensor(raw)[0] / side
        scores = 1 / (1 + np.exp(-np.clip(network.get_tensor(logits)[0, :, 0], -80, 80)))
        middle, size = values[:, :2] + anchors, values[:, 2:4]
        boxes = np.concatenate([(middle - size / 2) * side * step + corner, size * side * step], 1)
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), 0.5, 0.3)
        kept = np.asarray(kept, int).reshape(-1)  # an empty tuple if there is none
        return boxes[kept], scores[kept]

    return find


def dlib_hog() -> Side:
    """Dlib's frontal detector, on the image enlarged twice, as it needs faces of 80 pixels."""
    import dlib

    detector = dlib.get_frontal_face_detector()

    def find(image: image_file.Image) -> tuple[np.ndarray, np.ndarray]:
        found, scores, _ = detector.run(image.gray, 1, 0.0)
        boxes = [[one.left(), one.top(), one.width(), one.height()] for one in found]
        order = np.argsort(-np.array(scores))
        return np.array(boxes, float).reshape(-1, 4)[order], np.array(scores)[order]

    return find


def inverted(image: image_file.Image) -> image_file.Image:
    """The image with cold and hot exchanged."""
    return image_file.as_image(255 - image.gray if image.levels else -image.values)


def read(folder: Path) -> dict[str, list[tuple[str, image_file.Image, list]]]:
    """The images of each part, with their names and boxes."""
    parts: dict[str, list] = {}
    for part, images in (("labelled", "labelled/thermal"), ("fever16", "fever16")):
        boxes = json.loads((folder / part / "boxes.json").read_text())
        parts[part] = [(name, image_file.read_image(folder / images / name), [box]) for name, box in boxes.items()]
    files = sorted((folder / "negatives").glob("*.png"))
    parts["negatives"] = [(path.name, image_file.read_image(path), []) for path in files]
    return parts


def matched(side: Side, images: list[tuple[str, image_file.Image, list]]) -> detections.Matches:
    """What a detector finds in some images."""
    rows = []
    for _, image, boxes in images:
        found, scores = side(image)
        row = {"found": found, "scores": scores, "boxes": boxes, "counts": [True] * len(boxes)}
        rows.append(row | {"side": max(image.values.shape)})
    return detections.match(rows)


def empty_scenes(count: int) -> list[tuple[str, image_file.Image, list]]:
    """Rendered scenes without a face."""
    scenes = [crowd.example(77, k, size=(128, 256), empty=True)["thermal"] for k in range(count)]
    return [(str(k), image_file.as_image(scene), []) for k, scene in enumerate(scenes)]


def finder(model: str | None, layout: str | None = None) -> Predictor:
    """The shipped predictor, with its own detector or that of a folder."""
    predictor = Predictor(layout=layout)
    if model:
        predictor.detector = Detector(model)
    return predictor


def landmark_errors(model: str | None, folder: Path, images: list) -> dict[str, np.ndarray]:
    """Computes the NME in per cent by the eye corners: with true boxes, as faces are found, and cropped again."""
    from benchmarks.real_faces import errors

    labels = json.loads((folder / "labelled" / "labels.json").read_text())
    predictor = finder(model, "sf_tl54")
    found: dict[str, list] = {"true boxes": [], "as found": [], "cropped again": []}
    for name, image, boxes in images:
        truth = np.array(labels[Path(name).stem]["landmarks"], float)
        first = predictor(image, max_faces=1)
        if not len(first):
            continue
        for key, points in (
            ("true boxes", predictor(image, np.float32(boxes)).landmarks[0]),
            ("as found", first.landmarks[0]),
            ("cropped again", predictor(image, first.boxes).landmarks[0]),
        ):
            found[key].append(errors(points, truth))
    return {key: np.mean(values, 0) for key, values in found.items() if values}


def rendered_errors(model: str | None, count: int) -> dict[str, float]:
    """Computes the NME on rendered faces, in per cent of √(w·h), with true boxes and as faces are found."""
    predictor = finder(model)
    found: dict[str, list] = {"true boxes": [], "as found": []}
    for k in range(count):
        pair = generate.example(91, 4 * k, size=(96, 192))
        image, truth = image_file.as_image(pair["thermal"]), pair["landmarks"]
        mine = predictor(image)
        right = [k for k, box in enumerate(mine.boxes) if detection.box_iou(box, pair["box"]) >= detections.IOU]
        if right:
            true = predictor(image, pair["box"][None]).landmarks[0]
            for key, points in (("true boxes", true), ("as found", mine.landmarks[right[0]])):
                distance = np.linalg.norm(points - truth, axis=-1).mean()
                found[key].append(100 * distance / np.sqrt(pair["box"][2] * pair["box"][3]))
    return {f"{key} ({len(values)} of {count} faces found)": float(np.mean(values)) for key, values in found.items()}


def overlays(path: str, side: Side, images: list) -> None:
    """Draws what is found in some images."""
    tiles = []
    for name, image, boxes in images:
        found, scores = side(image)
        shown = draw.draw_faces(image.gray, [], smallest=0)
        scale = 200 / max(shown.shape[:2])
        tile = np.zeros((220, 200, 3), np.uint8)
        small = cv2.resize(shown, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        tile[: small.shape[0], : small.shape[1]] = small
        for group, colour in ((boxes, (0, 255, 0)), (found, (255, 60, 60))):
            for x, y, w, h in np.asarray(group, float).reshape(-1, 4) * scale:
                cv2.rectangle(tile, (round(x), round(y)), (round(x + w), round(y + h)), colour, 1)
        text = f"{name[:16]} " + " ".join(f"{score:.2f}" for score in scores[:3])
        cv2.putText(tile, text, (2, 215), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (255, 255, 0), 1)
        tiles.append(tile)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % 8)
    cv2.imwrite(path, np.vstack([np.hstack(tiles[k : k + 8]) for k in range(0, len(tiles), 8)])[..., ::-1])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="a folder with a detector; default: the shipped one")
    parser.add_argument("--min_score", type=float, help="default: the detector's own threshold")
    parser.add_argument("--mediapipe", type=Path, help="face_detection_short_range.tflite")
    parser.add_argument("--dlib", action="store_true")
    parser.add_argument("--scenes", type=int, default=200, help="number of rendered scenes without a face")
    parser.add_argument("--overlays", help="image file for what our detector finds, except in people never looked at")
    given = parser.parse_args()
    parts = read(given.folder)
    parts["rendered, no face"] = empty_scenes(given.scenes)
    sides = {"ours": ours(given.model, given.min_score), "detector": alone(given.model)}
    sides |= {"MediaPipe": mediapipe(given.mediapipe)} if given.mediapipe else {}
    sides |= {"dlib": dlib_hog()} if given.dlib else {}
    say(f"{'':21s} recall: labelled     fever16  precision  false alarms: negatives, rendered")
    for name, side in sides.items():
        for kind, change in (("plain", lambda image: image), ("inverted", inverted)):
            changed = {part: [(n, change(i), b) for n, i, b in images] for part, images in parts.items()}
            faces = [*changed["labelled"], *changed["fever16"]]
            recall = [float((matched(side, changed[part]).found > 0).mean()) for part in ("labelled", "fever16")]
            precision = detections.rates(matched(side, faces), 1e-9)["precision"]
            alarms = [detections.rates(matched(side, changed[part]), 1e-9)["false_alarms"] for part in list(parts)[2:]]
            say(
                f"{name:10s} {kind:10s} {100 * recall[0]:19.1f} {100 * recall[1]:11.1f} {100 * precision:10.1f} "
                f"{100 * alarms[0]:6.1f} {100 * alarms[1]:6.1f}"
            )
    for key, values in landmark_errors(given.model, given.folder, parts["labelled"]).items():
        say(f"NME of the shipped landmarks, {key}: {values[0]:.2f} / {values[1]:.2f}")
    for key, value in rendered_errors(given.model, 300).items():
        say(f"NME of the shipped landmarks, rendered faces, {key}: {value:.2f}")
    if given.overlays:
        shown = [one for one in parts["labelled"] if one[0].startswith("s5")][::6]
        overlays(given.overlays, sides["ours"], [*shown, *parts["fever16"][::4], *parts["negatives"]])


if __name__ == "__main__":
    main()
