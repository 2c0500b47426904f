"""Keeps compiled programs in the user's cache folder, so that the second run of a command starts at once.

The cache is JAX's own. This module chooses its folder, one for each version of jaxlib and each kind of processor, as
XLA compiles for the processor at hand. It also removes what a killed command left half written, which JAX would neither
read nor replace. Who sets JAX_COMPILATION_CACHE_DIR, or JAX_ENABLE_COMPILATION_CACHE=false, decides instead.
"""

import atexit
import hashlib
import os
import platform
import time
import warnings
import zlib
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

_LARGEST = 256 << 20  # bytes in a folder, which every command reads once
_HOUR = 3600.0


def keep_programs(root: Path | None = None) -> Path | None:
    """Makes JAX keep compiled programs; call it before JAX is imported.

    Args:
        root: the folder of all such folders; None means ~/.cache/mlcm_jax/compiled.

    Returns:
        The folder, or None if it cannot be written or the user has chosen another one.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    try:
        folder = (root or Path("~/.cache/mlcm_jax/compiled").expanduser()) / _machine()
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return None
        _clean(folder)
    except (OSError, RuntimeError):  # RuntimeError: no home folder. A cache is only a convenience.
        return None
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    # Entries without a checksum are those of commands that still run, which will note them, or that were killed.
    others = frozenset(entry for entry in folder.glob("*-cache") if not _mark(entry).exists())
    atexit.register(note, folder, others)
    return folder


def note(folder: Path, others: Collection[Path] = ()) -> None:
    """Writes a checksum beside every entry that has none. An entry that never gets one was not written to its end.

    Args:
        folder: the folder.
        others: entries that this process did not write.
    """
    for entry in folder.glob("*-cache"):
        mark = _mark(entry)
        try:
            if entry not in others and not mark.exists():
                mark.write_bytes(_checksum(entry))
        except OSError:
            continue  # another process removed it


def _clean(folder: Path) -> None:
    """Removes damaged entries, and the oldest ones of a folder that has grown too large."""
    kept = []
    for entry in folder.glob("*-cache"):
        mark, about = _mark(entry), entry.stat()
        running = time.time() - about.st_mtime < _HOUR  # a command that still runs may have written it
        if mark.read_bytes() == _checksum(entry) if mark.exists() else running:
            kept.append((about.st_mtime, about.st_size, entry))
        else:
            _remove(entry)
    total = sum(size for _, size, _ in kept)
    for _, size, entry in sorted(kept):
        if total <= _LARGEST:
            break
        _remove(entry)
        total -= size


def _remove(entry: Path) -> None:
    entry.unlink(missing_ok=True)
    _mark(entry).unlink(missing_ok=True)


def _mark(entry: Path) -> Path:
    return entry.with_name(entry.name.removesuffix("-cache") + "-crc32")


def _checksum(entry: Path) -> bytes:
    return f"{zlib.crc32(entry.read_bytes()):08x}".encode()


def _machine() -> str:
    """A name for the version of jaxlib and the instructions of this processor."""
    features = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features += sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    except OSError:
        pass  # not Linux
    digest = hashlib.sha256("\n".join(features).encode()).hexdigest()[:12]
    return f"jaxlib-{metadata.version('jaxlib')}-{digest}"
