"""Sizes of the networks against torchvision's published ones, and of a tiny one against arithmetic by hand."""

import pytest
from flax import nnx
from sine_weights import parameter_counts

from mlcm_jax import models

# torchvision's model cards (`num_params`; `_ops` in units of 10^9 multiply-adds; the image size they refer to).
PUBLISHED = {
    "mobilenet_v2": (3_504_872, 0.301, 224),
    "resnet18": (11_689_512, 1.814, 224),
    "resnet34": (21_797_672, 3.664, 224),
    "resnet50": (25_557_032, 4.089, 224),
    "efficientnet_b0": (5_288_548, 0.386, 224),
    "efficientnet_b1": (7_794_184, 0.687, 240),
    "efficientnet_b2": (9_109_994, 1.088, 288),
    "efficientnet_b3": (12_233_232, 1.827, 300),
    "efficientnet_b4": (19_341_616, 4.394, 380),
}


@pytest.mark.usefixtures("without_draws")
@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_flops_are_the_published_ones(name):
    params, giga_macs, size = PUBLISHED[name]
    # 500 landmarks are 1000 outputs: the head has the size of the ImageNet classifier.
    model = nnx.eval_shape(lambda: models.create(name, num_landmarks=500, rngs=nnx.Rngs(0)))
    found = models.profile(model, size)
    assert found["params"] == params
    assert found["flops"] / 2e9 == pytest.approx(giga_macs, abs=0.0011)


def test_the_list_is_complete():
    assert set(models.names()) == set(PUBLISHED) | {row["name"] for row in parameter_counts("")}


def test_tiny_network_by_hand():
    options = {"depths": (1, 1), "width": 0.125, "stem": "small", "head": "heatmap", "upsample": 2, "head_channels": 24}
    model = models.create("resnet18", num_landmarks=7, rngs=nnx.Rngs(0), **options)
    found = models.profile(model, 32, channels=1)
    stem, first = 9 * 3 * 8, 2 * 9 * 8 * 8
    second = 9 * 8 * 16 + 9 * 16 * 16 + 8 * 16
    head = (9 * 16 * 24, 24 * 7)
    assert found["parts"] == {
        "backbone.stem": {"params": stem + 2 * 8, "flops": 2 * 16 * 16 * stem},
        "backbone.stages.0": {"params": first + 4 * 8, "flops": 2 * 16 * 16 * first},
        "backbone.stages.1": {"params": second + 6 * 16, "flops": 2 * 8 * 8 * second},
        "head": {"params": sum(head) + 2 * 24 + 7 + 1, "flops": 2 * 16 * 16 * sum(head) + 2 * (16 + 16) * 7},
    }
    assert found["params"] == sum(part["params"] for part in found["parts"].values())
    assert (found["stride"], found["channels"]) == (4, 16)


def test_table_lists_every_part_and_the_totals():
    model = models.create("resnet18", num_landmarks=5, depths=(1,), width=0.125, stem="small", rngs=nnx.Rngs(0))
    text = models.table(model, 32)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["backbone.stem", "backbone.stages.0", "head", "total"]
    total = (9 * 3 * 8 + 16) + (2 * 9 * 8 * 8 + 32) + (8 * 10 + 10)
    assert f"{total:,}" in lines[4] and "100.0 %" in lines[4]
    assert len({len(line) for line in lines[:5]}) == 1
