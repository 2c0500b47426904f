"""Things on and around the head as further triangles: long hair, spectacles, a cap's peak, a mask, a hand, a scarf.

`raster` calls `pieces` with the vertices of the bare head (head space, head units) and draws the resulting `Piece`s
together with the head. Short hair, beanies and the cap itself are not pieces: `raster` lifts and paints the scalp.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from mlcm_jax.synthetic.anatomy import smoothstep
from mlcm_jax.synthetic.gbuffer import Part
from mlcm_jax.synthetic.head import PointSet, locate
from mlcm_jax.synthetic.scene import Scene, Subject
from mlcm_jax.synthetic.template import grid_faces


@dataclasses.dataclass(frozen=True)
class Piece:
    """One accessory, or a piece of one.

    Attributes:
        points: float32 [V, 3], head space.
        faces: int [F, 3]; drawn from both sides.
        part: what its pixels show.
        share: [V] or scalar, share of the head's rotation that the points follow, see `head.place`.
        coordinates: float32 [V, 3], the values of `GBuffer.template`: the points themselves. For lenses, these are the
            position on the lens in half widths and half heights, which is stored in `GBuffer.lens` instead, and the
            side.
    """

    points: np.ndarray
    faces: np.ndarray
    part: Part
    share: np.ndarray | float
    coordinates: np.ndarray


@functools.lru_cache(maxsize=64)  # limited, because every hand lies at a place of its own
def _anchor(*xy: float) -> PointSet:
    return locate(np.array(xy).reshape(-1, 2))


def _at(shape: np.ndarray, *xy: float) -> np.ndarray:
    """Points [N, 3] of the deformed face at template positions x0, y0, x1, y1, and so on."""
    return _anchor(*xy).on(shape)


def _piece(
    points: np.ndarray,
    faces: np.ndarray,
    part: Part,
    share: np.ndarray | float = 1.0,
    coordinates: np.ndarray | None = None,
) -> Piece:
    points = points.reshape(-1, 3).astype(np.float32)
    coordinates = points if coordinates is None else coordinates.reshape(-1, 3).astype(np.float32)
    return Piece(points, faces, part, share, coordinates)


def _ribbon(first: np.ndarray, second: np.ndarray, part: Part, closed: bool = False) -> Piece:
    """The band between two polylines [N, 3]."""
    return _piece(np.stack([first, second]), grid_faces(2, len(first), closed=closed), part)


def glasses(shape: np.ndarray, scene: Scene) -> list[Piece]:
    """Rims, bridge, temples and two lenses in front of the eyes."""
    width, height, power, thick, *form = (float(v) for v in scene.glasses_shape)
    taper, slant, drop, apart = form or (0.0, 0.0, 0.0, 0.0)
    bridge, left, right = _at(shape, 0.0, 0.03, -0.352, -0.008, 0.352, -0.008)
    plane = max(float(bridge[2]) + 0.02, float(max(left[2], right[2])) + 0.1)  # z of the lenses
    angle = np.linspace(0, 2 * np.pi, 33)[:-1]
    c, s = np.cos(angle), np.sin(angle)
    ring = np.stack([np.sign(c) * np.abs(c) ** (2 / power), np.sign(s) * np.abs(s) ** (2 / power)], 1)
    pieces = []
    for sign, eye in ((-1.0, left), (1.0, right)):
        centre = np.array([eye[0] + sign * apart, eye[1] + 0.035 + drop])
        lens = ring + np.stack([-taper * ring[:, 1] * ring[:, 0], slant * sign * ring[:, 0]], 1)

        def rim(wider: float, centre: np.ndarray = centre, lens: np.ndarray = lens) -> np.ndarray:
            xy = centre + lens * [width + wider, height + wider]
            z = plane - 0.09 * smoothstep(0.15, 0.75, np.abs(xy[:, 0]))
            return np.concatenate([xy, z[:, None]], 1)

        outline, outer = rim(0.0), rim(thick)
        pieces.append(_ribbon(outer, outline, Part.GLASSES_FRAME, closed=True))
        middle = outline.mean(0, keepdims=True)
        fan = np.stack([np.arange(32), (np.arange(32) + 1) % 32, np.full(32, 32)], 1).astype(np.int32)
        local = np.concatenate([np.concatenate([ring, np.full((32, 1), sign)], 1), [[0, 0, sign]]])
        pieces.append(_piece(np.concatenate([outline, middle]), fan, Part.GLASSES_LENS, coordinates=local))
        hinge = outer[np.argmax(outer[:, 0] * sign)] + [0, -0.35 * height, 0]
        # The arm runs just outside the temple, whose surface it follows, to the top of the ear.
        temple = _at(shape, sign * 0.7, -0.05, sign * 0.77, -0.05, sign * 0.82, -0.05)
        temple[:, 0] += 0.05 * sign
        temple = temple[np.abs(temple[:, 0]) > abs(hinge[0])]
        ear = np.array([sign * (abs(float(temple[-1, 0])) + 0.04 if len(temple) else abs(hinge[0])), -0.06, -0.84])
        arm = np.concatenate([hinge[None], temple, ear[None]])
        arm[:, 1] = np.linspace(arm[0, 1], arm[-1, 1], len(arm))
        band = np.array([0, 0.5 * thick + 0.014, 0])
        pieces.append(_ribbon(arm - band, arm + band, Part.GLASSES_FRAME))
    inner = [left[0] - apart + width, right[0] + apart - width]
    t = np.linspace(0, 1, 7)[:, None]
    arch = np.concatenate(
        [
            inner[0] + (inner[1] - inner[0]) * t,
            left[1] + drop - 0.02 - 0.05 * np.sin(np.pi * t),
            plane + 0.02 * np.sin(np.pi * t),
        ],
        1,
    )
    band = np.array([0, 0.5 * thick + 0.008, 0])
    pieces.append(_ribbon(arch - band, arch + band, Part.GLASSES_FRAME))
    return pieces


def long_hair(subject: Subject) -> Piece:
    """Hair that hangs from the temples and the back of the head to the shoulders; its lower end follows the torso."""
    rng = np.random.default_rng([subject.seed, 5])
    length, open_angle = rng.uniform(1.0, 2.3), rng.uniform(1.42, 1.6)
    angle = np.linspace(open_angle, 2 * np.pi - open_angle, 33)[None]
    y = np.linspace(-0.75, length, 16)[:, None]
    swell = smoothstep(-0.9, 0.2, y) * (0.6 + 0.4 * smoothstep(2.4, 0.8, y))
    wave = 0.02 * np.sin(9 * angle + 4 * y)
    radius = 1 + (0.08 + 0.5 * subject.hair_volume) * swell + wave
    x = 0.83 * radius * np.sin(angle)
    z = -0.85 + 1.15 * radius * np.cos(angle)
    tip = y + 0.08 * np.sin(13 * angle) * smoothstep(length - 0.5, length, y)
    points = np.stack([x + 0 * y, tip, z + 0 * y], -1)
    share = np.broadcast_to(smoothstep(1.9, 0.9, y), x.shape).ravel()
    rows, columns = points.shape[:2]
    return _piece(points, grid_faces(rows, columns), Part.HAIR, share, points)


# Rings of cloth round the neck: heights y of the upper and lower edge, half width above and below, how far the upper
# edge rises towards the nape, and half the angle of the opening in front.
_RINGS = {
    "scarf": (1.42, 1.95, 0.78, 0.86, 0.05, 0.0),
    "turtleneck": (1.46, 1.98, 0.6, 0.72, 0.12, 0.0),
    "collar": (1.62, 2.02, 0.72, 0.8, 0.22, 0.55),
}


def neck_ring(kind: str, seed: int) -> Piece:
    """A scarf, turtleneck or collar; `kind` is one of `_RINGS`, and the seed varies its height and folds."""
    rng = np.random.default_rng([seed, 6])
    top, bottom, above, below, rise, opening = _RINGS[kind]
    top = top + rng.uniform(-0.35 if kind == "scarf" else -0.12, 0.1)  # a scarf may hide the chin
    opening = opening * rng.uniform(0.6, 1.6)
    angle = np.linspace(opening, 2 * np.pi - opening, 41)[None]
    t = np.linspace(0, 1, 7)[:, None]
    wide = above + (below - above) * t + 0.05 * np.sin(np.pi * t) + 0.02 * np.sin(rng.integers(2, 6) * angle + 5 * t)
    x = wide * np.sin(angle)
    z = -0.95 + (0.72 * wide + 0.06) * np.cos(angle)
    upper = (
        top - rise * (1 - np.cos(angle)) / 2 + (0.25 * np.exp(-(((angle - opening) / 0.5) ** 2)) if opening else 0.0)
    )
    upper = upper + (0.25 * np.exp(-(((2 * np.pi - opening - angle) / 0.5) ** 2)) if opening else 0.0)
    y = upper + t * (bottom - upper)
    points = np.stack(np.broadcast_arrays(x, y, z), -1)
    share = np.broadcast_to(0.45 * (1 - t), x.shape).ravel()
    return _piece(points, grid_faces(7, 41), Part.CLOTHES, share)


def hood(seed: int) -> Piece:
    """A hood around the head, open in front."""
    rng = np.random.default_rng([seed, 7])
    opening = rng.uniform(1.15, 1.45)
    angle = np.linspace(opening, 2 * np.pi - opening, 37)[None]
    y = np.linspace(-1.42, 1.95, 22)[:, None]
    dome = np.sqrt(np.clip(1 - (np.clip(-0.45 - y, 0, None) / 1.0) ** 2, 0.003, 1))
    radius = (1.13 + rng.uniform(0, 0.12) + 0.02 * np.sin(7 * angle + 3 * y)) * dome
    x = 0.86 * radius * np.sin(angle)
    z = -0.88 + 1.16 * radius * np.cos(angle)
    points = np.stack(np.broadcast_arrays(x, y, z), -1)
    share = np.broadcast_to(0.9 * smoothstep(1.9, 0.8, y), x.shape).ravel()
    return _piece(points, grid_faces(22, 37), Part.CLOTHES, share)


def peak(shape: np.ndarray, low: float = 0.0) -> Piece:
    """The peak of a cap that sits `low` below its usual place, from its rim forwards and a little down."""
    a = np.linspace(-0.95, 0.95, 19)[None]
    t = np.linspace(0, 1, 6)[:, None]
    forehead = _at(shape, 0.0, -0.55 + low)[0]
    x = 0.78 * np.sin(a) * (1 - 0.1 * t)
    z = -0.72 + (forehead[2] + 0.8) * np.cos(a) + t * 0.62 * np.cos(1.2 * a)
    y = forehead[1] - 0.07 + 0.2 * t**1.3 + 0.1 * (a / 0.95) ** 2  # the root lies inside the rim
    return _piece(np.stack(np.broadcast_arrays(x, y, z), -1), grid_faces(6, 19), Part.CAP)


@functools.cache
def _mask_grid() -> tuple[PointSet, np.ndarray]:
    """The 13 x 19 points of a mask on the face, from its upper to its lower edge, and their template (x, y)."""
    x, t = np.meshgrid(np.linspace(-0.73, 0.73, 19), np.linspace(0, 1, 13))
    top = 0.2 + 0.3 * smoothstep(0.05, 0.75, np.abs(x))
    bottom = 1.27 - 0.5 * (np.abs(x) / 0.73) ** 2.2
    xy = np.stack([x, top + t * (bottom - top)], -1).reshape(-1, 2)
    return locate(xy), xy


def mask(shape: np.ndarray) -> list[Piece]:
    """A mask over nose, mouth and chin: a cloth, which touches the face only at its border, and straps."""
    anchors, xy = _mask_grid()
    points = anchors.on(shape)
    ax, y = np.abs(xy[:, 0]), xy[:, 1]
    border = (
        smoothstep(0.73, 0.5, ax)
        * smoothstep(1.3, 1.0, y)
        * smoothstep(0.12, 0.4, y - 0.3 * smoothstep(0.05, 0.75, ax))
    )
    tent = float(points[:, 2].max()) + 0.04 - 0.3 * np.abs(y - 0.5) ** 1.3 - 0.9 * ax**1.6
    points[:, 2] = np.maximum(points[:, 2] + 0.03, points[:, 2] + border * (tent - points[:, 2]))
    points[:, 0] += 0.03 * np.clip(points[:, 0] / 0.6, -1, 1)
    points[:, 1] += 0.04 * smoothstep(0.9, 1.25, y)
    pieces = [_piece(points, grid_faces(13, 19), Part.MASK)]
    for sign in (-1.0, 1.0):
        start = points[np.argmax(points[:, 0] * sign)]
        end = np.array([sign * 0.93, 0.05, -0.78])
        band = np.array([0, 0.012, 0])
        pieces.append(_ribbon(np.stack([start - band, end - band]), np.stack([start + band, end + band]), Part.MASK))
    return pieces


def _capsule(start: np.ndarray, end: np.ndarray, radius: float, end_radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Points [80, 3] and faces of a rod with rounded ends."""
    axis = end - start
    length = np.linalg.norm(axis)
    axis = axis / length
    side = np.cross(axis, [0.0, 0.0, 1.0])
    side = side / max(np.linalg.norm(side), 1e-6)
    up = np.cross(axis, side)
    h = np.linspace(-np.pi / 2, 0, 4)
    along = np.concatenate([radius * np.sin(h), length + end_radius * np.sin(-h[::-1])])
    size = np.concatenate([radius * np.cos(h), end_radius * np.cos(h[::-1])])
    a = np.linspace(0, 2 * np.pi, 11)[:-1]
    ringed = np.cos(a)[:, None] * side + np.sin(a)[:, None] * up
    points = start + along[:, None, None] * axis + size[:, None, None] * ringed
    return points.reshape(-1, 3), grid_faces(8, 10, closed=True)


