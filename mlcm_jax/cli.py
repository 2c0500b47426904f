"""The command `mlcm`: parses flags and calls the functions that do the work.

Each command is a function whose docstring is its help text. An InputError is printed as a message without a traceback.
Exit codes: 0 done; 1 failed or interrupted; 2 wrong usage; 75 rerun the command (a run after SIGTERM, or when
another process of the run has died).
"""

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

import absl.logging
from absl import flags
from etils import epath
from ml_collections import config_flags

from mlcm_jax import __version__, compiled, demo_command, export_command, help_texts, report_command, video_command
from mlcm_jax import config as configs
from mlcm_jax.errors import InputError, Interrupted, did_you_mean
from mlcm_jax.flags import Command, Flags, UsageError, explain
from tfds_builders.options import OPTIONS, SWITCHES

RESTART = 75  # exit code that asks a scheduler to rerun the command (EX_TEMPFAIL in sysexits.h)
RESUMING = ("build", "train", "ablate")  # commands that go on where they were stopped

_DATA_DIR = {"data_dir": (None, "Where built datasets are kept. Default: $MLCM_DATA_DIR or ~/.cache/mlcm_jax.")}
_WORKDIR = {"workdir": (None, "Where checkpoints, results and plots go; a run found there is resumed.")}
_PROCESSES = {  # docs/pods.md
    "distributed": ("", "auto: take the processes of the run from Slurm, Open MPI, Cloud TPU or GKE."),
    "coordinator": ("", "On other clusters: address:port of process 0, the same for every process."),
    "processes": (0, "With --coordinator: the number of processes."),
    "process": (-1, "With --coordinator: the index of this process, from 0."),
}


_BUILD = {name: (False if name in SWITCHES else None, meaning) for name, meaning in OPTIONS.items()}
_LIST = {"list": (False, "Only list the datasets and whether they are built.")}


def build(words: Sequence[str], given: Flags) -> None:
    """Builds a dataset on disk, prints a summary and draws preview.png: 16 examples with numbered landmarks.

    Datasets that we may not distribute are read from --manual_dir; without it, the command says where to get them.
    `synthetic_faces` (tiny, base, or sizes such as 6000x96) needs no files; scan-6000x96 reads a clone of ICT-FaceKit,
    and `paired_folder/NAME` reads your own pairs. An existing dataset is left alone; an interrupted build resumes.
    """
    from mlcm_jax.data import build as datasets

    if given.list:
        datasets.listing(given.data_folder())
        return
    if len(words) != 1:
        raise UsageError("build takes the name of one dataset; list them with `mlcm build --list`.")
    options = {name: getattr(given, name) for name in OPTIONS if getattr(given, name)}
    datasets.build(words[0], given.data_folder(), **options)


def _join(given: Flags) -> None:
    from mlcm_jax.training import distributed

    if given.distributed not in ("", "auto"):
        raise UsageError(f"--distributed={given.distributed} must be auto, or be left out.")
    place = {name: getattr(given, name) for name in ("coordinator", "processes", "process")}
    distributed.initialize(auto=given.distributed == "auto", **place)


def train(_: Sequence[str], given: Flags) -> None:
    """Trains and scores the stages of a config: RGB teacher, thermal student, lightweight student, and their controls.

    Builds the dataset if it is missing, prints the result table and writes results.json and plots to the work
    directory. The same command resumes an interrupted run.
    """
    from mlcm_jax.evaluation import seeds

    workdir, config = given.require("workdir"), given.require("config")
    _join(given)
    seeds.train(config, workdir, data_dir=given.data_folder())


_ROWS = {"rows": ("", "Train only these rows, separated by commas; the table still has all rows.")}


def ablate(_: Sequence[str], given: Flags) -> None:
    """Trains and scores a grid of methods × seeds, and writes one table.

    After every row it updates ablation.md, ablation.json and ablation.png with the NME of each row, its standard
    deviation and its difference from the row's control. Stages that rows share are trained once. The same command
    resumes an interrupted ablation.
    """
    from mlcm_jax.evaluation import ablation

    workdir, config = given.require("workdir"), given.require("config")
    rows = [row for row in given.rows.split(",") if row]
    ablation.ablate(config, workdir, data_dir=given.data_folder(), only=rows)


_EVALUATE = {
    "workdir": (None, "The work directory of a run."),
    "dataset": ("", "The dataset to score on; default: the run's own."),
    "split": ("test", "The split to score on."),
}


def evaluate(_: Sequence[str], given: Flags) -> None:
    """Scores every finished stage of a run on a dataset.

    Prints and saves NME, failure rate and AUC, with the name of the normaliser.
    """
    from mlcm_jax.evaluation import rescore

    workdir = given.require("workdir")
    _join(given)
    rescore.rescore(workdir, dataset=given.dataset, split=given.split, data_dir=given.data_folder())


