"""A trained network as two files that need no checkpoint library: `model.safetensors` and `model.json`.

`model.json` holds what it takes to use the arrays: the architecture, the layout of the landmarks, and how an image
becomes the network's input. `training` writes both files when a stage is finished; `inference` reads these alone.
"""

import dataclasses
import hashlib
import math
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from etils import epath
from safetensors import SafetensorError

from mlcm_jax import landmarks, layout_file
from mlcm_jax.errors import InputError
from mlcm_jax.files import read_json, write_json
from mlcm_jax.models import network as networks

WEIGHTS, CARD = "model.safetensors", "model.json"
EXPORTED = "exported network"  # `kind` of a model.json beside an exported file
_FORMAT = 1
_AGAIN = "run the training command again, which writes it anew."
_PREPROCESSING = {
    "gain": "box: percentiles 2 and 98 of the thermal values inside the box become 10 % and 90 % of the gray levels, "
    "linearly and cut at both ends, and missing values take that of the nearest pixel; "
    "scene: see scene_gain in mlcm_jax/data/gain.py; as_is: 8 bits as stored",
    "crop": "the square around the middle of the box, whose side is `expand` times the box's longer side",
    "pixel_centres": "integers; u = (x + 0.5) / image_size",
    "interpolation": "bilinear, after halving by area averages while the crop shrinks the image by 2 or more",
    "outside_the_image": 0,
    "input": "float32 [B, image_size, image_size, 3 if modality is rgb else 1] in [0, 1]",
}


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known about a stored network, besides its arrays.

    Attributes:
        stage: the stage that trained it.
        architecture: arguments of `models.create`, `name` among them.
        layout: of the landmarks.
        image_size: side of the crop in pixels.
        expand: side of the crop over the longer side of the box.
        modality: "rgb" or "thermal".
        thermal_range: (low, high) in °C mapped to 0 and 255; () for networks trained on auto-gain images.
        gain: "box" stretches a thermal image by the face's box, "scene" as a whole (`data.gain`), and "as_is" takes its
            8 bits as they are.
        calibration: () or four numbers measured on validation images (`evaluation.calibration`): f and p of the
            expected distance f u^p, where u is the network's uncertainty, both in u; and a and b of the score
            1 / (1 + exp(-a - b ln m)), where m is the mean over the landmarks of the expected distances relative to
            √(w·h) of the box around the predicted landmarks.
        threshold: the smallest score of a face, for a detector; it was chosen on validation images.
        second: for a detector, () or four numbers a, b, c, t: the probability that a box is that of a face is
            1 / (1 + exp(-a - b logit(d) - c logit(s))), where d is the detector's score and s that of the landmarks
            which the shipped network finds in the box, and faces are those with a probability of at least t.
    """

    stage: str
    architecture: dict[str, Any]
    layout: landmarks.Layout
    image_size: int
    expand: float
    modality: str
    thermal_range: tuple[float, ...] = ()
    gain: str = "as_is"
    calibration: tuple[float, ...] = ()
    threshold: float = 0.5
    second: tuple[float, ...] = ()


def save(folder: epath.PathLike, network: networks.Network, card: Card) -> None:
    """Writes the two files, each through a temporary one: a crash leaves the old ones whole.

    Args:
        folder: made if it is missing.
        network: with arrays that this process can read whole.
        card: see `Card`.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{WEIGHTS}.new"
    weights = safetensors.numpy.save({name: np.asarray(leaf) for name, leaf in _flat(network).items()})
    temporary.write_bytes(weights)
    temporary.replace(folder / WEIGHTS)
    public = landmarks.LAYOUTS.get(card.layout.name) is card.layout
    content = {field.name: getattr(card, field.name) for field in dataclasses.fields(card)}
    content["layout"] = card.layout.name if public else layout_file.layout_to_dict(card.layout)
    # An AAM head names the layout too, perhaps by a path that means nothing elsewhere.
    content["architecture"] = card.architecture | ({"layout": "as above"} if card.architecture.get("layout") else {})
    digest = {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    write_json(folder / CARD, {"format": _FORMAT, **content, **digest, "preprocessing": _PREPROCESSING})


def load(folder: epath.PathLike) -> tuple[networks.Network, Card]:
    """The network that `save` wrote, in evaluation mode and on the default device.

    Raises:
        InputError: a file that is missing or damaged, or arrays that do not fit the architecture.
    """
    folder = epath.Path(folder)
    card, digest = _card(folder / CARD)
    try:
        weights = (folder / WEIGHTS).read_bytes()
        arrays = safetensors.numpy.load(weights)
    except FileNotFoundError:
        raise InputError(f"The weights {folder / WEIGHTS} are missing; {_again(card.stage)}") from None
    except (SafetensorError, OSError, KeyError) as error:  # KeyError: a dtype that numpy lacks
        raise InputError(f"The weights {folder / WEIGHTS} are damaged ({error}); {_again(card.stage)}") from None
    if hashlib.sha256(weights).hexdigest() != digest:
        raise InputError(f"The weights {folder / WEIGHTS} are not those of {CARD} beside them; {_again(card.stage)}")
    like = _shapes(card, folder / CARD)
    wanted = _flat(like)
    odd = sorted(wanted.keys() ^ arrays.keys()) or [
        name for name, leaf in wanted.items() if (arrays[name].shape, arrays[name].dtype) != (leaf.shape, leaf.dtype)
    ]
    if odd:
        raise InputError(f"{folder / WEIGHTS} does not fit {folder / CARD} ({odd[0]}); {_again(card.stage)}")
    odd = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if odd:
        raise InputError(f"{folder / WEIGHTS} holds values that are not finite ({odd[0]}); {_again(card.stage)}")
    leaves = [jax.numpy.asarray(arrays[name]) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), card


def no_run(workdir: epath.PathLike) -> InputError:
    """The error for a folder without config.json; it names a run of one seed below the folder, or says how to train."""
    seeds = sorted(path.parent.name for path in epath.Path(workdir).glob("seed_*/config.json"))
    hint = f"train one with `mlcm train --config=configs/tiny.py --workdir={workdir}`"
    hint = f"it holds one run for each seed; name one, such as {epath.Path(workdir) / seeds[0]}" if seeds else hint
    return InputError(f"{workdir} is not the work directory of a run (no config.json in it); {hint}.")


def _again(stage: str) -> str:
    return f"run the training command again, which writes stage {stage} anew."


def _flat(network: networks.Network) -> dict[str, Any]:
    """The arrays by name, such as "params.backbone.stem.conv.kernel", in the order of the network's leaves."""
    paths = jax.tree_util.tree_flatten_with_path(network)[0]
    return {".".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path): leaf for path, leaf in paths}


