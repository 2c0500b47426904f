"""Tests of how `paired_folder` finds label files of annotation tools, and of what it says about others."""

import json

import cv2
import numpy as np
import pytest
from test_paired_folder import SIZE, build, parse, write, write_labels

from mlcm_jax import layout_file
from mlcm_jax.errors import InputError
from tfds_builders.paired_folder import folder as folders

TABLE = "file," + ",".join(f"x{k},y{k}" for k in range(68))


def cvat(written, *, more="", prefix="thermal/", size=SIZE):
    rows = [
        f'<image name="{prefix}{name}.png" width="{size[0]}" height="{size[1]}"><points label="face" occluded="0" '
        f'points="{";".join(f"{x!r},{y!r}" for x, y in points.astype(float).tolist())}"/></image>'
        for name, points in written.items()
    ]
    return f"<annotations>{''.join(rows)}{more}</annotations>"


def table(written):
    rows = [
        ",".join([f"{name}.png", *map(repr, points.astype(float).ravel().tolist())]) for name, points in written.items()
    ]
    return "\n".join([TABLE, *rows])


def labelme(points, size=SIZE, **more):
    shapes = [
        {"label": str(k), "shape_type": "point", "points": [xy]} for k, xy in enumerate(points.astype(float).tolist())
    ]
    shapes.append({"label": "face", "shape_type": "rectangle", "points": [[5, 6], [60, 70]]})
    return json.dumps({"shapes": shapes, "imageWidth": size[0], "imageHeight": size[1]} | more)


def coco(written, count):
    images = [{"id": k, "file_name": f"{name}.png"} for k, name in enumerate(written)]
    flat = [np.concatenate([points[:count], np.full((count, 1), 2)], 1).ravel().tolist() for points in written.values()]
    annotations = [{"image_id": k, "keypoints": keypoints} for k, keypoints in enumerate(flat)]
    return json.dumps({"images": images, "annotations": annotations})


def check(faces, written):
    assert {face.extra["name"] for face in faces.values()} == set(written)
    for face in faces.values():
        np.testing.assert_allclose(face.landmarks, written[face.extra["name"]], atol=1e-4)


@pytest.mark.parametrize("place", ["annotations.xml", "faces.csv", "landmarks/annotations.xml", "landmarks/all.csv"])
def test_one_file_of_all_images_needs_no_option(tmp_path, place):
    written = write(tmp_path, ("a", "s1/c"))
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(cvat(written) if place.endswith("xml") else table(written))
    (tmp_path / "palette.csv").write_text("r,g,b\n0,0,0\n255,255,255\n")
    (tmp_path / "other.xml").write_text("<note/>")
    faces, _, builder = parse(tmp_path)
    check(faces, written)
    assert builder.remarks == [] and all(face.box is None for face in faces.values())


def test_two_files_of_all_images(tmp_path):
    written = write(tmp_path, ("a", "b"))
    (tmp_path / "annotations.xml").write_text(cvat({"a": written["a"]}))
    (tmp_path / "faces.csv").write_text(table(written))
    with pytest.raises(InputError, match=r"has annotations\.xml and faces\.csv; name the one to use with --labels"):
        parse(tmp_path)
    check(parse(tmp_path, labels="annotations.xml,faces.csv")[0], written)


def test_an_image_that_a_tool_lists_without_a_face(tmp_path):
    """CVAT lists both images of a pair, of which one is labelled."""
    written = write(tmp_path, ("a", "b"))
    more = '<image name="rgb/a.png"/><image name="rgb/b.png"/>'
    (tmp_path / "annotations.xml").write_text(cvat(written, more=more))
    check(parse(tmp_path)[0], written)
    (tmp_path / "annotations.xml").write_text(cvat(written, more='<image name="ghost.png"/>'))
    with pytest.raises(InputError, match=r"1 of 3 faces lacks an image: ghost\.png lacks its thermal image"):
        build(tmp_path)


def test_labelme_files_beside_the_images(tmp_path):
    """The pairs' names come from the pattern; boxes of a tool are never taken for corners."""
    written = write(tmp_path, ("a", "b"), modalities=("thermal",))
    for name, points in written.items():
        (tmp_path / f"thermal/{name}.json").write_text(labelme(points, imagePath="other.png"))
    (remark,) = parse(tmp_path)[2].remarks
    assert "2 files that may hold some were not read: thermal/a.json, thermal/b.json. Known are" in remark
    faces, _, builder = parse(tmp_path, labels="thermal/*.json", box_format="xyxy")
    check(faces, written)
    assert [face.box for face in faces.values()] == [(5, 6, 55, 64)] * 2 and builder.remarks == []
    (tmp_path / "thermal/b.json").write_text(labelme(written["b"])[:-40])
    with pytest.raises(InputError, match=r"b\.json is not JSON"):
        parse(tmp_path, labels="thermal/*.json")


