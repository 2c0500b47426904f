"""The parametric head: symmetry, landmarks on the surface, the outline, identity and expression."""

import dataclasses

import cv2
import numpy as np
import pytest

from mlcm_jax.synthetic import anatomy, head, template
from mlcm_jax.synthetic.blendshapes import EXPRESSION, IDENTITY, deform
from mlcm_jax.synthetic.gbuffer import FACE_PARTS
from mlcm_jax.synthetic.raster import render_gbuffer
from mlcm_jax.synthetic.scene import sample_scene, sample_subject

MIRROR = np.array([
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,
])  # fmt: skip


def plain(pose=(0.0, 0.0, 0.0), subject=None, **changes):
    """A mean, bald person without accessories, and a plain scene with a given pose."""
    base = sample_subject(0, 1) if subject is None else subject
    if subject is None:
        base = dataclasses.replace(
            base, identity=np.zeros(len(IDENTITY), np.float32), hair_style="bald", beard_style="none", age=0.2
        )
    scene = sample_scene(np.random.default_rng(0), base, frontal=True, well_lit=True)
    settings = {
        "expression": np.zeros(len(EXPRESSION), np.float32), "lids": np.ones(2, np.float32), "glasses": "none",
        "gaze": np.zeros(2, np.float32), "pose": np.array(pose, np.float32), "torso_yaw": 0.0, "distance": 15.0,
        "fill": 0.6, "centre": np.array([0.5, 0.5], np.float32), "cap": "none", "mask": False, "hand": None,
    }  # fmt: skip
    return base, dataclasses.replace(scene, **{**settings, **changes})


def expression(**values):
    return np.array([values.get(name, 0.0) for name in EXPRESSION], np.float32)


def test_mesh_is_finite_and_faces_outwards():
    mesh = template.template()
    assert np.isfinite(mesh.points).all()
    assert mesh.faces.min() >= 0 and mesh.faces.max() < len(mesh.points)
    front = mesh.faces[(mesh.region == template.Region.FACE)]
    a, b, c = (mesh.points[front[:, k]] for k in range(3))
    area = np.cross(b - a, c - a)[:, 2]
    middle = (a + b + c) / 3
    inner = (np.abs(middle[:, 0]) < 0.5) & (middle[:, 1] > -0.5) & (middle[:, 1] < 1.0)
    assert (area[inner] >= -1e-7).all()  # every triangle of a frontal face faces the camera


def test_template_is_symmetric_and_has_the_right_proportions():
    points = head.fixed_points().on(template.template().points.astype(np.float64))
    np.testing.assert_allclose(points[MIRROR] * [-1, 1, 1], points, atol=2e-3)
    np.testing.assert_allclose(points[[36, 45], 0], [-0.5, 0.5], atol=1e-3)
    assert 0.95 < points[8, 1] / -anatomy.CROWN_Y < 1.15  # eyes at half the height of the head
    assert 0.7 < (points[16, 0] - points[0, 0]) / 2 < 0.9
    assert points[30, 2] == points[:, 2].max()  # nothing is nearer than the tip of the nose


def test_mirrored_head_gives_mirrored_landmarks():
    _, scene = plain()
    subject, _ = plain()
    ours = render_gbuffer(subject, scene, 64)[1].landmarks
    np.testing.assert_allclose(63 - ours[MIRROR, 0], ours[:, 0], atol=0.05)
    np.testing.assert_allclose(ours[MIRROR, 1], ours[:, 1], atol=0.05)
    left = render_gbuffer(*plain((40.0, 10.0, -15.0)), 64)[1].landmarks
    right = render_gbuffer(*plain((-40.0, 10.0, 15.0)), 64)[1].landmarks
    np.testing.assert_allclose(63 - right[MIRROR, 0], left[:, 0], atol=0.1)
    np.testing.assert_allclose(right[MIRROR, 1], left[:, 1], atol=0.1)


