import json

import jax
import numpy as np
import pytest
from commands import run_mlcm

from mlcm_jax import config as configs
from mlcm_jax import landmarks
from mlcm_jax.data.examples import open_examples
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import evaluate, rescore
from mlcm_jax.training import sharding
from mlcm_jax.training.workdir import load_config, load_stage

LAYOUT = landmarks.get("ibug68")
SMOKE_SET = "synthetic_faces/48x48"


def smoke_protocol(**changes) -> evaluate.Protocol:
    """Returns the protocol of the smoke config, with changes."""
    config = configs.load("configs/tiny.py", "smoke")
    config.update(changes)
    return evaluate.protocol(config)


def faces(errors, *, side=50.0) -> dict[str, np.ndarray]:
    """Returns faces as `evaluate.collect` does; every landmark is off by a fraction of a box of `side` pixels."""
    truth = np.random.default_rng(0).random((len(errors), 68, 2)) * side
    shift = side * np.asarray(errors)[:, None, None] * np.array([0.6, 0.8])
    box = np.tile([0.0, 0.0, side * 1.6, side / 1.6], (len(errors), 1))  # √(w·h) = side
    return {"prediction": truth + shift, "truth": truth, "box": box, "known": np.ones((len(errors), 68), bool)}


def opened(data_dir, layout="ibug68"):
    return open_examples(SMOKE_SET, "test", data_dir=str(data_dir), layout=layout)


# Scores


def test_scores_match_the_textbook():
    errors = np.linspace(0.005, 0.195, 20)  # none lies at a threshold
    result = evaluate.scores(faces(errors), normalizer="box", layout=LAYOUT)
    np.testing.assert_allclose(result["errors"], errors, rtol=1e-9)
    row = result["row"]
    assert row["nme"] == pytest.approx(10.0)
    assert row["fr8"] == pytest.approx(60.0) and row["fr10"] == pytest.approx(50.0)
    # Below 0.1 are 0.005, 0.015, … 0.095: each adds 1 − e / 0.1 to the area, in all 10 − 0.5 / 0.1 = 5 of 20.
    assert row["auc10"] == pytest.approx(5 / 20) and row["auc8"] == pytest.approx((8 - 0.32 / 0.08) / 20)


def test_a_perfect_prediction_has_no_error_and_an_auc_of_one():
    row = evaluate.scores(faces(np.zeros(4)), normalizer="box", layout=LAYOUT)["row"]
    assert row["nme"] == row["fr8"] == row["fr10"] == 0 and row["auc8"] == row["auc10"] == 1


def test_unlabelled_landmarks_do_not_count():
    found = faces([0.1, 0.1])
    found["known"][0, :30] = False
    found["prediction"][0, :30] += 1000.0
    np.testing.assert_allclose(evaluate.scores(found, normalizer="box", layout=LAYOUT)["errors"], 0.1, rtol=1e-9)


def test_a_face_with_an_unlabelled_eye_cannot_be_normalised_by_the_eyes():
    found = faces([0.1, 0.1])
    found["known"][1, LAYOUT.eye_corners[0]] = False
    with pytest.raises(InputError, match=r"1 of 2 faces have no label at an eye.*choose the normaliser 'box'"):
        evaluate.scores(found, normalizer="outer_eyes", layout=LAYOUT)
    assert evaluate.scores(found, normalizer="box", layout=LAYOUT)["row"]["nme"] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("normalizer", "layout", "message"),
    [
        ("boxes", "ibug68", "Unknown normaliser 'boxes'"),
        ("outer_eyes", "tfw5", "no eye corners"),
        ("pupils", "charlotte43", "no eye centres"),
    ],
)
def test_a_normaliser_that_does_not_fit_the_test_set_is_refused(normalizer, layout, message):
    with pytest.raises(InputError, match=message):
        evaluate.check_normalizer(normalizer, landmarks.get(layout))


# Which faces are frontal


class Posed(list):
    """Examples with a pose only."""

    def metadata(self, index):
        return {} if self[index] is None else {"pose": np.array([self[index], 50.0, 0.0])}


