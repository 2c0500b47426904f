"""Crops and occlusion: a bright dot drawn at a landmark stays there, however the image is changed."""

import numpy as np
import pytest
from dots import centroid, dots

from mlcm_jax import codecs, landmarks
from mlcm_jax.data import augment
from mlcm_jax.data.augment import Augmentation, Crop
from mlcm_jax.errors import InputError

FLIP5 = landmarks.get("tfw5").flip
RANDOM = {"jitter": 0.2, "rotation": 30, "scale": 0.2, "shift": 0.05}


def example(height=96, width=120, sigma=2.5, seed=0, only=slice(None)):
    rng = np.random.default_rng(seed)
    # Five dots far apart, not at whole pixels, within the inner part of the box.
    grid = np.array([(0.3, 0.3), (0.7, 0.3), (0.5, 0.5), (0.3, 0.72), (0.72, 0.7)]) + rng.uniform(-0.02, 0.02, (5, 2))
    box = np.array([0.12 * width, 0.1 * height, 0.75 * width, 0.8 * height])
    points = box[:2] + grid * box[2:]
    rgb, thermal = dots(height, width, points[only], sigma)
    return {
        "rgb": rgb,
        "thermal": thermal,
        "landmarks": points.astype(np.float32),
        "visible": np.array([True, False, True, True, False]),
        "box": box.astype(np.float32),
        "subject": 7,
    }


def assert_dots_lie_under_landmarks(height, width, sigma, seed, size, augmentation):
    """Tests one dot per image, because dots that touch would shift each other's centres."""
    for k in range(5):
        image = example(height, width, sigma, seed, only=slice(k, k + 1))
        if k == 0:
            image["thermal"] = image["thermal"][..., None]
        crop = augment.crop(image, Crop(size, 1.25, "tfw5"), rng=np.random.default_rng(seed), augmentation=augmentation)
        step = np.hypot(*crop["to_image"][:, 0])  # original pixels per crop pixel
        mine = FLIP5[k] if augmentation.flip else k
        place = codecs.to_pixels(crop["landmarks"][mine].astype(np.float64), size)
        assert crop["visible"][mine] == image["visible"][k]
        for name in ("rgb", "thermal"):
            found = centroid(crop[name].max(axis=2), place, 3 * sigma / step + 1)
            assert np.abs(found - place).max() < 0.1, (name, found, place)


@pytest.mark.parametrize("size", [48, 64, 96, 256])
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("options", [{}, RANDOM], ids=["plain", "random"])
def test_dots_stay_under_their_landmarks(size, flip, options):
    for seed in range(3):
        assert_dots_lie_under_landmarks(96, 120, 2.0, seed, size, Augmentation(flip=flip, **options))


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(348, 464, 64), (480, 640, 48), (1000, 800, 64), (331, 457, 100)]
)
def test_dots_stay_under_their_landmarks_when_a_crop_shrinks_the_image(height, width, size, flip):
    # The crops shrink the images by factors of 3 to 16, and averaging must not move anything.
    for seed in range(2):
        sigma = 1.2 * width / size
        assert_dots_lie_under_landmarks(
            height, width, sigma, seed, size, Augmentation(flip=flip, rotation=25, shift=0.04)
        )


