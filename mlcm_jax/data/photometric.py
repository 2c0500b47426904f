"""Photometric augmentation: simulates another light and camera for a crop, with OpenCV.

Images are uint8 throughout: one table of 256 entries changes tone and colour, and noise comes from a bank.
"""

import functools
import itertools
import math

import cv2
import numpy as np

_TO_FLOAT = (np.arange(256) / 255.0).astype(np.float32)
_RAMP = np.arange(256) / 255.0
_KNOTS = np.linspace(0.0, 1.0, 7)
_SIGMA = 26  # standard deviation of the noise bank in gray levels; 8 bits then hold up to 4.9 deviations


def rgb(image: np.ndarray, rng: np.random.Generator, *, strength: float = 1.0) -> np.ndarray:
    """Changes the light, colour and sensor of an RGB crop.

    It changes gamma, brightness, contrast and colour cast, and may darken it, turn it gray, blur it and add noise.

    Args:
        image: [S, S, 3], uint8, or float32 in [0, 1], which is quantised to 8 bits.
        rng: source of random numbers.
        strength: scales every range and probability; 0 leaves the image unchanged.

    Returns:
        A new array [S, S, 3], uint8 or float32 like the image.
    """
    if strength <= 0:
        return image.copy()
    r = rng.random(16).tolist()
    signed = [strength * (2.0 * value - 1.0) for value in r]
    small = _bytes(image)
    if r[0] < 0.15 * strength:
        small = _blur(small, r[1])
    if r[2] < 0.15 * strength:
        small = cv2.cvtColor(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)

    # One curve for all channels, 0.5 + contrast (v^gamma - 0.5) + brightness, times a gain for each, light and cast.
    gamma = math.exp(0.4 * signed[3])
    contrast, brightness = math.exp(0.3 * signed[4]), 0.12 * signed[5]
    light = 1.0
    dark = r[6] < 0.12 * strength
    if dark:
        light = 0.1 + 0.4 * r[7]
    tone = (_RAMP**gamma - 0.5) * contrast + (0.5 + brightness)
    gains = np.array([light * math.exp(0.12 * value) for value in signed[8:11]])
    out = cv2.LUT(small, _table(tone[:, None, None] * gains))

    if dark or r[11] < 0.5 * strength:
        sigma = strength * (0.03 * r[12] + (0.03 if dark else 0.0))
        _add_noise(out, sigma, r[13])
    return out if image.dtype == np.uint8 else to_floats(out)


