"""Reads the arrays of a PyTorch checkpoint (`.pth`) without PyTorch, and without running code from the file.

Since PyTorch 1.6 a checkpoint is a zip archive: `NAME/data.pkl` is a pickle that names the tensors, and `NAME/data/KEY`
are their raw bytes. In the older format, which several of torchvision's files still have, a few pickles are followed by
the bytes. A pickle can call any function of any module; the unpickler here accepts only the names that dicts of tensors
need and refuses all others.

Formats: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mlcm_jax.errors import InputError

_MAGIC = 0x1950A86A20F9469CFC6C  # of the older format
# A damaged pickle can pop an empty stack, index past the end or pass wrong arguments, which raises many types of error.
_DAMAGE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    LookupError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    MemoryError,
    OverflowError,
)
_STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def _tensor(
    storage: np.ndarray,
    offset: int,
    size: Sequence[int],
    stride: Sequence[int],
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Any = None,
) -> np.ndarray:
    """Replaces torch._utils._rebuild_tensor_v2: a view of `storage`, whose offset and strides count elements."""
    if not isinstance(storage, np.ndarray) or len(size) != len(stride):
        raise ValueError("a tensor without a storage")
    if any(n < 0 for n in (offset, *size, *stride)):
        raise ValueError("a negative size, stride or offset")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(storage):
        raise ValueError("a tensor reaches beyond the end of its storage")
    if 0 in size:
        return np.empty(size, storage.dtype)
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], tuple(size), steps)


class _Unpickler(pickle.Unpickler):
    """Unpickles dicts of tensors and refuses objects of any other class.

    Args:
        file: where the pickle starts.
        storage: gives the array behind a tensor by dtype, key and number of elements.
    """

    def __init__(self, file: BinaryIO, storage: Callable[[np.dtype, str, int], np.ndarray]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """The object that a name in the pickle refers to; raises `_Refused` for all names but a few."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise _Refused(f"refused to unpickle {module}.{name}")

    def persistent_load(self, identity: Any) -> np.ndarray:
        """The array behind a tensor, which torch writes as ("storage", dtype, key, device, count)."""
        kind, dtype, key, _, count, *view = identity
        if kind != "storage" or not isinstance(dtype, np.dtype) or view not in ([], [None]):
            raise ValueError("an unknown kind of storage")
        return self.storage(dtype, key, count)


class _Refused(Exception):
    """The pickle refers to a name that is not allowed."""


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip archive without PyTorch's data.pkl")
        prefix = pickles[0].removesuffix("data.pkl")
        if f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") != b"little":
            raise ValueError("written on a big-endian machine")

        def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
            array = np.frombuffer(archive.read(f"{prefix}data/{key}"), dtype)
            if len(array) != count:
                raise ValueError(f"storage {key} holds {len(array)} numbers instead of {count}")
            return array

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def _read_old(file: BinaryIO, size: int) -> Any:
    """The older format: magic number, version, system, content and keys, then a count and the bytes for each key."""
    storages: dict[str, np.ndarray] = {}

    def storage(dtype: np.dtype, key: str, count: int) -> np.ndarray:
        if key not in storages:
            if not 0 <= count * dtype.itemsize <= size:
                raise ValueError(f"storage {key} is larger than the file")
            storages[key] = np.zeros(count, dtype)
        return storages[key]

    magic, version, system, content, keys = (_Unpickler(file, storage).load() for _ in range(5))
    if magic != _MAGIC or version != 1001 or not system["little_endian"]:
        raise ValueError("an unknown version of the format")
    if set(keys) != set(storages):
        raise ValueError("storages are missing")
    for key in keys:  # the tensors of `content` are views of these arrays
        count = int.from_bytes(file.read(8), "little")
        raw = file.read(storages[key].nbytes)
        if count != len(storages[key]) or len(raw) != storages[key].nbytes:
            raise ValueError(f"storage {key} is cut off")
        storages[key][:] = np.frombuffer(raw, storages[key].dtype)
    return content


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict, by name.

    Raises:
        InputError: a file that is not PyTorch's, is damaged or big-endian, holds anything but a dict of tensors, or
            names code to run.
    """
    remedy = "save one with torch.save(model.state_dict(), …), or convert it to .safetensors."
    try:
        with path.open("rb") as file:
            zipped = file.peek(2)[:2] == b"PK"
            loaded = _read_zip(file) if zipped else _read_old(file, path.stat().st_size)
    except _Refused as error:
        raise InputError(f"{path}: {error}; only a plain state dict is read: {remedy}") from None
    except _DAMAGE as error:
        raise InputError(f"{path} is damaged or not a state dict ({error}): {remedy}") from None
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, np.ndarray) for name, value in loaded.items()
    ):
        raise InputError(f"{path} holds no plain state dict of tensors: {remedy}")
    return dict(loaded)
