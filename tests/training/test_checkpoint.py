"""Checkpoints on disk: they are restored exactly, and never when they are incomplete or damaged."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlcm_jax import config as configs
from mlcm_jax.errors import InputError
from mlcm_jax.training import checkpoint, sharding
from mlcm_jax.training import optimizer as optimizers

# When a restore fails, orbax's other reads end in their own threads, and warn whenever they are garbage-collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def tree(step):
    key = jax.random.key(step)
    return {
        "step": jnp.int32(step),
        "params": {"kernel": jax.random.normal(key, (64, 33)), "half": jnp.arange(7, dtype=jnp.bfloat16)},
    }


def fill(directory, steps, keep=3):
    manager = checkpoint.open_manager(directory, keep=keep)
    for step in steps:
        checkpoint.save(manager, step, tree(step), {"kernel": tree(step)["params"]["kernel"]})
    checkpoint.close(manager)


def restored(directory, item="state", like=None):
    messages = []
    manager = checkpoint.open_manager(directory)
    like = checkpoint.abstract(sharding.put_replicated(like or tree(0), sharding.make_mesh()))
    try:
        return checkpoint.restore(manager, item, like, say=messages.append), messages
    finally:
        checkpoint.close(manager)


def largest_file(directory, step, item="state"):
    files = [p for p in (directory / str(step) / item).rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def test_what_is_saved_is_restored_bitwise(tmp_path):
    fill(tmp_path, [1, 2])
    (found, step), messages = restored(tmp_path)
    assert step == 2 and not messages
    jax.tree.map(np.testing.assert_array_equal, found, tree(2))


def test_the_state_of_muon_is_restored(tmp_path):
    """Its trees have holes, because neither rule keeps moments of the parameters that the other updates."""
    config = configs.base()
    config.train.optimizer = "muon"
    tx = optimizers.optimizer(config, 10)
    params = {part: {"kernel": tree(0)["params"]["kernel"], "bias": jnp.ones(33)} for part in ("backbone", "head")}
    with jax.numpy_dtype_promotion("standard"):  # as in the training step
        first = tx.init(params)
        _, state = tx.update(params, first, params)
        manager = checkpoint.open_manager(tmp_path)
        checkpoint.save(manager, 1, state, params)
        checkpoint.close(manager)
        (found, _), _ = restored(tmp_path, like=first)
        assert jax.tree.structure(found) == jax.tree.structure(state)
        jax.tree.map(np.testing.assert_array_equal, tx.update(params, found, params), tx.update(params, state, params))


def test_nothing_saved_gives_none(tmp_path):
    found, _ = restored(tmp_path)
    assert found is None


def test_the_model_alone_can_be_read(tmp_path):
    fill(tmp_path, [4])
    (found, _), _ = restored(tmp_path, "model", {"kernel": tree(0)["params"]["kernel"]})
    np.testing.assert_array_equal(found["kernel"], tree(4)["params"]["kernel"])


def test_only_the_last_ones_are_kept(tmp_path):
    fill(tmp_path, [1, 2, 3, 4], keep=2)
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [3, 4]


def test_the_best_is_kept_beside_the_last_ones(tmp_path):
    manager = checkpoint.open_manager(tmp_path, keep=2, scored=True)
    for step, error in ((1, 5.0), (2, 3.0), (3, 4.0), (4, 3.5), (5, 3.2)):
        checkpoint.save(manager, step, tree(step), {"kernel": tree(step)["params"]["kernel"]}, error=error)
    assert checkpoint.best_step(manager) == 2
    checkpoint.close(manager)
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()) == [2, 4, 5]
    manager = checkpoint.open_manager(tmp_path, keep=2, scored=True)
    like = checkpoint.abstract(sharding.put_replicated(tree(0), sharding.make_mesh()))
    assert checkpoint.restore(manager, "state", like, first=checkpoint.best_step(manager))[1] == 2
    assert checkpoint.restore(manager, "state", like)[1] == 5
    # If the best one is damaged, the newest is used.
    largest_file(tmp_path, 2).write_bytes(b"")
    messages = []
    assert checkpoint.restore(manager, "state", like, first=2, say=messages.append)[1] == 5 and len(messages) == 1
    checkpoint.close(manager)


def test_the_last_of_two_equally_good_ones_is_the_best(tmp_path):
    manager = checkpoint.open_manager(tmp_path, keep=2, scored=True)
    best = []
    for step, error in ((1, 3.0), (2, 3.0), (3, 4.0), (4, 5.0)):
        checkpoint.save(manager, step, tree(step), {"kernel": tree(step)["params"]["kernel"]}, error=error)
        best.append(checkpoint.best_step(manager))
    checkpoint.close(manager)
    assert best == [1, 2, 2, 2]  # it does not change when the other one is deleted


def test_without_errors_there_is_no_best(tmp_path):
    fill(tmp_path, [1, 2])
    manager = checkpoint.open_manager(tmp_path, scored=True)
    assert checkpoint.best_step(manager) is None
    checkpoint.close(manager)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    fill(tmp_path, [1, 2])
    victim = largest_file(tmp_path, 2)
    content = bytearray(victim.read_bytes())
    if damage == "truncate":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
        victim.write_bytes(content)
    else:
        victim.unlink()
    (found, step), messages = restored(tmp_path)
    assert step == 1 and len(messages) == 1 and "/2 cannot be used" in messages[0]
    jax.tree.map(np.testing.assert_array_equal, found, tree(1))


def test_every_flipped_byte_of_the_arrays_is_noticed(tmp_path):
    fill(tmp_path, [1, 2])
    victim = largest_file(tmp_path, 2)
    whole = victim.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(whole), 6):
        content = bytearray(whole)
        content[position] ^= 1
        victim.write_bytes(content)
        (found, step), _ = restored(tmp_path)
        # Either the damage does not affect the arrays, or the checkpoint is not used: no value is ever wrong.
        jax.tree.map(np.testing.assert_array_equal, found, tree(step))


def test_damage_to_all_checkpoints_is_an_input_error(tmp_path):
    fill(tmp_path, [1])
    victim = largest_file(tmp_path, 1)
    victim.write_bytes(victim.read_bytes()[:10])
    with pytest.raises(InputError, match="can be read"):
        restored(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    fill(tmp_path, [1])
    other = tree(0) | {"params": {"kernel": jnp.zeros((3, 3)), "half": jnp.zeros(7, jnp.bfloat16)}}
    with pytest.raises(InputError, match="with this config"):
        restored(tmp_path, like=other)


def test_a_half_written_checkpoint_is_ignored(tmp_path):
    fill(tmp_path, [1, 2])
    (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp")
    (_, step), _ = restored(tmp_path)
    assert step == 1


def test_checksums_see_values_and_places():
    a = {"x": jnp.array([1.0, 2.0, 3.0])}
    assert checkpoint.checksums(a) == checkpoint.checksums({"x": jnp.array([1.0, 2.0, 3.0])})
    assert checkpoint.checksums(a) != checkpoint.checksums({"x": jnp.array([2.0, 1.0, 3.0])})
    assert checkpoint.checksums({"x": jnp.array([0.0])}) != checkpoint.checksums({"x": jnp.array([-0.0])})


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        checkpoint.open_manager(tmp_path / "file" / "checkpoints")


def test_importing_leaves_the_logging_of_other_libraries_alone():
    """A program that uses the package keeps its own settings; only the command silences libraries."""
    code = """if True:
        import logging, sys
        import absl.logging
        levels = lambda: (logging.getLogger("asyncio").level, absl.logging.get_verbosity(), logging.root.level)
        before, hook = levels(), sys.unraisablehook
        import mlcm_jax.cli, mlcm_jax.training.run_stage, mlcm_jax.evaluation.ablation
        assert levels() == before, (levels(), before)
        assert sys.unraisablehook is hook
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
