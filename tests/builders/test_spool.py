"""Tests that splits of any size are written without TensorFlow, with the same files and order as by TFDS."""

import contextlib
import sys

import numpy as np
import pytest
import trees
from tensorflow_datasets.core import shuffle, writer

import tfds_builders
from tfds_builders import spool


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(12):
        for side, channels in (("rgb", 3), ("thermal", 1)):
            trees.write_image(tmp_path / "own" / side / f"{k}.png", trees.make_image((40, 40), rng, channels=channels))
        (tmp_path / "own" / "landmarks").mkdir(exist_ok=True)
        np.savetxt(tmp_path / "own" / "landmarks" / f"{k}.txt", rng.random((5, 2)) * 30)
    return tmp_path


def build(folder, where):
    builder = tfds_builders.build("paired_folder/own", folder / where, manual_dir=folder / "own", layout="tfw5")
    return {path.name: path.read_bytes() for path in builder.data_path.glob("*.array_record*")}


def test_files_equal_those_of_tfds_below_and_beyond_its_memory_limit(folder, monkeypatch):
    with monkeypatch.context() as plain:
        plain.setattr(spool, "instead_of_buckets", contextlib.nullcontext)
        expected = build(folder, "tfds")
    assert build(folder, "ours") == expected and len(expected) > 1
    # For a split larger than this buffer, TFDS's own shuffler would import TensorFlow.
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
    assert build(folder, "beyond") == expected and "tensorflow" not in sys.modules
    assert writer.shuffle.Shuffler is shuffle.Shuffler


@pytest.mark.parametrize("sorted_by", ["hash", "key"])
def test_records_come_in_the_order_of_tfds(tmp_path, sorted_by):
    options = {"hash_salt": "salt", "disable_shuffling": sorted_by == "key"}
    ours, theirs = spool._Spool(tmp_path, **options), shuffle.Shuffler(tmp_path, **options)
    for key in np.random.default_rng(0).permutation(50).tolist():
        for one in (ours, theirs):
            one.add(key, bytes([key]) * (1 + key))
    assert (ours.num_examples, ours.size) == (theirs.num_examples, theirs.size) == (50, sum(range(1, 51)))
    assert list(ours) == list(theirs)
    assert list(tmp_path.iterdir()) == []  # our file is unnamed
    ours.close()


def test_one_key_twice_is_an_error(tmp_path):
    records = spool._Spool(tmp_path, "salt")
    records.add("a", b"1")
    records.add("a", b"2")
    with pytest.raises(shuffle.DuplicatedKeysError):
        list(records)
    records.close()
