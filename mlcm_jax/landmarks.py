"""Landmark layouts: how many points, which mirror which, where the eyes are, and maps between layouts. Numpy only.

Indices are 0-based. "left" and "right" are the *subject's*; the subject's right eye is on the left of the picture,
and every layout here names it first. Points are (x, y), x right, y down, pixel centres at integers.
"""

import dataclasses
import difflib
import itertools

import numpy as np

from mlcm_jax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """What the rest of the library has to know about a set of landmarks.

    Attributes:
      name: key in `LAYOUTS`.
      count: number of points K.
      groups: part of the face -> indices.
      flip: int32 [K]; in a mirrored picture, point i is the one that was `flip[i]`.
      eye_corners: indices of the outer eye corners (right, left) for the `outer_eyes` normaliser, or None.
      pupils: indices whose mean is the centre of the right eye, and the same of the left one, or None.
      edges: pairs of indices to draw as lines.
    """

    name: str
    count: int
    groups: dict[str, tuple[int, ...]]
    flip: np.ndarray
    eye_corners: tuple[int, int] | None
    pupils: tuple[tuple[int, ...], tuple[int, ...]] | None
    edges: tuple[tuple[int, int], ...]


def flip_permutation(count: int, pairs) -> np.ndarray:
    """int32 [count] that swaps each pair and leaves the other points where they are. Pairs must not share points."""
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


def _mirror(*sides) -> list[tuple[int, int]]:
    """Pairs out of (points of one side, their mirror images in the same order)."""
    return [pair for right, left in sides for pair in zip(right, left, strict=True)]


