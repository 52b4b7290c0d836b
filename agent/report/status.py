"""Status of a session, read from its journal without disturbing the loop."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.errors import PreconditionError
from agent.format import duration
from agent.journal import lock
from agent.journal.experiment import Experiment
from agent.journal.journal import begun, fold
from agent.journal.paths import find_session, journal_path, state_folder, stop_file, tags_of
from agent.journal.state import State, side
from agent.report.gain import metric_of
from agent.report.stations import stations_of
from agent.report.summary import summarize
from agent.system.invocation import typed

POLL_SECONDS = 0.5
LONGEST_SILENCE = 10.0
LONGEST_START = 10.0  # seconds from the command to the lock of its loop, on a busy machine


def status(workspace: Path, tag: str | None, rows: int) -> tuple[dict[str, Any], State]:
    """Return the summary, the last `rows` experiments and the current runs, and the state they come from.

    Raises:
        PreconditionError: the session does not exist, or has not begun.
    """
    beginning = about_to_begin(workspace, tag)
    if beginning is not None:
        raise PreconditionError(
            f"session {beginning.tag} has not started yet: process {beginning.pid} is running its setup commands",
            hint=f"wait for it with `{typed('status --follow')}`",
        )
    tag = find_session(workspace, tag)
    state = begun(workspace, tag)
    holder = lock.holder(state_folder(workspace))
    running = holder is not None and holder.tag == tag
    state = state.as_of(holder.born) if holder and running else state
    first = max(0, len(state.experiments) - rows)
    data = {
        **_current(summarize(state), running=running),
        "running_pid": holder.pid if holder and running else None,
        "now": _now(state) if running else None,
        "comparison": _comparison(state) if running else None,
        "stations": [asdict(each) for each in stations_of(state, time.time(), running=running)],
        "next": _next(state, running=running),
        "limits": holder.limits if holder and running else None,
        "rows": [_row(state, e) for e in state.experiments[first:]],
        "at": state.latest_at,
    }
    return data, state


def _current(summary: dict[str, Any], *, running: bool) -> dict[str, Any]:
    """Return the summary without what a loop that was killed waited for."""
    return summary if running else {**summary, "waiting": None, "faults": {**summary["faults"], "until": None}}


def about_to_begin(workspace: Path, tag: str | None) -> lock.Holder | None:
    """Return the running loop whose session is still in setup, or None.

    Args:
        workspace: the workspace.
        tag: only a loop of this session; None accepts any.
    """
    holder = lock.holder(state_folder(workspace))
    if holder is None or holder.limits is None or tag not in (None, holder.tag):
        return None
    return None if fold(journal_path(workspace, holder.tag)).session else holder


def await_beginning(workspace: Path, tag: str | None) -> None:
    """Wait until the session has begun, or for LONGEST_START if no loop is running: one may just have been started."""
    start, told = time.monotonic(), False
    while (beginning := about_to_begin(workspace, tag)) or time.monotonic() - start < LONGEST_START:
        if beginning is None and any_begun(workspace, tag):
            return
        if not told:
            print("waiting for the session to start", file=sys.stderr, flush=True)
        told = True
        time.sleep(POLL_SECONDS)


def any_begun(workspace: Path, tag: str | None) -> bool:
    """Return whether the session has begun."""
    if not tags_of(workspace):  # asked again and again, so without the processes that an error's hint takes
        return False
    try:
        return fold(journal_path(workspace, find_session(workspace, tag))).session is not None
    except PreconditionError:
        return False


def wait_for_change(workspace: Path, tag: str, at_most: float = LONGEST_SILENCE) -> None:
    """Wait until the journal grows, its loop ends, or `at_most` seconds have passed."""
    path, end = journal_path(workspace, tag), time.monotonic() + min(at_most, LONGEST_SILENCE)
    size = _size(path)
    while (left := end - time.monotonic()) > 0 and _size(path) == size:
        if lock.holder(state_folder(workspace)) is None:
            return
        time.sleep(min(left, POLL_SECONDS))


def _size(journal: Path) -> int:
    """Return the size of a journal in bytes; -1 before its first event."""
    try:
        return journal.lstat().st_size
    except FileNotFoundError:
        return -1


def request_stop(workspace: Path) -> str:
    """Ask the running loop to stop after its experiment, and return the message that confirms it.

    Raises:
        PreconditionError: no loop is running, its session is still in setup, or it is of a command that cannot stop.
    """
    holder = lock.holder(state_folder(workspace))
    if holder is None:
        raise PreconditionError(f"no loop is running in {workspace}")
    if not holder.stops:
        raise PreconditionError(
            f"process {holder.pid} ({holder.tag}) runs no session, so it cannot be stopped after a run",
            hint=f"end it with `kill -INT {holder.pid}`",
        )
    lost = lock.is_lost(state_folder(workspace))  # with the journal, which it writes again at its next event
    if not lost and about_to_begin(workspace, holder.tag):
        raise PreconditionError(
            f"session {holder.tag} cannot be stopped yet: its setup commands are running",
            hint=f"end them with `kill -INT {holder.pid}`",
        )
    asked = stop_file(journal_path(workspace, holder.tag))
    asked.parent.mkdir(parents=True, exist_ok=True)
    asked.touch()
    state = fold(journal_path(workspace, holder.tag)).as_of(holder.born)
    now = _now(state)
    left = f", in about {duration(max(0.0, now['done_at'] - time.time()))}" if now and now["done_at"] else ""
    comparing = state.pending is None and state.comparing
    what = "its current run" if comparing else "its current experiment"
    what = "the candidates under way" if state.flight.stations and not comparing else what
    return f"session {holder.tag} (process {holder.pid}) stops after {what}{left}"


def _now(state: State) -> dict[str, Any] | None:
    """Return the experiment under way in a session of one machine."""
    pending = state.pending
    if pending is None or state.flight.stations:
        return None
    started = pending.started_at
    expected = pending.started["expected"] if pending.started else None
    return {
        "number": pending.number,
        "description": pending.description,
        "proposer": pending.proposer,
        "seconds": time.time() - (started or pending.proposed_at),
        "done_at": started + expected if started and expected else None,
        "log": os.fspath(pending.started["log"]) if pending.started else None,
    }


def _comparison(state: State) -> dict[str, Any] | None:
    """Return the comparison by held-out runs under way."""
    comparison = state.comparison
    if comparison is None or not state.comparing:
        return None
    names = {label: side(state, label, commit) for label, commit in comparison.commits.items()}
    started = comparison.started
    return {
        "doing": comparison.doing,
        "sides": [*names.values()],
        "done": sum(map(len, comparison.runs.values())),
        "runs": comparison.count * len(names),
        "now": names[started["label"]] if started else None,
        "seconds": time.time() - state.latest_at if started else None,
        "done_at": state.latest_at + started["expected"] if started else None,
        "log": os.fspath(started["log"]) if started else None,
    }


def _next(state: State, *, running: bool) -> dict[str, Any] | None:
    """Return the proposal for the next experiment: ready, or being made if the loop is running."""
    ready = state.prepared is not None
    found = state.prepared or (state.preparing if running else None)
    if found is None:
        return None
    known = {"number": found["number"], "proposer": found["proposer"], "ready": ready}
    return {**known, "description": found.get("description")}


def _row(state: State, experiment: Experiment) -> dict[str, Any]:
    return {
        "number": experiment.number,
        "status": experiment.verdict.status,
        "reason": experiment.verdict.reason,
        "metric": metric_of(state, experiment),
        "seconds": experiment.seconds,
        "secondary": dict(experiment.runs[-1].secondary) if experiment.runs else {},
        "commit": experiment.commit,
        "proposer": experiment.proposer,
        "description": experiment.description,
        "expected": experiment.expected,
        "cost": asdict(state.cost_of(experiment)),
    }
