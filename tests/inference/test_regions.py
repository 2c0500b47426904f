"""Regions of a face: where they lie, what is measured, and what is marked as hidden."""

import csv
import io
import json

import cv2
import numpy as np
import pytest

from mlcm_jax.data import draw
from mlcm_jax.errors import InputError
from mlcm_jax.inference import regions
from mlcm_jax.inference.predict_files import predict_files
from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.synthetic import generate

EYES = ("right_eye_corner", "left_eye_corner")


@pytest.fixture(scope="module")
def pair():
    return generate.example(7, 8, size=192, frontal=True, well_lit=True)


def warm(pair, level=34.0):
    return np.full(pair["celsius"].shape, level, np.float32)


@pytest.mark.parametrize("name", regions.NAMES)
def test_regions_move_turn_and_grow_with_the_face(pair, name):
    turn = 1.7 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    here, there = (regions.outline(points, name) for points in (pair["landmarks"], pair["landmarks"] @ turn.T + 9.0))
    if name in EYES:
        np.testing.assert_allclose(there.mean(0), turn @ here.mean(0) + 9.0, atol=1e-3)
        np.testing.assert_allclose(np.ptp(there, 0), 1.7 * np.ptp(here, 0), rtol=1e-3)
    else:
        np.testing.assert_allclose(there, here @ turn.T + 9.0, atol=1e-3)


def test_regions_lie_where_their_names_say(pair):
    points = pair["landmarks"]
    middle = {name: regions.outline(points, name).mean(0) for name in regions.NAMES}
    up, down = points[17:27, 1].mean(), points[48:60, 1].mean()
    assert middle["forehead"][1] < up < middle["nose_tip"][1] < middle["upper_lip"][1] < down < middle["chin"][1]
    assert middle["right_cheek"][0] < points[30, 0] < middle["left_cheek"][0]
    for name in regions.NAMES[:-1]:  # all but the face itself, and they do not overlap
        for other in set(regions.NAMES[:-1]) - {name}:
            shape = pair["celsius"].shape
            one, two = (set(zip(*regions.pixels(points, some, shape), strict=True)) for some in (name, other))
            assert one and not one & two


def test_the_numbers_are_those_of_the_pixels_with_a_value(pair):
    celsius = np.random.default_rng(0).normal(34, 0.2, pair["celsius"].shape).astype(np.float32)
    rows, columns = regions.pixels(pair["landmarks"], "left_cheek", celsius.shape)
    celsius[rows[:5], columns[:5]] = np.nan
    found = regions.measure(pair["landmarks"], celsius)["left_cheek"]
    values = celsius[rows[5:], columns[5:]].astype(float)
    assert (found.pixels, found.hidden) == (len(values), False)
    wanted = (values.mean(), values.max(), values.std(), *np.percentile(values, [10, 90]))
    assert (found.mean, found.max, found.std, found.p10, found.p90) == pytest.approx(wanted)


def test_an_eye_corner_has_the_maximum_of_a_small_disc(pair):
    celsius = warm(pair)
    x, y = pair["landmarks"][39].round().astype(int)
    celsius[y, x] = 36.5
    found = regions.measure(pair["landmarks"], celsius)
    assert found["right_eye_corner"].max == pytest.approx(36.5) and found["left_eye_corner"].max == pytest.approx(34.0)
    radius = 0.05 * np.linalg.norm(pair["landmarks"][36] - pair["landmarks"][45])
    assert found["right_eye_corner"].pixels == pytest.approx(np.pi * radius**2, rel=0.3)


@pytest.mark.parametrize(
    ("cold", "hidden"),
    [
        (EYES, set(EYES)),
        (("forehead",), {"forehead"}),
        (("upper_lip", "chin"), {"upper_lip", "chin", "nose_tip", "nostrils", "right_cheek", "left_cheek"}),  # a mask
        ((), set()),
    ],
)
def test_covered_regions_are_marked_and_not_measured(pair, cold, hidden):
    celsius = warm(pair)
    for name in cold:
        celsius[regions.pixels(pair["landmarks"], name, celsius.shape)] = 29.0
    found = regions.measure(pair["landmarks"], celsius)
    assert {name for name in regions.NAMES if found[name].hidden} == hidden
    assert all(np.isnan(found[name].mean) == found[name].hidden for name in regions.NAMES)


def test_regions_outside_the_image_or_without_values_or_turned_away_are_hidden(pair):
    celsius = warm(pair)
    above = pair["landmarks"] - (0, pair["landmarks"][19:25, 1].mean())  # the brows lie on the border
    assert regions.measure(above, celsius)["forehead"].hidden and not regions.measure(above, celsius)["chin"].hidden
    assert all(one.hidden and one.pixels == 0 for one in regions.measure(pair["landmarks"], celsius * np.nan).values())
    turned = pair["landmarks"].copy()
    left = turned[:, 0] > turned[30, 0]
    turned[left, 0] = turned[30, 0] + 0.1 * (turned[left, 0] - turned[30, 0])
    found = regions.measure(turned, celsius)
    assert found["left_cheek"].hidden and found["left_eye_corner"].hidden and not found["right_cheek"].hidden


def test_predicted_landmarks_measure_the_eye_corners_of_rendered_faces_to_a_tenth_of_a_kelvin():
    predictor, apart = Predictor(detector=False), []
    for index in range(0, 40, 4):
        pair = generate.example(7, index, size=224, frontal=True)
        (found,) = predictor(pair["celsius"], pair["box"][None]).regions(pair["celsius"])
        true = regions.measure(pair["landmarks"], pair["celsius"])
        apart += [abs(found[name].max - true[name].max) for name in EYES if not true[name].hidden]
    assert len(apart) >= 8 and np.nanmedian(apart) < 0.1


