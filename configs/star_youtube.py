"""STAR with AAM heads on youtube_faces_68 (research only: ship neither the images nor the weights), for a GPU.

    mlcm build youtube_faces_68 --manual_dir=DIR
    mlcm train --config=configs/star_youtube.py --workdir=runs/star_youtube \
        --config.pretrained.teacher=swin_v2_t-b137f0e2.pth             # ImageNet weights; "" starts from scratch
    mlcm train --config=configs/star_youtube.py:webmorph --workdir=runs/star_webmorph        # 97 training images

Time, memory and result were not measured. The system and the loss are those of configs/star_pair2024.py, but the
teacher is SwinV2-T with windows of 8, all 68 landmarks are used, and the training has fewer steps, a warm-up, clipping
and averaged weights. configs/kdloss_youtube.py describes the use of the two datasets. A SwinV2 that starts from scratch
learns nothing useful from 97 images.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import check_variant, load


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "" or "webmorph"."""
    check_variant(variant, ("webmorph",), __file__)
    config = load("star_pair2024.py", beside=__file__)
    config.dataset = "webmorph_faces" if variant else "youtube_faces_68"
    config.test_split = "test"
    config.layout = config.light.layout = "ibug68"
    config.loss.options.closed = ()  # STAR's code leaves the brows of 68 points open
    head = {"head": "aam", "layout": "ibug68", "upsample": 8, "head_channels": 256, "decoder": "transposed"}
    config.teacher = ConfigDict({"name": "swin_v2_t", "window": 8} | head)
    steps = 1000 if variant else 8000
    config.steps = ConfigDict({"teacher": steps, "student": steps, "light": steps})
    config.train.update({"warmup": 0.05, "clip": 1.0, "ema": 0.995})
    config.augment.update({"rotation": 30.0, "jitter": 0.1, "occlusion": 0.2})
    return config
