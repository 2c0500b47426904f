"""From examples to batches: batch(step) is a pure function of seed, step and host.

Order, crops and augmentation come from grain's index and seed alone, so a run resumes at any step, and hosts that each
prepare some rows of every batch see together the batches that one host would see.

A batch is a dict of arrays: `rgb` [B, S, S, 3] and `thermal` [B, S, S, 1] (the modalities asked for), uint8 until they
are on the devices while training and float32 in [0, 1] while scoring, `landmarks` float32 [B, K, 2] in u, `visible` and
`known` bool [B, K], `weight` float32 [B, K], `box` float32 [B, 4] and `to_image` float32 [B, 2, 3] (crop to original
pixels), and `mask` bool [B], False where an example only pads the last batch.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import grain
import numpy as np

from mlcm_jax import landmarks
from mlcm_jax.data import augment, photometric
from mlcm_jax.data.examples import MODALITIES, Examples
from mlcm_jax.errors import InputError
from mlcm_jax.synthetic.workers import available_cores


@dataclasses.dataclass(frozen=True)
class Crop:
    """The crop that a network sees: its side in pixels, its side over the box's longer one, and the layout in it."""

    size: int
    expand: float
    layout: landmarks.Layout


@dataclasses.dataclass(frozen=True)
class Order:
    """What decides which examples make up a batch.

    Attributes:
        batch_size: of the global batch.
        seed: of the order, and of the augmentation.
        weights: how often each dataset is drawn from, in any unit; () goes by their sizes.
    """

    batch_size: int
    seed: int
    weights: tuple[float, ...] = ()


def train_batches(
    examples: Sequence[Examples],
    crop: Crop,
    order: Order,
    *,
    augmentation: augment.Augmentation,
    modalities: Sequence[str],
    rows: np.ndarray | None = None,
) -> grain.MapDataset:
    """Batches for ever: `dataset[step]` is this host's part of the global batch, with images of 8 bits still.

    `sharding.put_batch` makes floats of them on the devices: a fourth of the bytes to keep and to send.

    Args:
        examples: of one dataset or of several, see `open_sets`.
        crop: what a network sees.
        order: which examples.
        augmentation: random changes.
        modalities: which images to prepare; the others are left out.
        rows: of the global batch that this process prepares, int (`sharding.batch_rows`); None: all.
    """
    dataset = _drawn(examples, order).map(functools.partial(_select, modalities=modalities))
    dataset = dataset.random_map(functools.partial(_augmented, crop=crop, augmentation=augmentation))
    if rows is None:
        return dataset.batch(order.batch_size)
    return grain.MapDataset.source(_Rows(dataset, rows, order.batch_size)).batch(len(rows))


def members(examples: Sequence[Examples], order: Order, step: int) -> list[dict[str, Any]]:
    """Which examples make up `train_batches(…)[step]`: dataset, index and what else the dataset knows of each."""
    places = _drawn([[(one, i) for i in range(len(one))] for one in examples], order)
    drawn = (places[step * order.batch_size + row] for row in range(order.batch_size))
    return [one.metadata(i) | {"dataset": one.name, "index": i} for one, i in drawn]


@contextlib.contextmanager
def iterate(dataset: grain.MapDataset, start: int, *, threads: int = 0) -> Iterator[Iterator[dict[str, np.ndarray]]]:
    """The batches from step `start` on, prepared ahead by threads (grain's processes need an absl app, grain #1355).

    OpenCV uses one thread meanwhile: crops are small, and its own threads would only fight with XLA's.

    Args:
        dataset: see `train_batches`.
        start: the first step, from 0.
        threads: how many; 0: one for each core, at least 2 and at most 16.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield iter(dataset[start:].to_iter_dataset(_read_options(threads)))
    finally:
        cv2.setNumThreads(before)


def eval_batches(
    examples: Examples, crop: Crop, *, batch_size: int, rows: np.ndarray | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order and not augmented; the last batch is padded, with `mask` False, to `batch_size`.

    Args:
        examples: of one split.
        crop: what a network sees; its layout is that of the examples.
        batch_size: of every batch.
        rows: of every batch that this process prepares; None: all.

    Returns:
        Batches, with `index` int64 [B], the place in the split.
    """
    rows = np.arange(batch_size) if rows is None else rows
    places = [start + row for start in range(0, len(examples), batch_size) for row in rows.tolist()]

    def item(index: int) -> dict[str, np.ndarray]:
        example = examples[min(index, len(examples) - 1)]
        cropped = augment.crop(example, size=crop.size, expand=crop.expand, layout=crop.layout)
        return cropped | {"mask": np.asarray(index < len(examples)), "index": np.asarray(index)}

    return iter(grain.MapDataset.source(places).map(item).batch(len(rows)).to_iter_dataset(_read_options()))


