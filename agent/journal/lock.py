"""One loop per workspace: a lock that is released when its process dies, and a note that names the holder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shlex
from collections.abc import Collection, Iterator
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
        raise _taken(other, state_folder / "lock")


def _taken(other: Holder | None, file: Path) -> PreconditionError:
    who = f"process {other.pid} (session {other.tag})" if other else "another process"
    if other is None:  # `stop` and `status` know none either
        hint = f"wait for its end; `lsof {shlex.quote(str(file))}` names the process"
    elif other.stops:
        hint = f"watch it with `{typed('status --follow')}`, or end it with `{typed('stop')}`"
    else:
        hint = f"wait for its end, or end it with `kill -INT {other.pid}`"
    return PreconditionError(f"a loop is already running in this workspace: {who}", hint=hint)


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
        beyond = _beyond_clean(git, state_folder) if git is not None and git.is_dir() else None  # a lock would make one
        if beyond is not None:
            stack.enter_context(_locked(beyond, state_folder, needed=False))
        me = None if tag is None else Holder(os.getpid(), psutil.Process().create_time(), tag, limits, stops)
        if tag is not None:
            # Without a loop, nobody can have asked this one to stop. From the note on, somebody can.
            stop_file(state_folder / "sessions" / tag / "journal.jsonl").unlink(missing_ok=True)
        # What is over in a moment needs no note, and may be what makes room on a full disk.
        stack.enter_context(_noted(_note(state_folder), me, () if stops else FULL))
        if beyond is not None:
            stack.enter_context(_noted(_note_beside(beyond), me, None))  # one is enough
        yield


def _beyond_clean(git: Path, state_folder: Path) -> Path:
    """Return the lock of a workspace in its .git folder, which may have several workspaces."""
    return git / f"autoresearch-lock-{hashlib.sha256(os.fsencode(state_folder.resolve())).hexdigest()[:12]}"


def _note_beside(beyond: Path) -> Path:
    """Return the note beside the lock in the .git folder, which is read if `loop.json` was deleted."""
    return beyond.with_suffix(".json")


def _git_folder(state_folder: Path) -> Path | None:
    """Return the .git folder that git finds from a workspace; None if there is none. Starts no process."""
    for parent in state_folder.resolve().parents:
        found = parent / ".git"
        if found.is_dir():
            return found
        if found.is_file():  # of a further working tree, or of a submodule
            named = os.fsdecode(read_bounded(found, LARGEST_NOTE)).removeprefix("gitdir:").strip()
            return (parent / named).resolve()
    return None


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
        raise _taken(holder(state_folder), file) from None
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
def _noted(note: Path, me: Holder | None, excused: Collection[int] | None) -> Iterator[None]:
    """Write the note that names this process, and remove it after the block.

    Args:
        me: this process; None to write none.
        excused: errors for which it is left out; None for all.
    """
    try:
        with _excused(excused):
            note.unlink(missing_ok=True)  # of one that was killed
            if me is not None:
                write_whole(note, json.dumps(asdict(me)), durable=False)
        yield
    finally:
        with _excused(excused):
            note.unlink(missing_ok=True)


@contextlib.contextmanager
def _excused(errors: Collection[int] | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if errors is not None and error.errno not in errors:
            raise


def holder(state_folder: Path) -> Holder | None:
    """Return the loop that is running now; None if none is."""
    found = _living(_note(state_folder), state_folder / "lock")
    if found is not None or not is_lost(state_folder):
        return found
    with contextlib.suppress(OSError):
        git = _git_folder(state_folder)
        beyond = None if git is None else _beyond_clean(git, state_folder)
        return None if beyond is None else _living(_note_beside(beyond), beyond)
    return None


def is_lost(state_folder: Path) -> bool:
    """Return whether the note of a running loop, if there is one, was deleted with its journal."""
    return not _note(state_folder).exists()


def _living(note: Path, lock: Path) -> Holder | None:
    """Return the loop of a note; None if the note is missing or not sound, or its process has ended."""
    try:
        found = Holder(**json.loads(read_bounded(note, LARGEST_NOTE)))
        if not isinstance(found.tag, str) or isinstance(found.pid, bool) or not isinstance(found.limits, dict | None):
            return None
        if not isinstance(found.stops, bool):
            return None
        process = psutil.Process(found.pid)
        # In a container, a killed process may stay a zombie.
        alive = process.status() != psutil.STATUS_ZOMBIE
        # Both times are those of the system's clock, which may have been set meanwhile.
        same = alive and (abs(process.create_time() - found.born) < 1 or _is_locked(lock))
    except (OSError, ValueError, TypeError, OverflowError, RecursionError, psutil.Error):
        return None
    return found if same else None


def _is_locked(file: Path) -> bool:
    with locked(file) as free:
        return not free


def _note(state_folder: Path) -> Path:
    return state_folder / "loop.json"
