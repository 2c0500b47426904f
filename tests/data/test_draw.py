"""Drawing: dots lie on the landmarks, numbers are legible, and contact sheets have any length."""

import cv2
import numpy as np
import pytest

from mlcm_jax import landmarks
from mlcm_jax.data import draw
from mlcm_jax.errors import InputError

POINTS = np.array([(20.3, 15.0), (40.0, 15.7), (30.0, 25.0), (22.5, 35.0), (38.0, 35.5)], np.float32)


def red(image):
    return (image[..., 0].astype(int) - image[..., 1]) / 255


@pytest.mark.parametrize(("smallest", "factor"), [(0, 1), (200, 4), (512, 9)])
def test_dots_lie_on_the_landmarks(smallest, factor):
    points = POINTS[:3].repeat([1, 1, 3], 0)  # without the mouth, whose line would be red as well
    canvas = draw.draw_landmarks(np.zeros((50, 60), np.uint8), points, "tfw5", smallest=smallest)
    assert canvas.shape == (50 * factor, 60 * factor, 3) and canvas.dtype == np.uint8
    for x, y in POINTS[:3]:
        place = (np.array([x, y]) + 0.5) * factor - 0.5
        x0, y0 = (place - 6).round().astype(int)
        weight = red(canvas)[y0 : y0 + 13, x0 : x0 + 13]
        v, u = np.mgrid[y0 : y0 + 13, x0 : x0 + 13]
        found = np.array([(u * weight).sum(), (v * weight).sum()]) / weight.sum()
        np.testing.assert_allclose(found, place, atol=0.35)


def test_drawing_takes_every_kind_of_image_and_leaves_it_alone():
    for shape in ((50, 60), (50, 60, 1), (50, 60, 3)):
        image = np.full(shape, 90, np.uint8)
        canvas = draw.draw_landmarks(image, POINTS, "tfw5", box=(10, 8, 40, 35), smallest=0)
        assert (image == 90).all() and (canvas != 90).any()
        assert (canvas[8:43, 10] > 150).all()  # the left side of the box
    far = POINTS * 1e7  # a prediction far outside the image must not overflow
    draw.draw_landmarks(image, far, "tfw5")


def test_lines_follow_the_layout():
    image = np.zeros((50, 60, 3), np.uint8)
    canvas = draw.draw_landmarks(image, POINTS, "tfw5", color=(0, 255, 0), smallest=0)
    middle = (POINTS[3] + POINTS[4]) / 2  # the only edge of the five points: the mouth
    assert canvas[round(float(middle[1])), round(float(middle[0])), 1] > 60
    between_eyes = (POINTS[0] + POINTS[1]) / 2
    assert canvas[int(between_eyes[1]), int(between_eyes[0])].max() == 0


def test_outlines_of_regions_say_by_their_colour_whether_they_are_measured():
    squares = [np.array([(x, 5), (x + 8, 5), (x + 8, 12), (x, 12)], float) for x in (4, 44)]
    face = {"landmarks": POINTS, "layout": "tfw5", "box": None, "outlines": [(squares[0], True), (squares[1], False)]}
    canvas = draw.draw_faces(np.zeros((50, 60), np.uint8), [face], smallest=0)
    for x, colour in ((6, draw.MEASURED), (46, draw.HIDDEN)):
        np.testing.assert_allclose(canvas[5, x : x + 5], [colour] * 5, atol=30)  # the line is smoothed
    assert canvas[7:10, 6:10].max() == 0


def test_other_layouts_and_dtypes_are_refused():
    with pytest.raises(InputError, match="68 points"):
        draw.draw_landmarks(np.zeros((5, 5), np.uint8), POINTS, "ibug68")
    with pytest.raises(InputError, match="uint8"):
        draw.draw_landmarks(np.zeros((5, 5)), POINTS, "tfw5")


def strong(image, color):
    return np.abs(image.astype(int) - color).max(axis=-1) < 60


@pytest.mark.parametrize(("smallest", "factor"), [(0, 1), (512, 9)])
def test_numbers_are_placed_beside_their_dots(smallest, factor):
    image = np.full((50, 60), 40, np.uint8)
    canvas = draw.numbered(image, POINTS, "tfw5", visible=[True, True, False, True, True], smallest=smallest)
    assert canvas.shape == (50 * factor, 60 * factor, 3) and canvas.dtype == np.uint8 and (image == 40).all()
    for k, (x, y) in enumerate((POINTS + 0.5) * factor - 0.5):
        color = draw.HIDDEN if k == 2 else draw.SHOWN
        assert strong(canvas, color)[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].any()
    assert strong(canvas, draw.HIDDEN).sum() > 10
    blank = draw.numbered(image, POINTS, "tfw5", smallest=smallest)
    assert not strong(blank, draw.HIDDEN).any()


