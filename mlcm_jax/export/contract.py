"""`model.json` beside an exported file: everything that a program without this package needs to use the file.

The keys of the trained network's own `model.json` stay as they are (`models.stored`), but for `layout` and
`preprocessing`, which name every number here.
"""

import dataclasses
import hashlib
from typing import Any

from mlcm_jax import __version__, detection
from mlcm_jax.data.augment import CHANNELS
from mlcm_jax.data.gain import FEWEST, KNOTS, LEVELS, PERCENTILES
from mlcm_jax.export.graph import INPUT, Graph
from mlcm_jax.inference.detector import LONGEST
from mlcm_jax.models.stored import EXPORTED, Card

_MEANING = {
    "landmarks": "x, y of every landmark in u of the crop",
    "uncertainty": "expected distance of every landmark from the truth, in u, calibrated if `calibration` has numbers",
    "scores": "logits of a face whose middle lies in the cell",
    "sides": "logarithms of the distances to the four sides of the face",
    "maps": "one map of logits per landmark, see `decoding`",
    "local": "one map per landmark, see `decoding`",
    "doubt": "one number per landmark, see `decoding`",
}
_RESULT = {
    "pixels": "image x = to_image[0][0] * (S * u_x - 0.5) + to_image[0][2], image y likewise with to_image[1][1] and "
    "to_image[1][2]",
    "distances": "pixels = u * S * to_image[0][0]",
    "mirror": "Predictor also runs the mirrored crop, mirrors its landmarks back (u_x = 1 - u_x, then point i is "
    "point flip[i]), and takes the mean of both; a single run is half the work and a little less accurate",
}


def contract(card: Card, graph: Graph, decoding: dict[str, Any], **of_file: Any) -> dict[str, Any]:
    """The content of model.json.

    Args:
        card: of the network.
        graph: what the file computes.
        decoding: of `decode.described`.
        of_file: `file`, its name; `content`, its bytes; `file_format` and `quantize`.
    """
    content = of_file.pop("content")
    shape = graph.shapes[INPUT]
    known = {field.name: getattr(card, field.name) for field in dataclasses.fields(card)}
    layout = card.layout
    known["architecture"] = card.architecture | ({"layout": "as above"} if card.architecture.get("layout") else {})
    named = {
        "name": layout.name,
        "count": layout.count,
        "flip": [int(one) for one in layout.flip],
        "mirror": "landmark i of an image is landmark flip[i] of its mirror image",
    }
    outputs = [
        {"name": name, "shape": list(size), "dtype": "float32", "meaning": _meaning(name, graph)}
        for name, size in graph.output_shapes().items()
    ]
    return {
        "kind": EXPORTED,
        "mlcm_jax": __version__,
        **of_file,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "input": {
            "name": INPUT,
            "shape": list(shape),
            "axes": "NHWC",
            "dtype": "float32",
            "range": [0.0, 1.0],
            "meaning": "gray levels / 255, hot = bright" if shape[3] == 1 else "R, G, B / 255",
        },
        "outputs": outputs,
        **known,
        "layout": named,
        "preprocessing": _preprocessing(card),
        "decoding": decoding | _RESULT if layout.name != detection.LAYOUT.name else decoding | _boxes(),
    }


def _meaning(name: str, graph: Graph) -> str:
    return "one map of weights per landmark, see `decoding`" if graph.decoder == "expectation" else _MEANING[name]


def _boxes() -> dict[str, str]:
    return {
        "pixels": "x, y of the corner as u of the crop, by image x = to_image[0][0] * (S * u_x - 0.5) + to_image[0][2] "
        "and the same for y; width and height = u * S * to_image[0][0]",
        "outside": "drop boxes with a side of at most 1.5 pixels, or whose middle lies outside 0 <= x < W - 0.5 and "
        "0 <= y < H - 0.5 of an image of W x H pixels",
        "second": "Predictor also judges every box by the landmarks in it; see `second` of models.stored.Card",
    }


