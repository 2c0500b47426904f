"""The size of a model: its parameters and floating-point operations, in total and by part.

One multiply-add counts as two FLOPs (papers that print "MAdds" or "MACs" under the name FLOPs print half). As is usual,
only convolutions and matrix products count, not normalisation, activations or resizing. They are counted in the traced
program for one image; nothing is run.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core

from mlcm_jax.models.depthwise import as_convolution


def _conv_flops(eqn: core.JaxprEqn) -> int:
    kernel = eqn.invars[1].aval.shape
    out_channels = eqn.params["dimension_numbers"].rhs_spec[0]
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // kernel[out_channels]


def _dot_flops(eqn: core.JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)


def _inner(value: Any) -> list[core.Jaxpr]:
    """The programs inside a parameter of an equation: the bodies of loops, calls and the like."""
    if isinstance(value, core.ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, core.Jaxpr):
        return [value]
    return [jaxpr for item in value for jaxpr in _inner(item)] if isinstance(value, tuple | list) else []


def _walk(jaxpr: core.Jaxpr, scope: str, flops: dict[str, int]) -> None:
    """Adds the FLOPs of `jaxpr` to `flops`, under the name scopes in which its equations were traced."""
    for eqn in jaxpr.eqns:
        name = "/".join(filter(None, (scope, str(eqn.source_info.name_stack))))
        if eqn.primitive.name == "conv_general_dilated":
            flops[name] = flops.get(name, 0) + _conv_flops(eqn)
        elif eqn.primitive.name == "dot_general":
            flops[name] = flops.get(name, 0) + _dot_flops(eqn)
        else:
            for value in eqn.params.values():
                for inner in _inner(value):
                    _walk(inner, name, flops)


def _part(path: str) -> str:
    """The part of a name scope: backbone/stages.0/… is backbone.stages.0, and all scopes of the head are head."""
    return ".".join(path.split("/")[:2]) if path.startswith("backbone") else path.split("/")[0]


def _flops(model: nnx.Module, image_size: int, channels: int) -> dict[str, int]:
    """FLOPs by part."""
    graph, state = nnx.split(model)

    def forward(state: nnx.State, x: jax.Array) -> jax.Array:
        merged = nnx.merge(graph, state, copy=True)
        merged.eval()
        with jax.named_scope("backbone"):
            features = merged.backbone(x)
        with jax.named_scope("head"):
            return merged.head(features).landmarks

    image = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    raw: dict[str, int] = {}
    with as_convolution():  # other forms have more operations than the network needs
        _walk(jax.make_jaxpr(forward)(state, image).jaxpr, "", raw)
    parts: dict[str, int] = {}
    for path, value in raw.items():
        parts[_part(path)] = parts.get(_part(path), 0) + value
    return parts


def _params(model: nnx.Module) -> dict[str, int]:
    """Number of parameters by part, in the order of the network."""
    parts: dict[str, int] = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        levels = 1 if path[0] != "backbone" else 3 if path[1] == "stages" else 2
        part = ".".join(map(str, path[:levels]))
        parts[part] = parts.get(part, 0) + math.prod(variable.shape)
    order = {"backbone.stem": 0, "backbone.last": 2, "head": 3}
    return dict(sorted(parts.items(), key=lambda item: (order.get(item[0], 1), item[0])))


def profile(model: nnx.Module, image_size: int, channels: int = 3) -> dict[str, Any]:
    """The numbers that describe the size of a model.

    Args:
        model: from `create`, or its shapes from `nnx.eval_shape`.
        image_size: side of the square image.
        channels: of the image, 1 or 3.

    Returns:
        "params": number of trained parameters; "flops": 2 per multiply-add, for one image; "parts": {part: {"params",
        "flops"}} in the order of the network; "stride" and "channels" of the features.
    """
    params, flops = _params(model), _flops(model, image_size, channels)
    parts = {part: {"params": params.get(part, 0), "flops": flops.get(part, 0)} for part in {**params, **flops}}
    return {
        "params": sum(params.values()),
        "flops": sum(flops.values()),
        "parts": parts,
        "stride": model.backbone.stride,
        "channels": model.backbone.channels,
    }


def rows_of(sizes: dict[str, Any]) -> list[tuple[str, ...]]:
    """The cells of a table of `profile`: a header, a row for each part, and the totals."""
    rows = [("part", "parameters", "", "MFLOPs", "")]
    total = {"total": {"params": sizes["params"], "flops": sizes["flops"]}}
    for part, size in (sizes["parts"] | total).items():
        shares = [f"{100 * size[key] / max(1, sizes[key]):.1f} %" for key in ("params", "flops")]
        rows.append((part, f"{size['params']:,}", shares[0], f"{size['flops'] / 1e6:,.1f}", shares[1]))
    return rows


def table(model: nnx.Module, image_size: int, channels: int = 3) -> str:
    """`profile` as text to print: part, parameters, FLOPs and their shares, with the totals last."""
    rows = rows_of(profile(model, image_size, channels))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    note = f"one image of {image_size}×{image_size}×{channels}; a multiply-add is 2 FLOPs"
    return "\n".join([*lines, note])
