import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mlcm_jax import config as configs
from mlcm_jax import models
from mlcm_jax.errors import InputError
from mlcm_jax.training import optimizer as optimizers
from mlcm_jax.training import sharding


def abstract_mesh(data=1, fsdp=1, model=1):
    """Returns a mesh with sizes but without devices, which is all that the rules need."""
    return jax.sharding.AbstractMesh((data, fsdp, model), sharding.AXES)


def specs(tree, mesh, **options):
    """Returns {path: spec} of the leaves that are split."""
    found = {
        jax.tree_util.keystr(path): sharding.partition_spec(jax.tree_util.keystr(path), leaf.shape, mesh, **options)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    return {path: spec for path, spec in found.items() if spec != PartitionSpec()}


def parameters(name, **options):
    def make():
        from flax import nnx

        model = models.create(name, num_landmarks=5, rngs=nnx.Rngs(0), **options)
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    return jax.eval_shape(make)


def test_one_device_is_a_mesh_of_one():
    mesh = sharding.make_mesh(jax.devices()[:1])
    assert mesh.axis_names == ("data", "fsdp", "model") and mesh.size == 1


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ({}, (8, 1, 1)),
        ({"data": -1, "fsdp": 2, "model": 2, "slices": 1}, (2, 2, 2)),
        ({"data": 1, "fsdp": -1}, (1, 8, 1)),
        ({"data": 2, "model": 4}, (2, 1, 4)),
        ({"data": 4, "fsdp": 2, "slices": 2}, (4, 2, 1)),
    ],
)
def test_an_axis_of_minus_one_takes_the_remaining_devices(shape, sizes):
    assert tuple(sharding._sizes(shape, 8)[0]) == sizes


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"fsdp": 3}, r"fsdp=3 .*does not fit 8 devices"),
        ({"data": 4}, r"data=4 .*does not fit 8 devices"),
        ({"data": 16}, "does not fit"),
        ({"data": -1, "fsdp": -1}, "one -1 only"),
        ({"model": 0}, r"config\.mesh\.model=0"),
        ({"model": 1.5}, r"config\.mesh\.model=1\.5"),
        ({"slices": -1}, r"config\.mesh\.slices=-1 must be a positive whole number\."),
        ({"slices": 3}, r"config\.mesh\.slices=3 must divide"),
        ({"tensor": 2}, r"config\.mesh\.tensor is not an axis"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(InputError, match=message):
        sharding._sizes(shape, 8)


def test_more_slices_than_there_are_is_refused():
    # Two devices of one process, without slices, cannot form two slices.
    with pytest.raises(InputError, match=r"config\.mesh\.slices=2 does not fit the devices"):
        sharding.make_mesh(jax.devices()[:1] * 2, shape={"slices": 2})


def test_the_first_matching_rule_applies_and_other_arrays_stay_whole():
    rules = [(r"dense.*kernel", PartitionSpec("model")), (r"kernel", PartitionSpec(None, "model"))]
    tree = {"dense": {"kernel": np.zeros((4, 4)), "bias": np.zeros(4)}, "conv": {"kernel": np.zeros((2, 2))}}
    assert specs(tree, abstract_mesh(model=2), rules=rules) == {
        "['dense']['kernel']": PartitionSpec("model", None),
        "['conv']['kernel']": PartitionSpec(None, "model"),
    }


def test_an_axis_that_does_not_divide_the_dimension_is_dropped():
    rules = [(r"kernel", PartitionSpec("model", "data"))]
    assert sharding.partition_spec("kernel", (6, 8), abstract_mesh(2, 1, 4), rules) == PartitionSpec(None, "data")
    assert sharding.partition_spec("kernel", (6, 7), abstract_mesh(2, 1, 4), rules) == PartitionSpec()
    assert sharding.partition_spec("kernel", (8,), abstract_mesh(2, 1, 4), rules) == PartitionSpec()


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((3, 3, 64, 128), PartitionSpec(None, None, None, "fsdp")),
        ((3, 3, 128, 64), PartitionSpec(None, None, "fsdp", None)),
        ((256, 256), PartitionSpec(None, "fsdp")),
        ((1024, 1023), PartitionSpec("fsdp", None)),
        ((1023, 1021), PartitionSpec()),  # 8 divides neither dimension
        ((127, 128), PartitionSpec()),  # small
        ((), PartitionSpec()),
    ],
)
def test_fsdp_splits_the_largest_axis_of_what_is_not_small(shape, spec):
    assert sharding.partition_spec("x", shape, abstract_mesh(fsdp=8)) == spec


