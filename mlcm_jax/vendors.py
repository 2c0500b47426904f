"""Thermal data that are in a file beside its picture, or in a form that is not read here: whose they are.

The signatures of JPEG segments are those that ExifTool documents: https://exiftool.org/TagNames/JPEG.html.
"""

import re

# Endings of radiometric files whose form is not public, or is not read here -> whose they are.
ENDINGS = {
    ".is2": "Fluke's", ".is3": "Fluke's", ".bmt": "Testo's", ".irb": "InfraTec's", ".ravi": "Optris's",
    ".ats": "FLIR's", ".sfmov": "FLIR's", ".ptw": "Cedip's",
}  # fmt: skip
_EXPORT = "export them as TIFF or CSV to use them"
FEW = 512  # bytes of text or padding that programs add
# Beginnings of a JPEG's segments, and types of a PNG's chunks, that hold no image, or one that is told elsewhere.
USUAL = (
    b"JFIF\0", b"JFXX\0", b"Exif\0", b"http://", b"ICC_PROFILE\0", b"MPF\0", b"Photoshop ", b"Adobe", b"Ducky", b"JP",
    b"FLIR\0", b"SPIFF\0", b"urn:iso:", b"FPXR\0", b"HDR_RI",
)  # fmt: skip
CHUNKS = frozenset(
    b"IHDR PLTE IDAT IEND tRNS cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI tEXt zTXt iTXt bKGD hIST pHYs sPLT eXIf tIME "
    b"acTL fcTL fdAT caBX".split()
)
_MARKER = re.compile(rb"\xff[^\0\xff\xd0-\xd7]")  # in the compressed pixels of a JPEG, the end of a scan


def unread(content: bytes, name: str) -> str:
    """Says what an image file of a common format holds beside its picture; "" if that is nothing of interest.

    Args:
        content: the whole file: JPEG, PNG, BMP or WebP, which a decoder has read. Others give "".
        name: the file's path.
    """
    if content.startswith(b"\xff\xd8"):
        segments, rest = _jpeg(content)
        owner = _owner(segments, rest)
        other = sum(len(data) for _, data in segments if not data.startswith(USUAL))
    else:
        other, rest = _outside(content)
        owner = "Testo's" if name.lower().endswith(".bmt") else ""
    if owner:
        return f"the file holds {owner} thermal data, which are not read, but its picture ({_EXPORT})"
    count = other + len(rest.strip(b"\0\r\n\t "))
    if count <= FEW:
        return ""
    return f"the file holds {count:,} bytes beside its picture, which are not read; if they are temperatures, {_EXPORT}"


def not_read(name: str) -> str:
    """Says whose form a file has by its ending, for the message about a file that cannot be read; or ""."""
    owner = next((owner for ending, owner in ENDINGS.items() if name.lower().endswith(ending)), "")
    export = "export its temperatures as TIFF or CSV"
    return f"The image {name} has {owner} own form, which is not read; {export}." if owner else ""


def _jpeg(content: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Returns a JPEG's application segments (their number, their content), and what follows the picture."""
    found, place = [], 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        kind = content[place + 1]
        if kind == 0xFF:  # markers may be padded
            place += 1
            continue
        if kind == 0xD9:
            return found, content[place + 2 :] if not _several(found) else b""
        size = max(int.from_bytes(content[place + 2 : place + 4], "big"), 2)
        if 0xE0 <= kind <= 0xEF:
            found.append((kind - 0xE0, content[place + 4 : place + 2 + size]))
        place += 2 + size
        if kind == 0xDA:  # the compressed pixels have no size
            end = _MARKER.search(content, place)
            place = end.start() if end else len(content)
    return found, content[place + 2 :]


def _several(segments: list[tuple[int, bytes]]) -> bool:
    """Whether a JPEG says that others follow it, which are counted as images."""
    return any(kind == 2 and data.startswith(b"MPF\0") for kind, data in segments)


def _owner(segments: list[tuple[int, bytes]], rest: bytes) -> str:
    """Finds whose thermal data a JPEG holds; "" for nobody's that is known."""
    dji = any(kind == 1 and data.startswith(b"Exif\0") and b"DJI\0" in data for kind, data in segments)
    for kind, data in segments:
        if kind == 2 and data[4:10] == b"IJPEG\0":
            return "InfiRay's"
        if kind == 1 and data.startswith(b"PARROT\0"):
            return "Parrot's"
        calibrated = kind == 4 and data.startswith(b"\xaa\x55\x12\x06")
        if calibrated or (kind == 6 and data.startswith(b"DTAT\0")) or (dji and kind in (3, 5) and len(data) > FEW):
            return "DJI's"
    others = [data for _, data in segments if not data.startswith(USUAL)]
    return "HIKMICRO's" if any(b"HDRI" in data for data in (*others, rest)) else ""


def _outside(content: bytes) -> tuple[int, bytes]:
    """Returns the size of private chunks in a PNG, and what follows the picture of a PNG, BMP or WebP."""
    if content.startswith(b"BM"):
        size = int.from_bytes(content[2:6], "little")
        return 0, content[size:] if size >= 54 else b""  # some programs leave the size 0
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return 0, content[8 + int.from_bytes(content[4:8], "little") :]
    other, place = 0, 8
    while content.startswith(b"\x89PNG") and place + 12 <= len(content):
        size, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        other += 0 if kind in CHUNKS else size
        place += 12 + size
        if kind == b"IEND":
            return other, content[place:]
    return 0, b""
