"""The configs of published size, traced but not run: shapes, dtypes and sizes of the training steps of all stages.

No array is made: `jax.eval_shape` initialises the networks, and the training step is traced as `train` would compile
it. Sizes are compared with torchvision's and timm's parameter counts of the backbones, and heads counted by hand.
"""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import plan
from mlcm_jax import config as configs
from mlcm_jax import models, shape_model
from mlcm_jax.models import network as networks
from mlcm_jax.models.layers import BatchNorm
from mlcm_jax.models.mobilevit_v2 import MobileViTBlock
from mlcm_jax.training import loop, sharding, stages

VARIANTS = {
    "mlcm_sf_tl54": ("", "published"),
    "mlcm_youtube": ("", "webmorph"),
    "kdloss_300w": ("", "paper", "released"),
    "kdloss_wflw": ("", "paper", "released"),
    "kdloss_youtube": ("", "webmorph"),
    "star_pair2024": ("", "bf16"),
    "star_youtube": ("", "webmorph"),
    "youtube_mobilenet": ("", "cpu"),
    "synthetic_base": ("",),
    "ablation_kdloss": ("youtube",),
}
FAST = {("kdloss_youtube", "kd")}  # not slow, so run by default; it has two teachers

# (parameters with a classifier of 1000 classes, channels C of the features), from torchvision; MobileViTv2's from timm.
BACKBONES = {
    "mobilenet_v2": (3_504_872, 1280),
    "efficientnet_b3": (12_233_232, 1536),
    "swin_v2_t": (28_351_570, 768),
    "swin_v2_b": (87_930_848, 1024),
    "mobilevit_v2": (1_370_593, 256),  # of width 0.5
}
OF_STEP = {"gradient_norm", "skipped"}  # metrics of a step beside its loss terms
EDGES = {51: 8, 68: 9}  # curves of the published code: brows, bridge and foot of the nose, eyes, lips; the jaw


@functools.cache
def make(name, variant):
    """Returns the published config, without files of weights."""
    bf16 = variant == "bf16"
    config = configs.load(f"configs/{name}.py", "" if bf16 else variant)
    config.pretrained.update({"teacher": "", "student": "", "light": ""})
    config.train.bf16 = config.train.bf16 or bf16
    return config


def shape_of(config, stage):
    """Returns, as text, the part of a config that decides the compiled program of a stage."""
    keys = ["layout", "image_size", "teacher", "student", "light", "student_init", "light_head_init", "modalities"]
    keys += ["loss", "train", "eval_batch_size"]
    keys += [stages.STAGES[stage].distillation] if stages.STAGES[stage].distillation else []
    return json.dumps([stage, *(json.loads(config.to_json())[key] for key in keys)])


def cases():
    """Returns (config, variant, stage) of every different program."""
    found = {}
    for name, variants in VARIANTS.items():
        for variant in variants:
            config = make(name, variant)
            for stage in config.stages:
                found.setdefault(shape_of(config, stage), (name, variant, stage))
    # Only the nightly run takes those marked as slow.
    return [
        pytest.param(
            *case, marks=() if (case[0], case[2]) in FAST else pytest.mark.slow, id=":".join(filter(None, case))
        )
        for case in found.values()
    ]


@functools.cache
def abstract_network(name, variant, stage):
    config = make(name, variant)
    return stages.network_shapes(stage, config, mean_shape=np.full((stages.layout(config).count, 2), 0.5, np.float32))


def model_of(stage):
    return stages.STAGES[stage].model


