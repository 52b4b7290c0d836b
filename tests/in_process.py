"""A command of the program without a process of its own: a test of many small calls need not pay for their starts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from typer.testing import CliRunner

from agent.cli import app


def call(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """What the program would have printed and returned in `folder`."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        done = CliRunner().invoke(app, list(args), env=env, prog_name="autoresearch")
    finally:
        os.chdir(before)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(args, done.exit_code, done.stdout, done.stderr)
