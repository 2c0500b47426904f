"""Sections of a report that show what the files of a run say: table, curves, networks, config and environment."""

import dataclasses
import datetime
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mlcm_jax import __version__, metrics, models
from mlcm_jax import config as configs
from mlcm_jax.data.augment import CHANNELS
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import evaluate, measure, page, plots
from mlcm_jax.files import read_json
from mlcm_jax.models import network as networks
from mlcm_jax.models import size, stored
from mlcm_jax.training import environment as environments
from mlcm_jax.training import stages
from mlcm_jax.training.log import read_jsonl
from mlcm_jax.training.workdir import code_version, read_origin

_AGREES = 0.01  # percentage points of NME between results.json and the predictions of the report


@dataclasses.dataclass(frozen=True)
class Run:
    """What the files of a run hold.

    Attributes:
        workdir: its work directory.
        config: its config.
        results: the content of results.json; {} if it is missing or damaged.
        trained: the stored networks of the finished stages.
        lacks: sentences about what is missing.
    """

    workdir: epath.Path
    config: ConfigDict
    results: dict[str, Any]
    trained: dict[str, measure.Stored]
    lacks: tuple[str, ...] = ()

    @property
    def detects(self) -> bool:
        """Whether the run trains a detector."""
        return self.config.loss.name == "boxes"