def test_faces_are_frontal_where_the_yaw_is_small():
    yaw = [0.0, 29.9, -29.9, 30.1, -30.1, 90.0]
    assert evaluate.frontal(Posed(yaw)).tolist() == [True, True, True, False, False, False]
    assert evaluate.frontal(Posed([None, None])) is None


# Predictions


def test_collect_drops_the_padding_and_returns_original_pixels(data_dir):
    examples, of = opened(data_dir), smoke_protocol(eval_batch_size=5)
    batches = evaluate.eval_batches(examples, of, sharding.make_mesh())
    found = evaluate.collect(lambda batch: batch["landmarks"], batches, of, LAYOUT)
    expected = np.stack([examples[i]["landmarks"] for i in range(len(examples))])
    np.testing.assert_allclose(found["prediction"], expected, atol=1e-3)
    np.testing.assert_allclose(found["truth"], expected, atol=1e-3)
    np.testing.assert_array_equal(found["box"], np.stack([examples[i]["box"] for i in range(len(examples))]))
    assert found["known"].all() and set(found) == {"prediction", "truth", "box", "known"}


def test_errors_do_not_depend_on_the_batch_size(smoke_run, data_dir):
    """The error of every example is the same, whether or not the last batch is padded."""
    mesh = sharding.make_mesh()
    network = load_stage(smoke_run, "teacher", mesh=mesh).network
    errors = []
    for size in (1, 5):
        of = smoke_protocol(eval_batch_size=size)
        batches = evaluate.eval_batches(opened(data_dir), of, mesh)
        found = evaluate.collect(evaluate.predictor(network, "rgb", mesh), batches, of, LAYOUT)
        errors.append(evaluate.scores(found, normalizer="box", layout=LAYOUT)["errors"])
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-4)


@pytest.fixture(scope="module")
def scored(smoke_run, data_dir):
    """Scores of the smoke run's teacher and last stage, by layout of the test set."""
    mesh = sharding.make_mesh()
    trained = {name: load_stage(smoke_run, name, mesh=mesh) for name in ("teacher", "compress")}
    config = load_config(smoke_run)
    return {
        layout: evaluate.evaluate_networks(trained, opened(data_dir, layout), config=config, mesh=mesh)
        for layout in ("ibug68", "sf_tl54")
    }


@pytest.mark.parametrize("layout", ["ibug68", "sf_tl54"])
@pytest.mark.parametrize("name", ["teacher", "compress"])
def test_errors_are_distances_over_the_side_of_the_box(scored, data_dir, layout, name):
    examples, found = opened(data_dir, layout), scored[layout]
    truth, box = (np.stack([examples[k][key] for k in range(len(examples))]) for key in ("landmarks", "box"))
    distance = np.linalg.norm(found.predictions[name] - truth, axis=-1).mean(-1)
    np.testing.assert_allclose(found.errors[name], distance / np.sqrt(box[:, 2] * box[:, 3]), rtol=1e-4)
    row = next(row for row in found.rows if row["name"] == name)
    assert row["nme"] == pytest.approx(100 * found.errors[name].mean())
    assert row["fr10"] == pytest.approx(100 * np.mean(found.errors[name] > 0.1))
    # The column normalised by the eyes has only frontal faces.
    right, left = (truth[:, k] for k in landmarks.get(layout).eye_corners)
    by_eyes = distance / np.linalg.norm(right - left, axis=-1)
    front = np.array([abs(examples.metadata(k)["pose"][0]) < 30 for k in range(len(examples))])
    assert 0 < front.sum() < len(front)
    assert row["nme_outer_eyes_frontal"] == pytest.approx(100 * by_eyes[front].mean(), rel=1e-4)


def test_a_test_set_of_another_layout_is_scored_in_the_landmarks_that_both_share(scored):
    ours, theirs = (scored[layout].predictions["teacher"] for layout in ("ibug68", "sf_tl54"))
    np.testing.assert_allclose(landmarks.convert(ours, "ibug68", "sf_tl54"), theirs, atol=1e-3)


def test_the_mean_shape_has_its_own_row(scored):
    row = scored["ibug68"].rows[0]
    assert (row["name"], row["modality"], row["params"], row["flops"]) == ("mean_shape", "none", 0, 0)


