"""`mlcm train` around the stages: several seeds and their table, plots, and one run with unusual keys."""

import json
from concurrent.futures import ThreadPoolExecutor

import cv2
import jax
import numpy as np
import pairs
import pytest
from ml_collections import ConfigDict

from mlcm_jax import config as configs
from mlcm_jax.data import pipeline
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import evaluate, plots, seeds
from mlcm_jax.models import stored
from mlcm_jax.training import run_stage, sharding, workdir
from mlcm_jax.training.log import read_jsonl

# The table of several seeds


def result(nmes):
    rows = [
        {"name": name, "modality": "thermal", "params": 10, "flops": 20, "nme": nme, "fr10": 1.0, "auc10": 0.5}
        for name, nme in nmes.items()
    ]
    return {"dataset": "d", "split": "test", "normalizer": "box", "rows": rows}


def test_means_deviations_and_paired_differences_match_numpy(tmp_path):
    alone, transfer = [4.0, 5.0, 7.0], [3.5, 5.25, 6.0]
    results = [result({"thermal_alone": a, "transfer": t}) for a, t in zip(alone, transfer, strict=True)]
    found = seeds.combine(results, (0, 1, 2), tmp_path)
    row = found["rows"][0]
    assert row["nme"] == pytest.approx(np.mean(alone)) and row["nme_std"] == pytest.approx(np.std(alone, ddof=1))
    difference = np.subtract(transfer, alone)
    (pair,) = found["paired"]
    assert pair["difference"] == pytest.approx(difference.mean())
    assert pair["std"] == pytest.approx(difference.std(ddof=1))
    assert pair["seeds_better"] == 2
    assert json.loads((tmp_path / "results.json").read_text()) == found


def test_a_row_as_good_as_its_control_is_not_better(tmp_path):
    found = seeds.combine([result({"thermal_alone": 4.0, "transfer": 4.0})], (0,), tmp_path)
    assert found["paired"][0]["seeds_better"] == 0 and found["paired"][0]["difference"] == 0.0


def test_one_seed_has_no_deviation(tmp_path):
    found = seeds.combine([result({"teacher": 3.0})], (5,), tmp_path)
    assert found["rows"][0]["nme_std"] == 0.0 and found["paired"] == [] and found["seeds"] == [5]


def test_every_seed_has_its_own_folders(tmp_path, monkeypatch):
    runs = []

    def train_seed(config, folder, *, data_dir):
        runs.append((config.seed, tuple(config.seeds), folder, config.checkpoint_dir))
        return result({"teacher": float(config.seed)})

    monkeypatch.setattr(seeds, "_train_seed", train_seed)
    config = configs.load("configs/tiny.py", "smoke")
    config.seeds, config.checkpoint_dir = (3, 8), "gs://bucket/run"
    found = seeds.train(config, tmp_path, data_dir="d")
    assert runs == [(k, (), tmp_path / f"seed_{k}", f"gs://bucket/run/seed_{k}") for k in (3, 8)]
    assert found["seeds"] == [3, 8] and found["rows"][0]["nme"] == 5.5
    assert tuple(config.seeds) == (3, 8) and config.seed == 0


def test_the_folder_of_the_last_seed_is_checked_before_the_first_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "_train_seed", lambda *_, **__: pytest.fail("a training began"))
    config = configs.load("configs/tiny.py", "smoke")
    other = config.copy_and_resolve_references()
    other.seed, other.train.lr = 8, 1.0
    (tmp_path / "seed_8").mkdir()
    (tmp_path / "seed_8" / "config.json").write_text(other.to_json())
    config.seeds = (3, 8)
    with pytest.raises(InputError, match=r"seed_8 holds a run of another config \(config.train.lr: 1.0 there"):
        seeds.train(config, tmp_path, data_dir="d")
    assert not (tmp_path / "seed_3").exists()


# Plots


class Drawn(list):
    """Records calls of functions of `plots` instead of drawing: (name, arguments, keyword arguments)."""

    def __init__(self, monkeypatch):
        def record(name):
            return lambda path, *arguments, **options: self.append((name, arguments, options))

        for name in ("ced", "samples", "loss_curves"):
            monkeypatch.setattr(plots, name, record(name))


