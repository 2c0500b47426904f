"""Tests of ibug_300w: a tiny tree with the real folders and odd names, built and read back, and error messages."""

import pathlib
import tempfile

import numpy as np
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

import tfds_builders
from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from tfds_builders.ibug_300w import ibug_300w_dataset_builder as ibug

SIZE = (72, 60)
IMAGES = {  # real names; one of ibug has a space, and LFPW has PNG files
    "train": ["afw/134212_1.jpg", "afw/134212_2.jpg", "helen/trainset/100032540_1.jpg", "lfpw/trainset/image_0001.png"],
    "common": ["helen/testset/296814969_3.jpg", "lfpw/testset/image_0001.png"],
    "challenge": ["ibug/image_003_1.jpg", "ibug/image_092 _01.jpg", "ibug/image_100 (2).jpg"],
}


def pts_text(points) -> str:
    """Returns a .pts file in the originals' form: two spaces, six decimals, counted from 1."""
    rows = "\n".join(f"{x + 1:.6f} {y + 1:.6f}" for x, y in np.asarray(points, np.float64))
    return f"version: 1\nn_points:  {len(points)}\n{{\n{rows}\n}}\n"


def write_tree(root) -> dict:
    """Writes all of IMAGES under `root`; returns key -> landmarks, counted from 0."""
    written = {}
    for name in (name for names in IMAGES.values() for name in names):
        rng = np.random.default_rng(len(written))
        points = trees.make_points("ibug68", SIZE, rng)
        points[30] = points[30].round()
        trees.write_image(root / name, trees.make_image(SIZE, rng, dots=[points[30]]))
        text = pts_text(points).encode()
        if len(written) % 2:
            text = b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")
        (root / name).with_suffix(".pts").write_bytes(text)
        written[name] = points
    return written


