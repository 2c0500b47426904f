"""Long preparations that resume where they were stopped; finished pieces wait in a folder until all is done."""

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

_PIECE = 64  # results in a file; when a build is stopped, at most this many are lost


def fingerprint(*facts: Any) -> str:
    """16 hexadecimal digits that change with what is prepared and how; the facts need a stable `repr`."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def stream(
    items: Sequence, prepare: Callable[[Sequence], Generator], folder: pathlib.Path, *, piece: int = _PIECE
) -> Generator[Any, None, None]:
    """Yields what `prepare` makes of `items`, in order, and keeps the results in files in `folder`.

    A later call with the same folder reads what is there and prepares the rest. Therefore `folder` must belong to these
    items alone (put a `fingerprint` into its name); the caller removes it. A file gets its name when it is complete. If
    it cannot be read, it is made again.

    Args:
        items: what to prepare.
        prepare: takes some of the items and returns a generator of one result each, in order.
        folder: is made if it does not exist.
        piece: number of results in a file.
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
                temporary.write_bytes(zlib.compress(pickle.dumps(results, -1), 1))
                temporary.replace(kept[start])
            else:
                results = _load(kept[start])
            yield from results


def in_threads(function: Callable[[Any], Any], items: Sequence, threads: int) -> Generator[Any, None, None]:
    """`map(function, items)`, in order, on threads that work a little ahead; fit for work that releases the GIL."""
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


def _load(path: pathlib.Path) -> list | None:
    """The results in a file; None if there is none or it is incomplete."""
    with contextlib.suppress(FileNotFoundError, EOFError, pickle.UnpicklingError, zlib.error):
        return pickle.loads(zlib.decompress(path.read_bytes()))
    return None
