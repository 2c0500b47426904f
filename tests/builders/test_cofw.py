"""Tests of cofw: two tiny files in the form of MATLAB 7.3, built and read back, and messages about broken files."""

import concurrent.futures
import functools
import pathlib
import tempfile

import h5py
import numpy as np
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

import tfds_builders
from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from tfds_builders.cofw import cofw_dataset_builder as cofw

SIZE = (56, 68)
COUNTS = {"train": 4, "test": 3}


def write_mat(path, names, images, phis, boxes, *, compression="gzip") -> None:
    """Writes a MATLAB 7.3 file: a header of 512 bytes, HDF5, transposed arrays, and a cell as references to #refs#."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        store = file.create_group("#refs#")
        cell = file.create_dataset(names[0], (1, len(images)), dtype=h5py.ref_dtype)
        cell.attrs["MATLAB_class"] = np.bytes_("cell")
        for k, image in enumerate(images):
            data = store.create_dataset(f"p{k}", data=image.T, compression=compression)
            data.attrs["MATLAB_class"] = np.bytes_("uint8")
            cell[0, k] = data.ref
        for name, values in zip(names[1:], (phis, boxes), strict=True):
            file.create_dataset(name, data=np.asarray(values, np.float64).T).attrs["MATLAB_class"] = np.bytes_("double")
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jul 15 10:00:00 2013 HDF5 schema 1.00 ."
    with path.open("r+b") as file:
        file.write(header.ljust(124) + b"\x00\x02IM")


def make_face(number) -> dict:
    """Points (from 0), occlusion, box (from 1, as in the file), and an image with a dot on the tip of the nose."""
    rng = np.random.default_rng(number)
    points = trees.make_points("cofw29", SIZE, rng)
    points[20] = points[20].round()
    image = trees.make_image(SIZE, rng, channels=1 if number % 3 == 1 else 3, dots=[points[20]])
    return {
        "points": points,
        "occluded": rng.integers(0, 2, 29),
        "box": np.array([5 + number, 7, 40, 50]),
        "image": image,
    }


def write_tree(root, change=None) -> dict:
    """Writes both files under `root`, after `change(split, faces)`; returns split -> faces."""
    written, number = {}, 0
    for split, (name, *variables) in cofw.FILES.items():
        written[split] = [make_face(number + k) for k in range(COUNTS[split])]
        number += COUNTS[split]
        if change:
            change(split, written[split])
        phis = [np.concatenate([*(face["points"].T + 1.0), face["occluded"]]) for face in written[split]]
        boxes = [face["box"] for face in written[split]]
        write_mat(root / name, variables, [face["image"] for face in written[split]], phis, boxes)
    return written


def build(root, data_dir, config="all"):
    return tfds_builders.build(f"cofw/{config}", data_dir, manual_dir=root)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cofw")
    written = write_tree(folder / "COFW")
    return folder, written, build(folder / "COFW", folder / "built")


def test_faces_are_read_back(built):
    folder, written, builder = built
    for split, rows in written.items():
        examples = trees.read_back("cofw/all", split, folder / "built")
        assert list(examples) == [f"COFW_{split}_color.mat/{k + 1:04d}" for k in range(len(rows))]
        for face, example in zip(rows, examples.values(), strict=True):
            np.testing.assert_allclose(example["landmarks"], face["points"], atol=1e-5)
            np.testing.assert_array_equal(example["visible"], face["occluded"] == 0)
            np.testing.assert_array_equal(example["box"], face["box"] - [1, 1, 0, 0])
            image = face["image"]
            expected = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
            np.testing.assert_array_equal(example["rgb"], expected)
            x, y = face["points"][20].astype(int)
            assert (example["rgb"][y, x] == 255).all()
        trees.check_flips(examples.values(), "cofw29")
    assert builder.NORMALIZER == "outer_eyes" and builder.EXPECTED["all"] == {"train": 845 + 500, "test": 507}
    assert any("4 train (published: 1,345)" in remark for remark in builder.info.metadata["remarks"])


def test_landmark_box_has_boxes_of_the_landmarks(built):
    folder, written, _ = built
    build(folder / "COFW", folder / "built", "landmark_box")
    for face, example in zip(
        written["test"], trees.read_back("cofw/landmark_box", "test", folder / "built").values(), strict=True
    ):
        np.testing.assert_allclose(example["box"], landmarks.box_from_points(face["points"]), rtol=1e-5)


def test_images_may_be_read_from_several_threads(built):
    folder, written, _ = built
    name, *variables = cofw.FILES["train"]
    references = cofw.read_labels(folder / "COFW" / name, *variables)[3]
    jobs = [functools.partial(cofw.read_image, folder / "COFW" / name, ref, "it") for ref in references] * 10
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda job: job(), jobs))
    for k, image in enumerate(read):
        np.testing.assert_array_equal(image, written["train"][k % COUNTS["train"]]["image"])


def test_points_outside_the_image_are_invisible(tmp_path):
    def change(split, rows):
        rows[0]["occluded"][:] = 0
        rows[0]["points"][0], rows[0]["points"][28] = (-4.0, 20.0), (30.0, SIZE[1] + 0.5)

    write_tree(tmp_path / "COFW", change)
    build(tmp_path / "COFW", tmp_path)
    example = trees.read_back("cofw", "train", tmp_path)["COFW_train_color.mat/0001"]
    assert np.flatnonzero(~example["visible"]).tolist() == [0, 28]


def test_shapes_of_y_and_x_are_remarked(tmp_path):
    def change(split, rows):
        for face in rows:
            face["points"] = face["points"][:, ::-1] * 0.8

    write_tree(tmp_path / "COFW", change)
    remarks = build(tmp_path / "COFW", tmp_path).info.metadata["remarks"]
    assert any("[y, x]" in remark for remark in remarks)


def _nan(split, rows):
    rows[1]["points"] = rows[1]["points"].copy()
    rows[1]["points"][3, 0] = np.nan


def _set(key, value):
    return lambda split, rows: rows[1].update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_nan, r"COFW_train_color\.mat/0002: Landmark 3 is not a finite number"),
        (_set("occluded", np.full(29, 2)), r"Face 2 of .*COFW_train_color\.mat has the occlusion 2; it must be 0 or 1"),
        (_set("points", np.full((29, 2), 900.0)), r"no face box|29 of 29 landmarks lie outside"),
        (_set("points", np.full((29, 2), 1e300)), r"COFW_train_color\.mat/0002: Landmark 0 is not a finite number"),
        (_set("box", np.array([3, 4, 0, 5])), r"The box of COFW_train_color\.mat/0002 is empty"),
        (_set("image", np.zeros((9, 8), np.uint16)), r"Image 2 of .*COFW_train_color\.mat is not an 8-bit image"),
        (_set("image", np.zeros((9, 8, 4), np.uint8)), r"Image 2 of .*COFW_train_color\.mat has 4 channels"),
    ],
)
def test_broken_labels_and_images_are_refused(tmp_path, change, message):
    write_tree(tmp_path / "COFW", change)
    with pytest.raises(InputError, match=f"(?i){message}") as caught:
        build(tmp_path / "COFW", tmp_path)
    assert "\n" not in str(caught.value)


def _rewrite(path, edit) -> None:
    path.write_bytes(edit(path.read_bytes()))


def _too_few_points(path) -> None:
    with h5py.File(path, "r+") as file:
        kept = file["phisTr"][:58]
        del file["phisTr"]
        file["phisTr"] = kept


def _without_boxes(path) -> None:
    with h5py.File(path, "r+") as file:
        del file["bboxesTr"]


def _no_cell(path) -> None:
    with h5py.File(path, "r+") as file:
        del file["IsTr"]
        file["IsTr"] = np.zeros((1, 4))


def _null(path) -> None:
    with h5py.File(path, "r+") as file:
        file["IsTr"][0, 2] = h5py.Reference()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (pathlib.Path.unlink, r"COFW has no COFW_train_color\.mat\. Fetch the colour images"),
        (
            lambda path: path.write_bytes(
                b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x01IM" + b"x" * 900
            ),
            r"COFW_train_color\.mat is of MATLAB version 5 to 7; save it again with save\(…, '-v7\.3'\)",
        ),
        (lambda path: path.write_bytes(b"PK\x03\x04" * 300), r"is not a MATLAB file of version 7\.3"),
        (lambda path: path.write_bytes(b""), r"is not a MATLAB file of version 7\.3"),
        (lambda path: _rewrite(path, lambda b: b[: len(b) // 2]), r"is damaged or incomplete \(.*\); fetch it again"),
        (lambda path: _rewrite(path, lambda b: b[:530]), r"is damaged or incomplete \(.*\); fetch it again"),
        (_without_boxes, r"has no variable bboxesTr; is it one of COFW's colour files"),
        (_no_cell, r"The variable IsTr of .* is not a cell array of images"),
        (_too_few_points, r"The variable phisTr of .* has shape \(4, 58\) .* for 4 images .* shape \(4, 87\)"),
        (_null, r"Image 3 of .*COFW_train_color\.mat is not an 8-bit image"),
    ],
)
def test_broken_files_are_refused(tmp_path, harm, message):
    write_tree(tmp_path / "COFW")
    harm(tmp_path / "COFW" / "COFW_train_color.mat")
    with pytest.raises(InputError, match=message) as caught:
        build(tmp_path / "COFW", tmp_path)
    assert "\n" not in str(caught.value)


@functools.cache
def _whole() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write_tree(pathlib.Path(folder))
        return (pathlib.Path(folder) / "COFW_train_color.mat").read_bytes()


def _overwritten(place, content):
    """Returns a function that overwrites bytes with `content`, from the share `place` in [0, 1] of their length."""

    def change(whole):
        start = int(place * len(whole))
        return whole[:start] + content + whole[start + len(content) :]

    return change


@settings(max_examples=60, derandomize=True)
@given(
    st.one_of(
        st.binary(max_size=700).map(lambda tail: lambda whole: tail),
        st.binary(max_size=200).map(lambda tail: lambda whole: whole[:520] + tail),
        st.floats(0, 1).map(lambda part: lambda whole: whole[: int(part * len(whole))]),
        st.builds(_overwritten, st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    )
)
def test_any_file_is_read_or_refused(harm):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "COFW_train_color.mat")
        path.write_bytes(harm(_whole()))
        try:
            points, visible, boxes, references = cofw.read_labels(path, *cofw.FILES["train"][1:])
            images = [cofw.read_image(path, reference, "it") for reference in references]
        except InputError:
            return
        assert points.shape[1:] == (29, 2) and len(points) == len(visible) == len(boxes) == len(images)
