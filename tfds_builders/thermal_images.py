"""Reads the images of a face, and encodes them as a dataset stores them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pathlib

import cv2
import numpy as np

from mlcm_jax import holes, images, units
from mlcm_jax.errors import InputError
from tfds_builders.face import Source


@dataclasses.dataclass(frozen=True, eq=False)
class Thermal:
    """How the files of a dataset store thermal images.

    Attributes:
        kind: "gray": 8 bits, hot = bright (three equal channels count as gray);
            "counts": 16 bits or floats, °C = scale · value + offset;
            "values": 16 bits or floats without a unit;
            "palette": coloured with `palette`.
        scale: °C per unit, for "counts".
        offset: °C at value 0, for "counts".
        palette: uint8 [N, 3] RGB from cold to hot, for "palette"; None: one of the known palettes.
        inverted: whether cold is bright, in files without temperatures.
        given: whether the user stated the unit, which then is also that of files that state another one.
        dead: whether dead rows and pixels are looked for; if not, 8 bits are stored as they are.
    """

    kind: str = "gray"
    scale: float = 1.0
    offset: float = 0.0
    palette: np.ndarray | None = None
    inverted: bool = False
    given: bool = False
    dead: bool = False


def encode(source: Source, key: str, thermal: Thermal) -> tuple[dict[str, io.BytesIO], np.ndarray, str, set[str], str]:
    """Encodes the thermal image of a face.

    Returns:
        (the encoded images; °C with NaN in holes, or else the gray image, [H, W]; the digest; what is odd; what else
        the file holds, or "").
    """
    image, content = open_source(source, key)
    more = image.more
    if image.display is not None and thermal.kind in ("gray", "palette"):
        image = images.from_array(image.display, image.name)
    array, result, shown = image.array, {}, None
    if thermal.kind in ("counts", "values"):
        if image.kind not in ("gray16", "float"):
            raise InputError(
                f"The thermal image {image.name} has {array.dtype} pixels; 16-bit counts or float °C are needed."
            )
        found = holes.find(array, dead=thermal.dead)
        odd = {"telemetry"} if found.top or found.bottom else set()
        mask = found.mask
        values = np.where(mask, np.nan, array.astype(np.float64))
        if thermal.kind == "counts":
            stated = units.parse(image.unit) if image.unit and not thermal.given else None
            scale, offset = stated or (thermal.scale, thermal.offset)
            values = values * scale + offset
            mask = mask | (values < units.ZERO)
            shown = values = np.where(mask, np.nan, values)
            result["celsius"] = encoded(_centikelvin(values, image.name), None)
        if mask[found.top : len(mask) - found.bottom].any():
            odd.add("holes")
        gray = images.gain8(values, image.name)[0]
    else:
        gray = _gray(image, thermal)
        found = holes.find(gray, dead=thermal.dead)
        odd = {"dead"} if found.mask.any() else set()
        gray = holes.filled(gray, found.mask)
    gray = 255 - gray if thermal.inverted else gray
    same = content if gray is array else None
    result["thermal"] = encoded(gray, same)
    return result, gray if shown is None else shown, digest_of(content, array), odd, more


def _gray(image: images.ImageFile, thermal: Thermal) -> np.ndarray:
    """Returns the gray levels of an image of 8 bits or of colours, uint8 [H, W]."""
    if thermal.kind == "palette":
        if image.kind in ("gray16", "float"):
            raise InputError(
                f"The thermal image {image.name} has {image.array.dtype} pixels, not colours of a palette."
            )
        if thermal.palette is None:
            return images.to_gray8(image)[0]
        if image.kind == "colour":
            return images.invert_palette(image.array, thermal.palette)
        raise InputError(
            f"The thermal image {image.name} is gray, but those of this dataset are coloured with a palette."
        )
    if image.kind != "gray8":
        what = "colours" if image.kind == "colour" else f"{image.array.dtype} pixels"
        raise InputError(f"The thermal image {image.name} has {what}; 8-bit gray is needed.")
    return image.array


def _centikelvin(celsius: np.ndarray, name: str) -> np.ndarray:
    """°C as hundredths of a kelvin, uint16 [H, W], 0 in holes; raises InputError if most cannot be °C."""
    raw = np.where(np.isfinite(celsius), (celsius + 273.15) * 100.0, np.nan)
    middle = float(np.nanmedian(raw)) if np.isfinite(raw).any() else np.nan
    if not 200_00 < middle < 400_00:
        raise InputError(
            f"The thermal image {name} would be at {middle / 100 - 273.15:.0f} °C; state its unit by "
            "--celsius=scale,offset (°C = scale · value + offset), kelvin, centikelvin, decikelvin or fahrenheit, or "
            "that it has none by --celsius=none."
        )
    return np.nan_to_num(np.clip(raw.round(), 1, 65535)).astype(np.uint16)


def open_source(source: Source, key: str) -> tuple[images.ImageFile, bytes | None]:
    """Reads an image, and returns it with the content of its file; `key` names it if it is in a container file."""
    if isinstance(source, pathlib.Path):
        image = images.read(source)
        return image, source.read_bytes()
    array = np.asarray(source())
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    kind = {"uint8": "colour" if array.ndim == 3 else "gray8", "uint16": "gray16"}.get(array.dtype.name, "float")
    return images.ImageFile(array, kind, key), None


def digest_of(content: bytes | None, array: np.ndarray) -> str:
    """Returns the SHA-1 of a file's content, or else of its pixels."""
    return hashlib.sha1(content or np.ascontiguousarray(array).tobytes()).hexdigest()


def encoded(array: np.ndarray, content: bytes | None) -> io.BytesIO:
    """Returns a JPEG file's own bytes if TFDS would decode them to this image, and else the image as PNG."""
    if content and content.startswith(b"\xff\xd8"):
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if decoded is not None and decoded.ndim == 3 and decoded.shape[2] == 3:
            decoded = decoded[..., ::-1]
        same_kind = decoded is not None and decoded.shape == array.shape and decoded.dtype == array.dtype
        # JPEG decoders differ in rounding; a rotated or mirrored image differs by far more.
        if same_kind and np.abs(decoded.astype(np.int32) - array).mean() < 1.0:
            return io.BytesIO(content)
    return io.BytesIO(images.png(array))