def build(root, data_dir, **options):
    return tfds_builders.build("ibug_300w", data_dir, manual_dir=root, **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ibug")
    root = folder / "300W"
    written = write_tree(root)
    # Redistributions and second downloads leave such files in the folders.
    for stray in ("afw/134212_1_mirror", "ibug/image_003_1 (1)"):
        points = written["afw/134212_1.jpg"]
        trees.write_image(root / f"{stray}.jpg", trees.make_image(SIZE, np.random.default_rng(99)))
        (root / f"{stray}.pts").write_text(pts_text(points))
    (root / "afw" / "._134212_1.pts").write_bytes(b"\x00\x05\x16\x07")
    (root / "afw" / "bounding_boxes_afw.mat").write_bytes(b"MATLAB 5.0")
    builder = build(root, folder / "built")
    return folder / "built", written, builder


def test_faces_are_read_back(built):
    data_dir, written, _ = built
    for split, names in IMAGES.items():
        examples = trees.read_back("ibug_300w", split, data_dir)
        assert list(examples) == names
        for name, example in examples.items():
            np.testing.assert_allclose(example["landmarks"], written[name], atol=1e-5)
            assert example["visible"].all() and example["rgb"].shape == (SIZE[1], SIZE[0], 3)
            x, y = written[name][30].astype(int)
            image = example["rgb"].astype(int).sum(2)
            # JPEG smears a dot, but no other pixel is as bright.
            assert np.unravel_index(image.argmax(), image.shape) == (y, x)
            np.testing.assert_allclose(example["box"], landmarks.box_from_points(written[name]), rtol=1e-5)
            assert example["metadata"]["subject"] == ""
        trees.check_flips(examples.values(), "ibug68")


def test_full_is_common_and_challenge(built):
    data_dir, _, builder = built
    assert builder.UNIONS == {"full": ("common", "challenge")} and builder.NORMALIZER == "outer_eyes"
    assert builder.EXPECTED == {"all": {"train": 337 + 2000 + 811, "common": 330 + 224, "challenge": 135}}
    both = trees.read_back("ibug_300w", "full", data_dir)
    assert list(both) == IMAGES["common"] + IMAGES["challenge"]


def test_copies_and_mirrored_images_are_left_out_with_a_remark(built):
    metadata = built[2].info.metadata
    mirrored, copies = metadata["remarks"][:2]
    assert mirrored.startswith("1 mirrored image") and mirrored.endswith("afw/134212_1_mirror.jpg.")
    assert copies.startswith("1 second download") and copies.endswith("ibug/image_003_1 (1).jpg.")
    assert any("3 challenge (published: 135)" in remark for remark in metadata["remarks"])


def test_points_outside_the_image_are_invisible(tmp_path):
    written = write_tree(tmp_path / "300W")
    name = "ibug/image_003_1.jpg"
    points = written[name]
    points[0], points[8] = (-3.25, 20.0), (40.0, SIZE[1] + 1.5)
    (tmp_path / "300W" / name).with_suffix(".pts").write_text(pts_text(points))
    build(tmp_path / "300W", tmp_path)
    example = trees.read_back("ibug_300w", "challenge", tmp_path)[name]
    np.testing.assert_allclose(example["landmarks"], points, atol=1e-5)
    assert np.flatnonzero(~example["visible"]).tolist() == [0, 8]


def test_rows_of_y_and_x_are_remarked(tmp_path):
    root = tmp_path / "300W"
    for name, points in write_tree(root).items():
        (root / name).with_suffix(".pts").write_text(pts_text(points[:, ::-1]))
    remarks = build(root, tmp_path).info.metadata["remarks"]
    assert any("[y, x]" in remark for remark in remarks)


def test_missing_files_are_listed_and_left_out_on_request(tmp_path):
    root = tmp_path / "300W"
    write_tree(root)
    (root / "lfpw/trainset/image_0001.png").unlink()
    with pytest.raises(InputError, match=r"1 of 9 faces lacks an image: lfpw/trainset/image_0001.*--allow_missing"):
        build(root, tmp_path)
    (root / "ibug/image_003_1.pts").unlink()
    with pytest.raises(
        InputError, match=r"^1 image has no labels: ibug/image_003_1\.jpg lacks image_003_1\.pts\. Complete"
    ):
        build(root, tmp_path)
    listing = tmp_path / "wrong.txt"
    listing.write_text("ibug/image_003_1.jpg\nhelen/testset/296814969_3.jpg")  # the first has no label anyway
    counts = build(root, tmp_path / "excluded", allow_missing=True, exclude=listing).info.splits
    assert counts["common"].num_examples == 1
    (root / "ibug").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"300W has no ibug\. Fetch"):
        build(root, tmp_path)
    counts = build(root, tmp_path, allow_missing=True).info.splits
    assert {name: split.num_examples for name, split in counts.items()} == {"train": 3, "common": 2}
    with pytest.raises(InputError, match=r"holds any of: afw, helen/trainset, .*\. Fetch"):
        build(tmp_path / "elsewhere", tmp_path / "other", allow_missing=True)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "ibug/image_003_1.pts",
            lambda b: b.replace(b"n_points:  68", b"n_points:  67"),
            r"68 points; n_points is 67",
        ),
        ("ibug/image_003_1.pts", lambda b: pts_text(np.ones((51, 2))).encode(), r"51 points; there must be 68"),
        ("ibug/image_003_1.pts", lambda b: b.replace(b"{\n", b"{\nnan 3\n", 1), r"not finite"),
        ("ibug/image_003_1.pts", lambda b: pts_text(np.ones((68, 2)) * 500).encode(), r"no face box|lie outside"),
        ("ibug/image_003_1.jpg", lambda b: b[: len(b) // 2], r"image_003_1\.jpg is damaged or incomplete"),
        ("ibug/image_003_1.png", lambda b: b"", r"image_003_1\.jpg and image_003_1\.png; remove"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, change, message):
    root = tmp_path / "300W"
    write_tree(root)
    path = root / name
    path.write_bytes(change(path.read_bytes() if path.exists() else b""))
    with pytest.raises(InputError, match=f"(?i){message}") as caught:
        build(root, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("ibug_300w/*/1.1.0"))


@settings(max_examples=40, derandomize=True)
@given(
    st.one_of(st.binary(max_size=80), st.text(st.sampled_from("{}: \n01.e-nversio_pt"), max_size=80).map(str.encode))
)
def test_any_label_file_is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        for sub in (sub for subs in ibug.FOLDERS.values() for sub in subs):
            (root / sub).mkdir(parents=True)
        (root / "afw" / "a_1.pts").write_bytes(content)
        builder = tfds_builders.load("ibug_300w", root / "built", manual_dir=root)
        try:
            splits = builder.parse(root)
        except InputError:
            return
        assert splits["train"][0].landmarks.shape == (68, 2)
