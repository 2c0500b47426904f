"""How many pairs a second one core reads, crops and augments at 256 pixels.

    python -m mlcm_jax.bench.loader [--data_dir=DIR] [--dataset=synthetic_faces/256x256]

Pins itself to one core, takes the training loader as `train.py` does (both modalities, the augmentation of
configs/common.py, one thread), and prints pairs per second of processor time (so that other work on the machine does
not count) of the first pass, reading and decoding included, and of later ones, whose examples are kept decoded.
"""

import argparse
import os
import time

import cv2

from configs import common
from mlcm_jax import augment, data, run
from mlcm_jax.writers import say

BATCH = 32


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default=run.default_data_dir())
    parser.add_argument("--dataset", default="synthetic_faces/256x256")
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    data.open_examples(arguments.dataset, "train", data_dir=arguments.data_dir, layout="ibug68")  # builds
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
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
    per_pass = len(examples) // BATCH
    for name, passes in (("reading, decoding, cropping, augmenting", 1), ("cropping and augmenting (decoded)", 4)):
        began = time.process_time()
        for _ in range(per_pass * passes):
            next(iterator)
        rate = per_pass * passes * BATCH / (time.process_time() - began)
        say(f"{name}: {rate:.0f} pairs/s on one core ({per_pass * passes * BATCH} pairs)")
    began = time.process_time()
    for k in range(len(examples)):
        augment.crop(examples[k], size=arguments.size, layout="ibug68")
    say(f"plain crop alone: {len(examples) / (time.process_time() - began):.0f} pairs/s")


if __name__ == "__main__":
    main()