def test_swin_is_split_by_heads_and_hidden_channels():
    tree = parameters("swin_v2_b", depths=(1,), window=4)
    block = "['backbone']['stages'][0]['blocks'][0]"
    assert specs(tree, abstract_mesh(data=2, model=4)) == {
        f"{block}['attn']['qkv']['kernel']": PartitionSpec(None, "model"),
        f"{block}['attn']['qkv']['bias']": PartitionSpec("model"),
        f"{block}['attn']['proj']['kernel']": PartitionSpec("model", None),
        f"{block}['attn']['offset_heads']['kernel']": PartitionSpec(None, "model"),
        f"{block}['attn']['logit_scale']": PartitionSpec("model", None, None),
        f"{block}['expand']['kernel']": PartitionSpec(None, "model"),
        f"{block}['expand']['bias']": PartitionSpec("model"),
        f"{block}['project']['kernel']": PartitionSpec("model", None),
    }
    both = specs(tree, abstract_mesh(fsdp=2, model=2))
    assert both[f"{block}['expand']['kernel']"] == PartitionSpec("fsdp", "model")


def test_pairs_of_convolutions_are_split_between_them():
    found = specs(parameters("resnet18", depths=(1,)), abstract_mesh(model=2))
    block = "['backbone']['stages'][0][0]['convs']"
    assert found == {
        f"{block}[0]['conv']['kernel']": PartitionSpec(None, None, None, "model"),
        f"{block}[0]['norm']['scale']": PartitionSpec("model"),
        f"{block}[0]['norm']['bias']": PartitionSpec("model"),
        f"{block}[1]['conv']['kernel']": PartitionSpec(None, None, "model", None),
    }
    assert specs(parameters("mobilenet_v2"), abstract_mesh(model=2)) == {}
    assert specs(parameters("mobilevit_v2"), abstract_mesh(model=2)) == {}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_averages_and_optimiser_state_follow_their_parameters(name):
    tree = {"network": parameters("swin_v2_b", depths=(1,), window=4)}
    config = configs.base()
    config.train.optimizer = name
    with jax.numpy_dtype_promotion("standard"):  # as in the training step
        state = jax.eval_shape(optimizers.optimizer(config, 10).init, tree)
    mesh = abstract_mesh(2, 2, 2)
    of_parameters, of_state = specs(tree, mesh), specs(state, mesh)
    found = {moment: {} for moment in (".mu[", ".nu[")}
    for path, spec in of_state.items():
        (moment,) = [moment for moment in found if moment in path]
        found[moment]["[" + path.split(moment)[1]] = spec
    assert found[".mu["] == of_parameters and of_parameters
    # Muon has one moment, and updates the kernels outside the head.
    by_adam = {path for path in of_parameters if name == "adamw" or "['kernel']" not in path or "['head']" in path}
    assert found[".nu["] == {path: of_parameters[path] for path in by_adam} and by_adam


def test_put_batch_keeps_values_and_splits_the_first_axis():
    mesh = sharding.make_mesh()
    value = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    placed = sharding.put_batch({"x": value}, mesh)["x"]
    np.testing.assert_array_equal(placed, value)
    assert placed.sharding.spec == PartitionSpec(("data", "fsdp"))
    assert sharding.batch_rows(mesh, 4).tolist() == [0, 1, 2, 3]
    assert sharding.gather_processes({"x": value})["x"] is value


