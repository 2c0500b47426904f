"""KD-Loss on 1,200 synthetic thermal faces, on two CPU cores: two teachers, a lightweight student and its control.

    mlcm train --config=configs/kdloss_tiny.py --workdir=runs/kdloss_tiny
    mlcm train --config=configs/kdloss_tiny.py:smoke --workdir=/tmp/kd_smoke     # only shows that it runs

The table was measured on 2026-11-21 on two CPU cores of a heavily loaded machine (19 minutes; 6 minutes of CPU time).
It shows results on the test split, with NME in per cent of √(w·h) of the box:

| row | parameters | NME % | FR@10 % | AUC@10 |
|---|---|---|---|---|
| mean_shape | 0 | 11.26 | 49.4 | 0.167 |
| teacher (tough) | 722,152 | 4.14 | 1.9 | 0.591 |
| tolerant | 722,152 | 4.31 | 2.5 | 0.575 |
| light_alone | 88,568 | 4.92 | 3.8 | 0.521 |
| kd | 88,568 | 4.83 | 5.6 | 0.528 |

The loss is the published one, with the numbers of configs/kdloss_300w.py; networks and training are our own. The table
is from one seed. A comparison needs several, and the controls `--config.kd.control=shuffled` and
`--config.kd.control=constant` (configs/ablation_kdloss.py).
"""

from ml_collections import ConfigDict

from mlcm_jax.config import base, check_variant


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "" or "smoke"."""
    check_variant(variant, ("smoke",), __file__)
    config = base()
    config.stages = ("teacher", "tolerant", "light_alone", "kd")
    config.modalities = ConfigDict({"teacher": "thermal", "student": "thermal"})
    network = {"name": "resnet18", "stem": "strided", "head": "coordinates"}
    config.teacher = ConfigDict(network | {"width": 0.5, "depths": (2, 2, 2), "dropout": 0.0})
    config.light = ConfigDict(network | {"width": 0.25, "depths": (1, 1, 1)})
    config.steps = ConfigDict({"teacher": 600, "student": 600, "light": 600})
    config.train.batch_size = 32
    config.train.lr = 4e-3
    config.log_every = 50
    # Strong augmentation does not pay off in so short a training.
    config.augment.update({"expand": 1.1, "jitter": 0.05, "rotation": 5.0, "scale": 0.0, "shift": 0.0})
    config.augment.update({"photometric": 0.3, "occlusion": 0.0})
    if variant == "smoke":
        config.dataset = "synthetic_faces/48x48"
        config.image_size = 32
        config.teacher.width = config.light.width = 0.125
        config.teacher.depths = (1, 1, 1)
        config.steps = ConfigDict({"teacher": 8, "student": 8, "light": 8})
        config.train.batch_size = config.eval_batch_size = 8
        config.checkpoint_every, config.log_every = 3, 2
    return config
