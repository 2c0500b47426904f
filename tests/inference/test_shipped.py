"""The network that ships with the package: accuracy on rendered faces, calibration, and what must not change it."""

import concurrent.futures
import shutil
import time

import cv2
import matplotlib
import numpy as np
import pytest
from etils import epath
from scipy import stats

from mlcm_jax import landmarks, metrics
from mlcm_jax.errors import InputError
from mlcm_jax.export.export import export
from mlcm_jax.inference import open_network
from mlcm_jax.inference.open_network import SHIPPED
from mlcm_jax.inference.predictor import Predictor, side_of
from mlcm_jax.models import stored
from mlcm_jax.synthetic import generate

SEED, COUNT = 7, 60  # people whom no training has seen


@pytest.fixture(scope="module")
def predictor():
    return Predictor()


@pytest.fixture(scope="module")
def pairs():
    """Rendered faces of the hand-made head, 96 pixels a side."""
    return [generate.example(SEED, 4 * k, size=96) for k in range(COUNT)]


@pytest.fixture(scope="module")
def found(predictor, pairs):
    return [predictor(pair["thermal"], pair["box"][None]) for pair in pairs]


def nme(faces, pairs):
    """NME of each face in per cent of √(w·h)."""
    points = np.stack([one.landmarks[0] for one in faces])
    truth, boxes = np.stack([pair["landmarks"] for pair in pairs]), np.stack([pair["box"] for pair in pairs])
    return 100 * metrics.nme(points, truth, normalizer="box", box=boxes)


def test_rendered_faces_by_pose(found, pairs):
    errors, yaw = nme(found, pairs), np.array([abs(pair["pose"][0]) for pair in pairs])
    assert np.mean(errors[yaw < 30]) < 2.5
    assert np.mean(errors[yaw >= 30]) < 3.5


def test_inverted_images_are_as_good(predictor, found, pairs):
    inverted = [predictor(255 - pair["thermal"], pair["box"][None]) for pair in pairs]
    assert abs(nme(inverted, pairs).mean() - nme(found, pairs).mean()) < 0.3


def test_expected_distances_and_scores(found, pairs):
    distance = np.stack(
        [np.linalg.norm(one.landmarks[0] - pair["landmarks"], axis=-1) for one, pair in zip(found, pairs, strict=True)]
    )
    side = np.sqrt(np.stack([pair["box"] for pair in pairs])[:, 2:].prod(-1))[:, None]
    expected = np.stack([one.uncertainty[0] for one in found])
    assert 0.75 < (expected / side).mean() / (distance / side).mean() < 1.33
    assert stats.spearmanr((expected / side).ravel(), (distance / side).ravel()).statistic > 0.35
    scores = np.array([one.scores[0] for one in found])
    assert abs(scores.mean() - (nme(found, pairs) < 10).mean()) < 0.05


@pytest.mark.parametrize("factor", [0.33, 0.5, 3.0])
def test_boxes_of_the_wrong_size_have_low_scores(predictor, found, pairs, factor):
    scores, good = [], []
    for pair in pairs[:30]:
        x, y, w, h = pair["box"]
        faces = predictor(
            pair["thermal"], [[x + (1 - factor) * w / 2, y + (1 - factor) * h / 2, factor * w, factor * h]]
        )
        scores.append(faces.scores[0])
        good.append(nme([faces], [pair])[0] < 10)
    assert np.mean(scores) < np.mean(good) + 0.2 and np.mean(scores) < np.mean([one.scores[0] for one in found]) - 0.4


def test_landmarks_in_one_place_have_no_size():
    assert side_of(np.zeros((68, 2)), "ibug68") == 1e-3


def test_fifty_four_points_are_those_of_sf_tl54(found, pairs):
    pair, wanted = pairs[0], landmarks.convert(found[0].landmarks, "ibug68", "sf_tl54")
    faces = Predictor(layout="sf_tl54")(pair["thermal"], pair["box"][None])
    assert faces.layout == "sf_tl54" and faces.uncertainty.shape == (1, 54)
    np.testing.assert_allclose(faces.landmarks, wanted, atol=1e-4)
    with pytest.raises(InputError, match="wflw98"):
        Predictor(layout="wflw98")


def test_calls_from_several_threads_give_the_same(predictor, found, pairs):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda pair: predictor(pair["thermal"], pair["box"][None]), pairs))
    for one, two in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.landmarks, two.landmarks)
        np.testing.assert_array_equal(one.scores, two.scores)


def scene(pair):
    """°C in which the face lies in a wider image, and its box."""
    height, width = pair["celsius"].shape
    wide = np.full((3 * height, 3 * width), np.median(pair["celsius"][:4]), np.float32)
    wide[height : 2 * height, width : 2 * width] = pair["celsius"]
    return wide, pair["box"] + [width, height, 0, 0]


