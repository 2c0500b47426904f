"""What the builders of rendered datasets share: names of configs, splits, workers, and the head model of the scans."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import tensorflow_datasets as tfds

from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.synthetic import scan_head, scan_model, workers
from tfds_builders import formats, prepare, resume
from tfds_builders.base import Builder
from tfds_builders.options import FILES

FEWEST, MOST = 16, 10_000_000
# This leaves room for two copies of a stored pair (JPEG rgb, PNG thermal, 16-bit PNG celsius), because pieces are kept
# until the dataset is complete. One copy was measured to need 2.5 bytes per pixel at 64-96 pixels and 1.7 at 256.
_BYTES_PER_PIXEL = 6.0


@dataclasses.dataclass(eq=False)
class RenderedConfig(tfds.core.BuilderConfig):
    """What to render.

    Attributes:
        count: the number of examples.
        size: the smallest and the largest side in pixels.
        seed: the seed of the renderer.
        scans: whether heads are scan-based; their model is read from --manual_dir.
    """

    count: int = 0
    size: tuple[int, int] = (0, 0)
    seed: int = 0
    scans: bool = False


@dataclasses.dataclass(frozen=True)
class Family:
    """The configs of a rendered dataset.

    Attributes:
        name: of the dataset.
        one: what an example is called, such as "pair".
        sides: the smallest and the largest side in pixels.
        configs: those with a name; the first is the default.
    """

    name: str
    one: str
    sides: tuple[int, int]
    configs: tuple[RenderedConfig, ...]


def parse_config(name: str, family: Family) -> RenderedConfig:
    """Returns the config of a name such as `tiny`, `6000x96` (examples x pixels) or `6000x64-96` (sides from a range).

    `scan-6000x96` and `scan-6000x64-96` are the same with scan-based heads.

    Raises:
        InputError: any other name, or numbers out of range.
    """
    for config in family.configs:
        if config.name == name:
            return config
    match = re.fullmatch(r"(scan-)?([0-9]{1,9})x([0-9]{1,5})(?:-([0-9]{1,5}))?", name, re.ASCII)
    if not match:
        hint = did_you_mean(
            name,
            [config.name for config in family.configs],
            further=", and sizes such as 6000x96, 6000x64-96 or scan-6000x96",
        )
        raise InputError(f"Unknown config {name!r} of {family.name}; {hint}")
    scans, count, low = bool(match[1]), int(match[2]), int(match[3])
    high = int(match[4] or low)
    if not FEWEST <= count <= MOST:
        asked = formats.counted(count, family.one, f"{family.one}s")
        raise InputError(f"{family.name}/{name} asks for {asked}; there can be {FEWEST} to {MOST:,}.")
    smallest, largest = family.sides
    if not smallest <= low <= high <= largest:
        raise InputError(
            f"{family.name}/{name} asks for {low} to {high} pixels; sides run from {smallest} to {largest}, the "
            "smaller first."
        )
    name = f"{count}x{low}" + (f"-{high}" if high > low else "")  # one folder for 0100x64, 100x64 and 100x64-64
    what = f"{count} {family.one}s of {low} to {high} pixels" + (" with scan-based heads" if scans else "")
    return RenderedConfig(name="scan-" * scans + name, description=what, count=count, size=(low, high), scans=scans)


def split_of(number: int) -> str:
    """Returns the split of a person or scene, the same in every config: of 15, one is in val and two are in test."""
    return {0: "val", 1: "test", 2: "test"}.get(number % 15, "train")


class Rendered(Builder, skip_registration=True):
    """A builder that renders its examples.

    Attributes:
        FAMILY: its configs.
        WHAT: see `workers.render`.
        PER_SPLIT_UNIT: number of consecutive examples that share a split.
    """

    FAMILY: ClassVar[Family]
    WHAT: ClassVar[str]
    PER_SPLIT_UNIT: ClassVar[int] = 1
    OPTIONS: ClassVar = {"manual_dir": FILES["manual_dir"]}

    def __init__(self, manual_dir: str | os.PathLike | None = None, **kwargs: Any) -> None:
        self._manual_dir = manual_dir
        super().__init__(**kwargs)

    @classmethod
    def make(cls, config: str | None, data_dir: str | os.PathLike, **options: Any) -> Self:
        """See `Builder.make`; `parse_config` describes the names of configs."""
        parsed = parse_config(config or cls.FAMILY.configs[0].name, cls.FAMILY)
        if options.get("manual_dir") and not parsed.scans:
            raise InputError(f"{cls.FAMILY.name}/{parsed.name} takes no --manual_dir; only its configs scan-… do.")
        return cls(options.get("manual_dir"), config=parsed, data_dir=data_dir, file_format="array_record")

    @property
    def total(self) -> int:
        """Number of examples."""
        return self.builder_config.count

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        config = self.builder_config
        needed = config.count * max(config.size) ** 2 * _BYTES_PER_PIXEL
        free = shutil.disk_usage(self.data_dir).free
        if free < needed:
            raise InputError(
                f"The disk is full: {self.FAMILY.name}/{config.name} needs about {needed / 1e9:.1f} GB in "
                f"{self._data_dir_root}, where {free / 1e9:.1f} GB are free; make room, or choose another --data_dir."
            )
        rig = self._rig() if config.scans else None
        indices: dict[str, list[int]] = {split: [] for split in ("train", "val", "test")}
        for index in range(config.count):
            indices[split_of(index // self.PER_SPLIT_UNIT)].append(index)
        # All splits share one stream, because TFDS reads them one after the other and workers are slow to start.
        stream = self._resumed(
            [*itertools.chain(*indices.values())],
            lambda some: workers.render(config.seed, some, config.size, rig=rig, what=self.WHAT),
            (self.info.full_name, config.seed, *([rig.name] if rig else [])),
        )
        tally = prepare.Tally()
        return {split: self._generate_examples(stream, split, len(mine), tally) for split, mine in indices.items()}

    @abc.abstractmethod
    def _generate_examples(
        self, stream: Iterator[dict[str, Any]], split: str, count: int, tally: prepare.Tally
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Takes the next `count` rendered examples from the stream, and yields those of a split with their keys."""

    def _rig(self) -> pathlib.Path:
        """Prepares the head model of --manual_dir for the workers; returns the file that they read."""
        config = self.builder_config
        if not self._manual_dir:
            raise InputError(
                f"{self.FAMILY.name}/{config.name} needs the head model of ICT-FaceKit in --manual_dir. "
                f"{scan_model.HOW_TO_GET}"
            )
        found = scan_model.source(self._manual_dir)
        stamp = [(path.name, path.stat().st_size) for path in ([found] if found.is_file() else sorted(found.iterdir()))]
        rig = self.work_folder / f"rig_{resume.fingerprint(stamp)}.npz"
        if not rig.is_file():  # an interrupted build left it
            scan_head.load(found).save(rig)
        return rig
