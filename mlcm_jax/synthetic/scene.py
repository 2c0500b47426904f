"""Who is in an image and how it is taken: the first draws of a pair, as plain data without any geometry.

`generate` calls `sample_subject`, which draws a person, and `sample_scene`, which draws one moment of that person. All
other files read the two dataclasses. Lengths are in head units, angles in degrees, colours in linear RGB.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from mlcm_jax.synthetic.blendshapes import EXPRESSION, IDENTITY

HAIR_STYLES = ("bald", "buzz", "short", "fringe", "long", "receding", "tied")
BEARD_STYLES = ("none", "stubble", "full", "goatee", "moustache")
GLASSES = ("none", "clear", "sun")
CAPS = ("none", "cap", "beanie")
WRAPS = ("none", "hood", "scarf", "turtleneck", "collar")
NECKLINES = ("crew", "vee", "high", "collar")


@dataclasses.dataclass(frozen=True)
class Subject:
    """Everything constant for one person.

    Attributes:
        seed: of the noise in this person's skin and hair.
        identity: float32 [len(IDENTITY)], coefficients in standard deviations.
        age: 0 (young adult) to 1 (old).
        skin: float32 [3], linear RGB albedo of the skin.
        melanin: 0 (light) to 1 (dark).
        hair_style: one of `HAIR_STYLES`.
        hair_colour: linear RGB [3].
        hair_volume: thickness in head units.
        hairline: shift of the front hairline in head units, positive lowers it.
        brow_strength: darkness, 0 to 1.
        brow_width: thickness relative to the mean.
        beard_style: one of `BEARD_STYLES`.
        beard_strength: density, 0 to 1.
        eye_colour: linear RGB [3] of the iris.
        lip_colour: linear RGB [3].
        freckles: strength, 0 to 1.
        blemishes: strength, 0 to 1.
        redness: strength, 0 to 1.
        lashes: strength, 0 to 1, make-up included.
        wears_glasses: whether this person usually wears spectacles.
    """

    seed: int
    identity: np.ndarray
    age: float
    skin: np.ndarray
    melanin: float
    hair_style: str
    hair_colour: np.ndarray
    hair_volume: float
    hairline: float
    brow_strength: float
    brow_width: float
    beard_style: str
    beard_strength: float
    eye_colour: np.ndarray
    lip_colour: np.ndarray
    freckles: float
    blemishes: float
    redness: float
    lashes: float
    wears_glasses: bool


@dataclasses.dataclass(frozen=True)
class Light:
    """A directional light.

    Attributes:
        direction: float32 [3], unit vector towards the light in camera space.
        colour: float32 [3], linear RGB.
    """

    direction: np.ndarray
    colour: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scene:
    """One moment: expression, pose, camera, accessories, light.

    Attributes:
        expression: float32 [len(EXPRESSION)], 0 to 1, and -1 to 1 for movements to a side.
        lids: float32 [2], opening of the eye on image left and on image right; 0 shut, 1 mean, 1.4 wide.
        gaze: float32 [2], shift of the irises to image right and down, head units.
        pose: float32 [3], yaw, pitch, roll in degrees (signs as in `gbuffer.Truth`).
        torso_yaw: yaw of the torso, degrees.
        distance: from the camera to the origin of the head, head units.
        fill: longer side of the landmarks' box as a share of the image.
        centre: float32 [2], centre of the landmarks' box in u.
        glasses: one of `GLASSES`.
        glasses_shape: float32 [4] or [8], half width, half height, exponent of the superellipse, thickness of the
            frame; also by how much the lens narrows downwards, its slant, how far down the nose it sits, and how far
            beside the eye its middle lies.
        glasses_colour: linear RGB [3].
        cap: one of `CAPS`.
        cap_colour: linear RGB [3].
        mask: whether a mask covers nose, mouth and chin.
        mask_colour: linear RGB [3].
        neckline: one of `NECKLINES`.
        clothes_colour: linear RGB [3].
        hand: None, or float32 [4]: template (x, y) of a hand on the face, direction of its fingers in degrees, size.
        lights: up to three; only the first casts shadows.
        ambient: linear RGB [3] of the ambient light.
        illumination: level of the visible light, 0 (nearly dark) to 1 (bright).
        background: seed of the background in visible light, of the cloth's pattern and of what lenses mirror.
        blur: standard deviation of the lens blur as a share of the image's side.
        noise: standard deviation of sensor noise at full exposure, in [0, 1] units.
        cast: float32 [3], colour cast (gain per channel).
        jpeg: quality of the encoding, or 0 for none.
        blend: weights of the expressions of scan-based heads by their ARKit names; the hand-made head does not read it.
        wrap: cloth round the head, one of `WRAPS`; only drawn with scan-based heads.
        shoulders: width of the shoulders relative to the mean.
        cap_low: how far below its usual place the front of a cap sits, head units.
    """

    expression: np.ndarray
    lids: np.ndarray
    gaze: np.ndarray
    pose: np.ndarray
    torso_yaw: float
    distance: float
    fill: float
    centre: np.ndarray
    glasses: str
    glasses_shape: np.ndarray
    glasses_colour: np.ndarray
    cap: str
    cap_colour: np.ndarray
    mask: bool
    mask_colour: np.ndarray
    neckline: str
    clothes_colour: np.ndarray
    hand: np.ndarray | None
    lights: tuple[Light, ...]
    ambient: np.ndarray
    illumination: float
    background: int
    blur: float
    noise: float
    cast: np.ndarray
    jpeg: int
    blend: Mapping[str, float] = dataclasses.field(default_factory=dict)
    wrap: str = "none"
    shoulders: float = 1.0
    cap_low: float = 0.0


def expressed(scene: Scene, name: str) -> float:
    """The coefficient of an expression named in `blendshapes.EXPRESSION`."""
    return float(scene.expression[EXPRESSION.index(name)])


def _f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def _skin(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Linear albedo [3] from very light to very dark, with some undertone, and the melanin from which it follows."""
    melanin = float(rng.beta(1.1, 1.4))
    tones = np.array(
        [[0.80, 0.56, 0.45], [0.68, 0.43, 0.31], [0.50, 0.28, 0.18], [0.30, 0.155, 0.09], [0.14, 0.07, 0.045]]
    )
    tone = np.stack([np.interp(melanin, np.linspace(0, 1, len(tones)), tones[:, k]) for k in range(3)])
    tone = tone * np.exp(rng.normal(0, [0.03, 0.045, 0.06]))
    return np.clip(tone, 0.02, 0.92).astype(np.float32), melanin


