"""Reads ICT-FaceKit's "ICT Face Model Light", a head model made from light-stage scans: meshes, modes, expressions.

`scan_rig` calls `read` with the folder of a clone of https://github.com/ICT-VGL/ICT-FaceKit (MIT), which the user
makes; this package contains nothing of it. The folder `FaceXModel` holds one OBJ file for the mean head, one for each
of 100 identity modes (the mean plus one standard deviation) and one for each expression. All have the same vertices;
displacements from the mean are kept as int16 in steps of 10 micrometres. `read` also takes the
same arrays packed into one archive.

Lengths are in centimetres; x points to the right of a frontal image (the subject's left), y up, z towards the camera.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import pathlib
import zipfile

import numpy as np

from mlcm_jax.errors import InputError

HOW_TO_GET = (
    "Clone https://github.com/ICT-VGL/ICT-FaceKit and give its folder, which holds FaceXModel/*.obj and "
    "vertex_indices.json."
)
ARCHIVE = "ict_face_light.npz"
NEUTRAL = "generic_neutral_mesh"
IDENTITIES = 100
VERTICES = 24591  # of the parts below; the files hold lashes and blending surfaces after them
STEP = np.float32(0.001)  # cm


class ScanPart(enum.IntEnum):
    """Pieces of the mesh; the left eye is the subject's, at image right."""

    FACE = 0
    HEAD = 1  # back of the head, ears and neck
    MOUTH = 2  # the socket of the mouth
    LEFT_SOCKET = 3
    RIGHT_SOCKET = 4
    GUMS = 5
    TEETH = 6
    LEFT_EYE = 7
    RIGHT_EYE = 8
    LEFT_IRIS = 9
    RIGHT_IRIS = 10


# First vertex of each piece, as the table in the repository's README gives them.
_FIRST = {
    0: ScanPart.FACE, 9409: ScanPart.HEAD, 11248: ScanPart.MOUTH, 13294: ScanPart.LEFT_SOCKET,
    13678: ScanPart.RIGHT_SOCKET, 14062: ScanPart.GUMS, 17039: ScanPart.TEETH, 21451: ScanPart.LEFT_EYE,
    22221: ScanPart.LEFT_IRIS, 23021: ScanPart.RIGHT_EYE, 23791: ScanPart.RIGHT_IRIS,
}  # fmt: skip
_SIDED = (
    "browDown", "browOuterUp", "cheekPuff", "cheekSquint", "eyeBlink", "eyeLookDown", "eyeLookIn", "eyeLookOut",
    "eyeLookUp", "eyeSquint", "eyeWide", "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress", "mouthSmile",
    "mouthStretch", "mouthUpperUp", "noseSneer", "browInnerUp",
)  # fmt: skip
_WHOLE = (
    "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthFunnel", "mouthLeft", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
)  # fmt: skip
EXPRESSIONS = tuple(sorted([*_WHOLE, *(f"{name}_{side}" for name in _SIDED for side in "LR")]))


@dataclasses.dataclass(frozen=True)
class ScanModel:
    """The head model as it was published.

    Attributes:
        mean: float32 [V, 3], the mean head in cm.
        identity: int16 [N, V, 3], displacement of each mode at one standard deviation, in steps of 0.001 cm.
        expression: int16 [len(EXPRESSIONS), V, 3], displacement of each expression at full strength, in the same steps.
        faces: int32 [F, 3], counter-clockwise seen from outside with y up.
        part: uint8 [V], `ScanPart`.
        landmarks: int32 [68], the repository's landmark vertices.
    """

    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    faces: np.ndarray
    part: np.ndarray
    landmarks: np.ndarray


