"""Stages: which of them need which, what each is made of, which keys they depend on, and what is refused."""

import ast
import typing

import jax
import numpy as np
import pytest

from mlcm_jax import config as configs
from mlcm_jax import dikd
from mlcm_jax.config import base
from mlcm_jax.errors import InputError
from mlcm_jax.training import stages

CONFIGS = sorted(path.stem for path in configs.shipped().glob("*.py"))
RUNS = [name for name in CONFIGS if not name.startswith("ablation")]


def changed(config, path, value):
    *parents, last = path.split(".")
    for key in parents:
        config = config[key]
    with config.unlocked():
        config[last] = value


@pytest.mark.parametrize(
    "change",
    [{"loss.name": "l1"}, {"layout": "ibug68"}, {"light.head": "heatmap"}, {"gain": "box"}],
    ids=lambda one: next(iter(one)),
)
def test_the_parts_of_a_detector_belong_together(change):
    config = configs.load(configs.shipped() / "detector.py", "smoke")
    for name, value in change.items():
        changed(config, name, value)
    with pytest.raises(InputError, match=r"A detector needs config\.loss\.name='boxes'"):
        stages.check(config)


@pytest.mark.parametrize("change", [{"keep_best": True}, {"seeds": (0, 1)}], ids=lambda one: next(iter(one)))
def test_what_needs_an_nme_is_refused_for_a_detector(change):
    config = configs.load(configs.shipped() / "detector.py", "smoke")
    for name, value in change.items():
        changed(config, name, value)
    with pytest.raises(InputError, match="A detector has no NME"):
        stages.check(config)


@pytest.mark.parametrize("name", RUNS)
def test_every_config_is_valid_and_its_docstring_has_its_command(name):
    path = configs.shipped() / f"{name}.py"
    config = configs.load(path)
    stages.check(config)
    assert stages.layout(config).count in (51, 54, 68, 98) or config.loss.name == "boxes"
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
    parts = {name: stages.initial_weights(name, config) for name in ("teacher", "tolerant", "transfer", "direct")}
    assert parts == {
        "teacher": ("", ""), "tolerant": ("", ""), "transfer": ("all", "teacher"), "direct": ("head", "teacher"),
    }  # fmt: skip


def test_what_each_stage_is_made_of():
    config = base()
    made = {name: stages.recipe(name, config) for name in stages.STAGES}
    assert {name: [term.name for term in recipe.terms] for name, recipe in made.items()} == {
        "teacher": ["task"], "tolerant": ["task"], "thermal_alone": ["task"], "light_alone": ["task"],
        "transfer": ["task", "forward", "reverse"], "direct": ["task", "feature", "logit"],
        "compress": ["task", "feature", "logit"], "kd": ["main", "tough", "tolerant"],
    }  # fmt: skip
    assert [name for name, recipe in made.items() if recipe.needs_features] == ["transfer", "direct", "compress"]
    assert made["direct"].teachers == {"teacher": "rgb"} and made["compress"].teachers == {"transfer": "thermal"}
    assert made["kd"].teachers == {"teacher": "rgb", "tolerant": "rgb"}
    assert made["kd"].modality == "thermal" and made["tolerant"].modality == "rgb"
    assert made["kd"].modalities == ("rgb", "thermal") and made["compress"].modalities == ("thermal",)
    config.direct.update({"alpha": 0.0, "beta": 0.0, "gamma": 0.0, "delta": 1.0, "maps": 100.0})
    assert not stages.recipe("direct", config).needs_features


def test_a_student_and_its_control_differ_only_in_the_teacher():
    """They have the same initial parameters, modality and steps; the shared loop gives both the same batches."""
    config = configs.load("configs/tiny.py", "smoke")
    shape = np.full((68, 2), 0.5, np.float32)
    for name, stage in stages.STAGES.items():
        if stage.control:
            one, other = (stages.initial_network(key, config, mean_shape=shape) for key in (name, stage.control))
            jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
            recipe, control = (stages.recipe(key, config) for key in (name, stage.control))
            assert (recipe.modality, recipe.total_steps) == (control.modality, control.total_steps)
            assert stages.STAGES[stage.control].teachers == () == tuple(control.teachers)


@pytest.mark.parametrize(
    "stage, key, expected",
    [
        ("teacher", "teacher.width", True),
        ("teacher", "student.width", False),
        ("teacher", "transfer.beta", False),
        ("transfer", "transfer.beta", True),
        ("transfer", "student.width", True),
        ("transfer", "teacher.width", True),  # through its teacher
        ("compress", "transfer.beta", True),  # through the transferred student
        ("light_alone", "transfer.beta", False),
        ("kd", "kd.variant", True),
        ("kd", "shape_variance", True),
        ("transfer", "shape_variance", False),
        ("teacher", "train.lr", True),
        ("teacher", "log_every", False),
        ("teacher", "test_split", False),
        ("teacher", "normalizer", False),  # without keep_best
        ("teacher", "loss.options.beta", True),
    ],
)
def test_which_keys_a_trained_network_depends_on(stage, key, expected):
    assert stages.reads(stage, base(), key) is expected


def test_with_keep_best_the_normaliser_and_the_checkpoints_decide_the_network():
    config = base()
    config.keep_best = True
    assert stages.reads("teacher", config, "normalizer") and stages.reads("teacher", config, "checkpoint_every")
    assert not stages.reads("teacher", config, "log_every")


