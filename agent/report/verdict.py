"""The result of one experiment as `try` and `wait` give it, and the wait for it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.errors import PreconditionError, StillRunning
from agent.format import duration
from agent.journal import edits, lock
from agent.journal.edits import Edit
from agent.journal.experiment import Experiment, Run
from agent.journal.journal import fold
from agent.journal.paths import candidate_ref, find_session, journal_path, require_own_state, state_folder
from agent.journal.pending import Pending
from agent.journal.state import EDIT, State
from agent.report.gain import Outcome, estimate_of, outcome
from agent.report.status import wait_for_change
from agent.system.background import log_of
from agent.system.invocation import git_here, here, typed

SETTLING_SECONDS = 0.5


def result(folder: Path, tag: str, number: int) -> dict[str, Any]:
    """Return an experiment with its verdict, which is None while it is waiting or under way.

    Args:
        folder: the workspace.
        tag: the session, which may not have begun.
        number: the experiment.
    """
    path = journal_path(folder, tag)
    state, edit = fold(path), edits.read(path, number)
    found = _found(state, number)
    verdict = found.verdict if found else None
    came = outcome(state, found) if isinstance(found, Experiment) else Outcome()
    holder, session = lock.holder(state_folder(folder)), state.session or {}
    ref = candidate_ref(tag, number)
    restored = list(edit.restored or ()) if edit else []
    return {
        "tag": tag,
        "number": number,
        "description": found.description if found else edit.description if edit else "",
        "proposer": found.proposer if found else EDIT,
        "verdict": {"status": verdict.status, "reason": verdict.reason} if verdict else None,
        "metric": came.value,
        "metric_name": session.get("metric"),
        "direction": session.get("direction"),
        "delta": came.value - came.against if came.value is not None and came.against is not None else None,
        "gain": came.gain,
        "compared_with": None if came.incumbent is None else {"number": came.incumbent, "value": came.against},
        "evidence": asdict(verdict.evidence) if verdict and verdict.evidence else None,
        "confirmed": came.sure if isinstance(found, Experiment) else None,
        "estimate": estimate_of(state, found) if isinstance(found, Experiment) else None,
        "runs": len(found.runs) if found else 0,
        "seconds": sum(each.seconds for each in _made(found)),
        "commit": found.commit if found else None,
        "ref": ref if number else None,
        "branch": session.get("branch"),
        "files": list(found.files if found else edit.files if edit else ()),
        "restored": restored,
        "newer": list(edit.newer) if edit else [],
        "left_alone": list(edit.left_alone) if edit else [],
        "notes": list(edit.notes) if edit else [],
        "get_back": _get_back(folder, ref, restored) if restored else None,
        "log": next((each.log for each in reversed(_made(found))), None),
        "pid": holder.pid if holder is not None and holder.tag == tag and verdict is None else None,
    }


def _made(found: Experiment | Pending | None) -> list[Run]:
    """Return the runs of an experiment, its screens first."""
    return [*(each.run for each in found.screens), *found.runs] if found else []


def which_experiment(folder: Path, tag: str | None, number: int | None) -> tuple[str, int]:
    """Return the tag and number of the experiment that `await_verdict` waits for, see there.

    Raises:
        PreconditionError: the session does not exist, or has no experiment.
    """
    holder = lock.holder(state_folder(folder))
    if tag is None:
        tag = holder.tag if holder is not None and holder.limits is not None else _most_recent(folder)
    path = journal_path(folder, tag)
    if "/" in tag or tag in ("", ".", "..") or not path.parent.is_dir():
        find_session(folder, tag)
    require_own_state(folder)
    return tag, _latest(path, tag) if number is None else number


def await_verdict(folder: Path, tag: str | None, number: int | None, timeout: float | None) -> tuple[str, int]:
    """Wait until an experiment has its verdict and the working tree was brought up to it. Return its tag and number.

    Args:
        folder: the workspace.
        tag: the session; None takes the one that is running, or else the most recent one.
        number: the experiment; None takes the one in progress, or else the last one.
        timeout: seconds; None waits for as long as the experiment is under way.

    Raises:
        StillRunning: the timeout has passed.
        PreconditionError: the session has no such experiment, or no process measures it.
    """
    start = time.monotonic()
    tag, number = which_experiment(folder, tag, number)
    path = journal_path(folder, tag)
    while True:
        holder = lock.holder(state_folder(folder))  # before the journal, which its end writes last
        state, edit = fold(path), edits.read(path, number)
        # Without limits, only `field` measures an experiment; the others compare.
        may_measure = state.pending is not None or (holder is not None and holder.limits is not None)
        running = holder is not None and holder.tag == tag and may_measure
        done = number < len(state.experiments)
        if done and (edit is None or edit.settled or not running):
            return tag, number
        if not running:
            raise _not_running(path, state, edit, number)
        left = None if timeout is None else timeout - (time.monotonic() - start)
        if left is not None and left <= 0:
            raise StillRunning(
                f"experiment #{number} of session {tag} has no verdict after {duration(timeout or 0.0)}; it goes on",
                hint=f"wait again with `{typed(f'wait {number} --tag {tag}')}`",
            )
        more = SETTLING_SECONDS if done else None
        wait_for_change(folder, tag, min((each for each in (left, more) if each is not None), default=3600.0))


def _found(state: State, number: int) -> Experiment | Pending | None:
    if number < len(state.experiments):
        return state.experiments[number]
    return state.pending if state.pending is not None and state.pending.number == number else None


def _get_back(folder: Path, ref: str, files: Sequence[str]) -> str:
    """Return the command that puts an edit into the working tree again."""
    return (
        f"{git_here(folder)} restore --source {shlex.quote(ref)} -- {' '.join(here(folder / name) for name in files)}"
    )


def _most_recent(folder: Path) -> str:
    """Return the most recently active session, even if it was killed before its first event."""
    sessions = state_folder(folder) / "sessions"
    paths = [path for name in ("journal.jsonl", f"experiments/*/{edits.NAME}") for path in sessions.glob(f"*/{name}")]
    if not paths:
        return find_session(folder, None)
    return max(paths, key=lambda path: path.lstat().st_mtime).relative_to(sessions).parts[0]


def _latest(path: Path, tag: str) -> int:
    """Return the number of the experiment in progress, or else of the last one."""
    waiting, state = edits.unsettled(path), fold(path)
    if waiting:
        return max(waiting)
    if state.pending is not None:
        return state.pending.number
    if not state.experiments:
        raise PreconditionError(
            f"session {tag} has no experiment yet", hint=f"measure an edit with `{typed(f'try --tag {tag}')}`"
        )
    return state.experiments[-1].number


def _not_running(path: Path, state: State, edit: Edit | None, number: int) -> PreconditionError:
    tag, count, log = path.parent.name, len(state.experiments), log_of(path.parent)
    pending = state.pending is not None and state.pending.number == number
    if number > max(1, count) and not (pending or edit):
        has = f"#0 to #{count - 1}" if count else "none yet"
        return PreconditionError(
            f"experiment #{number} not found in session {tag}, and no process measures one",
            hint=f"the session has {has}; measure an edit with `{typed(f'try --tag {tag}')}`",
        )
    why = f": {state.ended}" if state.ended else ""
    see = f"see its log {here(log)}, and " if log.exists() else ""
    return PreconditionError(
        f"experiment #{number} of session {tag} has no verdict, and no process measures it{why}",
        hint=f"{see}continue with `{typed(f'try --tag {tag}')}`",
    )
