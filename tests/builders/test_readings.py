"""Tests that labels of every kind are read as they are meant, or refused with the option that mends them."""

import json

import cv2
import numpy as np
import pytest
import trees

import tfds_builders
from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from tfds_builders import measures

SIZE, FACE = (160, 120), (50, 60)
NAMES = [f"s{k}" for k in range(10)]


def write(folder, *, scale=1.0, at=None):
    """Writes ten pairs of images whose RGB image is `scale` times as large; returns the landmarks by name."""
    rng, written = np.random.default_rng(1), {}
    for name in NAMES:
        place = rng.uniform((0, 0), np.array(SIZE) - FACE - 1) if at is None else at
        written[name] = (trees.make_points("ibug68", FACE, rng) + place).astype(np.float32)
        image = rng.integers(60, 64, SIZE[::-1]).astype(np.uint8)
        cv2.fillConvexPoly(image, cv2.convexHull(written[name].round().astype(np.int32)), 180)
        trees.write_image(folder / "thermal" / f"{name}.png", image)
        wide = cv2.resize(image, None, fx=scale, fy=scale)
        trees.write_image(folder / "rgb" / f"{name}.png", np.repeat(wide[..., None], 3, -1))
    return written


def label(folder, points, boxes=None):
    (folder / "landmarks").mkdir(exist_ok=True)
    for name, some in points.items():
        entry = {"landmarks": np.asarray(some, float).tolist()}
        entry |= {} if boxes is None else {"box": [float(value) for value in boxes[name]]}
        (folder / "landmarks" / f"{name}.json").write_text(json.dumps(entry))


def build(folder, config="default", **options):
    return tfds_builders.build(f"paired_folder/{config}", folder / "built", manual_dir=folder, **options)


def check(builder, written, boxes=None):
    """Checks the landmarks and boxes of a built dataset; returns its remarks."""
    found = {e["name"].decode(): e for s in builder.info.splits for e in builder.as_data_source(split=s)}
    assert found.keys() == written.keys()
    for name, example in found.items():
        known = example["known"]
        np.testing.assert_allclose(example["landmarks"][known], written[name][known], atol=2e-3)
        box = landmarks.box_from_points(written[name][known]) if boxes is None else boxes[name]
        np.testing.assert_allclose(example["box"], box, atol=2e-2)
    return builder.info.metadata["remarks"]


def own_boxes(written):
    return {name: np.array(landmarks.box_from_points(points)) for name, points in written.items()}


def in_form(box, form):
    """Writes a box x, y, w, h in another form."""
    x, y, w, h = box
    corners = [x, y, x + w, y + h]
    plain = {"xywh": [x, y, w, h], "xyxy": corners, "cxcywh": [x + w / 2, y + h / 2, w, h]}
    return np.array((plain | {"yxhw": [y, x, h, w], "yxyx": [corners[k] for k in (1, 0, 3, 2)]})[form])


SHARES = np.array([*SIZE, *SIZE], float)


@pytest.mark.parametrize("form", [f"{form}{unit}" for form in measures.BOXES for unit in ("", "_normalized")][1:])
def test_boxes_of_every_form(tmp_path, form):
    written = write(tmp_path)
    shape, _, unit = form.partition("_")
    boxes = {name: in_form(box / (SHARES if unit else 1), shape) for name, box in own_boxes(written).items()}
    label(tmp_path, written, boxes)
    message = rf"^10 of 10 faces, such as thermal/s\d\.png, have a box .* --box_format={form}\. Nothing was built\.$"
    with pytest.raises(InputError, match=message):
        build(tmp_path)
    # A box in shares is measured from the corner of the first pixel, as landmarks are.
    expected = {name: box - (0.5, 0.5, 0, 0) for name, box in own_boxes(written).items()} if unit else None
    assert check(build(tmp_path, box_format=form), written, expected) == []


def test_boxes_of_faces_without_landmarks(tmp_path):
    boxes = own_boxes(write(tmp_path))
    (tmp_path / "boxes.json").write_text(json.dumps({n: in_form(box, "xyxy").tolist() for n, box in boxes.items()}))
    with pytest.raises(
        InputError, match=r"^\d of 10 faces, .* only if it is two corners x, y, x, y; build with --box_f"
    ):
        build(tmp_path)
    found = build(tmp_path, box_format="xyxy").as_data_source(split="unlabelled")
    for example in found:
        np.testing.assert_allclose(example["box"], boxes[example["name"].decode()], atol=1e-4)


@pytest.mark.parametrize("number", [1, 4])
def test_a_few_boxes_of_another_form_are_told(tmp_path, number):
    written = write(tmp_path)
    boxes = own_boxes(written)
    label(tmp_path, written, boxes | {name: in_form(boxes[name], "xyxy") for name in NAMES[:number]})
    remarks = check(build(tmp_path), written, boxes | {name: in_form(boxes[name], "xyxy") for name in NAMES[:number]})
    assert remarks[-1].startswith(f"{number} of 10 faces, such as thermal/s")
    assert "two corners x, y, x, y; convert them, or leave them out with --exclude." in remarks[-1]


