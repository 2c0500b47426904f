"""Draws landmarks on faces, plain or numbered, and contact sheets of datasets, with OpenCV and Pillow."""

import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath
from matplotlib import font_manager
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from mlcm_jax import images, landmarks
from mlcm_jax.data import augment
from mlcm_jax.errors import InputError

TRUTH, PREDICTION = (40, 200, 60), (255, 50, 50)  # green and red, RGB
SHOWN, HIDDEN = (255, 255, 90), (255, 120, 60)  # numbers of visible and of invisible landmarks: yellow and orange
MEASURED = (60, 220, 120)  # green: regions that have temperatures; the others are orange
_TILE = 512  # side of a face on a contact sheet, pixels

Color = tuple[int, int, int]


def draw_landmarks(
    image: np.ndarray,
    points: ArrayLike,
    layout: str | landmarks.Layout,
    *,
    color: Color = PREDICTION,
    box: Sequence[float] | None = None,
    smallest: int = 512,
) -> np.ndarray:
    """Draws landmarks and the layout's lines on an image.

    Args:
        image: uint8 [H, W], [H, W, 1] or [H, W, 3] RGB.
        points: [K, 2] in pixels of `image`, pixel centres at integers; points outside the image are not drawn.
        layout: name or Layout.
        color: RGB.
        box: optional x, y, w, h in pixels, drawn thin.
        smallest: an image whose longer side is below this many pixels is first enlarged by a whole number, because the
            dots would otherwise hide the face. 0 keeps the size.

    Returns:
        uint8 RGB [H', W', 3], H' and W' the same multiple of H and W.
    """
    face = {"landmarks": points, "layout": layout, "box": box}
    return draw_faces(image, [face], color=color, smallest=smallest)


