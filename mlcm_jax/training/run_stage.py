"""Trains the stages of a config, and loads those that are finished.

1. prepare: open the datasets, compute the mean shape   2. check: everything that could stop a later stage
3. claim the work directory   4. train stage after stage, each from its last intact checkpoint
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping

import grain
import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mlcm_jax import models, shape_model
from mlcm_jax.console import say
from mlcm_jax.data import augment, pipeline
from mlcm_jax.data.examples import Examples, open_examples, open_sets, require
from mlcm_jax.errors import InputError
from mlcm_jax.files import read_json, write_json
from mlcm_jax.models import network as networks
from mlcm_jax.training import checkpoint, distributed, loop, sharding, stages, workdir
from mlcm_jax.training import state as states
from mlcm_jax.training import step as steps
from mlcm_jax.training.log import open_writer, write_parameters
from mlcm_jax.training.recipe import Recipe
from mlcm_jax.training.workdir import Trained

# (network, examples, modality) -> NME in per cent; `evaluation.evaluate.validation` makes one.
Validate = Callable[[networks.Network, Examples, str], float]


@dataclasses.dataclass(frozen=True)
class Run:
    """What the stages of a run share.

    Attributes:
        config: the run's config.
        workdir: the run's work directory.
        mesh: the devices.
        examples: the training split of each dataset.
        of_teacher: the same for the stages that train a teacher.
        validation: the split on which `config.keep_best` scores checkpoints; None without it.
        mean_shape: float32 [K, 2] in u.
        validate: scores a checkpoint. It is passed in, because nothing in `training` may import `evaluation`.
    """

    config: ConfigDict
    workdir: epath.Path
    mesh: Mesh
    examples: list[Examples]
    of_teacher: list[Examples]
    validation: Examples | None
    mean_shape: np.ndarray
    validate: Validate | None = None

    def examples_of(self, stage: str) -> list[Examples]:
        """The examples on which a stage trains."""
        return self.of_teacher if stages.STAGES[stage].model == "teacher" else self.examples

    @property
    def fingerprints(self) -> dict[str, str]:
        """Name of each split that the run reads -> a digest of its examples."""
        read = [*self.examples, *self.of_teacher, *([self.validation] if self.validation else [])]
        return {one.name: one.fingerprint() for one in read}

    @property
    def folders(self) -> list[epath.Path]:
        """The folders that belong to this run alone."""
        return [self.workdir, *([epath.Path(self.config.checkpoint_dir)] if self.config.checkpoint_dir else [])]


def prepare(
    config: ConfigDict, folder: epath.PathLike, *, data_dir: str, mesh: Mesh, validate: Validate | None = None
) -> Run:
    """Opens the datasets of a run, and builds missing ones. Nothing is written to its work directory.

    Args:
        config: the run's config.
        folder: its work directory, which may not exist yet.
        data_dir: the folder of built datasets.
        mesh: the devices.
        validate: see `Run`; needed for `config.keep_best`.

    Raises:
        InputError: a dataset that does not exist or does not fit the config.
    """
    if config.keep_best and validate is None:
        raise ValueError("config.keep_best needs `validate`")
    layout = stages.layout(config)
    options = {"data_dir": data_dir, "layout": layout}
    thermal = options | {"thermal_range": config.thermal_range, "gain": stages.gain(config)}
    examples = open_sets((config.dataset, *config.more_datasets), "train", **thermal)
    of_teacher = examples
    if config.teacher_dataset:
        reads_thermal = config.modalities.teacher == "thermal"
        of_teacher = open_sets(config.teacher_dataset, "train", **(thermal if reads_thermal else options))
    validation = open_examples(config.dataset, "val", **thermal) if config.keep_best else None
    mean_shape = pipeline.mean_shape(examples, expand=config.augment.expand)
    return Run(config, epath.Path(folder), mesh, examples, of_teacher, validation, mean_shape, validate)


def check(run: Run, trained: Mapping[str, Trained] | None = None) -> None:
    """Raises InputError for anything that would stop a stage at its start, before the first stage is trained.

    Args:
        run: see `prepare`.
        trained: given networks by stage; these stages need no training.
    """
    config, networks_by_stage = run.config, {name: one.network for name, one in (trained or {}).items()}
    for folder in run.folders:
        workdir.check_config(folder, config)
        workdir.check_origin(folder, config, run.fingerprints)
    for name in _to_train(run, trained or {}):
        if _begun(run, name):
            continue
        recipe = stages.recipe(name, config)
        require(run.examples_of(name), recipe.modalities, f"Stage {name}")
        if config.keep_best:
            require([run.validation], [recipe.modality], f"config.keep_best of stage {name}")
        for other in stages.requirements(name, config):
            if other not in (*config.stages, *networks_by_stage) and not _begun(run, other):
                raise InputError(
                    f"Stage {name} needs {other}, which was not trained in {run.workdir}; add it to config.stages."
                )
            if other not in networks_by_stage:
                networks_by_stage[other] = stages.network_shapes(other, config, mean_shape=run.mean_shape)
        state = start_shapes(name, config, recipe, networks_by_stage, run.mean_shape)
        if recipe.teachers:
            _check_step(name, run, recipe, state, {one: networks_by_stage[one] for one in recipe.teachers})


def _check_step(
    name: str, run: Run, recipe: Recipe, state: states.TrainState, teachers: dict[str, networks.Network]
) -> None:
    sizes = {"batch_size": run.config.train.batch_size, "image_size": run.config.image_size}
    try:
        steps.check(state, teachers, recipe, count=len(run.mean_shape), **sizes)
    except InputError as error:
        raise InputError(f"Stage {name}: {error}") from error


def train_stages(run: Run, trained: Mapping[str, Trained] | None = None) -> dict[str, Trained]:
    """Checks a run, claims its work directory, and trains its stages; finished stages are loaded.

    Args:
        run: see `prepare`.
        trained: networks from other work directories, by stage; these are not trained here, but others may need them.

    Returns:
        All networks by stage, including those that were only loaded.

    Raises:
        InputError: see `check` and `train_stage`.
        Interrupted: see `train_stage`.
    """
    check(run, trained)
    with contextlib.ExitStack() as locks:
        for folder in dict.fromkeys(folder.resolve() for folder in run.folders):
            locks.enter_context(workdir.alone(folder))
        for folder in run.folders:
            workdir.claim(folder, run.config, run.fingerprints)
        names, trained = _to_train(run, trained or {}), dict(trained or {})
        for name in names:
            for needed in stages.requirements(name, run.config):
                if needed not in trained:
                    trained[needed] = workdir.load_stage(run.workdir, needed, mesh=run.mesh)
            trained[name] = train_stage(name, run, trained)
    return trained


def _begun(run: Run, stage: str) -> bool:
    return workdir.checkpoint_folder(run.workdir, stage, run.config).exists()


def _to_train(run: Run, trained: Iterable[str]) -> list[str]:
    return [name for name in stages.STAGES if name in run.config.stages and name not in trained]


def train_stage(name: str, run: Run, trained: Mapping[str, Trained]) -> Trained:
    """Trains one stage from its last intact checkpoint to its end, and stores its network.

    Args:
        name: a key of `stages.STAGES`.
        run: see `prepare`.
        trained: networks by stage; at least those that this stage needs (`stages.requirements`).

    Raises:
        Interrupted: a signal arrived; the current step was finished and saved.
        InputError: a loss that is not finite, a full disk, or checkpoints of another model.
    """
    stage = stages.STAGES[name]
    soft = _shape_model(run, name) if stage.soft else None
    finished = workdir.finished_stage(run.workdir, name, run.config, mesh=run.mesh)
    if finished is None:
        recipe = stages.recipe(name, run.config, soft=soft)
        network = _train(name, run, recipe, trained)
        finished = Trained(name, network, run.config, run.mean_shape)
    workdir.store(run.workdir, finished, mesh=run.mesh)
    return finished


def _train(name: str, run: Run, recipe: Recipe, trained: Mapping[str, Trained]) -> networks.Network:
    """Trains a stage; returns the averaged network of its last step, or of the best one with `config.keep_best`."""
    config, mesh = run.config, run.mesh
    state = sharding.put_sharded(start_state(name, config, recipe, trained, run.mean_shape), mesh)
    teachers = {teacher: sharding.put_sharded(trained[teacher].network, mesh) for teacher in recipe.teachers}
    manager = checkpoint.open_manager(workdir.checkpoint_folder(run.workdir, name, config), scored=config.keep_best)
    restored = checkpoint.restore(manager, "state", checkpoint.abstract(state), say=say)
    start = 0
    if restored is not None:
        state, start = restored
        checkpoint.delete_after(manager, start)
    try:
        if start < recipe.total_steps:
            channels = augment.CHANNELS[recipe.modality]
            say(models.table(networks.join(state.network), config.image_size, channels=channels))
            if start:
                say(f"Stage {name} resumes at step {start} of {recipe.total_steps}.")
            with open_writer(run.workdir / name, resume_step=start) as write:
                write_parameters(run.workdir / name, state.network.params)
                work = loop.Loop(
                    name=name,
                    recipe=recipe,
                    config=config,
                    batches=_batches(run, name, recipe.modalities, sharding.batch_rows(mesh, config.train.batch_size)),
                    mesh=mesh,
                    rng=sharding.put_replicated(stages.role_key(config.seed, "steps"), mesh),
                    write=write,
                    save=functools.partial(_save, manager, run, recipe.modality),
                    note_skipped=functools.partial(_note_skipped, run, name),
                )
                state = loop.run(work, state, teachers, start=start)
        network = state.ema
        if config.keep_best:
            like = checkpoint.abstract(sharding.put_sharded(workdir.bundle(network, run.mean_shape), mesh))
            kept, step = checkpoint.restore(manager, "model", like, first=checkpoint.best_step(manager), say=say)
            network = network.replace(params=kept["params"], stats=kept["stats"])
            say(f"Stage {name}: the network of step {step} is the best on {run.validation.name}.")
    except BaseException as error:
        if not distributed.is_lost(error):  # closing waits for all processes
            checkpoint.close(manager)
        raise
    checkpoint.close(manager)
    return network


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


def _order(run: Run, stage: str) -> pipeline.Order:
    weights = run.config.dataset_weights if len(run.examples_of(stage)) > 1 else ()
    return pipeline.Order(run.config.train.batch_size, run.config.seed, weights)


def _batches(run: Run, stage: str, modalities: tuple[str, ...], rows: np.ndarray | None = None) -> grain.MapDataset:
    options = dict(run.config.augment)
    config = run.config
    crop = augment.Crop(config.image_size, options.pop("expand"), stages.layout(config), stages.gain(config))
    return pipeline.train_batches(
        [one.only(modalities) for one in run.examples_of(stage)],
        crop,
        _order(run, stage),
        augmentation=augment.Augmentation(**options),
        rows=rows,
    )


def _shape_model(run: Run, stage: str) -> shape_model.ShapeModel:
    """Loads the shape model of the tolerant teacher from `shape_model.npz`, and fits it first if that is missing.

    It is fitted to augmented crops, rotated and mirrored as in training, because a linear model of upright shapes
    cannot describe rotated ones.
    """
    path = run.workdir / "shape_model.npz"
    examples, modality = run.examples_of(stage), stages.modality(stage, run.config)
    require(examples, [modality], "The shape model")
    if distributed.is_main() and not path.exists():
        batches = _batches(run, stage, (modality,))  # with images, because crops are made of images
        count = -(-max(2048, 2 * sum(map(len, examples))) // run.config.train.batch_size)
        drawn = (batches[k] for k in range(count))
        shapes = np.concatenate([batch["landmarks"][batch["known"].all(1)] for batch in drawn])
        model = shape_model.fit(shapes, variance=run.config.shape_variance)
        shape_model.save(model, path)
        say(f"Shape model: {model.basis.shape[1]} components keep {100 * model.variance:.1f} % of the variance.")
    distributed.wait_for_all("shape model")
    return shape_model.load(path)


def _save(
    manager: checkpoint.Manager, run: Run, modality: str, step: int, state: states.TrainState, *, scored: bool
) -> None:
    """Saves a checkpoint, with its error on the validation split if `config.keep_best` is on."""
    error = run.validate(state.ema, run.validation, modality) if run.config.keep_best and scored else None
    checkpoint.save(manager, step, state, workdir.bundle(state.ema, run.mean_shape), error=error)


def _note_skipped(run: Run, stage: str, skipped: list[int]) -> str:
    """Adds the examples of skipped steps to skipped.json of the stage, and returns its path."""
    path = run.workdir / stage / "skipped.json"
    if distributed.is_main():
        known: list[dict] = []
        with contextlib.suppress(InputError, KeyError, TypeError):  # a missing or damaged file
            known = [one for one in read_json(path) if one["step"] not in skipped]
        members = functools.partial(pipeline.members, run.examples_of(stage), _order(run, stage))
        write_json(path, known + [{"step": step, "examples": members(step - 1)} for step in skipped])
    return str(path)
