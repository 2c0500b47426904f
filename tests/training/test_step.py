"""The training step: what counts in the loss, and what is updated; values are compared with numpy where possible."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import (
    BATCH,
    LAYOUT,
    STUDENT,
    K,
    batch,
    changed,
    config_of,
    coordinates,
    distilling,
    make_recipe,
    network,
    predicted,
    start,
    step,
    task,
    value,
)

from mlcm_jax import config as configs
from mlcm_jax import shape_model
from mlcm_jax.models import network as networks
from mlcm_jax.models import size
from mlcm_jax.training import recipe as recipes
from mlcm_jax.training import stages
from mlcm_jax.training import step as steps
from mlcm_jax.training.recipe import Term, constant


def errors(state, data):
    """Returns the mean absolute error of each landmark in per cent of the crop, float32 [B, K], with numpy."""
    return 100 * np.abs(predicted(state.network, data).landmarks - np.asarray(data["landmarks"])).mean(-1)


def test_loss_without_a_teacher_is_the_task_alone_and_matches_numpy():
    data, recipe = batch(), make_recipe(teachers={}, occluded_weight=0.5)
    state = start(recipe)
    _, metrics = step(recipe, state, {}, data)
    weights = np.where(np.asarray(data["visible"]), 1.0, 0.5)
    expected = ((errors(state, data) * weights).sum(-1) / weights.sum(-1)).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert set(metrics) == {"loss", "task", "gradient_norm", "skipped"}


def test_padding_does_not_enter_the_loss():
    data = batch(mask=(True, True, False, False))
    garbage = data | {"landmarks": data["landmarks"].at[2:].set(100.0)}
    recipe = make_recipe()
    one, other = (step(recipe, start(recipe), {}, d)[1]["loss"] for d in (data, garbage))
    assert one == other
    np.testing.assert_allclose(one, errors(start(recipe), data)[:2].mean(), rtol=1e-5)


def test_unlabelled_landmarks_do_not_count():
    data, recipe = batch(), make_recipe()
    known = np.random.default_rng(3).random((BATCH, K)) < 0.6
    known[0] = False  # an example without any label adds nothing
    placed = data | {"known": jnp.asarray(known)}
    far = placed | {"landmarks": jnp.where(placed["known"][..., None], placed["landmarks"], 7.0)}
    state = start(recipe)
    one, other = (value(recipe, state, {}, d)["loss"] for d in (placed, far))
    assert one == other
    each = (errors(state, data) * known).sum(-1) / np.maximum(known.sum(-1), 1)
    assert each[0] == 0.0
    np.testing.assert_allclose(one, each.mean(), rtol=1e-5)


def star_with_edges(seed):
    student = network(seed, head="aam", upsample=2, head_channels=8, layout="tfw5")
    return student, recipes.terms_of_task(config_of("star", drawn=16), LAYOUT, edges=True)


def every_recipe():
    """Returns students and terms that cover every loss term which reads the target."""
    kd = configs.base().kd
    kd.update({"control": "shuffled", "variant": "released"})
    one = {"alpha": 1.0, "beta": 1.0, "reverse_target": "truth"}
    return {
        "mlcm": lambda: (network(1), (*task(), *distilling(**one))),
        "kd": lambda: (network(1), recipes.kd_loss(kd, "teacher", "teacher")),
        "star": lambda: star_with_edges(1),
    }


@pytest.mark.parametrize("name", every_recipe())
def test_no_term_and_no_gradient_depends_on_landmarks_without_weight(name):
    student, terms = every_recipe()[name]()
    recipe = make_recipe(*terms)
    data, state = batch(), start(recipe, student)
    data["known"] = jnp.asarray(np.random.default_rng(3).random((BATCH, K)) < 0.6).at[0].set(False)
    hidden = [data["landmarks"].at[~data["known"]].set(value) for value in (0.3, jnp.nan)]
    taken = [step(recipe, state, {"teacher": network(2)}, data | {"landmarks": points}) for points in hidden]
    for one, other in zip(*map(jax.tree.leaves, taken), strict=True):
        np.testing.assert_array_equal(one, other)
    assert taken[0][1]["gradient_norm"] > 0 and taken[0][1]["skipped"] == 0


def test_confidence_weighs_the_landmarks_of_an_example():
    data, recipe = batch(), make_recipe()
    weight = np.random.default_rng(2).random((BATCH, K)).astype(np.float32)
    state = start(recipe)
    found = value(recipe, state, {}, data | {"weight": jnp.asarray(weight)})
    each = (errors(state, data) * weight).sum(-1) / weight.sum(-1)
    np.testing.assert_allclose(found["loss"], each.mean(), rtol=1e-5)


def test_loss_is_the_weighted_sum_of_the_terms_at_the_training_progress():
    terms = (
        *task(),
        Term("half", constant(0.5), lambda view: jnp.arange(4.0)),
        Term("growing", lambda progress: 3.0 * progress, lambda view: jnp.full(4, 2.0), task=True),
    )
    recipe = make_recipe(*terms)
    metrics = value(recipe, start(recipe).replace(step=jnp.int32(4)), {}, batch())
    alone = value(make_recipe(), start(recipe), {}, batch())["task"]
    assert (metrics["half"], metrics["growing"]) == (1.5, 2.0)  # metrics are without their weights
    np.testing.assert_allclose(metrics["task"], alone + 3.0 * 0.4 * 2.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], metrics["task"] + 0.5 * 1.5, rtol=1e-6)


def test_sgd_descends_the_gradient():
    recipe = make_recipe(*task("smooth_l1"), tx=optax.sgd(0.05))
    state, data, values = start(recipe), batch(), []
    for _ in range(5):
        state, metrics = step(recipe, state, {}, data)
        values.append(float(metrics["loss"]))
    assert int(state.step) == 5 and int(state.skipped) == 0
    assert values == sorted(values, reverse=True) and values[-1] < 0.95 * values[0]


def test_student_moves_and_teacher_is_only_read():
    recipe = make_recipe(*task(), *distilling(alpha=1.0, beta=1.0, gamma=0.1, delta=0.1))
    state, teacher, data = start(recipe), network(2), batch()
    before = jax.tree.map(np.asarray, teacher)
    after, metrics = step(recipe, state, {"teacher": teacher}, data)
    assert changed(state.network.params["backbone"], after.network.params["backbone"])
    assert changed(state.network.params["head"], after.network.params["head"])
    assert {"task", "forward", "reverse", "feature", "logit", "loss"} <= set(metrics)
    jax.tree.map(np.testing.assert_array_equal, before, teacher)


def test_average_follows_its_formula():
    recipe = make_recipe(ema=0.9)
    for count, decay in ((1000, 0.9), (2, 3 / 12)):
        state = start(recipe).replace(step=jnp.int32(count))
        after, _ = step(recipe, state, {}, batch())
        expected = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * b, state.ema.params, after.network.params)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
        jax.tree.map(close, after.ema.params, expected)


def test_same_key_gives_the_same_step_and_another_one_does_not():
    drawn = Term("drawn", constant(1.0), lambda view: jax.random.normal(view.key, (4,)))
    recipe = make_recipe(*task(), drawn)
    one, again, other = (step(recipe, start(recipe), {}, batch(), seed)[1]["drawn"] for seed in (0, 0, 1))
    assert one == again != other
    later = step(recipe, start(recipe).replace(step=jnp.int32(1)), {}, batch(), 0)[1]["drawn"]
    assert later != one  # the step number is folded into the key


def test_bf16_keeps_float32_parameters_and_finite_losses():
    recipe = make_recipe()
    after, metrics = step(recipe, start(recipe, network(1, dtype=jnp.bfloat16)), {}, batch())
    assert {leaf.dtype for leaf in jax.tree.leaves(after.network.params)} == {jnp.dtype("float32")}
    assert np.isfinite(metrics["loss"])


def _sides(shape):
    """The sides of an array in increasing order, and without those of 1: a product has kernels [C, C'] for 1×1."""
    return tuple(sorted(side for side in shape if side != 1))


def _products(program):
    """Yields, for every convolution and matrix product, the types of its operands and the sides of its arrays."""
    for equation in program.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            arrays = [variable.aval for variable in (*equation.invars, *equation.outvars)]
            yield tuple(array.dtype.name for array in arrays[:2]), {_sides(array.shape) for array in arrays}
        for inner in size._inner(tuple(equation.params.values())):
            yield from _products(inner)


def _kernels(part):
    """How many kernels there are with the same sides."""
    leaves = jax.tree_util.tree_leaves_with_path(part)
    return collections.Counter(_sides(leaf.shape) for path, leaf in leaves if path[-1].key == "kernel")


@pytest.mark.parametrize("bf16", [False, True])
def test_a_step_of_transfer_runs_the_teacher_once_and_gives_it_no_gradient(bf16):
    """Counts the products in the program of the step, which the sides of their kernels tell apart.

    A kernel that is trained has three: the second makes its own gradient, the third that of its input.
    """
    config = config_of()
    config.train.bf16 = bf16
    for name, width, head_channels in (("student", 0.125, 6), ("teacher", 0.375, 10)):
        config[name].update(STUDENT | {"width": width, "head_channels": head_channels, "upsample": 2})
    shape = np.full((K, 2), 0.5, np.float32)
    student, teacher = (stages.network_shapes(name, config, mean_shape=shape) for name in ("transfer", "teacher"))
    recipe = stages.recipe("transfer", config)
    assert [term.name for term in recipe.terms] == ["task", "forward", "reverse"]
    state = jax.eval_shape(functools.partial(start, recipe), student, teacher)
    program = jax.make_jaxpr(functools.partial(steps.train_step, recipe=recipe))
    products = list(_products(program(state, {"teacher": teacher}, batch(), jax.random.key(0)).jaxpr))
    found = collections.Counter(sides for _, arrays in products for sides in arrays)

    def products_per_kernel(part):
        return {sides: found[sides] / number for sides, number in _kernels(part).items()}

    assert set(products_per_kernel(teacher.params["backbone"]).values()) == {1}
    # The teacher's head reads the teacher's features and the student's, and passes a gradient on to the latter.
    assert set(products_per_kernel(teacher.params["head"]).values()) == {3}
    of_student = products_per_kernel(student.params["backbone"])
    assert of_student.pop((3, 3, 3, 8)) == 2  # an image needs no gradient
    assert set(of_student.values()) == {3}
    assert set(products_per_kernel(student.params["head"]).values()) == {2 * 3}  # it reads the features of both
    expected = ("bfloat16" if bf16 else "float32",) * 2
    for params in (teacher.params, student.params):
        kernels = _kernels(params["backbone"]).keys()
        assert {types for types, arrays in products if arrays & kernels} == {expected}


def test_soft_landmarks_are_the_projection_of_the_batch():
    shapes = np.random.default_rng(1).normal(0.5, 0.1, (40, K, 2))
    model = shape_model.fit(shapes, variance=0.6)
    data = batch()
    soft = data | {"landmarks": jnp.asarray(shape_model.project(model, np.asarray(data["landmarks"])))}
    projecting, plain = make_recipe(soft=model), make_recipe()
    state = start(plain)
    pairs = (projecting, data), (plain, soft), (plain, data)
    found, expected, unprojected = (float(value(recipe, state, {}, d)["loss"]) for recipe, d in pairs)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(found - unprojected) > 1e-1
    # One unlabelled landmark would distort the projection of all, so such a face keeps its landmarks.
    known = jnp.ones((BATCH, K), bool).at[:, 0].set(False)
    found, expected = (float(value(r, state, {}, data | {"known": known})["loss"]) for r in (projecting, plain))
    assert found == expected


@pytest.mark.parametrize("pieces", [2, 4])
def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(pieces):
    """The term is without batch normalisation, which treats each micro-batch separately; one of them is padded.

    Its features are the same everywhere, so the head must predict coordinates: maps would have no gradient.
    """

    def head_alone(view):
        features = jnp.broadcast_to(view.target.mean((1, 2))[:, None, None, None], view.features.shape)
        return jnp.square(networks.run_head(view.network, features)[0].landmarks - view.target).mean((1, 2))

    data, found = batch(mask=(True, True, True, False)), []
    for accumulate in (1, pieces):
        recipe = make_recipe(Term("task", constant(1.0), head_alone), accumulate=accumulate, tx=optax.sgd(0.05))
        found.append(step(recipe, start(recipe, coordinates(1)), {}, data))
    (whole, of_whole), (pieced, of_pieced) = found
    assert of_whole["gradient_norm"] > 0.01
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)
    close(of_pieced["loss"], of_whole["loss"])
    close(of_pieced["gradient_norm"], of_whole["gradient_norm"])
    jax.tree.map(close, pieced.network.params["head"], whole.network.params["head"])
    assert changed(coordinates(1).params["head"], whole.network.params["head"])
