"""Several seeds of one config: mean and standard deviation of every row, and paired differences of interest."""

from typing import Any

import numpy as np
from etils import epath
from rich.table import Table

from mlcm_jax import distributed
from mlcm_jax.evaluate import describe
from mlcm_jax.writers import console, say, write_json

# (row, its control): what a distillation is worth is a difference between these, seed by seed.
PAIRS = (("transfer", "thermal_alone"), *((row, "light_alone") for row in ("direct", "compress", "kd")))


def combine(results: list[dict[str, Any]], seeds, workdir: epath.PathLike) -> dict[str, Any]:
    """Writes `results.json` of several seeds and prints its table.

    Args:
      results: one results.json content a seed, with the same rows.
      seeds: their seeds.
      workdir: where to write.

    Returns:
      {"dataset", "split", "normalizer", "seeds", "rows", "paired"}: rows as of one run, every number a mean, with
      `<number>_std` (sample deviation, n − 1) beside it; paired is a list of {"row", "control", "difference", "std",
      "seeds_better"}, differences of the NME in points of per cent, negative when the row beats its control.
    """
    rows, by_name = [], {}
    for group in zip(*(result["rows"] for result in results), strict=True):
        row = {key: group[0][key] for key in ("name", "modality", "params", "flops")}
        for key in (k for k in group[0] if k not in row):
            values = [member[key] for member in group]
            row[key] = float(np.mean(values))
            row[f"{key}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        rows.append(row)
        by_name[row["name"]] = np.asarray([member["nme"] for member in group])
    paired = []
    for name, control in PAIRS:
        if name in by_name and control in by_name:
            difference = by_name[name] - by_name[control]
            paired.append(
                {
                    "row": name,
                    "control": control,
                    "difference": float(difference.mean()),
                    "std": float(difference.std(ddof=1)) if len(difference) > 1 else 0.0,
                    "seeds_better": int((difference < 0).sum()),
                }
            )
    combined = {key: results[0][key] for key in ("dataset", "split", "normalizer")}
    combined |= {"seeds": list(seeds), "rows": rows, "paired": paired}
    if distributed.is_main():
        epath.Path(workdir).mkdir(parents=True, exist_ok=True)
        write_json(epath.Path(workdir) / "results.json", combined)
    _print(combined)
    say(f"Wrote results.json to {workdir}.")
    return combined


def _print(combined: dict[str, Any]) -> None:
    title = (
        f"{combined['dataset']}, split {combined['split']}, seeds {', '.join(map(str, combined['seeds']))}: "
        f"mean ± std; NME in per cent of {describe(combined['normalizer'])}"
    )
    table = Table(title=title)
    for column in ("row", "reads", "params", "NME %", "FR@10 %", "AUC@10"):
        table.add_column(column, justify="left" if column in ("row", "reads") else "right")
    for row in combined["rows"]:
        table.add_row(
            row["name"],
            row["modality"],
            f"{row['params']:,}",
            f"{row['nme']:.2f} ± {row['nme_std']:.2f}",
            f"{row['fr10']:.2f} ± {row['fr10_std']:.2f}",
            f"{row['auc10']:.3f} ± {row['auc10_std']:.3f}",
        )
    console.print(table)
    for pair in combined["paired"]:
        say(
            f"{pair['row']} − {pair['control']}: {pair['difference']:+.3f} ± {pair['std']:.3f} points of NME, "
            f"paired by seed; better in {pair['seeds_better']} of {len(combined['seeds'])}."
        )
