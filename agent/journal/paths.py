"""Paths of the program's state: `.autoresearch/` in the workspace, ignored by git, and the caches of the machine."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

from agent.errors import PreconditionError
from agent.format import named
from agent.journal.experiment import Run
from agent.system.files import Unusable, read_bounded
from agent.system.git_variables import without_others
from agent.system.invocation import git_here, here, program, typed
from agent.system.names import PROTOCOL, STATE
from agent.system.shielded import run_shielded

GIT_SECONDS = 30
MOST_NAMED = 3
# A tag names files: a folder, and a ref with its lock, for which a branch pattern and git need some of the 255 bytes.
LONGEST_TAG = 250
LONGEST_NUMBER = 9  # digits at the end of a tag
BASELINE, LARGEST_BASELINE = "baseline.json", 2**22  # the runs of the latest baseline, beside their logs; bytes
NOT_TRUSTED = "dubious ownership"  # as in git's error message


def workspace_of(folder: Path) -> Path:
    """Return the workspace that contains `folder`: the nearest parent with a protocol.json, within its repository.

    Returns `folder` itself if no parent has one.
    """
    with contextlib.suppress(OSError):  # the current folder may be deleted: the command reports that
        whole = folder.resolve()
        for place in (whole, *whole.parents):
            if (place / PROTOCOL).exists():
                return folder if place == whole else place
            if (place / ".git").exists():
                break
    return folder


def home_folder() -> Path:
    """Return the user's home folder.

    Raises:
        PreconditionError: the user has none, as in some containers.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise PreconditionError(
            "this user has no home folder and HOME is not set",
            hint="set HOME to a writable folder, such as `export HOME=/tmp/home`, then run the same command again",
        ) from None


def cache_folder() -> Path:
    """Return the folder of prepared data, absolute.

    Raises:
        PreconditionError: this user has no home folder, or AUTORESEARCH_CACHE names that of an unknown one.
    """
    given = os.environ.get("AUTORESEARCH_CACHE")
    if not given:
        return home_folder() / ".cache" / "autoresearch"
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError:
        raise PreconditionError(
            f"AUTORESEARCH_CACHE={given}: the home folder of {given.partition('/')[0]} is unknown",
            hint="set AUTORESEARCH_CACHE to an absolute path",
        ) from None


def pin_cache() -> None:
    """Make AUTORESEARCH_CACHE absolute for the processes that this one starts, whose working directories differ."""
    if os.environ.get("AUTORESEARCH_CACHE"):
        with contextlib.suppress(PreconditionError, OSError):  # reported by what needs the folder
            os.environ["AUTORESEARCH_CACHE"] = str(cache_folder())


def cache_places() -> tuple[Path, ...]:
    """Return the paths at which a room could show the cache: as it is named, and without links.

    If it is a link itself, only what it leads to can be hidden.
    """
    named, real = cache_folder().absolute(), cache_folder().resolve()
    return (real,) if named.is_symlink() else tuple(dict.fromkeys((named, real)))


def stations_folder() -> Path:
    """Return the folder of what the stations of this machine keep: clones and answers.

    It stands beside the cache, because runs of other harnesses see the whole cache, and set-up commands write to it. A
    clone shows the history of its repository, and git executes what the clone's configuration names.
    """
    cache = Path(os.path.realpath(cache_folder()))
    return cache.parent / f"{cache.name}-stations"


def layers_folder() -> Path | None:
    """Return the folder for the writes of rooms that the folder for temporary files cannot hold; None without a home.

    It stands beside the cache, which other rooms see.
    """
    with contextlib.suppress(PreconditionError):
        cache = Path(os.path.realpath(cache_folder()))
        return cache.parent / f"{cache.name}-layers"
    return None


def state_folder(workspace: Path) -> Path:
    return workspace / STATE


def journal_path(workspace: Path, tag: str) -> Path:
    return state_folder(workspace) / "sessions" / tag / "journal.jsonl"


