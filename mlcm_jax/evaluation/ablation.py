"""A grid of methods × seeds: every row a run of its own, what rows have in common trained once, one table.

W/shared/seed_<k>/   stages that several rows read
W/<row>/seed_<k>/    config.json and the stages of the row alone; row.json: its scores, written when it is done
W/ablation.json, ablation.md, ablation.png   rewritten after every row
"""

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict
from scipy import stats

from mlcm_jax.console import say
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import evaluate, plots
from mlcm_jax.evaluation.ablation_rows import Row, base, plan
from mlcm_jax.files import write_json
from mlcm_jax.training import run_stage, sharding, stages
from mlcm_jax.training.workdir import Trained, claim

_NUMBERS = ("nme", "fr10", "auc10")


def ablate(config: ConfigDict, workdir: epath.PathLike, *, data_dir: str, only: Sequence[str] = ()) -> dict[str, Any]:
    """Trains and scores what is missing of a grid, seed by seed, and writes its table after every row.

    Args:
      config: see `plan`; `config.seeds`, or `config.seed` alone.
      workdir: of the grid. What it holds of the same configs is not done again; an unfinished stage resumes.
      data_dir: where built datasets are.
      only: names of the rows to train; the table has all. () for all.

    Returns:
      The content of ablation.json, see `collect`.

    Raises:
      InputError: see `plan`; a work directory of other configs; and what training raises.
      Interrupted: after Ctrl-C or SIGTERM; what was trained is saved.
    """
    workdir, rows, common = epath.Path(workdir), plan(config), base(config)
    for name in only:
        if name not in config.grid:
            raise InputError(f"There is no row {name!r}; the rows are {', '.join(config.ablation.rows)}.")
    if config.checkpoint_dir:
        raise InputError("config.checkpoint_dir is for one run; leave it empty for an ablation, whose runs are many.")
    seeds, mesh = tuple(config.seeds) or (config.seed,), sharding.make_mesh(shape=config.mesh)
    # All folders before the first training: a config that has changed is not found out hours later.
    for seed in seeds:
        if any(row.shared for row in rows):
            claim(workdir / "shared" / f"seed_{seed}", _seeded(common, seed))
        for row in rows:
            key, accumulate = f"config.train.batch_size of row {row.name!r}", row.config.train.accumulate
            sharding.check_batch_size(row.config.train.batch_size, mesh, key, accumulate=accumulate)
            claim(_directory(workdir, row, seed), _seeded(row.config, seed))
    for seed in seeds:
        shared: dict[str, Trained] = {}
        for row in rows:
            if (only and row.name not in only) or _scores(workdir, row, seed) is not None:
                continue
            say(f"Row {row.name}, seed {seed}")
            if set(row.shared) - set(shared):
                one = _seeded(common, seed)
                one.stages = row.shared
                shared = run_stage.train_stages(
                    one,
                    workdir / "shared" / f"seed_{seed}",
                    data_dir=data_dir,
                    mesh=mesh,
                    trained=shared,
                    validate=evaluate.validation_error,
                )
            _train_row(row, seed, workdir, shared, data_dir=data_dir, mesh=mesh)
            _write(collect(rows, seeds, workdir, config.ablation.comparisons), workdir)
    content = collect(rows, seeds, workdir, config.ablation.comparisons)
    _write(content, workdir)
    say(markdown(content))
    say(f"Wrote ablation.json, ablation.md and ablation.png to {workdir}.")
    return content


def _seeded(config: ConfigDict, seed: int) -> ConfigDict:
    single = config.copy_and_resolve_references()
    single.seed = seed
    return single


def _directory(workdir: epath.Path, row: Row, seed: int) -> epath.Path:
    return workdir / row.folder / f"seed_{seed}"


