"""The shipped network: RGB teacher -> thermal student (DIKD) -> lightweight student, and controls, on rendered faces.

    mlcm build synthetic_faces/scan-50000x64-144 --manual_dir=ICT-FaceKit    # a clone of its repository
    mlcm build synthetic_faces/10000x64-128
    mlcm train --config=configs/shipped.py --workdir=runs/shipped
    python -m benchmarks.ship --workdir=runs/shipped --stage=compress
    python -m benchmarks.ship_detector        # the detector's thresholds depend on the landmarks

The file in mlcm_jax/inference/shipped is the stage compress; its NME, and that of its control light_alone, are in
docs/real_faces.md. The stages teacher, transfer and compress took 511 s on an H200 beside up to six other trainings,
with `--config.loader_processes=5`, and light_alone 330 s; before that, 16 cores rendered the pairs in 297 s. Two CPU
cores need 21 minutes for the 50,000 scan-based pairs; the chain was not timed on them.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import base, check_variant


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "" or "smoke"."""
    check_variant(variant, ("smoke",), __file__)
    config = base()
    config.dataset = "synthetic_faces/scan-50000x64-144"
    config.more_datasets = ("synthetic_faces/10000x64-128",)
    config.dataset_weights = (3.0, 1.0)
    config.image_size = 96
    network = {"name": "resnet18", "stem": "strided", "pyramid": 32, "head": "heatmap", "upsample": 1}
    network |= {"temperature": 0.2, "prior": 0.15, "uncertainty": True}
    config.teacher = ConfigDict(network | {"width": 0.375, "depths": (2, 2, 2)})
    config.student = ConfigDict(network | {"width": 0.375, "depths": (2, 2, 2)})
    config.light = ConfigDict(network | {"width": 0.25, "depths": (2, 3, 2)})
    config.loss.uncertainty = 0.5
    config.steps = ConfigDict({"teacher": 4000, "student": 8000, "light": 19000})
    config.train.batch_size = 64
    config.train.lr = 1.1e-2
    config.train.ema = 0.998
    config.checkpoint_every = 500
    config.log_every = 50
    config.augment.update({"expand": 1.2, "jitter": 0.2, "rotation": 20.0, "scale": 0.1, "shift": 0.0, "invert": 0.5})
    config.augment.update({"photometric": 1.0, "occlusion": 0.2})
    if variant == "smoke":
        config.dataset = "synthetic_faces/48x48"
        config.more_datasets = config.dataset_weights = ()
        config.image_size = 32
        config.teacher.width = config.student.width = config.light.width = 0.125
        config.teacher.depths = config.student.depths = config.light.depths = (1, 1, 1)
        config.steps = ConfigDict({"teacher": 8, "student": 8, "light": 8})
        config.train.batch_size = config.eval_batch_size = 8
        config.checkpoint_every, config.log_every = 3, 2
    return config
