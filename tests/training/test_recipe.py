"""Loss terms: values against numpy, what receives gradients, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import (
    NORMALISED_HEAD,
    K,
    batch,
    changed,
    config_of,
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
from mlcm_jax.errors import InputError
from mlcm_jax.models import network as networks
from mlcm_jax.training import recipe as recipes
from mlcm_jax.training import state as states
from mlcm_jax.training import step as steps

ALL = {"alpha": 1.0, "beta": 1.0, "gamma": 1.0, "delta": 1.0}


def norm(tree):
    return float(optax.tree.norm(tree))


def gradients(terms, teachers, data):
    """Returns the gradients of the student's parameters, by part."""
    recipe = make_recipe(*terms)
    state = start(recipe)
    loss = functools.partial(steps._loss, state=state, teachers=teachers, batch=data, recipe=recipe)
    grad = jax.grad(lambda params: loss(params, key=jax.random.key(0))[0])
    return grad(states.trainable(state.network, state.adapter))["network"]


@pytest.mark.parametrize("name", ["l1", "l2", "smooth_l1", "wing"])
def test_errors_of_landmarks_count_in_per_cent_of_the_crop(name):
    prediction, target = np.random.default_rng(0).random((2, 3, K, 2), np.float32)
    e = 100.0 * np.abs(prediction - target)
    options = {"wing": {"w": 5.0, "epsilon": 0.5}, "smooth_l1": {"beta": 2.0}}.get(name, {})
    expected = {
        "l1": e,
        "l2": e**2,
        "smooth_l1": np.where(e < 2.0, 0.25 * e**2, e - 1.0),
        "wing": np.where(e < 5.0, 5.0 * np.log1p(e / 0.5), e - 5.0 + 5.0 * np.log1p(10.0)),
    }[name]
    found = recipes.point_loss(config_of(name, **options))(jnp.asarray(prediction), jnp.asarray(target))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("decay, share", [("none", 1.0), ("linear", 0.6), ("cosine", (1 + np.cos(np.pi * 0.4)) / 2)])
def test_distillation_is_the_weighted_sum_of_its_terms_and_decays(decay, share):
    recipe = make_recipe(*task(), *distilling(alpha=0.5, beta=2.0, gamma=3.0, delta=0.25, decay=decay))
    state = start(recipe).replace(step=jnp.int32(4))
    s = value(recipe, state, {"teacher": network(2)}, batch())
    total = 0.5 * s["forward"] + 2.0 * s["reverse"] + 3.0 * s["feature"] + 0.25 * s["logit"]
    np.testing.assert_allclose(s["loss"], s["task"] + share * total, rtol=1e-5)


def test_terms_without_weight_are_left_out():
    assert [term.name for term in distilling(beta=2.0, maps=1.0)] == ["reverse", "maps"]
    assert distilling() == ()


@pytest.mark.parametrize("reverse_target", ["teacher", "truth"])
def test_injections_match_the_networks_run_by_hand(reverse_target):
    data, student, teacher = batch(), network(1), network(2)
    recipe = make_recipe(*distilling(alpha=1.0, beta=1.0, reverse_target=reverse_target))
    found = value(recipe, start(recipe), {"teacher": teacher}, data)
    ours, _ = networks.run_backbone(student, data["thermal"], train=True)
    theirs, _ = networks.run_backbone(teacher, data["rgb"])
    injected = networks.run_head(student, theirs, train=True)[0].landmarks
    returned = networks.run_head(teacher, ours)[0].landmarks
    target = data["landmarks"] if reverse_target == "truth" else networks.predict(teacher, data["rgb"])
    np.testing.assert_allclose(found["forward"], 100 * jnp.abs(injected - data["landmarks"]).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["reverse"], 100 * jnp.abs(returned - target).mean(), rtol=1e-5)


def test_forward_injection_trains_the_head_alone_and_reverse_the_backbone_alone():
    teachers = {"teacher": network(2)}
    forward = gradients(distilling(alpha=1.0), teachers, batch())
    assert norm(forward["backbone"]) == 0.0 < 1e-3 < norm(forward["head"])
    reverse = gradients(distilling(beta=1.0), teachers, batch())
    assert norm(reverse["head"]) == 0.0 < 1e-3 < norm(reverse["backbone"])


