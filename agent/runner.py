"""A command under supervision: its output in a log, its time limited, and nobody of its kin left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent.lifeline import attached

TERM_GRACE_SECONDS = 5.0
# Each ends what was started during the one before; what starts something new for ever must not hold the loop.
MOST_KILLS = 20
LARGEST_LOG = 64 * 2**20
# The wall clock also moves when it is set; what is less than this is no suspend.
SHORTEST_SLEEP = 10.0
POLL_SECONDS = 0.2
# What a command has started may end a moment after it without being left behind.
LEAVING_SECONDS = 0.5
# bubblewrap's own first process stays as long as anything that it holds.
NOBODYS = frozenset({"bwrap"})
MARK = "AUTORESEARCH_RUN"


@dataclass(frozen=True)
class Process:
    """Identifies a process for good: a pid alone is reused, a pid with its time of birth is not."""

    pid: int
    born: float


@dataclass(frozen=True)
class Ended:
    """returncode is None where a limit ended the command, which `stopped` then names. asleep: seconds of suspend.

    left: the names of the processes that went on after the command had finished, and were ended.
    """

    returncode: int | None
    seconds: float
    stopped: str | None = None
    asleep: float = 0.0
    left: tuple[str, ...] = ()


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    limit: float,
    env: Mapping[str, str],
    started: Callable[[Process], None],
    tick: Callable[[float], None],
    wall: Callable[[], float] = time.time,
) -> Ended:
    """Run `command` in a session of its own, stdout and stderr to `log`, for at most `limit` seconds awake.

    `env` is all that it sees of the environment, besides the mark by which its descendants are known.
    `started` is told the process, `tick` the seconds so far several times a second. Whatever either raises ends the
    command too. When this returns or raises, the command and all its descendants are gone; and if this process dies
    before, they go with it.
    """
    mark = uuid.uuid4().hex
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**env, MARK: mark},
        )
    began, clock = time.monotonic(), wall()
    returncode, stopped = None, None
    try:
        with attached(process.pid, mark):
            started(Process(process.pid, _born(process.pid)))
            while stopped is None:
                try:
                    returncode = process.wait(timeout=POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    seconds = time.monotonic() - began
                    tick(seconds)
                    stopped = _exceeded(seconds, limit, log)
            # The monotonic clock stands still while the machine sleeps, the wall clock does not.
            seconds = time.monotonic() - began
            asleep = wall() - clock - seconds
            left = _left_running(kin(process.pid, mark)) if stopped is None else ()
            return Ended(returncode, seconds, stopped, asleep if asleep >= SHORTEST_SLEEP else 0.0, left)
    finally:
        end_all(process.pid, mark)
        process.wait()


def _exceeded(seconds: float, limit: float, log: Path) -> str | None:
    if seconds > limit:
        return f"timed out: killed after the hard limit of {limit:g} s"
    if log.stat().st_size > LARGEST_LOG:
        return f"killed: its log grew beyond {LARGEST_LOG // 2**20} MiB"
    return None


def end_orphan(process: Process) -> bool:
    """End a command that outlived its loop, with its descendants. Returns whether there was one."""
    try:
        leader = psutil.Process(process.pid)
        if abs(leader.create_time() - process.born) > 1:
            return False
        mark = leader.environ().get(MARK, "")
    except psutil.Error:
        return False
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
        for process in alive:
            _signal(process.kill)
        psutil.wait_procs(alive, timeout=TERM_GRACE_SECONDS)
        killed.update(alive)


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
            if mark and process.environ().get(MARK) == mark:
                found[process.pid] = process
        except (psutil.Error, OSError):
            continue
    return [p for p in found.values() if p.pid != os.getpid()]


def _left_running(processes: list[psutil.Process]) -> tuple[str, ...]:
    """The names of those that do not end by themselves."""
    names = []
    for process in psutil.wait_procs(processes, timeout=LEAVING_SECONDS)[1] if processes else ():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                names.append(process.name())
    return tuple(sorted(name for name in names if name not in NOBODYS))


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _born(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return time.time()


def _signal(send: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.Error):
        send()
