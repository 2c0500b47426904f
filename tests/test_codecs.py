"""Codecs: the half pixel, and decoders against closed forms."""

import dataclasses
import itertools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import interpolate
from test_landmarks import template

from mlcm_jax import codecs, config, landmarks
from mlcm_jax.errors import InputError


def test_u_has_its_ends_at_the_edges_of_the_image():
    np.testing.assert_allclose(codecs.to_u(np.array([-0.5, 0.0, 31.5, 63.5]), 64), [0, 0.5 / 64, 0.5, 1])
    x = np.linspace(-3, 70, 11)
    np.testing.assert_allclose(codecs.to_pixels(codecs.to_u(x, 64), 64), x)
    np.testing.assert_allclose(codecs.to_pixels(1 - codecs.to_u(np.arange(64), 64), 64), np.arange(64)[::-1])


def test_to_original_applies_the_matrix_to_pixels():
    rng = np.random.default_rng(0)
    u, matrix = rng.random((4, 7, 2)), rng.normal(size=(4, 2, 3))
    wanted = np.array(
        [[m[:, :2] @ (p * 64 - 0.5) + m[:, 2] for p in points] for points, m in zip(u, matrix, strict=True)]
    )
    np.testing.assert_allclose(codecs.to_original(u, matrix, 64), wanted, rtol=1e-12)
    np.testing.assert_allclose(
        codecs.to_original(jnp.asarray(u), jnp.asarray(matrix), 64), wanted, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(codecs.to_original(u[0], matrix[0], 64), wanted[0], rtol=1e-12)


def test_expectation_is_the_centre_of_mass():
    maps = np.random.default_rng(2).uniform(size=(2, 5, 7, 3))
    x = (maps * ((np.arange(7) + 0.5) / 7)[None, None, :, None]).sum((1, 2)) / maps.sum((1, 2))
    y = (maps * ((np.arange(5) + 0.5) / 5)[None, :, None, None]).sum((1, 2)) / maps.sum((1, 2))
    expectation, single = jax.jit(codecs.expectation), maps.astype(np.float32)
    found = np.asarray(expectation(single))
    np.testing.assert_allclose(found, np.stack([x, y], -1), atol=1e-6)
    mirrored = np.asarray(expectation(single[:, :, ::-1]))
    np.testing.assert_allclose(mirrored, np.stack([1 - found[..., 0], found[..., 1]], -1), atol=1e-6)


def test_variance_is_the_mean_squared_distance_from_the_centre_of_mass():
    maps = np.random.default_rng(3).uniform(size=(2, 5, 7, 3))
    maps /= maps.sum((1, 2), keepdims=True)
    y, x = np.meshgrid((np.arange(5) + 0.5) / 5, (np.arange(7) + 0.5) / 7, indexing="ij")
    places = np.stack([x, y], -1)
    middle = np.einsum("bhwk,hwc->bkc", maps, places)
    squares = np.square(places[None, :, :, None] - middle[:, None, None]).sum(-1)
    found = jax.jit(codecs.variance)(maps.astype(np.float32))
    np.testing.assert_allclose(found, (maps * squares).sum((1, 2)), rtol=1e-5)


def test_expectation_of_one_cell_is_its_centre():
    maps = np.zeros((1, 64, 64, 1), np.float32)
    maps[0, 10, 53, 0] = 3.0
    np.testing.assert_allclose(codecs.expectation(maps)[0, 0] * 64, [53.5, 10.5], atol=1e-5)


def test_expectation_of_an_empty_map_is_the_middle_and_its_slope_is_finite():
    np.testing.assert_array_equal(codecs.expectation(jnp.zeros((1, 8, 8, 2))), jnp.full((1, 2, 2), 0.5))
    grad = jax.jit(jax.grad(lambda m: codecs.expectation(m).sum()))(jnp.zeros((1, 4, 4, 1)))
    assert np.isfinite(grad).all()


def test_expectation_with_a_floor_pulls_a_weak_map_to_the_middle():
    maps = np.zeros((1, 4, 4, 2), np.float32)
    maps[0, 1, 3, 0], maps[0, 1, 3, 1] = 0.5, 2e-7
    found = jax.jit(lambda m: codecs.expectation(m, floor=1e-6))(maps)
    corner = np.array([3.5 / 4, 1.5 / 4])
    np.testing.assert_allclose(found[0], [corner, 0.5 + 0.2 * (corner - 0.5)], atol=1e-6)
    slope = jax.jit(jax.grad(lambda m: codecs.expectation(m, floor=1e-6).sum()))(jnp.zeros((1, 4, 4, 1)))
    assert np.isfinite(slope).all()


@pytest.mark.parametrize(("size", "drawn"), [(16, 64), (12, 32), (8, 8)])
def test_point_maps_are_drawn_and_resized(size, drawn):
    """Against a drawing of every pixel and OpenCV's bilinear resizing."""
    points = np.random.default_rng(0).uniform(0, 1, (2, 5, 2)).astype(np.float32)
    found = np.asarray(jax.jit(lambda p: codecs.point_maps(p, size, drawn, 2.0))(points))
    assert found.shape == (2, size, size, 5)
    y, x = np.mgrid[:drawn, :drawn]
    for b, k in np.ndindex(2, 5):
        px, py = points[b, k].astype(float) * drawn - 0.5
        drawing = np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 2.0**2))
        resized = cv2.resize(drawing, (size, size), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(found[b, :, :, k], resized, atol=1e-5)


def test_the_height_of_a_point_map_depends_on_the_place_in_its_cell():
    middle, edge = (np.full((1, 1, 2), u, np.float32) for u in (32.5 / 64, 32 / 64))
    profile = {u: (np.exp(-((u - 0.5) ** 2) / 4.5) + np.exp(-((u + 0.5) ** 2) / 4.5)) / 2 for u in (0, 2)}
    np.testing.assert_allclose(codecs.point_maps(middle).max(), profile[0] ** 2, rtol=1e-4)
    np.testing.assert_allclose(codecs.point_maps(edge).max(), profile[2] ** 2, rtol=1e-4)
    assert 0.18 < profile[2] ** 2 < 0.19 and 0.89 < profile[0] ** 2 < 0.9


def drawn_pairs(chains):
    return sorted(sorted(pair) for chain in chains for pair in itertools.pairwise(chain))


@settings(max_examples=100, derandomize=True)
@given(data=st.data())
def test_edges_do_not_depend_on_the_order_of_pairs(data):
    layout = landmarks.get(data.draw(st.sampled_from(sorted(landmarks.LAYOUTS))))
    pairs = data.draw(st.permutations(layout.edges))
    turned = data.draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
    edges = tuple(pair[::-1] if turn else pair for pair, turn in zip(pairs, turned, strict=True))
    assert codecs.edge_chains(dataclasses.replace(layout, edges=edges)) == codecs.edge_chains(layout)


@settings(max_examples=200, derandomize=True)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda p: p[0] != p[1]), min_size=1),
    order=st.randoms(use_true_random=False),
)
def test_every_edge_is_drawn_once(pairs, order):
    layout = dataclasses.replace(landmarks.get("cofw29"), edges=tuple(pairs))
    chains = codecs.edge_chains(layout)
    assert drawn_pairs(chains) == sorted(map(list, {tuple(sorted(pair)) for pair in pairs}))
    order.shuffle(pairs)
    assert codecs.edge_chains(dataclasses.replace(layout, edges=tuple(p[::-1] for p in pairs))) == chains