def experiment_folder(journal: Path, number: int) -> Path:
    return journal.parent / "experiments" / f"{number:04d}"


def candidate_ref(tag: str, number: int) -> str:
    """Return the ref that keeps the commit of an experiment as it was measured."""
    return f"refs/autoresearch/{tag}/{number}"


def flight_ref(tag: str, candidate: int) -> str:
    """Return the ref that keeps the commit of a candidate as stations measured it."""
    return f"refs/autoresearch/{tag}/candidates/{candidate}"


def commits_ref(tag: str, commit: str) -> str:
    """Return the ref that keeps commits which a person made on the session's branch and `try` took as an edit."""
    return f"refs/autoresearch/{tag}/commits/{commit[:12]}"


def head_ref(tag: str) -> str:
    """Return the ref that keeps the next commit of the session's branch until the branch has moved there."""
    return f"refs/autoresearch/{tag}/head"


def adopted_ref(tag: str) -> str:
    """Return the ref that keeps the commit of `adopt` until the user's branch has it."""
    return f"refs/autoresearch/{tag}/adopted"


def stop_file(journal: Path) -> Path:
    """Return the file whose existence asks the loop to stop after the current experiment."""
    return journal.with_name("stop")


def tags_of(workspace: Path) -> list[str]:
    """Return the tags of the sessions, the most recently active last."""
    journals = (state_folder(workspace) / "sessions").glob("*/journal.jsonl")
    return [path.parent.name for path in sorted(journals, key=lambda path: path.lstat().st_mtime)]


def find_session(workspace: Path, tag: str | None) -> str:
    """Return the tag of the requested session, by default of the most recently active one.

    Args:
        tag: the requested tag; None for the most recently active session.

    Raises:
        PreconditionError: the session does not exist, or the state folder came with the repository.
    """
    tags = tags_of(workspace)
    if not tags:
        start, other = f"start one with `{typed('run --tag NAME')}`", _in_another_working_tree(workspace)
        if not (workspace / PROTOCOL).exists():
            start = f"change to a workspace or name one with -C; `{typed('init')}` writes {PROTOCOL}"
        see = f", or see those in {other} with `{program()} -C {shlex.quote(str(other))} sessions`" if other else ""
        raise PreconditionError(f"no sessions in {workspace}", hint=start + see)
    require_own_state(workspace)
    if tag is None:
        return tags[-1]
    if tag not in tags:
        raise PreconditionError(
            f"unknown session '{tag}' in {workspace}", hint=f"choose from {', '.join(sorted(tags))}"
        )
    return tag


def _in_another_working_tree(workspace: Path) -> Path | None:
    """Return the same workspace in another working tree of its repository, if it has sessions there."""
    env = without_others(os.environ)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired, ValueError):
        asked = (["rev-parse", "--show-prefix"], ["worktree", "list", "--porcelain"])
        prefix, listed = (
            os.fsdecode(run_shielded(["git", *ask], cwd=workspace, env=env, timeout=GIT_SECONDS).stdout)
            for ask in asked
        )
        for line in listed.split("\n"):  # git 2.36 and later know -z
            place = Path(line.removeprefix("worktree ")) / prefix.removesuffix("\n")
            if line.startswith("worktree ") and tags_of(place):
                return place
    return None


def is_tag(text: str) -> bool:
    """Return whether a text can be the tag of a session, which names a folder and a part of refs."""
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text) is not None and len(text) <= LONGEST_TAG
    return plain and not text.endswith((".", ".lock")) and ".." not in text


def next_tag(workspace: Path, tag: str) -> str:
    """Return a tag for the session after this one that no session has: mar6 after mar5, night-2 after night."""
    stem = tag.rstrip("0123456789")
    digits = tag.removeprefix(stem)[-LONGEST_NUMBER:]
    stem = tag.removesuffix(digits) if digits else f"{tag}-"
    numbers = itertools.count(int(digits or 1) + 1)
    tags = (f"{stem}{number:0{len(digits)}d}" for number in numbers)
    return next(each for each in tags if not journal_path(workspace, each).exists())


