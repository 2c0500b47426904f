"""`mlcm build`: the summary of a dataset, the contact sheet, and the list of all datasets."""

import cv2
import numpy as np
import pytest
from made import MadeBuilder, face

import tfds_builders
from mlcm_jax.data import build, draw


@pytest.fixture
def made(monkeypatch, tmp_path):
    """`made(splits)` makes a dataset, which `build.build` then uses instead of one on disk."""

    def make(splits, **options):
        builder = MadeBuilder(splits, **options)
        builder.data_dir = str(tmp_path)
        monkeypatch.setattr(tfds_builders, "build", lambda name, data_dir, **options: builder)
        return builder

    return make


@pytest.fixture
def shown(monkeypatch):
    """The keys of the examples that would be on the contact sheet, which is not drawn."""
    keys = []
    monkeypatch.setattr(draw, "contact_sheet", lambda path, rows, layout: keys.extend(row["key"] for row in rows))
    return keys


def faces(count, **changes):
    return [face(key=str(k), dark=np.bool_(k % 3 == 0), **changes) for k in range(count)]


def test_default_folder_of_data(monkeypatch, tmp_path):
    monkeypatch.setenv("MLCM_DATA_DIR", str(tmp_path))
    assert build.default_data_dir() == str(tmp_path)
    monkeypatch.delenv("MLCM_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert build.default_data_dir() == str(tmp_path / "cache" / "mlcm_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build.default_data_dir() == str(tmp_path / ".cache" / "mlcm_jax")


def test_summary_names_splits_sizes_and_remarks(made, tmp_path, capsys):
    unions, subsets = {"full": ("train", "test")}, {"dark": ("train", "dark")}
    builder = made({"train": faces(1200), "test": faces(2)}, unions=unions, subsets=subsets)
    builder.info.metadata["splits"]["train"] |= {
        "invisible": 0.034,
        "sizes": {"9x9": 1100, "8x9": 60, "7x9": 30, "6x9": 10},
    }
    builder.info.metadata["remarks"] = ["2 images are missing"]
    assert build.build("made", "elsewhere") == tmp_path
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == f"made is built in {tmp_path}"
    assert "train 1,200 9x9 (1,100), 8x9 (60), 7x9 (30), … 3.4 %" in lines
    assert "test 2" in lines
    assert "full 1,202 (from other splits)" in lines and "dark 400 (from other splits)" in lines
    assert "Note: 2 images are missing" in lines
    assert lines[-1] == f"Look at {tmp_path / 'preview.png'}: are the numbers where they belong?"


def test_preview_is_drawn_once(made, tmp_path):
    made({"train": faces(2)})
    build.build("made", "elsewhere")
    assert cv2.imread(str(tmp_path / "preview.png")).shape[1] > 1000
    (tmp_path / "preview.png").write_text("kept")
    build.build("made", "elsewhere")
    assert (tmp_path / "preview.png").read_text() == "kept"


def test_preview_is_spread_over_the_training_split(made, shown):
    made({"challenge": faces(3), "train": faces(31)})
    build.build("made", "elsewhere")
    assert shown == [str(k) for k in range(0, 31, 2)]


@pytest.mark.parametrize(("splits", "count"), [(("unlabelled", "val"), 2), (("unlabelled",), 4)])
def test_preview_prefers_labelled_examples(made, shown, splits, count):
    labelled = {"val": faces(2), "unlabelled": faces(4, landmarks=np.full((5, 2), np.nan, np.float32))}
    made({split: labelled[split] for split in splits})
    build.build("made", "elsewhere")
    assert len(shown) == count


def test_listing_has_every_dataset_and_what_is_built(data_dir, capsys):
    build.listing(str(data_dir))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    found = {line.split()[0]: line for line in lines[1:]}
    assert found.keys() == {*tfds_builders.names(), "synthetic_faces/48x48"}
    total = sum(
        split.num_examples for split in tfds_builders.load("synthetic_faces/48x48", data_dir).info.splits.values()
    )
    assert found["synthetic_faces/48x48"] == f"synthetic_faces/48x48 rgb + thermal 68 {total:,} examples"
    assert found["cofw/all"] == "cofw/all rgb 29 no"
