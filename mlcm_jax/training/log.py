"""Logs a stage while it trains: metrics to a JSONL file, and to TensorBoard if it is installed; its parameters once."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from clu import parameter_overview
from etils import epath

from mlcm_jax.training import distributed


def read_jsonl(path: epath.PathLike) -> list[dict[str, Any]]:
    """Reads the records of a JSONL file, oldest first; lines that a crash cut short or damaged are left out."""
    path = epath.Path(path)
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):  # neither JSON nor UTF-8
            records.append(json.loads(line))
    return [record for record in records if _is_record(record)]


def _is_record(content: Any) -> bool:
    """Whether a line holds a step and numbers."""
    numbers = isinstance(content, dict) and all(isinstance(value, int | float) for value in content.values())
    return numbers and isinstance(content.get("step"), int)


@contextlib.contextmanager
def open_writer(directory: epath.PathLike, *, resume_step: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Yields `write(step, scalars)`, which appends to `directory/metrics.jsonl` and to TensorBoard event files.

    Only the main process writes. Records after `resume_step`, left by a run that died between two checkpoints, are
    dropped first, so that the file has every step once.

    Args:
        directory: the folder of the stage; created if it is missing.
        resume_step: the step at which the stage starts.
    """
    if not distributed.is_main():
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


def write_parameters(directory: epath.PathLike, params: Any) -> None:
    """Writes the shape, dtype and sharding of every parameter to `directory/parameters.txt`, in the main process.

    Args:
        directory: the folder of the stage, which exists.
        params: a tree of arrays, which may lie on several hosts; their values are not read.
    """
    if distributed.is_main():
        text = parameter_overview.get_parameter_overview(params, include_stats="sharding")
        (epath.Path(directory) / "parameters.txt").write_text(f"{text}\n")


def _tensorboard(directory: epath.Path, resume_step: int) -> Any:
    """Returns a SummaryWriter, or None if the extra `tensorboard` is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step + 1)
