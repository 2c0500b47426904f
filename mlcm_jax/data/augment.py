"""Crops and augmentation on the host: (example, rng) -> example, numpy and OpenCV.

An example is a dict as a builder yields it: `rgb` uint8 [H, W, 3] and / or `thermal` uint8 [H, W] or [H, W, 1],
aligned with each other; `landmarks` [K, 2] in pixels, `visible` bool [K], `box` (x, y, w, h) in pixels, and perhaps
`weight` [K]. What is
geometric happens to both modalities and the landmarks by one and the same matrix; what is photometric belongs to one
modality.

Speed is a design rule here, as this code competes with training for two cores: random numbers are drawn in one call,
the matrix is composed in plain floats, both modalities are warped as one image of four channels, images stay
8 bits until they are on the devices, tone and colour go through one 256-entry table, noise comes from a bank.
"""

import functools
import itertools
import math

import cv2
import numpy as np

from mlcm_jax import landmarks as layouts
from mlcm_jax.data import boxes
from mlcm_jax.errors import InputError

_TO_FLOAT = (np.arange(256) / 255.0).astype(np.float32)
_RAMP = np.arange(256) / 255.0
_KNOTS = np.linspace(0.0, 1.0, 7)
_SIGMA = 26  # of the noise bank, in its 8-bit steps: they reach to 4.9 standard deviations


