"""Renders the images that the page offers as samples: gray levels, two people in 16 bits, and a table."""

from typing import NamedTuple

import cv2
import numpy as np

from mlcm_jax.inference.open_network import SHIPPED
from mlcm_jax.synthetic import generate

_SEED = 31


class Sample(NamedTuple):
    """A file that the page offers.

    Attributes:
        name: of the file.
        title: what its button says.
        content: its bytes.
    """

    name: str
    title: str
    content: bytes


def samples() -> list[Sample]:
    """Renders the samples; the first is the image that ships with the package."""
    first, second = (
        generate.example(_SEED, index, size=176, frontal=True, well_lit=True)["celsius"] for index in (60, 44)
    )
    both = np.concatenate([first, second], axis=1)
    counts = ((both + 273.15) * 100).round().astype(np.uint16)
    face = generate.example(_SEED, 52, size=144, frontal=True, well_lit=True)["celsius"]
    table = "\n".join(",".join(f"{value:.2f}" for value in row) for row in face)
    return [
        Sample("gray.png", "gray levels", (SHIPPED / "demo.png").read_bytes()),
        Sample("two_people.png", "two people, 16 bits", cv2.imencode(".png", counts)[1].tobytes()),
        Sample("table.csv", "a table of temperatures", f"Temperature (C)\n{table}\n".encode()),
    ]
