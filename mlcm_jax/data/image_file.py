"""A user's thermal or RGB image with everything that its file says: `Image`, made by `read_image` and `as_image`."""

import dataclasses
import functools
import os
from typing import Any

import numpy as np
import PIL.Image
from etils import epath

from mlcm_jax import decoding, holes, images, units
from mlcm_jax import polarity as polarities
from mlcm_jax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Image:
    """An image of one of the kinds that networks read.

    Attributes:
        values: float32 [H, W] in the file's unit, NaN where a value is a hole.
        celsius: float32 [H, W] in °C, NaN in holes; None if the file holds no temperatures.
        rgb: uint8 [H, W, 3], or None if the file is not coloured.
        notes: sentences about what was done, and what else the file holds.
        name: the file's path, or what else names the image in messages.
        levels: whether `values` are gray levels from 0 to 255.
    """

    values: np.ndarray
    celsius: np.ndarray | None
    rgb: np.ndarray | None
    notes: tuple[str, ...]
    name: str
    levels: bool

    @functools.cached_property
    def gray(self) -> np.ndarray:
        """uint8 [H, W], hot = bright, for display and for networks that read 8 bits as they are.

        Gray levels are unchanged. Other values are stretched by the image's percentiles (`images.gain8`). Holes take
        the gray level of the nearest pixel that has a value.
        """
        if not self.levels:
            return images.gain8(self.values, self.name)[0]
        return holes.filled(self.values, np.isnan(self.values)).astype(np.uint8)


def read_image(path: epath.PathLike, *, celsius: str = "auto", polarity: str = "white_hot") -> Image:
    """Reads an image file of any kind that `images.read` knows.

    - 8-bit gray: `values` are the file's gray levels.
    - Colours: `rgb` is the file; if they follow a thermal palette, `values` are the position along it, and else the
      luminance (see `images.to_gray8`).
    - 16 bits and floats: `values` are the file's, and `celsius` follows from them and the argument `celsius`.
    - FLIR's radiometric files: `values` are °C, and `rgb` the picture that the camera shows, if it is coloured.

    Rows of telemetry, values that no thermometer gives, and isolated dead pixels are holes (`holes.find`). So are
    0 K and below, if the unit is stated. Rows stay in the image, so that boxes and landmarks are in pixels of the file.

    Args:
        path: the file.
        celsius: how 16-bit counts and floats become °C, as the option --celsius has it (`units.parse`). "auto" takes
            the unit that the file states, or else the first in which the median is between -60 and 150 °C: hundredths
            of a kelvin for counts; °C, kelvins or hundredths of a kelvin for floats. "none" takes the values for gray
            levels without a unit.
        polarity: "black_hot" inverts `values` if cold is large in the file, which then must hold no temperatures.

    Raises:
        InputError: a file that cannot be read, or that holds no value at all; a unit that is unknown, or that is given
            for an image of 8 bits; an unknown polarity, or "black_hot" for temperatures.
    """
    if celsius != "auto":
        units.parse(celsius)  # a mistake is reported before anything is read
    black_hot = polarities.is_black_hot(polarity)
    image = of_file(images.read(path), celsius)
    if not black_hot:
        return image
    if image.celsius is not None:
        raise InputError(
            f"--polarity={polarity} is for images without temperatures; if the values of {path} are none, add "
            "--celsius=none."
        )
    return dataclasses.replace(image, values=polarities.inverted(image.values, levels=image.levels))


def as_image(given: Any) -> Image:
    """Converts what a caller of `Predictor` may give: an `Image`, a path, an image of Pillow, or an array.

    Raises:
        InputError: anything else, or an array that is not of numbers [H, W] or [H, W, 1], or of uint8 [H, W, 3].
    """
    if isinstance(given, Image):
        return given
    if isinstance(given, str | os.PathLike):
        return read_image(given)
    try:
        array = decoding.from_pillow(given) if isinstance(given, PIL.Image.Image) else np.asarray(given)
    except (TypeError, ValueError):  # such as lists of different lengths
        array = np.asarray(None)
    except OSError as error:  # Pillow reads a file only now
        raise InputError(f"The image of Pillow cannot be read ({error}); its file is damaged or incomplete.") from None
    if array.dtype.kind not in "buif":
        raise InputError(f"The image must hold numbers; {type(given).__name__} was given.")
    if array.size == 0 or not (array.ndim == 2 or array.shape[2:] == (1,) or _coloured(array)):
        raise InputError(
            f"The image must be an array [H, W], or [H, W, 3] of uint8, not of shape {array.shape} and {array.dtype}."
        )
    array = array.astype(np.float32) if array.dtype == np.bool_ else array
    return of_file(images.from_array(array, "given"), "auto")


def _coloured(array: np.ndarray) -> bool:
    return array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8