@pytest.mark.parametrize("pose", [(0, 0, 0), (45, 0, 0), (-45, 0, 0), (-60, 10, 20), (30, -20, -10)])
def test_jaw_lies_on_the_border_of_the_painted_face(pose):
    """Against the border of the face's region in the image, which does not depend on the paths over the mesh."""
    subject, scene = plain(pose)
    buffer, truth = render_gbuffer(subject, scene, 128)
    face = np.isin(buffer.part, FACE_PARTS).astype(np.uint8)
    both = cv2.distanceTransform(face, cv2.DIST_L2, 5) + cv2.distanceTransform(1 - face, cv2.DIST_L2, 5)
    at = (truth.landmarks[:17] + 0.5) * 2 - 0.5
    off = cv2.remap(both, at[:, :1].astype(np.float32), at[:, 1:].astype(np.float32), cv2.INTER_LINEAR).ravel()
    # Where nose or mouth of a strongly turned head cover the outline, it is not the border of the region.
    clear = np.ones(17, bool)
    if abs(pose[0]) > 50:
        clear[slice(0, 8) if pose[0] < 0 else slice(9, 17)] = False
    span = np.ptp(truth.landmarks, axis=0).max() * 2
    assert off[clear].max() < 0.025 * span
    # On the far side of a turned head, outline points are away from the fixed jaw.
    if abs(pose[0]) >= 45:
        far = slice(1, 6) if pose[0] < 0 else slice(11, 16)
        moved = np.linalg.norm(truth.landmarks[far] - truth.jaw3d[far], axis=1)
        near = slice(11, 16) if pose[0] < 0 else slice(1, 6)
        stayed = np.linalg.norm(truth.landmarks[near] - truth.jaw3d[near], axis=1)
        assert moved.min() > 4 > 3 > stayed.max()


@pytest.mark.parametrize("yaw", [-60, -20, 0, 35, 60])
def test_outline_points_are_spread_evenly(yaw):
    truth = render_gbuffer(*plain((float(yaw), 5.0, 10.0)), 128)[1]
    for half in (truth.landmarks[:9], truth.landmarks[8:17]):
        step = np.linalg.norm(np.diff(half, axis=0), axis=1)
        assert step.max() / step.min() < 1.15


def test_lids_lips_and_brows_move_their_landmarks():
    def landmarks(**changes):
        return render_gbuffer(*plain(**changes), 256)[1].landmarks

    rest = landmarks()
    span = rest[45, 0] - rest[36, 0]
    shut = landmarks(lids=np.array([0.0, 1.0], np.float32))
    assert np.abs(shut[[37, 38]] - shut[[41, 40]]).max() < 0.05 * span  # image-left eye shut
    np.testing.assert_allclose(shut[42:48], rest[42:48], atol=1e-3)  # the other one untouched
    assert (rest[[41, 40], 1] - rest[[37, 38], 1]).min() > 0.07 * span
    opened = landmarks(expression=expression(jaw=1.0))
    size = (opened[45, 0] - opened[36, 0]) / span
    assert (opened[66, 1] - opened[62, 1]) / size > 0.25 * span
    assert abs(rest[66, 1] - rest[62, 1]) < 0.02 * span
    raised = landmarks(expression=expression(brow_raise=1.0))
    gap, gap_raised = rest[37, 1] - rest[19, 1], raised[37, 1] - raised[19, 1]
    assert gap_raised > 1.15 * gap
    smile = landmarks(expression=expression(smile=1.0))
    assert smile[54, 0] - smile[48, 0] > 1.15 * (rest[54, 0] - rest[48, 0])


def test_every_coefficient_moves_the_mesh():
    rest = deform(np.zeros(len(IDENTITY)), np.zeros(len(EXPRESSION)))
    for k, name in enumerate(IDENTITY + EXPRESSION):
        weights = np.zeros(len(IDENTITY) + len(EXPRESSION))
        weights[k] = 1.0
        moved = np.linalg.norm(deform(weights[: len(IDENTITY)], weights[len(IDENTITY) :]) - rest, axis=1)
        assert 0.008 < moved.max() < 0.6, name


def test_subjects_are_constant_and_differ():
    first, again, other = sample_subject(3, 7), sample_subject(3, 7), sample_subject(3, 8)
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert np.abs(first.identity - other.identity).max() > 0.5


def test_scenes_keep_their_limits():
    subject = sample_subject(0, 0)
    rng = np.random.default_rng(1)
    poses = np.array([sample_scene(rng, subject).pose for _ in range(400)])
    assert (np.abs(poses) <= [60, 25, 25]).all()
    assert np.abs(poses[:, 0]).max() > 50 and (np.abs(poses[:, 0]) < 15).mean() > 0.25
    calm = [sample_scene(rng, subject, frontal=True, well_lit=True) for _ in range(100)]
    assert max(abs(float(s.pose[0])) for s in calm) < 20
    assert all(s.hand is None and not s.mask and s.illumination >= 0.7 for s in calm)
