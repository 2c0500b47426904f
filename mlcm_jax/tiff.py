"""TIFF and BigTIFF: gray images of any type, and what else a file holds. Pillow reads all other TIFF images."""

import contextlib
import io
import logging
import math
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mlcm_jax.errors import InputError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LARGEST = 1 << 26  # pixels that are decoded; no thermal sensor has more
_MOST = 10_000  # images that are counted in a file
_NONE, _DEFLATE = 1, (8, 32946)  # compressions; Pillow's libtiff reads the others
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = 0, 1, 2, 3


class Tiff(NamedTuple):
    """What a TIFF file holds.

    Attributes:
        array: the first image, [H, W] of the stored type, or uint8 [H, W, 3]; None if Pillow has to read it.
        more: what was done, or is in the file and was not read; or "".
        kind: describes how the first image is stored, for messages; "" if that is unknown.
    """

    array: np.ndarray | None
    more: str
    kind: str


def read(content: bytes, name: str) -> Tiff:
    """Reads the first image of a TIFF file, if it is gray or has a palette, and has 8 bits or more.

    Orientation is applied. Integers in which white is 0 are inverted, at any depth. Floats in which it is keep their
    values, because they are measured quantities that have no white.

    An image that is compressed in a way other than Deflate is left to Pillow, and so is one that is damaged.

    Raises:
        InputError: the file ends before the end of the first image.
    """
    import tifffile  # takes a fifth of a second, and most images are no TIFF

    count = _count(content)
    try:
        with _quiet(), tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages.first
            channels = "" if page.samplesperpixel == 1 else f" with {page.samplesperpixel} channels"
            compression = getattr(page.compression, "name", page.compression)
            kind = f"{page.dtype}{channels}, compression {compression}"
            stack = re.search(r"^images=(\d{1,9})\s*$", page.description, re.MULTILINE) if page.is_imagej else None
            count = max(count, int(stack[1]) if stack else 1)
            cut = _cut_off(page, content)
            array, done = (None, "") if cut else _decode(page, content)
            if page.photometric == _WHITE_IS_ZERO and page.dtype is not None and page.dtype.kind == "f":
                done += "; " * bool(done) + "the file says that 0 is white, which does not change values in floats"
            notes = [done, _told(count, len(page.subifds or ()))]
    except Exception:  # tifffile raises errors of almost any type for damaged files; Pillow then says what is wrong
        return Tiff(None, _told(count, 0), "")
    if cut:
        raise InputError(f"The image {name} is damaged or incomplete: its file ends before the image does.")
    return Tiff(array, "; ".join(note for note in notes if note), kind)


