"""Small networks, batches and recipes for the tests of a training step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mlcm_jax import config as configs
from mlcm_jax import landmarks
from mlcm_jax.models import network as networks
from mlcm_jax.training import recipe as recipes
from mlcm_jax.training import state as states
from mlcm_jax.training import step as steps
from mlcm_jax.training.recipe import Recipe

K, SIZE, BATCH = 5, 16, 4
STUDENT = {"name": "resnet18", "width": 0.125, "depths": (1, 1), "stem": "small", "head": "heatmap", "upsample": 1}
NORMALISED_HEAD = {"upsample": 2, "head_channels": 8}  # a head with batch normalisation
LAYOUT = landmarks.get("tfw5")
TEACHERS = {"teacher": "rgb"}


def config_of(loss="l1", **options):
    """Returns the default config with a loss and options of that loss."""
    config = configs.base()
    config.loss.name = loss
    config.loss.options.update(options)
    return config


@functools.cache
def network(seed, **options):
    return networks.create(STUDENT | options, num_landmarks=K, key=jax.random.key(seed))


def aam(seed, decoder="nearest", **options):
    """Returns a network whose head predicts 8x8 maps for images of 16x16."""
    return network(seed, head="aam", upsample=2, head_channels=8, decoder=decoder, **options)


@functools.cache
def coordinates(seed):
    model = {key: value for key, value in STUDENT.items() if key != "upsample"} | {"head": "coordinates"}
    return networks.create(model, num_landmarks=K, key=jax.random.key(seed))


def batch(seed=0, mask=(True,) * BATCH):
    rng = np.random.default_rng(seed)
    return {
        "rgb": jnp.asarray(rng.random((BATCH, SIZE, SIZE, 3)), jnp.float32),
        "thermal": jnp.asarray(rng.random((BATCH, SIZE, SIZE, 1)), jnp.float32),
        "landmarks": jnp.asarray(rng.random((BATCH, K, 2)), jnp.float32),
        "visible": jnp.asarray(rng.random((BATCH, K)) < 0.7),
        "known": jnp.ones((BATCH, K), bool),
        "weight": jnp.ones((BATCH, K), jnp.float32),
        "mask": jnp.asarray(mask),
    }


def task(loss="l1", **options):
    """Returns the terms that need no teacher."""
    return recipes.terms_of_task(config_of(loss, **options), LAYOUT)


def distilling(loss="l1", **weights):
    """Returns the terms of MLCM-KD for weights and options of `config.transfer`; other weights are 0."""
    options = configs.base().transfer
    options.update({"alpha": 0.0, "beta": 0.0, "gamma": 0.0, "delta": 0.0, "maps": 0.0} | weights)
    return recipes.distillation(options, "teacher", recipes.point_loss(config_of(loss)))


def make_recipe(*terms, **options):
    """Returns a recipe of a thermal student with the given terms, or with the task alone if there are none."""
    defaults = {"modality": "thermal", "tx": optax.sgd(1e-3), "total_steps": 10, "teachers": TEACHERS}
    return Recipe(terms=terms or task(), **defaults | options)


def start(recipe, student=None, teacher=None):
    """Returns the state at step 0, with adapters if the teacher's features have another width."""
    student = network(1) if student is None else student
    adapter = {}
    if teacher is not None:
        adapter = states.init_adapter(networks.channels(student), networks.channels(teacher), jax.random.key(9))
    return states.create(student, adapter, recipe.tx)


@functools.cache
def _compiled(recipe):
    return jax.jit(functools.partial(steps.train_step, recipe=recipe))


def step(recipe, state, teachers, data, seed=0):
    return _compiled(recipe)(state, teachers, data, jax.random.key(seed))


@functools.partial(jax.jit, static_argnames="recipe")
def _parts(state, teachers, data, key, recipe):
    return steps._loss(states.trainable(state.network, state.adapter), state, teachers, data, key, recipe)[1][0]


def value(recipe, state, teachers, data, seed=0):
    """Returns the loss and its parts, without taking the step: this compiles in a fraction of the time."""
    return _parts(state, teachers, data, jax.random.key(seed), recipe)


def predicted(student, data, modality="thermal", train=True):
    """Returns the prediction of a network, by default in training mode, with numpy arrays."""
    features, _ = networks.run_backbone(student, data[modality], train=train)
    return jax.tree.map(np.asarray, networks.run_head(student, features, train=train)[0])


def changed(before, after):
    return any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before, after)))
