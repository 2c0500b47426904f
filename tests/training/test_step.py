"""The training step: which terms there are, where gradients go, what is updated, against numpy where it can be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlcm_jax import dikd, losses, shape_model
from mlcm_jax.errors import InputError
from mlcm_jax.training import state as states
from mlcm_jax.training import step as steps

K, SIZE, BATCH = 5, 16, 4
STUDENT = {"name": "resnet18", "width": 0.125, "depths": (1, 1), "stem": "small", "head": "heatmap", "upsample": 1}
NARROW = STUDENT | {"width": 0.25}


@functools.cache
def network(seed, wide=False, **options):
    model = (NARROW if wide else STUDENT) | options
    return states.create_network(model, num_landmarks=K, key=jax.random.key(seed))


def batch(seed=0, mask=(True,) * BATCH):
    rng = np.random.default_rng(seed)
    return {
        "rgb": jnp.asarray(rng.random((BATCH, SIZE, SIZE, 3)), jnp.float32),
        "thermal": jnp.asarray(rng.random((BATCH, SIZE, SIZE, 1)), jnp.float32),
        "landmarks": jnp.asarray(rng.random((BATCH, K, 2)), jnp.float32),
        "visible": jnp.asarray(rng.random((BATCH, K)) < 0.7),
        "mask": jnp.asarray(mask),
    }


def make_recipe(**options):
    defaults = {
        "modality": "thermal",
        "loss": losses.l1,
        "tx": optax.sgd(0.1),
        "total_steps": 10,
        "teacher_modality": "rgb",
    }
    return steps.Recipe(**defaults | options)


def start(recipe, wide_teacher=False):
    student = network(1)
    adapter = {}
    if wide_teacher:
        adapter = states.init_adapter(states.channels(student), states.channels(network(2, True)), jax.random.key(9))
    return states.create(student, adapter, recipe.tx)


def step(recipe, state, teacher, data, seed=0):
    return jax.jit(functools.partial(steps.train_step, recipe=recipe))(state, teacher, data, jax.random.key(seed))


@functools.partial(jax.jit, static_argnames="recipe")
def _parts(state, teacher, data, key, recipe):
    return steps._loss(states.trainable(state.network, state.adapter), state, teacher, data, key, recipe)[1][0]


def value(recipe, state, teacher, data, seed=0):
    """Loss and parts of a step, without the step: compiles in a fraction of the time."""
    return _parts(state, teacher, data, jax.random.key(seed), recipe)


def changed(before, after):
    return any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before, after)))


def test_without_a_teacher_the_loss_is_the_task_alone_and_matches_numpy():
    data, recipe = batch(), make_recipe(occluded_weight=0.5)
    state = start(recipe)
    _, scalars = step(recipe, state, None, data)
    features, _ = states.run_backbone(state.network, data["thermal"], train=True)
    prediction, _ = states.run_head(state.network, features, train=True)
    error = np.abs(np.asarray(prediction.landmarks) - np.asarray(data["landmarks"])).mean(-1)
    weights = np.where(np.asarray(data["visible"]), 1.0, 0.5)
    expected = ((error * weights).sum(-1) / weights.sum(-1)).mean()
    np.testing.assert_allclose(scalars["loss"], expected, rtol=1e-5)
    assert set(scalars) == {"loss", "task", "gradient_norm", "skipped"}


def test_padding_does_not_enter_the_loss():
    data = batch(mask=(True, True, False, False))
    garbage = data | {"landmarks": data["landmarks"].at[2:].set(100.0)}
    recipe = make_recipe()
    losses_ = [step(recipe, start(recipe), None, d)[1]["loss"] for d in (data, garbage)]
    assert losses_[0] == losses_[1]


def test_sgd_moves_the_student_and_the_teacher_stays():
    recipe = make_recipe(distillation=steps.Distillation(alpha=1.0, beta=1.0, gamma=0.1, delta=0.1))
    state, teacher, data = start(recipe), network(2), batch()
    after, scalars = step(recipe, state, teacher, data)
    assert changed(state.network.params["backbone"], after.network.params["backbone"])
    assert changed(state.network.params["head"], after.network.params["head"])
    assert int(after.step) == 1
    assert {"task", "forward", "reverse", "feature", "logit", "loss"} <= set(scalars)


def test_the_parts_add_up_with_their_weights_and_the_decay():
    options = steps.Distillation(alpha=0.5, beta=2.0, gamma=3.0, delta=0.25, decay="cosine")
    recipe = make_recipe(distillation=options)
    state = start(recipe).replace(step=jnp.int32(4))
    _, s = step(recipe, state, network(2), batch())
    total = 0.5 * s["forward"] + 2.0 * s["reverse"] + 3.0 * s["feature"] + 0.25 * s["logit"]
    np.testing.assert_allclose(s["loss"], s["task"] + (1 + np.cos(np.pi * 0.4)) / 2 * total, rtol=1e-5)


def gradients(recipe, teacher, data, task_weight=0.0):
    """Of the distillation alone: the task is removed by subtracting its gradient."""
    state = start(recipe)
    params = states.trainable(state.network, state.adapter)
    grad = jax.grad(steps._loss, has_aux=True)
    key = jax.random.key(0)
    full, _ = grad(params, state, teacher, data, key, recipe)
    task, _ = grad(params, state, None, data, key, recipe)
    return jax.tree.map(lambda a, b: a - b, full, task)["network"]


def norm(tree):
    return float(optax.tree.norm(tree))


def test_forward_injection_alone_trains_the_head_only():
    recipe = make_recipe(distillation=steps.Distillation(alpha=1.0, decay="none"))
    found = gradients(recipe, network(2), batch())
    assert norm(found["backbone"]) < 1e-6 < 1e-4 < norm(found["head"])


def test_reverse_injection_alone_trains_the_backbone_only():
    recipe = make_recipe(distillation=steps.Distillation(beta=1.0, decay="none"))
    found = gradients(recipe, network(2), batch())
    assert norm(found["head"]) < 1e-6 < 1e-5 < norm(found["backbone"])


def test_the_teacher_receives_no_gradient():
    """Neither its parameters nor the running statistics of its batch norm, in the head as well."""
    recipe = make_recipe(distillation=steps.Distillation(1.0, 1.0, 1.0, 1.0, "none"))
    options = {"upsample": 2, "head_channels": 8}  # a head with batch norm
    student, teacher = network(1, **options), network(2, **options)
    state = states.create(student, {}, recipe.tx)
    assert jax.tree.leaves(teacher.stats["head"])

    def loss(params, stats):
        changed = teacher.replace(params=params, stats=stats)
        own = states.trainable(state.network, state.adapter)
        return steps._loss(own, state, changed, batch(), jax.random.key(0), recipe)[0]

    assert norm(jax.grad(loss, argnums=(0, 1))(teacher.params, teacher.stats)) == 0.0


def test_forward_injection_leaves_the_batch_statistics_alone():
    options = STUDENT | {"upsample": 2, "head_channels": 8}  # a head with batch norm
    student = states.create_network(options, num_landmarks=K, key=jax.random.key(1))
    teacher = states.create_network(options, num_landmarks=K, key=jax.random.key(2))
    data = batch()
    plain, injected = make_recipe(), make_recipe(distillation=steps.Distillation(alpha=1.0, beta=1.0))
    without, _ = step(plain, states.create(student, {}, plain.tx), None, data)
    with_injection, _ = step(injected, states.create(student, {}, injected.tx), teacher, data)
    assert jax.tree.leaves(without.network.stats["head"])
    jax.tree.map(np.testing.assert_array_equal, without.network.stats, with_injection.network.stats)
    assert changed(student.stats, without.network.stats)


def test_adapters_bridge_other_widths_and_are_trained():
    recipe = make_recipe(distillation=steps.Distillation(1.0, 1.0, 1.0, 1.0))
    state = start(recipe, wide_teacher=True)
    after, _ = step(recipe, state, network(2, True), batch())
    assert set(state.adapter) == {"to_teacher", "to_student"}
    assert all(changed(state.adapter[name], after.adapter[name]) for name in state.adapter)


def test_features_of_another_grid_are_refused_in_one_sentence():
    recipe = make_recipe(distillation=steps.Distillation(beta=1.0))
    teacher = network(2, depths=(1, 1, 1), width=0.0625)
    with pytest.raises(InputError, match="stride"):
        states_ = start(recipe)
        adapter = states.init_adapter(states.channels(states_.network), states.channels(teacher), jax.random.key(0))
        step(recipe, states_.replace(adapter=adapter), teacher, batch())


def test_the_average_follows_its_formula():
    recipe = make_recipe(ema=0.9)
    state = start(recipe)
    state = state.replace(step=jnp.int32(1000))
    after, _ = step(recipe, state, None, batch())
    expected = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, state.ema.params, after.network.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), after.ema.params, expected)


def test_the_same_key_gives_the_same_step_and_decay_ends_at_nothing():
    recipe = make_recipe(distillation=steps.Distillation(alpha=1.0, beta=1.0))
    one, _ = step(recipe, start(recipe), network(2), batch())
    two, _ = step(recipe, start(recipe), network(2), batch())
    jax.tree.map(np.testing.assert_array_equal, one.network.params, two.network.params)
    assert float(dikd.decay(1.0, "linear")) == 0.0


def test_a_step_lowers_the_loss_it_descends():
    recipe = make_recipe(tx=optax.sgd(0.05))
    state, data, values = start(recipe), batch(), []
    for _ in range(5):
        state, scalars = step(recipe, state, None, data)
        values.append(float(scalars["loss"]))
    assert values[-1] < values[0]


def test_average_is_the_mean_over_steps():
    found = steps.average(
        [{"loss": np.float32(1.0), "task": np.float32(4.0)}, {"loss": np.float32(3.0), "task": np.float32(0.0)}]
    )
    assert found == {"loss": 2.0, "task": 2.0}


def test_bf16_keeps_float32_parameters_and_finite_losses():
    options = STUDENT | {"dtype": jnp.bfloat16}
    student = states.create_network(options, num_landmarks=K, key=jax.random.key(1))
    recipe = make_recipe()
    after, scalars = step(recipe, states.create(student, {}, recipe.tx), None, batch())
    assert {leaf.dtype for leaf in jax.tree.leaves(after.network.params)} == {jnp.dtype("float32")}
    assert np.isfinite(scalars["loss"])


def heads(seed, teacher=False):
    """An AAM network: 16x16 images, 4x4 features, 8x8 maps; the teacher's decoder is another one."""
    options = {"head": "aam", "upsample": 2, "head_channels": 8, "decoder": "transposed" if teacher else "nearest"}
    return network(seed, **options)