def _hair_colour(rng: np.random.Generator, melanin: float, age: float) -> np.ndarray:
    colours = np.array(
        [[0.015, 0.012, 0.01], [0.04, 0.025, 0.016], [0.09, 0.05, 0.028], [0.3, 0.19, 0.09], [0.22, 0.07, 0.025]]
    )
    fair = (1 - melanin) ** 1.5
    weights = np.array([0.5, 0.3, 0.35 * fair, 0.3 * fair, 0.1 * fair])
    colour = colours[rng.choice(5, p=weights / weights.sum())] * np.exp(rng.normal(0, 0.25))
    grey = np.clip(rng.normal(2.4 * age - 1.45, 0.3), 0, 1)
    return ((1 - grey) * colour + grey * np.array([0.42, 0.41, 0.4])).astype(np.float32)


@functools.lru_cache(maxsize=4)  # several pairs in a row show one person
def sample_subject(seed: int, subject: int) -> Subject:
    """Person number `subject` of the set `seed`; the same on every machine. Its arrays must not be changed."""
    rng = np.random.default_rng([seed, 1, subject])
    feminine = rng.random() < 0.5
    age = float(rng.beta(1.3, 2.0))
    skin, melanin = _skin(rng)
    identity = np.clip(rng.normal(0, 1, len(IDENTITY)), -2.3, 2.3)
    shift = {
        "jaw_width": -0.5,
        "brow_ridge": -0.8,
        "jaw_square": -0.5,
        "lip_thickness": 0.4,
        "neck": -1.0,
        "nose_width": -0.3,
    }
    for name, value in shift.items():
        identity[IDENTITY.index(name)] += value if feminine else -value
    identity[IDENTITY.index("nose_width")] += 1.2 * (melanin - 0.4)
    identity[IDENTITY.index("lip_thickness")] += 1.2 * (melanin - 0.4)
    identity[IDENTITY.index("age")] = 2.2 * age - 0.5
    hair = rng.choice(
        HAIR_STYLES, p=[0.02, 0.03, 0.2, 0.2, 0.35, 0.0, 0.2] if feminine else [0.1, 0.16, 0.42, 0.1, 0.07, 0.13, 0.02]
    )
    beard = "none" if feminine else rng.choice(BEARD_STYLES, p=[0.42, 0.24, 0.17, 0.1, 0.07])
    eyes = np.array([[0.04, 0.02, 0.01], [0.09, 0.045, 0.02], [0.13, 0.22, 0.36], [0.15, 0.2, 0.1], [0.2, 0.22, 0.24]])
    fair = max(0.0, 0.7 - melanin)
    weights = np.array([0.4 + melanin, 0.4, fair, 0.5 * fair, 0.4 * fair])
    lip = skin * np.array([0.92, 0.62, 0.68]) + np.array([0.02, 0, 0.01])
    if feminine and rng.random() < 0.4:
        lip = 0.5 * lip + 0.5 * np.array([0.45, 0.05, 0.08])
    return Subject(
        seed=int(rng.integers(2**31)),
        identity=identity.astype(np.float32),
        age=age,
        skin=skin,
        melanin=melanin,
        hair_style=str(hair),
        hair_colour=_hair_colour(rng, melanin, age),
        hair_volume=float(rng.uniform(0.06, 0.2)),
        hairline=float(rng.normal(0, 0.05)),
        brow_strength=float(np.clip(rng.normal(0.75, 0.18), 0.25, 1.0)),
        brow_width=float(np.clip(rng.normal(0.8 if feminine else 1.1, 0.18), 0.5, 1.6)),
        beard_style=str(beard),
        beard_strength=float(rng.uniform(0.4, 1.0)),
        eye_colour=(eyes[rng.choice(5, p=weights / weights.sum())] * np.exp(rng.normal(0, 0.2))).astype(np.float32),
        lip_colour=np.clip(lip, 0.02, 0.8).astype(np.float32),
        freckles=float(rng.random() ** 3 * (1 - melanin)),
        blemishes=float(rng.random() ** 2),
        redness=float(rng.random() * (1 - 0.7 * melanin)),
        lashes=float(rng.uniform(0.5, 1.0) if feminine else rng.uniform(0.2, 0.6)),
        wears_glasses=bool(rng.random() < 0.3),
    )


