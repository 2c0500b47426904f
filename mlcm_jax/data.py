"""From a data set on disk to batches: builder -> examples -> batch(step), a pure function of seed, step and host.

Training order, crops and augmentations come from grain's index and seed alone, so a run resumes at any step, and hosts
that each take `host::hosts` of it see together the batches that one host would see.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import grain
import numpy as np
import tensorflow_datasets as tfds

import tfds_builders
from mlcm_jax import augment, landmarks
from mlcm_jax.errors import InputError

MODALITIES = ("rgb", "thermal")
_FIELDS = (*MODALITIES, "landmarks", "visible", "box")
# Examples are kept decoded while they fit in this many bytes: a small set is read thousands of times.
_CACHE_BYTES = 2 << 30


class Examples(Sequence):
    """Random access to the examples of a split, as `augment.crop` takes them.

    Every item is a dict: `rgb` uint8 [H, W, 3] and `thermal` uint8 [H, W, 1] (those that the data set has), `landmarks`
    float32 [K, 2] in pixels, in `layout`, `visible` bool [K], `box` float32 [4]. Landmarks are checked here, once.
    """

    def __init__(self, builder: Any, split: str, layout: str):
        self._split, self._name = split, f"{builder.info.full_name} {split}"
        self._source_layout, self._layout = builder.LAYOUT, layout
        features = builder.info.features
        self.modalities = tuple(m for m in MODALITIES if m in features)
        pictures = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
        skip = tfds.decode.SkipDecoding()
        unused = {name: skip for name in pictures if name not in MODALITIES}
        self._source = builder.as_data_source(split=split, decoders=unused)
        self._facts = builder.as_data_source(split=split, decoders=dict.fromkeys(pictures, skip))
        self._cache: dict[int, dict] = {}
        self._cached_bytes = 0
        landmarks.get(layout)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if index in self._cache:
            return dict(self._cache[index])
        example = self._read(index)
        if self._cached_bytes < _CACHE_BYTES:
            self._cache[index] = example
            self._cached_bytes += sum(value.nbytes for value in example.values())
        return dict(example)

    def metadata(self, index: int) -> dict[str, np.ndarray]:
        """What else the set knows of an example (`subject`, `pose`, `light`, …), without its pictures."""
        return {k: v for k, v in self._facts[index].items() if k not in _FIELDS and not isinstance(v, bytes)}

    def _read(self, index: int) -> dict[str, np.ndarray]:
        raw = self._source[index]
        example = {key: np.asarray(raw[key]) for key in _FIELDS if key in raw}
        try:
            points = landmarks.check(example["landmarks"], self._source_layout)
            if self._source_layout != self._layout:
                # Flags take the same road as the points: a point made of several is visible when most of them are.
                flags = np.repeat(example["visible"][:, None].astype(np.float32), 2, axis=1)
                points = landmarks.convert(points, self._source_layout, self._layout)
                example["visible"] = landmarks.convert(flags, self._source_layout, self._layout)[:, 0] > 0.5
        except InputError as error:
            raise InputError(f"Example {index} of {self._name}: {error}") from error
        example["landmarks"] = np.asarray(points, np.float32)
        return example


def open_examples(name: str, split: str, *, data_dir: str, layout: str) -> Examples:
    """The examples of a data set that is built, or built now.

    Raises:
      InputError: unknown data set, split or layout, or a split without examples.
    """
    builder = tfds_builders.build(name, data_dir)
    if split not in builder.info.splits:
        raise InputError(f"{name} has no split {split!r}; it has {', '.join(sorted(builder.info.splits))}.")
    examples = Examples(builder, split, layout)
    if not len(examples):
        raise InputError(f"The split {split} of {name} is empty; delete {builder.data_dir} and build it again.")
    return examples


def require(examples: Examples, modalities: Sequence[str], purpose: str) -> None:
    """Raises InputError when the data set lacks a modality."""
    missing = [m for m in modalities if m not in examples.modalities]
    if missing:
        raise InputError(
            f"{purpose} needs {' and '.join(modalities)} pictures, and the data set has no {missing[0]} ones."
        )


def _finish(example: dict[str, np.ndarray], real: bool = True) -> dict[str, np.ndarray]:
    return example | {"mask": np.asarray(real)}


def _augmented(example: dict, rng: np.random.Generator, *, size: int, layout: str, options: dict) -> dict:
    options = dict(options)
    occlusion, photometric = options.pop("occlusion"), options.pop("photometric")
    # RGB is drawn last: a stage that reads thermal pictures alone sees them exactly as one that reads both.
    example = augment.crop(example, size=size, rng=rng, layout=layout, **options)
    if occlusion:
        example = augment.occlude(example, rng, p=occlusion)
    if photometric and "thermal" in example:
        example["thermal"] = augment.photometric_thermal(example["thermal"], rng, strength=photometric)
    if photometric and "rgb" in example:
        example["rgb"] = augment.photometric_rgb(example["rgb"], rng, strength=photometric)
    return _finish(example)


def _select(example: dict, modalities: Sequence[str]) -> dict:
    return {key: value for key, value in example.items() if key not in MODALITIES or key in modalities}


def train_batches(
    examples: Examples,
    *,
    batch_size: int,
    size: int,
    layout: str,
    augmentation: dict[str, Any],
    modalities: Sequence[str],
    seed: int,
    host: int = 0,
    hosts: int = 1,
) -> grain.MapDataset:
    """Batches for ever: `dataset[step]` is this host's part of the global batch of that step (contract: house.md).

    Args:
      examples: see `open_examples`.
      batch_size: of the global batch; a multiple of `hosts`.
      size: side of the square crop in pixels.
      layout: of the landmarks, for mirroring.
      augmentation: keyword arguments of `augment.crop`, and `photometric` (strength) and `occlusion` (probability).
      modalities: which pictures to prepare; the others are left out.
      seed: order and augmentation.
      host, hosts: this process and how many there are.
    """
    cv2.setNumThreads(1)  # the pictures are small; threads of OpenCV would only fight with XLA's
    dataset = grain.MapDataset.source(examples).seed(seed).shuffle().repeat()
    dataset = dataset.map(functools.partial(_select, modalities=modalities))
    dataset = dataset.random_map(functools.partial(_augmented, size=size, layout=layout, options=dict(augmentation)))
    return dataset[host::hosts].batch(batch_size // hosts)


def iterate(dataset: grain.MapDataset, start: int, *, threads: int = 2) -> Iterator[dict[str, np.ndarray]]:
    """The batches from step `start` on, prepared ahead by threads (grain's processes need an absl app, grain #1355)."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset[start:].to_iter_dataset(options))


def eval_batches(
    examples: Examples, *, batch_size: int, size: int, expand: float, layout: str
) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order, unaugmented; the last batch is padded, `mask` False, to `batch_size`."""
    for start in range(0, len(examples), batch_size):
        indices = range(start, start + batch_size)
        items = [
            _finish(
                augment.crop(examples[min(i, len(examples) - 1)], size=size, expand=expand, layout=layout),
                i < len(examples),
            )
            for i in indices
        ]
        yield {key: np.stack([item[key] for item in items]) for key in items[0]}


def mean_shape(examples: Examples, *, size: int, expand: float, layout: str) -> np.ndarray:
    """Mean landmarks [K, 2] in u over unaugmented crops: the baseline, and where coordinate heads start."""
    total, count = 0.0, 0
    for batch in eval_batches(examples, batch_size=256, size=size, expand=expand, layout=layout):
        total = total + batch["landmarks"][batch["mask"]].sum(0, dtype=np.float64)
        count += int(batch["mask"].sum())
    return (total / count).astype(np.float32)
