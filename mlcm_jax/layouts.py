"""Landmark layouts: how many points they have, which mirror which, and where the eyes are. Needs numpy only.

Indices are 0-based. "left" and "right" are the *subject's*; the subject's right eye is on the left of the image, and
every layout here names it first.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from mlcm_jax.errors import InputError, did_you_mean


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """A set of landmarks: their number, groups, mirror images, eyes and lines.

    Attributes:
        name: key in `LAYOUTS`, or a name that the user chose.
        count: number of points K.
        groups: part of the face -> indices.
        flip: int32 [K]; point i of the mirrored image is point `flip[i]` of the original.
        eye_corners: indices of the outer eye corners (right, left) for the `outer_eyes` normaliser, or None.
        pupils: the indices whose mean is the centre of the right eye, and those for the left eye; or None.
        edges: pairs of indices to draw as lines.
    """

    name: str
    count: int
    groups: dict[str, tuple[int, ...]]
    flip: np.ndarray
    eye_corners: tuple[int, int] | None
    pupils: tuple[tuple[int, ...], tuple[int, ...]] | None
    edges: tuple[tuple[int, int], ...]


def flip_permutation(count: int, pairs: ArrayLike) -> np.ndarray:
    """Read-only int32 [count] that swaps each pair and leaves the other points where they are.

    Raises:
        InputError: pairs that share a point, or name one that does not exist.
    """
    flip = np.arange(count, dtype=np.int32)
    pairs = np.asarray(pairs, dtype=np.int32).reshape(-1, 2)
    if pairs.size and (pairs.min() < 0 or pairs.max() >= count or len(np.unique(pairs)) != pairs.size):
        raise InputError(f"flip pairs must be distinct indices below {count}")
    flip[pairs[:, 0]], flip[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    flip.setflags(write=False)
    return flip


def _span(first: int, last: int) -> tuple[int, ...]:
    """Indices from first to last, both included, upwards or downwards."""
    return tuple(range(first, last + 1)) if first <= last else tuple(range(first, last - 1, -1))


def _chain(*points: int, closed: bool = False) -> tuple[tuple[int, int], ...]:
    pairs = tuple(itertools.pairwise(points))
    return (*pairs, (points[-1], points[0])) if closed else pairs


def _mirror(*sides: tuple[Sequence[int], Sequence[int]]) -> list[tuple[int, int]]:
    """Flip pairs from tuples (points of one side, their mirror images in the same order)."""
    return [pair for right, left in sides for pair in zip(right, left, strict=True)]


# The first 48 points of iBUG 68 (jaw, brows, nose, eyes), which other layouts share.
_FACE = {
    "jaw": _span(0, 16),
    "right_brow": _span(17, 21),
    "left_brow": _span(22, 26),
    "nose": _span(27, 35),
    "right_eye": _span(36, 41),
    "left_eye": _span(42, 47),
}
_FACE_PAIRS = _mirror(
    (_span(0, 7), _span(16, 9)),
    (_span(17, 21), _span(26, 22)),
    ((31, 32), (35, 34)),
    ((36, 37, 38, 39, 40, 41), (45, 44, 43, 42, 47, 46)),
)
_FACE_EDGES = (
    *_chain(*_FACE["jaw"]),
    *_chain(*_FACE["right_brow"]),
    *_chain(*_FACE["left_brow"]),
    *_chain(*_span(27, 30)),
    *_chain(*_span(31, 35)),
    *_chain(*_FACE["right_eye"], closed=True),
    *_chain(*_FACE["left_eye"], closed=True),
)
_FACE_PUPILS = (_FACE["right_eye"], _FACE["left_eye"])
_LIPS = {"outer_lips": _span(48, 59), "inner_lips": _span(60, 67)}
_LIPS_PAIRS = _mirror(((48, 49, 50, 59, 58), (54, 53, 52, 55, 56)), ((60, 61, 67), (64, 63, 65)))
_LIPS_EDGES = (*_chain(*_LIPS["outer_lips"], closed=True), *_chain(*_LIPS["inner_lips"], closed=True))


def _ibug68() -> Layout:
    """300W: Sagonas et al., "300 faces in-the-wild challenge", IVC 2016. Eye centres are means of six points."""
    return Layout(
        "ibug68",
        68,
        {**_FACE, **_LIPS},
        flip_permutation(68, _FACE_PAIRS + _LIPS_PAIRS),
        (36, 45),
        _FACE_PUPILS,
        _FACE_EDGES + _LIPS_EDGES,
    )


def _tfake70() -> Layout:
    """T-FAKE and Face Synthetics: iBUG 68 with a 3-D jaw, then two pupils, whose order affects no result."""
    return Layout(
        "tfake70",
        70,
        {**_FACE, **_LIPS, "pupils": (68, 69)},
        flip_permutation(70, [*_FACE_PAIRS, *_LIPS_PAIRS, (68, 69)]),
        (36, 45),
        ((68,), (69,)),
        _FACE_EDGES + _LIPS_EDGES,
    )


def _sf_tl54() -> Layout:
    """SF-TL54: Kuzdeuov et al., "SF-TL54: a thermal facial landmark dataset with visual pairs", SII 2022."""
    lips = {"outer_lips": (48, 49, 50, 51), "inner_lips": (52, 53)}
    return Layout(
        "sf_tl54",
        54,
        {**_FACE, **lips},
        flip_permutation(54, [*_FACE_PAIRS, (48, 50)]),
        (36, 45),
        _FACE_PUPILS,
        (*_FACE_EDGES, *_chain(48, 49, 50, 51, closed=True), *_chain(48, 52, 50, 53, closed=True)),
    )


def _wflw98() -> Layout:
    """WFLW: Wu et al., "Look at boundary", CVPR 2018. Brows run along the upper edge, then back along the lower."""
    groups = {
        "jaw": _span(0, 32),
        "right_brow": _span(33, 41),
        "left_brow": _span(42, 50),
        "nose": _span(51, 59),
        "right_eye": _span(60, 67),
        "left_eye": _span(68, 75),
        "outer_lips": _span(76, 87),
        "inner_lips": _span(88, 95),
        "pupils": (96, 97),
    }
    pairs = _mirror(
        (_span(0, 15), _span(32, 17)),
        (_span(33, 37), _span(46, 42)),
        (_span(38, 41), _span(50, 47)),
        ((55, 56), (59, 58)),
        (_span(60, 64), _span(72, 68)),
        (_span(65, 67), _span(75, 73)),
        ((76, 77, 78, 87, 86), (82, 81, 80, 83, 84)),
        ((88, 89, 95), (92, 91, 93)),
        ((96,), (97,)),
    )
    closed = ("right_brow", "left_brow", "right_eye", "left_eye", "outer_lips", "inner_lips")
    edges = (
        *_chain(*groups["jaw"]),
        *_chain(*_span(51, 54)),
        *_chain(*_span(55, 59)),
        *(edge for name in closed for edge in _chain(*groups[name], closed=True)),
    )
    return Layout("wflw98", 98, groups, flip_permutation(98, pairs), (60, 72), ((96,), (97,)), edges)


def _cofw29() -> Layout:
    """COFW: Burgos-Artizzu et al., "Robust face landmark estimation under occlusion", ICCV 2013.

    Right and left alternate: 0, 1 outer and 2, 3 inner ends of the brows; 4, 5 upper and lower middle of the right
    brow, 6, 7 of the left one; 8, 9 outer and 10, 11 inner eye corners; 12, 13 upper and lower lid of the right eye,
    14, 15 of the left one; 16, 17 pupils; 18, 19 sides of the nose, 20 its tip, 21 its base; 22, 23 mouth corners;
    24-27 lips from top to bottom; 28 chin.
    """
    groups = {
        "right_brow": (0, 4, 2, 5),
        "left_brow": (1, 6, 3, 7),
        "right_eye": (8, 12, 10, 13),
        "left_eye": (9, 14, 11, 15),
        "pupils": (16, 17),
        "nose": (18, 19, 20, 21),
        "outer_lips": (22, 24, 23, 27),
        "inner_lips": (25, 26),
        "chin": (28,),
    }
    pairs = [(0, 1), (2, 3), (4, 6), (5, 7), (8, 9), (10, 11), (12, 14), (13, 15), (16, 17), (18, 19), (22, 23)]
    closed = ("right_brow", "left_brow", "right_eye", "left_eye", "outer_lips")
    edges = (
        *(edge for name in closed for edge in _chain(*groups[name], closed=True)),
        *_chain(18, 21, 19),
        *_chain(22, 25, 23, 26, closed=True),
    )
    return Layout("cofw29", 29, groups, flip_permutation(29, pairs), (8, 9), ((16,), (17,)), edges)


def _tfw5() -> Layout:
    """TFW: centres of the right and the left eye, tip of the nose, right and left mouth corner. No eye corners."""
    groups = {"right_eye": (0,), "left_eye": (1,), "nose": (2,), "outer_lips": (3, 4)}
    return Layout("tfw5", 5, groups, flip_permutation(5, [(0, 1), (3, 4)]), None, ((0,), (1,)), ((3, 4),))


def _charlotte73() -> Layout:
    """Charlotte-ThermalFace, frontal: iBUG 68, then the forehead from the subject's right temple to the left one.

    Ashrafi et al., "Charlotte-ThermalFace: a fully annotated thermal infrared face dataset", 2022. The order was
    inferred from the published files.
    """
    whole = _ibug68()
    pairs = [(i, int(j)) for i, j in enumerate(whole.flip) if i < j]
    return Layout(
        "charlotte73",
        73,
        {**whole.groups, "forehead": _span(68, 72)},
        flip_permutation(73, [*pairs, (68, 72), (69, 71)]),
        whole.eye_corners,
        whole.pupils,
        (*whole.edges, *_chain(*_span(68, 72))),
    )


def _charlotte43() -> Layout:
    """Charlotte-ThermalFace, profile; the order was inferred from the published files.

    All points lie on the visible side of the face, and their order is the same for both sides. Mirroring turns a
    profile of one side into one of the other, so that every point keeps its index.
    """
    groups = {
        "jaw": _span(0, 11),  # from the ear down and along to the chin
        "brow": _span(12, 15),  # from the temple to the nose
        "nose": _span(16, 21),  # bridge 16 to 18, tip 19, base 20 and 21
        "eye": _span(22, 26),  # front 22, upper lid 23, outer corner 24, lower lid 25, front 26
        "outer_lips": _span(27, 33),  # from the front around the corner (30) back to the front
        "inner_lips": _span(34, 38),  # likewise; the corner is 36
        "forehead": _span(39, 42),  # from the temple over the top to the brow
    }
    edges = tuple(edge for points in groups.values() for edge in _chain(*points))
    return Layout("charlotte43", 43, groups, flip_permutation(43, []), None, None, edges)


def _part(name: str, whole: Layout, points: Sequence[int]) -> Layout:
    """The layout of some points of another one, in the order given.

    The centre of an eye is the mean of those points of its rim that are kept.
    """
    place = {old: new for new, old in enumerate(points)}

    def kept(indices: Iterable[int]) -> tuple[int, ...]:
        return tuple(place[i] for i in indices if i in place)

    groups = {key: kept(group) for key, group in whole.groups.items() if kept(group)}
    pairs = [kept((i, int(whole.flip[i]))) for i in points if whole.flip[i] > i]
    edges = tuple(kept(edge) for edge in whole.edges if len(kept(edge)) == 2)
    pupils = (groups["right_eye"], groups["left_eye"])
    return Layout(name, len(place), groups, flip_permutation(len(place), pairs), kept(whole.eye_corners), pupils, edges)


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (_ibug68(), _sf_tl54(), _wflw98(), _cofw29(), _tfake70(), _tfw5(), _charlotte73(), _charlotte43())
}
# iBUG 68 without the jaw (300W's "without contour"): point i is iBUG's 17 + i.
LAYOUTS["ibug51"] = _part("ibug51", LAYOUTS["ibug68"], range(17, 68))
# The 17 points that iBUG 68 and COFW both mark, in COFW's order, to score a model of one on a dataset of the other:
# brow ends, eye corners, tip and base of the nose, mouth corners, lips from top to bottom, chin. iBUG has no brow
# edges, lid middles or pupils, and marks the sides of the nose at the nostrils, where COFW marks its widest places.
COFW_TO_COMMON = (0, 1, 2, 3, 8, 9, 10, 11, 20, 21, 22, 23, 24, 25, 26, 27, 28)
LAYOUTS["common17"] = _part("common17", LAYOUTS["cofw29"], COFW_TO_COMMON)
# No landmarks: the middles of the left, right, upper and lower side of up to six boxes, which `detection` finds.
_BOXES = [_span(4 * k, 4 * k + 3) for k in range(6)]
LAYOUTS["boxes6"] = Layout(
    "boxes6",
    24,
    {f"box_{k}": box for k, box in enumerate(_BOXES, start=1)},
    flip_permutation(24, [box[:2] for box in _BOXES]),
    None,
    None,
    tuple((box[a], box[b]) for box in _BOXES for a, b in ((0, 2), (2, 1), (1, 3), (3, 0))),
)


def get(name: str | Layout) -> Layout:
    """The layout of that name; a `Layout` is returned as it is.

    Raises:
        InputError: an unknown name; the message suggests the nearest known one.
    """
    if isinstance(name, Layout):
        return name
    if name in LAYOUTS:
        return LAYOUTS[name]
    raise InputError(f"Unknown landmark layout {name!r}; {did_you_mean(name, LAYOUTS)}")
