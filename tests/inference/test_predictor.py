"""Prediction on images of every kind that the command promises to read."""

import json

import cv2
import numpy as np
import pytest
from conftest import run_mlcm

from mlcm_jax import landmarks
from mlcm_jax.data import image_file
from mlcm_jax.errors import InputError
from mlcm_jax.inference.predictor import Predictor, _in_range, predict_files
from mlcm_jax.synthetic import generate


@pytest.fixture(scope="module")
def face():
    return generate.example(3, 0, size=64, frontal=True, well_lit=True)


@pytest.fixture(scope="module")
def predictor(smoke_run):
    return Predictor(smoke_run)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, face):
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


def test_landmarks_come_in_pixels_of_the_image(predictor, face):
    points, scores = predictor(face["thermal"], face["box"][None])
    assert points.shape == (1, 68, 2) and points.dtype == np.float32
    assert scores.shape == (1,) and 0 < scores[0] <= 1
    x, y, w, h = face["box"]
    centre = points[0].mean(0)
    assert x < centre[0] < x + w and y < centre[1] < y + h


def test_a_mirrored_image_gives_mirrored_landmarks(predictor, face):
    """Both orders are averaged, so this holds exactly for any network."""
    layout, width = landmarks.get("ibug68"), face["thermal"].shape[1]
    x, y, w, h = face["box"]
    points, _ = predictor(face["thermal"], face["box"][None])
    mirrored, _ = predictor(np.ascontiguousarray(face["thermal"][:, ::-1]), [[width - 1 - x - w, y, w, h]])
    expected = points[0][layout.flip] * [-1, 1] + [width - 1, 0]
    np.testing.assert_allclose(mirrored[0], expected, atol=0.3)


def test_a_image_twice_the_size_gives_the_same_face(predictor, face):
    points, _ = predictor(face["thermal"], face["box"][None])
    big = cv2.resize(face["thermal"], None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    x, y, w, h = face["box"]
    doubled, _ = predictor(big, [[2 * x + 0.5, 2 * y + 0.5, 2 * w, 2 * h]])
    np.testing.assert_allclose(doubled[0], (points[0] + 0.5) * 2 - 0.5, atol=1.0)


def test_several_faces_at_once(predictor, face):
    boxes = np.stack([face["box"], face["box"] + [3, -2, 0, 0]])
    together, _ = predictor(face["thermal"], boxes)
    for i in range(2):
        np.testing.assert_allclose(together[i], predictor(face["thermal"], boxes[i : i + 1])[0][0], atol=1e-4)


def test_every_kind_of_image_is_read_and_written(smoke_run, folder, tmp_path, face):
    names = ["gray8.png", "gray16.png", "celsius.tiff", "celsius.npy", "inferno.png", "colour.jpg"]
    box = ",".join(str(v) for v in face["box"])
    result = run_mlcm(
        "predict", f"--model={smoke_run}", f"--box={box}", f"--out={tmp_path}", *(folder / name for name in names)
    )
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert list(found) == names
    for name in names:
        assert found[name]["layout"] == "ibug68" and np.shape(found[name]["landmarks"]) == (68, 2)
        np.testing.assert_allclose(found[name]["box"], face["box"], rtol=1e-6)
    assert len(list(tmp_path.glob("*_landmarks.png"))) == len(names)
    # The same temperatures through three containers are the same face, to the rounding of the 16-bit image.
    np.testing.assert_allclose(found["celsius.npy"]["landmarks"], found["celsius.tiff"]["landmarks"], atol=1e-3)
    np.testing.assert_allclose(found["celsius.npy"]["landmarks"], found["gray16.png"]["landmarks"], atol=0.5)


def test_without_a_box_the_whole_image_is_taken_and_said(smoke_run, folder, tmp_path):
    result = run_mlcm("predict", f"--model={smoke_run}", "--stage=teacher", f"--out={tmp_path}", folder / "colour.jpg")
    assert result.returncode == 0, result.stderr
    assert "whole image" in result.stdout
    assert json.loads((tmp_path / "predictions.json").read_text())["colour.jpg"]["box"] == [0, 0, 64, 64]


def test_a_file_of_boxes(smoke_run, folder, tmp_path, face):
    boxes = f"--boxes={folder / 'boxes.json'}"
    result = run_mlcm("predict", f"--model={smoke_run}", boxes, f"--out={tmp_path}", folder / "gray8.png")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "predictions.json").read_text())
    np.testing.assert_allclose(found["gray8.png"]["box"], face["box"], rtol=1e-6)


def test_bad_images_are_named_and_the_good_ones_kept(smoke_run, folder, tmp_path):
    whole = (folder / "gray8.png").read_bytes()
    bad = {"cut.png": whole[: len(whole) // 2], "empty.png": b"", "text.png": b"no image at all"}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    paths = [*(tmp_path / name for name in bad), tmp_path / "absent.png", folder / "gray8.png"]
    result = run_mlcm("predict", f"--model={smoke_run}", f"--out={tmp_path / 'out'}", *paths)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert all(name in result.stderr for name in (*bad, "absent.png"))
    assert list(json.loads((tmp_path / "out" / "predictions.json").read_text())) == ["gray8.png"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--box=900,900,20,20"], "outside"),
        (["--box=1,2,3"], "four numbers"),
        (["--box=1,2,nan,3"], "finite"),
        (["--stage=compres"], "no stage 'compres'"),
    ],
)
def test_bad_words_are_one_sentence(smoke_run, folder, tmp_path, words, message):
    result = run_mlcm("predict", f"--model={smoke_run}", f"--out={tmp_path}", *words, folder / "gray8.png")
    assert result.returncode == 1
    assert message in result.stderr and "Traceback" not in result.stderr


def test_two_images_of_one_name_are_refused(smoke_run, folder, tmp_path):
    (tmp_path / "gray8.png").write_bytes((folder / "gray8.png").read_bytes())
    with pytest.raises(InputError, match=r"both called gray8\.png"):
        predict_files([str(folder / "gray8.png"), str(tmp_path / "gray8.png")], model=str(smoke_run), out=str(tmp_path))


def test_no_model_ships_yet():
    with pytest.raises(InputError, match="mlcm train"):
        Predictor()


def test_temperatures_are_read_in_the_range_of_the_training():
    celsius = np.array([[10.0, 20.0], [30.0, 50.0]], np.float32)
    found = _in_range(image_file.ImageFile(celsius, "float", "a.npy"), (20.0, 40.0))
    np.testing.assert_array_equal(found, [[0, 0], [128, 255]])
    with pytest.raises(InputError, match=r"b\.png holds no temperatures"):
        _in_range(image_file.ImageFile(np.zeros((2, 2), np.uint8), "gray8", "b.png"), (20.0, 40.0))
