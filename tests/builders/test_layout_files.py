"""Tests of a user's own layout: conversion from YAML or a dict and back, error messages, and fuzzing."""

import json

import numpy as np
import pytest
import trees
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcm_jax import landmarks, layout_file
from mlcm_jax.errors import InputError

FUZZ = settings(max_examples=80, derandomize=True)
MINE = {
    "name": "mine",
    "names": ["re", "le", "nose", "rm", "lm"],
    "flip": [["re", "le"], [3, "4"]],
    "eye_corners": ["re", "le"],
    "pupils": [[0], ["le"]],
    "groups": {"right_eye": [0], "left_eye": [1], "outer_lips": ["rm", "lm"]},
    "edges": [["rm", "lm"]],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("layouts")


def test_a_layout_from_a_dict():
    layout = layout_file.layout_from_dict(MINE)
    assert (layout.name, layout.count, layout.eye_corners, layout.pupils) == ("mine", 5, (0, 1), ((0,), (1,)))
    assert layout.flip.tolist() == [1, 0, 2, 4, 3] and layout.edges == ((3, 4),)
    assert layout.groups == {"right_eye": (0,), "left_eye": (1,), "outer_lips": (3, 4)}


def test_a_layout_is_found_by_its_name_and_in_a_file_with_either_ending_in_either_case(place):
    for name in ("mine.yaml", "mine.yml", "mine.YAML"):
        (place / name).write_text(json.dumps(MINE))  # JSON is YAML too
        for path in (place / name, str(place / name)):
            assert layout_file.find(path).count == 5
    mine = layout_file.find(place / "mine.yml")
    assert layout_file.find(mine) is mine and layout_file.find("ibug68") is landmarks.LAYOUTS["ibug68"]
    with pytest.raises(InputError, match="Unknown landmark layout 'ibug86'"):
        layout_file.find("ibug86")


@pytest.mark.parametrize("name", sorted(landmarks.LAYOUTS))
def test_every_known_layout_survives_json(name):
    before = landmarks.LAYOUTS[name]
    plain = json.loads(json.dumps(layout_file.layout_to_dict(before)))
    after = layout_file.layout_from_dict(plain | {"name": "copy"})
    for field in ("count", "groups", "eye_corners", "pupils", "edges"):
        assert getattr(after, field) == getattr(before, field), field
    np.testing.assert_array_equal(after.flip, before.flip)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flips": []}, "has the key 'flips'; did you mean 'flip'"),
        ({"name": "ibug68"}, "not a known layout's name"),
        ({"name": "a/b"}, "letters, digits"),
        ({"names": ["a", "b", "a"]}, "two points with the name 'a'"),
        ({"names": ["1", "2"]}, "mistaken for an index"),
        ({"names": "ab"}, "not a list of words"),
        ({"count": 6}, "5 names for 6 points"),
        ({"count": "many"}, "needs count"),
        ({"count": 10**12}, "needs count"),
        ({"flip": None}, "lacks flip"),
        ({"flip": [[0, 1, 2]]}, r"flip: \[0, 1, 2\]; it must be 2 points"),
        ({"flip": [[0, 1], [1, 2]]}, "point 1 twice among the flip pairs"),
        ({"flip": [[2, 2]]}, "point 2 twice"),
        ({"flip": [["re", "lee"]]}, "refers to 'lee', which is no point's index or name"),
        ({"flip": [[0, 5]]}, "points run from 0 to 4"),
        ({"flip": [[0, -1]]}, "points run from 0 to 4"),
        ({"flip": [[0, True]]}, "refers to 'True'"),
        ({"flip": []}, "eye_corners that are not each other's mirror images"),
        ({"eye_corners": [0]}, r"eye_corners: \[0\]; it must be 2 points"),
        ({"pupils": [0, 1]}, "pupils: 0; it must be a list"),
        ({"pupils": [[0]]}, "not two lists"),
        ({"groups": [1]}, "must map parts of the face"),
        ({"groups": {"nose": []}}, "no points in nose"),
        ({"groups": {"right_eye": [0], "left_eye": [2]}}, "right_eye and left_eye that are not"),
        ({"edges": [[0]]}, "it must be 2 points"),
    ],
)
def test_layouts_that_are_wrong(change, message):
    with pytest.raises(InputError, match=message):
        layout_file.layout_from_dict(MINE | change)


def test_layouts_by_number():
    assert [layout_file.by_count(n) for n in (68, 54, 70, 98, 29, 5)] == [
        "ibug68", "sf_tl54", "tfake70", "wflw98", "cofw29", "tfw5"
    ]  # fmt: skip
    with pytest.raises(InputError, match="The first label has 3 points, which is no known layout"):
        layout_file.by_count(3)


def test_yaml_files(place):
    path = place / "my points.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump({k: v for k, v in MINE.items() if k != "name"}).encode())
    assert layout_file.read_layout(path).name == "my_points"
    for content, message in (("a: [", "is not YAML"), ("- 1", "bare list"), ("count: 2\nflip: []\n", None)):
        path.write_text(content)
        if message:
            with pytest.raises(InputError, match=message):
                layout_file.read_layout(path)
        else:
            assert layout_file.read_layout(path).count == 2


_POINTS = st.integers(-1, 6) | st.sampled_from(["re", "le", "nose", "", "1"])


_LISTS = st.lists(st.lists(_POINTS, max_size=3) | _POINTS, max_size=4)


_LAYOUT = st.fixed_dictionaries({}, optional={
    "name": st.text(max_size=3), "count": st.integers(-1, 7), "names": st.just(MINE["names"]) | trees.JSON,
    "flip": st.just(MINE["flip"]) | _LISTS, "eye_corners": _LISTS, "pupils": _LISTS, "edges": _LISTS,
    "groups": st.dictionaries(st.sampled_from(["right_eye", "left_eye"]), _LISTS, max_size=2) | trees.JSON,
})  # fmt: skip


@FUZZ
@given(content=_LAYOUT | trees.JSON)
def test_any_layout_is_read_or_refused(content):
    try:
        layout = layout_file.layout_from_dict(content)
    except InputError:
        return
    again = layout_file.layout_from_dict(json.loads(json.dumps(layout_file.layout_to_dict(layout))))
    assert again.flip.tolist() == layout.flip.tolist() and again.groups == layout.groups
    assert (layout.flip[layout.flip] == np.arange(layout.count)).all()


_YAML = st.lists(
    st.sampled_from(["count: ", "2", "\n", "flip: ", "[", "]", "{", "!!int ''", "&a", "*a", ": ", "- ", "'"])
)


@FUZZ
@given(content=st.binary(max_size=60) | _YAML.map(lambda words: "".join(words).encode()))
def test_any_yaml_is_read_or_refused(place, content):
    path = place / "fuzzed.yaml"
    path.write_bytes(content)
    try:
        assert layout_file.read_layout(path).count >= 1
    except InputError as error:
        assert "fuzzed.yaml" in str(error)
