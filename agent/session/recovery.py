"""Resume a session from wherever it stopped, and move its branch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent.errors import PreconditionError
from agent.execution.kill import Process, end_orphan
from agent.format import named, one_line
from agent.journal import edits, proposals
from agent.journal.comparable import HARNESS, differences
from agent.journal.edits import Edit
from agent.journal.experiment import Proposal
from agent.journal.journal import Journal
from agent.journal.paths import adopted_ref, candidate_ref, head_ref
from agent.journal.state import State
from agent.protocol.changes import changes, protocol_of
from agent.repository.checkout import Checkout
from agent.repository.edit import own_commits, way_back
from agent.repository.index import sweep
from agent.repository.loose import remove_empty_objects
from agent.repository.ready import carried, elsewhere, require_clean, require_may_switch
from agent.repository.workspace import Workspace
from agent.system.invocation import fetch_commits, git_here, here, typed
from agent.system.names import PLAYBOOK, PROTOCOL


def resume(
    journal: Journal,
    workspace: Workspace,
    branch: str,
    fingerprint: dict[str, Any],
    flags: Mapping[str, Any],
    *,
    switch: bool = True,
) -> None:
    """Finish or undo the step that was in progress.

    Args:
        journal: of the session.
        workspace: where.
        branch: the session's branch.
        fingerprint: the conditions of this start.
        flags: the flags that the session keeps.
        switch: check the branch out.

    Raises:
        PreconditionError: the journal and git disagree.
    """
    assert journal.state.session is not None
    require_same(workspace, journal.state.session, fingerprint)
    for done in reconcile(journal, workspace, branch, switch=switch):
        journal.show("note", text=done)
    journal.append("resumed", pid=os.getpid(), flags=dict(flags))


def reconcile(journal: Journal, workspace: Workspace, branch: str, *, switch: bool = True) -> list[str]:
    """Bring processes, branch and working tree into the state that the journal describes.

    Args:
        journal: of the session.
        workspace: where.
        branch: the session's branch.
        switch: check the branch out. Otherwise edits of the mutable files stay as they are.

    Returns:
        One sentence for each thing done.

    Raises:
        PreconditionError: this would destroy the user's work.
    """
    state, done = journal.state, list[str]()
    checkout = Checkout(workspace)
    sweep(workspace.git)
    assert state.session is not None and state.head is not None
    done += end_orphaned_run(state)
    if not workspace.is_whole(state.head):
        remove_empty_objects(workspace.git)  # else git would not fetch what they stand for
        _require_head(state, workspace, branch)
    done += _recommitted(journal, workspace)
    state = journal.state
    assert state.session is not None and state.head is not None
    at = _require_place(state, workspace, branch)
    if at is None:
        if switch:
            _require_free(journal, workspace, branch)
        checkout.start_branch(branch, state.head, switch=switch)
        done.append(f"created the branch {branch}")
    elif at != state.head:
        done.append(f"moved {branch} from {at[:12]} to {state.head[:12]}, the commit of its last experiment")
    if checkout.branch == branch:
        done += _restored(journal, workspace, branch, at, switch=switch)
    elif switch:
        held, commits = _require_free(journal, workspace, branch)
        if held:
            checkout.put_back(held, commits, workspace.head)
            where = checkout.branch or "the detached HEAD"
            done.append(f"put back {', '.join(held)} on {where}: the session has the content in git")
        checkout.advance(branch, state.head, at or state.head)
        checkout.switch(branch)
        done.append(f"checked out {branch}")
    else:
        checkout.advance(branch, state.head, at or state.head)
    done += settle(journal, workspace, edits.unsettled(journal.path))
    if switch:
        # The user may edit program.md and playbook.md at any time.
        require_clean(workspace, notes=False, tag=state.session["tag"])
    for ref in (head_ref, adopted_ref):
        workspace.release(ref(state.session["tag"]))
    return done + _kept(workspace, state)


def _recommitted(journal: Journal, workspace: Workspace) -> list[str]:
    """Commit the candidate of the experiment in progress again if git cannot read it. Return a sentence if so.

    A power cut may have emptied its files, and a `git gc --prune=now` of the user's may have deleted them.
    """
    state, pending = journal.state, journal.state.pending
    assert state.session is not None and state.head is not None
    # The baseline is a commit of the user's, and the candidates of stations have commits and refs of their own.
    if pending is None or pending.commit is None or pending.number == 0 or pending.candidate is not None:
        return []
    if workspace.is_whole(pending.commit, pending.files):
        return []
    proposal = proposals.read(journal.path, pending.number, pending.revisions)
    commit = workspace.commit_candidate(
        candidate_ref(state.session["tag"], pending.number),
        state.head,
        proposal.files,
        message_of(pending.number, proposal),
    )
    journal.append("committed", number=pending.number, commit=commit)
    return [f"committed experiment #{pending.number} again: git could not read {pending.commit[:12]}"]


def message_of(number: int, proposal: Proposal) -> str:
    """Return the message of the commit of a candidate."""
    return f"experiment #{number}: {one_line(proposal.description)}\n\n{proposal.reasoning}".strip()


def _kept(workspace: Workspace, state: State) -> list[str]:
    """Restore the refs that keep the commits of experiments, and return a sentence for each, or for what is lost."""
    assert state.session is not None
    tag, done = state.session["tag"], list[str]()
    refs = {candidate_ref(tag, each.number): each for each in state.experiments[1:]}
    without = {ref: each for ref, each in refs.items() if workspace.resolve(ref) != each.commit}
    lost = workspace.missing([each.commit for each in without.values()])
    for ref, experiment in without.items():
        if experiment.commit not in lost:
            workspace.keep(ref, experiment.commit)
            done.append(f"restored {ref}, which keeps the commit of experiment #{experiment.number}")
    if lost:  # as in a clone, which has the branch alone
        numbers = [f"#{each.number}" for each in without.values() if each.commit in lost]
        done.append(
            f"the repository lacks the commits of {named(numbers, 3)}: get them with `{fetch_commits(workspace.top)}`"
        )
    return done


def require_resumable(journal: Journal, workspace: Workspace, branch: str, fingerprint: dict[str, Any]) -> None:
    """Check what `resume` requires, and touch nothing.

    Raises:
        PreconditionError: `resume` would refuse.
    """
    state, checkout = journal.state, Checkout(workspace)
    assert state.session is not None
    require_same(workspace, state.session, fingerprint)
    _require_head(state, workspace, branch)
    at = _require_place(state, workspace, branch)
    if at is not None and checkout.branch == branch:
        left = checkout.left_over(*_left_half_done(journal, workspace))
        require_clean(workspace, notes=False, but=left, tag=state.session["tag"])
    else:
        _require_free(journal, workspace, branch)


def _require_head(state: State, workspace: Workspace, branch: str) -> None:
    """Raise PreconditionError if git cannot read the commit at which the session left its branch."""
    assert state.session is not None and state.head is not None
    if workspace.is_whole(state.head):
        return
    tag, git = state.session["tag"], git_here(workspace.top)
    earlier = (state.previous, *(each.commit for each in reversed(state.experiments)), state.session["base"])
    back = next((each for each in earlier if each and workspace.is_whole(each)), None)
    # Git switches from no branch whose commit it cannot read.
    release = f"`{git} update-ref refs/heads/{branch} {back[:12]}`, `{git} switch --detach`, and " if back else ""
    raise PreconditionError(
        f"git in {workspace.top} cannot read {state.head[:12]}, the last commit of session {tag}: a power cut or "
        "another git has taken parts of it",
        hint=f"fetch it with `{git} fetch OTHER_CLONE {branch}`; without a clone that has it, delete the session: "
        f"{release}`{typed(f'sessions --delete {tag}')}`",
    )


def _require_place(state: State, workspace: Workspace, branch: str) -> str | None:
    """Return where the session's branch is; None if a kill prevented its creation.

    Raises:
        PreconditionError: it is not where the session left it.
    """
    assert state.session is not None and state.head is not None
    at = workspace.resolve(f"refs/heads/{branch}")
    if at not in (state.head, state.previous) and (at is not None or state.experiments):
        raise _moved(workspace, branch, state.head, state.session["tag"])
    return at


def _require_free(journal: Journal, workspace: Workspace, branch: str) -> tuple[list[str], list[str]]:
    """Return what `_held_elsewhere` does for a checkout that can switch to `branch` without losing anything.

    Raises:
        PreconditionError: it has other changes, or another working tree has the branch.
    """
    state = journal.state
    assert state.session is not None and state.head is not None
    require_may_switch(workspace, branch)
    held, commits = _held_elsewhere(journal, workspace)
    require_clean(workspace, but=[*held, *carried(workspace, state.head)], tag=state.session["tag"])
    return held, commits


def _restored(journal: Journal, workspace: Workspace, branch: str, at: str | None, *, switch: bool) -> list[str]:
    """Restore the files of the checkout, which is on `branch`, and return a sentence for each that was another.

    Args:
        at: where the branch was found.
        switch: as for `reconcile`.
    """
    checkout, state = Checkout(workspace), journal.state
    assert state.head is not None
    edited = checkout.changes()
    if state.previous and state.previous != state.head:
        # If it was interrupted between its renames. Once the branch has moved, a playbook without the entries that
        # the session has added is an edit of the user's.
        checkout.advance(branch, state.head, state.previous, (PLAYBOOK,) if at == state.head else ())
    files, commits = _left_half_done(journal, workspace)
    removed = checkout.heal(files if switch else [workspace.protocol.provenance.results_log.path], commits)
    back = sorted({*edited} - {*checkout.changes()})
    return [
        *(f"restored {name} as the session left it" for name in back),
        *(f"removed {name}, which a candidate had added: its commit has it" for name in removed),
    ]


def end_orphaned_run(state: State) -> list[str]:
    """Kill a run whose loop was killed, if it is still running. Return a sentence if it was."""
    started = (state.pending.started if state.pending else None) or (
        state.comparison.started if state.comparison else None
    )
    if started and end_orphan(Process.of(started)):
        return [f"killed the orphaned run with pid {started['pid']}"]
    return []


def move(workspace: Workspace, branch: str, new: str, old: str) -> list[str]:
    """Move the session's branch to a commit, and return what the user should know about checkouts, as sentences."""
    notes = list[str]()
    for path in Checkout(workspace).advance(branch, new, old):
        if not os.path.lexists(workspace.folder / path):  # such as of a sparse checkout
            continue
        notes.append(f"{path} has uncommitted changes, which are left alone; the session's version is in git")
    other = elsewhere(workspace, branch)
    if other is not None:
        notes.append(
            f"the files in {other} stay behind {branch}, which the session moves: a commit there would undo what it "
            f"has kept. If it has no edits of yours, run `git -C {here(other)} reset --hard && git -C {here(other)} "
            "switch --detach`"
        )
    return notes


