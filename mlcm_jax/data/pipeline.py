"""Makes batches of examples: batch(step) is a pure function of seed, step and host.

Order, crops and augmentation depend on grain's index and seed alone. So a run can resume at any step, and several hosts
that each prepare some rows of every batch together see the batches that one host would see.

A batch is a dict of arrays: `rgb` [B, S, S, 3] and `thermal` [B, S, S, 1] (the modalities that are asked for; in
training uint8 until they are on the devices, in scoring float32 in [0, 1]), `landmarks` float32 [B, K, 2] in u,
`visible` and `known` bool [B, K], `weight` float32 [B, K], `box` float32 [B, 4], `to_image` float32 [B, 2, 3] (crop to
original pixels), and `mask` bool [B], False where an example only pads the last batch.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import grain
import numpy as np

from mlcm_jax import cores
from mlcm_jax.data import augment, photometric
from mlcm_jax.data.examples import Examples
from mlcm_jax.data.loader_processes import spread, watched
from mlcm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Order:
    """What decides which examples make up a batch.

    Attributes:
        batch_size: number of examples in the global batch.
        seed: seed of the order and of the augmentation.
        weights: relative sampling weight of each dataset; () means by their sizes.
    """

    batch_size: int
    seed: int
    weights: tuple[float, ...] = ()


def train_batches(
    examples: Sequence[Examples],
    crop: augment.Crop,
    order: Order,
    *,
    augmentation: augment.Augmentation,
    rows: np.ndarray | None = None,
) -> grain.MapDataset:
    """Returns an endless dataset of batches: `dataset[step]` is this host's part of the global batch.

    Images are uint8, a quarter of the bytes to keep and to send; `sharding.put_batch` makes floats of them on the
    devices.

    Args:
        examples: the examples of each dataset, see `examples.open_sets`; batches have the images that they have
            (`Examples.only` leaves some out).
        crop: what a network sees.
        order: which examples make up a batch.
        augmentation: random changes.
        rows: int [n], the rows of the global batch that this process prepares (`sharding.batch_rows`); None means all.
    """
    dataset = _drawn(examples, order)
    dataset = dataset.random_map(functools.partial(_augmented, crop=crop, augmentation=augmentation))
    if rows is None:
        return dataset.batch(order.batch_size)

    def item(index: int) -> dict[str, np.ndarray]:
        step, row = divmod(index, len(rows))
        return dataset[step * order.batch_size + int(rows[row])]

    return grain.MapDataset.range(len(dataset) // order.batch_size * len(rows)).map(item).batch(len(rows))


def members(examples: Sequence[Examples], order: Order, step: int) -> list[dict[str, Any]]:
    """Lists the examples of `train_batches(…)[step]`: the dataset, index and metadata of each."""
    places = _drawn([[(one, i) for i in range(len(one))] for one in examples], order)
    drawn = (places[step * order.batch_size + row] for row in range(order.batch_size))
    return [one.metadata(i) | {"dataset": one.name, "index": i} for one, i in drawn]


@contextlib.contextmanager
def iterate(
    dataset: grain.MapDataset, start: int, *, threads: int = 0, processes: int = 0
) -> Iterator[Iterator[dict[str, np.ndarray]]]:
    """Yields the batches from step `start` on, which threads or processes prepare ahead.

    OpenCV uses one thread meanwhile: crops are small, and more threads would only compete with those of XLA. Batches
    that nobody has asked for are dropped at the end, so that the next stage or the scoring has the cores to itself.

    Args:
        dataset: see `train_batches`.
        start: the first step, from 0.
        threads: number of threads; 0 means one for each core, at least 2 and at most 16.
        processes: number of processes in place of the threads (`loader_processes.spread`); 0 means none.

    Raises:
        InputError: the processes cannot have enough shared memory, or one has died.
    """
    rest = dataset[start:]
    source = spread(rest, processes) if processes else iter(rest.to_iter_dataset(_read_options(threads)))
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield watched(source) if processes else source
    finally:
        source.close()
        cv2.setNumThreads(before)


def eval_batches(
    examples: Examples, crop: augment.Crop, *, batch_size: int, rows: np.ndarray | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every example once, in order and not augmented; padding (`mask` False) fills up the last batch.

    Args:
        examples: the examples of one split.
        crop: what a network sees; its layout is that of the examples.
        batch_size: number of examples in every batch.
        rows: int [n], the rows of every batch that this process prepares; None means all.

    Returns:
        Batches, which also hold `index` int64 [B], the position in the split.
    """
    rows = np.arange(batch_size) if rows is None else rows
    places = [start + row for start in range(0, len(examples), batch_size) for row in rows.tolist()]

    def item(index: int) -> dict[str, np.ndarray]:
        example = examples[min(index, len(examples) - 1)]
        cropped = augment.crop(example, crop)
        return cropped | {"mask": np.asarray(index < len(examples)), "index": np.asarray(index)}

    return iter(grain.MapDataset.source(places).map(item).batch(len(rows)).to_iter_dataset(_read_options()))


