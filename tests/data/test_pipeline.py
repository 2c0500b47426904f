"""The loader on a real dataset on disk: pure in (seed, step, host), and pixels that lie where the landmarks say."""

import contextlib
from typing import ClassVar

import cv2
import jax
import numpy as np
import pytest

import tfds_builders
from mlcm_jax import codecs, landmarks
from mlcm_jax.config import base
from mlcm_jax.data import pipeline
from mlcm_jax.data.examples import MODALITIES, Examples, open_examples, require, splits_of
from mlcm_jax.errors import InputError
from mlcm_jax.training import sharding

NAME = "synthetic_faces/48x48"


@pytest.fixture(scope="module")
def examples(data_dir):
    return open_examples(NAME, "train", data_dir=str(data_dir), layout="ibug68")


def batches(examples, *, seed=0, rows=None, modalities=MODALITIES, **changes):
    augmentation = base().augment.to_dict() | changes
    return pipeline.train_batches(
        [examples],
        batch_size=4,
        size=32,
        layout="ibug68",
        augmentation=augmentation,
        modalities=modalities,
        seed=seed,
        rows=rows,
    )


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


def test_a_batch_is_as_the_house_says(examples):
    on_host = batches(examples)[0]
    assert on_host["rgb"].dtype == on_host["thermal"].dtype == np.uint8
    batch = sharding.put_batch(on_host, sharding.make_mesh(jax.devices()[:1]))
    shapes = {"rgb": (4, 32, 32, 3), "thermal": (4, 32, 32, 1), "landmarks": (4, 68, 2), "visible": (4, 68)}
    shapes |= {"weight": (4, 68), "box": (4, 4), "to_image": (4, 2, 3), "mask": (4,)}
    assert {key: value.shape for key, value in batch.items()} == shapes
    assert batch["rgb"].dtype == batch["thermal"].dtype == batch["landmarks"].dtype == np.float32
    assert batch["visible"].dtype == batch["mask"].dtype == bool
    assert batch["rgb"].min() >= 0 and batch["rgb"].max() <= 1 and batch["thermal"].std() > 0.01


def test_a_batch_is_a_function_of_seed_and_step(examples):
    assert_equal(batches(examples)[7], batches(examples)[7])
    assert not np.array_equal(batches(examples)[7]["landmarks"], batches(examples, seed=1)[7]["landmarks"])
    assert not np.array_equal(batches(examples)[7]["landmarks"], batches(examples)[8]["landmarks"])


def test_iterating_from_a_step_gives_the_batches_of_that_step(examples):
    dataset = batches(examples)
    iterator = pipeline.iterate(dataset, 5)
    for step in (5, 6, 7):
        assert_equal(next(iterator), dataset[step])


@pytest.mark.parametrize("rows", [[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0], [1], [2], [3]]])
def test_hosts_together_see_the_batch_of_one(examples, rows):
    whole = batches(examples)
    for step in (0, 3):
        for some in map(np.asarray, rows):
            part = batches(examples, rows=some)[step]
            assert_equal(part, {key: value[some] for key, value in whole[step].items()})


def test_the_members_of_a_batch_are_known_by_its_step(examples):
    still = dict.fromkeys(("jitter", "rotation", "scale", "shift", "flip", "photometric", "occlusion"), 0.0)
    for step in (2, 11):
        found = pipeline.members([examples], step, batch_size=4, seed=0)
        boxes = [examples[one["index"]]["box"] for one in found]
        np.testing.assert_array_equal(boxes, batches(examples, **still)[step]["box"])
        assert all(one["dataset"] == examples.name and "subject" in one and "rgb" not in one for one in found)


def test_a_fingerprint_is_that_of_the_split(examples, data_dir):
    again = open_examples(NAME, "train", data_dir=str(data_dir), layout="ibug51")
    other = open_examples(NAME, "val", data_dir=str(data_dir), layout="ibug68")
    assert examples.fingerprint() == again.fingerprint() != other.fingerprint()


def test_a_modality_looks_the_same_alone_and_beside_the_other(examples):
    both, thermal = batches(examples)[2], batches(examples, modalities=("thermal",))[2]
    assert "rgb" not in thermal
    np.testing.assert_array_equal(both["thermal"], thermal["thermal"])
    np.testing.assert_array_equal(both["landmarks"], thermal["landmarks"])