def finish_move(journal: Journal, workspace: Workspace, branch: str) -> None:
    """Finish a move of the branch that a kill interrupted, so that its files in the checkout are no edit."""
    state = journal.state
    if state.head and state.previous and workspace.resolve(f"refs/heads/{branch}") == state.previous != state.head:
        Checkout(workspace).advance(branch, state.head, state.previous)


def settle(journal: Journal, workspace: Workspace, waiting: Mapping[int, Edit]) -> list[str]:
    """Bring the working tree up to the verdicts of edits made by hand: what was not kept is put back.

    Files that were edited in the meantime stay as they are.

    Args:
        journal: of the session.
        workspace: where.
        waiting: the edits that are not settled, by number. Those without a verdict are left out.

    Returns:
        One sentence for each edit that was put back.
    """
    state, done = journal.state, list[str]()
    for number, edit in waiting.items():
        if number >= len(state.experiments) or state.head is None or edit.settled:
            continue
        commits = (state.experiments[number].commit, edit.commit)
        files = edit.files if edit.in_checkout else ()
        restored, newer = Checkout(workspace).put_back(files, commits, state.head)
        edits.write(journal.path, number, replace(edit, restored=tuple(restored), newer=tuple(newer)))
        if restored:
            done.append(f"put back {', '.join(restored)}: experiment #{number} has its verdict")
    return done