def of_file(file: images.ImageFile, celsius: str) -> Image:
    """Converts the content of a file; see `read_image`."""
    if file.kind in ("gray8", "colour"):
        gray, note = images.to_gray8(file)
        rgb = file.array if file.kind == "colour" else None
        if celsius != "auto" and units.parse(celsius):
            what = "coloured" if rgb is not None else "8-bit gray"
            raise InputError(f"--celsius={celsius} is for 16-bit or float images; {file.name} is {what}.")
        found = holes.find(gray)
        notes = [one for one in (note, file.more) if one]
        if lost := np.count_nonzero(found.mask):
            ends = "are dead, and were given the gray level of their", "is dead, and was given the gray level of its"
            notes.append(f"{_pixels(lost, gray, *ends)} neighbours")
        values = np.where(found.mask, np.float32(np.nan), gray.astype(np.float32))
        return Image(values, None, rgb, tuple(notes), file.name, True)
    values, rgb = file.array.astype(np.float32), None
    if file.display is not None and file.display.ndim == 3 and file.display.shape[:2] == values.shape:
        rgb = file.display
    found = holes.find(file.array)
    if found.mask.all():
        raise InputError(f"The image {file.name} holds no value that a thermometer could give.")
    notes = [file.more] if file.more else []
    values = np.where(found.mask, np.float32(np.nan), values)
    unit, told = _unit(file, values, celsius)
    degrees = units.to_celsius(values, unit) if unit else None
    if unit and not told:  # a guess is no reason to drop values
        possible = degrees >= units.ZERO
        if possible.any():
            values, degrees = (np.where(possible, one, np.float32(np.nan)) for one in (values, degrees))
    rows = [
        f"the {which} row" if count == 1 else f"the {which} {count} rows"
        for which, count in (("first", found.top), ("last", found.bottom))
        if count
    ]
    if rows:
        hold, were = ("holds", "was") if found.top + found.bottom == 1 else ("hold", "were")
        notes.append(f"{' and '.join(rows)} {hold} telemetry in place of temperatures, and {were} treated as missing")
    lost = np.count_nonzero(np.isnan(values)) - (found.top + found.bottom) * values.shape[1]
    if lost:
        ends = "hold no temperature and were", "holds no temperature and was"
        notes.append(f"{_pixels(lost, values, *ends)} treated as missing")
    return Image(values, degrees, rgb, (*notes, *told), file.name, False)


def _pixels(count: int, values: np.ndarray, many: str, one: str) -> str:
    """Says something about pixels: their number if they are few, or else their share."""
    if 1000 * count >= values.size:
        return f"{100 * count / values.size:.2g} % of the pixels {many}"
    return f"1 pixel {one}" if count == 1 else f"{count} pixels {many}"


def _unit(file: images.ImageFile, values: np.ndarray, celsius: str) -> tuple[units.Unit | None, list[str]]:
    """Returns the unit of the values, NaN in holes, and how it was guessed."""
    if celsius != "auto" or file.unit:
        return units.parse(celsius if celsius != "auto" else file.unit), []
    unit, note = units.guess(values, counts=file.kind == "gray16")
    return unit, [note]


def for_network(
    image: Image, *, modality: str, thermal_range: tuple[float, ...] = (), gain: str = "as_is"
) -> np.ndarray:
    """Returns the array that `augment.crop` takes for a network.

    Args:
        image: see `Image`.
        modality: "rgb" or "thermal".
        thermal_range: the temperatures in °C that the network reads as 0 and 1; () if it reads gray values.
        gain: "box", "scene" or "as_is", see `data.gain`.

    Returns:
        uint8 [H, W, 3] for a network that reads RGB; else [H, W]: uint8, or float32 if the gain is not "as_is" and
        the image has more than 8 bits.

    Raises:
        InputError: the network reads temperatures, and the image has none.
    """
    if modality == "rgb":
        return image.rgb if image.rgb is not None else np.repeat(image.gray[..., None], 3, axis=2)
    if thermal_range:
        if image.celsius is None:
            raise InputError(
                f"The image {image.name} holds no temperatures, which this network reads; if its values are "
                "some, give their unit by --celsius, or else give it °C (.npy, .tiff)."
            )
        return fixed_range(image.celsius, *thermal_range)
    return image.values if gain != "as_is" and not image.levels else image.gray


def fixed_range(celsius: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps temperatures in °C linearly to uint8, `low` to 0 and `high` to 255, and clips.

    NaN takes the gray level of the nearest pixel that has a value; an image of NaN alone becomes 0.

    Raises:
        InputError: `low` is not below `high`.
    """
    if not low < high:
        raise InputError(f"config.thermal_range=({low:g}, {high:g}) must be increasing, such as (20, 40).")
    share = np.clip((np.asarray(celsius, np.float32) - low) / (high - low), 0.0, 1.0)
    gray = (np.nan_to_num(share) * 255.0).round().astype(np.uint8)
    return holes.filled(gray, np.isnan(share))
