"""What all builders share: a progress bar's hook, and preparation that resumes where it was stopped."""

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
    """A tensor feature with its documentation."""
    return tfds.features.Tensor(shape=shape, dtype=dtype, doc=doc)


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder whose preparation can be stopped and resumed.

    Attributes:
        LAYOUT: the landmarks' layout, or its name.
        OPTIONS: the options that `make` takes, each with its help text (see `options`).
        total: number of examples; None before it is known.
        advance: called after every example; `tfds_builders.build` lets it move the progress bar.
    """

    LAYOUT: str | landmarks.Layout = ""
    OPTIONS: ClassVar[Mapping[str, str]] = {}
    total: int | None = None

    @classmethod
    @abc.abstractmethod
    def make(cls, config: str | None, data_dir: str | os.PathLike, **options: Any) -> Self:
        """Constructs the builder of a config.

        Args:
            config: its name; None stands for the first one.
            data_dir: folder of all built datasets.
            **options: some of `OPTIONS`.

        Raises:
            InputError: unknown config.
        """

    @staticmethod
    def advance() -> None:
        """Does nothing until a progress bar replaces it."""

    @property
    def work_folder(self) -> pathlib.Path:
        """Keeps finished pieces of a build until the whole is written."""
        return pathlib.Path(self._data_dir_root) / self.name / self.builder_config.name / f".partial_{self.version}"

    def download_and_prepare(self, **options: Any) -> None:
        """Prepares the dataset as TFDS does; if that fails, the workers or threads that prepare examples end too."""
        with contextlib.ExitStack() as self._open:
            super().download_and_prepare(**options)

    def _resumed(
        self, items: Sequence, prepare: Callable[[Sequence], Generator], facts: Sequence[Any]
    ) -> Generator[Any, None, None]:
        """`resume.stream` in the work folder, closed when the build ends; its results depend on `facts` alone."""
        stream = resume.stream(items, prepare, self.work_folder / resume.fingerprint(*facts))
        return self._open.enter_context(contextlib.closing(stream))
