"""Run the program on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

from tests.common.workspaces import ROOT

Size = tuple[int, int]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def in_terminal(folder: Path, *args: str, **variables: str) -> tuple[int, str]:
    """Run the program on a terminal of 80 by 24, and return its exit code and output."""
    return in_window(folder, [(80, 24)], *args, **variables)


def in_window(folder: Path, sizes: Sequence[Size], *args: str, **variables: str) -> tuple[int, str]:
    """Run the program on a terminal of another size, and return its exit code and output.

    Args:
        folder: the folder to run it in.
        sizes: columns and lines; those after the first from the first figures of a run on.
        args: the arguments of the program.
        variables: of its environment.
    """
    size, *left = sizes
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        # These would hide the size of the terminal. readline sets them where `os.environ` does not see it.
        env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        env |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **variables}
        os.execve(sys.executable, [sys.executable, "-m", "agent", *args], env)
    _resize(terminal, size)
    written = b""
    try:
        while chunk := os.read(terminal, 65536):
            written += chunk
            if left and b"tokens/s" in written:
                _resize(terminal, left.pop(0))
    except OSError:
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode()


def frames(drawn: str) -> list[list[str]]:
    """Return the lines of each picture that a live screen has drawn, without colors."""
    pictures = drawn.split("\x1b[?1049h")[1].split("\x1b[?1049l")[0].split("\x1b[H")
    return [[line.rstrip("\r") for line in ESCAPES.sub("", each).split("\n")] for each in pictures if each.strip()]


def _resize(terminal: int, size: Size) -> None:
    columns, lines = size
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
