"""The command `mlcm video`: the faces of a video, frame by frame, with the temperatures of their regions."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

import cv2
import numpy as np
from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mlcm_jax import units
from mlcm_jax.console import progress, say
from mlcm_jax.data import draw, frames, gain, image_file
from mlcm_jax.errors import InputError, Interrupted
from mlcm_jax.inference import regions, track
from mlcm_jax.inference.predictor import Predictor

_SIDE = 480  # smallest longer side of the overlay video in pixels
_SHOWN = {  # what the plot shows: region -> statistic
    "right_eye_corner": "max", "left_eye_corner": "max", "forehead": "mean", "nose_tip": "mean", "nostrils": "mean",
    "right_cheek": "mean", "left_cheek": "mean",
}  # fmt: skip


class Files(NamedTuple):
    """The files that `follow` writes."""

    faces: epath.Path
    temperatures: epath.Path
    overlay: epath.Path
    plot: epath.Path


def follow(  # noqa: PLR0913
    source: str | int,
    *,
    out: str,
    model: str | None = None,
    stage: str | None = None,
    celsius: str = "auto",
    rate: float = 0.0,
    max_faces: int = 20,
    smooth: bool = True,
    most: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Follows the faces of a video, and writes what is found to the folder `out`.

    NAME.jsonl has a line per frame: {"frame", "time", "faces": [{"person", "box", "landmarks", "score"}]}. With
    temperatures, NAME_regions.csv has a row per frame, person and region, and NAME_regions.png their course over time.
    NAME_landmarks.mp4 is the video with landmarks. What was written before an error stays whole. Ctrl-C and SIGTERM let
    the frame at hand be finished. A face that would be colder than -10 °C or hotter than 45 °C is told once.

    Args:
        source: see `frames.open_clip`.
        out: folder, created if it is missing.
        model: see `Predictor`.
        stage: see `Predictor`.
        celsius: see `frames.open_clip`.
        rate: frames per second; 0 takes that of the source.
        max_faces: the largest number of faces in a frame.
        smooth: whether the One-Euro filter smooths the landmarks.
        most: the number of frames after which to stop; None reads all.
        overwrite: whether files of an earlier call may be replaced.

    Returns:
        {"frames", "people", "with_faces"}: numbers of frames, of people, and of frames with a face.

    Raises:
        InputError: a source that cannot be read, frames of different sizes, or files that exist already.
        Interrupted: a signal arrived before the end of the source; Ctrl-C is the end of a camera.
    """
    if most is not None and most < 1:
        raise InputError(f"--frames={most} must be at least 1.")
    clip = frames.open_clip(source, celsius=celsius, rate=rate)
    files = _files(source, epath.Path(out), overwrite=overwrite)
    tracker = track.Tracker(
        Predictor(model, stage=stage), constants=track.DEFAULT if smooth else None, max_faces=max_faces
    )
    image, clip = frames.first(clip)
    _remove(files)
    if isinstance(source, int):
        say(f"{source}: press Ctrl-C to stop")
    for note in (*image.notes, *clip.notes):
        say(f"{source}: {note}")
    total = min(clip.count or most or 0, most or clip.count or 0) or None
    measured: list[tuple[float, int, dict[str, regions.Region]]] = []
    seen, people, with_faces, doubt = 0, set(), 0, ""
    with _opened(files, image, clip.rate, total) as sinks, _signals() as stopped:
        for number, frame in enumerate(clip.frames):
            if number == most:
                break
            _check_size(frame, image, number, source)
            time = number / clip.rate
            found = tracker(frame, time)
            has_regions = frame.celsius is not None and found.faces.layout == regions.LAYOUT
            here = found.faces.regions(frame.celsius) if has_regions else []
            sinks.write(number, time, frame, found, here)
            if here:
                measured += [(time, *row) for row in zip(found.people.tolist(), here, strict=True)]
            seen, with_faces = number + 1, with_faces + bool(len(found.people))
            people.update(found.people.tolist())
            if not doubt and (doubt := _doubt(frame, found)):
                say(f"{source}, frame {number}: {doubt}.")
            if stopped():
                break
    if measured:
        _plot(files.plot, measured)
    if not stopped() and clip.count and seen < min(clip.count, most or clip.count):
        say(f"{source}: it announces {clip.count} frames, of which {seen} could be read.")
    written = [path.name for path in files if path.exists()]
    counted = f"{seen} frame{'s' * (seen != 1)}, {len(people)} {'person' if len(people) == 1 else 'people'}"
    say(f"{counted}, a face in {with_faces} of the frames. Wrote {', '.join(written)} to {out}.")
    if stopped() and not (isinstance(source, int) and stopped() == signal.SIGINT):
        raise Interrupted(f"Stopped after {seen} frames of {source}; --overwrite begins again.", stopped())
    return {"frames": seen, "people": len(people), "with_faces": with_faces}


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], int]]:
    """Yields `stopped()`, the number of the signal to stop for, or 0; a second signal stops at once.

    Only the main thread of a program can handle signals.
    """
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _doubt(frame: image_file.Image, found: track.Tracked) -> str:
    """Says what is wrong if a face has a temperature that no face has, or ""."""
    if frame.celsius is None:
        return ""
    parts = ((gain.inside(frame.values, box), gain.inside(frame.celsius, box)) for box in found.faces.boxes)
    return next(filter(None, (units.doubt(*part) for part in parts)), "")


