"""What the stations of a session are doing: candidates that are being measured, and the runs that stations were given.

A candidate has a number of its own, in order of proposal. Once it has a verdict it becomes an experiment, which is
numbered in order of verdict and has the events of a session of one machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from agent.journal.comparison import run_of
from agent.journal.events import Event
from agent.journal.experiment import Run, Value, Verdict, verdict_from

BASELINE = 0  # the number of the experiment that every station measures first
# So many runs in a row without a metric on one station may be its own fault: a kept experiment must run there before
# they count.
MOST_FAILED = 2


@dataclass(frozen=True)
class Candidate:
    """A candidate that stations measure.

    Attributes:
        base: the number of the kept experiment that it changes and is compared with.
        files: the files that it changes.
        commit: the commit that stations run.
        merged: the candidate whose change it is, merged onto another base; None for a proposal.
        runs: its runs so far, each with its station.
        lost: number of its runs in which the station died or left.
        faulted: number of its runs that faults of the GPU ended.
        rebases: station -> number of runs of its base that were accepted there after the machine's state had changed.
        verdict: None until it is decided.
        playbook: the title of the entry of the playbook that it tries; empty for none.
        parts: the numbers of the near misses that it makes together; empty for none.
    """

    number: int
    base: int
    proposer: str
    description: str
    reasoning: str
    parameters: Mapping[str, Value]
    digest: str
    files: tuple[str, ...]
    commit: str
    expected: float | None = None
    merged: int | None = None
    runs: tuple[Run, ...] = ()
    lost: int = 0
    faulted: int = 0
    rebases: Mapping[str, int] = field(default_factory=dict)
    verdict: Verdict | None = None
    playbook: str = ""
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lease:
    """A run that a station was asked for.

    Attributes:
        expected: seconds.
        log: where its log is stored.
        candidate: the candidate to run; else None.
        of: the number of the kept experiment to run; else None.
        label: the side of a comparison to run, `a` or `b` (`agent.comparison.compare`); else None.
        seed: the seed that is set; None for the recipe's own.
        rebase: the run is accepted although the machine's state has changed (`Run.rebased`).
        at: Unix time in seconds.
        began: the same as time that the loop had run (`State.seconds`).
    """

    lease: str
    station: str
    commit: str
    log: str
    expected: float
    candidate: int | None = None
    of: int | None = None
    label: str | None = None
    seed: int | None = None
    rebase: bool = False
    at: float = 0.0
    began: float = 0.0


@dataclass(frozen=True)
class Station:
    """A station as the session knows it.

    Attributes:
        facts: what it says about its machine.
        since: when it joined last, as Unix time in seconds.
        gone: why it is gone; None while it is here.
        busy: seconds of its runs, lost ones included.
        runs: number of runs that it returned.
        lost: number of runs that were lost with it.
        began: when it joined first, as time that the loop had run (`State.seconds`).
        alone: number of runs that it returned since its last one of a kept experiment.
        failed: number of runs in a row that it returned without a metric, whichever programs they ran.
    """

    facts: Mapping[str, Any]
    since: float
    gone: str | None = None
    busy: float = 0.0
    runs: int = 0
    lost: int = 0
    began: float = 0.0
    alone: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Flight:
    """The fold of the events of stations.

    Attributes:
        candidates: those without a row, by number.
        leases: the runs that stations have been asked for and have not returned, by lease.
        kept: the runs of kept experiments that did not select them, by the number of the experiment.
        stations: by name.
        proposed: number of candidates so far.
        leased: number of leases so far.
        seconds: time that the loop had run at the latest of these events (`State.seconds`).
    """

    candidates: Mapping[int, Candidate] = field(default_factory=dict)
    leases: Mapping[str, Lease] = field(default_factory=dict)
    kept: Mapping[int, tuple[Run, ...]] = field(default_factory=dict)
    stations: Mapping[str, Station] = field(default_factory=dict)
    proposed: int = 0
    leased: int = 0
    seconds: float = 0.0

    def after(self, event: Event, seconds: float = 0.0) -> Flight:
        """Return the flight after one more event.

        Args:
            seconds: time that the loop has run. Without the time between a stop and the next start, it tells how long
                a station was there to be used.
        """
        return EVENTS[event.kind](replace(self, seconds=seconds), event) if event.kind in EVENTS else self

    def without(self, candidate: int, number: int, runs: tuple[Run, ...]) -> Flight:
        """Return the flight once a candidate has become experiment `number` with these runs."""
        rest = {key: each for key, each in self.candidates.items() if key != candidate}
        # The baseline's first run is its row; the others are held-out.
        left = tuple(run for run in self.kept.get(number, ()) if run not in runs)
        kept = {**self.kept, number: left} if left else {key: each for key, each in self.kept.items() if key != number}
        return replace(self, candidates=rest, kept=kept)


NO_FLIGHT = Flight()


def _joined(flight: Flight, event: Event) -> Flight:
    data, known = event.data, flight.stations.get(event.data["station"])
    # What it does not say this time, such as its accelerator while that does not answer, is as it was.
    facts = {**(known.facts if known else {}), **data["facts"]}
    first = Station(facts, event.at, began=flight.seconds)
    new = first if known is None else replace(known, facts=facts, since=event.at, gone=None)
    return replace(flight, stations={**flight.stations, data["station"]: new})


def _left(flight: Flight, event: Event) -> Flight:
    name = event.data["station"]
    if name not in flight.stations:
        return flight
    flight = _forgiven(flight, name)
    gone = replace(flight.stations[name], gone=event.data["reason"])
    return replace(flight, stations={**flight.stations, name: gone})


def _candidate(flight: Flight, event: Event) -> Flight:
    data = event.data
    known = {each.name: data[each.name] for each in fields(Candidate) if each.name in data}
    number = data["candidate"]
    lists = {name: tuple(data.get(name, ())) for name in ("files", "parts")}
    new = Candidate(**{**known, **lists, "number": number})
    return replace(flight, candidates={**flight.candidates, number: new}, proposed=max(flight.proposed, number))


def _leased(flight: Flight, event: Event) -> Flight:
    data = event.data
    known = {each.name: data[each.name] for each in fields(Lease) if each.name in data}
    leases = {**flight.leases, data["lease"]: Lease(**{**known, "at": event.at, "began": flight.seconds})}
    return replace(flight, leases=leases, leased=flight.leased + 1)


def _returned(flight: Flight, event: Event) -> Flight:
    """Add a run to its candidate or kept experiment. A lease that is unknown or settled changes nothing."""
    lease = flight.leases.get(event.data["lease"])
    if lease is None:
        return flight
    run = replace(run_of(event.data), station=lease.station)
    flight = _settled(flight, lease, seconds=run.seconds, runs=1)
    flight = _counted(flight, lease.station, failed=run.metric is None)
    if lease.of is not None:
        flight = _forgiven(flight, lease.station) if run.metric is None else flight
        kept = (*flight.kept.get(lease.of, ()), run)
        flight = replace(flight, kept={**flight.kept, lease.of: kept})
        return _rebased(flight, lease) if run.rebased else flight
    return _changed(flight, lease, lambda each: replace(each, runs=(*each.runs, run)))


def _counted(flight: Flight, name: str, *, failed: bool) -> Flight:
    known = flight.stations.get(name)
    if known is None:
        return flight
    return replace(flight, stations={**flight.stations, name: replace(known, failed=known.failed + 1 if failed else 0)})


def _forgiven(flight: Flight, name: str) -> Flight:
    """Drop the failed runs of undecided candidates on a station that is gone, or on which what was kept fails as well.

    They are undecided because the station had failed several programs in a row (`MOST_FAILED`).
    """
    found = {
        number: replace(each, runs=tuple(run for run in each.runs if run.station != name or run.metric is not None))
        if each.verdict is None
        else each
        for number, each in flight.candidates.items()
    }
    return replace(flight, candidates=found)


def _rebased(flight: Flight, lease: Lease) -> Flight:
    """Count a run of a base after the machine's state had changed for all of its candidates."""
    found = {
        number: replace(each, rebases={**each.rebases, lease.station: each.rebases.get(lease.station, 0) + 1})
        if each.base == lease.of
        else each
        for number, each in flight.candidates.items()
    }
    return replace(flight, candidates=found)


