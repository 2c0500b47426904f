"""Thermal scenes with any number of people, to train a detector of faces: `example(seed, index, size=…)` makes one.

Every person is rendered alone (`raster`, `thermal`, `scan_thermal`) with head and shoulders, cut out, and laid over the
scene in the order of its distance; some are seen from behind, which counts as no face. One sensor takes the whole
scene (`sensor`).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import cv2
import numpy as np

from mlcm_jax import images
from mlcm_jax import landmarks as landmarks_lib
from mlcm_jax.errors import InputError
from mlcm_jax.synthetic import (
    raster,
    scan_scene,
    scan_surroundings,
    scan_thermal,
    scene,
    sensor,
    surroundings,
    thermal,
    things,
)
from mlcm_jax.synthetic.gbuffer import FACE_PARTS, GBuffer, Part, is_part
from mlcm_jax.synthetic.scan_head import ScanHeads
from mlcm_jax.synthetic.surroundings import Climate

MIN_SIDE, MAX_SIDE = 64, 640
_COUNTS = (0.3, 0.4, 0.14, 0.08, 0.05, 0.03)  # probabilities of 0, 1, … faces
_SMALLEST, _LARGEST = 0.075, 0.95  # longer side of a face over the longer side of the scene
_FILL = 0.28  # longer side of a face over the side of the tile in which a person is rendered
_TILE = 288  # largest side of such a tile in pixels; larger people are enlarged
_ASPECTS = ((1, 1), (4, 3), (3, 4), (5, 4), (16, 9))
_PIXELS, _BARELY = 9.0, 0.21  # detector pixels that a face needs; how much of a smaller one counts as seen
_CONTRAST = 4.0  # gray levels of deviation in and around a face, below which nobody could see it
_SEAT, _CAP = 0.15, 0.15  # shares of people before a seat, and with a low cap
_BARE, _THICK = 0.2, 0.6  # shares of people with a chest as warm as the neck, and of beards as cold as the hair
_SCENE, _PEOPLE, _SENSOR = range(3)  # random streams
_ON_FACE = (*FACE_PARTS, Part.GLASSES_FRAME, Part.GLASSES_LENS, Part.MASK, Part.HAND)


class _Person(NamedTuple):
    """A rendered person on a square tile of side T.

    Attributes:
        celsius: float32 [T, T].
        cover: float32 [T, T], 1 where the person is.
        face: float32 [T, T], 1 where the face or what covers it is.
        box: x, y, w, h of the face in pixels of the tile.
        yaw: in degrees.
    """

    celsius: np.ndarray
    cover: np.ndarray
    face: np.ndarray
    box: np.ndarray
    yaw: float


def example(
    seed: int, index: int, *, size: int | tuple[int, int], heads: ScanHeads | None = None, empty: bool = False
) -> dict[str, Any]:
    """Renders scene `index` of the set `seed`.

    Args:
        seed: number of the set.
        index: number of the scene.
        size: longer side of the image in pixels, or the inclusive range from which the scene draws its own.
        heads: the scan-based heads, of which three quarters of the people then are; None for hand-made ones only.
        empty: whether to leave out all faces, but not people from behind.

    Returns:
        thermal: uint8 [H, W], gray levels, hot = bright.
        boxes: float32 [N, 4], x, y, w, h of the N faces in pixels by `landmarks.box_from_points`; they may reach beyond
            the image.
        shown: float32 [N], the share of each face that neither others nor the border hide; at most 0.21 for a face of
            fewer than 9 detector pixels, and 0 for one that the gray levels do not show.
        yaw: float32 [N] in degrees.
        index: as given.

    Raises:
        InputError: if seed or index is negative, or the size is outside 64 to 640.
    """
    low, high = (size, size) if isinstance(size, int | np.integer) else size
    if seed < 0 or index < 0:
        raise InputError(f"seed and index must not be negative; got {seed} and {index}.")
    if not MIN_SIDE <= low <= high <= MAX_SIDE:
        raise InputError(f"size must be {MIN_SIDE} to {MAX_SIDE} pixels, the smaller first; got {size}.")
    rng = np.random.default_rng([seed, index, _SCENE])
    side = int(rng.integers(low, high + 1))
    wide, tall = _ASPECTS[rng.choice(len(_ASPECTS), p=[0.15, 0.45, 0.2, 0.1, 0.1])]
    width, height = (round(side * one / max(wide, tall)) for one in (wide, tall))
    climate = surroundings.sample_climate(rng)
    scale = 2 if side <= 320 else 1  # rendered pixels per pixel of the image
    field = _background(rng, scale * side, climate)
    left, top = (scale * ((side - one) // 2) for one in (width, height))
    frame = np.array([left, top, scale * width, scale * height], np.float64)
    people = np.random.default_rng([seed, index, _PEOPLE])
    count = 0 if empty else int(people.choice(len(_COUNTS), p=_COUNTS))
    faces = _people(field, frame, people, climate, heads, count)
    gray, native = _taken(field, side, np.random.default_rng([seed, index, _SENSOR]))
    gray = gray[top // scale :, left // scale :][:height, :width]
    boxes = np.array([box for box, _, _ in faces], np.float32).reshape(-1, 4)
    boxes[:, :2] = (boxes[:, :2] - (left, top) + 0.5) / scale - 0.5
    boxes[:, 2:] /= scale
    shown = [
        share if box[2:].max() / scale * native / side >= _PIXELS else min(share, _BARELY) for box, share, _ in faces
    ]
    shown = [0.0 if _without_contrast(gray, box) else share for box, share in zip(boxes, shown, strict=True)]
    return {
        "thermal": np.ascontiguousarray(gray),
        "boxes": boxes,
        "shown": np.array(shown, np.float32),
        "yaw": np.array([yaw for _, _, yaw in faces], np.float32),
        "index": index,
    }


def encode(made: dict[str, Any]) -> dict[str, Any]:
    """The scene with its image as PNG."""
    return made | {"thermal": images.png(made["thermal"])}


def _background(rng: np.random.Generator, side: int, climate: Climate) -> np.ndarray:
    """The scene without people, float32 [side, side] in °C."""
    if not climate.outdoors and rng.random() < 0.35:
        field = surroundings.blotches(rng, (side, side), (3, 3), float(rng.uniform(0.05, 0.6)))
        field += np.float32(climate.ambient)
        field += np.linspace(-0.5, 0.5, side, dtype=np.float32)[:, None] * np.float32(rng.normal(0, 0.8))
    else:
        field = surroundings.background(rng, side, climate)
    things.draw(field, rng, climate, int(rng.choice([0, 1, 2, 4, 8], p=[0.25, 0.25, 0.2, 0.2, 0.1])))
    return field


def _taken(field: np.ndarray, side: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Gray levels, uint8 [side, side], and the number of detector pixels along a side.

    Half of the cameras stretch what they see without a tone curve.
    """
    limit = float(np.percentile(field, 90.0)) + float(rng.uniform(3.0, 80.0))  # detectors saturate
    camera = sensor.sample_camera(rng, side)
    native = min(side, max(camera.native, 60))
    celsius = sensor.expose(np.minimum(field, limit), side, dataclasses.replace(camera, native=native), rng)
    if rng.random() < 0.5:
        return sensor.develop(celsius, sensor.sample_gain(rng, celsius)), native
    ends = float(rng.choice([0.0, 0.2, 1.0, 3.0])), float(rng.choice([100.0, 99.9, 99.0, 97.0]))
    return sensor.develop(celsius, sensor.Gain(low=ends[0], high=ends[1])), native


