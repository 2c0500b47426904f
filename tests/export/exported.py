"""Tiny networks with random weights, which tests export."""

import functools

import jax
import stored_runs

from mlcm_jax import detection
from mlcm_jax.models import stored

HEADS = {
    "heatmap": {"upsample": 4, "head_channels": 8, "prior": 0.2, "uncertainty": True},
    "coordinates": {"uncertainty": True},
    "aam": {"head_channels": 8, "layout": stored_runs.card().layout},
    "aam nearest": {"head_channels": 8, "layout": stored_runs.card().layout, "decoder": "nearest"},
    "boxes": {},
}


@functools.cache
def made(head="heatmap", **changes):
    """A network whose landmarks differ from each other, and its card."""
    kind = head.split()[0]
    layout = detection.LAYOUT if kind == "boxes" else stored_runs.card().layout
    architecture = stored_runs.ARCHITECTURE | {"head": kind} | HEADS[head]
    calibration = () if kind == "boxes" else (0.5, 0.8, 1.0, -1.0)
    card = stored_runs.card(architecture=architecture, layout=layout, calibration=calibration, **changes)
    network = stored_runs.network(card)
    moved = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), network.params)
    return network.replace(params=moved), card


def run_of(tmp_path, head="heatmap", **changes):
    """A folder with such a network."""
    network, card = made(head, **changes)
    stored.save(tmp_path / "run", network, card)
    return tmp_path / "run"
