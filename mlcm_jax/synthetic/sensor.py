"""The thermal camera: blur, low resolution, noise, and the automatic gain that turns °C into 8-bit gray levels.

`generate` calls `capture` with the apparent temperatures of `thermal` (°C, render resolution); it draws a camera and
takes one image. Its steps are public so that each can be measured alone: `expose` (°C in, °C out) and `develop` (°C in,
gray levels out), which consists of `gain`, `tone` and `finish`.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from mlcm_jax.errors import InputError, did_you_mean

GLOBAL_GAINS = ("stretch", "span", "plateau")  # one monotone curve from °C to gray levels for the whole image
GAINS = (*GLOBAL_GAINS, "clahe")


@dataclasses.dataclass(frozen=True)
class Camera:
    """Optics and detector; blur in pixels of the detector, noise in kelvin.

    Attributes:
        native: detector pixels along the side of the image.
        blur: standard deviation of the optical blur.
        motion: length of the motion blur, symmetric so that nothing shifts; 0 for none.
        motion_angle: direction of the motion blur in degrees.
        netd: standard deviation of the temporal noise.
        stripes: standard deviation of the columns' offsets; that of the rows' is 40 % of it.
        mottle: standard deviation of the pixels' fixed offsets.
        shading: offset of the corners from the centre (narcissus and vignetting), of either sign.
        dead: share of pixels with large errors.
        step: quantisation of the temperature; 0 for none.
        resize: OpenCV interpolation that brings the image to its output size.
    """

    native: int
    blur: float = 0.5
    motion: float = 0.0
    motion_angle: float = 0.0
    netd: float = 0.05
    stripes: float = 0.0
    mottle: float = 0.0
    shading: float = 0.0
    dead: float = 0.0
    step: float = 0.0
    resize: int = cv2.INTER_CUBIC


@dataclasses.dataclass(frozen=True)
class Gain:
    """How °C become 8 bits.

    Attributes:
        kind: one of `GAINS`. "stretch" is linear between percentiles, "span" between fixed temperatures, "plateau"
            equalises a clipped histogram, and "clahe" does so by tiles; it is the only kind that does not apply one
            curve to all pixels.
        low: percentile ("span": °C) that becomes black.
        high: percentile ("span": °C) that becomes white.
        plateau: the clip limit, in multiples of a flat histogram ("plateau") or in OpenCV's unit ("clahe").
        curve: float32 [256], monotone tone curve from [0, 1] to [0, 1], sampled at 256 even points.
        sharpen: strength of the detail enhancement, 0 for none; its halos are not monotone in °C.
        sharpen_sigma: radius of the detail enhancement as a share of the image's side.
        jpeg: quality of the encoding, 1 to 100, or 0 for none.
        levels: number of gray levels, 2 to 256.
    """

    kind: str = "stretch"
    low: float = 0.0
    high: float = 100.0
    plateau: float = 3.0
    curve: np.ndarray = dataclasses.field(default_factory=lambda: np.linspace(0.0, 1.0, 256, dtype=np.float32))
    sharpen: float = 0.0
    sharpen_sigma: float = 0.02
    jpeg: int = 0
    levels: int = 256


def capture(before_lens: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One image by a random camera.

    Args:
        before_lens: float32 [R, R], apparent temperature in °C, R >= size.
        size: side of the output in pixels.
        rng: draws the camera, its noise and its gain.

    Returns:
        Temperatures in °C as the detector measures them, float32 [size, size], and gray levels, uint8 [size, size], hot
        = bright.

    Raises:
        InputError: if `before_lens` is not square or is smaller than the output.
    """
    celsius = expose(before_lens, size, sample_camera(rng, size), rng)
    return celsius, develop(celsius, sample_gain(rng, celsius))