def _without_contrast(gray: np.ndarray, box: np.ndarray) -> bool:
    """Whether a face and what surrounds it have nearly one gray level."""
    x, y, w, h = box
    rows = slice(max(0, int(y - 0.3 * h)), max(0, int(y + 1.3 * h)))
    return float(gray[rows, max(0, int(x - 0.3 * w)) : max(0, int(x + 1.3 * w))].std()) < _CONTRAST


# --------------------------------------------------------------------------------------------------------- people


def _people(
    field: np.ndarray,
    frame: np.ndarray,
    rng: np.random.Generator,
    climate: Climate,
    heads: ScanHeads | None,
    count: int,
) -> list[tuple[np.ndarray, float, float]]:
    """Draws `count` people into the field, in place; returns (box, share shown, yaw) of every face."""
    backs = int(rng.choice(3, p=[0.7, 0.2, 0.1] if count else [0.4, 0.35, 0.25]))
    sizes = np.sort([_size(rng, count + backs) for _ in range(count + backs)]) * max(frame[2:])
    turned = rng.permutation(count + backs) < backs
    painted = np.zeros(field.shape, np.uint8)  # number of the person whose face is on top
    placed: dict[int, tuple[np.ndarray, float, float]] = {}  # number -> box, area of the whole face, yaw
    for number, (size, behind) in enumerate(zip(sizes, turned, strict=True), start=1):
        person = _render(rng, size, climate, heads, behind=bool(behind))
        scale = size / max(person.box[2:])
        corner = _place(rng, person.box * scale, frame, [box for box, _, _ in placed.values()])
        if corner is None:  # no room
            continue
        if rng.random() < _SEAT:
            middle = corner + scale * (person.box[:2] + person.box[2:] / 2)
            around = (*middle, 0.65 * scale * person.box[2], 0.8 * scale * person.box[3])
            scan_surroundings.seat(field, rng, around, climate, climate.ambient + 10.0)
        area = _paste(field, painted, person, corner, scale, 0 if behind else number)
        if not behind:
            box = np.append(corner + scale * (person.box[:2] + 0.5) - 0.5, scale * person.box[2:])
            placed[number] = box, area, person.yaw
    x, y, w, h = frame.astype(int)
    seen = np.bincount(painted[y : y + h, x : x + w].ravel(), minlength=256)
    return [(box, min(1.0, seen[number] / max(area, 1.0)), yaw) for number, (box, area, yaw) in placed.items()]


