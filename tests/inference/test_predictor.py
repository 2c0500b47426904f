"""Prediction on every kind of image that the command can read, from nothing but the stored models of a run."""

import cv2
import numpy as np
import pytest
import stored_runs
from PIL import Image

from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.models import stored
from mlcm_jax.synthetic import generate

LAYOUT = landmarks.get("ibug68")


# Where the landmarks are


def brightest(crops):
    """Stands in for a network: every landmark is at the centre of brightness of the crop."""
    found = []
    for crop in crops[..., 0].astype(np.float64):
        v, u = np.mgrid[: crop.shape[0], : crop.shape[1]] + 0.5
        found.append([(u * crop).sum() / crop.sum() / crop.shape[1], (v * crop).sum() / crop.sum() / crop.shape[0]])
    return np.repeat(np.asarray(found, np.float32)[:, None], LAYOUT.count, axis=1)


@pytest.mark.parametrize("box", [(10, 6, 30, 40), (-4, 2, 40.5, 30), (31, 20, 25, 50)])
def test_landmarks_are_in_pixels_of_the_image(tmp_path, monkeypatch, box):
    """Tests crop, mirrored crop and the mapping back, with a dot at a known place."""
    stored_runs.write(tmp_path, stored_runs.card())
    predictor = Predictor(tmp_path)
    monkeypatch.setattr(predictor, "_predict", lambda crops: (brightest(crops), None))
    for x, y in [(33, 30), (32, 27)]:
        v, u = np.mgrid[:60, :70]
        image = (255 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / 12)).round().astype(np.uint8)
        faces = predictor(image, [box])
        assert faces.landmarks.shape == (1, 68, 2) and faces.landmarks.dtype == faces.scores.dtype == np.float32
        np.testing.assert_allclose(faces.landmarks[0], np.tile([x, y], (68, 1)), atol=0.03)
        np.testing.assert_allclose(faces.scores, [1.0], atol=0.01)


def test_a_prediction_is_the_mean_over_the_crop_and_its_mirror_image(tmp_path, monkeypatch):
    stored_runs.write(tmp_path, stored_runs.card())
    predictor = Predictor(tmp_path)
    rng = np.random.default_rng(0)
    plain, mirrored = rng.random((68, 2)), rng.random((68, 2))
    monkeypatch.setattr(predictor, "_predict", lambda crops: (np.stack([plain, mirrored]), None))
    # A box of 32 x 32 with expand 1.25 is a crop of 40 pixels around (26, 26): x = 26 + 40 (u - 1/2).
    faces = predictor(np.arange(3600, dtype=np.uint16).reshape(60, 60), [(10, 10, 32, 32)])
    back = np.stack([1 - mirrored[LAYOUT.flip, 0], mirrored[LAYOUT.flip, 1]], axis=1)
    np.testing.assert_allclose(faces.landmarks[0], 6 + 40 * (plain + back) / 2, atol=1e-3)
    apart = np.linalg.norm(plain - back, axis=1).mean()
    np.testing.assert_allclose(faces.scores, [1 / (1 + apart / 0.05)], rtol=1e-5)


def test_predictions_depend_on_the_image(predictor, face):
    other = generate.example(3, 1, size=64, frontal=True, well_lit=True)
    one, two = (predictor(image["thermal"], face["box"][None]).landmarks for image in (face, other))
    assert np.abs(one - two).max() > 0.01
    spread = one[0].max(0) - one[0].min(0)
    assert (spread > 0.3 * face["box"][2:]).all() and (spread < 1.2 * face["box"][2:]).all()


def test_a_mirrored_image_gives_mirrored_landmarks(predictor, face):
    """Predictions are averaged over an image and its mirror image, so this holds for any network."""
    width = face["thermal"].shape[1]
    x, y, w, h = face["box"]
    points = predictor(face["thermal"], face["box"][None]).landmarks
    mirrored = predictor(np.ascontiguousarray(face["thermal"][:, ::-1]), [[width - 1 - x - w, y, w, h]]).landmarks
    expected = points[0][LAYOUT.flip] * [-1, 1] + [width - 1, 0]
    np.testing.assert_allclose(mirrored[0], expected, atol=0.1)


