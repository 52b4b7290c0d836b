"""Where the program keeps what it knows: `.autoresearch/` in the workspace, ignored by git."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from pathlib import Path

from agent.errors import PreconditionError
from agent.format import one_line
from agent.system.files import Unusable
from agent.system.invocation import typed
from agent.system.names import PROTOCOL, STATE

GIT_SECONDS = 30
GIT_CONFIGURED = ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_SYSTEM")
MOST_NAMED = 3
NOT_TRUSTED = "dubious ownership"  # git's own words


def workspace_of(folder: Path) -> Path:
    """Return the workspace that `folder` lies in: the nearest with a protocol.json, up to the top of its repository.

    `folder` itself where none has one.
    """
    with contextlib.suppress(OSError):  # the current folder may be gone: the command itself says so
        whole = folder.resolve()
        for place in (whole, *whole.parents):
            if (place / PROTOCOL).exists():
                return folder if place == whole else place
            if (place / ".git").exists():
                break
    return folder


def home_folder() -> Path:
    """Return the person's home folder. Raises PreconditionError for a user who has none, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        raise PreconditionError(
            "this user has no home folder and HOME is not set: name one that may be written to, as in "
            "`export HOME=/tmp/home`, then run again"
        ) from None


def state_folder(workspace: Path) -> Path:
    return workspace / STATE


def journal_path(workspace: Path, tag: str) -> Path:
    return state_folder(workspace) / "sessions" / tag / "journal.jsonl"


def experiment_folder(journal: Path, number: int) -> Path:
    return journal.parent / "experiments" / f"{number:04d}"


def stop_file(journal: Path) -> Path:
    """Its existence asks the session's loop to end after the experiment under way."""
    return journal.with_name("stop")


def find_session(workspace: Path, tag: str | None) -> str:
    """The tag that is meant: the one named, or the session that was last worked on.

    Raises PreconditionError where there is none, or where it came with the repository.
    """
    journals = sorted(
        (state_folder(workspace) / "sessions").glob("*/journal.jsonl"), key=lambda path: path.lstat().st_mtime
    )
    if journals:
        require_own_state(workspace)
    tags = [path.parent.name for path in journals]
    if not tags:
        raise PreconditionError(f"there is no session in {workspace} yet: start one with `{typed('run --tag NAME')}`")
    if tag is None:
        return tags[-1]
    if tag not in tags:
        raise PreconditionError(f"there is no session {tag} in {workspace}; there is {', '.join(sorted(tags))}")
    return tag


def not_trusted(folder: Path) -> PreconditionError:
    """Return the error for a repository of another user, in which git reads nothing."""
    mend = f"git config --global --add safe.directory {shlex.quote(str(folder))}"
    return PreconditionError(
        f"git reads nothing in {folder}, which belongs to another user ({NOT_TRUSTED}): if you trust it, run "
        f"`{mend}`, then the same command again"
    )


def came_with_the_repository(workspace: Path) -> list[str]:
    """What git keeps of the state folder, relative to the workspace: somebody else's journals, prices and baselines.

    Empty where there is no git, or no repository. Raises PreconditionError where git reads nothing in it.
    """
    # Nothing of the environment takes part but the person's configuration, which says whom git trusts; its errors are
    # in English.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in GIT_CONFIGURED}
    env["LC_ALL"] = "C"
    ask = ["git", "-c", "core.fsmonitor=false", "ls-files", "-z", "--", f":(icase){STATE}"]
    quiet = subprocess.DEVNULL
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            ask, cwd=workspace, env=env, stdin=quiet, capture_output=True, timeout=GIT_SECONDS, check=False
        )
        if NOT_TRUSTED.encode() in done.stderr:
            raise not_trusted(workspace)
        return [name.decode(errors="replace") for name in done.stdout.split(b"\0") if name]
    return []


def require_own_state(workspace: Path) -> None:
    """Raises PreconditionError where the state came with the repository: nothing in it is believed."""
    names = [one_line(name) for name in came_with_the_repository(workspace)]
    if names:
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        raise PreconditionError(
            f"git tracks {', '.join(names[:MOST_NAMED])}{more}: journals, prices and baselines that came with a "
            f"repository are not believed; run `git rm -r --cached {STATE}`, commit, and move the folder away"
        )


def own_log(workspace: Path, log: str, artifact: str | None = None) -> Path:
    """The log of a run that a journal names: it lies in the state folder, or is the baseline's.

    artifact: where the protocol keeps that, relative to the workspace. Raises Unusable for any other place.
    """
    path, state = Path(log), state_folder(workspace)
    try:
        if artifact and path.parent.resolve() == (workspace / artifact).parent.resolve():
            if path.name.startswith(Path(artifact).stem):
                return path
        elif not path.parent.resolve().is_relative_to(state.resolve()):
            # The workspace was moved or copied since: the same log in this one.
            path = state / log.rpartition(f"/{STATE}/")[2]
        if f"/{STATE}/" in log and path.parent.resolve().is_relative_to(state.resolve()):
            return path
    except (OSError, RuntimeError, ValueError):
        pass
    raise Unusable("is none of this workspace's logs", log)
