"""How identity, age and expression move the canonical head: one displacement field per coefficient.

`head` calls `deform`, which turns coefficients into the vertices of `template.template` in head space. Every field is
an analytic function of template coordinates, evaluated once on the mesh; a head is the template plus a weighted sum of
the fields. A coefficient of 1 is about one standard deviation of identity, or the full movement of an
expression. `scene` draws the coefficients by the names below.
"""

from __future__ import annotations

import functools

import numpy as np

from mlcm_jax.synthetic import anatomy
from mlcm_jax.synthetic.anatomy import bump, smoothstep
from mlcm_jax.synthetic.template import template

IDENTITY = (
    "face_width", "lower_length", "jaw_width", "chin_length", "chin_forward", "nose_length", "nose_width",
    "nose_forward", "bridge", "eye_size", "eye_spacing", "eye_tilt", "lip_thickness", "mouth_width", "mouth_height",
    "brow_height", "brow_arch", "cheeks", "forehead", "brow_ridge", "jaw_square", "eye_depth", "ears", "neck",
    "lean_x", "lean_mouth", "age",
)  # fmt: skip
EXPRESSION = (
    "jaw", "jaw_side", "smile", "smile_side", "frown", "pucker", "lip_raise", "lip_drop", "press", "brow_raise",
    "brow_inner", "brow_lower", "cheek_puff", "squint",
)  # fmt: skip


