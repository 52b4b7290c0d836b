"""Comparisons of commits by held-out runs, as the journal holds them, and the rung at which they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from agent.journal.events import Event
from agent.journal.experiment import Run, Value


@dataclass(frozen=True)
class Rung:
    """The conditions under which `promote` judges commits, in place of the session's own.

    Attributes:
        training_seconds: the training budget; None if runs have none.
        values: the constants that are set in every commit, by name.
        machine: the fingerprint of its runs.
    """

    training_seconds: float | None
    values: Mapping[str, Value]
    machine: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the field `rung` of events."""
        return {**vars(self), "values": dict(self.values), "machine": dict(self.machine)}


@dataclass(frozen=True)
class PendingComparison:
    """Held-out runs of several commits, alternating between them.

    Attributes:
        commits: label -> commit.
        files: the files in which the commits differ; empty except in journals of earlier versions.
        count: wanted number of runs per commit.
        runs: label -> all runs so far, including those that do not count (`agent.decision.schedule`).
        seeds: the seed of each run of a commit, `count` in all; empty if runs use the recipe's own.
        started: the data of the `running` event while a run is in progress; else None.
        rung: None for the session's own.
        varied: the constants that a seed sets if they are several. Earlier versions set SEED alone.
        faulted: label -> number of runs that faults of the GPU ended.
        unfinished: whether it was given up for another one, so that only its whole pairs of runs count.
    """

    commits: Mapping[str, str]
    files: tuple[str, ...]
    count: int
    runs: Mapping[str, tuple[Run, ...]] = field(default_factory=dict)
    started: Mapping[str, Any] | None = None
    seeds: tuple[int, ...] = ()
    rung: Rung | None = None
    varied: tuple[str, ...] = ()
    faulted: Mapping[str, int] = field(default_factory=dict)
    unfinished: bool = False

    @property
    def doing(self) -> str:
        """What it is for: "promoting", "ablating" or "confirming". Only an ablation has a side `best`."""
        if self.rung is not None:
            return "promoting"
        return "ablating" if "best" in self.commits else "confirming"

    @property
    def logs(self) -> frozenset[str]:
        """The logs of its runs."""
        return frozenset(run.log for runs in self.runs.values() for run in runs if run.log)

    def is_same(self, other: PendingComparison) -> bool:
        """Return whether this is the same comparison, with other runs so far."""
        mine, its = ((each.commits, each.count, each.seeds, each.rung, each.varied) for each in (self, other))
        return mine == its

    def adds_to(self, other: PendingComparison) -> bool:
        """Return whether runs of both are about one question: the same two commits, with new seeds, or without."""
        mine, its = (
            ({*each.commits.values()}, each.doing, each.rung, each.varied, bool(each.seeds)) for each in (self, other)
        )
        return mine == its and len(self.commits) == 2


def comparison_of(data: Mapping[str, Any]) -> PendingComparison:
    """Return the comparison that a `comparing` event begins."""
    rung = rung_of(data["rung"]) if data.get("rung") else None
    known = PendingComparison(data["commits"], tuple(data["files"]), data["count"], rung=rung)
    return replace(known, seeds=tuple(data.get("seeds", ())), varied=tuple(data.get("varied", ())))


def rung_of(data: Mapping[str, Any]) -> Rung:
    return Rung(data["training_seconds"], data["values"], data["machine"])


def with_run(comparison: PendingComparison | None, event: Event) -> PendingComparison | None:
    """Return the comparison after a `running` or `compared` event."""
    if comparison is None:
        return None
    if event.kind == "running":
        return replace(comparison, started=event.data)
    label = event.data["label"]
    runs = (*comparison.runs.get(label, ()), run_of(event.data))
    return replace(comparison, started=None, runs={**comparison.runs, label: runs})


def with_fault(comparison: PendingComparison | None, event: Event) -> PendingComparison | None:
    """Return the comparison after a `faulted` event."""
    if comparison is None:
        return None
    label = event.data["label"]
    return replace(
        comparison, started=None, faulted={**comparison.faulted, label: comparison.faulted.get(label, 0) + 1}
    )


def run_of(data: Mapping[str, Any]) -> Run:
    names = {each.name for each in fields(Run)}
    return Run(**{key: value for key, value in data.items() if key in names})