def test_the_samples_are_of_the_last_stage_that_was_scored(smoke_run, tmp_path, data_dir, monkeypatch):
    """On a test set with RGB images only, thermal stages have no scores."""
    name = pairs.build("rgb", tmp_path / "files", tmp_path / "built", data_dir, count=9, sides=("rgb",))
    config, mesh = workdir.load_config(smoke_run), sharding.make_mesh(jax.devices()[:1])
    config.test_dataset = name
    test = evaluate.open_test(config, data_dir=str(tmp_path / "built"))
    assert test.modalities == ("rgb",)
    trained = {stage: workdir.load_stage(smoke_run, stage, mesh=mesh) for stage in ("teacher", "compress")}
    found = evaluate.evaluate_networks(trained, test, config=config, mesh=mesh)
    assert [row["name"] for row in found.rows] == ["mean_shape", "teacher"]
    drawn = Drawn(monkeypatch)
    seeds._draw(smoke_run, list(trained), test, found, "box")
    (name, (rows,), options) = next(call for call in drawn if call[0] == "samples")
    assert name == "samples" and options["title"] == "stage teacher"
    np.testing.assert_array_equal(rows[0]["prediction"], found.predictions["teacher"][0])
    assert rows[0]["title"] == f"NME {100 * found.errors['teacher'][0]:.1f} %"


def test_a_test_set_that_no_stage_can_read_is_reported_before_any_training(tmp_path, data_dir, monkeypatch):
    name = pairs.build("rgb", tmp_path / "files", tmp_path / "built", data_dir, count=9, sides=("rgb",))
    monkeypatch.setattr(run_stage, "train_stages", lambda *_: pytest.fail("a training began"))
    monkeypatch.setattr(run_stage, "prepare", lambda *_, **__: pytest.fail("the training was prepared"))
    config = configs.load("configs/tiny.py", "smoke")
    config.stages, config.test_dataset = ("thermal_alone", "light_alone"), name
    with pytest.raises(InputError, match=r"No stage of this run reads a modality that .* has \(rgb\)"):
        seeds.train(config, tmp_path / "run", data_dir=str(tmp_path / "built"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("records", [[{"step": 1, "skipped": 1.0}, {"step": 2, "task": 3.0}], [{"step": 1}], []])
def test_the_loss_curve_has_no_point_where_all_steps_were_skipped(tmp_path, monkeypatch, records):
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    drawn = Drawn(monkeypatch)
    found = evaluate.Scores([{"name": "teacher"}], {"teacher": np.zeros(1)}, {"teacher": np.zeros((1, 68, 2))})

    class Examples(list):
        layout = "ibug68"

    seeds._draw(tmp_path, ["teacher"], Examples([{}]), found, "box")
    known = [record for record in records if "task" in record]
    (_, (curves,), _) = next(call for call in drawn if call[0] == "loss_curves")
    assert curves == {"teacher": ([record["step"] for record in known], [r["task"] for r in known])}


# A real run with unusual keys


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory, data_dir):
    """A run of two stages with unusual keys, trained on a thread: its folder, config and results.

    Each stage takes and logs four steps; the second step of the teacher is not finite, and is skipped.
    """
    folder = tmp_path_factory.mktemp("odd")
    config = configs.load("configs/tiny.py", "smoke")
    config.stages, config.test_split = ("teacher", "transfer"), "val"
    for key in ("teacher", "student"):
        config[key] = ConfigDict({"name": "resnet18", "width": 0.125, "depths": (1,), "head": "coordinates"})
    config.more_datasets, config.dataset_weights = ("synthetic_faces/16x48",), (1.0, 3.0)
    config.teacher_dataset = "synthetic_faces/16x48"
    config.thermal_range, config.keep_best = (20.0, 40.0), True
    config.steps = ConfigDict({"teacher": 4, "student": 4, "light": 4})
    config.log_every, config.checkpoint_every = 1, 2
    put, calls = sharding.put_batch, []

    def train(*arguments, **options):
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
            return seeds.train(*arguments, **options)

    def poisoned(batch, mesh):
        batch = put(batch, mesh)
        calls.append(1)
        return batch | {"landmarks": batch["landmarks"] * np.nan} if len(calls) == 2 else batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "put_batch", poisoned)
        with ThreadPoolExecutor(1) as pool:
            results = pool.submit(train, config, folder, data_dir=str(data_dir)).result()
    return folder, config, results


