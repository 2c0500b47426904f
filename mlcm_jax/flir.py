"""FLIR's radiometric files: °C from the counts in a JPEG's APP1 segments, or in the first frame of FFF, SEQ, CSQ files.

ExifTool documents where the records and fields lie: https://exiftool.org/TagNames/FLIR.html.
"""

import itertools
import re
import struct

import cv2
import numpy as np

from mlcm_jax.errors import InputError

MAGIC = (b"FFF\0", b"AFF\0")
_PNG, _JPEG_LS = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_RAW, _CAMERA = 0x01, 0x20  # types of records
LARGEST = 1 << 26  # pixels; no sensor has more
# Place of each number in the camera's record.
FIELDS = {
    "emissivity": 0x20, "distance": 0x24, "reflected": 0x28, "air": 0x2C, "window": 0x30, "transmission": 0x34,
    "humidity": 0x3C, "r1": 0x58, "b": 0x5C, "f": 0x60, "alpha1": 0x70, "alpha2": 0x74, "beta1": 0x78, "beta2": 0x7C,
    "x": 0x80, "r2": 0x30C,
}  # fmt: skip
OFFSET = 0x308  # of Planck's O, an integer


class NoConstantsError(InputError):
    """FLIR's data hold counts, but not the constants of the camera by which they become °C."""


def find(content: bytes) -> bytes | None:
    """Returns the FFF data of a file, or None if it holds none.

    Args:
        content: a file, such as a JPEG, whose APP1 segments hold the data in pieces.

    Raises:
        InputError: a piece is missing.
    """
    if content.startswith(MAGIC):
        return content
    if not content.startswith(b"\xff\xd8"):
        return None
    pieces, last, place = {}, 0, 2
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA:  # up to the picture
        if content[place + 1] == 0xFF:  # markers may be padded
            place += 1
            continue
        size = int.from_bytes(content[place + 2 : place + 4], "big")
        segment = content[place + 4 : place + 2 + size]
        if content[place + 1] == 0xE1 and segment.startswith(b"FLIR\0") and len(segment) > 8:
            pieces.setdefault(segment[6], segment[8:])
            last = max(last, segment[7])
        place += 2 + max(size, 2)
    if not pieces:
        return None
    missing = set(range(last + 1)) - pieces.keys()
    if missing:
        raise InputError(f"{len(missing)} of {last + 1} pieces of FLIR's data are missing.")
    return b"".join(pieces[k] for k in sorted(pieces))


def split(data: bytes) -> list[bytes]:
    """Splits an FFF, SEQ or CSQ file into its frames, by their headers."""
    starts = [found.start() for found in re.finditer(rb"[FA]FF\0", data)]
    starts = [
        start
        for start in starts
        if any(100 <= int.from_bytes(data[start + 0x14 : start + 0x18], order) < 200 for order in ("little", "big"))
    ]
    return [data[start:end] for start, end in itertools.pairwise([*starts, len(data)])]


def celsius(data: bytes) -> tuple[np.ndarray, str]:
    """Computes the temperatures of the first frame.

    The radiance of the object is that of the counts less what the scene reflects, a window and the air add, by the
    emissivity, distance and temperatures that were set in the camera. FLIR's own software computes it in this way; the
    formulas are those of its manuals and of Minkina and Dudzik 2009, "Infrared Thermography", chapter 2.

    Args:
        data: see `find`.

    Returns:
        float32 [H, W] in °C, NaN where the radiance is not positive; and a sentence about what was assumed.

    Raises:
        NoConstantsError: data with counts alone, which `counts` reads.
        InputError: data that are damaged, or of a kind that cannot be read.
    """
    records = _records(data)
    if _RAW not in records:
        raise InputError("FLIR's data hold no counts.")
    if _CAMERA not in records:
        raise NoConstantsError("FLIR's data hold no constants of the camera.")
    counts, n = _counts(records[_RAW]), _numbers(records[_CAMERA])

    def radiance(kelvin: float) -> float:
        return n["r1"] / (n["r2"] * (np.exp(n["b"] / kelvin) - n["f"])) - n["o"]

    with np.errstate(all="ignore"):
        # A temperature of 0 K and a transmission of 0 mean that nobody set them.
        seen, through = counts, _through_air(n) if n["air"] else 1.0
        emissivity, passed = (n["emissivity"] if n["reflected"] else 1.0), n["transmission"] or 1.0
        if not (0 < emissivity <= 1 and 0 < passed <= 1 and 0 < through <= 1.01):
            raise InputError("FLIR's data hold constants that no camera has.")
        if through != 1:
            seen = (seen - (1 - through) * radiance(n["air"])) / through
        if passed != 1:
            seen = (seen - (1 - passed) * radiance(n["window"] or n["air"])) / passed
        if emissivity != 1:
            seen = (seen - (1 - emissivity) * radiance(n["reflected"])) / emissivity
        found = n["b"] / np.log(n["r1"] / (n["r2"] * (seen + n["o"])) + n["f"]) - 273.15
    found = np.where(np.isfinite(found) & (found > -273.15), found, np.nan).astype(np.float32)
    if np.isnan(found).all():
        raise InputError("FLIR's data hold constants that give no temperature.")
    unset = "" if n["reflected"] else ", because the temperature of what it reflects is not set"
    assumed = f"distance {n['distance']:.1f} m, emissivity {emissivity:.2f}{unset}"
    return found, f"temperatures were computed from FLIR's counts ({assumed})"


