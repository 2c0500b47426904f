"""How many pairs a second one core reads, crops and augments at 256 pixels.

    python -m benchmarks.loader [--data_dir=DIR] [--dataset=synthetic_faces/1000x256]

Pins itself to one core, takes the training loader as training does (both modalities, the augmentation of
configs/common.py, one thread), and prints pairs per second of processor time (so that other work on the machine does
not count, but for what it takes from caches and memory): the median of chunks of 7 batches, and the fastest chunk. Of a
set that is too large to be kept decoded, so is read and decoded in every pass; of the first pass over one that is kept,
whose memory is claimed then; and of its later passes. Then, side by side: thermal images read from ArrayRecord and
decoded, as OpenCV's ordinary PNG and as builders write it; and what a batch takes on its way to the devices.
"""

import argparse
import collections
import os
import pathlib
import tempfile
import time

import cv2
import jax
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from mlcm_jax.config import base
from mlcm_jax.console import say
from mlcm_jax.data import augment, image_file, pipeline
from mlcm_jax.data import examples as example_files
from mlcm_jax.data.build import default_data_dir
from mlcm_jax.data.examples import MODALITIES, Examples, open_examples
from mlcm_jax.training import sharding

BATCH, CHUNK = 32, 7


def _storage(examples: Examples, count: int = 200) -> None:
    """Prints size and time of thermal images as ordinary PNG and as `image_file.png`, the least of seven turns each."""
    images = [examples[k]["thermal"][..., 0] for k in range(min(count, len(examples)))]
    kinds = {"ordinary PNG": lambda image: cv2.imencode(".png", image)[1].tobytes(), "image_file.png": image_file.png}
    with tempfile.TemporaryDirectory() as folder:
        paths, times = {}, collections.defaultdict(list)
        for k, (name, encode) in enumerate(kinds.items()):
            paths[name] = pathlib.Path(folder, f"{k}.array_record")
            writer = ArrayRecordWriter(str(paths[name]), "group_size:1")  # as TFDS does
            for image in images:
                writer.write(encode(image))
            writer.close()
        for _ in range(7):
            for name, path in paths.items():
                records = ArrayRecordDataSource([str(path)])
                began = time.process_time()
                for k in range(len(images)):
                    example_files._decode(records[k])
                times[name].append((time.process_time() - began) / len(images))
        least = {name: 1e3 * min(values) for name, values in times.items()}
        for name, path in paths.items():
            say(f"{name}: {path.stat().st_size / len(images) / 1e3:.1f} KB, {least[name]:.2f} ms a thermal image")
        say(f"ratio of times: {least['image_file.png'] / least['ordinary PNG']:.2f}")


def _placing(batch: dict[str, np.ndarray]) -> None:
    """Prints the least processor time of seven turns that a batch takes to the devices as 8 bits, and as floats."""
    mesh = sharding.make_mesh()
    images = {name: batch[name] for name in MODALITIES}
    floats = {name: (value / 255.0).astype(np.float32) for name, value in images.items()}
    for name, one in (("8 bits, made floats there", images), ("floats", floats)):
        times = []
        for _ in range(7):
            began = time.process_time()
            jax.block_until_ready(sharding.put_batch(one, mesh))
            times.append(time.process_time() - began)
        say(f"to the devices as {name}: {1e3 * min(times) / BATCH:.2f} ms a pair")


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default=default_data_dir())
    parser.add_argument("--dataset", default="synthetic_faces/1000x256")
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    open_examples(arguments.dataset, "train", data_dir=arguments.data_dir, layout="ibug68")  # builds
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    for kept, parts in (
        (0, [("nothing kept", 1)]),
        (example_files._CACHE_BYTES, [("first pass", 1), ("later passes", 4)]),
    ):
        example_files._CACHE_BYTES = kept
        examples = open_examples(arguments.dataset, "train", data_dir=arguments.data_dir, layout="ibug68")
        dataset = pipeline.train_batches(
            [examples],
            batch_size=BATCH,
            size=arguments.size,
            layout="ibug68",
            augmentation=base().augment.to_dict(),
            modalities=MODALITIES,
            seed=0,
        )
        iterator = pipeline.iterate(dataset, 0, threads=1)
        for name, passes in parts:
            rates = []
            for _ in range(max(1, len(examples) * passes // (CHUNK * BATCH))):
                began = time.process_time()
                for _ in range(CHUNK):
                    next(iterator)
                rates.append(CHUNK * BATCH / (time.process_time() - began))
            taken = len(rates) * CHUNK * BATCH
            say(f"{name}: {np.median(rates):.0f} pairs/s, at best {max(rates):.0f} ({taken} pairs)")
        batch = next(iterator)
        del iterator, dataset
    began = time.process_time()
    for k in range(len(examples)):
        augment.crop(examples[k], size=arguments.size, layout="ibug68")
    say(f"plain crop alone: {len(examples) / (time.process_time() - began):.0f} pairs/s; load {os.getloadavg()[0]:.1f}")
    _storage(examples)
    _placing(batch)


if __name__ == "__main__":
    main()
