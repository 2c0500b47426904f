"""configs/detector.py trains what ships; a reduced run of it learns."""

import json

import pytest
from commands import run_mlcm

from mlcm_jax import config as configs
from mlcm_jax.files import read_json
from mlcm_jax.inference.detector import SHIPPED_DETECTOR, Detector
from mlcm_jax.inference.predictor import Predictor


def test_the_shipped_detector_is_that_of_the_config():
    config, card = configs.load(configs.shipped() / "detector.py"), Detector().card
    assert json.loads(json.dumps(config.light.to_dict())) == json.loads(json.dumps(card.architecture))
    assert (card.image_size, card.expand, card.gain) == (config.image_size, config.augment.expand, config.gain)
    assert (card.layout.name, card.modality, card.stage) == ("boxes6", "thermal", "light_alone")
    origin = read_json(SHIPPED_DETECTOR / "origin.json")
    assert {name.rpartition("/")[0] for name in origin["data"]} == {config.dataset} and origin["code"]


def detector_run(tmp_path, *flags):
    """Runs the config on small scenes; returns its row of results.json."""
    words = ["--config=configs/detector.py:smoke", f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path / 'data'}"]
    result = run_mlcm("train", *words, *flags)
    assert result.returncode == 0, result.stdout + result.stderr
    (row,) = read_json(tmp_path / "run/results.json")["rows"]
    return row


def test_a_short_run_is_scored_and_loaded(tmp_path):
    row = detector_run(tmp_path, "--config.dataset=synthetic_scenes/45x64")
    assert 0 <= row["recall"] <= 1 and 0 <= row["ap"] <= 1 and row["images"] == 6 and row["threshold"] > 0
    assert (tmp_path / "run/results_light_alone.png").stat().st_size > 5_000
    again = run_mlcm("evaluate", f"--workdir={tmp_path / 'run'}", "--split=val", f"--data_dir={tmp_path / 'data'}")
    assert again.returncode == 0 and "recall" in again.stdout, again.stderr
    (found,) = tmp_path.glob("run/results_synthetic_scenes_45x64_val.json")
    assert read_json(found)["rows"][0]["images"] == 3
    assert Detector(tmp_path / "run").card.layout.name == "boxes6"
    with pytest.raises(Exception, match="finds boxes, not landmarks"):
        Predictor(tmp_path / "run")


@pytest.mark.slow
def test_a_reduced_run_learns(tmp_path):
    row = detector_run(
        tmp_path,
        "--config.light.width=0.25",
        "--config.image_size=96",
        "--config.steps.light=800",
        "--config.train.batch_size=16",
        "--config.train.ema=0.99",
        "--config.checkpoint_every=400",
    )
    assert row["ap"] > 0.4, row