def counts(data: bytes) -> tuple[np.ndarray, str]:
    """Reads the sensor's counts of the first frame, for data without the constants of the camera.

    Returns:
        uint16 [H, W], and a sentence about them.

    Raises:
        InputError: see `celsius`.
    """
    records = _records(data)
    if _RAW not in records:
        raise InputError("FLIR's data hold no counts.")
    note = "FLIR's counts were read; the file holds no constants of the camera, by which they would become °C"
    return _counts(records[_RAW]).astype(np.uint16), note


def _through_air(n: dict[str, float]) -> float:
    """Computes the share of the radiation that the air lets through."""
    air = n["air"] - 273.15
    humidity = n["humidity"] / 100 if n["humidity"] > 2 else n["humidity"]
    water = humidity * np.exp(1.5587 + 6.939e-2 * air - 2.7816e-4 * air**2 + 6.8455e-7 * air**3)
    way, root = np.sqrt(max(n["distance"], 0.0)), np.sqrt(max(water, 0.0))
    first = n["x"] * np.exp(-way * (n["alpha1"] + n["beta1"] * root))
    return float(first + (1 - n["x"]) * np.exp(-way * (n["alpha2"] + n["beta2"] * root)))


def _unpack(order: str, kind: str, data: bytes, place: int) -> float:
    try:
        return struct.unpack_from(order + kind, data, place)[0]
    except struct.error:
        raise InputError("FLIR's data are cut off.") from None


def _records(data: bytes) -> dict[int, bytes]:
    """Finds the first record of each type."""
    orders = [order for order in ("<", ">") if 100 <= _unpack(order, "I", data, 0x14) < 200]
    if not orders:
        raise InputError("FLIR's data have an unknown version.")
    order, found = orders[0], {}
    start, count = _unpack(order, "I", data, 0x18), _unpack(order, "I", data, 0x1C)
    for place in range(start, min(start + 32 * count, len(data) - 31), 32):
        kind, offset, length = (_unpack(order, k, data, place + at) for k, at in (("H", 0), ("I", 12), ("I", 16)))
        if kind and length:
            found.setdefault(kind, data[offset : offset + length])
    return found


def _order(record: bytes) -> str:
    """Returns the byte order in which the first number of a record is 2."""
    return "<" if _unpack("<", "H", record, 0) < 256 else ">"


def _counts(record: bytes) -> np.ndarray:
    """Reads the counts of the sensor, float64 [H, W]."""
    order = _order(record)
    width, height = (_unpack(order, "H", record, place) for place in (2, 4))
    content = record[32:]
    if not 0 < width * height <= LARGEST:
        raise InputError(f"FLIR's data hold an image of {width} x {height} pixels.")
    if content.startswith(_JPEG_LS):
        return _jpeg_ls(content, (height, width))
    if not content.startswith(_PNG):
        if len(content) < 2 * width * height:
            raise InputError("FLIR's data are cut off.")
        return np.frombuffer(content, f"{order}u2", width * height).reshape(height, width).astype(np.float64)
    if content[16:24] != struct.pack(">II", width, height):
        raise InputError("FLIR's data hold a PNG of another size than they say.")
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.ndim != 2:
        raise InputError("FLIR's data hold a PNG that is damaged, or not of 16-bit gray.")
    # Most cameras write the bytes of the PNG in the wrong order, some don't. Neighbours are alike in the right one.
    both = (image, image.byteswap())
    rough = [float(np.abs(np.diff(one.astype(np.int32), axis=1)).mean()) if width > 1 else 0.0 for one in both]
    return both[int(rough[1] <= rough[0])].astype(np.float64)


def _jpeg_ls(content: bytes, shape: tuple[int, int]) -> np.ndarray:
    """Decodes the counts of CSQ files, float64 [H, W]."""
    try:
        import imagecodecs
    except ImportError:
        raise InputError(
            "FLIR's counts are compressed as JPEG-LS, as in CSQ files: install imagecodecs (pip install imagecodecs), "
            "or export them as TIFF."
        ) from None
    header = re.search(rb"\xff\xf7\0.\x10(....)\x01", content[:4096], re.DOTALL)  # 16 bits, height, width, one channel
    if not header or struct.unpack(">HH", header[1]) != shape:
        raise InputError("FLIR's data hold counts of another size or kind than they say.")
    try:
        return imagecodecs.jpegls_decode(content).reshape(shape).astype(np.float64)
    except Exception:  # the library's own error, which is a RuntimeError
        raise InputError("FLIR's data hold a JPEG-LS image that is damaged.") from None


def _numbers(record: bytes) -> dict[str, float]:
    """Reads the constants and settings by their names in `FIELDS`, and "o"; temperatures are in kelvin."""
    order = _order(record)
    found = {name: _unpack(order, "f", record, place) for name, place in FIELDS.items()}
    found["o"] = _unpack(order, "i", record, OFFSET)
    kelvin = [found[name] for name in ("air", "reflected", "window")]
    positive = min(found[name] for name in ("r1", "b", "r2")) > 0 and min(kelvin) >= 0
    if not (np.isfinite(list(found.values())).all() and positive):
        raise InputError("FLIR's data hold constants that no camera has.")
    return found
