"""The RGB camera: determinism, materials, light, glass."""

import dataclasses

import numpy as np
import pytest
from test_head import plain

from mlcm_jax.synthetic import rgb
from mlcm_jax.synthetic.backdrop import backdrop
from mlcm_jax.synthetic.gbuffer import Part
from mlcm_jax.synthetic.raster import render_gbuffer
from mlcm_jax.synthetic.rgb import shade_rgb
from mlcm_jax.synthetic.scene import Light, sample_scene, sample_subject


def render(subject, scene, size=64, seed=0):
    buffer, truth = render_gbuffer(subject, scene, size)
    return shade_rgb(buffer, subject, scene, np.random.default_rng(seed)), buffer, truth


def calm(**changes):
    """A plain scene without blur, noise, cast or JPEG."""
    still = {"blur": 0.0, "noise": 0.0, "cast": np.ones(3, np.float32), "jpeg": 0, "illumination": 0.9}
    still["lights"] = (Light(np.array([0, 0, 1], np.float32), np.full(3, 0.8, np.float32)),)
    still["ambient"] = np.full(3, 0.3, np.float32)
    return plain(**{**still, **changes})


def test_same_generator_state_gives_the_same_image():
    subject = sample_subject(1, 1)
    scene = sample_scene(np.random.default_rng(4), subject)
    first, second, other = (render(subject, scene, seed=s)[0] for s in (7, 7, 8))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8


def test_brows_pupils_and_nostrils_are_darker_than_the_skin_around():
    image, _, truth = render(*calm(), size=160)
    grey = image.mean(2)

    def at(point, radius=1):
        col, row = np.rint(point).astype(int)
        return grey[row - radius : row + radius + 1, col - radius : col + radius + 1].mean()

    points = truth.landmarks
    cheek = at(0.5 * (points[41] + points[48]))
    assert at(points[36:42].mean(0)) < 0.75 * cheek  # iris and pupil
    assert at(points[19] + [0, 1]) < 0.9 * cheek
    assert at(0.5 * (points[32] + points[30]) + 0.25 * (points[32] - points[30])) < 0.95 * cheek
    assert 0.8 < at(0.5 * (points[46] + points[54])) / cheek < 1.25  # one light from the front: both cheeks alike


def test_dark_skin_is_darker_and_lips_are_redder():
    subject, scene = calm()
    means = []
    for tone in (np.array([0.75, 0.5, 0.4]), np.array([0.15, 0.08, 0.05])):
        image, buffer, _ = render(dataclasses.replace(subject, skin=tone.astype(np.float32)), scene)
        small = buffer.part[::2, ::2]
        means.append(image[small == Part.SKIN].mean())
    assert means[0] > 1.5 * means[1]
    image, buffer, _ = render(subject, scene, 128)
    inner = buffer.part[::2, ::2]
    lip, skin = (image[inner == p].astype(float).mean(0) for p in (Part.LIP, Part.SKIN))
    assert lip[0] / lip[1] > 1.05 * skin[0] / skin[1]


def test_illumination_decides_the_brightness():
    means = [render(*calm(illumination=value))[0].mean() for value in (0.0, 0.3, 0.6, 1.0)]
    assert means == sorted(means) and means[0] < 30 < 60 < means[-1]


def test_light_from_one_side_shades_the_other():
    side = (Light(np.array([-0.9, -0.2, 0.4], np.float32), np.ones(3, np.float32)),)
    image, buffer, _ = render(*calm(lights=side), size=96)
    face = buffer.part[::2, ::2] == Part.SKIN
    left, right = face.copy(), face.copy()
    left[:, 48:], right[:, :48] = False, False
    assert image[left].mean() > 1.3 * image[right].mean()
    assert buffer.shadow.max() > 0.5  # the nose casts a shadow on the far cheek


def test_clear_lenses_show_the_eyes_and_dark_ones_hide_them():
    shape = np.array([0.28, 0.2, 2.5, 0.012], np.float32)
    bare, buffer, _ = render(*calm(), size=96)
    clear, glass, _ = render(*calm(glasses="clear", glasses_shape=shape, background=5), size=96)
    sun, _, _ = render(*calm(glasses="sun", glasses_shape=shape, background=5), size=96)
    behind = (glass.part[::2, ::2] == Part.GLASSES_LENS) & (buffer.part[::2, ::2] == Part.SKIN)
    assert behind.sum() > 50
    assert np.median(clear[behind]) > 0.8 * np.median(bare[behind])
    assert np.median(sun[behind]) < 0.75 * np.median(bare[behind])


def test_blur_noise_and_jpeg_change_the_image_as_named():
    subject, scene = calm()
    still = render(subject, scene)[0].astype(float)

    def roughness(image):
        return np.abs(np.diff(image.astype(float), axis=1)).mean()

    assert roughness(render(subject, dataclasses.replace(scene, blur=0.03))[0]) < 0.7 * roughness(still)
    assert roughness(render(subject, dataclasses.replace(scene, noise=0.05))[0]) > 1.1 * roughness(still)
    coded = render(subject, dataclasses.replace(scene, jpeg=60))[0].astype(float)
    assert 0.2 < np.abs(coded - still).mean() < 8


@pytest.mark.parametrize("size", [16, 96])
def test_backdrops_differ_and_repeat(size):
    first, again, other = backdrop(1, size), backdrop(1, size), backdrop(2, size)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (size, size, 3) and first.dtype == np.float32 and first.min() >= 0
    assert np.abs(first - other).mean() > 0.01


def test_gray_levels_are_those_of_the_power():
    rng = np.random.default_rng(0)
    value = np.concatenate([rng.uniform(-0.1, 1.2, 200_000), rng.random(99_995) ** 8, [0.0, -0.0, 1.0, 1e-30, -1e-30]])
    value = value.astype(np.float32).reshape(-1, 100, 3)
    expected = np.clip(np.clip(value, 0, 1) ** (1 / 2.2) * 255 + 0.5, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(rgb._encoded(value), expected)