def _size(rng: np.random.Generator, people: int) -> float:
    """Longer side of a face over that of the scene: people in company are farther away."""
    top = _LARGEST if people == 1 else 0.5 if people < 4 else 0.3
    return float(np.exp(rng.uniform(np.log(_SMALLEST), np.log(top))))


def _render(
    rng: np.random.Generator, size: float, climate: Climate, heads: ScanHeads | None, *, behind: bool
) -> _Person:
    """Renders a random person whose face is to be `size` pixels long."""
    heads = heads if rng.random() < 0.75 else None
    draws = scene if heads is None else scan_scene
    subject = draws.sample_subject(int(rng.integers(2**31)), 0)
    view = draws.sample_scene(rng, subject)
    yaw, pitch, roll = (float(v) for v in view.pose)
    if behind:
        yaw = float(rng.choice([-1, 1]) * rng.uniform(125, 180))
    elif rng.random() < 0.2:
        yaw = float(rng.uniform(-90, 90))
    roll = float(rng.uniform(-30, 30)) if rng.random() < 0.2 else roll
    view = dataclasses.replace(
        view,
        pose=np.array([yaw, pitch, roll], np.float32),
        torso_yaw=yaw * float(rng.uniform(0.8, 1.0) if behind else rng.uniform(0.0, 0.6)),
        fill=_FILL,
        centre=np.array([0.5, 0.48], np.float32),
    )
    if rng.random() < _CAP:
        view = dataclasses.replace(view, cap="cap", cap_low=float(rng.uniform(0.0, 0.35)))
    tile = int(np.clip(size / _FILL, 48, _TILE))
    gbuffer, truth = raster.render_gbuffer(subject, view, tile, 1, heads=heads)
    heat = thermal.temperature if heads is None else scan_thermal.temperature
    celsius = heat(gbuffer, subject, view, rng, climate)
    if rng.random() < _BARE:
        _bare(celsius, gbuffer, rng)
    if rng.random() < _THICK:
        _thicken(celsius, gbuffer, rng, climate)
    box = np.asarray(landmarks_lib.box_from_points(truth.landmarks), np.float64)
    return _Person(celsius, (gbuffer.part > 0).astype(np.float32), _face(gbuffer, box), box, yaw)


