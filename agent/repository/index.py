"""The lock and the entries of git's index, and temporary folders in .git that a kill cannot leave there for ever."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.repository.git import Git
from agent.system.files import locked

SCRATCH = "autoresearch-"  # how the names of temporary folders in .git begin
INDEX, INDEX_LOCK = "index", "index.lock"
HELD = "held"  # the file in a temporary folder that its process locks, and that the lock of the index is linked to
# How long another git may hold the lock of the index. One that was killed holds it for ever, and must not end a night.
LOCK_SECONDS, LOCK_POLL = 10.0, 0.05


@contextlib.contextmanager
def scratch_folder(git: Git) -> Iterator[Path]:
    """Make a temporary folder in .git, which `sweep` leaves alone while this process lives."""
    for last in (False, False, True):
        folder = tempfile.TemporaryDirectory(dir=git.folder, prefix=SCRATCH)
        with folder as name, _locked(Path(name) / HELD) as is_ours:
            # Else another process was about to sweep it, or the disk knows no locks.
            if is_ours or last:
                yield Path(name)
                return


def sweep(git: Git) -> None:
    """Remove the temporary folders, and the lock of the index, that a killed process has left in .git.

    Those of a living process stay: a repository may hold several workspaces.
    """
    for left in git.folder.glob(f"{SCRATCH}*"):
        with _locked(left / HELD) as is_ours:
            if not is_ours:
                continue
            with contextlib.suppress(OSError):  # most had no lock
                if (left / HELD).samefile(git.folder / INDEX_LOCK):
                    (git.folder / INDEX_LOCK).unlink()
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def holding_index(git: Git, scratch: Path) -> Iterator[None]:
    """Hold the lock of the index as git does (git-add(1) takes it, too), so that nothing staged meanwhile is lost.

    If another git holds it for longer than LOCK_SECONDS, the block runs without.

    Args:
        scratch: a temporary folder of this call. The lock is linked to a file there, by which `sweep` knows it.
    """
    own, lock = scratch / HELD, git.folder / INDEX_LOCK
    own.touch()  # a disk that knows no locks has made none
    deadline, held = time.monotonic() + LOCK_SECONDS, False
    while not held and time.monotonic() < deadline:
        try:
            lock.hardlink_to(own)
            held = True
        except FileExistsError:
            time.sleep(LOCK_POLL)
        except OSError:
            break  # a file system without hard links
    try:
        yield
    finally:
        if held:
            lock.unlink(missing_ok=True)


def index_with(git: Git, scratch: Path, entries: Mapping[str, tuple[str, str] | None], digits: int) -> Path:
    """Write a copy of the index with these entries changed, and return its path.

    Args:
        scratch: the temporary folder that it is written to.
        entries: mode and blob by path; None removes the entry.
        digits: the length of a hash in this repository.
    """
    changed = scratch / INDEX
    with contextlib.suppress(FileNotFoundError):
        changed.write_bytes((git.folder / INDEX).read_bytes())
    said = "".join(
        f"{entry[0]} {entry[1]}\t{path}\0" if entry else f"0 {'0' * digits}\t{path}\0"
        for path, entry in entries.items()
    )
    if said:
        env = {"GIT_INDEX_FILE": str(changed)}
        flags = _flags(git, entries)
        git.fed(["update-index", "-z", "--index-info"], os.fsencode(said), env)
        for flag, paths in flags.items():  # of the last of several options only, git reads the paths
            if paths:
                said = "".join(f"{path}\0" for path in paths)
                git.fed(["update-index", "-z", f"--{flag}", "--stdin"], os.fsencode(said), env)
    return changed


def _flags(git: Git, entries: Mapping[str, tuple[str, str] | None]) -> dict[str, list[str]]:
    """Return those of the paths that the user has told git to leave alone, by the flag; a new entry would lose it."""
    listed = (line.split(" ", 1) for line in git.lines("ls-files", "-v", "-z"))
    tags = {path: tag for tag, path in listed if entries.get(path) is not None}
    return {
        "skip-worktree": [path for path, tag in tags.items() if tag in "Ss"],
        "assume-unchanged": [path for path, tag in tags.items() if tag.islower()],
    }


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[bool]:
    """Lock a file as `locked` does. That of a disk without locks is never free."""
    with contextlib.ExitStack() as stack:
        free = False
        with contextlib.suppress(OSError):
            free = stack.enter_context(locked(file))
        yield free
