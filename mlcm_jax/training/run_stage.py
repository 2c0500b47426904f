"""Walks the stages of a config: loads those that are finished, and trains the others."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mlcm_jax import models, shape_model
from mlcm_jax.console import say
from mlcm_jax.data import pipeline
from mlcm_jax.data.examples import Examples, open_examples, open_sets, require
from mlcm_jax.errors import InputError
from mlcm_jax.training import checkpoint, distributed, loop, sharding, stages
from mlcm_jax.training import state as states
from mlcm_jax.training import step as steps
from mlcm_jax.training.log import open_writer
from mlcm_jax.training.workdir import Trained, bundle, check_origin, checkpoint_folder, finished_stage, load_stage


def start_state(
    name: str, config: ConfigDict, recipe: steps.Recipe, trained: Mapping[str, Trained], mean_shape: np.ndarray
) -> states.TrainState:
    """The state of a stage at step 0: initialised by role, with the teacher's weights where the config says so.

    `trained` are the stages that this one reads (`stages.requirements`); mean_shape is float32 [K, 2] in u.
    """
    stage = stages.STAGES[name]
    network = stages.initial_network(name, config, mean_shape=mean_shape)
    if stage.model == "student" and config.student_init == "teacher":
        source = trained["teacher"].network
        if jax.tree.map(np.shape, source.params) != jax.tree.map(np.shape, network.params):
            raise InputError(
                "config.student_init='teacher' needs config.student to be the same model as config.teacher."
            )
        network = network.replace(
            params=jax.tree.map(jax.numpy.copy, source.params), stats=jax.tree.map(jax.numpy.copy, source.stats)
        )
    if stage.model == "light" and config.light_head_init == "teacher":
        network = states.with_head_of(network, trained["teacher"].network)
    adapter = {}
    if recipe.distillation.needs_features:
        channels = states.channels(network), states.channels(trained[stage.teachers[0]].network)
        adapter = states.init_adapter(*channels, stages.role_key(config.seed, f"{name} adapter"))
    return states.create(network, adapter, recipe.tx)


def start_shapes(
    name: str, config: ConfigDict, recipe: steps.Recipe, networks: Mapping[str, states.Network], mean_shape: np.ndarray
) -> states.TrainState:
    """`start_state` as shapes: no array is made. `networks` are those that the stage reads, as arrays or as shapes."""

    def start(networks):
        trained = {key: Trained(key, network, config, mean_shape) for key, network in networks.items()}
        return start_state(name, config, recipe, trained, mean_shape)

    return jax.eval_shape(start, dict(networks))


def _check_stages(names, config, trained, examples_of, mean_shape) -> None:
    """Raises InputError for what would stop any of the stages at its start, before the first of them is trained."""
    networks = {name: one.network for name, one in trained.items()}
    for name in names:
        recipe = stages.recipe(name, config)
        require(examples_of(name), _read_modalities(recipe), f"Stage {name}")
        for other in stages.requirements(name, config):
            if other not in networks:
                networks[other] = stages.network_shapes(other, config, mean_shape=mean_shape)
        start_shapes(name, config, recipe, networks, mean_shape)


def _read_modalities(recipe: steps.Recipe) -> tuple[str, ...]:
    return tuple(sorted({recipe.modality, recipe.teacher_modality} - {""}))


def teacher_of(name: str, recipe: steps.Recipe, networks: Mapping[str, states.Network]) -> Any:
    """What `step.train_step` takes as the teacher of a stage: a network, the pair of KD-Loss, or None."""
    teachers = tuple(networks[teacher] for teacher in stages.STAGES[name].teachers)
    return teachers if recipe.two_teachers else (teachers[0] if teachers else None)


def train_stage(
    name: str,
    config: ConfigDict,
    workdir: epath.Path,
    *,
    trained: dict[str, Trained],
    examples: Sequence[Examples],
    mean_shape: np.ndarray,
    mesh: Mesh,
    validation: Examples | None = None,
    validate: Callable[..., float] | None = None,
) -> Trained:
    """Trains one stage from its last whole checkpoint to its end.

    Args:
      name: a key of `stages.STAGES`.
      config: of the run.
      workdir: of the run.
      trained: the stages that this one reads.
      examples: the training split of each dataset.
      mean_shape: float32 [K, 2] in u.
      mesh: the devices.
      validation: where `config.keep_best` scores every checkpoint.
      validate: how it does so, `evaluation.evaluate.validation_error`.

    Raises:
      Interrupted: after a signal, when the step in flight is done and saved.
      InputError: a loss that is not finite, a full disk, checkpoints of another model.
    """
    stage, modality = stages.STAGES[name], stages.modality(name, config)
    soft = _shape_model(config, workdir, examples, modality) if stage.soft else None
    finished = finished_stage(workdir, name, config, mesh=mesh, say=say)
    if finished is not None:
        return finished
    recipe = stages.recipe(name, config, soft=soft)
    state = sharding.put_sharded(start_state(name, config, recipe, trained, mean_shape), mesh)
    networks = {teacher: sharding.put_sharded(trained[teacher].network, mesh) for teacher in stage.teachers}
    teacher = teacher_of(name, recipe, networks)

    directory = workdir / name
    manager = checkpoint.open_manager(checkpoint_folder(workdir, name, config))
    restored = checkpoint.restore(manager, "state", checkpoint.abstract(state), say=say)
    start = 0
    if restored is not None:
        state, start = restored
        checkpoint.delete_after(manager, start)
    score = None
    if config.keep_best:
        require([validation], [modality], f"config.keep_best of stage {name}")
        score = functools.partial(validate, examples=validation, config=config, modality=modality, mesh=mesh)
    save = functools.partial(_save, manager, mean_shape=mean_shape, score=score)
    try:
        if start < recipe.total_steps:
            say(models.table(states.join(state.network), config.image_size, channels=3 if modality == "rgb" else 1))
            if start:
                say(f"Stage {name} resumes at step {start} of {recipe.total_steps}.")
            rows = sharding.batch_rows(mesh, config.train.batch_size)
            with open_writer(directory, resume_step=start) as write:
                state = loop.run_steps(
                    name,
                    config,
                    recipe,
                    state,
                    teacher,
                    _batches(config, examples, _read_modalities(recipe), rows=rows),
                    mesh=mesh,
                    rng=sharding.put_replicated(stages.role_key(config.seed, "steps"), mesh),
                    start=start,
                    write=write,
                    save=save,
                    skipped_path=directory / "skipped.json",
                    members=functools.partial(pipeline.members, examples, **_order(config, examples)),
                )
        network = state.ema
        if config.keep_best:
            like = checkpoint.abstract(sharding.put_sharded(bundle(network, mean_shape), mesh))
            kept, step = checkpoint.restore(manager, "model", like, first=checkpoint.best_step(manager), say=say)
            network = network.replace(params=kept["params"], stats=kept["stats"])
            say(f"Stage {name}: the network of step {step} is the best on {validation.name}.")
    except BaseException as error:
        if not distributed.is_lost(error):  # closing waits for all
            checkpoint.close(manager)
        raise
    checkpoint.close(manager)
    return Trained(name, network, config, mean_shape)


def _order(config: ConfigDict, examples: Sequence[Examples]) -> dict[str, Any]:
    """What decides which examples are in a batch."""
    weights = config.dataset_weights if len(examples) > 1 else ()
    return {"batch_size": config.train.batch_size, "seed": config.seed, "weights": weights}


def _batches(config: ConfigDict, examples: Sequence[Examples], modalities: Sequence[str], **options: Any):
    return pipeline.train_batches(
        examples,
        size=config.image_size,
        layout=stages.layout(config),
        augmentation=config.augment.to_dict(),
        modalities=modalities,
        **_order(config, examples),
        **options,
    )


def _shape_model(
    config: ConfigDict, workdir: epath.Path, examples: Sequence[Examples], modality: str
) -> shape_model.ShapeModel:
    """The shape model of the tolerant teacher: `shape_model.npz` of the run, fitted now if it is not there.

    It is fitted to augmented crops, turned and mirrored as training will show them: a linear model of upright shapes
    cannot answer a turned one.
    """
    path = workdir / "shape_model.npz"
    require(examples, [modality], "The shape model")
    if distributed.is_main() and not path.exists():
        batches = _batches(config, examples, (modality,))  # images come along: a crop is one of an image
        count = -(-max(2048, 2 * sum(map(len, examples))) // config.train.batch_size)
        drawn = (batches[k] for k in range(count))
        shapes = np.concatenate([batch["landmarks"][(batch["weight"] > 0).all(1)] for batch in drawn])
        model = shape_model.fit(shapes, variance=config.shape_variance)
        shape_model.save(model, path)
        say(f"Shape model: {model.basis.shape[1]} components keep {100 * model.variance:.1f} % of the variance.")
    distributed.wait_for_all("shape model")
    return shape_model.load(path)


def _save(manager, step, state, *, scored, mean_shape, score):
    error = score(state.ema) if score is not None and scored else None
    checkpoint.save(manager, step, state, bundle(state.ema, mean_shape), error=error)


def train_stages(
    config: ConfigDict,
    workdir: epath.PathLike,
    *,
    data_dir: str,
    mesh: Mesh,
    trained: Mapping[str, Trained] | None = None,
    validate: Callable[..., float] | None = None,
) -> dict[str, Trained]:
    """Trains the stages of a config in a work directory that is claimed for it; what is trained already is loaded.

    `trained` are networks of other work directories: a stage that is among them is not trained here, and stages that
    need it read it. `validate` scores checkpoints for `config.keep_best`; it is `evaluation.evaluate.validation_error`,
    handed down because nothing here may import what lies above. Returns all networks, also those that were only read.

    Raises:
      InputError, Interrupted: see `train_stage`.
    """
    workdir, trained = epath.Path(workdir), dict(trained or {})
    layout = stages.layout(config)
    options = {"data_dir": data_dir, "layout": layout}
    thermal_range = config.thermal_range
    examples = open_sets((config.dataset, *config.more_datasets), "train", thermal_range=thermal_range, **options)
    of_teacher = examples
    if config.teacher_dataset:
        of_teacher = open_sets(config.teacher_dataset, "train", **options)
    validation = open_examples(config.dataset, "val", **options) if config.keep_best else None
    read = {one.name: one.fingerprint() for one in (*examples, *of_teacher, *([validation] if validation else []))}
    for folder in filter(None, (workdir, config.checkpoint_dir)):
        check_origin(folder, config, read)
    mean_shape = pipeline.mean_shape(
        examples,
        size=config.image_size,
        expand=config.augment.expand,
        layout=layout,
        part=(jax.process_index(), jax.process_count()),
        gather=sharding.gather_processes,
    )
    names = [name for name in stages.STAGES if name in config.stages and name not in trained]

    def examples_of(name):
        return of_teacher if stages.STAGES[name].model == "teacher" else examples

    fresh = [name for name in names if not checkpoint_folder(workdir, name, config).exists()]
    _check_stages(fresh, config, trained, examples_of, mean_shape)
    for name in names:
        for needed in stages.requirements(name, config):
            if needed not in trained:
                trained[needed] = load_stage(workdir, needed, mesh=mesh, say=say)
        trained[name] = train_stage(
            name,
            config,
            workdir,
            trained=trained,
            examples=examples_of(name),
            mean_shape=mean_shape,
            mesh=mesh,
            validation=validation,
            validate=validate,
        )
    return trained
