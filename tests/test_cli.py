import logging
import os
import signal
import sys
import threading

import absl.logging
import pytest
from commands import run_mlcm

from mlcm_jax import __version__, cli
from mlcm_jax import config as configs
from mlcm_jax.errors import InputError, Interrupted
from mlcm_jax.evaluation import ablation, seeds
from tfds_builders import options


@pytest.fixture(autouse=True)
def keep_hooks(monkeypatch):
    """Restores the hooks and logging levels that the command sets for its process."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    level, asyncio = absl.logging.get_verbosity(), logging.getLogger("asyncio").level
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"))
    monkeypatch.setenv("GRPC_VERBOSITY", os.environ.get("GRPC_VERBOSITY", "ERROR"))
    yield
    absl.logging.set_verbosity(level)
    logging.getLogger("asyncio").setLevel(asyncio)


def fails(words, capsys) -> tuple[int, str]:
    """Runs a command that fails in this process; returns its exit code and its message, which is one line."""
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1 and error.startswith("mlcm: ")
    return left.value.code, error


# Help


@pytest.mark.parametrize("words", [[], ["--help"], ["help"], ["-h"]])
def test_the_overview_names_every_command(words, capsys):
    cli.main(words)
    shown = capsys.readouterr().out
    assert all(f"\n  {name}" in shown for name in cli.COMMANDS)


def test_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_help_of_a_command_shows_its_flags(name, capsys):
    cli.main([name, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"mlcm {name} ")
    assert all(f"--{flag} " in shown for flag in cli.COMMANDS[name].flags)
    assert ("--data_dir" in shown) == (name not in ("predict", "video", "export", "demo"))
    assert all(len(line) <= 132 for line in shown.splitlines())


@pytest.mark.parametrize("width", [60, 80, 200])
def test_help_fits_into_the_terminal(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    for words in ([], *([name, "--help"] for name in cli.COMMANDS if name != "train" and name != "ablate")):
        cli.main(words)
        lines = capsys.readouterr().out.splitlines()
        assert all(len(line) <= min(width, 120) for line in lines), max(lines, key=len)
    cli.main(["build", "--help"])
    shown = capsys.readouterr().out
    column = shown.index("Folder with the files") - shown.rindex("\n", 0, shown.index("Folder with the files")) - 1
    flags = [line for line in shown.split("Flags:\n")[1].splitlines() if not line.startswith("  --")]
    assert flags and all(line.startswith(" " * column) and line[column] != " " for line in flags)


def test_help_of_train_names_the_shipped_configs(capsys):
    cli.main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert all(path.stem in shown for path in configs.shipped().glob("*.py"))


def test_help_of_train_explains_every_key_of_the_config(capsys):
    cli.main(["train", "--help"])
    lines = capsys.readouterr().out.splitlines()
    for name, key in configs.SCHEMA.items():
        (k,) = [k for k, line in enumerate(lines) if line.split(" = ")[0].split("  ")[1:2] == [name]]
        entry = [lines[k].strip()]
        while k + 1 < len(lines) and lines[k + 1].startswith(" " * 30):
            entry.append(lines[k := k + 1].strip())
        shown = " ".join(entry)
        assert " ".join(key.comment.split()) in shown and f"[{key.decides}]" in shown, shown


def test_the_command_works_in_its_own_process():
    result = run_mlcm("predict", "--help")
    assert result.returncode == 0 and result.stdout.startswith("mlcm predict ") and not result.stderr


# Flags


def test_build_takes_every_option_of_the_builders(monkeypatch):
    built = []
    monkeypatch.setattr("mlcm_jax.data.build.build", lambda *words, **given: built.append((words, given)))
    values = {name: True if name in options.SWITCHES else f"some {name}" for name in options.OPTIONS}
    words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items()]
    cli.main(["build", "paired_folder/mine", "--data_dir=d", *words])
    cli.main(["build", "wflw/all", "--data_dir=d", "--manual_dir", "m"])
    assert built == [(("paired_folder/mine", "d"), values), (("wflw/all", "d"), {"manual_dir": "m"})]


@pytest.fixture
def trained(monkeypatch):
    """The configs and work directories with which `mlcm train` would have trained; nothing is trained."""
    calls = []
    monkeypatch.setattr(seeds, "train", lambda config, workdir, **options: calls.append((config, workdir, options)))
    return calls


def test_the_command_can_run_twice_in_one_process(trained):
    """Each call has its own flags and its own config."""
    smoke = ["train", "--config=configs/tiny.py:smoke", "--data_dir=d"]
    cli.main([*smoke, "--workdir=a", "--config.train.lr=0.5", "--config.stages=('teacher',)"])
    cli.main([*smoke, "--workdir=b"])
    (one, a, first), (two, b, second) = trained
    assert (a, b) == ("a", "b") and first == second == {"data_dir": "d"}
    assert one.train.lr == 0.5 and one.stages == ("teacher",)
    assert two.train.lr == 0.016 and two.stages == configs.base().stages


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("--config.seed=3", "seed", 3),
        ("--config.seeds=(1,2)", "seeds", (1, 2)),
        ("--config.train.lr=1", "train.lr", 1.0),
        ("--config.stages=teacher", "stages", ("teacher",)),
        ("--config.keep_best", "keep_best", True),
        ("--config.keep_best=True", "keep_best", True),
        ("--noconfig.keep_best", "keep_best", False),
        ("--config.teacher.name=swin_v2", "teacher", {"name": "swin_v2"}),
        ("--config.thermal_range=(20.0,40.0)", "thermal_range", (20.0, 40.0)),
        ("--config.dataset=a=b", "dataset", "a=b"),
    ],
)
def test_overrides_become_values_of_the_keys_type(trained, override, key, value):
    cli.main(["train", "--workdir=w", "--config", "configs/tiny.py", override])
    found = configs.flat(trained[0][0])[key]
    assert value.items() <= found.items() if isinstance(value, dict) else found == value and type(found) is type(value)


def test_ablate_takes_rows(monkeypatch):
    calls = []
    monkeypatch.setattr(ablation, "ablate", lambda config, workdir, **options: calls.append(options["only"]))
    words = ["ablate", "--config=configs/ablation_synthetic.py:smoke", "--workdir=w"]
    cli.main(words)
    cli.main([*words, "--rows=none,FD+LD"])
    assert calls == [[], ["none", "FD+LD"]]


# Mistakes

TRAIN = ["train", "--workdir=w", "--config=configs/tiny.py"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "did you mean 'train'?"),
        (["train"], "--workdir is missing"),
        (["train", "--workdir=w"], "--config is missing"),
        (["train", "--workdir=w", "--config"], "--config is missing"),
        (["train", "--workdir=w", "--config=configs/tinny.py"], "did you mean 'configs/tiny.py'?"),
        (["train", "--workdir=w", "--config=mine/tiny.py"], "There is no config file mine/tiny.py"),
        (["train", "--wrkdir=w"], "--wrkdir is no flag of `mlcm train`; did you mean '--workdir'?"),
        (["predict", "--max_faces=some", "--out=o", "a.png"], "--max_faces=some must be a whole number."),
        (["predict", "--overwrite=maybe", "--out=o", "a.png"], "--overwrite=maybe must be true or false."),
        (["train", "--confg=a"], "did you mean '--config'?"),
        (["predict", "--ot=w", "a.png"], "did you mean '--out'?"),
        (["predict", "--manual_dir=w"], "--manual_dir is no flag of `mlcm predict`, but of build; see `mlcm predict"),
        (["build", "--nooverwrit"], "no flag of `mlcm build`"),
        ([*TRAIN, "--config.betta=2"], "did you mean 'transfer.beta'"),
        (["predict", "--out=o"], "try it with --demo"),
        (["train", "--workdir=w", "--config=configs/tiny.py:lnog"], "no variant 'lnog'"),
        (["train", "stray", *TRAIN[1:]], "stray"),
        ([*TRAIN, "--distributed=automatic"], "--distributed=automatic must be auto"),
        ([*TRAIN, "--processes=two"], "two"),
        # Keys of the config.
        ([*TRAIN, "--config.trian.lr=1"], "did you mean 'train.lr'"),
        ([*TRAIN, "--config.teacher.widht=1"], "did you mean 'teacher.width'"),
        ([*TRAIN, "--config.=1"], "'' is not a key of the config"),
        ([*TRAIN, "--config.train.lr=fast"], "could not convert string to float: 'fast'"),
        ([*TRAIN, "--config.seed=1.5"], "--config.seed=1.5"),
        ([*TRAIN, "--config.train.batch_size=many"], "many"),
        ([*TRAIN, "--config.keep_best=maybe"], "maybe"),
        ([*TRAIN, "--config.seeds=('a',)"], "config.seeds"),
        ([*TRAIN, "--config.thermal_range=(40.0,20.0)"], "config.thermal_range"),
        ([*TRAIN, "--config.train=3"], "config.train"),
        (["evaluate"], "--workdir is missing"),
        (["predict", "--out=o", "--stage=teacher", "a.png"], "--model is needed too"),
        (["export", "--out=o"], "--format is missing"),
        (["predict", "--model=m", "--out=o"], "at least one image"),
        (["predict", "--model=m", "--out=o", "--box=1,2,3,4", "--boxes=f", "a.png"], "exclude"),
        (["label", "--model=m", "--dataset=d"], "--out is missing"),
        (["build"], "name of one dataset"),
        (["build", "a", "b"], "name of one dataset"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(words, message, capsys, trained):
    code, error = fails(words, capsys)
    assert code == 2 and message in error and not trained


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "--workdir=/nonexistent/run"], "not the work directory of a run"),
        (["predict", "--model=/nonexistent/run", "--out=/tmp/never", "a.png"], "not the work directory of a run"),
        (["build", "synthetic_facse/tiny", "--data_dir=/tmp/never"], "did you mean"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_1(words, message, capsys):
    code, error = fails(words, capsys)
    assert code == 1 and message in error


def test_the_command_fails_in_the_same_way_in_its_own_process():
    result = run_mlcm(*TRAIN, "--config.trian.lr=1")
    assert result.returncode == 2 and "did you mean 'train.lr'" in result.stderr and not result.stdout
    assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("The file a is empty."), 1, "The file a is empty."),
        (Interrupted("Stopped.", signal.SIGINT), 1, "Stopped. Run the same command again to resume."),
        (Interrupted("Stopped.", signal.SIGTERM), 75, "Stopped. Run the same command again to resume."),
        (KeyboardInterrupt(), 1, "run the same command again to continue"),
        (
            OSError(28, "No space left on device", "w/a"),
            1,
            "No space left on device (w/a); what was saved before is kept",
        ),
        (RuntimeError("UNAVAILABLE: heartbeat timeout"), 75, "another process of this run is gone"),
    ],
)
def test_how_a_run_ends_decides_the_exit_code(monkeypatch, capsys, error, code, message):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr(seeds, "train", stop)
    monkeypatch.setattr(
        "mlcm_jax.training.distributed.is_lost", lambda one: str(one) if "UNAVAILABLE" in str(one) else ""
    )
    monkeypatch.setattr("mlcm_jax.training.distributed.leave", lambda code: None)
    found, shown = fails(TRAIN, capsys)
    assert found == code and message in shown


def test_an_unexpected_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(seeds, "train", lambda *_, **__: {}["nothing"])
    with pytest.raises(KeyError, match="nothing"):
        cli.main(TRAIN)


def test_an_error_in_a_config_file_is_reported_with_its_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def get_config(variant):\n    return undefined\n")
    code, error = fails(["train", f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'w'}"], capsys)
    assert code == 2 and f"{tmp_path / 'mine.py'}, line 2, raises NameError" in error and not (tmp_path / "w").exists()


# Datasets


def test_build_lists_the_datasets_and_whether_they_are_built(tmp_path):
    result = run_mlcm("build", "synthetic_faces/16x32", f"--data_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert "32x32" in result.stdout
    (sheet,) = tmp_path.glob("synthetic_faces/16x32/*/preview.png")
    assert sheet.stat().st_size > 10_000
    result = run_mlcm("build", "--list", f"--data_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert lines["synthetic_faces/16x32"] == ["rgb", "+", "thermal", "68", "16", "examples"]
    assert lines["synthetic_faces/base"] == ["rgb", "+", "thermal", "68", "no"]
    assert lines["sf_tl54/gray_all"] == ["rgb", "+", "thermal", "54", "no"] and lines["wflw/all"] == ["rgb", "98", "no"]
    assert {name.split("/")[0] for name in lines} >= {"t_fake", "tfw", "cofw", "paired_folder", "charlotte_thermal"}


@pytest.mark.parametrize("error", [Interrupted("Stopped.", signal.SIGTERM), KeyboardInterrupt()])
def test_a_command_that_cannot_resume_does_not_say_so(monkeypatch, capsys, error):
    def stop(*_, **__):
        raise error

    monkeypatch.setattr("mlcm_jax.inference.predict_files.predict_files", stop)
    code, shown = fails(["predict", "--demo", "--out=o"], capsys)
    assert code and "topped" in shown and "again" not in shown


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "http://a.b/c.png", "--out=o"],
        ["predict", "--demo", "--out=ftp://a.b"],
        ["video", "rtsp://camera/1", "--out=o"],
        ["report", "--workdir", "https://a.b"],
    ],
)
def test_an_address_is_no_file(words, capsys):
    code, shown = fails(words, capsys)
    assert code == 2 and "is an address, which cannot be read or written; give a file" in shown
