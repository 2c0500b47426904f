"""Tests of how a dataset's files are found, in the archive's own folder or in upper case, and of error messages."""

import numpy as np
import pytest
import test_charlotte_thermal
import test_cofw
import test_ibug_300w
import test_rwth_aachen
import test_sf_tl54
import test_t_fake
import test_tfw
import test_webmorph_faces
import test_wflw
import test_youtube_faces_68

import tfds_builders
from mlcm_jax.errors import InputError
from tfds_builders import tree


def _rwth(root):
    rng = np.random.default_rng(0)
    test_rwth_aachen.write_face(root, "irface_sub002_seq02_frm00155.jpg_lfb", test_rwth_aachen.make_face(rng), rng)


WRITE = {
    "charlotte_thermal": lambda root: test_charlotte_thermal.make_tree(root, np.random.default_rng(0)),
    "cofw": test_cofw.write_tree,
    "ibug_300w": test_ibug_300w.write_tree,
    "rwth_aachen": _rwth,
    "sf_tl54": test_sf_tl54.write_tree,
    "t_fake": test_t_fake.write_tree,
    "tfw": lambda root: test_tfw.make_tree(root, np.random.default_rng(0)),
    "webmorph_faces": test_webmorph_faces.write,
    "wflw": test_wflw.write_tree,
    "youtube_faces_68": test_youtube_faces_68.write,
}


def parse(name, folder) -> dict[str, list[tuple]]:
    """Returns split -> key, landmarks and modalities of its faces; checks that their images exist."""
    splits = tfds_builders.load(name, folder / "built").parse(folder)
    files = {
        split: [(face.key, face.landmarks.tolist(), bool(face.rgb), bool(face.thermal)) for face in mine]
        for split, mine in splits.items()
    }
    images = [image for mine in splits.values() for face in mine for image in (face.rgb, face.thermal)]
    assert all(image.is_file() for image in images if hasattr(image, "is_file"))
    return files


@pytest.mark.parametrize("name", WRITE)
@pytest.mark.parametrize("change", [str, str.swapcase], ids=["as it is", "other case"])
def test_the_archives_own_folder_is_found(tmp_path, name, change):
    WRITE[name](tmp_path / "plain")
    expected = parse(name, tmp_path / "plain")
    assert any(expected.values())
    archive = tmp_path / "given" / "Archive"
    archive.parent.mkdir()
    WRITE[name](archive)
    # The builder of rwth_aachen finds its files by their exact names, which therefore stay as they are.
    for path in [] if name == "rwth_aachen" else sorted(archive.iterdir()):
        if change(path.name) != path.name:
            path.rename(path.with_name(change(path.name)))
    for path in [path for path in archive.rglob("*") if path.is_file()]:  # as in archives made on a Mac
        twin = tmp_path / "given/__MACOSX" / path.relative_to(archive.parent).with_name(f"._{path.name}")
        twin.parent.mkdir(parents=True, exist_ok=True)
        twin.write_bytes(b"Mac OS X")
    assert parse(name, tmp_path / "given") == expected


@pytest.mark.parametrize("name", WRITE)
def test_the_error_of_an_empty_folder_says_how_to_get_the_dataset(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        tfds_builders.build(name, tmp_path / "built", manual_dir=tmp_path / "empty")
    assert str(caught.value).endswith(tfds_builders.load(name, tmp_path / "built").HOW_TO_GET)


def test_errors_of_missing_label_files_and_images_say_how_to_get_the_dataset(tmp_path):
    how = tfds_builders.load("webmorph_faces", tmp_path / "built").HOW_TO_GET
    test_webmorph_faces.write(tmp_path / "source")
    for pattern in ("*.jpg", "london_001.pts"):
        for path in (tmp_path / "source/images").glob(pattern):
            path.unlink()
        with pytest.raises(InputError) as caught:
            tfds_builders.build("webmorph_faces", tmp_path / "built", manual_dir=tmp_path / "source")
        assert str(caught.value).endswith(how)


def make(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)


def test_the_folder_that_holds_most_names_is_used(tmp_path):
    make(tmp_path, "a/x", "a/y", "b/x", "x")
    assert tree.find(tmp_path, ("x", "y"), "") == {"x": tmp_path / "a/x", "y": tmp_path / "a/y"}
    assert tree.find(tmp_path, ("x",), "") == {"x": tmp_path / "x"}  # rather than a deeper one
    assert tree.find(tmp_path, ("x", "z"), "", partly=True) == {"x": tmp_path / "x"}


def test_errors_name_what_is_missing_or_ambiguous(tmp_path):
    make(tmp_path, "a/x", "b/x", "c/z")
    with pytest.raises(InputError, match=r"/a and .*/b both hold x; give --manual_dir one of them"):
        tree.find(tmp_path, ("x",), "")
    with pytest.raises(InputError, match=r"^\S+/c has no x, y\. Ask\.$"):
        tree.find(tmp_path / "c", ("x", "y", "z"), "Ask.")
    with pytest.raises(InputError, match=r"^Neither \S+ nor a folder in it holds any of: q, r\. Ask\.$"):
        tree.find(tmp_path, ("q", "r"), "Ask.")


def test_names_that_differ_in_case_alone(tmp_path):
    make(tmp_path, "HELEN/TrainSet", "afw", "AFW", "Ibug", "IBUG")
    assert tree.locate(tmp_path, "helen/trainset") == tmp_path / "HELEN/TrainSet"
    assert tree.locate(tmp_path, "afw") == tmp_path / "afw" and tree.locate(tmp_path, "lfpw") is None
    with pytest.raises(InputError, match=r"IBUG and .*Ibug could both be ibug; remove one"):
        tree.locate(tmp_path, "ibug")