def capture_face(
    before_lens: np.ndarray, size: int, rng: np.random.Generator, skin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One image by a random camera that mostly has many pixels on the face, and whose gain is mostly set on the skin.

    Args:
        before_lens: see `capture`.
        size: see `capture`.
        rng: see `capture`.
        skin: bool, of the shape of `before_lens`; where there is skin.

    Returns:
        See `capture`.
    """
    camera = sample_camera(rng, size)
    kind = rng.choice(["face", "any", "far"], p=[0.66, 0.24, 0.1])
    low, high = {"face": (90.0, 400.0), "any": (36.0, 480.0), "far": (40.0, 70.0)}[str(kind)]
    if kind != "any":
        native = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        camera = dataclasses.replace(camera, native=int(np.clip(native, 24, 2 * size)))
    celsius = expose(before_lens, size, camera, rng)
    settings = sample_gain(rng, celsius)
    seen = cv2.resize(skin.astype(np.uint8), (size, size), interpolation=cv2.INTER_AREA) > 0
    if rng.random() < 0.65 and seen.any():
        settings = _gain_on_skin(settings, rng, celsius, celsius[seen])
    return celsius, develop(celsius, settings)


def _gain_on_skin(settings: Gain, rng: np.random.Generator, celsius: np.ndarray, skin: np.ndarray) -> Gain:
    """A span whose upper end is near the warmest skin, and which puts the median of the skin at light gray.

    Args:
        settings: give everything but span and curve.
        rng: draws them.
        celsius: float32 [H, W], °C.
        skin: float32 [N], °C of the pixels with skin.

    Returns:
        The settings.
    """
    high = float(np.percentile(skin, rng.choice([97.0, 98.5, 99.5]))) + float(rng.uniform(-0.3, 0.4))
    middle, target = float(np.median(skin)), float(rng.uniform(0.55, 0.92))
    high = max(high, middle + 0.2)
    if rng.random() < 0.3:  # around the skin alone: hair, clothes and room are black
        low = min(high - (high - middle) / (1.0 - target), middle - 2.0)
        gamma = float(np.exp(rng.uniform(np.log(0.75), np.log(1.2))))
    else:  # the room is black; hair and clothes are gray
        low = float(np.percentile(celsius, rng.uniform(0.0, 12.0))) + float(rng.uniform(-1.0, 1.5))
        low = min(low, middle - 2.5)
        share = float(np.clip((middle - low) / (high - low), 0.05, 0.97))
        gamma = float(np.clip(np.log(target) / np.log(share), 0.6, 2.6))
    curve = (np.linspace(0.0, 1.0, 256) ** gamma).astype(np.float32)
    return dataclasses.replace(settings, kind="span", low=low, high=high, curve=curve)


def sample_camera(rng: np.random.Generator, size: int) -> Camera:
    """A random camera for images of `size` x `size` pixels that are mostly filled by a face."""
    # The image is a part of a detector of 80x60 to 640x480 pixels, 36 to 480 pixels wide.
    native = int(np.clip(np.exp(rng.uniform(np.log(36.0), np.log(480.0))), 24, 2 * size))
    noisy = rng.random() < 0.12
    return Camera(
        native=native,
        blur=float(rng.uniform(0.3, 0.8) if rng.random() < 0.85 else rng.uniform(0.8, 1.8)),
        motion=float(rng.uniform(1.0, 0.04 * native + 1.0)) if rng.random() < 0.15 else 0.0,
        motion_angle=float(rng.uniform(0.0, 180.0)),
        netd=float(rng.uniform(0.1, 0.35) if noisy else rng.uniform(0.03, 0.1)),
        stripes=float(abs(rng.normal(0.0, 0.06))) if rng.random() < 0.5 else 0.0,
        mottle=float(rng.uniform(0.0, 0.06)),
        shading=float(rng.normal(0.0, 0.4)) if rng.random() < 0.6 else 0.0,
        dead=float(rng.uniform(0.0, 0.001)) if rng.random() < 0.2 else 0.0,
        step=float(rng.choice([0.0, 0.01, 0.04, 0.1], p=[0.4, 0.3, 0.2, 0.1])),
        resize=int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST], p=[0.5, 0.45, 0.05])),
    )


def expose(before_lens: np.ndarray, size: int, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """What the detector measures behind the optics.

    Args:
        before_lens: float32 [R, R], apparent temperature in °C, R >= size.
        size: side of the output in pixels.
        camera: the optics and the detector.
        rng: draws the noise.

    Returns:
        float32 [size, size], °C.

    Raises:
        InputError: if `before_lens` is not square or is smaller than the output.
    """
    if before_lens.ndim != 2 or before_lens.shape[0] != before_lens.shape[1] or before_lens.shape[0] < size:
        shape = before_lens.shape
        raise InputError(f"The temperatures must be a square of at least {size} x {size} pixels, got shape {shape}.")
    native = min(camera.native, before_lens.shape[0])
    pitch = before_lens.shape[0] / native  # rendered pixels per detector pixel
    blurred = cv2.GaussianBlur(before_lens, (0, 0), max(camera.blur * pitch, 0.1), borderType=cv2.BORDER_REFLECT)
    if camera.motion > 0.0:
        kernel = _line(camera.motion * pitch, camera.motion_angle)
        blurred = cv2.filter2D(blurred, -1, kernel, borderType=cv2.BORDER_REFLECT)
    detector = cv2.resize(blurred, (native, native), interpolation=cv2.INTER_AREA)
    detector += _noise(native, camera, rng)
    if camera.dead > 0.0:
        stuck = rng.random((native, native)) < camera.dead
        detector[stuck] += rng.normal(0.0, 4.0, int(stuck.sum())).astype(np.float32)
    if camera.step > 0.0:
        detector = np.round(detector / np.float32(camera.step)) * np.float32(camera.step)
    resize = cv2.INTER_AREA if native > size else camera.resize
    return detector if native == size else cv2.resize(detector, (size, size), interpolation=resize)


def _line(length: float, angle: float) -> np.ndarray:
    """The kernel of a straight motion: centred, of odd side, with the sum 1."""
    side = 2 * int(np.ceil(length / 2.0)) + 1
    middle = side // 2
    reach = length / 2.0 * np.asarray([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
    canvas = np.zeros((side, side), np.float32)
    ends = np.round((np.stack([-reach, reach]) + middle) * 256).astype(int)
    cv2.line(canvas, tuple(map(int, ends[0])), tuple(map(int, ends[1])), 1.0, 1, cv2.LINE_8, 8)
    canvas += canvas[::-1, ::-1]  # the raster of a line is not symmetric, and a lopsided kernel would move the image
    return canvas / canvas.sum()


def _noise(native: int, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Temporal and fixed-pattern noise of the detector, float32 [native, native] in kelvin."""
    random = rng.standard_normal((native, native), np.float32)
    noise = random * np.float32(np.hypot(camera.netd, camera.mottle))  # one image cannot tell the two apart
    if camera.stripes > 0.0:
        noise += rng.standard_normal((1, native), np.float32) * np.float32(camera.stripes)
        noise += rng.standard_normal((native, 1), np.float32) * np.float32(0.4 * camera.stripes)
    if camera.shading != 0.0:
        axis = np.linspace(-1.0, 1.0, native, dtype=np.float32)
        noise += np.float32(camera.shading / 2.0) * (axis[:, None] ** 2 + axis[None] ** 2)
    return noise


# ---------------------------------------------------------------------------------------------------------- 8 bits


def sample_gain(rng: np.random.Generator, celsius: np.ndarray) -> Gain:
    """A random automatic gain; a "span" ends near the warmest temperatures in view, as an operator would set it."""
    kind = str(rng.choice(GAINS, p=[0.4, 0.2, 0.3, 0.1]))
    low, high = float(rng.choice([0.0, 0.5, 2.0, 5.0])), float(rng.choice([100.0, 99.8, 99.0, 97.0]))
    if kind == "span":
        warm = float(np.percentile(celsius, 97.0))
        high = warm + float(rng.uniform(-0.3, 3.0))
        low = high - float(rng.uniform(5.0, 18.0))
    return Gain(
        kind=kind,
        low=low,
        high=high,
        plateau=float(rng.uniform(1.5, 6.0)),
        curve=sample_curve(rng),
        sharpen=float(rng.uniform(0.3, 1.6)) if rng.random() < 0.3 else 0.0,
        sharpen_sigma=float(rng.uniform(0.006, 0.03)),
        jpeg=int(rng.integers(35, 96)) if rng.random() < 0.25 else 0,
        levels=int(rng.choice([256, 64, 32], p=[0.9, 0.07, 0.03])),
    )


def sample_curve(rng: np.random.Generator) -> np.ndarray:
    """A random monotone tone curve, float32 [256] in [0, 1]: identity, gamma, sigmoid or knots, with clipped ends.

    Published gray images are seldom linear in temperature, because palettes, displays and editors change them.
    """
    x = np.linspace(0.0, 1.0, 256)
    kind = rng.choice(["identity", "gamma", "sigmoid", "knots"], p=[0.25, 0.25, 0.2, 0.3])
    if kind == "gamma":
        x = x ** float(np.exp(rng.uniform(np.log(0.6), np.log(2.6))))
    elif kind == "sigmoid":
        slope, middle = float(rng.uniform(3.0, 9.0)), float(rng.uniform(0.45, 0.9))
        x = 1.0 / (1.0 + np.exp(-slope * (x - middle)))
    elif kind == "knots":
        steps = rng.gamma(1.5, 1.0, 6) + 0.05
        x = np.interp(x, np.linspace(0.0, 1.0, 7), np.concatenate([[0.0], np.cumsum(steps) / steps.sum()]))
        kernel = np.hanning(63) / np.hanning(63).sum()
        x = np.convolve(np.pad(x, 31, mode="edge"), kernel, mode="valid")  # rounds the corners, stays monotone
    x = (x - x[0]) / (x[-1] - x[0])
    if rng.random() < 0.25:
        x = np.minimum(x / float(rng.uniform(0.88, 0.99)), 1.0)  # the white end saturates
    if rng.random() < 0.15:
        x = np.clip((x - 0.12 * rng.random()) / 0.88, 0.0, 1.0)  # and, less often, the black end
    if rng.random() < 0.15:
        x = float(rng.uniform(0.0, 0.25)) + x * float(rng.uniform(0.55, 0.75))  # a pale print
    return x.astype(np.float32)


def develop(celsius: np.ndarray, settings: Gain) -> np.ndarray:
    """Gain, tone curve, sharpening and storage: float32 [H, W] in °C -> gray levels uint8 [H, W]."""
    return finish(tone(gain(celsius, settings), settings), settings)


def gain(celsius: np.ndarray, settings: Gain) -> np.ndarray:
    """The automatic gain alone.

    Args:
        celsius: float32 [H, W], °C.
        settings: `kind`, `low`, `high` and `plateau` of them are used.

    Returns:
        float32 [H, W] in [0, 1].

    Raises:
        InputError: if the kind is unknown.
    """
    if settings.kind not in GAINS:
        raise InputError(f"Unknown gain {settings.kind!r}; {did_you_mean(settings.kind, GAINS)}")
    low, high = settings.low, settings.high
    if settings.kind != "span":
        low, high = (float(v) for v in np.percentile(celsius, [low, high]))
    scaled = np.clip((celsius - np.float32(low)) * np.float32(1.0 / max(high - low, 0.2)), 0.0, 1.0)
    if settings.kind == "plateau":
        histogram = np.histogram(scaled, 256, (0.0, 1.0))[0].astype(np.float64)
        limit = max(1.0, settings.plateau * scaled.size / 256.0)
        heights = np.minimum(histogram, limit) + 0.15 * scaled.size / 256.0  # the floor keeps empty bins increasing
        cumulated = np.concatenate([[0.0], np.cumsum(heights)])
        scaled = np.interp(scaled, np.linspace(0.0, 1.0, 257), cumulated / cumulated[-1]).astype(np.float32)
    elif settings.kind == "clahe":
        equaliser = cv2.createCLAHE(clipLimit=settings.plateau, tileGridSize=(4, 4))
        scaled = equaliser.apply(np.round(scaled * 65535.0).astype(np.uint16)).astype(np.float32) / np.float32(65535.0)
    return scaled


def tone(scaled: np.ndarray, settings: Gain) -> np.ndarray:
    """Applies the tone curve to float32 [H, W] in [0, 1]."""
    return np.interp(scaled, np.linspace(0.0, 1.0, 256), settings.curve).astype(np.float32)


def finish(toned: np.ndarray, settings: Gain) -> np.ndarray:
    """Sharpening with halos (digital detail enhancement), quantisation and JPEG: float32 [H, W] -> uint8 [H, W]."""
    if settings.sharpen > 0.0:
        sigma = max(0.6, settings.sharpen_sigma * toned.shape[0])
        toned = toned + np.float32(settings.sharpen) * (toned - cv2.GaussianBlur(toned, (0, 0), sigma))
    top = settings.levels - 1
    gray = np.round(np.clip(toned, 0.0, 1.0) * top) * (255.0 / top)
    gray = np.round(gray).astype(np.uint8)
    if settings.jpeg:
        gray = cv2.imdecode(cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg])[1], 0)
    return gray
