"""What a network reads of a user's image file: 8-bit gray (thermal networks) or 8-bit RGB."""

import numpy as np

from mlcm_jax import images
from mlcm_jax.errors import InputError


def for_network(
    file: images.ImageFile, modality: str, thermal_range: tuple[float, float] | None
) -> tuple[np.ndarray, str]:
    """Converts an image file for a network.

    Args:
        file: the image, as it is stored.
        modality: "rgb" or "thermal".
        thermal_range: the temperatures in °C that a thermal network reads as 0 and 1; None if it reads gray values.

    Returns:
        (uint8 [H, W, 3] or [H, W], a note on what was done, or "").

    Raises:
        InputError: the network reads temperatures, and the file has none.
    """
    if modality == "rgb":
        return images.to_rgb8(file)
    if not thermal_range:
        return images.to_gray8(file)
    if file.kind != "float":
        raise InputError(f"{file.name} holds no temperatures, which this network reads; give it °C (.npy, .tiff).")
    return fixed_range(file.array, *thermal_range), ""


def fixed_range(celsius: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps temperatures in °C linearly to uint8, `low` to 0 and `high` to 255, and clips; NaN becomes 0 (cold).

    Raises:
        InputError: `low` is not below `high`.
    """
    if not low < high:
        raise InputError(f"config.thermal_range=({low:g}, {high:g}) must be increasing, such as (20, 40).")
    share = np.clip((np.asarray(celsius, np.float32) - low) / (high - low), 0.0, 1.0)
    return (np.nan_to_num(share) * 255.0).round().astype(np.uint8)
