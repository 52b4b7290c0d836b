"""Finish a session after its loop: held-out runs for `confirm` and `ablate`, and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.comparison.compare import compare as compare_here
from agent.comparison.confirm import Compare, confirm, sides
from agent.comparison.pairs import BY_DEFAULT, Pairs
from agent.errors import AutoresearchError, Interrupted, MachineFault, PreconditionError, fault, in_one_line
from agent.execution.awake import kept_awake
from agent.execution.fingerprint import fingerprint
from agent.journal.journal import Journal, fold
from agent.journal.paths import find_session, head_ref, is_tag, journal_path
from agent.journal.state import State
from agent.playbook.findings import added, findings
from agent.protocol.load import load_protocol
from agent.report.confirmation import confirm_lines
from agent.repository.checkout import Checkout
from agent.repository.ready import home_of
from agent.repository.refs import is_known
from agent.repository.workspace import Workspace
from agent.room.sandbox import Mode
from agent.session import recovery
from agent.session.opening import open_runner, prepared
from agent.session.session import Session
from agent.session.signals import Interrupts
from agent.session.workbench import Workbench
from agent.system.invocation import here, typed
from agent.system.names import PLAYBOOK
from agent.views.plain import show_plain

Work = Callable[[Workbench], dict[str, Any]]


def confirm_gain(session: Session, pairs: Pairs = BY_DEFAULT, compare: Compare = compare_here) -> int:
    """Confirm the gain with held-out runs of baseline and best, and return the exit code.

    The session has ended and lost nothing, so an error does not change its exit code, except a GPU that keeps failing:
    the same command then continues the confirmation.
    """
    journal = session.journal
    journal.show("note", text="confirming the gain with held-out runs of baseline and best; Ctrl-C postpones it")
    try:
        data = confirm(session.workbench, sides(session.runner, session.state, None, None), pairs, compare)
    except Interrupted as stop:
        again = f"held-out runs were interrupted; continue them with `{typed('confirm')}`"
        journal.show("note", text=again, unconfirmed="interrupted")
        return stop.exit_code
    except AutoresearchError as error:
        why, fails = in_one_line(error), isinstance(error, MachineFault)
        text = f"gain not confirmed: {why}; repeat it with `{typed('confirm')}`"
        journal.show("note", text=text, unconfirmed=why, **({"fault": True} if fails else {}))
        return error.exit_code if fails else 0
    for line in confirm_lines(data):
        journal.show("note", text=line)
    return 0


def extend_playbook(session: Session) -> None:
    """Add what held-out runs say about the kept changes to the playbook on the session's branch, each change once.

    The branch moves as it does for a row: the event is on disk first, and the next start finishes a move that was
    interrupted. Edits of the user's stay in the checkout.
    """
    state, journal, workspace = session.state, session.journal, session.runner.workspace
    new = [each for each in findings(state) if each.number not in state.extended]
    old = state.head
    if not new or old is None:
        return
    try:
        content = workspace.playbook(old)
        if content is None:
            if (workspace.folder / PLAYBOOK).is_file() and PLAYBOOK in workspace.records:
                again = typed(f"playbook --add {session.tag}")
                journal.show("note", text=f"git does not track {PLAYBOOK}: add what the session found with `{again}`")
            return
        whole, numbers = added(content, new)
        recovery.require_undisturbed(workspace, session.branch, old, session.tag)
        if not numbers:
            return
        shown = ", ".join(f"#{number}" for number in numbers)
        about = f"playbook: {shown} of session {session.tag}"
        head = workspace.commit_playbook(old, whole, about, head_ref(session.tag))
        journal.append("extended", entries=[each.number for each in new], head=head)
        kept = Checkout(workspace).advance(session.branch, head, old)
        workspace.release(head_ref(session.tag))
    except (AutoresearchError, OSError) as error:
        journal.show("note", text=f"nothing was added to {PLAYBOOK}: {in_one_line(error)}")
        return
    journal.show("note", text=f"added {shown} to {PLAYBOOK} on {session.branch}")
    if PLAYBOOK in [workspace.inside(path) for path in kept]:
        again = typed(f"playbook --add {session.tag}")
        journal.show("note", text=f"{PLAYBOOK} has uncommitted changes, which are left alone: `{again}` adds to them")


def report_on(session: Session) -> Path | None:
    """Write the report, or show a note if that fails.

    Returns:
        The page; None if it was not written, or the baseline is not measured yet.
    """
    from agent.views.page.write import write_report

    if session.state.baseline is None:
        return None
    try:
        return write_report(session.runner.workspace, [session.tag])[0]
    except Exception as error:  # the session has ended well, and a page must not keep it from being confirmed
        why = in_one_line(error) if isinstance(error, AutoresearchError | OSError) else fault(error)
        session.journal.show("note", text=f"the report was not written: {why}")
        return None


@dataclass(frozen=True)
class Elsewhere:
    """Conditions other than the session's own, on whichever machine this is.

    Attributes:
        training_seconds: the training budget; None for the session's.
    """

    training_seconds: float | None = None


def compared(
    folder: Path,
    tag: str | None,
    sandbox: Mode | None,
    work: Work,
    *,
    quiet: bool,
    elsewhere: Elsewhere | None = None,
) -> dict[str, Any]:
    """Run commits of a session for `confirm`, `ablate` or `promote`, and return the result of `work`.

    Each run gets a room of its own, so branch and checkout do not change, and an ended session stays ended.

    Args:
        folder: the workspace.
        tag: the session; None takes the most recent one.
        sandbox: mode of the sandbox; None takes the session's.
        work: does the runs.
        quiet: print no progress.
        elsewhere: None if runs must be made under the session's conditions.

    Raises:
        PreconditionError: the session has no beginning, has an unfinished experiment, or was measured under other
            conditions.
    """
    if tag is not None and elsewhere is not None:
        require_journal(folder.resolve(), tag)
    tag = find_session(folder.resolve(), tag)
    state, session = _begun(folder.resolve(), tag)
    seconds = (elsewhere.training_seconds if elsewhere else None) or session["fingerprint"]["training_seconds"]
    with (
        open_runner(folder, tag, seconds, sandbox or _sandbox_of(state)) as opened,
        prepared(
            opened,
            setup=False,
            commit=session["base"],
            untraced=state.flags.get("allow_untraced") is True,
            journal=journal_path(opened.workspace.folder, tag),
        ) as runner,
        kept_awake(),
    ):
        journal = Journal(journal_path(runner.workspace.folder, tag), [] if quiet else [show_plain])
        harness = runner.workspace.harness_digest(session["base"])
        require = recovery.require_task if elsewhere else recovery.require_same
        require(runner.workspace, session, fingerprint(runner.protocol, runner.training_seconds, harness))
        _clear(journal, tag)
        interrupts = Interrupts()
        stopping = "press Ctrl-C again to stop at once; stopping after this run"
        interrupts.on_first = lambda: journal.show("note", text=stopping)
        interrupts.install()
        try:
            return work(Workbench(runner, journal, interrupts))
        finally:
            journal.close()


def _begun(folder: Path, tag: str) -> tuple[State, Mapping[str, Any]]:
    """Return the state of a session and the data of its first event."""
    state = fold(journal_path(folder, tag))
    if state.session is None:
        raise PreconditionError(
            f"session {tag} ended before its first event, so nothing can be compared",
            hint=f"start it with `{typed(f'run --tag {tag}')}`",
        )
    return state, state.session


def _clear(journal: Journal, tag: str) -> None:
    """End a run whose loop was killed, and check that no experiment is unfinished."""
    for done in recovery.end_orphaned_run(journal.state):
        journal.show("note", text=done)
    if journal.state.pending is not None:
        raise PreconditionError(
            f"experiment #{journal.state.pending.number} of session {tag} is not finished",
            hint=f"finish it with `{typed(f'run --tag {tag}')}`",
        )


def require_journal(folder: Path, tag: str) -> None:
    """Check that a session is here, and not only its branch or refs, which another clone has made.

    Raises:
        PreconditionError: git has the session, but its journal is missing.
    """
    if not is_tag(tag) or journal_path(folder, tag).exists():
        return
    protocol = load_protocol(folder)
    workspace = Workspace(folder, protocol)
    branch = protocol.provenance.git_workflow.branch_pattern.replace("<tag>", tag)
    if is_known(workspace, tag, branch):
        home = home_of(workspace, tag)
        if home is not None:
            raise PreconditionError(
                f"session {tag} is in {home}, and not in this workspace", hint="run the same command there"
            )
        raise PreconditionError(
            f"git has session {tag} from another clone, but its journal is not here",
            hint=f"copy the folder {here(journal_path(folder, tag).parent)} from where it was measured",
        )


def _sandbox_of(state: State) -> Mode:
    """Return the mode that the session keeps, so that later runs are confined as its own were."""
    modes: tuple[Mode, ...] = ("off", "strict")
    return next((mode for mode in modes if state.flags.get("sandbox") == mode), "auto")
