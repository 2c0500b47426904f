import sys

import pytest
from conftest import run_mlcm

from mlcm_jax import __version__, cli


@pytest.fixture(autouse=True)
def keep_hook(monkeypatch):
    """The command sets a hook for its own process; in ours it goes back to pytest's."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_the_overview_names_every_command(words, capsys):
    cli.main(words)
    shown = capsys.readouterr().out
    assert all(f"\n  {name}" in shown for name in cli.COMMANDS)


def test_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_help_of_a_command_shows_its_flags(name):
    result = run_mlcm(name, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"mlcm {name}")
    assert ("--data_dir" in result.stdout) == (name != "predict")
    assert "--workdir" in result.stdout or name not in ("train", "evaluate")
    assert all(len(line) <= 132 for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    "words, message",
    [
        (["trian"], "did you mean 'train'?"),
        (["train"], "--workdir is missing"),
        (["train", "--workdir=w"], "--config is missing"),
        (["train", "--workdir=w", "--config=configs/tinny.py"], "did you mean 'configs/tiny.py'?"),
        (["train", "--wrkdir=w"], "Did you mean"),
        (["train", "--workdir=w", "--config=configs/tiny.py", "--config.trian.lr=1"], "'trian'"),
        (["train", "--workdir=w", "--config=configs/tiny.py", "--config.train.lr=fast"], "fast"),
        (["train", "--config=configs/tiny.py:lnog", "--workdir=/tmp/never"], "no variant 'lnog'"),
        (["train", "stray", "--workdir=w", "--config=configs/tiny.py"], "stray"),
        (["evaluate"], "--workdir is missing"),
        (["predict", "--model=m", "--out=o"], "at least one image"),
        (["predict", "--model=m", "--out=o", "--box=1,2,3,4", "--boxes=f", "a.png"], "exclude"),
        (["build"], "name of one dataset"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(words, message):
    result = run_mlcm(*words)
    assert result.returncode == 2, result.stdout + result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["evaluate", "--workdir=/nonexistent/run"], "not the work directory of a run"),
        (["predict", "--model=/nonexistent/run", "--out=/tmp/never", "a.png"], "not the work directory of a run"),
        (["build", "synthetic_facse/tiny"], "did you mean"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_1(words, message):
    result = run_mlcm(*words)
    assert result.returncode == 1, result.stdout + result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr


def test_build_lists_the_data_sets_and_whether_they_are_built(tmp_path):
    result = run_mlcm("build", "synthetic_faces/16x32", f"--data_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert "32x32" in result.stdout
    assert (tmp_path / "synthetic_faces/16x32/1.0.0/preview.png").stat().st_size > 10_000
    result = run_mlcm("build", "--list", f"--data_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert lines["synthetic_faces/16x32"] == ["rgb", "+", "thermal", "68", "16", "examples"]
    assert lines["synthetic_faces/base"] == ["rgb", "+", "thermal", "68", "no"]
    assert lines["sf_tl54/gray_all"] == ["rgb", "+", "thermal", "54", "no"] and lines["wflw/all"] == ["rgb", "98", "no"]
    assert {name.split("/")[0] for name in lines} >= {"t_fake", "tfw", "cofw", "paired_folder", "charlotte_thermal"}
