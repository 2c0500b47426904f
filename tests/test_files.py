"""Small files that are written whole or not at all."""

import json

import numpy as np
import pytest

from mlcm_jax.files import write_json


def test_json_of_numpy_is_whole_or_absent(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": np.arange(2), "b": np.float32(0.5)})
    assert json.loads(path.read_text()) == {"a": [0, 1], "b": 0.5}
    with pytest.raises(AttributeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text())["b"] == 0.5
