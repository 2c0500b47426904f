"""Scan-based heads: a person with one expression, posed before a camera, with the 68 landmarks.

`generate` takes a `ScanHeads`, which `load` makes from a clone of ICT-FaceKit, in place of the hand-made head, and
`raster` calls its `build`. Identity is a sum of the model's modes and of a few wider fields, expressions are sums of
ARKit shapes. Lids close over real eyeballs, and the inside of the mouth has teeth.

Landmarks are points fixed on the mesh, but brows lie where the person's brows are painted, and the jaw follows the
visible outline as it does on the hand-made head (see `head`).
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np

from mlcm_jax.synthetic import head as head_lib
from mlcm_jax.synthetic import scan_model, scan_rig, scan_scene
from mlcm_jax.synthetic.arrays import gather
from mlcm_jax.synthetic.gbuffer import is_part
from mlcm_jax.synthetic.head import Head, PointSet, place
from mlcm_jax.synthetic.scan_model import EXPRESSIONS, ScanPart
from mlcm_jax.synthetic.scan_paint import TORSO, paint
from mlcm_jax.synthetic.scan_rig import Rig
from mlcm_jax.synthetic.scene import Scene, Subject
from mlcm_jax.synthetic.surface import Surface, hair_lift
from mlcm_jax.synthetic.template import Region, template

_NUMBER = {name: k for k, name in enumerate(EXPRESSIONS)}
_SHOWS_TEETH = ("jawOpen", "mouthUpperUp", "mouthLowerDown", "mouthSmile", "mouthFunnel", "mouthStretch", "noseSneer")
_SLACK = np.zeros(68)
_SLACK[36:48] = 0.04  # the skin of shut lids lies over the corners of the eyes
# The ends of the jaw line lie under the sideburns, which do not hide where the ear begins.
_INSET = np.full((17, 1), 0.04)
_INSET[[0, 1, 15, 16], 0] = 0.08, 0.06, 0.06, 0.08
# Head units, so that nothing pokes through lids and lips.
_EYES_BEHIND, _SHUT_EYES_BEHIND, _MOUTH_BEHIND = 0.006, 0.03, 0.025


def load(path: str | pathlib.Path) -> ScanHeads:
    """Reads and prepares the head model at a path; see `scan_model.source`. This takes about 15 s.

    Raises:
        InputError: if the model is not there, or is not whole.
    """
    return ScanHeads(scan_rig.build(scan_model.read(path)))


@functools.lru_cache(maxsize=2)
def load_rig(path: str | pathlib.Path) -> ScanHeads:
    """Reads what `ScanHeads.save` wrote, once per process."""
    return ScanHeads(scan_rig.read(pathlib.Path(path)))


class ScanHeads:
    """All heads that a rig can make.

    Args:
        rig: see `scan_rig.build`.
    """

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        # One axis after the other [3, V], because numpy is several times as fast on long rows.
        self._modes = np.ascontiguousarray(rig.identity.transpose(0, 2, 1))
        spans = [slice(*rig.first[k : k + 2]) for k in range(len(EXPRESSIONS))]
        self._movements = [(rig.moved[one].astype(np.intp), np.ascontiguousarray(rig.movement[one].T)) for one in spans]
        self._front = scan_rig.Front.of(rig.coordinates, rig.front)
        self._landmarks = PointSet(rig.landmark_index, rig.landmark_weight)
        self._paths = PointSet(rig.path_index, rig.path_weight), head_lib.jaw_paths(scan_rig.JAW_TOP_Y)[1]
        self._proxy = PointSet(rig.proxy_index, rig.proxy_weight)
        self._places = self._landmarks.on(rig.coordinates)
        self._scalp = rig.coordinates[rig.scalp]
        away = self._scalp - scan_rig.SKULL_MIDDLE.astype(np.float32)
        self._away = away / np.linalg.norm(away, axis=1, keepdims=True)
        mesh = template()
        cloth = mesh.faces[(mesh.region == Region.TORSO) & (mesh.points[mesh.faces, 1].min(1) > 1.9)]
        used, numbers = np.unique(cloth, return_inverse=True)
        self._torso, self._torso_share = mesh.points[used], mesh.head[used]
        cloth = numbers.reshape(-1, 3) + len(rig.points)
        faces = np.concatenate([rig.faces, cloth]).astype(np.intp)
        region = np.concatenate([rig.face_part, np.full(len(cloth), TORSO, np.uint8)])
        closed = ~is_part(region, ScanPart.GUMS, ScanPart.TEETH)
        # All triangles, and those without teeth and gums. `zbuffer.rasterise` is fastest with transposed arrays.
        self._faces = tuple((np.ascontiguousarray(faces[on].T).T, region[on]) for on in (slice(None), closed))
        self._coordinates = np.concatenate([rig.coordinates, self._torso])
        spare = np.tile(np.array([9, 9, 9, 9, 0], np.float32), (len(used), 1))
        self._attributes = np.concatenate([rig.attributes, spare])
        behind = np.zeros(len(self._coordinates), np.float32)
        inner = np.isin(rig.part, (ScanPart.MOUTH, ScanPart.GUMS, ScanPart.TEETH))
        behind[: len(inner)][inner] = _MOUTH_BEHIND
        behind[: len(inner)][np.isin(rig.part, (ScanPart.LEFT_EYE, ScanPart.RIGHT_EYE))] = _EYES_BEHIND
        self._behind = behind
        self._neutral = functools.lru_cache(maxsize=4)(self._make_neutral)
        self._brows = functools.lru_cache(maxsize=4)(self._make_brows)

    def save(self, path: pathlib.Path) -> None:
        """Stores the rig for `load_rig`."""
        scan_rig.write(self.rig, path)

    def build(self, subject: Subject, scene: Scene) -> tuple[Head, Surface]:
        """Deforms, poses and frames a head; `Head.shape` holds the vertices of the template, moved onto the scan.

        Args:
            subject: gives identity, brows and hair.
            scene: gives expression, pose, camera and hat.

        Returns:
            The head and what there is to draw of it.
        """
        rig = self.rig
        shape = self.shape(subject, scene)
        posed = place(shape, rig.share, scene)
        landmarks = self._landmarks.on(posed)
        jaw = landmarks[:17].copy()
        brows, brow_places = self._brows(subject.seed)
        landmarks[17:27] = brows.on(posed)
        landmarks[:17] = head_lib.outline(posed, scene, self._paths)
        places = np.concatenate([self._places[:17], brow_places, self._places[27:]])
        proxy = self._proxy.on(shape).astype(np.float32)
        head = Head(proxy, landmarks, jaw, places, head_lib.framed(landmarks, scene), _SLACK, _INSET)
        return head, self._surface(shape, posed, subject, scene)

    def shape(self, subject: Subject, scene: Scene) -> np.ndarray:
        """Vertices of the bare head in head space, float32 [V, 3]."""
        out = self._neutral(subject.seed, subject.beard_style != "none").T.copy()
        for name, weight in scene.blend.items():
            if name.startswith("eyeBlink"):
                weight = weight * (1 + 0.22 * weight**4)  # so that the lids of every identity meet
            moved, movement = self._movements[_NUMBER[name]]
            for axis, away in zip(out, movement, strict=True):
                axis[moved] = gather(axis, moved) + np.float32(weight) * away
        return np.ascontiguousarray(out.T)

    def _make_neutral(self, seed: int, bearded: bool) -> np.ndarray:
        who = scan_scene.identity(seed, bearded, len(self.rig.identity))
        modes = who.modes[:, None] * self.rig.scale  # [N, 3]
        total = np.zeros(self._modes.shape[1:], np.float32)
        for steps, weight in zip(self._modes, modes, strict=True):
            moved = steps.astype(np.float32)
            moved *= weight[:, None]
            total += moved
        return self.rig.points + total.T + np.einsum("k,kvc->vc", who.widened, self.rig.widened)

    def _make_brows(self, seed: int) -> tuple[PointSet, np.ndarray]:
        """Landmarks 17 to 26 of a person, and their template coordinates."""
        xy = self._places[17:27, :2].copy()
        xy += scan_scene.brow_shift(seed, xy[:, 0])
        points = self._front.locate(xy)
        return points, points.on(self.rig.coordinates)

    def _surface(self, shape: np.ndarray, posed: np.ndarray, subject: Subject, scene: Scene) -> Surface:
        rig = self.rig
        lift = hair_lift(self._scalp, subject, scene).astype(np.float32)
        raised = np.flatnonzero(lift > 0)
        points = posed.copy()
        index = rig.scalp[raised]
        points[index] = place(shape[index] + lift[raised, None] * self._away[raised], 1, scene)
        torso = self._torso * np.array([scene.shoulders, 1, 1], np.float32)
        points = np.concatenate([points, place(torso, self._torso_share, scene)])
        shows_teeth = any(name.split("_")[0] in _SHOWS_TEETH for name in scene.blend)
        faces, region = self._faces[0 if shows_teeth else 1]
        count = len(rig.points)
        behind = self._behind.copy()
        for side, eye in (("L", ScanPart.LEFT_EYE), ("R", ScanPart.RIGHT_EYE)):
            shut = np.clip(2.5 * scene.blend.get(f"eyeBlink_{side}", 0.0) - 1.5, 0, 1)
            behind[:count][rig.part == eye] += np.float32(_SHUT_EYES_BEHIND * shut)
        return Surface(points, behind, self._coordinates, self._attributes, faces, region, paint)
