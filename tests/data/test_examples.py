"""Examples: data on disk are read unchanged, labels keep their meaning in another layout, and memory is limited."""

import gc

import numpy as np
import pytest
from made import MadeBuilder, face, png

import tfds_builders
from mlcm_jax import images, landmarks
from mlcm_jax.data import augment
from mlcm_jax.data import examples as module
from mlcm_jax.data.examples import Examples, open_examples, open_sets, require, splits_of
from mlcm_jax.errors import InputError

NAME = "synthetic_faces/48x48"


@pytest.fixture(scope="module")
def examples(data_dir):
    return open_examples(NAME, "train", data_dir=str(data_dir), layout="ibug68")


@pytest.fixture
def memory(monkeypatch):
    """`memory(size)` sets the budget of a test."""

    def limit(size):
        monkeypatch.setattr(module, "MEMORY", module._Memory(size))
        return module.MEMORY

    return limit


def in_layout(layout="tfw5", **changes):
    """Returns a dataset in `layout` with one example, made by `face`."""
    count = landmarks.get(layout).count
    points = np.stack(np.divmod(np.arange(count), 8), axis=-1).astype(np.float32)
    plain = {"landmarks": points, "visible": np.ones(count, bool)}
    return MadeBuilder({"train": [face(**plain | changes)]}, layout=layout)


def test_images_equal_those_that_tfds_decodes(examples, data_dir):
    raw = tfds_builders.load(NAME, data_dir).as_data_source(split="train")[1]
    for _ in range(2):  # the second time, they come from memory
        np.testing.assert_array_equal(examples[1]["rgb"], raw["rgb"])
        np.testing.assert_array_equal(examples[1]["thermal"], raw["thermal"])
        np.testing.assert_array_equal(examples[1]["landmarks"], raw["landmarks"])


def test_fields_and_dtypes(examples):
    kinds = {name: (value.dtype.name, value.shape) for name, value in examples[0].items()}
    assert kinds == {
        "rgb": ("uint8", (48, 48, 3)),
        "thermal": ("uint8", (48, 48, 1)),
        "landmarks": ("float32", (68, 2)),
        "visible": ("bool", (68,)),
        "known": ("bool", (68,)),
        "weight": ("float32", (68,)),
        "box": ("float32", (4,)),
    }


def test_modality_that_the_dataset_lacks_is_absent():
    thermal = Examples(MadeBuilder({"train": [face()]}), "train", "tfw5")
    assert thermal.modalities == ("thermal",) and "rgb" not in thermal[0]
    colour = png(np.full((9, 9, 3), (10, 20, 30), np.uint8))  # BGR, as OpenCV writes it
    rgb = Examples(MadeBuilder({"train": [face(thermal=None, rgb=colour)]}), "train", "tfw5")
    assert rgb.modalities == ("rgb",) and "thermal" not in rgb[0]
    assert rgb[0]["rgb"][4, 4].tolist() == [30, 20, 10]


def test_labels_decode_no_image(examples, monkeypatch):
    whole = examples[2]
    monkeypatch.setattr(module, "_decode", lambda *_: pytest.fail("an image was decoded"))
    labels = examples.labels(2)
    assert labels.keys() == whole.keys() - {"rgb", "thermal"}
    for name, value in labels.items():
        np.testing.assert_array_equal(value, whole[name])


def test_metadata_holds_the_remaining_fields(examples):
    found = examples.metadata(1)
    assert "pose" in found and "subject" in found
    assert not {"rgb", "thermal", "celsius", "landmarks", "visible", "known", "box"} & set(found)


def test_fingerprint_depends_on_split_alone(examples, data_dir):
    again = open_examples(NAME, "train", data_dir=str(data_dir), layout="ibug51")
    other = open_examples(NAME, "val", data_dir=str(data_dir), layout="ibug68")
    assert examples.fingerprint() == again.fingerprint() != other.fingerprint()


