"""Time spent by a session on training, evaluation, proposing, and losses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from agent.journal.comparison import run_of
from agent.journal.events import Event
from agent.journal.experiment import Run
from agent.journal.flight import BASELINE
from agent.journal.state import BEGINNINGS, State, step
from agent.system.files import read_end

_EVALUATION = re.compile(r"^evaluation: (\d+(?:\.\d+)?)s", re.MULTILINE)
# What a model or agent does while a run is in progress takes no time of the session.
AHEAD = {"calling", "called", "refused", "waiting", "away", "back", "nothing", "dropped"}
AHEAD |= {"preparing", "prepared", "outdated"}
LOG_BYTES = 4096  # the end of a log, which contains the figures of the run
LogOf = Callable[[Run], Path | None]


@dataclass(frozen=True)
class TimeSpent:
    """Seconds of a session, by activity.

    Attributes:
        training: training, or the whole run if its log does not report training and evaluation.
        evaluation: evaluation; 0 if the log does not report it.
        starting: rest of a successful run: interpreter, data, compilation; 0 if the log does not report the others.
        repeats: repeated runs of the incumbent, and runs of `confirm`, `ablate` and `promote`.
        screens: runs with a shorter training, of candidates and of incumbents.
        proposing: waiting for proposals.
        crashes: runs that crashed.
        interruptions: runs that were interrupted.
        faults: runs that faults of the GPU ended, and the pauses after them.
        other: git, checks and waiting.
    """

    training: float = 0.0
    evaluation: float = 0.0
    starting: float = 0.0
    repeats: float = 0.0
    screens: float = 0.0
    proposing: float = 0.0
    crashes: float = 0.0
    interruptions: float = 0.0
    faults: float = 0.0
    other: float = 0.0


def time_spent(events: Iterable[Event], log_of: LogOf) -> TimeSpent:
    """Add up the time of a session, or in one with stations, the time of all stations together.

    Each event accounts for the time since the one before it, except at a start.

    Args:
        events: of the journal.
        log_of: returns the log of a run; None if it is gone.
    """
    events = list(events)
    if any(event.kind == "joined" for event in events):
        return _of_stations(events, log_of)
    spent, latest, started, paused = TimeSpent(), 0.0, None, False
    for event in events:
        if event.kind in AHEAD and (started is not None or paused):
            continue
        gap = 0.0 if event.kind in BEGINNINGS else max(0.0, event.at - latest)
        match event.kind:
            case "proposed" | "prepared" | "outdated" | "repaired" | "called" | "away" | "back" | "nothing":
                spent = replace(spent, proposing=spent.proposing + gap)
            case "measured" | "compared":
                repeat = event.kind == "compared" or "of" in event.data
                spent = _of_a_run(spent, event.data, gap, log_of, repeat=repeat)
            case "screened":
                seconds = float(event.data.get("seconds") or 0.0)
                rest = max(0.0, gap - seconds)
                spent = replace(spent, screens=spent.screens + seconds, other=spent.other + rest)
            case "interrupted" if started is not None:
                spent = replace(spent, interruptions=spent.interruptions + event.at - started)
            case "faulted":
                spent = replace(spent, faults=spent.faults + event.at - (latest if started is None else started))
            case _ if paused:
                spent = replace(spent, faults=spent.faults + gap)
            case _:
                spent = replace(spent, other=spent.other + gap)
        paused, latest = event.kind == "faulted", event.at
        started = event.at if event.kind in ("started", "running") else None
    return spent


def _of_stations(events: Sequence[Event], log_of: LogOf) -> TimeSpent:
    """Add up the time of stations since they joined. Proposals cost them none, except for what they wait."""
    spent, state, begun = TimeSpent(), State(), False
    for event in events:
        before, state = state, step(state, event)
        lease = before.flight.leases.get(str(event.data.get("lease")))
        if lease is None:
            continue
        if event.kind == "lost":
            lost = max(0.0, state.seconds - lease.began)
            part = "faults" if event.data.get("fault") else "interruptions"
            spent = replace(spent, **{part: getattr(spent, part) + lost})
        elif event.kind in ("returned", "compared"):
            # The first run of the baseline is its row.
            first = lease.of == BASELINE and not begun and not event.data.get("error")
            begun = begun or first
            spent = _of_a_run(spent, event.data, 0.0, log_of, repeat=lease.candidate is None and not first)
    there = sum(max(0.0, state.seconds - each.began) for each in state.flight.stations.values())
    return replace(spent, other=max(0.0, there - sum(astuple(spent))))


def _of_a_run(spent: TimeSpent, data: dict[str, Any], gap: float, log_of: LogOf, *, repeat: bool) -> TimeSpent:
    if data.get("reused"):
        return replace(spent, other=spent.other + gap)
    seconds = float(data.get("seconds") or 0.0)
    spent = replace(spent, other=spent.other + max(0.0, gap - seconds))
    if data.get("error"):
        return replace(spent, crashes=spent.crashes + seconds)
    if repeat:
        return replace(spent, repeats=spent.repeats + seconds)
    training = float((data.get("secondary") or {}).get("training_seconds") or 0.0)
    if not 0.0 < training <= seconds:
        return replace(spent, training=spent.training + seconds)
    log = log_of(run_of({"metric": None, **data}))
    evaluation = min(_evaluation(log) if log else 0.0, seconds - training)
    return replace(
        spent,
        training=spent.training + training,
        evaluation=spent.evaluation + evaluation,
        starting=spent.starting + seconds - training - evaluation,
    )


def _evaluation(log: Path) -> float:
    try:
        found = _EVALUATION.findall(read_end(log, LOG_BYTES).decode(errors="replace"))
    except OSError:
        return 0.0
    try:
        return max(0.0, float(found[-1])) if found else 0.0
    except ValueError:  # 1.2.3s
        return 0.0
