"""Layouts: mirror pairs against a drawn face, conversions against hand-made tables, boxes against their margins."""

import ast
import dataclasses
import inspect
import pickle

import numpy as np
import pytest

from mlcm_jax import landmarks, layouts
from mlcm_jax.errors import InputError
from mlcm_jax.synthetic import generate

# The layouts of whole faces; charlotte43 is a profile, the same for either side.
LAYOUTS = [layout for name, layout in landmarks.LAYOUTS.items() if name not in ("charlotte43", "boxes6")]
COUNTS = {
    "ibug68": 68,
    "sf_tl54": 54,
    "wflw98": 98,
    "cofw29": 29,
    "tfake70": 70,
    "tfw5": 5,
    "ibug51": 51,
    "common17": 17,
    "boxes6": 24,
    "charlotte73": 73,
    "charlotte43": 43,
}


def arc(start, end, count, height=0.0):
    """`count` points from start to end, bulging by `height` downwards, symmetric about the middle."""
    t = np.linspace(0, 1, count)
    line = np.outer(1 - t, start) + np.outer(t, end)
    return line + np.stack([np.zeros(count), 4 * height * t * (1 - t)], 1)


def mirror_all(points):
    return points * (-1, 1)


def template(name):
    """A drawn face, symmetric about x = 0, with the order of points that the layout's publication shows; [K, 2]."""
    if name == "tfw5":
        return np.array([(-3, -2), (3, -2), (0, 1), (-2, 4), (2, 4)], float)
    if name == "cofw29":
        right = {0: (-6, -4), 2: (-1, -4), 4: (-3, -5), 5: (-3, -4.5), 8: (-5, -2), 10: (-2, -2), 12: (-3, -3)}
        right |= {13: (-3, -1), 16: (-3.4, -2), 18: (-1.5, 1), 22: (-2, 4)}
        left_of = {0: 1, 2: 3, 4: 6, 5: 7, 8: 9, 10: 11, 12: 14, 13: 15, 16: 17, 18: 19, 22: 23}
        points = np.zeros((29, 2))
        for i, place in right.items():
            points[i], points[left_of[i]] = place, (-place[0], place[1])
        for i, y in {20: 0.5, 21: 1.5, 24: 3.4, 25: 3.8, 26: 4.3, 27: 5.0, 28: 8.0}.items():
            points[i] = (0, y)
        return points
    if name == "charlotte73":
        return np.concatenate([template("ibug68"), arc((-4, -6.5), (4, -6.5), 5, -1.5)])
    if name == "ibug51":
        return template("ibug68")[17:]
    if name == "common17":
        points = [
            (-6, -4),
            (6, -4),
            (-1, -4.2),
            (1, -4.2),
            (-5, -2),
            (5, -2),
            (-2, -2.1),
            (2, -2.1),
            (0, 0.5),
            (0, 1.5),
        ]
        return np.array([*points, (-2.5, 4), (2.5, 4), (0, 3), (0, 3.6), (0, 4.4), (0, 5), (0, 7)])
    if name == "wflw98":
        jaw = arc((-8, -2), (8, -2), 33, 9)
        upper = arc((-6, -4), (-1, -4.2), 5, -1)
        lower = np.add(upper[:0:-1], (0, 0.6))  # back from the inner end, four points
        brow = np.concatenate([upper, lower])
        other = np.concatenate([mirror_all(upper)[::-1], mirror_all(lower)[::-1]])
        right_eye = np.concatenate([arc((-5, -2), (-2, -2.1), 5, -1), arc((-2, -2.1), (-5, -2), 5, 1)[1:-1]])
        left_eye = mirror_all(right_eye)[[4, 3, 2, 1, 0, 7, 6, 5]]
        nose = np.concatenate([arc((0, -2), (0, 0.5), 4), arc((-1.5, 1), (1.5, 1), 5, 0.5)])
        outer = np.concatenate([arc((-2.5, 4), (2.5, 4), 7, -1), arc((2.5, 4), (-2.5, 4), 7, 1)[1:-1]])
        inner = np.concatenate([arc((-2, 4), (2, 4), 5, -0.4), arc((2, 4), (-2, 4), 5, 0.4)[1:-1]])
        pupils = [(-3.5, -2), (3.5, -2)]
        return np.concatenate([jaw, brow, other, nose, right_eye, left_eye, outer, inner, pupils])
    jaw = arc((-8, -2), (8, -2), 17, 9)
    brow = arc((-6, -4), (-1, -4.2), 5, -1)
    nose = np.concatenate([arc((0, -2), (0, 0.5), 4), arc((-1.5, 1), (1.5, 1), 5, 0.5)])
    eye = np.array([(-5, -2), (-4, -2.6), (-3, -2.7), (-2, -2.1), (-3, -1.6), (-4, -1.5)])
    left_eye = mirror_all(eye)[[3, 2, 1, 0, 5, 4]]
    face = np.concatenate([jaw, brow, mirror_all(brow)[::-1], nose, eye, left_eye])
    if name == "sf_tl54":
        return np.concatenate([face, [(-2.5, 4), (0, 3), (2.5, 4), (0, 5), (0, 3.8), (0, 4.2)]])
    outer = np.concatenate([arc((-2.5, 4), (2.5, 4), 7, -1), arc((2.5, 4), (-2.5, 4), 7, 1)[1:-1]])
    inner = np.concatenate([arc((-2, 4), (2, 4), 5, -0.4), arc((2, 4), (-2, 4), 5, 0.4)[1:-1]])
    pupils = [(-3.5, -2), (3.5, -2)] if name == "tfake70" else np.zeros((0, 2))
    return np.concatenate([face, outer, inner, pupils])


