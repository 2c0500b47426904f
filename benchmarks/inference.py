"""Time of one face on one thread: this package's shipped networks and MediaPipe's face mesh, each with its crop.

    pip install -e '.[export]'
    pip download --no-deps mediapipe==0.10.21 && unzip -j mediapipe-0.10.21-*.whl '*/face_landmark.tflite'
    python -m benchmarks.inference --mediapipe=face_landmark.tflite

All sides take turns in one process that is bound to one core. A time is the median of 200 calls with one face in an
image of 320 x 240 pixels; that of the detector includes its gain, its letterbox and the search of its maps. RESULTS.md
has the results.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks import machine
from mlcm_jax import detection, landmarks
from mlcm_jax.console import say
from mlcm_jax.data import augment, image_file
from mlcm_jax.export.export import export
from mlcm_jax.inference.detector import Detector
from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.synthetic import generate

CALLS = 200


def ours(path: Path, predictor: Predictor) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Crop and exported network: (gray, box) -> landmarks in u."""
    from ai_edge_litert.interpreter import Interpreter

    card = predictor.card
    network = Interpreter(str(path), num_threads=1)
    network.allocate_tensors()
    (inputs,), outputs = network.get_input_details(), network.get_output_details()
    (points,) = [one["index"] for one in outputs if len(one["shape"]) == 3]
    spec = augment.Crop(card.image_size, card.expand, card.layout, card.gain)
    nothing = {"landmarks": np.zeros((card.layout.count, 2), np.float32), "visible": np.ones(card.layout.count, bool)}

    def call(gray: np.ndarray, box: np.ndarray) -> np.ndarray:
        network.set_tensor(
            inputs["index"], augment.crop(nothing | {"thermal": gray, "box": box}, spec)["thermal"][None]
        )
        network.invoke()
        return network.get_tensor(points)

    return call


def detector_exported(path: Path, detector: Detector) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Gain, letterbox, exported network and search: gray -> boxes in u and scores."""
    from ai_edge_litert.interpreter import Interpreter

    card = detector.card
    network = Interpreter(str(path), num_threads=1)
    network.allocate_tensors()
    (inputs,), outputs = network.get_input_details(), network.get_output_details()
    scores, sides = (next(o["index"] for o in outputs if len(o["shape"]) == rank) for rank in (3, 4))
    spec = augment.Crop(card.image_size, card.expand, card.layout, card.gain)
    nothing = {"landmarks": np.zeros((card.layout.count, 2), np.float32), "visible": np.ones(card.layout.count, bool)}

    def call(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        box = (0.0, 0.0, float(gray.shape[1]), float(gray.shape[0]))
        crop = augment.crop(nothing | {"thermal": gray, "box": box}, spec)["thermal"]
        network.set_tensor(inputs["index"], crop[None])
        network.invoke()
        maps = network.get_tensor(scores)[0], network.get_tensor(sides)[0]
        return detection.find(*maps, threshold=card.threshold, max_faces=20)

    return call


def mediapipe(path: Path) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Crop of 1.5 times the longer side and MediaPipe's network: (gray, box) -> its points."""
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(str(path), num_threads=1)
    network.allocate_tensors()
    (inputs,), outputs = network.get_input_details(), network.get_output_details()
    side = int(inputs["shape"][1])

    def call(gray: np.ndarray, box: np.ndarray) -> np.ndarray:
        x, y, w, h = box
        step = 1.5 * max(w, h) / side
        move = np.float32([[step, 0, x + w / 2 - step * side / 2], [0, step, y + h / 2 - step * side / 2]])
        crop = cv2.warpAffine(gray, move, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        network.set_tensor(inputs["index"], np.repeat(crop[None, ..., None], 3, -1).astype(np.float32) / 255)
        network.invoke()
        return network.get_tensor(outputs[0]["index"])

    return call


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mediapipe", type=Path, help="face_landmark.tflite; left out if it is not given")
    given = parser.parse_args()
    say(machine.describe())
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before JAX starts its threads
    cv2.setNumThreads(1)
    pair = generate.example(3, 0, size=240, frontal=True, well_lit=True)
    gray = cv2.copyMakeBorder(pair["thermal"], 0, 0, 40, 40, cv2.BORDER_CONSTANT)
    box = landmarks.box_from_points(pair["landmarks"] + [40, 0])
    predictor = Predictor()
    with tempfile.TemporaryDirectory() as folder:
        path = export(format="tflite", out=Path(folder) / "landmarks")
        sides = {
            "exported, TFLite": ours(Path(path), predictor),
            "Predictor, JAX": lambda *one: predictor(one[0], one[1][None]),
        }
        if given.mediapipe:
            sides["MediaPipe face_landmark, TFLite"] = mediapipe(given.mediapipe)
        detector, image = Detector(), image_file.as_image(gray)
        finds = export(network="detector", format="tflite", out=Path(folder) / "detector")
        find = detector_exported(Path(finds), detector)
        sides["detector exported, TFLite"] = lambda *one: find(one[0])
        sides["Detector, JAX"] = lambda *_: detector(image)
        sides["Predictor without a box, JAX"] = lambda *one: predictor(one[0])
        sizes = {"exported, TFLite": path.stat().length, "detector exported, TFLite": finds.stat().length}
        sizes |= {"MediaPipe face_landmark, TFLite": given.mediapipe.stat().st_size} if given.mediapipe else {}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for call in range(CALLS + 20):  # the first 20 are not counted
            for name, side in sides.items():
                start = time.perf_counter()
                side(gray, box)
                if call >= 20:
                    times[name].append(1e3 * (time.perf_counter() - start))
    for name, values in times.items():
        low, middle, high = np.percentile(values, (10, 50, 90))
        size = f", {sizes[name] / 1e6:.2f} MB" if name in sizes else ""
        say(f"{name:34s} {middle:6.3f} ms (10-90 %: {low:.3f}-{high:.3f}){size}")


if __name__ == "__main__":
    main()
