"""Pseudo labels: what is written, that the builder reads it, and what confidence means."""

import json

import cv2
import numpy as np
import pytest

import tfds_builders
from mlcm_jax import codecs, landmarks
from mlcm_jax.data.examples import open_examples
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import pseudo_labels

LAYOUT = landmarks.get("ibug68")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, data_dir):
    """Four unlabelled pairs of one's own, built; their folder, and that of the built sets."""
    folder, built = tmp_path_factory.mktemp("pairs"), tmp_path_factory.mktemp("built")
    examples = open_examples("synthetic_faces/48x48", "test", data_dir=str(data_dir), layout="ibug68")
    for k, name in enumerate(("a", "b", "sub/c", "d")):
        for side in ("rgb", "thermal"):
            path = folder / side / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = examples[k][side]
            assert cv2.imwrite(str(path), image[..., ::-1] if side == "rgb" else image)
    tfds_builders.build("paired_folder/own", built, manual_dir=str(folder), layout="ibug68")
    return folder, str(built)


def test_labels_are_written_read_and_trained_from(pairs, smoke_run):
    folder, built = pairs
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


def test_what_is_missing_is_said(pairs, smoke_run, tmp_path):
    built = pairs[1]
    with pytest.raises(InputError, match="no stage 'tutor'"):
        pseudo_labels.label(str(smoke_run), "paired_folder/own", out=str(tmp_path), stage="tutor", data_dir=built)
    with pytest.raises(InputError, match="no split 'train'"):
        pseudo_labels.label(str(smoke_run), "paired_folder/own", out=str(tmp_path), split="train", data_dir=built)


class _Config:
    image_size = 32
    augment = type("Augment", (), {"expand": 1.25})


def test_a_network_that_answers_the_same_place_of_the_image_is_trusted():
    """Every view is mapped back, mirrored ones included: a dot found in each is one dot, with confidence 1."""
    truth = np.random.default_rng(0).uniform(10, 38, (68, 2)).astype(np.float32)
    example = {"rgb": np.zeros((48, 48, 3), np.uint8), "box": np.array([8, 8, 32, 32], np.float32)}
    crops, crop = [], pseudo_labels.augment.crop

    def recording(*arguments, **options):
        crops.append(crop(*arguments, **options))
        return crops[-1]

    def knowing(batch):
        answers = []
        for made in crops[-8:]:
            to_image = made["to_image"].astype(np.float64)
            pixels = (truth - to_image[:, 2]) @ np.linalg.inv(to_image[:, :2]).T
            mirrored = np.linalg.det(to_image[:, :2]) < 0
            answers.append(codecs.to_u(pixels[LAYOUT.flip] if mirrored else pixels, 32))
        return np.stack(answers)

    pseudo_labels.augment.crop = recording
    try:
        points, confidence = pseudo_labels._views(knowing, example, "rgb", LAYOUT, _Config)
    finally:
        pseudo_labels.augment.crop = crop
    np.testing.assert_allclose(points, truth, atol=1e-3)
    np.testing.assert_allclose(confidence, 1.0, atol=1e-4)


def test_confidence_falls_with_the_spread_of_the_views():
    example = {"rgb": np.zeros((48, 48, 3), np.uint8), "box": np.array([8, 8, 32, 32], np.float32)}

    def fixed_in_the_crop(batch):  # the middle of every crop, which the shifts of the box move about
        return np.full((len(batch["rgb"]), 68, 2), 0.5)

    points, confidence = pseudo_labels._views(fixed_in_the_crop, example, "rgb", LAYOUT, _Config)
    shifts = np.array([[across, down] for across, down, _, _ in pseudo_labels.VIEWS])
    spread = np.sqrt(np.square(shifts - shifts.mean(0)).sum(1).mean())
    np.testing.assert_allclose(confidence, 1 / (1 + (spread / 0.02) ** 2), rtol=1e-4)
    np.testing.assert_allclose(points, np.tile([[23.5, 23.5]], (68, 1)) + 32 * shifts.mean(0), atol=0.6)
