"""What `mlcm train` does: one config, one seed or several, one table.

The stages are trained, scored and drawn; of several seeds follow mean and standard deviation of every row, and paired
differences of interest.
"""

import time
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from rich.table import Table

from mlcm_jax.console import console, say
from mlcm_jax.evaluation import evaluate, plots
from mlcm_jax.files import write_json
from mlcm_jax.training import distributed, run_stage, sharding, stages
from mlcm_jax.training.log import read_jsonl
from mlcm_jax.training.workdir import claim

# (row, its control): what a distillation is worth is a difference between these, seed by seed.
PAIRS = (("transfer", "thermal_alone"), *((row, "light_alone") for row in ("direct", "compress", "kd")))


def train(config: ConfigDict, workdir: epath.PathLike, *, data_dir: str) -> dict[str, Any]:
    """Trains every stage of the config, scores them on the test split, writes results.json and the images.

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
            if config.checkpoint_dir:
                single.checkpoint_dir = f"{config.checkpoint_dir}/seed_{seed}"
            say(f"Seed {seed}")
            results.append(train(single, workdir / f"seed_{seed}", data_dir=data_dir))
        return combine(results, config.seeds, workdir)

    mesh, began = sharding.make_mesh(shape=config.mesh), time.monotonic()
    accumulate = config.train.accumulate
    sharding.check_batch_size(config.train.batch_size, mesh, "config.train.batch_size", accumulate=accumulate)
    sharding.check_batch_size(config.eval_batch_size, mesh, "config.eval_batch_size")
    test = evaluate.open_test(config, config.test_split, data_dir=data_dir)
    evaluate.check_normalizer(config, test)
    for folder in filter(None, (workdir, config.checkpoint_dir)):  # both belong to this run alone
        claim(folder, config)
    trained = run_stage.train_stages(config, workdir, data_dir=data_dir, mesh=mesh, validate=evaluate.validation_error)
    ordered = {name: trained[name] for name in stages.STAGES if name in trained}
    results, errors, predictions = evaluate.evaluate_networks(
        ordered, test, config=config, split=config.test_split, mesh=mesh
    )
    if distributed.is_main():
        write_json(workdir / "results.json", results)
        _draw(workdir, ordered, test, errors, predictions, config)
    distributed.wait_for_all("images")
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
    plots.samples(workdir / "samples.png", rows, layout=examples.layout, title=f"stage {best}")
    plots.ced(workdir / "ced.png", errors, normalizer=evaluate.describe(config.normalizer))
    curves = {}
    for name in trained:
        records = read_jsonl(workdir / name / "metrics.jsonl")
        curves[name] = ([r["step"] for r in records], [r["task"] for r in records])
    plots.loss_curves(workdir / "loss.png", curves)


def combine(results: list[dict[str, Any]], seeds, workdir: epath.PathLike) -> dict[str, Any]:
    """Writes `results.json` of several seeds and prints its table.

    Args:
      results: one results.json content a seed, with the same rows.
      seeds: their seeds.
      workdir: where to write.

    Returns:
      {"dataset", "split", "normalizer", "seeds", "rows", "paired"}: rows as of one run, every number a mean, with
      `<number>_std` (sample deviation, n − 1) beside it; paired is a list of {"row", "control", "difference", "std",
      "seeds_better"}, differences of the NME in points of per cent, negative when the row beats its control.
    """
    rows, by_name = [], {}
    for group in zip(*(result["rows"] for result in results), strict=True):
        row = {key: group[0][key] for key in ("name", "modality", "params", "flops")}
        for key in (k for k in group[0] if k not in row):
            values = [member[key] for member in group]
            row[key] = float(np.mean(values))
            row[f"{key}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        rows.append(row)
        by_name[row["name"]] = np.asarray([member["nme"] for member in group])
    paired = []
    for name, control in PAIRS:
        if name in by_name and control in by_name:
            difference = by_name[name] - by_name[control]
            paired.append(
                {
                    "row": name,
                    "control": control,
                    "difference": float(difference.mean()),
                    "std": float(difference.std(ddof=1)) if len(difference) > 1 else 0.0,
                    "seeds_better": int((difference < 0).sum()),
                }
            )
    combined = {key: results[0][key] for key in ("dataset", "split", "normalizer")}
    combined |= {"seeds": list(seeds), "rows": rows, "paired": paired}
    if distributed.is_main():
        epath.Path(workdir).mkdir(parents=True, exist_ok=True)
        write_json(epath.Path(workdir) / "results.json", combined)
    _print(combined)
    say(f"Wrote results.json to {workdir}.")
    return combined


def _print(combined: dict[str, Any]) -> None:
    title = (
        f"{combined['dataset']}, split {combined['split']}, seeds {', '.join(map(str, combined['seeds']))}: "
        f"mean ± std; NME in per cent of {evaluate.describe(combined['normalizer'])}"
    )
    table = Table(title=title)
    for column in ("row", "reads", "params", "NME %", "FR@10 %", "AUC@10"):
        table.add_column(column, justify="left" if column in ("row", "reads") else "right")
    for row in combined["rows"]:
        table.add_row(
            row["name"],
            row["modality"],
            f"{row['params']:,}",
            f"{row['nme']:.2f} ± {row['nme_std']:.2f}",
            f"{row['fr10']:.2f} ± {row['fr10_std']:.2f}",
            f"{row['auc10']:.3f} ± {row['auc10_std']:.3f}",
        )
    console.print(table)
    for pair in combined["paired"]:
        say(
            f"{pair['row']} − {pair['control']}: {pair['difference']:+.3f} ± {pair['std']:.3f} points of NME, "
            f"paired by seed; better in {pair['seeds_better']} of {len(combined['seeds'])}."
        )
