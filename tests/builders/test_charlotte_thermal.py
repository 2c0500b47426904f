"""Tests of charlotte_thermal: radiometric TIFF, 73 frontal and 43 profile points, the side of a profile, odd rows."""

import cv2
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import trees

import tfds_builders
from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from tfds_builders.charlotte_thermal import charlotte_thermal_dataset_builder as module

SIZE = (160, 128)
COLUMNS = [f"{axis}{i}" for i in range(73) for axis in "xy"]
HEADER = ",".join(["ID", *COLUMNS, "Distance", "RH", "Airflow", "env-temp", "Sensation"])
FACTS = "1.4,52.5,0,23.95,-1"
# A profile that looks to the left of the image, in fractions of its width and height.
_PROFILE = (
    "0.80 0.45  0.80 0.53  0.79 0.60  0.77 0.67  0.74 0.73  0.69 0.79  0.63 0.84  0.56 0.88  "
    "0.49 0.90  0.42 0.91  0.35 0.90  0.31 0.88  0.46 0.30  0.40 0.28  0.34 0.28  0.28 0.30  "
    "0.26 0.38  0.22 0.45  0.18 0.52  0.16 0.57  0.20 0.61  0.24 0.60  0.31 0.39  0.35 0.37  "
    "0.40 0.39  0.36 0.41  0.32 0.42  0.22 0.68  0.27 0.69  0.31 0.71  0.36 0.73  0.33 0.75  "
    "0.28 0.77  0.23 0.77  0.24 0.71  0.28 0.72  0.33 0.73  0.28 0.74  0.24 0.74  0.56 0.25  "
    "0.52 0.14  0.40 0.11  0.30 0.17  "
)
PROFILE = np.array(_PROFILE.split(), float).reshape(43, 2)


def frontal(rng) -> np.ndarray:
    """A face float64 [73, 2]; only the nose tip (30) is at whole pixels."""
    forehead = np.array([(0.2, 0.2), (0.32, 0.1), (0.5, 0.06), (0.68, 0.1), (0.8, 0.2)]) * SIZE
    points = np.concatenate([trees.make_points("ibug68", SIZE, rng), forehead]).round(2)
    points[30] = points[30].round()
    return points


def profile(*, mirrored=False) -> np.ndarray:
    """A face float64 [43, 2]; the nose tip (19) is at whole pixels."""
    points = (PROFILE * SIZE).round(2)
    points[19] = points[19].round()
    return [SIZE[0] - 1, 0] + points * [-1, 1] if mirrored else points


def row(name, points, *, columns=146, facts=FACTS) -> str:
    """A line of S{k}.csv; the cells after the points are blank."""
    cells = [f"{value:g}" for value in np.ravel(points)]
    return ",".join([name, *cells, *[""] * (columns - len(cells)), facts])


def write_tiff(path, rng, dot) -> np.ndarray:
    """Writes and returns uint16 counts of a cool room with a hot bar at the bottom and a hot pixel at `dot`."""
    raw = rng.integers(29_500, 29_600, SIZE[::-1], np.uint16)
    raw[-2:] = 30_900
    raw[round(dot[1]), round(dot[0])] = 30_900
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), raw)
    return raw


