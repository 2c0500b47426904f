"""TFDS builder of `synthetic_faces`: RGB and thermal images of rendered heads with exact landmarks."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from mlcm_jax.synthetic import generate
from tfds_builders import prepare
from tfds_builders.base import tensor
from tfds_builders.rendered import Family, Rendered, RenderedConfig

CONFIGS = (
    RenderedConfig(
        name="tiny", description="1,200 pairs of 64 to 96 pixels: the first command", count=1200, size=(64, 96)
    ),
    RenderedConfig(name="base", description="20,000 pairs of 256 pixels: for a GPU", count=20_000, size=(256, 256)),
)


class SyntheticFaces(Rendered):
    """Rendered heads seen by an RGB and a thermal camera, with exact iBUG-68 landmarks."""

    LAYOUT = "ibug68"
    CAMERA_GRAY = True  # `thermal` is what the simulated camera shows, not `celsius` stretched
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar = list(CONFIGS)
    FAMILY: ClassVar = Family("synthetic_faces", "pair", (generate.MIN_SIDE, generate.MAX_SIDE), CONFIGS)
    WHAT: ClassVar = "generate"
    PER_SPLIT_UNIT: ClassVar = generate.PAIRS_PER_SUBJECT

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        points = "pixels (x, y) of the {} image, pixel centres at integers"
        return self.dataset_info_from_configs(
            description="Rendered heads seen by an RGB and a thermal camera, with exact iBUG-68 landmarks.",
            license="Apache-2.0",
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=False,
            features=features.FeaturesDict(
                {
                    "rgb": features.Image(shape=(None, None, 3), encoding_format="jpeg", doc="colour image"),
                    "thermal": features.Image(shape=(None, None, 1), encoding_format="png", doc="8 bits, hot = bright"),
                    "celsius": features.Image(
                        shape=(None, None, 1),
                        dtype=np.uint16,
                        encoding_format="png",
                        doc="apparent temperature; °C = raw / 100 - 273.15",
                    ),
                    "landmarks": tensor(
                        (68, 2), np.float32, "iBUG 68, jaw on the outline; " + points.format("thermal")
                    ),
                    "rgb_landmarks": tensor((68, 2), np.float32, "the same points; " + points.format("RGB")),
                    "jaw3d": tensor((17, 2), np.float32, "the jaw fixed on the head; " + points.format("thermal")),
                    "visible": tensor(
                        (68,), np.bool_, "not hidden by the head or anything opaque (glasses do not count)"
                    ),
                    "box": tensor((4,), np.float32, "x, y, w, h around `landmarks`, with the margins of SF-TL54"),
                    "subject": tensor((), np.int64, "number of the person"),
                    "pose": tensor((3,), np.float32, "yaw, pitch, roll in degrees"),
                    "light": tensor((), np.float32, "visible light: 0 nearly dark, 1 bright"),
                    "index": tensor((), np.int64, "number of the pair: generate.example(seed, index) renders it again"),
                }
            ),
        )

    def _generate_examples(
        self, stream: Iterator[dict[str, Any]], split: str, count: int, tally: prepare.Tally
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for pair in itertools.islice(stream, count):
            facts = {"size": Image.open(io.BytesIO(pair["thermal"])).size, "plausible": True}
            digest = hashlib.sha1(pair["thermal"]).hexdigest()
            tally.add(split, pair | {"key": pair["index"], "_facts": facts | {"digests": [digest]}})
            images = {
                key: io.BytesIO(pair[key]) for key in ("rgb", "thermal", "celsius")
            }  # TFDS encodes arrays with TensorFlow; it stores files as they are
            yield pair["index"], pair | images
            self.advance()
        self.info.metadata["splits"] = tally.summary()