@functools.cache
def coordinates(seed):
    model = {key: value for key, value in STUDENT.items() if key != "upsample"} | {"head": "coordinates"}
    return states.create_network(model, num_landmarks=K, key=jax.random.key(seed))


def star_loss(prediction, target, weights):
    maps = prediction.heatmaps, prediction.points, prediction.edges
    return losses.star_system(*maps, target, weights=weights, drawn=16)


def with_map_loss(**options):
    return make_recipe(map_loss=star_loss, **options)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_kd_loss_is_that_of_losses_in_per_cent(variant):
    data, recipe = batch(), make_recipe(two_teachers=steps.TwoTeachers(variant=variant), occluded_weight=0.5)
    teachers, state = (network(2), network(3)), start(recipe)
    scalars = value(recipe, state, teachers, data)
    features, _ = states.run_backbone(state.network, data["thermal"], train=True)
    prediction, _ = states.run_head(state.network, features, train=True)
    e, tough, tolerant = (
        np.abs(np.asarray(answer, np.float64) - np.asarray(data["landmarks"], np.float64))
        for answer in (prediction.landmarks, *(states.predict(teacher, data["rgb"]) for teacher in teachers))
    )

    def assistive(t, alpha, inner):  # arXiv 2111.07047, by hand
        beta, near = (0.4, inner * e / (0.4 * t)) if variant == "paper" else (0.15, 0.0 * e)
        return np.where(e >= t, alpha, np.where(e >= beta * t, inner, near)) * np.abs(t - e)

    if variant == "paper":
        main = np.where(e <= 0.5, e, e**2 + 0.25)
        each = 2.5 * main + assistive(tough, 0.9, -0.45) + assistive(tolerant, 0.9, -0.45)
    else:
        main = np.where(e <= tolerant, 3 * e, e**2 + 3 * tolerant - tolerant**2)
        each = 2.5 * main + assistive(tough, 1.9, -0.45) + assistive(tolerant, 1.8, -0.40)
    weights = np.where(np.asarray(data["visible"]), 1.0, 0.5)
    expected = 100 * ((each.mean(-1) * weights).sum(-1) / weights.sum(-1)).mean()
    np.testing.assert_allclose(scalars["loss"], expected, rtol=1e-4)
    assert set(scalars) == {"loss", "task"}