def test_teachers_receive_no_gradient():
    """Neither their parameters nor the running statistics of their batch norms do; heads have batch norms too."""
    recipe = make_recipe(*distilling(**ALL))
    student, teacher = network(1, **NORMALISED_HEAD), network(2, **NORMALISED_HEAD)
    state = start(recipe, student)
    assert jax.tree.leaves(teacher.stats["head"])

    def loss(params, stats):
        teachers = {"teacher": teacher.replace(params=params, stats=stats)}
        own = states.trainable(state.network, state.adapter)
        return steps._loss(own, state, teachers, batch(), jax.random.key(0), recipe)[0]

    assert norm(jax.grad(loss, argnums=(0, 1))(teacher.params, teacher.stats)) == 0.0


def test_forward_injection_leaves_the_batch_statistics_alone():
    student, teacher, data = network(1, **NORMALISED_HEAD), network(2, **NORMALISED_HEAD), batch()
    plain, injected = make_recipe(), make_recipe(*task(), *distilling(alpha=1.0, beta=1.0))
    without, _ = step(plain, start(plain, student), {}, data)
    with_injection, _ = step(injected, start(injected, student), {"teacher": teacher}, data)
    assert jax.tree.leaves(without.network.stats["head"])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)  # the last bits of two programs differ
    jax.tree.map(close, without.network.stats, with_injection.network.stats)
    assert changed(student.stats, without.network.stats)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_convert_between_widths_and_are_trained(dtype):
    recipe, teacher = make_recipe(*distilling(**ALL)), network(2, width=0.25, dtype=dtype)
    assert recipe.needs_features and not make_recipe(*task(), *distilling(delta=1.0, maps=1.0)).needs_features
    state = start(recipe, network(1, dtype=dtype), teacher=teacher)
    after, metrics = step(recipe, state, {"teacher": teacher}, batch())
    assert np.isfinite(metrics["loss"]) and metrics["skipped"] == 0
    assert set(state.adapter) == {"to_teacher", "to_student"}
    assert all(changed(state.adapter[name], after.adapter[name]) for name in state.adapter)


@pytest.mark.parametrize("weights", [{"alpha": 1.0}, {"beta": 1.0}, {"gamma": 1.0}])
def test_features_of_another_grid_are_refused_in_one_sentence(weights):
    recipe, teacher = make_recipe(*distilling(**weights)), network(2, depths=(1, 1, 1), width=0.0625)
    with pytest.raises(InputError, match="stride"):
        value(recipe, start(recipe, teacher=teacher), {"teacher": teacher}, batch())


def kd_terms(control="", **options):
    config = configs.base().kd
    config.update({"control": control} | options)
    return recipes.kd_loss(config, "tough", "tolerant")


@functools.cache
def kd_recipe(**options):
    return make_recipe(*kd_terms(**options), teachers={"tough": "rgb", "tolerant": "rgb"}, occluded_weight=0.5)


