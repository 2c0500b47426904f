"""README.md and docs/: every command and every block of Python is executed, or at least its flags and keys exist.

docs/README.md tells what the comments above the blocks mean.
"""

import contextlib
import importlib.util
import io
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading

import absl.logging
import cv2
import made_flir
import numpy as np
import pages
import pytest
import tifffile

from mlcm_jax import cli
from mlcm_jax import config as configs
from mlcm_jax.synthetic import generate

BLOCKS = [block for page in pages.PAGES for block in pages.blocks(page)]
CODE = [block for block in BLOCKS if block.language in ("bash", "python")]
ELSEWHERE = {("docs/files.md", "python"): "tests/builders/test_docs_files.py"}  # which executes all examples of labels
EVERYWHERE = [*pages.PAGES, *pages.BUILDERS, "CONTRIBUTING.md", "benchmarks/RESULTS.md"]
OTHERS = {"--node-count", "--xla_force_host_platform_device_count", "--xla_gpu_enable_triton_gemm"}  # gcloud, XLA


def documented(page):
    shown = [block.code for block in pages.blocks(page) if block.language in ("bash", "yaml")]
    return "\n".join([*shown, pages.indented(page)])


# What is documented exists


def test_every_page_is_in_the_index_and_there_is_one_for_every_subject():
    index = pages.text("docs/README.md")
    listed = {f"docs/{name}" for name in re.findall(r"^\| \[.*?\]\((\w+\.md)\)", index, re.M)}
    assert listed == set(pages.PAGES) - {"README.md", "docs/README.md"}
    subjects = ("inference", "training", "datasets", "files", "pods", "real_faces")
    assert {f"docs/{name}.md" for name in subjects} <= listed
    assert len(BLOCKS) > 30 and {block.page for block in CODE} > {"README.md", "docs/pods.md", "docs/inference.md"}


@pytest.mark.parametrize("page", EVERYWHERE)
def test_links_and_their_anchors_exist(page):
    folder = (pages.ROOT / page).parent
    for link in re.findall(r"\]\(([^)\s]+)\)", pages.text(page)):
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = folder / path if path else pages.ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            name = target.resolve().relative_to(pages.ROOT).as_posix()
            assert anchor in pages.anchors(name), f"{page}: {link}"


@pytest.mark.parametrize("page", EVERYWHERE)
def test_flags_and_config_keys_of_the_commands_exist(page, monkeypatch):
    monkeypatch.chdir(pages.ROOT)
    for name, words in pages.commands(documented(page)):
        check_command(name, words, page)
    for name, flags in pages.benchmarks(pages.text(page)):
        assert not set(flags) - pages.flags_of(name), f"{page}: benchmarks.{name} has no {flags}"


def check_command(name, words, page):
    assert name in cli.COMMANDS, f"{page}: there is no command {name}"
    if {"--help"} & set(words):
        return
    words = [word for word in words if word.startswith("-") or cli.COMMANDS[name].takes_words]
    try:
        _, given = cli._parse(name, words)
    except cli.UsageError as error:
        raise AssertionError(f"{page}: mlcm {name} {' '.join(words)}: {error}") from None
    assert not cli.COMMANDS[name].configured or "config" in given.values, f"{page}: mlcm {name} has no --config"


def known_key(name):
    """Whether a dotted name is a key of the config, a group of keys, or an argument in one."""
    groups = {key.rpartition(".")[0] for key in configs.SCHEMA if "." in key}
    return name in configs.SCHEMA or name in groups or configs.SCHEMA.get(name.split(".")[0], (None,))[0] is dict


@pytest.mark.parametrize("page", EVERYWHERE)
def test_flags_and_config_keys_in_the_sentences_exist(page):
    flags = OTHERS | {f"--{flag}" for command in cli.COMMANDS.values() for flag in command.flags}
    flags |= {"--config", "--help", "--version"}
    flags |= {flag for path in (pages.ROOT / "benchmarks").glob("*.py") for flag in pages.flags_of(path.stem)}
    for span in pages.spans(page):
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", span):
            assert flag in flags or flag.replace("--no", "--", 1) in flags, f"{page}: {flag} in `{span}`"
        for name in re.findall(r"(?<![\w.])config\.([a-z_]+(?:\.[a-z_]+)*)", span):
            assert known_key(name) or name in ("py", "json"), f"{page}: config.{name}"
        for name in re.findall(r"^mlcm ([a-z]+)\b", span):
            assert name in cli.COMMANDS, f"{page}: `{span}`"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("mlcm predict a.png --out=out --boxs=b.json", "--boxs is no flag"),
        ("mlcm train --config=configs/tiny.py --workdir=w --config.trian.lr=1", "not a key|no key|did you mean"),
        ("cd x && \\\n  mlcm evalute --workdir=w", "no command evalute"),
        ("command: [mlcm, video, --out=w,\n  --fpss=2]", "--fpss is no flag"),
        ("ssh_all 'cd x && mlcm train --config=configs/tiny.py --worker=w'", "--worker is no flag"),
        ("mlcm train --workdir=w", "has no --config"),
    ],
)
def test_a_documented_flag_that_does_not_exist_is_found(code, message, monkeypatch):
    monkeypatch.chdir(pages.ROOT)
    ((name, words),) = pages.commands(code)
    with pytest.raises(AssertionError, match=message):
        check_command(name, words, "page")


