"""The command `mlcm report`; `cli` dispatches to it."""

from collections.abc import Sequence

from mlcm_jax.flags import Command, Flags

_FLAGS = {
    "workdir": (None, "The work directory of a run."),
    "out": ("", "The HTML file to write; default: report.html in the work directory."),
    "data_dir": (None, "Where built datasets are kept. Default: $MLCM_DATA_DIR or ~/.cache/mlcm_jax."),
}


def report(_: Sequence[str], given: Flags) -> None:
    """Writes a report of a run: one HTML file with its table, curves, errors, predictions, networks and config.

    The file needs nothing else: no network, no other file, no script. The test split is predicted once more, so that
    errors can be shown by part of the face, pose, occlusion and resolution. What the run lacks is said at the top.
    """
    workdir = given.require("workdir")
    from mlcm_jax.evaluation import report as reports

    reports.write(workdir, given.out, data_dir=given.data_folder())


COMMAND = Command(report, _FLAGS, "--workdir=DIR [--out=FILE.html] [--data_dir=DIR]")
