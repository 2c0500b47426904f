"""The shipped detector of faces, trained on rendered thermal scenes.

    mlcm build synthetic_scenes/scan-20000x128-256 --manual_dir=ICT-FaceKit    # a clone of its repository
    mlcm train --config=configs/detector.py --workdir=runs/detector
    python -m benchmarks.ship_detector --workdir=runs/detector

On two cores of an AMD EPYC, beside other programs, the scenes took 25 minutes and the training took 87. At an
IoU of 0.4, the detector and the landmarks find 77 % of the faces of the split test with a precision of 99.1 %; most of
the others are small, turned away, or hidden by the camera's gain.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import base, check_variant


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "" or "smoke"."""
    check_variant(variant, ("smoke",), __file__)
    config = base()
    config.dataset = "synthetic_scenes/scan-20000x128-256"
    config.layout, config.gain = "boxes6", "scene"
    config.stages = ("light_alone",)
    config.image_size = 160
    config.light = ConfigDict(
        {"name": "resnet18", "stem": "strided", "width": 0.25, "depths": (2, 2, 2, 1), "pyramid": 32, "head": "boxes"}
    )
    config.loss.name = "boxes"
    config.steps.light = 24000
    config.train.batch_size = 24
    config.train.lr = 4e-3
    config.train.ema = 0.999
    config.checkpoint_every = 500
    config.log_every = 50
    config.augment.update({"expand": 1.0, "jitter": 0.15, "rotation": 0.0, "scale": 0.2, "shift": 0.1, "invert": 0.5})
    config.augment.update({"photometric": 1.0, "occlusion": 0.1})
    if variant == "smoke":
        config.dataset = "synthetic_scenes/tiny"
        config.image_size = 64
        config.light.width, config.light.depths = 0.125, (1, 1, 1)
        config.steps.light = 8
        config.train.batch_size = config.eval_batch_size = 8
        config.checkpoint_every, config.log_every = 3, 2
    return config
