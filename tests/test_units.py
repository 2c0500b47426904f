"""Units of thermal values: the option --celsius, the guess without it, and faces that no face can be."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcm_jax import units
from mlcm_jax.errors import InputError

FACE = np.linspace(28, 36, 12, dtype=np.float32).reshape(3, 4)  # °C; the median is 32
IN = {  # the same in every unit that has a name
    "celsius": FACE, "kelvin": FACE + 273.15, "decikelvin": 10 * (FACE + 273.15), "centikelvin": 100 * (FACE + 273.15),
    "fahrenheit": FACE * 9 / 5 + 32,
}  # fmt: skip


@pytest.mark.parametrize("name", units.NAMES)
def test_every_name_gives_celsius(name):
    for text in (name, name.upper(), f" {name} "):
        found = units.to_celsius(IN[name], units.parse(text))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, FACE, atol=2e-3)


def test_scale_and_offset():
    assert units.parse("0.04, -273.15") == units.Unit(0.04, -273.15)
    assert units.parse("none") is None
    values = np.array([[7500.0, np.nan]], np.float32)
    np.testing.assert_allclose(units.to_celsius(values, units.parse("0.04,-273.15")), [[26.85, np.nan]], atol=1e-4)


@pytest.mark.parametrize(
    "text", ["kelvins", "rankine", "", "1", "1,2,3", "0,1", "-1,0", "inf,0", "1,nan", "nan", "1;2"]
)
def test_what_is_no_unit_is_refused(text):
    with pytest.raises(InputError, match=f"^--celsius={text} ") as raised:
        units.parse(text)
    assert "\n" not in str(raised.value)


@given(st.text(max_size=20))
def test_any_text_is_a_unit_or_an_input_error(text):
    try:
        found = units.parse(text)
    except InputError:
        return
    assert found is None or (found.scale > 0 and np.isfinite(found).all())


@pytest.mark.parametrize(
    ("name", "counts", "wanted", "said"),
    [
        ("celsius", False, units.CELSIUS, "values were taken for °C, so that their median is 32.0 °C"),
        ("kelvin", False, units.KELVIN, "values were taken for kelvins, so that"),
        ("centikelvin", False, units.CENTIKELVIN, "values were taken for hundredths of a kelvin, so that"),
        ("centikelvin", True, units.CENTIKELVIN, "16-bit values were taken for hundredths of a kelvin, so that"),
        ("decikelvin", True, None, "gray levels without a unit; if they .*, such as --celsius=decikelvin$"),
        ("kelvin", True, None, "gray levels without a unit; if they .*, such as --celsius=kelvin$"),
    ],
)
def test_the_guess_is_the_unit_in_which_the_median_is_likely(name, counts, wanted, said):
    values = IN[name].copy()
    values[0, 0] = values[-1, -1] = np.nan
    unit, note = units.guess(values, counts=counts)
    assert unit == wanted
    assert re.search(said, note)


@pytest.mark.parametrize(("text", "value"), [("0.04,-273.15", 7629), ("0.015625,-273.15", 19530), ("0.1,-100", 1320)])
def test_units_of_cameras_are_proposed_but_not_taken(text, value):
    assert abs(units.parse(text).scale * value + units.parse(text).offset - 32) < 0.1
    unit, note = units.guess(np.full((3, 4), value, np.float32), counts=True)
    assert unit is None and note.endswith(f"such as --celsius={text}")


def test_gray_levels_that_fit_no_unit():
    assert units.guess(np.full((3, 4), 60000.0), counts=True) == (
        None,
        "16-bit values with a median of 60000 were taken for gray levels without a unit",
    )


def test_a_face_that_no_face_can_be_is_told_with_the_option_that_fits():
    assert units.doubt(FACE, FACE) == ""
    assert units.doubt(np.array([np.nan]), np.array([np.nan])) == ""
    told = units.doubt(IN["fahrenheit"], IN["fahrenheit"])
    assert told.startswith("the face would be at 90 °C, which no face is") and "--celsius=fahrenheit" in told
    assert "--celsius=none" in told
    for middle, odd in ((-10.1, True), (-9.9, False), (44.9, False), (45.1, True)):
        assert bool(units.doubt(np.full(5, middle), np.full(5, middle))) == odd