def crop(
    example,
    *,
    size,
    layout,
    expand=1.25,
    rng=None,
    jitter=0.0,
    rotation=0.0,
    scale=0.0,
    shift=0.0,
    flip=0.0,
    floats=True,
) -> dict:
    """Cuts a square around the box out of every modality and resizes it to `size`, optionally at random.

    The square is centred on the box, its side is `expand * max(w, h)`; so the crop is isotropic and may reach beyond
    the image (zeros there). In this order: every side of the box moves by up to `jitter` of its length (left and
    right by the width, top and bottom by the height), the square turns by up to `rotation` degrees and grows by a
    factor of up to `1 + scale` either way (log-uniform), its centre moves by up to `shift` of its side along each
    axis, and with probability `flip` it is mirrored. All draws are uniform. Each modality is warped once, bilinearly;
    where the crop shrinks the image by a factor of 2 or more, the image is first halved by area averaging until the
    warp itself shrinks by less than 2.

    A mirrored crop's landmarks are permuted by the layout, so a network sees the same order always; its `to_image`
    includes the mirror. To map a prediction of a mirrored crop back: `pixels = to_image(prediction)[layout.flip]`,
    permuting once more, because the point that lies on the image's landmark i is the mirrored crop's point
    `flip[i]`. (Evaluation never mirrors.)

    Args:
      example: see the top of this file.
      size: side S of the crop in pixels.
      layout: name or Layout of the landmarks.
      expand: side of the square in units of the box's longer side.
      rng: numpy Generator; needed as soon as one of the following is not 0.
      jitter: up to 0.49.
      rotation: degrees.
      scale: 0.1 means a factor of 1/1.1 to 1.1.
      shift: in units of the square's side.
      flip: probability.
      floats: False leaves the images uint8, for what follows here to work on.

    Returns:
      A new dict: `rgb` float32 [S, S, 3] and / or `thermal` float32 [S, S, 1] in [0, 1] (see `floats`), `landmarks`
      float32 [K, 2] in u (may leave [0, 1]), `visible` bool [K], `box` float32 [4] as it came, `to_image` float32
      [2, 3], crop pixels to original pixels. Other fields are handed on as they are, `celsius` excepted, whose pixels
      would no longer fit.

    Raises:
      InputError: images of another type or of different sizes; landmarks with NaN or of another count; a box that
        is empty, not finite or wholly outside the image.
    """
    layout = layouts.get(layout)
    images = {name: _uint8(example[name], name) for name in ("rgb", "thermal") if name in example}
    shapes = {image.shape[:2] for image in images.values()}
    if len(shapes) != 1:
        sizes = " and ".join(f"{w}x{h}" for h, w in sorted(shapes))
        raise InputError(f"RGB and thermal differ in size: {sizes}." if shapes else "There is neither rgb nor thermal.")
    height, width = shapes.pop()
    points = layouts.check(example["landmarks"], layout)
    x, y, w, h = box = boxes.checked(example["box"], "The box")
    boxes.check_inside(box, width, height, "The box")

    mirrored = False
    left, top, right, bottom = x, y, x + w, y + h
    turn, grow, move_x, move_y = 0.0, 1.0, 0.0, 0.0
    if jitter or rotation or scale or shift or flip:
        if rng is None:
            raise ValueError("a random crop needs rng")
        r = (2.0 * rng.random(9) - 1.0).tolist()
        left, right = left + r[0] * jitter * w, right + r[1] * jitter * w
        top, bottom = top + r[2] * jitter * h, bottom + r[3] * jitter * h
        turn = math.radians(r[4] * rotation)
        grow = math.exp(r[5] * math.log1p(scale))
        move_x, move_y = r[6] * shift, r[7] * shift
        mirrored = (r[8] + 1.0) / 2.0 < flip
    side = expand * grow * max(right - left, bottom - top)
    center_x = (left + right) / 2 + move_x * side
    center_y = (top + bottom) / 2 + move_y * side

    # Crop pixel -> original pixel: p = R diag(±step, step) (c - middle) + centre, pixel centres at integers on both
    # sides.
    step = side / size
    middle = (size - 1) / 2
    cos, sin = step * math.cos(turn), step * math.sin(turn)
    sign = -1.0 if mirrored else 1.0
    a, b, c, d = sign * cos, -sin, sign * sin, cos
    e, f = center_x - (a + b) * middle, center_y - (c + d) * middle
    matrix = np.array([[a, b, e], [c, d, f]])

    out = {key: value for key, value in example.items() if key not in ("rgb", "thermal", "celsius")}
    out |= _warp(images, matrix, size)
    # The inverse of the 2x2 part is its transpose over step², as it is a rotation with a mirror and a scale.
    inverse = np.array([[a, b], [c, d]]) / (step * step * size)
    points = (points - (e, f)) @ inverse + 0.5 / size
    visible = np.asarray(example["visible"], dtype=bool)
    if visible.shape != (layout.count,):
        raise InputError(f"Visibility has shape {visible.shape}, but layout {layout.name} has {layout.count} points.")
    if mirrored:
        points, visible = points[layout.flip], visible[layout.flip]
        if "weight" in out:
            out["weight"] = out["weight"][layout.flip]
    out["landmarks"] = points.astype(np.float32)
    out["visible"] = visible
    out["box"] = np.array(box, dtype=np.float32)
    out["to_image"] = matrix.astype(np.float32)
    return out | {name: _floats(out[name]) for name in images} if floats else out


