"""What a run trained on, or a report was made with: date, versions and devices."""

import datetime
import importlib.metadata
import platform
from collections import Counter

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def describe() -> dict[str, str]:
    """Returns "date" (UTC), "python", "system", the versions of packages, "devices" and "processes" as text."""
    now = datetime.datetime.now(datetime.UTC)
    kinds = Counter(f"{device.platform} {device.device_kind}".strip() for device in jax.devices())
    return {
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in _PACKAGES},
        "devices": ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items())),
        "processes": str(jax.process_count()),
    }


def version(name: str) -> str:
    """Returns the version of a package, or "unknown"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # jax can be installed without metadata
        return "unknown"
