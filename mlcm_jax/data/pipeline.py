"""From examples to batches: batch(step) is a pure function of seed, step and host.

Training order, crops and augmentations come from grain's index and seed alone, so a run resumes at any step, and hosts
that each prepare some rows of every batch see together the batches that one host would see.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import grain
import numpy as np

from mlcm_jax.data import augment
from mlcm_jax.data.examples import MODALITIES, Examples
from mlcm_jax.errors import InputError


def _finish(example: dict[str, np.ndarray], real: bool = True) -> dict[str, np.ndarray]:
    return example | {"mask": np.asarray(real)}


def _augmented(example: dict, rng: np.random.Generator, *, size: int, layout: str, options: dict) -> dict:
    options = dict(options)
    occlusion, photometric = options.pop("occlusion"), options.pop("photometric")
    # RGB is drawn last: a stage that reads thermal images alone sees them exactly as one that reads both.
    example = augment.crop(example, size=size, rng=rng, layout=layout, floats=False, **options)
    if occlusion:
        example = augment.occlude(example, rng, p=occlusion)
    if photometric and "thermal" in example:
        example["thermal"] = augment.photometric_thermal(example["thermal"], rng, strength=photometric)
    if photometric and "rgb" in example:
        example["rgb"] = augment.photometric_rgb(example["rgb"], rng, strength=photometric)
    return _finish(example)


def _select(example: dict, modalities: Sequence[str]) -> dict:
    return {key: value for key, value in example.items() if key not in MODALITIES or key in modalities}


def _drawn(sources: Sequence[Sequence], weights: Sequence[float], seed: int) -> grain.MapDataset:
    """Items of the sources for ever, in the order of training."""
    # One seed for all: a set's own order does not depend on what it is mixed with.
    parts = [grain.MapDataset.source(one).seed(seed).shuffle().repeat() for one in sources]
    if len(parts) == 1:
        return parts[0]
    shares = np.asarray(weights or [len(one) for one in sources], np.float64)
    if len(shares) != len(parts) or not (np.isfinite(shares).all() and (shares > 0).all()):
        raise InputError(
            f"config.dataset_weights={tuple(weights)} must be {len(parts)} positive numbers, one for each dataset."
        )
    return grain.MapDataset.mix(parts, list(shares / shares.sum())).seed(seed)


class _Rows(Sequence):
    """Some rows of every batch, batch after batch, of a dataset without end."""

    def __init__(self, dataset: grain.MapDataset, rows: np.ndarray, batch_size: int):
        self._dataset, self._rows, self._batch_size = dataset, rows, batch_size

    def __len__(self) -> int:
        return len(self._dataset) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        step, row = divmod(index, len(self._rows))
        return self._dataset[step * self._batch_size + int(self._rows[row])]


def train_batches(
    examples: Sequence[Examples],
    *,
    batch_size: int,
    size: int,
    layout: str,
    augmentation: dict[str, Any],
    modalities: Sequence[str],
    seed: int,
    weights: Sequence[float] = (),
    rows: np.ndarray | None = None,
) -> grain.MapDataset:
    """Batches for ever: `dataset[step]` is this host's part of the global batch, images of 8 bits still.

    `sharding.put_batch` makes floats of them on the devices: a fourth of the bytes to keep and to send.

    Args:
      examples: of one dataset or of several, see `open_sets`.
      batch_size: of the global batch.
      size: side of the square crop in pixels.
      layout: of the landmarks, for mirroring.
      augmentation: keyword arguments of `augment.crop`, and `photometric` (strength) and `occlusion` (probability).
      modalities: which images to prepare; the others are left out.
      seed: order and augmentation.
      weights: how often each dataset is drawn from, in any unit; () follows their sizes.
      rows: of the global batch that this process prepares, int (`sharding.batch_rows`); None: all.
    """
    cv2.setNumThreads(1)  # the images are small; threads of OpenCV would only fight with XLA's
    dataset = _drawn(examples, weights, seed).map(functools.partial(_select, modalities=modalities))
    dataset = dataset.random_map(functools.partial(_augmented, size=size, layout=layout, options=dict(augmentation)))
    if rows is None:
        return dataset.batch(batch_size)
    return grain.MapDataset.source(_Rows(dataset, rows, batch_size)).batch(len(rows))


def members(
    examples: Sequence[Examples], step: int, *, batch_size: int, seed: int, weights: Sequence[float] = ()
) -> list[dict[str, Any]]:
    """Which examples make up `train_batches(…)[step]`: dataset, index and what else the set knows of each."""
    places = _drawn([[(one, i) for i in range(len(one))] for one in examples], weights, seed)
    drawn = (places[step * batch_size + row] for row in range(batch_size))
    return [one.metadata(i) | {"dataset": one.name, "index": i} for one, i in drawn]


def iterate(dataset: grain.MapDataset, start: int, *, threads: int = 2) -> Iterator[dict[str, np.ndarray]]:
    """The batches from step `start` on, prepared ahead by threads (grain's processes need an absl app, grain #1355)."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset[start:].to_iter_dataset(options))


def eval_batches(
    examples: Examples, *, batch_size: int, size: int, expand: float, layout: str, rows: np.ndarray | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order, unaugmented; the last batch is padded, `mask` False, to `batch_size`.

    `index` int64 [B] is the place in the split; `rows` are those of every batch that this process prepares (None: all).
    """
    for start in range(0, len(examples), batch_size):
        indices = start + (np.arange(batch_size) if rows is None else rows)
        items = [
            _finish(
                augment.crop(examples[min(i, len(examples) - 1)], size=size, expand=expand, layout=layout),
                i < len(examples),
            )
            for i in indices.tolist()
        ]
        yield {key: np.stack([item[key] for item in items]) for key in items[0]} | {"index": indices}


def mean_shape(
    examples: Sequence[Examples],
    *,
    size: int,
    expand: float,
    layout: str,
    part: tuple[int, int] = (0, 1),
    gather: Callable[[Any], Any] = lambda tree: tree,
) -> np.ndarray:
    """Mean landmarks [K, 2] in u over unaugmented crops of all sets: the baseline, and where coordinate heads start.

    Each of `part[1]` processes looks at its part, `part[0]`; `gather` puts the parts one after the other
    (`sharding.gather_processes`). The result is the same, bit by bit, for any number of processes.
    """
    total, count = 0.0, 0
    index, parts = part
    rows = 256 * index + np.arange(256)
    for one in examples:
        batches = eval_batches(one, batch_size=256 * parts, size=size, expand=expand, layout=layout, rows=rows)
        found = [(batch["landmarks"], batch["mask"]) for batch in batches]
        points, mask = (gather(np.stack(arrays)) for arrays in zip(*found, strict=True))
        points, mask = (x.reshape(parts, -1, *x.shape[1:]).swapaxes(0, 1) for x in (points, mask))
        total = total + points[mask].sum(0, dtype=np.float64)
        count += int(mask.sum())
    return (total / count).astype(np.float32)
