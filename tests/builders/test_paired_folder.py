"""Tests of paired_folder: a user's folder in every form that README.md describes, and mistakes in it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import trees

import tfds_builders
from mlcm_jax import images, landmarks
from mlcm_jax.errors import InputError
from tfds_builders.paired_folder import paired_folder_dataset_builder as paired

REAL = Path(__file__).parents[3] / "shared/data/rgb_thermal_pairs"
SIZE = (80, 96)
DOT = 30  # this landmark has integer coordinates, and a bright dot marks it


def write(folder: Path, names=("a", "b", "s1/c", "d"), *, modalities=("rgb", "thermal"), layout="ibug68"):
    """Writes images in the standard tree; returns name -> landmarks, which are not written."""
    rng = np.random.default_rng(2)
    written = {}
    for name in names:
        points = trees.make_points(layout, SIZE, rng)
        dot = min(DOT, len(points) - 1)
        points[dot] = points[dot].round()
        written[name] = points
        for modality in modalities:
            image = trees.make_image(SIZE, rng, channels=3 if modality == "rgb" else 1, dots=[points[dot]])
            trees.write_image(folder / modality / f"{name}.png", image)
    return written


def write_labels(folder: Path, written) -> None:
    """Writes landmarks/NAME.json for each face."""
    for name, points in written.items():
        path = folder / "landmarks" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(points.tolist()))


def parse(folder: Path, **options):
    """Parses a folder without building; returns faces by key, faces by split, and the builder."""
    builder = paired.PairedFolder.make(None, folder / "built", manual_dir=folder, **options)
    found = builder.parse(folder)
    return {face.key: face for mine in found.values() for face in mine}, found, builder


def build(folder: Path, config="default", **options):
    return tfds_builders.build(f"paired_folder/{config}", folder / "built", manual_dir=folder, **options)


def test_the_standard_tree_with_every_kind_of_label_file(tmp_path):
    """Also covers names with folders, BOM and CRLF, hidden files of macOS, subjects, boxes, and an unlabelled pair."""
    written = write(tmp_path, ("a", "b", "s1/c", "d", "e"))
    folder = tmp_path / "landmarks"
    (folder / "s1").mkdir(parents=True)
    rows = {name: [f"{x!r} {y!r}" for x, y in points.tolist()] for name, points in written.items()}
    plus_one = "\r\n".join(f"{x + 1!r} {y + 1!r}" for x, y in written["a"].astype(float).tolist())
    (folder / "a.pts").write_bytes(f"\ufeffversion: 1\r\nn_points: 68\r\n{{\r\n{plus_one}\r\n}}\r\n".encode())
    (folder / "b.txt").write_text("\n".join(rows["b"]))
    (folder / "s1/c.csv").write_text("x,y\n" + "\n".join(rows["s1/c"]).replace(" ", ","))
    label = {"landmarks": written["d"].tolist(), "visible": [True] * 67 + [False], "confidence": [0.25] * 68}
    (folder / "d.json").write_text(json.dumps(label | {"pseudo": True, "box": [1, 2, 50, 60], "subject": 7}))
    (tmp_path / "thermal/._a.png").write_bytes(b"Mac OS X")
    (tmp_path / "subjects.csv").write_text("name,subject\na,anna\nb,anna\ns1/c.png,carl\n")
    (tmp_path / "boxes.csv").write_text("name;x;y;w;h\nthermal/b.png;3;4;50;55.5\n")
    builder = build(tmp_path)
    again = tfds_builders.load("paired_folder", tmp_path / "built")
    assert again.LAYOUT == builder.LAYOUT == "ibug68" and again.MODALITIES == ("rgb", "thermal")
    assert again.info.metadata["thermal"] == "gray" and again.info.metadata["remarks"] == []
    assert builder.info.splits["unlabelled"].num_examples == 1

    examples, where = {}, {}
    for split in ("train", "val", "test"):
        mine = trees.read_back("paired_folder/default", split, tmp_path / "built")
        examples |= mine
        where |= dict.fromkeys(mine, split)
    assert set(examples) == {f"thermal/{name}.png" for name in ("a", "b", "s1/c", "d")}
    for name in ("a", "b", "s1/c", "d"):
        example = examples[f"thermal/{name}.png"]
        np.testing.assert_allclose(example["landmarks"], written[name], atol=1e-4)
        x, y = written[name][DOT].astype(int)
        assert (example["rgb"][y, x] == 255).all() and example["thermal"][y, x, 0] == 255
        assert example["thermal"].shape == (*SIZE[::-1], 1)
        assert example["metadata"]["name"] == name
    trees.check_flips(examples.values(), "ibug68")
    assert where["thermal/a.png"] == where["thermal/b.png"]  # one person
    facts = {key: example["metadata"] for key, example in examples.items()}
    assert [facts[f"thermal/{n}.png"]["subject"] for n in ("a", "s1/c", "d")] == ["anna", "carl", "7"]
    np.testing.assert_array_equal(examples["thermal/b.png"]["box"], np.float32([3, 4, 50, 55.5]))
    np.testing.assert_array_equal(examples["thermal/d.png"]["box"], [1, 2, 50, 60])
    np.testing.assert_allclose(examples["thermal/a.png"]["box"], landmarks.box_from_points(written["a"]), atol=1e-3)
    assert examples["thermal/d.png"]["visible"].sum() == 67 and not examples["thermal/d.png"]["visible"][67]
    np.testing.assert_array_equal(facts["thermal/d.png"]["confidence"], np.float32(0.25))
    np.testing.assert_array_equal(facts["thermal/a.png"]["confidence"], 1.0)
    assert facts["thermal/d.png"]["pseudo"] and not facts["thermal/a.png"]["pseudo"]
    lone = again.as_data_source(split="unlabelled")[0]
    assert lone["name"] == b"e" and np.isnan(lone["landmarks"]).all() and not lone["visible"].any()
    assert (lone["confidence"] == 0).all() and lone["box"].tolist() == [0, 0, *SIZE]


def test_coco_keypoints(tmp_path):
    """Covers v = 0, 1, 2, two faces in an image, an image without annotations, and names from annotation tools."""
    written = write(tmp_path, ("a", "b", "c"))
    names = ("images/thermal/a.png", "b.png", "c.jpg")
    images = [{"id": k, "file_name": name} for k, name in enumerate(names)]

    def keypoints(points, flags):
        return np.concatenate([points.astype(float), np.array(flags, float)[:, None]], 1).ravel().tolist()

    flags = [2] * 66 + [1, 0]
    shown = written["a"].copy()
    shown[67] = 0  # COCO writes 0, 0 where there is no label
    annotations = [
        {"id": 1, "image_id": 0, "keypoints": keypoints(shown, flags), "bbox": [5, 6, 40, 50]},
        {"id": 2, "image_id": 0, "keypoints": keypoints(written["b"], [2] * 68)},
        {"id": 3, "image_id": 0, "keypoints": [0] * 204, "bbox": [1, 1, 9, 9]},
        {"id": 4, "image_id": 1, "keypoints": keypoints(written["b"], [2] * 68), "bbox": []},
    ]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    faces, found, _ = parse(tmp_path)
    assert set(faces) == {"thermal/a.png", "thermal/a.png#2", "thermal/b.png", "thermal/c.png"}
    assert [face.key for face in found["unlabelled"]] == ["thermal/c.png"]
    first = faces["thermal/a.png"]
    np.testing.assert_allclose(first.landmarks[:67], written["a"][:67], atol=1e-4)
    np.testing.assert_allclose(first.landmarks[67], written["a"][:67].mean(0), atol=1e-3)
    assert first.known.tolist() == [True] * 67 + [False]
    assert first.visible.tolist() == [True] * 66 + [False, False]
    assert first.extra["confidence"].tolist() == [1.0] * 67 + [0.0]
    assert list(first.box) == [5, 6, 40, 50] and faces["thermal/a.png#2"].box is None
    np.testing.assert_allclose(faces["thermal/a.png#2"].landmarks, written["b"], atol=1e-4)


def test_coco_keypoints_without_a_2_are_visible_and_remarked(tmp_path):
    written = write(tmp_path, ("a", "b", "c"))
    images = [{"id": k, "file_name": f"{name}.png"} for k, name in enumerate(written)]
    ones = np.ones((68, 1))
    annotations = [
        {"id": k, "image_id": k, "keypoints": np.concatenate([points.astype(float), ones], 1).ravel().tolist()}
        for k, points in enumerate(written.values())
    ]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    builder = build(tmp_path, splits="1,0,0")
    assert builder.info.metadata["splits"]["train"]["invisible"] == 0
    assert builder.info.metadata["remarks"][0].startswith("No keypoint in coco.json has v = 2, so v = 1 counts as")


@pytest.mark.parametrize("form", ["list", "by name"])
def test_one_json_file_beside_a_flat_folder(tmp_path, form):
    written = write(tmp_path, ("a", "b"))
    for name in written:
        (tmp_path / f"rgb/{name}.png").rename(tmp_path / f"{name}_rgb.png")
        (tmp_path / f"thermal/{name}.png").rename(tmp_path / f"{name}_thermal.png")
    entry = {"landmarks68": written["a"].tolist(), "pseudo": True, "source": "dlib"}
    by_name = {"a": entry, "b_thermal.png": {"landmarks68": None, "pseudo": None}}
    listed = [{"name": name} | value for name, value in by_name.items()]
    (tmp_path / "labels.json").write_text(json.dumps(listed if form == "list" else by_name))
    options = {"rgb_glob": "*_rgb.png", "thermal_glob": "*_thermal.png", "labels": "labels.json"}
    faces, found, _ = parse(tmp_path, **options)
    assert [face.key for face in found["unlabelled"]] == ["b_thermal.png"]
    assert faces["a_thermal.png"].extra["pseudo"] and faces["a_thermal.png"].rgb == tmp_path / "a_rgb.png"
    np.testing.assert_allclose(faces["a_thermal.png"].landmarks, written["a"], atol=1e-4)
    pseudo = {"landmarks": written["b"].tolist(), "confidence": [0.5] * 68, "box": [1, 2, 30, 40], "layout": "ibug68"}
    for name in "ab":  # as `mlcm label` writes them
        path = tmp_path / f"landmarks/{name}_thermal.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(pseudo | {"pseudo": True, "source": "stage teacher of run"}))
    faces, found, _ = parse(tmp_path, **options | {"labels": "labels.json, landmarks"})
    assert not found["unlabelled"] and faces["a_thermal.png"].extra["confidence"].min() == 1
    assert (faces["b_thermal.png"].extra["confidence"] == 0.5).all() and faces["b_thermal.png"].extra["pseudo"]


def test_stars_labels_by_a_pattern_and_one_modality(tmp_path):
    points = write(tmp_path, ("x",), modalities=("thermal",))["x"]
    for place in ("S1/ir", "S2/ir"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "0001.png").write_bytes((tmp_path / "thermal/x.png").read_bytes())
        (tmp_path / place / "0001.txt").write_text("\n".join(f"{x} {y}" for x, y in points))
    faces, _, builder = parse(tmp_path, thermal_glob="S*/ir/*.png", labels="S*/ir/*.txt")
    assert builder.MODALITIES == ("thermal",) and "rgb" not in builder.info.features
    assert {face.extra["name"] for face in faces.values()} == {"1/0001", "2/0001"}
    assert set(faces) == {"S1/ir/0001.png", "S2/ir/0001.png"} and all(f.landmarks is not None for f in faces.values())


def test_a_layout_of_the_users_own_and_rgb_alone(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "names: [no, right_eye, left_eye, tip]\nflip: [[right_eye, left_eye]]\neye_corners: [right_eye, 2]\n"
        "groups: {right_eye: [1], left_eye: [2], nose: [0, 3]}\nedges: [[no, tip]]\n"
    )
    layout = paired.layout_file.read_layout(tmp_path / "mine.yaml")
    written = write(tmp_path, ("a", "b", "c"), modalities=("rgb",), layout=layout)
    write_labels(tmp_path, written)
    build(tmp_path, "own", layout="mine.yaml")
    (tmp_path / "mine.yaml").unlink()  # a built dataset no longer needs the folder
    loaded = tfds_builders.load("paired_folder/own", tmp_path / "built")
    kept = loaded.LAYOUT
    assert (kept.name, kept.count, kept.eye_corners) == ("mine", 4, (1, 2)) and kept.flip.tolist() == [0, 2, 1, 3]
    assert kept.edges == ((0, 3),) and loaded.MODALITIES == ("rgb",) and "thermal" not in loaded.info.features
    for split in ("train", "val", "test"):  # three people, three splits
        ((key, example),) = trees.read_back("paired_folder/own", split, tmp_path / "built").items()
        trees.check_flips([example], kept)
        np.testing.assert_allclose(example["landmarks"], written[key[4:-4]], atol=1e-4)


def test_sixteen_bits_and_float_celsius(tmp_path):
    """20 to 36 °C, as counts of 0.04 K from 0 K and as floats, are stored in hundredths of a kelvin."""
    written = write(tmp_path, ("a",), modalities=("rgb",))
    write_labels(tmp_path, written)
    celsius = np.linspace(20, 36, SIZE[0] * SIZE[1]).reshape(SIZE[::-1])
    (tmp_path / "thermal").mkdir()
    assert cv2.imwrite(str(tmp_path / "thermal/a.tiff"), ((celsius + 273.15) / 0.04).round().astype(np.uint16))
    build(tmp_path, "counts", celsius="0.04,-273.15")
    example = tfds_builders.load("paired_folder/counts", tmp_path / "built").as_data_source(split="train")[0]
    assert np.abs(example["celsius"][..., 0] / 100.0 - 273.15 - celsius).max() < 0.026
    assert example["thermal"][0, 0, 0] == 0 and example["thermal"][-1, -1, 0] == 255
    assert paired.PairedFolder.make(None, tmp_path / "x", manual_dir=tmp_path).THERMAL.scale == 0.01
    (tmp_path / "thermal/a.tiff").unlink()
    np.save(tmp_path / "thermal/a.npy", celsius.astype(np.float32))
    builder = paired.PairedFolder.make(None, tmp_path / "x", manual_dir=tmp_path)
    assert (builder.THERMAL.kind, builder.THERMAL.scale, builder.THERMAL.offset) == ("counts", 1.0, 0.0)


@pytest.mark.parametrize("kind", ["name", "csv"])
def test_coloured_thermal_images(tmp_path, kind):
    written = write(tmp_path, ("a",), modalities=("rgb",))
    write_labels(tmp_path, written)
    gray = np.tile(np.arange(0, 240, 3, dtype=np.uint8), (SIZE[1], 1))
    colours = images.palettes()["inferno"].round()
    trees.write_image(tmp_path / "thermal/a.png", colours[gray].astype(np.uint8))
    with pytest.raises(InputError, match=r"a\.png is coloured: its colours fit --colormap='inferno'"):
        paired.PairedFolder.make(None, tmp_path / "built", manual_dir=tmp_path)
    (tmp_path / "own.csv").write_text("r,g,b\n" + "\n".join(",".join(map(str, row)) for row in colours))
    build(tmp_path, "coloured", colormap="own.csv" if kind == "csv" else "inferno")
    builder = tfds_builders.load("paired_folder/coloured", tmp_path / "built")
    example = builder.as_data_source(split="train")[0]
    assert "celsius" not in example
    np.testing.assert_allclose(example["thermal"][..., 0].astype(int), gray, atol=1)


def test_a_missing_mate_is_listed_and_left_out_on_demand(tmp_path):
    write_labels(tmp_path, write(tmp_path))
    (tmp_path / "rgb/d.png").unlink()
    (tmp_path / "landmarks/ghost.json").write_text("null")
    message = r"2 of 5 faces lack an image: .*its rgb image.*--allow_missing"
    with pytest.raises(InputError, match=message) as error:
        build(tmp_path)
    assert "thermal/d.png lacks" in str(error.value) and "ghost lacks" in str(error.value)
    assert not list((tmp_path / "built").rglob("1.2.0"))
    builder = build(tmp_path, allow_missing=True)
    assert sum(info.num_examples for info in builder.info.splits.values()) == 3
    assert "2 of 5 faces lack" in builder.info.metadata["remarks"][0]


def _text(name, content):
    def spoil(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)

    return spoil


def _truncated(folder):
    path = folder / "thermal/a.png"
    path.write_bytes(path.read_bytes()[:300])


def _sixteen(folder):
    assert cv2.imwrite(str(folder / "thermal/b.png"), np.full(SIZE[::-1], 30000, np.uint16))


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (None, {"layout": "ibug86"}, "--layout=ibug86: .*did you mean 'ibug68'"),
        (None, {"layout": 31}, "--layout=31 is no known layout; .*--layout=FILE.yaml"),
        (None, {"layout": "no.yaml"}, "--layout=no.yaml exists neither"),
        (None, {"layout": 54}, r"layout sf_tl54 has 54 points"),
        (None, {"rgb_glob": "rgb/a.png"}, r"--rgb_glob=rgb/a\.png must hold a \*"),
        (None, {"rgb_glob": "**/a*.png"}, r"\*\* and \? are not supported"),
        (None, {"thermal_glob": "*.gif"}, r"--thermal_glob=\*\.gif matches no file"),
        (None, {"labels": "none.json"}, "--labels=none.json exists neither"),
        (None, {"labels": "*.pts"}, r"--labels=\*\.pts matches no file"),
        (None, {"boxes": "none.csv"}, "--boxes=none.csv exists neither"),
        (None, {"colormap": "infernal"}, "--colormap=infernal is not a known palette; did you mean 'inferno'"),
        (None, {"colormap": "inferno"}, "--colormap=inferno is for coloured .* is 8-bit gray"),
        (None, {"celsius": "1,0"}, "--celsius=1,0 is for 16-bit or float images; .* is 8-bit gray"),
        (None, {"splits": "0.8,0.1"}, r"--splits=0\.8,0\.1 must be three shares"),
        (None, {"splits": "a,b,c"}, "--splits=a,b,c holds 'a' where a number"),
        (_text("notes.json", "{}"), {}, r"has landmarks and notes\.json; name the one to use with --labels"),
        (_text("landmarks/a.txt", "1 2"), {}, r"two files for the name a: a\.json and a\.txt"),
        (_text("landmarks/a.json", "[[1, 2], [3, NaN]]"), {}, "point 1 holds 'nan'"),
        (_text("landmarks/a.json", "[[1, 2]]"), {"layout": "ibug68"}, r"thermal/a\.png: Landmarks have shape \(1, 2\)"),
        (_text("subjects.csv", "name,who\na,b\n"), {}, "no column 'subject'"),
        (_text("boxes.csv", "name,x,y,w,h\na,1,2,0,4\n"), {}, r"The box of 'a' in .* is empty: its width"),
        (_text("boxes.csv", "name,x,y,w,h\n../a,1,2,3,4\n"), {}, "which lies outside"),
        (_truncated, {}, r"a\.png is damaged or incomplete"),
        (_sixteen, {}, r"b\.png has uint16 pixels; 8-bit gray is needed"),
    ],
)
def test_mistakes(tmp_path, spoil, options, message):
    write_labels(tmp_path, write(tmp_path, ("a", "b")))
    if spoil:
        spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        build(tmp_path, **options)
    assert not list((tmp_path / "built").rglob("1.2.0"))


def test_folders_in_upper_case_are_read(tmp_path):
    written = write(tmp_path, ("a", "s1/b"))
    write_labels(tmp_path, written)
    (tmp_path / "subjects.csv").write_text("name,subject\na.png,anna\nthermal/s1/b.png,bert\n")
    for name in ("rgb", "thermal", "landmarks", "subjects.csv"):
        (tmp_path / name).rename(tmp_path / name.upper())
    faces, _, _ = parse(tmp_path)
    assert {key: face.subject for key, face in faces.items()} == {"THERMAL/a.png": "anna", "THERMAL/s1/b.png": "bert"}
    np.testing.assert_allclose(faces["THERMAL/a.png"].landmarks, written["a"], atol=1e-4)
    assert all(face.rgb.is_file() and face.thermal.is_file() for face in faces.values())


def test_the_error_points_to_folders_one_level_down(tmp_path):
    write(tmp_path / "own/pairs", ("a",))
    with pytest.raises(InputError, match=r"thermal; give --manual_dir=\S+own/pairs, which has one, or say"):
        tfds_builders.build("paired_folder", tmp_path / "built", manual_dir=tmp_path / "own")


def test_wrong_folders_and_names(tmp_path):
    with pytest.raises(InputError, match="has neither a folder rgb nor a folder thermal"):
        build(tmp_path)
    with pytest.raises(InputError, match=r"is not a folder\. Give --manual_dir"):
        tfds_builders.build("paired_folder", tmp_path / "built", manual_dir=tmp_path / "none")
    with pytest.raises(InputError, match=r"paired_folder is not built, .*Give --manual_dir"):
        tfds_builders.build("paired_folder/x", tmp_path / "built")
    for name in ("../x", "a b", "1.0.0"):
        with pytest.raises(InputError, match="may hold letters, digits"):
            paired.PairedFolder.make(name, tmp_path / "built")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real rgb_thermal_pairs are not on disk")
def test_the_real_pairs(tmp_path):
    options = {"manual_dir": REAL, "rgb_glob": "*_rgb.png", "labels": "labels.json"}
    gray = tfds_builders.build("paired_folder/gray", tmp_path, thermal_glob="*_thermal_gray.png", **options)
    counts = {split: info.num_examples for split, info in gray.info.splits.items()}
    assert counts.pop("unlabelled") == 3 and sum(counts.values()) == 7 and set(counts) == {"train", "val", "test"}
    entries = {entry["name"]: entry for entry in json.loads((REAL / "labels.json").read_text())}
    for split in counts:
        for example in trees.read_back("paired_folder/gray", split, tmp_path).values():
            entry = entries[example["metadata"]["name"]]
            np.testing.assert_array_equal(example["landmarks"], np.float32(entry["landmarks68"]))
            assert (~example["visible"]).sum() == entry["landmarks_outside_image"]
            assert example["metadata"]["pseudo"] and example["metadata"]["subject"] == entry["subject"]
            image = cv2.imread(str(REAL / entry["thermal_gray"]), cv2.IMREAD_GRAYSCALE)
            np.testing.assert_array_equal(example["thermal"][..., 0], image)
