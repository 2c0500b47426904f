"""One RGB network on youtube_faces_68 (research only: ship neither the images nor the weights).

    mlcm build youtube_faces_68 --manual_dir=DIR
    mlcm train --config=configs/youtube_mobilenet.py --workdir=runs/youtube \
        --config.pretrained.teacher=mobilenet_v2-b0353104.npz          # ImageNet weights; "" starts from scratch
    mlcm train --config=configs/youtube_mobilenet.py:cpu --workdir=runs/youtube_cpu …     # 96 px, 300 steps

The expected result on the test split (690 crops of 69 people), divided by the distance of the outer eye corners, is in
tfds_builders/youtube_faces_68/README.md. The labels are machine-made, so the score measures agreement with a program.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import base, check_variant


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "", which needs a GPU, or "cpu"."""
    check_variant(variant, ("cpu",), __file__)
    config = base()
    config.dataset = "youtube_faces_68"
    config.normalizer = "outer_eyes"
    config.image_size = 192
    config.stages = ("teacher",)
    config.teacher = ConfigDict({"name": "mobilenet_v2", "width": 1.0, "head": "coordinates", "dropout": 0.0})
    config.steps.teacher = 6000
    config.train.ema = 0.995
    if variant == "cpu":
        config.image_size = 96
        config.steps.teacher = 300
        config.train.batch_size = 32
        config.train.ema = 0.98
        config.augment.update({"rotation": 10.0, "jitter": 0.05, "photometric": 0.5, "occlusion": 0.0})
        config.checkpoint_every = 100
    return config
