"""Small grids for the tests of ablations."""

from ml_collections import ConfigDict

from mlcm_jax import config as configs

NONE = {"stages": ("thermal_alone",)}
GRID = {"none": NONE, "FD+LD": {"transfer": {"alpha": 0.0, "beta": 0.0, "gamma": 1.0, "delta": 1.0}}, "DIKD": {}}


def smoke(rows=None, /, **ablation) -> ConfigDict:
    """Returns the smoke variant of an ablation config, optionally with another grid {row: overrides}."""
    config = configs.load("configs/ablation_synthetic.py", "smoke")
    if rows is not None:
        config.grid = ConfigDict(rows)
        config.ablation.update({"rows": tuple(rows), "control": next(iter(rows)), "comparisons": ()})
    with config.ablation.unlocked():
        config.ablation.update(ablation)
    return config
