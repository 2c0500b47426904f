"""Datasets in memory that stand in for TFDS builders whose records are on disk."""

import hashlib
import types

import cv2
import numpy as np
import tensorflow_datasets as tfds

_FACE = np.array([[2, 2], [6, 2], [4, 4], [3, 6], [5, 6]], np.float32)  # tfw5


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def face(**changes):
    """Returns an example in tfw5 with a thermal image of 9 x 9 pixels, as a builder stores it; None removes a field."""
    example = {
        "thermal": png(np.zeros((9, 9), np.uint8)),
        "landmarks": _FACE,
        "visible": np.ones(5, bool),
        "box": np.array([0, 0, 9, 9], np.float32),
    }
    return {name: value for name, value in (example | changes).items() if value is not None}


class MadeBuilder:
    """A built dataset. Its splits are lists of examples as `face` makes them, all with the same fields."""

    def __init__(self, splits, *, layout="tfw5", name="made/1.0.0", unions=None, subsets=None):
        self.LAYOUT, self.UNIONS, self.SUBSETS = layout, unions or {}, subsets or {}
        self._splits = {split: list(examples) for split, examples in splits.items()}
        first = next(iter(self._splits.values()))[0]
        digests = {
            split: hashlib.sha256(
                repr([sorted((k, np.asarray(v).tobytes()) for k, v in e.items()) for e in examples]).encode()
            )
            for split, examples in self._splits.items()
        }
        self.info = types.SimpleNamespace(
            full_name=name,
            features={field: self._feature(field, value) for field, value in first.items()},
            splits={
                split: types.SimpleNamespace(num_examples=len(examples), num_bytes=0)
                for split, examples in self._splits.items()
            },
            metadata={"splits": {split: {"sha256": digest.hexdigest()} for split, digest in digests.items()}},
        )

    @staticmethod
    def _feature(field, value):
        if isinstance(value, bytes):
            return tfds.features.Image(shape=(None, None, 3 if field == "rgb" else 1))
        return tfds.features.Tensor(shape=np.shape(value), dtype=np.asarray(value).dtype)

    def as_data_source(self, split, decoders):
        return self._splits[split]
