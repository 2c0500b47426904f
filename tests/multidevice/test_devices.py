"""The same seed gives the same result on one device and on eight (virtual ones, in processes of their own)."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).with_name("script_steps.py")


def run_steps(path, devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True, timeout=300, env=env)
    assert result.returncode == 0, result.stderr
    return dict(np.load(path))


def test_one_device_and_eight_train_alike(tmp_path):
    one, eight = (run_steps(tmp_path / f"{n}.npz", n) for n in (1, 8))
    assert (one["devices"], eight["devices"]) == (1, 8)
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=1e-4)
    np.testing.assert_allclose(eight["parameters"], one["parameters"], rtol=1e-4, atol=1e-5)