def thermal(image: np.ndarray, rng: np.random.Generator, *, strength: float = 1.0) -> np.ndarray:
    """Changes the camera of a thermal crop: resolution, blur, local contrast, tone curve, gain, noise, stripes.

    The gray values of real cameras are not a linear function of temperature, because of automatic gain. The tone curve
    is therefore random but monotone (a gamma, then a piecewise linear function): hot stays brighter than cold.

    Args:
        image: [S, S, 1], uint8, or float32 in [0, 1], which is quantised to 8 bits.
        rng: source of random numbers.
        strength: scales every range and probability; 0 leaves the image unchanged.

    Returns:
        A new array [S, S, 1], uint8 or float32 like the image.
    """
    strength = max(strength, 0.0)
    r = rng.random(32).tolist()
    size = image.shape[0]
    small = _bytes(image).reshape(size, size)
    if r[0] < 0.2 * strength:
        low = max(8, round(size * (1.0 - 0.65 * r[1])))
        small = cv2.resize(cv2.resize(small, (low, low), interpolation=cv2.INTER_AREA), (size, size))
    if r[2] < 0.2 * strength:
        small = _blur(small, r[3])
    if r[4] < 0.2 * strength:
        # A camera's "detail enhancement": differences from the surroundings are amplified.
        amount = 0.3 + 0.7 * r[5]
        width = 2 * round(size * (0.05 + 0.1 * r[6])) + 1
        small = cv2.addWeighted(small, 1.0 + amount, cv2.blur(small, (width, width)), -amount, 0.0)

    curve = _RAMP
    if strength:
        curve = _RAMP ** math.exp(0.5 * strength * (2.0 * r[7] - 1.0))
        # Equal increments give the identity; the more they differ, the more the curve bends, but it never falls.
        rises = [math.exp(0.9 * strength * (2.0 * value - 1.0)) for value in r[8:14]]
        heights = np.array(list(itertools.accumulate(rises, initial=0.0)))
        curve = np.interp(curve, _KNOTS, heights / heights[-1])
        gain = math.exp(0.25 * strength * (2.0 * r[14] - 1.0))
        curve = (curve - 0.5) * gain + (0.5 + 0.1 * strength * (2.0 * r[15] - 1.0))
        curve = curve.clip(0.0, 1.0)

    noisy, striped = r[17] < 0.5 * strength, r[19] < 0.2 * strength
    if striped:
        # Fixed-pattern noise: an offset for each column or each row, as uncooled sensors have. It is rare enough to use
        # floats.
        out = cv2.LUT(small, curve.astype(np.float32))
        offsets = 0.02 * strength * r[20] * _normal(size, r[21])
        out += offsets[None, :] if r[22] < 0.7 else offsets[:, None]
        if noisy:
            out += 0.03 * strength * r[18] * _normal(out.size, r[23]).reshape(out.shape)
        out = _bytes(out.clip(0.0, 1.0, out))
    else:
        out = cv2.LUT(small, _table(curve))
        if noisy:
            _add_noise(out, 0.03 * strength * r[18], r[23])
    out = out.reshape(size, size, 1)
    return out if image.dtype == np.uint8 else to_floats(out)


def _bytes(image: np.ndarray) -> np.ndarray:
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=255.0)


def to_floats(image: np.ndarray) -> np.ndarray:
    """Converts a uint8 image to float32 in [0, 1]."""
    # The image is passed as one channel, which is fastest; OpenCV refuses more than four.
    return cv2.LUT(image.reshape(len(image), -1), _TO_FLOAT).reshape(image.shape)


def _table(values: np.ndarray) -> np.ndarray:
    return (255.0 * values.clip(0.0, 1.0)).round().astype(np.uint8)


def _blur(image: np.ndarray, u: float) -> np.ndarray:
    """Blurs more the larger the crop: sigma is 0.4 to 1.0 pixels for a side of 64 pixels, 0.4 to 2.8 for 256."""
    sigma = 0.4 + 0.6 * u * max(1.0, len(image) / 64)
    width = 2 * max(1, round(2.0 * sigma)) + 1  # OpenCV's default, three sigma on each side, takes twice as long
    return cv2.GaussianBlur(image, (width, width), sigma)


@functools.cache
def _bank() -> np.ndarray:
    """A million normal numbers z as uint8, 128 + _SIGMA z; drawing new ones would cost more than all the rest here."""
    return _noise_bytes(np.random.default_rng(0), 1 << 20)


def _noise_bytes(rng: np.random.Generator, count: int) -> np.ndarray:
    return (128.0 + _SIGMA * rng.standard_normal(count, dtype=np.float32)).round().clip(0, 255).astype(np.uint8)


def _noise(count: int, u: float) -> np.ndarray:
    """`count` consecutive numbers of the bank, from a position that u in [0, 1) chooses."""
    bank = _bank()
    if count > len(bank) // 2:
        return _noise_bytes(np.random.default_rng(int(u * 2**53)), count)
    start = int(u * (len(bank) - count))
    return bank[start : start + count]


def _normal(count: int, u: float) -> np.ndarray:
    """The numbers of `_noise` as standard normal ones, float32."""
    return (_noise(count, u).astype(np.float32) - 128.0) / _SIGMA


def _add_noise(image: np.ndarray, sigma: float, u: float) -> None:
    """Adds normal noise to a uint8 image, in place; sigma is relative to 255."""
    flat = image.reshape(-1)
    scale = 255.0 * sigma / _SIGMA
    cv2.addWeighted(flat, 1.0, _noise(flat.size, u), scale, -128.0 * scale, flat)