def test_arrays_that_are_images_are_no_labels(tmp_path):
    written = write(tmp_path, ("a",), modalities=("rgb",))
    (tmp_path / "thermal").mkdir()
    np.save(tmp_path / "thermal/a.npy", np.linspace(20, 36, SIZE[0] * SIZE[1]).reshape(SIZE[::-1]))
    (tmp_path / "thermal/a.json").write_text(labelme(written["a"]))
    check(parse(tmp_path, labels="thermal")[0], written)
    (tmp_path / "thermal/a.json").unlink()
    np.save(tmp_path / "other.npy", written["a"])
    assert "was not read: other.npy." in parse(tmp_path)[2].remarks[0]


def test_numbers_count_in_all_files_of_a_folder(tmp_path):
    """One file lacks point 0, but another one shows that the numbers count from 0."""
    written = write(tmp_path, ("a", "b"))
    (tmp_path / "landmarks").mkdir()
    for name, points in written.items():
        content = json.loads(labelme(points))
        content["shapes"] = content["shapes"][name == "b" :]
        (tmp_path / f"landmarks/{name}.json").write_text(json.dumps(content))
    faces, _, builder = parse(tmp_path)
    assert not faces["thermal/b.png"].known[0] and faces["thermal/b.png"].known[1:].all() and builder.remarks == []
    np.testing.assert_allclose(faces["thermal/b.png"].landmarks[1:], written["b"][1:], atol=1e-4)
    (tmp_path / "landmarks/a.json").unlink()
    with pytest.raises(InputError, match=r"b\.json numbers its points from 1 to 67, which may be some or all points"):
        parse(tmp_path)
    with pytest.raises(InputError, match="so they may count from 0 or from 1; label point 0 or point 68 in one image"):
        parse(tmp_path, layout=68)
    assert (
        "labels 3 points of the layout in no face: 67, 68, 69" in parse(_with_zero(tmp_path), layout=70)[2].remarks[0]
    )


def _with_zero(folder):
    content = json.loads((folder / "landmarks/b.json").read_text())
    content["shapes"] = [{"label": "0", "shape_type": "point", "points": [[9, 9]]}, *content["shapes"][:66]]
    (folder / "landmarks/b.json").write_text(json.dumps(content))
    return folder


def test_names_of_a_layout_of_the_users_own(tmp_path):
    names = ["right_eye", "left_eye", "nose", "right_mouth", "left_mouth"]
    mine = {"names": names, "flip": [["right_eye", "left_eye"], ["right_mouth", "left_mouth"]]}
    (tmp_path / "mine.yaml").write_text(json.dumps(mine))
    written = write(tmp_path, ("a",), layout="tfw5")
    content = json.loads(labelme(written["a"]))
    for shape, name in zip(content["shapes"], names, strict=False):
        shape["label"] = name
    (tmp_path / "labels.json").write_text(
        json.dumps(content | {"shapes": content["shapes"][::-1], "imagePath": "a.png"})
    )
    check(parse(tmp_path, layout="mine.yaml")[0], written)
    assert layout_file.read_names(tmp_path / "mine.yaml") == tuple(names)
    with pytest.raises(InputError, match=r"names its points 'left_eye', .* --layout=FILE\.yaml"):
        parse(tmp_path, layout="tfw5")


@pytest.mark.parametrize("count", [5, 17, 51])
def test_a_coco_file_chooses_no_layout_that_nobody_asked_for(tmp_path, count):
    """17 points are a body in COCO's own files."""
    written = write(tmp_path, ("a", "b"))
    (tmp_path / "coco.json").write_text(coco(written, count))
    with pytest.raises(InputError, match=rf"coco\.json has {count} points for each face, which may be any; .*--layout"):
        parse(tmp_path)
    name = {5: "tfw5", 17: "common17", 51: "ibug51"}[count]
    assert parse(tmp_path, layout=name)[2].LAYOUT == parse(tmp_path, layout=count)[2].LAYOUT == name
    (tmp_path / "coco.json").write_text(coco(written, 68))
    assert parse(tmp_path)[2].LAYOUT == "ibug68"


def test_no_label_of_17_points_chooses_a_layout(tmp_path):
    write_labels(tmp_path, {name: points[:17] for name, points in write(tmp_path, ("a",)).items()})
    with pytest.raises(InputError, match="first label has 17 points, which is no known layout"):
        parse(tmp_path)