def _told(count: int, inner: int) -> str:
    """Says what a file holds beside its first image."""
    many = f"at least {_MOST:,}" if count == _MOST else f"{count:,}"
    notes = [f"the file holds {many} images, of which the first was read"] if count > 1 else []
    small = "1 smaller image" if inner == 1 else f"{inner} smaller images"
    notes += [f"it has {small} inside the first, not read"] if inner else []
    return "; ".join(notes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps tifffile from logging what is odd about a file."""
    logger = logging.getLogger("tifffile")
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was


def _count(content: bytes) -> int:
    """Counts the images of a file, up to `_MOST`, without reading them."""
    order = "<" if content.startswith(b"II") else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    number, pointer, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
    seen: set[int] = set()
    try:
        (place,) = struct.unpack_from(order + pointer, content, 8 if big else 4)
        while place and place not in seen and len(seen) < _MOST:
            (entries,) = struct.unpack_from(order + number, content, place)
            seen.add(place)
            (place,) = struct.unpack_from(order + pointer, content, place + struct.calcsize(number) + entry * entries)
    except (struct.error, OverflowError):  # the rest is cut off
        pass
    return len(seen)


def _decode(page: Any, content: bytes) -> tuple[np.ndarray | None, str]:
    """Returns the pixels of a page, and what was done with them; None for what Pillow should read."""
    gray, palette = page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO), page.photometric == _PALETTE
    # Pillow reads no big-endian BigTIFF.
    colours = content.startswith(b"MM\0+") and page.photometric == _RGB and page.dtype == np.uint8
    colours = colours and page.samplesperpixel in (3, 4)
    if not (gray or palette or colours) or page.dtype is None or page.dtype.kind not in "uif":
        return None, ""
    if page.bitspersample != 8 * page.dtype.itemsize:
        return None, ""
    if page.imagedepth != 1 or not _whole(page, content):
        return None, ""
    array = page.asarray(squeeze=False, maxworkers=1).reshape(page.shaped)
    tag = page.tags.get(274)
    orientation = tag.value if tag else 1
    if colours:
        planes = array[0, 0] if len(array) == 1 else array[:, 0, :, :, 0].transpose(1, 2, 0)
        alpha = "the alpha channel was not read" if page.samplesperpixel == 4 else ""
        return _turned(planes[..., :3], orientation), alpha
    array = array[0, 0, :, :, 0]
    notes = [] if page.samplesperpixel == 1 else [f"of {page.samplesperpixel} channels, only the first was read"]
    if palette:
        array = (page.colormap[:, array] >> 8).astype(np.uint8).transpose(1, 2, 0)
    elif page.photometric == _WHITE_IS_ZERO and page.dtype.kind != "f":
        array = np.iinfo(array.dtype).max - array if page.dtype.kind == "u" else -1 - array
    return _turned(array, orientation), "; ".join(notes)


def as_shown(page: Any, array: np.ndarray) -> np.ndarray:
    """What tifffile reads of a page of a stack, as `read` has it: white is large, palettes are colours, no alpha.

    Args:
        page: the page.
        array: its pixels, of the shape `page.shape`.
    """
    if page.photometric == _WHITE_IS_ZERO and array.dtype.kind != "f":
        array = np.array((1 << page.bitspersample) - 1, array.dtype) - array if array.dtype.kind == "u" else -1 - array
    elif page.photometric == _PALETTE:
        array = (page.colormap[:, array] >> 8).astype(np.uint8).transpose(1, 2, 0)
    elif page.photometric == _RGB and page.samplesperpixel in (3, 4) and array.ndim == 3:
        array = (array if page.planarconfig == 1 else array.transpose(1, 2, 0))[..., :3]
    tag = page.tags.get(274)
    return _turned(array, tag.value if tag else 1)


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an orientation of TIFF: which sides of the image its first row and column are."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(array[rows, columns])


def _sizes(page: Any) -> list[int]:
    """How many bytes each strip or tile of an image has when it is unpacked; [] if they are not as they should be."""
    if not all(isinstance(one, int) for one in (*page.shaped, *page.chunked, *page.chunks)):
        return []  # a damaged tag has several values, and a product with a tuple of them would repeat the tuple
    parts, pixels, itemsize = math.prod(page.chunked), math.prod(page.chunks), page.dtype.itemsize
    if not (0 < math.prod(page.shaped) <= LARGEST and parts * pixels <= 2 * LARGEST):
        return []
    if not len(page.dataoffsets) == len(page.databytecounts) == parts:
        return []
    if page.is_tiled:
        return [pixels * itemsize] * parts
    strips, rows, width = parts // page.shaped[0], page.rowsperstrip, math.prod(page.shaped[3:])
    # The last strip of each plane may have fewer rows.
    return [min(rows, page.imagelength - k % strips * rows) * width * itemsize for k in range(parts)]


def _cut_off(page: Any, content: bytes) -> bool:
    """Whether the file ends before the end of the first image. Pillow does not notice this in all files."""
    sizes = _sizes(page) if page.compression == _NONE and page.dtype is not None else []
    needed = [min(pair) for pair in zip(page.databytecounts, sizes, strict=True)] if sizes else page.databytecounts
    return any(start + size > len(content) for start, size in zip(page.dataoffsets, needed, strict=False))


def _whole(page: Any, content: bytes) -> bool:
    """Whether all strips or tiles of an image have as many bytes as they should when they are unpacked."""
    sizes = _sizes(page)
    if not sizes or min(page.databytecounts) <= 0:
        return False
    if page.compression == _NONE:
        return all(count >= size for count, size in zip(page.databytecounts, sizes, strict=True))
    plain = page.predictor == 1 or (page.predictor == 2 and page.dtype.kind in "ui" and page.samplesperpixel == 1)
    if page.compression not in _DEFLATE or not plain:
        return False
    for start, count, size in zip(page.dataoffsets, page.databytecounts, sizes, strict=True):
        if len(zlib.decompressobj().decompress(content[start : start + count], size + 1)) != size:
            return False
    return True
