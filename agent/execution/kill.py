"""Kills a run: the command and all that it has started, known by a mark in their environment.

    python -m agent.execution.kill PID MARK

What starts so is the watchdog of a run whose loop has died.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

TERM_GRACE_SECONDS = 5.0
# Each ends what was started during the one before; what starts something new for ever must not hold the loop.
MOST_KILLS = 20
MARK = "AUTORESEARCH_RUN"


@dataclass(frozen=True)
class Process:
    """Identifies a process for good: a pid alone is reused, a pid with its time of birth is not."""

    pid: int
    born: float


def end_orphan(process: Process) -> bool:
    """End a command that outlived its loop, with its descendants. Returns whether there was one."""
    try:
        leader = psutil.Process(process.pid)
        if abs(leader.create_time() - process.born) > 1:
            return False
        mark = leader.environ().get(MARK, "")
    except psutil.Error:
        return False
    if not mark:
        return False  # not a run of this program: a journal may name any process
    end_all(process.pid, mark)
    return True


def end_all(pid: int, mark: str) -> None:
    """TERM to the command and its kin, a grace, then KILL until none is left: some answer TERM with a new process."""
    family = kin(pid, mark)
    if not family:
        return
    for process in family:
        _signal(process.terminate)
    psutil.wait_procs(family, timeout=TERM_GRACE_SECONDS)
    killed: set[psutil.Process] = set()
    for _ in range(MOST_KILLS):
        # Not by `pid`, which may be another's by now.
        alive = [process for process in _with_kin(family, mark) if process not in killed and _alive(process)]
        if not alive:
            return
        # Stopped first, none starts another that nobody knows once its parents are gone.
        for process in alive:
            if process.pid != pid:
                _signal(process.suspend)
        family = _with_kin(family, mark)
        for process in family:
            _signal(process.kill)
        psutil.wait_procs(family, timeout=TERM_GRACE_SECONDS)
        killed.update(family)


@contextmanager
def watchdog(pid: int, mark: str) -> Iterator[None]:
    """While this is open the run `pid`, known by `mark`, lives no longer than this process, however that dies.

    A shell waits beside the run, as it takes neither time nor memory from the training. This process holds the other
    end of its standard input. A line says that the run ended and all is well; the end of the file without one says that
    this process is gone, and the command must not go on burning the machine.
    """
    kill = [sys.executable, "-P", "-m", "agent.execution.kill", str(pid), mark]
    # A session of its own: what ends the loop's terminal must not end this first.
    guard = subprocess.Popen(
        ["/bin/sh", "-c", 'read -r line || exec "$@"', "watchdog", *kill],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.communicate(b"\n")


def kin(pid: int, mark: str) -> list[psutil.Process]:
    """The command, its descendants, and those that left its tree or session but carry its mark in their environment."""
    leader: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        leader = [psutil.Process(pid)]
    return _with_kin(leader, mark)


def _with_kin(family: list[psutil.Process], mark: str) -> list[psutil.Process]:
    """`family`, its descendants, and all that carry the mark."""
    found = {process.pid: process for process in family}
    for process in family:
        with contextlib.suppress(psutil.Error):
            found.update((child.pid, child) for child in process.children(recursive=True))
    for process in psutil.process_iter():
        try:
            if mark and _carries(process, mark):
                found[process.pid] = process
        except (psutil.Error, OSError):
            continue
    return [p for p in found.values() if p.pid != os.getpid()]


def _carries(process: psutil.Process, mark: str) -> bool:
    """Whether `mark` is in the environment that the process was started with."""
    if sys.platform == "linux":  # all processes of the machine are asked: to parse what each holds takes far longer
        return os.fsencode(f"{MARK}={mark}") in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    return process.environ().get(MARK) == mark


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _signal(send: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.Error):
        send()


if __name__ == "__main__":
    end_all(int(sys.argv[1]), sys.argv[2])
