"""Output on the console while a command runs: lines of text and a progress bar."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Prints a line, above the progress bar if one is running."""
    console.print(message, markup=False)


@contextlib.contextmanager
def progress(title: str, *, total: int | None, start: int, unit_size: int) -> Iterator[Callable[[int, str], None]]:
    """Shows a progress bar; yields `advance(step, text)`, which moves it to a step and shows a text beside it.

    Args:
        title: the text before the bar.
        total: number of steps; None if it is not known.
        start: number of steps that are already done.
        unit_size: number of images in a step, from which the speed is computed.
    """
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
