"""Delete a session: its refs, its branch and its folder."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.adopt.earlier import marks_of, split
from agent.errors import AutoresearchError, PreconditionError
from agent.format import counted
from agent.journal import lock
from agent.journal.journal import fold
from agent.journal.paths import require_own_state, state_folder
from agent.journal.state import State
from agent.protocol.load import load_protocol
from agent.repository.checkout import Checkout
from agent.repository.ready import elsewhere, holders
from agent.repository.refs import (
    delete_refs,
    except_own,
    history,
    is_branch,
    is_copied,
    is_merged,
    refs_below,
    users_branches,
)
from agent.repository.workspace import Workspace
from agent.session import at_login
from agent.system.files import remove_tree
from agent.system.invocation import git_here, here, typed

MB = 2**20
JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Remains:
    """What a session has left.

    Attributes:
        folder: its folder in the state folder.
        refs: ref -> commit, of its experiments and its branch.
        branch: its branch, if it exists; else None.
        size: bytes of its folder.
        unadopted: whether it has kept changes, or the last of an earlier session, that no branch of the user's has.
    """

    tag: str
    folder: Path
    refs: Mapping[str, str]
    branch: str | None
    size: int
    unadopted: bool


def remains(workspace: Workspace, tag: str) -> Remains:
    """Return what `delete` would remove.

    Raises:
        PreconditionError: a loop runs, the session does not exist, its branch is checked out or has commits of the
            user's, or the session began on some that no other branch has.
    """
    require_own_state(workspace.folder)
    # First, because a loop has its branch checked out, and to switch to another one would disturb it.
    lock.require_free(state_folder(workspace.folder))
    sessions = state_folder(workspace.folder) / "sessions"
    names = sorted(each.name for each in sessions.iterdir()) if sessions.is_dir() else []
    folder = sessions / tag
    if tag not in names or folder.is_symlink() or not folder.is_dir():
        hint = f"choose from {', '.join(names)}" if names else ""
        raise PreconditionError(f"unknown session {tag[:100]!r} in {workspace.folder}", hint=hint)
    state = _state(folder)
    pattern = workspace.protocol.provenance.git_workflow.branch_pattern
    branch = state.session["branch"] if state and state.session else pattern.replace("<tag>", tag)
    tip = workspace.resolve(f"refs/heads/{branch}")
    refs = refs_below(workspace, f"refs/autoresearch/{tag}")
    keeps, users = _built_on(workspace, state)
    _require_held(workspace, users)
    if tip is not None:
        _require_ours(workspace, state, branch, tip)
        refs[f"refs/heads/{branch}"] = tip
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return Remains(tag, folder, refs, branch if tip else None, size, _is_unadopted(workspace, state, keeps))


def remains_lines(found: Remains) -> list[str]:
    lines = [
        f"session {found.tag}: "
        + counted(len(found.refs) - (found.branch is not None), "ref")
        + (f", the branch {found.branch}" if found.branch else ", no branch")
        + f", {found.folder.relative_to(found.folder.parents[2])} ({found.size / MB:.1f} MiB)"
    ]
    if found.unadopted:
        home = typed(f"adopt --tag {found.tag}")
        lines.append(f"kept changes of it are in no other branch: take them home with `{home}`")
    return lines


def delete(workspace: Workspace, tag: str) -> dict[str, Any]:
    """Remove everything that `remains` names, the folder last, so that an interrupted call can be repeated.

    Raises:
        PreconditionError: a loop runs in the workspace, or as in `remains`.
    """
    with lock.hold(state_folder(workspace.folder), tag, git=workspace.git.folder, stops=False):
        found = remains(workspace, tag)
        at_login.forget(workspace.folder, tag)
        try:
            delete_refs(workspace, found.refs)
        except AutoresearchError as error:
            if os.strerror(errno.ENOSPC) not in str(error):
                raise
            # Git writes the list of those that stay. The journal stays, too, so that this can be repeated.
            for each in found.folder.iterdir():
                remove_tree(each)
            delete_refs(workspace, found.refs)
        remove_tree(found.folder)
        if found.folder.exists():
            raise AutoresearchError(f"cannot remove {found.folder}", hint="remove it by hand")
    refs = len(found.refs) - (found.branch is not None)
    return {"tag": tag, "refs": refs, "branch": found.branch, "bytes": found.size, "unadopted": found.unadopted}


def workspace_of(folder: Path) -> Workspace:
    return Workspace(folder, load_protocol(folder))


def _state(folder: Path) -> State | None:
    """Return the state of the session; None if an interrupted deletion has removed its journal, or it is damaged."""
    try:
        return fold(folder / JOURNAL)
    except (AutoresearchError, OSError):
        return None


def _built_on(workspace: Workspace, state: State | None) -> tuple[list[str], list[str]]:
    """Return the keeps of earlier sessions, and the commits of the user's, that only this session's refs still have."""
    session = state.session if state else None
    if session is None or workspace.resolve(session["base"]) is None:
        return [], []
    keeps, users = split(history(workspace, session["base"], *except_own(session["tag"], session["branch"])))
    branches = users_branches(workspace, session["branch"]) if users else []
    return keeps, [each for each in users if not is_copied(workspace, session["base"], each, branches)]


def _require_ours(workspace: Workspace, state: State | None, branch: str, tip: str) -> None:
    """Raise PreconditionError if the branch is checked out, or is not where the session left it."""
    git, other = git_here(workspace.top), elsewhere(workspace, branch)
    if Checkout(workspace).branch == branch or other is not None:
        where = f" in {other}" if other else ""
        back = state.session.get("left") if state and state.session and not other else None
        # In one working tree only, a branch can be checked out.
        free = back is not None and is_branch(workspace, back) and not holders(workspace, back)
        there = f"git -C {here(other)}" if other else git
        leave = f"{there} switch {shlex.quote(str(back)) if free else '--detach'}"
        raise PreconditionError(
            f"the branch {branch} is checked out{where}",
            hint=f"leave it with `{leave}`, then run the same command again",
        )
    if state is None or tip not in (state.head, state.previous, (state.session or {}).get("base")):
        raise PreconditionError(
            f"the branch {branch} is not where the session left it, so it may have commits of yours",
            hint=f"keep them with `{git} branch -m {shlex.quote(branch)} NAME`, then run the same command again",
        )


def _require_held(workspace: Workspace, users: Sequence[str]) -> None:
    """Raise PreconditionError if the session began on commits of the user's that no other ref has.

    It began on a detached HEAD, or the branch of theirs is gone.
    """
    if users:
        raise PreconditionError(
            f"the session began on {counted(len(users), 'commit')} of yours that no other branch has",
            hint=f"keep them with `{git_here(workspace.top)} branch NAME {users[0][:12]}`, then run the same command "
            "again",
        )


def _is_unadopted(workspace: Workspace, state: State | None, earlier: Sequence[str]) -> bool:
    """Return whether keeps of a session, or those it started from, are in no branch of the user's.

    Args:
        earlier: the keeps of earlier sessions that no ref but the session's own has.
    """
    best = state.incumbent if state else None
    if state is None or state.session is None or best is None:
        return False
    tag, base = state.session["tag"], state.session["base"]
    # A keep that was adopted alone takes no other one home.
    own = marks_of(workspace.folder, [(each.commit, (tag, each.number)) for each in state.keeps])
    before = marks_of(workspace.folder, [(each, None) for each in earlier])
    wanted = [(commit, marks) for commit, marks in ((best.commit, own), (base, before)) if marks]
    mine = users_branches(workspace, state.session["branch"]) if wanted else []
    return not all(is_merged(workspace, commit, mine, marks) for commit, marks in wanted)
