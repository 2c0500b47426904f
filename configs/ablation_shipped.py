"""Measures what distillation gains in the chain of configs/shipped.py; every network is trained for 1,000 steps.

    mlcm ablate --config=configs/ablation_shipped.py --workdir=runs/shipped_grid
    mlcm ablate … --config.test_dataset=paired_folder/real --config.normalizer=outer_eyes   # scores them again
    mlcm ablate --config=configs/ablation_shipped.py:smoke --workdir=/tmp/smoke             # only shows that it runs

The datasets are those of configs/shipped.py. The second command needs labelled real faces, built as paired_folder/real.
The tables are in docs/ablations.md.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import add_grid, check_variant, load

_FD_LD = {"transfer": {"alpha": 0.0, "beta": 0.0, "gamma": 1.0, "delta": 1.0}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "" or "smoke"."""
    check_variant(variant, ("smoke",), __file__)
    config = load("shipped.py", variant, beside=__file__)
    config.seeds = (0,) if variant == "smoke" else (0, 1, 2)
    config.stages = ("transfer",)
    if variant != "smoke":
        config.steps = ConfigDict({"teacher": 1000, "student": 1000, "light": 1000})
    grid = {
        "none": {"stages": ("thermal_alone",)},
        "FD+LD": _FD_LD,
        "DIKD": {},
        "light alone": {"stages": ("light_alone",)},
        "two levels FD+LD": {"stages": ("compress",)} | _FD_LD,
        "two levels": {"stages": ("compress",)},
    }
    return add_grid(
        config,
        grid,
        control="none",
        controls={"light alone": "", "two levels FD+LD": "light alone", "two levels": "light alone"},
        shared=("teacher", "transfer"),
        comparisons=(("DIKD", "FD+LD"), ("two levels", "two levels FD+LD")),
    )