def _train_row(row, seed, workdir, shared, *, data_dir: str, mesh: Mesh) -> None:
    """Trains the stages of a row that are its own, scores all, writes row.json."""
    directory, config = _directory(workdir, row, seed), _seeded(row.config, seed)
    trained = {name: shared[name] for name in row.shared}
    if set(row.stages) - set(trained):
        trained = run_stage.train_stages(
            config, directory, data_dir=data_dir, mesh=mesh, trained=trained, validate=evaluate.validation_error
        )
    test = evaluate.open_test(config, config.test_split, data_dir=data_dir)
    ordered = {name: trained[name] for name in row.stages}
    results, _, _ = evaluate.evaluate_networks(ordered, test, config=config, split=config.test_split, mesh=mesh)
    if row.stage not in (scored["name"] for scored in results["rows"]):
        raise InputError(f"Row {row.name!r} cannot be scored: {test.name} lacks the images that {row.stage} reads.")
    devices = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    write_json(directory / "row.json", {"row": row.name, "devices": devices, **_scored_by(row), **results})


def _scored_by(row: Row) -> dict[str, Any]:
    """By what a row is scored: none of it is a matter of training, so a finished row may be asked for another."""
    config = row.config
    test = [config.test_dataset or config.dataset, config.test_split, config.normalizer]
    return {"stage": row.stage, "test": test}


def _scores(workdir: epath.Path, row: Row, seed: int) -> dict[str, Any] | None:
    """row.json of a row that is done and scored as its config says; None: it is to be scored (again).

    What was trained was compared with the config when the folder was claimed.
    """
    path = _directory(workdir, row, seed) / "row.json"
    try:
        found = json.loads(path.read_text()) if path.exists() else None
    except json.JSONDecodeError:
        return None
    known = isinstance(found, dict) and "rows" in found and _scored_by(row).items() <= found.items()
    return found if known else None


def summarize(values: dict[str, Sequence[float]]) -> dict[str, Any]:
    """Mean, and sample deviation (n − 1; None for one value) as `<name>_std`, of every list."""
    found: dict[str, Any] = {}
    for name, numbers in values.items():
        found[name] = float(np.mean(numbers))
        found[f"{name}_std"] = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    return found


def paired(values: Sequence[float], control: Sequence[float], *, confidence: float = 0.95) -> dict[str, Any]:
    """What a row gains over its control, seed by seed.

    Args:
      values, control: NME [n] of the same seeds.
      confidence: of the interval.

    Returns:
      {"difference", "low", "high", "seeds_better", "seeds"}: the mean of values − control, negative where the row is
      better, with Student's t interval for the mean of n paired differences (None for one seed); on how many seeds the
      row is better, of how many.
    """
    difference = np.subtract(values, control)
    count, mean = len(difference), float(difference.mean())
    found = {"difference": mean, "low": None, "high": None}
    if count > 1:
        half = stats.t.ppf((1 + confidence) / 2, count - 1) * difference.std(ddof=1) / np.sqrt(count)
        found |= {"low": float(mean - half), "high": float(mean + half)}
    return found | {"seeds_better": int((difference < 0).sum()), "seeds": count}


def collect(rows: Sequence[Row], seeds: Sequence[int], workdir: epath.PathLike, comparisons=()) -> dict[str, Any]:
    """The content of ablation.json, of the rows that are done.

    Returns:
      {"dataset", "split", "normalizer", "seeds", "devices", "rows", "comparisons", "others"}. Rows have name, stage,
      control, retrained (stages that others share), seeds (done), by_seed (NME), and where one is done nme, fr10, auc10
      with `_std` (`summarize`), and paired (None, or see `paired`, over the seeds that row and control have both);
      comparisons the same of pairs of choice; others are what the scored stages were made from, and the mean shape.
    """
    workdir = epath.Path(workdir)
    done = {row.name: {s: r for s in seeds if (r := _scores(workdir, row, s)) is not None} for row in rows}
    by_stage = {row.name: row.stage for row in rows}

    def nme(name):
        return {seed: _scored(found, by_stage[name])["nme"] for seed, found in done[name].items()}

    def against(name, control):
        one, other = nme(name), nme(control)
        both = [seed for seed in one if seed in other]
        return paired([one[s] for s in both], [other[s] for s in both]) if both else None

    table = []
    for row in rows:
        entry = {"name": row.name, "stage": row.stage, "control": row.control, "retrained": list(row.retrained)}
        entry |= {"seeds": list(done[row.name]), "by_seed": list(nme(row.name).values())}
        found = [_scored(one, row.stage) for one in done[row.name].values()]
        if found:
            entry |= summarize({key: [one[key] for one in found] for key in _NUMBERS})
        table.append(entry | {"paired": against(row.name, row.control) if row.control else None})
    first = rows[0].config
    return {
        "dataset": first.test_dataset or first.dataset,
        "split": first.test_split,
        "normalizer": first.normalizer,
        "seeds": list(seeds),
        "devices": sorted({r["devices"] for found in done.values() for r in found.values()}),
        "rows": table,
        "comparisons": [{"row": a, "control": b, "paired": against(a, b)} for a, b in comparisons],
        "others": _others(rows, done),
    }


