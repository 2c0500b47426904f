"""What networks read of image files: gray, colours, or temperatures of a fixed range."""

import numpy as np
import pytest

from mlcm_jax import images
from mlcm_jax.data import image_file
from mlcm_jax.errors import InputError

RNG = np.random.default_rng(0)
STORED = {
    "gray8": RNG.integers(0, 256, (24, 30), np.uint8),
    "gray16": RNG.integers(0, 65536, (24, 30), np.uint16),
    "float": RNG.uniform(10, 40, (24, 30)).astype(np.float32),
    "colour": RNG.integers(0, 256, (24, 30, 3), np.uint8),
}


@pytest.mark.parametrize("kind", STORED)
def test_thermal_networks_read_gray_images_and_rgb_networks_colour_images(kind):
    file = images.ImageFile(STORED[kind], kind, f"a {kind}")
    for modality, convert, shape in (("rgb", images.to_rgb8, (24, 30, 3)), ("thermal", images.to_gray8, (24, 30))):
        image, note = image_file.for_network(file, modality, None)
        assert image.shape == shape and image.dtype == np.uint8
        np.testing.assert_array_equal(image, convert(file)[0])
        assert note == convert(file)[1]


def test_temperatures_are_converted_with_the_range_of_the_training():
    celsius = np.array([[10.0, 20.0], [30.0, 50.0], [np.nan, 40.0]], np.float32)
    found, note = image_file.for_network(images.ImageFile(celsius, "float", "a.npy"), "thermal", (20.0, 40.0))
    np.testing.assert_array_equal(found, [[0, 0], [128, 255], [0, 255]])
    assert note == ""
    with pytest.raises(InputError, match=r"b\.png holds no temperatures"):
        image_file.for_network(images.ImageFile(STORED["gray8"], "gray8", "b.png"), "thermal", (20.0, 40.0))


def test_fixed_range_is_linear_and_clipped():
    celsius = np.array([[-10, 20, 25, 30, 40, 90, np.nan]])
    gray = image_file.fixed_range(celsius, 20.0, 40.0)
    assert gray.dtype == np.uint8 and gray.tolist() == [[0, 0, 64, 128, 255, 255, 0]]
    for low, high in ((40.0, 20.0), (20.0, 20.0)):
        with pytest.raises(InputError, match=r"config\.thermal_range=.* must be increasing"):
            image_file.fixed_range(celsius, low, high)
