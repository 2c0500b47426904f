"""Reads the records of a dataset, decodes them, and converts their landmarks to the layout that is asked for."""

import hashlib
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

import tfds_builders
from mlcm_jax import cores, landmarks
from mlcm_jax.data import augment, image_file
from mlcm_jax.errors import InputError

MODALITIES = tuple(augment.CHANNELS)
_LABELS = ("landmarks", "visible", "known", "box", "confidence")


class _Memory:
    """The bytes that decoded examples may still take in this process; a small dataset is read thousands of times."""

    def __init__(self, size: int) -> None:
        self.free = size
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Takes `count` bytes if there is room for them, and returns whether there was."""
        with self._lock:
            fits = count <= self.free
            self.free -= count if fits else 0
            return fits

    def give_back(self, counts: list[int]) -> None:
        """Frees bytes that were taken."""
        with self._lock:
            self.free += sum(counts)


# A sixteenth, because a machine may run a process for each of eight devices.
MEMORY = _Memory(max(2 << 30, cores.memory() // 16))


class _Kept(dict[int, dict[str, np.ndarray]]):
    """Labels and decoded images by index. Its memory is given back when nothing uses it any more."""

    def __init__(self) -> None:
        super().__init__()
        self._taken: list[int] = []
        weakref.finalize(self, MEMORY.give_back, self._taken)

    def add(self, index: int, parts: dict[str, np.ndarray]) -> None:
        """Keeps parts of an example if there is room for them."""
        size = sum(value.nbytes for value in parts.values())
        if MEMORY.take(size):
            self._taken.append(size)
            self[index] = self.get(index, {}) | parts


class Examples(Sequence):
    """Random access to the examples of a split, as `augment.crop` takes them.

    Every item is a dict: `rgb` uint8 [H, W, 3] and `thermal` [H, W, 1] (those that the dataset has; uint8, or with the
    gain "box" or "scene" also uint16 or, with NaN in holes, float32, in hundredths of a kelvin), `landmarks`
    float32 [K, 2] in pixels, in `layout`, `visible` bool [K], `known` bool [K] (False: the landmark is unlabelled, and
    its coordinates are a placeholder), `weight` float32 [K] in [0, 1] (the confidence of the labels, or 1 if the
    dataset has none), `box` float32 [4] (x, y, w, h) in pixels. Landmarks are checked when they are read.
    """

    def __init__(
        self,
        builder: Any,
        split: str,
        layout: str | landmarks.Layout,
        *,
        thermal_range: Sequence[float] = (),
        gain: str = "as_is",
        labelled: bool = True,
    ) -> None:
        """Opens a split.

        Args:
            builder: a dataset whose records are on disk.
            split: one of its splits, or of its `UNIONS` (several splits) or `SUBSETS` (examples whose flag is true).
            layout: the layout to which landmarks are converted.
            thermal_range: (low, high) in °C mapped to 0 and 255, for a dataset with temperatures; () uses its gray
                images, each of which was stretched by itself.
            gain: that of the crops. "box" and "scene" read temperatures in place of gray images, unless these
                are a camera's own (`CAMERA_GRAY` of the builder): what is hot outside the face must not dim the face.
            labelled: False allows examples without landmarks (NaN), so that they can be labelled.

        Raises:
            InputError: a `thermal_range` for a dataset without temperatures.
        """
        self.name = f"{builder.info.full_name} {split}"
        self.source_layout, self.layout = landmarks.get(builder.LAYOUT), landmarks.get(layout)
        self._labelled, features = labelled, builder.info.features
        self.modalities = tuple(m for m in MODALITIES if m in features)
        self._range = tuple(thermal_range) if "thermal" in features else ()
        if self._range and "celsius" not in features:
            raise InputError(
                f"{builder.info.full_name} has no temperatures, so config.thermal_range does not apply to it; leave "
                "it empty."
            )
        own_gray = "celsius" not in features or getattr(builder, "CAMERA_GRAY", False)
        self._values = gain != "as_is" and "thermal" in features and not self._range and not own_gray
        self._images = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
        self._texts = [name for name, feature in features.items() if isinstance(feature, tfds.features.Text)]
        self._arrays = {name: (features[name].np_dtype, features[name].shape) for name in _LABELS if name in features}
        # Images are decoded here: TFDS would return colours as a reversed view, which OpenCV copies at every use.
        decoders = dict.fromkeys(self._images, tfds.decode.SkipDecoding())
        parent, flag = getattr(builder, "SUBSETS", {}).get(split, (split, None))
        self._union = getattr(builder, "UNIONS", {}).get(parent, (parent,))
        self._parts = [builder.as_data_source(split=part, decoders=decoders) for part in self._union]
        self._places = [(k, i) for k, part in enumerate(self._parts) for i in range(len(part))]
        if flag:
            self._places = [(k, i) for k, i in self._places if self._parts[k][i][flag]]
        self._builder = builder
        self._kept = _Kept()

    def __getstate__(self) -> dict[str, Any]:
        """What a process that loads examples gets: all but the decoded examples, which it keeps for itself."""
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._kept = _Kept()

    def only(self, modalities: Sequence[str]) -> "Examples":
        """The same examples without their other images, which are not decoded. What is decoded is kept for both."""
        other = object.__new__(Examples)
        vars(other).update(vars(self))
        other.modalities = tuple(name for name in self.modalities if name in modalities)
        return other

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        kept = self._kept.get(index, {})
        missing = [name for name in self.modalities if name not in kept]
        if missing or not kept:
            more = {name: value for name, value in self._read(index, missing).items() if name not in kept}
            self._kept.add(index, more)
            kept = kept | more
        return {name: value for name, value in kept.items() if name not in MODALITIES or name in self.modalities}

    def labels(self, index: int) -> dict[str, np.ndarray]:
        """The example without its images, which are not decoded."""
        return self._converted(index, self._fields(index, images=()))

    def fingerprint(self) -> str:
        """A digest of what the builder recorded about these examples: their checksum, number and size."""
        noted = dict(self._builder.info.metadata or {}).get("splits", {})
        splits = self._builder.info.splits
        facts = [(noted.get(s, {}).get("sha256"), splits[s].num_examples, splits[s].num_bytes) for s in self._union]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def metadata(self, index: int) -> dict[str, Any]:
        """The other fields of an example (`subject`, `pose`, `light`, …): no images, and no labels but `confidence`."""
        part, place = self._places[index]
        hidden = {*MODALITIES, *_LABELS, *self._images} - {"confidence"}
        facts = self._parts[part][place].items()
        return {name: value.decode() if name in self._texts else value for name, value in facts if name not in hidden}

    def _fields(self, index: int, images: Sequence[str]) -> dict[str, Any]:
        """Parses the labels and the encoded `images` of a record; TFDS's own parser takes five times as long."""
        part, place = self._places[index]
        if not hasattr(self._parts[part], "data_source"):  # not a file of TFDS, but parsed examples
            return {name: value for name, value in self._parts[part][place].items() if name in (*_LABELS, *images)}
        stored = tf_example_pb2.Example.FromString(self._parts[part].data_source[place]).features.feature
        fields = {name: stored[name].bytes_list.value[0] for name in images}
        for name, (dtype, shape) in self._arrays.items():
            values = getattr(stored[name], stored[name].WhichOneof("kind")).value
            fields[name] = np.array(values, dtype).reshape(shape)
        return fields

    def _read(self, index: int, modalities: Sequence[str]) -> dict[str, np.ndarray]:
        """The labels of an example and some of its images, decoded."""
        thermal = "celsius" if self._range or self._values else "thermal"
        raw = self._fields(index, [thermal if name == "thermal" else name for name in modalities])
        images = {}
        if "rgb" in raw:
            images["rgb"] = _decode(raw["rgb"], cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if "celsius" in raw and self._range:
            kelvin = _decode(raw["celsius"]).astype(np.float32) / 100.0
            celsius = np.where(kelvin > 0, kelvin - 273.15, np.nan)  # 0 is a hole
            images["thermal"] = image_file.fixed_range(celsius, *self._range)[..., None]
        elif "celsius" in raw:
            kelvin = _decode(raw["celsius"])[..., None]  # 0 is a hole
            images["thermal"] = kelvin if kelvin.all() else np.where(kelvin > 0, kelvin.astype(np.float32), np.nan)
        elif "thermal" in raw:
            images["thermal"] = _decode(raw["thermal"])[..., None]
        return images | self._converted(index, raw)

    def _converted(self, index: int, raw: dict[str, Any]) -> dict[str, np.ndarray]:
        """Converts the labels of a record to `layout`."""
        source, count = self.source_layout, self.source_layout.count
        weight = np.asarray(raw.get("confidence", np.ones(count)), np.float32)
        labels = {
            "landmarks": np.asarray(raw["landmarks"]),
            "visible": np.asarray(raw["visible"]),
            "known": np.asarray(raw.get("known", np.ones(count, bool))),  # synthetic faces have no such field
            "weight": weight,
            "box": np.asarray(raw["box"]),
        }
        if not self._labelled and np.isnan(labels["landmarks"]).all():
            none = np.zeros(self.layout.count, np.float32)
            points = np.full((self.layout.count, 2), np.nan, np.float32)
            return labels | {"landmarks": points, "visible": none > 0, "known": none > 0, "weight": none}
        try:
            points = landmarks.check(labels["landmarks"], source)
            if not landmarks.same(source, self.layout):
                # Flags are converted in the same way as points: a point made of several is visible if most of them
                # are, and known if all of them are.
                flags = np.stack([labels["visible"], weight], axis=1).astype(np.float32)
                visible, weight = landmarks.convert(flags, source, self.layout).T
                unknown = np.repeat(~labels["known"][:, None], 2, axis=1).astype(np.float32)
                unknown = landmarks.convert(unknown, source, self.layout)[:, 0]
                points = landmarks.convert(points, source, self.layout)
                labels |= {"visible": visible > 0.5, "known": unknown == 0, "weight": weight}
        except InputError as error:
            raise InputError(f"Example {index} of {self.name}: {error}") from error
        return labels | {"landmarks": np.asarray(points, np.float32)}


def _decode(image: bytes, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(image, np.uint8), flags)


def splits_of(builder: Any) -> list[str]:
    """Names of the splits of a dataset, including those made of others."""
    stored = builder.info.splits
    unions = [name for name, parts in getattr(builder, "UNIONS", {}).items() if all(p in stored for p in parts)]
    subsets = [name for name, (parent, _) in getattr(builder, "SUBSETS", {}).items() if parent in stored]
    return [*sorted(stored), *unions, *subsets]


def layout_of(name: str, data_dir: str) -> landmarks.Layout:
    """Returns the layout of a dataset's own landmarks, and builds the dataset if it is missing.

    Raises:
        InputError: see `tfds_builders.build`.
    """
    return landmarks.get(tfds_builders.build(name, data_dir).LAYOUT)


def open_examples(name: str, split: str, *, data_dir: str, layout: str | landmarks.Layout, **options: Any) -> Examples:
    """Opens a split of a dataset, and builds the dataset if it is missing.

    Args:
        name: the dataset's name.
        split: see `Examples`.
        data_dir: the folder of built datasets.
        layout: see `Examples`.
        **options: further arguments of `Examples`.

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


def open_sets(names: str | Sequence[str], split: str, **options: Any) -> list[Examples]:
    """Opens a split of one dataset or of each of several, see `open_examples`."""
    return [open_examples(name, split, **options) for name in ([names] if isinstance(names, str) else names)]


def require(examples: Sequence[Examples], modalities: Sequence[str], purpose: str) -> None:
    """Raises InputError if one of the datasets lacks a modality; `purpose` is the subject of the message."""
    for one in examples:
        missing = [m for m in modalities if m not in one.modalities]
        if missing:
            raise InputError(
                f"{purpose} needs {' and '.join(modalities)} images, but {one.name} has no {missing[0]} ones."
            )
