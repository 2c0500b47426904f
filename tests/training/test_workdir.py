import json

import pytest
from ml_collections import ConfigDict

from mlcm_jax import config as configs
from mlcm_jax.config import base
from mlcm_jax.data.build import default_data_dir
from mlcm_jax.errors import InputError
from mlcm_jax.training import sharding, stages
from mlcm_jax.training.workdir import __version__, check_origin, claim, code_version, load_config, load_stage


def test_claim_writes_the_config_and_accepts_the_same_again(tmp_path):
    config = base()
    claim(tmp_path / "w", config)
    claim(tmp_path / "w", config)
    assert load_config(tmp_path / "w").train.lr == config.train.lr


def test_bookkeeping_may_differ_but_nothing_else(tmp_path):
    config = base()
    claim(tmp_path, config)
    config.log_every = 7
    claim(tmp_path, config)
    config.augment.rotation = 1.0
    with pytest.raises(InputError, match=r"config\.augment\.rotation: 20\.0 there, 1\.0 now"):
        claim(tmp_path, config)


def test_a_run_older_than_a_key_has_its_default(tmp_path):
    config = base()
    claim(tmp_path, config)
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    del old["keep_best"], old["train"]["accumulate"]
    path.write_text(json.dumps(old))
    found = load_config(tmp_path)
    assert found.keep_best is False and found.train.accumulate == 1
    claim(tmp_path, config)
    path.write_text(json.dumps(old))
    config.train.accumulate = 2
    with pytest.raises(InputError, match=r"config\.train\.accumulate: 1 there, 2 now"):
        claim(tmp_path, config)


def test_other_code_or_data_is_refused_with_the_difference_unless_it_is_accepted(tmp_path, monkeypatch):
    config, data = base(), {"faces train": "aa"}
    check_origin(tmp_path, config, data)
    check_origin(tmp_path, config, data)
    with pytest.raises(InputError, match=r"data\.faces train: aa there, bb now.*--config\.accept_changes=True"):
        check_origin(tmp_path, config, {"faces train": "bb"})
    monkeypatch.setattr("mlcm_jax.training.workdir.code_version", lambda: "9.9 (cc)")
    with pytest.raises(InputError, match=r"code: .* there, 9\.9 \(cc\) now"):
        check_origin(tmp_path, config, data)
    config.accept_changes = True
    check_origin(tmp_path, config, data)
    config.accept_changes = False
    check_origin(tmp_path, config, data)
    noted = json.loads((tmp_path / "origin.json").read_text())
    assert noted["code"] == "9.9 (cc)" and noted["before"][0]["data"] == data and len(noted["before"]) == 1


def test_the_code_version_follows_the_source_but_not_the_benches(tmp_path):
    root = tmp_path / "bench" / "package"  # the name of a folder above says nothing
    (root / "bench").mkdir(parents=True)
    (root / "a.py").write_text("1")
    first = code_version(root)
    assert first.startswith(__version__)
    (root / "bench" / "b.py").write_text("1")
    code_version.cache_clear()
    assert code_version(root) == first
    (root / "a.py").write_text("2")
    code_version.cache_clear()
    assert code_version(root) != first


def test_a_folder_that_is_no_run_is_said(tmp_path):
    with pytest.raises(InputError, match="not the work directory"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path)


def test_the_parent_of_several_seeds_points_to_one(tmp_path):
    claim(tmp_path / "seed_0", base())
    with pytest.raises(InputError, match="seed_0"):
        load_config(tmp_path)


def test_a_stage_without_checkpoints_is_said(tmp_path):

    claim(tmp_path, configs.load("configs/tiny.py", "smoke"))
    with pytest.raises(InputError, match="was not trained"):
        load_stage(tmp_path, "transfer", mesh=sharding.make_mesh())
    with pytest.raises(InputError, match="no stage 'transfr'"):
        load_stage(tmp_path, "transfr", mesh=sharding.make_mesh())


def test_the_config_survives_json():
    config = base()
    again = ConfigDict(json.loads(config.to_json()))
    assert again.student.to_dict() == config.student.to_dict()


def test_the_data_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("MLCM_DATA_DIR", str(tmp_path))
    assert default_data_dir() == str(tmp_path)
    monkeypatch.delenv("MLCM_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert default_data_dir() == "/c/mlcm_jax"


def test_a_layout_of_the_users_own_stays_with_the_run(tmp_path):
    own = tmp_path / "three.yaml"
    own.write_text("count: 3\nflip: [[0, 1]]\neye_corners: [0, 1]\n")
    config = base()
    config.layout = str(own)
    claim(tmp_path / "w", config)
    claim(tmp_path / "w", config)  # to resume
    text = own.read_text()
    own.write_text(text.replace("count: 3", "count: 4"))
    with pytest.raises(InputError, match="not the layout that"):
        claim(tmp_path / "w", config)
    own.unlink()
    layout = stages.layout(load_config(tmp_path / "w"))
    assert (layout.name, layout.count, layout.flip.tolist()) == ("three", 3, [1, 0, 2])
    config.layout = str(tmp_path / "no.yaml")
    with pytest.raises(InputError, match=r"no\.yaml does not exist"):
        claim(tmp_path / "v", config)
