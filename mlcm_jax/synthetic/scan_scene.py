"""What is drawn differently for scan-based heads: identity, expressions, poses, spectacles, cloth round the head.

`generate` calls `sample_subject` and `sample_scene` in place of those of `scene`; `scan_head` calls `identity` and
`brow_shift`. Everything that is not drawn here is drawn as for the hand-made head.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from mlcm_jax.synthetic import scene as scene_lib
from mlcm_jax.synthetic.anatomy import EYE_CENTRE
from mlcm_jax.synthetic.blendshapes import EXPRESSION
from mlcm_jax.synthetic.scan_rig import WIDENED
from mlcm_jax.synthetic.scene import Scene, Subject

_IDENTITY, _BROWS = 0x5CA, 0xB20  # separate the draws of a person's shape from those of skin and hair
MAX_YAW = 70.0

# Expressions beside smiles, yawns and speech: probability, largest weight, whether both sides move together.
_OTHER = {
    "mouthFrown": (0.1, 1.0, True), "mouthFunnel": (0.08, 1.0, False), "mouthPucker": (0.08, 1.0, False),
    "mouthPress": (0.1, 1.0, True), "mouthRollLower": (0.06, 0.8, False), "mouthRollUpper": (0.06, 0.8, False),
    "mouthShrugLower": (0.08, 0.8, False), "mouthShrugUpper": (0.06, 0.8, False), "mouthStretch": (0.1, 1.0, True),
    "mouthUpperUp": (0.1, 0.9, True), "mouthLowerDown": (0.1, 1.0, True), "noseSneer": (0.12, 0.8, True),
    "browDown": (0.18, 1.0, True), "browInnerUp": (0.18, 1.0, True), "browOuterUp": (0.15, 1.0, True),
    "eyeSquint": (0.2, 1.0, True), "cheekPuff": (0.05, 0.8, True), "jawForward": (0.05, 0.6, False),
}  # fmt: skip


class Identity(NamedTuple):
    """Shape of one person.

    Attributes:
        modes: float32 [N], coefficients of the model's modes in standard deviations.
        widened: float32 [len(WIDENED) + 1], coefficients of `Rig.widened`.
    """

    modes: np.ndarray
    widened: np.ndarray


def identity(seed: int, bearded: bool, modes: int) -> Identity:
    """The shape of the person with `Subject.seed` seed; `modes` is how many modes the rig has."""
    rng = np.random.default_rng([_IDENTITY, seed])
    coefficients = np.clip(rng.normal(0, 1, modes), -2.6, 2.6).astype(np.float32)
    extra = rng.normal(0, 0.8, len(WIDENED))
    extra[WIDENED.index("neck")] += 0.8 if bearded else 0.0
    # Few people have a heavy chin; it comes with full cheeks and a thick neck.
    full = float(rng.gamma(1.2, 0.4)) if rng.random() < 0.5 else 0.0
    full = min(full, 1.6)
    extra[WIDENED.index("cheeks")] += 0.5 * full
    extra[WIDENED.index("neck")] += 1.2 * full
    return Identity(coefficients, np.append(np.clip(extra, -2.5, 3.0), full).astype(np.float32))


def brow_shift(seed: int, x: np.ndarray) -> np.ndarray:
    """Where the brows of the person with `Subject.seed` seed lie compared with the mean's.

    Args:
        seed: of the person.
        x: signed template x [N].

    Returns:
        Shift to image right and down, head units [N, 2].
    """
    rng = np.random.default_rng([_BROWS, seed])
    height, tilt, arch = rng.normal(0, [0.03, 0.018, 0.012])
    side = rng.normal(0, 0.008, 2)
    apart, longer = rng.normal(0, [0.022, 0.014])
    ax = np.abs(x)
    down = height + tilt * (ax - 0.4) / 0.27 + arch * np.exp(-0.5 * ((ax - 0.47) / 0.12) ** 2)
    down = np.clip(down, -0.07, 0.055) + np.where(x < 0, side[0], side[1])
    outwards = np.clip(apart + longer * (ax - 0.4) / 0.27, -0.05, 0.05)
    return np.stack([np.sign(x) * outwards, down], -1)


@functools.lru_cache(maxsize=4)
def sample_subject(seed: int, subject: int) -> Subject:
    """A person as `scene.sample_subject` draws it, but oftener without hair on the crown."""
    who = scene_lib.sample_subject(seed, subject)
    rng = np.random.default_rng([_IDENTITY, who.seed, 1])
    if who.hair_style in ("short", "buzz") and rng.random() < 0.35:
        style = str(rng.choice(["bald", "receding", "buzz"]))
        return dataclasses.replace(who, hair_style=style, age=max(who.age, 0.3))
    return who


def sample_scene(rng: np.random.Generator, subject: Subject, *, frontal: bool = False, well_lit: bool = False) -> Scene:
    """Draws one moment of a subject with a scan-based head; the arguments are those of `scene.sample_scene`."""
    view = scene_lib.sample_scene(rng, subject, frontal=frontal, well_lit=well_lit)
    blend = _expression(rng)
    pose = view.pose if frontal else _pose(rng)
    glasses = view.glasses
    if glasses == "none" and not (frontal and well_lit) and rng.random() < 0.1:
        glasses = "sun"
    return dataclasses.replace(
        view,
        pose=pose,
        torso_yaw=float(pose[0] * rng.uniform(-0.1, 0.7)),
        blend=blend,
        # Paint of the skin reads the hand-made head's coefficients: the lids' crease at rest, folds by expression.
        lids=np.ones(2, np.float32),
        gaze=np.zeros(2, np.float32),
        expression=_folds(blend),
        glasses=glasses,
        glasses_shape=_glasses_shape(rng, glasses),
        neckline=str(rng.choice(scene_lib.NECKLINES, p=[0.35, 0.2, 0.15, 0.3])),
        wrap=str(rng.choice(scene_lib.WRAPS, p=[0.72, 0.05, 0.06, 0.05, 0.12])) if not frontal else "none",
        shoulders=float(rng.uniform(1.0, 1.4)),
    )


def _pose(rng: np.random.Generator) -> np.ndarray:
    """Yaw, pitch, roll float32 [3] in degrees: frontal, three-quarter views of either side, and anything."""
    kind = rng.choice(["front", "turned", "uniform"], p=[0.3, 0.45, 0.25])
    if kind == "front":
        yaw, pitch, roll = rng.normal(0, [9, 10, 5])
    elif kind == "turned":
        yaw = rng.choice([-1, 1]) * rng.uniform(12, 52)
        pitch, roll = rng.normal([3, 0], [12, 8])  # cameras in cars and kiosks look up more often than down
    else:
        yaw, pitch, roll = rng.uniform([-MAX_YAW, -28, -25], [MAX_YAW, 28, 25])
    return np.clip([yaw, pitch, roll], [-MAX_YAW, -30, -28], [MAX_YAW, 30, 28]).astype(np.float32)


def _glasses_shape(rng: np.random.Generator, glasses: str) -> np.ndarray:
    """`Scene.glasses_shape`, float32 [8]: large spectacles are common, and sunglasses have every shape.

    A head unit is 90 mm. Lenses are 46 to 56 mm wide, those of sunglasses 50 to 66 mm, and 14 to 22 mm apart, so that
    their middles lie farther out than the eyes.
    """
    if glasses == "sun":
        width, height = rng.uniform(0.28, 0.365), rng.uniform(0.14, 0.28)
        power, thick = rng.uniform(1.8, 6), rng.choice([rng.uniform(0.006, 0.02), rng.uniform(0.02, 0.055)])
    else:
        width, height = rng.uniform(0.255, 0.31), rng.uniform(0.12, 0.24)
        power, thick = rng.uniform(1.9, 6), rng.choice([rng.uniform(0.004, 0.015), rng.uniform(0.015, 0.04)])
    taper = rng.uniform(-0.1, 0.3) if rng.random() < 0.5 else 0.0  # aviators
    slant = rng.normal(0, 0.12) if rng.random() < 0.4 else 0.0  # butterfly and cat's eyes
    drop = rng.uniform(-0.05, 0.07)
    apart = max(0.0, width + rng.uniform(0.08, 0.12) - EYE_CENTRE[0])
    return np.array([width, height, power, thick, taper, slant, drop, apart], np.float32)


def _folds(blend: dict[str, float]) -> np.ndarray:
    """The hand-made head's coefficients that deepen wrinkles like these expressions, float32 [len(EXPRESSION)]."""

    def mean(name: str) -> float:
        return 0.5 * (blend.get(f"{name}_L", 0.0) + blend.get(f"{name}_R", 0.0))

    out = dict.fromkeys(EXPRESSION, 0.0)
    out["smile"] = mean("mouthSmile")
    out["brow_raise"] = max(mean("browOuterUp"), mean("browInnerUp"))
    out["brow_lower"] = mean("browDown")
    return np.array([out[name] for name in EXPRESSION], np.float32)


