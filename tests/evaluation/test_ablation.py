"""Ablations: the order in which the grid is trained, what is refused, and what the table says."""

import contextlib
import functools
import json
import os
import signal
import types

import cv2
import jax
import numpy as np
import pytest
from grids import GRID, NONE, smoke
from ml_collections import ConfigDict

from mlcm_jax import config as configs
from mlcm_jax import landmarks
from mlcm_jax.errors import InputError, Interrupted
from mlcm_jax.evaluation import ablation, evaluate
from mlcm_jax.training import run_stage, sharding, workdir
from mlcm_jax.training.workdir import load_stage

# Statistics


def test_a_paired_difference_matches_the_textbook():
    # d = -1, -0.5, 1: mean -1/6, deviation sqrt(13/12); t(0.975, 2) = 4.302653; half-width 4.302653 * sqrt(13/36).
    found = ablation.paired([4.0, 5.0, 7.0], [5.0, 5.5, 6.0])
    half = 4.302653 * (13 / 36) ** 0.5
    assert found["difference"] == pytest.approx(-1 / 6)
    assert found["low"] == pytest.approx(-1 / 6 - half, rel=1e-6) and found["high"] == pytest.approx(
        -1 / 6 + half, rel=1e-6
    )
    assert found["seeds_better"] == 2 and found["seeds"] == 3
    # t(0.95, 1) = 6.313752, deviation of -1, 0 is sqrt(1/2).
    assert ablation.paired([1.0, 2.0], [2.0, 2.0], confidence=0.9)["high"] == pytest.approx(
        -0.5 + 6.313752 / 2, rel=1e-6
    )


def test_one_seed_has_a_difference_and_no_interval():
    found = ablation.paired([4.0], [5.0])
    assert found == {"difference": -1.0, "low": None, "high": None, "seeds_better": 1, "seeds": 1}
    assert ablation.summarize({"nme": [4.0]}) == {"nme": 4.0, "nme_std": None}
    assert ablation.summarize({"nme": [4.0, 6.0]}) == {"nme": 5.0, "nme_std": pytest.approx(2**0.5)}


# The order of the grid, with trainings that are only recorded

TEST_SET = types.SimpleNamespace(name="d", layout=landmarks.get("ibug68"), modalities=("rgb", "thermal"))
NME = {"teacher": 3.0, "thermal_alone": 6.0, "transfer": 5.0, "light_alone": 8.0}


@pytest.fixture
def trainings(monkeypatch):
    """Records trainings as (seed, folder, stage) instead of running them; the one with index `stop` is interrupted."""
    noted = types.SimpleNamespace(calls=[], stop=None)

    def check(run, trained=None):
        workdir.check_config(run.workdir, run.config)

    def train_stages(run, trained):
        check(run)
        workdir.claim(run.workdir, run.config, run.fingerprints)
        for name in (n for n in run.config.stages if n not in trained):
            if len(noted.calls) == noted.stop:
                noted.stop = None
                raise Interrupted("Stopped", 2)
            noted.calls.append((run.config.seed, run.workdir.parent.name, name))
        assert set(trained) <= set(run.config.stages)
        made = {name: types.SimpleNamespace(gamma=run.config.transfer.gamma) for name in run.config.stages}
        return made | dict(trained)

    def evaluate_networks(trained, examples, *, config, mesh):
        rows = [{"name": "mean_shape", "nme": 12.0, "fr10": 50.0, "auc10": 0.2}]
        for name, one in trained.items():
            nme = NME[name] + 0.1 * config.seed + (one.gamma * (0.25 + config.seed) if name == "transfer" else 0.0)
            rows.append({"name": name, "nme": nme, "fr10": 1.0, "auc10": 0.5})
        return evaluate.Scores(rows, {row["name"]: np.zeros(1) for row in rows}, {})

    monkeypatch.setattr(run_stage, "check", check)
    monkeypatch.setattr(run_stage, "train_stages", train_stages)
    monkeypatch.setattr(evaluate, "evaluate_networks", evaluate_networks)
    monkeypatch.setattr(evaluate, "open_test", lambda *_, **__: TEST_SET)
    return noted


@pytest.fixture
def ablate(trainings, data_dir):
    """`ablation.ablate` on the dataset of the smoke config, with recorded trainings."""
    return functools.partial(ablation.ablate, data_dir=str(data_dir))