def test_the_public_layouts_and_their_counts():
    assert {name: layout.count for name, layout in landmarks.LAYOUTS.items()} == COUNTS
    assert all(name == layout.name for name, layout in landmarks.LAYOUTS.items())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_mirrored_face_is_the_same_face(layout):
    points = template(layout.name)
    assert points.shape == (layout.count, 2)
    assert len(np.unique(points.round(6), axis=0)) == layout.count  # otherwise a wrong pair could remain unnoticed
    np.testing.assert_allclose(mirror_all(points)[layout.flip], points, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_layouts_are_consistent(layout):
    assert layout.flip.dtype == np.int32
    np.testing.assert_array_equal(layout.flip[layout.flip], np.arange(layout.count))
    indices = [i for group in layout.groups.values() for i in group]
    assert sorted(indices) == list(range(layout.count))
    assert all(0 <= i < layout.count for edge in layout.edges for i in edge)
    points = template(layout.name)
    if layout.eye_corners is not None:
        right, left = layout.eye_corners
        assert layout.flip[right] == left and points[right, 0] < 0 < points[left, 0]
        eyes = points[list(layout.groups["right_eye"])]
        assert points[right, 0] == eyes[:, 0].min()  # the *outer* corner
    right, left = (points[list(group)].mean(0) for group in layout.pupils)
    np.testing.assert_allclose(right * (-1, 1), left, atol=1e-12)
    assert right[0] < 0
    with pytest.raises(ValueError, match="read-only"):
        layout.flip[0] = 1


def test_the_flip_of_ibug51_by_hand():
    flip = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 10, 11, 12, 13, 18, 17, 16, 15, 14, 28, 27, 26, 25, 30, 29, 22, 21, 20, 19]
    flip += [24, 23, 37, 36, 35, 34, 33, 32, 31, 42, 41, 40, 39, 38, 47, 46, 45, 44, 43, 50, 49, 48]
    layout = landmarks.get("ibug51")
    np.testing.assert_array_equal(layout.flip, flip)
    assert layout.eye_corners == (19, 28) and layout.pupils == (tuple(range(19, 25)), tuple(range(25, 31)))
    whole = landmarks.get("ibug68")
    assert [(a + 17, b + 17) for a, b in layout.edges] == [edge for edge in whole.edges if min(edge) > 16]


def test_the_flip_of_sf_tl54_is_the_published_one():
    published = [*range(16, -1, -1), *range(26, 21, -1), *range(21, 16, -1), *range(27, 31), *range(35, 30, -1)]
    published += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, 50, 49, 48, 51, 52, 53]
    np.testing.assert_array_equal(landmarks.get("sf_tl54").flip, published)


