"""Batches: a function of seed, step and host; landmarks map back to the original images."""

import threading
import time

import cv2
import jax
import numpy as np
import pytest
from made import MadeBuilder, face, png

from mlcm_jax import codecs, cores, landmarks
from mlcm_jax.config import base
from mlcm_jax.data import pipeline
from mlcm_jax.data.augment import Augmentation, Crop
from mlcm_jax.data.examples import MODALITIES, Examples, open_examples
from mlcm_jax.data.pipeline import Order
from mlcm_jax.errors import InputError
from mlcm_jax.training import sharding

CROP = Crop(32, 1.25, landmarks.get("ibug68"))
SMALL = Crop(9, 1.0, landmarks.get("tfw5"))
ORDER = Order(batch_size=4, seed=0)


@pytest.fixture(scope="module")
def examples(data_dir):
    return open_examples("synthetic_faces/48x48", "train", data_dir=str(data_dir), layout="ibug68")


@pytest.fixture(scope="module")
def augmentation():
    """The augmentation of the default config."""
    options = base().augment.to_dict()
    del options["expand"]
    return Augmentation(**options)


@pytest.fixture
def batches(examples, augmentation):
    """`batches(…)` takes arguments of `train_batches` and `Examples.only`; the augmentation is the default one."""

    def make(*, order=ORDER, **options):
        chosen = examples.only(options.pop("modalities", MODALITIES))
        return pipeline.train_batches([chosen], CROP, order, **{"augmentation": augmentation} | options)

    return make


def numbered(first, count):
    """Returns examples whose thermal images are filled with consecutive numbers."""
    faces = [face(thermal=png(np.full((9, 9), k, np.uint8))) for k in range(first, first + count)]
    return Examples(MadeBuilder({"train": faces}), "train", "tfw5")


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


def test_fields_of_a_training_batch(batches):
    on_host = batches()[0]
    assert on_host["rgb"].dtype == on_host["thermal"].dtype == np.uint8
    batch = sharding.put_batch(on_host, sharding.make_mesh(jax.devices()[:1]))
    kinds = {key: (value.dtype.name, value.shape) for key, value in batch.items()}
    assert kinds == {
        "rgb": ("float32", (4, 32, 32, 3)),
        "thermal": ("float32", (4, 32, 32, 1)),
        "landmarks": ("float32", (4, 68, 2)),
        "visible": ("bool", (4, 68)),
        "known": ("bool", (4, 68)),
        "weight": ("float32", (4, 68)),
        "box": ("float32", (4, 4)),
        "to_image": ("float32", (4, 2, 3)),
        "mask": ("bool", (4,)),
    }
    assert batch["mask"].all()
    assert batch["rgb"].min() >= 0 and batch["rgb"].max() <= 1 and batch["thermal"].std() > 0.01


def test_batch_is_a_function_of_seed_and_step(batches):
    assert_equal(batches()[7], batches()[7])
    assert not np.array_equal(batches()[7]["landmarks"], batches(order=Order(4, seed=1))[7]["landmarks"])
    assert not np.array_equal(batches()[7]["landmarks"], batches()[8]["landmarks"])


@pytest.mark.parametrize("rows", [[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0], [1], [2], [3]]])
def test_hosts_together_see_the_batch_of_one_host(batches, rows):
    whole = batches()
    for step in (0, 3):
        for some in map(np.asarray, rows):
            assert_equal(batches(rows=some)[step], {key: value[some] for key, value in whole[step].items()})


def test_members_names_the_examples_of_a_batch(examples, batches):
    for step in (2, 11):
        found = pipeline.members([examples], ORDER, step)
        boxes = [examples[one["index"]]["box"] for one in found]
        np.testing.assert_array_equal(boxes, batches()[step]["box"])
        assert all(one["dataset"] == examples.name and "subject" in one and "rgb" not in one for one in found)


