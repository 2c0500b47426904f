"""Plots examples, errors, losses and ablations with Matplotlib, without a display."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import ArrayLike

from mlcm_jax import landmarks, metrics
from mlcm_jax.data.augment import CHANNELS
from mlcm_jax.data.draw import PREDICTION, TRUTH, Color, as_rgb, write_image
from mlcm_jax.errors import InputError


def samples(
    path: epath.PathLike,
    rows: Sequence[Mapping[str, Any]],
    *,
    layout: str | landmarks.Layout,
    title: str = "",
    columns: int = 2,
) -> None:
    """Plots a grid of examples: RGB, thermal, and the face with the truth in green and the prediction in red.

    Args:
        path: a .png file to write.
        rows: dicts of `rgb` and / or `thermal` as of `data.examples`, `landmarks` [K, 2] in pixels, and
            optionally `prediction` [K, 2] in pixels and `title` (such as the example's error).
        layout: name or Layout.
        title: title of the figure.
        columns: number of examples side by side.
    """
    layout = landmarks.get(layout)
    if not rows:
        raise InputError(f"There are no examples to draw in {path}.")
    names = [name for name in CHANNELS if any(name in row for row in rows)]
    panels = len(names) + 1
    columns = min(columns, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(2.6 * panels * columns, 2.75 * lines + 0.7), layout="constrained")
    axes = figure.subplots(lines, panels * columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for k, row in enumerate(rows):
        line, column = divmod(k, columns)
        mine = axes[line, panels * column : panels * (column + 1)]
        for axis, name in zip(mine, names, strict=False):
            if name in row:
                _show(axis, row[name])
                axis.set_title({"rgb": "RGB", "thermal": "thermal"}[name], fontsize=9)
        _show(mine[-1], row[[name for name in names if name in row][-1]])
        _points(mine[-1], row["landmarks"], layout, TRUTH, "truth")
        if "prediction" in row:
            _points(mine[-1], row["prediction"], layout, PREDICTION, "prediction")
        mine[-1].set_title(row.get("title", ""), fontsize=9)
    figure.suptitle(f"{title + ': ' if title else ''}truth green, prediction red")
    save(figure, path)


def ced(path: epath.PathLike, errors: Mapping[str, ArrayLike], normalizer: str) -> None:
    """Plots cumulative error curves.

    The axis ends a little beyond 10 %, or beyond the error within which every row has 75 % of the faces if that is
    larger, but at 40 % at the latest.

    Args:
        path: a .png file to write.
        errors: row -> NME [N] as fractions.
        normalizer: the normaliser in words, for the label.
    """
    if not errors:
        raise InputError(f"There are no errors to draw in {path}.")
    figure, axis = _axes()
    curves = {name: metrics.ced(values) for name, values in errors.items()}
    finite = [curve[0][np.isfinite(curve[0])] for curve in curves.values()]
    end = max([0.1] + [float(np.quantile(values, 0.75)) for values in finite if len(values)])
    end = 100 * min(end * 1.1, 0.4)
    for name, (values, fraction) in curves.items():
        x = np.concatenate([[0.0], 100 * values[np.isfinite(values)]])
        y = np.concatenate([[0.0], fraction[np.isfinite(values)]])
        axis.step(np.append(x, max(end, x[-1])), np.append(y, y[-1]), where="post", label=name)
    axis.set(xlim=(0, end), ylim=(0, 1), title="Cumulative error: fraction of the faces within an error")
    axis.set(xlabel=f"NME, per cent of {normalizer}", ylabel="fraction of faces")
    axis.legend(loc="lower right")
    save(figure, path)


def loss_curves(
    path: epath.PathLike, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, label: str = "task loss"
) -> None:
    """Plots training losses by stage, given as (steps, losses); losses that are not finite leave a gap."""
    figure, axis = _axes()
    values = [np.asarray(losses, np.float64) for _, losses in curves.values()]
    for (name, (steps, _)), losses in zip(curves.items(), values, strict=True):
        axis.plot(steps, np.where(np.isfinite(losses), losses, np.nan), label=name, linewidth=1.2)
    known = np.concatenate([v[np.isfinite(v)] for v in values]) if values else np.zeros(0)
    if known.size and known.min() > 0:
        axis.set_yscale("log")
    axis.set(xlabel="step", ylabel=label, title=f"{label[0].upper()}{label[1:]} of every stage")
    if curves:
        axis.legend()
    save(figure, path)


def ablation(path: epath.PathLike, rows: Sequence[Mapping[str, Any]], normalizer: str) -> None:
    """Plots the rows of an ablation: a dot for every seed and a bar at their mean.

    A dashed line marks the mean of the control in the rows that are compared with it. The whisker is the 95 % interval
    of the paired difference, drawn from that line: if it does not touch the line, the row differs from its control.

    Args:
        path: a .png file to write.
        rows: see `ablation.collect`.
        normalizer: the normaliser in words, for the label.
    """
    if not rows:
        raise InputError(f"There are no rows to draw in {path}.")
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(rows)), layout="constrained")
    axis = figure.add_subplot()
    axis.grid(alpha=0.3, axis="x")
    means = {row["name"]: row["nme"] for row in rows if row["by_seed"]}
    for y, row in enumerate(rows):
        if row["name"] not in means:
            axis.text(0.02, y, "not measured", transform=axis.get_yaxis_transform(), va="center", color="gray")
            continue
        mean = means[row["name"]]
        color = "C0" if row["control"] else "C1"
        axis.plot(row["by_seed"], [y] * len(row["by_seed"]), "o", color=color, alpha=0.5, markersize=5)
        axis.plot([mean, mean], [y - 0.25, y + 0.25], color=color, linewidth=2)
        reference = means.get(row["control"] or row["name"])
        if reference is not None:
            axis.plot([reference, reference], [y - 0.5, y + 0.5], color="C1", linestyle="--", linewidth=1)
    # The whiskers of two or three seeds are long, so the dots alone set the limits.
    low, high = axis.get_xlim()
    for y, row in enumerate(rows):
        found = row["paired"]
        if found and found["low"] is not None:
            half, middle = found["high"] - found["difference"], means[row["control"]] + found["difference"]
            axis.errorbar(middle, y, xerr=half, color="C0", capsize=3, linewidth=1)
    axis.set(xlim=(low - 0.1 * (high - low), high + 0.1 * (high - low)), ylim=(len(rows) - 0.5, -0.5))
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axis.set(xlabel=f"NME, per cent of {normalizer}", title="Seeds, mean and 95 % interval against the control (- -)")
    save(figure, path)


def bands(path: epath.PathLike, errors: Mapping[str, Mapping[str, float]], *, title: str, normalizer: str) -> None:
    """Plots errors by band as groups of bars, one bar per row of the table.

    Args:
        path: a .png or .svg file to write.
        errors: row -> band -> error as a fraction, all with the same bands; a band that is NaN has no bar.
        title: title of the figure.
        normalizer: the normaliser in words, for the label.
    """
    names = list(next(iter(errors.values())))
    figure, axis = _axes()
    wide = 0.8 / len(errors)
    for k, (row, values) in enumerate(errors.items()):
        places = np.arange(len(names)) + (k - (len(errors) - 1) / 2) * wide
        axis.bar(places, [100 * values[name] for name in names], wide, label=row)
    axis.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=20, ha="right")
    axis.set(ylabel=f"error, per cent of\n{normalizer}", title=title)
    axis.legend(fontsize=8)
    save(figure, path)


def landmark_errors(
    path: epath.PathLike, shape: ArrayLike, errors: ArrayLike, *, layout: landmarks.Layout, title: str
) -> None:
    """Plots a face whose landmarks have circles with the radius of their mean error.

    Args:
        path: a .png or .svg file to write.
        shape: [K, 2], the face to draw, y down, in the unit of the errors.
        errors: [K]; a landmark that is NaN has no circle.
        layout: of the landmarks.
        title: title of the figure.
    """
    shape, errors = np.asarray(shape), np.asarray(errors)
    figure = Figure(figsize=(6, 6), layout="constrained")
    axis = figure.add_subplot()
    for first, second in layout.edges:
        axis.plot(*shape[[first, second]].T, color="0.7", linewidth=1)
    largest = np.nanmax(errors, initial=1e-9)
    for point, error in zip(shape, errors, strict=True):
        if np.isfinite(error):
            axis.add_patch(Circle(tuple(point), error, color=colormaps["viridis_r"](error / largest), alpha=0.7))
    axis.plot(*shape.T, "k.", markersize=2)
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.set_axis_off()
    axis.set_title(title, fontsize=10)
    save(figure, path)


def _show(axis: Axes, image: np.ndarray) -> None:
    axis.imshow(as_rgb(image), interpolation="nearest")
    axis.autoscale(False)  # landmarks beyond the image must not shrink it


def _points(axis: Axes, points: ArrayLike, layout: landmarks.Layout, color: Color, label: str) -> None:
    points, color = np.asarray(points), tuple(c / 255 for c in color)
    for first, second in layout.edges:
        axis.plot(*points[[first, second]].T, color=color, linewidth=0.6, alpha=0.8)
    axis.plot(*points.T, ".", color=color, markersize=2.5, label=label)


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.add_subplot()
    axis.grid(alpha=0.3)
    return figure, axis


def save(figure: Figure, path: epath.PathLike) -> None:
    """Writes a figure as PNG, or as SVG if the path ends so."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg" if epath.Path(path).suffix == ".svg" else "png", dpi=110)
    write_image(path, buffer)
