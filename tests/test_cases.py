"""A test for every kind of input that once went wrong: input -> right value.

The table says which tests cover which reported case; a test below checks that they exist. The tests make their own inputs.

| case | what must be right | tests |
|---|---|---|
| 01-invalid-pixels-ruin-gain | values that no thermometer gives are holes | test_holes.py::test_values_that_no_thermometer_gives, test_holes.py::test_telemetry_is_found_at_both_ends, test_holes.py::test_isolated_dead_pixels_in_the_face_and_elsewhere, data/test_image_file.py::test_values_that_no_thermometer_gives_are_holes, data/test_gain.py |
| 02-build-dead-pixels-squeeze-gray | the same in a build, told | builders/test_suspicion.py::test_counts_without_a_unit_and_dead_pixels, test_cases.py::test_dead_pixels_do_not_squeeze_the_gray_levels |
| 04-build-flat-pictures | images of one value are refused or counted | test_cases.py::test_flat_images |
| 05-whiteiszero-16bit | WhiteIsZero at every depth | test_tiff.py::test_orientation_and_white_is_zero_are_obeyed_at_every_depth |
| 06-black-hot | either polarity is as good | inference/test_shipped.py::test_inverted_images_are_as_good, test_polarity.py::test_a_dark_face_is_known_also_in_faded_images |
| 07-build-black-hot | told, and an option | builders/test_suspicion.py::test_black_hot_images_are_told_and_the_option_inverts_them |
| 09-fahrenheit-built-as-celsius | told, and an option | builders/test_suspicion.py::test_units_of_temperatures_in_a_word |
| 11-coco-zero-zero-visible | (0, 0) and (-1, -1) are no landmarks | test_cases.py::test_coco_points_that_nobody_set, builders/test_readings.py::test_placeholders_in_pts_files |
| 12-labels-0-to-1 | refused with the option | builders/test_readings.py::test_landmarks_of_every_kind |
| 13-boxes-xyxy-in-build | refused with the option | builders/test_readings.py::test_boxes_of_every_form |
| 15-predictions-overwritten | merged; nothing written if all fails | inference/test_predict_files.py::test_predictions_of_earlier_calls_are_kept, test_cases.py::test_a_call_in_which_all_fails_writes_nothing |
| 16-flir-radiometric-jpeg | °C from the counts | test_flir.py::test_a_jpeg_holds_them_in_pieces_and_keeps_its_picture, test_flir.py::test_the_conversion_is_that_of_published_constants |
| 17-build-flir-gray-jpeg | the same in a build | builders/test_docs_images.py::test_a_row, test_flir.py::test_counts_without_constants_are_counts |
| 19-label-file-not-looked-at | read, or told | builders/test_paired_folder_sources.py::test_one_file_of_all_images_needs_no_option, builders/test_paired_folder_sources.py::test_files_that_nobody_read_are_named |
| 20-nfc-nfd | names are compared after NFC | test_cases.py::test_names_with_composed_and_separate_accents_are_one |
| 22-mistake-poisons-workdir | a refused config leaves nothing | evaluation/test_train.py::test_a_bad_config_is_reported_in_one_sentence_and_claims_no_work_directory |
| 23-message-names-no-flag | the message names the option | builders/test_suspicion.py::test_counts_without_a_unit_and_dead_pixels, test_cases.py::test_counts_of_another_unit_name_the_option |
| 25-labels-on-larger-rgb | refused with the option | builders/test_readings.py::test_landmarks_of_every_kind, builders/test_readings.py::test_an_rgb_image_of_another_size_is_told |
| archive_own_folder | found one level down | builders/test_tree.py::test_the_archives_own_folder_is_found |
| charlotte_one_exclude_list | one list for both configs | builders/test_charlotte_thermal.py::test_one_exclude_list_serves_both_configs |
| charlotte_repeated_row_other_facts | NaN, and told | builders/test_charlotte_thermal.py::test_rows_of_one_id_with_different_facts |
| charlotte_spreadsheet_rows | skipped, and counted | builders/test_charlotte_thermal.py::test_spreadsheet_errors_are_skipped |
| coco_all_v1 | visible, and told | builders/test_paired_folder.py::test_coco_keypoints_without_a_2_are_visible_and_remarked |
| edge_maps_51 | the published drawing can be had | test_codecs.py::test_the_published_drawing_can_be_reproduced |
| star_original_target | the published loss can be had | test_losses_star.py::test_the_published_grid_is_the_published_loss |
"""  # noqa: E501

