"""Run a tool that a Ctrl-C in the terminal does not reach, so that it cannot end in the middle of a step."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_shielded(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    said: bytes = b"",
    timeout: float | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process session of its own, and return its exit code and output.

    The session has no terminal, so a prompt for a password fails. In a background group, it would be suspended.

    Args:
        said: its standard input.
        timeout: seconds, after which it is killed; None for no limit.

    Raises:
        OSError: it could not be started.
        subprocess.TimeoutExpired: it took longer than `timeout`.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    ) as process:
        try:
            out, errors = process.communicate(said, timeout)
        except BaseException as error:
            # A KeyboardInterrupt of a command without a session: git removes its locks on SIGINT.
            number = signal.SIGKILL if isinstance(error, subprocess.TimeoutExpired) else signal.SIGINT
            if process.poll() is None:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, number)
            process.wait()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, errors)
