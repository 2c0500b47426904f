"""Does KD-Loss gain more with another learning rate, another weight of its main term, or another schedule?

    python -m mlcm_jax.bench.kd_sensitivity --run=runs/kdloss/shared --workdir=runs/kd_sensitivity

`--run` is the folder `shared` of `mlcm ablate --config=configs/ablation_kdloss.py`, whose teachers are taken as they
are. The student alone and the one under KD-Loss are trained under the same changes, so that each pair tells what the
teachers are worth there. Prints a table.
"""

import argparse

import numpy as np
from etils import epath

from configs import ablation_kdloss
from mlcm_jax import ablate, data, evaluate, run, sharding, train
from mlcm_jax.writers import say

VARIANTS = {
    "as published": {},
    "rate / 2": {"train": {"lr": 2e-3}},
    "rate × 2": {"train": {"lr": 8e-3}},
    "constant rate": {"train": {"schedule": "constant"}},
    "main weight 1": {"kd": {"main_weight": 1.0}},
    "main weight 10": {"kd": {"main_weight": 10.0}},
}


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="the folder with the teachers, seed by seed")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--data_dir", default=run.default_data_dir())
    arguments = parser.parse_args()
    mesh, found = sharding.make_mesh(), {}
    for seed in ablation_kdloss.get_config().seeds:
        teachers = {
            name: run.load_stage(f"{arguments.run}/seed_{seed}", name, mesh=mesh) for name in ("teacher", "tolerant")
        }
        for variant, changes in VARIANTS.items():
            for stage in ("light_alone", "kd"):
                if stage == "light_alone" and "kd" in changes:
                    continue  # the same as published
                config = ablation_kdloss.get_config()
                config.seed, config.seeds, config.stages = seed, (), (stage,)
                for key, values in changes.items():
                    config[key].update(values)
                folder = epath.Path(arguments.workdir) / variant.replace(" ", "_").replace("/", "by") / f"seed_{seed}"
                run.claim(folder, config)
                options = {"data_dir": arguments.data_dir, "mesh": mesh}
                network = train.train_stages(config, folder, trained=dict(teachers), **options)[stage]
                test = data.open_examples(config.dataset, "test", data_dir=arguments.data_dir, layout=config.layout)
                rows, _, _ = evaluate.evaluate_networks({stage: network}, test, config=config, split="test", mesh=mesh)
                found.setdefault((variant, stage), []).append(rows["rows"][-1]["nme"])
                say(f"seed {seed}, {variant}, {stage}: {found[variant, stage][-1]:.3f}")
    say("| change | student alone | KD-Loss | difference [95 %] |\n|---|---|---|---|")
    for variant in VARIANTS:
        alone = found.get((variant, "light_alone"), found["as published", "light_alone"])
        taught = found[variant, "kd"]
        paired = ablate.paired(taught, alone)
        cells = [f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" for values in (alone, taught)]
        interval = f"{paired['difference']:+.2f} [{paired['low']:+.2f}, {paired['high']:+.2f}]"
        say(f"| {variant} | {cells[0]} | {cells[1]} | {interval} |")


if __name__ == "__main__":
    main()
