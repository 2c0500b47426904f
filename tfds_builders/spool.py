"""A replacement for TFDS's shuffler of records, which imports TensorFlow when a split exceeds 1,000 MiB."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from tensorflow_datasets.core import hashing, shuffle, writer


class _Spool:
    """Takes records and yields them in the order of their keys, with the interface of TFDS's `core.shuffle.Shuffler`.

    The records are kept in one unnamed temporary file in `dirpath`, which the system removes even if the process is
    killed. An index of keys and positions is kept in memory.
    """

    def __init__(self, dirpath: os.PathLike, hash_salt: str, disable_shuffling: bool = False, **_: Any) -> None:
        os.makedirs(dirpath, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=dirpath)  # noqa: SIM115, see `close`
        self._key = (lambda key: key) if disable_shuffling else hashing.Hasher(hash_salt).hash_key
        self._index: list[tuple[Any, int, int]] = []
        self.size = 0

    @property
    def num_examples(self) -> int:
        return len(self._index)

    @property
    def bucket_lengths(self) -> list[int]:
        return [len(self._index)]

    def add(self, key: Any, data: bytes) -> bool:
        self._file.write(data)
        self._index.append((self._key(key), self.size, len(data)))
        self.size += len(data)
        return True

    def close(self) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tuple[Any, bytes]]:
        last = None
        for key, start, length in sorted(self._index):
            self._file.seek(start)
            data = self._file.read(length)
            if key == last:
                raise shuffle.DuplicatedKeysError(data, data)
            last = key
            yield key, data


@contextlib.contextmanager
def instead_of_buckets() -> Iterator[None]:
    """Makes TFDS write through `_Spool`, which handles splits of any size and needs no TensorFlow."""
    with contextlib.ExitStack() as opened:

        def make(*args: Any, **kwargs: Any) -> _Spool:
            made = _Spool(*args, **kwargs)
            opened.callback(made.close)  # closes the file even if the build fails
            return made

        original, writer.shuffle.Shuffler = writer.shuffle.Shuffler, make
        try:
            yield
        finally:
            writer.shuffle.Shuffler = original
