"""Hostile label files of every form in docs/files.md, and other files of a user's folder: labels or an InputError."""

import json
import time

import numpy as np
import pytest
import test_docs_files as page
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlcm_jax.data import boxes as face_boxes
from mlcm_jax.errors import InputError
from mlcm_jax.files import write_json
from mlcm_jax.inference import predict_files
from tfds_builders import formats
from tfds_builders.paired_folder import folder, labels, thermal_kind
from tfds_builders.paired_folder import paired_folder_dataset_builder as builder
from tfds_builders.paired_folder.named_points import Wanted

FUZZ = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
FORMS = {name: text for name, text in page.EXAMPLES.items() if name != ".npy"}
NOISE = st.sampled_from(
    ["", "0", "-", "1e999", "NaN", "null", "[", "{", '"', "<", ",", ";", "\n", "\0", "é", "9" * 5000]
)


def ending_of(name):
    return page.ENDINGS.get(name) or page.ENDINGS.get(name.split(",")[0]) or ".json"


def damaged(data, text):
    """Cuts a text off, or replaces some of it by noise."""
    for _ in range(data.draw(st.integers(0, 4))):
        place, skip = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 12))
        text = text[:place] + data.draw(NOISE) + text[place + skip :]
    return text[: data.draw(st.integers(0, len(text)))] if data.draw(st.booleans()) else text


def check(path, read):
    """Reads a file; returns what was read, or None if it was refused in one line."""
    start = time.thread_time()  # of this thread's own work, so that a busy machine does not matter
    try:
        return read(path)
    except InputError as error:
        assert "\n" not in str(error).strip()
        return None
    finally:
        assert time.thread_time() - start < 6.0  # on an idle, slow machine, it takes 1 s


@FUZZ
@given(data=st.data(), name=st.sampled_from(sorted(FORMS)), whole=st.booleans())
def test_damaged_labels_are_read_or_refused(tmp_path, data, name, whole):
    path = tmp_path / f"a{ending_of(name)}"
    path.write_text(damaged(data, FORMS[name]), encoding="utf-8")
    resolve = folder.Names({"rgb": {"a": "rgb/a.png"}}, tmp_path)
    read = labels.read_all if whole else lambda path, *rest: labels.read_each({"a": path}, *rest)
    found = check(path, lambda path: read(path, resolve, Wanted(3)))
    for face in (face for some in (found or ({},))[0].values() for face in some):
        assert face.landmarks is None or (np.isfinite(face.landmarks).all() and face.landmarks.shape[1] == 2)
        assert face.box is None or np.isfinite(face.box).all()


@FUZZ
@given(content=st.binary(max_size=60), ending=st.sampled_from([*labels.ENDINGS, ".tsv"]), text=st.booleans())
def test_any_bytes_are_read_or_refused(tmp_path, content, ending, text):
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"version: 1\nn_points: 3\n{" + content if text else content)
    resolve = folder.Names({"rgb": {"a": "rgb/a.png"}}, tmp_path)
    check(path, lambda path: labels.read_each({"a": path}, resolve, Wanted(3)))
    check(path, lambda path: labels.read_all(path, resolve, Wanted(3)))


OTHERS = {
    "boxes.csv": (
        "name,x,y,w,h\na,1,2,3,4\nb#2,5,6,7,8\n",
        lambda path: labels.read_boxes(path, lambda name, path: name),
    ),
    "boxes.json": (
        '{"a": [1, 2, 3, 4], "b#2": [5, 6, 7, 8]}',
        lambda path: labels.read_boxes(path, lambda name, path: name),
    ),
    "boxes of predict.json": ('{"a.png": [1, 2, 3, 4]}', face_boxes.read_boxes),
    "subjects.csv": ("name,subject\na,anna\nb,2\n", lambda path: builder._subjects(path, lambda name, path: name)),
    "palette.csv": ("r,g,b\n0,0,0\n255,9,9\n", lambda path: thermal_kind.read_palette(str(path), path.parent)),
    "exclude.txt": ("# names\nthermal/a.png\n", formats.read_lines),
    "predictions.json": ('{"a.png": {"faces": [], "box": null}}', predict_files._earlier),
}


@FUZZ
@given(data=st.data(), name=st.sampled_from(sorted(OTHERS)))
def test_other_files_are_read_or_refused(tmp_path, data, name):
    text, read = OTHERS[name]
    path = tmp_path / name
    if data.draw(st.booleans()):
        path.write_text(damaged(data, text), encoding="utf-8")
    else:
        path.write_bytes(data.draw(st.binary(max_size=40)))
    check(path, read)


ROWS = "".join(f"{k} {k}\n" for k in range(50_000))
LARGE = {
    "deep.json": "[" * 200_000, "digits.json": '{"a": [[' + "1" * 1_000_000 + ", 2]]}", "deep.xml": "<a>" * 200_000,
    "many.pts": "version: 1\nn_points: 4000000000\n{\n1 2\n}\n", "braces.pts": "{" * 500_000, "rows.txt": ROWS,
    "comments.pts": "version: 1\nn_points: 1\n" + "/" * 300_000 + "\n{\n1 2\n}", "commas.csv": "," * 2_000_000,
    "quotes.csv": '"' * 500_001, "numbers.xml": f'<annotations><image name="a"><points points="{"1," * 300_000}"/>',
    "entities.xml": '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;">]><annotations>&c;</annotations>',
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_large_files_are_read_or_refused_at_once(tmp_path, name):
    path = tmp_path / name
    path.write_text(LARGE[name])
    resolve = folder.Names({"rgb": {"a": "rgb/a.png"}}, tmp_path)
    found = check(path, lambda path: labels.read_each({"a": path}, resolve, Wanted(3)))
    assert (found is None) == (name not in ("rows.txt", "comments.pts"))


def test_labels_survive_json(tmp_path):
    write_json(tmp_path / "a.json", {"landmarks": np.float32([[1, 2], [3, 4]]), "box": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"landmarks": [[1.0, 2.0], [3.0, 4.0]], "box": None}
