"""Measures the gain from each part of MLCM-KD on thermal faces: 14 rows × 3 seeds on 1,200 synthetic pairs.

    mlcm ablate --config=configs/ablation_synthetic.py --workdir=runs/ablation           # 71 minutes on two busy cores
    mlcm ablate … --rows='none,FD+LD,DIKD'                                 # the smallest useful choice of rows
    mlcm ablate --config=configs/ablation_synthetic.py:long --workdir=runs/ablation_long # configs/tiny.py:long
    mlcm ablate --config=configs/ablation_synthetic.py:strong --workdir=runs/strong      # a larger teacher, adapters
    mlcm ablate --config=configs/ablation_synthetic.py:smoke --workdir=/tmp/smoke        # only shows that it runs

Result (docs/ablations.md): none 4.14, FD+LD 4.19, RI 4.05, DIKD 4.04 %; light alone 4.23, one step 4.41, one step DIKD
4.09, two levels 4.19 %. Three seeds distinguish DIKD from FD+LD, but no row from its control.

The rows of the thermal student, from "none" to "DIKD undecayed", have "none" as their control. Those of the lightweight
student have "light alone". A row and its control share initialisation, batches and steps. "second level alone"
compresses a student that had no teacher, so the gain of "two levels" over it comes from the first level.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import add_grid, check_variant, load


def _transfer(**weights: float) -> dict[str, dict[str, float]]:
    """Returns the overrides of a row whose thermal student has these distillation weights and no others."""
    return {"transfer": {"alpha": 0.0, "beta": 0.0, "gamma": 0.0, "delta": 0.0} | weights}


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "", "long", "strong" or "smoke"."""
    check_variant(variant, ("long", "strong", "smoke"), __file__)
    config = load("tiny.py", variant if variant in ("long", "smoke") else "adamw", beside=__file__)
    config.seeds = (0,) if variant == "smoke" else (0, 1, 2)
    config.stages = ("transfer",)
    if variant == "strong":
        config.teacher.width = 0.5
        config.steps.teacher = 1600

    grid = {
        "none": {"stages": ("thermal_alone",)},
        "FD": _transfer(gamma=1.0),
        "LD": _transfer(delta=1.0),
        "FD+LD": _transfer(gamma=1.0, delta=1.0),
        "FI": _transfer(alpha=1.0),
        "RI": _transfer(beta=1.0),
        "DIKD": {},
        "DIKD undecayed": {"transfer": {"decay": "none"}},
        "light alone": {"stages": ("light_alone",)},
        "one step": {"stages": ("direct",)},
        "one step DIKD": {"stages": ("direct",), "direct": {"alpha": 1.0, "beta": 1.0, "gamma": 0.0, "delta": 0.0}},
        "second level alone": {"stages": ("compress",)} | _transfer(),
        "two levels": {"stages": ("compress",)},
        "two levels FD+LD": {"stages": ("compress",)} | _transfer(gamma=1.0, delta=1.0),
    }
    if variant == "smoke":
        grid = {name: grid[name] for name in ("none", "FD+LD", "DIKD")}
    light = ("one step", "one step DIKD", "second level alone", "two levels", "two levels FD+LD")
    controls = {name: "light alone" for name in light if name in grid}
    pairs = (("DIKD", "FD+LD"), ("two levels FD+LD", "one step"), ("two levels", "one step DIKD"))
    pairs += (("one step DIKD", "one step"), ("two levels", "second level alone"))
    return add_grid(
        config,
        grid,  # rows in the order of the table
        control="none",
        controls=controls | ({"light alone": ""} if controls else {}),  # the rows whose control is not `control`
        shared=("teacher", "transfer"),  # trained once per seed, for all rows that don't change them
        comparisons=tuple(pair for pair in pairs if set(pair) <= set(grid)),  # in addition to row and control
    )
