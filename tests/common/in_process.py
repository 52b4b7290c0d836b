"""A command of the program without a process of its own: a test of many small calls need not pay for their starts."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from typer.testing import CliRunner

from agent.cli import app

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # a session takes them over


def call(folder: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """What the program would have printed and returned in `folder`."""
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
