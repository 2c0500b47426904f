"""Tests of webmorph_faces: a tiny tree of the same form, mistakes in it, and the real dataset if it is on disk."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import trees

import tfds_builders
from mlcm_jax.errors import InputError

REAL = Path(__file__).parents[3] / "shared/data/webmorph_faces"
NAMES = {"train": ["london_001", "canada_008f"], "val": ["london_002"], "test": ["canada_026f"]}
DOT = 30  # this landmark has integer coordinates, and a bright dot marks it
SIZES = {"london": (96, 96), "canada": (72, 96)}


def write(folder: Path) -> dict[str, np.ndarray]:
    """Writes the tree; name -> landmarks, from 0."""
    rng = np.random.default_rng(0)
    written = {}
    for split, names in NAMES.items():
        folder.mkdir(exist_ok=True)
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            size = SIZES[name.partition("_")[0]]
            points = trees.make_points("ibug68", size, rng)
            points[DOT] = points[DOT].round()
            image = trees.make_image(size, rng, channels=1, dots=[points[DOT]])
            trees.write_image(folder / "images" / f"{name}.jpg", image)
            write_pts(folder / "images" / f"{name}.pts", points)
            written[name] = points
    return written


def write_pts(path: Path, points: np.ndarray) -> None:
    rows = "".join(f"{x + 1:.3f} {y + 1:.3f}\n" for x, y in points.astype(float))
    path.write_text(f"version: 1\nn_points:  {len(points)}\n{{\n{rows}}}\n")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("webmorph")
    written = write(folder / "source")
    return tfds_builders.build("webmorph_faces", folder / "built", manual_dir=folder / "source"), written, folder


def test_landmarks_images_splits_and_subjects(built):
    builder, written, folder = built
    assert builder.LAYOUT == "ibug68" and set(builder.info.splits) == {"train", "val", "test"}
    for split, names in NAMES.items():
        examples = trees.read_back("webmorph_faces/all", split, folder / "built")
        assert list(examples) == [f"images/{name}.jpg" for name in names]
        for name in names:
            example = examples[f"images/{name}.jpg"]
            np.testing.assert_allclose(example["landmarks"], written[name], atol=2e-3)
            assert example["metadata"]["subject"] == name
            assert example["rgb"].shape == (*SIZES[name.partition("_")[0]][::-1], 3) and example["visible"].all()
            x, y = example["landmarks"][DOT].round().astype(int)
            gray = example["rgb"].max(-1).astype(int)
            assert gray[y, x] > 180 and np.unravel_index(gray.argmax(), gray.shape) == (y, x)
        trees.check_flips(examples.values(), "ibug68")


def test_the_counts_differ_from_the_published_ones(built):
    assert "2 train (published: 97)" in " ".join(built[0].info.metadata["remarks"])


def _spoil_bom(folder):
    for name in ("train.txt", "images/london_001.pts"):
        text = (folder / name).read_text()
        (folder / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())


def _spoil_swapped(folder):
    for path in (folder / "images").glob("*.pts"):
        rows = [line.split() for line in path.read_text().splitlines()[3:-1]]
        write_pts(path, np.array(rows, np.float32)[:, ::-1] - 1)


@pytest.mark.parametrize(("spoil", "remark"), [(_spoil_bom, ""), (_spoil_swapped, r"rows \[y, x\]")])
def test_odd_files_are_read(tmp_path, spoil, remark):
    written = write(tmp_path / "source")
    spoil(tmp_path / "source")
    builder = tfds_builders.build("webmorph_faces", tmp_path / "built", manual_dir=tmp_path / "source")
    example = builder.as_data_source(split="train")[0]
    expected = written["london_001"][:, ::-1] if remark else written["london_001"]
    np.testing.assert_allclose(example["landmarks"], expected, atol=2e-3)
    remarks = " ".join(builder.info.metadata["remarks"])
    assert (remark == "") == ("[y, x]" not in remarks)


def _replace(name, old, new):
    def spoil(folder):
        path = folder / name
        path.write_text(path.read_text().replace(old, new))

    return spoil


def _truncate(folder):
    path = folder / "images/london_001.jpg"
    path.write_bytes(path.read_bytes()[:600])


def _short(folder):
    write_pts(folder / "images/london_001.pts", np.ones((51, 2), np.float32))


def _outside(folder):
    write_pts(folder / "images/london_001.pts", np.full((68, 2), 500.0) + np.arange(68)[:, None])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_replace("train.txt", "london_001", "../../secret"), r"train\.txt names the file .*outside"),
        (_replace("train.txt", "london_001", "london_077"), r"london_077\.pts does not exist"),
        (_replace("images/london_001.pts", "\n}", "\nnan nan\n}"), "not finite"),
        (_short, "holds 51 points; there must be 68"),
        (_truncate, r"london_001\.jpg is damaged"),
        (_outside, "68 of 68 landmarks lie outside the image, which is 96 x 96"),
        (lambda folder: (folder / "val.txt").write_text("london_001\n"), "occurs twice among the faces"),
        (lambda folder: (folder / "images/london_001.jpg").unlink(), r"1 of 4 faces lacks an image: .*--allow_missing"),
    ],
)
def test_mistakes(tmp_path, spoil, message):
    write(tmp_path / "source")
    spoil(tmp_path / "source")
    with pytest.raises(InputError, match=message):
        tfds_builders.build("webmorph_faces", tmp_path / "built", manual_dir=tmp_path / "source")
    assert not (tmp_path / "built/webmorph_faces/all/1.1.0").exists()


def test_a_missing_image_is_left_out_on_demand(tmp_path):
    write(tmp_path / "source")
    (tmp_path / "source/images/london_001.jpg").unlink()
    options = {"manual_dir": tmp_path / "source", "allow_missing": True}
    builder = tfds_builders.build("webmorph_faces", tmp_path / "built", **options)
    assert builder.info.splits["train"].num_examples == 1
    assert "images/london_001.jpg lacks" in builder.info.metadata["remarks"][0]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real webmorph_faces is not on disk")
def test_the_real_labels(tmp_path):
    faces = tfds_builders.load("webmorph_faces", tmp_path).parse(REAL)
    assert {split: len(mine) for split, mine in faces.items()} == {"train": 97, "val": 15, "test": 27}
    every = [face for mine in faces.values() for face in mine]
    assert len({face.subject for face in every}) == 139 and all(face.rgb.is_file() for face in every)
    first = next(face for face in every if face.subject == "canada_008f")
    np.testing.assert_allclose(first.landmarks[0], [73.602, 250.2], atol=1e-3)  # the file says 74.602 251.200, from 1


def refuse(monkeypatch, method, below):
    """Makes `Path.method` raise PermissionError for paths in the folder `below`."""
    real = getattr(Path, method)

    def refusing(self, *arguments, **options):
        if below in self.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, method, refusing)


@pytest.mark.parametrize("inside", [True, False], ids=["data_dir in the source", "apart"])
def test_the_error_of_an_unreadable_source_does_not_blame_the_data_dir(tmp_path, monkeypatch, inside):
    source = tmp_path / "source"
    write(source)
    refuse(monkeypatch, "stat", source / "images")
    with pytest.raises(InputError, match=r"^\S+images/\S+ cannot be read \(Perm.* by chmod -R u\+rX \S+source\.$"):
        tfds_builders.build("webmorph_faces", (source if inside else tmp_path) / "built", manual_dir=source)


def test_the_error_of_an_unwritable_data_dir_in_the_source_blames_the_data_dir(tmp_path, monkeypatch):
    source = tmp_path / "source"
    write(source)
    refuse(monkeypatch, "mkdir", source / "built")
    with pytest.raises(InputError, match=r"Cannot write the dataset to .*Permission denied.*choose another --data_dir"):
        tfds_builders.build("webmorph_faces", source / "built", manual_dir=source)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    write(closed / "source")
    closed.chmod(0)
    try:
        with pytest.raises(InputError, match=r"closed/source cannot be read \(Permission denied\); make it"):
            tfds_builders.build("webmorph_faces", tmp_path / "built", manual_dir=closed / "source")
    finally:
        closed.chmod(0o700)
