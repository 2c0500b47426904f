"""Runs a grid of methods × seeds. Every row is its own run; stages that rows share are trained once.

W/shared/seed_<k>/   stages that several rows share
W/<row>/seed_<k>/    config.json and the row's own stages; row.json, its scores, is written when the row is done
W/ablation.json, ablation.md, ablation.png   rewritten after every row
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from scipy import stats

from mlcm_jax import metrics
from mlcm_jax.console import say
from mlcm_jax.data.examples import Examples
from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.evaluation import evaluate, plots
from mlcm_jax.evaluation.ablation_rows import Row, base, plan
from mlcm_jax.files import write_json
from mlcm_jax.training import run_stage, sharding, stages
from mlcm_jax.training.workdir import Trained

_NUMBERS = ("nme", "fr10", "auc10")


def ablate(config: ConfigDict, workdir: epath.PathLike, *, data_dir: str, only: Sequence[str] = ()) -> dict[str, Any]:
    """Trains and scores the missing rows of a grid, seed by seed, and writes its table after every row.

    Args:
        config: see `ablation_rows.plan`; the seeds are `config.seeds`, or `config.seed` if that is ().
        workdir: the grid's work directory. Finished rows in it are not trained again; an unfinished stage resumes.
        data_dir: the folder of built datasets.
        only: names of the rows to train; () trains all. The table has all rows in any case.

    Returns:
        The content of ablation.json, see `collect`.

    Raises:
        InputError: an invalid config (see `ablation_rows.plan`), a work directory of other configs, or an error in
            training.
        Interrupted: after Ctrl-C or SIGTERM; what was trained is saved.
    """
    workdir, rows, common = epath.Path(workdir), plan(config), base(config)
    for name in only:
        if name not in config.grid:
            raise InputError(f"There is no row {name!r}; {did_you_mean(name, config.ablation.rows)}")
    if config.checkpoint_dir:
        raise InputError("config.checkpoint_dir is for one run; leave it empty for an ablation, which has many.")
    seeds, mesh = tuple(config.seeds) or (config.seed,), sharding.make_mesh(shape=config.mesh)
    options = {"data_dir": data_dir, "mesh": mesh}
    common.stages = tuple(name for name in stages.STAGES if any(name in row.shared for row in rows))
    # Check all runs before the first training, so that a mistake in the last row isn't found hours later.
    for row in rows:
        train, where = row.config.train, f"of row {row.name!r}"
        key = f"config.train.batch_size {where}"
        sharding.check_batch_size(train.batch_size, mesh, key, accumulate=train.accumulate)
        sharding.check_batch_size(row.config.eval_batch_size, mesh, f"config.eval_batch_size {where}")
    _check_tests(rows, data_dir)
    for seed in seeds:
        for row in rows:
            try:
                run_stage.check(_prepare(row.config, _directory(workdir, row, seed), seed, options))
            except InputError as error:
                raise InputError(f"Row {row.name!r} cannot be trained: {error}") from error
        if common.stages:
            run_stage.check(_prepare(common, workdir / "shared" / f"seed_{seed}", seed, options))
    for seed in seeds:
        shared: dict[str, Trained] = {}
        for row in rows:
            if (only and row.name not in only) or _scores(workdir, row, seed) is not None:
                continue
            say(f"Row {row.name}, seed {seed}")
            if set(row.shared) - set(shared):
                one = base(config)
                one.stages = row.shared
                run = _prepare(one, workdir / "shared" / f"seed_{seed}", seed, options)
                shared = run_stage.train_stages(run, shared)
            _train_row(row, seed, workdir, shared, options)
            _write(collect(rows, seeds, workdir, config.ablation.comparisons), workdir)
    content = collect(rows, seeds, workdir, config.ablation.comparisons)
    _write(content, workdir)
    say(markdown(content))
    say(f"Wrote ablation.json, ablation.md and ablation.png to {workdir}.")
    return content


def _prepare(config: ConfigDict, folder: epath.Path, seed: int, options: Mapping[str, Any]) -> run_stage.Run:
    """Prepares one run of the grid."""
    single = config.copy_and_resolve_references()
    single.seed = seed
    return run_stage.prepare(single, folder, validate=evaluate.validation(single, options["mesh"]), **options)


def _check_tests(rows: Sequence[Row], data_dir: str) -> None:
    """Raises InputError for a row that cannot be scored on its test set."""
    tests: dict[tuple[tuple[float, ...], str], Examples] = {}  # by range and gain: rows differ in no other way
    for row in rows:
        config = row.config
        how = config.thermal_range, config.gain
        if how not in tests:
            tests[how] = evaluate.open_test(config, data_dir=data_dir)
        test = tests[how]
        try:
            evaluate.check_normalizer(config.normalizer, test.layout)
            evaluate.readable([row.stage], config, test)
        except InputError as error:
            raise InputError(f"Row {row.name!r} cannot be scored: {error}") from error


def _directory(workdir: epath.Path, row: Row, seed: int) -> epath.Path:
    return workdir / row.folder / f"seed_{seed}"


def _train_row(
    row: Row, seed: int, workdir: epath.Path, shared: Mapping[str, Trained], options: Mapping[str, Any]
) -> None:
    """Trains the row's own stages, scores all of its stages, and writes row.json."""
    directory = _directory(workdir, row, seed)
    run = _prepare(row.config, directory, seed, options)
    trained = run_stage.train_stages(run, {name: shared[name] for name in row.shared})
    test = evaluate.open_test(run.config, data_dir=options["data_dir"])
    ordered = {name: trained[name] for name in row.stages}
    found = evaluate.evaluate_networks(ordered, test, config=run.config, mesh=run.mesh)
    content = evaluate.results(run.config, found.rows)
    devices = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    earlier = _read_row(directory)  # of a row that is scored again, perhaps on another machine than it was trained on
    about = {"row": row.name, "devices": earlier.get("devices", devices)}
    write_json(directory / "row.json", {**about, **_scored_by(row), **content})


