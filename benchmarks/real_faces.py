"""Scores networks on real thermal faces: NME by the distance of the outer eye corners, all points and without the jaw.

    python -m benchmarks.real_faces FOLDER                      # the shipped network
    python -m benchmarks.real_faces FOLDER --model=runs/x --stage=light_alone --overlays=worst.png
    python -m benchmarks.real_faces FOLDER --mediapipe=face_landmark.tflite --dlib

FOLDER holds `thermal/NAME.jpg`, `labels.json` {name: {"landmarks", "subject", "glasses", …}} with 54 points, and
`boxes.json` {file name: [x, y, w, h]}. The network is scored on every image as it is, inverted (black-hot), and with
smaller and larger boxes. MediaPipe's file comes from the wheel of 0.10.21 (see benchmarks/inference.py). It gets a crop
of 1.5 times the box's longer side, moved up by 5 % of it, and dlib's predictor, which is trained on photographs, gets
the box. The results are in docs/real_faces.md.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from scipy import stats

from mlcm_jax import landmarks
from mlcm_jax.console import say
from mlcm_jax.inference.predictor import Predictor

Side = Callable[[np.ndarray, np.ndarray], np.ndarray]  # gray [H, W], box -> 54 points in pixels
JAW = 17
VARIANTS: dict[str, tuple[Callable, float]] = {
    "plain": (lambda gray: gray, 1.0),
    "inverted": (lambda gray: 255 - gray, 1.0),
    "box 10 % smaller": (lambda gray: gray, 0.9),
    "box 10 % larger": (lambda gray: gray, 1.1),
}
# The points of MediaPipe's mesh that are nearest to iBUG's 68.
MESH = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389, 71, 63, 105, 66, 107, 336, 296,
    334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305, 33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380, 61,
    39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip


def ours(model: str | None, stage: str | None) -> Side:
    """A network of this package."""
    predictor = Predictor(model, stage=stage, layout="sf_tl54")
    return lambda gray, box: predictor(gray, box[None]).landmarks[0]


def mediapipe(path: Path) -> Side:
    """MediaPipe's face mesh."""
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(str(path))
    network.allocate_tensors()
    (inputs,), outputs = network.get_input_details(), network.get_output_details()
    side = int(inputs["shape"][1])
    (mesh,) = [one["index"] for one in outputs if np.prod(one["shape"]) == 3 * 468]

    def find(gray: np.ndarray, box: np.ndarray) -> np.ndarray:
        x, y, w, h = box
        step = 1.5 * max(w, h) / side
        corner = np.array([x + w / 2, y + h / 2 - 0.05 * max(w, h)]) - step * side / 2
        move = np.float32([[step, 0, corner[0]], [0, step, corner[1]]])
        crop = cv2.warpAffine(gray, move, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        network.set_tensor(inputs["index"], np.repeat(crop[None, ..., None], 3, -1).astype(np.float32) / 255)
        network.invoke()
        points = network.get_tensor(mesh).reshape(468, 3)[list(MESH), :2]
        return landmarks.convert(points * step + corner, "ibug68", "sf_tl54")

    return find


def dlib_predictor() -> Side:
    """Dlib's predictor of 68 points."""
    import dlib

    from benchmarks.check_synthetic import load_dlib

    _, predictor = load_dlib()

    def find(gray: np.ndarray, box: np.ndarray) -> np.ndarray:
        x, y, w, h = box.tolist()
        found = predictor(gray, dlib.rectangle(round(x), round(y), round(x + w), round(y + h)))
        points = np.array([(point.x, point.y) for point in found.parts()], np.float64)
        return landmarks.convert(points, "ibug68", "sf_tl54")

    return find


def scaled(box: np.ndarray, factor: float) -> np.ndarray:
    """A box with the same centre and other sides."""
    x, y, w, h = box
    return np.array([x + w * (1 - factor) / 2, y + h * (1 - factor) / 2, w * factor, h * factor], np.float32)


def errors(points: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """NME in per cent by the outer eye corners: all 54 points, and without the jaw."""
    distance = np.linalg.norm(points - truth, axis=-1) / np.linalg.norm(truth[36] - truth[45])
    return 100 * np.array([distance.mean(), distance[JAW:].mean()])


def draw(path: str, images: list, truths: list, found: list, boxes: list) -> None:
    """Draws the 20 worst faces: the labels green, the predictions red, the error in per cent."""
    tiles = []
    for k in sorted(range(len(images)), key=lambda k: -errors(found[k], truths[k])[0])[:20]:
        x, y, w, h = boxes[k]
        scale = 240 / (1.5 * max(w, h))
        move = np.float32([[scale, 0, 120 - scale * (x + w / 2)], [0, scale, 120 - scale * (y + h / 2)]])
        tile = cv2.cvtColor(cv2.warpAffine(images[k], move, (240, 240), flags=cv2.INTER_CUBIC), cv2.COLOR_GRAY2BGR)
        for shown, colour in ((truths[k], (0, 255, 0)), (found[k], (60, 60, 255))):
            for px, py in shown @ move[:, :2].T + move[:, 2]:
                cv2.circle(tile, (round(px), round(py)), 1, colour, -1)
        text = f"{errors(found[k], truths[k])[0]:.1f}"
        cv2.putText(tile, text, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 255, 255), 1)
        tiles.append(tile)
    tiles += [np.zeros((240, 240, 3), np.uint8)] * (-len(tiles) % 5)
    cv2.imwrite(path, np.vstack([np.hstack(tiles[k : k + 5]) for k in range(0, len(tiles), 5)]))


def main() -> None:
    """Prints the tables, and draws the worst faces of one person."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="work directory of a run; default: the shipped network")
    parser.add_argument("--stage")
    parser.add_argument("--mediapipe", type=Path, help="face_landmark.tflite")
    parser.add_argument("--dlib", action="store_true")
    parser.add_argument("--overlays", help="image file for the worst 20 faces of --subject")
    parser.add_argument("--subject", default="s5", help="the person whose faces are drawn")
    given = parser.parse_args()
    labels = json.loads((given.folder / "labels.json").read_text())
    subjects = sorted({label["subject"] for label in labels.values()})
    if given.overlays and given.subject not in subjects:
        parser.error(f"no face of --subject={given.subject}; there are {', '.join(subjects)}")
    by_name = {Path(name).stem: box for name, box in json.loads((given.folder / "boxes.json").read_text()).items()}
    boxes = [np.array(by_name[name], np.float32) for name in labels]
    truths = [np.array(label["landmarks"], np.float64) for label in labels.values()]
    images = [
        cv2.imread(str(next((given.folder / "thermal").glob(f"{name}.*"))), cv2.IMREAD_GRAYSCALE) for name in labels
    ]
    groups = {"all": [True] * len(labels)}
    for key in ("subject", "glasses"):
        for value in sorted({label[key] for label in labels.values()}):
            groups[f"{key} {value}"] = [label[key] == value for label in labels.values()]
    sides = {"network": ours(given.model, given.stage)}
    sides |= {"MediaPipe": mediapipe(given.mediapipe)} if given.mediapipe else {}
    sides |= {"dlib": dlib_predictor()} if given.dlib else {}
    say(f"{'':10s} {'variant':18s} {'group':18s} images    all  no jaw")
    for name, side in sides.items():
        for variant, (change, factor) in VARIANTS.items():
            found = [side(change(gray), scaled(box, factor)) for gray, box in zip(images, boxes, strict=True)]
            values = np.array([errors(one, truth) for one, truth in zip(found, truths, strict=True)])
            for group, chosen in groups.items():
                if variant == "plain" or group == "all":
                    mean = values[np.array(chosen)].mean(0)
                    say(f"{name:10s} {variant:18s} {group:18s} {sum(chosen):6d} {mean[0]:6.2f} {mean[1]:6.2f}")
            if name == "network" and variant == "plain":
                plain = found
    predictor = Predictor(given.model, stage=given.stage, layout="sf_tl54")
    expected = np.array([predictor(gray, box[None]).uncertainty[0] for gray, box in zip(images, boxes, strict=True)])
    observed = np.linalg.norm(np.array(plain) - np.array(truths), axis=-1)
    rank = stats.spearmanr(expected.ravel(), observed.ravel()).statistic
    say(f"expected over observed distance {expected.mean() / observed.mean():.2f}, rank correlation {rank:.2f}")
    units = np.array([np.linalg.norm(truth[36] - truth[45]) for truth in truths])[:, None, None]
    offsets = 100 * ((np.array(plain) - np.array(truths)) / units).mean(0)
    say("mean offset (x, y) in per cent of the eye distance, by landmark:")
    say(" ".join(f"{k}:{x:+.0f},{y:+.0f}" for k, (x, y) in enumerate(offsets)))
    if given.overlays:
        own = [k for k, label in enumerate(labels.values()) if label["subject"] == given.subject]
        draw(given.overlays, *([values[k] for k in own] for values in (images, truths, plain, boxes)))


if __name__ == "__main__":
    main()
