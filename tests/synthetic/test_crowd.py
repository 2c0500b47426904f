"""Scenes with people: what is in them, and that boxes lie where the faces are."""

import numpy as np
import pytest

from mlcm_jax.errors import InputError
from mlcm_jax.synthetic import crowd, surroundings, things


@pytest.fixture(scope="module")
def scenes():
    return [crowd.example(5, index, size=(96, 128)) for index in range(40)]


def test_a_scene_is_reproducible_and_does_not_depend_on_others(scenes):
    again = crowd.example(5, 17, size=(96, 128))
    for key, value in scenes[17].items():
        np.testing.assert_array_equal(value, again[key], err_msg=key)
    other = crowd.example(6, 17, size=(96, 128))
    assert other["thermal"].shape != again["thermal"].shape or (other["thermal"] != again["thermal"]).any()


def test_numbers_and_sizes(scenes):
    counts = np.array([len(scene["boxes"]) for scene in scenes])
    assert (counts == 0).any() and (counts == 1).any() and (counts > 1).any() and counts.max() <= 5
    for scene in scenes:
        assert scene["thermal"].dtype == np.uint8 and 96 <= max(scene["thermal"].shape) <= 128
        assert len(scene["shown"]) == len(scene["yaw"]) == len(scene["boxes"])
        assert ((scene["shown"] >= 0) & (scene["shown"] <= 1)).all() and (np.abs(scene["yaw"]) <= 90).all()
        assert (scene["boxes"][:, 2:] > 0).all()
    sizes = np.concatenate([scene["boxes"][:, 2:].max(1) / max(scene["thermal"].shape) for scene in scenes])
    assert sizes.min() < 0.15 and sizes.max() > 0.5


def test_faces_differ_from_what_surrounds_them(scenes):
    """A face that counts as seen has contrast with the ring around its box, more than most empty places."""
    apart = []
    for scene in scenes:
        gray = scene["thermal"].astype(float)
        for (x, y, w, h), shown in zip(scene["boxes"], scene["shown"], strict=True):
            if shown > 0.9 and w > 12:
                inner = gray[max(0, int(y)) : int(y + h), max(0, int(x)) : int(x + w)]
                beside = gray[max(0, int(y)) : int(y + h), max(0, int(x - w)) : max(1, int(x - 0.4 * w))]
                if beside.size:
                    apart.append(abs(inner.mean() - beside.mean()))
    assert len(apart) > 15 and np.median(apart) > 20


def test_boxes_lie_on_the_rendered_heads(monkeypatch):
    """With everything else at 0 °C and no noise, the box of a single face holds the warmest pixels."""
    monkeypatch.setattr(crowd, "_COUNTS", (0, 1, 0, 0, 0, 0))
    monkeypatch.setattr(crowd, "_SEAT", 0.0)
    monkeypatch.setattr(crowd, "_taken", lambda field, side, rng: (_small(field, side), side))
    monkeypatch.setattr(crowd, "_background", lambda rng, side, climate: np.full((side, side), -40.0, np.float32))
    hits = []
    for index in range(12):
        scene = crowd.example(9, index, size=128)
        (x, y, w, h), gray = scene["boxes"][0], scene["thermal"]
        if scene["shown"][0] < 0.95 or abs(scene["yaw"][0]) > 60:
            continue
        middle = gray[int(y + 0.3 * h) : int(y + 0.7 * h) + 1, int(x + 0.3 * w) : int(x + 0.7 * w) + 1]
        above = gray[: max(0, int(y - 1.2 * h)), :]
        hits.append(np.median(middle) > 180 and (not above.size or np.median(above) < 60))
    assert len(hits) >= 5 and np.mean(hits) > 0.8


def _small(field, side):
    shrunk = field.reshape(side, -1, side, field.shape[0] // side).mean((1, 3))
    return np.clip((shrunk + 40) * 255 / 75, 0, 255).astype(np.uint8)


def test_a_scene_can_be_left_without_faces():
    for index in range(8):
        scene = crowd.example(5, index, size=96, empty=True)
        assert scene["boxes"].shape == (0, 4) and scene["shown"].shape == (0,) and scene["thermal"].std() > 0


def test_every_kind_of_thing_is_drawn_in_place():
    climate = surroundings.Climate(22.0, 22.0, False)
    for kind in things._KINDS:
        field = np.full((120, 120), 22.0, np.float32)
        things._paint(field, kind, np.array([60.0, 60.0]), 40.0, np.random.default_rng(1), climate)
        assert np.isfinite(field).all() and np.abs(field - 22.0).max() > 0.5, kind.__name__
        assert np.abs(field[:8] - 22.0).max() < 0.5, kind.__name__  # it ends where it should


@pytest.mark.parametrize(
    ("seed", "index", "size"), [(-1, 0, 96), (0, -1, 96), (0, 0, 20), (0, 0, (96, 80)), (0, 0, 9999)]
)
def test_arguments_out_of_range(seed, index, size):
    with pytest.raises(InputError, match="must"):
        crowd.example(seed, index, size=size)


def test_labels_move_with_the_cut_image(monkeypatch):
    """A square in place of the people: its middle is where the box says, whatever the image's size."""

    def square(field, frame, rng, climate, heads, count):
        x, y = frame[:2] + np.floor(frame[2:] / 3)
        field[int(y) : int(y) + 40, int(x) : int(x) + 40] = 100.0
        return [(np.array([x, y, 40.0, 40.0]), 1.0, 0.0)]

    monkeypatch.setattr(crowd, "_people", square)
    monkeypatch.setattr(crowd, "_background", lambda rng, side, climate: np.zeros((side, side), np.float32))
    monkeypatch.setattr(crowd, "_taken", lambda field, side, rng: (_small(field - 40, side), side))
    for index in range(12):
        scene = crowd.example(1, index, size=(90, 140))
        heat = scene["thermal"].astype(float)
        rows, columns = (heat.sum(axis) @ np.arange(heat.shape[1 - axis]) / heat.sum() for axis in (1, 0))
        x, y, w, h = scene["boxes"][0]
        # The box of pixels 0 to 39 of the field is 0, 0, 40, 40, and its middle 19.5 + 0.5.
        assert (x + w / 2, y + h / 2) == pytest.approx((columns + 0.25, rows + 0.25), abs=0.3)