def test_landmarks_are_converted_to_the_layout(data_dir, examples):
    converted = open_examples(NAME, "train", data_dir=str(data_dir), layout="sf_tl54")
    expected = landmarks.convert(examples[3]["landmarks"], "ibug68", "sf_tl54")
    np.testing.assert_array_equal(converted[3]["landmarks"], expected)
    np.testing.assert_array_equal(converted[3]["visible"][:48], examples[3]["visible"][:48])
    assert converted[3]["visible"].shape == (54,) and converted[3]["known"].all()


# The right eye of tfw5 is the mean of iBUG's points 36 to 41, its nose is point 30.
@pytest.mark.parametrize(
    ("hidden", "eye"), [((), True), ((36, 37), True), ((36, 37, 38), False), (range(36, 42), False)]
)
def test_converted_point_is_visible_when_most_of_its_points_are(hidden, eye):
    visible = np.ones(68, bool)
    visible[list(hidden)] = False
    found = Examples(in_layout("ibug68", visible=visible), "train", "tfw5")[0]["visible"]
    assert found.dtype == bool and found.tolist() == [eye, True, True, True, True]


@pytest.mark.parametrize(("unknown", "expected"), [((), [1, 1]), ((36,), [0, 1]), ((30,), [1, 0]), ((0, 8), [1, 1])])
def test_converted_point_is_known_when_all_of_its_points_are(unknown, expected):
    known = np.ones(68, bool)
    known[list(unknown)] = False
    found = Examples(in_layout("ibug68", known=known), "train", "tfw5")[0]["known"]
    assert found.dtype == bool and found.tolist() == [expected[0], 1, expected[1], 1, 1]


def test_known_and_visible_are_independent():
    visible, known = np.arange(5) < 2, np.arange(5) % 2 == 0
    found = Examples(in_layout(visible=visible, known=known), "train", "tfw5")[0]
    np.testing.assert_array_equal(found["visible"], visible)
    np.testing.assert_array_equal(found["known"], known)
    np.testing.assert_array_equal(found["weight"], 1.0)  # a point is unlabelled by `known`, never by its weight


def test_confidence_is_the_weight_and_is_averaged():
    confidence = np.ones(68, np.float32)
    confidence[36:42] = 0, 0.25, 0.5, 0.5, 0.75, 1
    builder = in_layout("ibug68", confidence=confidence, known=np.ones(68, bool))
    np.testing.assert_array_equal(Examples(builder, "train", "ibug68")[0]["weight"], confidence)
    found = Examples(builder, "train", "tfw5")[0]
    np.testing.assert_allclose(found["weight"], [0.5, 1, 1, 1, 1])
    assert found["known"].all()


def test_every_landmark_is_known_where_the_dataset_has_no_such_field():
    confidence = np.array([0, 0.1, 1, 1, 1], np.float32)
    assert Examples(in_layout(confidence=confidence), "train", "tfw5")[0]["known"].all()


@pytest.mark.parametrize(
    ("points", "message"),
    [(np.full((68, 2), np.nan, np.float32), "finite"), (np.zeros((67, 2), np.float32), "68")],
)
def test_an_error_in_landmarks_names_the_example(points, message):
    with pytest.raises(InputError, match=r"Example 0 of made/1\.0\.0 train") as caught:
        Examples(in_layout("ibug68", landmarks=points), "train", "ibug68")[0]
    assert message in str(caught.value)


def test_unlabelled_examples_are_allowed_on_request():
    empty = in_layout("ibug68", landmarks=np.full((68, 2), np.nan, np.float32))
    found = Examples(empty, "train", "sf_tl54", labelled=False)[0]
    assert found["landmarks"].shape == (54, 2) and np.isnan(found["landmarks"]).all()
    assert not found["visible"].any() and not found["known"].any() and not found["weight"].any()
    assert found["visible"].shape == found["known"].shape == found["weight"].shape == (54,)


def numbered(first, count):
    """Yields faces whose thermal images are filled with consecutive numbers; odd numbers have the flag `dark`."""
    for k in range(first, first + count):
        yield face(thermal=png(np.full((9, 9), k, np.uint8)), dark=np.bool_(k % 2))