def _held_elsewhere(journal: Journal, workspace: Workspace) -> tuple[list[str], list[str]]:
    """Return the changed files of a checkout of another branch whose content the session has in git, and its commits.

    `try` leaves such files: the best of the session, on whichever branch.
    """
    checkout, staged = Checkout(workspace), workspace.staged()
    files, commits = _left_half_done(journal, workspace)
    changed = {path for name in checkout.changes() if (path := workspace.inside(name))}
    trees = [workspace.tree(commit) for commit in commits]
    found = []
    for path in sorted({*files, *workspace.files(commits[0])}):
        name = workspace.in_repository(path)
        mine = workspace.may_change(commits[0], path) and (path in changed or name not in staged)
        there = (workspace.folder / path).is_file()
        if mine and there and checkout.holds(name, *(tree.get(name) for tree in trees)):
            found.append(path)
    return found, commits


def require_undisturbed(workspace: Workspace, branch: str, head: str, tag: str) -> None:
    """Check that the session's branch is where the session left it.

    Edits, commits and checkouts elsewhere do not matter, because runs have their own rooms.

    Raises:
        PreconditionError: the branch has moved.
    """
    if workspace.resolve(f"refs/heads/{branch}") != head:
        raise _moved(workspace, branch, head, tag)


def _moved(workspace: Workspace, branch: str, head: str, tag: str) -> PreconditionError:
    at = workspace.resolve(f"refs/heads/{branch}")
    keep = f"keep the new commits with `{git_here(workspace.top)} branch NAME {at[:12]}`, " if at else ""
    if own_commits(workspace, branch, head):
        keep = f"measure the new commits with `{typed(f'try --tag {tag}')}`, or {keep}"
    return PreconditionError(
        f"the branch {branch} {f'is at {at[:12]}' if at else 'was deleted'}, but the session left it at {head[:12]}",
        hint=f"{keep}restore the branch with `{way_back(workspace, branch, head)}`, then run the same command again; "
        "or start a session with another --tag",
    )


