"""Takes ten steps of the transfer stage on meshes of this process's eight devices.

test_devices.py runs it as `script_steps.py FOLDER MODEL RULE CASE…`, where the rule is sgd or muon, and a case is
`data,fsdp,model,accumulate`. It writes the losses, the parameters before and after, and the teacher's predictions to
FOLDER/CASE.npz.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import optax

from mlcm_jax import metrics
from mlcm_jax.config import base
from mlcm_jax.evaluation import evaluate
from mlcm_jax.training import optimizer as optimizers
from mlcm_jax.training import sharding, stages
from mlcm_jax.training import state as states
from mlcm_jax.training.loop import compile_step

SIZE, BATCH, K = 32, 16, 68
MODELS = {
    "swin": {"name": "swin_v2_b", "width": 0.25, "depths": (2, 2), "window": 4},
    "swin_undropped": {"name": "swin_v2_b", "width": 0.25, "depths": (2, 1), "window": 4, "drop_path": 0.0},
    "resnet": {"name": "resnet18", "width": 0.5, "depths": (1, 1), "stem": "small"},
}


def batches():
    """Yields ten batches; the last three examples of each are padding."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        yield {
            "rgb": rng.random((BATCH, SIZE, SIZE, 3), np.float32),
            "thermal": rng.random((BATCH, SIZE, SIZE, 1), np.float32),
            "landmarks": rng.random((BATCH, K, 2), np.float32),
            "visible": rng.random((BATCH, K)) < 0.8,
            "known": np.ones((BATCH, K), bool),
            "weight": np.ones((BATCH, K), np.float32),
            "mask": np.arange(BATCH) < BATCH - 3,
        }


def flat(network):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(network))])


def train(config, rule, case):
    data, fsdp, model, accumulate = map(int, case.split(","))
    count = data * fsdp * model
    mesh = sharding.make_mesh(jax.devices()[:count], shape={"fsdp": fsdp, "model": model})
    tx = optax.sgd(0.01) if rule == "sgd" else optimizers.optimizer(config, 10)
    config.transfer.update({"alpha": 1.0, "beta": 1.0, "gamma": 0.1, "delta": 0.1, "decay": "linear"})
    config.train.accumulate = accumulate
    recipe = dataclasses.replace(stages.recipe("transfer", config), tx=tx, total_steps=10)
    mean = np.full((K, 2), 0.5, np.float32)
    teacher, network = (stages.initial_network(name, config, mean_shape=mean) for name in ("teacher", "transfer"))
    teacher = sharding.put_sharded(teacher, mesh)
    # The head's kernel is enlarged, because fresh heads predict little else than the mean shape.
    head = teacher.params["head"] | {"kernel": 100.0 * teacher.params["head"]["kernel"]}
    seeing = teacher.replace(params=teacher.params | {"head": head})
    batch = next(batches())
    predicted = evaluate.predictor(seeing, "rgb", mesh)(batch)
    nme = metrics.nme(
        predicted, batch["landmarks"], normalizer="box", layout="ibug68", box=np.tile([0, 0, 1, 1], (BATCH, 1))
    )
    teachers = {"teacher": teacher}
    state = sharding.put_sharded(states.create(network, {}, tx), mesh)
    split = [leaf for leaf in jax.tree.leaves(state) if not leaf.sharding.is_fully_replicated]
    assert bool(split) == (fsdp * model > 1)
    first = flat(state.network)
    step, key = compile_step(recipe, state, teachers, mesh), sharding.put_replicated(jax.random.key(0), mesh)
    losses = []
    for batch in batches():
        placed = sharding.put_batch(batch, mesh)
        assert len(placed["rgb"].sharding.device_set) == count
        state, metrics_of_step = step(state, teachers, placed, key)
        losses.append(float(metrics_of_step["loss"]))
    after = [leaf for leaf in jax.tree.leaves(state) if not leaf.sharding.is_fully_replicated]
    assert len(after) == len(split)
    return {"losses": losses, "parameters": flat(state.network), "first": first, "predicted": predicted, "nme": nme}


def main(folder, model, rule, *cases):
    config = base()
    config.loss.name = "smooth_l1"  # at the kink of l1, the last bit of a prediction would decide a gradient
    config.train.update({"optimizer": "muon", "lr": 1e-3})
    config.teacher = config.student = MODELS[model]
    for case in cases:
        np.savez(Path(folder) / f"{case}.npz", **train(config, rule, case))


if __name__ == "__main__":
    main(*sys.argv[1:])
