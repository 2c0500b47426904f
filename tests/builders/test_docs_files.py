"""Tests of docs/files.md: every example of a label file is read, and every row of its table has an example."""

import re
from pathlib import Path

import numpy as np
import pytest

from tfds_builders.paired_folder import folder, labels
from tfds_builders.paired_folder.named_points import Wanted

PAGE = (Path(__file__).parents[2] / "docs/files.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^### ([^\n]*)\n\n```\w*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
ROWS = dict(re.findall(r"^\| \[(.*?)\]\(#.*?\)(.*)$", PAGE, re.MULTILINE))
ENDINGS = {".pts": ".pts", ".npy": ".npy", "rows of x, y": ".txt", "CVAT": ".xml", "CSV": ".csv", "VIA, CSV": ".csv"}


def test_every_row_has_an_example_and_a_link_to_it():
    assert list(ROWS) == list(EXAMPLES) and len(ROWS) == 14
    links = re.findall(r"^\| \[.*?\]\(#(.*?)\)", PAGE, re.MULTILINE)
    assert links == [re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in EXAMPLES]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example(tmp_path, name):
    ending = ENDINGS.get(name) or ENDINGS.get(name.split(",")[0]) or ".json"
    path = tmp_path / f"a{ending}"
    if ending == ".npy":
        exec(EXAMPLES[name], {"np": np, "path": path})
    else:
        path.write_text(EXAMPLES[name], encoding="utf-8")
    resolve = folder.Names({"rgb": {"a": "rgb/a.png"}}, tmp_path)
    cells = [cell.strip() for cell in ROWS[name].split("|")]
    found, remarks = labels.read_each({"a": path}, resolve, Wanted(3))
    if "all" in cells[1] and name != "JSON":
        assert list(labels.read_all(path, resolve, Wanted(3))[0]) == ["a"]
    (face,) = found.pop("a")
    assert not found and not remarks and face.known.all() and face.visible.all()
    np.testing.assert_array_equal(face.landmarks, np.float32([[10.5, 20], [30.25, 21], [20, 40.5]]))
    assert (face.box is None) == (cells[4] == "–") and face.box in (None, (5, 6, 45, 54))
    assert face.size in (None, (64, 80))