def require_same(workspace: Workspace, session: Any, fingerprint: dict[str, Any]) -> None:
    """Check that new runs are comparable with those of the session.

    Raises:
        PreconditionError: the fingerprints differ.
    """
    if differing := _differing(workspace, session, session["fingerprint"], fingerprint):
        raise PreconditionError(
            f"session {session['tag']} was measured under other conditions, so new results would not be comparable: "
            f"{'; '.join(differing)}",
            hint="start a session with another --tag"
            if newly_protected(workspace, session)
            else "undo the change, or start a session with another --tag",
        )


def require_task(workspace: Workspace, session: Any, fingerprint: dict[str, Any]) -> None:
    """Check that new runs measure the same as those of the session, on whichever machine and for however long.

    Raises:
        PreconditionError: the data, the harness or the protocol differ.
    """
    parts = ("snapshot", "harness", "protocol")
    before, now = ({key: each[key] for key in parts if key in each} for each in (session["fingerprint"], fingerprint))
    if differing := _differing(workspace, session, before, now):
        raise PreconditionError(
            f"session {session['tag']} was measured with other data or another harness: {'; '.join(differing)}",
            hint="use the protocol.json of the session, and prepare its data",
        )


def _differing(workspace: Workspace, session: Any, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a phrase per differing entry of the fingerprints, for the protocol one per field if git has the old."""
    if said := newly_protected(workspace, session):
        now = {**now, HARNESS: before.get(HARNESS)}
        return [said, *_differing_but_for_that(workspace, session, before, now)]
    return _differing_but_for_that(workspace, session, before, now)


def newly_protected(workspace: Workspace, session: Any) -> str | None:
    """Return the reason why the harness is another one than when an earlier version began the session, or None."""
    if paths := workspace.protected_since(session["base"], session["fingerprint"].get(HARNESS)):
        both = "which allowedGlobs and immutableHarness.paths both name"
        return f"this version protects {named(paths, 3)}, {both}, and an earlier one let candidates change it"
    return None


def _differing_but_for_that(
    workspace: Workspace, session: Any, before: Mapping[str, Any], now: Mapping[str, Any]
) -> list[str]:
    old = protocol_of(workspace.show(session["base"], PROTOCOL))
    if old is None or old.digest != before.get("protocol") or old.digest == now.get("protocol"):
        return differences(before, now)
    rest = differences({**before, "protocol": None}, {**now, "protocol": None})
    return [*rest, *changes(old, workspace.protocol)]


def _left_half_done(journal: Journal, workspace: Workspace) -> tuple[list[str], list[str]]:
    """Return the files that a killed loop may have been writing, and the commits whose content they may have.

    The loop of an earlier version ran candidates in the checkout, and an edit that waits for its experiment is there.
    """
    state = journal.state
    files, commits = {workspace.protocol.provenance.results_log.path}, [state.head, state.previous]
    for edit in edits.unsettled(journal.path).values():
        files.update(edit.files)
        commits.append(workspace.resolve(edit.commit))
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
