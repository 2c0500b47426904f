"""The command `mlcm predict`: every kind of image, folders and patterns, boxes, and what earlier calls have written."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import stored_runs
from commands import run_mlcm

from mlcm_jax import cli
from mlcm_jax.errors import InputError
from mlcm_jax.inference import predict_files as module
from mlcm_jax.inference.predict_files import predict_files
from mlcm_jax.synthetic import generate


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
from mlcm_jax.inference.predict_files import predict_files
from mlcm_jax.synthetic import generate
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
    # All three files hold the same temperatures, so the faces are the same up to the rounding of 16 bits.
    np.testing.assert_allclose(found["celsius.npy"]["landmarks"], found["celsius.tiff"]["landmarks"], atol=1e-3)
    np.testing.assert_allclose(found["celsius.npy"]["landmarks"], found["gray16.png"]["landmarks"], atol=0.5)


def test_a_unit_is_taken_and_a_face_that_cannot_be_is_told(model, tmp_path, face, capsys):
    """The landmarks follow from the values, and are the same in every unit."""
    np.save(tmp_path / "f.npy", face["celsius"] * 1.8 + 32)
    call = {**model, "box": box_of(face), "overwrite": True, "out": str(tmp_path / "out")}
    found, said = [], []
    for unit in ("auto", "fahrenheit", "none", "0.1,0"):
        found.append(predict_files([str(tmp_path / "f.npy")], celsius=unit, **call)["f.npy"]["landmarks"])
        said.append(capsys.readouterr().out.replace("\n", " "))
    assert all(one == found[0] for one in found)
    assert "were taken for °C" in said[0] and "--celsius=fahrenheit" in said[0] and "no face is" in said[0]
    assert not any("taken for" in text or "no face is" in text for text in said[1:])
    with pytest.raises(InputError, match="--celsius=rankine is no unit"):
        predict_files([str(tmp_path / "f.npy")], celsius="rankine", **call)


def test_the_command_takes_a_unit(model, tmp_path, face, capsys):
    np.save(tmp_path / "k.npy", ((face["celsius"] + 273.15) * 10).astype(np.uint16))
    words = [f"--model={model['model']}", f"--box={box_of(face)}", f"--out={tmp_path / 'out'}", str(tmp_path / "k.npy")]
    predict = cli.COMMANDS["predict"].run
    predict(*cli._parse("predict", [*words, "--celsius=decikelvin"]))
    said = capsys.readouterr().out
    assert "k.npy: score" in said and "taken for" not in said and "no face is" not in said
    with pytest.raises(InputError, match="--celsius=1,2,3 must be scale,offset"):
        predict(*cli._parse("predict", [*words, "--celsius=1,2,3", "--overwrite"]))


def test_without_a_box_the_whole_image_is_used_and_a_message_says_so(smoke_run, folder, tmp_path, capsys):
    found = predict_files([str(folder / "colour.jpg")], model=str(smoke_run), stage="teacher", out=str(tmp_path))
    assert "no box given, so the whole image is used as the box of the face" in capsys.readouterr().out
    assert found["colour.jpg"]["box"] == [0, 0, 64, 64]
    assert json.loads((tmp_path / "predictions.json").read_text()) == found


def test_a_file_of_boxes(smoke_run, folder, tmp_path, face, capsys):
    boxes = {"boxes": str(folder / "boxes.json"), "out": str(tmp_path)}
    found = predict_files([str(folder / "gray8.png"), str(folder / "gray16.png")], model=str(smoke_run), **boxes)
    said = capsys.readouterr().out
    assert f"{folder / 'boxes.json'} has no box of gray16.png, so the detector looks for faces" in said
    assert "gray8.png, so the detector" not in said
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
    """Also if nothing is predicted now; an image that is predicted again needs a word, and has its new landmarks."""
    call = {"model": str(smoke_run), "out": str(tmp_path)}
    first = predict_files([str(folder / name) for name in ("gray8.png", "inferno.png")], **call)
    with pytest.raises(InputError, match=r"holds 1 of these 2 images already, such as gray8\.png; .* --overwrite"):
        predict_files([str(folder / name) for name in ("gray8.png", "gray16.png")], **call)
    assert first == json.loads((tmp_path / "predictions.json").read_text())
    found = predict_files([str(folder / "gray8.png")], box=box_of(face), overwrite=True, **call)
    assert "and 1 overlay to" in capsys.readouterr().out.splitlines()[-1]
    assert found == json.loads((tmp_path / "predictions.json").read_text())
    assert found["inferno.png"] == first["inferno.png"] and found["gray8.png"] != first["gray8.png"]
    with pytest.raises(InputError, match="absent"):
        predict_files([str(folder / "absent.png")], **call)
    assert found == json.loads((tmp_path / "predictions.json").read_text())
    with pytest.raises(InputError, match="absent"):
        predict_files([str(folder / "absent.png")], model=str(smoke_run), out=str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["[]", "no json", '{"a": 3}', '{"a": {"faces": [{"regions": {"chin": {}}}]}}'])
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
        ({"box": "20,20,4,40"}, "only 4 pixels wide or high"),
        ({"box": "0.3,0.2,0.4,0.5"}, "give pixels, not shares of the image"),
        ({"box": "10,20,9,60"}, "too flat for a face"),
        ({"box": "-80,-80,100,100"}, "mostly outside the image"),
        ({"box": "50,45,60,60"}, "mostly outside .*; as two corners, its numbers would be the box 50,45,10,15"),
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


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The work directory of a network that is not trained, as an argument."""
    place = tmp_path_factory.mktemp("run")
    stored_runs.write(place, stored_runs.card())
    return {"model": str(place)}


