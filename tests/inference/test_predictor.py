"""Prediction on every kind of image that the command can read, from nothing but the stored models of a run."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import stored_runs
from commands import run_mlcm
from PIL import Image

from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from mlcm_jax.inference.predictor import Predictor, predict_files
from mlcm_jax.models import stored
from mlcm_jax.synthetic import generate

LAYOUT = landmarks.get("ibug68")


@pytest.fixture(scope="module")
def face():
    return generate.example(3, 0, size=64, frontal=True, well_lit=True)


@pytest.fixture(scope="module")
def predictor(smoke_run):
    return Predictor(smoke_run)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, face):
    """A folder with one face in files of every kind."""
    folder = tmp_path_factory.mktemp("images")
    gray, celsius = face["thermal"], face["celsius"]
    cv2.imwrite(str(folder / "gray8.png"), gray)
    cv2.imwrite(str(folder / "gray16.png"), ((celsius + 273.15) * 100).astype(np.uint16))
    cv2.imwrite(str(folder / "celsius.tiff"), celsius)
    np.save(folder / "celsius.npy", celsius)
    cv2.imwrite(str(folder / "inferno.png"), cv2.applyColorMap(gray, cv2.COLORMAP_INFERNO))
    cv2.imwrite(str(folder / "colour.jpg"), face["rgb"][..., ::-1])
    (folder / "boxes.json").write_text(json.dumps({"gray8.png": face["box"].tolist()}))
    return folder


def box_of(face) -> str:
    return ",".join(str(value) for value in face["box"])


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


BLOCKED = """
import sys
for name in ("orbax", "orbax.checkpoint", "grain", "tensorflow_datasets", "tensorflow", "clu", {more}):
    sys.modules[name] = None
"""


def test_prediction_works_without_the_libraries_for_training(smoke_run, predictor, folder, face, tmp_path):
    code = BLOCKED.format(more="'tfds_builders', 'mlcm_jax.training'")
    code += f"""
