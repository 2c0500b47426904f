"""Draws KD-Loss as a function of the student's error, and checks `losses` against the published weights.

    python -m benchmarks.kd_curves                                  # writes docs/kd_loss.png, prints the table
    python -m benchmarks.kd_curves --tough=0.03 --tolerant=0.08 --out=kd.png

The table compares the weight of the assistive term in each region with the published one (Fard and Mahoor, CVIU 2022;
"released" is their code), and shows the term's slope by automatic differentiation. The exit status is 1 if any weight
differs. The jumps of "released" at βt are in the authors' code, where the weight falls from 0 to a negative number. The
figure is shown in docs/ablations.md.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mlcm_jax import losses
from mlcm_jax.console import say

# Variant -> beta, and for each teacher the published weight omega for e >= t, for beta t <= e < t, and for e < beta t.
# The last one is a function of e / t.
PUBLISHED = {
    "paper": (0.4, {t: (0.9, -0.45, lambda ratio: -0.45 * ratio / 0.4) for t in ("tough", "tolerant")}),
    "released": (
        0.15,
        {"tough": (1.9, -0.45, lambda ratio: 0.0 * ratio), "tolerant": (1.8, -0.40, lambda ratio: 0.0 * ratio)},
    ),
}
REGIONS = ("t ≤ e", "βt ≤ e < t", "e < βt")


def terms(e: np.ndarray, tough: float, tolerant: float, variant: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns (value, slope), each [N], at e [N] of "main" (times 2.5), "tough", "tolerant" and the sum, "KD-Loss"."""
    _, *numbers = losses.kd_numbers(variant)

    def at(error: jax.Array, which: str) -> jax.Array:
        values = [jnp.reshape(value, (1, 1, 1)) for value in (error, tough, tolerant, 0.0)]
        prediction, hard, soft, target = values
        if which == "KD-Loss":
            value = losses.kd(prediction, hard, soft, target, variant=variant)
        elif which == "main":
            value = 2.5 * losses.main(prediction, target, tolerant=soft, variant=variant)
        else:
            teacher, (alpha, inner) = (hard, numbers[0]) if which == "tough" else (soft, numbers[1])
            value = losses.assistive(prediction, teacher, target, alpha=alpha, inner=inner, variant=variant)
        return value[0, 0, 0]

    def both(which: str) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(jax.value_and_grad(lambda error: at(error, which)))(jnp.asarray(e, jnp.float32))

    return {which: tuple(map(np.asarray, both(which))) for which in ("main", "tough", "tolerant", "KD-Loss")}


def check(tough: float, tolerant: float, variant: str) -> list[tuple[str, str, float, float, float]]:
    """Returns rows (teacher, region, published weight, our weight, our slope) for the middle of each region."""
    beta, numbers = PUBLISHED[variant]
    rows = []
    for teacher, t in (("tough", tough), ("tolerant", tolerant)):
        middles = np.array([1.5, (1 + beta) / 2, beta / 2])
        value, slope = terms(middles * t, tough, tolerant, variant)[teacher]
        for k, (region, published) in enumerate(zip(REGIONS, numbers[teacher], strict=True)):
            expected = published(middles[k]) if callable(published) else published
            rows.append((teacher, region, float(expected), float(value[k] / abs(t - middles[k] * t)), float(slope[k])))
    return rows


def draw(path: str, tough: float, tolerant: float) -> None:
    """Draws one panel per variant: the terms and their sum over e, with the tough teacher's regions shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    largest = 1.6 * max(tough, tolerant)
    e = np.linspace(1e-5, largest, 800)
    for axes, variant in zip(figure.subplots(1, 2), PUBLISHED, strict=True):
        beta = PUBLISHED[variant][0]
        bounds = (0.0, beta * tough, tough, largest)
        names = ("e < βt", "βt ≤ e < t", "t ≤ e")
        for left, right, colour, name in zip(
            bounds[:-1], bounds[1:], ("#f6d8d5", "#f7efcf", "#d9ead6"), names, strict=True
        ):
            axes.axvspan(left, right, color=colour, lw=0, label=f"{name}, tough teacher")
        found = terms(e, tough, tolerant, variant)
        styles = {"main": ("2.5 · main", "0.45"), "tough": ("ALoss, tough", "#c0392b")}
        styles |= {"tolerant": ("ALoss, tolerant", "#2471a3"), "KD-Loss": ("sum", "black")}
        for which, (label, colour) in styles.items():
            axes.plot(e, found[which][0], color=colour, lw=2 if which == "KD-Loss" else 1.2, label=label)
        axes.axhline(0.0, color="0.3", lw=0.6)
        slope = found["KD-Loss"][1][0]
        axes.set_title(f"“{variant}”: slope of the sum at e = 0: {slope:+.2f}", fontsize=10)
        ticks = {0.0: "0", tough: "t tough", tolerant: "t tolerant"}
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xlabel(f"error e of the student (t = {tough:g} and {tolerant:g} of the image)")
        axes.set_xlim(0, largest)
        axes.set_ylabel("loss")
    handles, labels = axes.get_legend_handles_labels()
    figure.axes[0].legend(handles, labels, fontsize=7.5, loc="upper left")
    figure.savefig(path, dpi=90)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and draws the curves; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tough", type=float, default=0.04, help="error t of the tough teacher, in u")
    parser.add_argument("--tolerant", type=float, default=0.06, help="error t of the tolerant teacher, in u")
    parser.add_argument("--out", default=os.path.join("docs", "kd_loss.png"), help="image to write")
    arguments = parser.parse_args(argv)
    if min(arguments.tough, arguments.tolerant) <= 0:
        parser.error("--tough and --tolerant must be above 0")
    wrong = 0
    say(f"{'variant':9} {'teacher':9} {'region':11} {'published':>9} {'found':>7} {'slope':>7}")
    for variant in PUBLISHED:
        for teacher, region, expected, found, slope in check(arguments.tough, arguments.tolerant, variant):
            differs = abs(expected - found) > 1e-3
            wrong += differs
            mark = "  differs" if differs else ""
            say(f"{variant:9} {teacher:9} {region:11} {expected:9.3f} {found:7.3f} {slope:+7.3f}{mark}")
        at_truth = terms(np.array([1e-7]), arguments.tough, arguments.tolerant, variant)["KD-Loss"][1][0]
        say(f"{variant:9} slope of the sum at e = 0: {at_truth:+.3f}")
    draw(arguments.out, arguments.tough, arguments.tolerant)
    say(f"Wrote {arguments.out}.")
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
