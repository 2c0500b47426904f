"""Sections of a report about single faces: error curves, where the error lies, uncertainty, and predictions."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlcm_jax import metrics
from mlcm_jax.errors import InputError
from mlcm_jax.evaluation import breakdown, calibration, measure, page, plots, report_files
from mlcm_jax.inference.predictor import Predictor

_SHOWN = 4  # faces in each picture
_ASKED = 300  # faces whose uncertainty is compared with their error
_FEWEST = 20

Errors = Mapping[str, Mapping[str, float]]


def sections(run: report_files.Run, measured: measure.Measured | None, folder: pathlib.Path) -> dict[str, str]:
    """Returns heading -> markup; a section that the run or its dataset cannot fill says so.

    Args:
        run: the files of the run.
        measured: its predictions; None if there are none.
        folder: an empty folder for images.
    """
    if measured is None:
        return {"Single faces": page.paragraph("There are no predictions, so there is nothing about single faces.")}
    regions = {name: breakdown.by_region(errors, measured.layout) for name, errors in measured.relative.items()}
    last = list(measured.errors)[-1]
    return {
        "Cumulative errors": _curves(measured, folder),
        "Parts of the face": _regions(measured, regions, last, folder),
        "Pose": _pose(measured, folder),
        "Occlusion": _occlusion(measured, folder),
        "Resolution": _resolution(measured, folder),
        "Uncertainty": _uncertainty(run, measured, last),
        "Predictions": _predictions(measured, last, folder),
    }


def _curves(measured: measure.Measured, folder: pathlib.Path) -> str:
    plots.ced(folder / "ced.svg", measured.errors, metrics.NORMALIZERS[measured.normalizer])
    shares = (50, 90, 95, 99)
    rows = [
        [name, *(f"{100 * np.quantile(errors, share / 100):.2f}" for share in shares), f"{100 * errors.max():.2f}"]
        for name, errors in measured.errors.items()
    ]
    header = ("NME %", *(f"{share} % of the faces" for share in shares), "worst")
    return page.picture(folder / "ced.svg", "Share of the faces within an error.") + page.table(header, rows)


def _table(errors: Errors, counts: Mapping[str, Any]) -> str:
    """Returns a table of errors in per cent by band; `counts` has the number of faces or landmarks in each."""
    header = ("error %", *(f"{name.replace('_', ' ')} ({counts[name]:,})" for name in counts))
    rows = [
        [name, *("–" if np.isnan(values[band]) else f"{100 * values[band]:.2f}" for band in counts)]
        for name, values in errors.items()
    ]
    return page.table(header, rows)


def _bars(path: pathlib.Path, errors: Errors, title: str, measured: measure.Measured) -> str:
    shown = {name: values for name, values in errors.items() if name != "mean_shape"} or errors
    plots.bands(path, shown, title=title, normalizer=metrics.NORMALIZERS[measured.normalizer])
    return page.picture(path, f"{title}.")


def _regions(measured: measure.Measured, regions: Errors, last: str, folder: pathlib.Path) -> str:
    if not measured.layout.groups:
        return page.paragraph(f"The layout {measured.layout.name} names no parts of the face.")
    counts = {name: len(places) for name, places in measured.layout.groups.items()}
    parts = [_table(regions, counts), _bars(folder / "regions.svg", regions, "Error by part of the face", measured)]
    length = metrics.normalizer_length(
        measured.truth, normalizer=measured.normalizer, layout=measured.layout, box=measured.box
    )
    middle = measured.box[:, :2] + measured.box[:, 2:] / 2
    shapes = (measured.truth - middle[:, None]) / np.asarray(length)[:, None, None]
    shape = breakdown.mean(np.where(measured.known[..., None], shapes, np.nan), 0)
    errors = breakdown.mean(measured.relative[last], 0)
    if np.isfinite(shape).all():
        title = f"{last}: the radius of a circle is the mean error of its landmark"
        plots.landmark_errors(folder / "landmarks.svg", shape, errors, layout=measured.layout, title=title)
        parts.append(page.picture(folder / "landmarks.svg", f"Mean error of every landmark of {last}."))
    note = "The table has the number of landmarks of each part in brackets. The error of a part is the mean over its"
    return "".join(parts) + page.paragraph(note, "labelled landmarks, and then over the faces.", note=True)


def _by_band(measured: measure.Measured, faces: Mapping[str, np.ndarray], path: pathlib.Path, title: str) -> str:
    errors = {name: breakdown.by_band(values, faces) for name, values in measured.errors.items()}
    table = _table(errors, {name: int(of.sum()) for name, of in faces.items()})
    return (
        table
        + _bars(path, errors, title, measured)
        + page.paragraph("The table has the number of faces in brackets.", note=True)
    )


def _pose(measured: measure.Measured, folder: pathlib.Path) -> str:
    yaw = breakdown.yaw(measured.examples)
    if yaw is None:
        return page.paragraph("The dataset states no poses.")
    faces = breakdown.bands(yaw, breakdown.YAW, "°")
    return _by_band(measured, faces, folder / "yaw.svg", "NME by the head's turn to the side (|yaw|)")


def _occlusion(measured: measure.Measured, folder: pathlib.Path) -> str:
    share = breakdown.hidden_share(measured.visible, measured.known)
    if share is None:
        return page.paragraph("The dataset marks no landmark as hidden.")
    errors = {name: breakdown.by_visibility(of, measured.visible) for name, of in measured.relative.items()}
    hidden = measured.known & ~measured.visible
    counts = {
        "visible landmarks": int((measured.known & measured.visible).sum()),
        "hidden landmarks": int(hidden.sum()),
    }
    faces = breakdown.occlusion_bands(share)
    bands = _by_band(measured, faces, folder / "hidden.svg", "NME by the share of the landmarks that are hidden")
    return _table(errors, counts) + bands


def _resolution(measured: measure.Measured, folder: pathlib.Path) -> str:
    faces = breakdown.bands(breakdown.side(measured.box), breakdown.SIDE, " px")
    return _by_band(measured, faces, folder / "side.svg", "NME by the size of the face, √(w·h) of its box")


def _uncertainty(run: report_files.Run, measured: measure.Measured, last: str) -> str:
    if last not in run.trained or not run.trained[last][1].architecture.get("uncertainty"):
        return page.paragraph(f"The network of {last} predicts no uncertainties.")
    count = min(len(measured.examples), _ASKED)
    if count < _FEWEST:
        return page.paragraph(f"{count} faces are too few to compare uncertainties with errors.")
    try:
        predictor = Predictor(run.workdir, stage=last)
        found = calibration.report(calibration.predictions(predictor, [measured.examples[i] for i in range(count)]))
    except InputError as error:
        return page.paragraph(f"The uncertainties of {last} cannot be compared with its errors: {error}")
    rows = [
        ["faces", f"{count:,}"],
        ["expected over observed distance, from the smallest tenth to the largest",
         " ".join(f"{ratio:.2f}" for ratio in found["ratio"])],
        ["rank correlation of both, median over the landmarks", f"{found['spearman']['median']:.2f}"],
        ["mean score", f"{found['score']['mean']:.3f}"],
        [f"share of the faces with an NME below {100 * calibration.GOOD:.0f} %", f"{found['score']['good']:.3f}"],
    ]  # fmt: skip
    table = page.table((last, ""), rows, words=True)
    if run.trained[last][1].calibration:
        return table
    note = "The network is not calibrated: its score is the agreement of two predictions, not a probability."
    return table + page.paragraph(note, note=True)


def _predictions(measured: measure.Measured, last: str, folder: pathlib.Path) -> str:
    errors = measured.errors[last]
    order = np.argsort(errors, kind="stable")
    middle = max(0, len(order) // 2 - _SHOWN // 2)
    chosen = {"best": order[:_SHOWN], "median": order[middle : middle + _SHOWN], "worst": order[::-1][:_SHOWN]}
    parts = []
    for name, places in chosen.items():
        rows = [
            {
                **measured.examples[int(i)],
                "prediction": measured.predictions[last][i],
                "title": f"{i}: {100 * errors[i]:.2f} %",
            }
            for i in places
        ]
        plots.samples(folder / f"{name}.png", rows, layout=measured.layout)
        caption = (
            f"The {name} of {len(order):,} predictions of {last}, with number and NME: truth green, prediction red."
        )
        parts.append(page.picture(folder / f"{name}.png", caption, caption=caption))
    return "".join(parts)
