"""Settings of the C library under which large arrays are cheap.

A training step on a CPU allocates hundreds of megabytes and frees them again. By default, glibc takes such blocks from
the system one by one and gives them back at once, so that the system has to clear and map their pages anew in every
step: 80,000 pages for a step of MobileNetV2, which is a third of its processor time. With `SETTINGS`, a process keeps
what it has freed until it ends, in large pages where the system has them (RESULTS.md in benchmarks/, "Training steps").

glibc reads these settings only when a process starts. `start` therefore starts the command `mlcm` a second time, in the
same process. A program that imports the package can be started with them, as docs/training.md says.
"""

import os
from collections.abc import Mapping

VARIABLE = "GLIBC_TUNABLES"
SETTINGS = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,  # ask for large pages
        "mmap_max": 0,  # take blocks of any size from the heap …
        "arena_max": 1,  # … of which there is one, as those of other threads are small
        "top_pad": 64 << 20,  # let the heap grow by so many bytes at least
        "trim_threshold": 1 << 40,  # never give its end back
    }.items()
)


def missing(environment: Mapping[str, str]) -> bool:
    """Whether a process with this environment runs without `SETTINGS` and could have them; others' own ones count."""
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError):  # Windows, macOS, other C libraries
        return False
    return library.startswith("glibc") and VARIABLE not in environment
