"""Measures how many pairs per second one core reads, crops and augments at 256 pixels.

    python -m benchmarks.loader --dataset=paired_folder/bench            # the dataset of RESULTS.md
    python -m benchmarks.loader --dataset=synthetic_faces/48x48 --size=32          # only to see whether it runs

The script pins itself to one core and loads batches as training does (both modalities, the default augmentation, one
thread). It prints pairs per second of processor time, as the median over chunks of 7 batches and for the fastest chunk.
Other work on the machine therefore matters only through the caches and the memory bandwidth that it uses. There are
three cases: a dataset that is too large to be kept decoded and is decoded in every pass, and the first and the later
passes over one that is kept. The script then compares thermal images stored as ordinary PNG and as builders store them,
and batches sent to the devices as 8 bits and as floats. Results: RESULTS.md, "The loader".
"""

import argparse
import collections
import os
import pathlib
import tempfile
import time
from collections.abc import Sequence

import cv2
import jax
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from mlcm_jax import images
from mlcm_jax.config import base
from mlcm_jax.console import say
from mlcm_jax.data import augment, pipeline
from mlcm_jax.data.build import default_data_dir
from mlcm_jax.data.examples import MEMORY, MODALITIES, Examples, open_examples
from mlcm_jax.training import sharding

BATCH, CHUNK = 32, 7


def _rates(examples: Examples, size: int, parts: Sequence[tuple[str, int]]) -> dict[str, np.ndarray]:
    """Prints pairs per second for each (name, number of passes) in turn, and returns the next batch."""
    options = base().augment.to_dict()
    crop = augment.Crop(size, options.pop("expand"), examples.layout)
    order, augmentation = pipeline.Order(BATCH, seed=0), augment.Augmentation(**options)
    dataset = pipeline.train_batches([examples], crop, order, augmentation=augmentation, modalities=MODALITIES)
    with pipeline.iterate(dataset, 0, threads=1) as source:
        for name, passes in parts:
            rates = []
            for _ in range(max(1, len(examples) * passes // (CHUNK * BATCH))):
                began = time.process_time()
                for _ in range(CHUNK):
                    next(source)
                rates.append(CHUNK * BATCH / (time.process_time() - began))
            taken = len(rates) * CHUNK * BATCH
            say(f"{name}: {np.median(rates):.0f} pairs/s, at best {max(rates):.0f} ({taken} pairs)")
        return next(source)


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
    images = {name: batch[name] for name in MODALITIES}
    floats = {name: (value / 255.0).astype(np.float32) for name, value in images.items()}
    for name, one in (("8 bits, converted there", images), ("floats", floats)):
        times = []
        for _ in range(7):
            began = time.process_time()
            jax.block_until_ready(sharding.put_batch(one, mesh))
            times.append(time.process_time() - began)
        say(f"to the devices as {name}: {1e3 * min(times) / BATCH:.2f} ms per pair")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the loader, the storage and the transfer, and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default=default_data_dir())
    parser.add_argument("--dataset", default="synthetic_faces/1000x256", help="needs both modalities; built if missing")
    parser.add_argument("--size", type=int, default=256, help="side of the crops in pixels")
    arguments = parser.parse_args(argv)

    def examples() -> Examples:
        return open_examples(arguments.dataset, "train", data_dir=arguments.data_dir, layout="ibug68")

    examples()  # builds the dataset on all cores
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    budget, MEMORY.free = MEMORY.free, 0
    _rates(examples(), arguments.size, [("nothing kept", 1)])
    MEMORY.free = budget
    kept = examples()
    batch = _rates(kept, arguments.size, [("first pass", 1), ("later passes", 4)])
    began = time.process_time()
    for k in range(len(kept)):
        augment.crop(kept[k], augment.Crop(arguments.size, 1.25, "ibug68"))
    say(f"plain crop alone: {len(kept) / (time.process_time() - began):.0f} pairs/s; load {os.getloadavg()[0]:.1f}")
    _storage(kept)
    _placing(batch)


if __name__ == "__main__":
    main()