@pytest.mark.parametrize(
    ("edges", "wanted"),
    [
        ([(5, 2), (9, 2)], [(5, 2, 9)]),  # a line whose lowest landmark lies inside
        ([(7, 1), (6, 7)], [(1, 7, 6)]),
        ([(3, 6), (6, 4), (4, 3)], [(3, 4, 6, 3)]),
        ([(0, 4), (4, 0)], [(0, 4)]),
        ([(2, 2), (2, 3)], [(2, 3)]),
        ([(1, 3), (3, 0), (2, 3)], [(0, 3, 1), (2, 3)]),
    ],
)
def test_direction_and_start_of_lines(edges, wanted):
    layout = dataclasses.replace(landmarks.get("cofw29"), groups={}, edges=tuple(edges))
    assert codecs.edge_chains(layout) == tuple(wanted)


def test_edges_of_the_layouts():
    chains = codecs.edge_chains("ibug68")
    brows_and_nose = ((0, 17), (17, 22), (22, 27), (27, 31), (31, 36))  # and the jaw; open
    eyes_and_lips = ((36, 42), (42, 48), (48, 60), (60, 68))
    wanted = [*(range(*ends) for ends in brows_and_nose), *([*range(*ends), ends[0]] for ends in eyes_and_lips)]
    assert chains == tuple(map(tuple, wanted))
    assert codecs.edge_chains("sf_tl54")[-2:] == ((48, 49, 50, 51, 48), (48, 52, 50, 53, 48))
    lines_of_cofw = ((18, 21, 19), (22, 24, 23, 27, 22), (22, 25, 23, 26, 22))
    assert codecs.edge_chains("cofw29")[-3:] == lines_of_cofw
    assert codecs.edge_chains("tfw5") == ((3, 4),)
    assert [len(codecs.edge_chains(name)) for name in ("ibug68", "ibug51", "wflw98")] == [9, 8, 9]
    for layout in landmarks.LAYOUTS.values():
        assert drawn_pairs(codecs.edge_chains(layout)) == sorted(map(sorted, layout.edges))
    with pytest.raises(InputError, match="no edges"):
        codecs.edge_chains(dataclasses.replace(landmarks.get("tfw5"), edges=()))


