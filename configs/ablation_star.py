"""Measures the gain from distilling heatmaps in a small STAR/AAM system: weights 0 to 10,000, two head initialisations.

    mlcm ablate --config=configs/ablation_star.py --workdir=runs/ablation_star        # 56 minutes on two busy cores
    mlcm ablate --config=configs/ablation_star.py:youtube --workdir=runs/star_youtube     # a GPU; research data only

Result (docs/ablations.md): the four weights give 4.96, 4.92, 4.86 and 4.91 %, which three seeds cannot distinguish;
the row "from scratch" gives 5.57 %.

In all rows but the last two, the student's head starts from the teacher's, as in the publication. "from scratch" shows
the gain from that initialisation. It is also the control of "scratch weight 100", which distils without it.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import add_grid, check_variant, load


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
        "weight 10000": {"direct": {"maps": 10000.0}},  # the published 100 is only 0.3 % of the loss here
        "from scratch": {"stages": ("light_alone",), "light_head_init": "scratch"},
        "scratch weight 100": {"light_head_init": "scratch"},
    }
    controls = {"scratch weight 100": "from scratch"}
    return add_grid(config, grid, control="weight 0", controls=controls, shared=("teacher",))