def hand(shape: np.ndarray, scene: Scene) -> Piece:
    """A hand on the face, with a forearm, as `scene.hand` describes it; its bones are capsules."""
    x, y, direction, size = (float(v) for v in scene.hand)
    base = _at(shape, round(x, 3), round(y, 3))[0]
    turn = np.radians(direction - np.sign(x) * 25)
    finger = np.array([np.sin(turn), -np.cos(turn), -0.1])
    across = np.array([np.cos(turn), np.sin(turn), 0.0])
    palm = base + np.array([0, 0, 0.12]) - 0.2 * finger
    bones = [  # start, end, radius at the start, radius at the end
        (
            palm - 0.25 * finger * size + k * across * 0.12 * size,
            palm + 0.25 * finger * size + k * across * 0.14 * size,
            0.12,
            0.1,
        )
        for k in (-1, 0, 1)
    ]
    for k, long in zip((-1.5, -0.5, 0.5, 1.5), (0.5, 0.62, 0.58, 0.42), strict=True):
        root = palm + 0.22 * finger * size + k * across * 0.115 * size
        bones.append((root, root + (finger + 0.06 * k * across) * long * size, 0.075, 0.055))
    thumb = palm - 0.1 * finger * size - np.sign(x or 1) * 0.2 * across * size
    bones.append((thumb, thumb + (0.75 * finger - np.sign(x or 1) * across * 0.6) * 0.42 * size, 0.085, 0.06))
    bones.append((palm - 0.3 * finger * size, palm - 1.8 * finger * size + np.array([0, 0.6, 0.1]), 0.17, 0.24))
    out, faces, count = [], [], 0
    for start, end, first, last in bones:
        points, cells = _capsule(start, end, first * size, last * size)
        out.append(points)
        faces.append(cells + count)
        count += len(points)
    return _piece(np.concatenate(out), np.concatenate(faces), Part.HAND)


def pieces(subject: Subject, scene: Scene, shape: np.ndarray) -> list[Piece]:
    """Everything that a scene adds to the bare head with vertices `shape` [V, 3] in head space."""
    out: list[Piece] = []
    if subject.hair_style == "long":
        out.append(long_hair(subject))
    if scene.glasses != "none":
        out += glasses(shape, scene)
    if scene.cap == "cap":
        out.append(peak(shape, scene.cap_low))
    if scene.mask:
        out += mask(shape)
    if scene.hand is not None:
        out.append(hand(shape, scene))
    if scene.wrap == "hood":
        out.append(hood(scene.background))
    elif scene.wrap != "none":
        out.append(neck_ring(scene.wrap, scene.background))
    return out
