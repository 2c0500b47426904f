"""The detector that ships with the package, and the predictor that calls it: rendered scenes, and hard images."""

import concurrent.futures
import json
import shutil
import time

import cv2
import numpy as np
import pytest

from mlcm_jax.data import image_file
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import detections
from mlcm_jax.inference import predict_files as command
from mlcm_jax.inference.detector import Detector
from mlcm_jax.inference.open_network import SHIPPED
from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.synthetic import crowd, generate

SEED, COUNT = 41, 150  # scenes that no training has seen


@pytest.fixture(scope="module")
def detector():
    return Detector()


@pytest.fixture(scope="module")
def scenes():
    return [crowd.example(SEED, k, size=(128, 224)) for k in range(COUNT)]


def matched(detector, scenes, change=lambda gray: gray):
    rows = []
    for scene in scenes:
        found, scores = detector(image_file.as_image(change(scene["thermal"])))
        seen = scene["shown"] > 0.2
        row = {"found": found, "scores": scores, "boxes": scene["boxes"][seen], "counts": scene["shown"][seen] >= 0.6}
        rows.append(row | {"side": max(scene["thermal"].shape), "yaw": scene["yaw"][seen]})
    return detections.match(rows)


@pytest.mark.parametrize("polarity", ["white-hot", "black-hot"])
def test_rendered_scenes(detector, scenes, polarity):
    found = matched(detector, scenes, (lambda gray: gray) if polarity == "white-hot" else (lambda gray: 255 - gray))
    rates = detections.rates(found, detector.card.threshold)
    assert rates["precision"] > 0.93 and rates["false_alarms"] < 0.08
    for low, high, least in ((0.0, 0.12, 0.15), (0.12, 0.25, 0.55), (0.25, 0.5, 0.8), (0.5, 9.0, 0.85)):
        band = (found.size >= low) & (found.size < high)
        assert band.sum() > 5 and (found.found[band] > 0).mean() > least, (low, high)


def test_boxes_follow_the_convention(detector):
    """The box of a face is that around its landmarks, with the margins of `box_from_points`, to a tenth of its size."""
    apart = []
    for k in range(30):
        pair = generate.example(SEED, 4 * k, size=128)
        found, _ = detector(image_file.as_image(pair["thermal"]), max_faces=1)
        if len(found):
            x, y, w, h = found[0]
            truth = pair["box"]
            sides = np.array([x, y, x + w, y + h]) - [*truth[:2], *(truth[:2] + truth[2:])]
            apart.append(sides / np.sqrt(truth[2] * truth[3]))
    assert len(apart) >= 27
    assert np.abs(np.mean(apart, 0)).max() < 0.04 and np.median(np.abs(apart)) < 0.05


def test_the_same_image_gives_the_same_boxes_on_several_threads(detector, scenes):
    some = [image_file.as_image(scene["thermal"]) for scene in scenes[:8]]
    once = [detector(image) for image in some]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        again = list(pool.map(detector, some))
    for first, second in zip(once, again, strict=True):
        np.testing.assert_array_equal(first.boxes, second.boxes)
        np.testing.assert_array_equal(first.scores, second.scores)


def test_temperatures_with_a_lamp_and_dead_pixels_find_the_same_face(detector):
    pair = generate.example(7, 8, size=128, frontal=True, well_lit=True)
    plain = pair["celsius"]
    (box, *_), _ = detector(image_file.as_image(plain))
    disturbed = plain.copy()
    disturbed[:12, :12] = 350.0
    disturbed[::9, ::7] = np.nan
    (other, *_), _ = detector(image_file.as_image(disturbed))
    assert np.abs(box - other).max() < 0.08 * box[2]


@pytest.mark.parametrize(
    "image",
    [
        np.full((40, 60), 7, np.uint8),
        np.zeros((1, 1), np.uint8),
        np.full((30, 30), 21.5, np.float32),
        np.zeros((3, 2000), np.uint8),
        np.random.default_rng(0).integers(0, 255, (120, 160)).astype(np.uint8),
        np.tile(np.linspace(0, 255, 160).astype(np.uint8), (120, 1)),
    ],
    ids=["one value", "1x1", "one temperature", "extreme aspect", "noise", "ramp"],
)
def test_images_without_a_face(detector, image):
    found, scores = detector(image_file.as_image(image))
    assert found.shape == (0, 4) and scores.shape == (0,)


def test_hundreds_of_blobs_and_20_megapixels_take_bounded_time(detector):
    canvas = np.zeros((4000, 5000), np.uint8)
    rng = np.random.default_rng(0)
    for x, y in rng.integers(0, 4000, (400, 2)):
        cv2.circle(canvas, (int(x), int(y)), 60, 200, -1)
    detector(image_file.as_image(np.zeros((64, 64), np.uint8)))  # compiles
    start = time.perf_counter()
    found, _ = detector(image_file.as_image(canvas), max_faces=5, min_score=0.01)
    assert len(found) <= 5 and time.perf_counter() - start < 2.0


def test_a_large_image_has_boxes_in_its_own_pixels(detector):
    pair = generate.example(7, 8, size=128, frontal=True, well_lit=True)
    (small, *_), _ = detector(image_file.as_image(pair["thermal"]))
    large = cv2.resize(pair["thermal"], None, fx=10, fy=10, interpolation=cv2.INTER_LINEAR)
    (found, *_), _ = detector(image_file.as_image(large))
    np.testing.assert_allclose((found[:2] + 0.5) / 10 - 0.5, small[:2], atol=2.0)
    np.testing.assert_allclose(found[2:] / 10, small[2:], rtol=0.06)


