"""Determines how a user's thermal images store values, from one image and the options --colormap and --celsius."""

from __future__ import annotations

import pathlib

import matplotlib
import numpy as np

from mlcm_jax import holes, images, units
from mlcm_jax import polarity as polarities
from mlcm_jax.console import say
from mlcm_jax.errors import InputError, did_you_mean
from tfds_builders import formats
from tfds_builders.thermal_images import Thermal


def read_palette(name: str, folder: pathlib.Path) -> np.ndarray:
    """Returns a palette as float32 [N, 3], from cold to hot.

    Args:
        name: a palette of this package or of matplotlib, or a CSV file with the columns r, g, b.
        folder: the user's folder; the CSV file may be given relative to it.

    Raises:
        InputError: unknown name, missing file, fewer than 2 or more than 256 rows, values outside 0 to 255.
    """
    if name.lower().endswith(".csv"):
        path = next((path for path in (folder / name, pathlib.Path(name).expanduser()) if path.is_file()), None)
        if path is None:
            raise InputError(f"--colormap={name} exists neither in {folder} nor relative to the working directory.")
        rows = formats.read_table(path, ("r", "g", "b"))
        palette = formats.numbers([row[k] for row in rows for k in "rgb"], f"The palette {path}").reshape(-1, 3)
        if not 2 <= len(palette) <= 256 or palette.min() < 0 or palette.max() > 255:
            raise InputError(f"The palette {path} must hold 2 to 256 rows of r, g and b from 0 to 255, cold to hot.")
        return palette.astype(np.float32)
    known = images.palettes()
    if name in known:
        return known[name]
    if name in matplotlib.colormaps:
        return np.asarray(255 * matplotlib.colormaps[name](np.linspace(0, 1, 256))[:, :3], np.float32)
    hint = did_you_mean(name, [*known, *matplotlib.colormaps], further=", and .csv files")
    raise InputError(f"--colormap={name} is not a known palette; {hint}")


def of_image(
    path: pathlib.Path,
    palette: np.ndarray | None,
    *,
    colormap: str | None = None,
    celsius: str | None = None,
    polarity: str | None = None,
) -> Thermal:
    """Determines the kind of a dataset's thermal images from one of them.

    Args:
        path: the image.
        palette: float32 [N, 3], the palette that --colormap names; None without the option.
        colormap: the option --colormap as given, or None.
        celsius: the option --celsius as given, or None.
        polarity: the option --polarity as given, or None.

    Raises:
        InputError: a coloured image without --colormap, or an option that does not fit the image.
    """
    image = images.read(path)
    inverted = polarities.is_black_hot(polarity)
    if colormap and image.kind != "colour":
        raise InputError(f"--colormap={colormap} is for coloured thermal images; {path} is {_kind(image)}.")
    if image.kind in ("gray16", "float"):
        unit = units.parse(celsius) if celsius not in (None, "", "auto") else _unit(image)
        if unit is None:
            return Thermal("values", inverted=inverted, dead=True)
        if inverted:
            raise InputError(f"--polarity={polarity} is for images without temperatures; add --celsius=none.")
        return Thermal("counts", *unit, given=celsius not in (None, "", "auto"), dead=True)
    if celsius and celsius != "auto":
        raise InputError(f"--celsius={celsius} is for 16-bit or float images; {path} is {_kind(image)}.")
    if image.kind == "gray8":
        return Thermal("gray", inverted=inverted, dead=True)
    if palette is None:
        best, distance = images.fit_palette(image.array)
        hint = (
            f"its colours fit --colormap={best!r} (median distance {distance:.1f} of 255)"
            if best
            else (
                "no known palette fits its colours; give --colormap a name, or a .csv file of r, g, b from cold to hot"
            )
        )
        raise InputError(f"The thermal image {path} is coloured: {hint}.")
    return Thermal("palette", palette=palette, inverted=inverted, dead=True)


def _unit(image: images.ImageFile) -> units.Unit:
    """Returns the unit that a file states, or else guesses it and says so; what it guesses wrong is refused later."""
    if image.unit:
        return units.parse(image.unit)
    usual = units.CENTIKELVIN if image.kind == "gray16" else units.CELSIUS
    mask = holes.find(image.array).mask
    if mask.all():
        return usual
    unit, note = units.guess(np.where(mask, np.nan, image.array), counts=image.kind == "gray16")
    say(f"{image.name}: {note}. State another unit by --celsius.")
    return unit or usual


def _kind(image: images.ImageFile) -> str:
    return {"gray8": "8-bit gray", "gray16": "16-bit gray", "float": "float"}.get(image.kind, "coloured")