def photometric_rgb(image, rng, *, strength=1.0) -> np.ndarray:
    """Random light, colour and sensor for an RGB crop: gamma, brightness, contrast, cast, darkness, gray, blur, noise.

    Args:
      image: uint8, or float32 in [0, 1], which is quantised to 8 bits, [S, S, 3].
      rng: numpy Generator.
      strength: scales every range and probability; 0 leaves the image as it is.

    Returns:
      uint8, or float32 in [0, 1], as the image came, [S, S, 3], a new array.
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

    # One curve for all channels and a gain for each: 0.5 + contrast (v^gamma - 0.5) + brightness, then light.
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
    return out if image.dtype == np.uint8 else _floats(out)


def photometric_thermal(image, rng, *, strength=1.0, invert=0.0) -> np.ndarray:
    """Random camera for a thermal crop: resolution, blur, local contrast, tone curve, gain, noise, stripes.

    Gray values of real cameras are no linear function of temperature: the automatic gain stretches what it finds. The
    tone curve is therefore a random *monotone* one (a gamma plus a piecewise linear part), so that hot stays brighter
    than cold.

    Args:
      image: uint8, or float32 in [0, 1], which is quantised to 8 bits, [S, S, 1].
      rng: numpy Generator.
      strength: scales every range and probability; 0 leaves the image as it is, but for `invert`.
      invert: probability of reversed polarity (cold = bright, as some cameras are set).

    Returns:
      uint8, or float32 in [0, 1], as the image came, [S, S, 1], a new array.
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
        # A camera's "detail enhancement": what differs from the surroundings is amplified.
        amount = 0.3 + 0.7 * r[5]
        width = 2 * round(size * (0.05 + 0.1 * r[6])) + 1
        small = cv2.addWeighted(small, 1.0 + amount, cv2.blur(small, (width, width)), -amount, 0.0)

    curve = _RAMP
    if strength:
        curve = _RAMP ** math.exp(0.5 * strength * (2.0 * r[7] - 1.0))
        # Increments of equal size are the identity; the more they differ, the stranger the curve, but it never falls.
        rises = [math.exp(0.9 * strength * (2.0 * value - 1.0)) for value in r[8:14]]
        heights = np.array(list(itertools.accumulate(rises, initial=0.0)))
        curve = np.interp(curve, _KNOTS, heights / heights[-1])
        gain = math.exp(0.25 * strength * (2.0 * r[14] - 1.0))
        curve = (curve - 0.5) * gain + (0.5 + 0.1 * strength * (2.0 * r[15] - 1.0))
        curve = curve.clip(0.0, 1.0)
    if r[16] < invert:
        curve = 1.0 - curve

    noisy, striped = r[17] < 0.5 * strength, r[19] < 0.2 * strength
    if striped:
        # Fixed-pattern noise: an offset for each column or each row, as uncooled sensors have. Rare, so in floats.
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
    return out if image.dtype == np.uint8 else _floats(out)


def occlude(example, rng, *, p=0.5, count=2, smallest=0.1, largest=0.35) -> dict:
    """With probability p, covers up to `count` random rectangles, at the same place in both modalities.

    A patch has one random colour in RGB and one random gray in thermal, as a hand or a cup has. `visible` stays as it
    is: a covered landmark is still to be predicted from the rest of the face, which is the point of this
    augmentation.

    Args:
      example: as `crop` gives it.
      rng: numpy Generator.
      p: probability that anything is covered.
      count: most patches.
      smallest: shortest side of a patch, in units of the crop's side.
      largest: longest side.

    Returns:
      A new dict; the images are copies where patches were drawn.
    """
    r = rng.random(2 + 8 * count).tolist()
    if r[0] >= p:
        return dict(example)
    names = [name for name in ("rgb", "thermal") if name in example]
    out = {**example, **{name: example[name].copy() for name in names}}
    for k in range(1 + int(r[1] * count)):
        u, v, across, along, *colour = r[2 + 8 * k : 10 + 8 * k]
        size = out[names[0]].shape[0]
        w = max(1, round(size * (smallest + (largest - smallest) * across)))
        h = max(1, round(size * (smallest + (largest - smallest) * along)))
        x, y = int(u * (size - w + 1)), int(v * (size - h + 1))
        for name in names:
            paint = np.array(colour[:3] if name == "rgb" else colour[3:])
            bits = out[name].dtype == np.uint8
            out[name][y : y + h, x : x + w] = (255.0 * paint).round().astype(np.uint8) if bits else paint
    return out


