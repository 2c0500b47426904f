"""Prints the collectives of compiled training steps on eight virtual devices as JSON; test_collectives.py runs it."""

import json
import sys

import jax

from benchmarks import plan
from mlcm_jax.config import base
from mlcm_jax.training import sharding

NETWORK = {"name": "resnet18", "width": 0.5, "depths": (1, 1), "stem": "small"}


def numbers(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def main(*cases):
    config = base()
    config.image_size, config.train.batch_size = 32, 16
    config.student = config.teacher = NETWORK
    config.transfer.beta = 1.0
    results = {}
    for case in cases:
        stage, fsdp = case.split(",")
        compiled, state = plan.compile_step(config, sharding.make_mesh(shape={"fsdp": int(fsdp)}), stage)
        found = plan.collectives(compiled.as_text())
        results[case] = {
            "parameters": numbers(state.network.params),
            "head": numbers(state.network.params["head"]),
            "channels": numbers(state.network.stats) // 2,
            "bytes": {
                kind: sum(one.times * one.bytes for one in found if one.kind == kind)
                for kind in {c.kind for c in found}
            },
            "scalars": sum(one.arrays.count(1) for one in found),
            "groups": sorted({one.group for one in found}),
            "held": plan.measure(compiled, 1)["held"],
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
