"""Choose what an idle station does next: confirm a promising candidate, measure the incumbent, or a new proposal.

Nothing waits at a barrier. A station measures a new incumbent when a candidate there needs it, and a late joiner begins
with the incumbent, which shows its level. `benchmarks/fleet.py` simulates sessions with this policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from agent.decision.sequential_test import MOST_REFRESHES, REFRESH_EVERY
from agent.decision.stations import Wants

# Repetitions of the incumbent that a session begins with, all stations together: one for each, but at most so many.
LEAST_REPEATED = 4.0
# A station measures the incumbent at the latest after so many other runs: its level, and so every prediction there, may
# rest on few runs.
MOST_BETWEEN = 12
# Of so many stations one measures a new incumbent at once: the candidates that follow need not wait for its runs, nor
# all for the same station.
STATIONS_PER_RUN = 4


@dataclass(frozen=True)
class Task:
    """What a station does.

    Attributes:
        candidate: the candidate to measure; 0 for none.
        rebase: the incumbent's run is accepted as the machine's new state (`Run.rebased`).
    """

    kind: Literal["candidate", "incumbent", "propose"]
    candidate: int = 0
    rebase: bool = False


@dataclass(frozen=True)
class InFlight:
    """A candidate without a verdict.

    Attributes:
        finished: number of its runs.
        running: the stations where it runs now.
        wants: what its verdict waits for; None before its first run has finished.
    """

    candidate: int
    finished: int = 0
    running: tuple[str, ...] = ()
    wants: Wants | None = None


@dataclass(frozen=True)
class View:
    """What the decider knows when a station is idle.

    Attributes:
        stations: those that take part -> what they do now; None for idle ones.
        flights: the candidates without a verdict, in order.
        measured: station -> held-out runs of the incumbent there.
        known: stations whose level is known, so that a run there can be compared with a prediction.
        since: station -> runs there since its last one of an incumbent.
        repeated: repetitions that the noise is known from.
        age: experiments since the incumbent was kept.
        may_propose: whether the session takes new proposals.
    """

    stations: Mapping[str, Task | None]
    flights: Sequence[InFlight] = ()
    measured: Mapping[str, int] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    since: Mapping[str, int] = field(default_factory=dict)
    repeated: float = LEAST_REPEATED
    age: int = 0
    may_propose: bool = True

    @property
    def measuring(self) -> list[str]:
        """The stations that run the incumbent now."""
        return [name for name, task in self.stations.items() if task is not None and task.kind == "incumbent"]


def next_task(station: str, view: View) -> Task | None:
    """Return what an idle station does next; None if there is nothing for it."""
    if station not in view.known and not view.measured.get(station):
        return Task("incumbent")
    unstarted = next((each for each in view.flights if not each.finished and not each.running), None)
    if unstarted is not None:
        return Task("candidate", unstarted.candidate)
    return _owed(station, view) or _confirming(station, view) or _refresh(station, view) or _new(station, view)


def _owed(station: str, view: View) -> Task | None:
    """Return a run of the incumbent that a verdict waits for here, or that the noise needs."""
    wanting = [each.wants for each in view.flights if each.wants is not None]
    if any(station in wants.rebase for wants in wanting):
        return Task("incumbent", rebase=True)
    if any(station in wants.incumbent for wants in wanting):
        return Task("incumbent")
    again = [name for name in view.measuring if view.measured.get(name)]
    return Task("incumbent") if view.repeated + len(again) < min(LEAST_REPEATED, len(view.stations)) else None


def _confirming(station: str, view: View) -> Task | None:
    """Return a run that brings a promising candidate closer to its verdict, the most promising first."""
    waiting = [
        (each, each.wants)
        for each in view.flights
        if each.wants is not None and len(each.running) < each.wants.candidate and station in each.wants.stations
    ]
    waiting.sort(key=lambda pair: (-pair[1].priority, pair[0].candidate))
    for flight, wants in waiting:
        if view.measured.get(station):
            return Task("candidate", flight.candidate)
        # Both programs must run here. That is worth it only if too few other stations have the incumbent's value.
        ready = wants.stations & {*(name for name, runs in view.measured.items() if runs), *view.measuring}
        if len(ready) < wants.candidate:
            return Task("incumbent")
    return None


def _refresh(station: str, view: View) -> Task | None:
    """Return a run of an incumbent that was measured seldom, on all stations or long ago on this one."""
    if len(view.stations) > 1 and view.since.get(station, 0) >= MOST_BETWEEN:
        return Task("incumbent")
    runs = sum(view.measured.values()) + len(view.measuring)
    return Task("incumbent") if runs < min(MOST_REFRESHES, view.age // REFRESH_EVERY) else None


def _new(station: str, view: View) -> Task | None:
    if not view.may_propose:
        return None
    places = {name for name, runs in view.measured.items() if runs}.union(view.measuring)
    few = len(places) < len(view.stations) // STATIONS_PER_RUN
    return Task("incumbent") if few and station not in places else Task("propose")