def test_an_epoch_holds_every_example_once_and_the_next_another_order(examples):
    dataset = batches(
        examples, jitter=0.0, rotation=0.0, scale=0.0, shift=0.0, flip=0.0, photometric=0.0, occlusion=0.0
    )
    per_epoch = len(examples) // 4
    boxes = np.concatenate([dataset[step]["box"] for step in range(per_epoch)])
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    again = np.concatenate([dataset[per_epoch + step]["box"] for step in range(per_epoch)])
    assert not np.array_equal(boxes, again)


def test_evaluation_sees_each_example_once_and_maps_back_to_original_pixels(examples):
    seen = 0
    for batch in pipeline.eval_batches(examples, batch_size=5, size=32, expand=1.25, layout="ibug68"):
        assert batch["mask"].shape == (5,)
        truth = codecs.to_original(batch["landmarks"], batch["to_image"], 32)
        for points, real in zip(truth, batch["mask"], strict=True):
            if real:
                np.testing.assert_allclose(points, examples[seen]["landmarks"], atol=1e-3)
                seen += 1
    assert seen == len(examples)


def test_the_mean_shape_is_the_mean(examples):
    crops = list(pipeline.eval_batches(examples, batch_size=1, size=32, expand=1.25, layout="ibug68"))
    expected = np.mean([crop["landmarks"][0] for crop in crops], axis=0)
    found = pipeline.mean_shape([examples], size=32, expand=1.25, layout="ibug68")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("parts", [2, 3])
def test_the_mean_shape_is_the_same_for_any_number_of_processes(examples, parts):
    options = {"size": 32, "expand": 1.25, "layout": "ibug68"}
    kept = [[] for _ in range(parts)]  # what each process would send, in the order of its calls
    for index in range(parts):
        with contextlib.suppress(ValueError):  # a part alone does not make a whole
            pipeline.mean_shape(
                [examples], part=(index, parts), gather=lambda x, i=index: kept[i].append(x) or x, **options
            )
    calls = iter([np.concatenate(arrays) for arrays in zip(*kept, strict=True)])
    found = pipeline.mean_shape([examples], part=(0, parts), gather=lambda _: next(calls), **options)
    np.testing.assert_array_equal(found, pipeline.mean_shape([examples], **options))


def test_another_layout_is_converted(data_dir, examples):
    converted = open_examples(NAME, "train", data_dir=str(data_dir), layout="sf_tl54")
    expected = landmarks.convert(examples[3]["landmarks"], "ibug68", "sf_tl54")
    np.testing.assert_array_equal(converted[3]["landmarks"], expected)
    assert converted[3]["visible"].shape == (54,)
    np.testing.assert_array_equal(converted[3]["visible"][:48], examples[3]["visible"][:48])


def test_pixels_of_the_loader_are_those_on_disk(examples, data_dir):
    raw = tfds_builders.load(NAME, data_dir).as_data_source(split="train")[1]  # decoded by TFDS
    np.testing.assert_array_equal(examples[1]["rgb"], raw["rgb"])
    np.testing.assert_array_equal(examples[1]["thermal"], raw["thermal"])
    np.testing.assert_array_equal(examples[1]["rgb"], examples[1]["rgb"])  # the second time from memory
    assert "pose" in examples.metadata(1) and not {"rgb", "thermal", "celsius"} & set(examples.metadata(1))


def test_unknown_names_are_said(data_dir):
    with pytest.raises(InputError, match="did you mean"):
        open_examples("synthetic_face/tiny", "train", data_dir=str(data_dir), layout="ibug68")
    with pytest.raises(InputError, match="no split 'tset'"):
        open_examples(NAME, "tset", data_dir=str(data_dir), layout="ibug68")
    with pytest.raises(InputError, match="ibug68"):
        open_examples(NAME, "test", data_dir=str(data_dir), layout="ibug86")


def test_a_lacking_modality_is_said(examples):
    class Lacking:
        modalities, name = ("thermal",), "made/1.0.0 train"

    require([examples], ["rgb", "thermal"], "Stage transfer")
    with pytest.raises(InputError, match=r"needs rgb and thermal images, and made/1\.0\.0 train has no rgb"):
        require([examples, Lacking()], ["rgb", "thermal"], "Stage transfer")


def png(image) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


class _Source:
    """One example with landmarks of the given value, in the shape of a builder."""

    LAYOUT = "ibug68"

    def __init__(self, points):
        self.points = points
        self.info = type("Info", (), {"full_name": "made/1.0.0", "features": {"thermal": None}})

    def as_data_source(self, split, decoders):
        return [{"thermal": png(np.zeros((8, 8), np.uint8)), "landmarks": self.points, "visible": np.ones(68, bool)}]


