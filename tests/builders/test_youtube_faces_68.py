"""Tests of youtube_faces_68: a tiny tree of the same form, mistakes in it, and the real dataset if it is on disk."""

from pathlib import Path

import numpy as np
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

import tfds_builders
from mlcm_jax.errors import InputError

REAL = Path(__file__).parents[3] / "shared/data/youtube_faces_68"
NAMES = {
    "train": ["te_Abdel_Aziz_Al-Hakim_01.jpg", "tr_Abdel_Aziz_Al-Hakim_40.jpg"],
    "val": ["te_Abdullah_Gul_11.jpg"],
    "test": ["te_Adam_Sandler_01.jpg"],
}
HEADER = ["name", "identity", "split", "scale", *(f"{axis}{k}" for k in range(68) for axis in "xy")]
DOT = 33  # this landmark has integer coordinates, and a bright dot marks it


def write(folder: Path) -> dict[str, np.ndarray]:
    """Writes the tree; name -> landmarks."""
    rng = np.random.default_rng(1)
    written, lines = {}, [",".join(HEADER)]
    folder.mkdir(exist_ok=True)
    for split, names in NAMES.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for k, name in enumerate(names):
            points = trees.make_points("ibug68", (192, 192), rng)
            points[DOT] = points[DOT].round()
            trees.write_image(
                folder / "images" / name, trees.make_image((192, 192), rng, channels=1, dots=[points[DOT]])
            )
            numbers = ",".join(f"{value:.2f}" for value in points.ravel())
            lines.append(f"{name},{name[3:-7]},{split},{0.91 + k:.2f},{numbers}")
            written[name] = points
    (folder / "landmarks.csv").write_text("\n".join(lines) + "\n")
    return written


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("youtube")
    written = write(folder / "source")
    return tfds_builders.build("youtube_faces_68", folder / "built", manual_dir=folder / "source"), written, folder


def test_landmarks_images_splits_subjects_and_scale(built):
    builder, written, folder = built
    assert builder.LAYOUT == "ibug68"
    assert "research use only" in builder.info.redistribution_info.license
    for split, names in NAMES.items():
        examples = trees.read_back("youtube_faces_68/all", split, folder / "built")
        assert list(examples) == [f"images/{name}" for name in names]
        for k, name in enumerate(names):
            example = examples[f"images/{name}"]
            np.testing.assert_allclose(example["landmarks"], written[name], atol=0.00501)
            assert example["metadata"]["subject"] == name[3:-7]
            assert example["metadata"]["scale"] == pytest.approx(0.91 + k)
            x, y = example["landmarks"][DOT].round().astype(int)
            gray = example["rgb"].max(-1).astype(int)
            assert np.unravel_index(gray.argmax(), gray.shape) == (y, x) and gray[y, x] > 180
        trees.check_flips(examples.values(), "ibug68")


def test_the_counts_differ_from_the_published_ones(built):
    assert "2 train (published: 2,430)" in " ".join(built[0].info.metadata["remarks"])


def _parse(folder: Path):
    return tfds_builders.load("youtube_faces_68", folder).parse(folder)


def test_a_table_from_a_spreadsheet_reads_the_same(tmp_path):
    written = write(tmp_path)
    for path in (tmp_path / "landmarks.csv", tmp_path / "train.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_text().replace(",", ";").replace("\n", "\r\n").encode())
    face = _parse(tmp_path)["train"][1]
    np.testing.assert_allclose(face.landmarks, written[NAMES["train"][1]], atol=0.00501)
    assert face.extra["scale"].dtype == np.float32


def _replace(name, old, new):
    def spoil(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return spoil


def _double_row(folder):
    path = folder / "landmarks.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_replace("train.txt", "te_Abdel", "../te_Abdel"), r"train\.txt names the file .*outside"),
        (_replace("train.txt", "te_Abdel", "te_Babel"), "which has no row in"),
        (_replace("landmarks.csv", "x67", "x"), "no column 'x67'"),
        (_replace("landmarks.csv", ",0.91,", ",nan,"), "not finite"),
        (_replace("landmarks.csv", ",0.91,", ",fine,"), "holds 'fine' where a number"),
        (_replace("landmarks.csv", ",0.91,", ",0.91,1.0,"), "Row 2 of .* has 141 columns; the header has 140"),
        (_replace("landmarks.csv", ",train,", ",test,"), "is in the split 'test' according to"),
        (_double_row, "has two rows for 'te_Abdel"),
        (lambda folder: (folder / "val.txt").unlink(), r"has no val\.txt\. Download the frames"),
    ],
)
def test_mistakes(tmp_path, spoil, message):
    write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        _parse(tmp_path)


def test_spreadsheet_errors(tmp_path):
    write(tmp_path / "source")
    table = tmp_path / "source/landmarks.csv"
    lines = table.read_text().splitlines()
    cells = lines[1].split(",")
    lines[1] = ",".join([*cells[:9], "#VALUE!", *cells[10:]])
    table.write_text("\n".join([*lines, ",,,#DIV/0!" + "," * 136, ",,,,1" + "," * 135, ",,,,1" + "," * 135]))
    with pytest.raises(InputError, match=r"images/te_Abdel_Aziz_Al-Hakim_01.jpg: Landmark 2 is not a finite number"):
        tfds_builders.build("youtube_faces_68", tmp_path / "built", manual_dir=tmp_path / "source")
    (tmp_path / "wrong.txt").write_text("images/te_Abdel_Aziz_Al-Hakim_01.jpg")
    options = {"manual_dir": tmp_path / "source", "exclude": tmp_path / "wrong.txt"}
    assert tfds_builders.build("youtube_faces_68", tmp_path / "x", **options).info.splits["train"].num_examples == 1


def test_one_person_in_two_splits(tmp_path):
    write(tmp_path / "source")
    _replace("landmarks.csv", "Abdullah_Gul,val", "Abdel_Aziz_Al-Hakim,val")(tmp_path / "source")
    with pytest.raises(InputError, match="Subject Abdel_Aziz_Al-Hakim is in the splits train and val"):
        tfds_builders.build("youtube_faces_68", tmp_path / "built", manual_dir=tmp_path / "source")


@settings(max_examples=40, derandomize=True)
@given(
    content=st.binary(max_size=200)
    | st.lists(st.sampled_from([*HEADER[:6], ",", "\n", "1"])).map("".join).map(str.encode)
)
def test_any_table_is_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    for split in ("train", "val", "test"):
        (folder / f"{split}.txt").write_text("a.jpg\n")
    (folder / "landmarks.csv").write_bytes(content)
    with pytest.raises(InputError):  # none of these has 140 columns
        _parse(folder)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real youtube_faces_68 is not on disk")
def test_the_real_labels(tmp_path):
    faces = tfds_builders.load("youtube_faces_68", tmp_path).parse(REAL)
    assert {split: len(mine) for split, mine in faces.items()} == {"train": 2430, "val": 350, "test": 690}
    people = {split: {face.subject for face in mine} for split, mine in faces.items()}
    assert {split: len(names) for split, names in people.items()} == {"train": 243, "val": 35, "test": 69}
    first = next(face for face in faces["train"] if face.key == "images/te_Abdel_Aziz_Al-Hakim_01.jpg")
    np.testing.assert_allclose(first.landmarks[:2], [[26.93, 75.84], [30.59, 95.96]], atol=1e-4)
    assert first.extra["scale"] == pytest.approx(0.91) and first.rgb.is_file()