@pytest.mark.parametrize("disturbance", ["lamp", "window", "second person", "telemetry", "dead rows", "dead pixels"])
def test_what_is_not_the_face_moves_no_landmark(predictor, pairs, disturbance):
    for pair in pairs[:8]:
        wide, box = scene(pair)
        plain = predictor(wide, box[None])
        height, width = pair["celsius"].shape
        if disturbance == "lamp":
            wide[:10, :10] = 180.0
        elif disturbance == "window":
            wide[:, -width // 3 :] = -15.0
        elif disturbance == "second person":
            wide[: height // 2, : width // 2] = pair["celsius"][: height // 2, : width // 2]
        elif disturbance == "telemetry":
            wide[-3:] = np.random.default_rng(0).uniform(0, 60000, (3, 3 * width))
        elif disturbance == "dead rows":
            wide[:10] = -273.15
        else:
            spots = np.random.default_rng(0).random(wide.shape) < 0.002
            wide[spots] = np.nan
        moved = np.linalg.norm(predictor(wide, box[None]).landmarks - plain.landmarks, axis=-1).max()
        assert moved < (0.003 if disturbance != "dead pixels" else 0.02) * np.sqrt(box[2] * box[3])


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_of_one_value_has_the_score_0(predictor, value):
    faces = predictor(np.full((50, 60), value, np.uint8), [[5, 5, 40, 40]])
    assert faces.scores == [0] and np.isfinite(faces.landmarks).all()
    assert predictor(np.full((1, 1), value, np.uint8), [[0, 0, 1, 1]]).scores == [0]


def test_the_time_does_not_grow_with_the_image(predictor, pairs):
    image = np.zeros((4000, 5000), np.uint8)
    height, width = pairs[0]["thermal"].shape
    image[2000 : 2000 + height, 3000 : 3000 + width] = pairs[0]["thermal"]
    box = (pairs[0]["box"] + [3000, 2000, 0, 0])[None]
    predictor(image, box)
    start = time.perf_counter()
    faces = predictor(image, box)
    assert time.perf_counter() - start < 1.0
    alone = predictor(pairs[0]["thermal"], pairs[0]["box"][None])
    np.testing.assert_allclose(faces.landmarks, alone.landmarks + np.array([3000, 2000]), atol=1e-2)


@pytest.mark.parametrize("fault", ["missing", "cut"])
def test_a_damaged_file_of_weights_is_reported(tmp_path, fault):
    folder = tmp_path / "shipped"
    shutil.copytree(SHIPPED, folder)
    weights = folder / stored.WEIGHTS
    weights.unlink() if fault == "missing" else weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"The weights .* (are missing|are damaged)"):
        Predictor(folder)


def test_a_damaged_package_is_to_be_installed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(open_network, "SHIPPED", epath.Path(tmp_path))
    with pytest.raises(InputError, match=r"is incomplete or damaged; install mlcm_jax again\.$"):
        Predictor()


def test_a_stage_needs_a_run():
    with pytest.raises(InputError, match=r"stage='teacher' names a stage of a run, so the run's work directory"):
        Predictor(stage="teacher")
    with pytest.raises(InputError, match=r"stage='teacher' names a stage of a run, so the run's work directory"):
        export(stage="teacher", format="onnx", out="a.onnx")


def test_too_few_pixels_and_one_colour_have_the_score_0(predictor):
    for image in (np.arange(9, dtype=np.uint8).reshape(3, 3), np.full((40, 40, 3), (90, 10, 200), np.uint8)):
        assert predictor(image, [[0, 0, image.shape[1], image.shape[0]]]).scores[0] == 0
    image = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
    assert predictor(image, [[59, 59, 30, 30]]).scores[0] == 0


def test_kinds_of_files_of_one_face_agree(predictor):
    pair = generate.example(SEED, 4, size=128, frontal=True, well_lit=True)
    gray, celsius, box = pair["thermal"], pair["celsius"], pair["box"]
    counts = (100 * (celsius + 273.15)).round().astype(np.uint16)
    palette = (255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).round().astype(np.uint8)
    kinds = [
        255 - gray,
        palette[gray],
        counts,
        counts.astype(">u2"),
        counts.astype(np.int64),
        celsius,
        celsius + 273.15,
    ]
    points = predictor(gray, box[None]).landmarks[0]
    for kind in kinds:
        other = predictor(kind, box[None]).landmarks[0]
        assert np.linalg.norm(other - points, axis=-1).mean() < 0.025 * np.sqrt(box[2] * box[3])


def test_a_large_palette_image_with_noise_takes_less_than_a_second(predictor):
    pair = generate.example(SEED, 4, size=128)
    palette = (255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).astype(np.int16)
    image = palette[cv2.resize(pair["thermal"], (3000, 3000))]
    image = (image + np.random.default_rng(0).integers(-2, 3, image.shape, np.int8)).clip(0, 255).astype(np.uint8)
    predictor(pair["thermal"])
    start = time.perf_counter()
    predictor(image, [[400, 400, 2000, 2000]])
    assert time.perf_counter() - start < 1.0
