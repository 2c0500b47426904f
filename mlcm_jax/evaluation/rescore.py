"""Scores the finished stages of a run again, perhaps on another dataset: the work of `mlcm evaluate`."""

from typing import Any

from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mlcm_jax.console import say
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import detections, evaluate
from mlcm_jax.files import write_json
from mlcm_jax.training import distributed, sharding, stages
from mlcm_jax.training.workdir import checkpoint_folder, load_config, load_stage


def fit_to_devices(config: ConfigDict) -> Mesh:
    """Returns a mesh for scoring a run, and makes `config.eval_batch_size` a multiple of what it splits.

    The mesh is that of the run if it fits the devices, or else all of them in a row.
    """
    try:
        mesh = sharding.make_mesh(shape=config.mesh)
    except InputError:  # the run was trained on another number of devices
        mesh = sharding.make_mesh()
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    config.eval_batch_size = -(-config.eval_batch_size // parts) * parts
    return mesh


def rescore(workdir: epath.PathLike, *, dataset: str = "", split: str = "test", data_dir: str) -> dict[str, Any]:
    """Scores the finished stages of a run, prints the table and saves it as `results_<dataset>_<split>.json`.

    Args:
        workdir: the run's work directory.
        dataset: the dataset's name, or "" for the run's own.
        split: the split to score on.
        data_dir: the folder of built datasets.

    Returns:
        What was saved.

    Raises:
        InputError: not a work directory, nothing trained in it, or an unknown dataset or split.
    """
    config = load_config(workdir)
    mesh = fit_to_devices(config)
    config.test_dataset, config.test_split = dataset or config.test_dataset or config.dataset, split
    names = [name for name in stages.STAGES if checkpoint_folder(workdir, name, config).exists()]
    if not names:
        raise InputError(f"{workdir} has no trained stage; run the training command again to finish it.")
    trained = {}
    for name in names:
        try:
            trained[name] = load_stage(workdir, name, mesh=mesh)
        except InputError as error:
            say(f"{error} Left out of the table.")
    if not trained:
        raise InputError(f"{workdir} has no finished stage to evaluate; run the training command again.")
    examples = evaluate.open_test(config, data_dir=data_dir)
    path = epath.Path(workdir) / f"results_{config.test_dataset.replace('/', '_')}_{split}.json"
    if config.loss.name == "boxes":
        return detections.report(trained, examples, config=config, mesh=mesh, path=path, data_dir=data_dir)
    found = evaluate.evaluate_networks(trained, examples, config=config, mesh=mesh)
    content = evaluate.results(config, found.rows)
    evaluate.print_table(content)
    if distributed.is_main():
        write_json(path, content)
    say(f"Saved {path}")
    return content
