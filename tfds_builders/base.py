"""The base class of all builders, with a hook for a progress bar and a preparation that can be resumed."""

from __future__ import annotations

import abc
import contextlib
import os
import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, ClassVar, Self

import tensorflow_datasets as tfds

from mlcm_jax import landmarks
from tfds_builders import resume


def tensor(shape: tuple[int, ...], dtype: type, doc: str) -> tfds.features.Tensor:
    """Returns a feature of a fixed shape; `doc` is shown in the dataset's info."""
    return tfds.features.Tensor(shape=shape, dtype=dtype, doc=doc)


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder whose preparation can be stopped and resumed.

    Attributes:
        LAYOUT: the landmark layout, or its name.
        OPTIONS: the options that `make` takes, each with its help text (see `options`).
        total: the number of examples; None until it is known.
        advance: called after every example; `tfds_builders.build` uses it to update the progress bar.
    """

    LAYOUT: str | landmarks.Layout = ""
    OPTIONS: ClassVar[Mapping[str, str]] = {}
    total: int | None = None

    @classmethod
    @abc.abstractmethod
    def make(cls, config: str | None, data_dir: str | os.PathLike, **options: Any) -> Self:
        """Constructs the builder of a config.

        Args:
            config: the name of the config; None for the first one.
            data_dir: the folder of all built datasets.
            **options: some of `OPTIONS`.

        Raises:
            InputError: an unknown config.
        """

    def __reduce__(self) -> tuple[Callable, tuple[str | None, str]]:
        """Pickles the builder of a built dataset as its config and folder, for processes that read it.

        TFDS would call `__init__` with arguments of its own, to which `paired_folder` needs more.
        """
        return type(self).make, (self.builder_config.name if self.builder_config else None, str(self._data_dir_root))

    @staticmethod
    def advance() -> None:
        """Does nothing unless `tfds_builders.build` replaces it."""

    @property
    def work_folder(self) -> pathlib.Path:
        """The folder that keeps the finished pieces of a build until the whole dataset is written."""
        return pathlib.Path(self._data_dir_root) / self.name / self.builder_config.name / f".partial_{self.version}"

    def download_and_prepare(self, **options: Any) -> None:
        """Prepares the dataset as TFDS does, and ends the workers or threads that prepare examples, even on failure."""
        with contextlib.ExitStack() as self._streams:
            super().download_and_prepare(**options)

    def _resumed(
        self, items: Sequence, prepare: Callable[[Sequence], Generator], facts: Sequence[Any]
    ) -> Generator[Any, None, None]:
        """Returns a `resume.stream` that is closed when the build ends.

        Args:
            items: what to prepare.
            prepare: see `resume.stream`.
            facts: everything that the results depend on; other facts give the stream another folder.
        """
        stream = resume.stream(items, prepare, self.work_folder / resume.fingerprint(*facts))
        return self._streams.enter_context(contextlib.closing(stream))
