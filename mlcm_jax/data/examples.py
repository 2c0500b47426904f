"""From a dataset on disk to examples: records are read, decoded, and converted to the landmarks' layout asked for."""

import hashlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

import tfds_builders
from mlcm_jax import landmarks
from mlcm_jax.errors import InputError

MODALITIES = ("rgb", "thermal")
_FIELDS = (*MODALITIES, "landmarks", "visible", "box")
# Examples are kept decoded while they fit in this many bytes: a small set is read thousands of times.
_CACHE_BYTES = 2 << 30


class Examples(Sequence):
    """Random access to the examples of a split, as `augment.crop` takes them.

    Every item is a dict: `rgb` uint8 [H, W, 3] and `thermal` uint8 [H, W, 1] (those that the dataset has), `landmarks`
    float32 [K, 2] in pixels, in `layout`, `visible` bool [K], `weight` float32 [K] in [0, 1] (the labels' confidence,
    where the set has one, else 1), `box` float32 [4]. Landmarks are checked here, once.

    Args:
      builder: a dataset whose records are on disk.
      split: one of its splits, or of its `UNIONS` (several together) or `SUBSETS` (where a feature is true).
      layout: of the landmarks that come out.
      thermal_range: (low, high) in °C that become 0 and 255, where the set keeps temperatures; () takes its gray
        images, which were stretched one by one.
      labelled: False lets examples without landmarks (NaN) pass, which is for labelling them.
    """

    def __init__(self, builder: Any, split: str, layout: str, *, thermal_range: Sequence[float] = (), labelled=True):
        self.name = f"{builder.info.full_name} {split}"
        self.source_layout, self.layout = landmarks.get(builder.LAYOUT), landmarks.get(layout)
        self._range, self._labelled = tuple(thermal_range), labelled
        features = builder.info.features
        self.modalities = tuple(m for m in MODALITIES if m in features)
        self._images = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
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
        # Images are decoded here: TFDS would hand out colour as a reversed view, which OpenCV copies at every use.
        decoders = dict.fromkeys(self._images, tfds.decode.SkipDecoding())
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
        """What else the set knows of an example (`subject`, `pose`, `light`, …), without its images."""
        part, place = self._places[index]
        facts = self._parts[part][place].items()
        return {k: v.decode() if k in self._texts else v for k, v in facts if k not in (*_FIELDS, *self._images)}

    def _fields(self, index: int) -> dict[str, Any]:
        """What training needs of a record. TFDS's own parser would take five times as long for it, and reads all."""
        part, place = self._places[index]
        if not hasattr(self._parts[part], "data_source"):  # no file of TFDS, but examples that are parsed already
            return dict(self._parts[part][place])
        stored = tf_example_pb2.Example.FromString(self._parts[part].data_source[place]).features.feature
        fields = {name: stored[name].bytes_list.value[0] for name in self._images}
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


def _decode(image: bytes, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(image, np.uint8), flags)


def fixed_range(celsius: np.ndarray, low: float, high: float) -> np.ndarray:
    """Temperatures as the builders store them (uint16, °C = raw / 100 - 273.15) to uint8: low is 0, high is 255."""
    if not low < high:
        raise InputError(f"config.thermal_range=({low:g}, {high:g}) must rise, such as (20, 40).")
    degrees = celsius.astype(np.float32) / 100.0 - 273.15
    return (np.clip((degrees - low) / (high - low), 0.0, 1.0) * 255.0).round().astype(np.uint8)


def splits_of(builder: Any) -> list[str]:
    """Names of the splits of a dataset, with those made of others."""
    stored = builder.info.splits
    unions = [name for name, parts in getattr(builder, "UNIONS", {}).items() if all(p in stored for p in parts)]
    subsets = [name for name, (parent, _) in getattr(builder, "SUBSETS", {}).items() if parent in stored]
    return [*sorted(stored), *unions, *subsets]


def layout_of(name: str, data_dir: str) -> landmarks.Layout:
    """The layout of a dataset's own landmarks; it is built now if it isn't yet.

    Raises:
      InputError: see `tfds_builders.build`.
    """
    return landmarks.get(tfds_builders.build(name, data_dir).LAYOUT)


def open_examples(name: str, split: str, *, data_dir: str, layout: str, **options: Any) -> Examples:
    """The examples of a dataset that is built, or built now; `options` as of `Examples`.

    Raises:
      InputError: unknown dataset, split or layout, or a split without examples.
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
    """`open_examples` of one dataset or of each of several."""
    names = [names] if isinstance(names, str) else list(names)
    return [open_examples(name, split, data_dir=data_dir, layout=layout, **options) for name in names]


def require(examples: Sequence[Examples], modalities: Sequence[str], purpose: str) -> None:
    """Raises InputError when one of the datasets lacks a modality."""
    for one in examples:
        missing = [m for m in modalities if m not in one.modalities]
        if missing:
            raise InputError(
                f"{purpose} needs {' and '.join(modalities)} images, and {one.name} has no {missing[0]} ones."
            )
