"""Active shape model, which projects landmarks on the principal components of face shapes.

Cootes et al., "Active shape models: their training and application", CVIU 1995. Projected landmarks are the "soft"
landmarks of KD-Loss (Fard and Mahoor, CVIU 2022). As in that paper, shapes are in u and are not aligned first.
"""

import dataclasses
import io
import os

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from mlcm_jax.errors import InputError
from mlcm_jax.files import read_bytes

_FIELDS = ("mean", "basis", "eigenvalues", "variance")


@dataclasses.dataclass(frozen=True, eq=False)
class ShapeModel:
    """Mean shape and principal components, float32.

    Attributes:
        mean: [K, 2].
        basis: [2K, M], orthonormal columns over the vector x0, y0, x1, y1, …
        eigenvalues: [M], variances along the columns, positive and decreasing.
        variance: share of the shapes' variance that the M components explain, at least the share asked for.
    """

    mean: np.ndarray
    basis: np.ndarray
    eigenvalues: np.ndarray
    variance: float


def fit(shapes: ArrayLike, *, variance: float = 0.95) -> ShapeModel:
    """The mean and the fewest principal components that explain a share of the shapes' variance.

    A model projects only shapes in the unit in which it was fitted. The paper keeps 95 % of the variance, older runs of
    its code keep 90 %.

    Args:
        shapes: float [N, K, 2], finite.
        variance: the share to keep, above 0 and at most 1.

    Raises:
        InputError: another shape, NaN, fewer than two different shapes, or a share outside (0, 1].
    """
    shapes = np.asarray(shapes, np.float64)
    if shapes.ndim != 3 or shapes.shape[-1] != 2 or shapes.shape[1] == 0:
        raise InputError(f"A shape model is fitted to landmarks of shape [N, K, 2], not {list(shapes.shape)}.")
    if not 0 < variance <= 1:
        raise InputError(f"Option variance is {variance}; it must be above 0 and at most 1.")
    if not np.isfinite(shapes).all():
        bad = int(np.argmin(np.isfinite(shapes).all((1, 2))))
        raise InputError(f"Shape {bad} holds a number that is not finite; leave out faces with unlabelled landmarks.")
    if len(shapes) < 2:
        raise InputError(f"A shape model needs at least two shapes, not {len(shapes)}; give it the training faces.")
    flat = shapes.reshape(len(shapes), -1)
    mean = flat.mean(0)
    centred = flat - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / (len(flat) - 1))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    if not values[0] > 1e-12 * max(1.0, np.square(mean).max()):  # below the squared rounding error of the mean
        raise InputError("A shape model needs shapes that differ; all of these are the same.")
    share = np.cumsum(values) / values.sum()
    kept = min(int(np.searchsorted(share, variance - 1e-12)) + 1, int((values > 1e-12 * values[0]).sum()))
    return ShapeModel(
        mean.reshape(-1, 2).astype(np.float32),
        np.ascontiguousarray(vectors[:, :kept], np.float32),
        values[:kept].astype(np.float32),
        float(share[kept - 1]),
    )


def project(model: ShapeModel, shapes: np.ndarray | jax.Array, *, clip: float = 3.0) -> np.ndarray | jax.Array:
    """Soft landmarks: mean + V b, with b = V^T (shape - mean) clipped to ± clip sqrt(eigenvalue).

    Args:
        model: from `fit`, in the unit of `shapes`.
        shapes: float [..., K, 2]; numpy, or jax (also traced: the model is then a constant of the program).
        clip: the largest |b|, in standard deviations; infinity turns clipping off.

    Returns:
        [..., K, 2], numpy or jax as given, of the same dtype if that is a float, else float32.

    Raises:
        InputError: shapes with another number of landmarks than the model.
    """
    on_device = isinstance(shapes, jax.Array)
    xp = jnp if on_device else np
    shapes = xp.asarray(shapes)
    if shapes.ndim < 2 or shapes.shape[-2:] != model.mean.shape:
        raise InputError(
            f"Shapes are {list(shapes.shape)}, but the shape model has {len(model.mean)} landmarks of x, y."
        )
    dtype = shapes.dtype if xp.issubdtype(shapes.dtype, xp.floating) else xp.float32
    mean, basis, limit = (
        xp.asarray(value, dtype) for value in (model.mean.reshape(-1), model.basis, clip * np.sqrt(model.eigenvalues))
    )
    options = {"precision": jax.lax.Precision.HIGHEST} if on_device else {}  # TF32 would move landmarks.
    flat = shapes.reshape(-1, mean.size).astype(dtype)
    b = xp.matmul(flat - mean[None], basis, **options)
    b = xp.clip(b, -limit[None], limit[None])
    return (mean[None] + xp.matmul(b, basis.T, **options)).reshape(shapes.shape)


def save(model: ShapeModel, path: str | os.PathLike) -> None:
    """Writes the model as an .npz file of plain arrays; an existing file is replaced only once the new one is complete.

    Raises:
        InputError: a path that cannot be written to.
    """
    path = os.fspath(path)
    part = f"{path}.part"
    try:
        with open(part, "wb") as file:
            np.savez(file, **{name: np.asarray(getattr(model, name)) for name in _FIELDS})
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"The shape model cannot be written to {path}: {error.strerror or error}.") from None


def load(path: str | os.PathLike) -> ShapeModel:
    """The model that `save` wrote. Nothing in the file is executed.

    Raises:
        InputError: a file that is missing or damaged, or holds something else.
    """
    content = read_bytes(path, "shape model")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            fields = {name: np.asarray(file[name], np.float64) for name in _FIELDS}
    except Exception as error:  # The readers of zip, zlib, lzma and npy raise a dozen types for damaged data.
        raise InputError(f"{path} is damaged, or is not a shape model: {error}; fit and save it again.") from None
    mean, basis, values, variance = (fields[name] for name in _FIELDS)
    wrong = None
    if not all(np.isfinite(value).all() for value in fields.values()):
        wrong = "it holds numbers that are not finite"
    elif (
        mean.ndim != 2
        or mean.shape[1] != 2
        or values.ndim != 1
        or basis.shape != (mean.size, len(values))
        or variance.shape != ()
    ):
        wrong = "its arrays do not fit together"
    elif not (values > 0).all() or np.abs(basis.T @ basis - np.eye(len(values))).max(initial=0) > 1e-3:
        wrong = "its components are not orthonormal with positive variances"
    if wrong:
        raise InputError(f"The shape model {path} is damaged: {wrong}; fit and save it again.")
    return ShapeModel(*(value.astype(np.float32) for value in (mean, basis, values)), float(variance))
