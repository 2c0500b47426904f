"""One rendered face, and a network that was trained for a few steps."""

import pytest

from mlcm_jax.inference.predictor import Predictor
from mlcm_jax.synthetic import generate


@pytest.fixture(scope="session")
def face():
    return generate.example(3, 0, size=64, frontal=True, well_lit=True)


@pytest.fixture(scope="session")
def predictor(smoke_run):
    return Predictor(smoke_run)
