"""Does distillation help when the teacher knows more than the data teach? The tiny run's student, another's teacher.

    python -m benchmarks.strong_teacher --run runs/long/seed_0 --workdir runs/strong

Trains the thermal student of `configs/tiny.py` (few pairs, few steps) with the RGB teacher of a longer run, once for
each set of distillation weights, and prints the NME of each. Its control is
"none", the same student with all weights 0.
"""

import argparse
import json

from etils import epath

from mlcm_jax import config as configs
from mlcm_jax.console import say
from mlcm_jax.data.build import default_data_dir
from mlcm_jax.data.examples import open_examples
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import evaluate
from mlcm_jax.training import run_stage, sharding
from mlcm_jax.training.workdir import claim, load_stage

VARIANTS = {
    "DIKD": {"alpha": 1.0, "beta": 1.0, "gamma": 0.0, "delta": 0.0},
    "FD + LD": {"alpha": 0.0, "beta": 0.0, "gamma": 1.0, "delta": 1.0},
    "none": {"alpha": 0.0, "beta": 0.0, "gamma": 0.0, "delta": 0.0},
}


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="work directory whose teacher is used")
    parser.add_argument("--workdir", required=True, help="where the students go")
    parser.add_argument("--data_dir", default=default_data_dir())
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    mesh = sharding.make_mesh()
    teacher = load_stage(arguments.run, "teacher", mesh=mesh)
    config = configs.load("configs/tiny.py")
    config.seed = arguments.seed
    train_set, test_set = (
        open_examples(config.dataset, split, data_dir=arguments.data_dir, layout=config.layout)
        for split in ("train", "test")
    )
    found = {}
    for name, weights in VARIANTS.items():
        config.transfer.update(weights)
        workdir = epath.Path(arguments.workdir) / f"seed_{arguments.seed}" / name.replace(" ", "")
        claim(workdir, config)
        note = workdir / "teacher.txt"
        if note.exists() and note.read_text() != arguments.run:
            raise InputError(
                f"{workdir} was taught by {note.read_text()}, not {arguments.run}; give another --workdir."
            )
        note.write_text(arguments.run)
        common = {
            "trained": {"teacher": teacher},
            "examples": [train_set],
            "mean_shape": teacher.mean_shape,
            "mesh": mesh,
        }
        student = run_stage.train_stage("transfer", config, workdir, **common)
        rows, _, _ = evaluate.evaluate_networks({"transfer": student}, test_set, config=config, split="test", mesh=mesh)
        found[name] = round(rows["rows"][-1]["nme"], 3)
        say(json.dumps({"seed": arguments.seed, "nme": found}))


if __name__ == "__main__":
    main()
