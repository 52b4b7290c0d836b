"""The stations of a session: what each runs now, how noisy it is, and what came of its runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agent.decision.levels import Records, records_of
from agent.format import counted, figure, one_line
from agent.journal.flight import BASELINE, Lease, Station
from agent.journal.state import State, side

LONGEST_NAME, LONGEST_FACT = 40, 60

Kind = Literal["candidate", "incumbent", "held-out"]


@dataclass(frozen=True)
class Running:
    """A run that a station makes now.

    Attributes:
        kind: "candidate", "incumbent" for a run of a kept experiment beside its candidates, or "held-out" for one of a
            comparison.
        name: of the program: `candidate 5`, `incumbent #3`, `held-out run of best #3`.
        description: of the candidate; empty for others.
        since: Unix time.
        seconds: since then.
        done_at: Unix time at which it is expected to end.
    """

    kind: Kind
    name: str
    description: str
    since: float
    seconds: float
    done_at: float

    @property
    def text(self) -> str:
        return f"{self.name}: {self.description}" if self.description else self.name


@dataclass(frozen=True)
class StationStatus:
    """A station of a session.

    Attributes:
        machine: in a few words; empty if the station says nothing.
        here: whether it takes part now; False if no loop is running.
        gone: why it left; None if it did not.
        running: None if it is idle.
        runs: number of runs that it returned.
        lost: number of runs that were lost with it.
        kept: number of kept experiments that it has run for their verdicts.
        noise: standard deviation of one run there; 0 if equal programs give equal numbers, None if nothing was repeated
            there.
        level: what it adds to the metric, compared with the reference station; None if no program connects the two.
        reference: whether it is the reference station, on whose scale the metrics of the session are.
        busy: seconds of its runs, with the current one.
        used: fraction of the time since it joined first that it was busy, without the time when no loop ran; None
            before any time has passed.
    """

    name: str
    machine: str
    here: bool
    gone: str | None
    running: Running | None
    runs: int
    lost: int
    kept: int
    noise: float | None
    level: float | None
    reference: bool
    busy: float
    used: float | None


def stations_of(state: State, now: float, *, running: bool = True) -> list[StationStatus]:
    """Return the stations of a session, ordered by name; none in a session of one machine.

    Args:
        now: Unix time.
        running: whether a loop is running. If it was killed, no station runs anything for it.
    """
    if not state.flight.stations or state.session is None:
        return []
    flights = [each.runs for each in state.flight.candidates.values()]
    records = records_of(state.measured, state.session["direction"], flights)
    leases = {each.station: each for each in state.flight.leases.values()} if running else {}
    # The loop has run since the latest event as well.
    seconds = state.seconds + (max(0.0, now - state.latest_at) if running else 0.0)
    return [
        _station(state, name, leases.get(name), records, Moment(now, seconds, running))
        for name in _ordered(state.flight.stations)
    ]


@dataclass(frozen=True)
class Moment:
    """When the stations are looked at.

    Attributes:
        now: Unix time.
        seconds: time that the loop has run.
        running: whether it is running.
    """

    now: float
    seconds: float
    running: bool


def _station(state: State, name: str, lease: Lease | None, records: Records, moment: Moment) -> StationStatus:
    station = state.flight.stations[name]
    current = max(0.0, moment.seconds - lease.began) if lease else 0.0
    there, busy = moment.seconds - station.began, station.busy + current
    return StationStatus(
        name=shown_name(name),
        machine=machine_of(station.facts),
        here=moment.running and station.gone is None,
        gone=None if station.gone is None else one_line(station.gone),
        running=None if lease is None else _running(state, lease, moment.now),
        runs=station.runs,
        lost=station.lost,
        kept=sum(any(run.station == name for run in each.runs) for each in state.keeps),
        noise=_noise(records, name),
        level=records.levels.values.get(name),
        reference=name == records.reference,
        busy=busy,
        used=min(1.0, busy / there) if there > 0 else None,
    )


def shown_name(name: str) -> str:
    """Return the name of a station on one line of bounded length: stations choose their names."""
    return one_line(name)[:LONGEST_NAME]


def machine_of(facts: Mapping[str, Any]) -> str:
    """Describe the machine of a station: `NVIDIA H100 80GB HBM3, 8 cores, studio`."""
    accelerator, cores, host = facts.get("accelerator") or facts.get("chip"), facts.get("cores"), facts.get("host")
    said = [accelerator, counted(cores, "core") if isinstance(cores, int) else None, host]
    return ", ".join(one_line(str(each))[:LONGEST_FACT] for each in said if each)


def work(state: State, candidate: int | None, of: int | None, label: str | None) -> str:
    """Name what a station runs: `candidate 5`, `incumbent #3`, `held-out run of best #3`.

    Args:
        candidate: number of the candidate, if it is one.
        of: number of the kept experiment, if it is one.
        label: its side in the comparison in progress, `a` or `b`, if it is one.
    """
    if label is not None:
        commits = state.comparison.commits if state.comparison else {}
        return f"held-out run of {side(state, label, commits.get(label, label))}"
    if candidate is not None:
        return f"candidate {candidate}"
    return "baseline" if of == BASELINE and len(state.experiments) == 0 else f"incumbent #{of}"


def by_station(gains: Mapping[str, float], like: float) -> str:
    """Format the gain on each station: `better on studio (+0.012000), not on mini (-0.004000)`."""
    better = [f"{shown_name(name)} ({figure(by, like, '+')})" for name, by in gains.items() if by > 0]
    others = [f"{shown_name(name)} ({figure(by, like, '+')})" for name, by in gains.items() if not by > 0]
    said = [f"better on {' and '.join(better)}"] if better else []
    return ", ".join([*said, *([f"not on {' and '.join(others)}"] if others else [])])


def stations_line(state: State) -> str:
    """Return `cpu0 31 runs, cpu1 29 runs (1 lost)`; empty in a session of one machine."""
    stations = state.flight.stations
    return ", ".join(f"{shown_name(name)} {_counts(stations[name])}" for name in _ordered(stations))


def _ordered(names: Iterable[str]) -> list[str]:
    """Sort names so that `gpu10` follows `gpu9`."""
    return sorted(names, key=lambda name: [(len(part), part) for part in re.split(r"(\d+)", name)])


def _counts(station: Station) -> str:
    return counted(station.runs, "run") + (f" ({station.lost:,} lost)" if station.lost else "")


def _running(state: State, lease: Lease, now: float) -> Running:
    known = state.flight.candidates.get(lease.candidate) if lease.candidate is not None else None
    kind: Kind = "held-out" if lease.label is not None else "candidate" if lease.candidate is not None else "incumbent"
    return Running(
        kind=kind,
        name=work(state, lease.candidate, lease.of, lease.label),
        description=one_line(known.description) if known else "",
        since=lease.at,
        seconds=max(0.0, now - lease.at),
        done_at=lease.at + lease.expected,
    )


def _noise(records: Records, name: str) -> float | None:
    if not any(runs[0].station == name for runs in records.repeated):
        return None
    return records.noise_on(name).known
