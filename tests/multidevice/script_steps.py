"""Ten SGD steps of the transfer stage on this process's devices; the result goes to the file named on the command line.

Run by test_devices.py with 1 and with 8 virtual devices.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import tiny
from mlcm_jax import sharding, stages, steps
from mlcm_jax import state as states
from mlcm_jax.train import compile_step

SIZE, BATCH, K = 32, 16, 68


def main(path):
    config = tiny.get_config("smoke")
    mean = np.full((K, 2), 0.5, np.float32)
    mesh = sharding.make_mesh()
    tx = optax.sgd(0.01)
    recipe = steps.Recipe(
        modality="thermal",
        loss=stages.loss_function(config),
        tx=tx,
        total_steps=10,
        teacher_modality="rgb",
        distillation=steps.Distillation(1.0, 1.0, 0.1, 0.1),
    )
    teacher = stages.initial_network("teacher", config, num_landmarks=K, mean_shape=mean)
    network = stages.initial_network("transfer", config, num_landmarks=K, mean_shape=mean)
    state = states.create(network, {}, tx)
    state = jax.device_put(state, sharding.tree_shardings(state, mesh))
    teacher = sharding.put_replicated(teacher, mesh)
    step = compile_step(recipe, state, teacher, mesh)
    rng, key = np.random.default_rng(0), sharding.put_replicated(jax.random.key(0), mesh)
    losses = []
    for _ in range(10):
        batch = {
            "rgb": rng.random((BATCH, SIZE, SIZE, 3), np.float32),
            "thermal": rng.random((BATCH, SIZE, SIZE, 1), np.float32),
            "landmarks": rng.random((BATCH, K, 2), np.float32),
            "visible": rng.random((BATCH, K)) < 0.8,
            "mask": np.arange(BATCH) < BATCH - 3,
        }
        placed = sharding.put_batch(batch, mesh)
        assert len(placed["rgb"].sharding.device_set) == len(jax.devices())
        state, scalars = step(state, teacher, placed, key)
        losses.append(float(scalars["loss"]))
    leaves = jax.tree.leaves(state.network)
    assert all(leaf.sharding.is_fully_replicated for leaf in leaves)
    flat = jnp.concatenate([leaf.ravel() for leaf in leaves])
    np.savez(path, devices=len(jax.devices()), losses=losses, parameters=np.asarray(flat))


if __name__ == "__main__":
    main(sys.argv[1])