def seeds(*numbers, **changes) -> ConfigDict:
    config = smoke(GRID, **changes)
    config.seeds = numbers
    return config


def of_seed(seed):
    return [
        (seed, "none", "thermal_alone"),
        (seed, "shared", "teacher"),
        (seed, "fd_ld", "transfer"),
        (seed, "shared", "transfer"),
    ]


def test_the_grid_goes_seed_by_seed_and_trains_what_is_shared_once(ablate, trainings, tmp_path):
    found = ablate(seeds(0, 4), tmp_path)
    assert trainings.calls == of_seed(0) + of_seed(4)
    assert found == json.loads((tmp_path / "ablation.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == list(GRID) and rows["none"]["paired"] is None and rows["none"]["control"] == ""
    assert rows["none"]["by_seed"] == pytest.approx([6.0, 6.4]) and rows["DIKD"]["by_seed"] == pytest.approx([5.0, 5.4])
    # FD+LD is better than none by 0.75 on seed 0 and worse by 3.25 on seed 4: mean 1.25, half-width 12.7062 * 2.
    assert rows["FD+LD"]["paired"]["difference"] == pytest.approx(1.25)
    assert rows["FD+LD"]["paired"]["low"] == pytest.approx(1.25 - 25.4124, rel=1e-5)
    assert rows["FD+LD"]["paired"]["seeds_better"] == 1 and rows["DIKD"]["paired"]["seeds_better"] == 2
    assert [other["name"] for other in found["others"]] == ["mean_shape", "teacher"]
    assert found["others"][1]["nme"] == pytest.approx(3.2)
    assert json.loads((tmp_path / "fd_ld" / "seed_4" / "config.json").read_text())["transfer"]["gamma"] == 1.0
    image = cv2.imread(str(tmp_path / "ablation.png"))
    assert image is not None and image.std() > 5


@pytest.mark.parametrize(
    ("overrides", "key"),
    [({"train": {"batch_size": 6}}, "train.batch_size"), ({"eval_batch_size": 6}, "eval_batch_size")],
)
def test_batches_that_four_devices_cannot_split_are_refused_first(
    ablate, trainings, tmp_path, monkeypatch, overrides, key
):
    check, four = sharding.check_batch_size, types.SimpleNamespace(shape={"data": 4, "fsdp": 1})
    monkeypatch.setattr(
        sharding, "check_batch_size", lambda size, _, *key, **options: check(size, four, *key, **options)
    )
    with pytest.raises(InputError, match=f"config.{key} of row 'odd'=6 must be a positive multiple of 4"):
        ablate(smoke({"none": NONE, "odd": overrides}), tmp_path)
    assert trainings.calls == []


def test_finished_rows_are_not_trained_again(ablate, trainings, tmp_path):
    first = ablate(seeds(0), tmp_path)
    trainings.calls.clear()
    assert ablate(seeds(0), tmp_path) == first and trainings.calls == []
    # With one more seed and a damaged file, only these are trained.
    (tmp_path / "fd_ld" / "seed_0" / "row.json").write_text('{"row": ')
    ablate(seeds(0, 1), tmp_path)
    assert trainings.calls == [(0, "shared", "teacher"), (0, "fd_ld", "transfer"), *of_seed(1)]


@pytest.mark.parametrize("content", ["[]", "{}", '{"stage": "transfer"}', "\\x00"])
def test_rows_with_a_damaged_file_are_scored_again(ablate, trainings, tmp_path, content):
    first = ablate(seeds(0), tmp_path)
    (tmp_path / "fd_ld" / "seed_0" / "row.json").write_text(content)
    assert ablate(seeds(0), tmp_path) == first


@pytest.mark.parametrize("key, value", [("normalizer", "outer_eyes"), ("test_split", "val"), ("test_dataset", "other")])
def test_all_rows_of_a_table_have_the_same_protocol(ablate, trainings, tmp_path, key, value):
    """Rows that were scored with another protocol are not in the table until they are scored again."""
    ablate(seeds(0), tmp_path)
    changed = seeds(0)
    changed[key] = value
    partial = ablate(changed, tmp_path, only=["none"])
    assert [row["name"] for row in partial["rows"] if row["by_seed"]] == ["none"]
    whole = ablate(changed, tmp_path)
    assert all(row["by_seed"] for row in whole["rows"])
    for row in ("none", "fd_ld", "dikd"):
        found = json.loads((tmp_path / row / "seed_0" / "row.json").read_text())
        assert value in found["test"]


def test_a_grid_that_is_scored_elsewhere_still_says_on_what_it_was_trained(ablate, trainings, tmp_path):
    ablate(seeds(0), tmp_path)
    for path in tmp_path.glob("*/seed_0/row.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"devices": "1 × NVIDIA H200"}))
    changed = seeds(0)
    changed.normalizer = "outer_eyes"
    assert ablate(changed, tmp_path)["devices"] == ["1 × NVIDIA H200"]
    assert "- Trained on 1 × NVIDIA H200." in (tmp_path / "ablation.md").read_text()


def test_an_interrupted_grid_has_a_partial_table_and_resumes(ablate, trainings, tmp_path):
    trainings.stop = 6  # in FD+LD of the second seed
    with pytest.raises(Interrupted):
        ablate(seeds(0, 1, comparisons=(("DIKD", "FD+LD"),)), tmp_path)
    assert trainings.calls == of_seed(0) + of_seed(1)[:2]
    text = (tmp_path / "ablation.md").read_text()
    assert "| none | thermal_alone | 6.05 ± 0.07 |" in text
    assert "| FD+LD (1 of 2 seeds) | transfer | 5.25 | 1.00 | 0.500 | none | -0.75 | 1 of 1 |" in text
    trainings.calls.clear()
    ablate(seeds(0, 1, comparisons=(("DIKD", "FD+LD"),)), tmp_path)
    assert trainings.calls == [(1, "shared", "teacher"), *of_seed(1)[2:]]
    text = (tmp_path / "ablation.md").read_text()
    assert "seeds)" not in text and "- DIKD against FD+LD: -0.75 [" in text


def test_selected_rows_are_trained_and_the_table_has_all_rows(ablate, trainings, tmp_path):
    ablate(seeds(0), tmp_path, only=["none"])
    assert trainings.calls == of_seed(0)[:1]
    text = (tmp_path / "ablation.md").read_text()
    assert "| none | thermal_alone | 6.00 |" in text and "√(w·h) of the box" in text
    assert "| DIKD | transfer | not measured |  |  | none |  |  |" in text
    with pytest.raises(InputError, match=r"no row 'FD'.*FD\+LD"):
        ablate(seeds(0), tmp_path, only=["FD"])


def test_a_row_with_a_teacher_of_its_own_does_not_read_the_shared_one(ablate, trainings, tmp_path):
    rows = GRID | {"warm": {"train": {"lr": 0.01}}}
    config = smoke(rows)
    found = ablate(config, tmp_path)
    assert trainings.calls == [*of_seed(0), (0, "warm", "teacher"), (0, "warm", "transfer")]
    assert found["rows"][-1]["retrained"] == ["teacher"]
    assert "- warm has its own teacher, trained with the row's keys." in (tmp_path / "ablation.md").read_text()


def test_a_changed_config_is_refused_before_anything_is_trained(ablate, trainings, tmp_path):
    ablate(seeds(0), tmp_path)
    trainings.calls.clear()
    changed = seeds(0, 1)
    changed.grid["FD+LD"].transfer.gamma = 2.0
    with pytest.raises(InputError, match=r"fd_ld.*config\.transfer\.gamma: 1\.0 there, 2\.0 now"):
        ablate(changed, tmp_path)
    assert trainings.calls == []
    # A further row does not affect the finished ones.
    config = smoke(GRID | {"LD": {"transfer": {"alpha": 0.0, "beta": 0.0, "delta": 1.0}}})
    ablate(config, tmp_path)
    assert trainings.calls == [(0, "shared", "teacher"), (0, "ld", "transfer")]


@pytest.mark.parametrize(
    ("modalities", "normalizer", "message"),
    [
        (("rgb",), "box", r"Row 'none' cannot be scored: .*\(rgb\).*config.test_dataset"),
        (("thermal",), "outer_eyes", "Row 'none' cannot be scored: .*no eye corners"),
    ],
)
def test_a_row_that_cannot_be_scored_is_reported_before_any_training(
    ablate, trainings, tmp_path, monkeypatch, modalities, normalizer, message
):
    lacking = types.SimpleNamespace(name="d", layout=landmarks.get("tfw5"), modalities=modalities)
    monkeypatch.setattr(evaluate, "open_test", lambda *_, **__: lacking)
    config = seeds(0)
    config.normalizer = normalizer
    with pytest.raises(InputError, match=message):
        ablate(config, tmp_path)
    assert trainings.calls == [] and not list(tmp_path.iterdir())


def test_a_mistake_in_the_last_row_is_reported_before_any_training(monkeypatch, tmp_path, data_dir):
    monkeypatch.setattr(run_stage, "train_stages", lambda *_: pytest.fail("a training began"))
    with pytest.raises(InputError, match=r"Row 'wide' cannot be trained: config\.student: .*width"):
        ablation.ablate(smoke({"none": NONE, "wide": {"student": {"width": -1.0}}}), tmp_path, data_dir=str(data_dir))
    assert not list(tmp_path.iterdir())


# With real trainings


def ablate_for_real(config, workdir, data_dir):
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        return ablation.ablate(config, workdir, data_dir=str(data_dir))


def loaded(workdir, stage):
    return load_stage(workdir, stage, mesh=sharding.make_mesh(jax.devices()[:1])).network


@pytest.mark.slow
def test_an_interrupted_smoke_grid_gives_the_networks_of_a_run_in_one_folder(
    tmp_path, data_dir, smoke_run, monkeypatch, capsys
):
    """Shared stages and rows' own stages are, bit by bit, those of `mlcm train` with the same keys."""
    opened = run_stage.open_writer

    @contextlib.contextmanager
    def interrupting(directory, **options):
        """Sends Ctrl-C in the middle of row FD+LD."""
        with opened(directory, **options) as write:

            def noted(step, scalars):
                write(step, scalars)
                if directory.name == "transfer" and step == 4 and not options["resume_step"]:
                    os.kill(os.getpid(), signal.SIGINT)

            yield noted

    monkeypatch.setattr("mlcm_jax.training.run_stage.open_writer", interrupting)
    config = configs.load("configs/ablation_synthetic.py", "smoke")
    with pytest.raises(Interrupted):
        ablate_for_real(config, tmp_path, data_dir)
    assert "not measured" in (tmp_path / "ablation.md").read_text()
    monkeypatch.setattr("mlcm_jax.training.run_stage.open_writer", opened)
    found = ablate_for_real(config, tmp_path, data_dir)
    assert "resumes at step" in capsys.readouterr().out
    results = {row["name"]: row for row in json.loads((smoke_run / "results.json").read_text())["rows"]}
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["none"]["nme"] == results["thermal_alone"]["nme"] and rows["DIKD"]["nme"] == results["transfer"]["nme"]
    assert found["others"][1]["nme"] == results["teacher"]["nme"]
    for place, stage in (("none", "thermal_alone"), ("shared", "teacher"), ("shared", "transfer")):
        one, two = loaded(tmp_path / place / "seed_0", stage), loaded(smoke_run, stage)
        jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
    other = loaded(tmp_path / "fd_ld" / "seed_0", "transfer")
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, other.params, loaded(smoke_run, "transfer").params)))


def test_a_row_learns_from_the_shared_teacher(tmp_path, data_dir):
    """Two short trainings of the smallest networks: the shared teacher teaches the lightweight student."""
    config = smoke({"one step": {"stages": ("direct",)}})
    for key in ("teacher", "light"):
        config[key] = ConfigDict({"name": "resnet18", "width": 0.125, "depths": (1,), "head": "coordinates"})
    config.steps = ConfigDict({"teacher": 2, "student": 2, "light": 2})
    found = ablate_for_real(config, tmp_path, data_dir)
    assert 0 < found["rows"][0]["nme"] < 100 and found["others"][1]["name"] == "teacher"
    assert sorted(p.name for p in (tmp_path / "one_step" / "seed_0").iterdir()) == [
        ".lock",
        "config.json",
        "direct",
        "origin.json",
        "row.json",
    ]
    assert (tmp_path / "shared" / "seed_0" / "teacher" / "checkpoints").is_dir()
