"""Properties of thermal faces, measured on the temperatures before the camera."""

import functools

import cv2
import numpy as np
import pytest

from mlcm_jax.synthetic import raster, scene, skin_map, surroundings, thermal
from mlcm_jax.synthetic.gbuffer import Part

SIZE = 80


@functools.cache
def _samples():
    """30 frontal views of 30 people: (G-buffer, truth, °C)."""
    found = []
    for index in range(30):
        subject = scene.sample_subject(5, index)
        view = scene.sample_scene(np.random.default_rng([5, index]), subject, frontal=True, well_lit=True)
        gbuffer, truth = raster.render_gbuffer(subject, view, SIZE)
        found.append((gbuffer, truth, thermal.temperature(gbuffer, subject, view, np.random.default_rng([6, index]))))
    return found


def _part(which):
    """Mean °C of a part in each sample that shows it; NaN elsewhere."""
    means = [celsius[gbuffer.part == which] for gbuffer, _, celsius in _samples()]
    return np.array([part.mean() if part.size > 20 else np.nan for part in means])


def _near(points, radius=0.035):
    """Mean °C of uncovered skin near given landmarks, one number for each sample; NaN where it is covered."""
    found = []
    for gbuffer, truth, celsius in _samples():
        y, x = np.mgrid[: celsius.shape[0], : celsius.shape[1]]
        unit = np.linalg.norm(truth.landmarks[36] - truth.landmarks[45]) * gbuffer.supersample
        skin = np.isin(gbuffer.part, (Part.SKIN, Part.EYE))
        zone = np.zeros(celsius.shape, bool)
        for point in truth.landmarks[list(points)]:
            u, v = (point + 0.5) * gbuffer.supersample - 0.5
            zone |= (x - u) ** 2 + (y - v) ** 2 < (max(radius * unit, 1.5)) ** 2
        zone &= skin
        found.append(celsius[zone].mean() if zone.sum() > 2 else np.nan)
    return np.array(found)


def _cheeks():
    """Mean °C of the uncovered cheeks in each sample."""
    found = []
    for gbuffer, _, celsius in _samples():
        x, y = np.abs(gbuffer.template[..., 0]), gbuffer.template[..., 1]
        zone = (gbuffer.part == Part.SKIN) & (x > 0.36) & (x < 0.56) & (y > 0.3) & (y < 0.5)
        found.append(celsius[zone].mean() if zone.sum() > 20 else np.nan)
    return np.array(found)


def test_celsius_is_finite_and_plausible():
    for gbuffer, _, celsius in _samples():
        assert celsius.dtype == np.float32 and celsius.shape == gbuffer.part.shape
        assert np.isfinite(celsius).all()
        assert celsius.min() > -40.0 and celsius.max() < 90.0
        skin = celsius[gbuffer.part == Part.SKIN]
        assert 24.0 < np.median(skin) < 38.0


def test_inner_eye_corners_are_warmer_than_nose_ears_and_cheeks():
    canthi, nose = _near((39, 42)), _near((30,))
    assert np.nanmean(canthi - nose) > 1.5
    assert np.nanmean(canthi - _part(Part.EAR)) > 1.0
    assert np.nanmean(canthi - _cheeks()) > 1.5
    assert np.nanmean(canthi - _part(Part.SKIN)) > 0.5


def test_the_nose_varies_more_between_people_than_the_eye_corners():
    assert np.nanstd(_near((30,)) - _part(Part.SKIN)) > 1.3 * np.nanstd(_near((39, 42)) - _part(Part.SKIN))


def test_hair_and_clothes_lie_between_the_air_and_the_skin():
    skin = _part(Part.SKIN)
    assert np.nanmean(skin - _part(Part.HAIR)) > 2.0
    assert np.nanmean(skin - _part(Part.CLOTHES)) > 2.0
    assert np.nanmax(_part(Part.HAIR) - skin) < 0.5


