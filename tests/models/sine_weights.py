"""Weights and images made by a formula, so that other libraries can make the same without a file or random generator.

`tests/golden/torch_features.json` holds the features that torchvision and timm compute from them; its `source` has the
calls.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"


def _waves(name: str, shape) -> np.ndarray:
    return np.sin(12.9898 * np.arange(math.prod(shape)) ** 1.1 + zlib.crc32(name.encode()) % 1000).reshape(shape)


def array(name: str, shape) -> np.ndarray:
    """float32 of `shape`, in torch's layout, for the array `name` of a torch module."""
    waves = _waves(name, shape)
    if name.endswith("running_var"):
        waves = 1.0 + 0.5 * waves
    elif name.endswith("logit_scale"):
        waves = 3.5 + 2.0 * waves  # some above the clamp, log 100
    elif len(shape) == 1:
        waves = 0.3 * waves + name.endswith("weight")
    elif not name.endswith("cpb_mlp.0.weight"):
        waves = waves * math.sqrt(2.0 / math.prod(shape[1:]))
    return waves.astype(np.float32)


def image(height: int, width: int) -> np.ndarray:
    """float32 [1, height, width, 3] in [0, 1]."""
    # The golden features were computed with this name as the seed.
    return (0.5 + 0.5 * _waves("picture", (1, height, width, 3))).astype(np.float32)


def torch_features(name: str) -> tuple[dict[str, np.ndarray], tuple[int, ...], list[float]]:
    """(weights by torch's names, shape of the features [B, H, W, C], every 37th of them) of a model in the file."""
    golden = json.loads((GOLDEN / "torch_features.json").read_text())[name]
    arrays = {key: array(key, shape) for key, shape in golden["shapes"].items()}
    return arrays, tuple(golden["shape"]), golden["features"]


def parameter_counts(name: str) -> list[dict]:
    """The rows of `parameter_counts.json` whose name starts with `name`."""
    rows = json.loads((GOLDEN / "parameter_counts.json").read_text())["models"]
    return [row for row in rows if row["name"].startswith(name)]
