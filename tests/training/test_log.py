"""The metrics and the table of parameters that a stage writes while it trains."""

import json

import jax.numpy as jnp

from mlcm_jax.console import console
from mlcm_jax.training import distributed, sharding
from mlcm_jax.training.log import open_writer, read_jsonl, write_parameters


def test_records_after_the_resumed_step_are_written_anew(tmp_path):
    with open_writer(tmp_path, resume_step=0) as write:
        for step in (10, 20, 30):
            write(step, {"loss": float(step)})
    with open_writer(tmp_path, resume_step=20) as write:
        write(30, {"loss": 0.5})
    records = read_jsonl(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["loss"]) for r in records] == [(10, 10.0), (20, 20.0), (30, 0.5)]


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    assert read_jsonl(path) == [{"step": 1, "loss": 2.0}]
    with open_writer(tmp_path, resume_step=1) as write:
        write(2, {"loss": 1.0})
    assert [r["step"] for r in read_jsonl(path)] == [1, 2]


def test_damaged_lines_are_left_out(tmp_path):
    lines = [b'{"step": 1, "loss": NaN}', b"\xff\x80", b"[]", b"3", b'{"loss": 2}', b'{"step": "a"}', b"\0\0\0"]
    lines += [b'{"step": 2, "loss": "b"}', b'{"step": 3, "loss": 1}']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    with open_writer(tmp_path, resume_step=3) as write:
        write(4, {"loss": 1.0})
    assert [record["step"] for record in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 3, 4]


def test_tensorboard_events_are_written_when_installed(tmp_path):
    with open_writer(tmp_path, resume_step=0) as write:
        write(1, {"loss": 3.0})
    events = list((tmp_path / "tensorboard").glob("events*"))
    assert events and events[0].stat().st_size > 0


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    with open_writer(tmp_path / "w", resume_step=0) as write:
        write(1, {"loss": 3.0})
    assert not (tmp_path / "w").exists()


def test_parameters_are_listed_with_shape_and_sharding(tmp_path, monkeypatch):
    params = {"head": {"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4, jnp.bfloat16)}}
    write_parameters(tmp_path, sharding.put_sharded(params, sharding.make_mesh()))
    lines = (tmp_path / "parameters.txt").read_text().splitlines()
    (kernel,), (bias,) = ([line for line in lines if f"head/{name}" in line] for name in ("kernel", "bias"))
    assert "(3, 4)" in kernel and "float32" in kernel and "12" in kernel and "bfloat16" in bias
    assert "()" in kernel and lines[-1].startswith("Total: 16")  # on one device, no axis is split
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    write_parameters(tmp_path / "other", params)
    assert not (tmp_path / "other").exists()


def test_a_silent_console_drops_no_metrics(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "quiet", True)
    with open_writer(tmp_path, resume_step=0) as write:
        write(1, {"loss": 3.0})
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 3.0}]
