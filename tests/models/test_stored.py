"""Stored models: what is written is what is read, and messages about damaged files name them."""

import dataclasses
import hashlib
import json
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy
import stored_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from mlcm_jax import config as configs
from mlcm_jax import landmarks, layout_file
from mlcm_jax.errors import InputError
from mlcm_jax.models import network as networks
from mlcm_jax.models import stored
from mlcm_jax.training import sharding, workdir

IMAGES = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
AGAIN = "run the training command again, which writes stage transfer anew."
OWN = """
name: own3
count: 3
flip: [[0, 1]]
edges: [[0, 1], [1, 2]]
"""


def assert_same(one, two):
    assert jax.tree.leaves(one) and jax.tree.structure(one) == jax.tree.structure(two)
    jax.tree.map(np.testing.assert_array_equal, one, two)


def assert_predicts_alike(one, two, images=IMAGES):
    np.testing.assert_allclose(networks.predict(one, images), networks.predict(two, images), atol=1e-6)


@pytest.fixture
def folder(tmp_path):
    """The folder of a stored model."""
    card = stored_runs.card()
    stored.save(tmp_path / "transfer", stored_runs.network(card), card)
    return tmp_path / "transfer"


def refused(folder) -> str:
    """The message with which a stored model is refused."""
    with pytest.raises(InputError) as caught:
        stored.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Saving and loading


def test_the_training_command_replaces_damaged_and_outdated_files(folder):
    """The messages about damaged files promise this."""
    card = stored_runs.card()
    config = configs.load("configs/tiny.py", "smoke")
    config.student, config.image_size = ConfigDict(stored_runs.ARCHITECTURE), card.image_size
    new = stored_runs.network(card)
    new = new.replace(params=jax.tree.map(lambda leaf: leaf + 1.0, new.params))
    trained = workdir.Trained("transfer", new, config, np.zeros((card.layout.count, 2), np.float32))
    mesh = sharding.make_mesh(jax.devices()[:1])
    for damage in (lambda path: None, lambda path: path.write_bytes(b"cut")):
        for name in (stored.WEIGHTS, stored.CARD):
            damage(folder / name)
        workdir.store(folder.parent, trained, mesh=mesh)
        assert_same(stored.load(folder)[0], new)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"modality": "rgb", "image_size": 64, "expand": 1.1, "stage": "teacher"},
        {"thermal_range": (20.0, 40.5)},
        {"architecture": stored_runs.ARCHITECTURE | {"head": "heatmap", "upsample": 1, "temperature": 0.5}},
        {"architecture": stored_runs.ARCHITECTURE | {"dtype": "bfloat16"}},
    ],
)
def test_what_is_saved_is_loaded(tmp_path, changes):
    card = stored_runs.card(**changes)
    network = stored_runs.network(card)
    stored.save(tmp_path, network, card)
    found, facts = stored.load(tmp_path)
    assert_same((network.params, network.stats), (found.params, found.stats))
    for field in dataclasses.fields(card):
        one, two = getattr(card, field.name), getattr(facts, field.name)
        assert two == (json.loads(json.dumps(one)) if field.name == "architecture" else one)
    images = np.repeat(IMAGES, 3, -1) if card.modality == "rgb" else IMAGES
    assert_predicts_alike(network, found, images)


def test_a_layout_of_the_user_is_stored_too(tmp_path):
    (tmp_path / "own3.yaml").write_text(OWN)
    layout = layout_file.read_layout(tmp_path / "own3.yaml")
    head = {"head": "aam", "upsample": 1, "head_channels": 8, "layout": str(tmp_path / "own3.yaml")}
    card = stored_runs.card(architecture=stored_runs.ARCHITECTURE | head, layout=layout)
    network = networks.create(card.architecture | {"layout": layout}, num_landmarks=3, key=jax.random.key(0))
    stored.save(tmp_path / "m", network, card)
    (tmp_path / "own3.yaml").unlink()
    found, facts = stored.load(tmp_path / "m")
    assert landmarks.same(facts.layout, layout) and facts.layout.name == "own3"
    np.testing.assert_array_equal(facts.layout.flip, layout.flip)
    assert str(tmp_path) not in (tmp_path / "m" / stored.CARD).read_text()
    assert_predicts_alike(network, found)


def test_a_crash_while_saving_keeps_the_old_model(folder, monkeypatch):
    before = stored.load(folder)[0]

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stored, "write_json", crash)
    with pytest.raises(KeyboardInterrupt):
        stored.save(folder, stored.load(folder)[0], stored_runs.card())
    assert_same(stored.load(folder)[0].params, before.params)


@pytest.mark.parametrize("stage", ["teacher", "transfer", "compress"])
def test_the_stored_model_of_a_run_predicts_what_its_checkpoint_does(smoke_run, stage):
    checkpoint = workdir.load_stage(smoke_run, stage, mesh=sharding.make_mesh(jax.devices()[:1])).network
    found, card = stored.load(smoke_run / stage)
    config = configs.load("configs/tiny.py", "smoke")
    assert (card.image_size, card.expand, card.layout.name) == (config.image_size, config.augment.expand, config.layout)
    assert card.modality == ("rgb" if stage == "teacher" else "thermal")
    images = np.repeat(IMAGES, 3, -1) if stage == "teacher" else IMAGES
    assert_predicts_alike(checkpoint, found, images)
    assert np.abs(networks.predict(found, images)[0] - networks.predict(found, images)[1]).max() > 1e-5


# Damaged files


