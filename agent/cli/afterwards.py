"""What follows the loop: fresh runs that confirm the gain or take the recipe apart, and the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.errors import AutoresearchError, Interrupted, PreconditionError
from agent.execution.awake import kept_awake
from agent.execution.fingerprint import fingerprint
from agent.journal.journal import Journal, read
from agent.journal.paths import find_session, journal_path, stop_file
from agent.journal.state import replay
from agent.room.sandbox import Mode
from agent.session import recovery
from agent.session.confirm import confirm, confirm_lines, sides
from agent.session.opening import open_runner, prepared
from agent.session.session import Session
from agent.session.signals import Interrupts
from agent.session.workbench import Workbench
from agent.system.invocation import typed
from agent.views.plain import show_plain

Work = Callable[[Workbench], dict[str, Any]]


def confirm_gain(session: Session) -> int:
    """Fresh runs of baseline and best in what is left of the night. Returns the exit code."""
    journal = session.journal
    journal.show("note", text="confirming: baseline and best are run afresh, in turn; Ctrl-C leaves it for later")
    try:
        data = confirm(session.workbench, sides(session.runner, session.state, None, None))
    except Interrupted as stop:
        return stop.exit_code
    except AutoresearchError as error:
        # The session itself has come to its end and lost nothing.
        journal.show("note", text=f"not confirmed: {error}; try again with `{typed('confirm')}`")
        return 0
    for line in confirm_lines(data):
        journal.show("note", text=line)
    return 0


def report_on(session: Session) -> Path | None:
    """The morning report; where it cannot be written a note says so. None as well while there is no baseline."""
    from agent.views.page.write import write_report

    if session.state.baseline is None:
        return None
    try:
        return write_report(session.runner.workspace, [session.tag])[0]
    except (AutoresearchError, OSError) as error:
        session.journal.show("note", text=f"no report: {error}")
        return None


def compared(folder: Path, tag: str | None, sandbox: Mode, work: Work, *, quiet: bool) -> dict[str, Any]:
    """Fresh runs of a session's commits: `confirm` and `ablate`. Returns what `work` found.

    They happen in rooms of their own, so that branch and checkout stay as they are, and an ended session stays ended.
    """
    tag = find_session(folder.resolve(), tag)
    session = replay(read(journal_path(folder.resolve(), tag))).session
    if session is None:
        raise PreconditionError(f"session {tag} ended before it began: there is nothing to compare")
    with (
        open_runner(folder, tag, session["fingerprint"]["training_seconds"], sandbox) as opened,
        prepared(opened, setup=False, commit=session["base"]) as runner,
        kept_awake(),
    ):
        path = journal_path(runner.workspace.folder, tag)
        journal = Journal(path, [] if quiet else [show_plain])
        harness = runner.workspace.harness_digest(session["base"])
        recovery.require_same(session, fingerprint(runner.protocol, runner.training_seconds, harness))
        for done in recovery.end_orphaned_run(journal.state):
            journal.show("note", text=done)
        stop_file(path).unlink(missing_ok=True)
        if journal.state.pending is not None:
            raise PreconditionError(
                f"experiment #{journal.state.pending.number} is not finished: `{typed(f'run --tag {tag}')}` first"
            )
        interrupts = Interrupts()
        interrupts.install()
        try:
            return work(Workbench(runner, journal, interrupts))
        finally:
            journal.close()
