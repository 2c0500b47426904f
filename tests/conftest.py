"""Shared test settings: strict promotion, so that a dtype or rank mistake fails where it is made."""

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_platforms", "cpu")
