"""`config.thermal_range` and `config.gain` give the same gray levels in training, selection, scoring and prediction."""

import json

import jax
import numpy as np
import pairs
import pytest
import stored_runs

import tfds_builders
from mlcm_jax import config as configs
from mlcm_jax import landmarks
from mlcm_jax.data import augment
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import evaluate, pseudo_labels, rescore
from mlcm_jax.inference.predict_files import predict_files
from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.models import stored
from mlcm_jax.training import run_stage, sharding, stages, workdir

DATASET, LOW, HIGH = "synthetic_faces/48x48", 24.0, 36.0
LAYOUT = landmarks.get("ibug68")
MESH = sharding.make_mesh(jax.devices()[:1])


def celsius_of(record):
    return record["celsius"].astype(np.float64).reshape(48, 48) / 100 - 273.15


def fixed(record, values, box):
    """The gray levels of `thermal_range`, by numpy."""
    return np.round(np.clip((celsius_of(record) - LOW) / (HIGH - LOW), 0, 1) * 255).astype(np.uint8)


def stretched(record, values, box):
    """The gray levels of the gain "box", by numpy."""
    x, y, w, h = np.asarray(box, np.float64)
    inside = values[max(0, int(np.ceil(y))) : int(np.ceil(y + h)), max(0, int(np.ceil(x))) : int(np.ceil(x + w))]
    low, high = np.percentile(inside, (2, 98))
    return np.round(np.clip(25.5 + (values - low) * (204 / (high - low)), 0, 255)).astype(np.uint8)


# How a setting is written into the config and into the description of a stored model, and its gray levels.
SETTINGS = {
    "range": ({"thermal_range": (LOW, HIGH)}, {"thermal_range": (LOW, HIGH)}, fixed),
    "box": ({"gain": "box"}, {"gain": "box"}, stretched),
    "as_is": ({"gain": "as_is"}, {"gain": "as_is"}, lambda record, values, box: values),
}


@pytest.fixture(params=SETTINGS)
def setting(request):
    return SETTINGS[request.param]


def crop_of(setting, record, size, expand=1.1, values=None):
    """Returns the crop of a record, float32 [1, size, size, 1], whose gray levels numpy computes."""
    values = record["thermal"].reshape(48, 48) if values is None else values
    example = {"thermal": setting[2](record, values, record["box"]), "box": record["box"]}
    example |= {"visible": record["visible"], "landmarks": record["landmarks"]}
    return augment.crop(example, augment.Crop(size, expand, LAYOUT))["thermal"][None]


@pytest.fixture(scope="module")
def records(data_dir):
    """The first record of each split, as the builder wrote it."""
    builder = tfds_builders.build(DATASET, str(data_dir))
    return {split: builder.as_data_source(split=split)[0] for split in ("train", "val", "test")}


def config_of(**changes):
    """Returns the smoke config without augmentation."""
    config = configs.load("configs/tiny.py", "smoke")
    config.augment = dict.fromkeys(config.augment, 0.0) | {"expand": 1.1}
    config.update(changes)
    stages.check(config)
    return config


def prepared(folder, data_dir, **changes) -> run_stage.Run:
    validate = lambda network, examples, modality: 0.0  # noqa: E731
    return run_stage.prepare(config_of(**changes), folder, data_dir=str(data_dir), mesh=MESH, validate=validate)


def batch_with(run, stage, record):
    """Returns the thermal image of a record from the batches of a stage, float32 [1, S, S, 1]."""
    batches = run_stage._batches(run, stage, ("thermal",))
    for step in range(200):
        same = (batches[step]["box"] == np.asarray(record["box"], np.float32)).all(1)
        if same.any():
            return batches[step]["thermal"][same][:1] / np.float32(255)
    raise AssertionError("the record was never drawn")


def assert_seen(seen, wanted):
    """Asserts that images are equal up to rounding to 8 bits."""
    assert np.shape(seen) == wanted.shape
    np.testing.assert_allclose(seen, wanted, atol=1.01 / 255)


def test_the_settings_differ(records):
    """Otherwise the other tests of this file could pass by accident."""
    one, two, three = (crop_of(setting, records["test"], 32) for setting in SETTINGS.values())
    assert min(np.abs(a - b).max() for a, b in ((one, two), (two, three), (one, three))) > 20 / 255


def test_training_with_and_without_a_thermal_teacher(tmp_path, data_dir, records, setting):
    """Covers a teacher that reads thermal images of its own dataset, too."""
    wanted = crop_of(setting, records["train"], 32)
    run = prepared(tmp_path, data_dir, **setting[0])
    assert_seen(batch_with(run, "transfer", records["train"]), wanted)
    modalities = {"teacher": "thermal", "student": "thermal"}
    run = prepared(tmp_path, data_dir, teacher_dataset=DATASET, modalities=modalities, **setting[0])
    assert run.of_teacher is not run.examples
    assert_seen(batch_with(run, "teacher", records["train"]), wanted)
    assert_seen(batch_with(run, "transfer", records["train"]), wanted)


