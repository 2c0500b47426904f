"""Measures how many pairs of faces one core renders per second, and how much two workers gain.

    python -m benchmarks.generator [--manual_dir=ICT-FaceKit] [--before=CHECKOUT] [--sides=96,128,256]

Each case is a head and a side in pixels. Its pairs are rendered and encoded in a process of its own, on one core, with
the environment that the workers of a build have. The script prints pairs per second of processor time: the median over
chunks of 8 pairs, and the slowest and the fastest chunk. Then come the shares of the largest functions, and the time on
the clock with one and with two workers. Without --manual_dir, the scan-based head is left out.

With --before, another checkout of this repository renders the same pairs in turns, pair by pair, so that other work on
the machine slows both down alike. The script then also prints the ratio, and whether all arrays are equal.
Results: RESULTS.md, "The generator".
"""

import argparse
import cProfile
import os
import pathlib
import pickle
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import cv2
import numpy as np

from mlcm_jax.synthetic import generate, scan_head, workers

SIDES, PROFILED, CHUNK, TURNS, SEED = (96, 128, 256), 128, 8, 5, 3
_FIRST = 2000  # the pairs before are rendered first, because the first ones fill caches


def _start(checkout: pathlib.Path, rig: pathlib.Path | None, side: int) -> subprocess.Popen:
    """Starts this script as a process that renders one pair for every line that it reads."""
    from mlcm_jax import memory  # the other checkout, in which this script runs too, may not have it

    threads = dict.fromkeys(workers.THREADS, "1")
    environment = {memory.VARIABLE: memory.SETTINGS} | os.environ | threads | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-P", __file__, f"--rig={rig or ''}", f"--side={side}"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _serve(rig: str, side: int) -> None:
    """The process that `_start` starts: answers with the seconds of processor time and the pair."""
    heads = scan_head.load_rig(pathlib.Path(rig)) if rig else None
    for k in range(_FIRST - 2 * CHUNK, _FIRST):
        generate.encode(generate.example(SEED, k, size=side, heads=heads))
    for line in sys.stdin:
        began = time.process_time()
        pair = generate.example(SEED, int(line), size=side, heads=heads)
        generate.encode(pair)
        pickle.dump((time.process_time() - began, pair), sys.stdout.buffer, -1)
        sys.stdout.buffer.flush()


def _rates(checkouts: dict[str, pathlib.Path], rig: pathlib.Path | None, side: int, pairs: int) -> None:
    """Prints the rates of one case for each checkout, their ratio and whether they render the same."""
    processes = {name: _start(path, rig, side) for name, path in checkouts.items()}
    seconds, differences = {name: [] for name in checkouts}, []
    for k in range(_FIRST, _FIRST + pairs):
        found = {}
        for name, process in processes.items():
            process.stdin.write(f"{k}\n".encode())
            process.stdin.flush()
            spent, found[name] = pickle.load(process.stdout)
            seconds[name].append(spent)
        one, *others = found.values()
        differences += [(k, key) for other in others for key in one if not np.array_equal(one[key], other[key])]
    for process in processes.values():
        process.communicate()  # closes the pipes and waits
    head = "scan-based" if rig else "hand-made"
    for name, spent in seconds.items():
        rates = CHUNK / np.reshape(spent, (-1, CHUNK)).sum(1)
        spread = f"{rates.min():.1f} to {rates.max():.1f}"
        print(f"{head}, {side} px, {name}: {np.median(rates):.1f} pairs/s ({spread}; {pairs} pairs)", flush=True)
    if len(checkouts) > 1:
        before, now = (np.reshape(spent, (-1, CHUNK)).sum(1) for spent in seconds.values())
        equal = f"differences: {differences[:5]}" if differences else "all arrays are equal"
        print(f"    {before.sum() / now.sum():.2f} times as fast, median {np.median(before / now):.2f}; {equal}")


def _shares(rig: pathlib.Path | None, pairs: int) -> None:
    """Prints which of our functions take how much of the time, with everything that they call."""
    heads = scan_head.load_rig(rig) if rig else None
    for k in range(_FIRST, _FIRST + CHUNK):
        generate.encode(generate.example(SEED, k, size=PROFILED, heads=heads))
    profile = cProfile.Profile()
    profile.enable()
    for k in range(_FIRST, _FIRST + pairs):
        generate.encode(generate.example(SEED, k, size=PROFILED, heads=heads))
    profile.disable()
    stats = pstats.Stats(profile)
    own = [(row[3] / stats.total_tt, *place) for place, row in stats.stats.items() if "synthetic" in place[0]]
    largest = sorted(own, reverse=True)[1:17]
    shares = ", ".join(f"{pathlib.Path(file).stem}.{name} {100 * share:.0f} %" for share, file, _, name in largest)
    print(f"{'scan-based' if rig else 'hand-made'}, {PROFILED} px: {shares}", flush=True)


def _scaling(rig: pathlib.Path | None, pairs: int) -> None:
    """Prints pairs per second on the clock with one and two workers in turns, after the first 40 pairs of each turn."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(TURNS):
        for processes, found in rates.items():
            stream = workers.render(SEED, range(_FIRST, _FIRST + pairs), (PROFILED, PROFILED), processes, rig=rig)
            for _ in range(40):  # as many as may wait
                next(stream)
            began = time.perf_counter()
            found.append(sum(1 for _ in stream) / (time.perf_counter() - began))
    one, two = (f"{np.median(found):.1f} ({min(found):.1f} to {max(found):.1f})" for found in rates.values())
    gain = np.median(np.divide(rates[2], rates[1]))
    head = "scan-based" if rig else "hand-made"
    print(f"{head}, {PROFILED} px: {one} pairs/s with one worker, {two} with two: {gain:.2f} times", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures every case and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manual_dir", help="the clone of ICT-FaceKit")
    parser.add_argument("--before", type=pathlib.Path, help="another checkout to compare with")
    parser.add_argument("--pairs", type=int, default=64, help="pairs per case, a multiple of 8")
    parser.add_argument("--sides", default=",".join(map(str, SIDES)), help="sides in pixels")
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rig", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    cv2.setNumThreads(1)
    if arguments.side:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        _serve(arguments.rig, arguments.side)
        return
    if arguments.pairs % CHUNK:
        parser.error(f"--pairs={arguments.pairs} must be a multiple of {CHUNK}.")
    from benchmarks import machine  # not at the top: the other checkout, in which `_serve` runs, may not have it

    print(machine.describe())
    checkouts = {"before": arguments.before.resolve()} if arguments.before else {}
    checkouts["now"] = pathlib.Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        rigs: list[pathlib.Path | None] = [None]
        if arguments.manual_dir:
            rigs.append(pathlib.Path(folder, "rig.npz"))
            scan_head.load(arguments.manual_dir).save(rigs[1])
        for rig in rigs:
            for side in arguments.sides.split(","):
                _rates(checkouts, rig, int(side), arguments.pairs)
        for rig in rigs:
            _shares(rig, arguments.pairs // 2)
            _scaling(rig, 40 + 2 * arguments.pairs)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
