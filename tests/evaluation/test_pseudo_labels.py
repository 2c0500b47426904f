"""Pseudo labels: the files, that the builder reads them, and the meaning of the confidence."""

import json

import numpy as np
import pairs
import pytest
import stored_runs

import tfds_builders
from mlcm_jax import codecs, landmarks
from mlcm_jax.data import augment
from mlcm_jax.data.examples import open_examples
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import pseudo_labels
from mlcm_jax.models import stored

LAYOUT = landmarks.get("ibug68")


@pytest.fixture(scope="module")
def own(tmp_path_factory, data_dir):
    """A built dataset of four unlabelled pairs: the folder of its files, and that of built datasets."""
    folder, built = tmp_path_factory.mktemp("pairs"), tmp_path_factory.mktemp("built")
    pairs.build("own", folder, built, data_dir, count=4, labelled=False, names=("a", "b", "sub/c", "d"))
    return folder, str(built)


def test_labels_are_written_and_read_by_the_builder(own, smoke_run):
    folder, built = own
    written = pseudo_labels.label(str(smoke_run), "paired_folder/own", out=str(folder / "landmarks"), data_dir=built)
    assert set(written) == {"a", "b", "sub/c", "d"} and (folder / "landmarks/labels.png").stat().st_size > 5_000
    one = json.loads((folder / "landmarks/sub/c.json").read_text())
    assert one == written["sub/c"] and one["pseudo"] is True and "teacher" in one["source"]
    assert np.shape(one["landmarks"]) == (68, 2) and np.shape(one["confidence"]) == (68,)
    assert min(one["confidence"]) > 0 and max(one["confidence"]) <= 1

    options = {"manual_dir": str(folder), "layout": "ibug68", "labels": "landmarks"}
    builder = tfds_builders.build("paired_folder/labelled", built, **options)
    found = {}
    for split in builder.info.splits:
        examples = open_examples("paired_folder/labelled", split, data_dir=built, layout="ibug68")
        found |= {examples.metadata(k)["name"]: examples[k] for k in range(len(examples))}
    assert set(found) == set(written)
    for name, example in found.items():
        np.testing.assert_allclose(example["landmarks"], written[name]["landmarks"], atol=1e-3)
        np.testing.assert_allclose(example["weight"], written[name]["confidence"], atol=1e-3)
    with pytest.raises(InputError, match=r"a\.json exists already"):
        pseudo_labels.label(str(smoke_run), "paired_folder/own", out=str(folder / "landmarks"), data_dir=built)


def test_a_file_in_the_place_of_the_folder_is_reported(own, smoke_run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"Cannot make the folder .*file: .*; give another --out"):
        pseudo_labels.label(str(smoke_run), "paired_folder/own", out=str(tmp_path / "file"), data_dir=own[1])


def test_an_unknown_stage_or_split_is_reported(own, smoke_run, tmp_path):
    built = own[1]
    with pytest.raises(InputError, match="no stage 'tutor'"):
        pseudo_labels.label(str(smoke_run), "paired_folder/own", out=str(tmp_path), stage="tutor", data_dir=built)
    with pytest.raises(InputError, match="no split 'train'"):
        pseudo_labels.label(str(smoke_run), "paired_folder/own", out=str(tmp_path), split="train", data_dir=built)
    assert not list(tmp_path.iterdir())


def test_a_dataset_without_the_images_that_the_stage_reads_is_reported(tmp_path, data_dir):
    name = pairs.build("rgb", tmp_path / "files", tmp_path / "built", data_dir, count=4, sides=("rgb",), labelled=False)
    stored_runs.write(tmp_path / "run", stored_runs.card("transfer"))
    options = {"stage": "transfer", "data_dir": str(tmp_path / "built")}
    with pytest.raises(InputError, match=r"Stage transfer needs thermal images, but .* has no thermal ones"):
        pseudo_labels.label(str(tmp_path / "run"), name, out=str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


def test_two_faces_of_the_same_name_are_reported(own, tmp_path, monkeypatch):
    stored_runs.write(tmp_path / "run", stored_runs.card("teacher", modality="rgb"))
    monkeypatch.setattr(pseudo_labels, "_name", lambda facts, index: "anna")
    with pytest.raises(InputError, match=r"Two faces of paired_folder/own would be written to anna\.json"):
        pseudo_labels.label(str(tmp_path / "run"), "paired_folder/own", out=str(tmp_path / "out"), data_dir=own[1])


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"name": "sub/c", "key": "x/1.png"}, "sub/c"),
        ({"key": "x/1.png"}, "1"),
        ({}, "000007"),
        ({"name": ""}, "000007"),
    ],
)
def test_the_file_of_a_face_is_named_after_it(facts, name):
    assert pseudo_labels._name(facts, 7) == name


class StandIn:
    """A stand-in for a Predictor; `predict_crops` is a function of the crops, float32 [N, 32, 32, 3]."""

    def __init__(self, predict_crops):
        self.predict_crops = predict_crops
        self.card = stored.Card("teacher", {}, LAYOUT, image_size=32, expand=1.25, modality="rgb")


IMAGE, BOX = np.zeros((48, 48, 3), np.uint8), np.array([8, 8, 32, 32], np.float32)


def test_predictions_that_agree_in_the_image_have_full_confidence(monkeypatch):
    """Every view is mapped back to the image, also mirrored ones: true landmarks in all have a confidence of 1."""
    truth = np.random.default_rng(0).uniform(10, 38, (68, 2)).astype(np.float32)
    places, crop = [], augment.crop

    def noting(*arguments, **options):
        made = crop(*arguments, **options)
        places.append(made["to_image"].astype(np.float64))
        return made

    def true_landmarks(crops):
        assert crops.shape == (8, 32, 32, 3)
        found = []
        for to_image in places:
            pixels = (truth - to_image[:, 2]) @ np.linalg.inv(to_image[:, :2]).T
            mirrored = np.linalg.det(to_image[:, :2]) < 0
            found.append(codecs.to_u(pixels[LAYOUT.flip] if mirrored else pixels, 32))
        return np.stack(found)

    monkeypatch.setattr(augment, "crop", noting)
    points, confidence = pseudo_labels.predict_views(StandIn(true_landmarks), IMAGE, BOX)
    assert sum(np.linalg.det(to_image[:, :2]) < 0 for to_image in places) == 4
    np.testing.assert_allclose(points, truth, atol=1e-3)
    np.testing.assert_allclose(confidence, 1.0, atol=1e-4)


def test_confidence_falls_with_the_spread_of_the_views():
    def fixed_in_the_crop(crops):  # the middle of every crop, which moves with the shifts of the box
        return np.full((len(crops), 68, 2), 0.5)

    points, confidence = pseudo_labels.predict_views(StandIn(fixed_in_the_crop), IMAGE, BOX)
    shifts = np.array([[across, down] for across, down, _, _ in pseudo_labels.VIEWS])
    spread = np.sqrt(np.square(shifts - shifts.mean(0)).sum(1).mean())
    np.testing.assert_allclose(confidence, 1 / (1 + (spread / 0.02) ** 2), rtol=1e-4)
    np.testing.assert_allclose(points, np.tile([[23.5, 23.5]], (68, 1)) + 32 * shifts.mean(0), atol=0.6)