def test_a_run_on_a_thread_writes_its_table_and_plots(odd_run):
    folder, _, results = odd_run
    assert [row["name"] for row in results["rows"]] == ["mean_shape", "teacher", "transfer"]
    assert json.loads((folder / "results.json").read_text()) == results and results["split"] == "val"
    for name in ("samples.png", "ced.png", "loss.png"):
        assert cv2.imread(str(folder / name)) is not None
    assert stored.load(folder / "transfer")[1].thermal_range == (20.0, 40.0)
    assert stored.load(folder / "teacher")[1].thermal_range == ()


def test_a_skipped_step_is_logged_without_a_loss_and_its_examples_are_recorded(odd_run):
    folder = odd_run[0]
    records = read_jsonl(folder / "teacher" / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert ["task" in record for record in records] == [True, False, True, True]
    assert [record["skipped"] for record in records] == [0.0, 1.0, 1.0, 1.0]
    (noted,) = json.loads((folder / "teacher" / "skipped.json").read_text())
    assert noted["step"] == 2 and len(noted["examples"]) == 8


def test_each_stage_trains_on_its_own_datasets(odd_run, data_dir):
    folder, config, _ = odd_run
    mesh = sharding.make_mesh(jax.devices()[:1])
    run = run_stage.prepare(config, folder, data_dir=str(data_dir), mesh=mesh, validate=lambda *_: 0.0)

    def drawn(stage):
        members = [pipeline.members(run.examples_of(stage), run_stage._order(run, stage), step) for step in range(40)]
        return [one["dataset"] for batch in members for one in batch]

    (large, small), (own,), of_student = run.examples, run.of_teacher, drawn("transfer")
    assert "48x48" in large.name and own.name == small.name != large.name and "16x48" in small.name
    assert set(drawn("teacher")) == {own.name}
    # The student draws from the two datasets in proportion 1 to 3, whatever their sizes.
    assert set(of_student) == {large.name, small.name} and 0.68 < np.mean(np.equal(of_student, small.name)) < 0.82
    # The mean shape is that of both datasets.
    labels = [one.labels(i) for one in run.examples for i in range(len(one))]
    u = [(e["landmarks"] - (e["box"][:2] + e["box"][2:] / 2)) / (1.1 * e["box"][2:].max()) + 0.5 for e in labels]
    np.testing.assert_allclose(run.mean_shape, np.mean(u, axis=0), atol=1e-5)
    # The recorded examples of the skipped step are from the teacher's dataset.
    (noted,) = json.loads((folder / "teacher" / "skipped.json").read_text())
    assert {one["dataset"] for one in noted["examples"]} == {own.name}
    assert set(json.loads((folder / "origin.json").read_text())["data"]) == {
        large.name,
        small.name,
        run.validation.name,
    }


@pytest.mark.parametrize(
    ("key", "value"), [("normalizer", "outer_eyes"), ("checkpoint_every", 3), ("keep_best", False)]
)
def test_keys_that_select_the_best_network_may_not_change_when_a_run_resumes(odd_run, key, value):
    folder, config, _ = odd_run
    workdir.check_config(folder, config)
    changed = config.copy_and_resolve_references()
    configs.put(changed, key, value)
    with pytest.raises(InputError, match=rf"config\.{key}: .* there, {value} now"):
        workdir.check_config(folder, changed)


@pytest.mark.parametrize(("key", "value"), [("normalizer", "outer_eyes"), ("checkpoint_every", 2), ("log_every", 5)])
def test_keys_of_scoring_and_bookkeeping_may_change_without_keep_best(smoke_run, key, value):
    changed = configs.load("configs/tiny.py", "smoke")
    configs.put(changed, key, value)
    workdir.check_config(smoke_run, changed)
