"""Tests of synthetic_faces: the built records, interrupted builds, and names of configs."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import made_head
import numpy as np
import pytest

import tfds_builders
from mlcm_jax.errors import InputError
from mlcm_jax.synthetic import generate, scan_head, scan_model, workers
from tfds_builders import rendered
from tfds_builders.synthetic_faces import synthetic_faces_dataset_builder as faces

# The handler is set because processes that a shell starts in the background ignore SIGINT.
BUILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import tfds_builders
tfds_builders.build(sys.argv[1], sys.argv[2])
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """68 pairs of 17 people, so that no split is empty, and their folder."""
    folder = tmp_path_factory.mktemp("faces")
    return tfds_builders.build("synthetic_faces/68x32-40", folder), folder


def _read(builder, split):
    source = builder.as_data_source(split=split)
    return [source[i] for i in range(len(source))]


def test_splits_share_no_person_and_lose_no_pair(built):
    builder, _ = built
    subjects, indices = {}, []
    for split in ("train", "val", "test"):
        examples = _read(builder, split)
        assert len(examples) == builder.info.splits[split].num_examples
        subjects[split] = {int(e["subject"]) for e in examples}
        indices += [int(e["index"]) for e in examples]
        assert {rendered.split_of(s) for s in subjects[split]} == {split}
    assert sorted(indices) == list(range(68))
    assert not subjects["train"] & subjects["val"] and not subjects["train"] & subjects["test"]
    assert not subjects["val"] & subjects["test"]


def test_splits_are_about_80_7_13_per_cent():
    counts = {
        split: sum(rendered.split_of(s) == split for s in range(5000)) / 5000 for split in ("train", "val", "test")
    }
    assert counts == pytest.approx({"train": 0.80, "val": 0.067, "test": 0.133}, abs=0.005)


def test_records_hold_what_was_rendered(built):
    for example in _read(built[0], "val"):
        pair = generate.example(0, int(example["index"]), size=(32, 40))
        for key in ("landmarks", "rgb_landmarks", "jaw3d", "visible", "box", "pose"):
            # Workers use one BLAS thread, which may round the last bit differently.
            np.testing.assert_allclose(example[key], pair[key], atol=1e-4, err_msg=key)
            assert example[key].dtype == pair[key].dtype
        assert (example["thermal"][..., 0] == pair["thermal"]).mean() > 0.98
        celsius = generate.to_celsius(example["celsius"])[..., 0]
        assert (np.abs(celsius - pair["celsius"]) < 0.0051).mean() > 0.98
        assert example["celsius"].dtype == np.uint16 and example["rgb"].dtype == np.uint8
        assert np.abs(example["rgb"].astype(int) - pair["rgb"]).mean() < 4.0
        assert example["light"] == pytest.approx(pair["light"], abs=1e-6)


def test_a_second_build_renders_nothing(built, monkeypatch):
    def never(*_, **__):
        raise AssertionError("rendered again")

    monkeypatch.setattr(workers, "render", never)
    again = tfds_builders.build("synthetic_faces/68x32-40", built[1])
    assert len(again.as_data_source(split="train")) == len(built[0].as_data_source(split="train"))


def test_a_missing_file_is_reported(tmp_path):
    builder = tfds_builders.build("synthetic_faces/16x32", tmp_path)
    next(Path(builder.data_dir).glob("*-test.array_record*")).unlink()
    with pytest.raises(InputError, match=r"damaged .*test.*missing.* delete"):
        tfds_builders.build("synthetic_faces/16x32", tmp_path)


def _children(pid):
    """Process ids of the workers of a process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def _gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _interrupt(process, root, how):
    """Sends a signal during rendering; returns the ids of the workers."""
    deadline = time.monotonic() + 60
    while not (list(root.glob("incomplete.*_1.0.0")) and _children(process.pid)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.0)
    helpers = _children(process.pid)
    process.send_signal(how)
    process.communicate(timeout=30)
    return helpers


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_build_does_not_pass_for_complete(tmp_path, how):
    name = "synthetic_faces/2000x32"
    root = tmp_path / "synthetic_faces" / "2000x32"
    with subprocess.Popen([sys.executable, "-c", BUILD, name, str(tmp_path)], stderr=subprocess.PIPE) as process:
        try:
            helpers = _interrupt(process, root, how)
        finally:
            process.kill()
    assert process.returncode != 0
    assert not (root / "1.0.0").exists()
    assert not tfds_builders.load(name, tmp_path).info.splits
    deadline = time.monotonic() + 30
    while not all(map(_gone, helpers)):  # workers end by themselves when nobody reads from them
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_build_removes_incomplete_folders(tmp_path):
    left = tmp_path / "synthetic_faces" / "16x32" / "incomplete.ABC123_1.0.0"
    left.mkdir(parents=True)
    (left / "synthetic_faces-train.array_record-00000-of-00001").write_bytes(b"half")
    builder = tfds_builders.build("synthetic_faces/16x32", tmp_path)
    assert not left.exists()
    assert sum(split.num_examples for split in builder.info.splits.values()) == 16


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("synthetic_face/tiny", "did you mean 'synthetic_faces'"),
        ("mnist", "there are synthetic_faces, synthetic_scenes, paired_folder"),
        ("synthetic_faces/tinny", "did you mean 'tiny'"),
        ("synthetic_faces/huge", "there are tiny, base, and sizes such as 6000x96"),
        ("synthetic_faces/scan-64", "scan-6000x96"),
        ("synthetic_faces/scan-4x96", "there can be 16 to"),
        ("synthetic_faces/0x96", "there can be 16 to"),
        ("synthetic_faces/100x7", "sides run from 32"),
        ("synthetic_faces/100x96-64", "the smaller first"),
        ("synthetic_faces/-5x96", "Unknown config"),
        ("synthetic_faces/1e4x96", "Unknown config"),
        ("synthetic_faces/١٠٠x96", "Unknown config"),
        ("", "Unknown dataset"),
    ],
)
def test_unknown_names(name, message, tmp_path):
    with pytest.raises(InputError, match=message):
        tfds_builders.build(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_known_names():
    assert tfds_builders.names()[:2] == ["synthetic_faces/tiny", "synthetic_faces/base"]
    tiny = rendered.parse_config("tiny", faces.SyntheticFaces.FAMILY)
    assert (tiny.count, tiny.size) == (1200, (64, 96))
    free = rendered.parse_config("6000x64-96", faces.SyntheticFaces.FAMILY)
    assert (free.count, free.size, free.name) == (6000, (64, 96), "6000x64-96")
    assert rendered.parse_config("0100x064-064", faces.SyntheticFaces.FAMILY).name == "100x64"


def test_scan_based_heads_need_their_model(tmp_path):
    assert rendered.parse_config("scan-0100x064-064", faces.SyntheticFaces.FAMILY).name == "scan-100x64"
    with pytest.raises(InputError, match=r"needs the head model .* in --manual_dir. Clone https://github.com/ICT-VGL"):
        tfds_builders.build("synthetic_faces/scan-16x32", tmp_path / "data")
    with pytest.raises(InputError, match=r"holds no scan-based head model: .* Clone"):
        tfds_builders.build("synthetic_faces/scan-16x32", tmp_path / "data", manual_dir=tmp_path)
    with pytest.raises(InputError, match=r"16x32 takes no --manual_dir"):
        tfds_builders.build("synthetic_faces/16x32", tmp_path / "data", manual_dir=tmp_path)


def test_scan_based_heads_are_built_from_a_clone(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_model, "IDENTITIES", made_head.IDENTITIES)
    clone = made_head.write(tmp_path / "ICT-FaceKit")
    builder = tfds_builders.build("synthetic_faces/scan-16x32", tmp_path / "data", manual_dir=clone)
    heads = scan_head.load(clone)
    for example in _read(builder, "train"):
        pair = generate.example(0, int(example["index"]), size=32, heads=heads)
        np.testing.assert_allclose(example["landmarks"], pair["landmarks"], atol=1e-4)
        assert (example["thermal"][..., 0] == pair["thermal"]).mean() > 0.98
    # A built dataset needs the model no longer, and leaves nothing but records.
    assert len(tfds_builders.build("synthetic_faces/scan-16x32", tmp_path / "data").as_data_source(split="train"))
    assert [path.name for path in (tmp_path / "data/synthetic_faces/scan-16x32").glob("[!.]*")] == ["1.0.0"]


def test_a_full_disk_is_noticed_before_the_build(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(rendered.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**4))
    with pytest.raises(InputError, match=r"disk is full.*choose another --data_dir"):
        tfds_builders.build("synthetic_faces/16x32", tmp_path)
    assert not list(tmp_path.rglob("*.array_record*"))


def test_a_disk_that_fills_up_during_the_build(tmp_path, monkeypatch):
    def full(*_, **__):
        yield generate.encode(generate.example(0, 0, size=32))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(workers, "render", full)
    with pytest.raises(InputError, match=r"disk is full.*--data_dir"):
        tfds_builders.build("synthetic_faces/16x32", tmp_path)
    assert not (tmp_path / "synthetic_faces" / "16x32" / "1.0.0").exists()


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="Cannot write the dataset"):
        tfds_builders.build("synthetic_faces/16x32", tmp_path / "taken")