@pytest.fixture
def tree(tmp_path, folder):
    """Two folders with an image of the same name, and things that are no images."""
    for name in ("a/1.png", "b/1.png", "b/c/2.PNG", ".hidden/3.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes((folder / "gray8.png").read_bytes())
    (tmp_path / "in/notes.txt").write_text("no image")
    return tmp_path / "in"


def test_two_images_with_one_key_are_refused_before_anything_is_predicted(model, tree, tmp_path):
    paths = [str(tree / "a/1.png"), str(tree / "b/1.png")]
    with pytest.raises(InputError, match=r"both be called 1\.png, .*a/1\.png and .*b/1\.png"):
        predict_files(paths, **model, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert list(predict_files([paths[0], paths[0]], **model, out=str(tmp_path / "out"))) == ["1.png"]


@pytest.mark.parametrize(
    ("word", "keys"),
    [("", ["a/1.png", "b/1.png", "b/c/2.PNG"]), ("*/1.png", ["a/1.png", "b/1.png"]), ("b/**/*.PNG", ["c/2.PNG"])],
)
def test_folders_and_patterns_keep_the_paths_below_them(model, tree, tmp_path, word, keys):
    found = predict_files([str(tree / word)], **model, out=str(tmp_path / "out"))
    assert list(found) == keys and json.loads((tmp_path / "out/predictions.json").read_text()) == found
    assert all((tmp_path / "out" / f"{key}_landmarks.png").exists() for key in keys)


def test_an_output_folder_may_be_that_of_the_images(model, tree):
    first = predict_files([str(tree)], **model, out=str(tree))
    assert list(first) == ["a/1.png", "b/1.png", "b/c/2.PNG"]
    assert (tree / "a/1.png_landmarks.png").exists()
    assert list(predict_files([str(tree)], **model, out=str(tree), overwrite=True)) == list(first)
    again = predict_files([str(tree / "a/*")], **model, out=str(tree / "other"))
    assert list(again) == ["1.png"]


def test_files_of_forms_that_are_not_read_are_told(model, tree, tmp_path, capsys):
    for name in ("x.is2", "b/y.BMT", "b/z.is2"):
        (tree / name).write_bytes(b"PK")
    predict_files([str(tree)], **model, out=str(tmp_path / "out"))
    assert "3 files of forms that are not read (.bmt, .is2) were left out." in capsys.readouterr().out


def test_a_box_that_may_be_two_corners_is_told(model, folder, tmp_path, capsys):
    predict_files([str(folder / "gray8.png")], **model, box="20,15,58,55", out=str(tmp_path))
    expected = "the box reaches beyond the image; as two corners, its numbers would be the box 20,15,38,40."
    assert expected in capsys.readouterr().out


def test_the_image_of_the_package_is_predicted_from_any_folder(tmp_path):
    result = run_mlcm("predict", "--demo", "--out=out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (face,) = json.loads((tmp_path / "out/predictions.json").read_text())["demo.png"]["faces"]
    assert face["score"] > 0.9 and (tmp_path / "out/demo.png_landmarks.png").exists()
    np.testing.assert_allclose(face["box"], [107, 70, 109, 117], atol=20)


@pytest.mark.parametrize("relative", [False, True])
def test_what_a_call_wrote_into_its_own_folder_is_no_image(model, tree, monkeypatch, relative):
    monkeypatch.chdir(tree)
    out = "out" if relative else str(tree / "out")
    first = predict_files([str(tree)], **model, out=out)
    again = predict_files([str(tree)], **model, out=out, overwrite=True)
    assert list(first) == list(again) == ["a/1.png", "b/1.png", "b/c/2.PNG"]


def test_boxes_go_by_path_or_by_a_name_that_only_one_image_has(model, tree, tmp_path, face):
    box, other = face["box"].tolist(), [1.0, 2.0, 30.0, 40.0]
    (tmp_path / "boxes.json").write_text(json.dumps({"b/1.png": box, "1.png": other, "2.PNG": other}))
    found = predict_files([str(tree)], **model, boxes=str(tmp_path / "boxes.json"), out=str(tmp_path / "out"))
    assert [found[key]["box"] for key in ("b/1.png", "b/c/2.PNG")] == [box, other]
    assert found["a/1.png"]["faces"][0]["detection"] > 0  # the detector found it


def test_accents_of_both_kinds_are_one_name(model, tmp_path, folder, face):
    composed, apart = "caf\u00e9.png", "cafe\u0301.png"
    (tmp_path / apart).write_bytes((folder / "gray8.png").read_bytes())
    (tmp_path / "boxes.json").write_text(json.dumps({composed: face["box"].tolist()}))
    found = predict_files([str(tmp_path / apart)], **model, boxes=str(tmp_path / "boxes.json"), out=str(tmp_path))
    np.testing.assert_allclose(found[apart]["box"], face["box"], rtol=1e-6)


@pytest.mark.parametrize(("word", "message"), [("empty", "holds no image"), ("*.jpg", "No file fits the pattern")])
def test_nothing_to_predict_is_reported(model, tree, tmp_path, word, message):
    (tree / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        predict_files([str(tree / word)], **model, out=str(tmp_path / "out"))


def test_an_overlay_that_cannot_be_written_does_not_cost_the_landmarks(model, tree, tmp_path):
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/b").write_text("a file where a folder is needed")
    with pytest.raises(InputError, match=r"^2 overlays are missing: Cannot write .*b/1\.png_landmarks\.png"):
        predict_files([str(tree)], **model, out=str(tmp_path / "out"))
    assert list(json.loads((tmp_path / "out/predictions.json").read_text())) == ["a/1.png", "b/1.png", "b/c/2.PNG"]


def test_an_interrupted_call_keeps_what_it_has(model, tree, tmp_path, monkeypatch):
    whole = module._predict

    def once(path, *rest, **options):
        if "/b/" in str(path):
            raise KeyboardInterrupt
        return whole(path, *rest, **options)

    monkeypatch.setattr(module, "_predict", once)
    with pytest.raises(KeyboardInterrupt):
        predict_files([str(tree)], **model, out=str(tmp_path / "out"))
    assert list(json.loads((tmp_path / "out/predictions.json").read_text())) == ["a/1.png"]


@pytest.fixture(scope="module")
def good():
    """A rendered face that the shipped network knows, in a wider image of 8 bits, and its box."""
    pair = generate.example(7, 4, size=96)
    wide = cv2.copyMakeBorder(pair["thermal"], 40, 40, 40, 40, cv2.BORDER_REPLICATE)
    x, y, w, h = pair["box"].tolist()
    return wide, (x + 40, y + 40, w, h)


def predicted(tmp_path, capsys, image, box, **options):
    """Predicts one image with the shipped network; returns the first face, and what was said about it."""
    path = tmp_path / "a.npy"
    np.save(path, image)
    found = predict_files([str(path)], box=",".join(map(str, box)), out=str(tmp_path / "out"), **options)
    return found["a.npy"]["faces"][0], capsys.readouterr().out


def test_a_low_score_is_warned_of_and_a_high_one_is_not(tmp_path, capsys, good):
    image, box = good
    face, told = predicted(tmp_path, capsys, image, box)
    assert face["score"] > 0.95 and "Warning" not in told
    x, y, w, h = box
    face, told = predicted(tmp_path, capsys, image, (x + w, y, w, h), overwrite=True)
    assert face["score"] < 0.5
    warning = f"Warning: {tmp_path / 'a.npy'}: the face has the score {face['score']:.2f}; below "
    assert warning in told and "the landmarks are probably wrong" in told


def test_dark_faces_are_told_and_inverted_on_request(tmp_path, capsys, good):
    image, box = good
    white, told = predicted(tmp_path, capsys, image, box)
    assert "darker" not in told
    _, told = predicted(tmp_path, capsys, 255 - image, box, overwrite=True)
    assert "the face is darker than the surroundings; if cold is bright in the image, add --polarity=black_hot." in told
    black, told = predicted(tmp_path, capsys, 255 - image, box, overwrite=True, polarity="black_hot")
    assert "darker" not in told and black == white
    with pytest.raises(InputError, match="--polarity=black is unknown; did you mean 'black_hot'"):
        predict_files([str(tmp_path / "a.npy")], polarity="black", out=str(tmp_path / "b"))


def test_images_and_boxes_with_nothing_in_them_are_refused(tmp_path, good, capsys):
    image, box = good
    np.save(tmp_path / "flat.npy", np.full((176, 176), 29500, np.uint16))
    np.save(tmp_path / "good.npy", image)
    files = [str(tmp_path / name) for name in ("flat.npy", "good.npy")]
    with pytest.raises(
        InputError, match=r"1 of 2 images were left out: .*flat\.npy shows nothing: all its pixels have"
    ):
        predict_files(files, out=str(tmp_path / "out"), box=",".join(map(str, box)))
    assert list(json.loads((tmp_path / "out/predictions.json").read_text())) == ["good.npy"]
    image = image.copy()
    image[:30, :30] = 7
    np.save(tmp_path / "corner.npy", image)
    with pytest.raises(InputError, match=r"The box of .*corner\.npy shows nothing: all pixels in it have one value"):
        predict_files([str(tmp_path / "corner.npy")], out=str(tmp_path / "c"), box="2,2,20,20")
    assert not (tmp_path / "c").exists()
    capsys.readouterr()
    with pytest.raises(InputError, match=r"shows nothing"):
        predict_files([files[0]], out=str(tmp_path / "d"))
