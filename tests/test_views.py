"""The live view in a real terminal: a pseudo-terminal of 80 columns."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
from pathlib import Path

import pytest

from agent.views.text import duration
from tests.conftest import ROOT


@pytest.mark.parametrize("colour", [True, False])
def test_the_live_view_in_a_terminal(quick: Path, colour: bool) -> None:
    text = (quick / "train.py").read_text()
    (quick / "train.py").write_text(text.replace("loss = ", "import time\nprint('step 1')\ntime.sleep(1.5)\nloss = "))
    os.system(f"cd {quick} && git commit -qam slower")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(quick)
        os.environ |= {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | ({} if colour else {"NO_COLOR": "1"})
        os.execv(sys.executable, [sys.executable, "-m", "agent", "run", "--tag", "t", "--max-experiments", "1"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    screen = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            break
        if not chunk:
            break
        screen += chunk
    _, status = os.waitpid(pid, 0)
    shown = screen.decode()
    assert os.waitstatus_to_exitcode(status) == 0, shown
    assert "#0 keep" in shown.replace("\x1b[1;32m", "").replace("\x1b[0m", "").replace("\x1b[1m", "")
    assert "of about" in shown and "step 1" in shown and "baseline" in shown
    assert ("\x1b[1;32m" in shown) is colour
    assert "Traceback" not in shown


def test_durations() -> None:
    assert [duration(s) for s in (0.24, 9.96, 59.6, 401, 7500)] == ["0.2s", "10.0s", "1m00s", "6m41s", "2h05m"]
