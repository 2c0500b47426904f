"""Pictures of results: landmarks drawn on a face, sample grids, error and loss curves. Matplotlib without a screen."""

import io

import cv2
import numpy as np
from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mlcm_jax import landmarks, metrics
from mlcm_jax.errors import InputError

TRUTH, PREDICTION = (40, 200, 60), (255, 50, 50)  # green and red, RGB


def draw_landmarks(image, points, layout, *, color=PREDICTION, box=None, smallest=512) -> np.ndarray:
    """Landmarks and the layout's lines on a picture.

    Args:
      image: uint8 [H, W], [H, W, 1] or [H, W, 3] RGB.
      points: [K, 2] in pixels of `image`, pixel centres at integers; points outside are left out by the drawing.
      layout: name or Layout.
      color: RGB.
      box: optional x, y, w, h in pixels, drawn thin.
      smallest: a picture whose longer side is below this many pixels is enlarged by a whole number first, or the
        dots would hide the face. 0 keeps the size.

    Returns:
      uint8 RGB [H', W', 3], H' and W' the same multiple of H and W.
    """
    layout = landmarks.get(layout)
    points = landmarks.check(points, layout)
    canvas = _rgb(image)
    factor = max(1, -(-smallest // max(canvas.shape[:2])))
    if factor > 1:
        canvas = cv2.resize(canvas, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    side = max(canvas.shape[:2])
    bits = 4  # fractional bits of OpenCV's fixed-point coordinates: dots sit where the landmarks are, to 1/16 pixel

    def fixed(values):
        scaled = (np.asarray(values, np.float64) + 0.5) * factor - 0.5
        return np.clip(scaled * (1 << bits), -(2**30), 2**30).round().astype(np.int32)

    thin, radius = max(1, side // 500), max(1.0, side / 250)
    if box is not None:
        x, y, w, h = (float(value) for value in box)
        corners = fixed([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])
        cv2.polylines(canvas, [corners], True, (255, 255, 255), thin, cv2.LINE_AA, shift=bits)
    places = fixed(points)
    for first, second in layout.edges:
        ends = [tuple(map(int, places[i])) for i in (first, second)]
        cv2.line(canvas, *ends, tuple(c // 2 + 64 for c in color), thin, cv2.LINE_AA, shift=bits)
    for place in places:
        cv2.circle(canvas, tuple(map(int, place)), int(radius * (1 << bits)), color, -1, cv2.LINE_AA, shift=bits)
    return canvas


def samples(path, rows, *, layout, title="", columns=2) -> None:
    """A grid of examples, for each: RGB, thermal, and the face with truth in green and prediction in red.

    Args:
      path: a .png file to write.
      rows: dicts of `rgb` uint8 [H, W, 3] and / or `thermal` uint8 [H, W] or [H, W, 1], `landmarks` [K, 2] in pixels,
        and optionally `prediction` [K, 2] in pixels and `title` (such as the example's error).
      layout: name or Layout.
      title: of the figure.
      columns: examples side by side.
    """
    layout = landmarks.get(layout)
    if not rows:
        raise InputError(f"There are no examples to draw in {path}.")
    names = [name for name in ("rgb", "thermal") if any(name in row for row in rows)]
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
    _save(figure, path)


def ced(path, errors, normalizer) -> None:
    """Cumulative error curves. `errors` is {name: NME values [N] as fractions}; `normalizer` in words, for the label.

    Draws up to the largest of 10 % and three quarters' worth of every curve, at most 40 %.
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
    axis.set(xlim=(0, end), ylim=(0, 1), title="Cumulative error: part of the faces within an error")
    axis.set(xlabel=f"NME, per cent of {normalizer}", ylabel="fraction of faces")
    axis.legend(loc="lower right")
    _save(figure, path)


def loss_curves(path, curves) -> None:
    """Training losses. `curves` is {stage: (steps, losses)}; losses that are not finite leave a gap."""
    figure, axis = _axes()
    values = [np.asarray(losses, np.float64) for _, losses in curves.values()]
    for (name, (steps, _)), losses in zip(curves.items(), values, strict=True):
        axis.plot(steps, np.where(np.isfinite(losses), losses, np.nan), label=name, linewidth=1.2)
    known = np.concatenate([v[np.isfinite(v)] for v in values]) if values else np.zeros(0)
    if known.size and known.min() > 0:
        axis.set_yscale("log")
    axis.set(xlabel="step", ylabel="task loss", title="Training loss of every stage")
    if curves:
        axis.legend()
    _save(figure, path)


def _rgb(image) -> np.ndarray:
    """A copy of the picture as uint8 [H, W, 3]."""
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise InputError(f"A picture to draw is uint8 [H, W], [H, W, 1] or [H, W, 3], not {image.dtype} {image.shape}.")
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image.copy()


def _show(axis, image) -> None:
    axis.imshow(_rgb(image), interpolation="nearest")
    axis.autoscale(False)  # landmarks beyond the picture must not shrink it


def _points(axis, points, layout, color, label) -> None:
    points, color = np.asarray(points), tuple(c / 255 for c in color)
    for first, second in layout.edges:
        axis.plot(*points[[first, second]].T, color=color, linewidth=0.6, alpha=0.8)
    axis.plot(*points.T, ".", color=color, markersize=2.5, label=label)


def _axes():
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis = figure.add_subplot()
    axis.grid(alpha=0.3)
    return figure, axis


def _save(figure, path) -> None:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    try:
        epath.Path(path).write_bytes(buffer.getvalue())
    except OSError as error:
        raise InputError(f"Cannot write the picture {path}: {error.strerror or error}.") from None