def _expression(rng: np.random.Generator) -> dict[str, float]:
    """A sparse combination of ARKit expressions, by their names: mostly mild, sometimes strong, a little lopsided."""
    weights: dict[str, float] = {}
    strength = float(rng.choice([0.35, 0.7, 1.0], p=[0.35, 0.35, 0.3]))

    def pair(name: str, value: float) -> None:
        for side in "LR":
            weights[f"{name}_{side}"] = float(np.clip(value * rng.uniform(0.75, 1.2), 0, 1))

    if rng.random() < 0.33:
        smile = float(rng.random())
        pair("mouthSmile", smile)
        pair("cheekSquint", 0.6 * smile * rng.random())
        pair("mouthDimple", 0.3 * smile * rng.random())
        if rng.random() < 0.12:
            weights[f"mouthSmile_{rng.choice(['L', 'R'])}"] *= float(rng.uniform(0, 0.4))
    for name, (probability, top, both) in _OTHER.items():
        if rng.random() < probability:
            value = strength * top * float(rng.random())
            if both:
                pair(name, value)
            else:
                weights[name] = value
    mouth = rng.choice(["shut", "parted", "talking", "yawn"], p=[0.5, 0.15, 0.25, 0.1])
    if mouth == "parted":
        weights["jawOpen"] = float(rng.uniform(0, 0.12))
    elif mouth == "talking":
        weights["jawOpen"] = float(0.6 * rng.random() ** 1.5)
        if rng.random() < 0.2:
            weights["mouthClose"] = weights["jawOpen"] * float(rng.uniform(0.4, 1))
    elif mouth == "yawn":
        weights["jawOpen"] = float(rng.uniform(0.6, 1.0))
        pair("mouthStretch", float(0.5 * rng.random()))
        for name in ("mouthPress_L", "mouthPress_R", "mouthPucker", "mouthSmile_L", "mouthSmile_R"):
            weights[name] = 0.3 * weights.get(name, 0.0)
    if rng.random() < 0.12:
        weights[str(rng.choice(["mouthLeft", "mouthRight"]))] = strength * float(rng.random()) * 0.6
    if rng.random() < 0.08:
        weights[str(rng.choice(["jawLeft", "jawRight"]))] = strength * float(rng.random()) * 0.7
    _eyes(rng, weights, sleepy=mouth == "yawn")
    return {name: value for name, value in weights.items() if value > 1e-3}


