import json

import numpy as np
import pytest
from conftest import run_mlcm

from mlcm_jax import landmarks
from mlcm_jax.data import pipeline
from mlcm_jax.data.examples import open_examples
from mlcm_jax.evaluation import evaluate
from mlcm_jax.training import sharding
from mlcm_jax.training.workdir import load_config, load_stage


def test_scores_match_numpy():
    rng = np.random.default_rng(0)
    truth = rng.random((20, 68, 2)) * 100
    offset = np.linspace(0, 0.19, 20)[:, None, None] * np.array([60.0, 0.0])
    box = np.tile([0.0, 0.0, 36.0, 100.0], (20, 1))  # √(w·h) = 60
    found = {"prediction": truth + offset, "truth": truth, "box": box, "known": np.ones((20, 68), bool)}
    result = evaluate.scores(found, normalizer="box", layout="ibug68")
    np.testing.assert_allclose(result["errors"], np.linspace(0, 0.19, 20), atol=1e-6)
    assert result["row"]["nme"] == pytest.approx(9.5)
    assert result["row"]["fr10"] == pytest.approx(45.0, abs=5.1)  # 0.11 … 0.19, and 0.10 itself by rounding
    assert result["row"]["fr8"] >= result["row"]["fr10"] and 0 < result["row"]["auc8"] < result["row"]["auc10"] < 1


def test_a_perfect_answer_scores_nothing_and_one():
    truth = np.random.default_rng(0).random((4, 68, 2)) * 50
    found = {"prediction": truth, "truth": truth, "box": np.tile([0.0, 0.0, 50.0, 50.0], (4, 1))}
    found["known"] = np.ones((4, 68), bool)
    row = evaluate.scores(found, normalizer="box", layout="ibug68")["row"]
    assert row["nme"] == row["fr10"] == 0 and row["auc8"] == row["auc10"] == 1


def test_collect_drops_the_padding_and_returns_original_pixels(data_dir):
    examples = open_examples("synthetic_faces/48x48", "test", data_dir=str(data_dir), layout="ibug68")
    batches = pipeline.eval_batches(examples, batch_size=5, size=32, expand=1.25, layout="ibug68")
    found = evaluate.collect(lambda batch: batch["landmarks"], batches, size=32, source="ibug68", target="ibug68")
    expected = np.stack([examples[i]["landmarks"] for i in range(len(examples))])
    np.testing.assert_allclose(found["prediction"], expected, atol=1e-3)
    np.testing.assert_allclose(found["truth"], expected, atol=1e-3)
    assert found["box"].shape == (len(examples), 4)


def test_evaluating_again_gives_the_numbers_of_the_run(smoke_run, data_dir):
    result = run_mlcm("evaluate", f"--workdir={smoke_run}", f"--data_dir={data_dir}")
    assert result.returncode == 0, result.stderr
    assert "NME" in result.stdout and "√(w·h)" in result.stdout
    saved = json.loads((smoke_run / "results_synthetic_faces_48x48_test.json").read_text())
    assert saved == json.loads((smoke_run / "results.json").read_text())


def test_another_split_and_an_unknown_one(smoke_run, data_dir):
    assert run_mlcm("evaluate", f"--workdir={smoke_run}", f"--data_dir={data_dir}", "--split=val").returncode == 0
    bad = run_mlcm("evaluate", f"--workdir={smoke_run}", f"--data_dir={data_dir}", "--split=tset")
    assert bad.returncode == 1 and "no split 'tset'" in bad.stderr
    bad = run_mlcm("evaluate", f"--workdir={smoke_run}", f"--data_dir={data_dir}", "--dataset=nothing")
    assert bad.returncode == 1 and "nothing" in bad.stderr and "Traceback" not in bad.stderr


def test_the_last_batch_counts_as_much_as_any(smoke_run, data_dir):
    """The mean over examples does not depend on the batch size, padded or not."""
    mesh = sharding.make_mesh()
    trained = load_stage(smoke_run, "teacher", mesh=mesh)
    examples = open_examples("synthetic_faces/48x48", "test", data_dir=str(data_dir), layout="ibug68")
    predict, errors = evaluate.predictor(trained.network, "rgb", mesh), []
    for size in (1, 4):
        batches = pipeline.eval_batches(examples, batch_size=size, size=32, expand=1.25, layout="ibug68")
        found = evaluate.collect(predict, batches, size=32, source="ibug68", target="ibug68")
        errors.append(evaluate.scores(found, normalizer="box", layout="ibug68")["errors"])
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-4)


def test_a_set_of_another_layout_is_scored_in_the_points_that_both_share(smoke_run, data_dir):
    mesh = sharding.make_mesh()
    trained = {"teacher": load_stage(smoke_run, "teacher", mesh=mesh)}
    config = load_config(smoke_run)
    found = {}
    for layout in ("ibug68", "sf_tl54"):
        examples = open_examples("synthetic_faces/48x48", "test", data_dir=str(data_dir), layout=layout)
        options = {"config": config, "split": "test", "mesh": mesh}
        results, errors, predictions = evaluate.evaluate_networks(trained, examples, **options)
        found[layout] = predictions["teacher"], errors["teacher"], results["rows"][1]["nme"]
        truth = np.stack([examples[k]["landmarks"] for k in range(len(examples))])
        box = np.stack([examples[k]["box"] for k in range(len(examples))])
        distance = np.linalg.norm(predictions["teacher"] - truth, axis=-1).mean(-1) / np.sqrt(box[:, 2] * box[:, 3])
        np.testing.assert_allclose(errors["teacher"], distance, rtol=1e-4)
    np.testing.assert_allclose(
        landmarks.convert(found["ibug68"][0], "ibug68", "sf_tl54"), found["sf_tl54"][0], atol=1e-3
    )


def test_points_that_nobody_marked_do_not_count():
    truth = np.random.default_rng(0).random((2, 68, 2)) * 50
    known = np.ones((2, 68), bool)
    known[0, :30] = False
    prediction = truth + np.where(known[..., None], np.array([3.0, 4.0]), 1000.0)
    found = {"prediction": prediction, "truth": truth, "box": np.tile([0.0, 0.0, 50.0, 50.0], (2, 1)), "known": known}
    np.testing.assert_allclose(evaluate.scores(found, normalizer="box", layout="ibug68")["errors"], 0.1, rtol=1e-5)
