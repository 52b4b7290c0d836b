"""Run a command under supervision: write its output to a log, limit its time, and kill its whole process tree."""

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

from agent.errors import AutoresearchError
from agent.execution.kill import MARK, Process, end_all, kin, start_of, watchdog

LARGEST_LOG = 64 * 2**20
LEAST_FREE = 16 * 2**20
# Seconds. Setting the wall clock moves it too, so a shorter jump does not count as a suspend.
SHORTEST_SLEEP = 10.0
POLL_SECONDS = 0.2
# Seconds. Processes that end within this time after the command do not count as leftovers.
LEAVING_SECONDS = 0.5
UNKILLABLE = "the run cannot be killed"
DYING_SECONDS = 60.0  # after SIGKILL, for a process that waits for a device or a file system
LARGEST_REPORT = 2**16
LOWEST_PRIORITY = 19


@dataclass(frozen=True)
class Ended:
    """The outcome of a command.

    Attributes:
        returncode: None if a limit ended the command.
        seconds: duration by the monotonic clock.
        stopped: which limit ended the command; None if none did.
        asleep: seconds for which the machine was suspended.
        left: names of the processes that were still running after the command and were killed.
        began: when it was started, by the monotonic clock.
    """

    returncode: int | None
    seconds: float
    stopped: str | None = None
    asleep: float = 0.0
    left: tuple[str, ...] = ()
    began: float = 0.0


@dataclass(frozen=True)
class Command:
    """A command to run.

    Attributes:
        arguments: of the process, or a function that returns them for a file descriptor, which receives the names of
            leftover processes, one per line.
        env: all environment variables, to which the mark that identifies its descendants is added.
        log: receives stdout and stderr.
        limit: seconds, without those for which the machine is suspended.
        gives_way: it works beside a run, and has the lowest priority.
        writes: folders in which it writes, besides that of its log, as far as they exist. Full disks end it.
    """

    arguments: Sequence[str] | Callable[[int], Sequence[str]]
    cwd: Path
    env: Mapping[str, str]
    log: Path
    limit: float
    gives_way: bool = False
    writes: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Observer:
    """Callbacks during a run. An exception from either ends the command.

    Attributes:
        started: called with the process.
        tick: called several times a second with the seconds so far.
    """

    started: Callable[[Process], None] = lambda _: None
    tick: Callable[[float], None] = lambda _: None


UNOBSERVED = Observer()
# The commands in progress that give way: mark -> process ID.
_giving_way: dict[str, int] = {}


def seconds_given_way() -> float:
    """Return the CPU time of the commands in progress that give way, with that of their ended children."""
    return sum(seconds_of(pid, mark) for mark, pid in [*_giving_way.items()])


def seconds_of(pid: int, mark: str = "") -> float:
    """Return the CPU time so far of a process and its kin, with that of their ended children."""
    total = 0.0
    for process in kin(pid, mark):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # user and system, its own and of its ended children
    return total


def run_command(command: Command, observer: Observer = UNOBSERVED, *, wall: Callable[[], float] = time.time) -> Ended:
    """Run a command in a new process session and kill its process tree before returning or raising.

    If this process dies during the run, its watchdog kills the process tree.

    Args:
        wall: a clock that continues while the machine is suspended.
    """
    mark = uuid.uuid4().hex
    told, report = os.pipe()
    try:
        with _new(command.log) as output:
            began, clock = time.monotonic(), wall()
            # Unlike that of `subprocess`, the `wait` of `psutil` does not poll, so the end of a run is noticed at once.
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
            log = os.dup(output.fileno())
    except BaseException:
        os.close(told)
        raise
    finally:
        os.close(report)
    returncode, stopped = None, None
    try:
        if command.gives_way:
            _give_way(process.pid)
            _giving_way[mark] = process.pid
        with watchdog(process.pid, mark):
            observer.started(Process(process.pid, _born(process), start_of(process.pid)))
            while stopped is None:
                try:
                    returncode = process.wait(timeout=POLL_SECONDS)
                    break
                except psutil.TimeoutExpired:
                    seconds = time.monotonic() - began
                    observer.tick(seconds)
                    stopped = _exceeded(seconds, command)
            stopped = stopped or _too_large(command.log)
            # The monotonic clock stops while the machine is suspended; the wall clock does not.
            seconds = time.monotonic() - began
            asleep = wall() - clock - seconds
            left = _left_running(kin(process.pid, mark)) + _read(told) if stopped is None else ()
            return Ended(
                returncode, seconds, stopped, asleep if asleep >= SHORTEST_SLEEP else 0.0, tuple(sorted(left)), began
            )
    finally:
        os.close(told)
        end_all(process.pid, mark)
        _put_right(log)
        _giving_way.pop(mark, None)
        _require_dead(process)


def _require_dead(process: psutil.Popen) -> None:
    try:
        process.wait(timeout=DYING_SECONDS)
    except psutil.TimeoutExpired:
        raise AutoresearchError(
            f"{UNKILLABLE} (pid {process.pid}): it waits for a device or a file system",
            hint="restart the machine, then run the same command again; the session continues from here",
        ) from None


def _give_way(pid: int) -> None:
    """Lower the priority of a command that has just started, and so of all processes that it will start."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, pid, LOWEST_PRIORITY)
    # Where the kernel schedules sessions as groups, a priority counts only within its group (sched(7), autogroup).
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(LOWEST_PRIORITY))


def _new(log: Path) -> BinaryIO:
    """Create a log in place of what is there: a link, or the log of a killed run, which may have closed it."""
    log.unlink(missing_ok=True)
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb")


def _put_right(log: int) -> None:
    """Undo what a command can do to its log by its standard output: forbid to read it, or make it endless. Close it."""
    with os.fdopen(log, "wb") as file:
        about = os.fstat(log)
        if about.st_mode & 0o600 != 0o600:
            os.fchmod(log, about.st_mode | 0o600)
        if about.st_size > LARGEST_LOG:
            file.truncate(LARGEST_LOG)


def _exceeded(seconds: float, command: Command) -> str | None:
    if seconds > command.limit:
        return f"timed out: killed after the hard limit of {command.limit:g} s"
    if too_large := _too_large(command.log):
        return too_large
    if shutil.disk_usage(command.log.parent).free < LEAST_FREE or any(map(_is_full, command.writes)):
        return "killed: it filled the disk"
    return None


def share_of(total: int, least: int) -> int:
    """Return the bytes that must be free on a disk: `least`, or a tenth of a small disk."""
    return min(least, total // 10)


def _is_full(folder: Path) -> bool:
    """Return whether the disk of a folder in which something was written is full."""
    try:
        with os.scandir(folder) as entries:
            used = next(entries, None) is not None
        about = shutil.disk_usage(folder)
    except OSError:  # it is not there, or not for us to read
        return False
    return used and about.free < share_of(about.total, LEAST_FREE)


def _too_large(log: Path) -> str | None:
    return f"killed: its log grew beyond {LARGEST_LOG // 2**20} MiB" if log.stat().st_size > LARGEST_LOG else None


def _read(told: int) -> tuple[str, ...]:
    """Return the names that the command's supervisor has reported so far, without waiting for more."""
    os.set_blocking(told, False)
    with contextlib.suppress(BlockingIOError):
        return tuple(os.read(told, LARGEST_REPORT).decode(errors="replace").splitlines())
    return ()


def _left_running(processes: list[psutil.Process]) -> tuple[str, ...]:
    """Return the names of the processes that do not end by themselves."""
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