def test_splits_made_of_others():
    splits = {"train": numbered(0, 8), "common": numbered(10, 3), "challenge": numbered(20, 2)}
    unions, subsets = {"full": ("common", "challenge")}, {"common_dark": ("common", "dark")}
    builder = MadeBuilder(splits, unions=unions, subsets=subsets)

    def numbers(split):
        return [int(example["thermal"][0, 0, 0]) for example in Examples(builder, split, "tfw5")]

    assert splits_of(builder) == ["challenge", "common", "train", "full", "common_dark"]
    assert numbers("full") == [10, 11, 12, 20, 21]
    assert numbers("common_dark") == [11]
    assert bool(Examples(builder, "common_dark", "tfw5").metadata(0)["dark"])


def test_thermal_range_maps_temperatures_to_gray():
    celsius = png(np.array([[0, 29315, 30315, 31315, 40000]], np.uint16))  # hundredths of a kelvin
    builder = MadeBuilder({"train": [face(celsius=celsius)]})
    examples = Examples(builder, "train", "tfw5", thermal_range=(20.0, 40.0))
    # 20, 30 and 40 °C, and values beyond the range on either side.
    np.testing.assert_array_equal(examples[0]["thermal"].ravel(), [0, 0, 128, 255, 255])
    np.testing.assert_array_equal(Examples(builder, "train", "tfw5")[0]["thermal"], 0)  # the gray image without a range
    with pytest.raises(InputError, match="must be increasing"):
        Examples(builder, "train", "tfw5", thermal_range=(40.0, 20.0))[0]
    with pytest.raises(InputError, match="has no temperatures"):
        Examples(MadeBuilder({"train": [face()]}), "train", "tfw5", thermal_range=(20.0, 40.0))


def test_gain_by_the_box_reads_temperatures_so_that_a_lamp_does_not_dim_the_face():
    """The gray image that the builder stores is stretched by the whole frame, in which the lamp leaves nothing else."""
    kelvin = np.broadcast_to(np.linspace(29800, 30900, 9), (9, 9)).T.astype(np.uint16)
    lamp = kelvin.copy()
    lamp[:, 8] = 60000
    crops = {}
    for gain in ("box", "as_is"):
        for name, values in (("plain", kelvin), ("lamp", lamp)):
            stored = face(celsius=png(values), thermal=png(images.gain8(values)[0]), box=np.float32([0, 0, 7, 7]))
            example = Examples(MadeBuilder({"train": [stored]}), "train", "tfw5", gain=gain)[0]
            crops[gain, name] = augment.crop(example, augment.Crop(7, 1.0, "tfw5", gain))["thermal"]
    assert np.ptp(crops["as_is", "lamp"]) < 0.1
    assert np.ptp(crops["box", "plain"]) > 0.6
    np.testing.assert_array_equal(crops["box", "lamp"], crops["box", "plain"])


def test_temperatures_for_the_gain_keep_holes_and_leave_a_cameras_own_gray_alone():
    kelvin = np.full((9, 9), 30000, np.uint16)
    builder = MadeBuilder({"train": [face(celsius=png(kelvin))]})
    whole = Examples(builder, "train", "tfw5", gain="box")[0]["thermal"]
    assert whole.dtype == np.uint16 and (whole == 30000).all()
    kelvin[3, 4] = 0
    holed = Examples(MadeBuilder({"train": [face(celsius=png(kelvin))]}), "train", "tfw5", gain="box")[0]["thermal"]
    assert holed.dtype == np.float32 and np.argwhere(np.isnan(holed)).tolist() == [[3, 4, 0]]
    builder.CAMERA_GRAY = True
    np.testing.assert_array_equal(Examples(builder, "train", "tfw5", gain="box")[0]["thermal"], 0)


def test_thermal_range_does_not_affect_rgb_datasets():
    colour = png(np.zeros((9, 9, 3), np.uint8))
    builder = MadeBuilder({"train": [face(thermal=None, rgb=colour)]})
    assert "rgb" in Examples(builder, "train", "tfw5", thermal_range=(20.0, 40.0))[0]