def like(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


def numbers(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def parameters_by_hand(options, count):
    """Counts the parameters of the backbone, without its classifier, and of the head."""
    whole, channels = BACKBONES[options["name"]]
    backbone = whole - 1000 * (channels + 1)
    if options["head"] == "coordinates":
        return backbone + (channels + 1) * 2 * count
    head = 257 * (2 * count + EDGES[count])
    if options["decoder"] == "transposed":  # a 1×1 kernel to 256 channels, kernels of 6×6 and 4×4, two batch norms
        head += 256 * (channels + 1) + (36 + 16) * 256**2 + 2 * 2 * 256
    return backbone + head


def terms_by_hand(config, stage):
    """Returns the names of the loss and its parts in the metrics of a step."""
    key = stages.STAGES[stage].distillation
    if key == "kd":
        teachers = {name for name in ("tough", "tolerant") if config.kd[name]}
        return {"loss", "task", "main"} | teachers
    names = {"loss", "task"} | ({"star", "points", "edges"} if config.loss.name == "star" else set())
    if key:
        names |= {"forward", "reverse"} if config[key].alpha or config[key].beta else set()
        parts = {"gamma": "feature", "delta": "logit", "maps": "maps"}
        names |= {part for weight, part in parts.items() if config[key][weight]}
    return names


def adapter_by_hand(config, stage):
    """Returns the shapes of the kernels between different channels, if features are compared or injected."""
    key = stages.STAGES[stage].distillation
    if not key or key == "kd" or not (config[key].alpha or config[key].beta or config[key].gamma):
        return {}
    ours, theirs = (BACKBONES[config[model_of(s)].name][1] for s in (stage, stages.STAGES[stage].teachers[0]))
    return {} if ours == theirs else {"to_teacher": (ours, theirs), "to_student": (theirs, ours)}


@pytest.mark.parametrize("name, variant, stage", cases())
def test_a_training_step_of_full_size(name, variant, stage):
    config = make(name, variant)
    stages.check(config)
    count, mesh = stages.layout(config).count, sharding.make_mesh(jax.devices()[:1])
    soft = None
    if stages.STAGES[stage].soft:
        soft = shape_model.fit(np.random.default_rng(0).random((9, count, 2)), variance=config.shape_variance)
    needed = {other: abstract_network(name, variant, other) for other in stages.requirements(stage, config)}
    recipe, state, teachers, batch = plan.shapes_of_step(config, stage, soft=soft, networks=needed)
    assert like(state.network) == like(abstract_network(name, variant, stage)) == like(state.ema)
    assert numbers(state.network.params) == parameters_by_hand(config[model_of(stage)], count)
    assert {key: kernel.shape for key, kernel in state.adapter.items()} == adapter_by_hand(config, stage)

    sharding.check_batch_size(config.train.batch_size, mesh, "batch_size", accumulate=config.train.accumulate)
    step, key = loop.compile_step(recipe, state, teachers, mesh), jax.eval_shape(lambda: jax.random.key(0))
    after, metrics = step.trace(state, teachers, batch, key).out_info
    # The next step takes the state of this one: with other shapes or dtypes, it would be compiled again or fail.
    assert jax.tree.structure(after) == jax.tree.structure(state) and like(after) == like(state)
    floats = [leaf.dtype for leaf in jax.tree.leaves(after) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype(jnp.float32)}  # bfloat16 is for computing only, not for the state
    assert {value.shape for value in metrics.values()} == {()}
    assert set(metrics) == terms_by_hand(config, stage) | OF_STEP
    assert {metrics[term].dtype for term in terms_by_hand(config, stage)} == {jnp.dtype(jnp.float32)}


NETWORKS = [("star_youtube", "teacher"), ("star_pair2024", "teacher")]
NETWORKS += [("mlcm_sf_tl54", "student"), ("kdloss_wflw", "light")]


@pytest.mark.parametrize(
    "name, key", [("star_youtube", "light"), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in NETWORKS)]
)
def test_shapes_of_predictions_of_a_network_of_full_size(name, key):
    config = make(name, "")
    count, size = stages.layout(config).count, config.eval_batch_size
    network = abstract_network(name, "", next(stage for stage in config.stages if model_of(stage) == key))
    channels = 3 if config.modalities["teacher" if key == "teacher" else "student"] == "rgb" else 1
    images = jax.ShapeDtypeStruct((size, config.image_size, config.image_size, channels), jnp.float32)
    features, _ = jax.eval_shape(networks.run_backbone, network, images)
    assert features.shape == (size, config.image_size // 32, config.image_size // 32, BACKBONES[config[key].name][1])
    prediction, _ = jax.eval_shape(networks.run_head, network, features)
    assert like(prediction.landmarks) == ((size, count, 2), "float32")
    maps = {part: getattr(prediction, part) for part in ("heatmaps", "points", "edges")}
    if config[key].head == "coordinates":
        assert set(maps.values()) == {None}
    else:  # maps of 64² for images of 256²
        expected = {"heatmaps": count, "points": count, "edges": EDGES[count]}
        assert like(maps) == {part: ((size, 64, 64, depth), "float32") for part, depth in expected.items()}


def test_the_student_of_kd_loss_has_the_published_size():
    """2.42 M parameters and 0.60 GFLOPs, presumably with 68 points (29 points would give 2.30 M, and 98 2.47 M)."""
    config = make("kdloss_300w", "")
    sizes = models.profile(networks.join(abstract_network("kdloss_300w", "", "light_alone")), config.image_size)
    assert sizes["params"] == 2_398_088 == pytest.approx(2.42e6, rel=0.01)
    assert round(sizes["flops"] / 1e9, 2) == 0.60


def test_the_student_of_star_has_the_published_size_once_deployed():
    """1.245 M parameters, by the interpretation that configs/star_pair2024.py explains."""
    student = networks.join(abstract_network("star_pair2024", "", "light_alone"))
    assert models.profile(student, 256)["params"] == 1_141_863
    modules = [module for _, module in nnx.iter_graph(student)]
    folded = sum(module.scale.shape[0] for module in modules if isinstance(module, BatchNorm))
    blocks = [module for module in modules if isinstance(module, MobileViTBlock)]
    channels = sorted(block.reduce.kernel.shape[-1] for block in blocks)
    assert (folded, channels) == (3888, [64, 96, 128])
    ones = sum(c * side**2 for c, side in zip(channels, (32, 16, 8), strict=True))  # shared by all layers of a block
    assert round((1_141_863 - folded + ones + 2 * 64**2 + 51 * (8 + 1)) / 1e6, 3) == 1.245


def test_the_number_of_steps_is_the_published_number_of_epochs():
    """The papers train 150 epochs with batches of 70, and 500 with 32; 300W has 3148 training images, WFLW 7500."""
    published = [("kdloss_300w", 150, 3148, 70), ("kdloss_wflw", 150, 7500, 70), ("star_pair2024", 500, 3148, 32)]
    for name, epochs, images, batch in published:
        config = make(name, "")
        assert config.train.batch_size == batch
        for count in config.steps.values():
            assert abs(count * batch - epochs * images) <= batch / 2
