"""Walks the stages of a config: trains what is missing, scores what is there, draws the pictures."""

import contextlib
import functools
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mlcm_jax import (
    checkpoint,
    data,
    evaluate,
    models,
    pictures,
    run,
    shape_model,
    sharding,
    stages,
    steps,
    summary,
)
from mlcm_jax import state as states
from mlcm_jax.errors import InputError
from mlcm_jax.writers import open_writer, progress, read_jsonl, say


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: what was trained is saved."""


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Yields a list that receives the signal; the loop looks at it between steps. A second Ctrl-C stops at once."""
    received: list[int] = []

    def note(number, _):
        received.append(number)
        signal.signal(number, previous[number])

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def compile_step(recipe: steps.Recipe, state, teacher, mesh: Mesh):
    """jit of the step with explicit shardings; the state is donated."""
    whole = sharding.replicated(mesh)
    of_state, of_teacher = sharding.tree_shardings(state, mesh), sharding.tree_shardings(teacher, mesh)
    return jax.jit(
        functools.partial(steps.train_step, recipe=recipe),
        in_shardings=(of_state, of_teacher, sharding.batch_sharding(mesh), whole),
        out_shardings=(of_state, whole),
        donate_argnums=0,
    )


def _start_state(name, config, recipe, trained, count, mean_shape):
    """The state of a stage at step 0: initialised by role, with the teacher's weights where the config says so."""
    stage = stages.STAGES[name]
    network = stages.initial_network(name, config, num_landmarks=count, mean_shape=mean_shape)
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


def train_stage(
    name: str,
    config: ConfigDict,
    workdir: epath.Path,
    *,
    trained: dict[str, run.Trained],
    examples: Sequence[data.Examples],
    mean_shape: np.ndarray,
    mesh: Mesh,
) -> run.Trained:
    """Trains one stage from its last whole checkpoint to its end.

    Args:
      name: a key of `stages.STAGES`.
      config: of the run.
      workdir: of the run.
      trained: the stages that this one reads.
      examples: the training split of each data set.
      mean_shape: float32 [K, 2] in u.
      mesh: the devices.

    Raises:
      Interrupted: after a signal, when the step in flight is done and saved.
      InputError: a loss that is not finite, a full disk, checkpoints of another model.
    """
    stage, modality = stages.STAGES[name], stages.modality(name, config)
    soft = _shape_model(config, workdir, examples, modality) if stage.soft else None
    recipe = stages.recipe(name, config, soft=soft)
    needed = tuple(m for m in (modality, recipe.teacher_modality) if m)
    data.require(examples, sorted(set(needed)), f"Stage {name}")
    count = stages.layout(config).count
    state = _start_state(name, config, recipe, trained, count, mean_shape)
    state = jax.device_put(state, sharding.tree_shardings(state, mesh))
    teachers = tuple(sharding.put_replicated(trained[teacher].network, mesh) for teacher in stage.teachers)
    teacher = teachers if recipe.two_teachers else (teachers[0] if teachers else None)

    directory = workdir / name
    manager = run.stage_manager(workdir, name)
    restored = checkpoint.restore(manager, "state", checkpoint.abstract(state), say=say)
    start = 0
    if restored is not None:
        state, start = restored
        checkpoint.delete_after(manager, start)
    save = functools.partial(_save, manager, mean_shape=mean_shape)
    try:
        if start < recipe.total_steps:
            say(models.table(states.join(state.network), config.image_size, channels=3 if modality == "rgb" else 1))
            if start:
                say(f"Stage {name} resumes at step {start} of {recipe.total_steps}.")
            batches = _batches(config, examples, needed, host=jax.process_index(), hosts=jax.process_count())
            with open_writer(directory, resume_step=start) as write:
                state = _loop(name, config, recipe, state, teacher, batches, start, mesh, save, write)
            save(recipe.total_steps, state)
    finally:
        checkpoint.close(manager)
    return run.Trained(name, state.ema, config, mean_shape)


def _batches(config: ConfigDict, examples: Sequence[data.Examples], modalities: Sequence[str], **hosts: int):
    return data.train_batches(
        examples,
        batch_size=config.train.batch_size,
        size=config.image_size,
        layout=stages.layout(config),
        augmentation=config.augment.to_dict(),
        modalities=modalities,
        seed=config.seed,
        weights=config.dataset_weights if len(examples) > 1 else (),
        **hosts,
    )


