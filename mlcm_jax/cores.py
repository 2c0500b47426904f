"""How many cores this process may use."""

import os


def available() -> int:
    """The cores of this process; containers often allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