def test_numbers_do_not_cover_each_other_or_dots():
    layout = landmarks.get("ibug68")
    rng = np.random.default_rng(0)
    places = rng.uniform(100, 900, (layout.count, 2))
    boxes = [(0, 0, 12 if k < 10 else 24, 18) for k in range(layout.count)]
    spots = draw._spots(boxes, places, (1000, 1000), 2.0)
    half = np.array([(x1 / 2, y1 / 2) for _, _, x1, y1 in boxes])
    apart = np.abs(spots[:, None] - spots[None]) >= half[:, None] + half[None]
    assert (apart.any(-1) | np.eye(layout.count, dtype=bool)).all()
    assert (np.abs(spots[:, None] - places[None]) > half[:, None]).any(-1).all()
    assert np.linalg.norm(spots - places, axis=-1).max() < 80  # no number is far from its dot


def test_landmarks_unlabelled_or_outside_get_no_number():
    image = np.zeros((50, 60, 3), np.uint8)
    points = POINTS.copy()
    points[0], points[1] = np.nan, (500, 500)
    canvas = draw.numbered(image, points, "tfw5")
    left = draw.numbered(image, np.where(np.arange(5)[:, None] < 2, np.nan, POINTS), "tfw5")
    np.testing.assert_array_equal(canvas, left)
    assert canvas.any()
    assert not draw.numbered(image, np.full((5, 2), np.nan), "tfw5").any()
    framed = draw.numbered(image, np.full((5, 2), np.nan), "tfw5", box=(10, 8, 40, 35), smallest=0)
    assert (framed[8:43, 10] > 150).all() and (framed[8:43, 50] > 150).all() and not framed[20, 30].any()
    with pytest.raises(InputError, match="68 points"):
        draw.numbered(image, POINTS, "ibug68")


def rows(count, *names):
    """Returns examples with random RGB images and black thermal ones of 60 x 50 pixels."""
    rng = np.random.default_rng(0)
    images = {"rgb": rng.integers(0, 255, (50, 60, 3), dtype=np.uint8), "thermal": np.zeros((50, 60, 1), np.uint8)}
    return [{name: images[name] for name in names} | {"landmarks": POINTS} for _ in range(count)]


@pytest.mark.parametrize(("names", "count"), [(("rgb", "thermal"), 16), (("rgb",), 5), (("thermal",), 1)])
def test_contact_sheet_of_any_length(tmp_path, monkeypatch, names, count):
    monkeypatch.setattr(draw, "_TILE", 96)
    box = {"box": (15, 8, 30, 34), "key": f"bär/{'x' * 300}.png"}
    draw.contact_sheet(tmp_path / "preview.png", [row | box for row in rows(count, *names)], "tfw5")
    image = cv2.imread(str(tmp_path / "preview.png"))[..., ::-1]
    columns, lines = min(4, count), -(-count // 4)
    assert image.shape == (lines * (96 + 28), columns * (96 * len(names) + 8), 3)
    # The crop is a square of 1.5 * 34 = 51 pixels about (30, 25), drawn at 96 / 51: landmark 2 is its middle, 47.5.
    for k in range(count):
        for panel in range(len(names)):
            x = (k % 4) * (96 * len(names) + 8) + panel * 96 + 48
            y = (k // 4) * (96 + 28) + 28 + 48
            assert strong(image, draw.SHOWN)[y - 2 : y + 2, x - 2 : x + 2].any()
    assert (image[5:20, : columns * 96] > 200).any()  # a title


def test_contact_sheet_of_unlabelled_examples_and_missing_modalities(tmp_path):
    pair, single = rows(1, "rgb", "thermal")[0], rows(1, "thermal")[0]
    pair |= {"box": (0, 0, 60, 50), "landmarks": np.full((5, 2), np.nan, np.float32), "visible": np.zeros(5, bool)}
    single |= {"box": (15, 8, 30, 34), "visible": np.zeros(5, bool)}
    draw.contact_sheet(tmp_path / "a.png", [pair, single], "tfw5")
    image = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    first, second = np.split(image[28:], 2, axis=1)
    assert not strong(first[:, 512:], draw.HIDDEN).any()  # no thermal landmarks
    assert (second[:, :512] == 24).all()  # the second example has no colour image
    assert strong(second[:, 512:], draw.HIDDEN).any()
    with pytest.raises(InputError, match="no examples"):
        draw.contact_sheet(tmp_path / "b.png", [], "tfw5")
    with pytest.raises(InputError, match="Cannot write the image"):
        draw.contact_sheet(tmp_path / "missing" / "b.png", [single], "tfw5")