def test_unknown_layouts_get_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'ibug68'"):
        landmarks.get("ibug_68")
    with pytest.raises(InputError, match=r"there are ibug68.*tfw5"):
        landmarks.get("zzz")
    assert landmarks.get(landmarks.get("wflw98")) is landmarks.LAYOUTS["wflw98"]


@pytest.mark.parametrize("pairs", [[(0, 5)], [(0, 1), (1, 2)], [(-1, 0)]])
def test_bad_flip_pairs(pairs):
    with pytest.raises(InputError, match="distinct indices below 5"):
        landmarks.flip_permutation(5, pairs)


PICKS = [("ibug68", "sf_tl54"), *((a, b) for a in ("tfake70", "wflw98") for b in ("ibug68", "sf_tl54"))]
PICKS += [(a, "ibug51") for a in ("ibug68", "tfake70", "wflw98")]


@pytest.mark.parametrize(("source", "target"), PICKS)
def test_conversions_pick_the_points_of_the_same_place(source, target):
    # The drawn faces agree in the parts that the layouts share, so a conversion must give the target's own drawing.
    # Every second jaw point of 98 is one of 68. The lids of 98 have one point more, so the eyes are not compared here.
    converted, wanted = landmarks.convert(template(source), source, target), template(target)
    groups = landmarks.get(target).groups
    parts = ["jaw", "right_brow", "left_brow", "nose"]
    parts += ["outer_lips"] if target != "sf_tl54" else []
    for part in groups.keys() & set(parts):
        np.testing.assert_allclose(converted[list(groups[part])], wanted[list(groups[part])], atol=1e-9, err_msg=part)
    corners = list(landmarks.get(target).eye_corners)
    np.testing.assert_allclose(converted[corners], wanted[corners], atol=1e-9)


def test_the_map_from_98_to_68_keeps_lid_order():
    eyes = landmarks.convert(template("wflw98"), "wflw98", "ibug68")[36:48]
    x, y = eyes.T
    assert x[0] < x[1] < x[2] < x[3] and x[5] < x[4]  # outer to inner along the upper lid, back along the lower
    assert max(y[1], y[2]) < y[0] < min(y[4], y[5])
    np.testing.assert_array_equal(landmarks.convert(np.arange(196.0).reshape(98, 2), "wflw98", "ibug68")[:, 0] / 2,
        [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 33, 34, 35, 36, 37, 42, 43, 44, 45, 46, 51, 52,
         53, 54, 55, 56, 57, 58, 59, 60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75, *range(76, 96)])  # fmt: skip


def test_68_to_54_is_the_published_index_list():
    points = np.random.default_rng(0).normal(size=(3, 68, 2)).astype(np.float32)
    picked = landmarks.convert(points, "ibug68", "sf_tl54")
    np.testing.assert_array_equal(picked, points[:, [*range(49), 51, 54, 57, 62, 66]])
    assert picked.dtype == np.float32


# The 17 points that iBUG shares with COFW, in every layout that has them, according to the figures of the publications.
COMMON = {
    "ibug68": [17, 26, 21, 22, 36, 45, 39, 42, 30, 33, 48, 54, 51, 62, 66, 57, 8],
    "tfake70": [17, 26, 21, 22, 36, 45, 39, 42, 30, 33, 48, 54, 51, 62, 66, 57, 8],
    "sf_tl54": [17, 26, 21, 22, 36, 45, 39, 42, 30, 33, 48, 50, 49, 52, 53, 51, 8],
    "wflw98": [33, 46, 37, 42, 60, 72, 64, 68, 54, 57, 76, 82, 79, 90, 94, 85, 16],
    "cofw29": [0, 1, 2, 3, 8, 9, 10, 11, 20, 21, 22, 23, 24, 25, 26, 27, 28],
}


@pytest.mark.parametrize("source", COMMON)
def test_the_points_shared_with_cofw(source):
    count = landmarks.get(source).count
    numbers = np.arange(2.0 * count).reshape(count, 2)
    found = landmarks.convert(numbers, source, "common17")
    np.testing.assert_array_equal(found[:, 0] / 2, COMMON[source])
    drawn = landmarks.convert(template(source), source, "common17")
    np.testing.assert_allclose(drawn, template("common17"), atol=1.01 if source == "cofw29" else 0.21)