def mean_shape(examples: Sequence[Examples], *, expand: float) -> np.ndarray:
    """Computes the mean landmarks over the crops of all datasets: the baseline, and where coordinate heads start.

    Unlabelled landmarks do not count; one that is unlabelled everywhere takes the mean of the others. No images are
    read, because landmarks and boxes are enough. The result is cached for as long as the process runs.

    Args:
        examples: training splits, in one layout.
        expand: side of the crop relative to the box's longer side.

    Returns:
        float32 [K, 2] in u.

    Raises:
        InputError: invalid landmarks (see `Examples`), or unlabelled ones only.
    """
    key = (tuple(map(_content, examples)), expand)
    if key not in _mean_shapes:
        _mean_shapes[key] = _mean_shape(examples, expand)
    return _mean_shapes[key].copy()


_mean_shapes: dict[tuple, np.ndarray] = {}


def _content(examples: Examples) -> tuple:
    """What decides the labels of examples. Layouts are compared by content, as users' layouts may share a name."""
    layouts = examples.source_layout, examples.layout
    facts = [(one.name, one.count, tuple(one.groups.items()), tuple(one.flip.tolist())) for one in layouts]
    return examples.name, examples.fingerprint(), *facts


def _mean_shape(examples: Sequence[Examples], expand: float) -> np.ndarray:
    total, count = 0.0, 0
    for one in examples:
        labels = [one.labels(i) for i in range(len(one))]
        points, known, boxes = (np.stack([label[name] for label in labels]) for name in ("landmarks", "known", "box"))
        u = augment.to_crop(points.astype(np.float64), boxes, expand)
        total = total + np.where(known[..., None], u, 0.0).sum(0)
        count = count + known.sum(0)[:, None]
    if not np.any(count):
        names = " and ".join(one.name for one in examples)
        raise InputError(f"None of the landmarks in {names} is known; train on examples with labels.")
    mean = total / np.maximum(count, 1)
    return np.where(count > 0, mean, mean[count[:, 0] > 0].mean(0)).astype(np.float32)


def _augmented(
    example: dict[str, np.ndarray], rng: np.random.Generator, *, crop: augment.Crop, augmentation: augment.Augmentation
) -> dict[str, np.ndarray]:
    # RGB is changed last, so that a stage that reads only thermal images sees them exactly as one that reads both.
    example = augment.crop(example, crop, rng=rng, augmentation=augmentation, floats=False)
    if augmentation.occlusion:
        example = augment.occlude(example, rng, p=augmentation.occlusion)
    if augmentation.photometric and "thermal" in example:
        example["thermal"] = photometric.thermal(example["thermal"], rng, strength=augmentation.photometric)
    if augmentation.photometric and "rgb" in example:
        example["rgb"] = photometric.rgb(example["rgb"], rng, strength=augmentation.photometric)
    return example | {"mask": np.asarray(True)}


def _read_options(threads: int = 0) -> grain.ReadOptions:
    threads = threads or min(16, max(2, cores.available()))
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)


def _drawn(sources: Sequence[Sequence], order: Order) -> grain.MapDataset:
    """An endless dataset of the sources' items, in the order of training."""
    # All have the same seed, so that a dataset's own order does not depend on what it is mixed with.
    # Indices are mapped to items, because grain would measure the size of every item of a `source`.
    items = [grain.MapDataset.range(len(one)).map(one.__getitem__) for one in sources]
    parts = [one.seed(order.seed).shuffle().repeat() for one in items]
    if len(parts) == 1:
        return parts[0]
    shares = np.asarray(order.weights or [len(one) for one in sources], np.float64)
    if len(shares) != len(parts) or not (np.isfinite(shares).all() and (shares > 0).all()):
        raise InputError(
            f"config.dataset_weights={tuple(order.weights)} must be {len(parts)} positive numbers, one per dataset."
        )
    return grain.MapDataset.mix(parts, list(shares / shares.sum())).seed(order.seed)
