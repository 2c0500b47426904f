"""The anisotropic attention head: its formula against numpy, its decoders against slow ones, options, training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mlcm_jax import codecs, losses
from mlcm_jax.errors import InputError
from mlcm_jax.layout_file import read_layout
from mlcm_jax.models import create
from mlcm_jax.models.aam import AAM, UpNorm, fuse, instance_norm

CHAINS = ((0, 1, 2), (2, 3, 2))
_run = nnx.jit(lambda module, x: module(x))


def head(layout="tfw5", channels=8, landmarks=5, **options):
    options = {"head_channels": 8, "upsample": 4, "dtype": jnp.float32} | options
    return AAM(channels, landmarks, layout=layout, rngs=nnx.Rngs(0), **options)


def features(seed=1, shape=(2, 3, 4, 8)):
    return jax.random.normal(jax.random.key(seed), shape)


def test_maps_are_fused_as_the_formula_says():
    heat, points, edges = (np.random.default_rng(n).uniform(size=(2, 3, 4, k)) for n, k in enumerate((5, 5, 2)))
    member = np.array([[1, 0], [1, 0], [1, 1], [0, 1], [0, 0]], float)  # landmark 4 is on no edge
    mask = np.stack([edges @ row + (row.sum() == 0) for row in member], -1) * points
    found = jax.jit(functools.partial(fuse, chains=CHAINS))(*(a.astype(np.float32) for a in (heat, points, edges)))
    np.testing.assert_allclose(found, mask * heat, rtol=1e-5)


def test_instance_norm_against_numpy():
    x = np.random.default_rng(0).normal(3.0, 2.0, (2, 6, 5, 3))
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    np.testing.assert_allclose(
        instance_norm(jnp.asarray(x, jnp.float32)), (x - mean) / np.sqrt(variance + 1e-5), atol=1e-5
    )
    np.testing.assert_array_equal(instance_norm(jnp.full((1, 2, 2, 1), 7.0)), 0.0)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_transposed_convolution_spreads_each_cell(stride):
    """Against scattering: cell (i, j) adds the flipped kernel, whose corner is at stride (i, j) - 1."""
    layer = UpNorm(3, 2, stride, bn_momentum=0.9, rngs=nnx.Rngs(0), dtype=jnp.float32)
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 3)).astype(np.float32)
    size = stride + 2
    kernel = np.asarray(layer.kernel[...])[::-1, ::-1]
    wide = np.zeros((1, 3 * stride + 2, 2 * stride + 2, 2))
    for i, j in np.ndindex(3, 2):
        wide[:, i * stride : i * stride + size, j * stride : j * stride + size] += np.einsum(
            "bc,yxcd->byxd", x[:, i, j], kernel
        )
    expected = np.maximum(wide[:, 1:-1, 1:-1], 0) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(_run(layer, x), expected, atol=1e-5)


@pytest.mark.parametrize("decoder", ["transposed", "nearest"])
def test_the_prediction_follows_from_the_parameters(decoder):
    module, x = head(decoder=decoder), features()
    found = _run(module, x)
    assert found.heatmaps.shape == found.points.shape == (2, 12, 16, 5)
    assert found.edges.shape == (2, 12, 16, 1)
    decoded = np.asarray(x, np.float64)
    if decoder == "nearest":
        decoded = decoded.repeat(4, axis=1).repeat(4, axis=2)  # repeated first, unlike in the head
    else:
        decoded = np.asarray(nnx.jit(lambda m, x: m.blocks[1](m.blocks[0](m.reduce(x))))(module, x), np.float64)

    def convolve(conv):
        return decoded @ np.asarray(conv.kernel[...], np.float64)[0, 0] + np.asarray(conv.bias[...])

    heat = convolve(module.heat)
    heat = (heat - heat.mean((1, 2), keepdims=True)) / np.sqrt(heat.var((1, 2), keepdims=True) + 1e-5)
    points, edges = (1 / (1 + np.exp(-convolve(conv))) for conv in (module.points, module.edges))
    mask = np.where([False, False, False, True, True], edges, 1.0) * points  # tfw5 has one edge, the mouth
    fused = mask * np.maximum(heat, 0)
    np.testing.assert_allclose(found.points, points, atol=1e-5)
    np.testing.assert_allclose(found.edges, edges, atol=1e-5)
    np.testing.assert_allclose(found.heatmaps, fused, atol=1e-4)
    px, py = (
        (fused * ((np.arange(16) + 0.5) / 16)[None, None, :, None]),
        fused * ((np.arange(12) + 0.5) / 12)[None, :, None, None],
    )
    landmarks = np.stack([px.sum((1, 2)), py.sum((1, 2))], -1) / np.maximum(fused.sum((1, 2)), 1e-6)[..., None]
    np.testing.assert_allclose(found.landmarks, landmarks, atol=1e-4)


def test_maps_are_float32_after_a_bfloat16_decoder():
    found = _run(head(dtype=jnp.bfloat16), features().astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    exact = _run(head(), features())
    assert float(jnp.abs(found.landmarks - exact.landmarks).max()) < 0.02


def test_an_empty_map_gives_the_middle_with_a_finite_slope():
    module = head(decoder="nearest")
    module.heat.kernel[...] *= 0.0  # a constant map, so 0 after the instance norm
    np.testing.assert_allclose(_run(module, features()).landmarks, 0.5, atol=1e-6)
    slopes = nnx.jit(nnx.grad(lambda m, x: m(x).landmarks.sum()))(module, features())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_a_student_starts_from_its_teacher():
    """The three convolutions have the same shapes for both decoders and for any number of channels of the features."""
    teacher, student = head(channels=24), head(decoder="nearest")
    assert not hasattr(nnx.state(student), "reduce") and student.reduce is None
    for name in ("heat", "points", "edges"):
        theirs, ours = nnx.state(getattr(teacher, name)), nnx.state(getattr(student, name))
        assert jax.tree.map(jnp.shape, theirs) == jax.tree.map(jnp.shape, ours)
        nnx.update(getattr(student, name), theirs)
    np.testing.assert_array_equal(student.heat.kernel[...], teacher.heat.kernel[...])
    adapted = head(decoder="nearest", channels=24)
    assert adapted.reduce.kernel.shape == (1, 1, 24, 8)


def test_only_parameters_and_statistics_are_in_the_graph():
    module = head()
    _, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)  # raises if anything else is left
    assert set(params) == {"reduce", "blocks", "heat", "points", "edges"} and set(stats) == {"blocks"}
    assert params["blocks"][0]["kernel"].shape == params["blocks"][1]["kernel"].shape == (4, 4, 8, 8)
    eight = nnx.eval_shape(lambda: head(upsample=8))
    assert [block.kernel.shape[0] for block in eight.blocks] == [6, 4]  # as published
    one = nnx.eval_shape(lambda: head(upsample=1, decoder="nearest"))
    assert not nnx.split(one, nnx.Param, nnx.BatchStat)[2]


def test_without_edges_points_alone_mask_the_heatmaps():
    module = head(layout=None)
    found = _run(module, features())
    assert found.edges is None and module.edges is None
    heat = np.maximum(
        instance_norm(nnx.jit(lambda m, x: m.heat(m.blocks[1](m.blocks[0](m.reduce(x)))))(module, features())), 0
    )
    np.testing.assert_allclose(found.heatmaps, heat * np.asarray(found.points), atol=1e-5)


OWN = """
names: [right_eye, left_eye, nose, right_corner, left_corner]
flip: [[right_eye, left_eye], [right_corner, left_corner]]
edges: [[right_eye, nose], [nose, left_eye], [right_corner, left_corner]]
"""


def test_a_layout_of_the_users_own_gives_its_edges(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(OWN)
    for layout in (path, str(path), read_layout(path)):
        module = nnx.eval_shape(lambda layout=layout: head(layout=layout))
        assert module.chains == ((0, 2, 1), (3, 4))
    options = {"num_landmarks": 5, "head": "aam", "width": 0.1, "depths": (1,), "rngs": nnx.Rngs(0)}
    model = create("resnet18", layout=str(path), head_channels=8, upsample=2, **options)
    assert _run(model, jnp.zeros((1, 32, 32, 1))).edges.shape[-1] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("count: 4\nflip: []\nedges: [[0, 1]]", "'mine', which has 4 landmarks, not 5"),
        ("count: 5\nflip: []", "mine.*edges"),
        ("count: five", "mine.yaml"),
        (None, "mine.yaml"),
    ],
    ids=["count", "edges", "content", "absent"],
)
def test_a_layout_file_that_does_not_fit_is_named(tmp_path, content, message):
    if content:
        (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(InputError, match=message):
        head(layout=tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "bilinear"}, "decoder"),
        ({"upsample": 6}, "upsample"),
        ({"head_channels": 0}, "head_channels"),
        ({"layout": "ibug68"}, "68 landmarks, not 5"),
        ({"layout": "ibug6"}, "did you mean"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        head(**options)


def test_training_with_star_finds_the_landmarks():
    """With features that mark the landmarks, 100 steps of Adam reduce the mean error to a fraction."""
    rng = np.random.default_rng(0)
    target = rng.uniform(0.25, 0.75, (4, 5, 2)).astype(np.float32)
    x = np.concatenate([np.asarray(codecs.point_maps(target, 16, drawn=16)), rng.normal(0, 0.1, (4, 16, 16, 3))], -1)
    x = jnp.asarray(x, jnp.float32)
    module = head(decoder="nearest", upsample=1)
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    drawings = codecs.point_maps(target, 16, 64), codecs.edge_maps(target, codecs.edge_chains("tfw5"), 16, 64)

    def loss(found):
        maps = zip((found.points, found.edges), drawings, strict=True)
        return losses.star(found.heatmaps, target).mean() + 10 * sum(losses.map_awing(*pair).mean() for pair in maps)

    tx = optax.adam(0.03)

    @jax.jit
    def step(params, memory):
        def total(params):
            found = nnx.merge(graph, params, rest)(x)
            return loss(found), found.landmarks

        (_, found), slope = jax.value_and_grad(total, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax adds its integer step count to floats
            updates, memory = tx.update(slope, memory)
        return optax.apply_updates(params, updates), memory, jnp.abs(found - target).mean()

    memory, errors = tx.init(params), []
    for _ in range(100):
        params, memory, error = step(params, memory)
        errors.append(float(error))
    assert errors[-1] < 0.2 * errors[0]
