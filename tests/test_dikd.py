"""DIKD: which parts each injection trains (as in the paper), values against numpy, jit, grad, vmap."""

import doctest
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcm_jax import dikd, losses

B, K, C, D = 4, 3, 6, 5


def backbone(params, x):
    return jnp.tanh(x @ params)


def head(params, features):
    return (features @ params["kernel"] + params["bias"][None, :]).reshape(-1, K, 2)


def make_network(key):
    a, b, c = jax.random.split(key, 3)
    last = {"kernel": jax.random.normal(b, (C, 2 * K)), "bias": jax.random.normal(c, (2 * K,))}
    return {"backbone": jax.random.normal(a, (D, C)), "head": last}


@pytest.fixture
def world():
    keys = jax.random.split(jax.random.key(0), 5)
    return {
        "student": make_network(keys[0]),
        "teacher": make_network(keys[1]),
        "thermal": jax.random.normal(keys[2], (B, D)),
        "rgb": jax.random.normal(keys[3], (B, D)),
        "target": jax.random.normal(keys[4], (B, K, 2)),
    }


def total(student, teacher, thermal, rgb, target, *, loss=losses.smooth_l1, **options):
    value, parts = dikd.dikd(
        backbone(student["backbone"], thermal),
        backbone(teacher["backbone"], rgb),
        (head, student["head"]),
        (head, teacher["head"]),
        target,
        loss=loss,
        **options,
    )
    return value, parts


def gradients(world, **options):
    def function(student, teacher):
        return total(student, teacher, world["thermal"], world["rgb"], world["target"], **options)[0].sum()

    return jax.grad(function, argnums=(0, 1))(world["student"], world["teacher"])


def size(tree):
    return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("reverse_target", ["teacher", "truth"])
def test_forward_injection_trains_the_students_head_alone(world, reverse_target):
    student, teacher = gradients(world, alpha=1.0, beta=0.0, reverse_target=reverse_target)
    assert size(student["backbone"]) == 0
    assert float(jnp.abs(student["head"]["kernel"]).min()) > 1e-3
    assert size(teacher) == 0


@pytest.mark.parametrize("reverse_target", ["teacher", "truth"])
def test_reverse_injection_trains_the_students_backbone_alone(world, reverse_target):
    student, teacher = gradients(world, alpha=0.0, beta=1.0, reverse_target=reverse_target)
    assert float(jnp.abs(student["backbone"]).max()) > 1e-2
    assert size(student["head"]) == 0
    assert size(teacher) == 0


@pytest.mark.parametrize("reverse_target", ["teacher", "truth"])
def test_both_together_train_the_whole_student_and_no_teacher(world, reverse_target):
    student, teacher = gradients(world, reverse_target=reverse_target)
    assert size(student["backbone"]) > 1e-2 and size(student["head"]) > 1e-2
    assert size(teacher) == 0


def test_a_student_that_equals_its_teacher_on_the_same_image_has_no_reverse_loss(world):
    _, parts = total(world["teacher"], world["teacher"], world["rgb"], world["rgb"], world["target"])
    np.testing.assert_array_equal(parts["reverse"], 0.0)
    assert (parts["forward"] > 0.1).all()
    _, other = total(world["teacher"], world["teacher"], world["thermal"], world["rgb"], world["target"])
    assert (other["reverse"] > 1e-3).all()


def reference(world, weights=None):
    """FI, RI to the teacher and RI to the truth, in float64 numpy without any of the library's functions."""
    net = jax.tree.map(lambda a: np.asarray(a, np.float64), world)
    features = {
        "student": np.tanh(net["thermal"] @ net["student"]["backbone"]),
        "teacher": np.tanh(net["rgb"] @ net["teacher"]["backbone"]),
    }

    def through(name, f):
        return (f @ net[name]["head"]["kernel"] + net[name]["head"]["bias"]).reshape(B, K, 2)

    def mean(a, b):
        e = np.abs(a - b)
        values = np.where(e < 1, e**2 / 2, e - 0.5)
        w = np.ones((B, K)) if weights is None else np.asarray(weights, np.float64)
        return (values * w[..., None]).sum((1, 2)) / np.maximum(2 * w.sum(1), 1e-9)

    returned = through("teacher", features["student"])
    forward = mean(through("student", features["teacher"]), net["target"])
    return forward, mean(returned, through("teacher", features["teacher"])), mean(returned, net["target"])


WEIGHTS = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]], np.float32)