def test_the_dataset_of_an_rgb_teacher_needs_no_temperatures(tmp_path, data_dir, monkeypatch):
    asked = []
    opened = run_stage.open_sets
    monkeypatch.setattr(
        run_stage,
        "open_sets",
        lambda names, split, **options: asked.append((names, options)) or opened(names, split, **options),
    )
    prepared(tmp_path, data_dir, teacher_dataset=DATASET, thermal_range=(LOW, HIGH))
    assert [options.get("thermal_range") for _, options in asked] == [(LOW, HIGH), None]


@pytest.fixture
def seen(monkeypatch):
    """Records the images that networks read in scoring; the predictions are the truth."""
    batches = []
    monkeypatch.setattr(
        evaluate,
        "predictor",
        lambda network, modality, mesh: lambda batch: batches.append(batch[modality]) or batch["landmarks"],
    )
    return batches


def test_selecting_the_best_checkpoint(tmp_path, data_dir, records, seen, setting):
    run = prepared(tmp_path, data_dir, keep_best=True, **setting[0])
    assert evaluate.validation(run.config, MESH)(None, run.validation, "thermal") == pytest.approx(0.0, abs=1e-3)
    assert_seen(seen[0][:1], crop_of(setting, records["val"], 32))


def test_scoring_in_a_run_and_by_the_command_evaluate(smoke_run, tmp_path, data_dir, records, seen, setting):
    config = config_of(**setting[0])
    examples = evaluate.open_test(config, data_dir=str(data_dir))
    first = next(iter(evaluate.eval_batches(examples, evaluate.protocol(config), MESH)))
    assert_seen(first["thermal"][:1], crop_of(setting, records["test"], 32))
    content = json.loads((smoke_run / "config.json").read_text()) | json.loads(json.dumps(setting[0]))
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "transfer").symlink_to(smoke_run / "transfer")
    found = rescore.rescore(tmp_path, split="val", data_dir=str(data_dir))
    assert found["rows"][1]["name"] == "transfer" and found["rows"][1]["nme"] == pytest.approx(0.0, abs=1e-3)
    assert_seen(seen[0][:1], crop_of(setting, records["val"], 32))


def test_a_stored_model_has_the_gain_and_the_range_if_it_reads_thermal_images(tmp_path, data_dir, setting):
    run = prepared(tmp_path, data_dir, **setting[0])
    for stage, limits in (("teacher", ()), ("transfer", setting[0].get("thermal_range", ()))):
        network = stages.initial_network(stage, run.config, mean_shape=run.mean_shape)
        workdir.store(tmp_path, workdir.Trained(stage, network, run.config, run.mean_shape), mesh=MESH)
        card = stored.load(tmp_path / stage)[1]
        assert (card.thermal_range, card.gain) == (limits, setting[0].get("gain", "as_is"))


@pytest.fixture
def crops(monkeypatch):
    """Records the crops that a Predictor passes to its network."""
    shown, predict = [], Predictor._predict
    monkeypatch.setattr(
        Predictor, "_predict", lambda self, images: shown.append(np.asarray(images)) or predict(self, images)
    )
    return shown


@pytest.mark.parametrize("name", ["range", "box"])
def test_predict_shows_these_gray_values(tmp_path, records, crops, name):
    setting, record = SETTINGS[name], records["test"]
    stored_runs.write(tmp_path / "run", stored_runs.card(**setting[1]))
    np.save(tmp_path / "a.npy", celsius_of(record).astype(np.float32))
    box = ",".join(map(str, record["box"].tolist()))
    predict_files([str(tmp_path / "a.npy")], model=str(tmp_path / "run"), box=box, out=str(tmp_path / "out"))
    wanted = crop_of(setting, record, 32, expand=1.25, values=celsius_of(record))
    assert_seen(crops[0], np.concatenate([wanted, wanted[:, :, ::-1]]))


def test_label_shows_these_gray_values(tmp_path, data_dir, records, crops, setting):
    stored_runs.write(tmp_path / "run", stored_runs.card(**setting[1]))
    options = {"stage": "transfer", "split": "test", "data_dir": str(data_dir)}
    pseudo_labels.label(str(tmp_path / "run"), DATASET, out=str(tmp_path / "out"), **options)
    wanted = crop_of(setting, records["test"], 32, expand=1.25)
    assert pseudo_labels.VIEWS[:2] == ((0.0, 0.0, 1.0, False), (0.0, 0.0, 1.0, True))
    assert_seen(crops[0][:2], np.concatenate([wanted, wanted[:, :, ::-1]]))


def test_a_dataset_without_temperatures_is_reported(tmp_path, data_dir):
    name = pairs.build("gray", tmp_path / "files", tmp_path / "built", data_dir, count=8)
    with pytest.raises(InputError, match=r"has no temperatures, so config\.thermal_range does not apply"):
        prepared(tmp_path / "run", tmp_path / "built", dataset=name, thermal_range=(LOW, HIGH))
    assert not (tmp_path / "run").exists()
