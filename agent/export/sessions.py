"""Read sessions for their tables: experiments, every run with its place, and whether an edit changed code."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from agent.errors import AutoresearchError, PreconditionError
from agent.journal.comparison import run_of
from agent.journal.events import Event
from agent.journal.experiment import Experiment, Run
from agent.journal.journal import NO_EVENT, damaged, read
from agent.journal.paths import find_session, journal_path
from agent.journal.state import State, step
from agent.repository.workspace import Workspace
from agent.source.diff import edits_code
from agent.system.invocation import typed

Role = Literal["selection", "repeat", "held-out", "ablation", "promotion"]
SIDES = {"a", "b"}  # the labels of `confirm`; those of `ablate` have words


@dataclass(frozen=True)
class Measured:
    """A run, and its place in the session.

    Attributes:
        number: the experiment whose program it ran; None for a commit that is no experiment, as `ablate` measures.
        index: 1 for the first run of that experiment, in the order of the journal.
        role: what it was for. "selection": the verdict on its own experiment. "repeat": a later verdict, for which the
            incumbent was re-measured. "held-out": `confirm`. "ablation": `ablate`. "promotion": `promote`.
        beside: of a repeat, the experiment that the incumbent was compared with; else None.
        at: Unix time of its end.
        place: among the runs in the order of the journal, which only grows at its end.
    """

    run: Run
    number: int | None
    index: int
    role: Role
    beside: int | None
    commit: str | None
    at: float
    place: int = 0


@dataclass(frozen=True)
class Session:
    """A session as the tables need it.

    Attributes:
        recorded: experiment -> Unix time of its row.
        runs: all runs, in the order in which they ended.
        code: experiment -> whether its edit changed more than values of constants; None if its commit is missing.
    """

    tag: str
    state: State
    recorded: Mapping[int, float]
    runs: Sequence[Measured]
    code: Mapping[int, bool | None]


def load(workspace: Workspace, tags: Sequence[str]) -> list[Session]:
    """Return the sessions, in order.

    Args:
        workspace: the workspace.
        tags: the sessions; empty takes the most recent one.

    Raises:
        PreconditionError: a session does not exist or has no baseline.
        AutoresearchError: a journal is damaged.
    """
    names = list(dict.fromkeys(tags)) or [find_session(workspace.folder, None)]
    return [_session(workspace, find_session(workspace.folder, name)) for name in names]


def _session(workspace: Workspace, tag: str) -> Session:
    path = journal_path(workspace.folder, tag)
    events = list(read(path))
    state, recorded, runs = _folded(events, path)
    if state.session is None or not state.experiments:
        raise PreconditionError(
            f"session {tag} has no baseline yet, so there is nothing to export",
            hint=f"resume it with `{typed(f'run --tag {tag}')}`",
        )
    diffs: Mapping[str, str] = {}
    with contextlib.suppress(AutoresearchError):  # without git the rest is still exported
        diffs = workspace.changes([each.commit for each in state.experiments[1:]])
    return Session(tag, state, recorded, runs, {each.number: _code(each, diffs) for each in state.experiments})


def _folded(events: Sequence[Event], path: Path) -> tuple[State, dict[int, float], list[Measured]]:
    state, recorded, runs = State(), dict[int, float](), list[Measured]()
    ended: dict[str, float] = {}
    try:
        for event in events:
            if event.kind in ("measured", "compared", "returned"):
                found = _measured(event, state, ended)
                runs += [found] if found is not None else []
            state = step(state, event)
            if event.kind == "recorded":
                recorded[event.data["number"]] = event.at
    except NO_EVENT as error:
        raise damaged(path, error) from None
    return state, recorded, _numbered(state, runs)


def _numbered(state: State, runs: Sequence[Measured]) -> list[Measured]:
    """Number the runs of each program.

    Stations return a run before the verdict that it belongs to. The first one of the baseline becomes its row, so it is
    no repeat.
    """
    runs = [replace(each, place=place) for place, each in enumerate(runs)]
    if state.flight.stations:
        kept = {(number, run.log) for number, every in state.flight.kept.items() for run in every}
        runs = sorted((each for each in runs if each.role != "repeat" or (each.number, each.run.log) in kept), key=_at)
    counts: dict[int | str | None, int] = defaultdict(int)
    found = []
    for each in runs:
        whose = each.number if each.number is not None else each.commit
        counts[whose] += 1
        found.append(replace(each, index=counts[whose]))
    return found


def _at(measured: Measured) -> float:
    return measured.at


def _measured(event: Event, state: State, ended: dict[str, float]) -> Measured | None:
    """Return the place of a run; None for one that the state does not count, or not yet.

    Args:
        event: of the run.
        state: before the event.
        ended: log -> Unix time at which a station returned its run; grows.
    """
    data, pending = event.data, state.pending
    number: int | None
    commit: str | None
    beside: int | None = None
    role: Role
    lease = state.flight.leases.get(str(data.get("lease")))
    if event.kind == "returned":
        ended[str(data.get("log"))] = event.at
        if lease is None or lease.of is None:
            return None  # a run of a candidate is part of its experiment
        number, role, commit = lease.of, "repeat", lease.commit
    elif event.kind == "compared":
        if state.comparison is None:
            return None
        commits = state.comparison.commits
        commit, role = commits.get(data["label"]), "held-out" if commits.keys() == SIDES else "ablation"
        role = role if state.comparison.rung is None else "promotion"
        number = next((e.number for e in reversed(state.experiments) if e.commit == commit), None)
    else:
        if pending is None or pending.number != data["number"]:
            return None
        of = data.get("of")
        number, role = (pending.number, "selection") if of is None else (of, "repeat")
        beside = None if of is None else pending.number
        commit = pending.commit if of is None else state.experiments[of].commit
    run = run_of(data)
    if lease is not None:
        run = replace(run, station=lease.station)
    return Measured(run, number, 0, role, beside, commit, ended.get(run.log, event.at) if run.log else event.at)


def _code(experiment: Experiment, diffs: Mapping[str, str]) -> bool | None:
    if experiment.number == 0:
        return False
    diff = diffs.get(experiment.commit)
    names = {name.rpartition(":")[2] for name in experiment.parameters}
    return None if diff is None else edits_code(diff, names)
