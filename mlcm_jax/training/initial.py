"""The state with which a stage begins, as arrays or as shapes, and the shapes of all that its step reads."""

from collections.abc import Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from mlcm_jax import shape_model
from mlcm_jax.errors import InputError
from mlcm_jax.models import network as networks
from mlcm_jax.training import stages
from mlcm_jax.training import state as states
from mlcm_jax.training import step as steps
from mlcm_jax.training.recipe import Recipe
from mlcm_jax.training.workdir import Trained


def start_state(
    name: str, config: ConfigDict, recipe: Recipe, trained: Mapping[str, Trained], mean_shape: np.ndarray
) -> states.TrainState:
    """Returns the state of a stage at step 0: random weights, or the teacher's where the config says so.

    Args:
        name: the stage's name.
        config: the run's config.
        recipe: the stage's recipe.
        trained: networks by stage; at least those that this stage needs (`stages.requirements`).
        mean_shape: float32 [K, 2] in u.
    """
    stage = stages.STAGES[name]
    network = stages.initial_network(name, config, mean_shape=mean_shape)
    part, source_stage = stages.initial_weights(name, config)
    source = trained[source_stage].network if part else None
    if part == "all":
        if jax.tree.map(np.shape, source.params) != jax.tree.map(np.shape, network.params):
            raise InputError(
                "config.student_init='teacher' needs config.student to be the same model as config.teacher."
            )
        params, stats = jax.tree.map(jax.numpy.copy, (source.params, source.stats))
        network = network.replace(params=params, stats=stats)
    elif part == "head":
        network = states.with_head_of(network, source)
    adapter = {}
    if recipe.needs_features:
        channels = networks.channels(network), networks.channels(trained[stage.teachers[0]].network)
        adapter = states.init_adapter(*channels, stages.role_key(config.seed, f"{name} adapter"))
    return states.create(network, adapter, recipe.tx)


def start_shapes(
    name: str,
    config: ConfigDict,
    recipe: Recipe,
    networks_by_stage: Mapping[str, networks.Network],
    mean_shape: np.ndarray,
) -> states.TrainState:
    """Returns `start_state` as shapes, without making arrays. The networks given may be arrays or shapes too."""

    def start(given: dict[str, networks.Network]) -> states.TrainState:
        trained = {key: Trained(key, network, config, mean_shape) for key, network in given.items()}
        return start_state(name, config, recipe, trained, mean_shape)

    return jax.eval_shape(start, dict(networks_by_stage))


def shapes_of_step(
    name: str,
    config: ConfigDict,
    *,
    soft: shape_model.ShapeModel | None = None,
    given: Mapping[str, networks.Network] | None = None,
) -> tuple[Recipe, states.TrainState, steps.Teachers, dict[str, jax.ShapeDtypeStruct]]:
    """Returns the recipe of a stage and the arguments of its step as shapes, without making arrays.

    Args:
        name: the stage's name.
        config: the run's config.
        soft: the shape model, for a stage that learns soft landmarks.
        given: networks by stage, arrays or shapes, as far as they are known.

    Returns:
        (recipe, state, teachers, batch).

    Raises:
        ValueError: the stage learns soft landmarks, and `soft` is missing.
    """
    if stages.STAGES[name].soft and soft is None:
        raise ValueError(f"stage {name} needs a shape model")
    known = jax.eval_shape(lambda tree: tree, dict(given or {}))  # without the places of the arrays
    mean_shape = np.full((stages.layout(config).count, 2), 0.5, np.float32)
    needed = {
        one: known[one] if one in known else stages.network_shapes(one, config, mean_shape=mean_shape)
        for one in stages.requirements(name, config)
    }
    recipe = stages.recipe(name, config, soft=soft)
    state = start_shapes(name, config, recipe, needed, mean_shape)
    sizes = {"batch_size": config.train.batch_size, "image_size": config.image_size, "count": len(mean_shape)}
    return recipe, state, {one: needed[one] for one in recipe.teachers}, steps.batch_shapes(recipe, **sizes)
