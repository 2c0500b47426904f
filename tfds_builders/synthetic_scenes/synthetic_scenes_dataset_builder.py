"""TFDS builder of `synthetic_scenes`: thermal images of rendered scenes with the boxes of all faces."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from mlcm_jax import detection
from mlcm_jax.synthetic import crowd
from tfds_builders import prepare
from tfds_builders.base import tensor
from tfds_builders.rendered import Family, Rendered, RenderedConfig

CONFIGS = (
    RenderedConfig(
        name="tiny", description="600 scenes of 96 to 160 pixels: to try the detector", count=600, size=(96, 160)
    ),
)
# The share of a face that is seen: with the smaller one it is no face, and with the larger one it counts in full.
_HIDDEN, _SEEN = 0.2, 0.6


class SyntheticScenes(Rendered):
    """Rendered thermal scenes with up to six faces, as boxes in the layout `detection.LAYOUT`."""

    LAYOUT = detection.LAYOUT
    CAMERA_GRAY = True
    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "First version.",
        "1.1.0": "Boxes of a third of the scenes moved by half a pixel.",
        "1.2.0": "Thick beards, wide necklines, and caps that hide the brows.",
    }
    BUILDER_CONFIGS: ClassVar = list(CONFIGS)
    FAMILY: ClassVar = Family("synthetic_scenes", "scene", (crowd.MIN_SIDE, crowd.MAX_SIDE), CONFIGS)
    WHAT: ClassVar = "crowd"

    def _info(self) -> tfds.core.DatasetInfo:
        features, count = tfds.features, detection.LAYOUT.count
        return self.dataset_info_from_configs(
            description="Rendered thermal scenes with the boxes of all faces.",
            license="Apache-2.0",
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=False,
            features=features.FeaturesDict(
                {
                    "thermal": features.Image(shape=(None, None, 1), encoding_format="png", doc="8 bits, hot = bright"),
                    "landmarks": tensor(
                        (count, 2), np.float32, "middles of the left, right, upper and lower side of each box, pixels"
                    ),
                    "visible": tensor((count,), np.bool_, "whether more than half of the face is seen"),
                    "known": tensor((count,), np.bool_, "whether there is such a face"),
                    "confidence": tensor((count,), np.float32, "0 to 1, how much of the face is seen"),
                    "yaw": tensor((detection.FACES,), np.float32, "yaw of each face in degrees"),
                    "box": tensor((4,), np.float32, "x, y, w, h of the whole image"),
                    "index": tensor((), np.int64, "number of the scene: crowd.example(seed, index) renders it again"),
                }
            ),
        )

    def _generate_examples(
        self, stream: Iterator[dict[str, Any]], split: str, count: int, tally: prepare.Tally
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for scene in itertools.islice(stream, count):
            example = labels(scene, Image.open(io.BytesIO(scene["thermal"])).size)
            facts = {"size": example["box"][2:].astype(int).tolist(), "plausible": True}
            digest = hashlib.sha1(scene["thermal"]).hexdigest()
            tally.add(split, example | {"key": scene["index"], "_facts": facts | {"digests": [digest]}})
            yield scene["index"], example | {"thermal": io.BytesIO(scene["thermal"])}
            self.advance()
        self.info.metadata["splits"] = tally.summary()


def labels(scene: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Returns the labels of a scene of `crowd.example` as the dataset stores them; `size` is its width and height."""
    seen = scene["shown"] > _HIDDEN
    boxes, shown, yaw = scene["boxes"][seen], scene["shown"][seen], scene["yaw"][seen]
    points, known = detection.points(boxes)

    def each(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, detection.FACES - len(values))).astype(np.float32)

    confidence = each(np.clip((shown - _HIDDEN) / (_SEEN - _HIDDEN), 0.0, 1.0)).repeat(4)
    return {
        "landmarks": points,
        "visible": each(shown).repeat(4) > 0.5,
        "known": known,
        "confidence": np.where(known, confidence, 0.0).astype(np.float32),
        "yaw": each(yaw),
        "box": np.array([0, 0, *size], np.float32),
        "index": scene["index"],
    }
