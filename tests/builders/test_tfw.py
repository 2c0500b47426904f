"""Tests of tfw: CSV with and without a header, several faces in an image, gray and iron images, colour mates."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import trees

import tfds_builders
from mlcm_jax import images
from mlcm_jax.errors import InputError
from tfds_builders.tfw import tfw_dataset_builder as module

SIZE = (116, 87)
HEADER = "img_name,xs,ys,xe,ye,p1x,p1y,p2x,p2y,p3x,p3y,p4x,p4y,p5x,p5y"
NOSE = 2


def make_face(rng, *, x=0.0) -> tuple[list[float], np.ndarray]:
    """A box xs, ys, xe, ye and points float64 [5, 2], shifted by `x`; only the nose is at whole pixels."""
    points = trees.make_points("tfw5", (50, 60), rng).astype(np.float64).round(2) + np.array((x, 5))
    points[NOSE] = points[NOSE].round()
    return [x + 8.5, 12.0, x + 42.25, 60.0], points


def row(name, box, points) -> str:
    return ",".join([name, *(f"{value:g}" for value in (*box, *np.ravel(points)))])


def iron(gray) -> np.ndarray:
    """Colours a gray image with the camera's palette: uint8 [h, w, 3]."""
    palette = images.palettes()["iron"]
    return palette[np.round(gray / 255 * (len(palette) - 1)).astype(int)]


