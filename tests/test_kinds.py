"""Types of values: what fits, and the words for it."""

import inspect
import math
from typing import Annotated, Any, Literal

import pytest

from mlcm_jax import kinds

SHARE = Annotated[float, "[0, 1)"]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (int, [0, -3], [True, 1.0, "1", None]),
        (float, [0.5, 2, -1e30], [True, math.nan, math.inf, -math.inf, "1", None]),
        (bool, [True, False], [1, 0.0, "True"]),
        (str, ["", "a"], [1, None, ("a",)]),
        (dict, [{}, {"a": 1}], [(), "a", None]),
        (Literal["", "a"], ["", "a"], ["b", None, 1]),
        (SHARE, [0, 0.0, 0.99], [1.0, 1, -0.01, math.nan, True]),
        (Annotated[int, "(0, 4]"], [1, 4], [0, 5, 2.0]),
        (tuple[int, ...], [(), (1, 2), [3]], [1, (1.0,), ("1",), None, (True,)]),
        (tuple[SHARE, ...], [(0.5,), ()], [(0.5, 1.0), 0.5]),
        (tuple[float, float], [(1, 2.0), [1.0, 2.0]], [(1.0,), (1.0, 2.0, 3.0), ()]),
        (int | None, [1, None], [1.0, "None", True]),
        (Any, [1, None, "a"], []),
        (inspect.Parameter.empty, [1, None, "a"], []),
    ],
)
def test_which_values_fit(kind, good, bad):
    assert [value for value in good if not kinds.fits(value, kind)] == []
    assert [value for value in bad if kinds.fits(value, kind)] == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "an integer"),
        (Annotated[int, "[1, inf)"], "an integer of at least 1"),
        (SHARE, "a finite number of at least 0 and below 1"),
        (Annotated[float, "(0, 1]"], "a finite number above 0 and at most 1"),
        (Literal["a", "b"], "one of 'a', 'b'"),
        (tuple[str, ...], "a tuple of strings"),
        (tuple[float, float], "a tuple of 2 finite numbers"),
        (int | None, "an integer or None"),
    ],
)
def test_types_in_words(kind, words):
    assert kinds.name(kind) == words
