"""The four examples of CONTRIBUTING.md run as they are printed."""

import importlib
import re
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from flax import nnx

import mlcm_jax
import tfds_builders
from mlcm_jax import config as configs
from mlcm_jax import losses, models
from mlcm_jax.training import recipe as recipes
from mlcm_jax.training import stages
from mlcm_jax.training import state as states
from mlcm_jax.training import step as steps

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
DATASET, BACKBONE, LOSS, STAGE = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.fixture
def added(monkeypatch):
    """Runs the part of an example that adds to a table of a module, and removes the entry afterwards."""

    def run(line, module, table, **names):
        monkeypatch.setattr(module, table, dict(getattr(module, table)))
        exec(line, vars(module) | names)

    return run


def test_half_a_page_of_text_beside_the_examples():
    assert len(re.sub(r"```python\n.*?```", "", TEXT, flags=re.S).split()) < 330


def test_dataset(tmp_path, monkeypatch):
    package = tmp_path / "my_faces"
    package.mkdir()
    (package / "my_faces_dataset_builder.py").write_text(DATASET)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    made = importlib.import_module("my_faces.my_faces_dataset_builder").MyFaces
    monkeypatch.setitem(tfds_builders._BUILDERS, "my_faces", "MyFaces")
    monkeypatch.setattr(tfds_builders, "_class_of", lambda name: made)
    points = np.random.default_rng(0).uniform(20, 100, (68, 2))
    body = "\n".join(f"{x:.3f} {y:.3f}" for x, y in points + 1)
    for split in ("train", "val", "test"):
        (tmp_path / "files" / split).mkdir(parents=True)
        (tmp_path / "files" / split / f"{split}.pts").write_text(f"version: 1\nn_points: 68\n{{\n{body}\n}}\n")
        image = np.random.default_rng(len(split)).integers(0, 255, (128, 128), np.uint8)
        cv2.imwrite(str(tmp_path / "files" / split / f"{split}.png"), image)
    builder = tfds_builders.build("my_faces", tmp_path / "built", manual_dir=tmp_path / "files")
    (example,) = builder.as_data_source(split="val")
    np.testing.assert_allclose(example["landmarks"], points, atol=1e-3)
    assert example["known"].all() and example["thermal"].shape == (128, 128, 1)


def test_backbone(added):
    text, line = BACKBONE.split("# in models/__init__.py\n")
    module = {}
    exec(text, module)
    added(line, models, "_BACKBONES", Patches=module["Patches"])
    model = models.create("patches", num_landmarks=5, width=0.25, rngs=nnx.Rngs(0))
    assert (model.backbone.channels, model.backbone.stride) == (16, 8)
    assert model(jnp.ones((2, 32, 32, 1))).landmarks.shape == (2, 5, 2)


def test_loss(added, monkeypatch):
    text, line = LOSS.split("# in training/recipe.py\n")
    module = dict(vars(losses))
    exec(text, module)
    monkeypatch.setattr(losses, "huberised", module["huberised"], raising=False)
    added(line, recipes, "POINT_LOSSES")
    config = configs.base()
    config.loss.name = "huberised"
    config.loss.options.knee = 2.0
    loss = recipes.point_loss(config)
    np.testing.assert_allclose(loss(jnp.full((1, 1, 2), 0.03), jnp.zeros((1, 1, 2))), 13**0.5 - 2, rtol=1e-6)


def test_stage(added):
    added(STAGE, stages, "STAGES")
    config = configs.load("configs/tiny.py", "smoke")
    config.stages = ("teacher", "mimic")
    config.direct.delta = 0.5
    stages.check(config)
    assert stages.with_required(["mimic"], config) == ("teacher", "mimic")
    recipe, shape = stages.recipe("mimic", config), np.full((68, 2), 0.5, np.float32)
    light, teacher = (stages.initial_network(name, config, mean_shape=shape) for name in ("mimic", "teacher"))
    rng, size = np.random.default_rng(0), config.image_size
    batch = {
        "rgb": jnp.asarray(rng.random((2, size, size, 3)), jnp.float32),
        "thermal": jnp.asarray(rng.random((2, size, size, 1)), jnp.float32),
        "landmarks": jnp.asarray(rng.random((2, 68, 2)), jnp.float32),
        "visible": jnp.ones((2, 68), bool),
        "known": jnp.ones((2, 68), bool),
        "weight": jnp.ones((2, 68)),
        "mask": jnp.ones(2, bool),
    }
    state = states.create(light, {}, recipe.tx)
    step = jax.jit(lambda *arguments: steps.train_step(*arguments, recipe=recipe))
    _, metrics = step(state, {"teacher": teacher}, batch, jax.random.key(0))
    np.testing.assert_allclose(metrics["loss"], metrics["task"] + 0.5 * metrics["logit"], rtol=1e-6)


def test_citation_is_readable_and_of_this_version():
    cited = yaml.safe_load((Path(__file__).parents[1] / "CITATION.cff").read_text())
    assert cited["version"] == mlcm_jax.__version__ and cited["cff-version"] == "1.2.0"
    assert [work["url"].rpartition("/")[2] for work in cited["references"]] == [
        "2510.11128",
        "2111.07047",
        "2404.06029",
    ]
