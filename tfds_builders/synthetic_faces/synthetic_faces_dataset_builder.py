"""TFDS builder of `synthetic_faces`: RGB and thermal images of rendered heads with exact landmarks."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.synthetic import generate, scan_head, scan_model, workers
from tfds_builders import formats, prepare, resume
from tfds_builders.base import Builder, tensor
from tfds_builders.options import FILES

MIN_PAIRS, MAX_PAIRS = 16, 10_000_000
# This leaves room for two copies of a stored pair (JPEG rgb, PNG thermal, 16-bit PNG celsius), because pieces are kept
# until the dataset is complete. One copy was measured to need 2.5 bytes per pixel at 64-96 pixels and 1.7 at 256.
_BYTES_PER_PIXEL = 6.0


@dataclasses.dataclass(eq=False)
class FacesConfig(tfds.core.BuilderConfig):
    """What to render.

    Attributes:
        pairs: the number of pairs.
        size: the smallest and the largest side in pixels.
        seed: the seed of the renderer.
        scans: whether heads are scan-based; their model is read from --manual_dir.
    """

    pairs: int = 0
    size: tuple[int, int] = (0, 0)
    seed: int = 0
    scans: bool = False


CONFIGS = (
    FacesConfig(
        name="tiny", description="1,200 pairs of 64 to 96 pixels: the first command", pairs=1200, size=(64, 96)
    ),
    FacesConfig(name="base", description="20,000 pairs of 256 pixels: for a GPU", pairs=20_000, size=(256, 256)),
)


def parse_config(name: str) -> FacesConfig:
    """Returns the config called `tiny`, `base`, `6000x96` (pairs x pixels) or `6000x64-96` (sides drawn from a range).

    `scan-6000x96` and `scan-6000x64-96` are the same with scan-based heads.

    Raises:
        InputError: any other name, or numbers out of range.
    """
    for config in CONFIGS:
        if config.name == name:
            return config
    match = re.fullmatch(r"(scan-)?([0-9]{1,9})x([0-9]{1,5})(?:-([0-9]{1,5}))?", name, re.ASCII)
    if not match:
        hint = did_you_mean(
            name,
            [config.name for config in CONFIGS],
            further=", and sizes such as 6000x96, 6000x64-96 or scan-6000x96",
        )
        raise InputError(f"Unknown config {name!r} of synthetic_faces; {hint}")
    scans, pairs, low = bool(match[1]), int(match[2]), int(match[3])
    high = int(match[4] or low)
    if not MIN_PAIRS <= pairs <= MAX_PAIRS:
        asked = formats.counted(pairs, "pair", "pairs")
        raise InputError(f"synthetic_faces/{name} asks for {asked}; there can be {MIN_PAIRS} to {MAX_PAIRS:,}.")
    if not generate.MIN_SIDE <= low <= high <= generate.MAX_SIDE:
        raise InputError(
            f"synthetic_faces/{name} asks for {low} to {high} pixels; sides run from {generate.MIN_SIDE} to "
            f"{generate.MAX_SIDE}, the smaller first."
        )
    name = f"{pairs}x{low}" + (f"-{high}" if high > low else "")  # one folder for 0100x64, 100x64 and 100x64-64
    what = f"{pairs} pairs of {low} to {high} pixels" + (" with scan-based heads" if scans else "")
    return FacesConfig(name="scan-" * scans + name, description=what, pairs=pairs, size=(low, high), scans=scans)


def split_of(subject: int) -> str:
    """Returns the split of a subject, the same in every config: of 15 people, one is in val and two are in test."""
    return {0: "val", 1: "test", 2: "test"}.get(subject % 15, "train")


class SyntheticFaces(Builder):
    """Rendered heads seen by an RGB and a thermal camera, with exact iBUG-68 landmarks."""

    LAYOUT = "ibug68"
    CAMERA_GRAY = True  # `thermal` is what the simulated camera shows, not `celsius` stretched
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar = list(CONFIGS)
    OPTIONS: ClassVar = {"manual_dir": FILES["manual_dir"]}

    def __init__(self, manual_dir: str | os.PathLike | None = None, **kwargs: Any) -> None:
        self._manual_dir = manual_dir
        super().__init__(**kwargs)

    @classmethod
    def make(cls, config: str | None, data_dir: str | os.PathLike, **options: Any) -> Self:
        """See `Builder.make`; `parse_config` describes the names of configs."""
        parsed = parse_config(config or "tiny")
        if options.get("manual_dir") and not parsed.scans:
            raise InputError(f"synthetic_faces/{parsed.name} takes no --manual_dir; only its configs scan-… do.")
        return cls(options.get("manual_dir"), config=parsed, data_dir=data_dir, file_format="array_record")

    @property
    def total(self) -> int:
        """Number of pairs."""
        return self.builder_config.pairs

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

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        config = self.builder_config
        needed = config.pairs * max(config.size) ** 2 * _BYTES_PER_PIXEL
        free = shutil.disk_usage(self.data_dir).free
        if free < needed:
            raise InputError(
                f"The disk is full: synthetic_faces/{config.name} needs about {needed / 1e9:.1f} GB in "
                f"{self._data_dir_root}, where {free / 1e9:.1f} GB are free; make room, or choose another --data_dir."
            )
        rig = self._rig() if config.scans else None
        indices = {split: [] for split in ("train", "val", "test")}
        for index in range(config.pairs):
            indices[split_of(index // generate.PAIRS_PER_SUBJECT)].append(index)
        # All splits share one stream, because TFDS reads them one after the other and workers are slow to start.
        stream = self._resumed(
            [*itertools.chain(*indices.values())],
            lambda some: workers.render(config.seed, some, config.size, rig=rig),
            (self.info.full_name, config.seed, *([rig.name] if rig else [])),
        )
        tally = prepare.Tally()
        return {split: self._generate_examples(stream, split, len(mine), tally) for split, mine in indices.items()}

    def _rig(self) -> pathlib.Path:
        """Prepares the head model of --manual_dir for the workers; returns the file that they read."""
        config = self.builder_config
        if not self._manual_dir:
            raise InputError(
                f"synthetic_faces/{config.name} needs the head model of ICT-FaceKit in --manual_dir. "
                f"{scan_model.HOW_TO_GET}"
            )
        found = scan_model.source(self._manual_dir)
        stamp = [(path.name, path.stat().st_size) for path in ([found] if found.is_file() else sorted(found.iterdir()))]
        rig = self.work_folder / f"rig_{resume.fingerprint(stamp)}.npz"
        if not rig.is_file():  # an interrupted build left it
            scan_head.load(found).save(rig)
        return rig

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
