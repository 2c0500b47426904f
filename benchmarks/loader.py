"""Measures how many pairs per second the loader reads, crops and augments at 256 pixels, and what it costs a step.

    python -m benchmarks.loader                                      # the dataset of RESULTS.md, built if it is missing
    python -m benchmarks.loader --dataset=synthetic_faces/48x48 --size=32 --steps=       # only to see whether it runs

The parts, all with the default augmentation and batches of 32 pairs:

- One core, on which the script pins itself, and one thread: pairs per second of processor time, as the median over
  chunks of 7 batches and for the fastest chunk. Other work on the machine matters only through the caches and the
  memory bandwidth that it uses. A dataset that is too large to be kept decoded is decoded in every pass; one that is
  kept has a first pass and later ones, here also with the gain "box" of training.
- Threads, and processes (`config.loader_processes`), on all cores: pairs per second of the clock. The case "Python's
  part" has images of 16 pixels, so that hardly anything but Python's code is left, of which one thread of a process at
  a time can run. From both, the script calculates which steps of a GPU the loader keeps up with.
- Training steps on this machine's devices with a batch that stays there and with the loader, in turns.
- Thermal images stored as ordinary PNG and as builders store them, and batches sent to the devices as 8 bits and as
  floats.

Start it with GLIBC_TUNABLES as docs/training.md says, because `mlcm train` has these settings of memory. Results:
RESULTS.md, "The loader".
"""

import argparse
import collections
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence

import cv2
import grain
import jax
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

import tfds_builders
from benchmarks import machine, steps
from mlcm_jax import cores, images
from mlcm_jax.config import base
from mlcm_jax.console import say
from mlcm_jax.data import augment, pipeline
from mlcm_jax.data.build import default_data_dir
from mlcm_jax.data.examples import MEMORY, MODALITIES, Examples, open_examples
from mlcm_jax.training import sharding, stages

BATCH, CHUNK, LAYOUT = 32, 7, "ibug68"
BENCH, COPIES = "paired_folder/bench", 16
GPU_BATCH, GPU_CORES = 64, 16  # the batch of a GPU whose steps the loader should keep up with, and the cores beside it
ROWS = "tiny 0.25 64 32 train,mobilenet_v2 0.5 128 32 train,mobilenet_v2 1.0 224 16 train"


def make_bench(data_dir: str, copies: int = COPIES) -> None:
    """Builds `BENCH` unless it exists: copies of the 196 training pairs of synthetic_faces/256x256 as JPEG and PNG."""
    if tfds_builders.load(BENCH, data_dir).info.splits:
        return
    pairs = tfds_builders.build("synthetic_faces/256x256", data_dir).as_data_source(split="train")
    with tempfile.TemporaryDirectory() as folder:
        place = {name: pathlib.Path(folder, name) for name in ("rgb", "thermal", "landmarks")}
        for one in place.values():
            one.mkdir()
        quality = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        for k in range(len(pairs)):
            pair = pairs[k]
            points = "\n".join(f"{x + 1:.4f} {y + 1:.4f}" for x, y in pair["landmarks"])  # .pts counts from 1
            jpeg = cv2.imencode(".jpg", cv2.cvtColor(pair["rgb"], cv2.COLOR_RGB2BGR), quality)[1].tobytes()
            png = cv2.imencode(".png", pair["thermal"])[1].tobytes()
            for copy in range(copies):
                name = f"{k:03}_{copy:02}"
                (place["rgb"] / f"{name}.jpg").write_bytes(jpeg)
                (place["thermal"] / f"{name}.png").write_bytes(png)
                text = f"version: 1\nn_points: {len(pair['landmarks'])}\n{{\n{points}\n}}\n"
                (place["landmarks"] / f"{name}.pts").write_text(text)
        tfds_builders.build(BENCH, data_dir, manual_dir=folder, splits="1,0,0")


def dataset_of(examples: Sequence[dict[str, np.ndarray]], size: int, gain: str = "as_is") -> grain.MapDataset:
    """Batches of pairs as training makes them, with the default augmentation."""
    options = base().augment.to_dict()
    crop = augment.Crop(size, options.pop("expand"), LAYOUT, gain)
    order, augmentation = pipeline.Order(BATCH, seed=0), augment.Augmentation(**options)
    return pipeline.train_batches([examples], crop, order, augmentation=augmentation)


