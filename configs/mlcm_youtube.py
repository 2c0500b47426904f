"""The second level of MLCM-KD on youtube_faces_68 (research only: ship neither images nor weights), for a GPU.

    mlcm build youtube_faces_68 --manual_dir=DIR
    mlcm train --config=configs/mlcm_youtube.py --workdir=runs/mlcm_youtube
    mlcm train --config=configs/mlcm_youtube.py:webmorph --workdir=runs/mlcm_webmorph        # 97 training images

Time, memory and result were not measured. Neither dataset has thermal images, so teacher and student have the same
modality: a large RGB network teaches a lightweight student by DIKD with FD and LD (the stage `direct`), and the
lightweight student is also trained alone for comparison. configs/kdloss_youtube.py describes the use of the two
datasets. For the first level, use synthetic_faces, SF-TL54 or your own pairs.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import check_variant, load


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "" or "webmorph"."""
    check_variant(variant, ("webmorph",), __file__)
    config = load("kdloss_youtube.py", variant, beside=__file__)
    config.stages = ("teacher", "light_alone", "direct")
    config.direct.update({"alpha": 1.0, "beta": 1.0, "gamma": 1.0, "delta": 1.0, "decay": "linear"})
    return config
