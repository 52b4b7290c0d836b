"""Open the workspace exclusively, prepare what its runs need, and start a session in it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.decision.limits import Limits, noted
from agent.errors import PreconditionError
from agent.execution import evaluation, fingerprint, holdout
from agent.execution.measure import Runner
from agent.execution.setup import set_up
from agent.format import one_line
from agent.journal import edits, lock, results
from agent.journal.journal import Journal, fold
from agent.journal.paths import candidate_ref, find_session, journal_path, require_own_state, state_folder
from agent.proposers.search.space import tunable_parameters
from agent.protocol.changes import clause_of, protocol_of
from agent.protocol.load import load_protocol, require_runnable
from agent.repository.checkout import Checkout
from agent.repository.excludes import adding, exclude
from agent.repository.index import sweep
from agent.repository.ready import carried, require_clean, require_free
from agent.repository.workspace import NOTHING_MAY_CHANGE_HINT, Workspace, nothing_may_change
from agent.room import room
from agent.room.remarks import remarks
from agent.room.sandbox import Mode, choose_sandbox, temporary_folder
from agent.session.context import known_constants
from agent.system import temporary
from agent.system.invocation import git_here, here, typed
from agent.system.names import PROTOCOL


@contextlib.contextmanager
def open_runner(
    folder: Path,
    tag: str,
    training_seconds: float | None,
    sandbox: Mode,
    limits: Limits | None = None,
    *,
    stops: bool = True,
) -> Iterator[Runner]:
    """Lock the workspace and yield a runner.

    Args:
        training_seconds: the training budget; None for the protocol's.
        limits: the limits of the session about to start or resume; None without a session.
        stops: whether the caller stops if `autoresearch stop` asks for that.
    """
    protocol = load_protocol(folder)
    require_runnable(protocol)
    workspace = Workspace(folder, protocol)
    workspace.git.require_recent()
    workspace.git.require_writable()
    workspace.git.require_identity()
    require_own_state(workspace.folder)
    ends = None if limits is None else noted(limits.within(protocol), time.time())
    confined = choose_sandbox(sandbox, protocol.environment.constraints)
    with lock.hold(state_folder(workspace.folder), tag, ends, git=workspace.git.folder, stops=stops):
        exclude(workspace, [".autoresearch/", "run.log"])
        yield Runner(protocol, workspace, training_seconds or protocol.training_seconds, confined)


@contextlib.contextmanager
def prepared(
    runner: Runner,
    *,
    setup: bool,
    commit: str | None = None,
    untraced: bool = False,
    journal: Path | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Runner]:
    """Run the setup commands if necessary, and yield a runner with the files its runs may read and an evaluator.

    Args:
        setup: run the setup commands if they are due.
        commit: the commit that provides the harness; None for HEAD.
        untraced: accept runs whose model cannot be traced.
        journal: of the session whose runs are made, which shows them no file of its candidates; None without one.
        tick: called several times a second during the setup commands. If it raises, they are ended.
    """
    folder, protocol = runner.workspace.folder, runner.protocol
    if setup:
        said = lambda line: print(one_line(line), file=sys.stderr, flush=True)  # noqa: E731
        for name, command in set_up(runner, state_folder(folder), said, tick).items():
            runner.say(f"the setup command `{command}` has changed {name}, which git tracks")
    commit = commit or runner.workspace.head
    for text in runner.workspace.remarks_on_harness(commit):
        runner.say(text)
    untracked = room.untracked_files(runner.workspace, _of_candidates(runner.workspace, journal) if journal else ())
    for name in untracked.kept_back:
        runner.say(f"{name} may contain keys or lead to some, so it is hidden from runs")
    for name in untracked.links:
        what = (
            "runs can follow it, because the sandbox is off" if runner.sandbox.way is None else "runs cannot follow it"
        )
        runner.say(f"{name} may lead to keys: {what}")
    for text in remarks(runner.sandbox, runner.workspace, untracked):
        runner.say(text)
    with contextlib.ExitStack() as stack:
        harness = None
        snapshot, paths = fingerprint.snapshot_folder(protocol), protocol.immutable_harness.paths
        where = evaluation.find_evaluator(runner.workspace, commit, paths) if snapshot else None
        if snapshot is not None and where is not None:
            copy = stack.enter_context(temporary_folder(state_folder(folder) / "harness"))
            inside = runner.workspace.export(copy, commit)
            harness_folder, script = where
            able = holdout.can_score(runner.workspace, commit, str(Path(harness_folder) / script))
            apart = holdout.holdout_folder(snapshot) if able else None
            record = fingerprint.snapshot(protocol)
            harness = evaluation.Harness(inside / harness_folder, script, snapshot, record, untraced, apart)
        yield dataclasses.replace(runner, untracked=untracked, harness=harness)


@contextlib.contextmanager
def cloned(runner: Runner, purpose: str) -> Iterator[Runner]:
    """Clone HEAD into a temporary folder, and yield a runner for it that is not linked to the user's folders.

    Args:
        purpose: a word for the folder's name.
    """
    with temporary.folder(f"autoresearch-{purpose}-", lenient=True) as name:
        source = runner.workspace.folder
        copy = Workspace(source, runner.protocol).clone(Path(name).resolve() / "clone")
        environment = source / room.ENVIRONMENT
        if environment.exists():  # the evaluator uses its interpreter
            (copy.folder / room.ENVIRONMENT).symlink_to(environment.resolve())
        yield dataclasses.replace(runner, workspace=copy, linked=False)


def showing(source: Workspace, runner: Runner, best: str | None = None) -> Runner:
    """Return the runner of a clone, whose runs see the untracked files of the workspace that was cloned.

    Args:
        best: a commit in the clone whose own files are shown to no other run.
    """
    untracked = room.untracked_files(source, _untracked_in(source, runner.workspace.tree(best)) if best else ())
    return dataclasses.replace(runner, untracked=dataclasses.replace(untracked, source=source.top))


def _of_candidates(workspace: Workspace, journal: Path) -> set[str]:
    """Return the files that a session has in its commits, but that may be untracked in a checkout of another branch.

    `try` leaves them there: an edit until its verdict, and what was kept. The baseline has none of them.
    """
    head = fold(journal).head
    tree = workspace.tree(head) if head and workspace.resolve(head) else ()
    return {*edits.files(journal), *_untracked_in(workspace, tree)}


def _untracked_in(workspace: Workspace, names: Iterable[str]) -> set[str]:
    """Return those of the names of a commit that git does not track in the checkout, relative to the workspace."""
    here = workspace.staged()
    inside = (workspace.inside(name) for name in names if name not in here)
    return {path for path in inside if path is not None}


def require_startable(
    workspace: Workspace, branch: str, tag: str, start: str | None = None, *, switch: bool = True
) -> None:
    """Check, before anything is touched, that a new session can start without losing anything.

    Args:
        workspace: where.
        branch: the session's branch, which must not exist.
        tag: the session.
        start: the commit that it starts at; None for HEAD.
        switch: whether the branch will be checked out, for which the working tree must be clean.

    Raises:
        PreconditionError: it cannot.
        UsageError: a search comment is malformed.
    """
    protocol = workspace.protocol
    head = _require_clear(workspace, branch, tag, start, switch=switch)
    if start is not None:
        _require_own_results(workspace, start)
    files = workspace.files(start or head)
    if not files:
        raise PreconditionError(nothing_may_change(protocol), hint=NOTHING_MAY_CHANGE_HINT)
    tunable_parameters(files, known_constants(protocol))


def require_committed_protocol(workspace: Workspace) -> None:
    """Raise PreconditionError if HEAD has no protocol.json: it would leave the folder with a switch of branches."""
    if workspace.show(workspace.head, PROTOCOL) is None:
        add = adding(workspace.git, workspace.folder / PROTOCOL)
        raise PreconditionError(
            f"{PROTOCOL} is not committed",
            hint=f"run `{add} && {git_here(workspace.top)} commit -m protocol`, then run the same command again",
        )


def start_of(workspace: Workspace, tag: str) -> str:
    """Return the commit at which a session started with `--from TAG` begins: the incumbent of TAG with its rows.

    Raises:
        PreconditionError: session TAG does not exist, has no baseline, or ran with another protocol.json.
    """
    find_session(workspace.folder, tag)
    state = fold(journal_path(workspace.folder, tag))
    if state.session is None or state.head is None or not state.experiments:
        raise PreconditionError(
            f"session {tag} has no baseline yet, so there is nothing to start from",
            hint=f"run it first with `{typed(f'run --tag {tag}')}`, or start without --from",
        )
    if workspace.resolve(state.head) is None:
        raise PreconditionError(
            f"git no longer has {state.head[:12]}, the last commit of session {tag}",
            hint="restore its branch, or start without --from",
        )
    texts = [workspace.show(commit, PROTOCOL) for commit in (state.head, workspace.head)]
    if texts[0] != texts[1]:
        raise PreconditionError(
            f"{PROTOCOL} has changed since session {tag}{clause_of(*map(protocol_of, texts))}",
            hint=f"check out {state.session['branch']} first, or start without --from",
        )
    return state.head


def create_session(
    journal: Journal, workspace: Workspace, about: Mapping[str, Any], start: str | None = None, *, switch: bool = True
) -> None:
    """Start a new session on a new branch, after `require_startable` has accepted it.

    Args:
        about: the fields of the session's first event, including its tag and branch.
        start: the commit that it starts at; None for HEAD.
        switch: check the branch out.
    """
    checkout = Checkout(workspace)
    sweep(workspace.git)
    # Check once more: setup commands, the user or a loop in a linked worktree may have changed something.
    head = _require_clear(workspace, about["branch"], about["tag"], start, switch=switch)
    base = start or head
    own = {"pid": os.getpid(), "id": uuid.uuid4().hex}  # in a container, each loop has the same process ID
    journal.append("session", **about, base=base, left=checkout.branch, **own)
    checkout.start_branch(about["branch"], base, switch=switch)


def _require_clear(workspace: Workspace, branch: str, tag: str, start: str | None, *, switch: bool) -> str:
    """Return HEAD. Uncommitted changes of the playbook are not in the way, if git takes them along to `start`.

    Raises:
        PreconditionError: the user's branches, changes or files are in the way of a new session.
    """
    require_committed_protocol(workspace)
    waiting = edits.unsettled(journal_path(workspace.folder, tag))
    own = {
        ref for number, edit in waiting.items() if workspace.resolve(ref := candidate_ref(tag, number)) == edit.commit
    }
    require_free(workspace, branch, tag, own)
    head = workspace.head
    if switch:
        require_clean(workspace, but=carried(workspace, start or head), tag=tag)
    _require_own_results(workspace, head)
    return head


def _require_own_results(workspace: Workspace, head: str) -> None:
    """Check that the loop can write its rows to the protocol's results file.

    Raises:
        PreconditionError: the file is untracked, or has other columns.
    """
    protocol = workspace.protocol
    path = protocol.provenance.results_log.path
    file, git = workspace.folder / path, git_here(workspace.top)
    tracked = workspace.show(head, path)
    if file.exists() and tracked is None:
        raise PreconditionError(
            f"{path} exists and git does not track it", hint="move it away; the session writes its own"
        )
    if tracked is not None and not results.has_columns(protocol, tracked):
        raise PreconditionError(
            f"{path} has other columns than the protocol ({', '.join(protocol.columns)})",
            hint=f"rename it with `{git} mv {here(file)} {here(file.with_name(f'earlier-{file.name}'))}`, commit, then "
            "run the same command again",
        )
