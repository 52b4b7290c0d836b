"""Run git on what a stranger has sent: bounded in time, memory and output, and ended by a Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

from agent.errors import AutoresearchError
from agent.repository.git import GIT, Git, GitFailed, reason_of

LOOK_SECONDS, END_SECONDS = 0.1, 5.0
LONGEST_SAID = 2**20  # bytes
# What git says if it cannot allocate. That a part of it died is no sign: it says so of any fault of a bundle.
OUT_OF_MEMORY = re.compile(r"[Oo]ut of memory|[Cc]annot allocate memory")
# A part of git that this machine, and not what it read, has ended: run-command.c.
DIED = re.compile(r"\bdied of signal (\d+)")
# One thread and small windows, so that the limit on the address space is one on what the objects take.
SMALL = ("pack.threads=1", "core.packedGitWindowSize=32m", "core.packedGitLimit=256m")
# macOS has no such limit: there the time is the only one.
LIMITED = ("sh", "-c", 'ulimit -v "$0" 2>/dev/null; exec "$@"')


class TooMuch(AutoresearchError):
    """Git took longer or more memory than it may. `str` gives the clause: "takes longer than 60 s"."""


class TooLong(AutoresearchError):
    """Git said more than it may."""


@dataclass(frozen=True)
class Bounds:
    """What git may take.

    Attributes:
        seconds: the time.
        memory: MiB of address space for each of its processes; None for no limit.
        tick: called while git runs; may raise to end it.
        most: bytes of output.
    """

    seconds: float
    memory: int | None = 2048
    tick: Callable[[], None] = lambda: None
    most: int = LONGEST_SAID


def run_bounded(git: Git, args: list[str], bounds: Bounds, env: Mapping[str, str] | None = None) -> bytes:
    """Run git and return what it prints on both of its streams.

    Raises:
        GitFailed: git has run and failed; the message is its own.
        TooMuch: a bound of time or memory was reached.
        TooLong: that of its output was.
        AutoresearchError: git could not be started.
    """
    small = [part for setting in SMALL for part in ("-c", setting)]
    limited = () if bounds.memory is None else (*LIMITED, str(bounds.memory * 2**10))
    try:
        process = subprocess.Popen(
            [*limited, *GIT, *small, *args],
            cwd=git.top,
            env=git.environment(**(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C of the terminal ends it by way of `tick` alone
        )
    except OSError as error:
        raise AutoresearchError(f"cannot start git in {git.top}: {error.strerror}") from None
    with process:
        try:
            assert process.stdout is not None
            said = _said(process.stdout, bounds)
            process.wait()
        except BaseException:
            _end(process)
            raise
    if process.returncode != 0:
        words = " ".join(said.decode(errors="replace").split())
        if bounds.memory is not None and OUT_OF_MEMORY.search(words):
            raise TooMuch(f"takes more than {bounds.memory:,} MiB of memory")
        killed = -process.returncode if process.returncode < 0 else next(map(int, DIED.findall(words)), 0)
        if killed:
            raise TooMuch(f"takes more than git gets on this machine (ended by signal {killed})")
        why, hint = reason_of(words, process.returncode)
        raise GitFailed(f"`git {' '.join(args[:2])}` failed in {git.top}: {why}", process.returncode, hint=hint)
    return said


def _said(stream: IO[bytes], bounds: Bounds) -> bytes:
    """Return all output, until its end."""
    deadline = time.monotonic() + bounds.seconds
    parts: list[bytes] = []
    size = 0
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            bounds.tick()
            if time.monotonic() > deadline:
                raise TooMuch(f"takes longer than {bounds.seconds:.0f} s")
            if not selector.select(LOOK_SECONDS):
                continue
            part = os.read(stream.fileno(), 2**16)
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
            if size > bounds.most:
                raise TooLong(f"git said more than {bounds.most:,} bytes")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End git and what it has started. On SIGTERM it removes its locks."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(OSError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
