"""configs/shipped.py trains what ships: the same network on the same data; a reduced run of it learns."""

import json
from pathlib import Path

import pytest
from commands import run_mlcm

from mlcm_jax import config as configs
from mlcm_jax.files import read_json
from mlcm_jax.inference.open_network import SHIPPED
from mlcm_jax.inference.predictor import Predictor

REAL = Path(__file__).parents[3] / "shared/data/ict_face_light"


def test_the_shipped_network_is_that_of_the_config():
    config, card = configs.load(configs.shipped() / "shipped.py"), Predictor().card
    made_by = config.light if card.stage in ("light_alone", "compress") else config.student
    assert json.loads(json.dumps(made_by.to_dict())) == json.loads(json.dumps(card.architecture))
    assert (card.image_size, card.expand, card.gain) == (config.image_size, config.augment.expand, config.gain)
    assert (card.layout.name, card.modality, card.thermal_range) == ("ibug68", "thermal", ())


def test_what_the_shipped_network_was_trained_on_is_recorded():
    origin = read_json(SHIPPED / "origin.json")
    config = configs.load(configs.shipped() / "shipped.py")
    assert {name.rpartition("/")[0] for name in origin["data"]} == {config.dataset, *config.more_datasets}
    assert all(len(digest) == 16 for digest in origin["data"].values()) and origin["code"]


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["scan", "hand-made"])
def test_a_reduced_run_learns(heads, tmp_path):
    """A hundredth of the pairs, and a sixtieth of the steps."""
    name, given = "synthetic_faces/480x64-96", []
    if heads == "scan":
        if not REAL.exists():
            pytest.skip("no ICT-FaceKit here")
        name, given = "synthetic_faces/scan-480x64-96", [f"--manual_dir={REAL}"]
    data = f"--data_dir={tmp_path / 'data'}"
    built = run_mlcm("build", name, *given, data)
    assert built.returncode == 0, built.stdout + built.stderr
    changes = {"dataset": name, "more_datasets": (), "dataset_weights": (), "stages": ("light_alone",)}
    flags = [f"--config.{key}={value}" for key, value in changes.items()] + ["--config.steps.light=300"]
    result = run_mlcm("train", "--config=configs/shipped.py", f"--workdir={tmp_path / 'run'}", data, *flags)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = {row["name"]: row["nme"] for row in read_json(tmp_path / "run/results.json")["rows"]}
    assert rows["light_alone"] < 0.6 * rows["mean_shape"] and rows["light_alone"] < 9.0
