"""Opens a page in headless Chromium, if the machine has one."""

import re
import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)


def load(path: Path, *, screenshot: Path | None = None) -> tuple[str, list[str]]:
    """Loads a file as file://.

    Args:
        path: the page.
        screenshot: a .png file to write.

    Returns:
        (the document after loading, or "" with a screenshot; what the page wrote to the console, such as errors).
    """
    what = f"--screenshot={screenshot}" if screenshot else "--dump-dom"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    command = [PROGRAM, *flags, "--window-size=1280,2400", what, path.resolve().as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    return found.stdout, re.findall(r"CONSOLE:?\S*\] (.*)", found.stderr)