def make_tree(folder, rng) -> dict[str, np.ndarray]:
    """Writes subjects 1 (train), 3 (val) and 4 (test), each with a frontal face and two profiles; key -> points."""
    truth, raw = {}, {}
    for subject in (1, 3, 4):
        faces = {
            f"R{subject}1102": profile(),
            f"R{subject}1104": frontal(rng),
            f"R{subject}1107": profile(mirrored=True),
        }
        for name, points in faces.items():
            key = f"S{subject}/{name}.tiff"
            truth[key] = points
            raw[key] = write_tiff(folder / key, rng, points[30 if len(points) == 73 else 19])
        lines = [HEADER, *(row(name, points) for name, points in faces.items())]
        (folder / f"S{subject}.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    return truth | {"raw": raw}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("charlotte")
    return folder, make_tree(folder, np.random.default_rng(0))


def test_frontal_faces_come_back(tree, tmp_path):
    folder, truth = tree
    builder = tfds_builders.build("charlotte_thermal/frontal", tmp_path, manual_dir=folder)
    assert builder.LAYOUT is landmarks.get("charlotte73")
    subjects = {"train": "S1", "val": "S3", "test": "S4"}
    for split, subject in subjects.items():
        examples = trees.read_back("charlotte_thermal/frontal", split, tmp_path)
        (key,) = examples
        example = examples[key]
        assert key.startswith(f"{subject}/R") and example["metadata"]["subject"] == subject
        np.testing.assert_allclose(example["landmarks"], truth[key], atol=1e-4)
        x, y = truth[key][30].astype(int)
        assert example["thermal"][y, x, 0] == 255 and np.median(example["thermal"]) < 30
        assert example["visible"].all()
        # The box is made from the points that other datasets have too, without the forehead.
        low, high = truth[key][:68].min(0), truth[key][:68].max(0)
        assert example["box"][2] == pytest.approx((high - low)[0] / 0.91, abs=1e-2)
        assert example["box"][3] == pytest.approx((high - low)[1] / 0.825, abs=1e-2)
        facts = {name: float(example["metadata"][name]) for name in ("distance", "humidity", "airflow", "sensation")}
        assert facts == pytest.approx({"distance": 1.4, "humidity": 52.5, "airflow": 0.0, "sensation": -1.0})
        assert float(example["metadata"]["room"]) == pytest.approx(23.95)
        trees.check_flips(examples.values(), builder.LAYOUT)
        # °C = raw / 100 - 273.15, and the counts are the file's own.
        record = builder.as_data_source(split=split)[0]
        np.testing.assert_array_equal(record["celsius"][..., 0], truth["raw"][key])


def test_profiles_come_back_with_their_side(tree, tmp_path):
    folder, truth = tree
    builder = tfds_builders.build("charlotte_thermal/profile", tmp_path, manual_dir=folder)
    assert builder.LAYOUT is landmarks.get("charlotte43")
    examples = trees.read_back("charlotte_thermal/profile", "test", tmp_path)
    assert sorted(examples) == ["S4/R41102.tiff", "S4/R41107.tiff"]
    for key, example in examples.items():
        np.testing.assert_allclose(example["landmarks"], truth[key], atol=1e-4)
        x, y = truth[key][19].astype(int)
        assert example["thermal"][y, x, 0] == 255
        # The nose points to the image's left in R…02: the subject shows the left cheek.
        assert example["metadata"]["side"] == ("left" if key.endswith("02.tiff") else "right")
    trees.check_flips(examples.values(), builder.LAYOUT)


@pytest.mark.parametrize("degrees", [-80, -30, 0, 30, 80])
def test_the_side_does_not_depend_on_the_roll(degrees):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert module.visible_side(profile() @ turn.T) == "left"
    assert module.visible_side(profile(mirrored=True) @ turn.T) == "right"


def test_layouts():
    frontal_layout, profile_layout = landmarks.get("charlotte73"), landmarks.get("charlotte43")
    ibug = landmarks.get("ibug68")
    np.testing.assert_array_equal(frontal_layout.flip[:68], ibug.flip)
    assert frontal_layout.flip[68:].tolist() == [72, 71, 70, 69, 68]
    assert profile_layout.flip.tolist() == list(range(43))
    for layout in (frontal_layout, profile_layout):
        assert sorted(i for part in layout.groups.values() for i in part) == list(range(layout.count))
        assert max(map(max, layout.edges)) == layout.count - 1
    # After mirroring and flipping, the points are in the order of the layout again: the right eye is on the left.
    points = frontal(np.random.default_rng(1))
    mirrored = ([SIZE[0] - 1, 0] + points * [-1, 1])[frontal_layout.flip]
    for part in ("right_brow", "left_brow", "right_eye", "left_eye"):
        before, after = (p[list(frontal_layout.groups[part])].mean(0)[0] < SIZE[0] / 2 for p in (points, mirrored))
        assert before == after


def write_subject(folder, lines, names=(), subject=1) -> None:
    (folder / f"S{subject}.csv").write_text("\n".join([HEADER, *lines]))
    for name in names:
        write_tiff(folder / f"S{subject}" / f"{name}.tiff", np.random.default_rng(2), (5, 5))


def test_72_points_lack_the_last_one_of_the_forehead(tmp_path):
    points = frontal(np.random.default_rng(3))
    write_subject(tmp_path, [row("R1", points[:72])], ["R1"])
    tfds_builders.build("charlotte_thermal", tmp_path / "data", manual_dir=tmp_path)
    (example,) = tfds_builders.load("charlotte_thermal", tmp_path / "data").as_data_source(split="train")
    np.testing.assert_allclose(example["landmarks"], points[[*range(72), 71]], atol=1e-4)
    assert example["known"].tolist() == example["visible"].tolist() == [True] * 72 + [False]


def odd_tree(folder):
    """Two good rows, one for each config, and two odd ones for each; returns the keys of the odd ones."""
    points = frontal(np.random.default_rng(4))
    gap = row("R3", points).split(",")
    gap[11] = ""  # x5
    lines = [row("R1", points), row("R2", points[:50]), ",".join(gap), row("R4", profile()), row("R5", profile()[:20])]
    write_subject(folder, [*lines, row("R6", [])], ["R1", "R2", "R3", "R4", "R5"])
    return {"frontal": "S1/R2.tiff (50), S1/R3.tiff (72)", "profile": "S1/R5.tiff (20), S1/R6.tiff (0)"}


@pytest.mark.parametrize("config", ["frontal", "profile"])
def test_odd_rows_are_left_out_and_listed(tmp_path, config):
    odd = odd_tree(tmp_path)[config]
    built = tfds_builders.build(f"charlotte_thermal/{config}", tmp_path / "data", manual_dir=tmp_path)
    assert built.info.splits["train"].num_examples == 1
    remark = f"2 rows have neither 73 points nor only the first 43: {odd}. They were left out."
    assert built.info.metadata["remarks"] == [remark]


@pytest.mark.parametrize("config", ["frontal", "profile"])
def test_all_odd_rows_of_the_published_tables_fit_into_the_remark(tmp_path, config):
    count = {"frontal": 50, "profile": 20}[config]
    write_subject(tmp_path, [row(f"R{k}", profile()[:1].repeat(count, 0)) for k in range(48)])
    builder = tfds_builders.load(f"charlotte_thermal/{config}", tmp_path / "data")
    builder.parse(tmp_path)
    (remark,) = builder.remarks
    assert all(f"S1/R{k}.tiff ({count})" in remark for k in range(48))


@pytest.mark.parametrize("config", ["frontal", "profile"])
def test_one_exclude_list_serves_both_configs(tmp_path, config):
    odd_tree(tmp_path)
    points = frontal(np.random.default_rng(5))
    write_subject(tmp_path, [row("R7", points), row("R8", profile())], ["R7", "R8"], subject=2)
    listing = tmp_path / "wrong.txt"
    listing.write_text("# known wrong labels\n" + "\n".join(f"S1/R{k}.tiff" for k in (1, 2, 3, 4, 5)))
    name = f"charlotte_thermal/{config}"
    built = tfds_builders.build(name, tmp_path / "data", manual_dir=tmp_path, exclude=listing)
    assert [one["key"] for one in built.as_data_source(split="train")] == [
        b"S2/R7.tiff" if config == "frontal" else b"S2/R8.tiff"
    ]
    remark = built.info.metadata["remarks"][0]
    assert remark == f"1 face was left out by {listing}; 4 names in it are not needed for this config."
    listing.write_text("S1/R9.tiff")
    with pytest.raises(InputError, match=r"wrong.txt names 'S1/R9.tiff', which is not a face of charlotte_thermal"):
        tfds_builders.build(name, tmp_path / "other", manual_dir=tmp_path, exclude=listing)


@pytest.mark.parametrize("error", ["#DIV/0!", "#REF!", "#N/A", "#NV", "Err:502"])
def test_spreadsheet_errors_are_skipped(tmp_path, error):
    points = frontal(np.random.default_rng(6))
    residue = row("", [], facts=f",{error},0,{error},")
    broken = row("R2", points).replace(f",{points[7, 0]:g},", f",{error},", 1)
    write_subject(tmp_path, [row("R1", points), broken, residue, residue, row(error, [])], ["R1", "R2"])
    write_subject(tmp_path, [row("R3", points, facts=f"1,{error},0,{error},"), residue], ["R3"], subject=2)
    built = tfds_builders.build("charlotte_thermal", tmp_path / "data", manual_dir=tmp_path)
    examples = trees.read_back("charlotte_thermal/frontal", "train", tmp_path / "data")
    assert list(examples) == ["S1/R1.tiff", "S2/R3.tiff"]
    facts = examples["S2/R3.tiff"]["metadata"]
    assert facts["distance"] == 1 and np.isnan([facts["room"], facts["humidity"], facts["sensation"]]).all()
    assert built.info.metadata["remarks"] == [
        "4 rows without an ID were skipped: 3 in S1.csv, 1 in S2.csv.",
        "1 row has neither 73 points nor only the first 43: S1/R2.tiff (72). It was left out.",
    ]


def test_rows_of_one_id_with_different_facts(tmp_path):
    points = frontal(np.random.default_rng(7))
    lines = [
        row("R1", points, facts="1.4,53,0,24.4,-1"),
        row("R2", points, facts="2,50,,24,1"),
        row("R1", points, facts="1.4,57,0,25.9,"),
        row("R2", points, facts=",50,1,24,1"),
        row("R1", points, facts="1.4,53,0,24.4,-1"),
    ]
    write_subject(tmp_path, lines, ["R1", "R2"])
    built = tfds_builders.build("charlotte_thermal", tmp_path / "data", manual_dir=tmp_path)
    examples = trees.read_back("charlotte_thermal/frontal", "train", tmp_path / "data")
    facts = {
        key: [float(example["metadata"][name]) for name in ("distance", "humidity", "airflow", "room", "sensation")]
        for key, example in examples.items()
    }
    np.testing.assert_array_equal(facts["S1/R1.tiff"], [np.float32(1.4), np.nan, 0, np.nan, -1])
    np.testing.assert_array_equal(facts["S1/R2.tiff"], [2, 50, 1, 24, 1])
    (remark,) = built.info.metadata["remarks"]
    assert remark.startswith("1 image has several rows with the same points but different facts")
    assert "S1/R1.tiff" in remark
    with pytest.raises(InputError, match=r"holds no faces of charlotte_thermal/profile\. Follow the link"):
        tfds_builders.build("charlotte_thermal/profile", tmp_path / "data", manual_dir=tmp_path)
    builder = tfds_builders.load("charlotte_thermal/profile", tmp_path / "data")
    assert builder.parse(tmp_path) == {"train": [], "val": [], "test": []} and builder.remarks == []


def test_an_image_with_two_labels_is_left_out(tmp_path):
    points = frontal(np.random.default_rng(8))
    write_subject(tmp_path, [row("R1", points), row("R2", points), row("R1", points + 1)], ["R1", "R2"])
    built = tfds_builders.build("charlotte_thermal", tmp_path / "data", manual_dir=tmp_path)
    assert list(trees.read_back("charlotte_thermal/frontal", "train", tmp_path / "data")) == ["S1/R2.tiff"]
    assert built.info.metadata["remarks"] == ["1 image has rows with different points: S1/R1.tiff. It was left out."]
    (tmp_path / "wrong.txt").write_text("S1/R1.tiff")
    tfds_builders.build("charlotte_thermal", tmp_path / "x", manual_dir=tmp_path, exclude=tmp_path / "wrong.txt")


def test_bad_images_and_folders(tmp_path):
    points = frontal(np.random.default_rng(6))
    with pytest.raises(InputError, match=r"Neither .* nor a folder in it holds any of: S1\.csv, .* Follow the link"):
        tfds_builders.build("charlotte_thermal", tmp_path / "data", manual_dir=tmp_path)
    write_subject(tmp_path, [row("R1", points), row("R2", points)], ["R1"])
    with pytest.raises(InputError, match=r"1 of 2 faces lacks an image: S1/R2.tiff lacks .*R2.tiff.*--allow_missing"):
        tfds_builders.build("charlotte_thermal", tmp_path / "data", manual_dir=tmp_path)
    write_subject(tmp_path, [row("R1", points)])
    trees.write_image(tmp_path / "S1/R1.tiff", trees.make_image(SIZE, np.random.default_rng(7), channels=1))
    with pytest.raises(InputError, match=r"R1.tiff has uint8 pixels; 16-bit counts or float °C are needed"):
        tfds_builders.build("charlotte_thermal", tmp_path / "data", manual_dir=tmp_path)
    write_tiff(tmp_path / "S1/R1.tiff", np.random.default_rng(8), (5, 5))
    whole = (tmp_path / "S1/R1.tiff").read_bytes()
    (tmp_path / "S1/R1.tiff").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"R1.tiff"):
        tfds_builders.build("charlotte_thermal", tmp_path / "data", manual_dir=tmp_path)
    write_subject(tmp_path, [row("R1", points + 1000)], ["R1"])
    with pytest.raises(InputError, match=r"S1/R1.tiff: 73 of 73 landmarks lie outside the image"):
        tfds_builders.build("charlotte_thermal", tmp_path / "data", manual_dir=tmp_path)