def _shapes(card: Card, path: epath.Path) -> networks.Network:
    """The network that a card describes, as shapes."""
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in card.architecture.items()}
    options |= {"layout": card.layout} if options.get("layout") else {}
    try:
        return jax.eval_shape(lambda: networks.create(options, num_landmarks=card.layout.count, key=jax.random.key(0)))
    except Exception as error:  # a damaged file may hold any arguments, which raise any type of error
        raise InputError(f"{path} describes no model of this version ({error}); {_again(card.stage)}") from error


def _card(path: epath.Path) -> tuple[Card, str]:
    """Reads model.json, and the digest of the weights in it; raises InputError if it is not what `save` writes."""
    content = read_json(path)
    if isinstance(content, dict) and content.get("kind") == EXPORTED:
        raise InputError(f"{path} describes an exported file; give the work directory of the run that it came from.")
    if not isinstance(content, dict) or "format" not in content:
        raise InputError(f"{path} does not describe a model; {_AGAIN}")
    if content["format"] != _FORMAT:
        raise InputError(f"{path} has a format that this version does not support; use the version that wrote it.")
    try:
        content = {"threshold": 0.5, "second": ()} | content  # files of the first versions have neither
        fields = {field.name: content[field.name] for field in dataclasses.fields(Card)}
        layout, where = fields["layout"], "its layout"
        layout = landmarks.get(layout) if isinstance(layout, str) else layout_file.layout_from_dict(layout, where=where)
        lists = {name: tuple(fields[name]) for name in ("thermal_range", "calibration", "second")}
        card = Card(**fields | lists | {"layout": layout})
        _check(card)
        return card, content["weights_sha256"]
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not describe a model ({error}); {_AGAIN}") from None


def _check(card: Card) -> None:
    """Raises InputError if a field has a value with which nothing can be predicted."""

    def number(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value)

    architecture, limits = card.architecture, card.thermal_range
    fits = {
        "stage": isinstance(card.stage, str),
        "architecture": isinstance(architecture, dict) and isinstance(architecture.get("name"), str),
        "image_size": type(card.image_size) is int and 0 < card.image_size < 2**15,  # OpenCV's limit
        "expand": number(card.expand) and 0 < card.expand < 1e6,
        "modality": card.modality in ("rgb", "thermal"),
        "thermal_range": not limits or (len(limits) == 2 and all(map(number, limits)) and limits[0] < limits[1]),
        "gain": card.gain in ("box", "scene", "as_is"),
        "threshold": number(card.threshold) and 0 < card.threshold < 1,
        "second": not card.second or (len(card.second) == 4 and all(map(number, card.second))),
        "calibration": not card.calibration
        or (len(card.calibration) == 4 and all(map(number, card.calibration)) and card.calibration[0] > 0),
    }
    wrong = [name for name, fit in fits.items() if not fit]
    if wrong:
        raise InputError(f"{wrong[0]} is {getattr(card, wrong[0])!r}")
