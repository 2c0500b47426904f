"""The frames of a video, one by one: gray levels or colours, radiometric stacks, folders of images, cameras."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from etils import epath

from mlcm_jax import flir, images, tiff, units
from mlcm_jax.data import image_file
from mlcm_jax.errors import InputError

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm", ".wmv")
STACKS = (".npy", ".tif", ".tiff", ".seq", ".csq", ".fff")
RATE = 25.0  # frames per second where a source does not say
RATES = (0.01, 10_000.0)  # that a video can have


class Clip(NamedTuple):
    """The frames of a video.

    Attributes:
        frames: yields each once; raises InputError for one that cannot be read.
        rate: frames per second.
        count: the number of frames, or None if it is not known beforehand.
        notes: what a reader should know, one sentence each.
    """

    frames: Iterator[image_file.Image]
    rate: float
    count: int | None
    notes: tuple[str, ...]


def open_clip(source: str | int, *, celsius: str = "auto", rate: float = 0.0) -> Clip:
    """Opens a video.

    Args:
        source: a file of `VIDEOS` or `STACKS`, a folder of images in the order of their names, or the number of a
            camera. Stacks are `.npy` [T, H, W], TIFF files with one image per frame, and FLIR's SEQ and CSQ.
        celsius: as in `image_file.read_image`; what "auto" takes for the first frame holds for all.
        rate: frames per second; 0 takes that which the source states, or 25.

    Raises:
        InputError: a source that is missing, damaged, or of another kind, or a rate outside `RATES`.
    """
    if celsius != "auto":
        units.parse(celsius)
    if rate and not RATES[0] <= rate <= RATES[1]:
        least, most = RATES
        raise InputError(f"--fps={rate:g} must be a number of frames per second from {least:g} to {most:g}.")
    if isinstance(source, int):
        return _captured(source, f"camera {source}", rate, celsius)
    path = epath.Path(source)
    if path.is_dir():
        files = [one for one in sorted(path.iterdir()) if one.suffix.lower() in images.SUFFIXES]
        if not files:
            raise InputError(f"The folder {source} holds no image ({', '.join(images.SUFFIXES)}).")
        return _clip(_images(map(images.read, files), celsius), rate, len(files))
    if not path.exists():
        raise InputError(f"The video {source} does not exist.")
    ending = path.suffix.lower()
    if ending in VIDEOS:
        return _captured(str(source), f"the video {source}", rate, celsius)
    if ending not in STACKS:
        raise InputError(
            f"{source} is not a video that can be read: {' '.join(VIDEOS + STACKS)}, a folder of images, or --camera=0."
        )
    arrays, count, unit = {".npy": _npy, ".tif": _tiff, ".tiff": _tiff}.get(ending, _flir)(path)
    return _clip(_images(_arrays(arrays, str(source)), unit if celsius == "auto" else celsius), rate, count)


def _clip(frames: Iterator[image_file.Image], rate: float, count: int | None) -> Clip:
    """A source that states no rate."""
    assumed = (f"the source states no frame rate, so {RATE:g} per second were assumed; give --fps",)
    return Clip(frames, rate or RATE, count, () if rate else assumed)


def _arrays(arrays: Iterable[np.ndarray], name: str) -> Iterator[images.ImageFile]:
    for number, array in enumerate(arrays):
        yield images.from_array(array, f"{name}, frame {number}")


def _images(files: Iterable[images.ImageFile], celsius: str) -> Iterator[image_file.Image]:
    """Frames as images, all of the kind and in the unit, or by the palette, that fits the first."""
    palette, first, unit = None, None, celsius
    for number, file in enumerate(files):
        if number == 0 and file.kind == "colour":
            palette = images.palettes().get(images.fit_palette(file.array)[0])
        elif file.kind == "colour" and palette is not None:
            gray = images.invert_palette(file.array, palette)
            file = dataclasses.replace(file, array=gray, kind="gray8")
        # What was guessed from the first frame is not for files that state their unit, or can have none.
        image = image_file.of_file(file, celsius if file.unit or file.kind in ("gray8", "colour") else unit)
        if number == 0 and celsius == "auto" and not image.levels and not file.unit:
            guessed, _ = units.guess(image.values, counts=file.kind == "gray16")
            unit = f"{guessed.scale!r},{guessed.offset!r}" if guessed else "none"
        first = first or image
        if (kind := _kind(image)) != _kind(first):
            raise InputError(f"{file.name} holds {kind}, and the first frame {_kind(first)}; give frames of one kind.")
        yield image


def _kind(image: image_file.Image) -> str:
    if image.levels:
        return "gray levels or colours"
    return "values without a unit" if image.celsius is None else "temperatures"


def _npy(path: epath.Path) -> tuple[Iterator[np.ndarray], int, str]:
    try:
        stack = np.load(Path(path), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not an array that numpy saved, or it is damaged ({error}).") from None
    if not isinstance(stack, np.ndarray):
        raise InputError(f"{path} is an archive of numpy (.npz); save its array alone by np.save.")
    coloured = stack.ndim == 4 and stack.shape[3] == 3 and stack.dtype == np.uint8
    if stack.dtype.kind not in "uif" or not (stack.ndim == 3 or coloured) or stack.size == 0:
        raise InputError(
            f"{path} has shape {stack.shape} and type {stack.dtype}; a video has [T, H, W], or [T, H, W, 3] of uint8."
        )
    return (np.asarray(frame) for frame in stack), len(stack), "auto"


def _tiff(path: epath.Path) -> tuple[Iterator[np.ndarray], int, str]:
    import tifffile

    def refused(error: Exception) -> InputError:  # tifffile raises errors of almost any type
        return InputError(f"The video {path} cannot be read; is it a TIFF, and whole? ({str(error)[:100]})")

    stack = contextlib.ExitStack()
    try:
        file = stack.enter_context(tifffile.TiffFile(Path(path)))
        page = file.pages.first
        announced = math.prod(file.series[0].shape) // math.prod(page.shape)
        count = len(file.pages) if len(file.series) != 1 else announced
    except Exception as error:
        stack.close()
        raise refused(error) from None

    def frames() -> Iterator[np.ndarray]:
        with stack:
            try:  # where one page announces all frames, as ImageJ writes them, they are read at once
                whole = None if len(file.pages) >= count else file.series[0].asarray().reshape(count, *page.shape)
                for number in range(count):
                    own = page if whole is not None else file.pages[number]
                    yield tiff.as_shown(own.keyframe, own.asarray() if whole is None else whole[number])
            except Exception as error:
                raise refused(error) from None

    return frames(), count, "auto"


def _flir(path: epath.Path) -> tuple[Iterator[np.ndarray], int, str]:
    parts = flir.split(path.read_bytes())
    if not parts:
        raise InputError(f"The video {path} is not one of FLIR's, or it is damaged.")

    def frames() -> Iterator[np.ndarray]:
        for number, part in enumerate(parts):
            try:
                yield flir.celsius(part)[0]
            except InputError as error:
                raise InputError(f"Frame {number} of {path} cannot be read: {error}") from None

    return frames(), len(parts), "celsius"


def _captured(source: str | int, name: str, rate: float, celsius: str) -> Clip:
    """A video or a camera that OpenCV reads: gray levels, or the colours of a palette."""
    if celsius not in ("auto", "none"):
        raise InputError(f"--celsius={celsius} is for temperatures; {name} has gray levels or colours.")
    capture = cv2.VideoCapture(source)
    ok, first = capture.read()
    if not ok:
        capture.release()
        remedy = "is it connected, and used by no other program?" if isinstance(source, int) else "is it damaged?"
        raise InputError(f"No frame can be read from {name}; {remedy}")
    stated = float(capture.get(cv2.CAP_PROP_FPS))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if isinstance(source, str) else 0

    def arrays() -> Iterator[np.ndarray]:
        try:
            frame: Any = first
            while frame is not None:
                yield np.ascontiguousarray(frame[..., ::-1]) if frame.ndim == 3 else frame
                more, frame = capture.read()
                frame = frame if more else None
        finally:
            capture.release()

    frames = _images(_arrays(arrays(), name), "auto")
    if not 1 <= stated <= 1000:
        return _clip(frames, rate, count if count > 0 else None)
    return Clip(frames, rate or stated, count if count > 0 else None, ())


def first(clip: Clip) -> tuple[image_file.Image, Clip]:
    """Returns the first frame, and the clip that still has it.

    Raises:
        InputError: a frame that cannot be read.
    """
    frame = next(clip.frames)
    return frame, clip._replace(frames=itertools.chain([frame], clip.frames))
