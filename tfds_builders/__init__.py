"""Datasets by name: `build("synthetic_faces/tiny", data_dir)` returns a TFDS builder whose records are on disk.

Every dataset has its own folder. The module `<name>_dataset_builder` in it defines a subclass of `base.Builder`, which
`_BUILDERS` below lists. The part of a dataset's name after the slash is the config; without it, the first one is used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import io
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlcm_jax.errors import InputError, did_you_mean
from tfds_builders.options import OPTIONS, SWITCHES

if TYPE_CHECKING:
    from tfds_builders.base import Builder

__all__ = ["OPTIONS", "SWITCHES", "build", "load", "names"]

# Dataset -> class in tfds_builders/<name>/<name>_dataset_builder.py, which is imported on demand.
_BUILDERS = {
    "synthetic_faces": "SyntheticFaces",
    "synthetic_scenes": "SyntheticScenes",
    "paired_folder": "PairedFolder",
    "sf_tl54": "SfTl54",
    "t_fake": "TFake",
    "rwth_aachen": "RwthAachen",
    "charlotte_thermal": "CharlotteThermal",
    "tfw": "Tfw",
    "ibug_300w": "Ibug300w",
    "wflw": "Wflw",
    "cofw": "Cofw",
    "webmorph_faces": "WebmorphFaces",
    "youtube_faces_68": "YoutubeFaces68",
}


def _class_of(name: str) -> type[Builder]:
    return getattr(importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder"), _BUILDERS[name])


def names() -> list[str]:
    """Lists every predefined `dataset/config`; some datasets accept further configs (see their READMEs)."""
    return [f"{name}/{config.name}" for name in _BUILDERS for config in _class_of(name).BUILDER_CONFIGS]


def load(name: str, data_dir: str | os.PathLike, **options: Any) -> Builder:
    """Returns the TFDS builder of a dataset, whether or not its records are on disk.

    Args:
        name: `dataset` or `dataset/config`.
        data_dir: the folder of all built datasets; `~` is expanded.
        **options: some of `OPTIONS`.

    Raises:
        InputError: an unknown dataset or config (the message suggests the nearest one), or an option that the dataset
            does not take.
    """
    family, _, config = str(name).partition("/")
    if family not in _BUILDERS:
        raise InputError(f"Unknown dataset {name!r}; {did_you_mean(family, _BUILDERS)}")
    with _quiet():
        kind = _class_of(family)
        unknown = options.keys() - kind.OPTIONS.keys()
        if unknown:
            raise InputError(f"{family} takes no --{min(unknown)}.")
        return kind.make(config or None, pathlib.Path(data_dir).expanduser(), **options)


def build(name: str, data_dir: str | os.PathLike, **options: Any) -> Builder:
    """Builds a dataset unless its records are on disk, and returns its TFDS builder.

    The records are written to a temporary folder, which is renamed once it is complete. After an interrupted build, the
    next one reuses the examples that were prepared and removes everything else.

    Args:
        name: `dataset` or `dataset/config`.
        data_dir: the folder of all built datasets; `~` is expanded.
        **options: some of `OPTIONS`.

    Raises:
        InputError: an unknown name, a full disk, a folder that cannot be written, a source file that cannot be read, or
            a built dataset that lacks files.
    """
    builder = load(name, data_dir, **options)
    folder = pathlib.Path(builder.data_dir)
    exclude, metadata = str(options.get("exclude") or ""), dict(builder.info.metadata or {})
    if folder.exists() and exclude and metadata.get("exclude", exclude) != exclude:
        raise InputError(f"{name} is built already, without --exclude={exclude}; delete {folder} to build it again.")
    if not folder.exists():
        with _explained(folder, options.get("manual_dir")), _alone(folder) as locked:
            if locked and not folder.exists():
                for remains in folder.parent.glob(f"incomplete.*_{folder.name}"):  # left by builds that were killed
                    shutil.rmtree(remains)
            if not folder.exists():  # unless another process built it while this one waited for the lock
                _prepare(builder, name)
                shutil.rmtree(builder.work_folder, ignore_errors=True)
        builder = load(name, data_dir, **options)
    _check_whole(builder, name)
    return builder


def _prepare(builder: Builder, name: str) -> None:
    """Calls `download_and_prepare` and shows our own progress bar instead of TFDS's output."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from tfds_builders import spool

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar, _quiet():
        task = bar.add_task(f"building {name}", total=builder.total)
        builder.advance = lambda: bar.update(task, advance=1, total=builder.total)
        # TFDS prints what it is about to do to stdout.
        with contextlib.redirect_stdout(io.StringIO()), spool.instead_of_buckets():
            builder.download_and_prepare()


def _check_whole(builder: Builder, name: str) -> None:
    """Raises InputError if record files of a built dataset are missing, empty or truncated."""
    from array_record.python.array_record_module import ArrayRecordReader

    files = [pathlib.Path(path) for split in builder.info.splits.values() for path in split.filepaths]
    missing = [path for path in files if not path.is_file() or path.stat().st_size == 0]
    # An ArrayRecord file ends with its index, so opening it reveals a missing end.
    cut = [path for path in files if path not in missing and not ArrayRecordReader(str(path)).ok()]
    if missing or cut or not files:
        what = f"{missing[0].name} is missing or empty" if missing else "it holds no records"
        what = f"{cut[0].name} is cut off" if cut else what
        raise InputError(f"{name} in {builder.data_dir} is damaged ({what}); delete that folder and build it again.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS's progress bars, and its log lines below the level ERROR."""
    import tensorflow_datasets as tfds
    from absl import logging

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[bool]:
    """Lets one process at a time build `folder`; the system releases the lock of a process that dies.

    Yields:
        Whether the lock is held. It is False on file systems without locks, where another build may be running.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
                raise
            yield False
        else:
            yield True


def _concerns_source(error: OSError, source: str | os.PathLike | None, folder: pathlib.Path) -> bool:
    """Whether an error concerns a file in `source`, and not one that the build writes beside `folder`."""
    if source is None or not isinstance(error.filename, str | os.PathLike):
        return False
    path, source = pathlib.Path(error.filename).absolute(), pathlib.Path(source).expanduser().absolute()
    return path.is_relative_to(source) and not path.is_relative_to(folder.parent.absolute())


@contextlib.contextmanager
def _explained(folder: pathlib.Path, source: str | os.PathLike | None = None) -> Iterator[None]:
    """Turns file-system errors into an InputError of one sentence.

    Args:
        folder: the folder that the build writes.
        source: --manual_dir, which the build reads; None if it was not given.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        chain: list[BaseException] = []
        link: BaseException | None = error
        while link is not None and link not in chain:
            chain.append(link)
            link = link.__cause__ or link.__context__
        if any(getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(e) for e in chain):
            raise InputError(
                f"The disk is full: {folder.parent} needs more room; free some, or choose another --data_dir."
            ) from error
        refused = [e for e in chain if isinstance(e, PermissionError) and _concerns_source(e, source, folder)]
        if refused:
            raise InputError(
                f"{refused[0].filename} cannot be read ({refused[0].strerror}); make it and the folders above it "
                f"readable, for example by chmod -R u+rX {source}."
            ) from error
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
            raise InputError(
                f"Cannot write the dataset to {folder} ({error.strerror}); choose another --data_dir."
            ) from error
        if isinstance(error, OSError) and error.errno == errno.EROFS:
            raise InputError(f"{folder} is on a read-only disk; choose another --data_dir.") from error
        raise
