"""What distilling heatmaps is worth in the STAR/AAM system, small: weights 0 to 10,000, and no start from the teacher.

    mlcm ablate --config=configs/ablation_star.py --workdir=runs/ablation_star        # 56 minutes on two busy cores
    mlcm ablate --config=configs/ablation_star.py:youtube --workdir=runs/star_youtube     # a GPU; research data only

Result (docs/ablations.md): 4.96, 4.92, 4.86, 4.91 % for the four weights, which three seeds do not separate; 5.57 %
from scratch. All rows but the last two start from the teacher's head, as the publication does; "from scratch" tells
what that start is worth, and is the control of what is distilled into such a student.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import check_variant, load


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "", "youtube" (RGB, 68 points, the teacher of configs/star_youtube.py) or "smoke"."""
    check_variant(variant, ("youtube", "smoke"), __file__)
    name, of_file = ("star_youtube.py", "") if variant == "youtube" else ("star_tiny.py", variant)
    config = load(name, of_file, beside=__file__)
    config.seeds = (0,) if variant == "smoke" else (0, 1, 2)
    config.stages = ("direct",)
    grid = {
        "weight 0": {"direct": {"maps": 0.0}},
        "weight 100": {"direct": {"maps": 100.0}},
        "weight 1000": {"direct": {"maps": 1000.0}},
        "weight 10000": {"direct": {"maps": 10000.0}},  # here the published 100 is 0.3 % of the loss
        "from scratch": {"stages": ("light_alone",), "light_head_init": "scratch"},
        "scratch weight 100": {"light_head_init": "scratch"},
    }
    config.grid = ConfigDict(grid)
    config.ablation = ConfigDict(
        {
            "rows": tuple(grid),
            "control": "weight 0",
            "controls": {"scratch weight 100": "from scratch"},
            "shared": ("teacher",),
            "comparisons": (),
        }
    )
    return config