def _scored_by(row: Row) -> dict[str, Any]:
    """The part of row.json that says how a row was scored. It does not affect training: rows can be scored again."""
    config = row.config
    test = [config.test_dataset or config.dataset, config.test_split, config.normalizer]
    return {"stage": row.stage, "test": test}


def _scores(workdir: epath.Path, row: Row, seed: int) -> dict[str, Any] | None:
    """Reads row.json of a row that was scored as its config says; returns None if it has to be scored (again).

    The networks need no check, because the config was compared when the folder was claimed.
    """
    found = _read_row(_directory(workdir, row, seed))
    return found if "rows" in found and _scored_by(row).items() <= found.items() else None


def _read_row(directory: epath.Path) -> dict[str, Any]:
    """Reads row.json; {} if it is missing or damaged."""
    path = directory / "row.json"
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def summarize(values: dict[str, Sequence[float]]) -> dict[str, Any]:
    """Returns the mean of every list, and its sample deviation (n − 1; None for one value) as `<name>_std`."""
    found: dict[str, Any] = {}
    for name, numbers in values.items():
        found[name] = float(np.mean(numbers))
        found[f"{name}_std"] = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    return found


def paired(values: Sequence[float], control: Sequence[float], *, confidence: float = 0.95) -> dict[str, Any]:
    """Compares a row with its control, paired by seed.

    Args:
        values: NME [n] of the row.
        control: NME [n] of its control, for the same seeds.
        confidence: confidence level of the interval.

    Returns:
        {"difference", "low", "high", "seeds_better", "seeds"}: the mean of values − control, negative if the row is
        better; the limits of Student's t interval for the mean of n paired differences (None for one seed); the number
        of seeds for which the row is better, and the number of seeds.
    """
    difference = np.subtract(values, control)
    count, mean = len(difference), float(difference.mean())
    found = {"difference": mean, "low": None, "high": None}
    if count > 1:
        half = stats.t.ppf((1 + confidence) / 2, count - 1) * difference.std(ddof=1) / np.sqrt(count)
        found |= {"low": float(mean - half), "high": float(mean + half)}
    return found | {"seeds_better": int((difference < 0).sum()), "seeds": count}


def collect(
    rows: Sequence[Row], seeds: Sequence[int], workdir: epath.PathLike, comparisons: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Collects the content of ablation.json from the rows that are done.

    Args:
        rows: the rows of the grid.
        seeds: the seeds of the grid.
        workdir: the grid's work directory.
        comparisons: further pairs (row, other row).

    Returns:
        {"dataset", "split", "normalizer", "seeds", "devices", "rows", "comparisons", "others"}. A row has name, stage,
        control, retrained (stages that other rows share), seeds (those that are done), by_seed (their NME), paired (see
        `paired`, over the seeds of both row and control; None if there are none) and, if a seed is done, nme, fr10 and
        auc10 with `_std` (see `summarize`). Comparisons have row, control and paired. Others are the mean shape, and
        shared stages that no row scores.
    """
    workdir = epath.Path(workdir)
    done = {row.name: {s: r for s in seeds if (r := _scores(workdir, row, s)) is not None} for row in rows}
    by_stage = {row.name: row.stage for row in rows}

    def nme(name: str) -> dict[int, float]:
        return {seed: _scored(found, by_stage[name])["nme"] for seed, found in done[name].items()}

    def against(name: str, control: str) -> dict[str, Any] | None:
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
            entry |= {"images": found[0]["images"]} if "images" in found[0] else {}
        table.append(entry | {"paired": against(row.name, row.control) if row.control else None})
    return evaluate.results(rows[0].config, table) | {
        "seeds": list(seeds),
        "devices": sorted({r["devices"] for found in done.values() for r in found.values()}),
        "comparisons": [{"row": a, "control": b, "paired": against(a, b)} for a, b in comparisons],
        "others": _others(rows, done),
    }


def _scored(found: dict[str, Any], stage: str) -> dict[str, Any]:
    return next(row for row in found["rows"] if row["name"] == stage)


def _others(rows: Sequence[Row], done: Mapping[str, Mapping[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Summarizes the mean shape and the shared stages that no row scores, each once per seed."""
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
    """Formats ablation.json as a Markdown table, with the notes that are needed to read it."""
    seeds = ("seeds " if len(content["seeds"]) > 1 else "seed ") + ", ".join(map(str, content["seeds"]))
    images = evaluate.over(content["rows"])
    lines = [
        f"{content['dataset']}, split {content['split']}{', ' * bool(images)}{images}; NME in per cent of "
        f"{metrics.NORMALIZERS[content['normalizer']]}; mean ± standard deviation over {seeds}. The difference is in "
        "points of NME, row − control, paired by seed, with its 95 % interval (Student's t, over seeds alone). It is "
        "negative where the row is better.",
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
            lines.append(f"- {row['name']} has its own {' and '.join(row['retrained'])}, trained with the row's keys.")
    if content["devices"]:
        lines.append(f"- Trained on {', '.join(content['devices'])}.")
    return "\n".join(lines)


def _write(content: dict[str, Any], workdir: epath.Path) -> None:
    write_json(workdir / "ablation.json", content)
    (workdir / "ablation.md").write_text(markdown(content) + "\n")
    plots.ablation(workdir / "ablation.png", content["rows"], metrics.NORMALIZERS[content["normalizer"]])
