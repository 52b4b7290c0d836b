"""Tools that a Ctrl-C in the terminal does not reach, in the process group that the terminal would interrupt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.system.shielded import run_shielded
from tests.common.processes import gone
from tests.common.stations import until
from tests.common.workspaces import ROOT

pytestmark = pytest.mark.quick

# Interrupts the caller's group, as a terminal does, once the caller waits for it, and then goes on.
PRESS = 'read -r line; kill -INT -"$1"; '


def pressing(script: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run a shell script shielded, in a process that leads a group of its own, and return the end of that process."""
    code = (
        "import os, signal, sys\nfrom agent.system.shielded import run_shielded\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell ignores it in the background
        f"{before}\n"
        f"tool = ['/bin/sh', '-c', {script!r}, 'sh', str(os.getpgrp())]\n"
        "print(run_shielded(tool, said=b'go\\n').stdout.decode(), end='')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, start_new_session=True, check=False
    )


def test_interrupt_that_the_program_handles_does_not_reach_the_tool() -> None:
    done = pressing(f"{PRESS}echo whole", before="signal.signal(signal.SIGINT, lambda *_: print('heard', flush=True))")
    assert (done.stdout, done.returncode) == ("heard\nwhole\n", 0)


def test_interrupt_that_ends_the_program_ends_the_tool_first(tmp_path: Path) -> None:
    """Git removes its locks then, which a kill would leave."""
    lock = tmp_path / "lock"
    done = pressing(f"trap 'rm {lock}; exit 1' INT; touch {lock}; {PRESS}while :; do sleep 0.01; done")
    assert "KeyboardInterrupt" in done.stderr
    assert not lock.exists()


def test_prompt_on_the_terminal_fails_instead_of_waiting() -> None:
    done = run_shielded(["/bin/sh", "-c", "read -r line < /dev/tty"])
    assert done.returncode != 0
    assert done.stderr


def test_timeout_kills_the_tool_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with pytest.raises(subprocess.TimeoutExpired):
        run_shielded(["/bin/sh", "-c", f"sleep 60 & echo $! > {file}; wait"], timeout=1)
    until(lambda: gone(int(file.read_text())), "a child lives")
