"""Image files: reads them, converts them to 8-bit gray or RGB, and writes PNG. Builders and users' images share this.

Thermal images come as 8-bit gray, as raw 16-bit counts, as °C in floats, and, most often on the web, coloured by a
palette. A note says in one sentence how the values were changed.
"""

import dataclasses
import functools
import io

import cv2
import numpy as np
from etils import epath
from PIL import ExifTags, Image, ImageOps

from mlcm_jax import csv_images, decoding, flir, raw_images
from mlcm_jax.errors import InputError
from mlcm_jax.files import read_bytes
from mlcm_jax.holes import filled

# What is taken for an image in a folder, in small letters. CSV files there may be labels, so patterns must name them.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".npy", ".raw", ".fff", ".seq", ".csq")


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFile:
    """An image as it is stored on disk.

    Attributes:
        array: [H, W] of uint8, uint16 or float32 (°C, or any unit), or uint8 [H, W, 3] RGB.
        kind: "gray8", "gray16", "float" or "colour".
        name: the file's path, for messages.
        more: a sentence about how the values were made, or what else the file holds that was not read, or "".
        unit: the unit of the values that the file states, as the option --celsius has it (`units.parse`), or "".
        display: the picture that a radiometric file shows, uint8 [h, w] or [h, w, 3]; None for other files.
    """

    array: np.ndarray
    kind: str
    name: str
    more: str = ""
    unit: str = ""
    display: np.ndarray | None = None


def read(path: epath.PathLike) -> ImageFile:
    """Reads an image file of any kind; docs/files.md lists them.

    PNG, JPEG, TIFF, BMP, WebP and PGM files may hold 8-bit gray or colours, or 16-bit gray; TIFF files may hold gray
    in any type. A colour image whose three channels are equal is read as gray. An alpha channel is dropped, and the
    orientation of EXIF and TIFF is applied. An .npy file may hold real numbers of any type, [H, W] or [H, W, 1], or
    uint8 [H, W, 3]. Tables of numbers (`csv_images`) and raw files (`raw_images`) are known by their endings.

    The radiometric JPEG, FFF, SEQ and CSQ files of FLIR give °C (`flir`), with as many pixels as the picture of a JPEG
    if that has the same shape: boxes and landmarks lie where the picture shows them.

    Raises:
        InputError: a file that is missing, empty, truncated, or not an image.
    """
    name = str(path)
    content = read_bytes(path, "image")
    ending = name.lower()
    if not content:
        raise InputError(f"The image {name} is empty.")
    if ending.endswith(".npy"):
        return from_array(decoding.from_npy(content, name), name)
    if content.startswith(flir.MAGIC):
        try:
            values, note, unit = _flir(content)
        except InputError as error:
            raise InputError(f"The image {name} cannot be read: {error}") from None
        count = len(flir.split(content))
        note += f"; the file holds {count} frames, of which the first was read" if count > 1 else ""
        return dataclasses.replace(from_array(values, name), more=note, unit=unit)
    if ending.endswith(csv_images.SUFFIXES) or (ending.endswith(raw_images.SUFFIXES) and not decoding.known(content)):
        reader = csv_images.read if ending.endswith(csv_images.SUFFIXES) else raw_images.read_raw
        array, note, unit = reader(content, name)
        return dataclasses.replace(from_array(array, name), more=note, unit=unit)
    array, note = decoding.from_image(content, name)
    shown = dataclasses.replace(from_array(array, name), more=note)
    try:
        data = flir.find(content)
        return _radiometric(data, shown, _orientation(content)) if data else shown
    except InputError as error:
        lost = f"FLIR's temperatures in the file could not be read, only the picture that it shows ({error})"
        return dataclasses.replace(shown, more="; ".join(one for one in (lost, note) if one))


def _orientation(content: bytes) -> int:
    """Returns the EXIF orientation of an image that Pillow can read."""
    with Image.open(io.BytesIO(content)) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1)