def test_tiny_faces_have_no_number_that_is_not_one(pair):
    celsius = warm(pair)
    for scale in (0.02, 0.05, 0.1, 0.3):
        for one in regions.measure(scale * pair["landmarks"] + 5.0, celsius).values():
            assert one.hidden == (one.pixels == 0) or one.hidden
            assert one.hidden or one.mean == pytest.approx(34.0)


def test_json_and_csv_hold_what_was_measured(pair):
    celsius = warm(pair)
    celsius[regions.pixels(pair["landmarks"], "forehead", celsius.shape)] = 20.0
    entry = json.loads(json.dumps(regions.rounded(regions.measure(pair["landmarks"], celsius))))
    assert list(entry) == list(regions.NAMES) and entry["chin"]["mean"] == 34.0 and entry["chin"]["hidden"] is False
    assert entry["forehead"]["mean"] is None and entry["forehead"]["hidden"] is True
    text = regions.table({'a,"b.png': {"faces": [{}, {"regions": entry}]}, "none.png": {"faces": []}})
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(regions.NAMES) and {row["image"] for row in rows} == {'a,"b.png'}
    by_name = {row["region"]: row for row in rows}
    assert by_name["chin"]["max"] == "34.0" and by_name["chin"]["face"] == "1" and by_name["chin"]["hidden"] == "0"
    assert by_name["forehead"]["mean"] == "" and by_name["forehead"]["hidden"] == "1"
    assert int(by_name["face"]["pixels"]) == entry["face"]["pixels"]


def test_the_command_writes_regions_and_keeps_those_of_earlier_calls(tmp_path, pair):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", pair["celsius"])
        found = predict_files([str(tmp_path / f"{name}.npy")], out=str(tmp_path / "out"), regions=True)
    rows = list(csv.DictReader((tmp_path / "out/regions.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == ["a.npy"] * len(regions.NAMES) + ["b.npy"] * len(regions.NAMES)
    face = found["b.npy"]["faces"][0]
    wanted = regions.measure(np.float32(face["landmarks"]), pair["celsius"])
    assert face["regions"]["chin"]["mean"] == pytest.approx(wanted["chin"].mean, abs=0.02)
    cv2.imwrite(str(tmp_path / "gray.png"), pair["thermal"])
    with pytest.raises(InputError, match=r"1 of 1 images were left out: .*gray\.png: The image has gray levels"):
        predict_files([str(tmp_path / "gray.png")], out=str(tmp_path / "new"), regions=True)
    assert not (tmp_path / "new").exists()


def test_the_overlay_shows_which_regions_are_measured(tmp_path, pair):
    celsius = pair["celsius"].copy()
    celsius[regions.pixels(pair["landmarks"], "chin", celsius.shape)] -= 6.0
    np.save(tmp_path / "a.npy", celsius)
    (face,) = predict_files([str(tmp_path / "a.npy")], out=str(tmp_path), regions=True)["a.npy"]["faces"]
    overlay = cv2.imread(str(tmp_path / "a.npy_landmarks.png"))[..., ::-1]
    assert face["regions"]["chin"]["hidden"] and not face["regions"]["right_cheek"]["hidden"]
    for name, colour in (("chin", draw.HIDDEN), ("right_cheek", draw.MEASURED)):
        corner = (regions.outline(face["landmarks"], name)[0] + 0.5) * (overlay.shape[0] / celsius.shape[0]) - 0.5
        x, y = corner.round().astype(int)
        assert np.abs(overlay[y - 2 : y + 3, x - 2 : x + 3] - np.array(colour)).sum(-1).min() < 60


def test_the_table_of_an_earlier_call_loses_what_is_replaced(tmp_path, pair):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", pair["celsius"])
    names, out = [str(tmp_path / f"{name}.npy") for name in ("a", "b")], str(tmp_path / "out")
    predict_files(names, out=out, regions=True)
    predict_files(names[:1], out=out, overwrite=True)
    rows = list(csv.DictReader((tmp_path / "out/regions.csv").read_text().splitlines()))
    assert {row["image"] for row in rows} == {"b.npy"}


def test_8_bits_are_not_told_to_give_a_unit(tmp_path, pair):
    cv2.imwrite(str(tmp_path / "gray.png"), pair["thermal"])
    with pytest.raises(InputError, match="no temperatures; give the camera's radiometric file, or leave out --regions"):
        predict_files([str(tmp_path / "gray.png")], out=str(tmp_path / "new"), regions=True)


def test_arrays_that_are_no_temperatures_are_refused(pair):
    faces = Predictor(detector=False)(pair["thermal"], pair["box"][None])
    celsius = pair["celsius"]
    for wrong in (pair["thermal"], celsius[..., None], celsius[0], celsius > 30, "text", [[1.0], [1.0, 2.0]]):
        with pytest.raises(InputError, match=r"in °C, an array of floats \[H, W\] such as `Image.celsius`, not in"):
            faces.regions(wrong)
    assert faces.regions(celsius.tolist())[0]["chin"].mean == pytest.approx(faces.regions(celsius)[0]["chin"].mean)


def test_gray_levels_and_other_layouts_are_refused(pair):
    faces = Predictor(detector=False)(pair["thermal"], pair["box"][None])
    with pytest.raises(InputError, match=r"no temperatures; give one that has some, or, if it holds 16-bit"):
        faces.regions(None)
    faces = Predictor(layout="ibug51", detector=False)(pair["thermal"], pair["box"][None])
    with pytest.raises(InputError, match=r"68 landmarks of ibug68; the network has the layout ibug51"):
        faces.regions(pair["celsius"])