def kd_value(data=None, seeds=(2, 3), seed=0, **options):
    recipe, teachers = kd_recipe(**options), dict(zip(("tough", "tolerant"), map(network, seeds), strict=True))
    return value(recipe, start(recipe), teachers, batch() if data is None else data, seed)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_kd_loss_matches_the_paper_by_hand_in_per_cent(variant):
    data = batch()
    metrics = kd_value(data, variant=variant)
    e, tough, tolerant = (
        np.abs(np.asarray(prediction, np.float64) - np.asarray(data["landmarks"], np.float64))
        for prediction in (
            predicted(network(1), data).landmarks,
            *(networks.predict(network(seed), data["rgb"]) for seed in (2, 3)),
        )
    )

    def assistive(t, alpha, inner):  # arXiv 2111.07047
        beta, near = (0.4, inner * e / (0.4 * t)) if variant == "paper" else (0.15, 0.0 * e)
        return np.where(e >= t, alpha, np.where(e >= beta * t, inner, near)) * np.abs(t - e)

    if variant == "paper":
        main = np.where(e <= 0.5, e, e**2 + 0.25)
        parts = {"main": main, "tough": assistive(tough, 0.9, -0.45), "tolerant": assistive(tolerant, 0.9, -0.45)}
    else:
        main = np.where(e <= tolerant, 3 * e, e**2 + 3 * tolerant - tolerant**2)
        parts = {"main": main, "tough": assistive(tough, 1.9, -0.45), "tolerant": assistive(tolerant, 1.8, -0.40)}
    weights = np.where(np.asarray(data["visible"]), 1.0, 0.5)
    means = {name: 100 * ((x.mean(-1) * weights).sum(-1) / weights.sum(-1)).mean() for name, x in parts.items()}
    for name, mean in means.items():
        np.testing.assert_allclose(metrics[name], mean, rtol=1e-4)
    np.testing.assert_allclose(metrics["task"], 2.5 * means["main"], rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], 1.5 * means["main"] + sum(means.values()), rtol=1e-4)


def test_neither_teacher_of_kd_loss_receives_a_gradient():
    recipe = kd_recipe()
    state, teachers = start(recipe), {"tough": network(2), "tolerant": network(3)}

    def loss(params):
        pair = {name: teacher.replace(params=params[name]) for name, teacher in teachers.items()}
        own = states.trainable(state.network, state.adapter)
        return steps._loss(own, state, pair, batch(), jax.random.key(0), recipe)[0]

    assert norm(jax.grad(loss)({name: teacher.params for name, teacher in teachers.items()})) == 0.0


def test_leaving_out_a_teacher_of_kd_loss_leaves_the_other_terms():
    both, tough_only = kd_value(), kd_value(tolerant=False)
    assert set(tough_only) == {"main", "tough", "task", "loss"}
    assert tough_only["loss"] == kd_value(seeds=(2, 4), tolerant=False)["loss"]
    assert tough_only["loss"] != kd_value(seeds=(4, 3), tolerant=False)["loss"]
    np.testing.assert_allclose(both["loss"], tough_only["loss"] + both["tolerant"], rtol=1e-5)


def test_controls_change_the_loss_but_shuffling_equal_examples_does_not():
    own, constant = kd_value()["loss"], kd_value(control="constant")["loss"]
    shuffled = {float(kd_value(control="shuffled", seed=seed)["loss"]) for seed in range(4)}
    assert len(shuffled) > 1 and float(own) not in shuffled and constant != own
    # If all examples are the same, shuffling changes nothing.
    data = batch()
    same = data | {key: jnp.broadcast_to(data[key][:1], data[key].shape) for key in ("rgb", "thermal", "landmarks")}
    np.testing.assert_allclose(kd_value(same, control="shuffled")["loss"], kd_value(same)["loss"], rtol=1e-5)


def test_both_teachers_get_the_errors_of_the_same_other_face():
    """If both teachers are the same network, the two assistive terms are then equal, whatever the order."""
    for seed in range(3):
        metrics = kd_value(seeds=(2, 2), seed=seed, control="shuffled")
        np.testing.assert_allclose(metrics["tough"], metrics["tolerant"], rtol=1e-6)


def test_the_likelihood_is_weighted_and_trains_landmarks_and_uncertainties():
    config = config_of()
    assert recipes.likelihood(config) == ()
    config.loss.uncertainty = 0.25
    (term,) = recipes.likelihood(config)
    assert term.weight(0.3) == 0.25 and not term.task
    data = batch()
    recipe = make_recipe(term)
    state = start(recipe, network(0, uncertainty=True))
    found = networks.run(state.network, data["thermal"])
    assert found.uncertainty.shape == (4, K)
    gradient = jax.grad(lambda params: steps._loss(params, state, {}, data, jax.random.key(0), recipe)[0])
    slopes = gradient(states.trainable(state.network, state.adapter))["network"]
    assert norm(slopes["head"]["uncertainty"]) > 0 and norm(slopes["head"]["maps"]) > 0 and norm(slopes["backbone"]) > 0
