"""Assigns people to train, val and test by a hash of the person and the shares that a user gives."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from mlcm_jax.errors import InputError
from tfds_builders import formats
from tfds_builders.prepare import Face

NAMES = ("train", "val", "test")
_SHARES = (0.8, 0.1, 0.1)


def parse_shares(value: str | None) -> tuple[float, ...]:
    """Reads the shares of train, val and test, such as "0.8,0.1,0.1" (the default) or "80,10,10".

    Raises:
        InputError: anything but three non-negative numbers that sum to 1 or 100.
    """
    if value is None:
        return _SHARES
    shares = formats.numbers([word.strip() for word in str(value).split(",")], f"--splits={value}")
    total = float(shares.sum())
    if len(shares) != 3 or (shares < 0).any() or min(abs(total - 1), abs(total - 100)) > 1e-6 * max(total, 1):
        raise InputError(f"--splits={value} must be three shares, of train, val and test, that sum to 1.")
    return tuple((shares / total).tolist())


def by_subject(by_name: Mapping[str, Sequence[Face]], shares: Sequence[float]) -> dict[str, list[Face]]:
    """Splits faces by a hash of the subject, or of the name if no subject is known.

    Because of the hash, nobody moves to another split when images are added. Subjects who share an image stay together.
    If a split with a share above 0 would be empty, it gets the subject whose hash is nearest, taken from a split with
    at least two.

    Args:
        by_name: name of a pair -> its faces.
        shares: the shares of train, val and test, which sum to 1.

    Returns:
        The split's name -> its faces.
    """
    parent: dict[str, str] = {}  # a union-find structure over subjects

    def root(subject: str) -> str:
        while parent.setdefault(subject, subject) != subject:
            subject = parent[subject]
        return subject

    for name, some in by_name.items():
        for face in some[1:]:
            first, other = sorted((root(some[0].subject or name), root(face.subject or name)))
            parent[other] = first
    owner = {name: root(some[0].subject or name) for name, some in by_name.items()}
    place = {who: int.from_bytes(hashlib.sha256(who.encode()).digest()[:8]) / 2**64 for who in set(owner.values())}
    ends = np.cumsum(shares)
    split_of = {who: NAMES[min(int(np.searchsorted(ends, u, side="right")), 2)] for who, u in place.items()}
    for k, split in enumerate(NAMES):
        if shares[k] > 0 and split not in split_of.values():
            middle = ends[k] - shares[k] / 2
            counts = {other: list(split_of.values()).count(other) for other in NAMES}
            spare = [who for who, other in split_of.items() if counts[other] > 1]
            if spare:
                split_of[min(spare, key=lambda who, middle=middle: (abs(place[who] - middle), who))] = split
    return {
        split: [face for name, some in by_name.items() if split_of[owner[name]] == split for face in some]
        for split in NAMES
    }
