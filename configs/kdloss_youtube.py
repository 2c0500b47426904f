"""KD-Loss on youtube_faces_68 (research only: ship neither the images nor the weights), for a GPU.

    mlcm build youtube_faces_68 --manual_dir=DIR
    mlcm train --config=configs/kdloss_youtube.py --workdir=runs/kdloss_youtube
    mlcm train --config=configs/kdloss_youtube.py:webmorph --workdir=runs/kdloss_webmorph    # 97 training images

Time, memory and result were not measured. Networks and loss are the published ones; the training is this package's own
(cosine schedule, averaged weights, augmentation). The labels come from a program, so the score measures agreement with
it, and a difference of a few tenths of a per cent means nothing.

The variant `webmorph` has free images with hand-placed landmarks, but only 97 of them, frontal and neutral. It only
shows that everything runs on real images, and how fast 97 faces are memorised. That dataset is more useful for testing:
`mlcm evaluate --workdir=runs/kdloss_youtube --dataset=webmorph_faces`.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import base, check_variant


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "" or "webmorph"."""
    check_variant(variant, ("webmorph",), __file__)
    config = base()
    config.dataset = "webmorph_faces" if variant else "youtube_faces_68"
    config.normalizer = "outer_eyes"
    config.image_size = 192
    config.stages = ("teacher", "tolerant", "light_alone", "kd")
    config.modalities = ConfigDict({"teacher": "rgb", "student": "rgb"})
    config.teacher = ConfigDict({"name": "efficientnet_b3", "width": 1.0, "head": "coordinates", "dropout": 0.5})
    config.light = ConfigDict({"name": "mobilenet_v2", "width": 1.0, "head": "coordinates"})
    steps = 1000 if variant else 6000
    config.steps = ConfigDict({"teacher": steps, "student": steps, "light": steps})
    config.train.ema = 0.995
    return config
