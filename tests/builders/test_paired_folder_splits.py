"""Tests of the splits of paired_folder: lists, shares, people, and an image in two splits."""

import numpy as np
import pytest
from test_paired_folder import build, parse, write, write_labels

from mlcm_jax.errors import InputError
from tfds_builders import prepare
from tfds_builders.paired_folder import splits
from tfds_builders.prepare import Face


@pytest.mark.parametrize("value", ["0.8,0.1", "0.8,0.1,0.2", "1,1,-1", "8,1,1", "nan,0,0", "", "a"])
def test_shares_that_are_wrong(value):
    with pytest.raises(InputError, match="--splits="):
        splits.parse_shares(value)


def test_shares():
    assert splits.parse_shares(None) == (0.8, 0.1, 0.1)
    assert splits.parse_shares("70, 20, 10") == pytest.approx((0.7, 0.2, 0.1))


def test_lists_and_shares(tmp_path):
    written = write(tmp_path)
    write_labels(tmp_path, written)
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfa\r\nthermal/b.png\r\n")
    (tmp_path / "test.txt").write_text("s1/c\n")
    _, found, builder = parse(tmp_path)
    keys = {split: [face.extra["name"] for face in mine] for split, mine in found.items()}
    assert keys == {"train": ["a", "b"], "test": ["s1/c"], "unlabelled": []}
    assert builder.notes()["not_listed"] == 1  # d
    (tmp_path / "wrong.txt").write_text("thermal/d.png\nthermal/a.png")  # d is in no list
    built = build(tmp_path, "excluded", exclude=tmp_path / "wrong.txt")
    assert {split: info.num_examples for split, info in built.info.splits.items()} == {"train": 1, "test": 1}
    with pytest.raises(InputError, match=r"--splits=0.5,0.5,0 and .*train\.txt exclude each other"):
        parse(tmp_path, splits="0.5,0.5,0")
    (tmp_path / "val.txt").write_text("c\na\n")
    with pytest.raises(InputError, match=r"val\.txt names 'a', which is in the split train already"):
        parse(tmp_path)
    (tmp_path / "val.txt").write_text("ghost\n")
    with pytest.raises(InputError, match="1 of 4 faces lacks an image: ghost lacks its"):
        build(tmp_path)
    (tmp_path / "val.txt").write_text("../a\n")
    with pytest.raises(InputError, match=r"val\.txt names the file '\.\./a', which lies outside"):
        parse(tmp_path)


def test_nobody_changes_splits_when_images_are_added():
    people = {f"p{k}": [Face(f"p{k}", subject=f"s{k // 3}")] for k in range(3000)}
    placed = splits.by_subject(people, (0.8, 0.1, 0.1))
    shares = [len(placed[split]) / 3000 for split in splits.NAMES]
    np.testing.assert_allclose(shares, (0.8, 0.1, 0.1), atol=0.03)
    owner = {face.subject: split for split, mine in placed.items() for face in mine}
    fewer = splits.by_subject({k: v for k, v in people.items() if int(k[1:]) % 2}, (0.8, 0.1, 0.1))
    assert all(owner[face.subject] == split for split, mine in fewer.items() for face in mine)
    assert sum(map(len, placed.values())) == 3000
    prepare.check_subjects(placed)


def test_small_datasets_leave_no_split_empty_and_people_who_share_an_image_stay_together():
    few = {name: [Face(name)] for name in "abc"}
    assert [len(mine) for mine in splits.by_subject(few, (0.8, 0.1, 0.1)).values()] == [1, 1, 1]
    assert [len(mine) for mine in splits.by_subject(few, (1.0, 0.0, 0.0)).values()] == [3, 0, 0]
    chain = {k: [Face(k, subject=s) for s in pair] for k, pair in {"a": "xy", "b": "yz", "c": "zw"}.items()}
    assert sorted(len(mine) for mine in splits.by_subject(chain, (0.4, 0.3, 0.3)).values()) == [0, 0, 6]


def test_a_person_may_have_labelled_and_unlabelled_images(tmp_path):
    written = write(tmp_path, ("a", "b"))
    write_labels(tmp_path, {"a": written["a"]})
    (tmp_path / "subjects.csv").write_text("name,subject\na,anna\nb,anna\n")
    builder = build(tmp_path)
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {"train": 1, "unlabelled": 1}


def test_an_image_in_two_splits_is_refused(tmp_path):
    write_labels(tmp_path, write(tmp_path, ("a", "b", "c")))
    (tmp_path / "thermal/b.png").write_bytes((tmp_path / "thermal/a.png").read_bytes())
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        (tmp_path / f"{split}.txt").write_text(name)
    with pytest.raises(InputError, match=r"1 image is in two splits: thermal/b\.png of val is also thermal/a\.png"):
        build(tmp_path)