def test_neither_teacher_of_kd_loss_receives_a_gradient():
    recipe = make_recipe(two_teachers=steps.TwoTeachers())
    state, teachers = start(recipe), (network(2), network(3))

    def loss(params):
        pair = [teacher.replace(params=p) for teacher, p in zip(teachers, params, strict=True)]
        mine = states.trainable(state.network, state.adapter)
        return steps._loss(mine, state, pair, batch(), jax.random.key(0), recipe)[0]

    assert norm(jax.grad(loss)([teacher.params for teacher in teachers])) == 0.0


@functools.cache
def kd_recipe(**options):
    return make_recipe(two_teachers=steps.TwoTeachers(**options))


def kd_value(data=None, teachers=(2, 3), seed=0, **options):
    recipe, data = kd_recipe(**options), batch() if data is None else data
    return float(value(recipe, start(recipe), tuple(map(network, teachers)), data, seed)["loss"])


def test_a_teacher_that_is_left_out_changes_nothing_and_the_other_does():
    tough_only = kd_value(tolerant=False)
    assert tough_only == kd_value(tolerant=False, teachers=(2, 4))
    assert tough_only != kd_value(tolerant=False, teachers=(4, 3))
    # The terms are a sum: main + tough + tolerant.
    main = kd_value(tough=False, tolerant=False)
    both = tough_only + kd_value(tough=False) - main
    np.testing.assert_allclose(kd_value(), both, rtol=1e-5)


