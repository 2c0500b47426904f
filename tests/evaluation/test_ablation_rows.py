"""The rows of a grid: what each trains and shares, and which grids are refused."""

from pathlib import Path

import pytest
from grids import NONE, smoke
from ml_collections import ConfigDict

from mlcm_jax import config as configs
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import ablation_rows

GRIDS = {  # variants and rows
    "synthetic": (("", "long", "strong", "smoke"), 14),
    "kdloss": (("", "youtube", "smoke"), 8),
    "star": (("", "youtube", "smoke"), 6),
    "shipped": (("", "smoke"), 6),
    "recipe": (("", "smoke"), 13),
}


def test_every_grid_is_in_the_table_above():
    assert {path.stem.removeprefix("ablation_") for path in Path("configs").glob("ablation_*.py")} == set(GRIDS)


@pytest.mark.parametrize("name, variant", [(name, v) for name, (variants, _) in GRIDS.items() for v in variants])
def test_every_grid_is_valid(name, variant):
    path = f"configs/ablation_{name}.py"
    rows = ablation_rows.plan(configs.load(path, variant))
    by_name = {row.name: row for row in rows}
    assert len(rows) == (3 if variant == "smoke" and name in ("synthetic", "kdloss") else GRIDS[name][1])
    controls = ("none", "light alone", "student alone", "weight 0", "as shipped")
    assert [row.name for row in rows if not row.control] == [n for n in controls if n in by_name]
    with pytest.raises(InputError, match="no variant 'huge'"):
        configs.load(path, "huge")


def test_rows_of_the_synthetic_grid():
    rows = {row.name: row for row in ablation_rows.plan(configs.load("configs/ablation_synthetic.py"))}
    assert rows["none"].stages == ("thermal_alone",) and rows["none"].shared == ()
    assert rows["FD"].config.transfer.gamma == 1.0 and rows["FD"].config.transfer.alpha == 0.0
    assert rows["FD"].stages == ("teacher", "transfer") and rows["FD"].shared == ("teacher",)
    assert rows["DIKD"].shared == ("teacher", "transfer") and rows["DIKD"].config.transfer.alpha == 1.0
    assert rows["two levels"].stage == "compress" and rows["two levels"].control == "light alone"
    assert rows["two levels"].shared == ("teacher", "transfer") and rows["two levels"].retrained == ()
    assert rows["second level alone"].retrained == ("transfer",)
    assert rows["FD+LD"].folder == "fd_ld"


@pytest.mark.parametrize(
    "overrides, shared",
    [
        ({}, ("teacher", "transfer")),
        ({"light": {"width": 0.5}, "steps": {"light": 3}, "compress": {"gamma": 0.0}}, ("teacher", "transfer")),
        ({"kd": {"variant": "released"}, "shape_variance": 0.9, "light_head_init": "teacher"}, ("teacher", "transfer")),
        ({"log_every": 7, "checkpoint_every": 9}, ("teacher", "transfer")),
        ({"transfer": {"decay": "none"}}, ("teacher",)),
        ({"student": {"temperature": 0.5}}, ("teacher",)),
        ({"steps": {"student": 9}}, ("teacher",)),
        ({"student_init": "teacher"}, ("teacher",)),
        ({"teacher": {"temperature": 0.5}}, ()),
        ({"steps": {"teacher": 9}}, ()),
        ({"train": {"lr": 0.01}}, ()),
        ({"augment": {"rotation": 9.0}}, ()),
        ({"loss": {"name": "wing", "options": {"w": 5.0}}}, ()),
        ({"image_size": 48}, ()),
        ({"dataset": "synthetic_faces/tiny", "test_dataset": "synthetic_faces/48x48"}, ()),
    ],
)
def test_a_row_shares_only_stages_that_none_of_its_keys_could_change(overrides, shared):
    rows = ablation_rows.plan(smoke({"none": NONE, "row": overrides}))
    assert rows[1].stages == ("teacher", "transfer") and rows[1].shared == shared


@pytest.mark.parametrize("keep_best", [False, True])
def test_keys_that_select_checkpoints_matter_only_with_keep_best(keep_best):
    config = smoke({"none": NONE, "row": {"checkpoint_every": 9}, "other": {"log_every": 9}})
    config.keep_best = keep_best
    _, row, other = ablation_rows.plan(config)
    assert row.shared == (() if keep_best else ("teacher", "transfer"))
    assert other.shared == ("teacher", "transfer")


@pytest.mark.parametrize(
    "rows, ablation, message",
    [
        ({"a": NONE, "b": {"transfr": {"alpha": 1.0}}}, {}, "config.transfr.*did you mean 'transfer'"),
        ({"a": NONE, "b": {"transfer": {"alfa": 1.0}}}, {}, r"config\.transfer\.alfa.*did you mean 'alpha'"),
        ({"a": NONE, "b": {"transfer": {"alpha": "much"}}}, {}, r"config\.transfer\.alpha='much'"),
        ({"a": NONE, "b": {"transfer": 3}}, {}, "key by key"),
        ({"a": NONE, "b": {"image_size": {"x": 3}}}, {}, "key by key"),
        ({"a": NONE, "b": {"seed": 3}}, {}, "set config.seeds"),
        ({"a": NONE, "b": {"stages": ("trnsfer",)}}, {}, "'b'.*'trnsfer'"),
        ({"a": NONE, "b": {"transfer": {"decay": "liner"}}}, {}, "'b'.*config.transfer.decay"),
        ({"a": NONE, "b": {"stages": ("light_alone",)}}, {}, "config.light.*'a'.*config.student"),
        ({"a": NONE, "b": {}}, {"control": "c"}, "'c', which is not in config.grid"),
        ({"a": NONE, "b": {}}, {"controls": ConfigDict({"c": "a"})}, "'c', which is not in config.grid"),
        ({"a": NONE, "b": {}}, {"comparisons": (("a", "c"),)}, "'c', which is not in config.grid"),
        ({"a": NONE, "b": {}}, {"rows": ("a",)}, "every row.*see b"),
        ({"a": NONE, "b": {}}, {"shared": ("techer",)}, "'techer'"),
        ({"FD+LD": NONE, "FD LD": {}}, {}, "share its folder with row 'FD\\+LD'"),
        ({"a": NONE, "Shared": {}}, {}, "share its folder with the shared stages"),
        ({"a": NONE, "b, c": {}}, {}, "without a comma"),
        ({"a": NONE, "b": {"normalizer": "outer_eyes"}}, {}, "config.normalizer='outer_eyes'.*one test"),
        ({"a": NONE, "b": {"dataset": "synthetic_faces/tiny"}}, {}, "config.test_dataset='synthetic_faces/tiny'"),
    ],
)
def test_an_invalid_grid_is_refused_and_its_row_or_key_named(rows, ablation, message):
    with pytest.raises(InputError, match=message) as refused:
        ablation_rows.plan(smoke(rows, **ablation))
    assert "\n" not in str(refused.value)


def test_a_config_without_a_grid_and_a_repeated_seed_are_refused():
    with pytest.raises(InputError, match=r"no config\.grid"):
        ablation_rows.plan(configs.load("configs/tiny.py", "smoke"))
    config = smoke()
    config.seeds = (1, 1)
    with pytest.raises(InputError, match="twice"):
        ablation_rows.plan(config)
