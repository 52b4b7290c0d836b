"""Edits of the quick workspace by hand, and the results of `try`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.common.forked import Forked
from tests.common.workspaces import QUICK

# Changes of train.py that lower the metric, and that raise it.
BETTER = ("RATE = 0.1", "RATE = 0.3")
WORSE = ("DEPTH = 4", "DEPTH = 1")


def slow(seconds: float) -> str:
    """Return a train.py that takes this long and logs its steps as the repository's does."""
    count = int(seconds * 10)
    line = f"step {{i:05d}} ({{i / {count}:.1%}}) | loss: {{5 - i / {count}:.6f}} | tok/sec: 14,000"
    loop = f"for i in range(1, {count + 1}):\n    print(f'{line}', flush=True)\n    time.sleep(0.1)\n"
    return QUICK.replace("import sys\n", "import sys, time\n").replace("loss = ", f"{loop}loss = ", 1)


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "train.py").read_text()
    assert old in text
    (folder / "train.py").write_text(text.replace(old, new, 1))


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the data that `try --json` or `wait --json` has printed."""
    assert done.returncode == 0, done.stderr
    data: dict[str, Any] = json.loads(done.stdout)["data"]
    return data


def start_try(folder: Path, *args: str) -> Forked:
    return Forked(folder, ["try", *args], os.environ)


def kept_by_branch(folder: Path, tag: str) -> str:
    """Return the train.py of a session's branch."""
    command = ["git", "show", f"autoresearch/{tag}:train.py"]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
