"""Boxes as landmarks and as maps: targets, loss and decoding, against independent computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlcm_jax import detection
from mlcm_jax.data import augment
from mlcm_jax.errors import InputError

BOXES = np.array([[0.2, 0.3, 0.3, 0.4], [0.7, 0.1, 0.1, 0.15]], np.float32)


def batch(boxes, weight=1.0):
    points, known = detection.points(boxes)
    return jnp.asarray(points)[None], jnp.asarray(known[None] * np.float32(weight))


def exact_maps(boxes, side=40):
    """Maps that are right: high scores in the cells of the middles, and everywhere the sides of the nearest box."""
    points, weights = batch(boxes)
    wanted = detection.targets(points, weights, (side, side))
    cells = (np.arange(side, dtype=np.float32) + 0.5) / side
    left, top, right, bottom = np.moveaxis(np.asarray(wanted.corners[0]), -1, 0)
    reach = np.stack([cells - left, right - cells, cells[:, None] - top, bottom - cells[:, None]], -1)
    sides = np.log(np.maximum(reach, 1e-3) / 0.1)
    return detection.Maps(jnp.where(wanted.centre > 0, 8.0, -8.0), jnp.asarray(sides, jnp.float32)[None])


def test_boxes_become_the_middles_of_their_sides_and_back():
    points, known = detection.points(np.array([[10, 20, 30, 40]]))
    np.testing.assert_array_equal(points[:4], [[10, 40], [40, 40], [25, 20], [25, 60]])
    np.testing.assert_array_equal(known, [True] * 4 + [False] * 20)
    np.testing.assert_array_equal(detection.corners(jnp.asarray(points))[0], [10, 20, 40, 60])


def test_the_largest_boxes_are_kept_in_their_order():
    boxes = np.array([[k, 0, size, size] for k, size in enumerate([5, 1, 6, 7, 8, 9, 10])])
    points, known = detection.points(boxes)
    assert known.all()
    assert np.asarray(detection.corners(jnp.asarray(points)))[:, 0].tolist() == [0, 2, 3, 4, 5, 6]


def test_a_mirrored_crop_has_mirrored_boxes():
    points, known = detection.points(np.array([[4, 6, 10, 12]]))
    example = {"thermal": np.zeros((32, 32), np.uint8), "landmarks": points, "visible": known, "box": (0, 0, 32, 32)}
    crop = augment.crop(
        example,
        augment.Crop(32, 1.0, detection.LAYOUT),
        augmentation=augment.Augmentation(flip=1.0),
        rng=np.random.default_rng(0),
    )
    left, top, right, bottom = np.asarray(detection.corners(jnp.asarray(crop["landmarks"])))[0] * 32 - 0.5
    # The middle of the box (0, 0, 32, 32) is pixel 16, half a pixel beside the middle of the image.
    assert (left, top, right, bottom) == pytest.approx((32 - 14 - 0.5, 6 - 0.5, 32 - 4 - 0.5, 18 - 0.5))


def test_targets_by_hand():
    points, weights = batch(BOXES)
    found = jax.jit(detection.targets, static_argnums=2)(points, weights, (40, 40))
    x, y = np.meshgrid((np.arange(40) + 0.5) / 40, (np.arange(40) + 0.5) / 40)
    gauss = []
    for left, top, w, h in BOXES:
        gauss.append(np.exp(-0.5 * (((x - left - w / 2) / (0.09 * w)) ** 2 + ((y - top - h / 2) / (0.09 * h)) ** 2)))
    gauss = np.stack(gauss)
    gauss[0][20, 14] = gauss[1][7, 30] = 1.0  # the cells of the middles, (0.35, 0.5) and (0.75, 0.175)
    np.testing.assert_allclose(found.peaks[0], gauss.max(0), atol=1e-5)
    assert np.argwhere(np.asarray(found.centre[0])).tolist() == [[7, 30], [20, 14]]
    core = np.where((gauss >= 0.2) & (gauss == gauss.max(0)), gauss, 0.0)
    core = (core / core.sum((1, 2), keepdims=True)).sum(0)
    np.testing.assert_allclose(found.core[0], core, atol=1e-5)
    np.testing.assert_allclose(found.corners[0, 20, 14], [0.2, 0.3, 0.5, 0.7], atol=1e-6)


def test_a_face_out_of_sight_and_an_absent_one_leave_no_target():
    points, weights = batch(np.array([[1.2, 0.2, 0.3, 0.3]]))
    outside = detection.targets(points, weights, (20, 20))
    assert float(outside.centre.sum()) == 0
    none = detection.targets(*batch(np.zeros((0, 4))), (20, 20))
    assert all(float(jnp.abs(one).sum()) == 0 for one in none[:3])


def test_overlap_against_values_by_hand():
    a, b = jnp.array([0.0, 0.0, 2.0, 2.0]), jnp.array([1.0, 1.0, 3.0, 3.0])
    iou, generalised = detection.overlap(a, b)
    assert float(iou) == pytest.approx(1 / 7) and float(generalised) == pytest.approx(1 / 7 - 2 / 9)
    apart, far = detection.overlap(a, jnp.array([3.0, 0.0, 4.0, 2.0]))
    assert float(apart) == 0 and float(far) == pytest.approx(-2 / 8)
    assert detection.iou(np.asarray(a), np.asarray(b)) == pytest.approx(1 / 7)


def test_loss_is_small_for_right_maps_and_grows_with_every_mistake():
    right = exact_maps(BOXES)
    points, weights = batch(BOXES)
    best = float(detection.loss(right, points, weights)[0])
    assert best < 0.02
    missed = right._replace(scores=jnp.full_like(right.scores, -8.0))
    alarm = right._replace(scores=right.scores.at[0, 35, 5].set(4.0))
    smaller = right._replace(sides=right.sides - 0.3)
    for wrong in (missed, alarm, smaller):
        assert float(detection.loss(wrong, points, weights)[0]) > best + 0.2


def test_a_hidden_face_counts_less():
    missed = exact_maps(BOXES)._replace(scores=jnp.full((1, 40, 40), -8.0))
    points, weights = batch(BOXES)
    half = weights.at[:, :4].multiply(0.5)
    whole, less = (
        detection.loss(missed, points, one)[0] * one.reshape(1, 6, 4)[0, :, 0].sum() for one in (weights, half)
    )
    assert float(less) == pytest.approx(0.75 * float(whole), rel=0.02)


def test_gradients_are_finite_for_any_maps():
    points, weights = batch(BOXES)
    for scale in (0.0, 3.0, 200.0):
        key = jax.random.key(0)
        maps = detection.Maps(
            scale * jax.random.normal(key, (1, 10, 10)), scale * jax.random.normal(key, (1, 10, 10, 4))
        )
        value, gradient = jax.value_and_grad(lambda maps: detection.loss(maps, points, weights).sum())(maps)
        assert np.isfinite(value) and all(np.isfinite(one).all() for one in gradient)


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.floats(0.0, 0.7)] * 2, *[st.floats(0.1, 0.3)] * 2), min_size=1, max_size=4))
def test_right_maps_give_the_boxes_back(boxes):
    boxes = np.asarray(boxes, np.float32)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    apart = all(
        detection.iou(a, b) < 0.05 and np.abs(a - b).max() > 0.1 for k, a in enumerate(corners) for b in corners[:k]
    )
    assume(apart)
    maps = exact_maps(boxes)
    found, scores = detection.find(np.asarray(maps.scores[0]), np.asarray(maps.sides[0]), threshold=0.5, max_faces=10)
    assert len(found) == len(boxes) and (scores > 0.99).all()
    order = [int(np.argmin(np.abs(boxes - one).sum(1))) for one in found]
    np.testing.assert_allclose(found, boxes[order], atol=1e-3)


def test_overlapping_boxes_are_suppressed_and_the_number_is_limited():
    scores = np.full((10, 10), -9.0, np.float32)
    scores[4, 4], scores[4, 6], scores[8, 8] = 3.0, 2.0, 1.0
    sides = np.log(np.full((10, 10, 4), 0.25, np.float32) / 0.1)
    found, kept = detection.find(scores, sides, threshold=0.5, max_faces=9)
    np.testing.assert_allclose(kept, 1 / (1 + np.exp(-np.array([3.0, 1.0]))), rtol=1e-5)
    np.testing.assert_allclose(found[0], [0.2, 0.2, 0.5, 0.5], atol=1e-5)
    assert len(detection.find(scores, sides, threshold=0.5, max_faces=1)[0]) == 1
    assert len(detection.find(scores, sides, threshold=0.97, max_faces=9)[0]) == 0


def test_the_best_boxes_as_landmarks():
    maps = exact_maps(BOXES)
    found = np.asarray(detection.corners(detection.best(maps)))[0, :2]
    wanted = np.concatenate([BOXES[:, :2], BOXES[:, :2] + BOXES[:, 2:]], 1)
    np.testing.assert_allclose(found[np.argsort(found[:, 0])], wanted, atol=1e-3)


def test_boxes_in_the_original_image():
    to_image = np.array([[2.0, 0, 10], [0, 2.0, -20]])
    found = detection.to_original(np.array([[0.25, 0.5, 0.1, 0.2]]), to_image, 100)
    np.testing.assert_allclose(found, [[(25 - 0.5) * 2 + 10, (50 - 0.5) * 2 - 20, 20, 40]])


@pytest.mark.parametrize(("faces", "score"), [(0, None), (3, 0.0), (3, 1.5)])
def test_limits_out_of_range(faces, score):
    with pytest.raises(InputError, match="must be"):
        detection.check_limits(faces, score)
