"""SwinV2: sizes, torchvision's features, window attention written out pixel by pixel, and what training relies on."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sine_weights import image, parameter_counts, torch_features

from mlcm_jax import models
from mlcm_jax.errors import InputError
from mlcm_jax.models import pretrained
from mlcm_jax.models.swin_v2 import (
    Block,
    SwinV2,
    WindowAttention,
    join,
    log_offsets,
    neighbours,
    offset_index,
    partition,
)

_run = nnx.jit(lambda module, x: module(x))


def _tiny(**options):
    options = {"depths": (2,), "width": 0.25, "window": 4, "drop_path": 0.0, "rngs": nnx.Rngs(0)} | options
    return SwinV2(96, 3, **options)


def _images(height=32, width=32, batch=1):
    return jax.random.uniform(jax.random.key(1), (batch, height, width, 1))


@pytest.mark.usefixtures("without_draws")
@pytest.mark.parametrize("row", parameter_counts("swin_v2"), ids=lambda row: row["name"])
def test_sizes_are_the_published_ones(row):
    def make():
        return models.create(row["name"], num_landmarks=500, rngs=nnx.Rngs(0), **row["options"])

    found = models.profile(nnx.eval_shape(make), 256)
    assert found["params"] == row["params"]
    assert (found["stride"], found["channels"]) == (32, 1024 if row["name"] == "swin_v2_b" else 768)
    assert round(found["flops"] / 2e9, row["digits"]) == row["giga_macs"]


def test_features_are_those_of_torchvision(tmp_path):
    arrays, shape, features = torch_features("swin_v2")
    window = {
        "features.1.0.attn.relative_coords_table": np.zeros((1, 7, 7, 2), np.float32),
        "features.1.0.attn.relative_position_index": np.zeros(256, np.int64),
    }
    np.savez(tmp_path / "w.npz", **arrays, **window)
    model = _tiny(depths=(2, 1))
    pretrained.load(model, tmp_path / "w.npz")
    found = np.asarray(_run(model, image(44, 60)))
    assert found.shape == shape
    np.testing.assert_allclose(found.reshape(-1)[::37], features, atol=2e-4)
    with pytest.raises(InputError, match="width and depths"):
        pretrained.load(_tiny(depths=(1, 1)), tmp_path / "w.npz")


def test_offsets_by_hand():
    five, nine = np.log2(5) / 3, np.log2(9) / 3
    steps = np.float32([-nine, -five, 0, five, nine])  # of -8, -4, 0, 4, 8
    table = log_offsets(3)
    np.testing.assert_allclose(table[:, 0], steps.repeat(5), atol=1e-7)
    np.testing.assert_allclose(table[:, 1], np.tile(steps, 5), atol=1e-7)
    index = offset_index(3)
    for i in range(9):
        for j in range(9):
            dy, dx = i // 3 - j // 3, i % 3 - j % 3
            np.testing.assert_allclose(table[index[i, j]], [steps[dy + 2], steps[dx + 2]], atol=1e-7)


def test_partition_and_join_by_hand():
    x = jnp.arange(2 * 6 * 9 * 2).reshape(2, 6, 9, 2)
    windows = partition(x, 3)
    assert windows.shape == (2, 6, 9, 2)
    np.testing.assert_array_equal(windows[1, 4], x[1, 3:6, 3:6].reshape(9, 2))
    np.testing.assert_array_equal(join(windows, 6, 9), x)


def _slow_attention(module: WindowAttention, x: np.ndarray, shifts: tuple[int, int]) -> np.ndarray:
    """The attention of every pixel of [H, W, C] within its window, pixel by pixel in float64."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.state(module)))
    h, w, c = x.shape
    size, heads = module.window, module.heads
    height, width = -(-h // size) * size, -(-w // size) * size
    padded = np.zeros((height, width, c))
    padded[:h, :w] = x
    bias = p["qkv"]["bias"].copy()
    bias[c : 2 * c] = 0
    q, k, v = np.split((padded @ p["qkv"]["kernel"] + bias).reshape(height, width, 3 * heads, c // heads), 3, axis=2)
    q, k = (a / np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-12) for a in (q, k))
    scale = np.exp(np.minimum(p["logit_scale"].reshape(-1), np.log(100)))

    def position(dy, dx):
        offset = 8 * np.array([dy, dx]) / (size - 1)
        offset = np.sign(offset) * np.log2(1 + np.abs(offset)) / np.log2(8)
        hidden = np.maximum(offset @ p["offset_hidden"]["kernel"] + p["offset_hidden"]["bias"], 0)
        return 16 / (1 + np.exp(-hidden @ p["offset_heads"]["kernel"]))

    def place(y, x):
        """The window of a pixel, the sides of the map from which it was rolled, and its place after the roll."""
        ry, rx = (y - shifts[0]) % height, (x - shifts[1]) % width
        return (ry // size, rx // size), (y < shifts[0], x < shifts[1]), (ry, rx)

    pixels = [(y, x, *place(y, x)) for y in range(height) for x in range(width)]
    out = np.zeros((h, w, c))
    for y, x, window, side, (ry, rx) in pixels:
        if y >= h or x >= w:
            continue
        others = [o for o in pixels if o[2] == window]
        logits = np.stack(
            [
                scale * (q[y, x] * k[oy, ox]).sum(-1) + position(ry - sy, rx - sx) - 100 * (other != side)
                for oy, ox, _, other, (sy, sx) in others
            ]
        )
        weights = np.exp(logits - logits.max(0))
        weights /= weights.sum(0)
        mixed = sum(weight[:, None] * v[o[0], o[1]] for weight, o in zip(weights, others, strict=True))
        out[y, x] = mixed.reshape(-1) @ p["proj"]["kernel"] + p["proj"]["bias"]
    return out


@pytest.mark.parametrize(
    ("shape", "shift", "shifts"),
    [((5, 7), 1, (1, 1)), ((5, 7), 0, (0, 0)), ((3, 8), 1, (0, 1)), ((2, 3), 1, (0, 0))],
    ids=["shifted", "unshifted", "one window high", "one window"],
)
def test_attention_is_the_sum_written_out(shape, shift, shifts):
    module = WindowAttention(8, 2, 3, shift, rngs=nnx.Rngs(0), dtype=jnp.float32)
    rng = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        deviation = {"logit_scale": 1.5, "offset_hidden": 1.0}.get(path[0], 0.3)
        variable[...] = variable[...] + deviation * rng.normal(size=variable.shape).astype(np.float32)
    x = rng.normal(size=(2, *shape, 8)).astype(np.float32)
    found = np.asarray(_run(module, x))
    np.testing.assert_allclose(found[1], _slow_attention(module, x[1], shifts), atol=2e-5)
    np.testing.assert_allclose(found[0], _slow_attention(module, x[0], shifts), atol=2e-5)


def test_rolled_borders_do_not_attend_to_each_other():
    near = neighbours(4, 4, 2, (1, 1))
    assert near.shape == (4, 4, 4)
    assert near[0].all()
    np.testing.assert_array_equal(near[1], np.equal.outer([0, 1, 0, 1], [0, 1, 0, 1]))  # right: columns 3 | 0
    np.testing.assert_array_equal(near[2], np.equal.outer([0, 0, 1, 1], [0, 0, 1, 1]))  # below: rows 3 | 0
    np.testing.assert_array_equal(near[3], np.eye(4, dtype=bool))


def test_attention_stays_in_its_window_until_windows_shift():
    x = _images()
    touched = x.at[:, :16, :16].set(0.0)  # the first of 2×2 windows
    alone, shifted = _tiny(depths=(1,)), _tiny()
    moved = np.abs(np.asarray(_run(alone, x) - _run(alone, touched))).max(-1)[0]
    assert (moved[:4, :4] > 0).all() and moved[4:].max() == 0 and moved[:, 4:].max() == 0
    moved = np.abs(np.asarray(_run(shifted, x) - _run(shifted, touched))).max(-1)[0]
    assert (moved[:6, :6] > 0).all() and moved[6:].max() == 0 and moved[:, 6:].max() == 0
    # Rolling an image by one window rolls the features by one window; a shift by a pixel hardly changes them.
    np.testing.assert_allclose(_run(alone, jnp.roll(x, 16, 2)), jnp.roll(_run(alone, x), 4, 2), atol=1e-5)
    smooth = jnp.asarray(np.sin(np.linspace(0, 6, 33))[None, None, :, None] * np.ones((1, 32, 1, 1)) / 2 + 0.5, "f4")
    here, beside = _run(shifted, smooth[:, :, :-1]), _run(shifted, smooth[:, :, 1:])
    assert 0 < float(jnp.abs(here - beside).mean()) < 0.5 * float(jnp.abs(here - _run(shifted, x)).mean())


@pytest.mark.usefixtures("without_draws")
@pytest.mark.parametrize("size", [(64, 64), (65, 100), (112, 112), (256, 192)])
def test_any_size_of_image(size):
    model = nnx.eval_shape(lambda: models.create("swin_v2_t", num_landmarks=5, depths=(1,) * 4, rngs=nnx.Rngs(0)))
    features = nnx.eval_shape(lambda model, x: model.backbone(x), model, jnp.zeros((2, *size, 1)))
    assert features.shape == (2, -(-size[0] // 32), -(-size[1] // 32), 768)
    assert features.dtype == jnp.float32


def test_gradients_are_finite_and_reach_every_parameter():
    graph, params = nnx.split(_tiny(), nnx.Param)  # raises if there is another kind of variable
    target = jax.random.normal(jax.random.key(3), (2, 7, 9, 24))
    gradient = jax.jit(jax.grad(lambda params, x: jnp.square(nnx.merge(graph, params)(x) - target).mean()))
    for x in (_images(28, 36, batch=2), jnp.zeros((2, 28, 36, 1))):
        for path, value in nnx.to_flat_state(gradient(params, x)):
            value = np.asarray(value[...])
            assert np.isfinite(value).all(), path
            assert np.abs(value).max() > 0, path
            if path[-2:] == ("qkv", "bias"):
                np.testing.assert_array_equal(np.split(value, 3)[1], 0.0)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    low, high, x = _tiny(dtype=jnp.bfloat16), _tiny(), _images()
    features = _run(low, x)
    assert features.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(low))} == {jnp.dtype("float32")}
    difference = np.abs(np.asarray(features, np.float32) - np.asarray(_run(high, x)))
    assert difference.mean() < 0.01 and difference.max() < 0.15  # of features of deviation 1
    graph, state = nnx.split(low)
    program = str(jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, x))
    for function, times in (("exp", 2 * 2), ("rsqrt", 2 + 2 * 4), ("logistic", 2)):
        assert re.findall(rf":(\w+)\[[\d,]*\] = {function}\b", program) == ["f32"] * times, function
    assert len(re.findall(r":bf16\[[\d,]*\] = dot_general\b", program)) == 2 * 5  # qkv, values, proj, two dense


def test_stochastic_depth_draws_from_the_rngs_of_the_call_and_is_off_in_evaluation():
    model = nnx.eval_shape(lambda: _tiny(depths=(2, 1), drop_path=0.4))
    assert [block.drop.rate for stage in model.stages for block in stage.blocks] == [0.0, 0.2, 0.4]
    model.train()
    with pytest.raises(ValueError, match="rngs"):
        nnx.eval_shape(lambda model, x: model(x), model, _images())
    block = Block(8, 2, 2, 0, 0.5, rngs=nnx.Rngs(0), dtype=jnp.float32)
    x = jax.random.normal(jax.random.key(1), (100, 2, 2, 8))
    run = nnx.jit(lambda block, x, key: block(x, nnx.Rngs(dropout=key)))
    block.eval()
    np.testing.assert_array_equal(*(run(block, x, jax.random.key(seed)) for seed in (0, 1)))
    block.train()
    one, again, other = (run(block, x, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    untouched = np.asarray((one == x).all((1, 2, 3))).mean()
    assert 0.1 < untouched < 0.4  # both branches dropped: a quarter


@pytest.mark.usefixtures("without_draws")
def test_width_keeps_the_heads():
    def make(**options):
        options = {"width": 0.2, "depths": (1, 1, 1, 1)} | options
        return models.create("swin_v2_b", num_landmarks=5, rngs=nnx.Rngs(0), **options).backbone

    small = nnx.eval_shape(make)
    assert small.channels == 32 * 8  # 25.6 channels become 4 heads of 8
    assert [stage.blocks[0].attn.heads for stage in small.stages] == [4, 8, 16, 32]
    assert nnx.eval_shape(lambda: make(width=0.5)).channels == 64 * 8
    shapes = [jax.tree.map(jnp.shape, nnx.state(nnx.eval_shape(lambda w=w: make(window=w)))) for w in (8, 16)]
    assert shapes[0] == shapes[1]  # so that weights fit any window


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window is 1"),
        ({"window": 2.5}, "window is 2.5"),
        ({"depths": ()}, "depths"),
        ({"width": 0}, "width"),
        ({"drop_path": 1.0, "depths": (2,)}, "rate"),
        ({"stem": "small"}, "no option 'stem'"),
    ],
)
def test_bad_options_are_named_in_one_sentence(options, message):
    with pytest.raises(InputError, match=message) as caught:
        models.create("swin_v2_t", num_landmarks=5, rngs=nnx.Rngs(0), **({"width": 0.25, "depths": (1,)} | options))
    assert "\n" not in str(caught.value)
