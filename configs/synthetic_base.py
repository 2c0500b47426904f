"""MLCM-KD at full size on 20,000 synthetic pairs of 256 px: EfficientNet-B3 teacher and thermal student, MobileNetV2.

    mlcm train --config=configs/synthetic_base.py --workdir=runs/base

This run needs a GPU or a TPU (bf16, global batch 128). Its time and result were not measured. To start from ImageNet
weights, which should help, give torchvision's files as `--config.pretrained.teacher=efficientnet_b3.pth
--config.pretrained.student=… --config.pretrained.light=…`.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import base, check_variant


def get_config(variant: str = "") -> ConfigDict:
    """Returns EfficientNet-B3 (RGB) -> EfficientNet-B3 (thermal) -> MobileNetV2 (thermal), with coordinate heads."""
    check_variant(variant, (), __file__)
    config = base()
    config.dataset = "synthetic_faces/base"
    config.image_size = 256
    config.teacher = ConfigDict({"name": "efficientnet_b3", "width": 1.0, "head": "coordinates", "dropout": 0.5})
    config.student = ConfigDict({"name": "efficientnet_b3", "width": 1.0, "head": "coordinates", "dropout": 0.5})
    config.light = ConfigDict({"name": "mobilenet_v2", "width": 1.0, "head": "coordinates"})
    config.steps = ConfigDict({"teacher": 18_750, "student": 18_750, "light": 18_750})  # 150 epochs of 16,000
    config.train.batch_size = 128
    config.train.bf16 = True
    config.train.ema = 0.999
    config.checkpoint_every = 1000
    config.log_every = 50
    config.eval_batch_size = 128
    return config
