"""Tests whether KD-Loss gains more with another rate, schedule or main weight, or with better teachers.

    python -m benchmarks.kd_sensitivity --run=runs/kdloss/shared --workdir=runs/kd_sensitivity     # 78 minutes, 2 cores
    python -m benchmarks.kd_sensitivity … --only='rate × 2,main weight 1'

`--run` is the folder `shared` of `mlcm ablate --config=configs/ablation_kdloss.py`. Its teachers are used unchanged,
except in the variant that trains its own teachers for longer. Each change applies both to the student alone and to the
student under KD-Loss, so every pair shows the gain from the teachers under that change. The script prints the table in
docs/ablations.md.
"""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from jax.sharding import Mesh

from benchmarks.strong_teacher import load_config, train_and_score
from mlcm_jax.console import say
from mlcm_jax.data.build import default_data_dir
from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.evaluation import ablation, ablation_rows
from mlcm_jax.training import sharding
from mlcm_jax.training.workdir import Trained, load_stage

TEACHERS = ("teacher", "tolerant")
VARIANTS = {
    "as published": {},
    "rate / 2": {"train": {"lr": 2e-3}},
    "rate × 2": {"train": {"lr": 8e-3}},
    "constant rate": {"train": {"schedule": "constant"}},
    "main weight 1": {"kd": {"main_weight": 1.0}},
    "main weight 10": {"kd": {"main_weight": 10.0}},
    "teachers' steps × 2": {"steps": {"teacher": 1200}},
}


def _control(variant: str) -> str:
    """Returns the variant whose student alone is the control; only overrides of `train` change that student."""
    return variant if "train" in VARIANTS[variant] else "as published"


def _score(
    stage: str, variant: str, seed: int, *, given: Mapping[str, Trained], arguments: argparse.Namespace, mesh: Mesh
) -> dict[str, float]:
    """Trains `stage`, and its own teachers if the variant has any; returns stage -> test NME in per cent."""
    config = ablation_rows.base(load_config(arguments.config))
    config.seed, config.stages = seed, (stage,)
    for key, values in VARIANTS[variant].items():
        config[key].update(values)
    if stage == "kd" and "steps" in VARIANTS[variant]:
        config.stages, given = (*TEACHERS, "kd"), {}
    folder = epath.Path(arguments.workdir) / variant.replace(" ", "_").replace("/", "by") / f"seed_{seed}"
    return train_and_score(config, folder, given, data_dir=arguments.data_dir, mesh=mesh)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains the chosen variants with every seed and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="folder with the teachers, one run for each seed")
    parser.add_argument("--workdir", required=True, help="where the students are kept")
    parser.add_argument("--only", default=",".join(VARIANTS), help="variants, separated by commas")
    parser.add_argument("--config", default="configs/ablation_kdloss.py", help="config of the ablation")
    parser.add_argument("--data_dir", default=default_data_dir())
    arguments = parser.parse_args(argv)
    chosen, seeds, mesh = arguments.only.split(","), load_config(arguments.config).seeds, sharding.make_mesh()
    for variant in chosen:
        if variant not in VARIANTS:
            raise InputError(f"--only names {variant!r}, which is not a variant; {did_you_mean(variant, VARIANTS)}")
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    for seed in seeds:
        given = {name: load_stage(f"{arguments.run}/seed_{seed}", name, mesh=mesh) for name in TEACHERS}
        for variant in chosen:
            for stage, changed in (("light_alone", _control(variant)), ("kd", variant)):
                if (stage, changed, seed) not in found:
                    scores = _score(stage, changed, seed, given=given, arguments=arguments, mesh=mesh)
                    say(f"seed {seed}, {changed}: " + ", ".join(f"{key} {nme:.3f}" for key, nme in scores.items()))
                    found[stage, changed, seed] = scores
    say("| change | student alone | KD-Loss | difference [95 %] | seeds better |\n|---|---|---|---|---|")
    for variant in chosen:
        alone = [found["light_alone", _control(variant), seed]["light_alone"] for seed in seeds]
        taught = [found["kd", variant, seed]["kd"] for seed in seeds]
        say(_row(variant, alone, taught))


def _row(variant: str, alone: Sequence[float], taught: Sequence[float]) -> str:
    """Formats a row of the table from the NME [seeds] in per cent of the student alone and under KD-Loss."""
    found = ablation.paired(taught, alone)
    cells = [variant]
    for values in (alone, taught):
        deviation = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        cells.append(f"{np.mean(values):.2f}{deviation}")
    interval = f" [{found['low']:+.2f}, {found['high']:+.2f}]" if len(alone) > 1 else ""
    cells += [f"{found['difference']:+.2f}{interval}", f"{found['seeds_better']} of {found['seeds']}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
