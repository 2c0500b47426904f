"""Where numbers go while a stage trains: a JSONL file, TensorBoard when it is installed, and a progress bar."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """One line to the reader, above the progress bar if one is running."""
    console.print(message, markup=False)


def write_json(path: epath.PathLike, content: Any) -> None:
    """Writes JSON (numpy's numbers and arrays too) through a temporary file: a crash leaves the old one whole."""
    path = epath.Path(path)
    temporary = path.parent / (path.name + ".new")
    temporary.write_text(json.dumps(content, indent=2, default=lambda value: value.tolist()) + "\n")
    temporary.replace(path)


def read_jsonl(path: epath.PathLike) -> list[dict[str, Any]]:
    """The whole records of a JSONL file, oldest first; a last line cut short by a crash is left out."""
    path = epath.Path(path)
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


@contextlib.contextmanager
def open_writer(directory: epath.PathLike, *, resume_step: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Yields `write(step, scalars)`, which appends to `directory/metrics.jsonl` and to TensorBoard event files.

    Records after `resume_step`, left by a run that died between two checkpoints, are dropped first, so that every step
    stands in the file once.
    """
    if console.quiet:  # another process writes
        yield lambda step, scalars: None
        return
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "metrics.jsonl"
    kept = [record for record in read_jsonl(path) if record["step"] <= resume_step]
    path.write_text("".join(json.dumps(record) + "\n" for record in kept))
    board = _tensorboard(directory, resume_step)
    with path.open("a") as file:

        def write(step: int, scalars: dict[str, float]) -> None:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
            file.flush()
            for name, value in scalars.items() if board else ():
                board.add_scalar(name, value, step)

        try:
            yield write
        finally:
            if board:
                board.close()


def _tensorboard(directory: epath.Path, resume_step: int) -> Any:
    """A SummaryWriter, or None where the extra `tensorboard` is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step + 1)


@contextlib.contextmanager
def progress(title: str, *, total: int, start: int, unit_size: int) -> Iterator[Callable[[int, str], None]]:
    """A bar over `total` steps of `unit_size` images each; yields `advance(step, text)`."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, completed=start, text="compiling")

        def advance(step: int, text: str) -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed * unit_size:,.0f} images/s " if speed else ""
            bar.update(task, completed=step, text=rate + text)

        yield advance
