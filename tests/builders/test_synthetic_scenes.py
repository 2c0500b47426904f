"""Tests of synthetic_scenes: labels, records, and names of configs."""

import numpy as np
import pytest

import tfds_builders
from mlcm_jax import detection
from mlcm_jax.data.examples import open_examples
from mlcm_jax.errors import InputError
from mlcm_jax.synthetic import crowd
from tfds_builders.synthetic_scenes import synthetic_scenes_dataset_builder as scenes


def test_labels_by_how_much_of_a_face_is_seen():
    scene = {"boxes": np.array([[0, 0, 10, 12], [20, 0, 10, 12], [40, 0, 10, 12]], np.float32), "index": 7}
    scene |= {"shown": np.array([1.0, 0.1, 0.4], np.float32), "yaw": np.array([5, 6, 7], np.float32)}
    found = scenes.labels(scene, (64, 48))
    assert found["known"].reshape(6, 4).all(1).tolist() == [True, True] + [False] * 4
    np.testing.assert_allclose(found["confidence"].reshape(6, 4)[:, 0], [1.0, 0.5, 0, 0, 0, 0], atol=1e-6)
    assert found["visible"].reshape(6, 4)[:, 0].tolist() == [True] + [False] * 5
    assert found["yaw"].tolist() == [5, 7, 0, 0, 0, 0] and found["box"].tolist() == [0, 0, 64, 48]
    np.testing.assert_array_equal(np.asarray(detection.corners(found["landmarks"]))[1], [40, 0, 50, 12])


def test_records_are_those_of_the_renderer(tmp_path):
    name = "synthetic_scenes/30x64-80"
    tfds_builders.build(name, tmp_path)
    seen = set()
    for split in ("train", "val", "test"):
        examples = open_examples(name, split, data_dir=tmp_path, layout="boxes6", gain="scene")
        for k in range(len(examples)):
            example, index = examples[k], int(examples.metadata(k)["index"])
            seen.add(index)
            scene = crowd.example(0, index, size=(64, 80))
            np.testing.assert_array_equal(example["thermal"][..., 0], scene["thermal"])
            wanted = scenes.labels(scene, scene["thermal"].shape[::-1])
            np.testing.assert_allclose(example["landmarks"], wanted["landmarks"], rtol=1e-6)
            np.testing.assert_allclose(example["weight"], wanted["confidence"], rtol=1e-6)
    assert seen == set(range(30))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("8x96", "asks for 8 scenes; there can be 16"),
        ("20x32", "sides run from 64 to 640"),
        ("huge", "Unknown config 'huge' of synthetic_scenes; did you mean|Unknown config 'huge' of synthetic_scenes"),
    ],
)
def test_configs_that_do_not_exist(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        tfds_builders.load(f"synthetic_scenes/{name}", tmp_path)


def test_scan_based_heads_need_their_files(tmp_path):
    with pytest.raises(InputError, match="synthetic_scenes/scan-20x64 needs the head model"):
        tfds_builders.build("synthetic_scenes/scan-20x64", tmp_path)
