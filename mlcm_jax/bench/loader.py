"""How many pairs a second one core reads, crops and augments at 256 pixels.

    python -m mlcm_jax.bench.loader [--data_dir=DIR] [--dataset=synthetic_faces/1000x256]

Pins itself to one core, takes the training loader as `train.py` does (both modalities, the augmentation of
configs/common.py, one thread), and prints pairs per second of processor time (so that other work on the machine does
not count, but for what it takes from caches and memory): the median of chunks of 7 batches, and the fastest chunk. Of a
set that is too large to be kept decoded, so is read and decoded in every pass; of the first pass over one that is kept,
whose memory is claimed then; and of its later passes.
"""

import argparse
import os
import time

import cv2
import numpy as np

from configs import common
from mlcm_jax import augment, data, run
from mlcm_jax.writers import say

BATCH, CHUNK = 32, 7


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default=run.default_data_dir())
    parser.add_argument("--dataset", default="synthetic_faces/1000x256")
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    data.open_examples(arguments.dataset, "train", data_dir=arguments.data_dir, layout="ibug68")  # builds
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    for kept, parts in ((0, [("nothing kept", 1)]), (data._CACHE_BYTES, [("first pass", 1), ("later passes", 4)])):
        data._CACHE_BYTES = kept
        examples = data.open_examples(arguments.dataset, "train", data_dir=arguments.data_dir, layout="ibug68")
        dataset = data.train_batches(
            [examples],
            batch_size=BATCH,
            size=arguments.size,
            layout="ibug68",
            augmentation=common.base().augment.to_dict(),
            modalities=data.MODALITIES,
            seed=0,
        )
        iterator = data.iterate(dataset, 0, threads=1)
        for name, passes in parts:
            rates = []
            for _ in range(max(1, len(examples) * passes // (CHUNK * BATCH))):
                began = time.process_time()
                for _ in range(CHUNK):
                    next(iterator)
                rates.append(CHUNK * BATCH / (time.process_time() - began))
            taken = len(rates) * CHUNK * BATCH
            say(f"{name}: {np.median(rates):.0f} pairs/s, at best {max(rates):.0f} ({taken} pairs)")
        del iterator, dataset
    began = time.process_time()
    for k in range(len(examples)):
        augment.crop(examples[k], size=arguments.size, layout="ibug68")
    say(f"plain crop alone: {len(examples) / (time.process_time() - began):.0f} pairs/s; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
