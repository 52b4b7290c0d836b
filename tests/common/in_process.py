"""Run commands of the program in this process, which saves the start of a process for each."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from typer.testing import CliRunner

from agent.cli import app

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # a session handles them


def call(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Return what the program prints and returns in `folder`."""
    before, handlers = Path.cwd(), {number: signal.getsignal(number) for number in SIGNALS}
    os.chdir(folder)
    try:
        done = CliRunner().invoke(app, list(args), env=env, prog_name="autoresearch")
    finally:
        os.chdir(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(args, done.exit_code, done.stdout, done.stderr)