def mean_shape(examples: Sequence[Examples], *, expand: float) -> np.ndarray:
    """Mean landmarks over the crops of all datasets: the baseline, and where coordinate heads start.

    Points that nobody marked do not count; one that is known nowhere takes the mean of the others. Crops need no images
    here: landmarks and boxes say where a point lies. The result is kept for as long as the process runs.

    Args:
        examples: training splits, in one layout.
        expand: side of the crop over the box's longer side.

    Returns:
        float32 [K, 2] in u.

    Raises:
        InputError: landmarks that cannot be used (see `Examples`), or none that is known.
    """
    key = (tuple(map(_content, examples)), expand)
    if key not in _mean_shapes:
        _mean_shapes[key] = _mean_shape(examples, expand)
    return _mean_shapes[key].copy()


_mean_shapes: dict[tuple, np.ndarray] = {}


def _content(examples: Examples) -> tuple:
    """What decides the labels of examples. Layouts count by content, because users' layouts may share a name."""
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
    example: dict[str, np.ndarray], rng: np.random.Generator, *, crop: Crop, augmentation: augment.Augmentation
) -> dict[str, np.ndarray]:
    # RGB is drawn last: a stage that reads thermal images alone sees them exactly as one that reads both.
    options = {"size": crop.size, "expand": crop.expand, "layout": crop.layout}
    example = augment.crop(example, rng=rng, augmentation=augmentation, floats=False, **options)
    if augmentation.occlusion:
        example = augment.occlude(example, rng, p=augmentation.occlusion)
    if augmentation.photometric and "thermal" in example:
        example["thermal"] = photometric.thermal(example["thermal"], rng, strength=augmentation.photometric)
    if augmentation.photometric and "rgb" in example:
        example["rgb"] = photometric.rgb(example["rgb"], rng, strength=augmentation.photometric)
    return example | {"mask": np.asarray(True)}


def _read_options(threads: int = 0) -> grain.ReadOptions:
    threads = threads or min(16, max(2, available_cores()))
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)


def _select(example: dict[str, np.ndarray], modalities: Sequence[str]) -> dict[str, np.ndarray]:
    return {key: value for key, value in example.items() if key not in MODALITIES or key in modalities}


def _drawn(sources: Sequence[Sequence], order: Order) -> grain.MapDataset:
    """Items of the sources for ever, in the order of training."""
    # One seed for all: a dataset's own order does not depend on what it is mixed with.
    parts = [grain.MapDataset.source(one).seed(order.seed).shuffle().repeat() for one in sources]
    if len(parts) == 1:
        return parts[0]
    shares = np.asarray(order.weights or [len(one) for one in sources], np.float64)
    if len(shares) != len(parts) or not (np.isfinite(shares).all() and (shares > 0).all()):
        raise InputError(
            f"config.dataset_weights={tuple(order.weights)} must be {len(parts)} positive numbers, one a dataset."
        )
    return grain.MapDataset.mix(parts, list(shares / shares.sum())).seed(order.seed)


class _Rows(Sequence):
    """Some rows of every batch, batch after batch, of a dataset without end."""

    def __init__(self, dataset: grain.MapDataset, rows: np.ndarray, batch_size: int) -> None:
        self._dataset, self._rows, self._batch_size = dataset, rows, batch_size

    def __len__(self) -> int:
        return len(self._dataset) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        step, row = divmod(index, len(self._rows))
        return self._dataset[step * self._batch_size + int(self._rows[row])]
