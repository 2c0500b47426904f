"""Augmentation: a bright dot painted on a landmark stays under it, whatever is done to the image."""

import cv2
import numpy as np
import pytest

from mlcm_jax import codecs, landmarks
from mlcm_jax.data import augment
from mlcm_jax.errors import InputError

FLIP5 = landmarks.get("tfw5").flip
RANDOM = {"jitter": 0.2, "rotation": 30, "scale": 0.2, "shift": 0.05}


def dots(height, width, points, sigma):
    """uint8 [height, width, 3] and [height, width]: smooth dots, in RGB dot k in channel k % 3."""
    rgb, thermal = np.zeros((height, width, 3)), np.zeros((height, width))
    for k, (px, py) in enumerate(points):
        across, down = ((np.arange(n) - p) ** 2 / (2 * sigma**2) for n, p in ((width, px), (height, py)))
        spot = np.outer(np.exp(-down), np.exp(-across))
        rgb[..., k % 3] = np.maximum(rgb[..., k % 3], spot)
        thermal = np.maximum(thermal, spot)
    return (255 * rgb).round().astype(np.uint8), (255 * thermal).round().astype(np.uint8)


def example(height=96, width=120, sigma=2.5, seed=0, only=slice(None)):
    rng = np.random.default_rng(seed)
    # Five dots far apart, at no round position, within the inner part of the box.
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


def centroid(image, near, radius):
    """Centre of brightness around a place, in pixels."""
    (x0, y0), (x1, y1) = np.round(near - radius).astype(int), np.round(near + radius).astype(int) + 1
    assert x0 >= 0 and y0 >= 0 and x1 <= image.shape[1] and y1 <= image.shape[0], "the dot left the crop"
    part = image[y0:y1, x0:x1].astype(np.float64)
    y, x = np.mgrid[y0:y1, x0:x1]
    assert part.max() > 0.2, "there is no dot under the landmark"
    return np.array([(x * part).sum(), (y * part).sum()]) / part.sum()


def assert_dots_lie_under_landmarks(height, width, sigma, seed, size, **options):
    """One dot an image, as dots that touch would pull at each other's centres."""
    for k in range(5):
        image = example(height, width, sigma, seed, only=slice(k, k + 1))
        if k == 0:
            image["thermal"] = image["thermal"][..., None]
        crop = augment.crop(image, size=size, layout="tfw5", rng=np.random.default_rng(seed), **options)
        step = np.hypot(*crop["to_image"][:, 0])  # original pixels a crop pixel
        mine = FLIP5[k] if options["flip"] else k
        place = codecs.to_pixels(crop["landmarks"][mine].astype(np.float64), size)
        assert crop["visible"][mine] == image["visible"][k]
        for name in ("rgb", "thermal"):
            found = centroid(crop[name].max(axis=2), place, 3 * sigma / step + 1)
            assert np.abs(found - place).max() < 0.1, (name, found, place)


@pytest.mark.parametrize("size", [48, 64, 96, 256])
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("options", [{}, RANDOM], ids=["plain", "random"])
def test_bright_dot(size, flip, options):
    for seed in range(3):
        assert_dots_lie_under_landmarks(96, 120, 2.0, seed, size, flip=flip, **options)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(348, 464, 64), (480, 640, 48), (1000, 800, 64), (331, 457, 100)]
)
def test_bright_dot_in_large_images(height, width, size, flip):
    # Shrinking by 3 to 16: the averaging step must not move anything either.
    for seed in range(2):
        sigma = 1.2 * width / size
        assert_dots_lie_under_landmarks(height, width, sigma, seed, size, flip=flip, rotation=25, shift=0.04)


