"""Kill a run: the command and every process that it has started, identified by a mark in their environment.

    python -m agent.execution.kill PID MARK

The watchdog of a run uses this command when the loop has died.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

TERM_GRACE_SECONDS = 5.0
# Each round kills the processes that were started during the previous one. A process that never stops starting new ones
# must not block the loop.
MOST_KILLS = 20
MARK = "AUTORESEARCH_RUN"


@dataclass(frozen=True)
class Process:
    """A unique identification of a process: pids are reused, but not with the same start.

    Attributes:
        born: when it started, Unix time in seconds. Setting the clock moves it on Linux.
        start: when it started, as boot and clock ticks, which nothing moves; "" on other systems.
    """

    pid: int
    born: float
    start: str = ""

    @staticmethod
    def of(event: Mapping[str, Any]) -> Process:
        """Return the process that an event of a journal names. Earlier versions wrote no `start`."""
        return Process(event["pid"], event["born"], event.get("start", ""))

    def found(self) -> psutil.Process | None:
        """Return the process if it exists, also as a zombie."""
        try:
            process = psutil.Process(self.pid)
            same = start_of(self.pid) == self.start if self.start else abs(process.create_time() - self.born) < 1
        except psutil.Error:
            return None
        return process if same else None


def start_of(pid: int) -> str:
    """Return when a process started, as boot and clock ticks; "" if it is gone or the system is not Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # proc_pid_stat(5): `starttime` is field 22. The name of the program, field 2, may contain spaces and brackets.
        ticks = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return ""
    return f"{boot}/{ticks}"


def end_orphan(process: Process) -> bool:
    """Kill the process tree of a command that outlived its loop. Return whether it was still running."""
    try:
        leader = process.found()
        mark = leader.environ().get(MARK, "") if leader else ""
    except psutil.Error:
        return False
    if not mark:
        return False  # not a run of this program: a journal may name any process
    end_all(process.pid, mark)
    return True


def end_all(pid: int, mark: str) -> None:
    """Kill a process tree: TERM, a grace period, then KILL until none is left: some start new processes on TERM."""
    family = kin(pid, mark)
    if not family:
        return
    for process in family:
        _signal(process.terminate)
    psutil.wait_procs(family, timeout=TERM_GRACE_SECONDS)
    killed: set[psutil.Process] = set()
    for _ in range(MOST_KILLS):
        # Do not look up `pid`, which may belong to another process by now.
        alive = [process for process in _with_kin(family, mark) if process not in killed and _alive(process)]
        if not alive:
            return
        # Stop them all first: a process that they start could no longer be found once its parents are dead.
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
    """Kill the run `pid` with the mark `mark` if this process dies during the block, in any way.

    The watchdog is a shell, because it takes neither time nor memory from the training. This process holds the other
    end of the shell's standard input. A line on it means that the run has ended; an end of file without a line means
    that this process is dead and that the run must be killed.
    """
    kill = [sys.executable, "-P", "-m", "agent.execution.kill", str(pid), mark]
    # Start it in a new session, so that a signal to the loop's terminal does not kill the watchdog first.
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
    """Return the command, its descendants, and processes that left its tree but carry its mark in their environment."""
    leader: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        leader = [psutil.Process(pid)]
    return _with_kin(leader, mark)


def _with_kin(family: list[psutil.Process], mark: str) -> list[psutil.Process]:
    """Return `family`, its descendants, and all processes that carry the mark."""
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
    """Return whether `mark` is in the environment with which the process was started."""
    if sys.platform == "linux":  # parsing the environment of every process on the machine would take far longer
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