def _preprocessing(card: Card) -> dict[str, Any]:
    """How an image and a box become the input, in the order of the keys."""
    size = card.image_size
    steps: dict[str, Any] = {"modality": card.modality, "channels": CHANNELS[card.modality]}
    if card.layout.name == detection.LAYOUT.name:
        steps["box"] = "the whole image: 0, 0, W, H"
        steps["longest"] = LONGEST
        steps["reduced"] = (
            "an image whose longer side is above `longest` is first resized to it by area averages (its nearest pixels "
            "if it has holes), and to_image then leads to pixels of the original"
        )
    else:
        steps["box"] = (
            "x, y, w, h in pixels: the landmarks' extent plus 4.5 % left and right, 13.5 % at the top, 4 % below"
        )
    if card.thermal_range:
        low, high = card.thermal_range
        steps["thermal_range"] = [low, high]
        steps["levels"] = (
            "gray = round(255 * clip((°C - low) / (high - low), 0, 1)); NaN takes that of the nearest pixel"
        )
    steps["gain"] = _gain(card)
    steps["crop"] = {
        "size": size,
        "expand": card.expand,
        "square": "its middle is that of the box, x + w / 2 and y + h / 2, and its side is expand * max(w, h)",
        "to_image": "step = side / S; crop pixel (column, row) shows the image at x = middle x + step * (column - (S - "
        "1) / 2), y likewise, so that to_image = [[step, 0, middle x - step * (S - 1) / 2], [0, step, middle y - ...]]",
        "pixel_centres": "integers, in images and crops; u = (pixel + 0.5) / S",
        "interpolation": "bilinear",
        "shrinking": "before, the image is halved n = floor(log2(max(1, step * (1 + 1e-6)))) times, by the means of "
        "blocks of 2 x 2 pixels, rounded to whole levels. The first block starts at column max(0, trunc(x) - 2 * 2^n) "
        "and row max(0, trunc(y) - 2 * 2^n), where x, y is what crop pixel (0, 0) shows; pixel k of the image sits at "
        "(k - first + 0.5) / 2^n - 0.5 of the reduced one",
        "outside_the_image": 0,
        "rounding": "the crop has whole levels from 0 to 255, divided by 255",
    }
    return steps


def _gain(card: Card) -> dict[str, Any]:
    """The gray levels."""
    if card.gain == "box" and card.modality == "thermal":
        return {
            "name": "box",
            "percentiles": list(PERCENTILES),
            "levels": list(LEVELS),
            "region": "pixels whose centres lie in the box and in the image: columns ceil(x) to ceil(x + w) - 1, rows "
            "likewise",
            "fewest": FEWEST,
            "otherwise": "the whole image, if fewer than `fewest` pixels of the region have a value",
            "line": "gray = clip(round(levels[0] + (value - low) * (levels[1] - levels[0]) / (high - low)), 0, 255), "
            "where low and high are the percentiles of the region, by linear interpolation of the sorted values; "
            "computed in float32, or in float64 if the image has 8 bits",
            "equal": "if low = high, they are the smallest and largest value of the region; if these are equal too, "
            "that value is 128, larger ones 255, smaller ones 0",
            "holes": "values that are not finite take no part in the percentiles, and take the gray level of the "
            "nearest pixel that has a value",
        }
    if card.gain == "scene" and card.modality == "thermal":
        return {
            "name": "scene",
            "percentiles": [float(one) for one in KNOTS],
            "curve": "k = the percentiles of all values (8 bits: the value of sorted place floor(p / 100 * (n - 1))); "
            "unit = max(8 * median of the differences of k, (k[29] - k[3]) / 64); gray rises from k[i] to k[i + 1] by "
            "ln(1 + (k[i + 1] - k[i]) / unit), is linear between them, and is scaled to 0 ... 255 and rounded",
            "sample": "of other than 8 bits, the percentiles are those of every s-th pixel, row by row, s = pixels // "
            "20000 + 1 or the next number without a common divisor with W; the ends are the extremes of all",
            "flat": "if unit is 0, it is the largest difference, and an image of one value is all 0",
            "holes": "values that are not finite take that of the nearest pixel that has one, after the percentiles",
        }
    return {"name": "as_is", "line": "8 bits as they are stored"}