def _bare(celsius: np.ndarray, gbuffer: GBuffer, rng: np.random.Generator) -> None:
    """Makes the clothes as warm as the neck, in place: a thin shirt or none, or a wide neckline in half the cases."""
    neck, clothes = is_part(gbuffer.under, Part.NECK, Part.SKIN), is_part(gbuffer.part, Part.CLOTHES)
    if not neck.any():
        return
    if rng.random() < 0.5:
        x, y = np.abs(gbuffer.template[..., 0]), gbuffer.template[..., 1]
        clothes &= y < 1.5 + rng.uniform(0.4, 1.6) * np.clip(1 - (x / rng.uniform(0.4, 1.3)) ** 2, 0, 1)
    warmth = float(np.median(celsius[neck])) - float(rng.uniform(0.0, 3.0))
    uneven = surroundings.blotches(rng, celsius.shape, (7, 7), float(rng.uniform(0.2, 1.0)))
    np.copyto(celsius, uneven + np.float32(warmth), where=clothes)


def _thicken(celsius: np.ndarray, gbuffer: GBuffer, rng: np.random.Generator, climate: Climate) -> None:
    """Makes the beard so thick, in place, that no warmth of the skin passes; without a beard, nothing changes."""
    skin = is_part(gbuffer.part, Part.SKIN)
    if not (gbuffer.beard > 0.2).any() or not skin.any():
        return
    cold = climate.ambient + float(rng.uniform(0.0, 0.6)) * (float(np.median(celsius[skin])) - climate.ambient)
    cover = gbuffer.beard * np.float32(rng.uniform(0.6, 1.0))
    np.add(celsius, cover * (np.float32(cold) - celsius), out=celsius, where=celsius > cold)


def _face(gbuffer: GBuffer, box: np.ndarray) -> np.ndarray:
    """Where the face, or what covers it, lies inside its box, float32 [T, T]."""
    face = is_part(gbuffer.part, *_ON_FACE).astype(np.float32)
    x, y, w, h = box
    rows, columns = np.arange(face.shape[0]), np.arange(face.shape[1])
    face *= ((rows >= y) & (rows < y + h))[:, None] & ((columns >= x) & (columns < x + w))
    return face


def _place(rng: np.random.Generator, box: np.ndarray, frame: np.ndarray, others: list[np.ndarray]) -> np.ndarray | None:
    """Finds a corner for a tile, so that its face hardly overlaps with others; `box` is that of the face on the tile.

    Most faces are whole, and one in eight may lie across the border.
    """
    w, h = box[2:]
    over = 0.5 if rng.random() < 0.125 else 0.02
    low = frame[:2] - over * box[2:]
    room = frame[2:] - (1 - 2 * over) * box[2:]
    if (room <= 0).any():  # larger than the frame
        low, room = low + np.minimum(room, 0) / 2, np.maximum(room, 0)
    for _ in range(10):
        x, y = low + rng.random(2) * room
        crossed = [
            max(0.0, min(x + w, o[0] + o[2]) - max(x, o[0])) * max(0.0, min(y + h, o[1] + o[3]) - max(y, o[1]))
            for o in others
        ]
        if all(area < 0.15 * min(w * h, o[2] * o[3]) for area, o in zip(crossed, others, strict=True)):
            return np.array([x, y]) - box[:2]
    return None


def _paste(
    field: np.ndarray, painted: np.ndarray, person: _Person, corner: np.ndarray, scale: float, number: int
) -> float:
    """Lays a person over the field, in place; the body goes on below the tile. Returns the area of the whole face.

    Args:
        field: float32 [R, R] in °C.
        painted: uint8 [R, R], takes `number` where the face lies, and 0 where the rest of the person does.
        person: the tile.
        corner: where its corner lies, in pixels of the field.
        scale: pixels of the field per pixel of the tile.
        number: of the person; 0 if the face is not seen.
    """
    side = field.shape[0]
    tile = person.cover.shape[0]
    below = max(0, int((side - corner[1]) / scale) - tile + 2)
    parts = [person.celsius * person.cover, person.cover, person.face]
    parts = [cv2.copyMakeBorder(one, 0, below, 0, 0, cv2.BORDER_REPLICATE) for one in parts]
    parts[2][tile:] = 0.0
    offset = corner + 0.5 * scale - 0.5
    turn = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    warm, cover, face = (cv2.warpAffine(one, turn, (side, side), flags=cv2.INTER_LINEAR) for one in parts)
    field *= 1 - cover
    field += warm
    painted[cover > 0.5] = 0
    painted[face > 0.5] = number
    return float(person.face.sum() * scale**2)
