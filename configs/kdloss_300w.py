"""KD-Loss on 300W with the published numbers: two EfficientNet-B3 teachers, MobileNetV2 student, 224 px, 68 points.

    mlcm build ibug_300w --manual_dir=DIR
    mlcm train --config=configs/kdloss_300w.py --workdir=runs/kdloss_300w
    mlcm train --config=configs/kdloss_300w.py:released --workdir=runs/kdloss_released    # the loss of their code
    mlcm evaluate --workdir=runs/kdloss_300w --split=challenge                            # also common

For a GPU (time and memory not measured). Expected result: not measured. Theirs, in their metric (the crop is stretched
to a square), challenge / common / full: student alone 6.84 / 3.93 / 4.50, with both teachers 6.13 / 3.56 / 4.06,
teacher 5.80 / 3.34 / 3.82 per cent. Ours is in pixels of the original image: compare differences, not values.

KNOWN (Fard and Mahoor, CVIU 2022, and their code): networks, 224 px, dropout 0.5 in the teachers, shape model that
keeps 95 % and is clipped at 3 deviations, KD-Loss with α 0.9, β 0.4, main weight 2.5, γ 0.5; Adam 1e-3 with time decay
1e-4, batch 70, 150 epochs; flip, rotation of up to 0.5 rad, gamma, noise, blur.

INFERRED: the shape model is fitted to the augmented crops, rotated and mirrored; the decay counts steps, as Keras does;
the teachers and the student alone train with L1, which is what the main term is below γ; no warm-up, weight decay or
averaging; the teachers train as long as the student, from scratch (`--config.pretrained.teacher=FILE` for ImageNet
weights); strengths of gamma, noise and blur (ours); the crop is 1.25 times the longer side of the landmarks' box.

DIFFERENT here: `photometric` also changes brightness, contrast, colour cast and light, and turns some images gray.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import base, check_variant


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "" or "paper" (the loss as printed), or "released" (as in the authors' code)."""
    check_variant(variant, ("paper", "released"), __file__)
    config = base()
    config.dataset = "ibug_300w"
    config.test_split = "full"
    config.normalizer = "outer_eyes"
    config.image_size = 224
    config.stages = ("teacher", "tolerant", "light_alone", "kd")
    config.modalities = ConfigDict({"teacher": "rgb", "student": "rgb"})
    config.teacher = ConfigDict({"name": "efficientnet_b3", "width": 1.0, "head": "coordinates", "dropout": 0.5})
    config.light = ConfigDict({"name": "mobilenet_v2", "width": 1.0, "head": "coordinates"})
    config.kd.variant = variant or "paper"
    config.shape_variance = 0.95
    steps = round(150 * 3148 / 70)  # 150 epochs
    config.steps = ConfigDict({"teacher": steps, "student": steps, "light": steps})
    config.train.update({"batch_size": 70, "lr": 1e-3, "schedule": "inverse_time", "decay_rate": 1e-4})
    config.train.update({"warmup": 0.0, "weight_decay": 0.0, "clip": 0.0, "ema": 0.0})
    config.augment.update({"rotation": 28.65, "jitter": 0.0, "scale": 0.0, "shift": 0.0, "occlusion": 0.0})
    return config