def size_of(example):
    return sum(value.nbytes for value in example.values())


def test_memory_of_decoded_examples_is_one_budget_for_all_datasets(memory):
    def dataset(name):
        return Examples(MadeBuilder({"train": numbered(0, 4)}, name=name), "train", "tfw5")

    one, two = dataset("one/1.0.0"), dataset("two/1.0.0")
    size = size_of(one.labels(0)) + 81
    budget = memory(5 * size)
    for example in (*one, *two):
        assert size_of(example) == size
    assert (len(one._kept), len(two._kept)) == (4, 1) and budget.free == 0
    assert [int(example["thermal"][0, 0, 0]) for example in two] == [0, 1, 2, 3]  # those that do not fit are read again


def test_memory_is_given_back_when_a_dataset_is_dropped(memory):
    budget = memory(10**6)
    examples = Examples(MadeBuilder({"train": numbered(0, 3)}), "train", "tfw5")
    assert len(list(examples)) == 3 and budget.free < 10**6
    del examples
    gc.collect()
    assert budget.free == 10**6


def test_images_that_are_left_out_are_not_decoded_and_others_are_kept_once(memory, monkeypatch):
    budget, decoded = memory(10**6), []
    decode = module._decode
    monkeypatch.setattr(module, "_decode", lambda *given: decoded.append(given[0]) or decode(*given))
    pair = face(rgb=png(np.full((9, 9, 3), 7, np.uint8)), thermal=png(np.full((9, 9), 5, np.uint8)))
    both = Examples(MadeBuilder({"train": [pair]}), "train", "tfw5")
    thermal, rgb = both.only(["thermal"]), both.only(("rgb", "depth"))
    assert (thermal.modalities, rgb.modalities, both.modalities) == (("thermal",), ("rgb",), ("rgb", "thermal"))
    labels = set(both.labels(0))
    for _ in range(2):  # the second time, it comes from memory
        assert set(thermal[0]) == labels | {"thermal"} and int(thermal[0]["thermal"][0, 0, 0]) == 5
    assert len(decoded) == 1
    for _ in range(2):
        assert set(both[0]) == labels | {"rgb", "thermal"} and set(rgb[0]) == labels | {"rgb"}
    assert len(decoded) == 2
    assert 10**6 - budget.free == size_of(both[0])
    del both, rgb
    gc.collect()
    assert budget.free < 10**6
    del thermal
    gc.collect()
    assert budget.free == 10**6


def test_changing_an_example_does_not_change_the_one_in_memory(memory):
    memory(10**6)
    examples = Examples(MadeBuilder({"train": [face()]}), "train", "tfw5")
    for _ in range(2):  # once as read, once from memory
        examples[0].pop("landmarks")
    assert "landmarks" in examples[0]


def test_unknown_names_raise_input_errors(data_dir):
    with pytest.raises(InputError, match="did you mean"):
        open_examples("synthetic_face/tiny", "train", data_dir=str(data_dir), layout="ibug68")
    with pytest.raises(InputError, match="no split 'tset'"):
        open_examples(NAME, "tset", data_dir=str(data_dir), layout="ibug68")
    with pytest.raises(InputError, match="ibug68"):
        open_examples(NAME, "test", data_dir=str(data_dir), layout="ibug86")


def test_open_sets_takes_one_name_or_several(data_dir):
    options = {"data_dir": str(data_dir), "layout": "tfw5"}
    assert [one.name for one in open_sets(NAME, "val", **options)] == [f"{NAME}/1.0.0 val"]
    assert len(open_sets((NAME, NAME), "val", **options)) == 2


def test_require_names_dataset_and_modality(examples):
    thermal = Examples(MadeBuilder({"train": [face()]}), "train", "tfw5")
    require([examples], ["rgb", "thermal"], "Stage transfer")
    require([examples, thermal], ["thermal"], "Stage thermal_alone")
    with pytest.raises(
        InputError, match=r"Stage transfer needs rgb and thermal images, but made/1\.0\.0 train has no rgb"
    ):
        require([examples, thermal], ["rgb", "thermal"], "Stage transfer")