_PREDICT = {
    "model": ("", "The work directory of a run; default: the network that ships with this package."),
    "stage": ("", "The stage that predicts, such as teacher (reads RGB) or compress; default: the run's last stage."),
    "box": ("", "The box of the face, the same in every image: x,y,w,h in pixels."),
    "boxes": ("", 'A JSON file of boxes by image: {"file name": [x, y, w, h]}.'),
    "celsius": ("auto", "Unit of 16-bit or float images: scale,offset that give °C, kelvin, centikelvin, … or none."),
    "polarity": ("white_hot", "black_hot inverts images without temperatures, in which cold is bright."),
    "out": (None, "Folder for predictions.json and an overlay of each image."),
    "regions": (False, "Also measure the temperatures of forehead, eye corners, nose and more; regions.csv has them."),
    "demo": (False, "Predict the image that comes with the package: a rendered face."),
    "overwrite": (False, "Replace predictions of the same images in --out."),
    "max_faces": (20, "The largest number of faces that are looked for in an image without a given box."),
    "min_score": ("", "The smallest score of such a face, between 0 and 1; default: the detector's own."),
}


def predict(words: Sequence[str], given: Flags) -> None:
    """Finds the landmarks of the faces in each image: 8- or 16-bit gray, float °C (.npy, .tiff), colour, or FLIR's.

    Give files, folders or patterns. Without a box, a detector finds the faces. A box reaches from a little above the
    brows to the chin: the landmarks' extent plus 4.5 % left and right, 13.5 % at the top, 4 % below.
    """
    from mlcm_jax.inference.open_network import SHIPPED
    from mlcm_jax.inference.predict_files import predict_files

    given.require("out")
    if given.stage and not given.model:
        raise UsageError("--stage names a stage of a run, so --model is needed too.")
    words = [*words, str(SHIPPED / "demo.png")] if given.demo else words
    if not words:
        raise UsageError("predict needs at least one image or folder; try it with --demo.")
    if given.box and given.boxes:
        raise UsageError("--box and --boxes exclude each other.")
    options = {name: getattr(given, name) for name in _PREDICT if name not in ("model", "stage", "demo")}
    predict_files(words, **options, model=given.model or None, stage=given.stage or None)


_LABEL = {
    "model": (None, "The work directory of a run."),
    "stage": ("teacher", "The stage that predicts: teacher reads RGB images, the others thermal ones."),
    "dataset": (None, "A built dataset, such as paired_folder/mine."),
    "split": ("unlabelled", "The split to label."),
    "out": (None, "Folder for the label files, such as `landmarks` beside the image folders of the pairs."),
}


def label(_: Sequence[str], given: Flags) -> None:
    """Labels images that have no landmarks with the predictions of a trained network.

    Writes pseudo labels, which are landmarks with confidences, in the format that `mlcm build paired_folder` reads, and
    labels.png to look at. This is how an RGB teacher labels RGB-thermal pairs for a thermal student.
    """
    from mlcm_jax.evaluation import pseudo_labels

    model, dataset, out = given.require("model"), given.require("dataset"), given.require("out")
    pseudo_labels.label(model, dataset, out=out, stage=given.stage, split=given.split, data_dir=given.data_folder())


COMMANDS = {
    "build": Command(
        build,
        _DATA_DIR | _LIST | _BUILD,
        "NAME [--manual_dir=DIR] [--data_dir=DIR] | mlcm build --list",
        takes_words=True,
    ),
    "train": Command(
        train,
        _WORKDIR | _DATA_DIR | _PROCESSES,
        "--config=configs/tiny.py --workdir=DIR [--config.KEY=VALUE …] [--data_dir=DIR]",
        configured=True,
    ),
    "ablate": Command(
        ablate,
        _WORKDIR | _DATA_DIR | _ROWS,
        "--config=configs/ablation_synthetic.py --workdir=DIR [--rows=A,B] [--config.KEY=VALUE …]",
        configured=True,
    ),
    "evaluate": Command(
        evaluate, _EVALUATE | _DATA_DIR | _PROCESSES, "--workdir=DIR [--dataset=NAME] [--split=test] [--data_dir=DIR]"
    ),
    "predict": Command(
        predict,
        _PREDICT,
        "--out=DIR [--model=DIR [--stage=NAME]] [--box=x,y,w,h | --boxes=FILE.json] IMAGE… | --demo",
        takes_words=True,
    ),
    "video": video_command.COMMAND,
    "export": export_command.COMMAND,
    "demo": demo_command.COMMAND,
    "label": Command(
        label,
        _LABEL | _DATA_DIR,
        "--model=DIR --dataset=paired_folder/NAME --out=DIR/landmarks [--stage=teacher] [--split=unlabelled]",
    ),
    "report": report_command.COMMAND,
}


def _take_config(words: Sequence[str]) -> tuple[str, list[str]]:
    """Splits words into the value of --config ("" if it is absent) and all others."""
    found, others, rest = "", [], iter(words)
    for word in rest:
        if word.startswith("--config="):
            found = word.removeprefix("--config=")
        elif word == "--config":
            found = next(rest, "")
        else:
            others.append(word)
    return found, others


