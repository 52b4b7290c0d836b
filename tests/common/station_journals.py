"""Synthetic journals of sessions with stations, event by event, as the decider writes them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Self

from agent.journal.events import Event
from agent.journal.experiment import Run
from agent.journal.state import State, step
from tests.common.journals import FINGERPRINT, Writer

BASE = "a" * 40


class StationsBuilder:
    """A builder of a session with stations. Each station has a level of its own.

    Args:
        base: Commit of the baseline.
    """

    def __init__(self, *names: str, tag: str = "t", base: str = BASE) -> None:
        self.write, self.state, self.names, self.base = Writer(), State(), names, base
        self.levels = {name: 0.5 * index for index, name in enumerate(names)}
        self.of_lease: dict[str, dict[str, Any]] = {}
        about: dict[str, Any] = {
            "tag": tag,
            "branch": f"autoresearch/{tag}",
            "base": base,
            "metric": "val_bpb",
            "from": None,
        }
        self.add(
            "session", **about, direction="minimize", seed=0, proposer="search", pid=1, fingerprint=FINGERPRINT,
            flags={"stations": len(names)}, left="main", learned=[],
        )  # fmt: skip
        for name in names:
            self.join(name)

    def add(self, kind: str, after: float = 0.0, **data: Any) -> Self:
        """Write an event some seconds after the latest one."""
        self.write(kind, after, **data)
        self.state = step(self.state, Event(kind, self.write.at, json.loads(json.dumps(data))))
        return self

    def join(self, name: str) -> Self:
        return self.add("joined", station=name, facts={"accelerator": "H100", "cores": 8, "host": f"host-{name}"})

    def propose(self, base: int = 0, description: str = "DEPTH 4 -> 5", commit: str = "") -> int:
        number = self.state.flight.proposed + 1
        self.add(
            "candidate", candidate=number, base=base, commit=commit or f"{number:040x}", merged=None, proposer="search",
            description=description, reasoning="", parameters={}, digest=f"{number:064x}", files=["train.py"],
            expected=None,
        )  # fmt: skip
        return number

    def lease(self, station: str, **about: Any) -> str:
        """Ask a station for a run of candidate=N, of=N or label=L."""
        lease = str(self.state.flight.leased + 1)
        whose = {"candidate": None, "of": None, "label": None, "seed": None, "rebase": False, **about}
        log = f"/w/.autoresearch/sessions/t/stations/{station}/{lease}.log"
        self.add("leased", lease=lease, station=station, commit=self.base, log=log, expected=300.0, **whose)
        self.of_lease[lease] = {"candidate": whose["candidate"], "of": whose["of"]}
        return lease

    def answer(self, lease: str, metric: float | None = 1.5, after: float = 300.0, **conditions: float) -> Self:
        """Return the run of a lease; `metric` is that on the first station."""
        known = self.state.flight.leases[lease]
        value = None if metric is None else metric + self.levels[known.station]
        error = "it crashed" if metric is None else None
        run = Run(value, after, error=error, conditions=conditions, log=known.log, station=known.station)
        return self.add("returned", after, lease=lease, **self.of_lease[lease], **asdict(run))

    def run(self, station: str, metric: float | None = 1.5, **about: Any) -> Self:
        return self.answer(self.lease(station, **about), metric)

    def record(self, candidate: int | None, status: str, evidence: dict[str, Any] | None = None) -> Self:
        """Turn a candidate into an experiment; None for the baseline."""
        flight, number = self.state.flight, len(self.state.experiments)
        about: dict[str, Any] = {"proposer": "baseline", "description": "baseline", "digest": "f" * 64, "files": []}
        runs, commit = flight.kept.get(0, ())[:1], self.base
        if candidate is not None:
            known = flight.candidates[candidate]
            runs, commit = known.runs, known.commit
            about = {"proposer": "search", "description": known.description, "digest": known.digest, "files": []}
            self.add("decided", candidate=candidate, status=status, reason="r", evidence=evidence)
        self.add("proposed", number=number, candidate=candidate or 0, reasoning="", parameters={}, **about)
        self.add("committed", number=number, commit=commit)
        for index, run in enumerate(runs, start=1):
            self.add("measured", number=number, run=index, **asdict(run))
        self.add("judged", number=number, status=status, reason="r", evidence=evidence)
        return self.add("recorded", number=number, head=commit)


def evidence(gains: dict[str, float], mean: float = 1.4, before: float = 1.5) -> dict[str, Any]:
    return {
        "how": "confirmed", "mean": mean, "runs": 2, "incumbent_mean": before, "incumbent_runs": 2,
        "gain": before - mean, "noise": 0.01, "sigmas": 7.0, "doubt": None, "stations": gains, "adjusted": False,
    }  # fmt: skip


def night() -> StationsBuilder:
    """Return a session of three stations: a keep, a discard on an old base, and candidates under way on two of them."""
    made = StationsBuilder("studio", "mini", "gpu10")
    for name, value in (("studio", 1.5), ("mini", 1.51), ("studio", 1.49), ("mini", 1.5), ("gpu10", 1.5)):
        made.run(name, value, of=0)
        if not made.state.experiments:
            made.record(None, "keep")
    first, old = made.propose(), made.propose(description="RATE 0.1 -> 0.2")
    made.run("studio", 1.4, candidate=first).run("mini", 1.41, candidate=first)
    made.run("studio", 1.6, candidate=old)
    made.record(first, "keep", evidence({"studio": 0.1, "mini": -0.004}))
    made.record(old, "discard", evidence({"studio": -0.1}, mean=1.6))
    made.run("studio", 1.4, of=1)
    made.lease("studio", candidate=made.propose(1, "DEPTH 5 -> 6"))
    made.lease("mini", of=1)
    lost = made.lease("gpu10", candidate=made.propose(1, "WIDTH 64 -> 128"))
    whose = {**made.of_lease[lost], "label": None}
    made.add("lost", 100.0, lease=lost, station="gpu10", reason="its station is gone", fault="", **whose)
    return made.add("left", station="gpu10", reason="it is not connected any more")