def _radiometric(data: bytes, shown: ImageFile, orientation: int) -> ImageFile:
    """Reads the temperatures of FLIR's data, and turns and resizes them to fit the picture."""
    values, note, unit = _flir(data)
    turned = Image.fromarray(values.astype(np.float32))
    turned.getexif()[ExifTags.Base.Orientation] = orientation
    celsius = np.asarray(ImageOps.exif_transpose(turned))
    (height, width), (high, wide) = celsius.shape, shown.array.shape[:2]
    if (height, width) != (high, wide):
        if abs(width * high / (wide * height) - 1) < 0.02:
            shrinks = wide < width
            celsius = cv2.resize(celsius, (wide, high), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
            note += f"; {width} x {height} values were resized to the picture's {wide} x {high} pixels"
        else:
            note += f"; they are {width} x {height}, and of another shape than the picture of {wide} x {high} pixels"
    note = "; ".join(one for one in (note, shown.more) if one)
    file = from_array(celsius if unit else celsius.round().astype(np.uint16), shown.name)
    return dataclasses.replace(file, more=note, unit=unit, display=shown.array)


def _flir(data: bytes) -> tuple[np.ndarray, str, str]:
    """Returns °C, or the counts of a file without constants; a sentence about them; and the unit."""
    try:
        return *flir.celsius(data), "celsius"
    except flir.NoConstantsError:
        return *flir.counts(data), ""


def from_array(array: np.ndarray, name: str) -> ImageFile:
    """Finds the kind of an image that is in memory.

    Integers of any type are taken for 16-bit counts if all lie between 0 and 65535 and some above 255: much software
    stores counts in 32 or 64 bits, or with the bytes swapped. Other types become float32.

    Args:
        array: real numbers of any type, [H, W] or [H, W, 1], or uint8 [H, W, 3] RGB.
        name: names the image in messages.

    Raises:
        InputError: an array of another shape or type, or without pixels.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0:
        raise InputError(f"The image {name} has no pixels: its shape is {array.shape}.")
    if array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8:
        if _is_gray(array):
            return ImageFile(np.ascontiguousarray(array[..., 1]), "gray8", name)
        return ImageFile(np.ascontiguousarray(array), "colour", name)
    if array.ndim != 2 or array.dtype.kind not in "uif":
        raise InputError(f"The image {name} is {array.dtype} {array.shape}; gray [H, W] or uint8 [H, W, 3] is needed.")
    if array.dtype == np.uint8:
        return ImageFile(array, "gray8", name)
    if array.dtype == np.uint16 or (array.dtype.kind in "ui" and array.min() >= 0 and 255 < array.max() <= 65535):
        return ImageFile(array.astype(np.uint16, copy=False), "gray16", name)
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is treated as such
        return ImageFile(array.astype(np.float32, copy=False), "float", name)


def to_gray8(image: ImageFile) -> tuple[np.ndarray, str]:
    """Converts an image for a thermal model.

    A gray8 image is unchanged; gray16 and float images get automatic gain (`gain8`). If a known thermal palette fits
    the pixels of a colour image (median distance of at most 8 of 255, and 90 % of them within 30), the palette is
    inverted, so that the position along it is the gray value. Other colour images become their luminance, which still
    rises with temperature for the iron-like palettes of most cameras.

    Returns:
        (uint8 [H, W], a note on what was done, or "").
    """
    if image.kind == "gray8":
        return image.array, ""
    if image.kind in ("gray16", "float"):
        gray, low, high = gain8(image.array, image.name)
        return gray, f"values from {low:.5g} to {high:.5g} were stretched to 8 bits"
    palette, distance = fit_palette(image.array)
    if palette:
        return invert_palette(image.array, palettes()[palette]), (
            f"colours follow the palette {palette!r} (median distance {distance:.1f} of 255), which was inverted"
        )
    luminance = cv2.cvtColor(image.array, cv2.COLOR_RGB2GRAY)
    return luminance, (
        f"colours follow no known thermal palette closely (median distance {distance:.1f} of 255 from the nearest), so "
        "their luminance was used"
    )


def to_rgb8(image: ImageFile) -> tuple[np.ndarray, str]:
    """Converts an image for an RGB model: (uint8 [H, W, 3], note). Gray, after gain if needed, is repeated."""
    if image.kind == "colour":
        return image.array, ""
    gray, note = to_gray8(image)
    note = "; ".join(part for part in (note, "gray was repeated to three channels") if part)
    return np.repeat(gray[..., None], 3, axis=2), note


def gain8(values: np.ndarray, name: str = "image") -> tuple[np.ndarray, float, float]:
    """Applies automatic gain: maps percentiles 0.5 and 99.5 of the finite values linearly to 0 and 255, and clips.

    Pixels that are not finite take the gray level of the nearest one that is; an image of one value becomes 128.

    Returns:
        (uint8 [H, W], the value mapped to 0, the value mapped to 255).

    Raises:
        InputError: no finite value at all.
    """
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise InputError(f"The image {name} holds no finite value.")
    low, high = np.percentile(values[finite], (0.5, 99.5)).tolist()
    if not high > low:  # a few hot pixels on a uniform background are still an image
        low, high = float(values[finite].min()), float(values[finite].max())
    if high > low:
        gray = np.clip((np.where(finite, values, low) - low) * (255.0 / (high - low)), 0.0, 255.0).round()
    else:
        gray = np.full(values.shape, 128.0)
    return filled(gray.astype(np.uint8), ~finite), low, high


# FLIR's "iron" palette, cold to hot in equal steps, read off published figures of SpeakingFaces (MIT licence).
_IRON = (
    (0, 14, 38), (4, 4, 85), (36, 0, 121), (75, 0, 150), (121, 0, 166), (166, 11, 158), (199, 33, 131), (222, 57, 96),
    (240, 85, 60), (253, 117, 26), (255, 157, 1), (255, 202, 11), (255, 227, 52), (254, 240, 98), (251, 248, 146),
    (247, 253, 194), (245, 255, 245),
)  # fmt: skip
# The same after the lossy scaling of printed figures, which washes out the dark end (their figure of nine positions).
_IRON_PRINTED = (
    (3, 12, 64), (26, 12, 97), (53, 17, 127), (90, 22, 144), (129, 26, 153), (166, 33, 137), (195, 44, 111),
    (217, 61, 82), (236, 87, 56), (249, 118, 40), (252, 159, 39), (253, 199, 46), (253, 227, 75), (251, 240,
    114), (248, 248, 154), (245, 252, 194), (242, 255, 235),
)  # fmt: skip
# The older ironbow of handheld cameras: from black through violet and orange to white.
_IRONBOW = (
    (0, 0, 10), (0, 0, 30), (38, 0, 112), (110, 0, 155), (172, 0, 150), (214, 40, 80), (240, 95, 10), (252, 160, 0),
    (255, 215, 60), (255, 255, 240),
)  # fmt: skip


# Matplotlib's, from cold to hot; those that end with _r are usually shown with blue for cold.
_PALETTES = """
inferno magma plasma viridis cividis jet turbo hot rainbow nipy_spectral gist_heat afmhot copper pink gnuplot
gnuplot2 CMRmap cubehelix gist_ncar gist_rainbow_r terrain cool winter autumn summer spring Wistia coolwarm bwr seismic
RdBu_r RdYlBu_r RdYlGn_r Spectral_r PiYG PRGn BrBG PuOr_r Blues Greens Oranges Reds Purples YlOrBr YlOrRd OrRd PuRd
RdPu BuPu GnBu PuBu YlGnBu PuBuGn BuGn YlGn
"""


@functools.cache
def palettes() -> dict[str, np.ndarray]:
    """Returns the known thermal palettes by name: float32 [256, 3], RGB from 0 to 255, from cold to hot.

    A reversed palette has the same colours, so it is not known apart; the option --polarity tells them.
    """
    import matplotlib  # A training, whose images have no palette, need not wait half a second for it.

    ramp = np.arange(256, dtype=np.uint8)[:, None]
    found = {}
    for name in _PALETTES.split():
        found[name] = 255 * matplotlib.colormaps[name](np.arange(256))[:, :3]
    for name in ("RAINBOW", "HOT", "JET", "OCEAN", "PARULA"):  # those that differ from matplotlib's
        found[f"opencv {name.lower()}"] = cv2.applyColorMap(ramp, getattr(cv2, f"COLORMAP_{name}"))[:, 0, ::-1]
    for name, knots in (("iron", _IRON), ("printed iron", _IRON_PRINTED), ("ironbow", _IRONBOW)):
        knots = np.array(knots, np.float64)
        places = np.linspace(0, len(knots) - 1, 256)
        found[name] = np.stack([np.interp(places, np.arange(len(knots)), knots[:, c]) for c in range(3)], axis=1)
    return {name: np.ascontiguousarray(colours, np.float32) for name, colours in found.items()}


def fit_palette(image: np.ndarray) -> tuple[str, float]:
    """Finds the palette nearest to an image's colours and its median distance; "" if none is near enough.

    One pixel in ten may be far from the palette, because cameras print numbers and scales into their images.

    Args:
        image: uint8 [H, W, 3] RGB. Only every n-th pixel is compared, so that there are about 4,096 to 8,192 of them.
    """
    flat, known = image.reshape(-1, 3), palettes()
    sample = flat[:: max(1, len(flat) // 4096)].astype(np.float32)
    few = sample[:: max(1, len(sample) // 512)]
    rough = {name: float(np.sqrt(_nearest(few, colours)[1]).mean()) for name, colours in known.items()}
    likely = sorted(rough, key=rough.__getitem__)[:6]
    distances = {name: np.sqrt(_nearest(sample, known[name])[1]) for name in likely}
    best = min(distances, key=lambda name: distances[name].mean())
    median, most = np.percentile(distances[best], (50, 90)).tolist()
    return (best, median) if median <= 8 and most <= 30 else ("", median)


def png(image: np.ndarray) -> bytes:
    """Encodes an image as PNG for ArrayRecord files: filtered row by row (UP), but not deflated.

    The record's own compression (zstd) then makes it smaller than deflate would, and it is read three times as fast as
    an ordinary PNG (benchmarks/RESULTS.md, the loader).

    Args:
        image: uint8 or uint16 [H, W], or uint8 [H, W, 3] RGB.
    """
    flags = [cv2.IMWRITE_PNG_COMPRESSION, 0, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image, flags)[1].tobytes()


def _nearest(colours: np.ndarray, palette: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest palette entry of each colour [N, 3], and the squared distance."""
    squares = (palette**2).sum(1)[None] - 2 * colours @ palette.T
    index = squares.argmin(1)
    return index, np.maximum(squares[np.arange(len(index)), index] + (colours**2).sum(1), 0)


def invert_palette(image: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Converts colours to their positions in a palette, stretched to the range 0 to 255.

    Args:
        image: uint8 [H, W, 3] RGB.
        palette: [N, 3] RGB from 0 to 255, from cold to hot, N <= 256.

    Returns:
        uint8 [H, W].
    """
    palette = np.asarray(palette, np.float32)
    packed = np.left_shift(image[..., 0], 16, dtype=np.int32)
    packed |= np.left_shift(image[..., 1], 8, dtype=np.int32)
    packed |= image[..., 2]
    levels = np.zeros(1 << 24, np.uint8)  # by colour: ten times as fast as sorting the colours of a large image
    levels[packed] = 1
    for part in np.array_split(np.flatnonzero(levels), 256):  # in parts, for the sake of memory
        colours = np.stack([part >> 16, part >> 8 & 255, part & 255], axis=1).astype(np.float32)
        levels[part] = (_nearest(colours, palette)[0] * (255.0 / (len(palette) - 1))).round()
    return levels[packed]


def _is_gray(image: np.ndarray) -> bool:
    """Whether the three channels are equal, apart from JPEG artefacts."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return np.count_nonzero(spread > 6) <= 0.01 * spread.size
