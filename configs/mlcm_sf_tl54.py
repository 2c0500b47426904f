"""MLCM-KD on SF-TL54: EfficientNet-B3 (RGB) -> EfficientNet-B3 (thermal) -> MobileNetV2 (thermal), 54 landmarks.

    mlcm build sf_tl54 --manual_dir=DIR
    mlcm train --config=configs/mlcm_sf_tl54.py --workdir=runs/sf_tl54
    mlcm train --config=configs/mlcm_sf_tl54.py:published --workdir=runs/sf_tl54_published  # without challenging images

This run needs a GPU. Its time, memory and result were not measured.

KNOWN from the publication (arXiv 2510.11128): the two levels, and DIKD by forward and reverse injection, whose weight
decays during training.

INFERRED, because we know none of its numbers, is everything else:
- the sum α FI + β RI with α = β = 1 and linear decay;
- FD + LD in the second level, with weights of 1;
- the networks, the size of the images, the optimiser, the steps and the augmentation.

The labels were placed on the thermal images, with which the RGB images are aligned only to within some pixels.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import base, check_variant


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "" for all images, or "published" to leave out those that the published runs left out."""
    check_variant(variant, ("published",), __file__)
    config = base()
    config.dataset = "sf_tl54/gray_published" if variant else "sf_tl54/gray_all"
    config.gain = "as_is"
    config.layout = "sf_tl54"
    config.normalizer = "outer_eyes"
    config.image_size = 256
    config.stages = ("teacher", "thermal_alone", "transfer", "light_alone", "direct", "compress")
    config.teacher = ConfigDict({"name": "efficientnet_b3", "width": 1.0, "head": "coordinates", "dropout": 0.5})
    config.student = ConfigDict({"name": "efficientnet_b3", "width": 1.0, "head": "coordinates", "dropout": 0.5})
    config.light = ConfigDict({"name": "mobilenet_v2", "width": 1.0, "head": "coordinates"})
    config.steps = ConfigDict({"teacher": 8500, "student": 8500, "light": 8500})  # 150 epochs of 1,800 images
    config.train.batch_size = 32
    config.train.ema = 0.999
    return config
