"""Scores the shipped network on files whose images were disturbed, and finds the score below which an answer is bad.

    python -m benchmarks.disturbed                    # 300 faces, some 10 minutes
    python -m benchmarks.disturbed --faces=40 --model=runs/x --stage=light_alone

Every face is rendered (`synthetic.generate`, people whom no training has seen), put into a wider scene, disturbed,
written as a file, and read back as a user's, with the true box. Files are PNG of 16 bits (hundredths of a kelvin), TIFF
of floats (°C), and faded PNG of 8 bits (0.4 K per gray level, so that a face has some 25 levels). Dead pixels, rows
without values and telemetry are those of a camera; lamp, window and second person are things in view, which overlap the
margin that the network sees around the box in half of the images, and lie outside it in the other half.

The second table is about `faces.scores`: the share of good answers (NME of at most 10 %) and of bad ones that have a
score below a threshold. Its answers are those of the first table, of boxes that are wrong, and of images without a
face; all answers of the latter are bad. The results are in docs/real_faces.md.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tifffile

from mlcm_jax import console, metrics, read_image
from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.synthetic import generate

SEED = 7  # of people whom no training has seen
FACE, WIDER = 96, 72  # pixels: the rendered image, and what is added on every side
EXPAND = 1.2  # the side of the network's crop over the longer side of the box
DEAD = 0.02  # share of the pixels
GOOD = 10.0  # NME in per cent, up to which an answer is good
KELVINS = 0.4  # per gray level of faded images, of which level 60 is 0 °C


class Scene(NamedTuple):
    """A face in a wider image.

    Attributes:
        celsius: float32 [H, W].
        box: x, y, w, h in pixels.
        points: [68, 2] in pixels.
        inside: whether a thing in view overlaps the margin of the crop.
        lost: bool [H, W], True where a camera gives no temperature.
        telemetry: rows of telemetry that a file has below the image, or above it if negative.
    """

    celsius: np.ndarray
    box: np.ndarray
    points: np.ndarray
    inside: bool
    lost: np.ndarray
    telemetry: int = 0


Disturbance = Callable[[Scene, np.random.Generator], Scene]


def scene(index: int, seed: int = SEED) -> Scene:
    """Renders a face in a wider scene, which continues the borders of the rendered image."""
    pair = generate.example(seed, 4 * index, size=FACE)  # four images show one person
    smooth = cv2.GaussianBlur(pair["celsius"], (0, 0), 3, borderType=cv2.BORDER_REPLICATE)
    wide = cv2.copyMakeBorder(smooth, WIDER, WIDER, WIDER, WIDER, cv2.BORDER_REPLICATE)
    noise = float(np.median(np.abs(np.diff(pair["celsius"], axis=1)))) / 1.35
    wide += np.random.default_rng([seed, index]).normal(0, noise, wide.shape).astype(np.float32)
    wide[WIDER:-WIDER, WIDER:-WIDER] = pair["celsius"]
    corner = np.array([WIDER, WIDER])
    box = pair["box"] + np.array([*corner, 0, 0], np.float32)
    return Scene(wide, box, pair["landmarks"] + corner, bool(index % 2), np.zeros(wide.shape, bool))


def _beside(one: Scene, rng: np.random.Generator) -> tuple[int, float]:
    """Where a thing in view begins: -1 (left) or 1 (right) of the face, and x in pixels."""
    x, _, w, h = one.box.tolist()
    side, reach = int(rng.choice((-1, 1))), EXPAND * max(w, h) / 2
    start = (w / 2 + reach) / 2 if one.inside else reach + 3  # half of the margin, or outside of it
    return side, x + w / 2 + side * start


def _painted(one: Scene, mask: np.ndarray, celsius: float | np.ndarray) -> Scene:
    edge = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7)  # by the lens
    return one._replace(celsius=(one.celsius + edge * (celsius - one.celsius)).astype(np.float32))


def dead_pixels(one: Scene, rng: np.random.Generator) -> Scene:
    """Pixels without a value, and others that are stuck far above or below all values of the image."""
    spots = rng.random(one.celsius.shape) < DEAD
    stuck = spots & (rng.random(spots.shape) < 0.5)
    low, high = np.percentile(one.celsius, (0, 100))
    wrong = np.where(rng.random(spots.shape) < 0.5, high + rng.uniform(5, 40), low - rng.uniform(5, 40))
    return one._replace(celsius=np.where(stuck, wrong, one.celsius).astype(np.float32), lost=spots & ~stuck)


def invalid_rows(one: Scene, rng: np.random.Generator) -> Scene:
    """Ten rows at the top, and three single ones anywhere, hold no values."""
    lost = one.lost.copy()
    lost[:10] = lost[rng.choice(np.arange(10, len(lost)), 3, replace=False)] = True
    return one._replace(lost=lost)


def telemetry(one: Scene, rng: np.random.Generator) -> Scene:
    """One to four rows of counters below the image, or above it."""
    return one._replace(telemetry=int(rng.integers(1, 5) * rng.choice((-1, 1))))


def lamp(one: Scene, rng: np.random.Generator) -> Scene:
    """A disc of 150 °C as wide as a third of the face."""
    side, start = _beside(one, rng)
    radius = one.box[2] / 6
    y, x = np.mgrid[: one.celsius.shape[0], : one.celsius.shape[1]]
    middle = start + side * radius, one.box[1] + rng.uniform(0, 0.6) * one.box[3]
    return _painted(one, np.hypot(x - middle[0], y - middle[1]) <= radius, 150.0)


def cold_window(one: Scene, rng: np.random.Generator) -> Scene:
    """Everything on one side, from half of the margin on, is at -15 °C."""
    side, start = _beside(one, rng)
    columns = np.arange(one.celsius.shape[1])
    mask = np.broadcast_to(columns * side > start * side, one.celsius.shape)
    return _painted(one, mask, -15.0)


def second_person(one: Scene, rng: np.random.Generator) -> Scene:
    """Another face on one side, in front of the background."""
    side, start = _beside(one, rng)
    other = generate.example(SEED + 1, int(rng.integers(1000)), size=FACE)
    x, y, w, h = other["box"].round().astype(int).tolist()
    y, x = max(y, 0), max(x, 0)
    face = other["celsius"][y : y + h, x : x + w]
    values, mask = np.zeros_like(one.celsius), np.zeros(one.celsius.shape, bool)
    top = int(one.box[1] + rng.uniform(-0.2, 0.2) * one.box[3])
    left = round(start) if side > 0 else round(start) - face.shape[1]
    rows, columns = slice(max(top, 0), top + len(face)), slice(max(left, 0), left + face.shape[1])
    face = face[max(-top, 0) :, max(-left, 0) :]
    face = face[: values[rows, columns].shape[0], : values[rows, columns].shape[1]]
    values[rows, columns], mask[rows, columns] = face, True
    return _painted(one, mask, values)


DISTURBANCES: dict[str, Disturbance] = {
    "plain": lambda one, rng: one,
    "2 % dead pixels": dead_pixels,
    "rows without values": invalid_rows,
    "telemetry": telemetry,
    "lamp": lamp,
    "cold window": cold_window,
    "second person": second_person,
}
FORMATS = ("16-bit", "float", "faded 8-bit")


def write(one: Scene, kind: str, folder: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray]:
    """Writes the file of a scene; returns its path, and how far the image lies from its corner, (x, y)."""
    if kind == "float":
        values = np.where(one.lost, rng.choice((np.nan, -9999.0, -273.15, 1e6)), one.celsius).astype(np.float32)
    elif kind == "16-bit":
        values = np.where(one.lost, rng.choice((0, 65535)), generate.to_raw(one.celsius)).astype(np.uint16)
    else:
        gray = np.clip(60 + one.celsius / KELVINS, 0, 255).round()
        values = np.where(one.lost, rng.choice((0, 255)), gray).astype(np.uint8)
    if one.telemetry:
        words = rng.integers(0, 65536, (abs(one.telemetry), values.shape[1]))
        words[:, rng.random(values.shape[1]) < rng.uniform(0, 0.8)] = 0  # words that nobody uses
        words[0, 0] = rng.integers(1000)
        rows = words / 100 - 273.15 if kind == "float" else words
        parts = [values, rows.astype(values.dtype)]
        values = np.concatenate(parts if one.telemetry > 0 else parts[::-1])
    path = folder / f"a{'.tiff' if kind == 'float' else '.png'}"
    if kind == "float":
        tifffile.imwrite(path, values)
    else:
        assert cv2.imwrite(str(path), values)
    return path, np.array([0, max(0, -one.telemetry)])


class Answer(NamedTuple):
    """The NME of one face in per cent of √(w·h) of the true box, and its score."""

    nme: float
    score: float


def answer(predictor: Predictor, path: Path, one: Scene, corner: np.ndarray, box: np.ndarray) -> Answer:
    """Reads a file, and predicts the face in a box, which is given in pixels of the scene."""
    faces = predictor(read_image(path), box[None] + np.array([*corner, 0, 0], np.float32))
    points = faces.landmarks - corner
    nme = metrics.nme(points, one.points[None], normalizer="box", box=one.box[None])
    return Answer(100 * float(np.asarray(nme)[0]), float(faces.scores[0]))


def disturbed(predictor: Predictor, one: Scene, index: int, folder: Path) -> Iterator[tuple[str, str, Answer]]:
    """Predicts a face in files of all kinds: (disturbance, format, answer)."""
    for name, change in DISTURBANCES.items():
        changed = change(one, np.random.default_rng([SEED, index, 1]))  # the same in all formats
        for kind in FORMATS:
            if not (name == "telemetry" and kind == "faded 8-bit"):  # 8 bits have no room for words
                path, corner = write(changed, kind, folder, np.random.default_rng([SEED, index, 2]))
                yield name, kind, answer(predictor, path, one, corner, one.box)


def wrong_boxes(box: np.ndarray) -> dict[str, np.ndarray]:
    """Boxes that no detector should give: by their size, or their place."""
    x, y, w, h = box.tolist()
    factors = (0.33, 0.5, 2, 3)
    boxes = {f"{f:g} times the size": (x + (1 - f) * w / 2, y + (1 - f) * h / 2, f * w, f * h) for f in factors}
    boxes |= {f"moved by {f:g} of its width": (x + f * w, y, w, h) for f in (0.3, 0.6, 1)}
    return {name: np.array(one, np.float32) for name, one in boxes.items()}


def without_face(one: Scene, rng: np.random.Generator) -> dict[str, Scene]:
    """Images of the same size in which there is no face."""
    shape, middle = one.celsius.shape, float(np.median(one.celsius))
    noise = rng.normal(middle, 0.05, shape)
    clouds = cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), rng.uniform(4, 20))
    clouds = middle + 3 * clouds / clouds.std() + rng.normal(0, 0.05, shape)
    gradient = middle + np.linspace(0, 6, shape[1])[None] + rng.normal(0, 0.05, shape)
    images = {"closed shutter (noise)": noise, "clouds": clouds, "gradient": gradient}
    return {name: one._replace(celsius=values.astype(np.float32)) for name, values in images.items()}


def measure(
    predictor: Predictor, faces: int, seed: int = SEED, advance: Callable[[int, str], None] = lambda step, text: None
) -> tuple[dict[tuple[str, str], list[Answer]], dict[str, list[Answer]]]:
    """Predicts disturbed faces, and others that cannot be right.

    Returns:
        The answers by (disturbance, format), and those for wrong boxes and images without a face by their names; the
        NME of the latter is infinite.
    """
    found: dict[tuple[str, str], list[Answer]] = {}
    wrong: dict[str, list[Answer]] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for index in range(faces):
            one = scene(index, seed)
            for name, kind, given in disturbed(predictor, one, index, place):
                found.setdefault((name, kind), []).append(given)
            rng = np.random.default_rng([seed, index, 3])
            path, corner = write(one, "16-bit", place, rng)
            for name, box in wrong_boxes(one.box).items():
                wrong.setdefault(name, []).append(answer(predictor, path, one, corner, box))
            for name, empty in without_face(one, rng).items():
                path, corner = write(empty, "16-bit", place, rng)
                given = answer(predictor, path, one, corner, one.box)
                wrong.setdefault(name, []).append(given._replace(nme=np.inf))
            advance(index + 1, "")
    return found, wrong


def rates(answers: list[Answer], threshold: float) -> tuple[float, float]:
    """The share of the good answers, and of the bad ones, with a score below a threshold; NaN of none."""
    bad = np.array([one.nme > GOOD for one in answers])
    low = np.array([one.score < threshold for one in answers])
    return tuple(float(low[which].mean()) if which.any() else np.nan for which in (~bad, bad))


def main() -> None:
    """Prints both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="work directory of a run; default: the shipped network")
    parser.add_argument("--stage")
    parser.add_argument("--faces", type=int, default=300)
    parser.add_argument("--seed", type=int, default=SEED, help="number of the rendered set")
    given = parser.parse_args()
    predictor = Predictor(given.model, stage=given.stage, layout="ibug68", detector=False)
    with console.progress("faces", total=given.faces, start=0, unit_size=1) as advance:
        found, wrong = measure(predictor, given.faces, given.seed, advance)
    nme = {key: float(np.mean([one.nme for one in answers])) for key, answers in found.items()}
    console.say(f"\n| NME in % of {given.faces} faces | " + " | ".join(FORMATS) + " | largest difference |")
    console.say("|---|" + "---|" * (len(FORMATS) + 1))
    for name in DISTURBANCES:
        cells = [f"{nme[name, kind]:.2f}" if (name, kind) in nme else "–" for kind in FORMATS]
        differences = [nme[name, kind] - nme["plain", kind] for kind in FORMATS if (name, kind) in nme]
        faded = nme["plain", "faded 8-bit"] - nme["plain", "16-bit"]
        differences = [faded] if name == "plain" else differences
        console.say(f"| {name} | {' | '.join(cells)} | {max(differences):+.2f} |")
    groups = {"plain and disturbed": [one for answers in found.values() for one in answers]} | wrong
    console.say("\n| answers | bad | " + " | ".join(f"below {t:g}: good / bad" for t in THRESHOLDS) + " |")
    console.say("|---|---|" + "---|" * len(THRESHOLDS))
    groups |= {"all wrong boxes and empty images": [one for answers in wrong.values() for one in answers]}
    for name, answers in groups.items():
        cells = [" / ".join("–" if np.isnan(r) else f"{100 * r:.1f}" for r in rates(answers, t)) for t in THRESHOLDS]
        share = np.mean([one.nme > GOOD for one in answers])
        console.say(f"| {name} | {100 * share:.1f} | {' | '.join(cells)} |")


THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


if __name__ == "__main__":
    main()