def test_thermal_images_are_the_same_with_and_without_rgb(batches):
    both, thermal = batches()[2], batches(modalities=("thermal",))[2]
    assert_equal(thermal, {key: value for key, value in both.items() if key != "rgb"})


def test_modality_that_a_dataset_lacks_is_absent():
    examples, still = numbered(0, 6), Augmentation()
    train = pipeline.train_batches([examples], SMALL, ORDER, augmentation=still)[0]
    evaluation = next(pipeline.eval_batches(examples, SMALL, batch_size=4))
    assert "thermal" in train and "thermal" in evaluation
    assert "rgb" not in train and "rgb" not in evaluation


def test_epoch_holds_every_example_once_and_the_next_has_another_order(examples, batches):
    dataset, per_epoch = batches(augmentation=Augmentation()), len(examples) // 4
    first, second = (
        np.concatenate([dataset[epoch * per_epoch + step]["box"] for step in range(per_epoch)]) for epoch in (0, 1)
    )
    assert len(np.unique(first, axis=0)) == len(first)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("weights", "share"), [((), 8 / 11), ((1.0, 3.0), 0.25)])
def test_datasets_are_mixed_by_weight(weights, share):
    sets, options = [numbered(0, 8), numbered(10, 3)], {"augmentation": Augmentation()}
    mixed = pipeline.train_batches(sets, SMALL, Order(4, 0, weights), **options)
    seen = np.concatenate([mixed[k]["thermal"][:, 4, 4, 0] for k in range(50)])
    assert set(seen) <= {*range(8), 10, 11, 12}
    assert np.mean(seen < 8) == pytest.approx(share, abs=0.03)
    np.testing.assert_array_equal(mixed[7]["thermal"], mixed[7]["thermal"])


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, np.inf), (1.0, np.nan), (1.0, -1.0)])
def test_weights_of_datasets_are_checked(weights):
    options = {"augmentation": Augmentation()}
    with pytest.raises(InputError, match=r"config\.dataset_weights=.* must be 2 positive numbers"):
        pipeline.train_batches([numbered(0, 2), numbered(2, 2)], SMALL, Order(4, 0, weights), **options)


def test_iterating_from_a_step_gives_the_batches_from_that_step_on(batches):
    with pipeline.iterate(batches(), 5) as source:
        for step in (5, 6, 7):
            assert_equal(next(source), batches()[step])


@pytest.mark.parametrize(("number", "threads"), [(1, 2), (2, 2), (6, 6), (96, 16)])
def test_loader_threads_follow_the_cores(monkeypatch, number, threads):
    monkeypatch.setattr(cores, "available", lambda: number)
    assert pipeline._read_options().num_threads == threads
    assert pipeline._read_options(5).num_threads == 5


