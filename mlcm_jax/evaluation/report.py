"""Writes the report of a run, one self-contained HTML file: the work of `mlcm report`.

What the run's own files say is shown as they say it; everything about single faces is predicted once more. What a run
lacks is listed at the top.
"""

import math
import pathlib
import tempfile
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from mlcm_jax import metrics
from mlcm_jax.console import say
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import measure, page, report_faces, report_files
from mlcm_jax.files import check_replaceable, write_text
from mlcm_jax.models import stored
from mlcm_jax.training import stages
from mlcm_jax.training.workdir import load_config


def write(workdir: epath.PathLike, out: str = "", *, data_dir: str) -> epath.Path:
    """Writes the report of a run, and prints what the run lacks.

    Args:
        workdir: the run's work directory.
        out: the file to write; "" is report.html in the work directory.
        data_dir: the folder of built datasets.

    Returns:
        The path of the report.

    Raises:
        InputError: not the work directory of a run, or `out` is a file that is no report.
    """
    workdir = epath.Path(workdir)
    config = load_config(workdir)
    path = epath.Path(out) if out else workdir / "report.html"
    _check_free(path)
    run = _open(workdir, config)
    lacks = list(run.lacks)
    measured = _measured(run, lacks, data_dir=data_dir)
    with tempfile.TemporaryDirectory() as folder:
        sections = {"Results": report_files.results(run, measured, lacks)}
        sections |= report_faces.sections(run, measured, pathlib.Path(folder))
        sections["Training"] = report_files.training(run, pathlib.Path(folder), lacks)
        sections["Networks"] = report_files.sizes(run)
        sections["Config"] = report_files.settings(config)
        sections["Environment"] = report_files.environment(run, lacks)
    lead = [page.paragraph(_summary(run))]
    if lacks:
        lead.append(f"<div class=missing>{page.paragraph('What is missing, or differs:')}{page.listed(lacks)}</div>")
    content = page.page(f"Report of {workdir.name or workdir}", "".join(lead), sections)
    write_text(path, content)
    for sentence in lacks:
        say(sentence)
    say(f"Wrote {path} ({len(content.encode()) / 1e6:.1f} MB).")
    return path


def _check_free(path: epath.Path) -> None:
    """Raises InputError if a report cannot be written there without replacing something else."""
    check_replaceable(path, page.MARK, "report")
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} of --out does not exist; make it first.")


def _open(workdir: epath.Path, config: ConfigDict) -> report_files.Run:
    """Reads the files of a run; what is missing or damaged becomes a sentence of `lacks`."""
    lacks: list[str] = []
    results: dict[str, Any] = {}
    path = workdir / "results.json"
    if not path.exists():
        lacks.append("There is no results.json: the run is not finished, so run the training command again.")
    else:
        try:
            results = report_files.read_results(path, detects=config.loss.name == "boxes")
        except InputError as error:
            lacks.append(f"{error} The table shows what was predicted for this report.")
    trained: dict[str, measure.Stored] = {}
    for name in stages.with_required(config.stages, config):
        if not (workdir / name / stored.CARD).exists():
            lacks.append(f"Stage {name} is not finished: {report_files.progress(workdir, name, config)}.")
            continue
        try:
            trained[name] = stored.load(workdir / name)
        except InputError as error:
            lacks.append(f"Stage {name} is left out: {error}")
    return report_files.Run(workdir, config, results, trained, tuple(lacks))


def _measured(run: report_files.Run, lacks: list[str], *, data_dir: str) -> measure.Measured | None:
    """Predicts the test split; None, and a sentence that says why, if that is not possible."""
    if run.detects:
        lacks.append("The run trains a detector, which has no landmarks: there are no errors of single faces.")
        return None
    if not run.trained:
        lacks.append("No stage is finished, so there are no predictions.")
        return None
    config = run.config.copy_and_resolve_references()
    try:
        found = measure.measure(str(run.workdir), config, run.trained, data_dir=data_dir)
    except InputError as error:
        lacks.append(f"The test images cannot be predicted, so there are no errors of single faces: {error}")
        return None
    if "mean_shape" not in found.errors:
        lacks.append("No checkpoint can be read, so the mean shape is not among the predictions.")
    return found


def _summary(run: report_files.Run) -> str:
    dataset = run.results.get("dataset") or run.config.test_dataset or run.config.dataset
    split = run.results.get("split") or run.config.test_split
    rows = [
        row
        for row in run.results.get("rows", [])
        if row["name"] in stages.STAGES and math.isfinite(row.get("nme", math.nan))
    ]
    start = f"Scored on {dataset}, split {split}."
    if not rows:
        return start
    best = min(rows, key=lambda row: row["nme"])
    unit = metrics.NORMALIZERS[run.results["normalizer"]]
    mean = min((row["nme"] for row in run.results["rows"] if row["name"] == "mean_shape"), default=math.inf)
    if mean < best["nme"]:
        return f"{start} No network is better than mean_shape, which has an NME of {mean:.2f} % of {unit}."
    return f"{start} {best['name']} has the smallest error, an NME of {best['nme']:.2f} % of {unit}."
