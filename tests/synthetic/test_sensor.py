"""The camera alone: noise, resolution and position in °C, and the conversion to 8 bits."""

import cv2
import numpy as np
import pytest

from mlcm_jax.errors import InputError
from mlcm_jax.synthetic import sensor
from mlcm_jax.synthetic.sensor import Camera, Gain


def _scene(size=128, seed=0):
    """A smooth random scene between 20 and 36 °C."""
    knots = np.random.default_rng(seed).uniform(20.0, 36.0, (9, 9)).astype(np.float32)
    return cv2.resize(knots, (size, size), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("netd", [0.03, 0.1, 0.3])
def test_netd_is_the_deviation_on_a_flat_field(netd):
    flat = np.full((256, 256), 30.0, np.float32)
    celsius = sensor.expose(flat, 256, Camera(native=256, netd=netd), np.random.default_rng(0))
    assert celsius.std() == pytest.approx(netd, rel=0.02)
    assert celsius.mean() == pytest.approx(30.0, abs=0.01)


def test_stripes_run_along_columns():
    flat = np.full((128, 128), 30.0, np.float32)
    celsius = sensor.expose(flat, 128, Camera(native=128, netd=0.01, stripes=0.2), np.random.default_rng(0))
    assert celsius.mean(0).std() == pytest.approx(0.2, rel=0.25)
    assert celsius.mean(1).std() == pytest.approx(0.08, rel=0.3)


def test_shading_departs_in_the_corners():
    flat = np.full((64, 64), 30.0, np.float32)
    celsius = sensor.expose(flat, 64, Camera(native=64, netd=0.0, shading=-0.5), np.random.default_rng(0))
    assert celsius[0, 0] - celsius[32, 32] == pytest.approx(-0.5, abs=0.01)


def test_dead_pixels_are_few_and_far_off():
    flat = np.full((128, 128), 30.0, np.float32)
    celsius = sensor.expose(flat, 128, Camera(native=128, netd=0.02, dead=0.01), np.random.default_rng(0))
    far = np.abs(celsius - 30.0) > 0.2
    assert 0.005 < far.mean() < 0.012


@pytest.mark.parametrize("native", [32, 48])
def test_native_resolution_limits_the_spectrum(native):
    noise = 30.0 + np.random.default_rng(1).standard_normal((256, 256)).astype(np.float32)

    def share_above(celsius):
        power = np.abs(np.fft.rfft2(celsius - celsius.mean())) ** 2
        fy, fx = np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None]
        return power[np.hypot(fx, fy) > 1.1 * native / 128 / 2 * np.sqrt(2)].sum() / power.sum()

    full = sensor.expose(noise, 128, Camera(native=128, netd=0.0), np.random.default_rng(0))
    coarse = sensor.expose(noise, 128, Camera(native=native, netd=0.0), np.random.default_rng(0))
    assert share_above(coarse) < 0.05 and share_above(full) > 0.2
    assert coarse.std() < full.std()


@pytest.mark.parametrize("native", [40, 96, 150, 192])
@pytest.mark.parametrize("motion", [0.0, 4.3])
@pytest.mark.parametrize("resize", [cv2.INTER_LINEAR, cv2.INTER_CUBIC])
def test_a_hot_spot_stays_where_it_is(native, motion, resize):
    spot = np.array([61.3, 40.8])  # x, y in the 96 px output
    at = (spot + 0.5) * 2 - 0.5
    y, x = np.mgrid[:192, :192]
    hot = (20.0 + 100.0 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * 6.0**2))).astype(np.float32)
    camera = Camera(native=native, netd=0.0, motion=motion, motion_angle=33.0, resize=resize)
    celsius = sensor.expose(hot, 96, camera, np.random.default_rng(0)) - 20.0
    y, x = np.mgrid[:96, :96]
    centre = np.array([(x * celsius).sum(), (y * celsius).sum()]) / celsius.sum()
    np.testing.assert_allclose(centre, spot, atol=0.1)