@pytest.mark.parametrize("weights", [None, WEIGHTS, WEIGHTS.astype(bool), 0.3 * WEIGHTS])
@pytest.mark.parametrize("reverse_target", ["teacher", "truth"])
def test_values_against_numpy(world, weights, reverse_target):
    value, parts = total(**world, weights=weights, alpha=0.7, beta=1.9, reverse_target=reverse_target)
    forward, to_teacher, to_truth = reference(world, weights)
    reverse = to_teacher if reverse_target == "teacher" else to_truth
    assert value.shape == parts["forward"].shape == parts["reverse"].shape == (B,)
    np.testing.assert_allclose(parts["forward"], forward, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(parts["reverse"], reverse, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(value, 0.7 * forward + 1.9 * reverse, rtol=1e-4, atol=1e-6)


def test_hidden_landmarks_may_hold_nan(world):
    target = world["target"].at[1, 1].set(jnp.nan)

    def function(student):
        return total(student, world["teacher"], world["thermal"], world["rgb"], target, weights=WEIGHTS)[0].sum()

    value, grad = jax.value_and_grad(function)(world["student"])
    assert np.isfinite(value)
    clean = jax.grad(lambda s: total(**{**world, "student": s}, weights=WEIGHTS)[0].sum())(world["student"])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), grad, clean)


def test_the_gradient_against_finite_differences(world):
    options = {"alpha": 0.6, "beta": 1.4, "loss": losses.l2}
    student, _ = gradients(world, **options)
    leaves, treedef = jax.tree.flatten(world["student"])
    keys = jax.random.split(jax.random.key(9), len(leaves))
    directions = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    for i, direction in enumerate(directions):

        def along(t, i=i, direction=direction):
            moved = [leaf + t * direction if j == i else leaf for j, leaf in enumerate(leaves)]
            return total(**{**world, "student": jax.tree.unflatten(treedef, moved)}, **options)[0].sum()

        slope = float(jnp.vdot(jax.tree.leaves(student)[i], direction))
        difference = float(along(1e-2) - along(-1e-2)) / 2e-2
        np.testing.assert_allclose(slope, difference, rtol=1e-2)


def test_jit_vmap_and_traced_weights(world):
    eager, _ = total(**world, alpha=0.3, beta=0.8)
    compiled = jax.jit(lambda alpha, beta: total(**world, alpha=alpha, beta=beta)[0])
    np.testing.assert_allclose(compiled(0.3, 0.8), eager, rtol=1e-5)
    np.testing.assert_allclose(compiled(0.0, 1.0), total(**world)[1]["reverse"], rtol=1e-5)
    assert compiled._cache_size() == 1  # alpha is traced: another value compiles nothing anew

    def one(thermal, rgb, target):
        nets = world["student"], world["teacher"]
        return total(*nets, thermal[None], rgb[None], target[None], alpha=0.3, beta=0.8)[0][0]

    mapped = jax.vmap(one)(world["thermal"], world["rgb"], world["target"])
    np.testing.assert_allclose(mapped, eager, rtol=1e-5)
    to_alpha = jax.grad(lambda alpha: compiled(alpha, 0.8).sum())(0.3)
    np.testing.assert_allclose(to_alpha, reference(world)[0].sum(), rtol=1e-4)


def test_low_precision_predictions_are_averaged_in_float32(world):
    low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), world)
    value, parts = total(**low)
    assert value.dtype == parts["forward"].dtype == jnp.float32