def _parse(name: str, words: Sequence[str]) -> tuple[list[str], Flags]:
    """Parses the words after a command into positional arguments and flags."""
    command = COMMANDS[name]
    given = Flags(command.flags)
    overrides: list[str] = []
    try:
        if command.configured:
            path, words = _take_config(words)
            overrides = [word for word in words if re.match(r"--(no)?config\.", word)]
            if path:
                path, _, variant = path.partition(":")
                config = configs.load(path, variant)
                configs.check(config)
                configs.check_overrides(config, overrides)
                argv = [f"mlcm {name}", *words]
                config_flags.DEFINE_config_dict("config", config, flag_values=given.values, sys_argv=argv)
        words = given.values([f"mlcm {name}", *words])[1:]
        if "config" in given.values:
            configs.check(given.config)
    except InputError as error:
        raise UsageError(str(error)) from error
    except flags.Error as error:
        raise UsageError(explain(error, name, COMMANDS)) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a value of the wrong type
        raise UsageError(f"{', '.join(overrides)}: {' '.join(str(error).split())}") from error
    if words and not command.takes_words:
        raise UsageError(f"{name} takes flags only, not {words[0]!r}.")
    return words, given


def _dispatch(words: Sequence[str]) -> None:
    if not words or words[0] in ("--help", "-h", "help", "--version"):
        print(__version__ if words and words[0] == "--version" else help_texts.overview(COMMANDS))
        return
    name, rest = words[0], list(words[1:])
    if name not in COMMANDS:
        raise UsageError(f"There is no command {name!r}; {did_you_mean(name, COMMANDS)}")
    if any(word in ("--help", "-h", "--helpshort", "--helpfull") for word in rest):
        print(help_texts.of_command(name, COMMANDS[name]))
        return
    _check_addresses(rest)
    parsed = _parse(name, rest)
    compiled.keep_programs()
    COMMANDS[name].run(*parsed)


def _check_addresses(words: Sequence[str]) -> None:
    """Raises UsageError for files on the web and streams; buckets, such as gs://, are known to the library of paths."""
    for word in words:
        found = re.match(r"(?:--[\w.]+=)?([a-z][a-z0-9+.-]*://.*)", word, re.IGNORECASE | re.DOTALL)
        try:
            if found:
                epath.Path(found[1])
        except KeyError:
            raise UsageError(f"{found[1]} is an address, which cannot be read or written; give a file.") from None


def main(words: Sequence[str] | None = None) -> None:
    """Runs the command `mlcm`; `words` are its arguments, by default those of this process."""
    _quiet_libraries()
    if words is None:  # holds until a training loop, or JAX's service for several processes, takes over
        signal.signal(signal.SIGTERM, _terminate)
    words = sys.argv[1:] if words is None else words
    resumes = bool(words) and words[0] in RESUMING
    try:
        _dispatch(words)
    except UsageError as error:
        _fail(str(error), 2)
    except InputError as error:
        _fail(str(error), 1)
    except Interrupted as stop:
        # A scheduler sends SIGTERM to preempt a job, and reruns a job that exits with this code.
        again = " Run the same command again to resume." if resumes else ""
        _fail(f"{stop}{again}", RESTART if resumes and stop.number == signal.SIGTERM else 1)
    except KeyboardInterrupt:
        again = (
            "run the same command again to continue from the last checkpoint" if resumes else "what was saved is kept"
        )
        _fail(f"stopped; {again}.", 1)
    except Exception as error:
        from mlcm_jax.training import distributed

        lost = distributed.is_lost(error)
        if lost:
            _fail(f"another process of this run is gone ({lost}); start all of them again: the run resumes.", RESTART)
        if not isinstance(error, OSError):
            raise
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"{error.strerror or error}{where}; what was saved before is kept.", 1)


def _quiet_libraries() -> None:
    """Silences the logs of libraries, which would break up the progress bar.

    Orbax logs every save; orbax and asyncio also log tracebacks for errors that we already report. Only the command
    does this: a program that imports the package keeps its own logging.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable


def _terminate(number: int, _: Any) -> NoReturn:
    raise Interrupted("Stopped; what was saved is kept.", number)


def _unraisable(unraisable: Any) -> None:
    """Hides errors of tensorstore's writes that outlive a closed event loop; `main` reports why it was closed."""
    if "Event loop is closed" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def _fail(message: str, code: int) -> NoReturn:
    """Prints the message without a traceback, and exits."""
    print(f"mlcm: {message}", file=sys.stderr)
    # Threads and coroutines of libraries that are cut short would print errors during the exit.
    sys.unraisablehook = threading.excepthook = lambda _: None
    if "mlcm_jax.training.distributed" in sys.modules:
        sys.modules["mlcm_jax.training.distributed"].leave(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