def not_trusted(folder: Path) -> PreconditionError:
    """Return the error for a repository that belongs to another user, which git refuses to read."""
    trust = f"git config --global --add safe.directory {shlex.quote(str(folder))}"
    return PreconditionError(
        f"git refuses to read {folder}, which belongs to another user ({NOT_TRUSTED})",
        hint=f"if you trust the repository, run `{trust}`, then the same command again",
    )


def came_with_the_repository(workspace: Path) -> list[str]:
    """Return the files of the state folder that git tracks: journals, prices and baselines of another user.

    Returns:
        Paths relative to the workspace; empty without git or without a repository.

    Raises:
        PreconditionError: git refuses to read the repository.
    """
    # The user's configuration lists the folders that git trusts. LC_ALL=C makes git report errors in English.
    env = {**without_others(os.environ), "LC_ALL": "C"}
    ask = ["git", "-c", "core.fsmonitor=false", "ls-files", "-z", "--", f":(icase){STATE}"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = run_shielded(ask, cwd=workspace, env=env, timeout=GIT_SECONDS)
        if NOT_TRUSTED.encode() in done.stderr:
            raise not_trusted(workspace)
        return [name.decode(errors="replace") for name in done.stdout.split(b"\0") if name]
    return []


def require_own_state(workspace: Path) -> None:
    """Refuse state that came with the repository: it cannot be trusted.

    Raises:
        PreconditionError: git tracks files of the state folder.
    """
    names = came_with_the_repository(workspace)
    if names:
        raise PreconditionError(
            f"git tracks {named(names, MOST_NAMED)}, and journals, prices and baselines that come with a "
            "repository are not trusted",
            hint=f"run `{git_here(workspace)} rm -r --cached {here(workspace / STATE)}`, commit, and move the folder "
            "away",
        )


def own_log(workspace: Path, log: str, artifact: str | None = None) -> Path:
    """Return the path of a log that a journal names.

    Args:
        log: the path in the journal.
        artifact: the protocol's path of the baseline's log, relative to the workspace.

    Raises:
        Unusable: the log is neither in the state folder nor the baseline's.
    """
    path, state = Path(log), state_folder(workspace)
    try:
        folder, top = path.parent.resolve(), state.resolve()
        if artifact and folder == (workspace / artifact).parent.resolve():
            if path.name.startswith(Path(artifact).stem):
                return path
        elif not folder.is_relative_to(top):
            # The workspace was moved or copied: use the same log in this one.
            path = state / log.rpartition(f"/{STATE}/")[2]
            folder = path.parent.resolve()
        if f"/{STATE}/" in log and folder.is_relative_to(top):
            return path
    except (OSError, RuntimeError, ValueError):
        pass
    raise Unusable("is not a log of this workspace", log)


def log_of(workspace: Path, artifact: str | None, run: Run) -> Path | None:
    """Return the path of a run's log; None if it has none, or one that is outside of the workspace or overwritten.

    Args:
        artifact: the protocol's path of the baseline's log, relative to the workspace.
        run: of any experiment.
    """
    if not run.log or is_overwritten(workspace, artifact, run):
        return None
    try:
        return own_log(workspace, run.log, artifact)
    except Unusable:
        return None


def is_overwritten(workspace: Path, artifact: str | None, run: Run) -> bool:
    """Return whether the log of a baseline's run now holds a later one: all sessions write to the same path.

    Args:
        artifact: the protocol's path of the baseline's log, relative to the workspace.
        run: of any experiment.
    """
    if not artifact or not run.log:
        return False
    log, first = Path(run.log), workspace / artifact
    if not log.name.startswith(first.stem):
        return False
    try:
        if log.parent.resolve() != first.parent.resolve():
            return False
        known = json.loads(read_bounded(first.with_name(BASELINE), LARGEST_BASELINE))["runs"]
        same = [(run.log, run.seconds, run.metric) == (each["log"], each["seconds"], each["metric"]) for each in known]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return True
    return not any(same)
