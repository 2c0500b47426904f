"""What a config means: which stages need which, the optimiser and its rates against numpy, and what is refused."""

import ast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlcm_jax import config as configs
from mlcm_jax import landmarks
from mlcm_jax.config import base
from mlcm_jax.errors import InputError
from mlcm_jax.models import Prediction
from mlcm_jax.training import stages
from mlcm_jax.training import state as states
from mlcm_jax.training import step as steps

CONFIGS = sorted(path.stem for path in configs.shipped().glob("*.py"))
RUNS = [name for name in CONFIGS if not name.startswith("ablation")]


def changed(config, path, value):
    *parents, last = path.split(".")
    for key in parents:
        config = config[key]
    with config.unlocked():
        config[last] = value


@pytest.mark.parametrize("name", RUNS)
def test_every_config_is_understood_and_says_its_command(name):
    path = configs.shipped() / f"{name}.py"
    config = configs.load(path)
    stages.check(config)
    landmarks.get(config.layout)
    assert f"--config=configs/{name}.py" in ast.get_docstring(ast.parse(path.read_text()))
    for stage in config.stages:
        stages.recipe(stage, config)


@pytest.mark.parametrize("name", ["kdloss_tiny", "star_tiny", "tiny"])
def test_smoke_is_small_and_other_variants_are_refused(name):
    config = configs.load(f"configs/{name}.py", "smoke")
    stages.check(config)
    assert max(config.steps.values()) <= 10
    with pytest.raises(InputError, match="smoke"):
        configs.load(f"configs/{name}.py", "smok")


def test_requirements():
    config = base()
    needs = {name: stages.requirements(name, config) for name in stages.STAGES}
    assert needs == {
        "teacher": [], "tolerant": [], "thermal_alone": [], "transfer": ["teacher"], "light_alone": [],
        "direct": ["teacher"], "compress": ["transfer"], "kd": ["teacher", "tolerant"],
    }  # fmt: skip
    config.light_head_init = config.student_init = "teacher"
    assert stages.requirements("light_alone", config) == ["teacher"]
    assert stages.requirements("compress", config) == ["teacher", "transfer"]
    assert stages.requirements("thermal_alone", config) == ["teacher"]
    assert stages.requirements("tolerant", config) == []


def test_what_each_stage_is_made_of():
    config = base()
    made = {name: stages.recipe(name, config) for name in stages.STAGES}
    assert [name for name, recipe in made.items() if recipe.two_teachers] == ["kd"]
    assert [name for name, recipe in made.items() if recipe.distillation.needs_features] == [
        "transfer", "direct", "compress",
    ]  # fmt: skip
    assert made["direct"].teacher_modality == "rgb" and made["compress"].teacher_modality == "thermal"
    assert made["kd"].modality == "thermal" and made["tolerant"].modality == "rgb"
    config.direct.update({"gamma": 0.0, "delta": 1.0, "maps": 100.0})
    assert not stages.recipe("direct", config).distillation.needs_features


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("stages", (), "names at least one|name at least one"),
        ("stages", ("teachr",), "'teachr', which is not a stage"),
        ("student_init", "teachers", "config.student_init='teachers' must be 'scratch' or 'teacher'"),
        ("light_head_init", "x", "config.light_head_init='x'"),
        ("modalities.teacher", "infrared", "config.modalities.teacher='infrared' must be"),
        ("kd.variant", "papers", "config.kd.variant='papers' must be 'paper' or 'released'"),
        ("kd.control", "swapped", "config.kd.control='swapped'"),
        ("shape_variance", 95.0, "config.shape_variance=95.0 must be above 0 and at most 1"),
        ("steps.light", 0, "config.steps.light=0 must be at least 1"),
        ("train.schedule", "cosin", "config.train.schedule='cosin' is unknown; choose cosine"),
        ("train.decay_rate", 0.1, "config.train.decay_rate=0.1 is of the schedule 'inverse_time'"),
        ("train.lr", 0.0, "config.train.lr=0 must be above 0"),
        ("train.head_lr", -1.0, "config.train.head_lr=-1 must be at least 0"),
        ("train.warmup", 1.0, "config.train.warmup=1 must be at least 0 and below 1"),
        ("train.ema", 1.0, "config.train.ema=1 must be"),
        ("train.clip", -1.0, "config.train.clip=-1 must be"),
        ("train.weight_decay", -1.0, "config.train.weight_decay=-1 must be"),
        ("loss.name", "wings", "config.loss.name='wings' is unknown"),
        ("loss.name", "star", "config.light.head='coordinates' must be 'aam'"),
        ("direct.decay", "liner", "config.direct.decay"),
        ("direct.reverse_target", "me", "config.direct.reverse_target='me' must be 'teacher' or 'truth'"),
    ],
)
def test_what_no_stage_understands_is_one_sentence(path, value, message):
    config = base()
    stages.check(config)
    changed(config, path, value)
    with pytest.raises(InputError, match=message) as caught:
        stages.check(config)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_released_needs_the_tolerant_teacher_and_aam_the_layout_of_the_config():
    config = base()
    config.kd.update({"variant": "released", "tolerant": False})
    with pytest.raises(InputError, match="scales its main term by the tolerant teacher"):
        stages.check(config)
    config = configs.load("configs/star_tiny.py", "smoke")
    config.light.layout = "ibug68"
    with pytest.raises(InputError, match=r"config.light.layout='ibug68' must be config.layout='ibug51'"):
        stages.check(config)


