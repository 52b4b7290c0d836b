"""The program in a process of its own, without the 0.4 s that the interpreter takes to import it.

A server has imported the program and forks for every start. What that leaves out, the start itself, is what tests of
streams, of `--help` and of the wheel look at: those start the program from the command line.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

# What a session and the commands that read one import.
PRELOADED = ["agent.cli.launch", "agent.views.page.write", "agent.doctor.doctor", "tests.common.forked"]


class Forked:
    """A started program, with the methods of `subprocess.Popen` that tests use. Its output goes to files."""

    def __init__(self, folder: Path, args: Sequence[str], env: Mapping[str, str]) -> None:
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 - they outlive this function
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        names = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in self._files]
        self._process = context.Process(target=_become, args=(str(folder), list(args), dict(env), names), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        return int(self._process.pid or 0)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("autoresearch", timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return _read(self._files[0]), _read(self._files[1])


def run(folder: Path, args: Sequence[str], env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Start the program in `folder` and wait for its end."""
    started = Forked(folder, args, env)
    try:
        out, err = started.communicate(timeout)
    except subprocess.TimeoutExpired:
        started.kill()
        raise
    return subprocess.CompletedProcess(args, started.wait(), out, err)


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _become(folder: str, args: list[str], env: dict[str, str], names: list[str]) -> None:
    """Be the program, as `python -m agent` would be in this folder and environment."""
    for number, name in enumerate(names, start=1):
        file = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            os.fdopen(number, "wb", closefd=False), env.get("PYTHONIOENCODING"), errors, line_buffering=True
        )
        for number, errors in ((1, "strict"), (2, "backslashreplace"))
    )
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the suite may run under nohup
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["autoresearch", *args]
    tempfile.tempdir = None  # it may be remembered from the server's TMPDIR

    from agent.cli import start

    try:
        start()
    finally:
        # What the interpreter does at its end, and a process of multiprocessing does not.
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
