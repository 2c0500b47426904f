"""Batches that several processes prepare: the same as those of one, with clear errors, and nothing left behind."""

import functools
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import grain
import numpy as np
import pytest

from mlcm_jax.config import base
from mlcm_jax.data import loader_processes, pipeline
from mlcm_jax.data.augment import Augmentation, Crop
from mlcm_jax.data.examples import MEMORY, open_examples
from mlcm_jax.errors import InputError


@pytest.fixture(scope="module")
def batches(data_dir):
    """Makes batches with the default augmentation; their examples have been decoded already."""
    examples = open_examples("synthetic_faces/48x48", "train", data_dir=str(data_dir), layout="ibug68", gain="box")
    for k in range(len(examples)):
        examples[k]
    options = base().augment.to_dict()
    crop, order = Crop(32, options.pop("expand"), examples.layout, "box"), pipeline.Order(batch_size=4, seed=0)
    augmentation = Augmentation(**options)
    return pipeline.train_batches([examples], crop, order, augmentation=augmentation)


def number(index, bad):
    if index == bad:
        raise InputError(f"Example {index} is damaged.")
    return {"number": np.full(4, index)}


def numbers(bad=None):
    return grain.MapDataset.range(40).map(functools.partial(number, bad=bad))


def test_processes_give_the_batches_of_one_from_any_step_on_and_end(batches):
    with pipeline.iterate(batches, 5, processes=2) as source:
        for step in range(5, 10):
            found, expected = next(source), batches[step]
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                np.testing.assert_array_equal(found[key], value)
                assert found[key].dtype == value.dtype
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


def test_the_error_of_an_example_and_the_death_of_a_process_are_told():
    with pytest.raises(InputError) as caught, pipeline.iterate(numbers(bad=3), 0, processes=1) as source:
        for k in range(4):
            assert next(source)["number"][0] == k
    assert str(caught.value) == "Example 3 is damaged."
    assert not multiprocessing.active_children()
    with pipeline.iterate(numbers(), 0, processes=1) as source:
        next(source)
        (child,) = multiprocessing.active_children()
        os.kill(child.pid, signal.SIGTERM)  # is left to the main process
        next(source)
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(InputError, match=r"has died, perhaps for lack of memory; lower config\.loader_processes"):
            list(source)
    assert not multiprocessing.active_children()


def test_batches_must_fit_into_shared_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(loader_processes, "_SHARED", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2000, 1000, 1000))
    message = r"loader_processes=10 needs 0 MB of shared memory, and .* has 0 MB left; lower it, or give a container"
    with pytest.raises(InputError, match=message), pipeline.iterate(numbers(), 0, processes=10):
        pass
    monkeypatch.setattr(loader_processes, "_SHARED", tmp_path / "none")  # other systems
    loader_processes._check_room(10**15, 1)


def test_decoded_examples_stay_in_their_process(batches, data_dir):
    examples = open_examples("synthetic_faces/48x48", "train", data_dir=str(data_dir), layout="ibug68")
    size = len(pickle.dumps(examples))
    for k in range(len(examples)):
        examples[k]
    sent = pickle.dumps(examples)
    assert len(sent) == size
    copy, free = pickle.loads(sent), MEMORY.free
    np.testing.assert_array_equal(copy[3]["rgb"], examples[3]["rgb"])
    assert MEMORY.free < free
    del copy
    assert MEMORY.free == free


MAIN = """
import multiprocessing, time
import grain, numpy as np
from mlcm_jax.data import pipeline

if __name__ == "__main__":
    numbers = grain.MapDataset.range(40).map(lambda k: {"number": np.full(4, k)})
    with pipeline.iterate(numbers, 0, processes=1) as source:
        next(source)
        print(multiprocessing.active_children()[0].pid, flush=True)
        time.sleep(600)
"""


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for the process in /proc")
def test_a_process_ends_when_the_main_one_is_killed(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(MAIN)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as main:
        child = int(main.stdout.readline())
        os.kill(child, 0)
        main.kill()
    until = time.monotonic() + 60
    while os.path.exists(f"/proc/{child}") and time.monotonic() < until:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}")