def test_brows_are_colder_than_the_skin_around_them():
    differences = []
    for gbuffer, _, celsius in _samples():
        skin = gbuffer.part == Part.SKIN
        brow, around = skin & (gbuffer.brow > 0.6), skin & (gbuffer.brow > 0.0) & (gbuffer.brow < 0.1)
        if brow.sum() > 5 and around.sum() > 5:
            differences.append(celsius[brow].mean() - celsius[around].mean())
    assert len(differences) > 5
    assert np.mean(differences) < -0.5


def test_the_neck_is_warm():
    assert np.nanmean(_part(Part.NECK) - _part(Part.SKIN)) > 0.0


def test_lenses_hide_the_eye_and_are_near_the_air(monkeypatch):
    climate = surroundings.Climate(ambient=20.0, reflected=20.0, outdoors=False)
    monkeypatch.setattr(surroundings, "sample_climate", lambda rng: climate)
    seen = 0
    for index in range(40):
        subject = scene.sample_subject(5, index)
        view = scene.sample_scene(np.random.default_rng([5, index]), subject, frontal=True)
        if view.glasses == "none":
            continue
        gbuffer, _ = raster.render_gbuffer(subject, view, SIZE)
        celsius = thermal.temperature(gbuffer, subject, view, np.random.default_rng([6, index]))
        lens, skin = gbuffer.part == Part.GLASSES_LENS, gbuffer.part == Part.SKIN
        if lens.sum() < 50:
            continue
        seen += 1
        gap = np.median(celsius[skin]) - 20.0
        assert np.median(celsius[lens]) - 20.0 < 0.6 * gap
        eye = lens & (gbuffer.under == Part.EYE)
        if eye.sum() > 20 and (lens & ~eye).sum() > 20:  # the eye behind the lens makes no difference
            assert abs(np.median(celsius[eye]) - np.median(celsius[lens & ~eye])) < 1.0
    assert seen >= 3


def test_one_person_keeps_the_pattern_and_two_differ():
    def departure(person, moment):
        rngs = (np.random.default_rng([1, person]), np.random.default_rng([2, moment]))
        return skin_map.skin_map(*rngs, chill=0.0)

    maps = {(p, m): departure(p, m).ravel() for p in range(4) for m in range(2)}
    mean = np.mean(list(maps.values()), axis=0)
    same = [np.corrcoef(maps[p, 0] - mean, maps[p, 1] - mean)[0, 1] for p in range(4)]
    other = [np.corrcoef(maps[p, 0] - mean, maps[(p + 1) % 4, 1] - mean)[0, 1] for p in range(4)]
    assert np.mean(same) > np.mean(other) + 0.3


def test_skin_is_unrolled_continuously_over_the_front():
    x = np.linspace(-0.8, 0.8, 41, dtype=np.float32)
    template = np.zeros((1, 41, 3), np.float32)
    template[0, :, 0] = x
    column, row = skin_map.unroll(template)
    expected = (skin_map.RADIUS * np.arctan2(x, skin_map.RADIUS) - skin_map.X_RANGE[0]) * (skin_map.MAP_SHAPE[1] - 1)
    np.testing.assert_allclose(column[0], expected / (skin_map.X_RANGE[1] - skin_map.X_RANGE[0]), atol=0.5)
    assert (np.diff(column[0]) > 0).all() and np.ptp(row) == 0


@pytest.mark.parametrize("outdoors", [False, True])
def test_backgrounds_have_structure_and_stay_plausible(outdoors):
    climate = surroundings.Climate(ambient=18.0, reflected=16.0, outdoors=outdoors)
    fields = [surroundings.background(np.random.default_rng(i), 64, climate) for i in range(40)]
    assert all(np.isfinite(f).all() and f.min() > -30 and f.max() < 70 for f in fields)
    spans = np.array([np.ptp(cv2.blur(f, (5, 5))) for f in fields])
    assert spans.max() > 8.0 and spans.min() < 8.0
