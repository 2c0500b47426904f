"""Measures the gain from each part of KD-Loss on RGB faces: 8 rows × 3 seeds, a lightweight student, two teachers.

    mlcm ablate --config=configs/ablation_kdloss.py --workdir=runs/kdloss                # 47 minutes on two busy cores
    mlcm ablate --config=configs/ablation_kdloss.py:youtube --workdir=runs/kdloss_youtube    # a GPU; research data only
    mlcm ablate --config=configs/ablation_kdloss.py:smoke --workdir=/tmp/smoke           # only shows that it runs

Result (docs/ablations.md): student alone 5.34, KD-Loss 5.26, t shuffled 5.29, t constant 5.23, plain L1 distillation
5.09 %. Three seeds cannot distinguish any of them from the student alone.

KD-Loss uses only the size of a teacher's error, never its direction. The fair controls are therefore "t shuffled", with
the errors of another example, and "t constant", with one error for all. "L1 distillation" shows the gain from the
direction. The paper reports 4.50 -> 4.06 % on 300W (arXiv 2111.07047), which is another dataset with other boxes.
"""

from ml_collections import ConfigDict

from mlcm_jax.config import add_grid, check_variant, load


def get_config(variant: str = "") -> ConfigDict:
    """`variant` is "", "youtube" or "smoke"."""
    check_variant(variant, ("youtube", "smoke"), __file__)
    config = load("kdloss_tiny.py", "smoke" if variant == "smoke" else "", beside=__file__)
    config.modalities = ConfigDict({"teacher": "rgb", "student": "rgb"})
    config.seeds = (0,) if variant == "smoke" else (0, 1, 2)
    config.stages = ("kd",)
    # The weights of KD-Loss do not decay, so the distillation that it is compared with must not decay either.
    config.direct = ConfigDict(dict(config.direct) | {"gamma": 0.0, "delta": 1.0, "decay": "none"})
    if variant == "youtube":
        _youtube(config)

    grid = {
        "student alone": {"stages": ("light_alone",)},
        "tough only": {"kd": {"tolerant": False}},
        "tolerant only": {"kd": {"tough": False}},
        "KD-Loss": {},
        "KD-Loss released": {"kd": {"variant": "released"}},
        "t shuffled": {"kd": {"control": "shuffled"}},
        "t constant": {"kd": {"control": "constant"}},
        "L1 distillation": {"stages": ("direct",)},
    }
    if variant == "smoke":
        grid = {name: grid[name] for name in ("student alone", "KD-Loss", "t shuffled")}
    pairs = (("KD-Loss", "t shuffled"), ("KD-Loss", "t constant"), ("KD-Loss", "L1 distillation"))
    return add_grid(
        config,
        grid,
        control="student alone",
        shared=("teacher", "tolerant"),
        comparisons=tuple(pair for pair in pairs if set(pair) <= set(grid)),
    )


def _youtube(config: ConfigDict) -> None:
    """Sets EfficientNet-B3 teachers and a MobileNetV2 student at 128 px, on video frames with machine-made labels."""
    config.dataset = "youtube_faces_68"
    config.normalizer = "outer_eyes"
    config.image_size = 128
    config.teacher = ConfigDict({"name": "efficientnet_b3", "width": 1.0, "head": "coordinates", "dropout": 0.5})
    config.light = ConfigDict({"name": "mobilenet_v2", "width": 1.0, "head": "coordinates"})
    config.steps = ConfigDict({"teacher": 3000, "student": 3000, "light": 2000})
    config.train.batch_size = config.eval_batch_size = 64
    config.train.lr = 1e-3
    config.train.bf16 = True
    config.train.ema = 0.995
    config.augment.update({"expand": 1.25, "jitter": 0.1, "rotation": 20.0, "scale": 0.1, "shift": 0.05})
    config.augment.update({"photometric": 1.0, "occlusion": 0.2})