def test_swapped_axes_are_remarked(tmp_path):
    rng = np.random.default_rng(9)
    names = [f"R{k}" for k in range(3)]
    write_subject(tmp_path, [row(name, frontal(rng)[:, ::-1] * 0.7) for name in names], names)
    built = tfds_builders.build("charlotte_thermal", tmp_path / "data", manual_dir=tmp_path)
    assert any("are the rows [y, x]" in remark for remark in built.info.metadata["remarks"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: text.replace("x42,", "z42,"), r"has no column 'x42'"),
        (lambda text: text.replace("R1,", "../R1,"), r"Row 2 of .* has the ID '../R1', which is not an image's name"),
        (lambda text: text.replace("1.4,52.5", "far,52.5"), r"Row 2 of .* holds 'far' where a number is expected"),
        (lambda text: text + ",7", r"Row 2 of .* has 153 columns; the header has 152"),
        (lambda text: "", "is empty"),
    ],
)
def test_bad_tables(tmp_path, change, sentence):
    write_subject(tmp_path, [row("R1", profile())])
    path = tmp_path / "S1.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=sentence):
        module.read_labels(path)


@hypothesis.settings(max_examples=60, derandomize=True)
@hypothesis.given(
    cells=st.lists(st.text(max_size=6) | st.floats().map(str), max_size=160),
    tail=st.binary(max_size=20),
    free=st.booleans(),
)
def test_any_text_parses_or_is_refused(tmp_path_factory, cells, tail, free):
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    body = ",".join(cells).encode("utf-8", "surrogatepass") + tail
    path.write_bytes(body if free else HEADER.encode() + b"\nR1," + body)
    try:
        table = module.read_labels(path)
    except InputError as error:
        assert str(error)
    else:
        assert table.points.keys() == table.facts.keys()
        assert all(points.shape[1] == 2 and points.dtype == np.float32 for points in table.points.values())