def test_controls_keep_the_size_of_the_errors_and_lose_their_place():
    own, constant = kd_value(), kd_value(control="constant")
    shuffled = {kd_value(control="shuffled", seed=seed) for seed in range(4)}
    assert len(shuffled) > 1 and own not in shuffled and constant != own
    # Images that are all the same have nothing to shuffle.
    data = batch()
    same = data | {key: jnp.broadcast_to(data[key][:1], data[key].shape) for key in ("rgb", "thermal", "landmarks")}
    np.testing.assert_allclose(kd_value(same, control="shuffled"), kd_value(same), rtol=1e-5)


def test_star_step_has_finite_gradients_and_is_the_sum_of_its_parts():
    recipe = with_map_loss()
    state = states.create(heads(1), {}, recipe.tx)
    after, s = step(recipe, state, None, batch())
    assert np.isfinite(s["gradient_norm"]) and s["gradient_norm"] > 0
    np.testing.assert_allclose(s["loss"], s["star"] + 10 * s["points"], rtol=1e-5)  # no layout, so no edges
    assert changed(state.network.params["backbone"], after.network.params["backbone"])
    assert {"task", "star", "points"} <= set(s)


def test_the_maps_are_distilled_with_their_weight():
    data, teacher = batch(), heads(2, teacher=True)
    recipe = with_map_loss(distillation=steps.Distillation(maps=100.0, decay="linear"))
    state = states.create(heads(1), {}, recipe.tx).replace(step=jnp.int32(5))
    s = value(recipe, state, teacher, data)
    features, _ = states.run_backbone(state.network, data["thermal"], train=True)
    mine = np.asarray(states.run_head(state.network, features, train=True)[0].heatmaps)
    features, _ = states.run_backbone(teacher, data["rgb"])
    theirs = np.asarray(states.run_head(teacher, features)[0].heatmaps)
    np.testing.assert_allclose(s["maps"], np.square(mine - theirs).mean(), rtol=1e-4)
    np.testing.assert_allclose(s["loss"], s["task"] + 0.5 * 100.0 * s["maps"], rtol=1e-5)


