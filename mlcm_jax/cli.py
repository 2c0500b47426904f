"""The command `mlcm`: flags only, the work is elsewhere.

Commands are functions whose docstring is their help. Messages meant for the user come as InputError and are printed
alone; exit codes: 0 done, 1 failed or interrupted, 2 wrong usage, 75 start me again (SIGTERM, or another process of the
run has died).
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from absl import flags
from ml_collections import config_flags

from mlcm_jax import __version__
from mlcm_jax import config as config_files
from mlcm_jax.errors import InputError, Interrupted, did_you_mean

FLAGS = flags.FLAGS
RESTART = 75  # exit code of what a scheduler should start again (EX_TEMPFAIL of sysexits.h)
_MODULE = "mlcm"  # flags are filed under this name, so that help shows ours and not those of every library


class UsageError(Exception):
    """Wrong words on the command line; exit code 2."""


def _string(name: str, default: str | None, text: str) -> None:
    flags.DEFINE_string(name, default, text, module_name=_MODULE)


def _switch(name: str, text: str) -> None:
    flags.DEFINE_bool(name, False, text, module_name=_MODULE)


def _data_dir_flag() -> None:
    _string("data_dir", None, "Where built datasets are kept. Default: $MLCM_DATA_DIR or ~/.cache/mlcm_jax.")


def _data_dir() -> str:
    from mlcm_jax.data.build import default_data_dir

    return FLAGS.data_dir or default_data_dir()


def _require(name: str) -> str:
    value = FLAGS[name].value
    if not value:
        raise UsageError(f"--{name} is missing.")
    return value


def _build_flags() -> None:
    _data_dir_flag()
    _switch("list", "Only list the datasets and whether they are built.")
    _string("manual_dir", None, "Folder with the files of a dataset that cannot be downloaded.")
    _switch("allow_missing", "Leave out faces whose image is missing, instead of refusing.")
    _string("exclude", None, "File of keys of faces to leave out, one a line.")
    # Of paired_folder:
    _string("layout", None, "paired_folder: name, number of points, or a YAML file.")
    _string("rgb_glob", None, "paired_folder: RGB images, such as '*_rgb.png'; * is the pair's name.")
    _string("thermal_glob", None, "paired_folder: thermal images, such as '*_thermal.png'.")
    _string("labels", None, "paired_folder: file, folder or pattern of landmarks; of several, with commas, the first.")
    _string("boxes", None, "paired_folder: file of face boxes.")
    _string("colormap", None, "paired_folder: palette of painted thermal images, a name or a file of r,g,b rows.")
    _string("celsius", None, "paired_folder: scale,offset that make °C of 16-bit values.")
    _string("splits", None, "paired_folder: shares of train, val and test, such as 0.8,0.1,0.1.")


def build(arguments: Sequence[str]) -> None:
    """mlcm build NAME [--manual_dir=DIR] [--data_dir=DIR] | mlcm build --list

    Builds a dataset, prints what it holds and writes preview.png, 16 examples with numbered landmarks. Sets that are
    not ours to give out are read from --manual_dir; without it you are told where to get them. `synthetic_faces` needs
    no files (tiny, base, or any number and size of pairs, such as `synthetic_faces/6000x96`), and `paired_folder/NAME`
    reads pairs of your own. One that is built already is left alone; one that was interrupted goes on.
    """
    from mlcm_jax.data import build as datasets

    if FLAGS.list:
        datasets.listing(_data_dir())
        return
    if len(arguments) != 1:
        raise UsageError("build takes the name of one dataset; `mlcm build --list` shows them.")
    given = {name: FLAGS[name].value for name in _BUILD_OPTIONS if FLAGS[name].value}
    datasets.build(arguments[0], _data_dir(), **given)


_BUILD_OPTIONS = ("manual_dir", "allow_missing", "exclude", "layout", "rgb_glob", "thermal_glob")
_BUILD_OPTIONS += ("labels", "boxes", "colormap", "celsius", "splits")


def _config_path(value: str) -> str:
    """`configs/x.py[:variant]` -> the same with a path that exists."""
    path, colon, variant = value.partition(":")
    try:
        return f"{config_files.find(path)}{colon}{variant}"
    except InputError as error:
        raise UsageError(str(error)) from error


def _train_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "The config, and overrides such as --config.student.width=0.5.")
    _string("workdir", None, "Where checkpoints, results and images go; a run found there is resumed.")
    _data_dir_flag()


def _processes_flags() -> None:
    """Of commands that run as several processes (docs/pods.md)."""
    text = "auto: Slurm, Open MPI, TPU or GKE tell who takes part."
    flags.DEFINE_enum("distributed", "", ["", "auto"], text, module_name=_MODULE)
    _string("coordinator", "", "Elsewhere: address:port of process 0; every process gets the same command.")
    flags.DEFINE_integer("processes", 0, "With --coordinator: how many processes there are.", module_name=_MODULE)
    flags.DEFINE_integer("process", -1, "With --coordinator: which this one is, from 0.", module_name=_MODULE)


def _join() -> None:
    from mlcm_jax.training import distributed

    distributed.initialize(
        auto=FLAGS.distributed == "auto",
        coordinator=FLAGS.coordinator,
        processes=FLAGS.processes,
        process=FLAGS.process,
    )


def _train_and_processes_flags() -> None:
    _train_flags()
    _processes_flags()


def train(arguments: Sequence[str]) -> None:
    """mlcm train --config=configs/tiny.py --workdir=DIR [--config.KEY=VALUE …] [--data_dir=DIR]

    Trains the stages of a config (RGB teacher, thermal student, lightweight student, and their controls), building the
    dataset first where it is missing; prints the result table and writes results.json and images to the work directory.
    The same command resumes a run that was stopped.
    """
    from mlcm_jax.evaluation import seeds

    if arguments:
        raise UsageError(f"train takes flags only, not {arguments[0]!r}.")
    workdir = _require("workdir")
    if FLAGS.config is None:
        raise UsageError("--config is missing.")
    _join()
    seeds.train(FLAGS.config, workdir, data_dir=_data_dir())


def _ablate_flags() -> None:
    _train_flags()
    _string("rows", "", "Train these rows alone, with commas between; the table has all.")


def ablate(arguments: Sequence[str]) -> None:
    """mlcm ablate --config=configs/ablation_synthetic.py --workdir=DIR [--rows=A,B] [--config.KEY=VALUE …]

    Trains and scores a grid of methods × seeds, seed by seed, and writes one table after every row: NME with its
    deviation, and what each row gains over its control, as ablation.md, ablation.json and ablation.png. Stages that
    rows have in common are trained once. The same command goes on with what is missing.
    """
    from mlcm_jax.evaluation import ablation

    if arguments:
        raise UsageError(f"ablate takes flags only, not {arguments[0]!r}.")
    workdir = _require("workdir")
    if FLAGS.config is None:
        raise UsageError("--config is missing.")
    ablation.ablate(FLAGS.config, workdir, data_dir=_data_dir(), only=[r for r in FLAGS.rows.split(",") if r])


def _evaluate_flags() -> None:
    _string("workdir", None, "The work directory of a run.")
    _string("dataset", "", "The dataset; default: that of the run.")
    _string("split", "test", "The split.")
    _data_dir_flag()
    _processes_flags()


def evaluate(arguments: Sequence[str]) -> None:
    """mlcm evaluate --workdir=DIR [--dataset=NAME] [--split=test] [--data_dir=DIR]

    Prints and saves NME, failure rate and AUC of every finished stage of a run, with the normaliser's name.
    """
    from mlcm_jax.evaluation import evaluate as evaluation

    if arguments:
        raise UsageError(f"evaluate takes flags only, not {arguments[0]!r}.")
    workdir = _require("workdir")
    _join()
    evaluation.evaluate(workdir, dataset=FLAGS.dataset, split=FLAGS.split, data_dir=_data_dir())


def _predict_flags() -> None:
    _string("model", None, "The work directory of a run.")
    _string(
        "stage", "compress", "Whose network: teacher (reads RGB), thermal_alone, transfer, light_alone or compress."
    )
    _string("box", "", "The face in every image given: x,y,w,h in pixels.")
    _string("boxes", "", 'A JSON file {"file name": [x, y, w, h]}.')
    _string("out", None, "Folder for predictions.json and one overlay an image.")


def predict(arguments: Sequence[str]) -> None:
    """mlcm predict --model=DIR --out=DIR [--stage=compress] [--box=x,y,w,h | --boxes=FILE.json] IMAGE…

    Landmarks of the face in each image: 8- or 16-bit gray, float °C (.npy, .tiff) or colour. Without a box the whole
    image is taken to be the face. A box reaches from a little above the brows to the chin: the landmarks' extent
    plus 4.5 % left and right, 13.5 % at the top and 4 % at the bottom.
    """
    from mlcm_jax.inference.predictor import predict_files

    model, out = _require("model"), _require("out")
    if not arguments:
        raise UsageError("predict needs at least one image.")
    if FLAGS.box and FLAGS.boxes:
        raise UsageError("--box and --boxes exclude each other.")
    predict_files(arguments, model=model, stage=FLAGS.stage, box=FLAGS.box, boxes=FLAGS.boxes, out=out)


def _label_flags() -> None:
    _string("model", None, "The work directory of a run.")
    _string("stage", "teacher", "Whose network: teacher reads RGB, the others thermal images.")
    _string("dataset", None, "A built dataset, such as paired_folder/mine.")
    _string("split", "unlabelled", "The split.")
    _string("out", None, "Folder for the files: `landmarks` beside the pairs' images.")
    _data_dir_flag()


def label(arguments: Sequence[str]) -> None:
    """mlcm label --model=DIR --dataset=paired_folder/NAME --out=DIR/landmarks [--stage=teacher] [--split=unlabelled]

    Writes a trained network's landmarks, with a confidence for each, as pseudo labels for images that have none, in
    the format that `mlcm build paired_folder` reads; and labels.png to look at. An RGB teacher so labels RGB-thermal
    pairs for the training of a thermal student.
    """
    from mlcm_jax.evaluation import pseudo_labels

    if arguments:
        raise UsageError(f"label takes flags only, not {arguments[0]!r}.")
    model, dataset, out = _require("model"), _require("dataset"), _require("out")
    pseudo_labels.label(model, dataset, out=out, stage=FLAGS.stage, split=FLAGS.split, data_dir=_data_dir())


# name: (what runs, its flags, one line for the overview)
COMMANDS: dict[str, tuple[Callable, Callable, str]] = {
    "build": (build, _build_flags, "make a dataset on disk"),
    "train": (
        train,
        _train_and_processes_flags,
        "train the stages of a config, print the result table, draw the images",
    ),
    "ablate": (ablate, _ablate_flags, "train a grid of methods and seeds, and write one table"),
    "evaluate": (evaluate, _evaluate_flags, "score the trained stages of a run on a dataset"),
    "predict": (predict, _predict_flags, "find the landmarks in your images"),
    "label": (label, _label_flags, "label pairs that have no landmarks by a trained network"),
}


def _overview() -> str:
    lines = [
        f"mlcm {__version__}: facial landmarks in thermal images, and what an RGB model can teach a thermal one",
        "",
    ]
    lines += [f"  {name:<9} {text}" for name, (_, _, text) in COMMANDS.items()]
    return "\n".join(
        [
            *lines,
            "",
            "`mlcm COMMAND --help` tells more. Start with: mlcm train --config=configs/tiny.py --workdir=runs/tiny",
        ]
    )


def _command_help(name: str) -> str:
    function, _, _ = COMMANDS[name]
    lines = ["\n".join(line.removeprefix("    ") for line in function.__doc__.rstrip().splitlines()), "", "Flags:"]
    defined = FLAGS.flags_by_module_dict().get(_MODULE, [])
    shown = [*([FLAGS["config"]] if "config" in FLAGS else []), *defined]
    for flag in shown:
        lines.append(f"  --{flag.name:<9} {flag.help}")
    return "\n".join(lines)


def _config_error(error: Exception, overrides: Sequence[str]) -> str:
    """ml_collections' own 'Did you mean', out of its quotes and line breaks, and behind the flag that it is about."""
    text = str(error.args[0]) if error.args else str(error)
    text = text.replace("\\n", " ").replace("\\'", "'").replace("\n", " ").strip("'\" ")
    missing = re.match(r"'?(\w+)'? +(Did you mean.*)", text)
    if missing:
        flag = next((o for o in overrides if missing.group(1) in o), "config")
        return f"{flag}: the config has no key {missing.group(1)!r}. {missing.group(2)}"
    return f"{', '.join(overrides)}: {text}" if overrides else text


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses the flags of a command; returns what is not a flag."""
    argv = list(argv)
    for i, argument in enumerate(argv):
        if argument.startswith("--config="):
            argv[i] = "--config=" + _config_path(argument.removeprefix("--config="))
        elif argument == "--config" and i + 1 < len(argv):
            argv[i + 1] = _config_path(argv[i + 1])
    try:
        return FLAGS(argv)[1:]
    except flags.Error as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # A config file that raises is reported as a heading with the exception's text last.
        raise UsageError(lines[-1] if lines[0].endswith(":") else lines[0]) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        overrides = [a for a in argv if a.startswith("--config.")]
        raise UsageError(_config_error(error, overrides)) from error


def _dispatch(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("--help", "-h", "help", "--version"):
        print(__version__ if argv and argv[0] == "--version" else _overview())
        return
    name, rest = argv[0], list(argv[1:])
    if name not in COMMANDS:
        raise UsageError(f"There is no command {name!r}; {did_you_mean(name, COMMANDS)}")
    function, define, _ = COMMANDS[name]
    define()
    if any(word in ("--help", "-h", "--helpshort", "--helpfull") for word in rest):
        print(_command_help(name))
        return
    function(_parse([f"mlcm {name}", *rest]))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script; `argv` without the program's name."""
    # Libraries' warnings about what they do inside are not for the reader of a progress bar.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    sys.unraisablehook = _unraisable
    if argv is None:  # until a training loop takes over, or JAX's service of several processes
        signal.signal(signal.SIGTERM, _terminate)
    try:
        _dispatch(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        _fail(str(error), 2)
    except InputError as error:
        _fail(str(error), 1)
    except Interrupted as stop:
        # A scheduler that takes the machine away sends SIGTERM, and starts again what ends with this code.
        _fail(f"{stop} Run the same command again to resume.", RESTART if stop.number == signal.SIGTERM else 1)
    except KeyboardInterrupt:
        _fail("stopped; run the same command again to go on from the last checkpoint.", 1)
    except Exception as error:
        from mlcm_jax.training import distributed

        lost = distributed.is_lost(error)
        if lost:
            _fail(f"another process of this run is gone ({lost}); start all of them again: the run resumes.", RESTART)
        if not isinstance(error, OSError):
            raise
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"{error.strerror or error}{where}; what was saved before is kept.", 1)


def _terminate(number, _) -> None:
    raise Interrupted("Stopped; what was saved is kept.", number)


def _unraisable(unraisable) -> None:
    """A write of tensorstore that outlives the event loop which gave up on it says so once a write; we say it once."""
    if "Event loop is closed" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def _fail(message: str, code: int) -> None:
    """Prints the message alone and exits."""
    print(f"mlcm: {message}", file=sys.stderr)
    # Threads and coroutines of libraries that were cut off have their own complaints on the way out.
    sys.unraisablehook = threading.excepthook = lambda _: None
    if "mlcm_jax.distributed" in sys.modules:
        sys.modules["mlcm_jax.distributed"].leave(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
