"""Work directories of runs, as inference reads them, made without any training."""

import json

import jax

from mlcm_jax import landmarks
from mlcm_jax.models import network as networks
from mlcm_jax.models import stored

ARCHITECTURE = {"name": "resnet18", "stem": "small", "width": 0.125, "depths": (1,), "head": "coordinates"}


def card(stage="transfer", **changes) -> stored.Card:
    """The card of a network that reads thermal crops of 32 x 32 pixels, with some fields changed."""
    fields = {"architecture": ARCHITECTURE, "layout": landmarks.get("ibug68"), "image_size": 32, "expand": 1.25}
    return stored.Card(**{"stage": stage, "modality": "thermal"} | fields | changes)


def network(of: stored.Card, seed=0) -> networks.Network:
    """A fresh network for a card."""
    return networks.create(of.architecture, num_landmarks=of.layout.count, key=jax.random.key(seed))


def write(workdir, *cards: stored.Card, stages=()) -> None:
    """Writes a work directory with one finished stage for each card.

    Args:
        workdir: made if it is missing.
        *cards: the cards of the stages.
        stages: `stages` of the run's config; by default those of the cards.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps({"stages": list(stages) or [one.stage for one in cards]}))
    for one in cards:
        stored.save(workdir / one.stage, network(one), one)
