"""Checks the synthetic faces with dlib's detector and 68-point predictor, which were trained on photographs.

    python -m benchmarks.check_synthetic --count 200 --out /tmp/check      # a minute
    python -m benchmarks.check_synthetic --count 200 --out /tmp/check --manual_dir=ICT-FaceKit      # scan-based heads

It renders frontal (|yaw| < 20°), well-lit RGB images. It prints the share of faces that dlib finds, and the distances
between its landmarks and ours divided by the distance of the outer eye corners, and writes `check_synthetic.png` (ours
green, dlib's red). It needs `dlib-bin` and `face-recognition-models`, both in the `dev` extra. The results are in
tfds_builders/synthetic_faces/README.md.
"""

import argparse
import dataclasses
import importlib.util
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from mlcm_jax.synthetic import scan_head, scan_scene, scene
from mlcm_jax.synthetic.raster import render_gbuffer
from mlcm_jax.synthetic.rgb import shade_rgb

GROUPS = {
    "jaw": slice(0, 17), "brows": slice(17, 27), "nose": slice(27, 36), "eyes": slice(36, 48),
    "outer lip": slice(48, 60), "inner lip": slice(60, 68),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of the check; lengths are fractions of the distance of the outer eye corners.

    Attributes:
        count: the number of rendered images.
        found: the number of faces that dlib found.
        nme: float [found], the distance averaged over the landmarks of each face.
        offset: float [68, 2], the mean of dlib - ours along and across the line through the outer eye corners.
        per_point: float [68], the distance averaged over the found faces.
    """

    count: int
    found: int
    nme: np.ndarray
    offset: np.ndarray
    per_point: np.ndarray

    @property
    def rate(self) -> float:
        """The share of the faces that dlib found."""
        return self.found / self.count


def load_dlib() -> tuple[Any, Any]:
    """Returns dlib's detector and predictor; exits with a message if a package is missing."""
    try:
        import dlib
    except ImportError:
        sys.exit("check_synthetic needs dlib: pip install 'mlcm_jax[dev]' (dlib-bin, face-recognition-models).")
    # The package's own function imports pkg_resources, which recent setuptools lack; the path of the file is enough.
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("check_synthetic needs the weights in face-recognition-models: pip install 'mlcm_jax[dev]'.")
    weights = (
        pathlib.Path(next(iter(spec.submodule_search_locations))) / "models" / "shape_predictor_68_face_landmarks.dat"
    )
    return dlib.get_frontal_face_detector(), dlib.shape_predictor(str(weights))


def render(
    seed: int, index: int, heads: scan_head.ScanHeads | None = None, size: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Renders RGB image `index`, uint8 [size, size, 3], and returns it with our landmarks [68, 2] in its pixels."""
    draws = scene if heads is None else scan_scene
    subject = draws.sample_subject(seed, index)
    rng = np.random.default_rng([seed, 4, index])
    view = draws.sample_scene(rng, subject, frontal=True, well_lit=True)
    buffer, truth = render_gbuffer(subject, view, size, heads=heads)
    return shade_rgb(buffer, subject, view, rng), truth.landmarks


def detect(image: np.ndarray, detector: Any, predictor: Any, ours: np.ndarray) -> np.ndarray | None:
    """Returns dlib's landmarks [68, 2] for a detection near our face, or None if there is none."""
    boxes = detector(image, 1)
    centre, reach = ours.mean(0), np.ptp(ours, axis=0).max()
    near = [b for b in boxes if np.hypot(b.center().x - centre[0], b.center().y - centre[1]) < 0.35 * reach]
    if not near:
        return None
    shape = predictor(image, near[0])
    return np.array([[p.x, p.y] for p in shape.parts()], np.float64)


def draw(image: np.ndarray, ours: np.ndarray, theirs: np.ndarray | None, zoom: int = 2) -> np.ndarray:
    """Draws a BGR tile with our points green and dlib's red; a face that dlib missed gets a red border."""
    tile = cv2.resize(image[..., ::-1], None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    for points, colour in ((ours, (0, 220, 0)), (theirs, (0, 0, 255))):
        for x, y in [] if points is None else (points + 0.5) * zoom - 0.5:
            cv2.circle(tile, (round(float(x) * 16), round(float(y) * 16)), 26, colour, -1, cv2.LINE_AA, 4)
    if theirs is None:
        cv2.rectangle(tile, (0, 0), (tile.shape[1] - 1, tile.shape[0] - 1), (0, 0, 255), 6)
    return tile


def check(
    count: int, seed: int, out: pathlib.Path | None, tiles: int = 24, heads: scan_head.ScanHeads | None = None
) -> Report:
    """Runs the check and, unless `out` is None, writes a contact sheet of the first `tiles` images into that folder."""
    detector, predictor = load_dlib()
    nme, offsets, sheet = [], [], []
    for index in range(count):
        image, ours = render(seed, index, heads)
        theirs = detect(image, detector, predictor, ours)
        if len(sheet) < tiles:
            sheet.append(draw(image, ours, theirs))
        if theirs is None:
            continue
        axis = ours[45] - ours[36]
        span = float(np.hypot(*axis))
        delta = (theirs - ours) / span
        nme.append(np.linalg.norm(delta, axis=1))
        offsets.append(delta @ np.array([[axis[0], -axis[1]], [axis[1], axis[0]]]) / span)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        blank = np.zeros_like(sheet[0])
        sheet += [blank] * (-len(sheet) % 6)
        rows = [np.hstack(sheet[k : k + 6]) for k in range(0, len(sheet), 6)]
        cv2.imwrite(str(out / "check_synthetic.png"), np.vstack(rows))
    if not nme:
        return Report(count, 0, np.zeros(0), np.zeros((68, 2)), np.zeros(68))
    points = np.stack(nme)
    return Report(count, len(nme), points.mean(1), np.mean(offsets, 0), points.mean(0))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the check; returns 0 if dlib finds at least 80 % of the faces with a median NME of at most 8 %, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="images to render")
    parser.add_argument("--seed", type=int, default=0, help="seed of the subjects and scenes")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."), help="folder of the contact sheet")
    parser.add_argument("--offsets", action="store_true", help="also print the mean offset of every landmark")
    parser.add_argument("--manual_dir", type=pathlib.Path, help="clone of ICT-FaceKit, for scan-based heads")
    options = parser.parse_args(argv)
    heads = scan_head.load(options.manual_dir) if options.manual_dir else None
    report = check(options.count, options.seed, options.out, heads=heads)
    print(f"faces found by dlib   {report.found}/{report.count} = {100 * report.rate:.1f} %")
    if not report.found:
        return 1
    median = float(np.median(report.nme))
    print(f"inter-ocular NME      median {100 * median:.2f} %, mean {100 * report.nme.mean():.2f} %")
    for name, group in GROUPS.items():
        print(f"  {name:<10} {100 * report.per_point[group].mean():5.2f} %")
    if options.offsets:
        print(json.dumps(np.round(100 * report.offset, 1).tolist()))
    print(f"contact sheet         {options.out / 'check_synthetic.png'}")
    return 0 if report.rate >= 0.8 and median <= 0.08 else 1


if __name__ == "__main__":
    sys.exit(main())
