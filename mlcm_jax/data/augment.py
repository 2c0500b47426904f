"""Crops and augmentation on the host: (example, rng) -> example, with numpy and OpenCV.

An example is a dict as `data.examples` yields it: `rgb` uint8 [H, W, 3], `thermal` [H, W] or [H, W, 1], or both,
aligned with each other; `landmarks` [K, 2] in pixels, `visible` bool [K], `box` (x, y, w, h) in pixels, and
optionally `known` and `weight` [K]. Geometric changes act on both modalities and the landmarks through one matrix;
photometric changes (`data.photometric`) act on each modality separately.

This code competes with training for the CPU, so it is written for speed: random numbers are drawn in one call, the
matrix is composed in plain floats, both modalities are warped as one image of four channels, and images stay uint8
until they are on the devices.
"""

import dataclasses
import math
from typing import Any

import cv2
import numpy as np

from mlcm_jax import landmarks
from mlcm_jax.data import photometric
from mlcm_jax.data.gain import gain as stretch
from mlcm_jax.data.gain import scene_gain
from mlcm_jax.errors import InputError

Example = dict[str, Any]
CHANNELS = {"rgb": 3, "thermal": 1}  # modality -> channels of its images
_VALUES = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)  # of thermal images; those of RGB are uint8


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of a crop; 0 disables each.

    Attributes:
        jitter: largest move of each side of the box, relative to the box's width or height; at most 0.49.
        rotation: largest rotation in degrees.
        scale: the square is scaled by a log-uniform factor between 1 / (1 + scale) and 1 + scale.
        shift: largest shift of the centre along each axis, relative to the square's side.
        flip: probability of a mirror image.
        invert: probability of inverting the thermal image (cold = bright), after its gain.
        photometric: strength of `photometric.rgb` and `photometric.thermal`.
        occlusion: probability of `occlude`.
    """

    jitter: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    flip: float = 0.0
    invert: float = 0.0
    photometric: float = 0.0
    occlusion: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether anything that `crop` changes is random."""
        return bool(self.jitter or self.rotation or self.scale or self.shift or self.flip or self.invert)


@dataclasses.dataclass(frozen=True)
class Crop:
    """The crop that a network sees.

    Attributes:
        size: side S of the crop in pixels.
        expand: side of the crop relative to the box's longer side.
        layout: the layout of the landmarks, or its name.
        gain: "box" stretches the thermal image by the box, after its sides have moved (`data.gain`); the image may then
            hold uint8, uint16 or float32 values in any unit. "scene" stretches it as a whole. "as_is" takes its 8 bits
            as they are.
    """

    size: int
    expand: float
    layout: str | landmarks.Layout
    gain: str = "as_is"


def crop(
    example: Example,
    spec: Crop,
    *,
    rng: np.random.Generator | None = None,
    augmentation: Augmentation = Augmentation(),
    floats: bool = True,
) -> Example:
    """Cuts a square around the box out of every modality and resizes it, optionally with random changes.

    The square is centred on the box, and its side is `spec.expand * max(w, h)`. So the crop keeps the aspect ratio, and
    may reach beyond the image, where it is 0. The random changes are applied in this order: the sides of the box move,
    the square rotates and is scaled, its centre moves, and it is mirrored. Each modality is warped once, with bilinear
    interpolation; if the crop shrinks the image by a factor of 2 or more, the image is first halved by area averaging
    until the warp itself shrinks it by less than 2.

    The landmarks of a mirrored crop are permuted by `layout.flip`, so that a network always sees the same order; its
    `to_image` includes the mirroring. Landmark i of the image is point `flip[i]` of the mirrored crop, so a prediction
    for a mirrored crop is mapped back by `pixels = to_image(prediction)[layout.flip]`.

    Args:
        example: see the top of this file.
        spec: size, place and gain of the crop.
        rng: source of random numbers, required if the crop is random.
        augmentation: only its geometric changes are made here; `occlude` and `data.photometric` make the others.
        floats: False keeps the images uint8, which is faster for further changes.

    Returns:
        A new dict: `rgb` float32 [S, S, 3] and / or `thermal` float32 [S, S, 1] in [0, 1] (see `floats`), `landmarks`
        float32 [K, 2] in u (may leave [0, 1]), `visible` bool [K], `box` float32 [4] unchanged, `to_image` float32
        [2, 3], crop pixels to original pixels. Other fields are copied, except `celsius`, which would not be aligned
        with the crop.

    Raises:
        InputError: images of the wrong type or of different sizes; landmarks with NaN or of the wrong number; a box
            that is empty, not finite or wholly outside the image.
    """
    size, layout = spec.size, landmarks.get(spec.layout)
    images = {name: _checked(example[name], name, spec.gain) for name in CHANNELS if name in example}
    shapes = {image.shape[:2] for image in images.values()}
    if len(shapes) != 1:
        sizes = " and ".join(f"{w}x{h}" for h, w in sorted(shapes))
        differ = f"The RGB and thermal images differ in size: {sizes}."
        raise InputError(differ if shapes else "The example has neither rgb nor thermal.")
    height, width = shapes.pop()
    points = landmarks.check(example["landmarks"], layout)
    x, y, w, h = box = landmarks.check_box(example["box"], "The box")
    landmarks.check_box_inside(box, width, height, "The box")

    mirrored = False
    left, top, right, bottom = x, y, x + w, y + h
    turn, grow, move_x, move_y = 0.0, 1.0, 0.0, 0.0
    if augmentation.moves:
        if rng is None:
            raise ValueError("a random crop needs rng")
        r = (2.0 * rng.random(9) - 1.0).tolist()
        jitter, shift = augmentation.jitter, augmentation.shift
        left, right = left + r[0] * jitter * w, right + r[1] * jitter * w
        top, bottom = top + r[2] * jitter * h, bottom + r[3] * jitter * h
        turn = math.radians(r[4] * augmentation.rotation)
        grow = math.exp(r[5] * math.log1p(augmentation.scale))
        move_x, move_y = r[6] * shift, r[7] * shift
        mirrored = (r[8] + 1.0) / 2.0 < augmentation.flip
    if spec.gain == "box" and "thermal" in images:
        images["thermal"] = stretch(images["thermal"], (left, top, right - left, bottom - top))
    if spec.gain == "scene" and "thermal" in images:
        images["thermal"] = scene_gain(images["thermal"])
    if augmentation.invert and "thermal" in images and rng.random() < augmentation.invert:
        images["thermal"] = 255 - images["thermal"]  # before the warp, so that what lies outside the image stays 0
    side = spec.expand * grow * max(right - left, bottom - top)
    center_x = (left + right) / 2 + move_x * side
    center_y = (top + bottom) / 2 + move_y * side

    # Crop pixel c -> original pixel p = R diag(±step, step) (c - middle) + centre. Pixel centres are integers in both.
    step = side / size
    middle = (size - 1) / 2
    cos, sin = step * math.cos(turn), step * math.sin(turn)
    sign = -1.0 if mirrored else 1.0
    a, b, c, d = sign * cos, -sin, sign * sin, cos
    e, f = center_x - (a + b) * middle, center_y - (c + d) * middle
    matrix = np.array([[a, b, e], [c, d, f]])

    out = {key: value for key, value in example.items() if key not in ("rgb", "thermal", "celsius")}
    out |= _warp(images, matrix, size)
    # The 2x2 part rotates, scales and perhaps mirrors, so its inverse is its transpose over step².
    inverse = np.array([[a, b], [c, d]]) / (step * step * size)
    out["landmarks"] = ((points - (e, f)) @ inverse + 0.5 / size).astype(np.float32)
    out["visible"] = np.asarray(example["visible"], dtype=bool)
    if out["visible"].shape != (layout.count,):
        raise InputError(
            f"Visibility has shape {out['visible'].shape}, but layout {layout.name} has {layout.count} points."
        )
    if mirrored:
        for name in {"landmarks", "visible", "known", "weight"} & out.keys():
            out[name] = out[name].take(layout.flip, axis=0)  # a quarter of the time of an index
    out["box"] = np.array(box, dtype=np.float32)
    out["to_image"] = matrix.astype(np.float32)
    return out | {name: photometric.to_floats(out[name]) for name in images} if floats else out


