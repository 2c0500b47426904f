"""Tests of a built paired_folder: changed options, damaged files, and another layout."""

import json
from pathlib import Path

import pytest
from test_paired_folder import build, write, write_labels

import tfds_builders
from mlcm_jax import layout_file
from mlcm_jax.data import build as datasets
from mlcm_jax.data.examples import Examples
from mlcm_jax.errors import InputError


def test_options_of_a_built_dataset(tmp_path, capsys):
    write_labels(tmp_path, write(tmp_path, ("a", "b")))
    build(tmp_path, layout=68)
    assert build(tmp_path, layout="68").LAYOUT == "ibug68"  # the same option again is accepted
    with pytest.raises(InputError, match=r"is built already, with no --splits; to use --splits=1,0,0, delete .*NAME"):
        build(tmp_path, splits="1,0,0")
    with pytest.raises(InputError, match=r"is built already, with --manual_dir="):
        tfds_builders.build("paired_folder", tmp_path / "built", manual_dir=tmp_path / "rgb")
    (tmp_path / "built/paired_folder/default/1.2.0/metadata.json").write_text("{")
    with pytest.raises(InputError, match=r"is damaged; delete that folder and build it again"):
        tfds_builders.load("paired_folder", tmp_path / "built")
    datasets.listing(str(tmp_path / "built"))  # reports the damage, and lists the other datasets
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["paired_folder/default", "damaged:"] for line in lines) and len(lines) > 10


def test_another_layout_of_the_same_name_is_refused(tmp_path):
    """Otherwise its flip pairs would be applied to points in another order."""
    write_labels(tmp_path, write(tmp_path, ("a", "b"), layout="tfw5"))
    own = {"count": 5, "flip": [[0, 1], [3, 4]]}
    (tmp_path / "mine.yaml").write_text(json.dumps(own))
    build(tmp_path, layout=str(tmp_path / "mine.yaml"), splits="1,0,0")
    (tmp_path / "mine.yaml").write_text(json.dumps(own | {"flip": [[0, 3], [1, 4]]}))
    other = layout_file.read_layout(tmp_path / "mine.yaml")
    builder = tfds_builders.load("paired_folder", tmp_path / "built")
    with pytest.raises(InputError, match="mine"):
        Examples(builder, "train", other)[0]


def test_a_truncated_file_is_reported(tmp_path):
    write_labels(tmp_path, write(tmp_path, ("a", "b")))
    builder = build(tmp_path)
    record = max(Path(builder.data_dir).glob("*.array_record*"), key=lambda path: path.stat().st_size)
    record.write_bytes(record.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"is cut off.*delete that folder and build it again"):
        build(tmp_path)
