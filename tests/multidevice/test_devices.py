"""The same seed gives the same result on any mesh (of virtual devices, in separate processes)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent
# data, fsdp, model, accumulate
ONE = "1,1,1,1"
MESHES = ["2,1,1,1", "4,1,1,1", "8,1,1,1", "1,2,1,1", "2,4,1,1", "1,8,1,1", "1,1,2,1", "2,1,4,1", "2,2,2,1"]


def run(script, *arguments, devices=8):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip()
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(FOLDER.parents[1])}
    command = [sys.executable, FOLDER / script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=env)
    assert result.returncode == 0, result.stderr
    return result.stdout


def assert_alike(folder, model, cases, rule="sgd"):
    run("script_steps.py", folder, model, rule, ONE, *cases)
    one = np.load(folder / f"{ONE}.npz")
    assert one["losses"][-1] < 0.7 * one["losses"][0]  # it trains, and parameters move far more than the tolerances
    assert np.abs(one["parameters"] - one["first"]).max() > 0.01
    for case in cases:
        found = np.load(folder / f"{case}.npz")
        np.testing.assert_allclose(found["losses"], one["losses"], rtol=1e-4, err_msg=case)
        np.testing.assert_allclose(found["parameters"], one["parameters"], rtol=1e-4, atol=3e-6, err_msg=case)
        np.testing.assert_allclose(found["nme"], one["nme"], rtol=1e-5, err_msg=case)
        np.testing.assert_allclose(found["predicted"], one["predicted"], rtol=0, atol=1e-5, err_msg=case)


def test_one_device_and_a_mesh_of_all_axes_train_alike(tmp_path):
    assert_alike(tmp_path, "resnet", ["2,2,2,1"])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["swin", "resnet"])
def test_every_mesh_trains_alike(tmp_path, model):
    assert_alike(tmp_path, model, MESHES)


@pytest.mark.slow
def test_every_mesh_trains_alike_with_muon(tmp_path):
    assert_alike(tmp_path, "resnet", MESHES, rule="muon")


@pytest.mark.slow
def test_micro_batches_add_up_to_the_batch(tmp_path):
    # The model has no batch normalisation and no stochastic depth; padding gives the micro-batches unequal weights.
    assert_alike(tmp_path, "swin_undropped", ["1,1,1,4", "2,2,2,2"])
