"""Renders many pairs or scenes on all cores, in order.

The dataset builders call `render`, which yields what `generate.encode` or `crowd.encode` makes. Each worker is a plain
`python -m mlcm_jax.synthetic.workers` that writes its examples to its standard output. Unlike `multiprocessing`
this neither forks a process whose threads (jax, grain) hold locks, nor imports the user's script a second time, so that
a script works without an `if __name__ == "__main__"` guard. A worker whose parent was killed ends at its next write.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import pickle
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Generator, Sequence
from typing import Any

from mlcm_jax import cores, memory

_AHEAD = 16  # finished pairs that may wait per worker: enough for pairs of unequal cost, within limited memory
_ALIKE = 4  # consecutive examples go to one worker, which keeps what pairs of one person share
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")  # all are 1


def render(
    seed: int,
    indices: Sequence[int],
    size: tuple[int, int],
    processes: int | None = None,
    *,
    rig: pathlib.Path | None = None,
    what: str = "generate",
) -> Generator[dict[str, Any]]:
    """Yields `generate.encode(generate.example(seed, i, size=size))` for every i of `indices`, in their order.

    Args:
        seed: number of the set.
        indices: numbers of the pairs.
        size: inclusive range of the side in pixels.
        processes: number of workers; None for one per available core.
        rig: file of scan-based heads (`scan_head.ScanHeads.save`), which every worker reads once; None for the
            hand-made heads.
        what: the module whose `example` and `encode` are called: "generate" for pairs, "crowd" for scenes.

    Yields:
        One encoded example at a time.

    Raises:
        RuntimeError: with the worker's own traceback, if a pair fails or a worker dies.
    """
    indices = list(indices)
    count = max(1, min(processes or cores.available(), len(indices)))
    block = min(_ALIKE, max(1, len(indices) // count))
    owners = [position // block % count for position in range(len(indices))]
    with contextlib.ExitStack() as stack:
        results = []
        for k in range(count):
            mine = [index for index, owner in zip(indices, owners, strict=True) if owner == k]
            worker = _start((what, seed, mine, size, rig))
            reader, ready = _read_ahead(worker)
            stack.callback(_stop, worker, reader, ready)
            results.append(ready)
        for index, owner in zip(indices, owners, strict=True):
            kind, value = results[owner].get()
            if kind == "failed":
                raise RuntimeError(f"example {index} of seed {seed} could not be rendered:\n{value}")
            yield value


def _start(task: tuple) -> subprocess.Popen:
    """Starts a worker; `task` is (what, seed, indices, size, rig), see `render`."""
    root = str(pathlib.Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {memory.VARIABLE: memory.SETTINGS} | os.environ | dict.fromkeys(THREADS, "1") | {"PYTHONPATH": path}
    worker = subprocess.Popen(
        [sys.executable, "-m", "mlcm_jax.synthetic.workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches only the parent, which then ends its workers
    )
    with contextlib.suppress(BrokenPipeError):  # a worker that died at once is reported by the reader
        pickle.dump(task, worker.stdin)
        worker.stdin.close()
    return worker


def _read_ahead(worker: subprocess.Popen) -> tuple[threading.Thread, queue.Queue]:
    """Starts a thread that collects a worker's results, at most `_AHEAD` at a time; returns both."""
    results: queue.Queue = queue.Queue(_AHEAD)
    last_lines: collections.deque[bytes] = collections.deque(maxlen=40)

    def drain() -> None:  # a worker that prints much would otherwise block on a full pipe
        with contextlib.suppress(ValueError, OSError):  # closed by _stop
            last_lines.extend(worker.stderr)

    def read() -> None:
        kind = "ok"
        with contextlib.suppress(EOFError, pickle.UnpicklingError, ValueError, OSError):
            while kind != "failed":
                kind, value = pickle.load(worker.stdout)
                results.put((kind, value))
        listener.join(timeout=5.0)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the exit code comes a moment after the pipe has closed
            worker.wait(timeout=5.0)
        printed = b"".join(last_lines).decode(errors="replace")
        results.put(("failed", f"the worker ended early, exit code {worker.poll()}\n{printed}"))

    listener = threading.Thread(target=drain, daemon=True)
    listener.start()
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return reader, results


def _stop(worker: subprocess.Popen, reader: threading.Thread, results: queue.Queue) -> None:
    worker.kill()
    while reader.is_alive():  # it may be waiting for room in the queue
        with contextlib.suppress(queue.Empty):
            results.get(timeout=0.05)
    worker.wait()
    worker.stdout.close()
    worker.stderr.close()


def _main() -> None:
    """Worker: reads a task of `_start` from standard input, writes ("ok", example) or ("failed", traceback)."""
    what, seed, indices, size, rig = pickle.load(sys.stdin.buffer)
    # Only pickles may travel on the pipe, so whatever a library prints goes to the error stream.
    out, sys.stdout = os.fdopen(os.dup(1), "wb"), sys.stderr
    os.dup2(2, 1)
    try:
        import cv2

        from mlcm_jax.synthetic import crowd, generate, scan_head

        cv2.setNumThreads(1)
        module = {"generate": generate, "crowd": crowd}[what]
        heads = None if rig is None else scan_head.load_rig(rig)
        for index in indices:
            pickle.dump(("ok", module.encode(module.example(seed, index, size=size, heads=heads))), out, -1)
            out.flush()
    except BrokenPipeError:
        os._exit(1)  # the parent is gone, so there is nobody to report to
    except Exception:
        pickle.dump(("failed", traceback.format_exc()), out, -1)
        out.flush()


if __name__ == "__main__":
    _main()
