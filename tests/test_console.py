"""What the user sees while a command runs."""

import io
import time

from mlcm_jax.console import console, progress, say


def test_progress_shows_steps_rate_and_text(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(console, "file", shown)
    with progress("teacher", total=4, start=1, unit_size=8) as advance:
        for step in (2, 3, 4):
            time.sleep(0.01)  # a rate needs time to pass
            advance(step, f"loss {step / 4}")
    last = shown.getvalue().strip().splitlines()[-1]
    assert last.startswith("teacher") and "4/4" in last and "images/s" in last and "loss 1.0" in last


def test_brackets_in_a_message_are_not_markup(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(console, "file", shown)
    say("keys [red] and [/]")
    assert shown.getvalue() == "keys [red] and [/]\n"
