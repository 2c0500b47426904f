"""Long computations that resume where they stopped, by keeping finished pieces in a folder."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import pathlib
import pickle
import zlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_PIECE = 64  # results per file; at most this many are lost when a build is stopped


def fingerprint(*facts: Any) -> str:
    """Returns a hash of facts, 16 hexadecimal digits; each fact's `repr` must be the same in every process."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def stream(
    items: Sequence, prepare: Callable[[Sequence], Generator], folder: pathlib.Path, *, piece: int = _PIECE
) -> Generator[Any, None, None]:
    """Yields what `prepare` makes of `items`, in order, and keeps the results in files in `folder`.

    A later call with the same folder reads the results in it and prepares the rest. Files are written atomically, and
    one that cannot be read is written again. The caller removes the folder.

    Args:
        items: what to prepare.
        prepare: takes some of the items and returns a generator of one result each, in order.
        folder: a folder for these items only, so its name should contain their `fingerprint`; created if missing.
        piece: the number of results per file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(items), piece)
    kept = {start: folder / f"{start:09d}.pickle" for start in starts}
    missing = {start for start in starts if _load(kept[start]) is None}
    with contextlib.closing(prepare([item for k in starts if k in missing for item in items[k : k + piece]])) as fresh:
        for start in starts:
            if start in missing:
                results = list(itertools.islice(fresh, len(items[start : start + piece])))
                temporary = kept[start].with_suffix(f".{os.getpid()}")
                temporary.write_bytes(_packed(pickle.dumps(results, -1)))
                temporary.replace(kept[start])
            else:
                results = _load(kept[start])
            yield from results


def in_threads(function: Callable[[Any], Any], items: Sequence, threads: int) -> Generator[Any, None, None]:
    """Yields `function(item)` in order; threads compute a little ahead, so the function should release the GIL."""
    with ThreadPoolExecutor(threads) as pool:
        ahead, waiting = iter(items), []
        try:
            while True:
                waiting += [pool.submit(function, item) for item in itertools.islice(ahead, 4 * threads - len(waiting))]
                if not waiting:
                    return
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _packed(data: bytes) -> bytes:
    """Compresses pickled results; filtered images repeat single bytes at most, and looking for more takes longer."""
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return packer.compress(data) + packer.flush()


def _load(path: pathlib.Path) -> list | None:
    """Returns the results in a file, or None if it is missing or incomplete."""
    with contextlib.suppress(FileNotFoundError, EOFError, pickle.UnpicklingError, zlib.error):
        return pickle.loads(zlib.decompress(path.read_bytes()))
    return None