def _scored(found: dict[str, Any], stage: str) -> dict[str, Any]:
    return next(row for row in found["rows"] if row["name"] == stage)


def _others(rows, done) -> list[dict[str, Any]]:
    """The mean shape and the shared stages that no row scores, each once a seed."""
    values: dict[str, dict[int, dict]] = {}
    for row in rows:
        for seed, found in done[row.name].items():
            for one in found["rows"]:
                if one["name"] in ("mean_shape", *row.shared) and one["name"] != row.stage:
                    values.setdefault(one["name"], {})[seed] = one
    scored = {row.stage for row in rows if row.stage in row.shared}
    order = [name for name in ("mean_shape", *stages.STAGES) if name in values and name not in scored]
    return [
        {"name": name} | summarize({key: [one[key] for one in values[name].values()] for key in _NUMBERS})
        for name in order
    ]


def _number(entry: dict[str, Any], key: str, digits: int) -> str:
    spread = entry[f"{key}_std"]
    return f"{entry[key]:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def _difference(found: dict[str, Any]) -> str:
    interval = "" if found["low"] is None else f" [{found['low']:+.2f}, {found['high']:+.2f}]"
    return f"{found['difference']:+.2f}{interval}"


def markdown(content: dict[str, Any]) -> str:
    """The table of `collect`'s content, with what one has to know to read it."""
    seeds = ("seeds " if len(content["seeds"]) > 1 else "seed ") + ", ".join(map(str, content["seeds"]))
    lines = [
        f"{content['dataset']}, split {content['split']}; NME in per cent of "
        f"{evaluate.describe(content['normalizer'])}; mean ± standard deviation over {seeds}. Difference: "
        "points of NME, row − control, paired by seed, with its 95 % interval (Student's t, over seeds alone); "
        "negative: the row is better.",
        "",
        "| row | scored stage | NME % | FR@10 % | AUC@10 | control | difference [95 %] | seeds better |",
        "|---|---|---:|---:|---:|---|---:|---:|",
    ]
    for row in content["rows"]:
        name = row["name"].replace("|", "\\|")
        cells = [name, row["stage"]]
        if "nme" in row:
            missing = len(content["seeds"]) - len(row["seeds"])
            cells[0] += f" ({len(row['seeds'])} of {len(content['seeds'])} seeds)" if missing else ""
            cells += [_number(row, "nme", 2), _number(row, "fr10", 2), _number(row, "auc10", 3)]
        else:
            cells += ["not measured", "", ""]
        found = row["paired"]
        cells.append(row["control"].replace("|", "\\|"))
        cells += [_difference(found), f"{found['seeds_better']} of {found['seeds']}"] if found else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for pair in content["comparisons"]:
        found = pair["paired"]
        text = f"{_difference(found)}, better on {found['seeds_better']} of {found['seeds']} seeds" if found else ""
        lines.append(f"- {pair['row']} against {pair['control']}: {text or 'not measured'}.")
    for other in content["others"]:
        lines.append(f"- {other['name']}: NME {_number(other, 'nme', 2)} %.")
    for row in content["rows"]:
        if row["retrained"]:
            lines.append(f"- {row['name']} has its own {' and '.join(row['retrained'])}, trained under the row's keys.")
    if content["devices"]:
        lines.append(f"- Trained on {', '.join(content['devices'])}.")
    return "\n".join(lines)


def _write(content: dict[str, Any], workdir: epath.Path) -> None:
    """ablation.json, ablation.md, ablation.png."""
    write_json(workdir / "ablation.json", content)
    (workdir / "ablation.md").write_text(markdown(content) + "\n")
    plots.ablation(workdir / "ablation.png", content["rows"], normalizer=evaluate.describe(content["normalizer"]))
