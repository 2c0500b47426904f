"""Tests whether distillation gains more from a teacher that was trained longer, and on more data, than the student.

    python -m benchmarks.strong_teacher --run=runs/long/seed_0 --workdir=runs/strong --seed=0      # 4 minutes, 2 cores

It trains the thermal student of `configs/tiny.py:adamw` under the RGB teacher of another, longer run (`--run`), once
for each set of distillation weights, and prints the NME of each on the test split in per cent. The control is "none",
the same student with all weights 0. Results: RESULTS.md, "What a strong teacher is worth".
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence

from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mlcm_jax import config as configs
from mlcm_jax.console import say
from mlcm_jax.data.build import default_data_dir
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import evaluate
from mlcm_jax.training import run_stage, sharding
from mlcm_jax.training.workdir import Trained, load_stage

VARIANTS = {
    "DIKD": {"alpha": 1.0, "beta": 1.0, "gamma": 0.0, "delta": 0.0},
    "FD + LD": {"alpha": 0.0, "beta": 0.0, "gamma": 1.0, "delta": 1.0},
    "none": {"alpha": 0.0, "beta": 0.0, "gamma": 0.0, "delta": 0.0},
}


def load_config(name: str) -> ConfigDict:
    """Loads the config that `--config=FILE[:VARIANT]` names."""
    path, _, variant = name.partition(":")
    return configs.load(path, variant)


def train_and_score(
    config: ConfigDict, folder: epath.PathLike, given: Mapping[str, Trained], *, data_dir: str, mesh: Mesh
) -> dict[str, float]:
    """Trains the stages of a config with teachers of other runs, and scores them on its test split.

    Args:
        config: the config of the run.
        folder: its work directory; finished stages in it are not trained again.
        given: stage -> network of another run. If `teacher` is among them, the run starts from its mean shape.
        data_dir: the folder of built datasets.
        mesh: the devices.

    Returns:
        Stage -> NME in per cent.
    """
    run = run_stage.prepare(config, folder, data_dir=data_dir, mesh=mesh)
    if "teacher" in given:
        run = dataclasses.replace(run, mean_shape=given["teacher"].mean_shape)
    trained = run_stage.train_stages(run, given)
    test = evaluate.open_test(config, data_dir=data_dir)
    scored = {name: trained[name] for name in config.stages}
    found = evaluate.evaluate_networks(scored, test, config=config, mesh=mesh)
    return {row["name"]: row["nme"] for row in found.rows if row["name"] in scored}


def main(argv: Sequence[str] | None = None) -> None:
    """Trains the student with each set of weights and prints the NME."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="work directory of the run whose teacher is used")
    parser.add_argument("--workdir", required=True, help="where the students are kept")
    parser.add_argument("--config", default="configs/tiny.py:adamw", help="config of the students")
    parser.add_argument("--data_dir", default=default_data_dir())
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    mesh, config, found = sharding.make_mesh(), load_config(arguments.config), {}
    teacher = load_stage(arguments.run, "teacher", mesh=mesh)
    config.seed, config.stages = arguments.seed, ("transfer",)
    for name, weights in VARIANTS.items():
        config.transfer.update(weights)
        folder = epath.Path(arguments.workdir) / f"seed_{arguments.seed}" / name.replace(" ", "")
        _note_teacher(folder, arguments.run)
        scores = train_and_score(config, folder, {"teacher": teacher}, data_dir=arguments.data_dir, mesh=mesh)
        found[name] = round(scores["transfer"], 3)
        say(json.dumps({"seed": arguments.seed, "nme": found}))


def _note_teacher(folder: epath.Path, run: str) -> None:
    """Records in `folder` which run's teacher its student has; raises InputError if it is that of another run."""
    note = folder / "teacher.txt"
    if note.exists() and note.read_text() != run:
        raise InputError(f"{folder} holds a student of {note.read_text()}, not of {run}; give another --workdir.")
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(run)


if __name__ == "__main__":
    main()