@pytest.mark.parametrize("edges", [True, False])
def test_star_of_a_config_trains_heads_with_and_without_edges(edges):
    config = configs.load("configs/star_tiny.py", "smoke")
    if not edges:
        config.light.layout = None
    recipe = stages.recipe("light_alone", config)
    shape = np.full((51, 2), 0.5, np.float32)
    network = stages.initial_network("light_alone", config, mean_shape=shape)
    features, _ = states.run_backbone(network, jnp.ones((2, 32, 32, 1)))
    prediction, _ = states.run_head(network, features)
    _, parts = recipe.map_loss(prediction, jnp.full((2, 51, 2), 0.4), jnp.ones((2, 51)))
    assert set(parts) == ({"star", "points", "edges"} if edges else {"star", "points"})


def test_star_refuses_a_head_without_maps():
    config = configs.load("configs/star_tiny.py", "smoke")
    loss = stages.map_loss_function(config)
    with pytest.raises(InputError, match="needs models with head 'aam'"):
        loss(Prediction(jnp.zeros((1, 51, 2))), jnp.zeros((1, 51, 2)), jnp.ones((1, 51)))


@pytest.mark.parametrize("warmup", [0.0, 0.1])
@pytest.mark.parametrize("name", stages.SCHEDULES)
def test_schedules_match_their_formulas(name, warmup):
    config = base()
    config.train.update({"schedule": name, "warmup": warmup, "decay_rate": 1e-2 if name == "inverse_time" else 0.0})
    found = stages.schedule(0.5, config.train, 100)
    for step in (0, 3, 10, 40, 99):
        begin = round(100 * warmup)
        after = step - begin
        if after < 0:
            expected = 0.5 * step / begin
        elif name == "cosine":
            expected = 0.25 * (1 + np.cos(np.pi * after / (100 - begin)))
        else:
            expected = 0.5 / (1 + 1e-2 * after) if name == "inverse_time" else 0.5
        np.testing.assert_allclose(found(jnp.int32(step)), expected, rtol=1e-5, atol=1e-7, err_msg=f"{name} at {step}")


def test_the_published_adam_is_that_of_keras():
    """Adam with `decay`, as Keras 2 has it: lr_t = lr / (1 + decay · t), no weight decay, epsilon outside the root."""
    config = configs.load("configs/kdloss_300w.py")
    tx = stages.optimizer(config, config.steps.light)
    params = {"head": {"kernel": jnp.full((1, 1), 1.0)}}
    opt_state, rng = tx.init(params), np.random.default_rng(0)
    w, m, v = 1.0, 0.0, 0.0
    for t in range(20):
        g = float(rng.normal())
        updates, opt_state = tx.update({"head": {"kernel": jnp.full((1, 1), g)}}, opt_state, params)
        params = optax.apply_updates(params, updates)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        unbiased = m / (1 - 0.9 ** (t + 1)), v / (1 - 0.999 ** (t + 1))
        w -= 1e-3 / (1 + 1e-4 * t) * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    np.testing.assert_allclose(params["head"]["kernel"], w, rtol=1e-5)


def test_the_optimiser_decays_kernels_only():
    config = base()
    config.train.lr, config.train.weight_decay, config.train.clip = 1.0, 0.5, 0.0
    tx = stages.optimizer(config, 100)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    opt_state = tx.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    for _ in range(6):  # the warm-up starts at zero
        updates, opt_state = tx.update(zero, opt_state, params)
    assert (updates["kernel"] < 0).all() and (updates["bias"] == 0).all()


def test_heads_move_at_their_own_rate():
    """Head, backbone and adapter against AdamW run by hand on each of them."""
    config = base()
    config.train.update({"lr": 1e-2, "head_lr": 5e-2, "warmup": 0.0, "clip": 0.0, "weight_decay": 0.1})
    tx = stages.optimizer(config, 10)
    rng = np.random.default_rng(0)
    params = {
        "network": {part: {"kernel": jnp.asarray(rng.normal(size=(3, 2)))} for part in ("backbone", "head")},
        "adapter": {"to_teacher": jnp.asarray(rng.normal(size=(2, 2)))},
    }
    grads = [jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params) for _ in range(4)]
    found, opt_state = params, tx.init(params)
    for grad in grads:
        updates, opt_state = tx.update(grad, opt_state, found)
        found = optax.apply_updates(found, updates)

    def by_hand(pick, rate):
        leaf, rule = pick(params), optax.adamw(optax.cosine_decay_schedule(rate, 10), weight_decay=0.1)
        own = rule.init(leaf)
        for grad in grads:
            update, own = rule.update(pick(grad), own, leaf)
            leaf = optax.apply_updates(leaf, update)
        return leaf

    for pick, rate in (
        (lambda tree: tree["network"]["head"]["kernel"], 5e-2),
        (lambda tree: tree["network"]["backbone"]["kernel"], 1e-2),
        (lambda tree: tree["adapter"]["to_teacher"], 1e-2),
    ):
        np.testing.assert_allclose(pick(found), by_hand(pick, rate), rtol=1e-6)
    assert steps.Distillation(maps=1.0, delta=1.0).needs_features is False