def test_put_batch_converts_images_to_the_same_floats_as_the_host():
    mesh = sharding.make_mesh()
    image = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    placed = sharding.put_batch({"rgb": image}, mesh)["rgb"]
    np.testing.assert_allclose(placed, image / 255.0, rtol=1.2e-7)  # XLA may multiply by 1/255, with one bit of error
    assert placed.dtype == np.float32 and placed.sharding.spec == PartitionSpec(("data", "fsdp"))


def test_put_batch_converts_images_by_name_and_leaves_other_bytes_unchanged():
    labels = np.arange(4, dtype=np.uint8)
    placed = sharding.put_batch({"thermal": np.zeros((4, 8, 8, 1), np.float32), "labels": labels}, sharding.make_mesh())
    assert placed["labels"].dtype == np.uint8 and placed["thermal"].dtype == np.float32
    np.testing.assert_array_equal(placed["labels"], labels)


def test_gathered_gathers_what_fsdp_split_and_leaves_what_model_split():
    tree = {"attn": {"qkv": {"kernel": jax.ShapeDtypeStruct((256, 768), np.float32)}}}
    tree["other"] = jax.ShapeDtypeStruct((512, 512), np.float32)
    mesh = abstract_mesh(fsdp=2, model=2)
    assert specs(tree, mesh) == {
        "['attn']['qkv']['kernel']": PartitionSpec("fsdp", "model"),
        "['other']": PartitionSpec(None, "fsdp"),
    }
    program = jax.make_jaxpr(functools.partial(sharding.gathered, mesh=mesh))(tree)
    assert [equation.params["sharding"].spec for equation in program.eqns] == [
        PartitionSpec(None, "model"),
        PartitionSpec(),
    ]
    assert not jax.make_jaxpr(functools.partial(sharding.gathered, mesh=abstract_mesh(data=4, model=2)))(tree).eqns


@pytest.mark.parametrize(
    ("holders", "rows"),
    [
        ([[0], [0], [1], [1]], {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}),
        ([[0], [1], [0], [1]], {0: [0, 1, 4, 5], 1: [2, 3, 6, 7]}),  # in turns
        ([[0, 0], [1, 1], [2, 2], [3, 3]], {0: [0, 1], 1: [2, 3], 2: [4, 5], 3: [6, 7]}),
        (
            [[0, 1], [2, 3]],
            {0: [0, 1, 2, 3], 1: [0, 1, 2, 3], 2: [4, 5, 6, 7], 3: [4, 5, 6, 7]},
        ),  # model over two hosts
    ],
)
def test_hosts_read_the_rows_that_their_devices_hold(holders, rows):
    found = {process: sharding._rows(process, np.asarray(holders), 8).tolist() for process in rows}
    assert found == rows


def test_hosts_that_overlap_are_refused():
    with pytest.raises(InputError, match=r"config\.mesh\.model spreads"):
        sharding._rows(0, np.asarray([[0, 0, 0], [0, 1, 1], [1, 1, 1]]), 9)


@pytest.mark.parametrize("size", [0, -8])
def test_a_batch_that_does_not_split_is_refused(size):
    with pytest.raises(InputError, match=r"config\.train\.batch_size"):
        sharding.check_batch_size(size, sharding.make_mesh(), "config.train.batch_size")


def test_only_the_axes_and_micro_batches_that_split_the_batch_must_divide_it():
    sharding.check_batch_size(8, abstract_mesh(2, 2, 3), "key")
    sharding.check_batch_size(8, abstract_mesh(2, 2, 3), "key", accumulate=2)
    with pytest.raises(InputError, match=r"key=8 must be a positive multiple of 12: 4 devices .* 3 micro-batches"):
        sharding.check_batch_size(8, abstract_mesh(2, 2, 3), "key", accumulate=3)