def test_a_comment_that_does_not_fit_its_block_is_found():
    block = pages.Block("page", 3, "bash", "mlcm predict a.png\nmlcm build x\n")
    for marker in ("b.png => c.png", "not run label: why", "fast"):
        with pytest.raises(AssertionError, match="page:3"):
            block.read(marker)
    block.read("slow; a.png => c.png; not run build: it takes long; prints 3")
    assert block.small == "mlcm predict c.png\n" and block.slow and block.prints == ["3"] and not block.skipped
    block.read("not run: it needs a pod")
    assert block.skipped == "it needs a pod"


# What is documented runs


@pytest.fixture
def place(request, tmp_path, monkeypatch, data_dir, smoke_run):
    """A folder as the pages take it for granted: the repository's folders, some images and clips, and a small run."""
    for name in ("mlcm_jax", "tfds_builders", "benchmarks", "configs"):
        (tmp_path / name).symlink_to(pages.ROOT / name)
    (tmp_path / "data" / "synthetic_faces").mkdir(parents=True)
    (tmp_path / "data" / "synthetic_faces" / "48x48").symlink_to(data_dir / "synthetic_faces" / "48x48")
    shutil.copytree(smoke_run, tmp_path / "runs" / "tiny", ignore=shutil.ignore_patterns("tensorboard"))
    face = generate.example(8, 36, size=160, frontal=True, well_lit=True)
    tifffile.imwrite(tmp_path / "face.tiff", face["celsius"])
    for name in ("images/a.png", "images/b.png", "more/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), face["thermal"])
    boxes = {name: face["box"].tolist() for name in ("a.png", "b.png")}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    still = np.nan_to_num(face["celsius"], nan=float(np.nanmedian(face["celsius"])))
    frames = [np.roll(still, k, 1) for k in range(4)]
    np.save(tmp_path / "clip.npy", np.stack(frames))
    (tmp_path / "clip.seq").write_bytes(b"".join(made_flir.fff(made_flir.counts(frame)) for frame in frames))
    (tmp_path / "pairs").mkdir()
    for k in range(20 if request.node.callspec.params["page"] == "docs/datasets.md" else 0):
        pair = generate.example(5, 4 * k, size=64, frontal=True, well_lit=True)
        cv2.imwrite(str(tmp_path / "pairs" / f"p{k}_rgb.png"), pair["rgb"][..., ::-1])
        cv2.imwrite(str(tmp_path / "pairs" / f"p{k}_thermal.png"), pair["thermal"])
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("mlcm", "-m mlcm_jax.cli"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLCM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PYTHONPATH", str(pages.ROOT))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def hooks(monkeypatch):
    """Restores the hooks and logging levels that the command sets for its process."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "argv", ["mlcm"])
    level, asyncio = absl.logging.get_verbosity(), logging.getLogger("asyncio").level
    yield
    absl.logging.set_verbosity(level)
    logging.getLogger("asyncio").setLevel(asyncio)


def shell(code):
    """Executes shell commands; `mlcm` alone runs in this process, which need not import everything again."""
    lines = [line.partition(" #")[0].strip() for line in re.sub(r"\\\n\s*", " ", code).splitlines()]
    lines = [line.removeprefix("true && ") for line in lines if line and line not in ("true",) and line[0] != "#"]
    if all(line.startswith("mlcm ") and "$" not in line for line in lines):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            for line in lines:
                cli.main(shlex.split(line)[1:])
        return out.getvalue()
    found = subprocess.run(["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True, timeout=1200)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def python(block):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(block.small, f"{block.page}:{block.line}", "exec"), {"__name__": "__main__"})
    return out.getvalue()


def execute(block):
    printed = shell(block.small) if block.language == "bash" else python(block)
    for expected in block.prints:
        assert expected in printed, f"{block.page}:{block.line} prints {printed[-300:]!r}, not {expected!r}"
    for _, words in pages.commands(block.small) if block.language == "bash" else ():
        for path in (word.partition("=")[2] for word in words if re.match("--(out|workdir)=", word)):
            assert os.path.exists(path), f"{block.page}:{block.line}: {path} is missing"


def executed(page, *, slow):
    """Returns the blocks of a page that are executed; slow ones may need the others before them."""
    mine = [block for block in CODE if block.page == page and not block.skipped]
    mine = [block for block in mine if (page, block.language) not in ELSEWHERE]
    return mine if slow else [block for block in mine if not block.slow]


QUICK = [page for page in pages.PAGES if executed(page, slow=False)]
SLOW = [page for page in pages.PAGES if any(block.slow for block in executed(page, slow=True))]


def test_nothing_is_left_out_without_a_reason():
    left = [block for block in CODE if block.skipped]
    assert all(len(block.skipped) > 10 for block in left) and len(left) < len(CODE) / 2
    assert all((pages.ROOT / path).exists() for path in ELSEWHERE.values())
    assert {"README.md", "docs/inference.md", "docs/regions.md"} <= set(QUICK)


@pytest.mark.parametrize("page", QUICK)
def test_blocks_run(page, place, hooks):
    for block in executed(page, slow=False):
        execute(block)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_all_blocks_run(page, place, hooks):
    lacking = set()
    for block in executed(page, slow=True):
        missing = [name for name in block.needs if not (importlib.util.find_spec(name) or shutil.which(name))]
        lacking.update(missing)
        if not missing:
            execute(block)
    if lacking:
        pytest.skip(f"{', '.join(sorted(lacking))} not installed; all other blocks ran")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted({name for page in EVERYWHERE for name, _ in pages.benchmarks(pages.text(page))})
)
def test_documented_benchmarks_show_their_flags(name):
    command = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=pages.ROOT)
    assert "usage" in found.stdout.lower() + found.stderr.lower() or "flags" in found.stdout, found.stderr