def _warp(images, matrix, size) -> dict:
    """uint8 [size, size, ...] each: crop pixel c takes the value at matrix @ (c, 1); zeros outside the image."""
    height, width = next(iter(images.values())).shape[:2]
    (a, b, e), (c, d, f) = matrix.tolist()
    halvings = int(math.log2(max(1.0, math.hypot(a, c) * (1 + 1e-6))))
    factor = 1 << halvings
    # Only the part under the crop is touched: its bounding box and two reduced pixels more, in whole reduced ones.
    corners = [(u, v) for u in (0, size - 1) for v in (0, size - 1)]
    xs, ys = [a * u + b * v + e for u, v in corners], [c * u + d * v + f for u, v in corners]
    x0, y0 = max(0, int(min(xs)) - 2 * factor), max(0, int(min(ys)) - 2 * factor)
    x1, y1 = min(width, int(max(xs)) + 3 * factor), min(height, int(max(ys)) + 3 * factor)
    columns, rows = (x1 - x0) // factor, (y1 - y0) // factor
    if columns > 0 and rows > 0:
        region = slice(y0, y0 + rows * factor), slice(x0, x0 + columns * factor)
        images = {name: image[region] for name, image in images.items()}
        # Original pixel x0 + k sits at (k + 0.5) / factor - 0.5 in the reduced part.
        half = 0.5 / factor - 0.5
        matrix = np.array(
            [[a / factor, b / factor, (e - x0) / factor + half], [c / factor, d / factor, (f - y0) / factor + half]]
        )
    else:
        halvings = 0
    if len(images) == 2:  # four channels are warped faster than three, and far faster than three and one
        joined = cv2.cvtColor(images["rgb"], cv2.COLOR_RGB2RGBA)
        cv2.insertChannel(images["thermal"], joined, 3)
    else:
        (joined,) = images.values()
    for left in reversed(range(halvings)):  # 2:1 has a fast path in OpenCV that 4:1 lacks
        joined = cv2.resize(joined, (columns << left, rows << left), interpolation=cv2.INTER_AREA)
    warped = cv2.warpAffine(joined, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    if len(images) == 1:
        return {name: warped.reshape(size, size, -1) for name in images}
    thermal = cv2.extractChannel(warped, 3).reshape(size, size, 1)
    return {"rgb": cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), "thermal": thermal}


def _uint8(image, name) -> np.ndarray:
    image = np.asarray(image)
    channels = 3 if name == "rgb" else 1
    if name == "thermal" and image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels or image.size == 0:
        raise InputError(f"The {name} image must be uint8 [H, W, {channels}], not {image.dtype} {image.shape}.")
    return image if channels == 3 else image[..., 0]


def _bytes(image) -> np.ndarray:
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=255.0)


def _floats(image) -> np.ndarray:
    # As one channel: OpenCV takes no more than four dimensions' worth of image, and one channel is fastest.
    return cv2.LUT(image.reshape(len(image), -1), _TO_FLOAT).reshape(image.shape)


def _table(values) -> np.ndarray:
    return (255.0 * values.clip(0.0, 1.0)).round().astype(np.uint8)


def _blur(image, u) -> np.ndarray:
    """Gaussian blur that grows with the crop: sigma is 0.4 to 1.0 pixels at 64 pixels, to 2.8 at 256."""
    sigma = 0.4 + 0.6 * u * max(1.0, len(image) / 64)
    width = 2 * max(1, round(2.0 * sigma)) + 1  # OpenCV's own choice, three sigma a side, takes twice as long
    return cv2.GaussianBlur(image, (width, width), sigma)


@functools.cache
def _bank() -> np.ndarray:
    """A million normal numbers as uint8, 128 + _SIGMA z, drawn once: fresh ones cost more than all the rest here."""
    return _noise_bytes(np.random.default_rng(0), 1 << 20)


def _noise_bytes(rng, count) -> np.ndarray:
    return (128.0 + _SIGMA * rng.standard_normal(count, dtype=np.float32)).round().clip(0, 255).astype(np.uint8)


def _noise(count, u) -> np.ndarray:
    """`count` numbers as those of the bank, a stretch of it chosen by u in [0, 1)."""
    bank = _bank()
    if count > len(bank) // 2:
        return _noise_bytes(np.random.default_rng(int(u * 2**53)), count)
    start = int(u * (len(bank) - count))
    return bank[start : start + count]


def _normal(count, u) -> np.ndarray:
    """`count` standard normal numbers, float32, of the same stretch."""
    return (_noise(count, u).astype(np.float32) - 128.0) / _SIGMA


def _add_noise(image, sigma, u) -> None:
    """Adds normal noise, sigma in units of the range, to an image of 8 bits, in place."""
    flat = image.reshape(-1)
    scale = 255.0 * sigma / _SIGMA
    cv2.addWeighted(flat, 1.0, _noise(flat.size, u), scale, -128.0 * scale, flat)