def make_tree(folder, rng, *, suffix="_gray", header=True) -> dict[str, tuple]:
    """Writes an image indoors and one with two faces outdoors in each split; key -> (box, points)."""
    truth = {}
    for k, split in enumerate(("train", "val", "test")):
        groups = {"indoor": {f"{103 + k}_1_1_4_450_1.png": 1}, "outdoor": {f"{3312 + k}.png": 2}}
        for environment, counts in groups.items():
            lines = [HEADER] if header else []
            for name, count in counts.items():
                faces = [make_face(rng, x=55 * n) for n in range(count)]
                for n, face in enumerate(faces, 1):
                    truth[f"{split}/{environment}/{name}" + (f"#{n}" if n > 1 else "")] = face
                    lines.append(row(name, *face))
                dots = [points[NOSE] for _, points in faces]
                gray = trees.make_image(SIZE, rng, channels=1, dots=dots)
                stored = np.repeat(gray[..., None], 3, axis=2) if suffix else iron(gray)
                trees.write_image(folder / split / f"{environment}{suffix}" / name, stored)
            (folder / split / f"{environment}.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    return truth


def check(example, box, points, *, least=255) -> None:
    np.testing.assert_allclose(example["landmarks"], points, atol=1e-4)
    np.testing.assert_allclose(example["box"], [box[0], box[1], box[2] - box[0], box[3] - box[1]], atol=1e-4)
    x, y = points[NOSE].astype(int)
    assert example["thermal"][y, x, 0] >= least and np.median(example["thermal"]) < 110


@pytest.mark.parametrize(("suffix", "header", "least"), [("_gray", True, 255), ("", False, 240)])
def test_all_faces_come_back(tmp_path, suffix, header, least):
    truth = make_tree(tmp_path / "TFW", np.random.default_rng(0), suffix=suffix, header=header)
    built = tfds_builders.build("tfw", tmp_path / "data", manual_dir=tmp_path / "TFW")
    for k, split in enumerate(("train", "val", "test")):
        examples = trees.read_back("tfw/all", split, tmp_path / "data")
        assert sorted(examples) == [
            f"{split}/indoor/{103 + k}_1_1_4_450_1.png",
            f"{split}/outdoor/{3312 + k}.png",
            f"{split}/outdoor/{3312 + k}.png#2",
        ]
        for key, example in examples.items():
            check(example, *truth[key], least=least)
            assert example["metadata"]["environment"] == key.split("/")[1] and example["metadata"]["subject"] == ""
        trees.check_flips(examples.values(), "tfw5")
    assert built.info.metadata["remarks"] == []


def test_configs_read_their_environment(tmp_path):
    make_tree(tmp_path / "TFW", np.random.default_rng(1))
    counts = {
        config: tfds_builders.build(f"tfw/{config}", tmp_path / "data", manual_dir=tmp_path / "TFW")
        .info.splits["val"]
        .num_examples
        for config in ("indoor", "outdoor")
    }
    assert counts == {"indoor": 1, "outdoor": 2}
    (tmp_path / "TFW/val/outdoor.csv").unlink()
    with pytest.raises(InputError, match=r"TFW has no val/outdoor.csv. Download it from huggingface"):
        tfds_builders.build("tfw/all", tmp_path / "data", manual_dir=tmp_path / "TFW")


def test_colour_mates(tmp_path):
    rng = np.random.default_rng(2)
    truth = make_tree(tmp_path / "TFW", rng)
    with pytest.raises(InputError, match=r"3 of 3 faces lack an image: train/indoor/103_1_1_4_450_1.png lacks .*450_3"):
        tfds_builders.build("tfw/indoor_rgb", tmp_path / "data", manual_dir=tmp_path / "TFW")
    colours = {}
    for split, name in (("train", "103_1_1_4_450_3.png"), ("val", "104_1_1_4_450_1.png")):
        key = f"{split}/indoor/{name.replace('_3.png', '_1.png')}"
        colours[key] = trees.make_image(SIZE, rng, dots=truth[key][1][[NOSE]])
        trees.write_image(tmp_path / "TFW" / split / "indoor_rgb" / name, colours[key])
    built = tfds_builders.build("tfw/indoor_rgb", tmp_path / "data", manual_dir=tmp_path / "TFW", allow_missing=True)
    assert "1 of 3 faces lacks an image" in built.info.metadata["remarks"][0]
    for split in ("train", "val"):
        (key,) = examples = trees.read_back("tfw/indoor_rgb", split, tmp_path / "data")
        np.testing.assert_array_equal(examples[key]["rgb"], colours[key])
        check(examples[key], *truth[key])
        trees.check_flips(examples.values(), "tfw5")


def build_one(folder, data_dir, lines, **options):
    """Builds `tfw/indoor` with these rows in train; val and test hold only a header."""
    for split in ("train", "val", "test"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / "indoor.csv").write_text("\n".join([HEADER, *(lines if split == "train" else [])]))
    return tfds_builders.build("tfw/indoor", data_dir, manual_dir=folder, **options)


def test_bad_faces(tmp_path):
    rng = np.random.default_rng(3)
    (box, points), folder = make_face(rng), tmp_path / "TFW"
    gap = points.copy()
    gap[3] = np.nan
    trees.write_image(folder / "train/indoor/1.png", trees.make_image(SIZE, rng, channels=1))
    cases = {
        r"train/indoor/1.png: Landmark 3 is not a finite number. Fix it": row("1.png", box, gap),
        r"The box of train/indoor/1.png is empty": row("1.png", box[::-1], points),
        r"5 of 5 landmarks lie outside the image, which is 116 x 87": row("1.png", box, points + 300),
        r"train/indoor/2.png lacks .*2.png. Complete": row("2.png", box, points),
        r"indoor.csv names the file '../1.png', which lies outside": row("../1.png", box, points),
        r"Row 2 of .*indoor.csv has 13 columns": row("1.png", box, points[:4]),
        r"Row 2 of .*indoor.csv holds 'top' where a number": row("1.png", box, points).replace(",12,", ",top,"),
        r"holds no faces of tfw": "",
    }
    for sentence, line in cases.items():
        with pytest.raises(InputError, match=sentence):
            build_one(folder, tmp_path / "data", [line])
    # A bad face can be excluded; the image's other face stays.
    listing = tmp_path / "wrong.txt"
    listing.write_text("train/indoor/1.png#2")
    lines = [row("1.png", box, points), row("./1.png", box, gap)]
    built = build_one(folder, tmp_path / "data", lines, exclude=listing)
    assert built.info.splits["train"].num_examples == 1


def test_spreadsheet_errors(tmp_path):
    rng = np.random.default_rng(6)
    box, points = make_face(rng)
    for name in ("1.png", "2.png"):
        trees.write_image(tmp_path / "TFW/train/indoor" / name, trees.make_image(SIZE, rng, channels=1))
    broken = row("2.png", box, points).replace(",12,", ",#DIV/0!,")
    lines = [row("1.png", box, points), broken, "," * 14, ",#REF!" + "," * 13]
    with pytest.raises(InputError, match=r"The box of train/indoor/2.png holds a number that is not finite"):
        build_one(tmp_path / "TFW", tmp_path / "data", lines)
    (tmp_path / "wrong.txt").write_text("train/indoor/2.png")
    built = build_one(tmp_path / "TFW", tmp_path / "data", lines, exclude=tmp_path / "wrong.txt")
    assert built.info.splits["train"].num_examples == 1


def test_one_exclude_list_serves_all_configs(tmp_path):
    make_tree(tmp_path / "TFW", np.random.default_rng(7))
    listing = tmp_path / "wrong.txt"
    listing.write_text("train/outdoor/3312.png#2\ntrain/indoor/103_1_1_4_450_1.png")
    options = {"manual_dir": tmp_path / "TFW", "exclude": listing}
    built = tfds_builders.build("tfw/outdoor", tmp_path / "data", **options)
    assert built.info.splits["train"].num_examples == 1
    listing.write_text("train/outdoor/3312.png#3")
    with pytest.raises(InputError, match=r"'train/outdoor/3312.png#3', which is not a face of tfw"):
        tfds_builders.build("tfw/all", tmp_path / "data", **options)


def test_bad_images(tmp_path):
    rng = np.random.default_rng(4)
    box, points = make_face(rng)
    image = tmp_path / "TFW/train/indoor/1.png"
    trees.write_image(image, trees.make_image(SIZE, rng, channels=1).astype(np.uint16))
    with pytest.raises(InputError, match=r"1.png has uint16 pixels, not colours of a palette"):
        build_one(tmp_path / "TFW", tmp_path / "data", [row("1.png", box, points)])
    trees.write_image(image, trees.make_image(SIZE, rng, channels=1))
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    with pytest.raises(InputError, match=r"1.png"):
        build_one(tmp_path / "TFW", tmp_path / "data", [row("1.png", box, points)])


def test_swapped_axes_are_remarked(tmp_path):
    rng = np.random.default_rng(5)
    lines = []
    for k in range(3):
        trees.write_image(tmp_path / f"TFW/train/indoor/{k}.png", trees.make_image(SIZE, rng, channels=1))
        box, points = make_face(rng)
        lines.append(row(f"{k}.png", box, points[:, ::-1]))
    built = build_one(tmp_path / "TFW", tmp_path / "data", lines)
    assert any("are the rows [y, x]" in remark for remark in built.info.metadata["remarks"])


@hypothesis.settings(max_examples=80, derandomize=True)
@hypothesis.given(
    cells=st.lists(st.floats().map(str) | st.text(max_size=4), min_size=13, max_size=15), other=st.binary(max_size=30)
)
def test_any_file_parses_or_is_refused(tmp_path_factory, cells, other):
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    path.write_bytes(other + b"\na.png," + ",".join(cells).encode("utf-8", "surrogatepass"))
    try:
        rows = module.read_labels(path)
    except InputError as error:
        assert str(error)
    else:
        assert all(name and values.shape == (14,) and values.dtype == np.float32 for name, values in rows)
