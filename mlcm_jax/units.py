"""Units of thermal values: the option --celsius of every command, a guess without it, and a check by the face."""

import math
from typing import NamedTuple

import numpy as np

from mlcm_jax.errors import InputError, did_you_mean

COLDEST_FACE, HOTTEST_FACE = -10.0, 45.0  # °C, between which the median of a face lies
COLDEST, HOTTEST = -60.0, 150.0  # °C, between which the median of an image lies if its unit is guessed right
ZERO = -273.14  # °C, below which nothing is: 0 K, and what rounding adds


class Unit(NamedTuple):
    """A unit of temperature: °C = scale · value + offset."""

    scale: float
    offset: float


CELSIUS, KELVIN, CENTIKELVIN = Unit(1.0, 0.0), Unit(1.0, -273.15), Unit(0.01, -273.15)
NAMES = {
    "celsius": CELSIUS, "kelvin": KELVIN, "decikelvin": Unit(0.1, -273.15), "centikelvin": CENTIKELVIN,
    "fahrenheit": Unit(5 / 9, -160 / 9),
}  # fmt: skip
# What cameras store beside these: FLIR's high gain, InfiRay's and Topdon's 1/64 K, and Optris's tenths above -100 °C.
OF_CAMERAS = ("0.04,-273.15", "0.015625,-273.15", "0.1,-100")


def parse(text: str) -> Unit | None:
    """Reads a value of the option --celsius.

    Args:
        text: "scale,offset" with a positive scale, a name of `NAMES`, or "none".

    Returns:
        The unit, or None for values that are no temperatures.

    Raises:
        InputError: anything else.
    """
    word = text.strip().lower()
    if word.isalpha() and word not in ("inf", "nan"):
        if word != "none" and word not in NAMES:
            raise InputError(f"--celsius={text} is no unit; {did_you_mean(word, (*NAMES, 'none'))}")
        return NAMES.get(word)
    try:
        scale, offset = map(float, word.split(","))
    except ValueError:
        scale = offset = math.nan
    if not (0 < scale < math.inf and math.isfinite(offset)):
        raise InputError(
            f"--celsius={text} must be scale,offset with a positive scale, such as 0.01,-273.15, or one of "
            f"{', '.join(NAMES)} and none."
        )
    return Unit(scale, offset)


def to_celsius(values: np.ndarray, unit: Unit) -> np.ndarray:
    """Converts values in a unit to °C, float32 of the same shape; NaN stays NaN."""
    with np.errstate(over="ignore"):
        return (values * np.float64(unit.scale) + unit.offset).astype(np.float32)


def guess(values: np.ndarray, *, counts: bool) -> tuple[Unit | None, str]:
    """Guesses the unit of an image: the first in which its median lies between -60 and 150 °C.

    Counts may be hundredths of a kelvin. Floats may be °C, kelvins or hundredths of a kelvin. Other units are named in
    the sentence, but never taken: the plain counts of a sensor, which are no temperatures, lie in the same range.

    Args:
        values: [H, W], NaN in holes; at least one value is finite.
        counts: whether they are the counts of a file with 16 bits, or else floats.

    Returns:
        (the unit, or None if none fits; a sentence that says so).
    """
    what = "16-bit values" if counts else "values"
    named = [("hundredths of a kelvin", CENTIKELVIN)]
    named = named if counts else [("°C", CELSIUS), ("kelvins", KELVIN), *named]
    middle = float(np.nanmedian(values))
    for name, unit in named:
        degrees = unit.scale * middle + unit.offset
        if COLDEST < degrees < HOTTEST:
            return unit, f"{what} were taken for {name}, so that their median is {degrees:.1f} °C"
    fitting = _fitting(middle)
    hint = f"; if they are temperatures, give their unit, such as {fitting}" if fitting else ""
    return None, f"{what} with a median of {middle:.5g} were taken for gray levels without a unit{hint}"


def doubt(values: np.ndarray, celsius: np.ndarray) -> str:
    """Returns what is wrong if the pixels of a face have a temperature that no face has, or "".

    Args:
        values: the pixels in the box of the face in the file's unit, any shape, NaN in holes.
        celsius: the same in °C.
    """
    if not np.isfinite(celsius).any():
        return ""
    middle = float(np.nanmedian(celsius))
    if COLDEST_FACE <= middle <= HOTTEST_FACE:
        return ""
    fitting = _fitting(float(np.nanmedian(values)))
    such = f", such as {fitting}" if fitting else ""
    return (
        f"the face would be at {middle:.0f} °C, which no face is; give the unit of the values{such}, or --celsius=none "
        "if they are no temperatures"
    )


def _fitting(middle: float) -> str:
    """Names the values of --celsius by which a median could be that of a face."""
    units = NAMES | {text: parse(text) for text in OF_CAMERAS}
    fit = [name for name, (scale, offset) in units.items() if COLDEST_FACE <= scale * middle + offset <= HOTTEST_FACE]
    return " or ".join(f"--celsius={name}" for name in fit)
