"""One loop per workspace: a lock that is released when its process dies, and a note that names the holder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from agent.errors import FULL, AutoresearchError, PreconditionError
from agent.journal.paths import stop_file
from agent.system.files import locked, read_bounded, write_whole
from agent.system.invocation import typed

LARGEST_NOTE = 4096
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
MOMENT = 0.5  # seconds


@dataclass(frozen=True)
class Holder:
    """The loop that runs in a workspace: its process and its session.

    Attributes:
        pid: process ID.
        born: start of the process, Unix time in seconds.
        limits: the limits of the session, as written by `limits.noted`; None if no session runs, as in a comparison.
        stops: whether it stops after its current run if `autoresearch stop` asks for that.
    """

    pid: int
    born: float
    tag: str
    limits: dict[str, Any] | None = None
    stops: bool = True


def require_free(state_folder: Path) -> None:
    """Raise PreconditionError if another process holds the workspace's lock."""
    other = holder(state_folder)
    if other is not None and other.pid != os.getpid():
        raise _taken(other)


def _taken(other: Holder | None) -> PreconditionError:
    who = f"process {other.pid} (session {other.tag})" if other else "another process"
    return PreconditionError(
        f"a loop is already running in this workspace: {who}",
        hint=f"watch it with `{typed('status --follow')}`, or end it with `{typed('stop')}`"
        if other is None or other.stops
        else f"wait for its end, or end it with `kill -INT {other.pid}`",
    )


@contextlib.contextmanager
def hold(
    state_folder: Path,
    tag: str | None,
    limits: dict[str, Any] | None = None,
    *,
    git: Path | None = None,
    stops: bool = True,
) -> Iterator[None]:
    """Hold the workspace's lock.

    Args:
        git: the .git folder of the workspace, which `git clean` leaves alone; None to lock only the state folder.
        tag: the session for other processes to show; None if this process works on none.
        limits: the limits of the session, for other processes to show.
        stops: as for `Holder`.

    Raises:
        PreconditionError: another process holds it; the message names that process.
        AutoresearchError: the disk of the workspace has no locks.
    """
    with contextlib.ExitStack() as stack:
        state_folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_locked(state_folder / "lock", state_folder))  # the only one that earlier versions know
        if git is not None:
            stack.enter_context(_locked(_beyond_clean(git, state_folder), state_folder, needed=False))
        stack.enter_context(_noted(state_folder, tag, limits, stops=stops))
        yield


def _beyond_clean(git: Path, state_folder: Path) -> Path:
    """Return the lock of a workspace in its .git folder, which may have several workspaces."""
    return git / f"autoresearch-lock-{hashlib.sha256(os.fsencode(state_folder.resolve())).hexdigest()[:12]}"


@contextlib.contextmanager
def _locked(file: Path, state_folder: Path, *, needed: bool = True) -> Iterator[None]:
    """Lock a file. Raises as `hold` does.

    Args:
        needed: whether to fail if the file cannot be written.
    """
    from filelock import FileLock, Timeout  # imported late: commands that only read do not need it

    lock = FileLock(file)
    try:
        lock.acquire(timeout=MOMENT)  # `_is_locked` of another process holds it that long at most
    except Timeout:
        raise _taken(holder(state_folder)) from None
    except OSError as error:
        if needed and error.errno not in NO_LOCKS:
            raise
        if needed:
            raise AutoresearchError(
                f"cannot lock {file}: its disk has no locks, without which two loops could run at once",
                hint="move the workspace to a local disk, or mount the network disk with locks",
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _noted(state_folder: Path, tag: str | None, limits: dict[str, Any] | None, *, stops: bool) -> Iterator[None]:
    """Write the note that names this process, and remove it after the block. Arguments as for `hold`."""
    note = _note(state_folder)
    try:
        note.unlink(missing_ok=True)  # of one that was killed
        if tag is not None:
            # Without a loop, nobody can have asked this one to stop. From the note on, somebody can.
            stop_file(state_folder / "sessions" / tag / "journal.jsonl").unlink(missing_ok=True)
            me = Holder(os.getpid(), psutil.Process().create_time(), tag, limits, stops)
            try:
                write_whole(note, json.dumps(asdict(me)), durable=False)
            except OSError as error:
                # What is over in a moment needs no note, and may be what makes room on a full disk.
                if stops or error.errno not in FULL:
                    raise
        yield
    finally:
        note.unlink(missing_ok=True)


def holder(state_folder: Path) -> Holder | None:
    """Return the loop that is running now; None if none is."""
    try:
        found = Holder(**json.loads(read_bounded(_note(state_folder), LARGEST_NOTE)))
        if not isinstance(found.tag, str) or isinstance(found.pid, bool) or not isinstance(found.limits, dict | None):
            return None
        if not isinstance(found.stops, bool):
            return None
        process = psutil.Process(found.pid)
        # In a container, a killed process may stay a zombie.
        alive = process.status() != psutil.STATUS_ZOMBIE
        # Both times are those of the system's clock, which may have been set meanwhile.
        same = alive and (abs(process.create_time() - found.born) < 1 or _is_locked(state_folder))
    except (OSError, ValueError, TypeError, OverflowError, RecursionError, psutil.Error):
        return None
    return found if same else None


def _is_locked(state_folder: Path) -> bool:
    with locked(state_folder / "lock") as free:
        return not free


def _note(state_folder: Path) -> Path:
    return state_folder / "loop.json"