def test_limits(detector, scenes):
    crowded = max(scenes, key=lambda scene: (scene["shown"] > 0.9).sum())
    image = image_file.as_image(crowded["thermal"])
    assert len(detector(image, max_faces=1).boxes) == 1
    assert len(detector(image, min_score=0.999999).boxes) == 0
    with pytest.raises(InputError, match=r"max_faces=0 must be at least 1"):
        detector(image, max_faces=0)
    with pytest.raises(InputError, match=r"min_score=1 must be between 0 and 1"):
        detector(image, min_score=1.0)


@pytest.mark.parametrize("wrong", [{"max_faces": 2.0}, {"max_faces": "3"}, {"min_score": "a"}, {"min_score": 2.0}])
def test_limits_of_the_wrong_type_are_reported_with_boxes_too(wrong):
    image = np.random.default_rng(0).integers(0, 255, (60, 60)).astype(np.uint8)
    for boxes in (None, [[5, 5, 40, 40]]):
        with pytest.raises(InputError, match="must be"):
            Predictor()(image, boxes, **wrong)


def test_tiny_images_have_no_box_that_the_predictor_refuses():
    predictor = Predictor()
    rng = np.random.default_rng(59)
    for _ in range(60):
        predictor(rng.integers(0, 255, rng.integers(2, 14, 2)).astype(np.uint8), min_score=0.05)


def test_a_network_of_landmarks_is_no_detector():
    with pytest.raises(InputError, match=r"finds landmarks, not boxes; give a run of configs/detector\.py"):
        Detector(SHIPPED)


# ------------------------------------------------------------------------------------------- the predictor calls it


def test_the_predictor_finds_faces_without_boxes():
    pair = generate.example(7, 8, size=128, frontal=True, well_lit=True)
    faces = Predictor()(pair["thermal"])
    assert len(faces) == 1 and 0 < faces.detections[0] <= 1 and faces.scores[0] > 0.5
    error = np.linalg.norm(faces.landmarks[0] - pair["landmarks"], axis=-1).mean()
    assert error < 0.05 * np.sqrt(pair["box"][2] * pair["box"][3])
    given = Predictor()(pair["thermal"], pair["box"][None])
    assert np.isnan(given.detections).all() and given.boxes[0] == pytest.approx(pair["box"])


def test_no_face_is_an_empty_result_of_full_shapes():
    faces = Predictor()(np.tile(np.linspace(0, 200, 160).astype(np.uint8), (120, 1)))
    assert len(faces) == 0 and faces.landmarks.shape == (0, 68, 2) and faces.boxes.shape == (0, 4)
    assert faces.uncertainty.shape == (0, 68) and faces.detections.shape == faces.scores.shape == (0,)


def test_without_a_detector_the_whole_image_is_the_box():
    image = generate.example(7, 8, size=64)["thermal"]
    assert Predictor(detector=False)(image).boxes.tolist() == [[0, 0, 64, 64]]


def write(path, image):
    cv2.imwrite(str(path), image)
    return str(path)


def test_the_command_writes_all_faces_and_says_where_there_is_none(tmp_path, capsys):
    pair = generate.example(7, 8, size=128, frontal=True, well_lit=True)["thermal"]
    paths = [write(tmp_path / "many.png", np.concatenate([pair, pair[:, ::-1]], 1))]
    paths.append(write(tmp_path / "none.png", np.tile(np.linspace(0, 200, 160).astype(np.uint8), (120, 1))))
    found = command.predict_files(paths, out=tmp_path / "out")
    told = capsys.readouterr().out
    assert "none.png: no face was found" in told and "many.png: " in told and "faces, scores" in told
    assert found == json.loads((tmp_path / "out/predictions.json").read_text())
    assert found["none.png"] == {"faces": [], "box": None, "layout": None, "landmarks": None}
    faces = found["many.png"]["faces"]
    assert len(faces) > 1 and all(0 < face["detection"] <= 1 for face in faces)
    assert [face["detection"] for face in faces] == sorted((face["detection"] for face in faces), reverse=True)
    assert found["many.png"]["box"] == faces[0]["box"]
    assert len(list((tmp_path / "out").glob("*_landmarks.png"))) == 2
    one = command.predict_files(paths[:1], out=tmp_path / "one", max_faces=1)
    assert len(one["many.png"]["faces"]) == 1


def test_a_given_box_always_wins(tmp_path):
    pair = generate.example(7, 8, size=128, frontal=True, well_lit=True)
    box = [round(float(value), 1) for value in pair["box"]]
    path = write(tmp_path / "a.png", pair["thermal"])
    text = ",".join(map(str, box))
    entry = command.predict_files([path], out=tmp_path / "out", box=text)["a.png"]
    assert entry["box"] == box and entry["faces"][0]["detection"] is None


def test_damaged_weights_are_told(tmp_path):
    shutil.copytree(SHIPPED / "detector", tmp_path / "detector")
    weights = tmp_path / "detector/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"damaged|not those"):
        Detector(tmp_path / "detector")


def test_the_weights_of_both_networks_take_at_most_3_megabytes():
    files = [SHIPPED / "model.safetensors", SHIPPED / "detector" / "model.safetensors"]
    assert sum(path.stat().length for path in files) <= 3e6