def _files(source: str | int, folder: epath.Path, *, overwrite: bool) -> Files:
    """The files to write, in a folder that exists; raises InputError if they exist and may not be replaced."""
    name = f"camera{source}" if isinstance(source, int) else epath.Path(source).name
    if name in ("", ".."):  # of a folder such as "."
        name = epath.Path(source).resolve().name or "frames"
    if not isinstance(source, int) and epath.Path(source).resolve() == folder.resolve():
        raise InputError(f"--out={folder} is the folder of the frames, whose images are read; give another --out.")
    files = Files(*(folder / f"{name}{end}" for end in (".jsonl", "_regions.csv", "_landmarks.mp4", "_regions.png")))
    there = [path for path in files if path.exists()]
    if there and not overwrite:
        raise InputError(f"{there[0]} exists already; replace it by --overwrite, or give another --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to the folder {folder}: {error}; give another --out.") from error
    return files


def _remove(files: Files) -> None:
    """Removes what an earlier call wrote, once there is something to replace it."""
    try:
        for path in files:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to {files.faces.parent}: {error}; give another --out.") from error


def _check_size(frame: image_file.Image, first: image_file.Image, number: int, source: str | int) -> None:
    if frame.values.shape != first.values.shape:
        sizes = [" x ".join(map(str, one.values.shape[::-1])) for one in (frame, first)]
        raise InputError(
            f"Frame {number} of {source} has {sizes[0]} pixels, and the first one {sizes[1]}; give frames of one size."
        )


@dataclasses.dataclass
class _Sinks:
    """The open files."""

    lines: TextIO
    table: TextIO | None
    video: cv2.VideoWriter
    advance: Any

    def write(
        self,
        number: int,
        time: float,
        frame: image_file.Image,
        found: track.Tracked,
        measured: Sequence[Mapping[str, regions.Region]],
    ) -> None:
        """Writes what was found in a frame to all files; `measured` has the regions of every face, or of none."""
        faces = found.faces
        entries = [
            {
                "person": int(person),
                "box": [round(value, 2) for value in faces.boxes[k].tolist()],
                "landmarks": [[round(x, 2), round(y, 2)] for x, y in faces.landmarks[k].tolist()],
                "score": round(float(faces.scores[k]), 3),
            }
            for k, person in enumerate(found.people)
        ]
        self.lines.write(json.dumps({"frame": number, "time": round(time, 4), "faces": entries}) + "\n")
        self.lines.flush()
        if self.table and measured:
            writer = csv.writer(self.table, lineterminator="\n")
            for person, one in zip(found.people.tolist(), measured, strict=True):
                for name, values in regions.rounded(one).items():
                    numbers = ["" if value is None else value for value in list(values.values())[:-1]]
                    writer.writerow([number, round(time, 4), person, name, *numbers, int(values["hidden"])])
        drawn = [{"landmarks": points, "layout": faces.layout, "box": None} for points in faces.landmarks]
        for k, one in enumerate(measured):
            drawn[k]["outlines"] = regions.drawn(faces.landmarks[k], {name: one[name].hidden for name in one})
        overlay = draw.draw_faces(frame.gray, drawn, smallest=_SIDE)
        for person, (x, y, *_) in zip(found.people.tolist(), faces.boxes, strict=True):
            scale = overlay.shape[1] / frame.gray.shape[1]
            place = int(scale * x), max(12, int(scale * y) - 4)
            cv2.putText(overlay, str(person), place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 90), 1, cv2.LINE_AA)
        self.video.write(cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))
        self.advance(number + 1, "")


@contextlib.contextmanager
def _opened(files: Files, image: image_file.Image, rate: float, total: int | None) -> Iterator[_Sinks]:
    """Opens the files, and closes them whatever happens, so that they are whole."""
    size = draw.draw_faces(image.gray, [], smallest=_SIDE).shape[1::-1]
    video = cv2.VideoWriter(str(files.overlay), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
    if not video.isOpened():
        raise InputError(f"Cannot write the video {files.overlay}; give another --out.")
    with contextlib.ExitStack() as stack:
        stack.callback(video.release)
        lines = stack.enter_context(files.faces.open("w"))
        table = stack.enter_context(files.temperatures.open("w")) if image.celsius is not None else None
        if table:
            fields = [field.name for field in dataclasses.fields(regions.Region)]
            table.write(",".join(["frame", "time", "person", "region", *fields]) + "\n")
        advance = stack.enter_context(progress("frames", total=total, start=0, unit_size=1))
        yield _Sinks(lines, table, video, advance)


def _plot(path: epath.Path, measured: list[tuple[float, int, dict[str, regions.Region]]]) -> None:
    """Draws the temperatures of each person over time."""
    people = sorted({person for _, person, _ in measured})[:4]
    figure = Figure(figsize=(10, 3.2 * len(people)), layout="constrained")
    for axis, person in zip(figure.subplots(len(people), 1, squeeze=False)[:, 0], people, strict=True):
        mine = [(time, found) for time, one, found in measured if one == person]
        for name, statistic in _SHOWN.items():
            values = [getattr(found[name], statistic) for _, found in mine]
            if np.isfinite(values).any():
                axis.plot([time for time, _ in mine], values, label=f"{name} ({statistic})", linewidth=1)
        axis.set(title=f"person {person}", xlabel="time in s", ylabel="°C")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    FigureCanvasAgg(figure)
    figure.savefig(str(path), dpi=110)
