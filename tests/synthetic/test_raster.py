"""The z-buffer and the G-buffer: pixel convention, landmarks against painted materials, visibility, determinism."""

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from test_head import expression, plain

from mlcm_jax.synthetic.gbuffer import GBuffer, Part
from mlcm_jax.synthetic.head import fixed_points, lid_points, locate_lids
from mlcm_jax.synthetic.raster import render_gbuffer
from mlcm_jax.synthetic.scene import sample_scene, sample_subject
from mlcm_jax.synthetic.template import template
from mlcm_jax.synthetic.zbuffer import rasterise, vertex_normals

DIGEST = """
import hashlib, numpy as np
from mlcm_jax.synthetic.raster import render_gbuffer
from mlcm_jax.synthetic.scene import sample_scene, sample_subject
subject = sample_subject(5, 2)
buffer, truth = render_gbuffer(subject, sample_scene(np.random.default_rng([5, 9]), subject), 48)
h = hashlib.sha256(buffer.part.tobytes() + buffer.template.tobytes() + truth.landmarks.tobytes())
print(h.hexdigest())
"""


def test_rasterise_follows_the_pixel_centres():
    # A square from (0.6, 0.6) to (3.4, 2.4) covers the centres 1, 2, 3 x 1, 2.
    xy = np.array([[0.6, 0.6], [3.4, 0.6], [3.4, 2.4], [0.6, 2.4]])
    found = rasterise(xy, np.ones(4), np.array([[0, 1, 2], [0, 2, 3]]), 6)
    assert sorted(found.pixel) == [7, 8, 9, 13, 14, 15]
    value = found.interpolate(np.array([[0, 1, 2], [0, 2, 3]]), xy.astype(np.float32))
    np.testing.assert_allclose(value, np.stack([found.pixel % 6, found.pixel // 6], 1), atol=1e-5)


def test_rasterise_finds_what_a_search_of_all_triangles_finds():
    rng = np.random.default_rng(0)
    size, count = 40, 60
    middle, reach = rng.uniform(-5, 45, (count, 1, 2)), np.exp(rng.uniform(-1, 3.5, (count, 1, 1)))
    xy = (middle + reach * rng.standard_normal((count, 3, 2)) * [1, 0.3]).reshape(-1, 2)  # large, tiny and thin ones
    depth, faces = rng.uniform(1, 2, 3 * count), np.arange(3 * count).reshape(-1, 3)
    found = rasterise(xy, depth, faces, size, two_sided=np.ones(count, bool))
    nearest, margin = np.full(size * size, np.inf), np.full(size * size, np.inf)
    row, column = np.divmod(np.arange(size * size), size)
    for a, b, c in faces:
        inverse = np.linalg.inv(np.stack([xy[b] - xy[a], xy[c] - xy[a]], 1))
        second, third = inverse @ (np.stack([column, row]) - xy[a][:, None])
        inside = np.minimum(np.minimum(second, third), 1 - second - third)
        margin = np.minimum(margin, np.abs(inside))
        z = depth[a] + (depth[b] - depth[a]) * second + (depth[c] - depth[a]) * third
        nearest = np.where((inside >= 0) & (z < nearest), z, nearest)
    clear = margin > 1e-3  # no border runs through the centre of the pixel
    drawn = np.full(size * size, np.inf)
    drawn[found.pixel] = found.depth
    assert np.isfinite(nearest[clear]).sum() > 300
    np.testing.assert_allclose(drawn[clear], nearest[clear], atol=1e-4)


def test_rasterise_keeps_the_nearest_and_culls_the_back():
    xy = np.array([[0, 0], [5, 0], [0, 5], [0, 0], [5, 0], [0, 5]], float)
    depth = np.array([2, 2, 2, 1, 1, 9.0])
    found = rasterise(xy, depth, np.array([[0, 1, 2], [3, 4, 5]]), 6)
    at = {int(p): (int(f), float(d)) for p, f, d in zip(found.pixel, found.face, found.depth, strict=True)}
    assert at[1] == (1, 1.0)  # the tilted one is nearer at its upper edge
    assert at[4 * 6 + 0][0] == 0 and at[4 * 6 + 0][1] == pytest.approx(2.0)
    back = np.array([[0, 2, 1]])
    assert len(rasterise(xy, depth, back, 6).pixel) == 0
    assert len(rasterise(xy, depth, back, 6, two_sided=np.ones(1, bool)).pixel) > 0


def test_normals_of_a_flat_square_point_at_the_camera():
    points = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    normal = vertex_normals(points, np.array([[0, 1, 2], [0, 2, 3]]))
    np.testing.assert_allclose(normal, np.broadcast_to([0, 0, 1], (4, 3)), atol=1e-6)


@pytest.mark.parametrize("pose", [(0, 0, 0), (35, 10, 15), (-55, -15, -20)])
def test_landmarks_lie_on_the_rendered_surface(pose):
    """At a visible landmark's pixel the G-buffer shows the landmark's own template position."""
    lids = np.array([0.8, 1.1], np.float32)
    subject = dataclasses.replace(sample_subject(0, 3), hair_style="bald")
    subject, scene = plain(pose, subject, lids=lids, expression=expression(jaw=0.3, smile=0.5))
    buffer, truth = render_gbuffer(subject, scene, 160, 2)
    mean = template().points.astype(np.float64)
    expected = fixed_points().on(mean)
    expected[36:48] = locate_lids(lid_points(lids)).on(mean)
    inner = np.flatnonzero(truth.visible & (np.arange(68) > 16))
    assert len(inner) > 25
    pixel = np.rint((truth.landmarks[inner] + 0.5) * 2 - 0.5).astype(int)
    error = []
    for (col, row), want in zip(pixel, expected[inner], strict=True):
        patch = buffer.template[row - 1 : row + 2, col - 1 : col + 2].reshape(-1, 3)
        error.append(np.linalg.norm((patch - want)[:, :2], axis=1).min())
    assert max(error) < 0.04  # a pixel is about 0.01 inter-ocular distances, more on slopes


@pytest.mark.parametrize("supersample", [1, 2, 3])
def test_landmarks_do_not_depend_on_size_or_supersampling(supersample):
    subject, scene = plain((20, 5, -10))
    small = render_gbuffer(subject, scene, 64, supersample)
    large = render_gbuffer(subject, scene, 128, supersample)
    np.testing.assert_allclose((small[1].landmarks + 0.5) * 2 - 0.5, large[1].landmarks, atol=1e-3)
    assert small[0].part.shape == (64 * supersample,) * 2 and large[0].part.shape == (128 * supersample,) * 2


@pytest.mark.parametrize("size, supersample", [(64, 2), (128, 1), (96, 3)])
def test_painted_pupils_lie_between_the_corners_of_the_eyes(size, supersample):
    """The irises' centroid against the lids' centroid, which reveals a half-pixel error between paint and landmarks."""
    subject, scene = plain(lids=np.full(2, 1.4, np.float32))
    buffer, truth = render_gbuffer(subject, scene, size, supersample)
    weight = (np.hypot(buffer.iris[..., 0], buffer.iris[..., 1]) < 1).astype(float)
    rows, cols = np.indices(weight.shape)
    u = (np.array([(weight * cols).sum(), (weight * rows).sum()]) / weight.sum() + 0.5) / len(weight)
    lids = (truth.landmarks[36:48].mean(0) + 0.5) / size
    np.testing.assert_allclose(u[0], lids[0], atol=0.1 / size)
    np.testing.assert_allclose(u[1], lids[1], atol=1.0 / size)


def test_a_turned_head_hides_its_far_side():
    frontal = render_gbuffer(*plain(), 128)[1].visible
    assert frontal[[*range(31), *range(36, 68)]].all()
    truth = render_gbuffer(*plain((60.0, 0.0, 0.0)), 128)[1]
    assert not truth.visible[45]  # far outer corner, behind the bridge of the nose
    assert truth.visible[[36, 39, 48, 17, 19]].all()
    assert truth.visible[:17].all()  # the outline is in sight by definition
    other = render_gbuffer(*plain((-60.0, 0.0, 0.0)), 128)[1]
    assert not other.visible[36] and other.visible[[45, 54, 26]].all()


def test_covers_hide_landmarks_and_lenses_do_not():
    masked = render_gbuffer(*plain(mask=True), 128)
    assert not masked[1].visible[48:68].any() and masked[1].visible[36:48].all()
    assert (masked[0].part == Part.MASK).sum() > 1000
    speaking = render_gbuffer(*plain(mask=True, expression=expression(jaw=1.0)), 128)[0].part
    assert not np.isin(speaking, (Part.MOUTH, Part.TEETH)).any()  # the cloth spans the open mouth
    for kind in ("clear", "sun"):
        shape = np.array([0.27, 0.2, 2.5, 0.01], np.float32)
        buffer, truth = render_gbuffer(*plain(glasses=kind, glasses_shape=shape), 128)
        assert truth.visible[36:48].all()
        lens = buffer.part == Part.GLASSES_LENS
        assert set(np.unique(buffer.under[lens])) >= {Part.SKIN, Part.EYE}
        np.testing.assert_array_equal(buffer.part[~lens], buffer.under[~lens])
        assert (np.abs(buffer.lens[lens]).max(0) > 0.8).all() and np.abs(buffer.lens).max() <= 1.001
    hand = np.array([0.0, 0.75, 0.0, 1.0], np.float32)
    covered = render_gbuffer(*plain(hand=hand), 128)[1].visible
    assert not covered[[51, 57, 62]].any() and covered[36:48].all()


def test_framing_and_pose_are_those_of_the_scene():
    centre = np.array([0.45, 0.55], np.float32)
    _, truth = render_gbuffer(*plain((25, -10, 15), fill=0.5, centre=centre, distance=9.0), 100)
    u = (truth.landmarks + 0.5) / 100
    assert np.ptp(u, axis=0).max() == pytest.approx(0.5, abs=1e-4)
    np.testing.assert_allclose((u.min(0) + u.max(0)) / 2, centre, atol=1e-4)
    np.testing.assert_array_equal(truth.pose, [25, -10, 15])
    # Yaw > 0 turns the nose to image right, pitch > 0 lifts it, roll > 0 turns the eyes clockwise.
    rest, yaw, pitch, roll = (
        render_gbuffer(*plain(p), 100)[1].landmarks for p in ((0, 0, 0), (30, 0, 0), (0, 20, 0), (0, 0, 20))
    )

    def nose(points):
        return (points[30] - points[[36, 45]].mean(0)) / np.ptp(points, axis=0).max()

    assert nose(yaw)[0] > nose(rest)[0] + 0.05
    assert nose(pitch)[1] < nose(rest)[1] - 0.03
    assert roll[45, 1] > roll[36, 1] + 5


def test_buffer_has_the_promised_shapes_and_ranges():
    for index in range(4):
        subject = sample_subject(2, index)
        buffer, truth = render_gbuffer(subject, sample_scene(np.random.default_rng(index), subject), 40, 2)
        shapes = {f.name: getattr(buffer, f.name) for f in dataclasses.fields(GBuffer) if f.name != "supersample"}
        for name, value in shapes.items():
            assert value.shape[:2] == (80, 80), name
            assert value.dtype == (np.uint8 if name in ("part", "under") else np.float32), name
        for name in ("brow", "beard", "lid", "cavity", "shadow"):
            assert shapes[name].min() >= 0 and shapes[name].max() <= 1, name
        solid = buffer.under != Part.BACKGROUND
        np.testing.assert_allclose(np.linalg.norm(buffer.normal[solid], axis=1), 1, atol=1e-3)
        assert np.isfinite(buffer.depth[solid]).all() and np.isinf(buffer.depth[~solid]).all()
        assert truth.landmarks.dtype == truth.jaw3d.dtype == truth.pose.dtype == np.float32
        assert truth.visible.dtype == bool


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    subject = sample_subject(5, 2)
    scene = sample_scene(np.random.default_rng([5, 9]), subject)
    buffer, truth = render_gbuffer(subject, scene, 48)
    own = hashlib.sha256(buffer.part.tobytes() + buffer.template.tobytes() + truth.landmarks.tobytes()).hexdigest()
    other = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == own