def test_labels_of_an_image_of_another_size(tmp_path):
    written = write(tmp_path, ("a",), modalities=("thermal",))
    (tmp_path / "rgb").mkdir()
    assert cv2.imwrite(str(tmp_path / "rgb/a.png"), np.zeros((192, 160, 3), np.uint8))
    (tmp_path / "annotations.xml").write_text(cvat(written, size=(81, 96)))
    (remark,) = build(tmp_path, "odd").info.metadata["remarks"]
    assert remark.startswith("1 of 1 face, such as thermal/a.png, have a label whose file states another size of the")
    (tmp_path / "annotations.xml").write_text(cvat(written, size=(160, 192)))
    message = (
        r"thermal/a\.png: its label was made on an image of 160 x 192, which is the size of the RGB image; build with"
    )
    with pytest.raises(InputError, match=message):
        build(tmp_path)
    (tmp_path / "annotations.xml").write_text(cvat({"a": written["a"] * 2 + 0.5}, size=(160, 192)))
    builder = build(tmp_path, points="rgb")
    np.testing.assert_allclose(builder.as_data_source(split="train")[0]["landmarks"], written["a"], atol=1e-4)
    assert builder.info.metadata["remarks"] == []
    (tmp_path / "annotations.xml").write_text(cvat(written))
    with pytest.raises(InputError, match="which is the size of the thermal image; build without --points=rgb"):
        build(tmp_path, "other", points="rgb")


def test_shares_of_the_size_in_a_tools_file(tmp_path):
    written = write(tmp_path, ("a",))
    (tmp_path / "annotations.xml").write_text(cvat({"a": written["a"] / SIZE}))
    with pytest.raises(InputError, match=r"^1 of 1 face, such as thermal/a\.png, .* --points=normalized\. Noth"):
        build(tmp_path)


def test_a_wrong_number_of_points_names_the_face(tmp_path):
    written = write(tmp_path, ("a", "b"))
    (tmp_path / "annotations.xml").write_text(cvat({"a": written["a"], "b": written["b"][:67]}))
    with pytest.raises(InputError, match=r"thermal/b\.png: Landmarks have shape \(67, 2\)"):
        build(tmp_path)


def test_files_that_nobody_read_are_named(tmp_path):
    write_labels(tmp_path, write(tmp_path, ("a", "b")))
    (tmp_path / "landmarks/b.json").rename(tmp_path / "b.txt")
    (tmp_path / "landmarks/b.mat").write_bytes(b"MATLAB")
    (tmp_path / "note.md").write_text("no label")
    for options in ({}, {"labels": "landmarks/*.json"}):
        (remark,) = parse(tmp_path, **options)[2].remarks
        assert "2 files that may hold some were not read: b.txt, landmarks/b.mat. Known are landmarks/NAME" in remark


@pytest.mark.parametrize(("name", "message"), [
    ("a.pts", r"a\.pts labels one image; give --labels its folder, or a pattern such as '\*\.pts'"),
    ("a.mat", r"a\.mat is of no form that is read here; there are \.pts"),
])  # fmt: skip
def test_a_file_that_cannot_label_all_images(tmp_path, name, message):
    write(tmp_path, ("a",))
    (tmp_path / name).write_text("version: 1\nn_points: 1\n{\n1 2\n}\n")
    with pytest.raises(InputError, match=message):
        parse(tmp_path, labels=name)


def test_links_to_folders_are_followed(tmp_path):
    written = write(tmp_path / "elsewhere", ("a", "b"))
    write_labels(tmp_path / "elsewhere", written)
    place = tmp_path / "mine"
    place.mkdir()
    for name in ("rgb", "thermal", "landmarks"):
        (place / name).mkdir()
        (place / name / "day").symlink_to(tmp_path / "elsewhere" / name, target_is_directory=True)
    check(parse(place)[0], {f"day/{name}": points for name, points in written.items()})


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one/a.txt").write_text("1 2")
    (tmp_path / "one/up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "one/across").symlink_to(tmp_path / "two", target_is_directory=True)
    (tmp_path / "two/back").symlink_to(tmp_path / "one", target_is_directory=True)
    (tmp_path / "gone").symlink_to(tmp_path / "none")
    found = folders.find_files(tmp_path)
    assert found == ["gone", "one/a.txt", "two/back/a.txt"]


def test_names_in_options_are_compared_with_composed_letters(tmp_path):
    composed, apart = "J\u00fcrgen", "Ju\u0308rgen"
    written = write(tmp_path, (f"{apart}1", f"{apart}2"))
    (tmp_path / f"{apart}.csv").write_text(table({f"{composed}1": written[f"{apart}1"]}))
    (tmp_path / "exclude.txt").write_text(f"thermal/{composed}2.png\n")
    globs = {"rgb_glob": f"rgb/{composed}*.png", "thermal_glob": f"thermal/{composed}*.png"}
    options = {"labels": f"{composed}.csv", "exclude": str(tmp_path / "exclude.txt"), "splits": "1,0,0"}
    builder = build(tmp_path, **options, **globs)
    (example,) = builder.as_data_source(split="train")
    np.testing.assert_allclose(example["landmarks"], written[f"{apart}1"], atol=1e-4)
    assert set(builder.info.splits) == {"train"}