def _eyes(rng: np.random.Generator, weights: dict[str, float], *, sleepy: bool) -> None:
    """Adds lids and gaze to the weights, in place; a yawn mostly narrows or shuts the eyes."""
    chances = [0.25, 0.4, 0.35, 0.0] if sleepy else [0.68, 0.1, 0.12, 0.1]
    kind = rng.choice(["open", "shut", "half", "wide"], p=chances)
    shut = {"open": max(0.0, rng.normal(0.08, 0.08)), "shut": 1.0, "half": rng.uniform(0.3, 0.85), "wide": 0.0}[
        str(kind)
    ]
    for side in "LR":
        weights[f"eyeBlink_{side}"] = float(np.clip(shut * rng.uniform(0.95, 1.05), 0, 1))
        if kind == "wide":
            weights[f"eyeWide_{side}"] = float(rng.uniform(0.3, 1))
    if rng.random() < 0.04:
        weights[f"eyeBlink_{rng.choice(['L', 'R'])}"] = 1.0  # a wink
    across, down = rng.normal(0, 0.25), rng.normal(0, 0.2)
    left, right = ("Out", "In") if across > 0 else ("In", "Out")  # image right is the subject's left
    weights[f"eyeLook{left}_L"] = weights[f"eyeLook{right}_R"] = float(min(abs(across), 1))
    for side in "LR":
        open_share = 1 - weights[f"eyeBlink_{side}"]
        weights[f"eyeLook{'Down' if down > 0 else 'Up'}_{side}"] = float(min(abs(down), 1) * open_share)
    for side in "LR":  # squinting and blinking together would push the lids through each other
        squint = f"eyeSquint_{side}"
        if squint in weights:
            weights[squint] *= 1 - weights[f"eyeBlink_{side}"]