def test_membership():
    matrix = codecs.membership(((0, 1, 2), (2, 3, 2)), 5)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, [[1, 0], [1, 0], [1, 1], [0, 1], [0, 0]])
    with pytest.raises(InputError, match="do not have"):
        codecs.membership(((0, 5),), 5)


def test_an_edge_has_the_smallest_weight_of_its_landmarks():
    weights = np.array([[1.0, 0.5, 2.0, 1.0], [0.0, 1.0, 1.0, 1.0]], np.float32)
    chains = ((0, 1), (1, 2, 3, 1))
    np.testing.assert_array_equal(codecs.edge_weights(chains, weights), [[0.5, 0.5], [0.0, 1.0]])
    np.testing.assert_array_equal(codecs.edge_weights(chains, weights > 0), [[True, True], [False, True]])


def spline(chain, points, pieces=5):
    """Points on scipy's spline over the length of the chords, `pieces` of them per chord."""
    y, ends = points[list(chain)], "periodic" if len(chain) > 2 and chain[0] == chain[-1] else "natural"
    knots = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(y, axis=0), axis=1))])
    places = [place for a, b in itertools.pairwise(knots) for place in np.linspace(a, b, pieces, endpoint=False)]
    return interpolate.CubicSpline(knots, y, bc_type=ends)([*places, knots[-1]])


@pytest.mark.parametrize("pieces", [1, 5, 7])
def test_splines_are_those_of_scipy(pieces):
    chains = [(2, 0, 4, 1, 3), (1, 0, 3, 4, 2, 1), (3, 0), (0, 1, 2, 0), (0, 1, 0), (0, 1, 2, 3, 1), tuple(range(33))]
    points = np.random.default_rng(3).uniform(0, 256, size=(3, 33, 2))
    points[1] += np.arange(33)[:, None] ** 2  # chords of very different length

    def check(points, atol):
        parts, basis = codecs._splines(jnp.asarray(points), chains, pieces)
        curves = np.einsum("bcn,ens->ebsc", parts, basis)
        assert curves.shape == (7, 3, 32 * pieces + 1, 2)
        for (e, chain), b in itertools.product(enumerate(chains), range(3)):
            wanted = spline(chain, points[b], pieces)
            np.testing.assert_allclose(curves[e, b, : len(wanted)], wanted, atol=atol)
            np.testing.assert_allclose(curves[e, b, len(wanted) :] - wanted[-1:], 0.0, atol=atol)

    check(points.astype(np.float32), 2e-3)
    with jax.enable_x64(True):
        check(points, 1e-4)