def source(path: str | pathlib.Path) -> pathlib.Path:
    """Finds the model at a path without reading it.

    Args:
        path: a clone of the repository, its folder FaceXModel, an archive, or a folder that holds one of these.

    Returns:
        The archive, or the folder of the OBJ files.

    Raises:
        InputError: if the model is not there, or files of it are missing.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_file():
        if path.suffix != ".npz":
            raise InputError(f"{path} is neither a folder nor an archive of the scan-based head model. {HOW_TO_GET}")
        return path
    if not path.is_dir():
        raise InputError(f"{path} does not exist. {HOW_TO_GET}")
    below = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    folders = [path / "FaceXModel", path, *(entry / "FaceXModel" for entry in below)]
    folders = [folder for folder in folders if (folder / f"{NEUTRAL}.obj").is_file()]
    if not folders:
        if (path / ARCHIVE).is_file():
            return path / ARCHIVE
        raise InputError(
            f"{path} holds no scan-based head model: no {NEUTRAL}.obj in it or in FaceXModel. {HOW_TO_GET}"
        )
    wanted = [f"{name}.obj" for name in (*_identities(), *EXPRESSIONS)] + ["vertex_indices.json"]
    missing = [name for name in wanted if not (folders[0] / name).is_file() and not (path / name).is_file()]
    if missing:
        lacks = f"{missing[0]} is" if len(missing) == 1 else f"{missing[0]} and {len(missing) - 1} more files are"
        raise InputError(f"{folders[0]} is incomplete: {lacks} missing. {HOW_TO_GET}")
    return folders[0]


@functools.lru_cache(maxsize=2)
def read(path: str | pathlib.Path) -> ScanModel:
    """Reads the model, once per process; the OBJ files take some 10 s, an archive 0.3 s.

    Args:
        path: see `source`.

    Raises:
        InputError: if a file is missing, damaged or of another model.
    """
    found = source(path)
    return _read_archive(found) if found.is_file() else _read_clone(found)


def _identities() -> list[str]:
    return [f"identity{k:03d}" for k in range(IDENTITIES)]


def _read_archive(path: pathlib.Path) -> ScanModel:
    damaged = f"{path} is not a whole archive of the scan-based head model"
    try:
        with path.open("rb") as file, np.load(file) as archive:
            stored = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{damaged} ({error}); copy it again. {HOW_TO_GET}") from error
    wanted = ("mean", "identity", "identity_step", "expression", "expression_step", "names", "faces", "part")
    missing = [name for name in (*wanted, "landmarks68") if name not in stored]
    if missing:
        raise InputError(f"{damaged}: it lacks {missing[0]}. {HOW_TO_GET}")
    names = [str(name) for name in stored["names"]]
    lacking = [name for name in EXPRESSIONS if name not in names]
    if lacking:
        raise InputError(f"{damaged}: it lacks the expression {lacking[0]}. {HOW_TO_GET}")
    same_step = np.allclose([stored["identity_step"], stored["expression_step"]], STEP)
    model = ScanModel(
        mean=stored["mean"].astype(np.float32),
        identity=stored["identity"],
        expression=stored["expression"][[names.index(name) for name in EXPRESSIONS]],
        faces=stored["faces"].astype(np.int32),
        part=stored["part"].astype(np.uint8),
        landmarks=stored["landmarks68"].astype(np.int32),
    )
    whole = model.mean.shape == (VERTICES, 3) and model.identity.shape == (IDENTITIES, VERTICES, 3) and same_step
    whole = whole and model.expression.shape[1:] == (VERTICES, 3) and model.landmarks.shape == (68,)
    if not whole or not _usable(model):
        raise InputError(f"{damaged}: its arrays have other sizes or values than those of the model. {HOW_TO_GET}")
    return model


def _read_clone(folder: pathlib.Path) -> ScanModel:
    mean = _vertices(folder / f"{NEUTRAL}.obj")

    def packed(names: list[str]) -> np.ndarray:
        out = np.empty((len(names), VERTICES, 3), np.int16)
        for k, name in enumerate(names):
            steps = np.round((_vertices(folder / f"{name}.obj") - mean) / STEP)
            if np.abs(steps).max() > 32767:
                raise InputError(f"{folder / name}.obj moves a vertex by more than 32 cm; it is damaged. {HOW_TO_GET}")
            out[k] = steps
        return out

    first = list(_FIRST)
    part = np.repeat(np.array([*_FIRST.values()], np.uint8), np.diff([*first, VERTICES]))
    model = ScanModel(
        mean=mean.astype(np.float32),
        identity=packed(_identities()),
        expression=packed(list(EXPRESSIONS)),
        faces=_faces(folder / f"{NEUTRAL}.obj"),
        part=part,
        landmarks=_landmarks(folder),
    )
    if not _usable(model):
        raise InputError(f"{folder} holds numbers that are not finite, or vertex numbers out of range. {HOW_TO_GET}")
    return model


def _usable(model: ScanModel) -> bool:
    """Whether the mean is finite and all vertex numbers are in range."""
    numbers = [int(a.min()) >= 0 and int(a.max()) < VERTICES for a in (model.faces, model.landmarks)]
    return bool(np.isfinite(model.mean).all()) and all(numbers)


def _vertices(path: pathlib.Path) -> np.ndarray:
    """The first `VERTICES` vertices of an OBJ file, float64 [VERTICES, 3]."""
    with path.open("rb") as file:
        rows = []
        for line in file:
            if line.startswith(b"v "):
                rows.append(line[2:])
                if len(rows) == VERTICES:
                    break
    numbers = b" ".join(rows).split()
    try:
        found = np.array(numbers, np.float64)
    except ValueError:
        found = np.zeros(0)
    if found.size != 3 * VERTICES or not np.isfinite(found).all():
        raise InputError(f"{path} does not hold {VERTICES:,} vertices; it is cut off or damaged. {HOW_TO_GET}")
    return found.reshape(-1, 3)


def _faces(path: pathlib.Path) -> np.ndarray:
    """Triangles of the kept vertices, int32 [F, 3]; larger polygons become fans."""
    out = []
    with path.open("rb") as file:
        try:
            for line in file:
                if line.startswith(b"f "):
                    corner = [int(word.split(b"/")[0]) - 1 for word in line.split()[1:]]
                    out += [(corner[0], corner[k], corner[k + 1]) for k in range(1, len(corner) - 1)]
        except ValueError as error:
            raise InputError(f"{path} holds a face that cannot be read; it is damaged. {HOW_TO_GET}") from error
    faces = np.array(out, np.int64).reshape(-1, 3)
    faces = faces[(faces < VERTICES).all(1)]
    if not len(faces):
        raise InputError(f"{path} holds no faces; it is cut off or damaged. {HOW_TO_GET}")
    return faces.astype(np.int32)


def _landmarks(folder: pathlib.Path) -> np.ndarray:
    """The 68 landmark vertices, int32 [68]."""
    places = [folder / "vertex_indices.json", folder.parent / "vertex_indices.json"]
    path = next((place for place in places if place.is_file()), places[0])
    try:
        found = np.array(json.loads(path.read_text(encoding="utf-8"))["idx_to_landmark_verts"], np.int32)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{path} cannot be read as the list of landmark vertices. {HOW_TO_GET}") from error
    if found.shape != (68,):
        raise InputError(f"{path} lists {found.size} landmark vertices instead of 68. {HOW_TO_GET}")
    return found