def to_crop(points: np.ndarray, box: np.ndarray, expand: float) -> np.ndarray:
    """Maps landmarks to where `crop` puts them without augmentation.

    Args:
        points: float [..., K, 2] in pixels.
        box: float [..., 4], x, y, w, h in pixels.
        expand: side of the square relative to the box's longer side.

    Returns:
        float [..., K, 2] in u: (point - centre of the box) / side + 1/2.
    """
    box = np.asarray(box, np.float64)
    side = expand * box[..., 2:].max(-1)[..., None, None]
    centre = (box[..., :2] + box[..., 2:] / 2)[..., None, :]
    return (points - centre) / side + 0.5


def occlude(
    example: Example,
    rng: np.random.Generator,
    *,
    p: float = 0.5,
    count: int = 2,
    smallest: float = 0.1,
    largest: float = 0.35,
) -> Example:
    """Covers random rectangles, at the same places in both modalities.

    A patch has one random colour in RGB and one random gray value in thermal, like a hand or a cup. `visible` is
    unchanged: the network should predict a covered landmark from the rest of the face.

    Args:
        example: as returned by `crop`.
        rng: source of random numbers.
        p: probability that anything is covered.
        count: the largest number of patches.
        smallest: shortest side of a patch, relative to the crop's side.
        largest: longest side of a patch, relative to the crop's side.

    Returns:
        A new dict; the images are copies where patches were drawn.
    """
    r = rng.random(2 + 8 * count).tolist()
    if r[0] >= p:
        return dict(example)
    names = [name for name in CHANNELS if name in example]
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


def _warp(images: dict[str, np.ndarray], matrix: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Warps images to uint8 [size, size, C]: crop pixel c takes the value at matrix @ (c, 1), 0 outside the image."""
    height, width = next(iter(images.values())).shape[:2]
    (a, b, e), (c, d, f) = matrix.tolist()
    halvings = int(math.log2(max(1.0, math.hypot(a, c) * (1 + 1e-6))))
    factor = 1 << halvings
    # Work only on the part of the image under the crop: its bounding box and a margin of two pixels of the reduced
    # image, in whole pixels of the reduced image.
    last = size - 1
    xs = e, a * last + e, b * last + e, a * last + b * last + e
    ys = f, c * last + f, d * last + f, c * last + d * last + f
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
    if len(images) == 2:  # one warp of four channels is faster than one of three, and far faster than two warps
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


def _checked(image: Any, name: str, gain: str) -> np.ndarray:
    image = np.asarray(image)
    channels = CHANNELS[name]
    if name == "thermal" and image.ndim == 2:
        image = image[..., None]
    types = _VALUES if name == "thermal" and gain != "as_is" else _VALUES[:1]
    if image.dtype not in types or image.ndim != 3 or image.shape[2] != channels or image.size == 0:
        needed = f"{' or '.join(map(str, types))} [H, W, {channels}]"
        raise InputError(f"The {name} image must be {needed}, not {image.dtype} {image.shape}.")
    return image if channels == 3 else image[..., 0]
