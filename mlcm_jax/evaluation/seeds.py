"""The work of `mlcm train`: trains the stages of a config for one seed or several, scores them, and draws plots.

For several seeds, the table has the mean and standard deviation of every row, and the paired differences between rows
and their controls.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from rich.table import Table

from mlcm_jax import metrics
from mlcm_jax.console import console, say
from mlcm_jax.data.examples import Examples
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import evaluate
from mlcm_jax.files import write_json
from mlcm_jax.training import distributed, run_stage, sharding, stages
from mlcm_jax.training.log import read_jsonl
from mlcm_jax.training.workdir import check_config


def train(config: ConfigDict, workdir: epath.PathLike, *, data_dir: str) -> dict[str, Any]:
    """Trains every stage of the config, scores it on the test split, and writes results.json and the plots.

    Finished stages are loaded; an unfinished one resumes from its last intact checkpoint. With `config.seeds` each seed
    gets a work directory of its own below this one.

    Args:
        config: the run's config.
        workdir: the run's work directory; it is claimed after everything has been checked.
        data_dir: the folder of built datasets.

    Returns:
        The content of results.json.

    Raises:
        InputError: the run cannot start or continue; what was saved is kept.
        Interrupted: after Ctrl-C or SIGTERM.
    """
    workdir = epath.Path(workdir)
    stages.check(config)
    if not config.seeds:
        return _train_seed(config, workdir, data_dir=data_dir)
    if len(set(config.seeds)) != len(config.seeds):
        raise InputError(f"config.seeds={tuple(config.seeds)} names a seed twice.")
    singles = []
    for seed in config.seeds:
        single = config.copy_and_resolve_references()
        single.seed, single.seeds = seed, ()
        if config.checkpoint_dir:
            single.checkpoint_dir = f"{config.checkpoint_dir}/seed_{seed}"
        check_config(workdir / f"seed_{seed}", single)  # of all seeds now, instead of hours later
        singles.append(single)
    results = []
    for single in singles:
        say(f"Seed {single.seed}")
        results.append(_train_seed(single, workdir / f"seed_{single.seed}", data_dir=data_dir))
    return combine(results, config.seeds, workdir)


def _train_seed(config: ConfigDict, workdir: epath.Path, *, data_dir: str) -> dict[str, Any]:
    mesh, began = sharding.make_mesh(shape=config.mesh), time.monotonic()
    accumulate = config.train.accumulate
    sharding.check_batch_size(config.train.batch_size, mesh, "config.train.batch_size", accumulate=accumulate)
    sharding.check_batch_size(config.eval_batch_size, mesh, "config.eval_batch_size")
    test = evaluate.open_test(config, data_dir=data_dir)
    evaluate.check_normalizer(config.normalizer, test.layout)
    evaluate.readable(config.stages, config, test)
    run = run_stage.prepare(config, workdir, data_dir=data_dir, mesh=mesh, validate=evaluate.validation(config, mesh))
    trained = run_stage.train_stages(run)
    ordered = {name: trained[name] for name in stages.STAGES if name in trained}
    if config.loss.name == "boxes":
        from mlcm_jax.evaluation import detections

        path = workdir / "results.json"
        return detections.report(ordered, test, config=config, mesh=mesh, path=path, data_dir=data_dir)
    found = evaluate.evaluate_networks(ordered, test, config=config, mesh=mesh)
    content = evaluate.results(config, found.rows)
    if distributed.is_main():
        write_json(workdir / "results.json", content)
        _draw(workdir, list(ordered), test, found, metrics.NORMALIZERS[config.normalizer])
    distributed.wait_for_all("plots")
    evaluate.print_table(content)
    say(f"Wrote results.json, samples.png, ced.png and loss.png to {workdir} ({time.monotonic() - began:.0f} s).")
    return content


def _draw(
    workdir: epath.Path, names: Sequence[str], examples: Examples, found: evaluate.Scores, normalizer: str
) -> None:
    """Draws samples.png, with predictions of the last stage in the table, ced.png and loss.png."""
    from mlcm_jax.evaluation import plots  # The training need not wait for matplotlib, which takes half a second.

    plots.ced(workdir / "ced.png", found.errors, normalizer)
    last = found.rows[-1]["name"]
    shown = np.linspace(0, len(examples) - 1, 8).round().astype(int)
    rows = [
        {
            **examples[i],
            "prediction": found.predictions[last][i],
            "title": f"NME {100 * found.errors[last][i]:.1f} %",
        }
        for i in shown
    ]
    plots.samples(workdir / "samples.png", rows, layout=examples.layout, title=f"stage {last}")
    curves = {}
    for name in names:
        # A record has no loss if every step since the record before it was skipped.
        records = [record for record in read_jsonl(workdir / name / "metrics.jsonl") if "task" in record]
        curves[name] = ([record["step"] for record in records], [record["task"] for record in records])
    plots.loss_curves(workdir / "loss.png", curves)


def combine(results: Sequence[Mapping[str, Any]], seeds: Sequence[int], workdir: epath.PathLike) -> dict[str, Any]:
    """Writes `results.json` of several seeds and prints its table.

    Args:
        results: the content of each seed's results.json, all with the same rows.
        seeds: their seeds.
        workdir: the folder to write to.

    Returns:
        {"dataset", "split", "normalizer", "seeds", "rows", "paired"}. The rows are those of one run, but every number
        is a mean, with its sample deviation (n − 1) as `<number>_std`. `paired` is a list of {"row", "control",
        "difference", "std", "seeds_better"}: the difference, in percentage points of NME, is negative if the row is
        better than its control.
    """
    rows, nme = [], {}
    for group in zip(*(result["rows"] for result in results), strict=True):
        row = {key: group[0][key] for key in ("name", "modality", "params", "flops", "images") if key in group[0]}
        for key in [key for key in group[0] if key not in row]:
            row |= dict(zip((key, f"{key}_std"), mean_and_deviation([member[key] for member in group]), strict=True))
        rows.append(row)
        nme[row["name"]] = np.asarray([member["nme"] for member in group])
    paired = []
    for name in nme:
        control = stages.STAGES[name].control if name in stages.STAGES else ""
        if control in nme:
            difference, deviation = mean_and_deviation(nme[name] - nme[control])
            better = int((nme[name] < nme[control]).sum())
            paired.append({"row": name, "control": control, "difference": difference, "std": deviation})
            paired[-1]["seeds_better"] = better
    combined = {key: results[0][key] for key in ("dataset", "split", "normalizer")}
    combined |= {"seeds": list(seeds), "rows": rows, "paired": paired}
    if distributed.is_main():
        epath.Path(workdir).mkdir(parents=True, exist_ok=True)
        write_json(epath.Path(workdir) / "results.json", combined)
    _print(combined)
    say(f"Wrote results.json to {workdir}.")
    return combined


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean and the sample deviation (n − 1); the deviation of one value is 0."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _print(combined: Mapping[str, Any]) -> None:
    images = evaluate.over(combined["rows"])
    title = (
        f"{combined['dataset']}, split {combined['split']}{', ' * bool(images)}{images}, "
        f"seeds {', '.join(map(str, combined['seeds']))}: "
        f"mean ± std; NME in per cent of {metrics.NORMALIZERS[combined['normalizer']]}"
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
