"""Measure an edit made by hand as one experiment of a session: what `try` does."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.cli.accept import Desk
from agent.cli.fleet import began_on_stations, require_same_kind
from agent.cli.launch import RunConfig, guarded, session_config
from agent.comparison.confirm import require_no_evaluator
from agent.decision.limits import Limits
from agent.errors import AutoresearchError, Interrupted, PreconditionError
from agent.execution.awake import kept_awake
from agent.execution.fingerprint import fingerprint
from agent.execution.measure import Runner
from agent.format import named
from agent.journal import edits
from agent.journal.comparable import differences
from agent.journal.events import Event
from agent.journal.journal import Journal, View, fold
from agent.journal.paths import journal_path, require_own_state, state_folder
from agent.journal.state import State
from agent.proposers.edit import EditOnly
from agent.protocol.load import load_protocol
from agent.repository.workspace import Workspace
from agent.session.opening import open_runner, prepared
from agent.session.session import STOPPED, Session
from agent.session.signals import IMMEDIATE
from agent.system.invocation import typed
from agent.views.plain import show_plain
from agent.views.verdict import experiment_result

FIRST_TAG = "try"
MOST_TAGS = 100

Told = Callable[[dict[str, Any]], None]


def attempt(folder: Path, config: RunConfig, why: str | None, told: Told) -> tuple[dict[str, Any], int]:
    """Measure the edit in the working tree, and return its result with the exit code.

    Args:
        folder: the workspace.
        config: the settings of the session.
        why: description of the edit by its author; None derives one from the change.
        told: called with number and tag once the edit is safe, before anything slow begins.

    Raises:
        PreconditionError: nothing was edited, a loop is running, the session cannot continue, or measures on stations.
        Interrupted: the user stopped it before the verdict.
    """
    tag, execution = config.tag, config.execution
    _require_own_machine(folder.resolve(), tag)
    number = _expected_number(journal_path(folder.resolve(), tag))
    limits = Limits(experiments=number)
    with open_runner(folder, tag, execution.training_seconds, execution.sandbox, limits) as opened:
        path = journal_path(opened.workspace.folder, tag)
        journal = Journal(path, [_view(path)])
        runner = dataclasses.replace(opened, say=lambda text: journal.show("note", text=text))
        require_same_kind(journal.state, tag, None)
        desk = Desk(runner.workspace, journal, tag, session_branch(runner.workspace, tag))
        number, new = desk.accept(why)
        told(experiment_result(runner.workspace.folder, tag, number))
        _note_other_files(runner, journal.state, tag)
        if desk.is_done(number):
            return experiment_result(runner.workspace.folder, tag, number), 0
        about = session_config(dataclasses.replace(config, limits=Limits(experiments=number)), runner.protocol)
        session = Session(runner, journal, EditOnly(), dataclasses.replace(about, confirm=False, switch=False))
        base = journal.state.session["base"] if journal.state.session else None
        try:
            with (
                prepared(
                    runner,
                    setup=execution.setup,
                    commit=base,
                    untraced=execution.allow_untraced,
                    journal=path,
                ) as ready,
                kept_awake() if execution.keep_awake else contextlib.nullcontext(),
            ):
                require_no_evaluator(ready, config.kept.get("holdout"))
                session.work_on(ready)
                code = guarded(session)
            if not desk.is_done(number):
                raise _not_measured(journal.state, tag, number, code)
        except (AutoresearchError, OSError, KeyboardInterrupt) as error:
            # A shutdown is no decision of the user's.
            if new and not (isinstance(error, Interrupted) and error.exit_code in IMMEDIATE.values()):
                desk.withdraw(number)
            raise
        finally:
            journal.close()
        return experiment_result(runner.workspace.folder, tag, number), code


def _note_other_files(runner: Runner, state: State, tag: str) -> None:
    """Note which files beside the recipe HEAD has otherwise than the session that measures the edit."""
    others = runner.workspace.changed_beside(state.session["base"], runner.workspace.head) if state.session else []
    if others:
        runner.say(
            f"session {tag} measures with its own {named(others, 3)}, which HEAD has otherwise; "
            f"`{typed('try --tag NAME')}` begins a session with these"
        )


def choose_tag(folder: Path, training_seconds: float | None) -> str:
    """Return the session that an edit belongs to by default.

    That is the most recent one that was measured under the present conditions, or else a new one.

    Args:
        folder: the workspace.
        training_seconds: the training budget of a run; None takes that of the session.
    """
    protocol = load_protocol(folder)
    workspace = Workspace(folder, protocol)
    require_own_state(workspace.folder)
    sessions = state_folder(workspace.folder) / "sessions"
    for path in sorted(sessions.glob("*/journal.jsonl"), key=lambda path: path.lstat().st_mtime, reverse=True):
        try:
            state = fold(path)
            session = state.session
            if began_on_stations(state):  # this machine may not be one of them
                continue
            # Without a baseline, a session cannot get further than the commit that it began with.
            if (
                session is None
                or measures_on_stations(state)
                or (not state.experiments and session["base"] != workspace.head)
            ):
                continue
            seconds = training_seconds or session["fingerprint"].get("training_seconds")
            now = fingerprint(protocol, seconds, workspace.harness_digest(session["base"]))
        except (AutoresearchError, OSError):
            continue  # its own commands report the damage
        if not differences(session["fingerprint"], now):
            return path.parent.name
    names = [FIRST_TAG, *(f"{FIRST_TAG}-{number}" for number in range(2, MOST_TAGS))]
    free = (
        name
        for name in names
        if not (sessions / name / "journal.jsonl").exists()
        and workspace.resolve(f"refs/heads/{session_branch(workspace, name)}") is None
    )
    return next(free, FIRST_TAG)


def session_branch(workspace: Workspace, tag: str) -> str:
    return workspace.protocol.provenance.git_workflow.branch_pattern.replace("<tag>", tag)


def measures_on_stations(state: State) -> bool:
    """Return whether the runs of a session are made by stations, even before the first one has joined."""
    return bool(state.flight.stations) or any(state.flags.get(name) is not None for name in ("stations", "scheduler"))


def _require_own_machine(folder: Path, tag: str) -> None:
    """Raise PreconditionError if stations make the session's runs: a run here says nothing about theirs."""
    if measures_on_stations(fold(journal_path(folder, tag))):
        raise PreconditionError(
            f"session {tag} measures on stations, so an edit cannot be compared here",
            hint=f"measure it in another session: `{typed('try --tag NAME')}`",
        )


def _expected_number(path: Path) -> int:
    """Return the number that the edit's experiment will probably have, for other processes to show."""
    state = fold(path)
    return max(1, len(state.experiments) + (state.pending is not None and state.pending.number > 0))


def _view(path: Path) -> View:
    """Show the session's events, but not what the result shows in the end."""

    def show(event: Event, state: State) -> None:
        edit = event.kind == "recorded" and edits.read(path, event.data["number"]) is not None
        if not edit and event.kind != "ended":
            show_plain(event, state)

    return show


def _not_measured(state: State, tag: str, number: int, code: int) -> AutoresearchError:
    again = f"continue with `{typed(f'try --tag {tag}')}`"
    if code:
        return Interrupted(f"stopped before experiment #{number} had its verdict; {again}", code)
    hint = again if state.ended == STOPPED else "start a session with another --tag"
    return PreconditionError(f"the edit was not measured, because the session has ended: {state.ended}", hint=hint)
