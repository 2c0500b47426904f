"""Frames of plain numbers: PGM, and raw files without a header, whose camera is known by their size."""

import re
from typing import NamedTuple

import numpy as np

from mlcm_jax import units
from mlcm_jax.errors import InputError

SUFFIXES = (".raw", ".bin")  # of raw files without a header
_LARGEST = 1 << 26  # pixels
_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])++"
_PGM = re.compile(rb"P([25])%b(\d{1,9})%b(\d{1,9})%b(\d{1,9})\s" % (_SPACE, _SPACE, _SPACE))


class Frame(NamedTuple):
    """A frame that a camera, or its software, stores without a header.

    Attributes:
        camera: names it.
        width: of the image.
        height: of the image.
        dtype: "u2" for 16-bit counts in either byte order, or "<f4" for floats.
        unit: the unit of the values, as the option --celsius has it; "" if it differs from file to file.
        skipped: bytes before the image, which hold something else.
    """

    camera: str
    width: int
    height: int
    dtype: str
    unit: str = ""
    skipped: int = 0

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self.skipped + self.width * self.height * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        what = "floats" if self.dtype == "<f4" else "16-bit counts"
        return f"{self.camera}, {self.width} x {self.height} {what} ({self.size} bytes)"


_SENSORS = (
    ("Lepton 2", 80, 60), ("Lepton 3 or Optris PI 160", 160, 120), ("Optris Xi 80", 80, 80),
    ("TC001 or P2 Pro", 256, 192), ("Boson 320", 320, 256), ("Tau 336", 336, 256), ("a sensor of 320 x 240", 320, 240),
    ("Optris PI 400 or Xi 400", 382, 288), ("a sensor of 384 x 288", 384, 288), ("Optris PI 640", 640, 480),
    ("Boson 640 or Tau 640", 640, 512),
)  # fmt: skip
_64TH = "0.015625,-273.15"  # of a kelvin
FRAMES = (
    *(Frame(camera, w, h, "u2", _64TH if w == 256 else "") for camera, w, h in _SENSORS),
    # The video of these cameras has the picture above (two bytes per pixel) and the temperatures below.
    Frame("TC001 or P2 Pro with its picture", 256, 192, "u2", _64TH, 2 * 256 * 192),
    *(Frame(camera, w, h, "<f4") for camera, w, h in _SENSORS),
)


def read_raw(content: bytes, name: str) -> tuple[np.ndarray, str, str]:
    """Reads a raw file without a header, which must have the size of one of the known `FRAMES`.

    The byte order of counts is the one in which neighbouring pixels are more alike. If two frames have the size, it is
    that in which all values, but for some dead pixels, are temperatures between -60 and 150 °C.

    Returns:
        (uint16 or float32 [H, W], a sentence about what was taken for granted, the unit or "").

    Raises:
        InputError: another size, or the size of two frames, unless the values are temperatures in just one of them.
    """
    fitting = [frame for frame in FRAMES if frame.size == len(content)]
    remedy = "save it as .npy (numpy.fromfile, reshape and numpy.save) or as TIFF"
    if not fitting:
        known = "; ".join(map(str, FRAMES))
        raise InputError(f"The raw file {name} has {len(content)} bytes, like no known frame: {known}. Else {remedy}.")
    found = [(frame, *_pixels(content, frame)) for frame in fitting]
    likely = [one for one in found if _likely(one[1], one[0].unit)] if len(found) > 1 else found
    if len(likely) != 1:
        both = " and of ".join(map(str, fitting))
        raise InputError(f"The raw file {name} has the size of {both}; {remedy}.")
    ((frame, values, order),) = likely
    above = "; the picture above the temperatures was not read" if frame.skipped else ""
    return values, f"taken for {frame}{order}{above}", frame.unit if _likely(values, frame.unit) else ""


def _pixels(content: bytes, frame: Frame) -> tuple[np.ndarray, str]:
    """Returns the values of a frame, and the byte order of counts in words."""
    values = np.frombuffer(content, frame.dtype, offset=frame.skipped).reshape(frame.height, frame.width)
    if frame.dtype != "u2":
        return values.astype(np.float32), ""
    both = values.astype("<u2"), values.byteswap()
    little, big = (np.abs(np.diff(one.astype(np.int32), axis=1)).mean() for one in both)
    return (both[1], ", big-endian") if big < little else (both[0], ", little-endian")


def _likely(values: np.ndarray, unit: str) -> bool:
    """Whether values that differ are temperatures between -60 and 150 °C, but for one in fifty."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if finite.size < 0.5 * values.size:
        return False
    low, high = np.percentile(finite, (1, 99)).tolist()
    scale, offset = units.parse(unit) if unit else units.CELSIUS
    return scale * low + offset > units.COLDEST and scale * high + offset < units.HOTTEST and low < high


def is_pgm(content: bytes) -> bool:
    """Whether a file starts like a PGM image."""
    return (content[:2] in (b"P2", b"P5") and content[2:3].isspace()) or content[:3] in (b"P2#", b"P5#")


def read_pgm(content: bytes, name: str) -> tuple[np.ndarray, str]:
    """Reads the first image of a PGM file, in text or bytes.

    Returns:
        (the image, a note or ""). Up to a largest value of 255, it is uint8, stretched so that this becomes 255. Beyond
        that, the values are counts, uint16, and kept as they are.

    Raises:
        InputError: a file that is damaged or incomplete.
    """
    found = _PGM.match(content)
    width, height, most = (int(found[k]) for k in (2, 3, 4)) if found else (0, 0, 0)
    if not (0 < width * height <= _LARGEST and 0 < most <= 65535):
        raise InputError(f"The PGM image {name} is damaged, or too large; save it again, as PNG or TIFF.")
    number, rest = width * height, content[found.end() :]
    if found[1] == b"2":
        words = re.sub(rb"#[^\r\n]*", b"", rest).split(None, number) if len(rest) >= 2 * number - 1 else []
        numeric = len(words) >= number and all(word.isdigit() and len(word) < 7 for word in words[:number])
        values = np.array([int(word) for word in words[:number]]) if numeric else np.zeros(0, np.int64)
        after = b"".join(words[number:]).strip()
    else:
        kind = np.dtype(">u2" if most > 255 else "u1")
        whole = len(rest) >= number * kind.itemsize
        values = np.frombuffer(rest if whole else b"", kind, number if whole else 0)
        after = rest[number * kind.itemsize :].strip(b"\0 \t\r\n")
    if len(values) < number or int(values.max()) > most:
        raise InputError(f"The PGM image {name} is damaged or incomplete; save it again, as PNG or TIFF.")
    notes = []
    if most > 255:
        array = values.astype(np.uint16)
    else:
        array = (values * (255 / most)).round().astype(np.uint8)
        notes += [f"gray levels from 0 to {most} were stretched to 255"] if most < 255 else []
    notes += [f"{len(after):,} bytes after the first image were not read"] if after else []
    return array.reshape(height, width), "; ".join(notes)
