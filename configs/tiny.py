"""The README's run: the whole MLCM-KD chain on 1,200 synthetic pairs, on two CPU cores.

    mlcm train --config=configs/tiny.py --workdir=runs/tiny            # about 2 minutes
    mlcm train --config=configs/tiny.py:adamw --workdir=runs/adamw     # AdamW, twice the steps; see docs/training.md
    mlcm train --config=configs/tiny.py:long --workdir=runs/long       # three seeds, 40 minutes
    mlcm train --config=configs/tiny.py:smoke --workdir=/tmp/smoke     # half a minute; only shows that it runs

All networks are small ResNets with dense convolutions. The README has the expected tables.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import base, check_variant


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "", "adamw", "long" or "smoke"."""
    check_variant(variant, ("adamw", "long", "smoke"), __file__)
    config = base()
    network = {"name": "resnet18", "stem": "strided", "width": 0.25, "head": "heatmap", "upsample": 4}
    network |= {"temperature": 0.2, "prior": 0.15}
    network["head_channels"] = 16
    large, light = {"depths": (2, 2, 2)}, {"depths": (1, 1, 1)}
    config.teacher = ConfigDict(network | large)
    config.student = ConfigDict(network | large)
    config.light = ConfigDict(network | light)
    config.steps = ConfigDict({"teacher": 400, "student": 400, "light": 500})
    config.train.batch_size = 32
    config.train.lr = 1.6e-2
    config.log_every = 50
    # Strong augmentation does not pay off in so short a training.
    config.augment.update({"expand": 1.1, "jitter": 0.05, "rotation": 5.0, "scale": 0.0, "shift": 0.0})
    config.augment.update({"photometric": 0.3, "occlusion": 0.0})
    config.quick_compile = variant in ("", "smoke")
    if not variant:  # Muon needs half the steps for nearly the same results (docs/training.md, "Optimisers").
        config.train.optimizer = "muon"
        config.train.lr = 2.4e-2
        config.steps = ConfigDict({"teacher": 200, "student": 200, "light": 250})
    elif variant == "long":
        config.dataset = "synthetic_faces/4800x64-96"
        config.seeds = (0, 1, 2)
        config.steps = ConfigDict({"teacher": 1500, "student": 1500, "light": 2600})
    elif variant == "smoke":
        config.dataset = "synthetic_faces/48x48"
        config.image_size = 32
        config.teacher.width = config.student.width = config.light.width = 0.125
        config.teacher.depths = config.student.depths = (1, 1, 1)
        config.steps = ConfigDict({"teacher": 8, "student": 8, "light": 8})
        config.train.batch_size = config.eval_batch_size = 8
        config.checkpoint_every, config.log_every = 3, 2
    return config
