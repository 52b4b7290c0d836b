"""A command under supervision: its output in a log, its time limited, and nobody of its kin left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil

from agent.execution.kill import MARK, Process, end_all, kin, watchdog

LARGEST_LOG = 64 * 2**20
LEAST_FREE = 16 * 2**20
# The wall clock also moves when it is set; what is less than this is no suspend.
SHORTEST_SLEEP = 10.0
POLL_SECONDS = 0.2
# What a command has started may end a moment after it without being left behind.
LEAVING_SECONDS = 0.5
LARGEST_REPORT = 2**16


@dataclass(frozen=True)
class Ended:
    """returncode is None where a limit ended the command, which `stopped` then names. asleep: seconds of suspend.

    left: the names of the processes that went on after the command had finished, and were ended. began: when it was
    started, by the monotonic clock.
    """

    returncode: int | None
    seconds: float
    stopped: str | None = None
    asleep: float = 0.0
    left: tuple[str, ...] = ()
    began: float = 0.0


@dataclass(frozen=True)
class Command:
    """What to run. arguments: of the process, or a function that gives them for a descriptor, which is told by lines
    what was left running. env: all that it sees of the environment, besides the mark by which its descendants are
    known. log: stdout and stderr. limit: seconds awake.
    """

    arguments: Sequence[str] | Callable[[int], Sequence[str]]
    cwd: Path
    env: Mapping[str, str]
    log: Path
    limit: float


@dataclass(frozen=True)
class Observer:
    """Who watches a run. started: is told the process; tick: the seconds so far, several times a second.

    Whatever either raises ends the command.
    """

    started: Callable[[Process], None] = lambda _: None
    tick: Callable[[float], None] = lambda _: None


NOBODY = Observer()


def run_command(command: Command, observer: Observer = NOBODY, *, wall: Callable[[], float] = time.time) -> Ended:
    """Run a command in a session of its own.

    When this returns or raises, the command and all its descendants are gone; and if this process dies before, they go
    with it. wall: the clock that goes on while the machine sleeps.
    """
    mark = uuid.uuid4().hex
    told, report = os.pipe()
    try:
        with _new(command.log) as output:
            began, clock = time.monotonic(), wall()
            # Unlike that of `subprocess`, its `wait` does not look again and again: a run's end is seen at once.
            process = psutil.Popen(
                command.arguments(report) if callable(command.arguments) else command.arguments,
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**command.env, MARK: mark},
                pass_fds=(report,),
            )
    except BaseException:
        os.close(told)
        raise
    finally:
        os.close(report)
    returncode, stopped = None, None
    try:
        with watchdog(process.pid, mark):
            observer.started(Process(process.pid, _born(process)))
            while stopped is None:
                try:
                    returncode = process.wait(timeout=POLL_SECONDS)
                    break
                except psutil.TimeoutExpired:
                    seconds = time.monotonic() - began
                    observer.tick(seconds)
                    stopped = _exceeded(seconds, command.limit, command.log)
            # The monotonic clock stands still while the machine sleeps, the wall clock does not.
            seconds = time.monotonic() - began
            asleep = wall() - clock - seconds
            left = _left_running(kin(process.pid, mark)) + _read(told) if stopped is None else ()
            return Ended(
                returncode, seconds, stopped, asleep if asleep >= SHORTEST_SLEEP else 0.0, tuple(sorted(left)), began
            )
    finally:
        os.close(told)
        end_all(process.pid, mark)
        process.wait()


def _new(log: Path) -> BinaryIO:
    """A log is a plain file: what a link at its place leads to is somebody's."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.fdopen(os.open(log, flags, 0o644), "wb")


def _exceeded(seconds: float, limit: float, log: Path) -> str | None:
    if seconds > limit:
        return f"timed out: killed after the hard limit of {limit:g} s"
    if log.stat().st_size > LARGEST_LOG:
        return f"killed: its log grew beyond {LARGEST_LOG // 2**20} MiB"
    if shutil.disk_usage(log.parent).free < LEAST_FREE:
        return "killed: it filled the disk"
    return None


def _read(told: int) -> tuple[str, ...]:
    """What the command's supervisor has told; a process that kept the other end open tells no more."""
    os.set_blocking(told, False)
    with contextlib.suppress(BlockingIOError):
        return tuple(os.read(told, LARGEST_REPORT).decode(errors="replace").splitlines())
    return ()


def _left_running(processes: list[psutil.Process]) -> tuple[str, ...]:
    """The names of those that do not end by themselves."""
    names = []
    for process in psutil.wait_procs(processes, timeout=LEAVING_SECONDS)[1] if processes else ():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                names.append(process.name())
    return tuple(names)


def _born(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.Error:
        return time.time()