def draw_faces(
    image: np.ndarray, faces: Sequence[Mapping[str, Any]], *, color: Color = PREDICTION, smallest: int = 512
) -> np.ndarray:
    """Draws the `landmarks` of any number of faces, in their `layout`, with their `box`; see `draw_landmarks`.

    Faces may have `outlines`, pairs of the corners of a region, [N, 2] in pixels, and whether it is measured.
    """
    canvas, factor = _enlarged(image, smallest)
    side = max(canvas.shape[:2])
    bits = 4  # fractional bits of OpenCV's coordinates: dots are exact to 1/16 pixel

    def fixed(values: ArrayLike) -> np.ndarray:
        scaled = (np.asarray(values, np.float64) + 0.5) * factor - 0.5
        return np.clip(scaled * (1 << bits), -(2**30), 2**30).round().astype(np.int32)

    thin, radius = max(1, side // 500), max(1.0, side / 250)
    for face in faces:
        layout = landmarks.get(face["layout"])
        points = landmarks.check(face["landmarks"], layout)
        if face["box"] is not None:
            x, y, w, h = (float(value) for value in face["box"])
            corners = fixed([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])
            cv2.polylines(canvas, [corners], True, (255, 255, 255), thin, cv2.LINE_AA, shift=bits)
        for corners, measured in face.get("outlines", ()):
            own = MEASURED if measured else HIDDEN
            cv2.polylines(canvas, [fixed(corners)], True, own, thin, cv2.LINE_AA, shift=bits)
        places = fixed(points)
        for first, second in layout.edges:
            ends = [tuple(map(int, places[i])) for i in (first, second)]
            cv2.line(canvas, *ends, tuple(c // 2 + 64 for c in color), thin, cv2.LINE_AA, shift=bits)
        for place in places:
            cv2.circle(canvas, tuple(map(int, place)), int(radius * (1 << bits)), color, -1, cv2.LINE_AA, shift=bits)
    return canvas


def numbered(
    image: np.ndarray,
    points: ArrayLike,
    layout: str | landmarks.Layout,
    *,
    visible: ArrayLike | None = None,
    box: Sequence[float] | None = None,
    smallest: int = 1024,
) -> np.ndarray:
    """Draws every landmark with its 0-based number, to check that the order is the layout's.

    Each number is placed beside its dot where, as far as possible, it covers no other number or dot; if that is far
    away, a line connects the two. Visible landmarks are yellow, invisible ones orange.

    Args:
        image: uint8 [H, W], [H, W, 1] or [H, W, 3] RGB.
        points: [K, 2] in pixels of `image`, pixel centres at integers; unlabelled ones (NaN) are not drawn.
        layout: name or Layout; its lines are drawn thin.
        visible: bool [K]; by default, all are visible.
        box: optional x, y, w, h in pixels, drawn thin.
        smallest: as in `draw_landmarks`.

    Returns:
        uint8 RGB [H', W', 3], H' and W' the same multiple of H and W.

    Raises:
        InputError: an image of the wrong type, or the wrong number of landmarks.
    """
    layout = landmarks.get(layout)
    points = np.asarray(points, np.float64)
    known = np.isfinite(points).all(axis=-1)
    landmarks.check(np.where(known[..., None], points, 0.0), layout)
    visible = np.broadcast_to(True if visible is None else np.asarray(visible, bool), (layout.count,))
    canvas, factor = _enlarged(image, smallest)
    height, width = canvas.shape[:2]
    places = (points + 0.5) * factor - 0.5
    inside = known & ((places > -0.5) & (places < (width - 0.5, height - 0.5))).all(axis=-1)
    thin, dot = max(1, max(height, width) // 700), max(1.5, max(height, width) / 400)

    def line(ends: ArrayLike, color: Color) -> None:
        cv2.polylines(canvas, [(np.asarray(ends) * 16).round().astype(np.int32)], False, color, thin, cv2.LINE_AA, 4)

    if box is not None:
        x, y, w, h = (float(value) * factor for value in box)
        x, y = x + (factor - 1) / 2, y + (factor - 1) / 2
        line([(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)], (255, 255, 255))
    for edge in layout.edges:
        if inside[list(edge)].all():
            line(places[list(edge)], (60, 120, 150))
    font = _font(_font_size(places[inside], max(height, width)))
    spots = _spots([font.getbbox(str(i)) for i in np.flatnonzero(inside)], places[inside], (width, height), dot)
    for i, spot in zip(np.flatnonzero(inside), spots, strict=True):
        color = SHOWN if visible[i] else HIDDEN
        if np.abs(spot - places[i]).max() > 2.0 * font.size:
            line([places[i], spot], color)
        centre = tuple(int(v) for v in (places[i] * 16).round())
        cv2.circle(canvas, centre, int((dot + 1) * 16), (0, 0, 0), -1, cv2.LINE_AA, 4)
        cv2.circle(canvas, centre, int(dot * 16), color, -1, cv2.LINE_AA, 4)
    sheet = Image.fromarray(canvas)
    pen = ImageDraw.Draw(sheet)
    for i, spot in zip(np.flatnonzero(inside), spots, strict=True):
        color = SHOWN if visible[i] else HIDDEN
        pen.text(tuple(spot), str(i), color, font, anchor="mm", stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(sheet).copy()


def contact_sheet(
    path: epath.PathLike, rows: Sequence[Mapping[str, Any]], layout: str | landmarks.Layout, columns: int = 4
) -> None:
    """Draws examples with numbered landmarks, RGB and thermal side by side, to check the order of the landmarks.

    Each is cropped to a square around its box, 1.5 times as large. An unlabelled example (NaN) shows no numbers.

    Args:
        path: a .png file to write.
        rows: dicts of `rgb` and / or `thermal` as of `data.examples`, `landmarks` [K, 2] in pixels, `box` x, y, w, h in
            pixels, and optionally `visible` bool [K] and `key`, the title.
        layout: name or Layout.
        columns: number of examples side by side.

    Raises:
        InputError: no examples, an example that cannot be cropped, or a file that cannot be written.
    """
    layout = landmarks.get(layout)
    if not rows:
        raise InputError(f"There are no examples to draw in {path}.")
    names = [name for name in augment.CHANNELS if any(name in row for row in rows)]
    font, bar = _font(18), 28
    width, height, columns = _TILE * len(names) + 8, _TILE + bar, min(columns, len(rows))
    sheet = Image.new("RGB", (width * columns, height * -(-len(rows) // columns)), (24, 24, 24))
    pen = ImageDraw.Draw(sheet)
    for k, row in enumerate(rows):
        y, x = (k // columns) * height, (k % columns) * width
        title = str(row.get("key", k))
        while len(title) > 1 and font.getlength(title) > width - 12:  # the end of a path says more than its beginning
            title = "…" + title[2:]
        pen.text((x + 4, y + bar / 2), title, (255, 255, 255), font, anchor="lm")
        for name, tile in _tiles(row, layout).items():
            sheet.paste(Image.fromarray(tile), (x + _TILE * names.index(name), y + bar))
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    write_image(path, buffer)


def _tiles(row: Mapping[str, Any], layout: landmarks.Layout) -> dict[str, np.ndarray]:
    """The images of an example as uint8 [_TILE, _TILE, 3], cropped and numbered."""
    points = np.asarray(row["landmarks"], np.float32)
    known = np.isfinite(points).all(axis=-1)
    visible = np.broadcast_to(np.asarray(row.get("visible", True), bool), known.shape)
    keep = {name: row[name] for name in augment.CHANNELS if name in row}
    keep |= {"landmarks": np.where(known[:, None], points, 0.0), "visible": visible, "box": row["box"]}
    gray = "thermal" not in keep or keep["thermal"].dtype == np.uint8
    cut = augment.crop(keep, augment.Crop(_TILE, 1.5, layout, "as_is" if gray else "box"))
    points = np.where(known[:, None], cut["landmarks"] * _TILE - 0.5, np.nan)
    return {
        name: numbered((cut[name] * 255).round().astype(np.uint8), points, layout, visible=visible, smallest=0)
        for name in augment.CHANNELS
        if name in row
    }


@functools.lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)  # it ships with matplotlib


def _font_size(places: np.ndarray, side: int) -> int:
    """Chooses a font size in pixels that fits the distances of the landmarks, but is large enough to be read."""
    if len(places) < 2:
        return max(10, side // 40)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(len(places))
    return int(np.clip(0.7 * np.median(gaps.min(axis=1)), max(10, side / 80), max(10, side / 40)))


def _spots(boxes: Sequence[tuple[float, ...]], places: np.ndarray, size: tuple[int, int], dot: float) -> np.ndarray:
    """Chooses the centre of each number, float64 [K, 2] in pixels.

    The numbers are placed one after the other, the most crowded first, each at the cheapest of 16 directions × 4 radii.
    The cost is the area of the numbers and dots that it covers and of its part outside the image, and a little for
    distance.

    Args:
        boxes: extent of each number as drawn at the origin, x0, y0, x1, y1.
        places: centres of the dots, [K, 2] in pixels.
        size: width and height of the image.
        dot: radius of the dots in pixels.
    """
    spots = places.copy()
    if not len(places):
        return spots
    extents = np.array([(x1 - x0 + 2, y1 - y0 + 2) for x0, y0, x1, y1 in boxes], np.float64)
    angles = np.arange(16) * (np.pi / 8)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
    done: list[int] = []
    for i in np.argsort(np.sort(gaps, axis=1)[:, : min(4, len(places))].sum(axis=1), kind="stable"):
        half, area = extents[i] / 2, extents[i].prod()
        reach = half + dot + 1  # at this distance, the number's ellipse touches the dot
        tries = np.concatenate([places[i] + circle * (reach * r) for r in (1.0, 1.4, 2.0, 3.0)])
        cost = np.repeat([0.0, 0.1, 0.3, 0.7], 16) * area
        apart = np.abs(tries[:, None] - places[None]) - half - dot
        cost += (np.maximum(-apart, 0).min(axis=-1) > 0).sum(axis=1) * 0.5 * area
        if done:
            overlap = (extents[i] + extents[done]) / 2 - np.abs(tries[:, None] - spots[done][None])
            cost += 2.0 * np.maximum(overlap, 0).prod(axis=-1).sum(axis=1)
        outside = np.maximum(half - tries, 0) + np.maximum(tries + half - size, 0)
        cost += outside.sum(axis=1) * area
        spots[i] = tries[cost.argmin()]
        done.append(i)
    return spots


def as_rgb(image: ArrayLike) -> np.ndarray:
    """A copy of the image as uint8 [H, W, 3]; thermal values, uint16 or float32, are stretched by their percentiles."""
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 2 and image.dtype in (np.uint16, np.float32):
        image = images.gain8(image, "to draw")[0]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise InputError(f"The image must be uint8 [H, W], [H, W, 1] or [H, W, 3], not {image.dtype} {image.shape}.")
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image.copy()


def _enlarged(image: ArrayLike, smallest: int) -> tuple[np.ndarray, int]:
    """Returns a copy, uint8 RGB, enlarged until its longer side is at least `smallest`, and the factor."""
    canvas = as_rgb(image)
    factor = max(1, -(-smallest // max(canvas.shape[:2])))
    if factor > 1:
        canvas = cv2.resize(canvas, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return canvas, factor


def write_image(path: epath.PathLike, buffer: io.BytesIO) -> None:
    """Writes an encoded image; raises InputError if the path cannot be written."""
    try:
        epath.Path(path).write_bytes(buffer.getvalue())
    except OSError as error:
        raise InputError(f"Cannot write the image {path}: {error.strerror or error}.") from None
