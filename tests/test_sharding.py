import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mlcm_jax import sharding
from mlcm_jax.errors import InputError


def test_one_device_is_a_mesh_of_one():
    mesh = sharding.make_mesh(jax.devices()[:1])
    assert mesh.axis_names == ("data",) and mesh.size == 1


def test_the_first_matching_rule_wins_and_the_rest_is_replicated():
    mesh = sharding.make_mesh()
    tree = {"dense": {"kernel": np.zeros((4, 4)), "bias": np.zeros(4)}, "conv": {"kernel": np.zeros((2, 2))}}
    rules = [(r"dense.*kernel", PartitionSpec("data")), (r"kernel", PartitionSpec(None, "data"))]
    found = sharding.tree_shardings(tree, mesh, rules)
    assert found["dense"]["kernel"].spec == PartitionSpec("data")
    assert found["conv"]["kernel"].spec == PartitionSpec(None, "data")
    assert found["dense"]["bias"].spec == PartitionSpec()


def test_put_batch_keeps_values_and_splits_the_first_axis():
    mesh = sharding.make_mesh()
    value = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    placed = sharding.put_batch({"x": value}, mesh)["x"]
    np.testing.assert_array_equal(placed, value)
    assert placed.sharding.spec == PartitionSpec("data")


@pytest.mark.parametrize("size", [0, -8])
def test_a_batch_that_does_not_split_is_refused(size):
    with pytest.raises(InputError, match=r"config\.train\.batch_size"):
        sharding.check_batch_size(size, sharding.make_mesh(), "config.train.batch_size")