def _number(value: Any, digits: int) -> str | None:
    """Returns a number as text, with commas; None, which becomes a dash, for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return f"{value:,.{digits}f}" if math.isfinite(value) else "not finite"


def records(workdir: epath.Path, stage: str) -> list[dict[str, Any]]:
    """Returns what a stage logged, oldest first; [] if there is nothing."""
    try:
        return read_jsonl(workdir / stage / "metrics.jsonl")
    except OSError:
        return []


def progress(workdir: epath.Path, stage: str, config: ConfigDict) -> str:
    """Says how far the log of a stage goes."""
    logged = records(workdir, stage)
    total = config.steps[stages.STAGES[stage].model]
    return f"its log ends at step {logged[-1]['step']:,} of {total:,}" if logged else "it has no log"


def read_results(path: epath.Path, *, detects: bool = False) -> dict[str, Any]:
    """Reads results.json, or what `mlcm evaluate` wrote; raises InputError if it is not the table of such a run."""
    content = read_json(path)
    if not isinstance(content, dict) or not _is_table(content, "ap" if detects else "nme"):
        raise InputError(f"The file {path} does not hold the table of a run.")
    if detects:
        good = _is_number(content.get("iou"))
    else:  # what is stated of the data is text
        stated = [content[key] for key in ("dataset", "split") if key in content]
        good = content.get("normalizer") in list(metrics.NORMALIZERS) and len(stated) in (0, 2)
        good = good and all(isinstance(one, str) for one in stated)
    if not good:
        raise InputError(f"The file {path} does not hold the table of a run.")
    return content


def _is_table(content: Mapping[str, Any], score: str) -> bool:
    """Whether there are rows with a name and numbers."""
    rows = content.get("rows")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return False
    named = all(isinstance(row.get("name"), str) for row in rows)
    counted = all(isinstance(row.get("images"), int | None) for row in rows)
    return named and counted and all(_is_number(row.get(key)) for row in rows for key in (score, "params", "flops"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# Results


def results(run: Run, measured: measure.Measured | None, lacks: list[str]) -> str:
    """Shows the table of results.json, the gains over the controls, and the tables of `mlcm evaluate`."""
    if run.detects:
        return _detector(run)
    parts = []
    if run.results:
        parts.append(_table(run.results))
        lacks += _differences(run.results, measured)
    elif measured:
        nme = {name: 100 * float(errors.mean()) for name, errors in measured.errors.items()}
        rows = [{"name": name, "nme": value, "images": len(measured.truth)} for name, value in nme.items()]
        parts.append(_table({"normalizer": measured.normalizer, "rows": rows}))
    else:
        parts.append(page.paragraph("There are no results."))
    if measured:
        parts.append(_gains(measured))
    for path in sorted(run.workdir.glob("results_*.json")):
        try:
            parts.append(page.folded(f"mlcm evaluate: {path.name}", _table(read_results(path))))
        except InputError:  # also the table of a detector
            lacks.append(f"{path.name} is damaged and left out.")
    return "".join(parts)


def _table(content: Mapping[str, Any]) -> str:
    rows = content["rows"]
    nme = {row["name"]: row["nme"] for row in rows}
    cells = []
    for row in rows:
        control = stages.STAGES[row["name"]].control if row["name"] in stages.STAGES else ""
        difference = row["nme"] - nme[control] if control in nme else None
        cells.append([
            row["name"], row.get("modality"), _number(row.get("params"), 0),
            _number(row["flops"] / 1e6, 1) if "flops" in row else None, _number(row["nme"], 2),
            None if difference is None else f"{difference:+.2f} to {control}",
            _number(row.get("fr8"), 1), _number(row.get("fr10"), 1), _number(row.get("auc8"), 3),
            _number(row.get("auc10"), 3), _number(row.get("nme_outer_eyes_frontal"), 2),
        ])  # fmt: skip
    header = ("row", "reads", "parameters", "MFLOPs", "NME %", "difference", "FR@8 %", "FR@10 %", "AUC@8")
    best = int(np.argmin([row["nme"] if math.isfinite(row["nme"]) else math.inf for row in rows]))
    where = [content["dataset"], f"split {content['split']}"] if "dataset" in content else []
    where.append(evaluate.over(rows))
    notes = [
        f"{', '.join(filter(None, [*where, 'NME in per cent of']))} {metrics.NORMALIZERS[content['normalizer']]}.",
        "FR (failure rate) and AUC at 8 and 10 %. Difference: of the NME to that of the control, in points. mean_shape",
        "predicts the mean of the training shapes for every image; a control has the same initialisation, data and",
        f"steps, but no teacher. eyes: by the outer eye corners, |yaw| below {evaluate.FRONTAL_YAW:.0f}° only.",
    ]
    return page.table((*header, "AUC@10", "eyes %"), cells, best=best) + page.paragraph(*notes, note=True)


def _differences(content: Mapping[str, Any], measured: measure.Measured | None) -> list[str]:
    """Says where the predictions of the report have another NME than results.json."""
    found = []
    for row in content["rows"] if measured else []:
        errors = measured.errors.get(row["name"])
        now = None if errors is None else 100 * float(errors.mean())
        if now is not None and not abs(now - row["nme"]) < _AGREES:
            found.append(
                f"{row['name']} has an NME of {row['nme']:.2f} % in results.json, and of {now:.2f} % as predicted for "
                "this report: the code or the data have changed. The table has the first, everything about single "
                "faces the second."
            )
    return found


def _gains(measured: measure.Measured) -> str:
    gains = {name: measure.gain_over_control(measured.errors, name) for name in measured.errors}
    rows = [
        [name, one["control"], f"{one['difference']:+.2f} ± {one['half']:.2f}", f"{one['better']:.0f} %"]
        for name, one in gains.items()
        if one
    ]
    if not rows:
        return ""
    header = ("row", "control", "difference of the NME in points", "faces that are better")
    note = "± is the 95 % interval over the test faces. It leaves out the chance of the seed, which is often larger."
    return f"<h3>Gain over the control</h3>{page.table(header, rows)}{page.paragraph(note, note=True)}"


def _detector(run: Run) -> str:
    if not run.results:
        return page.paragraph("There are no results.")
    columns = {"threshold": 2, "recall": 3, "precision": 3, "false_alarms": 3, "ap": 3, "faces": 0, "images": 0}
    rows = [
        [row["name"], _number(row["params"], 0), *(_number(row.get(name), digits) for name, digits in columns.items())]
        for row in run.results["rows"]
    ]
    parts = [page.table(("row", "parameters", *(name.replace("_", " ") for name in columns)), rows)]
    note = f"Boxes count as found with an IoU of {run.results['iou']:g}; recall, precision and false alarms are shares."
    parts.append(page.paragraph(note, note=True))
    for path in sorted(run.workdir.glob("results_*.png")):
        parts.append(page.picture(path, f"Precision over recall: {path.stem.removeprefix('results_')}"))
    return "".join(parts)


# Training


def training(run: Run, folder: pathlib.Path, lacks: list[str]) -> str:
    """Shows the course of the losses of every stage, and how each ended."""
    curves: dict[str, dict[str, Any]] = {"task": {}, "gradient_norm": {}}
    rows = []
    for name in stages.with_required(run.config.stages, run.config):
        logged = records(run.workdir, name)
        total = run.config.steps[stages.STAGES[name].model]
        if not logged:
            rows.append([name, stages.modality(name, run.config), None, f"{total:,}", None, None, None])
            if name in run.trained:
                lacks.append(f"Stage {name} has no readable metrics.jsonl, so it has no curve.")
            continue
        for key, found in curves.items():
            pairs = [(record["step"], record[key]) for record in logged if key in record]
            if pairs:
                found[name] = tuple(zip(*pairs, strict=True))
        last = logged[-1]
        skipped = sum(record.get("skipped", 0.0) for record in logged)
        teachers = ", ".join(stages.STAGES[name].teachers) or None
        rows.append([
            name, stages.modality(name, run.config), teachers, f"{last['step']:,} of {total:,}",
            _number(last.get("task"), 4), _number(last.get("loss"), 4), _number(skipped, 0),
        ])  # fmt: skip
    header = ("stage", "reads", "taught by", "steps", "last task loss", "last loss", "skipped steps")
    parts = [page.table(header, rows)]
    if curves["task"]:
        plots.loss_curves(folder / "task.svg", curves["task"])
        parts.append(page.picture(folder / "task.svg", "Task loss of every stage over its steps."))
    if curves["gradient_norm"]:
        plots.loss_curves(folder / "norm.svg", curves["gradient_norm"], label="norm of the gradient")
        parts.append(page.picture(folder / "norm.svg", "Norm of the gradient of every stage over its steps."))
    note = "A loss that is not finite leaves a gap. The loss includes the terms of the distillation, the task loss does"
    return "".join(parts) + page.paragraph(note, "not. Every point is a mean since the one before it.", note=True)


# Networks


def sizes(run: Run) -> str:
    """Shows parameters and FLOPs of every architecture, by part."""
    parts = []
    for names in measure.architectures(run.trained).values():
        network, card = run.trained[names[0]]
        header, *rows = size.rows_of(models.profile(networks.join(network), card.image_size, CHANNELS[card.modality]))
        parts.append(f"<h3>{page.text(', '.join(names))}: {page.text(card.architecture['name'])}</h3>")
        parts.append(page.table(header, rows, best=len(rows) - 1))
        given = ", ".join(f"{key}={value!r}" for key, value in sorted(card.architecture.items()) if key != "name")
        note = f"One {card.modality} image of {card.image_size} x {card.image_size} pixels; a multiply-add is 2 FLOPs."
        parts.append(page.paragraph(note, f"{given}." if given else "", note=True))
    return "".join(parts) or page.paragraph("No stage is finished.")


# Config


def settings(config: ConfigDict) -> str:
    """Shows the keys of the config that differ from the defaults, and all of them."""
    values = configs.flat(json.loads(config.to_json()))
    base = configs.flat(json.loads(configs.base().to_json()))

    def shown(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    own = [
        [name, shown(values.get(name)), shown(base.get(name)), f"{key.comment} [{key.decides}]"]
        for name, key in configs.SCHEMA.items()
        if values.get(name) != base.get(name)
    ]
    every = [[name, shown(values.get(name)), key.comment] for name, key in configs.SCHEMA.items()]
    header = ("key", "value", "default", "meaning [what it decides]")
    text = f"{len(own)} of {len(every)} keys differ from the defaults:"
    whole = page.folded("All keys", page.table(("key", "value", "meaning"), every, words=True))
    return page.paragraph(text) + page.table(header, own, words=True) + whole


# Environment


def environment(run: Run, lacks: list[str]) -> str:
    """Shows where the run was trained and the report made, and the fingerprints of code, data and networks."""
    origin: dict[str, Any] = {}
    path = run.workdir / "origin.json"
    try:
        origin = read_origin(path) if path.exists() else {}
    except InputError:
        lacks.append("origin.json is damaged: the code and the data of the training are not known.")
    started = origin.get("environment")
    started = started if isinstance(started, dict) else {}
    if not started:
        lacks.append("The run did not note the date, the versions and the devices of its training.")
    here = environments.describe()
    rows = [[name, started.get(name), here.get(name)] for name in dict.fromkeys([*started, *here])]
    rows.insert(0, ["mlcm_jax, and digest of its code", origin.get("code"), code_version()])
    parts = [page.table(("", "training, at its start", "this report"), rows, words=True)]
    prints = [[f"data: {name}", digest] for name, digest in origin.get("data", {}).items()]
    for name in run.trained:
        card = read_json(run.workdir / name / stored.CARD)
        prints.append([f"weights: {name}", card["weights_sha256"]])
    parts.append(f"<h3>Fingerprints</h3>{page.table(('what', 'digest'), prints, words=True)}")
    if origin.get("before"):
        text = f"The run was resumed with other code or data {len(origin['before'])} times; origin.json has them."
        parts.append(page.paragraph(text))
    files = [run.workdir / "config.json", run.workdir / "results.json"]
    files += [run.workdir / name / "metrics.jsonl" for name in stages.with_required(run.config.stages, run.config)]
    dates = [[file.relative_to(run.workdir), _changed(file)] for file in files if file.exists()]
    parts.append(f"<h3>Files</h3>{page.table(('file', 'last changed'), dates, words=True)}")
    return "".join(parts) + page.paragraph(f"Written by mlcm_jax {__version__}.", note=True)


def _changed(path: epath.Path) -> str:
    seconds = path.stat().mtime
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
