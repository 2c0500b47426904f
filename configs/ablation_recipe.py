"""Measures what single choices in the training of the shipped network change: 13 rows × 2 seeds of `light_alone`.

    mlcm ablate --config=configs/ablation_recipe.py --workdir=runs/recipe
    mlcm ablate … --config.test_dataset=paired_folder/real --config.normalizer=outer_eyes   # scores them again
    mlcm ablate --config=configs/ablation_recipe.py:smoke --workdir=/tmp/smoke              # only shows that it runs

The first row is the stage light_alone of configs/shipped.py with 1,250 steps. Every other row changes one thing, but
for the last, whose network is narrower too. The second command needs labelled real faces, which are built as
paired_folder/real.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import add_grid, check_variant, load


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "" or "smoke"."""
    check_variant(variant, ("smoke",), __file__)
    config = load("shipped.py", variant, beside=__file__)
    config.seeds = (0,) if variant == "smoke" else (0, 1)
    config.stages = ("light_alone",)
    larger = 48 if variant == "smoke" else 128
    if variant != "smoke":
        config.steps.light = 1250
    grid = {
        "as shipped": {},
        "without the likelihood": {"loss": {"uncertainty": 0.0}, "light": {"uncertainty": False}},
        "wing loss": {"loss": {"name": "wing"}},
        "never inverted": {"augment": {"invert": 0.0}},
        "boxes moved by half as much": {"augment": {"jitter": 0.1}},
        "half the photometric changes": {"augment": {"photometric": 0.5}},
        "a quarter of the photometric changes": {"augment": {"photometric": 0.25}},
        "no photometric changes": {"augment": {"photometric": 0.0}},
        "twice the occlusions": {"augment": {"occlusion": 0.4}},
        "turned by up to 40°": {"augment": {"rotation": 40.0}},
        "Muon": {"train": {"optimizer": "muon"}},
        "larger crops": {"image_size": larger},
        # about as many FLOPs as shipped:
        "larger crops and narrower": {"image_size": larger, "light": {"width": 0.1875}},
    }
    return add_grid(config, grid, control="as shipped")
