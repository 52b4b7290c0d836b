"""Find or make the snapshot that a claim was measured on, without changing which one the user's sessions read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.claim.models import Data
from agent.errors import AutoresearchError, PreconditionError
from agent.format import counted
from agent.journal.paths import cache_folder
from agent.repository.workspace import Workspace
from agent.room.room import ENVIRONMENT
from agent.system import temporary
from agent.system.files import read_bounded, write_whole

VARIABLE = "AUTORESEARCH_CACHE"
LARGEST_RECORD = 2**20
MOST_SHARDS = 100  # of about 100 MB, that are fetched without being asked for by the user
WAIT_SECONDS = 1.0
KINDS = ("shards", "building", "requests", "snapshots", "holdouts", "sources")  # folders of a cache


def provide(
    wanted: Data | None, workspace: Workspace, say: Callable[[str], None], tick: Callable[[], None] = lambda: None
) -> None:
    """Make the snapshot of a claim unless it is in the cache.

    The user's current snapshot stays current. If there is none, the claim's becomes it.

    Args:
        wanted: the snapshot; None if runs need no prepared data.
        workspace: its HEAD has the `prepare.py` that makes a missing snapshot.
        tick: called while another `prepare.py` is waited for; may raise to end it.

    Raises:
        PreconditionError: the snapshot is missing and cannot be made here.
        AutoresearchError: the same preparation gives another snapshot.
    """
    if wanted is not None and _id(cache_folder() / "snapshots" / wanted.id[:12]) != wanted.id:
        _make(wanted, workspace, say, tick)


@contextlib.contextmanager
def reading(wanted: Data | None) -> Iterator[None]:
    """Let all runs of the block read a snapshot of the cache.

    If another one is current, they get a cache of their own that shares the files: other programs may be reading the
    current one.
    """
    cache = cache_folder()
    if wanted is None or _id(_current(cache)) == wanted.id:
        yield
        return
    name = wanted.id[:12]
    with tempfile.TemporaryDirectory(dir=cache, prefix="claim-", ignore_cleanup_errors=True) as folder:
        own = Path(folder)
        for kind in ("snapshots", "holdouts", "sources"):
            _share(cache / kind / name, own / kind / name)
        write_whole(own / "current", name)
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(own)
        try:
            yield
        finally:
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before


def _make(wanted: Data, workspace: Workspace, say: Callable[[str], None], tick: Callable[[], None]) -> None:
    """Prepare the data that the claim names, by its source only, and keep the user's snapshot current.

    Raises:
        PreconditionError: the data is a folder of the author's or all of a source, or its preparation fails.
        AutoresearchError: it gives another snapshot.
    """
    name = wanted.id[:12]
    if wanted.source == "folder":
        raise PreconditionError(
            f"the claim was measured on snapshot {name}, made from a folder of its author's",
            hint="prepare the same files with `uv run prepare.py --source DIR`, then run the same command again",
        )
    if wanted.source == "climbmix" and not 0 <= (wanted.num_shards or 0) <= MOST_SHARDS:
        count = "all" if wanted.num_shards == -1 else f"{wanted.num_shards:,}"
        flags = f"--source climbmix --num-shards {wanted.num_shards} --profile {wanted.profile}"
        raise PreconditionError(
            f"the claim was measured on snapshot {name}, made from {count} shards of climbmix of about 100 MB each, "
            "which are not fetched on a stranger's word",
            hint=f"prepare it with `uv run prepare.py {flags}`, then run the same command again",
        )
    shards = "" if wanted.num_shards is None else f", {counted(wanted.num_shards, 'training shard')}"
    say(f"preparing snapshot {name} from {wanted.source}{shards}")
    cache = cache_folder()
    with _locked(cache, say, tick), _beside(cache) as own:
        _run_prepare(wanted, workspace, own)
        made = _id(_current(own))
    if made != wanted.id:
        why = "the claim's snapshot was changed, or its source"
        raise AutoresearchError(f"the data prepared here has another id, {made[:12] or 'none'}: {why}")
    if not (cache / "current").exists():
        write_whole(cache / "current", name)


@contextlib.contextmanager
def _locked(cache: Path, say: Callable[[str], None], tick: Callable[[], None]) -> Iterator[None]:
    """Keep every other `prepare.py` out of a cache, as it does itself."""
    from filelock import FileLock, Timeout  # imported late: only a missing snapshot needs it

    cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache / "prepare.lock")
    waiting = False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=WAIT_SECONDS if waiting else 0)
        except Timeout:
            if not waiting:
                say(f"waiting for another prepare.py in {cache}")
            waiting = True
            tick()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _beside(cache: Path) -> Iterator[Path]:
    """Yield a cache that has everything in common with another one but what is current.

    That of the user's own is never changed, so a kill at any time leaves it as it was.
    """
    with tempfile.TemporaryDirectory(dir=cache, prefix="claim-", ignore_cleanup_errors=True) as folder:
        for kind in KINDS:
            (cache / kind).mkdir(exist_ok=True)
            (Path(folder) / kind).symlink_to((cache / kind).resolve(), target_is_directory=True)
        yield Path(folder)


def _run_prepare(wanted: Data, workspace: Workspace, cache: Path) -> None:
    choices = ["--source", wanted.source, "--profile", wanted.profile]
    if wanted.num_shards is not None:
        choices += ["--num-shards", str(wanted.num_shards)]
    with temporary.folder() as name:
        copy = workspace.export(Path(name))
        if not (copy / "prepare.py").is_file():
            raise PreconditionError(f"the data of the claim is missing, and {workspace.folder} has no prepare.py")
        own = workspace.folder / ENVIRONMENT / "bin" / "python"
        command = [str(own) if own.exists() else sys.executable, "prepare.py", *choices]
        env = {**os.environ, VARIABLE: str(cache)}
        done = subprocess.run(
            command, cwd=copy, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), check=False
        )
    if done.returncode != 0:
        raise PreconditionError(
            f"cannot prepare the data of the claim: prepare.py failed with exit code {done.returncode}",
            hint="fix the error shown above, then run the same command again",
        )


def _current(cache: Path) -> Path:
    try:
        return cache / "snapshots" / (cache / "current").read_text().strip()
    except OSError:
        return cache / "snapshots" / "none"


def _id(snapshot: Path) -> str:
    """Return the identifier in a snapshot's record; empty if it is missing."""
    try:
        found = json.loads(read_bounded(snapshot / "snapshot.json", LARGEST_RECORD)).get("id")
    except (OSError, ValueError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""


def _share(source: Path, target: Path) -> None:
    """Link the files of a folder, which are never written again, into another one; copy them where that fails."""
    if not source.is_dir():
        return
    target.mkdir(parents=True)
    for path in source.iterdir():
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copy2(path, target / path.name)