# The first 48 points of iBUG 68, shared by three layouts: jaw, brows, nose, eyes.
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
    """300W: Sagonas et al., "300 faces in-the-wild challenge", IVC 2016. Eye centres: means of six points, as there."""
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
    """T-FAKE and Face Synthetics: iBUG 68 with a 3-D jaw, then two pupils, in an order that touches no result here."""
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
    """WFLW: Wu et al., "Look at boundary", CVPR 2018. Brows: upper edge from the temple, back on the lower."""
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
    """COFW: Burgos-Artizzu et al., "Robust face landmark estimation under occlusion", ICCV 2013. Sides alternate.

    0, 1 outer and 2, 3 inner ends of the brows; 4, 5 upper and lower middle of the right brow, 6, 7 of the left one;
    8, 9 outer and 10, 11 inner eye corners; 12, 13 upper and lower lid of the right eye, 14, 15 of the left one; 16,
    17 pupils; 18, 19 sides of the nose, 20 its tip, 21 its base; 22, 23 mouth corners; 24-27 lips from top to bottom;
    28 chin.
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
    """TFW: right eye, left eye, nose tip, right and left mouth corner. Eyes are centres: there are no eye corners."""
    groups = {"right_eye": (0,), "left_eye": (1,), "nose": (2,), "outer_lips": (3, 4)}
    return Layout("tfw5", 5, groups, flip_permutation(5, [(0, 1), (3, 4)]), None, ((0,), (1,)), ((3, 4),))


LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (_ibug68(), _sf_tl54(), _wflw98(), _cofw29(), _tfake70(), _tfw5())
}


def get(name) -> Layout:
    """The layout of that name; a `Layout` is handed back as it is. Raises InputError with the nearest known name."""
    if isinstance(name, Layout):
        return name
    if name in LAYOUTS:
        return LAYOUTS[name]
    near = difflib.get_close_matches(str(name), LAYOUTS, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else "known are " + ", ".join(LAYOUTS) + "."
    raise InputError(f"Unknown landmark layout {name!r}; {hint}")


def check(points, layout) -> np.ndarray:
    """`points` as a numpy array [..., K, 2] of finite numbers; InputError says what is wrong with it otherwise."""
    layout = get(layout)
    try:
        points = np.asarray(points, dtype=None if isinstance(points, np.ndarray) else np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"Landmarks are not a list of x, y pairs: {error}.") from None
    if points.dtype.kind not in "fiu":
        raise InputError(f"Landmarks must be numbers, not {points.dtype}.")
    if points.ndim < 2 or points.shape[-2:] != (layout.count, 2):
        raise InputError(
            f"Landmarks have shape {points.shape}, but layout {layout.name} has {layout.count} points of x, y: "
            f"[{layout.count}, 2]."
        )
    if not np.isfinite(points).all():
        bad = np.argwhere(~np.isfinite(points).all(axis=-1))[0]
        raise InputError(f"Landmark {int(bad[-1])} is not a finite number.")
    return points


# WFLW -> 300W, the map every public comparison uses: every second jaw point, the upper edge of the brows, lids
# without their middle point, lips and nose as they are.
_WFLW_EYES = (60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75)
_WFLW_TO_IBUG = np.array(
    [*range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60), *_WFLW_EYES, *range(76, 96)]
)
_IBUG_TO_SF = np.array([*range(49), 51, 54, 57, 62, 66])
_PICKS = {
    ("ibug68", "sf_tl54"): _IBUG_TO_SF,
    ("tfake70", "ibug68"): np.arange(68),
    ("tfake70", "sf_tl54"): _IBUG_TO_SF,
    ("wflw98", "ibug68"): _WFLW_TO_IBUG,
    ("wflw98", "sf_tl54"): _WFLW_TO_IBUG[_IBUG_TO_SF],
}
_MOUTH_AND_NOSE = {"ibug68": (30, 48, 54), "tfake70": (30, 48, 54), "sf_tl54": (30, 48, 50), "wflw98": (54, 76, 82)}


def convert(points, source, target) -> np.ndarray:
    """The same faces in another layout, where that is a matter of picking points or of a mean.

    Well-defined are: a layout to itself, tfake70 and wflw98 to ibug68, these three to sf_tl54 (whose jaw differs from
    tfake70's on turned heads: 3-D there, outline here), and all four to tfw5 (an eye is the mean of its rim).

    Args:
      points: [..., K, 2] in `source`.
      source: name or Layout.
      target: name or Layout.

    Returns:
      [..., K', 2] of the same dtype.

    Raises:
      InputError: wrong shape, NaN, or a target that holds points the source does not have.
    """
    source, target = get(source), get(target)
    points = check(points, source)
    if source.name == target.name:
        return points.copy()
    if (source.name, target.name) in _PICKS:
        return points[..., _PICKS[source.name, target.name], :]
    if target.name == "tfw5" and source.name in _MOUTH_AND_NOSE:
        rims = [list(source.groups["right_eye"]), list(source.groups["left_eye"])]
        eyes = np.stack([points[..., rim, :].mean(axis=-2) for rim in rims], axis=-2)
        return np.concatenate([eyes, points[..., list(_MOUTH_AND_NOSE[source.name]), :]], axis=-2).astype(points.dtype)
    if target.count > source.count:
        reason = f"its {source.count} points do not hold what the {target.count} of {target.name} need"
    else:
        reason = f"no one-to-one map of its points onto those of {target.name} is defined"
    raise InputError(f"Landmarks cannot be converted from {source.name} to {target.name}: {reason}.")


def box_from_points(points) -> np.ndarray:
    """The face box that fits landmarks, by the convention of SF-TL54's `face`.

    The landmarks' extent plus margins of 4.5 % of the box's width on the left and on the right, 13.5 % of its height
    at the top and 4 % at the bottom; so the extent is 91 % of the width and 82.5 % of the height. Meant for layouts
    with brows and chin; a box of tfw5's five points is too tight.

    Args:
      points: [..., K, 2] in pixels.

    Returns:
      float32 [..., 4]: x, y, w, h.

    Raises:
      InputError: NaN, or all points on one horizontal or vertical line.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim < 2 or points.shape[-1] != 2 or points.shape[-2] == 0:
        raise InputError(f"Landmarks have shape {points.shape}, not [..., K, 2].")
    low, high = points.min(axis=-2), points.max(axis=-2)
    size = (high - low) / (0.91, 0.825)
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise InputError("No face box fits these landmarks: they hold NaN, or lie on one line.")
    return np.concatenate([low - size * (0.045, 0.135), size], axis=-1).astype(np.float32)
