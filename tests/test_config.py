"""The schema of a run, and the files that set its keys."""

import json
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from mlcm_jax import config as configs
from mlcm_jax.errors import InputError

SHIPPED = sorted(path.name for path in configs.shipped().glob("*.py"))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text("abé_/: 1", max_size=8)
LIMITED = {"thermal_range": st.sampled_from([(), (20.0, 40.5)])}
PLAIN = {
    int: st.integers(-(2**40), 2**40),
    float: NUMBERS,
    bool: st.booleans(),
    str: WORDS,
    dict: st.dictionaries(st.sampled_from(["name", "width", "depths"]), st.one_of(st.integers(), WORDS), max_size=3),
}
# For every type, values of other types, or that no key may have.
WRONG = {
    int: ["1", 1.0, True, (1,), None],
    float: ["1", True, (1.0,), None, float("nan"), float("inf"), -float("inf")],
    bool: [1, "True", None],
    str: [1, ("a",), None],
    dict: ["resnet18", 1, (), None],
}


def values_of(kind) -> st.SearchStrategy:
    """Values that a key of this type may have."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return st.lists(values_of(inner[0]), max_size=3).map(tuple)
    if origin is typing.Literal:
        return st.sampled_from(inner)
    if origin is typing.Annotated:
        low, high = (float(end) for end in inner[1][1:-1].split(","))
        if inner[0] is int:
            return st.integers(int(low), 2**32 - 1 if high == float("inf") else int(high))
        ends = {"exclude_min": inner[1][0] == "(", "exclude_max": inner[1][-1] == ")" and high < float("inf")}
        return st.floats(low, None if high == float("inf") else high, allow_nan=False, allow_infinity=False, **ends)
    return PLAIN[kind]


def wrong_values_of(kind) -> list:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return [1, 1.0, None, *((wrong,) for wrong in wrong_values_of(inner[0]))]
    if origin is typing.Literal:
        return [1, None, "another", ("rgb",)]
    if origin is typing.Annotated:
        low, high = (inner[0](end) if end != " inf" else None for end in inner[1][1:-1].split(","))
        outside = [low - 1, *([low] if inner[1][0] == "(" else [])]
        outside += [] if high is None else [high + 1, *([high] if inner[1][-1] == ")" else [])]
        return WRONG[inner[0]] + outside
    return WRONG[kind]


def with_value(name, value) -> ConfigDict:
    """Returns the default config with one value changed, even to one of the wrong type."""
    tree = configs.base().to_dict()
    *groups, last = name.split(".")
    place = tree
    for group in groups:
        place = place[group]
    place[last] = value
    return ConfigDict(tree)


# The schema


def test_the_default_config_has_the_values_of_the_schema():
    base = configs.base()
    configs.check(base)
    assert configs.flat(base) == {name: key.default for name, key in configs.SCHEMA.items()}


@pytest.mark.parametrize("name", list(configs.SCHEMA))
def test_every_key_is_explained(name):
    key = configs.SCHEMA[name]
    assert key.decides in typing.get_args(configs.Decides)
    assert key.comment and "\n" not in key.comment and len(key.comment) < 90


@given(st.data())
def test_values_are_unchanged_by_put_and_flat_and_json(data):
    names = data.draw(st.lists(st.sampled_from(list(configs.SCHEMA)), unique=True, max_size=8))
    values = {name: data.draw(LIMITED.get(name, values_of(configs.SCHEMA[name].type))) for name in names}
    config = configs.base()
    for name, value in values.items():
        configs.put(config, name, value)
    configs.check(config)
    wanted = {name: key.default for name, key in configs.SCHEMA.items()} | values
    assert configs.flat(config) == wanted
    # The same by way of a work directory: to JSON, where tuples are lists, and back.
    again = configs.base()
    for name, value in configs.flat(json.loads(config.to_json())).items():
        configs.put(again, name, value)
    configs.check(again)
    assert configs.flat(again) == wanted


@pytest.mark.parametrize("name", list(configs.SCHEMA))
def test_a_value_of_another_type_or_outside_its_range_is_refused_and_its_key_named(name):
    for value in wrong_values_of(configs.SCHEMA[name].type):
        with pytest.raises(InputError) as refused:
            configs.check(with_value(name, value))
        assert f"config.{name}={value!r} must be " in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"), [("train.lr", 1), ("thermal_range", (20, 40.5)), ("seeds", [1, 2]), ("stages", ["teacher"])]
)
def test_integers_are_accepted_for_floats_and_lists_for_tuples(name, value):
    configs.check(with_value(name, value))


@pytest.mark.parametrize("limits", [(40.0, 20.0), (20.0, 20.0), (20.0,), (20.0, 30.0, 40.0)])
def test_a_range_of_temperatures_has_two_increasing_limits(limits):
    with pytest.raises(InputError, match=r"config.thermal_range=.* must be .* two increasing numbers"):
        configs.check(with_value("thermal_range", limits))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.ema", 1.0, "config.train.ema=1.0 must be a finite number of at least 0 and below 1, such as 0.99."),
        ("train.lr", float("inf"), "config.train.lr=inf must be a finite number above 0, such as 0.001."),
        ("seeds", (1, -1), r"config.seeds=\(1, -1\) must be a tuple of integers of at least 0 and at most 4294967295"),
        ("thermal_range", (20.0, float("nan")), r"config.thermal_range=.* must be a tuple of finite numbers, such as"),
        ("kd.variant", "papers", "config.kd.variant='papers' must be one of 'paper', 'released'."),
    ],
)
def test_the_message_about_a_value_has_what_is_allowed(name, value, message):
    with pytest.raises(InputError, match=message):
        configs.check(with_value(name, value))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("datset", "config.datset is not a key of the config; did you mean 'dataset'?"),
        ("train.lrr", "config.train.lrr is not a key of the config; did you mean 'train.lr'?"),
        ("augment.expnad", "did you mean 'augment.expand'?"),
    ],
)
def test_an_unknown_key_is_reported_with_the_nearest_one(name, message):
    with pytest.raises(InputError) as refused:
        configs.check(with_value(name, 1))
    assert message in str(refused.value)


def test_a_misspelt_or_missing_group_is_reported():
    tree = configs.base().to_dict()
    with pytest.raises(InputError, match=r"config.augmnet is not a key of the config; did you mean 'augment"):
        configs.check(ConfigDict(tree | {"augmnet": tree["augment"]}))
    del tree["augment"]
    with pytest.raises(InputError, match=r"config.augment.expand is missing; start from mlcm_jax.config.base"):
        configs.check(ConfigDict(tree))


@pytest.mark.parametrize("group", [name for name, key in configs.SCHEMA.items() if key.type is dict])
def test_groups_of_arguments_take_keys_that_the_schema_does_not_list(group):
    config = configs.base()
    configs.put(config, f"{group}.width_of_it", 3)
    configs.check(config)
    assert configs.flat(config)[group]["width_of_it"] == 3


def test_a_config_is_locked_except_for_arguments_of_functions():
    config = configs.base()
    config.teacher.depths = (1, 1)
    config.loss.options.w = 5.0
    for group, name in ((config, "trian"), (config.train, "lrr"), (config.transfer, "gama")):
        with pytest.raises(AttributeError, match="locked"):
            setattr(group, name, 1)
    with pytest.raises(TypeError):
        config.seed = "zero"


def test_two_configs_share_nothing():
    one = configs.base()
    one.teacher.name, one.train.lr = "swin_v2", 1.0
    assert configs.base().teacher.name == one.student.name == "resnet18" and configs.base().train.lr != 1.0


# Overrides on the command line


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.train.lrr=1", "did you mean 'train.lr'"),
        ("--config.trian.lr=1", "did you mean 'train.lr'"),
        ("--config.teacher.widht=1", "did you mean 'teacher.width'"),
        ("--config.loss.options.w=1", "set 'loss.options.w' in the config file; the command line only changes"),
        ("--noconfig.keep_bets", "did you mean 'keep_best'"),
        ("--config.=1", "'' is not a key"),
    ],
)
def test_an_override_of_an_unknown_key_is_refused(word, message):
    config = configs.base()
    configs.check_overrides(config, ["--config.train.lr=1", "--noconfig.keep_best", "--config.teacher.width=2"])
    with pytest.raises(InputError) as refused:
        configs.check_overrides(config, ["--config.train.lr=1", word])
    assert word in str(refused.value) and message in str(refused.value)


# Files


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_is_valid(name):
    config = configs.load(configs.shipped() / name)
    if "grid" in config:
        config = ConfigDict({key: value for key, value in config.items() if key not in ("grid", "ablation")})
    configs.check(config)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_refuses_an_unknown_variant(name):
    with pytest.raises(InputError, match=rf"configs/{name} has no variant 'huge'; it has .+\."):
        configs.load(configs.shipped() / name, "huge")


@pytest.mark.parametrize(("known", "listed"), [((), "none"), (("a",), "a"), (("a", "b", "c"), "a, b and c")])
def test_the_variants_are_listed(known, listed):
    configs.check_variant("", known, "x/tiny.py")
    with pytest.raises(InputError, match=f"configs/tiny.py has no variant 'd'; it has {listed}\\."):
        configs.check_variant("d", known, "x/tiny.py")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


WHOLE = "from mlcm_jax.config import base\ndef get_config(variant):\n    c = base()\n    c.seed = 7\n    return c\n"


def test_the_users_own_file_takes_precedence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "configs/tiny.py", WHOLE)
    write(tmp_path / "configs/__init__.py", "raise RuntimeError('imported by mistake')")
    assert configs.load("configs/tiny.py").seed == 7
    assert not capsys.readouterr().out


@pytest.mark.parametrize("path", ["configs/tiny.py", "./configs/tiny.py"])
def test_a_shipped_config_is_found_from_any_folder_with_a_message(tmp_path, monkeypatch, capsys, path):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "configs/__init__.py", "raise RuntimeError('imported by mistake')")
    assert configs.load(path, "smoke").dataset == "synthetic_faces/48x48"
    assert f"{configs.shipped() / 'tiny.py'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "path",
    [
        "my_experiments/typo/tiny.py",
        "config/tiny.py",
        "tiny.py",
        "../configs/tiny.py",
        "configs/mine/tiny.py",
        "/tiny.py",
    ],
)
def test_a_mistyped_path_never_means_the_shipped_config_of_that_name(tmp_path, monkeypatch, path):
    monkeypatch.chdir(write(tmp_path / "here/readme", "").parent)
    with pytest.raises(InputError, match=f"There is no config file {path};"):
        configs.load(path)


def test_a_mistyped_name_is_reported_with_the_nearest_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"did you mean 'configs/tiny\.py'\?"):
        configs.load("configs/tinny.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(variant):\n    return 1 +\n", "line 2, raises SyntaxError"),
        ("import absent_module\n", "line 1, raises ModuleNotFoundError: No module named 'absent_module'"),
        (WHOLE.replace("c.seed = 7", "c.seed = seven"), "line 4, raises NameError"),
        (WHOLE.replace("c.seed = 7", "c.train.lrr = 7"), "line 4, sets 'lrr', which is not a key of the config"),
        (WHOLE.replace("c.seed = 7", "c.sede = 7"), "line 4, sets 'sede', which is not a key of the config; did"),
        (WHOLE.replace("c.seed = 7", "c.seed = 'x'"), "line 4, raises TypeError"),
        (WHOLE.replace("c.seed = 7", "raise ValueError"), "line 4, raises ValueError"),
        (WHOLE.replace("c.seed = 7", "raise SystemExit(3)"), "line 4, raises SystemExit: 3"),
        (WHOLE.replace("get_config", "config"), "needs a function get_config(variant) that returns a config"),
        (WHOLE.replace("return c", "return None"), "needs a function get_config(variant) that returns a config"),
        (WHOLE.replace("(variant)", "()"), "raises TypeError"),
        ("def get_config(variant):\n    def one():\n        return 1 / 0\n    return one()\n", "line 3, raises Zero"),
    ],
)  # fmt: skip
def test_an_error_in_a_file_is_reported_with_its_line(tmp_path, text, message):
    path = write(tmp_path / "mine.py", text)
    with pytest.raises(InputError) as refused:
        configs.load(path)
    assert str(path) in str(refused.value) and message in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_can_build_on_another_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path / "elsewhere/readme", "").parent)
    write(tmp_path / "a/one.py", WHOLE)
    text = "from mlcm_jax.config import load\ndef get_config(variant):\n    return load('one.py', beside=__file__)\n"
    path = write(tmp_path / "a/mine.py", text)
    assert configs.load(path).seed == 7
    write(tmp_path / "a/one.py", WHOLE.replace("= 7", "= seven"))
    with pytest.raises(InputError, match=r"one\.py, line 4, raises NameError"):
        configs.load(path)


def test_a_grid_is_added_without_becoming_a_key_of_runs():
    config = configs.add_grid(configs.base(), {"a": {"seed": 1}, "b": {}}, control="a")
    assert config.ablation.rows == ("a", "b") and config.grid.a.seed == 1 and config.ablation.control == "a"
    assert not (config.ablation.controls or config.ablation.shared or config.ablation.comparisons)
    configs.check(config)
    with pytest.raises(AttributeError):
        config.gird = 1