def test_motion_kernels_are_centred():
    for length in (1.0, 2.7, 6.0, 11.5):
        for angle in (0.0, 17.0, 90.0, 133.0):
            kernel = sensor._line(length, angle)
            assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
            np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("kind", sensor.GLOBAL_GAINS)
@pytest.mark.parametrize("seed", range(8))
def test_gray_is_monotone_in_celsius_before_sharpening(kind, seed):
    rng = np.random.default_rng(seed)
    celsius = _scene(96, seed) + 0.05 * rng.standard_normal((96, 96)).astype(np.float32)
    low, high = (22.0, 34.0) if kind == "span" else (1.0, 99.0)
    settings = Gain(kind=kind, low=low, high=high, plateau=2.5, curve=sensor.sample_curve(rng), levels=64)
    gray = sensor.develop(celsius, settings)
    order = np.argsort(celsius.ravel())
    assert (np.diff(gray.ravel()[order].astype(int)) >= 0).all()
    assert gray.max() > gray.min()


def test_plateau_is_clipped_histogram_equalisation():
    """A quarter of the image holds nearly all temperatures; equalisation gives them more gray levels than scaling."""
    celsius = np.concatenate([np.full(3000, 20.0), np.linspace(30.0, 34.0, 1096)]).reshape(64, 64).astype(np.float32)
    linear = sensor.gain(celsius, Gain(kind="stretch"))
    equal = sensor.gain(celsius, Gain(kind="plateau", plateau=2.0))
    warm = celsius >= 30.0
    assert np.ptp(equal[warm]) > 1.5 * np.ptp(linear[warm])


def test_span_is_linear_between_its_ends():
    celsius = np.array([[10.0, 20.0], [25.0, 40.0]], np.float32)
    scaled = sensor.gain(celsius, Gain(kind="span", low=20.0, high=30.0))
    np.testing.assert_allclose(scaled, [[0.0, 0.0], [0.5, 1.0]], atol=1e-6)


def test_curves_are_monotone_and_within_range():
    for seed in range(200):
        curve = sensor.sample_curve(np.random.default_rng(seed))
        assert curve.shape == (256,) and curve.dtype == np.float32
        assert (np.diff(curve) >= 0).all()
        assert curve.min() >= 0.0 and curve.max() <= 1.0 and np.ptp(curve) > 0.4


def test_sharpening_makes_halos():
    edge = np.repeat(np.where(np.arange(64) < 32, 0.3, 0.7)[None], 64, 0).astype(np.float32)
    gray = sensor.finish(edge, Gain(sharpen=1.5, sharpen_sigma=0.05)).astype(int)
    assert gray[32, 31] < gray[32, 2] - 5 and gray[32, 32] > gray[32, 61] + 5


def test_a_flat_image_stays_flat():
    flat = np.full((32, 32), 25.0, np.float32)
    for kind in sensor.GAINS:
        assert np.ptp(sensor.develop(flat, Gain(kind=kind))) == 0


def test_capture_is_a_function_of_the_generator():
    hot = _scene(192)
    first, second = (sensor.capture(hot, 96, np.random.default_rng(9)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    celsius, gray = first
    assert celsius.dtype == np.float32 and celsius.shape == (96, 96)
    assert gray.dtype == np.uint8 and gray.shape == (96, 96)
    assert not np.array_equal(gray, sensor.capture(hot, 96, np.random.default_rng(10))[1])


def test_hot_is_bright_in_every_capture():
    for seed in range(40):
        celsius, gray = sensor.capture(_scene(128, seed), 64, np.random.default_rng(seed))
        assert np.corrcoef(celsius.ravel(), gray.ravel().astype(float))[0, 1] > 0.3


def test_bad_input():
    with pytest.raises(InputError, match="square"):
        sensor.expose(np.zeros((64, 32), np.float32), 32, Camera(native=32), np.random.default_rng(0))
    with pytest.raises(InputError, match="at least 96"):
        sensor.capture(np.zeros((64, 64), np.float32), 96, np.random.default_rng(0))
    with pytest.raises(InputError, match="Unknown gain"):
        sensor.gain(np.zeros((8, 8), np.float32), Gain(kind="auto"))
