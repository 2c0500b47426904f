"""The cores and the memory of this process, as the machine or a container sets them."""

import os

import pytest

from mlcm_jax import cores

MACHINE = 8 << 30


@pytest.fixture
def limits(monkeypatch, tmp_path):
    """`limits(text, …)` writes the files in which containers state their limits; None stands for no such file."""
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": MACHINE // 4096}.__getitem__)

    def write(*texts):
        paths = [tmp_path / str(k) for k in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            if text is not None:
                path.write_text(text)
        monkeypatch.setattr(cores, "_LIMITS", tuple(map(str, paths)))

    return write


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((None, None), MACHINE),
        (("max\n", None), MACHINE),
        (("1073741824\n", None), 1 << 30),
        ((None, "2147483648\n"), 2 << 30),
        ((None, "9223372036854771712\n"), MACHINE),
    ],
)
def test_memory_is_that_of_the_machine_or_the_container(limits, texts, expected):
    limits(*texts)
    assert cores.memory() == expected


def test_memory_is_unknown_without_sysconf(limits, monkeypatch):
    limits(None)
    monkeypatch.delattr(os, "sysconf")
    assert cores.memory() == 0


def test_a_process_has_a_core():
    assert 1 <= cores.available() <= os.cpu_count()