import numpy as np
from mlcm_jax import Predictor
from mlcm_jax.inference.predictor import predict_files
image = np.load({str(tmp_path / "image.npy")!r})
faces = Predictor({str(smoke_run)!r})(image, np.array({face["box"][None].tolist()}))
np.savez({str(tmp_path / "found.npz")!r}, points=faces.landmarks, scores=faces.scores)
predict_files([{str(folder / "gray8.png")!r}], model={str(smoke_run)!r}, box={box_of(face)!r}, out={str(tmp_path)!r})
"""
    np.save(tmp_path / "image.npy", face["thermal"])
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    found = np.load(tmp_path / "found.npz")
    faces = predictor(face["thermal"], face["box"][None])
    np.testing.assert_allclose(found["points"], faces.landmarks, atol=1e-4)
    np.testing.assert_allclose(found["scores"], faces.scores, atol=1e-5)
    written = json.loads((tmp_path / "predictions.json").read_text())["gray8.png"]["landmarks"]
    np.testing.assert_allclose(written, faces.landmarks[0], atol=2e-3)


# Files


def test_the_command_reads_every_kind_of_image(smoke_run, folder, tmp_path, face):
    """The libraries for training are blocked, because this command must not import them."""
    names = ["gray8.png", "gray16.png", "celsius.tiff", "celsius.npy", "inferno.png", "colour.jpg"]
    words = ["predict", f"--model={smoke_run}", f"--box={box_of(face)}", f"--out={tmp_path}"]
    words += [str(folder / name) for name in names]
    code = BLOCKED.format(more="") + f"from mlcm_jax.cli import main\nmain({words!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert list(found) == names
    for name in names:
        assert found[name]["layout"] == "ibug68" and np.shape(found[name]["landmarks"]) == (68, 2)
        np.testing.assert_allclose(found[name]["box"], face["box"], rtol=1e-6)
        assert cv2.imread(str(tmp_path / f"{name}_landmarks.png")) is not None
    # The same temperatures in three formats give the same face, up to the rounding of the 16-bit image.
    np.testing.assert_allclose(found["celsius.npy"]["landmarks"], found["celsius.tiff"]["landmarks"], atol=1e-3)
    np.testing.assert_allclose(found["celsius.npy"]["landmarks"], found["gray16.png"]["landmarks"], atol=0.5)


def test_without_a_box_the_whole_image_is_used_and_a_message_says_so(smoke_run, folder, tmp_path, capsys):
    found = predict_files([str(folder / "colour.jpg")], model=str(smoke_run), stage="teacher", out=str(tmp_path))
    assert "no box given, so the whole image is used as the box of the face" in capsys.readouterr().out
    assert found["colour.jpg"]["box"] == [0, 0, 64, 64]
    assert json.loads((tmp_path / "predictions.json").read_text()) == found


def test_a_file_of_boxes(smoke_run, folder, tmp_path, face, capsys):
    boxes = {"boxes": str(folder / "boxes.json"), "out": str(tmp_path)}
    found = predict_files([str(folder / "gray8.png"), str(folder / "gray16.png")], model=str(smoke_run), **boxes)
    said = capsys.readouterr().out
    assert f"{folder / 'boxes.json'} has no box of gray16.png, so the whole image is used as the box" in said
    assert "gray8.png, so the whole image" not in said
    np.testing.assert_allclose(found["gray8.png"]["box"], face["box"], rtol=1e-6)
    with pytest.raises(InputError, match="has no box for any of the images"):
        predict_files([str(folder / "gray16.png")], model=str(smoke_run), **boxes)


def test_bad_images_are_reported_and_the_others_predicted(smoke_run, folder, tmp_path):
    whole = (folder / "gray8.png").read_bytes()
    bad = {"cut.png": whole[: len(whole) // 2], "empty.png": b"", "text.png": b"no image at all"}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    paths = [*(tmp_path / name for name in bad), tmp_path / "absent.png", folder / "gray8.png"]
    with pytest.raises(InputError, match="4 of 5 images were left out") as raised:
        predict_files(list(map(str, paths)), model=str(smoke_run), out=str(tmp_path / "out"))
    assert all(name in str(raised.value) for name in (*bad, "absent.png"))
    assert list(json.loads((tmp_path / "out" / "predictions.json").read_text())) == ["gray8.png"]


def test_predictions_of_earlier_calls_are_kept(smoke_run, folder, tmp_path, face, capsys):
    """Also if nothing is predicted now; an image that is predicted again has its new landmarks."""
    call = {"model": str(smoke_run), "out": str(tmp_path)}
    first = predict_files([str(folder / name) for name in ("gray8.png", "inferno.png")], **call)
    found = predict_files([str(folder / "gray8.png")], box=box_of(face), **call)
    assert "1 overlays" in capsys.readouterr().out.splitlines()[-1]
    assert found == json.loads((tmp_path / "predictions.json").read_text())
    assert found["inferno.png"] == first["inferno.png"] and found["gray8.png"] != first["gray8.png"]
    with pytest.raises(InputError, match="absent"):
        predict_files([str(folder / "absent.png")], **call)
    assert found == json.loads((tmp_path / "predictions.json").read_text())
    with pytest.raises(InputError, match="absent"):
        predict_files([str(folder / "absent.png")], model=str(smoke_run), out=str(tmp_path / "new"))
    assert not (tmp_path / "new" / "predictions.json").exists()


@pytest.mark.parametrize("content", ["[]", "no json"])
def test_a_file_that_holds_no_predictions_is_not_overwritten(smoke_run, folder, tmp_path, content):
    (tmp_path / "predictions.json").write_text(content)
    with pytest.raises(InputError, match=r"predictions\.json"):
        predict_files([str(folder / "gray8.png")], model=str(smoke_run), out=str(tmp_path))
    assert (tmp_path / "predictions.json").read_text() == content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box": "900,900,20,20"}, "outside"),
        ({"box": "1,2,3"}, "four numbers"),
        ({"box": "1,2,nan,3"}, "finite"),
        ({"stage": "compres"}, "no stage 'compres'"),
    ],
)
def test_bad_options_are_reported_in_one_sentence(smoke_run, folder, tmp_path, options, message):
    with pytest.raises(InputError, match=message) as raised:
        predict_files([str(folder / "gray8.png")], model=str(smoke_run), out=str(tmp_path), **options)
    assert "\n" not in str(raised.value)


def test_the_command_reports_an_error_in_one_line(smoke_run, folder, tmp_path):
    result = run_mlcm("predict", f"--model={smoke_run}", f"--out={tmp_path}", "--stage=compres", folder / "gray8.png")
    assert result.returncode == 1 and "no stage 'compres'; did you mean 'compress'?" in result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_two_images_of_the_same_name_are_refused(smoke_run, folder, tmp_path):
    (tmp_path / "gray8.png").write_bytes((folder / "gray8.png").read_bytes())
    with pytest.raises(InputError, match=r"both called gray8\.png"):
        predict_files([str(folder / "gray8.png"), str(tmp_path / "gray8.png")], model=str(smoke_run), out=str(tmp_path))
