"""Run the program on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
from pathlib import Path

from tests.common.workspaces import ROOT


def in_terminal(folder: Path, *args: str, **variables: str) -> tuple[int, str]:
    """Run the program on a terminal of 80 by 24, and return its exit code and output."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **variables}
        os.execv(sys.executable, [sys.executable, "-m", "agent", *args])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    written = b""
    try:
        while chunk := os.read(terminal, 65536):
            written += chunk
    except OSError:
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode()
