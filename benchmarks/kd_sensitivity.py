"""Does KD-Loss gain more with another rate, schedule, weight of its main term, or with teachers that know more?

    python -m benchmarks.kd_sensitivity --run=runs/kdloss/shared --workdir=runs/kd_sensitivity [--only='rate × 2,…']

`--run` is the folder `shared` of `mlcm ablate --config=configs/ablation_kdloss.py`, whose teachers are taken as they
are, but for the variant that trains its own for longer. The student alone and the one under KD-Loss are trained under
the same changes, so that each pair tells what the teachers are worth there. Prints a table (docs/ablations.md).
"""

import argparse

import numpy as np
from etils import epath

from mlcm_jax import config as configs
from mlcm_jax.console import say
from mlcm_jax.data.build import default_data_dir
from mlcm_jax.data.examples import open_examples
from mlcm_jax.evaluation import ablation, evaluate
from mlcm_jax.training import run_stage, sharding
from mlcm_jax.training.workdir import claim, load_stage

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


def _own(variant: str) -> str:
    """The variant of the student alone that this one is compared with."""
    return variant if "train" in VARIANTS[variant] else "as published"


def _nme(stage, variant, seed, teachers, arguments, mesh) -> dict[str, float]:
    """NME in per cent on the test split by stage: of `stage`, and of teachers that are trained for it."""
    config = configs.load("configs/ablation_kdloss.py")
    config.seed, config.seeds, config.stages = seed, (), (stage,)
    for key, values in VARIANTS[variant].items():
        config[key].update(values)
    if stage == "kd" and "steps" in VARIANTS[variant]:
        config.stages, teachers = (*TEACHERS, "kd"), {}
    folder = epath.Path(arguments.workdir) / variant.replace(" ", "_").replace("/", "by") / f"seed_{seed}"
    claim(folder, config)
    options = {"data_dir": arguments.data_dir, "mesh": mesh}
    networks = run_stage.train_stages(config, folder, trained=dict(teachers), **options)
    test = open_examples(config.dataset, "test", data_dir=arguments.data_dir, layout=config.layout)
    scored = {name: networks[name] for name in config.stages}
    rows, _, _ = evaluate.evaluate_networks(scored, test, config=config, split="test", mesh=mesh)
    return {row["name"]: row["nme"] for row in rows["rows"]}


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="the folder with the teachers, seed by seed")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--only", default=",".join(VARIANTS), help="variants, separated by commas")
    parser.add_argument("--data_dir", default=default_data_dir())
    arguments = parser.parse_args()
    mesh, found, chosen = sharding.make_mesh(), {}, arguments.only.split(",")
    seeds = configs.load("configs/ablation_kdloss.py").seeds
    for seed in seeds:
        teachers = {name: load_stage(f"{arguments.run}/seed_{seed}", name, mesh=mesh) for name in TEACHERS}
        for variant in chosen:
            for stage, of in (("light_alone", _own(variant)), ("kd", variant)):
                if (stage, of, seed) not in found:
                    found[stage, of, seed] = _nme(stage, of, seed, teachers, arguments, mesh)
                    say(f"seed {seed}, {of}: " + ", ".join(f"{k} {v:.3f}" for k, v in found[stage, of, seed].items()))
    say("| change | student alone | KD-Loss | difference [95 %] | seeds better |\n|---|---|---|---|---|")
    for variant in chosen:
        alone = [found["light_alone", _own(variant), seed]["light_alone"] for seed in seeds]
        taught = [found["kd", variant, seed]["kd"] for seed in seeds]
        paired = ablation.paired(taught, alone)
        cells = [f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" for values in (alone, taught)]
        interval = f"{paired['difference']:+.2f} [{paired['low']:+.2f}, {paired['high']:+.2f}]"
        say(f"| {variant} | {cells[0]} | {cells[1]} | {interval} | {paired['seeds_better']} of {paired['seeds']} |")


if __name__ == "__main__":
    main()