@pytest.mark.parametrize("source", [name for name in COUNTS if name not in ("tfw5", "charlotte43", "boxes6")])
def test_every_dense_layout_gives_five_points(source):
    five = landmarks.convert(template(source), source, "tfw5")
    np.testing.assert_allclose(mirror_all(five)[landmarks.get("tfw5").flip], five, atol=1e-12)
    np.testing.assert_allclose(five[2], (0, 0.5))
    np.testing.assert_allclose(five[3], (-2 if source == "cofw29" else -2.5, 4))
    assert -5 < five[0, 0] < -2 and -2.8 < five[0, 1] < -1.4


def test_identity_copies():
    points = np.zeros((68, 2), np.float32)
    same = landmarks.convert(points, "ibug68", "ibug68")
    same[0] = 1
    assert points[0, 0] == 0


def test_undefined_conversions_say_why():
    with pytest.raises(InputError, match="its 54 points lack some of the 68"):
        landmarks.convert(np.zeros((54, 2)), "sf_tl54", "ibug68")
    with pytest.raises(InputError, match=r"ibug68 to cofw29: it has no points at COFW's brow .*both .* to common17\.$"):
        landmarks.convert(np.zeros((68, 2)), "ibug68", "cofw29")
    with pytest.raises(InputError, match=r"its 51 points lack some .*; ibug68 can be converted to ibug51"):
        landmarks.convert(np.zeros((51, 2)), "ibug51", "ibug68")


ROUTES = [
    ("ibug68", "ibug68", "ibug68"), ("ibug68", "sf_tl54", "sf_tl54"), ("sf_tl54", "ibug68", "sf_tl54"),
    ("wflw98", "ibug68", "ibug68"), ("wflw98", "tfake70", "ibug68"), ("ibug51", "tfake70", "ibug51"),
    ("ibug68", "cofw29", "common17"), ("cofw29", "sf_tl54", "common17"), ("cofw29", "cofw29", "cofw29"),
    ("ibug51", "sf_tl54", "tfw5"), ("ibug68", "tfw5", "tfw5"), ("ibug51", "cofw29", "tfw5"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "target", "wanted"), ROUTES)
def test_routes_lead_to_the_largest_common_layout(model, target, wanted):
    assert landmarks.route(model, target) is landmarks.LAYOUTS[wanted]


def test_every_refusal_names_a_conversion_that_works():
    for source in landmarks.LAYOUTS.values():
        for target in landmarks.LAYOUTS.values():
            if source is not target and {"charlotte43", "boxes6"} & {
                source.name,
                target.name,
            }:  # profiles and boxes share none
                for function in (landmarks.route, lambda a, b: landmarks.convert(np.zeros((a.count, 2)), a, b)):
                    with pytest.raises(InputError, match="have no layout in common"):
                        function(source, target)
                continue
            common = landmarks.route(source, target)
            assert common is landmarks.route(target, source)
            for one in (source, target):
                assert landmarks.convert(np.zeros((one.count, 2)), one, common).shape == (common.count, 2)
            if common is not target:
                with pytest.raises(InputError, match=f"to {common.name}"):
                    landmarks.convert(np.zeros((source.count, 2)), source, target)


def test_a_users_layout_converts_to_itself_only():
    public = landmarks.get("tfw5")
    own = dataclasses.replace(public, name="mine")
    reloaded = dataclasses.replace(own, flip=own.flip.copy())
    assert landmarks.route(own, reloaded) is reloaded
    np.testing.assert_array_equal(landmarks.convert(np.ones((5, 2)), own, reloaded), np.ones((5, 2)))
    assert landmarks.route(pickle.loads(pickle.dumps(public)), "ibug68").name == "tfw5"  # a worker's copy is public
    impostor = dataclasses.replace(public, flip=np.arange(5))
    for other in (own, impostor):
        with pytest.raises(InputError, match=f"not known which points of {other.name}, a layout of your own"):
            landmarks.convert(np.zeros((68, 2)), "ibug68", other)
        with pytest.raises(InputError, match="Predictions in ibug68 cannot be compared"):
            landmarks.route("ibug68", other)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((67, 2)), r"shape \(67, 2\), but layout ibug68 has 68"),
        (np.zeros((68, 3)), "68 points of x, y"),
        (np.zeros(136), "68 points of x, y"),
        ([[1, 2], [3]], "not a list of x, y pairs"),
        (np.full((68, 2), "a"), "must be numbers"),
        (np.where(np.arange(136).reshape(68, 2) == 9, np.nan, 0), "Landmark 4 is not a finite number"),
        (np.where(np.arange(136).reshape(68, 2) == 8, np.inf, 0), "Landmark 4 is not a finite number"),
    ],
)
def test_check_refuses(points, message):
    with pytest.raises(InputError, match=message):
        landmarks.check(points, "ibug68")