@pytest.mark.parametrize(("drawn", "size"), [(256, 64), (64, 16), (32, 16), (8, 8), (8, 4), (2, 1), (16, 32), (3, 7)])
def test_resizing_is_that_of_jax(drawn, size):
    wanted = jax.image.resize(jnp.eye(drawn), (size, drawn), "linear", antialias=False)
    np.testing.assert_allclose(codecs._resize_matrix(drawn, size), wanted, atol=1e-6)


def test_edge_maps_against_a_drawing_of_every_pixel():
    points = np.random.default_rng(4).uniform(0.1, 0.9, (2, 5, 2)).astype(np.float32)
    chains, size, drawn = ((0, 1, 2), (3, 4), (1, 2, 3, 1)), 8, 32
    found = np.asarray(jax.jit(lambda p: codecs.edge_maps(p, chains, size, drawn))(points))
    assert found.shape == (2, size, size, 3) and found.dtype == np.float32
    pixels = np.stack(np.meshgrid(np.arange(drawn), np.arange(drawn)), -1).astype(float)
    for b, (e, chain) in itertools.product(range(2), enumerate(chains)):
        curve = spline(chain, points[b].astype(float) * drawn - 0.5)
        nearest = np.full((drawn, drawn), np.inf)
        for start, stop in itertools.pairwise(curve):
            part = ((pixels - start) @ (stop - start) / ((stop - start) ** 2).sum()).clip(0, 1)
            nearest = np.minimum(nearest, np.linalg.norm(pixels - start - part[..., None] * (stop - start), axis=-1))
        resized = cv2.resize((1.15 - nearest).clip(0, 1), (size, size), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(found[b, :, :, e], resized, atol=1e-4)


def test_edge_maps_look_like_those_of_opencv():
    """The original's drawing: an anti-aliased polyline on 1024 x 1024, averaged to 256 x 256, resized to 64 x 64."""
    points = np.array([[0.2, 0.3], [0.4, 0.22], [0.62, 0.35], [0.8, 0.6]], np.float32)
    found = np.asarray(codecs.edge_maps(points[None], ((0, 1, 2, 3),)))[0, :, :, 0]
    curve = spline((0, 1, 2, 3), points * 1024 - 0.5)
    drawing = np.zeros((1024, 1024), np.uint8)
    cv2.polylines(drawing, [np.round(curve).astype(np.int32)], False, 255, 4, cv2.LINE_AA)
    theirs = cv2.resize(drawing / 255.0, (256, 256), interpolation=cv2.INTER_AREA)
    theirs = cv2.resize(theirs, (64, 64), interpolation=cv2.INTER_LINEAR)
    assert np.corrcoef(found.ravel(), theirs.ravel())[0, 1] > 0.99
    assert 0.95 < found.sum() / theirs.sum() < 1.05


def published_edge_maps(points, lines):
    """The drawing of STAR's code, [64, 64, E]: splines over the arc length, rounded to pixels at 4 times the size."""
    maps = []
    for closed, line in lines:
        part = points[[*line, *line[:1]] if closed else line]
        spline, knots = interpolate.splprep(part.T, s=0, per=closed, k=3)
        places = np.concatenate([np.linspace(a, b, 5, endpoint=False) for a, b in itertools.pairwise(knots)])
        curve = np.stack(interpolate.splev(places if closed else [*places, knots[-1]], spline), -1)
        drawing = np.zeros((1024, 1024), np.uint8)
        cv2.polylines(drawing, [(curve * 4 + 0.5).astype(np.int32)], closed, 255, 4, cv2.LINE_AA)
        small = cv2.resize(drawing / 255.0, (256, 256), interpolation=cv2.INTER_AREA)
        maps.append(cv2.resize(small, (64, 64), interpolation=cv2.INTER_LINEAR))
    return np.stack(maps, -1)


# (closed, landmarks) of every line in arXiv 2404.06029's code for 51 points. STAR's code for 68 leaves the brows open.
LINES = [(True, range(5)), (True, range(5, 10)), (False, range(10, 14)), (False, range(14, 19)), (True, range(19, 25))]
LINES += [(True, range(25, 31)), (True, range(31, 43)), (True, range(43, 51))]


@pytest.mark.parametrize("name", ["star_pair2024", "star_youtube"])
def test_the_published_drawing_can_be_reproduced(name):
    chosen = config.load(f"configs/{name}.py")
    chains = codecs.edge_chains(chosen.layout, closed=chosen.loss.options.closed)
    turned = np.array([[0.99, 0.14], [-0.14, 0.99]])
    whole = template("ibug68") @ turned * 9.3 + (127.3, 115.8)  # pixels of 256
    points = whole[-landmarks.get(chosen.layout).count :]
    brows_open = [(k > 1 and closed, line) for k, (closed, line) in enumerate(LINES)]
    theirs = published_edge_maps(whole[17:], LINES if chosen.layout == "ibug51" else brows_open)

    def likeness(chains, **options):
        ours = codecs.edge_maps((points[None] + 0.5) / 256, chains, **options)[0, :, :, -8:]
        pairs = zip(np.moveaxis(np.asarray(ours), -1, 0), np.moveaxis(theirs, -1, 0), strict=True)
        return min(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs)

    assert likeness(chains, shift=chosen.loss.options.shift) > 0.98
    assert likeness(chains) < 0.95
    if chosen.loss.options.closed:
        assert likeness(codecs.edge_chains(chosen.layout), shift=-0.375) < 0.9


def test_closed_groups_keep_the_number_of_edges():
    brows = ("right_brow", "left_brow")
    chains = codecs.edge_chains("ibug51", closed=brows)
    assert chains[:2] == ((0, 1, 2, 3, 4, 0), (5, 6, 7, 8, 9, 5))
    assert chains[2:] == codecs.edge_chains("ibug51")[2:]
    assert len(codecs.edge_chains("ibug68", closed=brows)) == 9
    np.testing.assert_array_equal(codecs.membership(chains, 51), codecs.membership(codecs.edge_chains("ibug51"), 51))
    assert codecs.edge_chains("ibug51", closed=("right_eye",)) == codecs.edge_chains("ibug51")  # closed as it is
    with pytest.raises(InputError, match=r"ibug51 has no line of the group 'right_brows'; did you mean 'right_brow'\?"):
        codecs.edge_chains("ibug51", closed=("right_brows",))
    with pytest.raises(InputError, match="no line of the group 'nose'"):  # two lines
        codecs.edge_chains("ibug51", closed=("nose",))


def test_shift_moves_edge_maps_by_drawn_pixels():
    points = np.random.default_rng(6).uniform(0.2, 0.8, (1, 3, 2))
    moved = codecs.edge_maps(points + 0.5 / 32, ((0, 1, 2),), 8, 32)
    np.testing.assert_allclose(codecs.edge_maps(points, ((0, 1, 2),), 8, 32, shift=0.5), moved, atol=1e-5)


def test_edge_maps_are_finite_and_carry_no_gradient():
    same = jnp.full((1, 3, 2), 0.55)  # a line of no length
    maps = codecs.edge_maps(same, ((0, 1, 2), (0, 1, 2, 0)), 8, 32)
    assert np.isfinite(maps).all() and float(maps.max()) > 0.2
    slope = jax.jit(jax.grad(lambda p: codecs.edge_maps(p, ((0, 1, 2),), 8, 32).sum()))(same)
    np.testing.assert_array_equal(slope, 0.0)
    assert codecs.edge_maps(same, (), 8, 32).shape == (1, 8, 8, 0)
    with pytest.raises(ValueError, match="at least two"):
        codecs.edge_maps(same, ((0,),), 8, 32)
