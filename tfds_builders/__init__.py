"""Datasets by name: `build("synthetic_faces/tiny", data_dir)` gives a TFDS builder whose records are on disk.

A dataset lives in a folder of its own, whose module `<name>_dataset_builder` has `make(config, data_dir)` (config is
the part of the name after the slash, or None; raises InputError for one that it does not know) and `configs()`. A
builder offers `total` (number of examples, None before it is known), calls `advance()` after each of them, which moves
the progress bar, and keeps what it has prepared in `work_folder` (see `resume`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib
import inspect
import io
import os
import pathlib
import shutil
from collections.abc import Iterator

from mlcm_jax.errors import InputError, did_you_mean

_NAMES = (
    "synthetic_faces",
    "paired_folder",
    "sf_tl54",
    "t_fake",
    "rwth_aachen",
    "charlotte_thermal",
    "tfw",
    "ibug_300w",
    "wflw",
    "cofw",
    "webmorph_faces",
    "youtube_faces_68",
)
_MODULES = {name: f"tfds_builders.{name}.{name}_dataset_builder" for name in _NAMES}


def names() -> list[str]:
    """Names that `load` and `build` understand, `set/config`; a set may understand more (see its README)."""
    return [
        f"{name}/{config}" for name, module in _MODULES.items() for config in importlib.import_module(module).configs()
    ]


def load(name: str, data_dir: str | os.PathLike, **options):
    """The TFDS builder of a dataset, built or not.

    Args:
        name: `set` or `set/config`.
        data_dir: folder that holds all datasets; `~` is expanded.
        options: passed to the set's `make`.

    Raises:
        InputError: unknown name; the message suggests the nearest one.
    """
    family, _, config = str(name).partition("/")
    if family not in _MODULES:
        raise InputError(f"Unknown dataset {name!r}; {did_you_mean(family, _MODULES)}")
    with _quiet():
        make = importlib.import_module(_MODULES[family]).make
        unknown = options.keys() - inspect.signature(make).parameters.keys()
        if unknown:
            raise InputError(f"{family} takes no --{min(unknown)}.")
        return make(config or None, pathlib.Path(data_dir).expanduser(), **options)


def build(name: str, data_dir: str | os.PathLike, **options):
    """The TFDS builder of a dataset whose records are on disk, built now if they are not yet.

    The records are written to a folder with another name, which takes its final name when it is whole. What a build
    that was interrupted had prepared is used by the next one; its other remains are removed.

    Raises:
        InputError: unknown name, full disk, folder that cannot be written, source file that cannot be read, or a set on
            disk that lacks files.
    """
    builder = load(name, data_dir, **options)
    folder = pathlib.Path(builder.data_dir)
    asked, facts = str(options.get("exclude") or ""), dict(builder.info.metadata or {})
    if folder.exists() and asked and facts.get("exclude", asked) != asked:
        raise InputError(f"{name} is built already, without --exclude={asked}; delete {folder} to build it anew.")
    if not folder.exists():
        with _explained(folder, options.get("manual_dir")), _alone(folder) as certain:
            if certain and not folder.exists():
                for remains in folder.parent.glob(f"incomplete.*_{folder.name}"):  # of builds that were killed
                    shutil.rmtree(remains)
            if not folder.exists():  # no other process has built it meanwhile
                _prepare(builder, name)
                shutil.rmtree(builder.work_folder, ignore_errors=True)
        builder = load(name, data_dir, **options)
    _check_whole(builder, name)
    return builder


def _prepare(builder, name: str) -> None:
    """download_and_prepare with one progress bar of our own."""
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
        # TFDS announces itself by print.
        with contextlib.redirect_stdout(io.StringIO()), spool.instead_of_buckets():
            builder.download_and_prepare()


def _check_whole(builder, name: str) -> None:
    from array_record.python.array_record_module import ArrayRecordReader

    files = [pathlib.Path(path) for split in builder.info.splits.values() for path in split.filepaths]
    missing = [path for path in files if not path.is_file() or path.stat().st_size == 0]
    # A file ends with its index: of one that was cut off, the reader says at once that it is none.
    cut = [path for path in files if path not in missing and not ArrayRecordReader(str(path)).ok()]
    if missing or cut or not files:
        what = f"{missing[0].name} is missing or empty" if missing else "it holds no records"
        what = f"{cut[0].name} is cut off" if cut else what
        raise InputError(f"{name} in {builder.data_dir} is damaged ({what}); delete that folder and build it again.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the chatter of TFDS: its bars, and log lines below the rank of an error."""
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
    """Let one process at a time build `folder`; the system drops the lock of a process that dies.

    Yields:
        False on file systems without locks, where another build may be under way.
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


def _is_of(error: OSError, source: str | os.PathLike | None, folder: pathlib.Path) -> bool:
    """Whether an error is about a file in `source`, and not about one of those that a build of `folder` writes."""
    if source is None or not isinstance(error.filename, str | os.PathLike):
        return False
    path, source = pathlib.Path(error.filename).absolute(), pathlib.Path(source).expanduser().absolute()
    return path.is_relative_to(source) and not path.is_relative_to(folder.parent.absolute())


@contextlib.contextmanager
def _explained(folder: pathlib.Path, source: str | os.PathLike | None = None) -> Iterator[None]:
    """Turn the disk's refusals into sentences; `folder` is written, `source` (--manual_dir) is read."""
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
        refused = [e for e in chain if isinstance(e, PermissionError) and _is_of(e, source, folder)]
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
