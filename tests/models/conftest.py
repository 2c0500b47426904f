"""What the tests of the networks share."""

import jax.numpy as jnp
import pytest

from mlcm_jax.models import layers


@pytest.fixture
def without_draws(monkeypatch):
    """Kernels of zeros, for tests that look at shapes only: tracing the random generator of a network takes seconds."""
    monkeypatch.setattr(layers, "normal", lambda key, shape, deviation: jnp.zeros(shape))