# Modalities that a test set lacks


class Modalities:
    name = "thermal_only 1.0.0 test"

    def __init__(self, *modalities):
        self.modalities = modalities


def test_stages_whose_images_the_test_set_lacks_are_left_out_and_reported(capsys):
    config = configs.load("configs/tiny.py", "smoke")
    usable = evaluate.readable(config.stages, config, Modalities("thermal"))
    assert usable == ["thermal_alone", "transfer", "light_alone", "compress"]
    assert "Stage teacher reads rgb images, which thermal_only 1.0.0 test lacks" in capsys.readouterr().out


def test_a_test_set_that_no_stage_can_read_is_refused():
    config = configs.load("configs/tiny.py", "smoke")
    with pytest.raises(InputError, match=r"No stage .*thermal_only 1.0.0 test has \(rgb\).*config.test_dataset"):
        evaluate.readable(("transfer", "compress"), config, Modalities("rgb"))


# The command


def test_evaluating_again_gives_the_results_of_the_run(smoke_run, data_dir):
    result = run_mlcm("evaluate", f"--workdir={smoke_run}", f"--data_dir={data_dir}")
    assert result.returncode == 0, result.stderr
    assert "NME" in result.stdout and "√(w·h)" in result.stdout
    saved = json.loads((smoke_run / "results_synthetic_faces_48x48_test.json").read_text())
    assert saved == json.loads((smoke_run / "results.json").read_text())


@pytest.fixture
def partial_run(smoke_run, tmp_path):
    """A work directory with only the transfer stage of the smoke run."""
    (tmp_path / "config.json").write_text((smoke_run / "config.json").read_text())
    (tmp_path / "transfer").symlink_to(smoke_run / "transfer")
    return tmp_path


def test_another_split_of_a_run_with_one_stage(partial_run, data_dir):
    found = rescore.rescore(partial_run, split="val", data_dir=str(data_dir))
    assert [row["name"] for row in found["rows"]] == ["mean_shape", "transfer"] and found["split"] == "val"
    assert json.loads((partial_run / "results_synthetic_faces_48x48_val.json").read_text()) == found


def test_splits_datasets_and_stages_that_do_not_exist_are_reported(partial_run, data_dir):
    with pytest.raises(InputError, match="no split 'tset'"):
        rescore.rescore(partial_run, split="tset", data_dir=str(data_dir))
    with pytest.raises(InputError, match="Unknown dataset 'nothing'"):
        rescore.rescore(partial_run, dataset="nothing", data_dir=str(data_dir))
    (partial_run / "transfer").unlink()
    with pytest.raises(InputError, match="has no trained stage"):
        rescore.rescore(partial_run, data_dir=str(data_dir))


def test_an_unfinished_stage_is_left_out_and_reported(partial_run, data_dir, capsys):
    content = json.loads((partial_run / "config.json").read_text())
    content["steps"]["student"] = 9
    (partial_run / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="no finished stage"):
        rescore.rescore(partial_run, data_dir=str(data_dir))
    assert "Stage transfer" in (shown := capsys.readouterr().out) and "has reached step 8 of 9" in shown


def test_a_run_can_be_scored_on_fewer_devices_than_it_was_trained_on(smoke_run, data_dir, monkeypatch):
    """A run that was trained on four devices is scored on the devices of this machine."""
    config = load_config(smoke_run)
    config.mesh.data = 4
    monkeypatch.setattr(rescore, "load_config", lambda workdir: config)
    seen = []
    monkeypatch.setattr(evaluate, "open_test", lambda config, data_dir: seen.append(config) or opened(data_dir))
    monkeypatch.setattr(
        evaluate, "evaluate_networks", lambda *_, mesh, **__: seen.append(mesh) or evaluate.Scores([], {}, {})
    )
    monkeypatch.setattr(rescore, "load_stage", lambda *_, **__: None)
    monkeypatch.setattr(rescore, "write_json", lambda *_: None)
    rescore.rescore(smoke_run, data_dir=str(data_dir))
    assert seen[1].size == len(jax.devices())