def test_maps_of_two_sizes_and_no_maps_are_refused_in_one_sentence():
    recipe = with_map_loss(distillation=steps.Distillation(maps=1.0))
    state = states.create(heads(1), {}, recipe.tx)
    larger = network(2, head="aam", upsample=4, head_channels=8)
    with pytest.raises(InputError, match=r"one size.*8, 8.*16, 16"):
        value(recipe, state, larger, batch())
    with pytest.raises(InputError, match="heads with heatmaps"):
        value(recipe, state, coordinates(3), batch())


def test_soft_landmarks_are_the_projection_of_the_batch():
    shapes = np.random.default_rng(1).normal(0.5, 0.1, (40, K, 2))
    model = shape_model.fit(shapes, variance=0.6)
    data = batch()
    soft = data | {"landmarks": jnp.asarray(shape_model.project(model, np.asarray(data["landmarks"])))}
    projecting, plain = make_recipe(soft=model), make_recipe()
    state = start(plain)
    found, expected, unprojected = (
        float(value(recipe, state, None, d)["loss"]) for recipe, d in ((projecting, data), (plain, soft), (plain, data))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(found - unprojected) > 1e-3


def test_confidence_weighs_the_landmarks_of_a_image():
    data, recipe = batch(), make_recipe()
    weight = np.random.default_rng(2).random((BATCH, K)).astype(np.float32)
    weight[0] = 0.0  # an image of which nothing is known adds nothing
    state = start(recipe)
    found = value(recipe, state, None, data | {"weight": jnp.asarray(weight)})
    features, _ = states.run_backbone(state.network, data["thermal"], train=True)
    prediction, _ = states.run_head(state.network, features, train=True)
    error = np.abs(np.asarray(prediction.landmarks) - np.asarray(data["landmarks"])).mean(-1)
    each = (error * weight).sum(-1) / np.maximum(weight.sum(-1), 1e-6)
    np.testing.assert_allclose(found["loss"], each.mean(), rtol=1e-5)
    assert each[0] == 0.0
    ones = value(recipe, state, None, data | {"weight": jnp.ones((BATCH, K))})["loss"]
    np.testing.assert_allclose(ones, value(recipe, state, None, data)["loss"], rtol=1e-6)


def test_a_head_of_another_network_is_taken_where_it_fits():
    light, large = heads(1), heads(2, teacher=True)
    found = states.with_head_of(light, large)
    for name in ("heat", "points", "reduce"):  # of one shape here; the teacher's decoder has no place in the light head
        jax.tree.map(np.testing.assert_array_equal, found.params["head"][name], large.params["head"][name])
    jax.tree.map(np.testing.assert_array_equal, light.params["backbone"], found.params["backbone"])
    wider = network(4, head="aam", upsample=2, head_channels=8, decoder="nearest", width=0.25)
    partly = states.with_head_of(wider, large).params["head"]
    jax.tree.map(np.testing.assert_array_equal, partly["reduce"], wider.params["head"]["reduce"])  # of another shape
    jax.tree.map(np.testing.assert_array_equal, partly["heat"], large.params["head"]["heat"])
    with pytest.raises(InputError, match="no parameter of the teacher's head"):
        states.with_head_of(light, coordinates(3))
