"""Commit the kept changes of a session on the user's branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.adopt.choice import Choice, choose, promoted, require_confirmed, smaller_recipe
from agent.adopt.earlier import require_adopted, split
from agent.adopt.message import message_of
from agent.adopt.playbook import extended
from agent.errors import PreconditionError, UsageError
from agent.format import one_line
from agent.journal.experiment import Value, digest
from agent.journal.journal import begun
from agent.journal.paths import adopted_ref, find_session, journal_path
from agent.journal.state import State
from agent.protocol.load import load_protocol
from agent.protocol.models import Protocol
from agent.repository.checkout import Checkout
from agent.repository.index import sweep
from agent.repository.ready import require_unedited
from agent.repository.refs import branch_named, history, is_sessions
from agent.repository.workspace import Workspace
from agent.session.context import known_constants
from agent.source.merging import carried_over
from agent.system.invocation import git_here, typed
from agent.system.names import PLAYBOOK

USUAL = ("main", "master")


@dataclass(frozen=True)
class Wish:
    """What the user asked for.

    Attributes:
        which: numbers of keeps; empty or `best` for all of them. With `promoted`, the number of a promotion.
        onto: the branch to commit on; None for the one that the session began on.
        provisional: adopt what is not confirmed.
        minimal: take the smaller recipe of `ablate`.
        promoted: take what `promote` has shown to transfer.
    """

    which: Sequence[str] = ()
    onto: str | None = None
    provisional: bool = False
    minimal: bool = False
    promoted: bool = False


def adopt(folder: Path, tag: str | None, wish: Wish) -> dict[str, Any]:
    """Commit the changes as one commit, and return what was done as plain data.

    The branch moves once, and only from the commit that the changes were merged with. Its checkout follows.

    Raises:
        PreconditionError: there is nothing to adopt, it is not confirmed, it conflicts, it builds on changes of another
            session that the branch lacks and is not provisional, or the checkout has changes.
        UsageError: the branch does not exist, or belongs to a session.
    """
    if wish.minimal and wish.promoted:
        raise UsageError("--minimal and --promoted are mutually exclusive", hint="drop one of them")
    if wish.minimal and wish.which:
        raise UsageError("--minimal takes no numbers", hint="drop one of them")
    tag = find_session(folder, tag)
    path, state = journal_path(folder, tag), begun(folder, tag)
    protocol = load_protocol(folder)
    workspace = Workspace(folder, protocol)
    checkout, known = Checkout(workspace), known_constants(protocol)
    smaller = smaller_recipe(path, state) if wish.minimal else None
    choice = (
        promoted(workspace, state, known, wish.which)
        if wish.promoted
        else choose(workspace, state, wish.which, known, smaller)
    )
    branch = branch_for(checkout, workspace, protocol, state, wish.onto)
    at = workspace.resolve(f"refs/heads/{branch}")
    assert at is not None and state.session is not None
    if not wish.provisional:
        keeps, _ = split(history(workspace, state.session["base"], at))
        require_adopted(workspace, state.session, (branch, at), keeps, known)
    files = merge(workspace, state, choice, at, known)
    numbers = [each.number for each in choice.keeps]
    done = {"tag": tag, "branch": branch, "before": at, "adopted": numbers, "files": sorted(files), "note": None}
    if not files:
        workspace.release(adopted_ref(tag))  # of an adopt that was killed
        return {**done, "commit": None, "provisional": not choice.confirmed, "message": None}
    if not wish.provisional:
        require_confirmed(choice, state)
    workspace.git.require_writable("nothing")
    sweep(workspace.git)
    book, full = extended(workspace, state, numbers, at)
    told = {} if book is None else {PLAYBOOK: book.decode()}
    require_unedited(workspace, branch, {**files, **told})
    merged = _unmeasured(workspace, state, choice, {**workspace.files(at), **files}, at)
    message, kept = message_of(state, choice, merged), adopted_ref(tag)
    commit = workspace.commit_files(at, files, message, book, kept)
    try:
        checkout.advance(branch, commit, at)
    finally:
        workspace.release(kept)
    done["files"] = sorted({*files, *told})
    notes = [f"{PLAYBOOK} gets no entry: {full}"] if full else []
    if merged:
        notes.append(f"what {branch} has now was never measured: {', '.join(merged)} is not as in the session")
    done["note"] = "; ".join(notes) or None
    return {**done, "commit": commit, "provisional": not choice.confirmed, "message": message}


def adopt_lines(data: Mapping[str, Any]) -> list[str]:
    branch, tag = data["branch"], data["tag"]
    if data["commit"] is None:
        return [f"nothing to adopt: {branch} already has these changes of session {tag}"]
    subject, files = one_line(data["message"].split("\n", 1)[0]), ", ".join(data["files"])
    return [
        f"{data['commit'][:12]} {subject}",
        f"moved {branch} from {data['before'][:12]}; changed {files}",
        *([data["note"]] if data["note"] else []),
    ]


def branch_for(checkout: Checkout, workspace: Workspace, protocol: Protocol, state: State, onto: str | None) -> str:
    """Return the branch to commit on.

    That is `onto`; else the one that the session began on; else the one checked out; else main or master. Branches of
    sessions are never chosen.

    Raises:
        UsageError: `onto` does not exist, or is the branch of a session.
        PreconditionError: none of these branches exists.
    """
    assert state.session is not None
    if onto is not None:
        name = branch_named(workspace, onto.removeprefix("refs/heads/"))
        if name is None:
            create = f"{git_here(workspace.top)} branch NAME"
            raise UsageError(f"unknown branch {onto[:100]!r}", hint=f"create it with `{create}`")
        if is_sessions(protocol, name):
            raise UsageError(f"{name} is the branch of a session", hint="choose another --onto")
        return name
    for branch in (state.session.get("left"), checkout.branch, *USUAL):
        name = branch_named(workspace, branch) if isinstance(branch, str) and branch else None
        if name is not None and not is_sessions(protocol, name):
            return name
    raise PreconditionError("no branch to adopt the changes on", hint="name one with --onto BRANCH")


def merge(workspace: Workspace, state: State, choice: Choice, at: str, known: Mapping[str, Value]) -> dict[str, str]:
    """Return path -> new text of the files of the commit `at` that the changes alter.

    Raises:
        PreconditionError: the branch has changed the same places.
    """
    baseline = state.baseline
    assert baseline is not None
    ours, theirs = workspace.files(at), choice.files
    base = {path: text for path, text in workspace.files(baseline.commit).items() if path in theirs}
    found, conflicts = carried_over((ours, base, theirs), known, workspace.merge)
    # A file that the branch has, but not as text.
    conflicts += [path for path in found if path not in ours and workspace.content(at, path) is not None]
    if conflicts and choice.commit is None and not choice.without and _has_best(workspace, state, ours, known):
        return {}  # a later keep, which the branch has as well, changed the same places
    if conflicts:
        assert state.session is not None
        see = typed(f"diff --tag {state.session['tag']}")
        raise PreconditionError(
            f"the changes conflict with those of the branch in {', '.join(sorted(conflicts))}",
            hint=f"adopt single keeps by their numbers, or merge by hand: see `{see}`",
        )
    return found


def _unmeasured(workspace: Workspace, state: State, choice: Choice, now: Mapping[str, str], at: str) -> list[str]:
    """Return where the recipe `now` on top of the commit `at` differs from what the session measured."""
    assert state.session is not None
    same = {digest(choice.files), *(each.digest for each in state.experiments)}
    found = sorted(path for path in {*now, *choice.files} if now.get(path) != choice.files.get(path))
    other = workspace.harness_digest(at) != workspace.harness_digest(state.session["base"])
    return [*([] if digest(now) in same else found), *(["the harness"] if other else [])]


def _has_best(workspace: Workspace, state: State, ours: Mapping[str, str], known: Mapping[str, Value]) -> bool:
    """Return whether the branch already has all kept changes of the session."""
    baseline, best = state.baseline, state.incumbent
    assert baseline is not None
    assert best is not None
    theirs = workspace.files(best.commit)
    base = {path: text for path, text in workspace.files(baseline.commit).items() if path in theirs}
    found, conflicts = carried_over((ours, base, theirs), known, workspace.merge)
    return not found and not conflicts
