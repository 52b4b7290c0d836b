"""The start of a session: a new one, or one that goes on from wherever it was left."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError, PreconditionError, UsageError
from agent.execution.kill import Process, end_orphan
from agent.journal import results
from agent.journal.comparable import differences
from agent.journal.journal import Journal
from agent.journal.state import State
from agent.proposers.search.space import tunable_parameters
from agent.protocol.load import require_runnable
from agent.protocol.models import Protocol, matches
from agent.repository.checkout import Checkout
from agent.repository.workspace import NOTHING_MAY_CHANGE_HINT, Workspace, nothing_may_change
from agent.session.context import known_constants


def require_usable(protocol: Protocol, folder: Path) -> None:
    """Raises UsageError with what `run` says of a protocol that it refuses. What git lacks is none of its faults."""
    require_runnable(protocol)
    try:
        workspace = Workspace(folder, protocol)
        empty = not workspace.files(workspace.head)
    except PreconditionError:
        return
    if empty:
        raise UsageError(nothing_may_change(protocol), hint=NOTHING_MAY_CHANGE_HINT)


def imported_by_harness(protocol: Protocol, folder: Path) -> list[str]:
    """Return the modules that belong to the harness because it imports them; none where git has no commit here."""
    try:
        workspace = Workspace(folder, protocol)
        files = workspace.harness(workspace.head)
    except AutoresearchError:
        return []
    globs = protocol.immutable_harness.paths
    return sorted(path for path in files if not any(matches(path, glob) for glob in globs))


def require_startable(workspace: Workspace, protocol: Protocol, branch: str, tag: str) -> None:
    """Raises PreconditionError, before anything is touched, where a new session would lose something or cannot work.

    Raises UsageError on a malformed search comment.
    """
    files = workspace.files(_require_clear(workspace, branch, tag))
    if not files:
        raise PreconditionError(nothing_may_change(protocol), hint=NOTHING_MAY_CHANGE_HINT)
    tunable_parameters(files, known_constants(protocol))


def _require_clear(workspace: Workspace, branch: str, tag: str) -> str:
    """Return HEAD. Raises PreconditionError where something of a person's is in the way of a new session."""
    checkout = Checkout(workspace)
    checkout.require_free(branch, f"refs/autoresearch/{tag}")
    checkout.require_clean()
    head = workspace.head
    _require_own_results(workspace, head)
    return head


def _require_own_results(workspace: Workspace, head: str) -> None:
    """Raises PreconditionError where the loop's rows cannot stand in the file that the protocol names for them."""
    protocol = workspace.protocol
    path = protocol.provenance.results_log.path
    tracked = workspace.show(head, path)
    if (workspace.folder / path).exists() and tracked is None:
        raise PreconditionError(f"{path} exists and git does not track it: move it away, the loop writes its own")
    if tracked is not None and not results.has_columns(protocol, tracked):
        raise PreconditionError(
            f"{path} has rows in other columns than the protocol's ({', '.join(protocol.columns)}), and no row of the "
            f"loop fits below them: `git mv {path} earlier-{Path(path).name}`, commit, then run again"
        )


def create(journal: Journal, workspace: Workspace, about: Mapping[str, Any]) -> None:
    """Take a new branch, where `require_startable` has let it begin.

    about: what the session's first event says, its tag and branch among it.
    """
    metric = workspace.protocol.metric
    checkout = Checkout(workspace)
    # Set-up commands, a person and a loop in a linked worktree have had time since.
    head = _require_clear(workspace, about["branch"], about["tag"])
    begun = {"base": head, "left": checkout.branch, "metric": metric.name, "direction": metric.direction}
    journal.append("session", **about, **begun, pid=os.getpid())
    checkout.start_branch(about["branch"], head)


def resume(
    journal: Journal,
    workspace: Workspace,
    branch: str,
    results: str,
    fingerprint: dict[str, Any],
    flags: Mapping[str, Any],
) -> None:
    """Finish or undo the one step that was under way. Raises PreconditionError where the record and git disagree."""
    assert journal.state.session is not None
    require_same(journal.state.session, fingerprint)
    for done in reconcile(journal, workspace, branch, results):
        journal.show("note", text=done)
    journal.append("resumed", pid=os.getpid(), flags=dict(flags))