def test_check_returns_valid_points():
    assert landmarks.check([[1, 2]] * 5, "tfw5").dtype == np.float32
    assert landmarks.check(np.zeros((2, 5, 2), np.int64), "tfw5").shape == (2, 5, 2)


def test_boxes_have_the_margins_of_sf_tl54():
    points = np.random.default_rng(1).uniform(10, 90, (4, 68, 2))
    box = landmarks.box_from_points(points)
    assert box.shape == (4, 4) and box.dtype == np.float32
    x, y, w, h = box.T
    low, high = points.min(1), points.max(1)
    np.testing.assert_allclose((low[:, 0] - x) / w, 0.045, atol=1e-5)
    np.testing.assert_allclose((x + w - high[:, 0]) / w, 0.045, atol=1e-5)
    np.testing.assert_allclose((low[:, 1] - y) / h, 0.135, atol=1e-5)
    np.testing.assert_allclose((y + h - high[:, 1]) / h, 0.04, atol=1e-5)


def test_boxes_of_points_without_a_jaw_are_those_of_the_whole_face():
    """The extent is 20 x 30 around (20, 35); the factors are those of the comment in `landmarks`."""
    five = [[10, 20], [30, 20], [20, 35], [12, 50], [28, 50]]
    np.testing.assert_allclose(landmarks.box_from_points(five, "tfw5"), [-13.6, -0.7, 67.2, 73.5], atol=1e-4)
    rng = np.random.default_rng(0)
    inner = np.concatenate([[[10, 20], [30, 50]], rng.uniform((10, 20), (30, 50), (49, 2))])
    expected = [20 - 0.68 * 30, 35 - 0.76 * 30 + 0.08 * 30, 1.36 * 30, 1.52 * 30]
    np.testing.assert_allclose(landmarks.box_from_points(inner, "ibug51"), expected, atol=1e-4)


def test_layouts_of_one_rendered_face_give_nearly_one_box():
    points = generate.example(1, 0, size=96, frontal=True, well_lit=True)["landmarks"]
    whole = landmarks.box_from_points(points)
    for name, apart in (("sf_tl54", 1e-3), ("ibug51", 0.15), ("tfw5", 0.2)):
        box = landmarks.box_from_points(landmarks.convert(points, "ibug68", name), name)
        assert np.abs(box - whole).max() < apart * whole[2:].max()


@pytest.mark.parametrize("layout", ["ibug68", "tfw5"])
@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.zeros((0, 2)), np.zeros(2)])
def test_no_box_fits_degenerate_points(points, layout):
    with pytest.raises(InputError):
        landmarks.box_from_points(points, layout)


def test_the_modules_need_numpy_alone():
    modules = set()
    for module in (landmarks, layouts):
        tree = ast.parse(inspect.getsource(module))
        modules |= {n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names}
    assert modules == {"dataclasses", "itertools", "math", "numpy"}


@pytest.mark.parametrize("box", [(0, 0, 10, 10), (-5, -5, 6, 6), (99, 49, 30, 30), (-50, -50, 500, 500)])
def test_box_that_touches_the_image_is_accepted(box):
    landmarks.check_box_inside(box, 100, 50, "The box of a.png")


@pytest.mark.parametrize("box", [(100, 0, 5, 5), (0, 50, 5, 5), (-5, 0, 5, 5), (0, -9, 5, 5)])
def test_box_outside_the_image_is_refused(box):
    with pytest.raises(InputError, match=r"of a\.png, .* lies outside the image, which has 100 x 50 pixels"):
        landmarks.check_box_inside(box, 100, 50, "The box of a.png")
