"""The work of `mlcm build`: builds a dataset, prints a summary, draws a contact sheet, and lists all datasets."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import tfds_builders
from mlcm_jax import landmarks
from mlcm_jax.console import console, say
from mlcm_jax.data import draw
from mlcm_jax.data.examples import MODALITIES, Examples, splits_of
from mlcm_jax.errors import InputError

SHEET = 16  # examples on preview.png


def default_data_dir() -> str:
    """Returns the default folder of built datasets: $MLCM_DATA_DIR, or a folder in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("MLCM_DATA_DIR") or os.path.join(cache, "mlcm_jax")


def build(name: str, data_dir: str, **options: Any) -> Path:
    """Builds a dataset if it is not built yet, prints a summary, and draws its `preview.png`.

    Args:
        name: the dataset's name.
        data_dir: the folder of built datasets.
        **options: arguments of `tfds_builders.build`, such as `manual_dir`.

    Returns:
        The folder of the dataset.

    Raises:
        InputError: see `tfds_builders.build`.
    """
    builder = tfds_builders.build(name, data_dir, **options)
    folder = Path(builder.data_dir)
    say(f"{name} is built in {folder}")
    facts = dict(builder.info.metadata or {})
    _print_summary(builder, facts.get("splits", {}))
    for remark in facts.get("remarks", ()):
        say(f"Note: {remark}")
    sheet = folder / "preview.png"
    if not sheet.exists():
        draw.contact_sheet(sheet, _shown(builder), layout=builder.LAYOUT)
    say(f"Look at {sheet}: are the numbers where they belong?")
    return folder


def listing(data_dir: str) -> None:
    """Prints a table of all datasets: their modalities, their number of landmarks, and whether they are built.

    Args:
        data_dir: the folder of built datasets.
    """
    table = Table(box=None, pad_edge=False)
    for column in ("dataset", "images", "landmarks", "built"):
        table.add_column(column, justify="right" if column == "landmarks" else "left", no_wrap=column != "built")
    for name in (*tfds_builders.names(), *_further_datasets(data_dir)):
        try:
            builder = tfds_builders.load(name, data_dir)
        except InputError:  # one of the user's own datasets, whose metadata cannot be read
            table.add_row(name, "", "", "damaged: delete its folder")
            continue
        modalities = [m for m in MODALITIES if m in builder.info.features]
        built = sum(split.num_examples for split in builder.info.splits.values())
        layout = landmarks.get(builder.LAYOUT)
        table.add_row(name, " + ".join(modalities), str(layout.count), f"{built:,} examples" if built else "no")
    console.print(table)


def _further_datasets(data_dir: str) -> list[str]:
    """Lists built datasets whose names are not fixed: the user's own pairs, and other sizes of synthetic faces."""
    found = []
    for family in ("synthetic_faces", "paired_folder"):
        for folder in sorted((Path(data_dir).expanduser() / family).glob("*/*.*.*/dataset_info.json")):
            found.append(f"{family}/{folder.parent.parent.name}")
    return [name for name in found if name not in tfds_builders.names()]


def _print_summary(builder: Any, measured: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("split", "examples", "images (width x height)", "invisible landmarks"):
        table.add_column(column, justify="left" if column in ("split", "images (width x height)") else "right")
    for name, split in builder.info.splits.items():
        facts = measured.get(name, {})
        sizes = ", ".join(f"{size} ({count:,})" for size, count in list(facts.get("sizes", {}).items())[:3])
        more = ", …" if len(facts.get("sizes", {})) > 3 else ""
        hidden = f"{100 * facts['invisible']:.1f} %" if "invisible" in facts else ""
        table.add_row(name, f"{split.num_examples:,}", sizes + more, hidden)
    for name in splits_of(builder):
        if name not in builder.info.splits:
            table.add_row(name, f"{len(Examples(builder, name, builder.LAYOUT)):,}", "(from other splits)", "")
    console.print(table)


def _shown(builder: Any) -> list[dict[str, Any]]:
    """Returns up to `SHEET` examples, spread evenly over the training split, or over the first split without one.

    A split of unlabelled examples is used only if there is no other.
    """
    split = min(builder.info.splits, key=lambda name: (name == "unlabelled", name != "train", name))
    examples = Examples(builder, split, builder.LAYOUT, labelled=False)
    places = np.unique(np.linspace(0, len(examples) - 1, SHEET).round().astype(int))
    return [examples[k] | {"key": str(examples.metadata(k).get("key", k))} for k in places.tolist()]