def test_missing_files_are_reported(folder):
    (folder / stored.WEIGHTS).rename(folder / "elsewhere")
    assert refused(folder) == f"The weights {folder / stored.WEIGHTS} are missing; {AGAIN}"
    (folder / stored.CARD).unlink()
    assert f"The file {folder / stored.CARD} does not exist." in refused(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_weights_are_reported(folder, kept):
    path = folder / stored.WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    assert f"The weights {path} are damaged" in refused(folder)


def test_weights_of_an_unknown_type_are_reported(folder):
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (folder / stored.WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    assert str(folder / stored.WEIGHTS) in refused(folder)


@settings(max_examples=60)
@given(st.data())
def test_weights_with_a_changed_byte_are_reported(tmp_path_factory, data):
    card = stored_runs.card()
    folder = tmp_path_factory.getbasetemp() / "one_byte"
    if not folder.exists():
        stored.save(folder, stored_runs.network(card), card)
        (folder / "whole").write_bytes((folder / stored.WEIGHTS).read_bytes())
    content = bytearray((folder / "whole").read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / stored.WEIGHTS).write_bytes(content)
    with pytest.raises(InputError, match=str(folder)):
        stored.load(folder)


def change_weights(folder, change):
    """Applies `change(arrays)`, in place, to the stored arrays."""
    arrays = safetensors.numpy.load((folder / stored.WEIGHTS).read_bytes())
    change(arrays)
    weights = safetensors.numpy.save(arrays)
    (folder / stored.WEIGHTS).write_bytes(weights)
    change_card(folder, weights_sha256=hashlib.sha256(weights).hexdigest())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_reported(folder, value):
    def spoil(arrays):
        array = np.array(arrays[name := sorted(arrays)[3]])
        array.flat[-1] = value
        arrays[name] = array

    change_weights(folder, spoil)
    assert f"{folder / stored.WEIGHTS} holds values that are not finite" in refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop(sorted(arrays)[0]),
        lambda arrays: arrays.update(stray=np.zeros(3, np.float32)),
        lambda arrays: arrays.update({(name := sorted(arrays)[0]): arrays[name].astype(np.float16)}),
        lambda arrays: arrays.update({(name := sorted(arrays)[0]): arrays[name][None]}),
        lambda arrays: arrays.clear(),
    ],
    ids=["a missing key", "a stray key", "another type", "another shape", "nothing"],
)
def test_weights_of_another_architecture_are_reported(folder, change):
    change_weights(folder, change)
    message = refused(folder)
    assert f"{folder / stored.WEIGHTS} does not fit {folder / stored.CARD}" in message
    assert AGAIN in message


def change_card(folder, **changes):
    content = json.loads((folder / stored.CARD).read_text())
    (folder / stored.CARD).write_text(json.dumps(content | changes))


ARCHITECTURE = json.loads(json.dumps(stored_runs.ARCHITECTURE))


@pytest.mark.parametrize(
    "architecture",
    [
        ARCHITECTURE | {"name": "resnet81"},
        ARCHITECTURE | {"widht": 1.0},
        ARCHITECTURE | {"width": "wide"},
        ARCHITECTURE | {"width": -1},
        ARCHITECTURE | {"depths": 3},
        ARCHITECTURE | {"depths": ["1"]},
        ARCHITECTURE | {"dtype": "float17"},
        ARCHITECTURE | {"head": None},
    ],
)
def test_an_unknown_architecture_is_reported(folder, architecture):
    change_card(folder, architecture=architecture)
    assert f"{folder / stored.CARD} describes no model of this version" in refused(folder)


def test_a_newer_format_is_reported(folder):
    change_card(folder, format=2)
    assert "has a format that this version does not support; use the version that wrote it" in refused(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '"format"', "[1, 2]", '{"format": 1}', "\x00"])
def test_a_file_that_is_not_a_card_is_reported(folder, text):
    (folder / stored.CARD).write_text(text)
    assert str(folder / stored.CARD) in refused(folder)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("stage", [None, 3]),
        ("architecture", [None, [], {}, "resnet18", {"name": 3}]),
        ("layout", [None, 3, "ibug86", {}, {"name": "x"}]),
        ("image_size", [None, "32", 32.5, 0, -32, True, 2**40]),
        ("expand", [None, "1", 0, -1.0, float("nan"), float("inf"), True, 1e300]),
        ("modality", [None, "depth", 1, "RGB"]),
        ("thermal_range", [None, 3, "ab", [40, 20], [20], [20, 30, 40], ["20", "40"], [float("nan"), 40]]),
        ("gain", [None, "frame", 1]),
        ("calibration", [None, 3, "abc", [1.0, 2.0], [1, 2, "3"], [0, 1, 1], [-1, 1, 1], [float("nan"), 1, 1]]),
    ],
)
def test_an_invalid_field_is_reported(folder, name, values):
    for value in values:
        change_card(folder, **{name: value})
        assert f"{folder / stored.CARD} does not describe a model" in refused(folder), value


def test_a_file_without_a_threshold_is_one_of_an_earlier_version(folder):
    content = json.loads((folder / stored.CARD).read_text())
    del content["threshold"], content["second"]
    (folder / stored.CARD).write_text(json.dumps(content))
    assert (stored.load(folder)[1].threshold, stored.load(folder)[1].second) == (0.5, ())


@pytest.mark.parametrize("field", dataclasses.fields(stored.Card)[:-2], ids=lambda field: field.name)
def test_a_missing_field_is_reported(folder, field):
    content = json.loads((folder / stored.CARD).read_text())
    del content[field.name]
    (folder / stored.CARD).write_text(json.dumps(content))
    assert f"does not describe a model ('{field.name}')" in refused(folder)
