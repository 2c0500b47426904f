"""How many cores and how much memory this process may use."""

import contextlib
import os
from pathlib import Path

_LIMITS = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"  # of containers


def available() -> int:
    """The cores of this process; containers often allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """The bytes of memory of the machine, or of the container if it allows fewer; 0 if they are not known."""
    sizes = []
    with contextlib.suppress(AttributeError, OSError, ValueError):  # not on Windows
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # there is no container, or it says "max"
            sizes.append(int(Path(limit).read_text()))
    return min(sizes, default=0)


def processor() -> str:
    """The name of the processor, as far as the system tells it, and how many cores this process may use."""
    name = ""
    with contextlib.suppress(OSError):  # not Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or 'unknown processor'}, {available()} cores"
