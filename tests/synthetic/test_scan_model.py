"""Reading the scan-based head model: clones, archives, and everything that may be wrong with them."""

import json
import shutil
from pathlib import Path

import made_head
import numpy as np
import pytest

from mlcm_jax.errors import InputError
from mlcm_jax.synthetic import scan_model

REAL = Path(__file__).parents[3] / "shared/data/ict_face_light"


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(scan_model, "IDENTITIES", made_head.IDENTITIES)
    scan_model.read.cache_clear()


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return made_head.write(tmp_path_factory.mktemp("clone") / "ICT-FaceKit")


@pytest.fixture(scope="module")
def model(clone):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_model, "IDENTITIES", made_head.IDENTITIES)
        return scan_model.read(clone)


def archive(model, path, **changes):
    arrays = {
        "mean": model.mean, "identity": model.identity, "expression": model.expression, "faces": model.faces,
        "part": model.part, "landmarks68": model.landmarks, "names": np.array(scan_model.EXPRESSIONS),
        "identity_step": scan_model.STEP, "expression_step": scan_model.STEP,
    }  # fmt: skip
    arrays |= changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def same(one, other):
    for name in ("mean", "identity", "expression", "faces", "part", "landmarks"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_vertices_displacements_and_triangles(model):
    points = made_head.mean() * [made_head.UNIT, -made_head.UNIT, made_head.UNIT] + [0, 3.5, 9.0]
    np.testing.assert_allclose(model.mean, points, atol=1e-4)
    jaw = model.expression[scan_model.EXPRESSIONS.index("jawOpen")] * scan_model.STEP
    assert jaw[:, 1].min() == pytest.approx(-0.25 * made_head.UNIT, abs=2e-3)  # y runs up in the model
    assert not model.expression[scan_model.EXPRESSIONS.index("cheekPuff_L")].any()
    assert model.faces.max() < scan_model.VERTICES
    quads = len(made_head._quads(made_head.mean()))
    assert len(model.faces) == 2 * quads
    assert [int((model.part == part).sum()) for part in scan_model.ScanPart] == [
        9409, 1839, 2046, 384, 384, 2977, 4412, 770, 770, 800, 800,
    ]  # fmt: skip


def test_folders_above_and_below_and_archives_read_the_same(clone, model, tmp_path):
    same(scan_model.read(clone / "FaceXModel"), model)
    same(scan_model.read(clone.parent), model)
    order = list(reversed(range(len(scan_model.EXPRESSIONS))))  # expressions are found by name
    names = np.array(scan_model.EXPRESSIONS)[order]
    path = archive(model, tmp_path / scan_model.ARCHIVE, expression=model.expression[order], names=names)
    same(scan_model.read(path), model)
    same(scan_model.read(tmp_path), model)


def _clone_with(clone, folder, change):
    copy = folder / "ICT-FaceKit"
    shutil.copytree(clone, copy, copy_function=shutil.copy)
    change(copy / "FaceXModel")
    return copy


def _cut(path):
    text = path.read_bytes()
    path.unlink()
    path.write_bytes(text[:200_000])


def _replace(path, old, new):
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "identity002.obj").unlink(), "incomplete: identity002.obj is missing"),
        (lambda f: [p.unlink() for p in f.glob("mouth*.obj")], "mouthClose.obj and 22 more files are missing"),
        (lambda f: (f / "vertex_indices.json").unlink(), "vertex_indices.json is missing"),
        (lambda f: (f / "generic_neutral_mesh.obj").unlink(), "no generic_neutral_mesh.obj"),
        (lambda f: _cut(f / "generic_neutral_mesh.obj"), "generic_neutral_mesh.obj does not hold 24,591 vertices"),
        (lambda f: _cut(f / "jawOpen.obj"), "jawOpen.obj does not hold 24,591 vertices"),
        (lambda f: _replace(f / "jawOpen.obj", "v ", "v nan "), "jawOpen.obj does not hold"),
        (lambda f: _replace(f / "jawOpen.obj", "v ", "v x"), "jawOpen.obj does not hold"),
        (lambda f: _replace(f / "generic_neutral_mesh.obj", "f ", "f x/1 "), "holds a face that cannot be read"),
        (lambda f: _replace(f / "generic_neutral_mesh.obj", "f ", "f 0/1 "), "vertex numbers out of range"),
        (lambda f: (f / "vertex_indices.json").write_text("{"), "cannot be read as the list of landmark vertices"),
        (
            lambda f: (f / "vertex_indices.json").write_text(json.dumps({"idx_to_landmark_verts": [1, 2]})),
            "lists 2 landmark vertices",
        ),
    ],
)
def test_faults_of_a_clone(clone, tmp_path, change, message):
    broken = _clone_with(clone, tmp_path, change)
    with pytest.raises(InputError, match=message) as caught:
        scan_model.read(broken)
    text = str(caught.value)
    assert str(broken) in text and "Clone https://github.com/ICT-VGL/ICT-FaceKit" in text and "\n" not in text


def test_faults_of_archives(model, tmp_path):
    path = tmp_path / "heads.npz"

    def fails(message):
        scan_model.read.cache_clear()
        with pytest.raises(InputError, match=message) as caught:
            scan_model.read(path)
        assert str(path) in str(caught.value) and "Clone" in str(caught.value)

    fails("does not exist")
    path.write_bytes(b"PK\3\4 not an archive")
    fails("not a whole archive")
    archive(model, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fails("not a whole archive")
    fails_with = {
        "lacks part": {"part": None},
        "lacks the expression": {"names": np.array(["smile"] * len(scan_model.EXPRESSIONS))},
        "other sizes or values": {"identity": model.identity[:1]},
        "other sizes": {"mean": model.mean + np.nan},
    }
    for message, changes in fails_with.items():
        archive(model, path, **changes)
        fails(message)


def test_a_file_that_is_no_archive_and_an_empty_folder(tmp_path):
    (tmp_path / "heads.zip").write_bytes(b"")
    with pytest.raises(InputError, match="neither a folder nor an archive"):
        scan_model.read(tmp_path / "heads.zip")
    with pytest.raises(InputError, match="holds no scan-based head model"):
        scan_model.read(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / scan_model.ARCHIVE).is_file(), reason="the real head model is not on disk")
def test_the_real_archive_equals_files_of_the_clone(monkeypatch):
    monkeypatch.setattr(scan_model, "IDENTITIES", 100)
    model = scan_model.read(REAL)
    files = REAL / "sample_obj"
    mean = scan_model._vertices(files / f"{scan_model.NEUTRAL}.obj")
    np.testing.assert_allclose(model.mean, mean, atol=1e-5)
    np.testing.assert_array_equal(model.faces, scan_model._faces(files / f"{scan_model.NEUTRAL}.obj"))
    np.testing.assert_array_equal(model.landmarks, scan_model._landmarks(files))
    for name, stored in (
        ("identity001", model.identity[1]),
        ("jawOpen", model.expression[scan_model.EXPRESSIONS.index("jawOpen")]),
    ):
        moved = scan_model._vertices(files / f"{name}.obj") - mean
        np.testing.assert_allclose(stored * scan_model.STEP, moved, atol=6e-4)