import json
import re
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

import tfds_builders
from mlcm_jax import landmarks
from mlcm_jax.errors import InputError
from mlcm_jax.inference.predict_files import predict_files

HERE = Path(__file__).parent
ROWS = [line.strip("| ").split(" | ") for line in __doc__.splitlines() if line.startswith("| ")][1:]
SIZE = (80, 96)
NAMES = [f"n{k}" for k in range(6)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_tests_of_a_case_exist(row):
    for place in row[2].split(", "):
        path, _, name = place.partition("::")
        assert re.search(rf"^def {name}\(" if name else "^def test", (HERE / path).read_text(), re.MULTILINE), place


def make_points(name):
    """68 landmarks of an upright face, float32 [68, 2]."""
    layout, rng = landmarks.get("ibug68"), np.random.default_rng(ord(name[-1]))
    points = np.zeros((68, 2))
    places = {
        "jaw": (40, 55, 25, 25), "right_brow": (30, 32, 8, 2), "left_brow": (50, 32, 8, 2), "nose": (40, 50, 4, 8),
        "right_eye": (30, 40, 5, 2), "left_eye": (50, 40, 5, 2), "outer_lips": (40, 66, 9, 4),
        "inner_lips": (40, 66, 6, 2),
    }  # fmt: skip
    for group, (x, y, w, h) in places.items():
        k = np.arange(len(layout.groups[group]))
        turn = np.pi * (1 + k * (2 if "eye" in group or "lips" in group else 1) / max(1, len(k) - (group == "jaw")))
        points[list(layout.groups[group])] = np.stack([x + w * np.cos(turn), y - h * np.sin(turn)], 1)
    return (points + rng.uniform(-0.3, 0.3, (68, 2)) + rng.integers(-5, 5, 2)).astype(np.float32)


def scene(points, seed=0):
    """°C of a face of 34 ± 1 °C in front of 22 ± 1 °C, float64 [96, 80]."""
    face = np.zeros(SIZE[::-1], np.uint8)
    cv2.fillConvexPoly(face, cv2.convexHull(points.round().astype(np.int32)), 1)
    return 22 + 12.0 * face + np.random.default_rng(seed).uniform(-1, 1, face.shape)


@pytest.fixture
def folder(tmp_path):
    """Six labelled faces without images; returns their folder, and the landmarks by name."""
    (tmp_path / "thermal").mkdir()
    (tmp_path / "landmarks").mkdir()
    written = {name: make_points(name) for name in NAMES}
    for name, points in written.items():
        (tmp_path / "landmarks" / f"{name}.json").write_text(json.dumps(points.tolist()))
    return tmp_path, written


def build(folder, config="default", **options):
    return tfds_builders.build(f"paired_folder/{config}", folder / "built", manual_dir=folder, **options)


def read(builder):
    return {e["name"].decode(): e for s in builder.info.splits for e in builder.as_data_source(split=s)}


@pytest.mark.parametrize("value", [-273.15, -9999.0, 1e6, np.nan])
def test_dead_pixels_do_not_squeeze_the_gray_levels(folder, value):
    place, written = folder
    dead = np.random.default_rng(1).random(SIZE[::-1]) < 0.02
    for name, points in written.items():
        np.save(place / "thermal" / f"{name}.npy", np.where(dead, value, scene(points)))
    builder = build(place)
    (remark,) = builder.info.metadata["remarks"]
    assert remark.startswith("6 of 6 faces,") and "some pixels hold no temperature; these count as missing" in remark
    for name, example in read(builder).items():
        gray, values = example["thermal"][..., 0], scene(written[name])
        assert np.median(gray[~dead & (values < 25)]) < 40 and np.median(gray[~dead & (values > 30)]) > 215
        np.testing.assert_allclose(example["celsius"][..., 0][~dead] / 100.0 - 273.15, values[~dead], atol=0.0051)
        assert (example["celsius"][..., 0][dead] == 0).all()


@pytest.mark.parametrize("flat", [6, 2])
def test_flat_images(folder, flat):
    place, written = folder
    for k, (name, points) in enumerate(written.items()):
        counts = ((scene(points) + 273.15) * 100).round().astype(np.uint16)
        pages = [np.full_like(counts, 29_500), counts] if k < flat else [counts]  # the first is a closed shutter
        with tifffile.TiffWriter(place / "thermal" / f"{name}.tif") as file:
            for page in pages:
                file.write(page)
    if flat == 6:
        with pytest.raises(InputError, match=r"^All thermal images are of one value only.* Nothing was built\.$"):
            build(place)
        return
    told, remark = build(place).info.metadata["remarks"]
    assert told.startswith("2 faces, such as thermal/n") and "the file holds 2 images, of which the first was" in told
    assert remark.startswith("2 of 6 faces, such as thermal/n") and "have a thermal image of one value only" in remark


@pytest.mark.parametrize("place_of", [(0, 0), (-1, -1)])
def test_coco_points_that_nobody_set(folder, place_of):
    place, written = folder
    content = {"images": [], "annotations": []}
    for k, (name, points) in enumerate(written.items()):
        cv2.imwrite(str(place / "thermal" / f"{name}.png"), (scene(points) * 5).astype(np.uint8))
        (place / "landmarks" / f"{name}.json").unlink()
        given = points.copy()
        given[[1, 40]] = place_of
        triples = np.concatenate([given, np.full((68, 1), 2)], 1).ravel().tolist()
        content["images"].append({"id": k, "file_name": f"{name}.png"})
        content["annotations"].append({"image_id": k, "keypoints": triples})
    (place / "annotations.json").write_text(json.dumps(content))
    (place / "landmarks").rmdir()
    builder = build(place, layout="ibug68")
    (remark,) = builder.info.metadata["remarks"]
    assert remark.startswith("6 of 6 faces,") and "at (0, 0) or (-1, -1), which count as missing" in remark
    for name, example in read(builder).items():
        assert np.flatnonzero(~example["known"]).tolist() == [1, 40]
        assert not example["visible"][[1, 40]].any() and (example["confidence"] > 0).sum() >= 66
        kept = np.delete(written[name], [1, 40], 0)
        np.testing.assert_allclose(example["box"], landmarks.box_from_points(kept), atol=1e-3)


def test_a_call_in_which_all_fails_writes_nothing(tmp_path):
    with pytest.raises(InputError, match=r"1 of 1 images were left out: The image .*missing\.png does not exist"):
        predict_files([str(tmp_path / "missing.png")], out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_with_composed_and_separate_accents_are_one(folder, form):
    place, written = folder
    for name, points in written.items():
        cv2.imwrite(str(place / "thermal" / f"{name}.png"), (scene(points) * 5).astype(np.uint8))
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    image, label = (unicodedata.normalize(one, "Jürgen") for one in (form, other))
    (place / "thermal/n0.png").rename(place / "thermal" / f"{image}.png")
    (place / "landmarks/n0.json").rename(place / "landmarks" / f"{label}.json")
    builder = build(place)
    assert builder.info.metadata["remarks"] == []
    example = read(builder)["Jürgen"]
    assert example["known"].all()
    np.testing.assert_allclose(example["landmarks"], written["n0"], atol=1e-4)


@pytest.mark.parametrize(
    ("scale", "offset", "option"),
    [(25.0, 6828.75, "0.04,-273.15"), (10.0, 2731.5, "decikelvin"), (10.0, 1000.0, "0.1,-100"), (200.0, 0.0, "none")],
)
def test_counts_of_another_unit_name_the_option(folder, capsys, scale, offset, option):
    place, written = folder
    for name, points in written.items():
        counts = (scene(points) * scale + offset).round().astype(np.uint16)
        cv2.imwrite(str(place / "thermal" / f"{name}.png"), counts)
    with pytest.raises(
        InputError, match=r"thermal/n\d\.png would be at -?\d+ °C; .*--celsius=scale,offset.*--celsius=n"
    ):
        build(place)
    assert option == "none" or f"--celsius={option}" in capsys.readouterr().out
    example = read(build(place, celsius=option))["n1"]
    if option == "none":
        assert "celsius" not in example and np.ptp(example["thermal"]) == 255
    else:
        found = example["celsius"][..., 0] / 100.0 - 273.15
        np.testing.assert_allclose(found, scene(written["n1"]), atol=0.5 / scale + 0.0051)