def _shape_model(
    config: ConfigDict, workdir: epath.Path, examples: Sequence[data.Examples], modality: str
) -> shape_model.ShapeModel:
    """The shape model of the tolerant teacher: `shape_model.npz` of the run, fitted now if it is not there.

    It is fitted to augmented crops, turned and mirrored as training will show them: a linear model of upright shapes
    cannot answer a turned one.
    """
    path = workdir / "shape_model.npz"
    if not path.exists():
        data.require(examples, [modality], "The shape model")
        batches = _batches(config, examples, (modality,))  # pictures come along: a crop is one of a picture
        count = -(-max(2048, 2 * sum(map(len, examples))) // config.train.batch_size)
        drawn = (batches[k] for k in range(count))
        shapes = np.concatenate([batch["landmarks"][(batch["weight"] > 0).all(1)] for batch in drawn])
        model = shape_model.fit(shapes, variance=config.shape_variance)
        shape_model.save(model, path)
        say(f"Shape model: {model.basis.shape[1]} components keep {100 * model.variance:.1f} % of the variance.")
    return shape_model.load(path)


def _save(manager, step, state, *, mean_shape):
    checkpoint.save(manager, step, state, run.bundle(state.ema, mean_shape))


def _loop(name, config, recipe, state, teacher, batches, start, mesh, save, write):
    step_function = compile_step(recipe, state, teacher, mesh)
    rng = sharding.put_replicated(stages.role_key(config.seed, "steps"), mesh)
    source, history = data.iterate(batches, start), []
    bar = progress(name, total=recipe.total_steps, start=start, unit_size=config.train.batch_size)
    with _interrupts() as received, bar as advance:
        for step in range(start + 1, recipe.total_steps + 1):
            batch = sharding.put_batch(next(source), mesh)
            # Nothing inside a step may fetch from or send to the devices behind our back.
            with jax.transfer_guard("disallow"):
                state, scalars = step_function(state, teacher, batch, rng)
            history.append(scalars)
            last = step == recipe.total_steps
            if step % config.log_every == 0 or last:
                means = steps.average(jax.device_get(history))
                history = []
                if not math.isfinite(means["loss"]):
                    raise InputError(
                        f"The loss of stage {name} is {means['loss']} at step {step}; lower config.train.lr, or look "
                        "for broken pictures or landmarks in the data set."
                    )
                write(step, means)
                advance(step, f"loss {means['loss']:.3f}")
            if (step % config.checkpoint_every == 0 and not last) or received:
                save(step, state)
            if received:
                raise Interrupted(f"Stopped in stage {name} after step {step}; all of it is saved.")
    return state


def train_stages(
    config: ConfigDict,
    workdir: epath.PathLike,
    *,
    data_dir: str,
    mesh: Mesh,
    trained: Mapping[str, run.Trained] | None = None,
) -> dict[str, run.Trained]:
    """Trains the stages of a config in a work directory that is claimed for it; what is trained already is loaded.

    `trained` are networks of other work directories: a stage that is among them is not trained here, and stages that
    need it read it. Returns all of them, those that were only read included.

    Raises:
      InputError, Interrupted: see `train_stage`.
    """
    workdir, trained = epath.Path(workdir), dict(trained or {})
    layout = stages.layout(config)
    options = {"data_dir": data_dir, "layout": layout}
    thermal_range = config.thermal_range
    examples = data.open_sets((config.dataset, *config.more_datasets), "train", thermal_range=thermal_range, **options)
    of_teacher = examples
    if config.teacher_dataset:
        of_teacher = data.open_sets(config.teacher_dataset, "train", **options)
    mean_shape = data.mean_shape(examples, size=config.image_size, expand=config.augment.expand, layout=layout)
    for name in (n for n in stages.STAGES if n in config.stages and n not in trained):
        for needed in stages.requirements(name, config):
            if needed not in trained:
                trained[needed] = run.load_stage(workdir, needed, mesh=mesh, say=say)
        trained[name] = train_stage(
            name,
            config,
            workdir,
            trained=trained,
            examples=of_teacher if stages.STAGES[name].model == "teacher" else examples,
            mean_shape=mean_shape,
            mesh=mesh,
        )
    return trained


def train(config: ConfigDict, workdir: epath.PathLike, *, data_dir: str) -> dict[str, Any]:
    """Trains every stage of the config, scores them on the test split, writes results.json and the pictures.

    Finished stages are loaded, an unfinished one resumes from its last whole checkpoint. With `config.seeds` each seed
    gets a work directory of its own below this one, and the table is of means and deviations over them.

    Returns the content of results.json.

    Raises:
      InputError: see the message; nothing that was saved is lost.
      Interrupted: after Ctrl-C or SIGTERM.
    """
    workdir = epath.Path(workdir)
    stages.check(config)
    if config.seeds:
        results = []
        for seed in config.seeds:
            single = config.copy_and_resolve_references()
            single.seed, single.seeds = seed, ()
            say(f"Seed {seed}")
            results.append(train(single, workdir / f"seed_{seed}", data_dir=data_dir))
        return summary.combine(results, config.seeds, workdir)

    mesh, began = sharding.make_mesh(), time.monotonic()
    sharding.check_batch_size(config.train.batch_size, mesh, "config.train.batch_size")
    test = evaluate.open_examples(config, config.test_split, data_dir=data_dir)
    evaluate.check_normalizer(config, test)
    run.claim(workdir, config)
    trained = train_stages(config, workdir, data_dir=data_dir, mesh=mesh)
    ordered = {name: trained[name] for name in stages.STAGES if name in trained}
    results, errors, predictions = evaluate.evaluate_networks(
        ordered, test, config=config, split=config.test_split, mesh=mesh
    )
    evaluate.write_json(workdir / "results.json", results)
    _draw(workdir, ordered, test, errors, predictions, config)
    evaluate.print_table(results)
    say(f"Wrote results.json, samples.png, ced.png and loss.png to {workdir} ({time.monotonic() - began:.0f} s).")
    return results


def _draw(workdir, trained, examples, errors, predictions, config):
    """samples.png, ced.png, loss.png."""
    shown = np.linspace(0, len(examples) - 1, 8).round().astype(int)
    best = list(trained)[-1]
    rows = [
        {**examples[i], "prediction": predictions[best][i], "title": f"NME {100 * errors[best][i]:.1f} %"}
        for i in shown
    ]
    pictures.samples(workdir / "samples.png", rows, layout=examples.layout, title=f"stage {best}")
    pictures.ced(workdir / "ced.png", errors, normalizer=evaluate.describe(config.normalizer))
    curves = {}
    for name in trained:
        records = read_jsonl(workdir / name / "metrics.jsonl")
        curves[name] = ([r["step"] for r in records], [r["task"] for r in records])
    pictures.loss_curves(workdir / "loss.png", curves)