@pytest.mark.parametrize("reverse_target", ["teacher", "truth"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_each_injection_is_a_term_of_its_own(world, weights, reverse_target):
    def features(student, teacher):
        return backbone(student["backbone"], world["thermal"]), backbone(teacher["backbone"], world["rgb"])

    def forward(student, teacher):
        _, of_teacher = features(student, teacher)
        head_of_student = (head, student["head"])
        return dikd.forward(of_teacher, head_of_student, world["target"], loss=losses.smooth_l1, weights=weights)

    def reverse(student, teacher):
        options = {"loss": losses.smooth_l1, "weights": weights, "reverse_target": reverse_target}
        return dikd.reverse(*features(student, teacher), (head, teacher["head"]), world["target"], **options)

    networks = world["student"], world["teacher"]
    value, parts = total(**world, weights=weights, alpha=0.7, beta=1.9, reverse_target=reverse_target)
    np.testing.assert_array_equal(parts["forward"], forward(*networks))
    np.testing.assert_array_equal(parts["reverse"], reverse(*networks))
    np.testing.assert_allclose(value, 0.7 * forward(*networks) + 1.9 * reverse(*networks), rtol=1e-6)
    for term, trained in ((forward, "head"), (reverse, "backbone")):
        student, teacher = jax.grad(lambda *n, term=term: term(*n).sum(), argnums=(0, 1))(*networks)
        assert {part for part in student if size(student[part]) > 1e-2} == {trained}
        assert size(teacher) == 0 and min(size(student["head"]), size(student["backbone"])) == 0


def reference_mean(values, weights):
    """`masked_mean`, entry by entry."""
    means = []
    for b in range(len(values)):
        entries = [i for i in np.ndindex(values.shape[1:]) if weights[(b, *i)[: weights.ndim]] > 0]
        of = np.array([weights[(b, *i)[: weights.ndim]] for i in entries], np.float64)
        means.append((np.array([values[(b, *i)] for i in entries]) * of).sum() / of.sum() if entries else 0.0)
    return np.array(means)


MEANS = np.random.default_rng(3).normal(size=(4, 3, 2))


@pytest.mark.parametrize(
    "weights",
    [
        np.array([True, False, True, True]),
        np.array([0.5, 1.0, 0.0, 3.0]),
        WEIGHTS,
        WEIGHTS.astype(bool),
        WEIGHTS * [[0.1, 2.0, 7.0]],
        np.random.default_rng(4).uniform(size=MEANS.shape) * (np.random.default_rng(5).random(MEANS.shape) > 0.4),
    ],
)
def test_the_masked_mean_against_a_loop(weights):
    single = np.float32 if weights.dtype != bool else bool
    found = jax.jit(dikd.masked_mean)(MEANS.astype(np.float32), weights.astype(single))
    assert found.shape == (4,) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, reference_mean(MEANS, weights), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(dikd.masked_mean(MEANS.astype(np.float32)), MEANS.mean((1, 2)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(), (3,), (4, 1), (4, 2), (1, 3), (4, 3, 1), (4, 3, 2, 1), (2, 3)])
def test_the_masked_mean_refuses_weights_of_other_shapes(shape):
    with pytest.raises(ValueError, match=r"do not fit values of shape \(4, 3, 2\)"):
        dikd.masked_mean(MEANS, np.ones(shape))


def test_values_without_weight_affect_neither_mean_nor_gradient():
    values = jnp.where(WEIGHTS[..., None] > 0, jnp.asarray(MEANS, jnp.float32), jnp.nan)
    mean = jax.jit(dikd.masked_mean)
    np.testing.assert_allclose(mean(values, WEIGHTS), reference_mean(MEANS, WEIGHTS), rtol=1e-5)
    to_values, to_weights = jax.grad(lambda v, w: mean(v, w).sum(), argnums=(0, 1))(values, WEIGHTS)
    expected = WEIGHTS / np.maximum(2 * WEIGHTS.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(to_values, np.repeat(expected[..., None], 2, axis=-1), rtol=1e-6)
    assert np.isfinite(to_weights).all()
    assert mean(values, WEIGHTS)[3] == 0 and (to_values[3] == 0).all() and (to_weights[3] == 0).all()


@pytest.mark.parametrize("factor", [1e-37, 1e-30, 1e-6, 1e30])  # the first is near the end of float32
def test_only_the_ratios_of_weights_matter(factor):
    weights = np.array([[1.0, 3.0, 0.5], [0.0, 2.0, 0.0], [1.0, 1.0, 1.0], [5.0, 0.0, 4.0]], np.float32)
    values = MEANS.astype(np.float32)
    tiny = dikd.masked_mean(values, weights * np.float32(factor))
    np.testing.assert_allclose(tiny, reference_mean(MEANS, weights), rtol=1e-5)


def test_the_masked_mean_keeps_float64_and_widens_bfloat16():
    values = np.full((1, 4096), 1.001)
    low = dikd.masked_mean(jnp.asarray(values, jnp.bfloat16), jnp.ones((1, 4096), jnp.bfloat16))
    assert low.dtype == jnp.float32 and float(low[0]) == 1.0
    with jax.enable_x64(True):
        assert dikd.masked_mean(values, np.ones(1, bool)).dtype == jnp.float64


def test_mistakes_are_reported(world):
    with pytest.raises(ValueError, match="'teacher' or 'truth', not 'student'"):
        total(**world, reverse_target="student")
    with pytest.raises(ValueError, match=r"student's head gives \(4, 3, 2\), but the target has shape \(4, 1, 2\)"):
        total(**{**world, "target": world["target"][:, :1]})
    with pytest.raises(ValueError, match=r"weights \(4, 1\) do not match"):
        total(**world, weights=WEIGHTS[:, :1])


def test_feature_distillation(world):
    student, teacher = jnp.arange(24.0).reshape(2, 2, 2, 3), jnp.ones((2, 2, 2, 3))
    value = jax.jit(dikd.feature)(student, teacher)
    wanted = [np.mean((np.arange(12.0) - 1) ** 2), np.mean((np.arange(12.0, 24.0) - 1) ** 2)]
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    to_student, to_teacher = jax.grad(lambda s, t: dikd.feature(s, t).sum(), argnums=(0, 1))(student, teacher)
    np.testing.assert_allclose(to_student, 2 * (student - teacher) / 12, rtol=1e-6)
    np.testing.assert_array_equal(to_teacher, 0.0)
    with pytest.raises(ValueError, match="apply an adapter"):
        dikd.feature(student[..., :1], teacher)


def test_logit_distillation(world):
    student, teacher = world["target"], world["target"] + 2.0
    np.testing.assert_allclose(dikd.logit(student, teacher, loss=losses.l2), np.full(B, 4.0), rtol=1e-5)
    to_student, to_teacher = jax.grad(lambda s, t: dikd.logit(s, t, loss=losses.l1).sum(), argnums=(0, 1))(
        student, teacher
    )
    np.testing.assert_allclose(to_student, np.full(student.shape, -1 / (2 * K)), rtol=1e-6)
    np.testing.assert_array_equal(to_teacher, 0.0)


@pytest.mark.parametrize(
    ("schedule", "start", "middle", "end"),
    [("linear", 1, 0.5, 0), ("cosine", 1, 0.5, 0), ("exponential", 1, np.exp(-2.5), np.exp(-5)), ("none", 1, 1, 1)],
)
def test_decay_at_its_ends(schedule, start, middle, end):
    curve = jax.jit(lambda e: dikd.decay(e, schedule))
    np.testing.assert_allclose(curve(jnp.array([0.0, 0.5, 1.0])), [start, middle, end], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(curve(jnp.array([-0.2, 1.3])), [start, end], rtol=1e-6, atol=1e-7)
    values = np.asarray(curve(jnp.linspace(0, 1, 50)))
    assert (np.diff(values) <= 0).all()
    assert np.asarray(dikd.decay(0, schedule)) == 1  # of an integer, too
    assert np.isfinite(jax.vmap(jax.grad(lambda e: dikd.decay(e, schedule)))(jnp.array([0.0, 0.5, 1.0]))).all()


def test_cosine_differs_from_linear_between():
    np.testing.assert_allclose(dikd.decay(0.25, "cosine"), (1 + np.sqrt(0.5)) / 2, rtol=1e-6)


def test_unknown_schedules_are_refused():
    with pytest.raises(ValueError, match="unknown decay schedule 'step'"):
        dikd.decay(0.5, "step")


def test_the_example_of_the_docstring_runs():
    result = doctest.testmod(dikd)
    assert result.attempted == 10 and result.failed == 0


def test_the_numbers_of_the_docstring_against_numpy():
    f_t, f_r = np.sin(np.arange(64.0)).reshape(2, 4, 8)
    p_t, p_r = np.cos(np.arange(96.0)).reshape(2, 8, 6)
    apart, off = (f_t - f_r) @ p_r, f_r @ p_t - 1
    printed = f"{{'forward': {np.mean(off**2):.2f}, 'reverse': {np.mean(apart**2):.2f}}}"
    to_features, to_head = 0.5 * 2 * apart @ p_r.T / 24, 2 * f_r.T @ off / 24
    norms = [round(float(np.linalg.norm(gradient)), 2) for gradient in (to_features, to_head)]
    assert printed in dikd.dikd.__doc__ and f"{norms}\n" in dikd.dikd.__doc__


# Hides every package that is neither part of Python nor required by jax, as if it were not installed.
JAX_ALONE = """
import sys

ALLOWED = {"mlcm_jax", "jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum", *sys.stdlib_module_names}

class AllowedOnly:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in ALLOWED or top.startswith("_"):  # _sysconfigdata_… is Python's own
            return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [AllowedOnly(finder) for finder in sys.meta_path]

import doctest
import jax.numpy as jnp
from mlcm_jax import dikd

def head(params, features):
    return params * features

shape = (2, 3, 2)
f_t, f_r, y = jnp.full(shape, 1.0), jnp.full(shape, 3.0), jnp.full(shape, 4.0)
absolute = lambda prediction, target: jnp.abs(prediction - target)
loss, parts = dikd.dikd(f_t, f_r, (head, 2.0), (head, 5.0), y, loss=absolute, alpha=0.5, beta=0.25)
print(loss, parts["forward"], parts["reverse"], dikd.feature(f_t, f_r), dikd.decay(0.25))
print(doctest.testmod(dikd))
"""


def test_dikd_works_where_jax_alone_is_installed(tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", "-c", JAX_ALONE]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    # By hand: FI = |2*3 - 4|, RI = |5*1 - 5*3|, both 0.5*2 + 0.25*10, FD = (1 - 3)^2.
    values, example = result.stdout.splitlines()
    assert values == "[3.5 3.5] [2. 2.] [10. 10.] [4. 4.] 0.75"
    assert "failed=0, attempted=10" in example


@pytest.mark.parametrize(
    "module", ["flax", "optax", "orbax.checkpoint", "tensorflow_datasets", "cv2", "mlcm_jax.train"]
)
def test_other_packages_are_hidden_there(module, tmp_path):
    code = JAX_ALONE[: JAX_ALONE.index("import doctest")] + f"import {module}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("ModuleNotFoundError: No module named")