def test_stages_and_all_that_they_need_are_in_the_order_of_training():
    assert stages.with_required(["compress"], base()) == ("teacher", "transfer", "compress")
    assert stages.with_required(["kd", "thermal_alone"], base()) == ("teacher", "tolerant", "thermal_alone", "kd")


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("stages", (), "name at least one"),
        ("stages", ("teachr",), "'teachr', which is not a stage"),
        ("dataset_weights", (3.0, 1.0), "one number for each of the datasets synthetic_faces/tiny .config.dataset"),
        ("student_init", "teachers", "config.student_init='teachers' must be one of 'scratch', 'teacher'"),
        ("light_head_init", "x", "config.light_head_init='x'"),
        ("modalities.teacher", "infrared", "config.modalities.teacher='infrared' must be"),
        ("kd.variant", "papers", "config.kd.variant='papers' must be one of 'paper', 'released'"),
        ("kd.control", "swapped", "config.kd.control='swapped'"),
        ("shape_variance", 95.0, "config.shape_variance=95.0 must be a finite number above 0 and at most 1"),
        ("steps.light", 0, "config.steps.light=0 must be an integer of at least 1"),
        ("train.schedule", "cosin", "config.train.schedule='cosin' must be one of 'cosine', 'inverse_time'"),
        ("train.decay_rate", 0.1, "config.train.decay_rate=0.1 is only for the schedule 'inverse_time'"),
        ("train.lr", 0.0, "config.train.lr=0.0 must be a finite number above 0"),
        ("train.head_lr", -1.0, "config.train.head_lr=-1.0 must be a finite number of at least 0"),
        ("train.warmup", 1.0, "config.train.warmup=1.0 must be a finite number of at least 0 and below 1"),
        ("train.ema", 1.0, "config.train.ema=1.0 must be"),
        ("train.clip", -1.0, "config.train.clip=-1.0 must be"),
        ("train.weight_decay", -1.0, "config.train.weight_decay=-1.0 must be"),
        ("loss.name", "wings", "config.loss.name='wings' is unknown"),
        ("loss.options", {"knee": 1.0}, "config.loss.options.knee does not exist for 'l1'"),
        ("loss.name", "star", "config.light.head='coordinates' must be 'aam'"),
        ("direct.decay", "liner", "config.direct.decay"),
        ("loss.uncertainty", 0.5, "config.light.uncertainty and config.loss.uncertainty belong together"),
        ("teacher.uncertainty", True, "config.teacher.uncertainty and config.loss.uncertainty belong together"),
        ("augment.invert", 2.0, "config.augment.invert=2.0 must be"),
        ("direct.reverse_target", "me", "config.direct.reverse_target='me' must be one of 'teacher', 'truth'"),
    ],
)
def test_an_invalid_value_is_reported_in_one_sentence(path, value, message):
    config = base()
    stages.check(config)
    changed(config, path, value)
    with pytest.raises(InputError, match=message) as caught:
        stages.check(config)
    assert str(caught.value).endswith((".", "?")) and "\n" not in str(caught.value)


def test_temperatures_are_not_inverted():
    config = base()
    config.thermal_range, config.augment.invert = (20.0, 40.0), 0.5
    with pytest.raises(
        InputError, match=r"config\.augment\.invert=0\.5 would invert temperatures, which config\.therm"
    ):
        stages.check(config)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("smooth_l1", {"beta": "1"}, "config.loss.options.beta='1' must be a finite number"),
        ("smooth_l1", {"beta": 0.0}, "config.loss.options: beta = 0.0 must be positive"),
        ("wing", {"w": 0.0}, "config.loss.options: w = 0.0 and epsilon = 2.0 must be positive"),
        ("wing", {"w": -1.0}, "config.loss.options.w=-1.0 must not be negative"),
        ("star", {"eps": -1e-4}, "config.loss.options.eps=-0.0001 must not be negative"),
        ("wing", {"epsilon": float("nan")}, "config.loss.options.epsilon=nan must be a finite number"),
        ("star", {"drawn": 64.0}, "config.loss.options.drawn=64.0 must be an integer"),
        ("star", {"distance": "l3"}, "config.loss.options: unknown distance 'l3'"),
        ("star", {"grid": "corners"}, "config.loss.options: .*'corners'"),
    ],
)
def test_an_invalid_option_of_the_loss_is_reported_in_one_sentence(name, options, message):
    config = base()
    for model in (config.teacher, config.student, config.light):
        model.head = "aam"
    config.loss.name = name
    config.loss.options.update(options)
    with pytest.raises(InputError, match=message) as caught:
        stages.check(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["transfer.decay", "compress.decay", "direct.decay"])
def test_the_decays_of_the_schema_are_those_of_the_loss(key):
    names = typing.get_args(configs.SCHEMA[key].type)
    assert np.isfinite([dikd.decay(0.5, name) for name in names]).all()
    with pytest.raises(ValueError, match=f"use {', '.join(names[:-1])} or {names[-1]}$"):
        dikd.decay(0.5, "liner")


def test_the_shift_of_edges_may_be_negative():
    config = configs.load("configs/star_tiny.py", "smoke")
    config.loss.options.update({"shift": -0.375})
    stages.check(config)


def test_released_needs_the_tolerant_teacher_and_aam_the_layout_of_the_config():
    config = base()
    config.kd.update({"variant": "released", "tolerant": False})
    with pytest.raises(InputError, match="scales its main term by the tolerant teacher"):
        stages.check(config)
    config = configs.load("configs/star_tiny.py", "smoke")
    config.light.layout = "ibug68"
    with pytest.raises(InputError, match=r"config.light.layout='ibug68' must be config.layout='ibug51'"):
        stages.check(config)
