"""Work directories: which changes are accepted or refused when a run resumes, and how they are loaded."""

import json

import pytest
from ml_collections import ConfigDict

from mlcm_jax import config as configs
from mlcm_jax.config import base
from mlcm_jax.errors import InputError
from mlcm_jax.training import sharding, stages
from mlcm_jax.training.workdir import (
    __version__,
    alone,
    check_config,
    check_origin,
    claim,
    code_version,
    load_config,
    load_stage,
)

DATA = {"faces train": "aa"}


def test_claim_writes_the_config_and_accepts_the_same_again(tmp_path):
    config = base()
    claim(tmp_path / "w", config, DATA)
    claim(tmp_path / "w", config, DATA)
    assert load_config(tmp_path / "w").train.lr == config.train.lr


def test_bookkeeping_and_scoring_may_differ_but_nothing_else(tmp_path):
    config = base()
    claim(tmp_path, config, DATA)
    config.log_every, config.test_split, config.normalizer, config.checkpoint_every = 7, "full", "outer_eyes", 3
    claim(tmp_path, config, DATA)
    config.augment.rotation = 1.0
    with pytest.raises(InputError, match=r"config\.augment\.rotation: 20\.0 there, 1\.0 now"):
        claim(tmp_path, config, DATA)


@pytest.mark.parametrize("key, value", [("normalizer", "outer_eyes"), ("checkpoint_every", 3)])
def test_what_selects_the_best_network_may_not_differ_where_the_best_is_kept(tmp_path, key, value):
    config = base()
    config.keep_best = True
    claim(tmp_path, config, DATA)
    config[key] = value
    with pytest.raises(InputError, match=rf"config\.{key}: .* there, {value} now"):
        claim(tmp_path, config, DATA)


def test_checking_a_work_directory_writes_nothing(tmp_path):
    config = base()
    check_config(tmp_path / "w", config)
    check_origin(tmp_path / "w", config, DATA)
    assert not (tmp_path / "w").exists()


def test_a_key_newer_than_a_run_gets_its_default(tmp_path):
    config = base()
    claim(tmp_path, config, DATA)
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    del old["keep_best"], old["train"]["accumulate"]
    path.write_text(json.dumps(old))
    found = load_config(tmp_path)
    assert found.keep_best is False and found.train.accumulate == 1
    claim(tmp_path, config, DATA)
    path.write_text(json.dumps(old))
    config.train.accumulate = 2
    with pytest.raises(InputError, match=r"config\.train\.accumulate: 1 there, 2 now"):
        claim(tmp_path, config, DATA)


def test_other_code_or_data_is_refused_with_the_difference_unless_it_is_accepted(tmp_path, monkeypatch):
    config = base()
    claim(tmp_path, config, DATA)
    check_origin(tmp_path, config, DATA)
    with pytest.raises(InputError, match=r"data\.faces train: aa there, bb now.*--config\.accept_changes=True"):
        check_origin(tmp_path, config, {"faces train": "bb"})
    monkeypatch.setattr("mlcm_jax.training.workdir.code_version", lambda: "9.9 (cc)")
    with pytest.raises(InputError, match=r"code: .* there, 9\.9 \(cc\) now"):
        check_origin(tmp_path, config, DATA)
    config.accept_changes = True
    claim(tmp_path, config, DATA)
    config.accept_changes = False
    claim(tmp_path, config, DATA)
    noted = json.loads((tmp_path / "origin.json").read_text())
    assert noted["code"] == "9.9 (cc)" and noted["before"][0]["data"] == DATA and len(noted["before"]) == 1


def test_two_runs_cannot_write_to_one_work_directory(tmp_path):
    with alone(tmp_path / "w"):
        with alone(tmp_path / "other"):
            pass
        with (
            pytest.raises(InputError, match=r"Another process is training in .*w; .*another --workdir"),
            alone(tmp_path / "w"),
        ):
            pass
    with alone(tmp_path / "w"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"Cannot write to the work directory .*file"), alone(tmp_path / "file"):
        pass


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"data": []}', '{"before": 3}'])
def test_a_damaged_record_of_code_and_data_is_refused_with_the_remedy(tmp_path, content):
    claim(tmp_path, base(), DATA)
    (tmp_path / "origin.json").write_text(content)
    for function in (check_origin, claim):
        with pytest.raises(InputError, match=r"origin\.json .*[dD]elete it to resume"):
            function(tmp_path, base(), DATA)


@pytest.mark.parametrize(
    "name", ["cli.py", "configs/a.py", "demo/page.py", "export/graph.py", "inference/predictor.py", "video_command.py"]
)
def test_the_code_version_depends_only_on_code_that_affects_training(tmp_path, name):
    root = tmp_path / "evaluation" / "package"  # the names of folders above do not matter
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / "losses.py").write_text("1")
    first = code_version(root)
    assert first.startswith(__version__)
    (root / name).write_text("1")
    code_version.cache_clear()
    assert code_version(root) == first
    (root / "losses.py").write_text("2")
    code_version.cache_clear()
    assert code_version(root) != first


def test_a_folder_without_a_run_is_reported(tmp_path):
    with pytest.raises(InputError, match="not the work directory"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path)


def test_the_error_for_the_folder_of_several_seeds_names_one(tmp_path):
    claim(tmp_path / "seed_0", base(), DATA)
    with pytest.raises(InputError, match="seed_0"):
        load_config(tmp_path)


def test_a_stage_without_checkpoints_is_reported(tmp_path):
    claim(tmp_path, configs.load("configs/tiny.py", "smoke"), DATA)
    with pytest.raises(InputError, match="was not trained"):
        load_stage(tmp_path, "transfer", mesh=sharding.make_mesh())
    with pytest.raises(InputError, match="no stage 'transfr'"):
        load_stage(tmp_path, "transfr", mesh=sharding.make_mesh())


def test_the_config_is_unchanged_by_json():
    config = base()
    again = ConfigDict(json.loads(config.to_json()))
    assert again.student.to_dict() == config.student.to_dict()


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give another --workdir"):
        claim(tmp_path / "file" / "w", base(), DATA)


def test_a_layout_in_utf_16_is_kept_in_utf_8(tmp_path):
    """The editor of Windows calls this encoding Unicode."""
    config = base()
    (tmp_path / "three.yaml").write_text("count: 3\nflip: [[0, 1]]  # ü\n", encoding="utf-16")
    config.layout = str(tmp_path / "three.yaml")
    claim(tmp_path / "w", config, DATA)
    claim(tmp_path / "w", config, DATA)
    assert (tmp_path / "w" / "layout" / "three.yaml").read_text(encoding="utf-8").endswith("# ü\n")


def test_the_users_own_layout_is_kept_with_the_run(tmp_path):
    own = tmp_path / "three.yaml"
    own.write_text("count: 3\nflip: [[0, 1]]\neye_corners: [0, 1]\n")
    config = base()
    config.layout = str(own)
    claim(tmp_path / "w", config, DATA)
    claim(tmp_path / "w", config, DATA)  # to resume
    text = own.read_text()
    own.write_text(text.replace("count: 3", "count: 4"))
    with pytest.raises(InputError, match="not the layout that"):
        claim(tmp_path / "w", config, DATA)
    own.unlink()
    layout = stages.layout(load_config(tmp_path / "w"))
    assert (layout.name, layout.count, layout.flip.tolist()) == ("three", 3, [1, 0, 2])
    config.layout = str(tmp_path / "no.yaml")
    with pytest.raises(InputError, match=r"no\.yaml does not exist"):
        claim(tmp_path / "v", config, DATA)
