"""Measures a prototype of augmentation on the devices, beside what the loader does on the host.

    python -m benchmarks.device_augment
    python -m benchmarks.device_augment --pairs=8 --side=32 --turns=1              # only to see whether it runs

The prototype takes uint8 squares of RGB and thermal, 1.25 times as wide as the crop, and has the three costly parts of
the augmentation, as one jitted function of images and a key: an affine warp with bilinear interpolation, a tone curve
for each channel, and normal noise. The host's numbers are those of `augment.crop` and of `photometric` with all that
they do. Each number is per pair: processor time, which on a CPU is what the two compete for, and time of the clock.
Results: RESULTS.md, "Augmentation on the devices".
"""

import argparse
import time
from collections.abc import Callable, Sequence

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from mlcm_jax.config import base
from mlcm_jax.console import say
from mlcm_jax.data import augment, photometric
from mlcm_jax.synthetic import generate

WIDER = 1.25


def warp(images: jax.Array, matrices: jax.Array, side: int) -> jax.Array:
    """Warps uint8 [B, H, W, C] to float32 [B, side, side, C]: crop pixel c takes the value at matrix @ (c, 1).

    As in `augment.crop`, the interpolation is bilinear, and pixels outside the image are 0.

    Args:
        images: uint8 [B, H, W, C].
        matrices: float32 [B, 2, 3], crop pixels to pixels of the images.
        side: of the crop in pixels.
    """
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = jnp.arange(side, dtype=jnp.float32)
    grid = jnp.stack([*jnp.meshgrid(places, places), jnp.ones((side, side))])

    def one(image: jax.Array, matrix: jax.Array) -> jax.Array:
        x, y = jnp.tensordot(matrix, grid, 1) + 1.0
        height, width = image.shape[:2]
        x, y = jnp.clip(x, 0.0, width - 1.0), jnp.clip(y, 0.0, height - 1.0)
        left, top = (jnp.minimum(jnp.floor(v), n - 2.0) for v, n in ((x, width), (y, height)))
        across, down = (x - left)[..., None], (y - top)[..., None]
        i, j = top.astype(jnp.int32), left.astype(jnp.int32)
        corners = [image[i + a, j + b].astype(jnp.float32) for a in (0, 1) for b in (0, 1)]
        upper, lower = corners[0] + across * (corners[1] - corners[0]), corners[2] + across * (corners[3] - corners[2])
        return upper + down * (lower - upper)

    return jax.vmap(one)(padded, matrices)


def tone_and_noise(images: jax.Array, tables: jax.Array, key: jax.Array) -> jax.Array:
    """Applies a table [B, C, 256] to each channel of float32 [B, S, S, C] in gray levels, and adds noise: [0, 1]."""
    levels = jnp.round(images).astype(jnp.int32)
    toned = jax.vmap(jax.vmap(lambda table, level: table[level], (0, 2), 2))(tables, levels)
    return jnp.clip(toned + 0.015 * jax.random.normal(key, images.shape), 0.0, 1.0)


def _matrices(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Rotations of up to 20 degrees and scalings by up to 1.1 about the middle of an image `WIDER` than the crop."""
    angle, scale = np.radians(rng.uniform(-20, 20, count)), np.exp(rng.uniform(-0.1, 0.1, count))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    middle, centre = np.full(2, (side - 1) / 2), np.full(2, (round(WIDER * side) - 1) / 2)
    return np.concatenate([turn, (centre - turn @ middle)[..., None]], -1).astype(np.float32)


def _say_times(turns: int, count: int, work: dict[str, Callable[[], object]]) -> None:
    """Prints the median times per pair, and their range, of functions that take turns; each has run before."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for turn in range(turns + 1):
        for name, call in work.items():
            began = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            if turn:  # the first turn compiles
                found[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    for name, times in found.items():
        clock, processor = (np.array(one) * 1e3 / count for one in zip(*times, strict=True))
        texts = (f"{np.median(one):.3f} ({one.min():.3f}–{one.max():.3f}) ms" for one in (processor, clock))
        say(f"{name}: {' of processor time, '.join(texts)} by the clock")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures both, and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64, help="pairs in a batch")
    parser.add_argument("--side", type=int, default=256, help="side of the crops in pixels")
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args(argv)
    say(machine.describe())
    count, side, rng = arguments.pairs, arguments.side, np.random.default_rng(0)
    cv2.setNumThreads(1)
    pair = generate.example(0, 0, size=round(WIDER * side)) | {"visible": np.ones(68, bool)}
    pair["thermal"] = pair["thermal"].reshape(*pair["thermal"].shape[:2], 1)
    square = np.concatenate([pair["rgb"], pair["thermal"]], -1)
    squares, matrices = np.repeat(square[None], count, 0), _matrices(count, side, rng)

    options = base().augment.to_dict()
    crop, augmentation = augment.Crop(side, options.pop("expand"), "ibug68"), augment.Augmentation(**options)
    plain = augment.crop(pair, crop, floats=False)
    tables = rng.random((count, 4, 256), np.float32)
    on_device = jax.device_put((squares, matrices, tables, jax.random.key(0)))
    jitted, tone = jax.jit(warp, static_argnums=2), jax.jit(tone_and_noise)
    warped = jitted(*on_device[:2], side)
    found = np.asarray(warped[0]).round()
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = cv2.warpAffine(square, matrices[0], (side, side), flags=flags)
    difference, kind = np.abs(found - expected).max(), jax.devices()[0].device_kind
    say(f"{kind}, {count} pairs, side {side}; the two warps differ by at most {difference:g} gray levels")
    _say_times(
        arguments.turns,
        count,
        {
            "host, augment.crop": lambda: [
                augment.crop(pair, crop, rng=rng, augmentation=augmentation, floats=False) for _ in range(count)
            ],
            "host, its warp alone": lambda: [cv2.warpAffine(square, m, (side, side), flags=flags) for m in matrices],
            "host, photometric": lambda: [
                (photometric.rgb(plain["rgb"], rng), photometric.thermal(plain["thermal"], rng)) for _ in range(count)
            ],
            "devices, warp": lambda: jitted(*on_device[:2], side),
            "devices, tone and noise": lambda: tone(warped, *on_device[2:]),
            "sending the squares": lambda: jax.device_put(squares),
        },
    )


if __name__ == "__main__":
    main()