@pytest.mark.parametrize(
    "points, message",
    [(np.full((68, 2), np.nan, np.float32), "finite"), (np.zeros((67, 2), np.float32), "68")],
)
def test_bad_landmarks_name_the_example(points, message):
    with pytest.raises(InputError, match=r"Example 0 of made/1\.0\.0 train") as caught:
        Examples(_Source(points), "train", "ibug68")[0]
    assert message in str(caught.value)


class _Many:
    """A builder of three splits whose examples carry a number, a flag and temperatures."""

    LAYOUT = "tfw5"
    UNIONS: ClassVar = {"full": ("common", "challenge")}
    SUBSETS: ClassVar = {"common_dark": ("common", "dark")}
    POINTS = np.array([[2, 2], [6, 2], [4, 4], [3, 6], [5, 6]], np.float32)

    def __init__(self):
        features = {"thermal": None, "celsius": None, "dark": None, "landmarks": None}
        splits = dict.fromkeys(("train", "common", "challenge"))
        self.info = type("Info", (), {"full_name": "many/1.0.0", "features": features, "splits": splits})

    def as_data_source(self, split, decoders):
        first, count = {"train": (0, 8), "common": (10, 3), "challenge": (20, 2)}[split]
        return [
            {
                "thermal": png(np.full((9, 9), k, np.uint8)),
                "celsius": png(np.array([[0, 29315, 30315, 31315, 40000]], np.uint16)),
                "landmarks": self.POINTS,
                "visible": np.ones(5, bool),
                "box": np.array([0, 0, 9, 9], np.float32),
                "dark": np.bool_(k % 2),
            }
            for k in range(first, first + count)
        ]


def test_splits_made_of_others():
    def numbers(split):
        examples = Examples(_Many(), split, "tfw5")
        return [int(examples[k]["thermal"][0, 0, 0]) for k in range(len(examples))]

    assert splits_of(_Many()) == ["challenge", "common", "train", "full", "common_dark"]
    assert numbers("full") == [10, 11, 12, 20, 21]
    assert numbers("common_dark") == [11]
    assert bool(Examples(_Many(), "common_dark", "tfw5").metadata(0)["dark"])


def test_a_fixed_range_reads_temperatures():
    examples = Examples(_Many(), "train", "tfw5", thermal_range=(20.0, 40.0))
    # 20, 30 and 40 °C, and what lies beyond the range on either side.
    np.testing.assert_array_equal(examples[0]["thermal"].ravel(), [0, 0, 128, 255, 255])
    with pytest.raises(InputError, match="must rise"):
        Examples(_Many(), "train", "tfw5", thermal_range=(40.0, 20.0))[0]
    plain = _Source(np.zeros((68, 2), np.float32))
    with pytest.raises(InputError, match="keeps no temperatures"):
        Examples(plain, "train", "ibug68", thermal_range=(20.0, 40.0))


def test_examples_without_landmarks_pass_only_where_they_are_wanted():
    empty = _Source(np.full((68, 2), np.nan, np.float32))
    found = Examples(empty, "train", "sf_tl54", labelled=False)[0]
    assert found["landmarks"].shape == (54, 2) and np.isnan(found["landmarks"]).all() and not found["visible"].any()


@pytest.mark.parametrize("weights, share", [((), 8 / 11), ((1.0, 3.0), 0.25)])
def test_sets_are_mixed_by_weight(weights, share):
    sets = [Examples(_Many(), split, "tfw5") for split in ("train", "common")]
    options = {"batch_size": 4, "size": 9, "layout": "tfw5", "modalities": ("thermal",), "seed": 0}
    still = {"expand": 1.0, "photometric": 0.0, "occlusion": 0.0}
    mixed = pipeline.train_batches(sets, weights=weights, augmentation=still, **options)
    seen = np.concatenate([mixed[k]["thermal"][:, 4, 4, 0] for k in range(50)])
    assert set(seen) <= {*range(8), 10, 11, 12}
    assert np.mean(seen < 8) == pytest.approx(share, abs=0.03)
    np.testing.assert_array_equal(mixed[7]["thermal"], mixed[7]["thermal"])
    with pytest.raises(InputError, match=r"config\.dataset_weights"):
        pipeline.train_batches(sets, weights=(1.0,), augmentation=still, **options)
