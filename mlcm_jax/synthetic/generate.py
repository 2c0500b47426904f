"""One pair of images from (seed, index): the entry point of the generator, and how a pair is stored.

`example` draws the random streams and calls, in this order, `scene` (person, pose, light), `raster` (what every pixel
shows, and the landmarks), `rgb` (uint8 image), `thermal` (°C before the lens) and `sensor` (°C and gray levels).
`workers` calls it to render whole datasets; a call with the same arguments makes a single pair again. `encode` and
`to_raw` turn its arrays into what the dataset stores; `to_celsius` reads temperatures back.

A pair does not depend on the process or on the pairs rendered before it. All random draws are reproducible; only the
last bits of floating-point sums may differ between numpy builds and numbers of BLAS threads.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from mlcm_jax import images
from mlcm_jax import landmarks as landmarks_lib
from mlcm_jax.errors import InputError
from mlcm_jax.synthetic import raster, rgb, scan_scene, scan_thermal, scene, sensor, thermal
from mlcm_jax.synthetic.gbuffer import Part, is_part
from mlcm_jax.synthetic.scan_head import ScanHeads

PAIRS_PER_SUBJECT = 4
_SKIN = (Part.SKIN, Part.LIP, Part.EYE, Part.EAR, Part.NECK)
MIN_SIDE, MAX_SIDE = 32, 1024
# Each part of an example draws from its own stream, so that a change in one does not reshuffle the others.
_SIZE, _SCENE, _RGB, _THERMAL, _SENSOR, _SHIFT = range(6)


def example(
    seed: int,
    index: int,
    *,
    size: int | tuple[int, int],
    pairs_per_subject: int = PAIRS_PER_SUBJECT,
    frontal: bool = False,
    well_lit: bool = False,
    heads: ScanHeads | None = None,
) -> dict[str, Any]:
    """Renders pair `index` of the set `seed`.

    The thermal image is the reference, to which `landmarks` and `box` belong. The RGB camera is slightly offset from
    the thermal one, so that `rgb_landmarks` differ by up to about 1.5 % of the box.

    Args:
        seed: number of the set.
        index: number of the pair; subject = index // pairs_per_subject.
        size: side S in pixels, or the inclusive range from which the pair draws its own.
        pairs_per_subject: number of consecutive pairs that show one person.
        frontal: whether to keep |yaw| below 20° and leave out hands and masks.
        well_lit: whether to keep the visible light bright; the thermal image does not depend on it.
        heads: the scan-based heads to render (`scan_head.load`), or None for the hand-made ones.

    Returns:
        rgb: uint8 [S, S, 3].
        thermal: uint8 [S, S], gray levels, hot = bright.
        celsius: float32 [S, S], °C as the thermal camera measures them.
        landmarks: float32 [68, 2], iBUG 68 in pixels of the thermal image; the jaw follows the visible outline.
        rgb_landmarks: float32 [68, 2], the same points in pixels of the RGB image.
        jaw3d: float32 [17, 2], the jaw as points fixed on the head, in pixels of the thermal image.
        visible: bool [68], see `gbuffer.Truth`.
        box: float32 [4], x, y, w, h around `landmarks`, in pixels.
        subject: int, number of the person.
        index: int, as given.
        pose: float32 [3], yaw, pitch, roll in degrees.
        light: float, visible light from 0 (nearly dark) to 1 (bright).

    Raises:
        InputError: if seed or index is negative, pairs_per_subject is below 1, or the size is outside 32 to 1024.
    """
    low, high = (size, size) if isinstance(size, int | np.integer) else size
    if not MIN_SIDE <= low <= high <= MAX_SIDE:
        raise InputError(
            f"size must be {MIN_SIDE} to {MAX_SIDE} pixels, or a range of them with the smaller first; got {size}."
        )
    if seed < 0 or index < 0 or pairs_per_subject < 1:
        raise InputError(
            f"seed and index must not be negative, and pairs_per_subject must be at least 1; got {seed}, {index} and "
            f"{pairs_per_subject}."
        )
    side = int(_rng(seed, index, _SIZE).integers(low, high + 1))
    draws = scene if heads is None else scan_scene
    subject = draws.sample_subject(seed, index // pairs_per_subject)
    view = draws.sample_scene(_rng(seed, index, _SCENE), subject, frontal=frontal, well_lit=well_lit)
    gbuffer, truth = raster.render_gbuffer(subject, view, side, heads=heads)

    image = rgb.shade_rgb(gbuffer, subject, view, _rng(seed, index, _RGB))
    heat = thermal.temperature if heads is None else scan_thermal.temperature
    before_lens = heat(gbuffer, subject, view, _rng(seed, index, _THERMAL))
    camera = _rng(seed, index, _SENSOR)
    if heads is None:
        celsius, gray = sensor.capture(before_lens, side, camera)
    else:
        celsius, gray = sensor.capture_face(before_lens, side, camera, is_part(gbuffer.part, *_SKIN))

    box = landmarks_lib.box_from_points(truth.landmarks)
    to_rgb = misregistration(_rng(seed, index, _SHIFT), box)
    image = cv2.warpAffine(image, to_rgb, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return {
        "rgb": image,
        "thermal": gray,
        "celsius": celsius,
        "landmarks": truth.landmarks,
        "rgb_landmarks": (truth.landmarks @ to_rgb[:, :2].T + to_rgb[:, 2]).astype(np.float32),
        "jaw3d": truth.jaw3d,
        "visible": truth.visible,
        "box": np.asarray(box, np.float32),
        "subject": index // pairs_per_subject,
        "index": index,
        "pose": truth.pose,
        "light": float(view.illumination),
    }


def _rng(seed: int, index: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, stream])


def misregistration(rng: np.random.Generator, box: np.ndarray) -> np.ndarray:
    """A random similarity that maps pixels of the thermal image to pixels of the RGB image, float64 [2, 3].

    It shifts by at most 1 % of sqrt(w h) of `box` (x, y, w, h), rotates by at most 0.4° about its centre, and scales by
    at most 0.4 %.
    """
    x, y, w, h = (float(v) for v in box)
    centre = np.array([x + w / 2.0, y + h / 2.0])
    reach = 0.01 * np.sqrt(w * h) * np.sqrt(rng.random())
    direction = rng.uniform(0.0, 2.0 * np.pi)
    angle, scale = np.deg2rad(rng.uniform(-0.4, 0.4)), 1.0 + rng.uniform(-0.004, 0.004)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = centre - turn @ centre + reach * np.array([np.cos(direction), np.sin(direction)])
    return np.concatenate([turn, offset[:, None]], axis=1)


# -------------------------------------------------------------------------------------------------------- storage


def to_raw(celsius: np.ndarray) -> np.ndarray:
    """°C -> uint16 in hundredths of a kelvin, round((°C + 273.15) * 100), as radiometric cameras store them."""
    return np.clip(np.round((celsius.astype(np.float64) + 273.15) * 100.0), 0, 65535).astype(np.uint16)


def to_celsius(raw: np.ndarray) -> np.ndarray:
    """Hundredths of a kelvin, uint16 -> float32 °C; the inverse of `to_raw` to 0.005 K."""
    return (raw.astype(np.float64) / 100.0 - 273.15).astype(np.float32)


def encode(pair: dict[str, Any]) -> dict[str, Any]:
    """The pair with its images as bytes: rgb JPEG (quality 95, 4:4:4), thermal PNG, celsius PNG of `to_raw`."""
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return pair | {
        "rgb": cv2.imencode(".jpg", pair["rgb"][..., ::-1], jpeg)[1].tobytes(),
        "thermal": images.png(pair["thermal"]),
        "celsius": images.png(to_raw(pair["celsius"])),
    }
