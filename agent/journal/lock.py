"""One loop per workspace: a lock that is released when its process dies, and a note that names the holder."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from agent.errors import PreconditionError
from agent.system.files import read_bounded, write_whole
from agent.system.invocation import typed

LARGEST_NOTE = 4096


@dataclass(frozen=True)
class Holder:
    """The loop that runs in a workspace: its process and its session.

    Attributes:
        pid: process ID.
        born: start of the process, Unix time in seconds.
        limits: the limits of the session, as written by `limits.noted`; None if no session runs, as in a comparison.
    """

    pid: int
    born: float
    tag: str
    limits: dict[str, Any] | None = None


@contextlib.contextmanager
def hold(state_folder: Path, tag: str, limits: dict[str, Any] | None = None) -> Iterator[None]:
    """Hold the workspace's lock.

    Args:
        limits: the limits of the session, for other processes to show.

    Raises:
        PreconditionError: another process holds it; the message names that process.
    """
    from filelock import FileLock, Timeout  # imported late: commands that only read do not need it

    state_folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state_folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        other = holder(state_folder)
        who = f"process {other.pid} (session {other.tag})" if other else "another process"
        raise PreconditionError(
            f"a loop is already running in this workspace: {who}",
            hint=f"watch it with `{typed('status --follow')}`, or end it with `{typed('stop')}`",
        ) from None
    note = _note(state_folder)
    try:
        me = Holder(os.getpid(), psutil.Process().create_time(), tag, limits)
        write_whole(note, json.dumps(asdict(me)), durable=False)
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def holder(state_folder: Path) -> Holder | None:
    """Return the loop that is running now; None if none is."""
    try:
        found = Holder(**json.loads(read_bounded(_note(state_folder), LARGEST_NOTE)))
        if not isinstance(found.tag, str) or isinstance(found.pid, bool) or not isinstance(found.limits, dict | None):
            return None
        process = psutil.Process(found.pid)
        # In a container, a killed process may stay a zombie.
        alive = abs(process.create_time() - found.born) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, TypeError, OverflowError, RecursionError, psutil.Error):
        return None
    return found if alive else None


def _note(state_folder: Path) -> Path:
    return state_folder / "loop.json"
