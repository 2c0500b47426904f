"""From a data set on disk to batches: builder -> examples -> batch(step), a pure function of seed, step and host.

Training order, crops and augmentations come from grain's index and seed alone, so a run resumes at any step, and hosts
that each prepare some rows of every batch see together the batches that one host would see.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import grain
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

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
    float32 [K, 2] in pixels, in `layout`, `visible` bool [K], `weight` float32 [K] in [0, 1] (the labels' confidence,
    where the set has one, else 1), `box` float32 [4]. Landmarks are checked here, once.

    Args:
      builder: a data set whose records are on disk.
      split: one of its splits, or of its `UNIONS` (several together) or `SUBSETS` (where a feature is true).
      layout: of the landmarks that come out.
      thermal_range: (low, high) in °C that become 0 and 255, where the set keeps temperatures; () takes its gray
        pictures, which were stretched one by one.
      labelled: False lets examples without landmarks (NaN) pass, which is for labelling them.
    """

    def __init__(self, builder: Any, split: str, layout: str, *, thermal_range: Sequence[float] = (), labelled=True):
        self.name = f"{builder.info.full_name} {split}"
        self.source_layout, self.layout = landmarks.get(builder.LAYOUT), landmarks.get(layout)
        self._range, self._labelled = tuple(thermal_range), labelled
        features = builder.info.features
        self.modalities = tuple(m for m in MODALITIES if m in features)
        self._pictures = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
        self._texts = [name for name, feature in features.items() if isinstance(feature, tfds.features.Text)]
        if "thermal" not in features:
            self._range = ()
        if self._range and "celsius" not in features:
            raise InputError(
                f"{builder.info.full_name} keeps no temperatures, so config.thermal_range does not apply to it; leave "
                "it empty."
            )
        needed = [name for name in ("landmarks", "visible", "box", "confidence") if name in features]
        self._arrays = {name: (features[name].np_dtype, features[name].shape) for name in needed if features[name]}
        # Pictures are decoded here: TFDS would hand out colour as a reversed view, which OpenCV copies at every use.
        decoders = dict.fromkeys(self._pictures, tfds.decode.SkipDecoding())
        parent, flag = getattr(builder, "SUBSETS", {}).get(split, (split, None))
        union = getattr(builder, "UNIONS", {}).get(parent, (parent,))
        self._parts = [builder.as_data_source(split=part, decoders=decoders) for part in union]
        self._places = [(k, i) for k, part in enumerate(self._parts) for i in range(len(part))]
        if flag:
            self._places = [(k, i) for k, i in self._places if self._parts[k][i][flag]]
        self._cache: dict[int, dict] = {}
        self._cached_bytes = 0
        self._builder, self._union = builder, union

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if index in self._cache:
            return dict(self._cache[index])
        example = self._read(index)
        if self._cached_bytes < _CACHE_BYTES:
            self._cache[index] = example
            self._cached_bytes += sum(value.nbytes for value in example.values())
        return dict(example)

    def fingerprint(self) -> str:
        """A digest of what the builder noted of these examples when it wrote them: their checksum, number and size."""
        noted = dict(self._builder.info.metadata or {}).get("splits", {})
        splits = self._builder.info.splits
        facts = [(noted.get(s, {}).get("sha256"), splits[s].num_examples, splits[s].num_bytes) for s in self._union]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def metadata(self, index: int) -> dict[str, Any]:
        """What else the set knows of an example (`subject`, `pose`, `light`, …), without its pictures."""
        part, place = self._places[index]
        facts = self._parts[part][place].items()
        return {k: v.decode() if k in self._texts else v for k, v in facts if k not in (*_FIELDS, *self._pictures)}

    def _fields(self, index: int) -> dict[str, Any]:
        """What training needs of a record. TFDS's own parser would take five times as long for it, and reads all."""
        part, place = self._places[index]
        if not hasattr(self._parts[part], "data_source"):  # no file of TFDS, but examples that are parsed already
            return dict(self._parts[part][place])
        stored = tf_example_pb2.Example.FromString(self._parts[part].data_source[place]).features.feature
        fields = {name: stored[name].bytes_list.value[0] for name in self._pictures}
        for name, (dtype, shape) in self._arrays.items():
            values = getattr(stored[name], stored[name].WhichOneof("kind")).value
            fields[name] = np.array(values, dtype).reshape(shape)
        return fields

    def _read(self, index: int) -> dict[str, np.ndarray]:
        raw = self._fields(index)
        if "rgb" in raw:
            raw["rgb"] = _decode(raw["rgb"], cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if self._range:
            raw["thermal"] = fixed_range(_decode(raw["celsius"]), *self._range)[..., None]
        elif "thermal" in raw:
            raw["thermal"] = _decode(raw["thermal"])[..., None]
        example = {key: np.asarray(raw[key]) for key in _FIELDS if key in raw}
        count = self.source_layout.count
        example["weight"] = np.asarray(raw.get("confidence", np.ones(count, np.float32)), np.float32)
        if not self._labelled and np.isnan(example["landmarks"]).all():
            empty = np.full((self.layout.count, 2), np.nan, np.float32)
            nothing = np.zeros(self.layout.count, np.float32)
            return example | {"landmarks": empty, "visible": nothing > 0, "weight": nothing}
        try:
            points = landmarks.check(example["landmarks"], self.source_layout)
            if not landmarks.same(self.source_layout, self.layout):
                # Flags take the same road as the points: a point made of several is visible when most of them are.
                flags = np.stack([example["visible"].astype(np.float32), example["weight"]], axis=1)
                points = landmarks.convert(points, self.source_layout, self.layout)
                flags = landmarks.convert(flags, self.source_layout, self.layout)
                # A mean of points of which one is a placeholder is a placeholder itself.
                lost = np.repeat((example["weight"] == 0)[:, None].astype(np.float32), 2, axis=1)
                lost = landmarks.convert(lost, self.source_layout, self.layout)[:, 0] > 0
                example |= {"visible": flags[:, 0] > 0.5, "weight": np.where(lost, 0.0, flags[:, 1]).astype(np.float32)}
        except InputError as error:
            raise InputError(f"Example {index} of {self.name}: {error}") from error
        example["landmarks"] = np.asarray(points, np.float32)
        return example


def _decode(picture: bytes, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(picture, np.uint8), flags)


def fixed_range(celsius: np.ndarray, low: float, high: float) -> np.ndarray:
    """Temperatures as the builders store them (uint16, °C = raw / 100 - 273.15) to uint8: low is 0, high is 255."""
    if not low < high:
        raise InputError(f"config.thermal_range=({low:g}, {high:g}) must rise, such as (20, 40).")
    degrees = celsius.astype(np.float32) / 100.0 - 273.15
    return (np.clip((degrees - low) / (high - low), 0.0, 1.0) * 255.0).round().astype(np.uint8)


def splits_of(builder: Any) -> list[str]:
    """Names of the splits of a data set, with those made of others."""
    stored = builder.info.splits
    unions = [name for name, parts in getattr(builder, "UNIONS", {}).items() if all(p in stored for p in parts)]
    subsets = [name for name, (parent, _) in getattr(builder, "SUBSETS", {}).items() if parent in stored]
    return [*sorted(stored), *unions, *subsets]


def open_examples(name: str, split: str, *, data_dir: str, layout: str, **options: Any) -> Examples:
    """The examples of a data set that is built, or built now; `options` as of `Examples`.

    Raises:
      InputError: unknown data set, split or layout, or a split without examples.
    """
    layout = landmarks.get(layout)
    builder = tfds_builders.build(name, data_dir)
    if split not in splits_of(builder):
        raise InputError(f"{name} has no split {split!r}; it has {', '.join(splits_of(builder))}.")
    examples = Examples(builder, split, layout, **options)
    if not len(examples):
        raise InputError(f"The split {split} of {name} is empty; delete {builder.data_dir} and build it again.")
    return examples


def open_sets(names: str | Sequence[str], split: str, *, data_dir: str, layout: str, **options: Any) -> list[Examples]:
    """`open_examples` of one data set or of each of several."""
    names = [names] if isinstance(names, str) else list(names)
    return [open_examples(name, split, data_dir=data_dir, layout=layout, **options) for name in names]


def require(examples: Sequence[Examples], modalities: Sequence[str], purpose: str) -> None:
    """Raises InputError when one of the data sets lacks a modality."""
    for one in examples:
        missing = [m for m in modalities if m not in one.modalities]
        if missing:
            raise InputError(
                f"{purpose} needs {' and '.join(modalities)} pictures, and {one.name} has no {missing[0]} ones."
            )


def _finish(example: dict[str, np.ndarray], real: bool = True) -> dict[str, np.ndarray]:
    return example | {"mask": np.asarray(real)}


def _augmented(example: dict, rng: np.random.Generator, *, size: int, layout: str, options: dict) -> dict:
    options = dict(options)
    occlusion, photometric = options.pop("occlusion"), options.pop("photometric")
    # RGB is drawn last: a stage that reads thermal pictures alone sees them exactly as one that reads both.
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
            f"config.dataset_weights={tuple(weights)} must be {len(parts)} positive numbers, one for each data set."
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
    """Batches for ever: `dataset[step]` is this host's part of the global batch, pictures of 8 bits still.

    `sharding.put_batch` makes floats of them on the devices: a fourth of the bytes to keep and to send.

    Args:
      examples: of one data set or of several, see `open_sets`.
      batch_size: of the global batch.
      size: side of the square crop in pixels.
      layout: of the landmarks, for mirroring.
      augmentation: keyword arguments of `augment.crop`, and `photometric` (strength) and `occlusion` (probability).
      modalities: which pictures to prepare; the others are left out.
      seed: order and augmentation.
      weights: how often each data set is drawn from, in any unit; () follows their sizes.
      rows: of the global batch that this process prepares, int (`sharding.batch_rows`); None: all.
    """
    cv2.setNumThreads(1)  # the pictures are small; threads of OpenCV would only fight with XLA's
    dataset = _drawn(examples, weights, seed).map(functools.partial(_select, modalities=modalities))
    dataset = dataset.random_map(functools.partial(_augmented, size=size, layout=layout, options=dict(augmentation)))
    if rows is None:
        return dataset.batch(batch_size)
    return grain.MapDataset.source(_Rows(dataset, rows, batch_size)).batch(len(rows))


def members(
    examples: Sequence[Examples], step: int, *, batch_size: int, seed: int, weights: Sequence[float] = ()
) -> list[dict[str, Any]]:
    """Which examples make up `train_batches(…)[step]`: data set, index and what else the set knows of each."""
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