KINDS = {
    "normalized": lambda points: (points + 0.5) / SIZE,
    "yx": lambda points: points[:, ::-1],
    "rgb": lambda points: (points + 0.5) * 1.5 - 0.5,
}


@pytest.mark.parametrize("measure", KINDS)
@pytest.mark.parametrize("ending", ["json", "pts"])
def test_landmarks_of_every_kind(tmp_path, measure, ending):
    written = write(tmp_path, scale=1.5 if measure == "rgb" else 1.0)
    given = {name: KINDS[measure](points) for name, points in written.items()}
    if ending == "json":
        label(tmp_path, given)
    else:
        (tmp_path / "landmarks").mkdir()
        first = 0 if measure == "normalized" else 1  # pixels count from 1 in these files, and shares do not
        for name, points in given.items():
            rows = "\n".join(f"{x} {y}" for x, y in points + first)
            (tmp_path / "landmarks" / f"{name}.pts").write_text(f"version: 1\nn_points: 68\n{{\n{rows}\n}}\n")
    message = (
        rf"^\d+ of 10 faces, such as thermal/s\d\.png, have landmarks .* --points={measure}.* Nothing was built\.$"
    )
    with pytest.raises(InputError, match=message) as error:
        build(tmp_path)
    assert int(str(error.value).split()[0]) >= {"normalized": 10, "yx": 8, "rgb": 5}[measure]
    assert check(build(tmp_path, points=measure), written) == []


def test_landmarks_in_shares_with_boxes_in_pixels(tmp_path):
    written = write(tmp_path)
    label(tmp_path, {name: KINDS["normalized"](points) for name, points in written.items()}, own_boxes(written))
    message = r"^10 of 10 .* --points=normalized\. 10 of 10 .* --box_format=xywh_pixels\. Nothing was built"
    with pytest.raises(InputError, match=message):
        build(tmp_path)
    assert check(build(tmp_path, points="normalized", box_format="xywh_pixels"), written) == []


def test_a_dataset_of_two_kinds_is_refused(tmp_path):
    written = write(tmp_path)
    label(tmp_path, {n: KINDS["normalized"](points) if n in NAMES[:3] else points for n, points in written.items()})
    with pytest.raises(InputError, match=r"^3 of 10 faces, .* width and height; convert them, or leave them out with"):
        build(tmp_path)
    with pytest.raises(
        InputError, match=r"^\d of 10 faces, .* have landmarks that fit the image only if they are its p"
    ):
        build(tmp_path, points="normalized")


def test_landmarks_from_one(tmp_path):
    written = {}
    for name, points in write(tmp_path).items():  # faces that fill the image, in whole pixels
        low, high = points.min(0), points.max(0)
        written[name] = ((points - low) / (high - low) * (np.array(SIZE) - 1)).round()
    label(tmp_path, {name: points + 1 for name, points in written.items()})
    remarks = build(tmp_path).info.metadata["remarks"]
    assert any("10 of 10 faces" in one and "build with --points=one_based" in one for one in remarks)
    assert check(build(tmp_path, "one", points="one_based"), written) == []
    label(tmp_path, written)
    assert check(build(tmp_path, "zero"), written) == []


@pytest.mark.parametrize("scale", [0.5, 1.25])
def test_an_rgb_image_of_another_size_is_told(tmp_path, scale):
    written = write(tmp_path, scale=scale, at=(5, 5))
    label(tmp_path, {name: (points + 0.5) * scale - 0.5 for name, points in written.items()})
    (remark,) = build(tmp_path).info.metadata["remarks"]
    assert remark.startswith("10 of 10 faces,") and "--points=rgb, or else with --points=pixels." in remark
    assert check(build(tmp_path, "rgb", points="rgb"), written) == []
    label(tmp_path, written)
    assert check(build(tmp_path, "pixels", points="pixels"), written) == []


def test_placeholders_in_pts_files(tmp_path):
    written = write(tmp_path)
    (tmp_path / "landmarks").mkdir()
    for name, points in written.items():
        rows = points + 1
        rows[[3, 60]] = [[0, 0], [-1, -1]]
        text = "\n".join(f"{x} {y}" for x, y in rows)
        (tmp_path / "landmarks" / f"{name}.pts").write_text(f"version: 1\nn_points: 68\n{{\n{text}\n}}\n")
    (remark,) = check(build(tmp_path), written)
    assert (
        remark.startswith("10 of 10 faces,") and "have landmarks at (0, 0) or (-1, -1), which count as miss" in remark
    )


def test_an_unknown_form_gets_a_suggestion(tmp_path):
    label(tmp_path, write(tmp_path))
    with pytest.raises(InputError, match="--box_format=xyxy_normalised is unknown; did you mean 'xyxy_normalized'"):
        build(tmp_path, box_format="xyxy_normalised")