@pytest.fixture
def opencv_threads():
    """OpenCV uses three threads during the test."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    yield
    cv2.setNumThreads(before)


def test_opencv_has_one_thread_only_while_batches_are_read(batches, opencv_threads):
    dataset = batches()
    assert cv2.getNumThreads() == 3
    with pipeline.iterate(dataset, 0) as source:
        next(source)
        assert cv2.getNumThreads() == 1
    assert cv2.getNumThreads() == 3
    with pytest.raises(KeyError), pipeline.iterate(dataset, 0) as source:
        raise KeyError
    assert cv2.getNumThreads() == 3
    for _ in range(2):  # left early
        with pipeline.iterate(dataset, 0) as source:
            for _ in source:
                break
        assert cv2.getNumThreads() == 3


def test_batches_that_were_not_asked_for_are_dropped_at_the_end():
    examples, read, more = numbered(0, 16), [], threading.Event()

    class Slow(list):
        """Gives four examples at once, and the others when `more` is set."""

        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index) if len(read) <= 4 or more.wait(60) else None

    slow = Slow(examples[k] for k in range(16))
    options = {"augmentation": Augmentation()}
    with pipeline.iterate(pipeline.train_batches([slow], SMALL, ORDER, **options), 0, threads=1) as source:
        next(source)
        while len(read) < 5:  # until the second batch is begun; the third one waits for the only thread
            time.sleep(0.01)
    more.set()
    for thread in threading.enumerate():
        if thread.name.startswith("grain-prefetch"):
            thread.join(60)
    assert len(read) == 8


@pytest.mark.parametrize("batch_size", [5, 8, 1000])
def test_evaluation_sees_every_example_once_and_maps_back_to_original_pixels(examples, batch_size):
    found = list(pipeline.eval_batches(examples, CROP, batch_size=batch_size))
    assert len(found) == -(-len(examples) // batch_size)
    assert all(len(batch["mask"]) == len(batch["rgb"]) == batch_size for batch in found)
    index, mask, points, matrix = (
        np.concatenate([batch[key] for batch in found]) for key in ("index", "mask", "landmarks", "to_image")
    )
    np.testing.assert_array_equal(index, np.arange(len(found) * batch_size))
    np.testing.assert_array_equal(mask, index < len(examples))
    truth = codecs.to_original(points[mask], matrix[mask], 32)
    expected = [examples[i]["landmarks"] for i in range(len(examples))]
    np.testing.assert_allclose(truth, expected, atol=1e-3)


@pytest.mark.parametrize("batch_size", [4, 6])
def test_evaluation_of_several_processes_is_that_of_one(batch_size):
    examples = numbered(0, 10)
    whole = list(pipeline.eval_batches(examples, SMALL, batch_size=batch_size))
    for rows in (np.arange(batch_size // 2), np.arange(batch_size // 2, batch_size), np.array([1, 3])):
        part = list(pipeline.eval_batches(examples, SMALL, batch_size=batch_size, rows=rows))
        assert len(part) == len(whole)
        for one, all_ in zip(part, whole, strict=True):
            assert_equal(one, {key: value[rows] for key, value in all_.items()})


@pytest.mark.parametrize("place", [0, 3, 9])
def test_iterators_raise_the_error_of_a_bad_example(place):
    faces = [face() for _ in range(10)]
    faces[place] = face(landmarks=np.full((5, 2), np.nan, np.float32))
    examples = Examples(MadeBuilder({"train": faces}), "train", "tfw5")
    message = f"Example {place} of made/1.0.0 train: Landmark 0 is not a finite number."
    with pytest.raises(InputError) as caught:
        list(pipeline.eval_batches(examples, SMALL, batch_size=4))
    assert str(caught.value) == message
    options = {"augmentation": Augmentation()}
    dataset = pipeline.train_batches([examples], SMALL, ORDER, **options)
    with pytest.raises(InputError) as caught, pipeline.iterate(dataset, 0) as source:
        for _ in range(3):
            next(source)
    assert str(caught.value) == message


def test_mean_shape_is_the_mean_over_crops(examples):
    crops = [batch["landmarks"][0] for batch in pipeline.eval_batches(examples, CROP, batch_size=1)]
    found = pipeline.mean_shape([examples], expand=CROP.expand)
    assert found.dtype == np.float32 and found.shape == (68, 2)
    np.testing.assert_allclose(found, np.mean(crops, axis=0), atol=1e-5)


def labelled(landmarks_and_known, layout="tfw5", name="made/1.0.0"):
    """Returns examples with the given pairs of landmarks, in u of a crop with expand = 1, and `known`."""
    faces = [
        face(
            landmarks=9 * np.asarray(points, np.float32),
            known=np.asarray(known, bool),
            visible=np.ones(len(points), bool),
        )
        for points, known in landmarks_and_known
    ]
    return Examples(MadeBuilder({"train": faces}, layout=layout, name=name), "train", layout)


FACE = np.array([(0.26, 0.4), (0.76, 0.26), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])
ALL = np.ones(5, bool)


def without(*points):
    return ~np.isin(np.arange(5), points)


def placeholder(points, known):
    """Returns landmarks as builders store them: unlabelled ones at the mean of the others."""
    return np.where(known[:, None], points, points[known].mean(0)), known


def test_placeholders_do_not_count_in_the_mean_shape():
    examples = labelled([placeholder(FACE, without(1)), (FACE, ALL), placeholder(FACE, without(1, 2)), (FACE, ALL)])
    np.testing.assert_allclose(pipeline.mean_shape([examples], expand=1.0), FACE, atol=1e-6)


def test_mean_shape_of_several_datasets_weighs_every_known_point_alike():
    one = labelled([(FACE + 0.1, ALL)], name="one/1.0.0")
    two = labelled([(FACE, ALL), (FACE - 0.3, without(0))], name="two/1.0.0")
    expected = np.where(without(0)[:, None], FACE - 0.2 / 3, FACE + 0.05)
    np.testing.assert_allclose(pipeline.mean_shape([one, two], expand=1.0), expected, atol=1e-6)


def test_point_that_is_known_nowhere_lies_at_the_mean_of_the_others():
    examples = labelled([placeholder(FACE, without(1)), placeholder(FACE + 0.02, without(1))])
    expected = np.where(without(1)[:, None], FACE + 0.01, FACE[without(1)].mean(0) + 0.01)
    np.testing.assert_allclose(pipeline.mean_shape([examples], expand=1.0), expected, atol=1e-6)


def test_mean_shape_needs_a_known_landmark():
    none = labelled([(FACE, without(0, 1, 2, 3, 4))], name="empty/1.0.0")
    with pytest.raises(InputError, match=r"^None of the landmarks in empty/1\.0\.0 train is known; "):
        pipeline.mean_shape([none], expand=1.0)
    some = labelled([(FACE, without(0))])
    assert np.isfinite(pipeline.mean_shape([none, some], expand=1.0)).all()


def test_mean_shape_decodes_no_image_and_is_cached(monkeypatch):
    examples = labelled([(FACE, ALL)], name="cached/1.0.0")
    monkeypatch.setattr(Examples, "__getitem__", lambda *_: pytest.fail("an image was read"))
    first = pipeline.mean_shape([examples], expand=1.0)
    monkeypatch.setattr(Examples, "labels", lambda *_: pytest.fail("labels were read again"))
    again = pipeline.mean_shape([labelled([(FACE, ALL)], name="cached/1.0.0")], expand=1.0)
    np.testing.assert_array_equal(first, again)
    again[:] = 0.0  # a change by the caller must not change the cache
    np.testing.assert_allclose(pipeline.mean_shape([examples], expand=1.0), FACE, atol=1e-6)


def test_mean_shape_is_cached_by_content():
    one, other = labelled([(FACE, ALL)]), labelled([(FACE + 0.1, ALL)])  # they have the same name
    np.testing.assert_allclose(pipeline.mean_shape([one], expand=1.0), FACE, atol=1e-6)
    np.testing.assert_allclose(pipeline.mean_shape([other], expand=1.0), FACE + 0.1, atol=1e-6)
    np.testing.assert_allclose(pipeline.mean_shape([one], expand=2.0), (FACE + 0.5) / 2, atol=1e-6)


def own_layout(pairs):
    """Returns a user's layout of five points, always with the same name."""
    flip = landmarks.flip_permutation(5, pairs)
    return landmarks.Layout("own", 5, {"face": tuple(range(5))}, flip, None, None, ())


def test_cached_mean_shape_does_not_hide_a_layout_that_does_not_fit():
    one, other = own_layout([(0, 1), (3, 4)]), own_layout([(0, 4), (1, 3)])
    pipeline.mean_shape([labelled([(FACE, ALL)], layout=one)], expand=1.0)
    builder = labelled([(FACE, ALL)], layout=one)._builder
    with pytest.raises(InputError, match=r"Example 0 of .* cannot be converted from own to own"):
        pipeline.mean_shape([Examples(builder, "train", other)], expand=1.0)