def test_an_image_twice_the_size_gives_the_same_face(predictor, face):
    points = predictor(face["thermal"], face["box"][None]).landmarks
    big = cv2.resize(face["thermal"], None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    x, y, w, h = face["box"]
    doubled = predictor(big, [[2 * x + 0.5, 2 * y + 0.5, 2 * w, 2 * h]]).landmarks
    np.testing.assert_allclose(doubled[0], (points[0] + 0.5) * 2 - 0.5, atol=1.0)


def test_several_faces_and_no_face(predictor, face):
    boxes = np.stack([face["box"], face["box"] + [3, -2, 0, 0]])
    together = predictor(face["thermal"], boxes)
    for i in range(2):
        alone = predictor(face["thermal"], boxes[i : i + 1])
        np.testing.assert_allclose(together.landmarks[i], alone.landmarks[0], atol=1e-4)
    assert len(together) == 2 and together.scores.shape == (2,) and np.isnan(together.detections).all()
    np.testing.assert_array_equal(together.boxes, boxes)
    for none in (np.zeros((0, 4)), []):
        faces = predictor(face["thermal"], none)
        assert len(faces) == 0 and faces.landmarks.shape == (0, 68, 2) and faces.boxes.shape == (0, 4)
        assert faces.scores.shape == faces.detections.shape == (0,) and faces.uncertainty.shape == (0, 68)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "The image must hold numbers; NoneType was given"),
        ("face.png", "The image face.png does not exist"),
        ([[1, 2], [3]], "The image must hold numbers; list was given"),
        (np.zeros(5, np.uint8), r"The image must be an array \[H, W\], or .* not of shape \(5,\)"),
        (np.zeros((5, 5, 3)), r"must be an array \[H, W\], or \[H, W, 3\] of uint8, not .* float64"),
        (np.full((5, 5), np.nan), "no value that a thermometer could give"),
        (np.zeros((0, 5), np.uint8), r"of shape \(0, 5\)"),
    ],
)
def test_what_is_no_image_is_reported(predictor, image, message):
    with pytest.raises(InputError, match=message):
        predictor(image)


def test_an_image_of_pillow_is_read_as_its_array(predictor, face):
    expected = predictor(face["thermal"], face["box"][None]).landmarks
    found = predictor(Image.fromarray(face["thermal"]), face["box"][None]).landmarks
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([1, 2, 3, 4], r"shape \(4,\), not \[F, 4\]"),
        (np.zeros((1, 5)), r"shape \(1, 5\), not \[F, 4\]"),
        ([[1, 2, 0, 4]], "empty"),
        ([[1, 2, np.nan, 4]], "finite"),
        ([[900, 2, 3, 4]], "outside"),
        ([[0, 0, 1e300, 1e300]], "finite"),
        ([[-1e30, -1e30, 2e30, 2e30]], "too large for a pixel"),
        ([[0.2, 0.3, 0.4, 0.5]], "not larger than a pixel; give pixels, not shares of the image"),
        (np.array([[1j, 0, 20, 20]]), "The array of boxes must hold numbers; ndarray was given"),
        ("abc", "The array of boxes must hold numbers; str was given"),
        ([[1, 2, 3], [1, 2, 3, 4]], "The array of boxes must hold numbers"),
        ([{"x": 1}], "The array of boxes must hold numbers"),
    ],
)
def test_bad_boxes_are_reported(predictor, face, boxes, message):
    with pytest.raises(InputError, match=message):
        predictor(face["thermal"], boxes)


# Stages


def test_the_last_stage_of_the_run_predicts_unless_another_is_named(tmp_path):
    """Runs of KD-Loss and STAR have no stage called compress."""
    cards = [stored_runs.card(stage, modality="rgb") for stage in ("teacher", "light_alone", "kd")]
    stored_runs.write(tmp_path, *cards)
    assert Predictor(tmp_path).card.stage == "kd"
    assert Predictor(tmp_path, stage="teacher").card.stage == "teacher"


def test_a_stage_that_is_unknown_or_unfinished_is_reported(tmp_path):
    stored_runs.write(tmp_path, stored_runs.card("teacher"), stages=("teacher", "transfer"))
    (tmp_path / "transfer" / "checkpoints").mkdir(parents=True)
    unfinished = f"Stage transfer of {tmp_path} is not finished; run the training command again to finish it."
    for stage in (None, "transfer"):
        with pytest.raises(InputError) as raised:
            Predictor(tmp_path, stage=stage)
        assert str(raised.value) == unfinished
    with pytest.raises(InputError, match=r"has no stage 'tranfser'; did you mean 'transfer'\?"):
        Predictor(tmp_path, stage="tranfser")
    (tmp_path / "teacher" / stored.WEIGHTS).unlink()
    with pytest.raises(InputError, match=rf"The weights .*{stored.WEIGHTS} are missing; .*teacher"):
        Predictor(tmp_path, stage="teacher")


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"stages": []}', '{"stages": null}', '{"stages": "a"}', '{"stages": [1]}', "not json"]
)
def test_a_work_directory_without_stages_is_reported(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        Predictor(tmp_path)


def test_a_folder_of_seeds_or_without_a_run_is_reported(tmp_path):
    with pytest.raises(InputError, match=r"not the work directory of a run .*mlcm train"):
        Predictor(tmp_path)
    stored_runs.write(tmp_path / "seed_3", stored_runs.card())
    with pytest.raises(InputError, match=f"one run for each seed; name one, such as {tmp_path / 'seed_3'}"):
        Predictor(tmp_path)