def _compared(flight: Flight, event: Event) -> Flight:
    """Settle the lease of a run of a comparison, which `State.comparison` holds."""
    lease = flight.leases.get(event.data.get("lease", ""))
    return flight if lease is None else _settled(flight, lease, seconds=event.data["seconds"], runs=1)


def _lost(flight: Flight, event: Event) -> Flight:
    lease = flight.leases.get(event.data["lease"])
    if lease is None:
        return flight
    flight = _settled(flight, lease, seconds=flight.seconds - lease.began, lost=1)
    if lease.of is not None:
        flight = _forgiven(flight, lease.station)
    died, faulted = bool(event.data.get("died")), bool(event.data.get("fault"))
    return _changed(flight, lease, lambda each: replace(each, lost=each.lost + died, faulted=each.faulted + faulted))


def _withdrawn(flight: Flight, event: Event) -> Flight:
    """Settle the lease of a run that is not needed any more, which is no loss."""
    lease = flight.leases.get(event.data["lease"])
    return flight if lease is None else _settled(flight, lease, seconds=flight.seconds - lease.began)


def _decided(flight: Flight, event: Event) -> Flight:
    known = flight.candidates.get(event.data["candidate"])
    if known is None:
        return flight
    decided = replace(known, verdict=verdict_from(event.data))
    return replace(flight, candidates={**flight.candidates, known.number: decided})


def _settled(flight: Flight, lease: Lease, *, seconds: float, runs: int = 0, lost: int = 0) -> Flight:
    leases = {key: each for key, each in flight.leases.items() if key != lease.lease}
    station = flight.stations.get(lease.station)
    if station is None:
        return replace(flight, leases=leases)
    busy = station.busy + seconds
    alone = 0 if runs and lease.of is not None else station.alone + runs
    station = replace(station, busy=busy, runs=station.runs + runs, lost=station.lost + lost, alone=alone)
    return replace(flight, leases=leases, stations={**flight.stations, lease.station: station})


def _changed(flight: Flight, lease: Lease, change: Callable[[Candidate], Candidate]) -> Flight:
    known = flight.candidates.get(lease.candidate) if lease.candidate is not None else None
    if known is None:
        return flight
    return replace(flight, candidates={**flight.candidates, known.number: change(known)})


EVENTS: Mapping[str, Callable[[Flight, Event], Flight]] = {
    "joined": _joined,
    "left": _left,
    "candidate": _candidate,
    "leased": _leased,
    "returned": _returned,
    "compared": _compared,
    "lost": _lost,
    "withdrawn": _withdrawn,
    "decided": _decided,
}
