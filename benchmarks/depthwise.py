"""Times depthwise convolutions: XLA's grouped form, shifted multiply-adds, and the latter with our own gradient.

    python -m benchmarks.depthwise      # two minutes on 2 cores

It prints a Markdown table of milliseconds and ratios. The forms take turns, so that other load on the machine affects
them all alike. Results: RESULTS.md, "Depthwise convolution".
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

import jax

from benchmarks import machine
from mlcm_jax.models import depthwise as forms

# Batch, height = width, channels, kernel size, stride: layers of MobileNetV2 and EfficientNet at 64 and 128 pixels.
CASES = ((32, 32, 192, 3, 1), (64, 32, 96, 3, 2), (64, 16, 144, 3, 1), (64, 8, 192, 5, 1), (64, 16, 144, 5, 2))


def _automatic(x: jax.Array, kernel: jax.Array, g: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients that JAX derives for the shifted form."""
    return jax.vjp(partial(forms.shifted, stride=stride), x, kernel)[1](g)


def milliseconds(functions: Mapping[str, Callable], arguments: tuple, repeats: int) -> dict[str, float]:
    """Returns the shortest time of each function in `repeats` rounds, after one call that compiles it."""
    compiled = {name: jax.jit(function) for name, function in functions.items()}
    for function in compiled.values():
        jax.block_until_ready(function(*arguments))
    best = dict.fromkeys(compiled, float("inf"))
    for _ in range(repeats):
        for name, function in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def compare(batch: int, side: int, channels: int, size: int, stride: int, *, repeats: int = 5) -> dict[str, float]:
    """Returns milliseconds of the forward pass and of the gradient, by form.

    Args:
        batch: the batch size of the input, float32 [batch, side, side, channels].
        side: its height and width.
        channels: its channels.
        size: the height and width of the kernel.
        stride: 1 or 2.
        repeats: the number of rounds, of which the fastest counts.
    """
    keys = jax.random.split(jax.random.key(0), 3)
    out = -(-side // stride)
    x = jax.random.normal(keys[0], (batch, side, side, channels))
    kernel = jax.random.normal(keys[1], (size, size, 1, channels))
    g = jax.random.normal(keys[2], (batch, out, out, channels))
    forward = {"conv": forms.convolution, "shifted": forms.shifted}
    gradient = {"conv": forms.convolution_gradient, "automatic": _automatic, "ours": forms.shifted_gradient}
    times = milliseconds({k: partial(f, stride=stride) for k, f in forward.items()}, (x, kernel), repeats)
    grads = milliseconds({k: partial(f, stride=stride) for k, f in gradient.items()}, (x, kernel, g), repeats)
    return {f"forward {k}": v for k, v in times.items()} | {f"gradient {k}": v for k, v in grads.items()}


def main() -> None:
    """Prints the table for this machine's default device."""
    print(machine.describe())
    device = jax.devices()[0]
    print(f"{device.platform} {device.device_kind}, jax {jax.__version__}.")
    print("Shortest of 5 times in ms; in brackets, how many times faster than XLA's convolution.\n")
    print(
        "| batch, side, channels, k, stride | fwd conv | fwd shifted | grad conv | grad of shifted by jax | grad ours |"
    )
    print("|---|---|---|---|---|---|")
    for case in CASES:
        ms = compare(*case)
        cells = [", ".join(map(str, case))]
        for name, value in ms.items():
            base = ms[name.split()[0] + " conv"]
            cells.append(f"{value:.2f}" if name.endswith("conv") else f"{value:.2f} ({base / value:.1f}×)")
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