def reconcile(journal: Journal, workspace: Workspace, branch: str, results: str) -> list[str]:
    """Bring processes, branch and working tree to where the journal has them. Returns what it did, a sentence each.

    Raises PreconditionError where that would take away a person's work.
    """
    state, done = journal.state, list[str]()
    checkout = Checkout(workspace)
    assert state.session is not None and state.head is not None
    done += end_orphaned_run(state)
    at = workspace.resolve(f"refs/heads/{branch}")
    if at is None and not state.experiments:
        checkout.start_branch(branch, at=state.head)
        done.append(f"created the branch {branch}")
    elif at is None or at not in (state.head, state.previous):
        raise _moved(branch, at, state.head)
    elif at != state.head:
        done.append(f"moved {branch} from {at[:12]} to {state.head[:12]}, where its last experiment belongs")
    checkout.sweep()
    if checkout.branch == branch:
        if state.previous and state.previous != state.head:
            checkout.advance(branch, state.head, state.previous)  # where it was cut off between its renames
        done += [
            f"restored {name}, which was half written" for name in checkout.heal(*_left_half_done(journal, results))
        ]
    else:
        checkout.require_clean()
        checkout.advance(branch, state.head, at or state.head)
        checkout.switch(branch)
        done.append(f"checked out {branch}")
    checkout.require_clean(notes=False)  # a person may have written in program.md all the while
    tag = state.session["tag"]
    for experiment in state.experiments[1:]:
        ref = f"refs/autoresearch/{tag}/{experiment.number}"
        if workspace.resolve(ref) != experiment.commit:
            workspace.keep(ref, experiment.commit)
            done.append(f"put back {ref}, which keeps the commit of experiment #{experiment.number}")
    return done


def end_orphaned_run(state: State) -> list[str]:
    """End the run of a loop that was killed, where it still runs. Returns what was done, a sentence or none."""
    started = (state.pending.started if state.pending else None) or (
        state.comparison.started if state.comparison else None
    )
    if started and end_orphan(Process(started["pid"], started["born"])):
        return [f"ended the orphaned run with pid {started['pid']}"]
    return []


def require_undisturbed(workspace: Workspace, branch: str, head: str) -> None:
    """Raises PreconditionError where the session's branch is no longer where the session left it.

    What a person edits, commits or checks out besides is in nobody's way: runs have rooms of their own.
    """
    at = workspace.resolve(f"refs/heads/{branch}")
    if at != head:
        raise _moved(branch, at, head)


def _moved(branch: str, at: str | None, head: str) -> PreconditionError:
    return PreconditionError(
        f"the branch {branch} is at {(at or 'nothing')[:12]}, but the session left it at {head[:12]}: keep what is new "
        f"with `git branch NAME {(at or head)[:12]}`, put the branch back with `git update-ref refs/heads/{branch} "
        f"{head[:12]}`, then run again; or start another --tag"
    )


def require_same(session: Any, fingerprint: dict[str, Any]) -> None:
    """Raises PreconditionError where runs would not compare with those of the session."""
    differing = differences(session["fingerprint"], fingerprint)
    if differing:
        raise PreconditionError(
            f"session {session['tag']} was measured under other conditions, so its results would not compare: "
            f"{'; '.join(differing)}. Undo the change, or start another --tag"
        )


def _left_half_done(journal: Journal, results: str) -> tuple[list[str], list[str]]:
    """The files that a loop that was killed may have been writing, and the commits whose content they may have.

    Loops of the version before this one ran candidates in the checkout.
    """
    state = journal.state
    files, commits = {results}, [state.head, state.previous]
    if state.experiments:
        files.update(state.experiments[-1].files)
        commits.append(state.experiments[-1].commit)
    if state.pending:
        files.update(state.pending.files)
        commits.append(state.pending.commit)
    if state.comparison:
        files.update(state.comparison.files)
        commits += state.comparison.commits.values()
    return sorted(files), [commit for commit in commits if commit]