def test_the_crop_of_the_whole_image_is_the_image():
    rng = np.random.default_rng(0)
    image = example(64, 64)
    image["rgb"] = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    # A box over all pixels goes from edge to edge, -0.5 to 63.5, as pixel centres are integers.
    image["box"] = np.array([-0.5, -0.5, 64, 64])
    crop = augment.crop(image, size=64, layout="tfw5", expand=1.0)
    np.testing.assert_array_equal(crop["rgb"], image["rgb"].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(crop["to_image"], [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(crop["landmarks"], (image["landmarks"] + 0.5) / 64, atol=1e-6)
    mirrored = augment.crop(image, size=64, layout="tfw5", expand=1.0, rng=rng, flip=1.0)
    np.testing.assert_array_equal(mirrored["rgb"], crop["rgb"][:, ::-1])
    np.testing.assert_allclose(mirrored["landmarks"][:, 0], 1 - crop["landmarks"][FLIP5, 0], atol=1e-6)
    np.testing.assert_allclose(mirrored["landmarks"][:, 1], crop["landmarks"][FLIP5, 1], atol=1e-6)
    np.testing.assert_array_equal(mirrored["visible"], image["visible"][FLIP5])


def test_types_and_shapes_of_a_crop():
    image = example() | {"celsius": np.zeros((96, 120), np.float32)}
    crop = augment.crop(image, size=40, layout="tfw5")
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
def test_an_absent_modality_stays_absent(missing):
    image = {key: value for key, value in example().items() if key != missing}
    crop = augment.crop(image, size=32, layout="tfw5", rng=np.random.default_rng(0), **RANDOM)
    assert missing not in augment.occlude(crop, np.random.default_rng(0), p=1.0)
    both = augment.crop(example(), size=32, layout="tfw5", rng=np.random.default_rng(0), **RANDOM)
    name = "thermal" if missing == "rgb" else "rgb"
    np.testing.assert_array_equal(crop[name], both[name])


def test_the_square_follows_the_box_and_expand():
    image = example(200, 300)
    image["box"] = np.array([100.0, 40.0, 50.0, 80.0])
    crop = augment.crop(image, size=50, layout="tfw5", expand=1.5)
    np.testing.assert_allclose(np.hypot(*crop["to_image"][:, 0]) * 50, 1.5 * 80, rtol=1e-6)
    middle = crop["to_image"] @ [24.5, 24.5, 1]
    np.testing.assert_allclose(middle, [125, 80], atol=1e-4)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_to_image_leads_back_to_the_original_pixels(flip):
    image = example()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        crop = augment.crop(image, size=64, layout="tfw5", rng=rng, flip=flip, **RANDOM)
        back = codecs.to_original(crop["landmarks"].astype(np.float64), crop["to_image"].astype(np.float64), 64)
        back = back[FLIP5] if flip else back
        np.testing.assert_allclose(back, image["landmarks"], atol=1e-3)


def test_random_crops_use_the_ranges_that_are_documented():
    image, found = example(), {"turn": [], "size": [], "mirrored": [], "x": []}
    rng = np.random.default_rng(1)
    plain = augment.crop(image, size=64, layout="tfw5")
    for _ in range(600):
        crop = augment.crop(image, size=64, layout="tfw5", rng=rng, rotation=20, scale=0.25, shift=0.1, flip=0.3)
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


def test_jitter_moves_every_side_by_itself():
    image = example(400, 400)
    image["box"] = np.array([100.0, 100.0, 200.0, 100.0])
    rng = np.random.default_rng(3)
    middles, sides = [], []
    for _ in range(300):
        crop = augment.crop(image, size=64, layout="tfw5", expand=1.0, rng=rng, jitter=0.2)
        middles.append(crop["to_image"].astype(np.float64) @ [31.5, 31.5, 1])
        sides.append(crop["to_image"][0, 0] * 64)
    middles = np.array(middles) - (200, 150)
    # Both ends move by up to 20 % of 200 (x) and of 100 (y): the middle by as much, the width by twice as much.
    assert 30 < np.abs(middles[:, 0]).max() <= 40 + 1e-3 and 15 < np.abs(middles[:, 1]).max() <= 20 + 1e-3
    assert 120 - 1e-3 <= min(sides) < 140 and 260 < max(sides) <= 280 + 1e-3


def test_the_same_seed_gives_the_same_crop_and_another_another():
    def make(seed):
        return augment.crop(example(), size=32, layout="tfw5", rng=np.random.default_rng(seed), flip=0.5, **RANDOM)

    np.testing.assert_array_equal(make(4)["rgb"], make(4)["rgb"])
    assert not np.array_equal(make(4)["to_image"], make(5)["to_image"])


def test_outside_the_image_is_black():
    image = example(64, 64)
    image["rgb"][:], image["thermal"][:] = 200, 200
    image["box"] = np.array([0.0, 0.0, 63.0, 63.0])
    crop = augment.crop(image, size=64, layout="tfw5", expand=2.0)
    assert crop["rgb"][0, 0].max() == 0 and crop["thermal"][-1, -1].max() == 0
    np.testing.assert_allclose(crop["rgb"][32, 32], 200 / 255, atol=1e-6)


def test_shrinking_averages_instead_of_picking():
    rng = np.random.default_rng(0)
    image = example(512, 512)
    image["thermal"] = (rng.random((512, 512)) < 0.5).astype(np.uint8) * 255  # the finest texture there is
    image["box"] = np.array([-0.5, -0.5, 512, 512])
    crop = augment.crop(image, size=32, layout="tfw5", expand=1.0)["thermal"]
    assert abs(crop.mean() - 0.5) < 0.02
    assert crop.std() < 0.06  # 1/32 for perfect averaging over 16 x 16, 0.5 / 1.5 for bilinear picking


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
def test_bad_examples_are_told(image, message):
    with pytest.raises(InputError, match=message):
        augment.crop(image, size=32, layout="tfw5")


def test_randomness_without_a_generator_is_a_mistake():
    with pytest.raises(ValueError, match="needs rng"):
        augment.crop(example(), size=32, layout="tfw5", flip=0.5)


def ramp(size=64, channels=3):
    """Every gray value from 0 to 255, [size, size, channels]."""
    gray = np.linspace(0, 1, size * size, dtype=np.float32).reshape(size, size, 1)
    return np.repeat((gray * 255).round() / np.float32(255), channels, axis=2)


PHOTOMETRIC = [(augment.photometric_rgb, 3), (augment.photometric_thermal, 1)]


@pytest.mark.parametrize(("function", "channels"), PHOTOMETRIC)
def test_photometric_changes_stay_in_range_and_depend_on_the_seed_alone(function, channels):
    image = ramp(channels=channels)
    before, changed = image.copy(), []
    for seed in range(40):
        one, two = (function(image, np.random.default_rng(seed)) for _ in range(2))
        np.testing.assert_array_equal(one, two)
        assert one.dtype == np.float32 and one.shape == image.shape
        assert one.min() >= 0 and one.max() <= 1 and np.isfinite(one).all()
        changed.append(np.abs(one - image).mean())
    np.testing.assert_array_equal(image, before)
    assert np.median(changed) > 0.02 and max(changed) > 0.1
    assert len(np.unique(np.round(changed, 6))) == 40


@pytest.mark.parametrize(("function", "channels"), PHOTOMETRIC)
def test_bytes_stay_bytes_and_are_the_same_image(function, channels):
    image = ramp(channels=channels)
    for seed in range(20):
        small = function((image * 255).round().astype(np.uint8), np.random.default_rng(seed))
        assert small.dtype == np.uint8 and small.shape == image.shape
        floats = function(image, np.random.default_rng(seed))
        np.testing.assert_allclose(small / 255.0, floats, atol=1e-6)


def test_noise_of_bytes_is_that_of_floats_to_one_gray_level():
    bank = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)
    for value, sigma, u in ((128, 0.03, 0.3), (5, 0.06, 0.0), (250, 0.01, 0.99)):
        image = np.full((64, 64, 3), value, np.uint8)
        start = int(u * (len(bank) - image.size))
        expected = (value + 255 * sigma * bank[start : start + image.size]).clip(0, 255)
        augment._add_noise(image, sigma, u)
        assert np.abs(image.ravel() - expected).max() < 1.0
        assert image.std() > 0.5


@pytest.mark.parametrize(("function", "channels"), PHOTOMETRIC)
def test_strength_zero_is_the_identity(function, channels):
    image = ramp(channels=channels)
    result = function(image, np.random.default_rng(0), strength=0.0)
    np.testing.assert_array_equal(result, image)
    assert not np.shares_memory(result, image)


@pytest.mark.parametrize(("function", "channels"), PHOTOMETRIC)
def test_photometric_changes_move_no_dot(function, channels):
    place = np.array([30.3, 33.8])
    image = dots(64, 64, [place], 3.0)[1][..., None].repeat(channels, 2).astype(np.float32) / 255
    moved = []
    for seed in range(60):
        out = function(image, np.random.default_rng(seed)).max(axis=2)
        out = np.clip(out - np.quantile(out, 0.7), 0, None)
        moved.append(centroid(out / max(out.max(), 1e-6), place, 8) - place)
    # A dark noisy image scatters single values; a systematic shift, such as half a pixel in a resize, would stay.
    assert np.abs(np.median(moved, axis=0)).max() < 0.1


def test_the_tone_curve_of_thermal_images_never_falls():
    flat = np.arange(256, dtype=np.float32).repeat(256).reshape(256, 256, 1) / np.float32(255)
    curves = []
    for seed in range(60):
        out = augment.photometric_thermal(flat, np.random.default_rng(seed))[..., 0]
        rows = np.median(out, axis=1)  # noise aside
        curves.append(rows)
        assert np.diff(cv2.blur(rows[:, None], (1, 31))[:, 0]).min() > -0.01
    assert np.ptp([curve[128] for curve in curves]) > 0.3


def test_polarity_turns_only_when_asked():
    image = ramp(channels=1)
    turned = augment.photometric_thermal(image, np.random.default_rng(0), strength=0.0, invert=1.0)
    np.testing.assert_allclose(turned, 1 - image, atol=1e-6)
    signs = [np.corrcoef(augment.photometric_thermal(image, np.random.default_rng(s)).ravel(), image.ravel())[0, 1]
             for s in range(40)]  # fmt: skip
    assert min(signs) > 0.5


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