def _rates(dataset: grain.MapDataset, pairs: int, parts: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Prints and returns pairs per second of processor time for each (name, number of passes) in turn."""
    found = {}
    with pipeline.iterate(dataset, 0, threads=1) as source:
        for name, passes in parts:
            rates = []
            for _ in range(max(1, pairs * passes // (CHUNK * BATCH))):
                began = time.process_time()
                for _ in range(CHUNK):
                    next(source)
                rates.append(CHUNK * BATCH / (time.process_time() - began))
            taken = len(rates) * CHUNK * BATCH
            found[name] = float(np.median(rates))
            say(f"{name}: {found[name]:.0f} pairs/s, at best {max(rates):.0f} ({taken} pairs)")
    return found


def _shrunk(examples: Examples, side: int = 16, count: int = 10_000) -> list[dict[str, np.ndarray]]:
    """The first pairs of a dataset with images of `side` pixels, again and again."""
    pairs = []
    for k in range(min(8, len(examples))):
        pair = examples[k]
        scale = side / max(pair["rgb"].shape[:2])
        images_of = {name: cv2.resize(pair[name], (side, side)) for name in MODALITIES}
        images_of["thermal"] = images_of["thermal"][..., None]
        pairs.append(pair | images_of | {name: pair[name] * scale for name in ("landmarks", "box")})
    return [pairs[k % len(pairs)] for k in range(count)]


def _by_the_clock(
    name: str, dataset: grain.MapDataset, numbers: Sequence[int], *, batches: int, turns: int, kind: str = "threads"
) -> None:
    """Prints pairs per second of the clock for each number of `kind`: the median over turns, and the range."""
    rates, place = collections.defaultdict(list), 0
    for _ in range(turns):
        for number in numbers:
            with pipeline.iterate(dataset, place, **{kind: number}) as source:
                skipped = (3 if kind == "threads" else 6) * number  # what is ready when the first one is asked for
                for _ in range(skipped):
                    next(source)
                began = time.perf_counter()
                for _ in range(batches):
                    next(source)
                rates[number].append(batches * BATCH / (time.perf_counter() - began))
            place += skipped + batches
    texts = [f"{n}: {statistics.median(one):.0f} ({min(one):.0f}–{max(one):.0f})" for n, one in rates.items()]
    say(f"{name}, pairs/s by the clock, {kind} {', '.join(texts)}; {cores.available()} cores")


def _say_feeds(rates: dict[str, float], python: float) -> None:
    """Calculates and prints how short the steps of a GPU may be until they wait for the loader.

    Args:
        rates: pairs per second of one core, by case.
        python: pairs per second of Python's part, which all threads of a process share.
    """
    for name, rate in rates.items():
        one, all_, lock = (1e3 * GPU_BATCH / each for each in (rate, GPU_CORES * rate, python))
        say(
            f"{name}, a batch of {GPU_BATCH}: {one:.1f} ms on one core, so at least {all_:.1f} on {GPU_CORES}; "
            f"Python's part {lock:.1f}; so the loader can feed steps of {max(all_, lock):.1f} ms or more"
        )


def _step_times(row: str, data_dir: str, name: str, turns: int) -> None:
    """Times a training step whose batch stays on the devices and one that the loader feeds, and prints both.

    Args:
        row: as in `benchmarks.steps`.
        data_dir: the folder of built datasets.
        name: the dataset, for a row whose config is not that of a run.
        turns: of both; their times are the medians, and the ratio is that of neighbouring turns.
    """
    network, width, side, batch_size, kind = row.split()
    config = steps.config_of(network, float(width), int(side), int(batch_size), False)
    stage = "transfer" if kind == "ktl" else "teacher"
    name = config.dataset if network == "tiny" else name
    examples = open_examples(name, "train", data_dir=data_dir, layout=config.layout, gain=config.gain)
    for k in range(len(examples)):  # so that all are decoded
        examples[k]
    mesh, (step, (state, teachers, random, key)) = sharding.make_mesh(), steps.prepare(config, stage)
    options = dict(config.augment)
    crop = augment.Crop(config.image_size, options.pop("expand"), stages.layout(config), stages.gain(config))
    dataset = pipeline.train_batches(
        [examples.only([name for name in MODALITIES if name in random])],
        crop,
        pipeline.Order(config.train.batch_size, config.seed),
        augmentation=augment.Augmentation(**options),
    )
    times: dict[str, list[float]] = {"resident": [], "loader": []}
    with pipeline.iterate(dataset, 0) as source:
        resident = sharding.put_batch(next(source), mesh)

        def several(count: int, batches: Iterator | None) -> float:
            nonlocal state
            began = time.perf_counter()
            for _ in range(count):
                batch = sharding.put_batch(next(batches), mesh) if batches else resident
                state, metrics = step(state, teachers, batch, key)
            jax.block_until_ready((state, metrics))
            return (time.perf_counter() - began) / count

        several(2, source)
        count = max(4, round(1.5 / several(3, None)))
        ahead = 2 * max(2, cores.available()) + 2  # steps until no batch is left that was made before the turn
        for _ in range(turns):
            for side_, batches in (("resident", None), ("loader", source)):
                several(ahead if batches else 2, batches)
                times[side_].append(several(count, batches))
    middle = {side_: 1e3 * statistics.median(found) for side_, found in times.items()}
    ratios = [fed / held for held, fed in zip(times["resident"], times["loader"], strict=True)]
    say(
        f"{row}, step of {count} x {turns}: resident {middle['resident']:.1f} ms, with the loader "
        f"{middle['loader']:.1f} ms, ratio {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"
    )


def _storage(examples: Examples, count: int = 200) -> None:
    """Prints size and decoding time, the least of 7 runs, of thermal images as ordinary PNG and as `images.png`."""
    decoded = [examples[k]["thermal"][..., 0] for k in range(min(count, len(examples)))]
    kinds = {"ordinary PNG": lambda image: cv2.imencode(".png", image)[1].tobytes(), "images.png": images.png}
    with tempfile.TemporaryDirectory() as folder:
        paths, times = {}, collections.defaultdict(list)
        for k, (name, encode) in enumerate(kinds.items()):
            paths[name] = pathlib.Path(folder, f"{k}.array_record")
            writer = ArrayRecordWriter(str(paths[name]), "group_size:1")  # as TFDS does
            for image in decoded:
                writer.write(encode(image))
            writer.close()
        for _ in range(7):
            for name, path in paths.items():
                records = ArrayRecordDataSource([str(path)])
                began = time.process_time()
                for k in range(len(decoded)):
                    cv2.imdecode(np.frombuffer(records[k], np.uint8), cv2.IMREAD_UNCHANGED)
                times[name].append((time.process_time() - began) / len(decoded))
        least = {name: 1e3 * min(values) for name, values in times.items()}
        for name, path in paths.items():
            say(f"{name}: {path.stat().st_size / len(decoded) / 1e3:.1f} KB, {least[name]:.2f} ms per thermal image")
        say(f"ratio of times: {least['images.png'] / least['ordinary PNG']:.2f}")


def _placing(batch: dict[str, np.ndarray]) -> None:
    """Prints the processor time to put a batch on the devices as 8 bits and as floats, the least of 7 runs."""
    mesh = sharding.make_mesh()
    pairs = {name: batch[name] for name in MODALITIES}
    floats = {name: (value / 255.0).astype(np.float32) for name, value in pairs.items()}
    for name, one in (("8 bits, converted there", pairs), ("floats", floats)):
        times = []
        for _ in range(7):
            began = time.process_time()
            jax.block_until_ready(sharding.put_batch(one, mesh))
            times.append(time.process_time() - began)
        say(f"to the devices as {name}: {1e3 * min(times) / BATCH:.2f} ms per pair")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the loader, the steps that it feeds, the storage and the transfer, and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default=default_data_dir())
    parser.add_argument("--dataset", default=BENCH, help="needs both modalities; built if missing")
    parser.add_argument("--size", type=int, default=256, help="side of the crops in pixels")
    parser.add_argument("--threads", default="1,2,4,8,16", help="numbers, also of processes, up to twice the cores")
    parser.add_argument("--turns", type=int, default=5, help="of each number of threads, and of the steps")
    parser.add_argument("--steps", default=ROWS, help="rows of benchmarks.steps, separated by commas; '' for none")
    arguments = parser.parse_args(argv)
    say(machine.describe())

    def examples() -> Examples:
        return open_examples(arguments.dataset, "train", data_dir=arguments.data_dir, layout=LAYOUT)

    # Datasets are built on all cores, before the script pins itself to one.
    if arguments.dataset == BENCH:
        make_bench(arguments.data_dir)
    examples()
    everywhere, before = os.sched_getaffinity(0), os.getloadavg()[0]
    os.sched_setaffinity(0, {min(everywhere)})
    cv2.setNumThreads(1)
    budget, MEMORY.free = MEMORY.free, 0
    none = examples()
    pairs, size = len(none), arguments.size
    rates = _rates(dataset_of(none, size), pairs, [("nothing kept", 1)])
    MEMORY.free = budget
    kept = examples()
    rates |= _rates(dataset_of(kept, size), pairs, [("first pass", 1), ("later passes", 2)])
    rates |= _rates(dataset_of(kept, size, "box"), pairs, [("later passes, gain box", 2)])
    small = dataset_of(_shrunk(kept), 16, "box")
    python = _rates(small, pairs, [("Python's part", 2)])["Python's part"]
    began = time.process_time()
    for k in range(len(kept)):
        augment.crop(kept[k], augment.Crop(size, 1.25, LAYOUT))
    say(f"plain crop alone: {len(kept) / (time.process_time() - began):.0f} pairs/s; load before: {before:.1f}")
    _storage(kept)

    os.sched_setaffinity(0, everywhere)
    numbers = [number for number in map(int, arguments.threads.split(",")) if number <= 2 * cores.available()]
    budget, MEMORY.free = MEMORY.free, 0
    turns = {"batches": max(2, pairs // 100), "turns": arguments.turns}
    _by_the_clock("nothing kept", dataset_of(none, size), numbers, **turns)
    _by_the_clock("nothing kept", dataset_of(none, size), numbers, **turns, kind="processes")
    MEMORY.free = budget
    _by_the_clock("later passes", dataset_of(kept, size), numbers, **turns)
    _by_the_clock("later passes, gain box", dataset_of(kept, size, "box"), numbers, **turns)
    _by_the_clock("Python's part", small, numbers, **turns)
    _by_the_clock("Python's part", small, numbers, **turns, kind="processes")
    _say_feeds({name: rates[name] for name in ("nothing kept", "later passes, gain box")}, python)
    for row in filter(None, arguments.steps.split(",")):
        _step_times(row, arguments.data_dir, arguments.dataset, arguments.turns)
    _placing(dataset_of(kept, size)[0])


if __name__ == "__main__":
    main()
