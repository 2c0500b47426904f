"""Lets several processes prepare batches, for devices that are faster than the Python of one process.

`pipeline.iterate` calls `spread`. grain starts the processes and passes batches through shared memory. Process k of n
prepares every n-th batch, so that the batches and their order are those of one process.
"""

import functools
import multiprocessing
import os
import pathlib
import shutil
import signal
import threading
from collections.abc import Iterator

import absl.logging
import cv2
import grain
import numpy as np
from absl import flags

from mlcm_jax.data.examples import MEMORY
from mlcm_jax.errors import InputError

_READY = 2  # batches that every process has ready
_SHARED = pathlib.Path("/dev/shm")  # where Linux keeps shared memory


def spread(dataset: grain.MapDataset, count: int) -> grain.DatasetIterator:
    """Starts processes that prepare the elements of a dataset, and returns an iterator; closing it ends them.

    Ctrl-C and SIGTERM are left to the main process. The memory in which it may keep decoded examples is divided among
    the processes.

    Args:
        dataset: dicts of arrays, such as batches of one size.
        count: number of processes, at least 1.

    Raises:
        InputError: there is too little shared memory for the batches.
    """
    _check_room(sum(value.nbytes for value in dataset[0].values()), count)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain asks for its flags, also where there is no absl app (grain #1355)
    one_by_one = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    begin = functools.partial(_begin, memory=MEMORY.free // count)
    options = grain.MultiprocessingOptions(num_workers=count, per_worker_buffer_size=_READY)
    return iter(one_by_one.mp_prefetch(options, worker_init_fn=begin))


def watched(source: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """Yields the elements of `spread`, and raises InputError if one of the processes has died."""
    try:
        yield from source
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise InputError(
            "A process that loads images has died, perhaps for lack of memory; lower config.loader_processes (with 0, "
            "this process loads them). A program of your own must start under `if __name__ == '__main__':`."
        ) from error


def _check_room(size: int, count: int) -> None:
    """Raises InputError unless batches of `size` bytes fit into shared memory; writing beyond it would kill us."""
    needed = size * count * (_READY + 3)  # one is being written, one waits, and one is with the consumer
    room = shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else needed
    if needed > room:
        raise InputError(
            f"config.loader_processes={count} needs {needed / 1e6:.0f} MB of shared memory, and {_SHARED} has "
            f"{room / 1e6:.0f} MB left; lower it, or give a container more (Docker's option shm-size)."
        )


def _begin(index: int, count: int, *, memory: int) -> None:
    """Prepares a new process; grain calls it there with its number and the number of all."""
    cv2.setNumThreads(1)
    absl.logging.set_verbosity(absl.logging.FATAL)  # TFDS would log that it opens the dataset again
    for number in (signal.SIGINT, signal.SIGTERM):  # the main process ends this one after it has saved
        signal.signal(number, signal.SIG_IGN)
    MEMORY.free = memory
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the main one has been killed and could not do it."""
    multiprocessing.parent_process().join()
    os._exit(1)