def fields(points: np.ndarray, side: np.ndarray) -> dict[str, np.ndarray]:
    """Displacements [N, 3] in head units at full strength, by the coefficient's name.

    Args:
        points: template coordinates [N, 3].
        side: [N], the side of the mouth slit to which a point belongs, see `template.Template`.

    Returns:
        Displacements of every coefficient in `IDENTITY` and `EXPRESSION`.
    """
    p = np.asarray(points, np.float64)
    x, y, z = p.T
    ax, sgn = np.abs(x), np.clip(x / 0.08, -1, 1)
    zero = np.zeros_like(x)
    head = smoothstep(1.75, 1.35, y)  # fades before the shoulders
    face = smoothstep(-1.0, -0.3, z)  # front of the ears
    low = smoothstep(0.1, 1.2, y) * head

    def field(dx: np.ndarray = zero, dy: np.ndarray = zero, dz: np.ndarray = zero) -> np.ndarray:
        return np.stack(np.broadcast_arrays(dx, dy, dz), -1)

    eye = bump(ax, y, *anatomy.EYE_CENTRE, 0.17, 0.1) * smoothstep(-0.6, -0.3, z)
    nose = bump(x, y, 0, 0.4, 0.16, 0.13) * face
    tip = bump(x, y, 0, 0.42, 0.1, 0.09) * face
    mouth = bump(x, y, 0, 0.765, 0.26, 0.12) * face
    brow = bump(ax, y, 0.38, -0.25, 0.24, 0.1) * face
    brow_in = bump(ax, y, 0.15, -0.22, 0.1, 0.1) * face
    corner = bump(ax, y, 0.287, 0.775, 0.1, 0.1) * face
    jaw_edge = smoothstep(0.3, 0.75, ax) * bump(zero, y, 0, 0.85, 1.0, 0.35) * head
    chin = bump(x, y, 0, 1.2, 0.3, 0.14) * head
    seam = anatomy.lip_seam(x)

    identity = {
        "face_width": field(dx=0.045 * x * smoothstep(0.3, 0.8, ax) * head * 1.2),
        "lower_length": field(dy=0.06 * low),
        "jaw_width": field(dx=0.034 * sgn * jaw_edge),
        "chin_length": field(dy=0.045 * smoothstep(0.9, 1.28, y) * head),
        "chin_forward": field(dz=0.05 * chin + 0.01 * mouth),
        "nose_length": field(dy=0.035 * nose),
        "nose_width": field(dx=0.025 * np.clip(x / 0.12, -1.2, 1.2) * bump(ax, y, 0.1, 0.42, 0.1, 0.1) * face),
        "nose_forward": field(dz=0.045 * tip + 0.015 * nose, dy=-0.01 * tip),
        "bridge": field(
            dz=0.03 * bump(x, y, 0, 0.12, 0.07, 0.14) * face, dx=-0.004 * sgn * bump(ax, y, 0.1, 0.1, 0.06, 0.14)
        ),
        "eye_size": field(dy=0.16 * (y + 0.008) * eye),
        "eye_spacing": field(dx=0.016 * sgn * bump(ax, y, 0.28, 0.0, 0.13, 0.12) * face),
        "eye_tilt": field(dy=-0.09 * (ax - 0.35) * eye),
        "lip_thickness": field(dy=0.2 * (y - seam) * mouth, dz=0.012 * mouth),
        "mouth_width": field(dx=0.022 * np.clip(x / 0.28, -1.1, 1.1) * bump(x, y, 0, 0.775, 0.33, 0.12) * face),
        "mouth_height": field(dy=0.02 * mouth),
        "brow_height": field(dy=-0.03 * brow),
        "brow_arch": field(dy=-0.025 * bump(ax, y, 0.47, -0.26, 0.12, 0.1) + 0.01 * brow_in),
        "cheeks": field(
            dx=0.028 * sgn * bump(ax, y, 0.7, 0.5, 0.2, 0.3) * head,
            dz=0.035 * bump(ax, y, 0.45, 0.55, 0.2, 0.22) * face,
        ),
        "forehead": field(dy=-0.05 * smoothstep(-0.4, -1.2, y), dz=0.03 * bump(x, y, 0, -0.6, 0.4, 0.25) * face),
        "brow_ridge": field(dz=0.03 * bump(ax, y, 0.3, -0.22, 0.22, 0.07) * face),
        "jaw_square": field(
            dx=0.022 * sgn * bump(ax, y, 0.6, 1.0, 0.2, 0.2) * head,
            dy=0.025 * bump(ax, y, 0.4, 1.15, 0.17, 0.12) * head,
        ),
        "eye_depth": field(dz=-0.025 * eye),
        "ears": field(
            dx=0.06
            * sgn
            * smoothstep(0.85, 0.92, ax)
            * smoothstep(-0.7, -0.92, z)
            * smoothstep(0.6, 0.5, y)
            * smoothstep(-0.2, -0.1, y)
        ),
        "neck": field(dx=0.06 * x / 0.5 * smoothstep(0.7, 1.2, y) * smoothstep(1.9, 1.6, y) * smoothstep(0.1, -0.3, z)),
        "lean_x": field(dx=0.012 * bump(x, y, 0, 0.4, 0.2, 0.25) * face),
        "lean_mouth": field(dy=0.05 * x * mouth, dx=0.012 * bump(x, y, 0, 0.9, 0.4, 0.3) * face),
        # Old age: jowls, hollow temples and cheeks, drooping brows and corners, a longer nose and thinner lips.
        "age": field(
            dx=0.016 * sgn * bump(ax, y, 0.55, 1.05, 0.14, 0.14) * head
            - 0.02 * sgn * bump(ax, y, 0.7, 0.45, 0.15, 0.15),
            dy=0.03 * bump(ax, y, 0.45, 1.12, 0.2, 0.12) * head
            + 0.015 * brow
            + 0.012 * corner
            + 0.015 * tip
            - 0.12 * (y - seam) * mouth,
            dz=-0.025 * bump(ax, y, 0.5, 0.55, 0.12, 0.15) * face - 0.02 * bump(ax, y, 0.23, 0.55, 0.035, 0.12) * face,
        ),
    }

    # The jaw hinges in front of the ear: points swing down and back. At the slit the lower lip moves along, and the
    # upper one stays.
    slit = np.sqrt(np.clip(1 - (x / anatomy.MOUTH_HALF_WIDTH) ** 2, 0, 1)) * np.exp(-np.abs(y - seam) / 0.12) * face
    share = smoothstep(0.45, 1.05, y) * smoothstep(-1.0, -0.35, z) * head
    share = np.clip(share + 0.46 * side * slit - 0.05 * slit, 0, 1)
    corner_out = np.clip(x / 0.25, -1, 1) * bump(ax, y, 0.287, 0.775, 0.14, 0.12) * face
    lip = np.exp(-(((y - seam) / 0.12) ** 2)) * smoothstep(0.33, 0.15, ax) * face
    upper, lower = lip * smoothstep(0.35, -0.35, side), lip * smoothstep(-0.35, 0.35, side)
    recede = smoothstep(0.0, 0.9, 1 - np.abs(side)) * slit
    expression = {
        "jaw": field(dy=0.36 * share, dz=-0.14 * share - 0.3 * recede),
        "jaw_side": field(dx=0.05 * share),
        "smile": field(
            dx=0.075 * corner_out,
            dy=-0.075 * corner * smoothstep(0.05, 0.25, ax)
            - 0.03 * bump(ax, y, 0.42, 0.4, 0.15, 0.15) * face
            + 0.012 * lower,
            dz=-0.05 * corner + 0.04 * bump(ax, y, 0.42, 0.38, 0.13, 0.12) * face - 0.03 * mouth,
        ),
        "smile_side": field(dx=0.03 * corner * smoothstep(0, 0.2, x), dy=-0.05 * corner * smoothstep(0, 0.2, x)),
        "frown": field(dy=0.05 * corner, dx=0.012 * corner_out),
        "pucker": field(dx=-0.10 * corner_out - 0.15 * x * mouth, dz=0.07 * mouth, dy=0.1 * (y - seam) * mouth),
        "lip_raise": field(dy=-0.055 * upper, dz=0.01 * upper),
        "lip_drop": field(dy=0.055 * lower, dz=0.01 * lower),
        "press": field(dy=-0.35 * (y - seam) * mouth, dz=-0.02 * mouth),
        "brow_raise": field(dy=-0.075 * brow - 0.05 * brow_in),
        "brow_inner": field(dy=-0.06 * brow_in),
        "brow_lower": field(dy=0.04 * brow + 0.045 * brow_in, dx=-0.02 * sgn * brow_in, dz=0.015 * brow_in),
        "cheek_puff": field(
            dx=0.06 * sgn * bump(ax, y, 0.6, 0.75, 0.15, 0.17), dz=0.08 * bump(ax, y, 0.42, 0.72, 0.15, 0.17) * face
        ),
        "squint": field(
            dy=-0.018 * bump(ax, y, 0.36, 0.09, 0.16, 0.07) * face, dz=0.02 * bump(ax, y, 0.4, 0.15, 0.15, 0.07) * face
        ),
    }
    return {**identity, **expression}


@functools.cache
def basis() -> np.ndarray:
    """The fields at all vertices, identity first; float32 [len(IDENTITY) + len(EXPRESSION), V * 3]."""
    mesh = template()
    values = fields(mesh.points, mesh.side)
    return np.stack([values[name].astype(np.float32).ravel() for name in IDENTITY + EXPRESSION])


def deform(identity: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """The vertices of one person with one expression, float32 [V, 3] in head space.

    Args:
        identity: coefficients [len(IDENTITY)].
        expression: coefficients [len(EXPRESSION)].

    Returns:
        One row per vertex of `template.template`.
    """
    weights = np.concatenate([identity, expression]).astype(np.float32)
    # einsum instead of BLAS: the sums don't depend on the number of threads, and no thread spins idly in a worker.
    return template().points + np.einsum("k,kv->v", weights, basis()).reshape(-1, 3)
