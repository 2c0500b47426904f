"""Turns the bytes of image files into pixels: .npy, PGM, TIFF, and whatever else Pillow reads."""

import io
import math
import struct
import warnings

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mlcm_jax import raw_images, tiff, vendors
from mlcm_jax.errors import InputError

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


def known(content: bytes) -> bool:
    """Whether a file starts like an image of a common format, whatever its name says."""
    return content.startswith((*tiff.MAGIC, _PNG, _JPEG))


def from_npy(content: bytes, name: str) -> np.ndarray:
    """Reads the array of an .npy file.

    Raises:
        InputError: a file that is damaged, incomplete, or an archive of arrays.
    """
    try:
        file = io.BytesIO(content)
        if content.startswith(b"\x93NUMPY"):
            version = np.lib.format.read_magic(file)
            header = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
            shape, _, dtype = header(file)
            if math.prod(shape) * dtype.itemsize > len(content):  # numpy would ask for all of the memory first
                raise ValueError(f"it lacks most of the {math.prod(shape):,} values of its shape {shape}")
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python, so that a damaged one raises errors of many types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"The image {name} is not a complete .npy file: {reason}.") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"The image {name} is an archive of arrays (.npz), not one array.")
    return array


def from_image(content: bytes, name: str) -> tuple[np.ndarray, str]:
    """Reads the first image of a file.

    Returns:
        (uint8, uint16 or another real type [H, W], or uint8 [H, W, 3] RGB; a note on what else the file holds, or "").

    Raises:
        InputError: a file that is damaged, incomplete, of an unknown format, or that has 16-bit colours.
    """
    if raw_images.is_pgm(content):
        return raw_images.read_pgm(content, name)
    found = tiff.read(content, name) if content.startswith(tiff.MAGIC) else tiff.Tiff(None, "", "")
    if found.array is not None:
        return found.array, found.more
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata; it raises what matters
            image = Image.open(io.BytesIO(content))
            _check_extent(image)
            deep = _deep_colours(image, content)
            white = _white(image)
            frames = 1 if image.format == "TIFF" else getattr(image, "n_frames", 1)
            image.load()  # Pillow, unlike OpenCV, refuses a truncated file instead of painting the rest gray
            counts = _deep_gray(image, content) if deep else None
            image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        if named := vendors.not_read(name):
            raise InputError(named) from None
        kind = f" that is read: it is TIFF of {found.kind}" if found.kind else ""
        raise InputError(f"The file {name} is not an image of a known format{kind}.") from None
    except Image.DecompressionBombError:
        raise InputError(f"The image {name} is too large to be a photograph.") from None
    # Decoders raise all sorts of errors for damaged files, such as struct.error, or SyntaxError for a broken PNG.
    except (
        OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, MemoryError, OverflowError,
        AttributeError, ZeroDivisionError, struct.error,
    ) as error:  # fmt: skip
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"The image {name} is damaged or incomplete: {reason}.") from None
    notes = [found.more, f"the file holds {frames} images, of which the first was read" if frames > 1 else ""]
    notes.append(vendors.unread(content, name))
    if deep and counts is None:
        raise InputError(
            f"The image {name} has 16 bits in each of several channels, half of which would be lost; save it as "
            "8-bit colours, or as one channel of 16 bits."
        )
    if deep:
        array = counts
        notes.append("the alpha channel was not read")
    else:
        array = _pixels(image, white, found.kind.startswith("uint32"))
        if image.mode in ("LA", "PA", "RGBA") and image.getchannel("A").getextrema() != (255, 255):
            notes.append("the alpha channel was not read")
    return array, "; ".join(note for note in notes if note)


def from_pillow(image: Image.Image) -> np.ndarray:
    """Returns the pixels of a loaded image of Pillow: uint8, uint16 or float32 [H, W], or uint8 [H, W, 3] RGB.

    An alpha channel is dropped. An image in 32-bit integers is taken for 16-bit counts if all fit.

    Raises:
        OSError: the image is read from its file only now, and the file is damaged.
    """
    return _pixels(image, _white(image))


def _check_extent(image: Image.Image) -> None:
    """Raises an error for an opened image that is larger than any thermal sensor, or than what its file holds of it.

    Pillow would allocate memory for the whole image, and leave pixels that no strip of a TIFF file covers without a
    value.
    """
    pixels = image.width * image.height
    if image.mode[0] in "IF" and pixels > tiff.LARGEST:
        raise Image.DecompressionBombError
    if image.format != "TIFF" or any(tile[0] == "libtiff" for tile in image.tile):  # which looks itself
        return
    planes = image.tag_v2.get(277, 1) if image.tag_v2.get(284) == 2 else 1  # whether channels are stored apart
    covered = (
        sum((right - left) * (low - high) for left, high, right, low in (tile[1] for tile in image.tile)) // planes
    )
    if covered < pixels:
        raise ValueError(f"its strips hold {covered:,} of its {pixels:,} pixels")


def _deep_colours(image: Image.Image, content: bytes) -> bool:
    """Whether an image has more than 8 bits in each of several channels, which Pillow would cut to 8."""
    if image.format == "PNG":
        return content[24] == 16 and content[25] != 0  # IHDR: bit depth, colour type (0: gray)
    if image.format == "PPM" and image.mode == "RGB":
        args = image.tile[0].args  # "RGB" for 8 bits, or else ("RGB", largest value)
        return isinstance(args, tuple) and args[-1] > 255
    bits = image.tag_v2.get(258, (8,)) if image.format == "TIFF" else (8,)
    return len(bits) > 1 and max(bits) > 8


def _deep_gray(image: Image.Image, content: bytes) -> np.ndarray | None:
    """The counts of a PNG of 16-bit gray with alpha, uint16 [H, W]; None for other images."""
    if image.format != "PNG" or content[25] != 4 or image.getexif().get(274, 1) != 1:
        return None
    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.shape != (image.height, image.width, 4):
        return None
    return np.ascontiguousarray(array[..., 0])


def _white(image: Image.Image) -> int:
    """The value of white if a TIFF image stores white as 0 (tag 262), which Pillow inverts in 8 bits only; else 0."""
    inverted = image.format == "TIFF" and image.tag_v2.get(262) == 0
    return (1 << image.tag_v2.get(258, (16,))[0]) - 1 if inverted else 0


def _pixels(image: Image.Image, white: int, unsigned: bool = False) -> np.ndarray:
    """The pixels of an image; `white` is that of `_white`, and `unsigned` says how 32-bit integers are stored."""
    mode = image.mode
    if mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        return white - values if white else values
    if mode == "I":  # older software stores 16-bit counts as 32-bit integers
        values = np.asarray(image).view(np.uint32) if unsigned else np.asarray(image)
        values = white - values.astype(np.int64) if white else values
        return values.astype(np.uint16) if values.min() >= 0 and values.max() <= 65535 else values.astype(np.float32)
    if mode == "F":
        return np.asarray(image)
    if mode in ("La", "RGBa"):  # colours multiplied by alpha
        image = image.convert("LA" if mode == "La" else "RGBA")
    elif mode == "P" and "transparency" in image.info:  # which Pillow would warn about
        image = image.convert("RGBA")
    return np.asarray(image.convert("L" if mode in ("1", "L", "LA", "La") else "RGB"))
