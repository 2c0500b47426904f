"""Facial landmarks in thermal images, and cross-modal knowledge distillation, in JAX and Flax.

The public names are imported when they are first used, so that `import mlcm_jax` takes no time and `dikd` can be used
where only jax is installed.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "Faces": "mlcm_jax.inference.faces",
    "Predictor": "mlcm_jax.inference.predictor",
    "read_image": "mlcm_jax.data.image_file",
} | {name: f"mlcm_jax.{name}" for name in ("dikd", "landmarks", "losses", "metrics", "models")}
__all__ = ["Faces", "Predictor", "__version__", "dikd", "landmarks", "losses", "metrics", "models", "read_image"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_MODULES[name])
    return module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