def _expression(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients [len(EXPRESSION)] and lid openings [2]: mostly mild, sometimes strong."""
    value = dict.fromkeys(EXPRESSION, 0.0)
    strength = rng.choice([0.25, 0.6, 1.0], p=[0.4, 0.35, 0.25])
    for name in rng.choice(EXPRESSION, size=4, replace=False):
        value[name] = float(strength * rng.random())
    if rng.random() < 0.35:
        value["smile"] = float(rng.random())
    if rng.random() < 0.4:
        value["jaw"] = float(rng.random() ** 1.7)
    for name in ("jaw_side", "smile_side"):
        value[name] *= float(rng.choice([-1, 1]))
    if value["pucker"] > 0.3:
        value["smile"] *= 0.2
    value["press"] *= 1 - min(1.0, 3 * value["jaw"])
    opening = rng.choice(["open", "shut", "half", "wide"], p=[0.68, 0.1, 0.12, 0.1])
    lids = {"open": rng.normal(1, 0.12), "shut": 0.0, "half": rng.uniform(0.15, 0.7), "wide": rng.uniform(1.15, 1.45)}[
        str(opening)
    ]
    lids = np.full(2, lids - 0.15 * value["smile"] - 0.2 * value["squint"] + 0.1 * value["brow_raise"])
    if rng.random() < 0.04:
        lids[rng.integers(2)] = 0.0  # a wink
    return np.array([value[n] for n in EXPRESSION], np.float32), np.clip(lids, 0, 1.5).astype(np.float32)


def _pose(rng: np.random.Generator, frontal: bool) -> np.ndarray:
    """Yaw, pitch, roll in degrees: a narrow and a wide normal distribution, and a uniform one up to the limits."""
    kind = "front" if frontal else rng.choice(["front", "wide", "uniform"], p=[0.35, 0.35, 0.3])
    if kind == "front":
        yaw, pitch, roll = rng.normal(0, [8, 6, 5])
        if frontal:
            yaw = np.clip(yaw, -19, 19)
    elif kind == "wide":
        yaw, pitch, roll = rng.normal(0, [25, 10, 9])
    else:
        yaw, pitch, roll = rng.uniform([-60, -25, -25], [60, 25, 25])
    return np.clip([yaw, pitch, roll], [-60, -25, -25], [60, 25, 25]).astype(np.float32)


def _lights(rng: np.random.Generator, well_lit: bool) -> tuple[tuple[Light, ...], np.ndarray, float]:
    """Directional lights, ambient colour [3] and illumination.

    The illumination is kept apart from the lights' colours, because `rgb.develop` turns it into the exposure.
    """
    illumination = (
        float(rng.uniform(0.75, 1.0))
        if well_lit
        else float(rng.choice([rng.uniform(0.5, 1), rng.uniform(0, 0.5)], p=[0.76, 0.24]))
    )
    lights = []
    for k in range(int(rng.integers(1, 4))):
        azimuth, height = rng.normal(0, 30 if well_lit else 55), rng.normal(25, 12 if well_lit else 25)
        a, h = np.radians(azimuth), np.radians(np.clip(height, -40, 80))
        warm = rng.normal(0, 0.12)
        colour = np.array([1 + warm, 1.0, 1 - 1.2 * warm]) * rng.uniform(0.5, 1.0) * (0.9 if k == 0 else 0.45)
        direction = np.array([np.sin(a) * np.cos(h), -np.sin(h), np.cos(a) * np.cos(h)])
        lights.append(Light(direction.astype(np.float32), np.clip(colour, 0, None).astype(np.float32)))
    warm = rng.normal(0, 0.06)
    ambient = np.array([1 + warm, 1.0, 1 - warm]) * rng.uniform(0.25 if well_lit else 0.08, 0.5)
    return tuple(lights), ambient.astype(np.float32), illumination


def sample_scene(rng: np.random.Generator, subject: Subject, *, frontal: bool = False, well_lit: bool = False) -> Scene:
    """Draws one moment of a subject.

    Args:
        rng: draws everything; the moment's own stream.
        subject: decides how likely spectacles are.
        frontal: whether to keep |yaw| below 20° and leave out hands and masks.
        well_lit: whether to keep the visible light bright and, with `frontal`, leave out sunglasses.

    Returns:
        The scene.
    """
    expression, lids = _expression(rng)
    pose = _pose(rng, frontal)
    lights, ambient, illumination = _lights(rng, well_lit)
    glasses = rng.choice(GLASSES, p=[0.1, 0.85, 0.05] if subject.wears_glasses else [0.93, 0.01, 0.06])
    if frontal and well_lit and glasses == "sun":
        glasses = "clear"
    cover = "none" if frontal else rng.choice(["none", "hand", "mask"], p=[0.85, 0.08, 0.07])
    place = [[0.35, 0.9], [-0.35, 0.9], [0.0, 1.05], [0.6, 0.4], [-0.6, 0.4], [0.0, 0.75], [0.4, -0.3], [-0.4, -0.3]]
    spot = np.array(place[rng.integers(len(place))]) + rng.normal(0, 0.08, 2)
    hand = _f32(*spot, rng.normal(0, 25), rng.uniform(0.8, 1.1)) if cover == "hand" else None
    dark = rng.random() < 0.5
    clothes = rng.uniform(0.02, 0.25, 3) if dark else rng.uniform(0.1, 0.85, 3)
    masks = np.array([[0.75, 0.8, 0.85], [0.35, 0.6, 0.75], [0.03, 0.03, 0.03], [0.5, 0.2, 0.3]])
    return Scene(
        expression=expression,
        lids=lids,
        gaze=_f32(*np.clip(rng.normal(0, [0.03, 0.012]), -0.07, 0.07)),
        pose=pose,
        torso_yaw=float(pose[0] * rng.uniform(0, 0.6)),
        distance=float(rng.uniform(7, 26)),
        fill=float(rng.uniform(0.45, 0.75)),
        centre=(0.5 + rng.uniform(-0.08, 0.08, 2)).astype(np.float32),
        glasses=str(glasses),
        glasses_shape=_f32(
            rng.uniform(0.24, 0.29), rng.uniform(0.14, 0.22), rng.uniform(2, 5), rng.uniform(0.008, 0.03)
        ),
        glasses_colour=(rng.uniform(0.01, 0.06, 3) if rng.random() < 0.7 else rng.uniform(0.05, 0.5, 3)).astype(
            np.float32
        ),
        cap=str(rng.choice(CAPS, p=[0.9, 0.06, 0.04])),
        cap_colour=rng.uniform(0.02, 0.6, 3).astype(np.float32),
        mask=bool(cover == "mask"),
        mask_colour=masks[rng.integers(len(masks))].astype(np.float32),
        neckline=str(rng.choice(NECKLINES, p=[0.5, 0.2, 0.1, 0.2])),
        clothes_colour=clothes.astype(np.float32),
        hand=hand,
        lights=lights,
        ambient=ambient,
        illumination=illumination,
        background=int(rng.integers(2**31)),
        blur=float(rng.gamma(1.5, 0.0012) if well_lit else rng.gamma(1.5, 0.0025)),
        noise=float(rng.uniform(0.002, 0.012) if well_lit else rng.uniform(0.002, 0.04)),
        cast=np.exp(rng.normal(0, 0.05, 3)).astype(np.float32),
        jpeg=int(rng.integers(55, 98)) if rng.random() < 0.8 else 0,
    )
