"""ImageNet weights with torchvision's names, from `.npz`, `.safetensors` or `.pth`, into a backbone.

Nothing is downloaded: give a path. The files are state dicts of torchvision (of timm for MobileViTv2, which torchvision
lacks), or others that use the same names. The classifier in the file is ignored.
"""

import zipfile
from pathlib import Path

import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mlcm_jax.errors import InputError
from mlcm_jax.models import torch_checkpoint
from mlcm_jax.models.layers import BatchNorm

_CLASSIFIERS = ("fc", "classifier.1", "head", "head.fc")  # ResNet; MobileNetV2, EfficientNet; SwinV2; MobileViTv2
# A state dict holds these beside parameters and statistics; the last two follow from SwinV2's window.
_NOT_WEIGHTS = ("num_batches_tracked", "relative_coords_table", "relative_position_index")


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a weight file, by name; the suffix chooses the format.

    Raises:
        InputError: the file is missing, of another format, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no weight file {path}.")
    try:
        if path.suffix == ".npz":
            # We open the file, because numpy would leave it open if it is damaged.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        if path.suffix == ".safetensors":
            return load_file(path)
    except (SafetensorError, zipfile.BadZipFile, ValueError, OSError, EOFError, AttributeError) as error:
        raise InputError(f"{path} is damaged or not a {path.suffix} file ({error}); download it again.") from None
    if path.suffix in (".pth", ".pt"):
        return torch_checkpoint.read(path)
    raise InputError(f"{path} has the suffix {path.suffix!r}; weights are read from .npz, .safetensors or .pth.")


def _targets(backbone: nnx.Module) -> dict[str, tuple[nnx.Variable, tuple[int, ...] | None]]:
    """For every name in a file: our variable, and the axes that turn torch's layout into ours (None if they agree)."""
    targets = {}
    for name, module in backbone.torch_modules().items():
        if isinstance(module, nnx.Param):
            targets[name] = module, None
        elif isinstance(module, nnx.LayerNorm | nnx.GroupNorm):
            targets[f"{name}.weight"] = module.scale, None
            targets[f"{name}.bias"] = module.bias, None
        elif isinstance(module, BatchNorm):
            targets[f"{name}.weight"] = module.scale, None
            targets[f"{name}.bias"] = module.bias, None
            targets[f"{name}.running_mean"] = module.mean, None
            targets[f"{name}.running_var"] = module.var, None
        else:
            # OI -> IO; OIHW -> HWIO, and [C, 1, k, k] -> [k, k, 1, C] of a depthwise convolution.
            targets[f"{name}.weight"] = module.kernel, (1, 0) if isinstance(module, nnx.Linear) else (2, 3, 1, 0)
            if module.use_bias:
                targets[f"{name}.bias"] = module.bias, None
    return targets


def load(backbone: nnx.Module, path: str | Path) -> None:
    """Fills `backbone` with the weights in `path`; nothing is changed unless all of them fit.

    Raises:
        InputError: an unreadable file, or an array whose name or shape differs from the backbone's, or that holds NaN.
    """
    arrays = read(path)
    targets = _targets(backbone)
    given = {
        name: array
        for name, array in arrays.items()
        if not name.endswith(_NOT_WEIGHTS) and not name.startswith(tuple(f"{c}." for c in _CLASSIFIERS))
    }
    remedy = (
        "the file must belong to the same architecture, and the model have the file's width and depths "
        "(torchvision's: width=1 and stem='imagenet')."
    )
    for name in targets:
        if name not in given:
            raise InputError(f"{path} has no array {name!r} that this backbone needs: {remedy}")
    for name in given:
        if name not in targets:
            raise InputError(f"{path} has an array {name!r} that this backbone does not have: {remedy}")
    converted = {}
    for name, (variable, axes) in targets.items():
        array = given[name]
        if axes is not None and array.ndim == len(axes):
            array = array.transpose(axes)
        if array.shape != variable.shape:
            raise InputError(
                f"In {path} the array {name!r} has the shape {list(given[name].shape)}, which does not fit the "
                f"backbone's {list(variable.shape)}: {remedy}"
            )
        if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
            raise InputError(f"In {path} the array {name!r} does not hold finite numbers only; download it again.")
        converted[name] = array.astype(np.float32)
    for name, (variable, _) in targets.items():
        variable[...] = converted[name]