def test_crop_of_the_whole_image_is_the_image():
    rng = np.random.default_rng(0)
    image = example(64, 64)
    image["rgb"] = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    # A box over all pixels goes from edge to edge, -0.5 to 63.5, as pixel centres are integers.
    image["box"] = np.array([-0.5, -0.5, 64, 64])
    crop = augment.crop(image, Crop(64, 1.0, "tfw5"))
    np.testing.assert_array_equal(crop["rgb"], image["rgb"].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(crop["to_image"], [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(crop["landmarks"], (image["landmarks"] + 0.5) / 64, atol=1e-6)
    mirrored = augment.crop(image, Crop(64, 1.0, "tfw5"), rng=rng, augmentation=Augmentation(flip=1.0))
    np.testing.assert_array_equal(mirrored["rgb"], crop["rgb"][:, ::-1])
    np.testing.assert_allclose(mirrored["landmarks"][:, 0], 1 - crop["landmarks"][FLIP5, 0], atol=1e-6)
    np.testing.assert_allclose(mirrored["landmarks"][:, 1], crop["landmarks"][FLIP5, 1], atol=1e-6)
    np.testing.assert_array_equal(mirrored["visible"], image["visible"][FLIP5])


def test_types_and_shapes_of_a_crop():
    image = example() | {"celsius": np.zeros((96, 120), np.float32)}
    crop = augment.crop(image, Crop(40, 1.25, "tfw5"))
    kinds = {key: (value.dtype.name, value.shape) for key, value in crop.items() if key != "subject"}
    assert kinds == {
        "rgb": ("float32", (40, 40, 3)),
        "thermal": ("float32", (40, 40, 1)),
        "landmarks": ("float32", (5, 2)),
        "visible": ("bool", (5,)),
        "box": ("float32", (4,)),
        "to_image": ("float32", (2, 3)),
    }
    assert crop["subject"] == 7
    assert crop["rgb"].min() >= 0 and 0.7 < crop["rgb"].max() <= 1
    np.testing.assert_array_equal(crop["box"], image["box"])
    assert image["rgb"].dtype == np.uint8 and "celsius" in image  # the input is untouched


@pytest.mark.parametrize("missing", ["rgb", "thermal"])
def test_absent_modality_stays_absent(missing):
    image = {key: value for key, value in example().items() if key != missing}
    crop = augment.crop(
        image, Crop(32, 1.25, "tfw5"), rng=np.random.default_rng(0), augmentation=Augmentation(**RANDOM)
    )
    assert missing not in augment.occlude(crop, np.random.default_rng(0), p=1.0)
    both = augment.crop(
        example(), Crop(32, 1.25, "tfw5"), rng=np.random.default_rng(0), augmentation=Augmentation(**RANDOM)
    )
    name = "thermal" if missing == "rgb" else "rgb"
    np.testing.assert_array_equal(crop[name], both[name])


def test_square_follows_box_and_expand():
    image = example(200, 300)
    image["box"] = np.array([100.0, 40.0, 50.0, 80.0])
    crop = augment.crop(image, Crop(50, 1.5, "tfw5"))
    np.testing.assert_allclose(np.hypot(*crop["to_image"][:, 0]) * 50, 1.5 * 80, rtol=1e-6)
    middle = crop["to_image"] @ [24.5, 24.5, 1]
    np.testing.assert_allclose(middle, [125, 80], atol=1e-4)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_to_image_maps_back_to_original_pixels(flip):
    image = example()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        crop = augment.crop(image, Crop(64, 1.25, "tfw5"), rng=rng, augmentation=Augmentation(flip=flip, **RANDOM))
        back = codecs.to_original(crop["landmarks"].astype(np.float64), crop["to_image"].astype(np.float64), 64)
        back = back[FLIP5] if flip else back
        np.testing.assert_allclose(back, image["landmarks"], atol=1e-3)


def test_mirrored_crop_permutes_every_label():
    image = example() | {"known": np.array([0, 1, 1, 0, 1], bool), "weight": np.arange(5, dtype=np.float32)}
    mirrored = augment.crop(
        image, Crop(32, 1.25, "tfw5"), rng=np.random.default_rng(0), augmentation=Augmentation(flip=1.0)
    )
    for name in ("visible", "known", "weight"):
        np.testing.assert_array_equal(mirrored[name], image[name][FLIP5])
    assert list(image["weight"]) == [0, 1, 2, 3, 4]  # the input is untouched


@pytest.mark.parametrize("expand", [1.0, 1.25, 2.0])
def test_to_crop_gives_the_landmarks_of_an_unaugmented_crop(expand):
    images = [example(96, 120, seed=1), example(331, 457, seed=2)]
    crops = [augment.crop(image, Crop(48, expand, "tfw5")) for image in images]
    points, boxes = (np.stack([image[name] for image in images]) for name in ("landmarks", "box"))
    found = augment.to_crop(points.astype(np.float64), boxes, expand)
    np.testing.assert_allclose(found, [crop["landmarks"] for crop in crops], atol=1e-6)
    np.testing.assert_allclose(augment.to_crop(points[1], boxes[1], expand), found[1], atol=1e-6)


def test_random_crops_fill_their_documented_ranges():
    image, found = example(), {"turn": [], "size": [], "mirrored": [], "x": []}
    rng = np.random.default_rng(1)
    plain = augment.crop(image, Crop(64, 1.25, "tfw5"))
    augmentation = Augmentation(rotation=20, scale=0.25, shift=0.1, flip=0.3)
    for _ in range(600):
        crop = augment.crop(image, Crop(64, 1.25, "tfw5"), rng=rng, augmentation=augmentation)
        matrix = crop["to_image"].astype(np.float64)
        mirrored = np.linalg.det(matrix[:, :2]) < 0
        axis = matrix[:, 1]  # the crop's y axis is not touched by the mirror
        found["turn"].append(np.degrees(np.arctan2(-axis[0], axis[1])))
        found["size"].append(np.hypot(*axis) / np.hypot(*plain["to_image"][:, 1]))
        found["mirrored"].append(mirrored)
        found["x"].append((matrix @ [31.5, 31.5, 1] - plain["to_image"] @ [31.5, 31.5, 1])[0] / np.hypot(*axis) / 64)
    for key, low, high in (("turn", -20, 20), ("size", 0.8, 1.25), ("x", -0.1, 0.1)):
        values = np.array(found[key])
        assert low - 1e-4 <= values.min() < low + 0.05 * (high - low), key
        assert high - 0.05 * (high - low) < values.max() <= high + 1e-4, key
    assert 0.22 < np.mean(found["mirrored"]) < 0.38


def test_jitter_moves_each_side_independently():
    image = example(400, 400)
    image["box"] = np.array([100.0, 100.0, 200.0, 100.0])
    rng = np.random.default_rng(3)
    middles, sides = [], []
    for _ in range(300):
        crop = augment.crop(image, Crop(64, 1.0, "tfw5"), rng=rng, augmentation=Augmentation(jitter=0.2))
        middles.append(crop["to_image"].astype(np.float64) @ [31.5, 31.5, 1])
        sides.append(crop["to_image"][0, 0] * 64)
    middles = np.array(middles) - (200, 150)
    # Both ends move by up to 20 % of 200 (x) and of 100 (y): so does the middle; the width changes by twice as much.
    assert 30 < np.abs(middles[:, 0]).max() <= 40 + 1e-3 and 15 < np.abs(middles[:, 1]).max() <= 20 + 1e-3
    assert 120 - 1e-3 <= min(sides) < 140 and 260 < max(sides) <= 280 + 1e-3


def test_crop_is_a_function_of_its_seed():
    def make(seed):
        rng, augmentation = np.random.default_rng(seed), Augmentation(flip=0.5, **RANDOM)
        return augment.crop(example(), Crop(32, 1.25, "tfw5"), rng=rng, augmentation=augmentation)

    np.testing.assert_array_equal(make(4)["rgb"], make(4)["rgb"])
    assert not np.array_equal(make(4)["to_image"], make(5)["to_image"])


def test_crop_is_black_outside_the_image():
    image = example(64, 64)
    image["rgb"][:], image["thermal"][:] = 200, 200
    image["box"] = np.array([0.0, 0.0, 63.0, 63.0])
    crop = augment.crop(image, Crop(64, 2.0, "tfw5"))
    assert crop["rgb"][0, 0].max() == 0 and crop["thermal"][-1, -1].max() == 0
    np.testing.assert_allclose(crop["rgb"][32, 32], 200 / 255, atol=1e-6)


def test_shrinking_averages_pixels():
    rng = np.random.default_rng(0)
    image = example(512, 512)
    image["thermal"] = (rng.random((512, 512)) < 0.5).astype(np.uint8) * 255  # the finest texture there is
    image["box"] = np.array([-0.5, -0.5, 512, 512])
    crop = augment.crop(image, Crop(32, 1.0, "tfw5"))["thermal"]
    assert abs(crop.mean() - 0.5) < 0.02
    assert crop.std() < 0.06  # 1/32 for perfect averaging over 16 x 16, 0.5 / 1.5 for bilinear interpolation alone


def bad(**changes):
    image = {**example(), **changes}
    return {key: value for key, value in image.items() if value is not None}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (bad(landmarks=np.full((5, 2), np.nan)), "Landmark 0 is not a finite number"),
        (bad(landmarks=np.zeros((4, 2))), "layout tfw5 has 5 points"),
        (bad(visible=np.ones(4, bool)), r"Visibility has shape \(4,\)"),
        (bad(box=np.array([10, 10, 0, 5])), "is empty"),
        (bad(box=np.array([10, 10, 5, np.nan])), "not finite"),
        (bad(box=np.array([10, 10, 5])), "is 3 numbers"),
        (bad(box=np.array([120, 10, 20, 20])), "lies outside the image, which has 120 x 96 pixels"),
        (bad(box=np.array([-30, 10, 30, 20])), "lies outside the image, which has 120 x 96 pixels"),
        (bad(rgb=np.zeros((96, 120, 4), np.uint8)), r"rgb image must be uint8 \[H, W, 3\]"),
        (bad(thermal=np.zeros((96, 120), np.float32)), "thermal image must be uint8"),
        (bad(thermal=np.zeros((90, 120), np.uint8)), "differ in size: 120x90 and 120x96"),
        (bad(rgb=None, thermal=None), "neither rgb nor thermal"),
    ],
)
def test_bad_examples_raise_input_errors(image, message):
    with pytest.raises(InputError, match=message):
        augment.crop(image, Crop(32, 1.25, "tfw5"))


def test_random_crop_needs_a_generator():
    with pytest.raises(ValueError, match="needs rng"):
        augment.crop(example(), Crop(32, 1.25, "tfw5"), augmentation=Augmentation(flip=0.5))


def test_occlusion_covers_the_same_place_in_both_modalities():
    crop = {
        "rgb": np.full((64, 64, 3), -1.0, np.float32),
        "thermal": np.full((64, 64, 1), -1.0, np.float32),
        "visible": np.ones(5, bool),
    }
    covered = []
    for seed in range(50):
        out = augment.occlude(crop, np.random.default_rng(seed), p=0.6)
        patch = out["thermal"][..., 0] >= 0
        np.testing.assert_array_equal(patch, (out["rgb"] >= 0).all(axis=2))
        np.testing.assert_array_equal(out["visible"], crop["visible"])
        covered.append(patch.mean())
    assert (crop["rgb"] == -1).all()
    assert 0.4 < np.mean(np.array(covered) > 0) < 0.8
    assert min(c for c in covered if c) > 0.005
    assert max(covered) <= 2 * 0.35**2 + 0.01


def test_inversion_turns_the_thermal_image_and_nothing_else():
    plain, inverted = (
        augment.crop(
            example(), Crop(64, 1.6, "tfw5"), rng=np.random.default_rng(0), augmentation=Augmentation(invert=p)
        )
        for p in (0.0, 1.0)
    )
    np.testing.assert_array_equal(inverted["rgb"], plain["rgb"])
    np.testing.assert_array_equal(inverted["landmarks"], plain["landmarks"])
    inside = plain["rgb"].max(-1, keepdims=True) > 0  # what lies outside the image is black in both
    np.testing.assert_allclose(inverted["thermal"][16:48, 16:48], 1 - plain["thermal"][16:48, 16:48], atol=0.01)
    assert inside.any() and (inverted["thermal"][0] == 0).all()


def test_half_of_the_images_are_inverted_and_other_random_numbers_stay_the_same():
    options = {"rotation": 20.0, "jitter": 0.1}
    bright = []
    for seed in range(200):
        crops = [
            augment.crop(
                example(sigma=8.0),
                Crop(16, 1.0, "tfw5"),
                rng=np.random.default_rng(seed),
                augmentation=Augmentation(invert=p, **options),
            )
            for p in (0.0, 0.5)
        ]
        np.testing.assert_array_equal(crops[0]["landmarks"], crops[1]["landmarks"])
        bright.append(not np.array_equal(crops[0]["thermal"], crops[1]["thermal"]))
    assert 70 < sum(bright) < 130
